"""
What a chapter is, read from its executed notebook: title, goals, words, code, seconds.

Nothing about a chapter is typed twice: the map of the book, the instructor's table and the
slides all ask here.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

#: Words of prose and lines of code that an attentive reader takes in, a minute.
WORDS_A_MINUTE = 200
CODE_LINES_A_MINUTE = 25
FIGURES_A_MINUTE = 2
CITATION = re.compile(r"\s*\{cite\}`[^`]*`")


@dataclass(frozen=True)
class Chapter:
    """
    One executed chapter.

    Parameters
    ----------
    number : str
        ``06``, or ``A2`` in the appendices.
    stem : str
        File name without its ending.
    title : str
        Without the number.
    goals : tuple of str
        What stands below "You will".
    words, code_lines, figures : int
        Words of prose, computed boxes and captions; lines of code that is not folded away.
    seconds : int
        Of the execution that the page shows.
    at_once : int
        Chapters that ran side by side then, on shared cores and GPUs.
    profile : str
        Under which it was executed.
    part : str
        Of the book.
    """

    number: str
    stem: str
    title: str
    goals: tuple[str, ...]
    words: int
    code_lines: int
    figures: int
    seconds: int
    at_once: int
    profile: str
    part: str

    @property
    def reading_minutes(self) -> int:
        """Minutes of reading, to five minutes, since nobody reads more evenly than that."""
        minutes = (
            self.words / WORDS_A_MINUTE
            + self.code_lines / CODE_LINES_A_MINUTE
            + self.figures / FIGURES_A_MINUTE
        )
        return max(5, 5 * round(minutes / 5))


def source(cell: dict[str, Any]) -> str:
    """Return a cell's text, which nbformat may keep as a list of lines."""
    text = cell["source"]
    return text if isinstance(text, str) else "".join(text)


def tags(cell: dict[str, Any]) -> list[str]:
    """Return a cell's tags."""
    return cell.get("metadata", {}).get("tags", [])


def output_text(output: dict[str, Any]) -> str:
    """Return the words of an output that is prose or a caption, without markup and pictures."""
    data = output.get("data", {})
    text = data.get("text/markdown") or data.get("text/html") or ""
    text = text if isinstance(text, str) else "".join(text)
    if "<table" in text:
        return ""
    return re.sub(r"<[^>]*>", " ", text)


def read_chapter(path: Path, part: str = "") -> Chapter:
    """Read what is said of a chapter from its executed notebook."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = notebook["cells"]
    prose = [source(cell) for cell in cells if cell["cell_type"] == "markdown"]
    code = [cell for cell in cells if cell["cell_type"] == "code" and "solution" not in tags(cell)]
    computed = [output_text(out) for cell in code for out in cell.get("outputs", [])]
    shown = [source(cell) for cell in code if "hide-input" not in tags(cell)]
    lines = [line for text in shown for line in text.splitlines() if line.strip()]
    heading = prose[0].splitlines()[0].removeprefix("# ")
    number, _, title = heading.partition(" · ")
    goals = re.search(
        r"\*\*You will\*\*\s*\n(.*?)(?:\n\s*\n(?!\s*-)|\Z)", prose[0] + "\n", re.DOTALL
    )
    listed = re.findall(r"-\s+(.*?)(?=\n\s*-|\Z)", goals[1].strip(), re.DOTALL) if goals else []
    record = notebook["metadata"].get("deepgps", {})
    return Chapter(
        number=number, stem=path.stem, title=title or heading,
        goals=tuple(" ".join(CITATION.sub("", goal).split()).rstrip(";.") for goal in listed),
        words=sum(len(text.split()) for text in prose + computed), code_lines=len(lines),
        figures=sum("<figure" in str(out) for cell in code for out in cell.get("outputs", [])),
        seconds=int(record.get("seconds", 0)), at_once=int(record.get("at_once", 1)),
        profile=record.get("profile", ""), part=part,
    )  # fmt: skip


def read_chapters(root: Path) -> list[Chapter]:
    """Return the chapters of the book at `root` in the order of its contents."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    return [
        read_chapter(path, part["caption"])
        for part in toc["parts"]
        for entry in part["chapters"]
        if (path := root / f"{entry['file']}.ipynb").exists()
    ]


def duration(seconds: float) -> str:
    """Say a time as a person would: ``12 s``, ``2 min``, ``1 h 20 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
