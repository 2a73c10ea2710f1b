"""
Run the benchmarks, one after the other: ``python -m benchmarks [name ...]``.

Each measures ours beside something else in the same run and keeps its result; at the end they
stand in one table, with the machine's name. What the machine lacks is skipped, with the reason.
Speed is measured here and asserted nowhere.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import torch

from deepgps_core.dataset import usable_cores

#: In this order, with arguments that keep all of them under ten minutes on two cores.
PARTS: dict[str, tuple[str, ...]] = {
    "point_clouds": (), "embedding_speed": (), "prediction_speed": (), "sampling_speed": (),
    "training_speed": (), "training_scaling": (), "half_precision": (), "prepare_scaling": ("24",),
    "serving_load": (),
}  # fmt: skip
#: Packages that a part needs beyond those of the library.
NEEDS = {
    "point_clouds": ("pyuul",), "prepare_scaling": ("distributed",),
    "serving_load": ("flask", "httpx", "waitress"),
}  # fmt: skip


def reason_to_skip(part: str) -> str:
    """Say what the machine lacks for a part; nothing if it has all."""
    missing = [name for name in NEEDS.get(part, ()) if importlib.util.find_spec(name) is None]
    if missing:
        return f"needs the package {missing[0]}"
    if part == "point_clouds" and not Path("/proc/self/status").exists():
        return "reads peak memory from /proc, which only Linux has"
    if part == "prepare_scaling" and usable_cores() < 2:
        return "compares two workers with one, and there is one core"
    if part == "training_scaling" and torch.cuda.device_count() < 2:
        return "compares several GPUs with one"
    if part == "half_precision" and not torch.cuda.is_available():
        return "asks what half precision changes on a GPU"
    return ""


def main() -> None:
    """Run the parts that were asked for, by default all; name those that failed at the end."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("parts", nargs="*", help=f"of: {', '.join(PARTS)}")
    asked = parser.parse_args().parts
    unknown = sorted(set(asked) - set(PARTS))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are: {', '.join(PARTS)}")
    root, begun, failed, skipped = Path(__file__).resolve().parent.parent, time.time(), [], []
    for part in asked or PARTS:
        print(f"\n## {part}\n", flush=True)
        reason = reason_to_skip(part)
        if reason:
            skipped.append(f"{part}: skipped, {reason}")
            print(skipped[-1], flush=True)
            continue
        start = time.monotonic()
        command = [sys.executable, "-m", f"benchmarks.{part}", *PARTS[part]]
        if subprocess.run(command, cwd=root).returncode:
            failed.append(part)
        print(f"({time.monotonic() - start:.0f} s)", flush=True)
    print_new(begun)
    print("\n".join(["", *skipped]))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def print_new(begun: float) -> None:
    """Print the table of the results that were written since `begun`."""
    from benchmarks.common import machine, result_path, results_folder
    from benchmarks.table import TABLES, print_table, read_results

    here = machine()
    paths = {result_path({**here, "benchmark": name}) for name in TABLES}
    new = {path for path in paths if path.exists() and path.stat().st_mtime >= begun - 1}
    print_table(r for r in read_results(results_folder()) if result_path(r) in new)


if __name__ == "__main__":
    main()
