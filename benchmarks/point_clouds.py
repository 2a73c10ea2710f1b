"""
Surface points by KD-tree against PyUUL's own, on the same chains: time and peak memory, as ratios.

Run from the root, on Linux: ``python -m benchmarks.point_clouds``. Each measurement is a process
of its own, so that its peak is its own; what the libraries take before the first atom is
subtracted. Seconds are processor time on one thread, so that other programs do not count.
Chains are the coarse stand-in (simulated); how many atoms there are, and how close, is what
counts. PyUUL is not run on chains whose matrix of distances this machine cannot hold.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

RESIDUES = (100, 300, 1000, 2700)
N_POINTS = 5000  # PyUUL's default
REPEATS = 3


def peak_mb() -> float:
    """Return this process's peak resident memory in MB (Linux)."""
    # getrusage would count what the parent held when it started this process
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x]
    return int(line.split()[1]) / 1024


def measure(tool: str, chain: str) -> dict[str, float]:
    """Find the surface of one chain and draw points; return seconds and MB over the start."""
    with np.load(chain, allow_pickle=False) as archive:
        coordinates, radii = archive["coordinates"], archive["radii"]
    find = pyuul_points() if tool == "pyuul" else kdtree_points
    find(coordinates[:100], radii[:100])  # load what is loaded on first use
    before, seconds = peak_mb(), []
    for _ in range(REPEATS):
        start = time.process_time()
        find(coordinates, radii)
        seconds.append(time.process_time() - start)
    return {"seconds": min(seconds), "mb": max(peak_mb() - before, 0.1), "all_mb": peak_mb()}


def kdtree_points(coordinates: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Draw points on the surface that the KD-tree finds."""
    from deepgps_core.structure import candidates_per_atom, surface_points

    found, _ = surface_points(coordinates, radii, candidates_per_atom(len(radii), N_POINTS))
    return found[np.random.default_rng(0).integers(len(found), size=N_POINTS)]


def pyuul_points() -> Callable[[np.ndarray, np.ndarray], object]:
    """Return PyUUL's own computation, on one thread as ours is."""
    import torch
    from pyuul.VolumeMaker import PointCloudSurface

    torch.set_num_threads(1)
    surface = PointCloudSurface("cpu")
    return lambda coordinates, radii: surface(
        torch.tensor(coordinates)[None], torch.tensor(radii)[None], maxpoints=N_POINTS
    )


def write_chain(n_residues: int, path: Path) -> int:
    """Write coordinates and radii of a stand-in of random sequence; return its atoms."""
    from deepgps_core.coarse_chain import coarse_chain
    from deepgps_core.structure import atom_radii

    letters = np.random.default_rng(0).choice(list("ACDEFGHIKLMNPQRSTVWY"), n_residues)
    structure = coarse_chain("".join(letters))
    np.savez(path, coordinates=structure.coordinates, radii=atom_radii(structure))
    return len(structure)


def measured(tool: str, chain: Path) -> dict[str, float] | None:
    """Measure in a fresh process; None where it ran out of memory."""
    command = [sys.executable, __file__, tool, str(chain)]
    done = subprocess.run(command, capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else None


def available_mb() -> float:
    """Return the memory that is free (Linux)."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    (line,) = [x for x in lines if x.startswith("MemAvailable")]
    return int(line.split()[1]) / 1024


def row_of(n_residues: int, n_atoms: int, chain: Path) -> dict[str, Any]:
    """Measure both on one chain."""
    ours = measured("kdtree", chain)
    assert ours, "the KD-tree ran out of memory"
    # about 10 bytes a pair of atoms: a distance and several masks, as seen on smaller chains
    fits = 12 * n_atoms**2 / 1e6 < available_mb()
    theirs = measured("pyuul", chain) if fits else None
    return {"residues": n_residues, "atoms": n_atoms, "kdtree": ours, "pyuul": theirs}


def print_row(row: Mapping[str, Any]) -> None:
    """Print one line; ratios are PyUUL's by ours."""
    ours, theirs = row["kdtree"], row["pyuul"]
    line = [f"{row['residues']:9d}", f"{row['atoms']:9d}", f"{ours['seconds']:9.3f}",
            f"{ours['mb']:9.1f}", f"{ours['all_mb']:9.0f}"]  # fmt: skip
    line += (
        [f"{theirs['seconds']:9.3f}", f"{theirs['mb']:9.1f}",
         f"{theirs['seconds'] / ours['seconds']:9.1f}", f"{theirs['mb'] / ours['mb']:9.1f}"]
        if theirs else [f"{'no room':>9s}"]
    )  # fmt: skip
    print(" ".join(line), flush=True)


def growth(sizes: list[float], values: list[float]) -> float:
    """Return the slope of a log-log fit (here, so that children import as little as they need)."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def table(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the row of the one table: the largest chain that both can do."""
    both = [row for row in result["rows"] if row["pyuul"]]
    last, grown = both[-1], {}
    for tool, rows in (("kdtree", result["rows"]), ("pyuul", both)):
        sizes = [row["atoms"] for row in rows]
        grown[tool] = growth(sizes, [row[tool]["seconds"] for row in rows])
    ours, theirs = last["kdtree"], last["pyuul"]
    return [
        {"what": f"surface points of {last['atoms']:,} atoms", "ours": "KD-tree",
         "beside": "PyUUL", "value": ours["seconds"], "peer": theirs["seconds"], "unit": "s",
         "ratio": theirs["seconds"] / ours["seconds"], "memory_mib": ours["mb"],
         "peer_memory_mib": theirs["mb"], "growth": grown["kdtree"],
         "peer_growth": grown["pyuul"], "grows_with": "atoms"}
    ]  # fmt: skip


def main() -> None:
    """Print one row a chain length, and keep them."""
    from benchmarks.common import machine, write_results

    print(f"{N_POINTS} points, CPU seconds, best of {REPEATS}; memory over the libraries' own")
    head = ("residues", "atoms", "KD-tree s", "MB", "all MB", "PyUUL s", "MB", "x time", "x memory")
    print(" ".join(f"{name:>9s}" for name in head))
    result = {**machine(), "benchmark": "point clouds", "points": N_POINTS, "rows": []}
    with tempfile.TemporaryDirectory() as folder:
        for n_residues in RESIDUES:
            chain = Path(folder) / f"{n_residues}.npz"
            result["rows"].append(row_of(n_residues, write_chain(n_residues, chain), chain))
            print_row(result["rows"][-1])
            write_results(result)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(measure(sys.argv[1], sys.argv[2])))
    else:
        main()
