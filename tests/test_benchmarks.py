"""What the benchmarks share: kept results make one table, ratios follow from both numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyuul")
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
