"""What the benchmarks share: the machine's name, and where results are written."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from deepgps_core.dataset import atomic_path

#: Results that are kept: one small file a benchmark and machine.
RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Describe the machine in words that a reader can compare."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text())
        cpu = found.group(1).strip() if found else cpu
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "machine": f"{len(gpus)} x {gpus[0]}" if gpus else f"{os.cpu_count()} cores, {cpu}",
        "cores": os.cpu_count(), "torch": torch.__version__, "python": platform.python_version(),
    }  # fmt: skip


def write_results(result: Mapping[str, Any], folder: Path | None = None) -> Path:
    """Write one benchmark's result as ``<benchmark>_<machine>.json``, atomically."""
    folder = folder or Path(os.environ.get("DEEPGPS_RESULTS") or RESULTS)
    name = re.sub(r"[^a-z0-9]+", "_", f"{result['benchmark']} {result['machine']}".lower())
    path = folder / f"{name.strip('_')[:60]}.json"
    with atomic_path(path) as temporary:
        Path(temporary).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path
