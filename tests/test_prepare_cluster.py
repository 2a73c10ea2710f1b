"""Preparing on a Dask cluster: the same files as on one machine, and errors that arrive."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from typer.testing import CliRunner

from deepgps_core.cli import app
from deepgps_core.cropping import PreprocessingConfig
from deepgps_core.dataset import PROTEIN_COLUMNS, Dataset, DatasetInfo, InputError, sha256_of
from deepgps_core.prepare_cluster import (
    SegmenterChoice,
    _handed_out,
    cluster_client,
    prepare_on_cluster,
)
from deepgps_core.preprocessing import prepare

distributed = pytest.importorskip("distributed")
N_FIELDS = 10


def make_dataset(path: Path) -> Dataset:
    """Write ten small fields of five drawn nuclei each."""
    rng = np.random.default_rng(0)
    rows = []
    (path / "fields").mkdir(parents=True)
    for number in range(N_FIELDS):
        y, x = np.mgrid[:320, :320]
        plane = np.zeros((320, 320))
        for cy, cx in rng.uniform(60, 260, (5, 2)):
            plane = np.maximum(plane, 1400 * (np.hypot(y - cy, x - cx) < 28))
        field = rng.poisson(np.stack([plane, plane / 2]) + 400).astype(np.uint16)
        name = f"f{number}"
        tifffile.imwrite(path / "fields" / f"{name}.tif", field, photometric="minisblack")
        rows.append((name, "p", f"fields/{name}.tif", sha256_of(path / "fields" / f"{name}.tif")))
    info = DatasetInfo("c", "drawn", "1", "CC0", "simulated", "none", 0.2, ("Nucleus",))
    proteins = pd.DataFrame([("p", "p", "", "MKV", "Nucleus", "Nucleus", "p")],
                            columns=list(PROTEIN_COLUMNS))  # fmt: skip
    fields = pd.DataFrame(rows, columns=["field_id", "protein_id", "path", "sha256"])
    return Dataset.create(path, info, proteins, fields)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Run a scheduler and two workers as threads of this process."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def contents(folder: Path) -> dict[str, str]:
    """Return the checksum of each file of a dataset folder."""
    return {str(path.relative_to(folder)): sha256_of(path)
            for path in sorted(folder.rglob("*")) if path.is_file()}  # fmt: skip


@pytest.mark.slow
def test_cluster_equals_one_machine(tmp_path: Path, client: Any) -> None:
    """Nuclei, crops, tables and records are the same files, byte for byte; either resumes."""
    config = PreprocessingConfig(border_rule="shift")
    here = make_dataset(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    local = prepare(here, config, workers=1)
    remote = prepare_on_cluster(Dataset(tmp_path / "there"), client, config)
    assert len(local.crops) > 20
    assert contents(local.path) == contents(remote.path)
    before = (remote.path / "nuclei.npz").stat().st_mtime_ns
    assert len(prepare(remote, config, workers=1).crops) == len(local.crops)
    assert (remote.path / "nuclei.npz").stat().st_mtime_ns == before
    # other crops of the same nuclei: only the second step is done anew
    wider = prepare_on_cluster(remote, client, PreprocessingConfig(border_rule="pad"))
    assert (remote.path / "nuclei.npz").stat().st_mtime_ns == before
    assert len(wider.crops) >= len(local.crops)


@pytest.mark.slow
def test_cluster_of_processes_by_the_command(tmp_path: Path, data_root: Path) -> None:
    """`deepgps prepare --scheduler local` starts two processes, and ends them."""
    make_dataset(data_root / "c")
    result = CliRunner().invoke(
        app, ["prepare", "c", "--border-rule", "shift", "--scheduler", "local", "--workers", "2"]
    )
    assert result.exit_code == 0, result.output
    assert " crops" in result.output and not (data_root / "c" / ".prepare").exists()


def test_errors_of_workers_arrive(tmp_path: Path, client: Any) -> None:
    """A field that changed is named as on one machine, and nothing is written."""
    dataset = make_dataset(tmp_path / "c")
    (dataset.path / "fields" / "f3.tif").write_bytes(b"<html>")
    with pytest.raises(InputError, match=r"f3\.tif: not the file that fields\.csv describes"):
        prepare_on_cluster(dataset, client)
    assert not (dataset.path / "nuclei.csv").exists()


def test_tasks_in_flight_are_bounded(client: Any) -> None:
    """Sixty tasks are drawn only as fast as two workers finish them."""
    drawn = 0

    def tasks() -> Iterator[tuple[int]]:
        nonlocal drawn
        for number in range(60):
            drawn += 1
            yield (number,)

    results = _handed_out(client, lambda number: number**2, tasks())
    first = next(results)
    assert drawn <= 2 * 4 + 2
    assert sorted([first, *results]) == [number**2 for number in range(60)]


def test_no_scheduler_is_said_so() -> None:
    """An address where nobody answers is an error with a remedy."""
    with pytest.raises(InputError, match="no Dask scheduler answers"):
        with cluster_client("nowhere"):
            pass


def test_choice_names_a_model_and_segments_nothing() -> None:
    """It has the identity of the segmenter it stands for, and refuses to be one."""
    from deepgps_core.segmentation import segmenter_identity

    choice = SegmenterChoice("embedded", None, None, 1.0)
    assert choice.identity == segmenter_identity()
    with pytest.raises(InputError, match="not segmented by any worker"):
        choice(np.zeros((10, 10), dtype=np.float32))
