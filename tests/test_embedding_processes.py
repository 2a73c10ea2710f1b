"""Embedding in several processes: the vectors of one, gone on with by any number of others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import make_tiny

from benchmarks.common import timed
from deepgps_core.dataset import AMINO_ACIDS, Dataset, InputError
from deepgps_core.encoders import ESM2Encoder, embed_dataset
from deepgps_core.esm2 import ESM2
from deepgps_core.residues import embed_residues, read_residues
from deepgps_core.shares import Share


def as_process(monkeypatch: pytest.MonkeyPatch, rank: int, world: int) -> None:
    """Let this process believe that it is one of several."""
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world))


def test_shares_are_a_partition_of_equal_work() -> None:
    """Every protein is in one share, and shares of many proteins have as many residues."""
    lengths = np.random.default_rng(0).integers(30, 2000, 600)
    sequences = {f"p{i}": "M" * n for i, n in enumerate(lengths)}
    shares = [Share(rank, 4).of(sequences) for rank in range(4)]
    assert sorted(sum(shares, [])) == sorted(sequences)
    residues = [sum(len(sequences[name]) for name in share) for share in shares]
    assert max(residues) < 1.02 * min(residues)


def test_waiting_ends_when_nothing_moves(tmp_path: Path) -> None:
    """One line that says what to do; a folder that changes is waited for."""
    (tmp_path / "part.npz").write_bytes(b"x")
    with pytest.raises(InputError, match="nothing for 0 s; start all of them again"):
        Share(0, 2).wait(lambda: False, tmp_path, patience_s=0.3)
    start = time.monotonic()

    def ready() -> bool:
        (tmp_path / "part.npz").write_bytes(b"y")
        return time.monotonic() - start > 1

    Share(0, 2).wait(ready, tmp_path, patience_s=0.6)


def test_one_process_goes_on_from_what_several_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two has written its part and the first died: one alone needs its half only."""
    dataset = make_tiny(tmp_path / "tiny")
    encoder, asked = ESM2Encoder(device="cpu"), []
    iterate = encoder.iterate

    def counted(sequences, per_residue=False):  # type: ignore[no-untyped-def]
        asked.append(sorted(sequences))
        return iterate(sequences, per_residue)

    monkeypatch.setattr(encoder, "iterate", counted)
    as_process(monkeypatch, 1, 2)
    monkeypatch.setattr(Share, "wait", lambda *_, **__: sys.exit("killed"))
    with pytest.raises(SystemExit):
        embed_dataset(dataset, encoder)
    assert sorted(p.name for p in (dataset.path / "features").rglob("*of*")) == ["1-of-2.npz"]
    monkeypatch.undo()
    monkeypatch.setattr(encoder, "iterate", counted)
    vectors = embed_dataset(dataset, encoder)
    assert len(asked[0]) == len(asked[1]) == 6 and not set(asked[0]) & set(asked[1])
    assert list(dataset.features("embedded")) == list(vectors) == list(dataset.sequences())
    assert not (dataset.path / "features" / "embedded.parts").exists()
    expected = encoder.embed(dataset.sequences())
    for name, vector in vectors.items():
        np.testing.assert_allclose(vector, expected[name], atol=1e-5)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Through torchrun: vectors and residues of one process, and nothing left beside them."""
    torchrun = Path(sys.executable).parent / "torchrun"
    if not torchrun.exists() and shutil.which("torchrun") is None:
        pytest.skip("torchrun is not installed beside this Python")
    launcher = [str(torchrun), "--standalone", "--nproc-per-node", "2", "--no-python", "--"]
    deepgps = str(Path(sys.executable).parent / "deepgps")
    environment = os.environ | {"DEEPGPS_DATA": str(tmp_path), "OMP_NUM_THREADS": "1"}
    datasets: list[Dataset] = []
    for name, before in (("alone", []), ("together", launcher)):
        datasets.append(make_tiny(tmp_path / name))
        command = [*before, deepgps, "embed", name, "--residues", "--limit", "9"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("12 vectors of 320") == 1, "said once"
    alone, together = (dataset.features("embedded") for dataset in datasets)
    assert list(alone) == list(together)
    for name, vector in alone.items():
        np.testing.assert_allclose(together[name], vector, atol=1e-6)
    ids = list(alone)
    (ours, lengths), (theirs, _) = (read_residues(d, "embedded", ids) for d in datasets)
    np.testing.assert_allclose(theirs, ours, atol=2e-3)
    assert lengths.max() == 9
    left = [sorted(p.name for p in (d.path / "features").iterdir()) for d in datasets]
    assert left[0] == left[1]


def test_residues_are_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second process writes its rows into the common file; the first ends it, by itself."""
    dataset = make_tiny(tmp_path / "tiny")
    encoder = ESM2Encoder(device="cpu")
    total = sum(map(len, dataset.sequences().values()))
    np.lib.format.open_memmap(
        dataset.path / "features" / f".embedded-residues-{total}x320.npy", "w+", np.float16,
        (total, 320),
    ).flush()  # fmt: skip
    as_process(monkeypatch, 1, 2)
    monkeypatch.setattr(Share, "wait", lambda self, ready, *_, **__: ready() or sys.exit("killed"))
    with pytest.raises(SystemExit):
        embed_residues(dataset, encoder)
    as_process(monkeypatch, 0, 2)
    embed_residues(dataset, encoder)
    values, lengths = read_residues(dataset, "embedded", list(dataset.sequences()))
    expected = encoder.embed(dataset.sequences(), per_residue=True)
    parts = np.split(values, np.cumsum(lengths)[:-1])
    for part, name in zip(parts, dataset.sequences(), strict=True):
        np.testing.assert_allclose(part, expected[name], atol=5e-3)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read on Linux")
def test_memory_is_that_of_the_vectors(tmp_path: Path) -> None:
    """Eight times the proteins take their vectors' size more, not that of their residues."""
    network = ESM2(1, 320, 20).initialize(torch.Generator().manual_seed(0))
    state = {key: value.contiguous().clone() for key, value in network.state_dict().items()}
    save_file(state, tmp_path / "one.safetensors", metadata={"n_heads": "20"})
    encoder = ESM2Encoder(tmp_path / "one.safetensors", device="cpu")
    rng, peaks = np.random.default_rng(0), []
    for count in (250, 250, 2000):  # the first warms up
        drawn = rng.choice(list(AMINO_ACIDS), (count, 60))
        sequences = {f"P{i}": "".join(letters) for i, letters in enumerate(drawn)}
        peaks.append(timed(lambda asked=sequences: encoder.embed(asked))[2])
    residues = 1750 * 60 * 4 * encoder.dim / 2**20  # 128 MiB; the vectors take 2
    assert peaks[2] - peaks[1] < residues / 4
