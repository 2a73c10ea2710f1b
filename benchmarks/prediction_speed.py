"""
Prediction latency: how soon one protein's label and image are there, and how many a second.

Run as ``python -m benchmarks.prediction_speed``. The model is the shipped single-2 beside the
nucleus that ships. Beside each other: all proteins in one call, and one call a protein; and
labels alone, which need no image. Labels of ever more proteins, read from a file and written to one
in blocks as for a whole proteome, show how time and peak memory grow.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import growth, machine, timed, write_results
from deepgps_core.outputs import label_files
from deepgps_core.predictor import load_predictor
from deepgps_core.sources.embedded import embedded_proteins

COUNTS = (1, 10, 30, 100)
#: Proteins of a file, and residues of each: short, so that their number is what counts.
FILE_COUNTS, FILE_RESIDUES = (250, 1000, 4000), 10
#: Of the calls with a protein each: as many as show the rate.
SINGLES = 20
#: A prediction of one protein after start, and of a hundred: what is aimed at, on two cores.
AIMS_S = {"one protein": 2.0, "100 proteins": 60.0}


def proteins(count: int, seed: int = 0) -> dict[str, str]:
    """Return real proteins of up to 1,000 residues."""
    table = embedded_proteins()
    table = table[table["sequence"].str.len() <= 1000].sample(count, random_state=seed)
    return dict(zip(table["protein_id"], table["sequence"], strict=True))


def label_file(count: int) -> dict[str, Any]:
    """Label a file of so many random proteins; return proteins a second and peak memory."""
    letters = np.random.default_rng(0).choice(list("ACDEFGHIKLMNPQRSTVWY"), (count, FILE_RESIDUES))
    with tempfile.TemporaryDirectory() as folder:
        fasta = Path(folder) / "a.fasta"
        fasta.write_text("".join(f">p{i}\n{''.join(text)}\n" for i, text in enumerate(letters)))
        _, seconds, peak = timed(lambda: label_files("single-2", fasta, Path(folder) / "out"))
    return {"proteins": count, "per_s": count / seconds, "seconds": seconds,
            "peak_memory_mib": peak}  # fmt: skip


def first_answer_s() -> float:
    """Return the seconds from starting Python to the first prediction."""
    code = (
        "from deepgps_core.predictor import load_predictor\n"
        "load_predictor('single-2').predict({'A': 'MKKRKVEDPLSTAAGLWQ' * 20})"
    )
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return time.perf_counter() - start


def table(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the one table: one call beside many, labels beside images."""
    whole, single, label = (result[name] for name in ("one_call", "calls", "labels"))
    shared = {"unit": "proteins/s", "grows_with": "proteins"}
    exponent = growth(result["counts"], result["seconds"])
    files = result.get("files") or []  # results kept earlier have none
    sizes = [row["proteins"] for row in files]
    rows = [
        {"what": "prediction, labels of a file", "ours": f"{row['proteins']:,} short proteins",
         "beside": f"{sizes[0]:,}", "value": row["per_s"], "peer": files[0]["per_s"],
         "ratio": row["per_s"] / files[0]["per_s"], "memory_mib": row["peak_memory_mib"],
         "peer_memory_mib": files[0]["peak_memory_mib"],
         "growth": growth(sizes, [row["seconds"] for row in files]), **shared}
        for row in files[1:]
    ]  # fmt: skip
    return rows + [
        {"what": "prediction, labels and images", "ours": f"{result['counts'][-1]} in one call",
         "beside": "one call each", "value": whole["per_s"], "peer": single["per_s"],
         "ratio": whole["per_s"] / single["per_s"], "memory_mib": whole["peak_memory_mib"],
         "peer_memory_mib": single["peak_memory_mib"], "growth": exponent, **shared},
        {"what": "prediction, labels alone", "ours": f"{result['counts'][-1]} in one call",
         "beside": "with images", "value": label["per_s"], "peer": whole["per_s"],
         "ratio": label["per_s"] / whole["per_s"], "memory_mib": label["peak_memory_mib"],
         "peer_memory_mib": whole["peak_memory_mib"], **shared},
    ]  # fmt: skip


def main() -> None:
    """Measure, print and keep."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    result: dict[str, Any] = machine() | {"benchmark": "prediction", "counts": COUNTS}
    result["first_answer_s"] = first_answer_s()
    model = load_predictor("single-2")
    model.predict(proteins(2))
    asked = [proteins(count) for count in COUNTS]
    measured = [timed(lambda part=part: model.predict(part)) for part in asked]
    result["seconds"] = [seconds for _, seconds, _ in measured]
    result["one_protein_s"] = result["seconds"][0]
    ones = [{name: text} for name, text in list(asked[-1].items())[:SINGLES]]
    _, seconds, peak = timed(lambda: [model.predict(one) for one in ones])
    result["calls"] = {"per_s": SINGLES / seconds, "peak_memory_mib": peak}
    result["one_call"] = {
        "per_s": COUNTS[-1] / measured[-1][1], "peak_memory_mib": measured[-1][2]
    }  # fmt: skip
    _, seconds, peak = timed(lambda: model.label(asked[-1]))
    result["labels"] = {"per_s": COUNTS[-1] / seconds, "peak_memory_mib": peak}
    label_file(FILE_COUNTS[0])  # what is loaded once is not counted
    result["files"] = [label_file(count) for count in FILE_COUNTS]
    for name, value in result.items():
        print(f"{name}: {value}")
    aims = dict(zip(AIMS_S, (result["one_protein_s"], result["seconds"][-1]), strict=True))
    for name, value in aims.items():
        said = "within" if value <= AIMS_S[name] else "ABOVE"
        print(f"{name}: {value:.2f} s, {said} the aim of {AIMS_S[name]:.0f} s")
    print(write_results(result))


if __name__ == "__main__":
    main()
