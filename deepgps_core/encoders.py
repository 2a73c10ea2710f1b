"""
From a protein's sequence to a vector: the encoders that deepGPS and its baselines can use.

The paper takes the mean of ESM-2's last residue embeddings (Methods, "Sequence encoder").
`ESM2Encoder` does that with any ESM-2, the small one that ships with the package by default;
`CompositionEncoder` counts amino acids and is what a language model has to beat. Choices the
paper leaves open (begin and end tokens, proteins longer than the model was trained on) are
named here. Left out: contact prediction, and fine-tuning.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from deepgps_core.dataset import AMINO_ACIDS, Dataset, InputError, check_sequence, data_root
from deepgps_core.esm2 import PAD, load_network, tokenize
from deepgps_core.packed_attention import (
    HAS_VARLEN,
    WINDOW_RESIDUES,
    Packed,
    Stitcher,
    batches,
    window_starts,
)
from deepgps_core.shares import Share, own_device

EMBEDDED_WEIGHTS = Path(__file__).parent / "data" / "esm2_small.safetensors"
#: No protein is longer (titin, 34,350); a longer text is a mistake.
LONGEST_PROTEIN = 50_000
Pooling = Literal["mean", "mean-std", "mean-layers"]
POOLINGS: Mapping[str, int] = {"mean": 1, "mean-std": 2, "mean-layers": 3}


class SequenceEncoder(Protocol):
    """What an encoder is: anything with a name, a width and `embed`."""

    name: str
    dim: int

    def embed(
        self, sequences: Mapping[str, str], per_residue: bool = False
    ) -> dict[str, np.ndarray]:
        """Return protein_id -> float32 vector (D,), or (L, D) when `per_residue`."""
        ...


def _checked(sequences: Mapping[str, str]) -> dict[str, str]:
    return {
        name: check_sequence(name, sequence, max_residues=LONGEST_PROTEIN)
        for name, sequence in sequences.items()
    }


class ESM2Encoder:
    """
    Residue embeddings of an ESM-2, pooled to one vector a protein.

    Parameters
    ----------
    weights : Path or str
        ``"embedded"``, or a ``.safetensors`` or ``.pt`` file in fair-esm's parameter names;
        the size is read off the tensors.
    pooling : {"mean", "mean-std", "mean-layers"}
        ``mean`` of the last layer is the paper's. ``mean-std`` appends the standard deviation
        over residues; ``mean-layers`` joins the means of the middle, the last but one and the
        last layer. Both help a linear classifier a little.
    include_ends : bool
        Whether the begin and end tokens count as residues in the pooled vector. The paper does
        not say; here they do not.
    device : str, optional
        ``"cpu"`` or ``"cuda"``; by default CUDA where there is one, under ``torchrun`` the one
        of the process.
    half_precision : bool
        Compute in bfloat16. Faster on a GPU, and on a CPU that knows it; equal to 1e-2, and under
        a name of its own (``+bf16``), so that vectors of both are not mixed. The embedded
        network's differ by 2.9e-3 of their size (root mean square; fair-esm's own under autocast
        3.1e-3). A residual stream in single precision would make it 2.6e-3, and weights rounded to
        16 bits alone make 2.0e-3: 1e-3 is out of reach.
    batch_tokens : int, optional
        Tokens in a batch, padding included: bounds memory. By default 1,024 on a CPU, whose caches
        hold no more, and 16,384 on a GPU.
    packed : bool, optional
        Lay proteins side by side instead of filling them up to the longest of the batch; the
        result is the same. By default on a CPU, and in half precision on a GPU, but not compiled.
    compile : bool
        Fuse the layers' small steps with ``torch.compile``: takes half a minute once, for many
        proteins on a GPU.
    progress : bool, optional
        Show a progress bar; by default where output goes to a terminal.

    Notes
    -----
    A protein of more than 1,022 residues is read in windows that overlap by at least 256; a
    residue in several windows gets the plain average of its embeddings.
    """

    def __init__(
        self,
        weights: Path | str = "embedded",
        *,
        pooling: Pooling = "mean",
        include_ends: bool = False,
        device: str | None = None,
        half_precision: bool = False,
        batch_tokens: int | None = None,
        packed: bool | None = None,
        compile: bool = False,
        progress: bool | None = None,
    ) -> None:
        if pooling not in POOLINGS:
            raise InputError(f"pooling {pooling!r} is unknown; choose of {', '.join(POOLINGS)}.")
        path = EMBEDDED_WEIGHTS if str(weights) == "embedded" else Path(weights)
        self.device = torch.device(device or own_device())
        self.network = load_network(path).to(self.device).eval()
        self.pooling, self.include_ends = pooling, include_ends
        self.half_precision = half_precision
        self.batch_tokens = batch_tokens or (1024 if self.device.type == "cpu" else 16_384)
        fast = self.device.type == "cpu" or (half_precision and HAS_VARLEN)
        # lengths differ from batch to batch, and each row of others would be compiled anew
        self.packed = fast and not compile if packed is None else packed
        if compile:  # layer by layer: one short program serves all
            for layer in self.network.layers:
                layer.compile(dynamic=True)
        self.progress = False if progress is None and Share.here().rank else progress
        stem = "embedded" if path == EMBEDDED_WEIGHTS else path.stem
        self.name = stem + (f"+{pooling}" if pooling != "mean" else "") + "+ends" * include_ends
        self.name += "+bf16" * half_precision
        self.dim = self.network.width * POOLINGS[pooling]

    def embed(
        self, sequences: Mapping[str, str], per_residue: bool = False
    ) -> dict[str, np.ndarray]:
        """
        Embed proteins; the result does not depend on which others are in the call.

        Parameters
        ----------
        sequences : mapping of str to str
            protein_id -> sequence.
        per_residue : bool
            Return the last layer's residue embeddings instead of pooled vectors.

        Returns
        -------
        vectors : dict of str to ndarray, dtype float32
            In the order of `sequences`: shape (D,), or (L, D) per residue.

        Raises
        ------
        InputError
            If a sequence is empty or holds letters that are no amino acids.
        """
        checked = _checked(sequences)
        vectors = dict(self.iterate(checked, per_residue))
        return {name: vectors[name] for name in checked}

    def iterate(
        self, sequences: Mapping[str, str], per_residue: bool = False
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (protein_id, array) as they are done, shortest first; memory stays flat."""
        windows = [
            (name, start, tokenize(sequence[start : start + WINDOW_RESIDUES]))
            for name, sequence in sequences.items()
            for start in window_starts(len(sequence))
        ]
        # a stable sort keeps the windows of one protein together
        windows.sort(key=lambda window: len(window[2]))
        unfinished: dict[str, Stitcher] = {}
        total = sum(len(sequence) for sequence in sequences.values())
        # small vectors, allocated one by one amid large buffers, would keep these from being freed
        rows = iter(np.empty((0 if per_residue else len(sequences), self.dim), np.float32))
        disable = None if self.progress is None else not self.progress
        with tqdm(total=total, unit="residue", unit_scale=True, disable=disable, delay=2) as bar:
            for batch in batches(windows, self.batch_tokens):
                layers = self._layers([tokens for _, _, tokens in batch], per_residue)
                for (name, start, tokens), embedding in zip(batch, layers, strict=True):
                    n_residues = len(sequences[name])
                    stitcher = unfinished.setdefault(name, Stitcher(n_residues))
                    stitcher.add(start, embedding[:, : len(tokens)])
                    if start + len(tokens) - 2 == n_residues:
                        whole = unfinished.pop(name).result()
                        done = self._finish(whole, per_residue)
                        if not per_residue:
                            (row := next(rows))[:] = done
                            done = row
                        yield name, done
                        bar.update(n_residues)

    def _layers(self, batch: list[np.ndarray], per_residue: bool) -> Iterator[Tensor]:
        """Yield for each protein the layers that pooling wants, (layers, L, D), with end tokens."""
        try:
            layers = self._run(batch, None if per_residue else self.pooling)
        except RuntimeError as error:
            # a CPU has no type of its own for it
            if not isinstance(error, torch.OutOfMemoryError) and "allocate" not in str(error):
                raise
            raise InputError(
                f"embedding: a batch of {sum(map(len, batch)):,} tokens does not fit into the "
                f"memory of {self.device.type}; lower batch_tokens (--batch-tokens), now "
                f"{self.batch_tokens:,}."
            ) from None
        stacked = torch.stack(layers, dim=1).float()  # (B, L, D) each -> (B, layers, L, D)
        if self.packed:
            return iter(stacked[0].split([len(tokens) for tokens in batch], dim=1))
        return iter(stacked)

    @torch.inference_mode()
    def _run(self, batch: list[np.ndarray], pooling: Pooling | None) -> list[Tensor]:
        """Run the network on a batch, packed (1, T) or filled up (B, L); return layers wanted."""
        lengths, last = [len(tokens) for tokens in batch], len(self.network.layers)
        keep = [(last + 1) // 2, last - 1, last] if pooling == "mean-layers" else [last]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half_precision):
            if self.packed:
                row = torch.from_numpy(np.concatenate(batch).astype(np.int64))[None]
                layout = Packed.of(lengths, self.device)
                return self.network.hidden_layers(row.to(self.device), block_mask=layout, keep=keep)
            rows = np.full((len(batch), max(lengths)), PAD, dtype=np.int64)
            for row_of, tokens in zip(rows, batch, strict=True):
                row_of[: len(tokens)] = tokens
            return self.network.hidden_layers(
                torch.from_numpy(rows).to(self.device), padded=min(lengths) < max(lengths),
                keep=keep,
            )  # fmt: skip

    def _finish(self, embedding: Tensor, per_residue: bool) -> np.ndarray:
        inner = embedding[:, 1:-1]
        if per_residue:
            return inner[0].cpu().numpy().copy()
        pooled = embedding if self.include_ends else inner
        parts = [pooled.mean(dim=1).flatten()]  # (layers, L, D) -> (layers * D,)
        if self.pooling == "mean-std":
            parts.append(pooled.std(dim=1, correction=0).flatten())
        return torch.cat(parts).cpu().numpy()


class CompositionEncoder:
    """
    Shares of the 20 amino acids: the baseline that knows no order.

    Parameters
    ----------
    segment_residues : int
        If positive, count the first and the last so many residues and the part between them
        separately (60 numbers): signals of localization often sit at the ends.
    """

    def __init__(self, segment_residues: int = 0) -> None:
        self.segment_residues = segment_residues
        self.name = f"composition-{segment_residues}" if segment_residues else "composition"
        self.dim = 60 if segment_residues else 20

    def embed(
        self, sequences: Mapping[str, str], per_residue: bool = False
    ) -> dict[str, np.ndarray]:
        """Return protein_id -> shares (D,); per residue, which amino acid it is, (L, 20)."""
        describe = self._indicators if per_residue else self._shares
        return {name: describe(sequence) for name, sequence in _checked(sequences).items()}

    @staticmethod
    def _indicators(sequence: str) -> np.ndarray:
        letters = np.array(list(sequence))
        return (letters[:, None] == np.array(list(AMINO_ACIDS))).astype(np.float32)

    def _shares(self, sequence: str) -> np.ndarray:
        n = self.segment_residues
        parts = [sequence[:n], sequence[n:-n], sequence[-n:]] if n else [sequence]
        # a middle that is empty counts as nothing of everything
        shares = [self._indicators(p).mean(axis=0) if p else np.zeros(20) for p in parts]
        return np.concatenate(shares).astype(np.float32)


def load_encoder(name: str, **options: Any) -> SequenceEncoder:
    """
    Make an encoder from what identifies it.

    Parameters
    ----------
    name : str
        ``"embedded"``, ``"composition"``, ``"composition-40"`` (with terminal segments of so
        many residues), the path of a weights file, or the name of one, such as
        ``esm2_t33_650M_UR50D``, in the data root's ``weights`` folder or torch's hub cache. A
        pooling may follow, and a precision: ``"embedded+mean-std+bf16"``.
    **options
        Further arguments of `ESM2Encoder`.

    Raises
    ------
    InputError
        If nothing goes by that name.
    """
    if name.startswith("composition"):
        segment = name.removeprefix("composition").removeprefix("-") or "0"
        if segment.isdigit():
            return CompositionEncoder(int(segment))
    stem, *extras = name.split("+")
    switches = {"ends": {"include_ends": True}, "bf16": {"half_precision": True}}
    for extra in extras:
        options |= switches.get(extra, {"pooling": extra})
    folders = [data_root() / "weights", Path(torch.hub.get_dir()) / "checkpoints"]
    found = [f / f"{stem}{end}" for f in folders for end in (".safetensors", ".pt")]
    candidates = [EMBEDDED_WEIGHTS if stem == "embedded" else Path(stem), *found]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        raise InputError(
            f"{name}: no such encoder; use embedded, composition, or a weights file "
            f"(.safetensors or .pt), also in {folders[0]}."
        )
    return ESM2Encoder(path, **options)


def embed_dataset(
    dataset: Dataset, encoder: SequenceEncoder, *, save_every_s: float = 60.0
) -> dict[str, np.ndarray]:
    """
    Embed the proteins of a dataset that have no vector yet, writing as it goes.

    A killed call loses at most `save_every_s` seconds of work; the next one goes on. Under
    ``torchrun``, each process embeds its `Share` into ``features/<encoder>.parts``, and the first
    one joins them; any number of processes goes on from what any other number has left.

    Returns
    -------
    vectors : dict of str to ndarray, shape (D,), dtype float32
        All proteins, in the order of ``proteins.csv``, as `Dataset.features` will return them.

    Raises
    ------
    InputError
        If vectors of another width lie under the encoder's name.
    """
    sequences, share = dataset.sequences(), Share.here()
    path = dataset.path / "features" / f"{encoder.name}.npz"
    found = _found(dataset, encoder)
    missing = {name: sequences[name] for name in share.of(sequences) if name not in found}
    part = f"{encoder.name}.parts/{share.rank}-of-{share.world}" if share.world > 1 else ""
    own = _read(dataset, part) if part else found
    saved = time.monotonic()
    arrays = encoder.iterate(missing) if isinstance(encoder, ESM2Encoder) else None
    for name, vector in arrays or encoder.embed(missing).items():
        own[name] = vector
        if time.monotonic() - saved > save_every_s:
            dataset.write_features(part or encoder.name, own)
            saved = time.monotonic()
    if part and missing:
        dataset.write_features(part, own)
    if share.rank:  # the first process joins
        share.wait(lambda: sequences.keys() <= _names(path), path.parent)
        return dataset.features(encoder.name)
    parts = path.with_suffix(".parts")
    if part:
        files = (path, *(parts / f"{rank}-of-{share.world}.npz" for rank in range(share.world)))
        share.wait(
            lambda: sequences.keys() <= set().union(*map(_names, files)) | found.keys(), parts
        )
        found = _found(dataset, encoder)
    vectors = {name: found[name] for name in sequences}
    if missing or parts.exists() or not path.exists():
        dataset.write_features(encoder.name, vectors)
        shutil.rmtree(parts, ignore_errors=True)
    return vectors


def _names(path: Path) -> set[str]:
    """Return the proteins that a file of vectors holds, without reading these."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return set(archive.files)
    except FileNotFoundError:
        return set()


def _read(dataset: Dataset, name: str) -> dict[str, np.ndarray]:
    try:
        return dataset.features(name)
    except InputError:  # not there, or joined by another process
        return {}


def _found(dataset: Dataset, encoder: SequenceEncoder) -> dict[str, np.ndarray]:
    """Return all vectors that are there, joined or in parts."""
    path = dataset.path / "features" / f"{encoder.name}.npz"
    parts = sorted(path.with_suffix(".parts").glob("[0-9]*.npz"))
    vectors: dict[str, np.ndarray] = {}
    # the joined file last: parts may go while they are read, and then are in it
    for name in (*(f"{encoder.name}.parts/{part.stem}" for part in parts), encoder.name):
        vectors |= _read(dataset, name)
    if any(vector.shape != (encoder.dim,) for vector in vectors.values()):
        raise InputError(f"{path}: not vectors of {encoder.dim} numbers; delete it and repeat.")
    return vectors
