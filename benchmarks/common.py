"""What the benchmarks share: machine, time, peak memory, growth, and where results are kept."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepgps_core.dataset import atomic_path, usable_cores

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
#: Results that are kept: one small file a benchmark and machine.
RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Describe the machine in words that a reader can compare."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text())
        cpu = found.group(1).strip() if found else cpu
    # how wide its arithmetic is counts for more than its name
    cpu += f", {torch.backends.cpu.get_cpu_capability()}"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "machine": f"{len(gpus)} x {gpus[0]}" if gpus else f"{usable_cores()} cores, {cpu}",
        "cores": usable_cores(), "torch": torch.__version__, "python": platform.python_version(),
    }  # fmt: skip


def results_folder() -> Path:
    """Return where results are written: the committed ones, or ``DEEPGPS_RESULTS``."""
    return Path(os.environ.get("DEEPGPS_RESULTS") or RESULTS)


def result_path(result: Mapping[str, Any], folder: Path | None = None) -> Path:
    """Return the file of a benchmark's result on its machine."""
    name = re.sub(r"[^a-z0-9]+", "_", f"{result['benchmark']} {result['machine']}".lower())
    return (folder or results_folder()) / f"{name.strip('_')[:60]}.json"


def write_results(result: Mapping[str, Any], folder: Path | None = None) -> Path:
    """Write one benchmark's result as ``<benchmark>_<machine>.json``, atomically."""
    path = result_path(result, folder)
    with atomic_path(path) as temporary:
        Path(temporary).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def _status_mib(key: str) -> float:
    """Return a memory figure of this process (Linux), elsewhere not a number."""
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    (line,) = [x for x in status.read_text().splitlines() if x.startswith(f"{key}:")]
    return int(line.split()[1]) / 1024


def _forget_peak() -> None:
    """Give free memory back and start the process's peak anew, where the system can."""
    gc.collect()
    if Path("/proc/self/clear_refs").exists():
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """
    Return what `work` returns, its seconds, and the memory it took at its peak, in MiB.

    On a GPU that of the device; on a CPU what the process took more than before.
    """
    if DEVICE == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    _forget_peak()
    before = _status_mib("VmRSS")
    start = time.perf_counter()
    result = work()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    if DEVICE == "cuda":
        return result, seconds, torch.cuda.max_memory_allocated() / 2**20
    return result, seconds, max(_status_mib("VmHWM") - before, 0.1)


def growth(sizes: Sequence[float], values: Sequence[float]) -> float:
    """
    Return the exponent e of values that grow as size**e: the slope of a log-log fit.

    Examples
    --------
    >>> round(growth([1, 10, 100], [2, 200, 20000]), 3)
    2.0
    """
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def fast_half() -> bool:
    """Tell whether bfloat16 is computed, not emulated, here."""
    return DEVICE == "cuda" or torch.cpu._is_avx512_bf16_supported()


def memory_mib(row: Mapping[str, Any]) -> float | None:
    """Return a row's peak memory, which earlier results give in GiB."""
    if row.get("peak_memory_mib") is not None:
        return float(row["peak_memory_mib"])
    return 1024 * row["peak_memory_gib"] if row.get("peak_memory_gib") else None
