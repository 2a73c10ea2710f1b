"""
How preparing scales with workers: measured with one and two, a cost model for up to 1,000.

Run as ``python -m benchmarks.prepare_scaling [fields]``. Fields are simulated, of OpenCell's size
and density. The ratio comes from one run. Where other programs keep the cores busy, wall time says
little: processor time is printed beside it, and the model is made of that. The segmentation model
loads in each worker before the clock starts, because that is paid once a worker.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import growth, machine, write_results
from deepgps_core.prepare_cluster import FIELDS_PER_TASK, cluster_client, prepare_on_cluster
from deepgps_core.sources.embedded import LABELS, demo_proteins
from deepgps_core.sources.simulated import SimulationConfig, simulate_dataset

#: Fields of the whole Human Protein Atlas, about.
HPA_FIELDS = 80_000
#: Bytes that one field moves to and from the shared disk: raw field, crops, masks and shards.
BYTES_PER_FIELD = 1.5e6 + 10 * 208 * 208 * 3


def _cpu_s(client: Any) -> float:
    """Return the processor seconds that all workers have used so far."""
    return sum(client.run(time.process_time).values())


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(folder: Path, workers: int, sizes: list[int]) -> list[dict[str, float]]:
    """Return wall seconds, and processor seconds of workers and client, for fields of `sizes`."""
    config = SimulationConfig(seed=workers)
    rows = []
    with cluster_client("local", workers) as client:
        for number, n_fields in enumerate([workers * FIELDS_PER_TASK, *sizes]):
            dataset = simulate_dataset(
                folder / str(number), demo_proteins({"Cytoplasm": n_fields}, seed=number), config,
                labels=LABELS,
            )  # fmt: skip
            cpu_s, start, here_s = _cpu_s(client), time.perf_counter(), time.process_time()
            prepare_on_cluster(dataset, client)
            # client and scheduler, which are one process here: what more workers do not share
            serial_s, wall_s = time.process_time() - here_s, time.perf_counter() - start
            rows.append(
                {"workers": workers, "fields": n_fields, "crops": len(dataset.crops),
                 "wall_s": wall_s, "serial_s": serial_s, "cpu_s": _cpu_s(client) - cpu_s,
                 "worker_mib": max(client.run(_peak_mib).values())}
            )  # fmt: skip
    return rows[1:]  # the first loads the model


def main() -> None:
    """Measure, fit and print."""
    # inherited by the workers: one core each, so that two are not the same machine twice
    for threads in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[threads] = "1"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    n_fields = int(sys.argv[1]) if len(sys.argv) > 1 else 48
    with tempfile.TemporaryDirectory() as folder:
        rows = {w: measure(Path(folder) / str(w), w, [n_fields // 4, n_fields]) for w in (1, 2)}
    for workers, (_, row) in rows.items():
        print(
            f"{workers} worker(s), {n_fields} fields: {row['wall_s']:.1f} s of wall time "
            f"({n_fields / row['wall_s']:.2f} fields/s), {row['cpu_s']:.1f} s of processor time "
            f"({row['cpu_s'] / row['wall_s']:.2f} cores), {row['serial_s']:.2f} s of the client"
        )
    one, two = rows[1][1], rows[2][1]
    print(
        f"2 workers over 1: {one['wall_s'] / two['wall_s']:.2f} times as fast, with "
        f"{two['cpu_s'] / one['cpu_s']:.2f} times the processor time for the same fields"
    )
    both = [row for of_workers in rows.values() for row in of_workers]
    slope, start_s = np.polyfit([r["fields"] for r in both], [r["serial_s"] for r in both], 1)
    print_model(one["cpu_s"] / n_fields, max(0.0, slope), max(0.0, start_s))
    print(write_results({**machine(), "benchmark": "preparing", "rows": both}))


def table(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the row of the one table: two workers beside one."""
    by_workers = {n: [r for r in result["rows"] if r["workers"] == n] for n in (1, 2)}
    last = {n: rows[-1] for n, rows in by_workers.items()}
    grown = {
        n: growth([r["fields"] for r in rows], [r["wall_s"] for r in rows])
        for n, rows in by_workers.items()
    }
    return [
        {"what": "preparing fields (normalize, segment, crop)", "ours": "2 workers",
         "beside": "1 worker", "value": last[2][unit] / last[2]["wall_s"],
         "peer": last[1][unit] / last[1]["wall_s"], "unit": f"{unit}/s",
         "ratio": last[2][unit] / last[2]["wall_s"] / (last[1][unit] / last[1]["wall_s"]),
         "memory_mib": last[2].get("worker_mib"), "peer_memory_mib": last[1].get("worker_mib"),
         "growth": grown[2], "peer_growth": grown[1], "grows_with": "fields"}
        for unit in ("fields", "crops")
    ]  # fmt: skip


def print_model(work_s: float, serial_s: float, start_s: float) -> None:
    """Print what workers of one whole core each would need for the atlas."""
    print(
        f"cost model: a field takes {work_s:.2f} s of one core and {1000 * serial_s:.1f} ms of the "
        f"client, a run {start_s:.2f} s more; {HPA_FIELDS:,} fields then take"
    )
    alone = HPA_FIELDS * (work_s + serial_s) + start_s
    for workers in (1, 2, 8, 64, 256, 1000):
        seconds = HPA_FIELDS * (work_s / workers + serial_s) + start_s
        disk = HPA_FIELDS * BYTES_PER_FIELD / seconds / 1e9
        print(
            f"  {workers:5d} workers: {seconds / 3600:7.2f} h, {alone / seconds:6.1f} times "
            f"one worker, {disk:.2f} GB/s of shared disk"
        )


if __name__ == "__main__":
    main()
