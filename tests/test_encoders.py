"""The sequence encoders: equal to fair-esm, indifferent to padding, strict about input."""

from __future__ import annotations

import argparse
import shutil
from itertools import pairwise
from pathlib import Path

import esm
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from deepgps_core import encoders
from deepgps_core.dataset import AMINO_ACIDS, Dataset, InputError
from deepgps_core.encoders import (
    EMBEDDED_WEIGHTS,
    CompositionEncoder,
    ESM2Encoder,
    embed_dataset,
    load_encoder,
    window_starts,
)
from deepgps_core.esm2 import ESM2, MASK, PAD, TOKENS, load_network, tokenize
from deepgps_core.packed_attention import Packed
from deepgps_core.sources.embedded import single2_dataset


def random_sequence(n_residues: int, seed: int = 0) -> str:
    """Return a sequence drawn evenly from the 20 amino acids."""
    rng = np.random.default_rng(seed)
    return "".join(rng.choice(list(AMINO_ACIDS), n_residues))


@pytest.fixture(scope="module")
def encoder() -> ESM2Encoder:
    """Return the embedded encoder on the CPU."""
    return ESM2Encoder(device="cpu")


@pytest.fixture(scope="module")
def reference() -> esm.model.esm2.ESM2:
    """Return fair-esm's own network with the embedded weights."""
    theirs = esm.model.esm2.ESM2(6, 320, 20, alphabet="ESM-1b", token_dropout=True)
    missing, unexpected = theirs.load_state_dict(
        load_network(EMBEDDED_WEIGHTS).state_dict(), strict=False
    )
    assert not unexpected
    assert all("inv_freq" in key or "contact_head" in key for key in missing)
    return theirs.eval()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return the file of a tiny untrained ESM-2."""
    network = ESM2(n_layers=2, width=40, n_heads=2).initialize(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(1)
            )
    path = tmp_path / "small.safetensors"
    state = {key: value.contiguous().clone() for key, value in network.state_dict().items()}
    save_file(state, path, metadata={"n_heads": "2"})
    return path


def test_tokens_are_fair_esms() -> None:
    """The vocabulary and the conversion of a sequence equal fair-esm's alphabet."""
    alphabet = esm.data.Alphabet.from_architecture("ESM-1b")
    assert tuple(alphabet.all_toks) == TOKENS
    sequence = AMINO_ACIDS + "XUOBZ"
    _, _, theirs = alphabet.get_batch_converter()([("a", sequence)])
    assert tokenize(sequence).tolist() == theirs[0].tolist()


@pytest.mark.parametrize("masked", [False, True])
def test_network_equals_fair_esm(reference: esm.model.esm2.ESM2, masked: bool) -> None:
    """All layers and the logits agree with fair-esm to 1e-5, padding and masks included."""
    network = load_network(EMBEDDED_WEIGHTS).eval()
    tokens = torch.full((3, 202), PAD)
    for row, n_residues in zip(tokens, (200, 57, 12), strict=True):
        row[: n_residues + 2] = torch.from_numpy(tokenize(random_sequence(n_residues))).long()
    if masked:
        tokens[:, 3:9] = MASK
    with torch.no_grad():
        theirs = reference(tokens, repr_layers=range(7))
        ours = network.hidden_layers(tokens)
        logits = network.lm_head(ours[-1])
    real = tokens != PAD
    for layer, expected in theirs["representations"].items():
        scale = expected[real].abs().max()
        assert (ours[layer] - expected)[real].abs().max() < 1e-5 * max(1.0, float(scale))
    assert (logits - theirs["logits"])[real].abs().max() < 1e-4


def test_vector_is_the_mean_over_residues(
    encoder: ESM2Encoder, reference: esm.model.esm2.ESM2
) -> None:
    """The vector is fair-esm's last layer averaged over residues, ends left out or counted."""
    sequence = random_sequence(80)
    tokens = torch.from_numpy(tokenize(sequence)).long()[None]
    with torch.no_grad():
        expected = reference(tokens, repr_layers=[6])["representations"][6][0].numpy()
    vector = encoder.embed({"a": sequence})["a"]
    assert vector.dtype == np.float32 and vector.shape == (encoder.dim,)
    assert np.allclose(vector, expected[1:-1].mean(axis=0), atol=1e-5)
    with_ends = ESM2Encoder(include_ends=True, device="cpu")
    assert with_ends.name == "embedded+ends"
    assert np.allclose(with_ends.embed({"a": sequence})["a"], expected.mean(axis=0), atol=1e-5)
    residues = encoder.embed({"a": sequence}, per_residue=True)["a"]
    assert np.allclose(residues, expected[1:-1], atol=1e-5)


def test_company_changes_nothing(encoder: ESM2Encoder) -> None:
    """Proteins of mixed lengths in one call equal the same proteins one by one, in order."""
    sequences = {f"p{n}": random_sequence(n, seed=n) for n in (200, 1, 41, 1030, 40, 120)}
    together = encoder.embed(sequences)
    assert list(together) == list(sequences)
    for name, sequence in sequences.items():
        assert np.allclose(together[name], encoder.embed({name: sequence})[name], atol=1e-5)


def test_packed_attention_sees_its_own_protein_only() -> None:
    """Side by side equals a dense mask that keeps proteins apart; positions begin anew."""
    packed = Packed.of([3, 1, 5])
    assert packed.positions.tolist() == [0, 1, 2, 0, 0, 1, 2, 3, 4]
    assert packed.documents[0].tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 2]
    assert packed.bounds.tolist() == [0, 3, 4, 9]
    query, key, value = torch.randn(3, 1, 2, 9, 4, generator=torch.Generator().manual_seed(0))
    own = packed.documents[0][:, None] == packed.documents[0]
    scores = (query @ key.transpose(-1, -2) / 2).masked_fill(~own, float("-inf"))
    expected = scores.softmax(dim=-1) @ value
    torch.testing.assert_close(packed.attend(query, key, value), expected)


def test_packed_equals_padded(encoder: ESM2Encoder) -> None:
    """With padding or without, in one batch or in many, long ones in windows: the same."""
    sequences = {f"p{n}": random_sequence(n, seed=n) for n in (40, 1, 41, 120)}
    padded = ESM2Encoder(device="cpu", packed=False)
    assert encoder.packed and not padded.packed
    few = ESM2Encoder(device="cpu", batch_tokens=64)
    for per_residue in (False, True):
        expected = padded.embed(sequences, per_residue)
        for other in (encoder, few):
            found = other.embed(sequences, per_residue)
            for name in sequences:
                assert np.allclose(found[name], expected[name], atol=1e-5), name


def test_half_precision_has_a_name_of_its_own(small: Path) -> None:
    """Vectors of both precisions are not mixed; they agree to 1e-2 of their size."""
    half = load_encoder(f"{small}+mean-std+bf16", device="cpu")
    assert half.name == "small+mean-std+bf16" and load_encoder(str(small)).name == "small"
    whole = load_encoder(f"{small}+mean-std", device="cpu")
    text = {"a": random_sequence(60)}
    expected = whole.embed(text)["a"]
    error = np.abs(half.embed(text)["a"] - expected).max()
    assert 0 < error < 2e-2 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no compiler is installed")
@pytest.mark.parametrize(("half", "tolerance"), [(False, 1e-5), (True, 1e-2)])
def test_compiled_equals_eager(small: Path, half: bool, tolerance: float) -> None:
    """Layers fused by the compiler give the same vectors, batches of other lengths included."""
    sequences = {f"p{n}": random_sequence(n, seed=n) for n in (40, 41, 9, 70)}
    eager = ESM2Encoder(small, device="cpu", packed=False, half_precision=half)
    compiled = ESM2Encoder(small, device="cpu", half_precision=half, compile=True, batch_tokens=90)
    assert not compiled.packed
    found, scale = compiled.embed(sequences), 0.0
    for name, expected in eager.embed(sequences).items():
        scale = max(scale, float(np.abs(expected).max()))
        assert np.abs(found[name] - expected).max() < tolerance * scale


def test_only_the_layers_asked_for_are_kept(small: Path) -> None:
    """In the order asked for, and the same as when all are."""
    network = load_network(small).eval()
    tokens = torch.from_numpy(tokenize(random_sequence(20))).long()[None]
    with torch.no_grad():
        every = network.hidden_layers(tokens)
        kept = network.hidden_layers(tokens, keep=[2, 0])
    assert len(every) == 3 and len(kept) == 2
    assert torch.equal(kept[0], every[2]) and torch.equal(kept[1], every[0])


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("[enforce] can't allocate memory")]
)
def test_out_of_memory_names_the_batch(
    small: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    """One line with the size of the batch and the option to lower; other errors stay theirs."""
    encoder = ESM2Encoder(small, device="cpu", batch_tokens=100)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(encoder.network, "hidden_layers", fail)
    with pytest.raises(InputError, match=r"82 tokens.*--batch-tokens.*now 100"):
        encoder.embed({"a": "M" * 80})
    error = RuntimeError("something else")
    with pytest.raises(RuntimeError, match="something else"):
        encoder.embed({"a": "M" * 80})


@pytest.mark.parametrize("n_residues", [1, 1022, 1023, 1500, 2700, 34350])
def test_windows_cover_every_residue(n_residues: int) -> None:
    """Windows start at 0, end at the last residue, are full, and overlap by 256 at least."""
    starts = window_starts(n_residues)
    assert starts[0] == 0
    assert max(starts) + min(1022, n_residues) == n_residues
    assert all(second - first <= 1022 - 256 for first, second in pairwise(starts))


def test_long_protein_is_the_average_of_its_windows(encoder: ESM2Encoder) -> None:
    """A residue of two windows gets the mean of both embeddings; others their only one."""
    sequence = random_sequence(1500)
    residues = encoder.embed({"long": sequence}, per_residue=True)["long"]
    assert residues.shape == (1500, encoder.dim)
    halves = {"first": sequence[:1022], "last": sequence[478:]}
    parts = encoder.embed(halves, per_residue=True)
    assert np.allclose(residues[:478], parts["first"][:478], atol=1e-5)
    assert np.allclose(residues[1022:], parts["last"][544:], atol=1e-5)
    overlap = (parts["first"][478:] + parts["last"][:544]) / 2
    assert np.allclose(residues[478:1022], overlap, atol=1e-5)
    assert np.allclose(encoder.embed({"long": sequence})["long"], residues.mean(0), atol=1e-4)


def test_poolings(encoder: ESM2Encoder) -> None:
    """The other poolings begin or end with the paper's mean, and have the width they say."""
    sequence = random_sequence(50)
    mean = encoder.embed({"a": sequence})["a"]
    residues = encoder.embed({"a": sequence}, per_residue=True)["a"]
    both = load_encoder("embedded+mean-std", device="cpu")
    assert both.name == "embedded+mean-std"
    vector = both.embed({"a": sequence})["a"]
    assert vector.shape == (both.dim,) == (640,)
    assert np.allclose(vector, np.concatenate([mean, residues.std(axis=0)]), atol=1e-5)
    layers = ESM2Encoder(pooling="mean-layers", device="cpu")
    assert np.allclose(layers.embed({"a": sequence})["a"][-320:], mean, atol=1e-5)
    assert layers.embed({"a": sequence})["a"].shape == (layers.dim,)


def test_any_size_and_both_formats(small: Path, tmp_path: Path) -> None:
    """Size and heads are read off the file; fair-esm's .pt layout gives the same vectors."""
    from_safetensors = ESM2Encoder(small, device="cpu")
    assert from_safetensors.dim == 40 and from_safetensors.name == "small"
    state = from_safetensors.network.state_dict()
    prefixed = {f"encoder.sentence_encoder.{key}": value for key, value in state.items()}
    prefixed = {
        key.replace("sentence_encoder.lm_head", "lm_head"): v for key, v in prefixed.items()
    }
    prefixed["encoder.sentence_encoder.layers.0.self_attn.rot_emb.inv_freq"] = torch.ones(10)
    checkpoint = {"args": argparse.Namespace(arch="esm2"), "model": prefixed}
    torch.save(checkpoint, tmp_path / "small.pt")
    from_pt = ESM2Encoder(tmp_path / "small.pt", device="cpu")
    sequences = {"a": random_sequence(30)}
    assert np.array_equal(from_pt.embed(sequences)["a"], from_safetensors.embed(sequences)["a"])


def test_weights_by_name(small: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A name is looked up in the data root's weights folder."""
    monkeypatch.setenv("DEEPGPS_DATA", str(tmp_path))
    (tmp_path / "weights").mkdir()
    small.rename(tmp_path / "weights" / "mine.safetensors")
    assert load_encoder("mine", device="cpu").dim == 40
    with pytest.raises(InputError, match="no such encoder; use embedded"):
        load_encoder("theirs")


def test_bad_weights_are_one_line(small: Path, tmp_path: Path) -> None:
    """A missing, truncated, foreign or code-bearing file is refused, by name."""
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(small.read_bytes()[:-100])
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, foreign)
    code = tmp_path / "code.pt"
    torch.save({"model": Path("x")}, code)
    text = tmp_path / "text.pt"
    text.write_text("weights")
    for path in (truncated, foreign, code, text, tmp_path / "absent.pt"):
        with pytest.raises(InputError, match=path.name) as error:
            ESM2Encoder(path, device="cpu")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["embedded", "composition"])
@pytest.mark.parametrize(("sequence", "reason"), [("", "empty"), ("MK1V", "no amino acids: 1")])
def test_bad_sequences_are_refused(kind: str, sequence: str, reason: str) -> None:
    """An empty or illegal sequence is an InputError that names the protein."""
    with pytest.raises(InputError, match=f"'P1'.*{reason}"):
        load_encoder(kind).embed({"P1": sequence})


def test_composition_by_hand() -> None:
    """Shares equal a count by hand; with segments the ends are counted apart."""
    assert CompositionEncoder().embed({"a": "AACX"})["a"][:2].tolist() == [0.5, 0.25]
    segmented = load_encoder("composition-2")
    vector = segmented.embed({"a": "AACCCDD", "b": "AC"})
    assert vector["a"].shape == (segmented.dim,) == (60,)
    ones = {name: np.flatnonzero(v == 1.0).tolist() for name, v in vector.items()}
    assert ones == {"a": [0, 21, 42], "b": []}
    assert CompositionEncoder().embed({"a": "CA"}, per_residue=True)["a"].argmax(1).tolist() == [
        1,
        0,
    ]


def test_dataset_embedding_resumes(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that is killed leaves what it did; the next embeds only the rest."""
    dataset = single2_dataset()
    short = dataset.proteins[dataset.proteins.sequence.str.len() < 120].reset_index(drop=True)
    dataset = Dataset.create(dataset.path.parent / "short", dataset.info, short)
    encoder = ESM2Encoder(small, device="cpu", batch_tokens=500)
    whole, seen = encoder.embed(dataset.sequences()), []
    iterate = encoder.iterate

    def killed(sequences, per_residue=False):  # type: ignore[no-untyped-def]
        for n_done, item in enumerate(iterate(sequences, per_residue)):
            if n_done == 10 and not seen:
                seen.append(len(sequences))
                raise KeyboardInterrupt
            yield item
        seen.append(len(sequences))

    monkeypatch.setattr(encoder, "iterate", killed)
    with pytest.raises(KeyboardInterrupt):
        embed_dataset(dataset, encoder, save_every_s=0)
    assert len(dataset.features("small")) == 10
    vectors = embed_dataset(dataset, encoder)
    assert seen == [len(short), len(short) - 10]
    assert list(vectors) == list(dataset.proteins.protein_id)
    for name, vector in dataset.features("small").items():
        assert np.allclose(vector, whole[name], atol=1e-5)


def test_vectors_of_another_width_are_not_mixed(small: Path) -> None:
    """Features under the same name with another width are an error, not a crash later."""
    dataset = single2_dataset()
    dataset.write_features("small", {"x": np.zeros(3)})
    with pytest.raises(InputError, match="not vectors of 40 numbers"):
        embed_dataset(dataset, ESM2Encoder(small, device="cpu"))


def test_embedded_weights_are_half_precision_and_small() -> None:
    """The shipped file is fp16 and within its 15.5 MB."""
    assert EMBEDDED_WEIGHTS.stat().st_size <= 15.5e6
    with encoders.Path(EMBEDDED_WEIGHTS).open("rb") as stream:
        header = stream.read(int.from_bytes(stream.read(8), "little"))
    assert b'"F16"' in header and b'"F32"' not in header
