"""
Per-residue vectors of a dataset's proteins, kept compactly for models that read residues.

``features/<encoder>-residues.npy`` holds the vectors of all proteins one after the other, half
precision, and ``features/<encoder>-residues.csv`` where each protein begins. Long proteins are cut
to their first and last residues: signals of localization tend to lie at the ends, and every
protein of a batch is filled up to the longest.
"""

from __future__ import annotations

import functools
import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from deepgps_core.dataset import Dataset, InputError, atomic_path, read_table, write_table
from deepgps_core.encoders import ESM2Encoder, SequenceEncoder
from deepgps_core.fusions import MAX_RESIDUES, ResidueBatch
from deepgps_core.shares import Share

_COLUMNS = ("protein_id", "start", "n_kept", "n_residues", "max_residues")


def kept_rows(n_residues: int, max_residues: int = MAX_RESIDUES) -> np.ndarray:
    """
    Return which residues of a protein are kept, ascending, counted from 0.

    Examples
    --------
    >>> kept_rows(7, 4).tolist(), kept_rows(3, 4).tolist()
    ([0, 1, 5, 6], [0, 1, 2])
    """
    if n_residues <= max_residues:
        return np.arange(n_residues)
    first = (max_residues + 1) // 2
    return np.concatenate(
        [np.arange(first), np.arange(n_residues - (max_residues - first), n_residues)]
    )


def _paths(dataset: Dataset, encoder_name: str) -> tuple[Path, Path]:
    stem = dataset.path / "features" / f"{encoder_name}-residues"
    return stem.with_name(f"{stem.name}.npy"), stem.with_name(f"{stem.name}.csv")


def _index_of(sequences: Mapping[str, str], max_residues: int) -> pd.DataFrame:
    lengths = [len(sequence) for sequence in sequences.values()]
    kept = np.minimum(lengths, max_residues)
    return pd.DataFrame(
        {
            "protein_id": list(sequences), "start": np.cumsum(kept) - kept, "n_kept": kept,
            "n_residues": lengths, "max_residues": max_residues,
        },
        columns=list(_COLUMNS),
    )  # fmt: skip


def _read_index(path: Path) -> pd.DataFrame:
    index = read_table(path, _COLUMNS, "embed the residues again")
    numbers = {name: int for name in _COLUMNS[1:]}
    return index.astype(numbers).set_index("protein_id", drop=False)


def embed_residues(
    dataset: Dataset, encoder: SequenceEncoder, *, max_residues: int = MAX_RESIDUES
) -> Path:
    """
    Write the per-residue vectors of all proteins of a dataset, unless as many are there.

    A killed call leaves the proteins it has done; the next one goes on from them. Processes under
    ``torchrun`` split the proteins, and write into one file: they need a disk in common.

    Parameters
    ----------
    max_residues : int
        Kept of each protein, half from each end.

    Returns
    -------
    path : Path
        Of the array, (total, D), float16.
    """
    array_path, index_path = _paths(dataset, encoder.name)
    index, share = _index_of(dataset.sequences(), max_residues), Share.here()
    if _are_there(dataset, encoder.name, max_residues):
        return array_path
    array_path.parent.mkdir(parents=True, exist_ok=True)
    shape = (int(index["n_kept"].sum()), encoder.dim)
    partial = array_path.with_name(f".{array_path.stem}-{shape[0]}x{shape[1]}.npy")
    if share.rank == 0 and not partial.exists():
        for log in _logs(partial):
            log.unlink()  # of a file that is gone
        with atomic_path(partial) as temporary:
            np.lib.format.open_memmap(temporary, "w+", np.float16, shape).flush()
    there = functools.partial(_are_there, dataset, encoder.name, max_residues)
    share.wait(lambda: partial.exists() or there(), array_path.parent)
    if not there():
        _embed_share(dataset, encoder, index, partial, share)
    if share.rank:  # the first process ends it
        share.wait(there, array_path.parent)
        return array_path
    share.wait(lambda: set(index["protein_id"]) <= _logged(partial), array_path.parent)
    os.replace(partial, array_path)
    write_table(index, index_path)
    for log in _logs(partial):
        log.unlink()
    return array_path


def _are_there(dataset: Dataset, encoder_name: str, max_residues: int) -> bool:
    """Tell whether the residues of all proteins have been embedded, as many or more of each."""
    array_path, index_path = _paths(dataset, encoder_name)
    if not (array_path.exists() and index_path.exists()):
        return False
    found = _read_index(index_path).reset_index(drop=True)
    kept = int(found["max_residues"].iloc[0])
    return kept >= max_residues and found.equals(_index_of(dataset.sequences(), kept))


def _logs(partial: Path) -> list[Path]:
    return sorted(partial.parent.glob(f"{glob.escape(partial.stem)}*.done"))


def _logged(partial: Path) -> set[str]:
    """Return the proteins that are done, by whichever process."""
    # a name without an end of line was cut off by a kill
    return {name for log in _logs(partial) for name in log.read_text().split("\n")[:-1]}


def _embed_share(
    dataset: Dataset, encoder: SequenceEncoder, index: pd.DataFrame, partial: Path, share: Share
) -> None:
    """Write the rows of this process's proteins into the array that all share."""
    sequences, done = dataset.sequences(), _logged(partial)
    missing = {name: sequences[name] for name in share.of(sequences) if name not in done}
    values = np.load(partial, mmap_mode="r", allow_pickle=False)
    offset, row_bytes = values.offset, values.shape[1] * values.itemsize
    start_of = dict(zip(index["protein_id"], index["start"], strict=True))
    max_residues = int(index["max_residues"].iloc[0])
    vectors = (
        encoder.iterate(missing, per_residue=True)
        if isinstance(encoder, ESM2Encoder)
        else encoder.embed(missing, per_residue=True).items()
    )
    suffix = f"-{share.rank}-of-{share.world}" if share.world > 1 else ""
    log_path = partial.with_name(f"{partial.stem}{suffix}.done")
    if log_path.exists():
        written = log_path.read_bytes()
        os.truncate(log_path, written.rfind(b"\n") + 1)  # no name that a kill cut off
    with (
        open(partial, "r+b") as stream,
        open(log_path, "a", encoding="utf-8") as log,
    ):
        for name, vector in vectors:
            rows = vector[kept_rows(len(vector), max_residues)].astype(np.float16)
            stream.seek(offset + int(start_of[name]) * row_bytes)
            stream.write(rows.tobytes())
            stream.flush()  # before the log says so
            log.write(f"{name}\n")
            log.flush()


def residue_index(dataset: Dataset, encoder_name: str) -> pd.DataFrame:
    """
    Return where each protein's residues are: protein_id, start, n_kept, n_residues, max_residues.

    Raises
    ------
    InputError
        If they have not been embedded.
    """
    array_path, index_path = _paths(dataset, encoder_name)
    if not array_path.exists():
        raise InputError(
            f"{array_path}: per-residue vectors not found; run `deepgps embed --residues`."
        )
    return _read_index(index_path)


def read_residues(
    dataset: Dataset,
    encoder_name: str,
    protein_ids: Sequence[str],
    max_residues: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """
    Read the residues of some proteins.

    Parameters
    ----------
    max_residues : int, optional
        Of each protein, half from each end; by default all that are kept.

    Returns
    -------
    values : ndarray, shape (total, D), dtype float16
        One protein after the other, in the order asked for.
    lengths : ndarray, shape (proteins,), dtype int64

    Raises
    ------
    InputError
        If they have not been embedded, a protein is not among them, or fewer are kept.
    """
    array_path, index_path = _paths(dataset, encoder_name)
    index = residue_index(dataset, encoder_name)
    for missing in set(protein_ids) - set(index["protein_id"]):
        raise InputError(
            f"{index_path}: no residues of protein {missing!r}; run `deepgps embed --residues`."
        )
    chosen = index.loc[list(protein_ids)]
    array = np.load(array_path, mmap_mode="r", allow_pickle=False)
    limit = int(chosen["n_kept"].max()) if max_residues is None else max_residues
    lengths = np.minimum(chosen["n_residues"].to_numpy(np.int64), limit)
    if (chosen["n_kept"] < lengths).any():
        raise InputError(
            f"{index_path}: keeps {chosen['max_residues'].iloc[0]} residues of a protein, the "
            f"model reads {limit}; embed more with embed_residues(..., max_residues={limit})."
        )
    bounds = zip(chosen["start"], chosen["n_kept"], strict=True)
    values = [array[start : start + n][kept_rows(n, limit)] for start, n in bounds]
    return np.concatenate(values), lengths


def pad_residues(
    arrays: Sequence[np.ndarray],
    device: torch.device | str = "cpu",
    max_residues: int = MAX_RESIDUES,
) -> ResidueBatch:
    """
    Fill up proteins' residue vectors, each (L, D), to one length, for a prediction.

    Returns
    -------
    residues : ResidueBatch
        Float32; of long proteins the rows that `embed_residues` would have kept.
    """
    kept = [torch.from_numpy(a[kept_rows(len(a), max_residues)]).float() for a in arrays]
    values = torch.nn.utils.rnn.pad_sequence(kept, batch_first=True)
    lengths = torch.tensor([len(a) for a in kept])
    mask = torch.arange(values.shape[1])[None] < lengths[:, None]
    return ResidueBatch(values.to(device), mask.to(device))
