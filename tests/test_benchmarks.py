"""What the benchmarks share: kept results make one table, ratios follow from both numbers."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import numpy as np
import pytest

pytest.importorskip("pyuul")
from benchmarks import edition_times, half_precision, training_scaling
from benchmarks.__main__ import NEEDS, PARTS, reason_to_skip
from benchmarks.common import RESULTS, growth, memory_mib, result_path, timed, write_results
from benchmarks.table import COLUMNS, TABLES, as_markdown, one_table, read_results, shown


def test_growth_of_powers() -> None:
    """A power law's exponent is found, whatever its factor."""
    sizes = np.array([3.0, 10.0, 70.0])
    assert growth(sizes, 5 * sizes**1.5) == pytest.approx(1.5)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read on Linux")
def test_peak_memory_is_that_of_the_work_alone() -> None:
    """Work that holds 64 MiB is seen to, though more was held before it; the result comes back."""
    before = np.ones(32 * 2**20)
    del before
    result, seconds, peak = timed(lambda: float(np.ones(8 * 2**20).sum()))
    assert result == 8 * 2**20 and seconds > 0
    assert 60 < peak < 90


def test_memory_in_either_unit() -> None:
    """Earlier results give GiB; what was not measured is nothing."""
    assert memory_mib({"peak_memory_mib": 5}) == 5
    assert memory_mib({"peak_memory_gib": 2.0}) == 2048
    assert memory_mib({}) is None


def test_results_are_named_by_benchmark_and_machine(tmp_path: Path) -> None:
    """Written where `result_path` says, and read back."""
    result = {"benchmark": "embedding", "machine": "2 cores, AMD EPYC", "rows": []}
    path = write_results(result, tmp_path)
    assert path == result_path(result, tmp_path)
    assert path.name == "embedding_2_cores_amd_epyc.json"
    assert read_results(tmp_path) == [json.loads(path.read_text())] == [result]


def test_kept_results_make_one_table() -> None:
    """Every kept result has rows; a ratio over 1 says that ours is faster."""
    results = [r for r in read_results(RESULTS) if r["benchmark"] in TABLES]
    assert results
    table = one_table(results)
    assert list(table.columns) == COLUMNS
    assert set(table["machine"]) == {result["machine"] for result in results}
    for row in table.itertuples():
        faster = row.peer / row.value if row.unit == "s" else row.value / row.peer
        assert row.ratio == pytest.approx(faster)
    lines = as_markdown(shown(table)).splitlines()
    assert len(lines) == len(table) + 2 and all(line.count("|") == 10 for line in lines)


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part without its package is skipped, with the package's name; the parts exist."""
    monkeypatch.setitem(NEEDS, "training_speed", ("no_such_package",))
    assert reason_to_skip("training_speed") == "needs the package no_such_package"
    assert reason_to_skip("prediction_speed") == ""
    for part in PARTS:
        assert (RESULTS.parent / f"{part}.py").exists()


def scaling_row(devices: int, batch: int, seed: int, losses: list[float]) -> dict[str, object]:
    """One row as `training_scaling` keeps it; speed grows with the devices, by nine tenths."""
    rate = 1000 * (1 if devices == 1 else 0.9 * devices)
    return {"setting": f"{devices} x {batch}", "devices": devices, "batch_size": batch,
            "seed": seed, "images_per_s": rate, "losses": losses}  # fmt: skip


def test_several_devices_are_compared_at_the_same_batch_and_the_same_crops_a_step() -> None:
    """Speed with one device's batch, curves with as many crops a step; both known by hand."""
    result = {
        "benchmark": "training on several", "machine": "2 x GPU",
        "rows": [
            scaling_row(1, 8, 0, [5.0, 4.0]), scaling_row(2, 8, 0, [1.02, 0.5]),
            scaling_row(1, 16, 0, [1.0, 0.5]), scaling_row(1, 16, 1, [1.0, 0.55]),
            scaling_row(4, 8, 0, [2.1, 0.5]), scaling_row(1, 32, 0, [2.0, 0.5]),
            scaling_row(8, 8, 0, [9.0, 9.0]),
        ],
    }  # fmt: skip
    row, *_ = training_scaling.table(result)
    assert (row["ratio"], row["beside"]) == (pytest.approx(1.8), "1 x 8")
    apart = training_scaling.curves(result)
    expected = {"2 devices": [0.02, 0.0], "4 devices": [0.05, 0.0], "another seed": [0.0, 0.1]}
    assert apart == {what: pytest.approx(values) for what, values in expected.items()}  # no 8


def test_learnable_crops_follow_their_labels() -> None:
    """The protein is the nucleus or its complement, as the label says, to the last bit."""
    crops = training_scaling.learnable_crops(40, training_scaling.SMALL)
    inside = crops.labels[crops.protein_index] == 1
    nucleus, protein = crops.images.int().unbind(dim=1)
    assert inside.any() and (~inside).any() and nucleus.float().std() > 50
    assert (protein[inside] == nucleus[inside]).all()
    assert (protein[~inside] + nucleus[~inside] - 255).abs().max() <= 1


def test_ways_of_computing_are_compared_seed_by_seed() -> None:
    """What is the same for both ways of a seed drops out of the difference, not of the spread."""
    first, second = list(half_precision.WAYS)[:2]
    rows = [{"way": way, "seed": seed, "loss": seed + shift}
            for way, shift in ((first, 0.0), (second, 0.25)) for seed in (0, 1, 2)]  # fmt: skip
    table = half_precision.compared(rows, "loss")
    assert list(table.index) == [first, second]
    assert table.loc[second, "difference"] == pytest.approx(0.25)
    assert table.loc[second, "half_width"] == pytest.approx(0.0)
    assert table["sd of seeds"].tolist() == pytest.approx([1.0, 1.0])


def test_times_are_those_of_chapters_executed_here(tmp_path: Path) -> None:
    """A chapter that is only shown as recorded, with no key, took no time here."""
    for name, key in (("01_one", "abc"), ("02_two", "")):
        notebook = nbformat.v4.new_notebook()
        notebook.metadata["deepgps"] = {"key": key, "profile": "demo", "seconds": 12}
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    assert edition_times.chapters(tmp_path) == {"01": ("demo", 12.0)}


def test_times_name_the_machine_that_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chapters that came back from a GPU machine are kept under its name, not under this one's."""
    (tmp_path / "executed").mkdir()
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["deepgps"] = {"key": "abc", "profile": "gpu", "seconds": 90}
    nbformat.write(notebook, tmp_path / "executed" / "01_one.ipynb")
    there = {"machine": "3 x A GPU", "cores": 48, "torch": "2", "python": "3", "benchmark": "other"}
    (tmp_path / "other.json").write_text(json.dumps(there))
    monkeypatch.setenv("DEEPGPS_RESULTS", str(tmp_path))
    command = ["edition_times", "--executed", str(tmp_path / "executed"), "--wall-s", "45",
               "--machine-of", str(tmp_path / "other.json")]  # fmt: skip
    monkeypatch.setattr("sys.argv", command)
    edition_times.main()
    kept = json.loads((tmp_path / "edition_gpu_3_x_a_gpu.json").read_text())
    assert kept["machine"] == "3 x A GPU" and kept["cores"] == 48
    assert (kept["benchmark"], kept["total_s"], kept["wall_s"]) == ("edition gpu", 90, 45)
