"""
One table of all results: what is compared, both numbers, their ratio, memory and growth.

Each benchmark says in its function `table` what of its result goes in. Results of any machine can
be read, those that are committed too: ``python -m benchmarks.table``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import (
    embedding_speed,
    point_clouds,
    prediction_speed,
    prepare_scaling,
    sampling_speed,
    training_scaling,
    training_speed,
)
from benchmarks.common import RESULTS

COLUMNS = ["machine", "what", "ours", "beside", "value", "peer", "unit", "ratio", "memory_mib",
           "peer_memory_mib", "growth", "peer_growth", "grows_with"]  # fmt: skip


def serving(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of openGPS: a hundred proteins in a job beside one a job."""
    one, hundred = result["one_protein_s"]["median"], result["hundred_proteins_s"]
    return [
        {"what": "openGPS, through its interface", "ours": "100 proteins in a job",
         "beside": "one a job", "value": 100 / hundred, "peer": 1 / one, "unit": "proteins/s",
         "ratio": 100 * one / hundred, "grows_with": "proteins"}
    ]  # fmt: skip


TABLES = {
    "point clouds": point_clouds.table, "embedding": embedding_speed.table,
    "training": training_speed.table, "preparing": prepare_scaling.table,
    "prediction": prediction_speed.table, "sampling": sampling_speed.table, "serving": serving,
    "training on several": training_scaling.table,
}  # fmt: skip


def read_results(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """Return all results in a folder, in the order of their files' names."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def one_table(results: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """
    Put results side by side.

    Returns
    -------
    table : DataFrame
        Columns `COLUMNS`; ratios over 1 say that ours is faster.
    """
    known = (result for result in results if result["benchmark"] in TABLES)
    rows = [
        {"machine": result["machine"], **row}
        for result in known
        for row in TABLES[result["benchmark"]](result)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _number(value: Any) -> str:
    if value is None or pd.isna(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _exponent(value: Any) -> str:
    return "" if value is None or pd.isna(value) else f"n^{value:.2f}"


def _pair(ours: str, beside: str) -> str:
    """Join two texts; what was not measured is a dash, so that the other keeps its side."""
    return f"{ours or '–'} / {beside or '–'}" if ours or beside else ""


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as text: numbers with as many digits as mean something."""
    text = pd.DataFrame(index=table.index)
    text["what"] = table["what"]
    text["ours"], text["beside"] = table["ours"], table["beside"]
    for name, column in (("ours, measured", "value"), ("beside, measured", "peer")):
        text[name] = [
            f"{_number(v)} {u}" for v, u in zip(table[column], table["unit"], strict=True)
        ]
    text["ratio"] = [f"{ratio:.2f}x" for ratio in table["ratio"]]
    pairs = zip(table["memory_mib"], table["peer_memory_mib"], strict=True)
    text["peak MiB"] = [_pair(*map(_number, pair)) for pair in pairs]
    pairs = zip(table["growth"], table["peer_growth"], strict=True)
    text["grows as"] = [_pair(*map(_exponent, pair)) for pair in pairs]
    text["n"] = [n if g else "" for n, g in zip(table["grows_with"], text["grows as"], strict=True)]
    return text


def print_table(results: Iterable[Mapping[str, Any]]) -> None:
    """Print one table a machine; pairs are ours / beside."""
    for name, part in one_table(results).groupby("machine", sort=False):
        print(f"\n{name}\n")
        print(as_markdown(shown(part)))


def as_markdown(table: pd.DataFrame) -> str:
    """Return a table of text in Markdown."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    widths = [max(len(str(row[k])) for row in rows) for k in range(len(table.columns))]
    lines = ["| " + " | ".join(str(x).ljust(w) for x, w in zip(row, widths, strict=True)) + " |"
             for row in rows]  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    print_table(read_results())
