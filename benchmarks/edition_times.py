"""
How long the book takes: the seconds of each part of it, read from the executed chapters.

Run as ``python -m benchmarks.edition_times`` after ``make book`` on a machine with nothing else to
do. Chapters that ran side by side (``JOBS``) took longer than they would have alone; what counts
then is the time from the first to the last, which ``make book`` prints and ``--wall-s`` takes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import nbformat

from benchmarks.common import machine, write_results

EXECUTED = Path(__file__).resolve().parent.parent / "book" / "executed"
#: Chapters of a part, and the minutes that its demonstration should take on two cores.
PARTS: dict[str, tuple[str, str, float]] = {
    "01 to 06": ("01", "06", 8), "07 to 11": ("07", "11", 8), "12 to 16": ("12", "16", 5),
    "the rest": ("17", "A9", 4),
}  # fmt: skip


def chapters(folder: Path) -> dict[str, tuple[str, float]]:
    """Return profile and seconds of each chapter executed here, by its number."""
    found = {}
    for path in sorted(folder.glob("*.ipynb")):
        about = nbformat.read(path, as_version=4).metadata["deepgps"]
        if about["key"]:  # else it is shown as recorded elsewhere
            found[path.stem.split("_")[0]] = (about["profile"], float(about["seconds"]))
    return found


def parts(found: dict[str, tuple[str, float]]) -> list[dict[str, Any]]:
    """
    Add up the chapters of each part.

    Examples
    --------
    >>> parts({"01": ("demo", 60.0), "A1": ("demo", 30.0)})[-1]
    {'part': 'the rest', 'chapters': 1, 'seconds': 30.0, 'aim_min': 4}
    """
    rows = []
    for part, (first, last, aim_min) in PARTS.items():
        seconds = [s for number, (_, s) in found.items() if first <= number <= last]
        rows.append(
            {"part": part, "chapters": len(seconds), "seconds": sum(seconds), "aim_min": aim_min}
        )
    return rows


def main() -> None:
    """Read, add up, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executed", type=Path, default=EXECUTED, help="folder of chapters")
    parser.add_argument("--jobs", type=int, default=1, help="chapters that ran at once")
    parser.add_argument("--wall-s", type=float, help="seconds from the first to the last")
    parser.add_argument(
        "--machine-of", type=Path, help="another result of the machine that executed, if not this"
    )
    arguments = parser.parse_args()
    found = chapters(arguments.executed)
    profiles = {profile for profile, _ in found.values()}
    if len(profiles) != 1:
        parser.error(f"chapters of one profile are needed, found: {', '.join(sorted(profiles))}")
    rows = parts(found)
    total_s = sum(row["seconds"] for row in rows)
    where = machine()
    if arguments.machine_of:
        other = json.loads(arguments.machine_of.read_text(encoding="utf-8"))
        where = {name: other[name] for name in where}
    result = where | {
        "benchmark": f"edition {profiles.pop()}", "jobs": arguments.jobs, "rows": rows,
        "total_s": total_s, "wall_s": arguments.wall_s or total_s,
        "by_chapter_s": {number: seconds for number, (_, seconds) in found.items()},
    }  # fmt: skip
    for row in rows:
        print(f"{row['part']}: {row['chapters']} chapters, {row['seconds'] / 60:.1f} min")
    print(f"together {total_s / 60:.1f} min; from first to last {result['wall_s'] / 60:.1f} min")
    print(write_results(result))


if __name__ == "__main__":
    main()
