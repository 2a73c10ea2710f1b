"""Per-residue vectors: kept whole or by their ends, written once, resumed after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_tiny

from deepgps_core.crops import load_crops
from deepgps_core.dataset import AMINO_ACIDS, Dataset, InputError
from deepgps_core.encoders import (
    EMBEDDED_WEIGHTS,
    CompositionEncoder,
    ESM2Encoder,
    embed_dataset,
    load_encoder,
)
from deepgps_core.model import DeepGPSConfig
from deepgps_core.residues import embed_residues, kept_rows, pad_residues, read_residues
from deepgps_core.training import TrainingConfig, fit, predict_crops


@pytest.fixture()
def tiny(tmp_path: Path) -> Dataset:
    """Return twelve proteins with crops."""
    return make_tiny(tmp_path / "tiny")


@given(st.integers(1, 300), st.integers(1, 300))
def test_rows_come_from_both_ends(n_residues: int, limit: int) -> None:
    """As many as allowed, ascending, unique; the ends first, at most one more from the start."""
    rows = kept_rows(n_residues, limit)
    assert len(rows) == min(n_residues, limit) and (np.diff(rows) > 0).all()
    left_out = sorted(set(range(n_residues)) - set(rows.tolist()))
    if left_out:
        first, last = left_out[0], n_residues - 1 - left_out[-1]
        assert first - last in (0, 1) and len(left_out) == n_residues - limit


def test_written_and_read_again(tiny: Dataset) -> None:
    """What is read equals what the encoder says, cut to the ends, in the order asked for."""
    encoder = CompositionEncoder()
    embed_residues(tiny, encoder, max_residues=6)
    ids = ["P07", "P00", "P11"]
    values, lengths = read_residues(tiny, encoder.name, ids)
    assert values.dtype == np.float16 and lengths.tolist() == [6, 6, 6]
    whole = encoder.embed(tiny.sequences(), per_residue=True)
    expected = np.concatenate([whole[name][kept_rows(len(whole[name]), 6)] for name in ids])
    np.testing.assert_array_equal(values, expected.astype(np.float16))


def test_a_second_call_does_nothing(tiny: Dataset) -> None:
    """The file stays as it is, with a lower limit, too; a higher one makes it anew."""
    path = embed_residues(tiny, CompositionEncoder(), max_residues=8)
    before = path.stat().st_mtime_ns
    for limit in (8, 4):
        again = embed_residues(tiny, CompositionEncoder(), max_residues=limit)
        assert again.stat().st_mtime_ns == before
    assert embed_residues(tiny, CompositionEncoder(), max_residues=9).stat().st_mtime_ns != before


def test_goes_on_where_it_was_stopped(tiny: Dataset) -> None:
    """Stopped after five proteins, the next call embeds seven and the file is the same."""
    expected = embed_residues(tiny, load_encoder("embedded")).read_bytes()
    for path in (tiny.path / "features").glob("embedded-*"):
        path.unlink()
    seen: list[str] = []

    class Failing(ESM2Encoder):
        """Stops after five proteins the first time."""

        def iterate(
            self, sequences: Mapping[str, str], per_residue: bool = False
        ) -> Iterator[tuple[str, np.ndarray]]:
            for name, vector in super().iterate(sequences, per_residue):
                if len(seen) == 5:
                    seen.append("stop")
                    raise KeyboardInterrupt
                seen.append(name)
                yield name, vector

    encoder = Failing(EMBEDDED_WEIGHTS)
    with pytest.raises(KeyboardInterrupt):
        embed_residues(tiny, encoder)
    path = embed_residues(tiny, encoder)
    assert len(seen) == 13 and len(set(seen)) == 13  # twelve proteins and the stop
    assert path.read_bytes() == expected
    assert not list((tiny.path / "features").glob(".*"))


def two_datasets(tmp_path: Path, data_root: Path) -> tuple[Dataset, Dataset]:
    """Return a dataset of 48 proteins twice: one to be killed over, one to be left alone."""
    rng = np.random.default_rng(0)
    names = [f"Q{n:02d}" for n in range(48)]
    texts = ["M" + "".join(rng.choice(list(AMINO_ACIDS), 200 + n)) for n in range(48)]
    proteins = pd.DataFrame(
        {"protein_id": names, "gene": names, "uniprot": names, "sequence": texts,
         "locations": "Nucleus", "label": "Nucleus", "cluster_30": names}
    )  # fmt: skip
    made = make_tiny(tmp_path / "tiny").info
    killed, whole = (Dataset.create(data_root / n, made, proteins) for n in ("killed", "whole"))
    return killed, whole


def kill_when(ready: Callable[[], bool], command: str, *arguments: str) -> None:
    """Run Python code in a process of its own until `ready`, then kill -9."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", command, *arguments], env=environment, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline and not ready():
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"


def watched(encoder: ESM2Encoder, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that will hold the names of the proteins which the encoder is asked for."""
    asked: list[str] = []
    iterate = encoder.iterate

    def watch(sequences: Mapping[str, str], per_residue: bool = False) -> Iterator[Any]:
        asked.extend(sequences)
        return iterate(sequences, per_residue)

    monkeypatch.setattr(encoder, "iterate", watch)
    return asked


def test_killed_by_force_it_goes_on(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After kill -9 in the middle, the rest is embedded, and all is as undisturbed."""
    killed, whole = two_datasets(tmp_path, data_root)
    names = list(killed.sequences())
    killed.write_features("embedded", {name: np.zeros(320, np.float32) for name in names})
    features = killed.path / "features"

    def ready() -> bool:
        logs = list(features.glob(".*.done"))
        return bool(logs) and logs[0].read_text().count("\n") >= 4

    asked = ["embed", str(killed.path), "--residues", "--limit", "100", "--batch-tokens", "300"]
    kill_when(ready, "from deepgps_core.cli import main; main()", *asked)
    done = set(next(iter(features.glob(".*.done"))).read_text().split("\n")[:-1])
    assert 4 <= len(done) < 48 and not list(features.glob("embedded-*"))
    encoder = ESM2Encoder()
    later = watched(encoder, monkeypatch)
    embed_residues(killed, encoder, max_residues=100)
    assert sorted(later) == sorted(set(names) - done)
    embed_residues(whole, ESM2Encoder(), max_residues=100)
    found, expected = (read_residues(d, "embedded", names)[0] for d in (killed, whole))
    # other batches round differently in the last of 16 bits
    np.testing.assert_allclose(found.astype(float), expected.astype(float), rtol=2e-3, atol=1e-3)


EMBED = """
import sys
from deepgps_core.dataset import Dataset
from deepgps_core.encoders import ESM2Encoder, embed_dataset
embed_dataset(Dataset(sys.argv[1]), ESM2Encoder(batch_tokens=300), save_every_s=0)
"""


def test_pooled_vectors_killed_by_force_go_on(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for one vector a protein, which are saved together from time to time."""
    killed, whole = two_datasets(tmp_path, data_root)

    def saved() -> set[str]:
        path = killed.path / "features" / "embedded.npz"
        return set(killed.features("embedded")) if path.exists() else set()

    kill_when(lambda: len(saved()) >= 4, EMBED, str(killed.path))
    done = saved()
    assert 4 <= len(done) < 48
    encoder = ESM2Encoder()
    later = watched(encoder, monkeypatch)
    found = embed_dataset(killed, encoder)
    assert sorted(later) == sorted(found.keys() - done)
    expected = embed_dataset(whole, ESM2Encoder())
    for name, vector in expected.items():
        np.testing.assert_allclose(found[name], vector, atol=1e-5)


def test_a_name_cut_off_by_a_kill_is_not_done(tiny: Dataset) -> None:
    """The last line of the log without its end is not taken for another protein's name."""
    expected = embed_residues(tiny, CompositionEncoder()).read_bytes()
    for path in (tiny.path / "features").glob("composition-*"):
        path.unlink()
    total = sum(map(len, tiny.sequences().values()))
    partial = tiny.path / "features" / f".composition-residues-{total}x20.npy"
    np.lib.format.open_memmap(partial, "w+", np.float16, (total, 20)).flush()
    partial.with_suffix(".done").write_text("P0\nP07")  # P07 was not written
    assert embed_residues(tiny, CompositionEncoder()).read_bytes() == expected


def test_missing_residues_name_the_remedy(tiny: Dataset) -> None:
    """Nothing embedded, and a protein that is not there, are told apart."""
    with pytest.raises(InputError, match="deepgps embed --residues"):
        read_residues(tiny, "composition", ["P00"])
    embed_residues(tiny, CompositionEncoder())
    with pytest.raises(InputError, match="'P99'"):
        read_residues(tiny, "composition", ["P99"])


def test_batches_hold_the_residues_of_their_proteins(tiny: Dataset) -> None:
    """Rows of a batch are the protein's residues, then nothing; as `pad_residues` makes them."""
    encoder = CompositionEncoder()
    tiny.write_features(encoder.name, encoder.embed(tiny.sequences()))
    embed_residues(tiny, encoder)
    ids = list(tiny.proteins["protein_id"])
    crops = load_crops(
        tiny, ids, encoder=encoder.name, labels=("Cytoplasm", "Nucleus"), crop_size_px=48,
        residues=True,
    )  # fmt: skip
    batch = crops.batch(torch.tensor([0, 47, 20]), torch.ones(len(ids)))
    assert batch.residues is not None
    whole = encoder.embed(tiny.sequences(), per_residue=True)
    padded = pad_residues([whole["P00"], whole["P11"], whole["P05"]])
    assert torch.equal(batch.residues.mask, padded.mask)
    assert torch.equal(batch.residues.values[padded.mask], padded.values[padded.mask])


@pytest.mark.parametrize("label_loss", ["cross_entropy", "class_weighted", "multi_label"])
def test_the_one_training_path_trains_it(tiny: Dataset, label_loss: str) -> None:
    """Trained, written, opened again and applied: the same numbers; every label loss with it."""
    encoder = CompositionEncoder()
    tiny.write_features(encoder.name, encoder.embed(tiny.sequences()))
    embed_residues(tiny, encoder)
    config = DeepGPSConfig(
        sequence_dim=20, hidden_dim=16, width=4, depth=2, crop_size_px=48,
        fusion="residue_attention", label_loss=label_loss,
    )  # fmt: skip
    training = TrainingConfig(encoder="composition", epochs=2, batch_size=8, learning_rate=1e-3)
    run = fit(tiny, "random-0", config, training, tiny.path / "run")
    assert run.path.joinpath("model.safetensors").exists()
    columns = run.proteins[["p_Cytoplasm", "p_Nucleus"]].to_numpy()
    assert ((columns > 0) & (columns < 1)).all()
    if label_loss != "multi_label":
        np.testing.assert_allclose(columns.sum(axis=1), 1, atol=1e-5)
    crops = load_crops(
        tiny, ["P09"], encoder="composition", labels=run.labels, crop_size_px=48, residues=True
    )
    (batch, prediction), *_ = predict_crops(run.model, crops)
    error = (prediction.image - batch.protein_image).abs().mean(dim=(1, 2, 3))
    kept = run.crops.set_index("crop_id").loc[list(crops.crop_ids), "image_loss"]
    np.testing.assert_allclose(error.numpy(), kept.to_numpy(float), rtol=1e-4)


def test_a_model_reads_as_many_residues_as_it_says(tiny: Dataset) -> None:
    """More kept than read changes nothing; fewer kept is an error that says so."""
    encoder = CompositionEncoder()
    tiny.write_features(encoder.name, encoder.embed(tiny.sequences()))
    config = DeepGPSConfig(
        sequence_dim=20, hidden_dim=16, width=4, depth=2, crop_size_px=48,
        fusion="residue_attention", max_residues=6,
    )  # fmt: skip
    training = TrainingConfig(encoder="composition", epochs=1, batch_size=8)
    embed_residues(tiny, encoder, max_residues=4)
    with pytest.raises(InputError, match="keeps 4 residues.*reads 6"):
        fit(tiny, "random-0", config, training, tiny.path / "run-4")
    runs = []
    for kept in (6, 512):
        embed_residues(tiny, encoder, max_residues=kept)
        runs.append(fit(tiny, "random-0", config, training, tiny.path / f"run-{kept}"))
    assert runs[0].hash == runs[1].hash
    ours, theirs = (run.model.state_dict() for run in runs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
