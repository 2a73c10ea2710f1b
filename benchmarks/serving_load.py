"""
How openGPS stands 50 clients at once, and how long predictions take.

Run as ``python -m benchmarks.serving_load [seconds] [clients]``. The real server, `deepgps serve`
with one worker, answers on loopback; the clients are threads of this process, so that they and
the server share the cores: what is measured is a lower bound of what the server can do alone.

Each client behaves like a visitor who never rests: it opens pages and looks at results, and from
time to time it hands in a form or a call and follows its progress. An answer counts as failed if
it is none, an error, or not what was asked for. 503 because the queue is full counts as failed.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.common import machine, write_results
from deepgps_core.sources.embedded import embedded_proteins

CLIENTS = 50
SECONDS = 60.0
#: A prediction of one protein after start, and of a hundred: what is aimed at, on two cores.
AIMS_S = {"1": 2.0, "100": 60.0}
FASTA = ">load\nMKKRKVEDPLSTAAGLWQ\n"


@contextmanager
def server(folder: Path) -> Iterator[tuple[str, float]]:
    """Run the server; yield its address and the seconds until it answered."""
    environment = os.environ | {"OPENGPS_POSTS_PER_MINUTE": "1000000", "PYTHONUNBUFFERED": "1",
                                "OPENGPS_MAX_QUEUE": "100000"}  # fmt: skip
    command = [sys.executable, "-c", "from deepgps_core.cli import main; main()", "serve",
               "--port", "0", "--data", str(folder)]  # fmt: skip
    start = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout
        found = re.search(r"http://\S+", process.stdout.readline())
        if not found:
            raise SystemExit("the server did not start; run `deepgps serve` to see why")
        address = found[0].rstrip("/")
        while True:
            try:
                httpx.get(f"{address}/api/health").raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield address, time.perf_counter() - start
    finally:
        process.terminate()
        process.wait(30)


class Load:
    """Counts, times and complaints of all clients together."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.latencies: dict[str, list[float]] = defaultdict(list)
        self.failed: Counter[str] = Counter()
        self.accepted: list[str] = []
        self._guard = threading.Lock()

    def ask(self, client: httpx.Client, kind: str, method: str, path: str, **options: Any) -> Any:
        """Ask, take the time, and note what went wrong; None then."""
        start = time.perf_counter()
        try:
            answer = client.request(method, path, **options)
            wrong = "" if answer.status_code < 400 else str(answer.status_code)
        except httpx.HTTPError as error:
            answer, wrong = None, type(error).__name__
        with self._guard:
            self.latencies[kind].append(time.perf_counter() - start)
            if wrong:
                self.failed[f"{kind}: {wrong}"] += 1
        return None if wrong else answer

    def visit(self, client: httpx.Client, chance: random.Random, example: str) -> None:
        """Do one thing that a visitor does."""
        what = chance.random()
        if what < 0.55:
            page = chance.choice(["/", "/about", "/predict", "/submit", "/static/opengps.css"])
            self.ask(client, "page", "GET", page)
        elif what < 0.75:
            self.ask(client, "result", "GET", f"/jobs/{example}")
        elif what < 0.96:
            self.ask(client, "image", "GET", f"/jobs/{example}/images/0/0/overlay.png")
        elif what < 0.98:
            self._predict_by_form(client)
        else:
            answer = self.ask(client, "call", "POST", "/api/predictions", json={"fasta": FASTA})
            if answer is not None:
                self._follow(client, answer.json()["id"])

    def _predict_by_form(self, client: httpx.Client) -> None:
        page = self.ask(client, "page", "GET", "/predict")
        token = re.search(r'name="form_token" value="([^"]+)"', page.text) if page else None
        if token:
            data = {"form_token": token[1], "fasta": FASTA}
            answer = self.ask(client, "form", "POST", "/predict", data=data)
            if answer is not None:
                self._follow(client, answer.headers["Location"].rsplit("/", 1)[1])

    def _follow(self, client: httpx.Client, job_id: str) -> None:
        with self._guard:
            self.accepted.append(job_id)
        self.ask(client, "progress", "GET", f"/api/predictions/{job_id}")


def run_load(address: str, example: str, n_clients: int, seconds: float) -> Load:
    """Let all clients visit until the time is over."""
    load, end = Load(address), time.monotonic() + seconds

    def visitor(number: int) -> None:
        chance = random.Random(number)
        with httpx.Client(base_url=address, timeout=30) as client:
            while time.monotonic() < end:
                load.visit(client, chance, example)

    threads = [threading.Thread(target=visitor, args=(k,)) for k in range(n_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return load


def drained(load: Load, limit_s: float = 600.0) -> tuple[float, Counter[str]]:
    """Wait until the queue is empty; return the seconds, and how the accepted jobs ended."""
    start = time.perf_counter()
    with httpx.Client(base_url=load.address, timeout=30) as client:
        while client.get("/api/health").json()["waiting"]:
            if time.perf_counter() - start > limit_s:
                break
            time.sleep(0.1)
        took = time.perf_counter() - start
        states = Counter(
            client.get(f"/api/predictions/{job_id}").json()["state"] for job_id in load.accepted
        )
    return took, states


def predict(address: str, fasta: str) -> tuple[float, str]:
    """Predict through the interface; return the seconds until the result was there, and its id."""
    with httpx.Client(base_url=address, timeout=30) as client:
        start = time.perf_counter()
        job = client.post("/api/predictions", json={"fasta": fasta}).raise_for_status().json()
        while (told := client.get(job["links"]["self"]).json())["state"] != "done":
            if told["state"] == "failed":
                raise SystemExit(f"a prediction failed: {told['error']}")
            time.sleep(0.02)
        return time.perf_counter() - start, job["id"]


def fasta_of(n_proteins: int, seed: int) -> str:
    """Return real proteins of up to 1,000 residues, so that a hundred fit in a job."""
    table = embedded_proteins()
    table = table[table["sequence"].str.len() <= 1000].sample(n_proteins, random_state=seed)
    rows = zip(table["protein_id"], table["sequence"], strict=True)
    return "\n".join(f">{name}\n{sequence}" for name, sequence in rows)


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Return count, median and 95th percentile, in milliseconds."""
    p50, p95 = np.percentile(seconds, [50, 95]) * 1000
    return {"n": len(seconds), "p50_ms": round(float(p50), 1), "p95_ms": round(float(p95), 1)}


def main() -> None:
    """Measure, print and keep the results."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    n_clients = int(sys.argv[2]) if len(sys.argv) > 2 else CLIENTS
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as (address, start_s):
        first_s, example = predict(address, fasta_of(1, 1))
        ones = [predict(address, fasta_of(1, seed))[0] for seed in range(2, 12)]
        hundred_s, _ = predict(address, fasta_of(100, 0))
        print(f"predictions: {max(ones):.2f} s and {hundred_s:.1f} s; now the load", flush=True)
        load = run_load(address, example, n_clients, seconds)
        print(f"{len(load.accepted)} jobs accepted; now the queue drains", flush=True)
        drain_s, states = drained(load)
    times = [second for kind in load.latencies.values() for second in kind]
    result = {
        "benchmark": "serving", **machine(), "clients": n_clients, "seconds": seconds,
        "answers": len(times), "answers_per_s": round(len(times) / seconds, 1),
        "failed": sum(load.failed.values()), "failures": dict(load.failed),
        "all": percentiles(times),
        "by_kind": {kind: percentiles(values) for kind, values in sorted(load.latencies.items())},
        "jobs_accepted": len(load.accepted), "jobs_ended": dict(states),
        "drain_s": round(drain_s, 1), "start_s": round(start_s, 2),
        "first_prediction_s": round(first_s, 2),
        "one_protein_s": {"median": round(float(np.median(ones)), 3), "worst": round(max(ones), 3)},
        "hundred_proteins_s": round(hundred_s, 2),
    }  # fmt: skip
    for name, value in result.items():
        print(f"{name}: {value}")
    aims = {"1": max(ones), "100": hundred_s}
    for name, measured in aims.items():
        said = "within" if measured <= AIMS_S[name] else "ABOVE"
        print(f"{name} protein(s): {measured:.2f} s, {said} the aim of {AIMS_S[name]:.0f} s")
    print(write_results(result))
    if load.failed or set(states) - {"done"}:
        sys.exit("some answers failed, or jobs did not finish")


if __name__ == "__main__":
    main()
