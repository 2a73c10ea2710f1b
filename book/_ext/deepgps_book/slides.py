"""
Slides made from an executed chapter: one HTML file that works from a disk, without a network.

A slide is a title with its goals, a section's question, a figure with its caption, a box, or a
list. Code stays in the notebook. Arrow keys, space, Home, End and a swipe move; printing gives
one slide a page.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from .chapters import CITATION, read_chapter, source, tags

MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
BOX = re.compile(
    r"^(`{3,}|:{3,})\{admonition\}\s*(.*?)\n((?::\w+:.*\n)*)(.*?)^\1", re.MULTILINE | re.DOTALL
)
FIGURE = re.compile(r"<figure.*?</figure>", re.DOTALL)
#: More words than this do not fit on a slide beside its heading.
MAX_WORDS = 90

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><link rel="icon" href="{static}/favicon.svg">
<link rel="stylesheet" href="{static}/slides.css">{math}</head>
<body><main id="slides">{slides}</main>
<nav aria-label="Slides"><a href="{chapter}">The chapter</a>
<button id="back" type="button">Back</button><span id="place" role="status"></span>
<button id="on" type="button">On</button></nav>
<script src="{static}/slides.js"></script></body></html>
"""
MATH = (
    "<script>MathJax={tex:{inlineMath:[['$','$']]},options:{enableMenu:false}}</script>"
    '<script defer src="%s"></script>'
)


def _rendered(text: str) -> str:
    text = re.sub(r"\{(?:doc|term)\}`([^`<]*?)(?:\s*<[^`>]*>)?`", r"\1", CITATION.sub("", text))
    text = re.sub(r"\[([^\]]+)\]\((?!http)[^)]*\)", r"\1", text)
    return MARKDOWN.render(text)


def _first_paragraph(text: str) -> str:
    """Return what opens a section, if it is short enough for a slide."""
    paragraphs = [p for p in text.split("\n\n") if p.strip() and not p.startswith("#")]
    chosen, words = [], 0
    for paragraph in paragraphs:
        words += len(paragraph.split())
        if words > MAX_WORDS:
            break
        chosen.append(paragraph)
    return "\n\n".join(chosen)


def _slide(heading: str, body: str, kind: str = "") -> str:
    title = f"<h2>{_rendered(heading).removeprefix('<p>').strip().removesuffix('</p>')}</h2>"
    return f'<section class="slide {kind}">{title}{body}</section>'


def _of_markdown(text: str, heading: str) -> tuple[list[str], str]:
    """Return the slides of a cell of prose, and the heading that holds after it."""
    result = []
    for part in re.split(r"(?m)^(?=#{2,3} )", text):
        match = re.match(r"#{2,3} (.*)\n?", part)
        if match:
            heading = match[1].strip()
            body = _first_paragraph(part[match.end() :])
            if body or heading in ("Recap", "Exercises"):
                body = part[match.end() :] if heading in ("Recap", "Exercises") else body
                result.append(_slide(heading, _rendered(body)))
    return result, heading


def _of_output(output: dict[str, Any], heading: str) -> list[str]:
    """Return the slides of an output: its figures, and its box, if it has one."""
    data = output.get("data", {})
    markup = "".join(data.get("text/html", ""))
    result = [_slide(heading, figure, "figure") for figure in FIGURE.findall(markup)]
    for _, title, _, body in BOX.findall("".join(data.get("text/markdown", "")) + "\n"):
        result.append(_slide(title or heading, _rendered(body), "box"))
    return result


def slides_of(notebook: dict[str, Any], title: str, goals: tuple[str, ...]) -> list[str]:
    """Return the slides of a chapter, as HTML sections."""
    listed = "".join(f"<li>{html.escape(goal)}</li>" for goal in goals)
    slides = [
        f'<section class="slide title"><h1>{html.escape(title)}</h1><ul>{listed}</ul></section>'
    ]
    heading = title
    for index, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "markdown":
            text = source(cell)
            found, heading = _of_markdown(text, heading) if index else ([], heading)
            slides += found
        elif "solution" not in tags(cell):
            for output in cell.get("outputs", []):
                slides += _of_output(output, heading)
    return slides


def write_slides(executed: Path, folder: Path, static: str, math: str = "") -> list[Path]:
    """Write one file of slides for each chapter in `executed`; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for path in sorted(executed.glob("*.ipynb")):
        chapter = read_chapter(path)
        notebook = json.loads(path.read_text(encoding="utf-8"))
        title = f"{chapter.number} · {chapter.title}"
        slides = slides_of(notebook, title, chapter.goals)
        has_math = math and any("$" in slide for slide in slides)
        page = PAGE.format(
            title=html.escape(title), static=static, slides="\n".join(slides),
            chapter=f"../book/executed/{path.stem}.html", math=MATH % math if has_math else "",
        )  # fmt: skip
        target = folder / f"{path.stem}.html"
        target.write_text(page, encoding="utf-8")
        written.append(target)
    return written
