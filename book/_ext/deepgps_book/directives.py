"""The directives of this book: what a page says that is computed when the book is built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from . import api, commands
from .chapters import Chapter, duration, read_chapters


class _Computed(SphinxDirective):
    """A directive that reads the executed notebooks, and is read again when they change."""

    def chapters(self) -> list[Chapter]:
        root = Path(self.env.srcdir)
        for path in [*(root / "book" / "executed").glob("*.ipynb"), root / "_toc.yml"]:
            self.env.note_dependency(str(path))
        return read_chapters(root)

    def editions(self) -> list[dict[str, Any]]:
        """Return the times of whole editions that were measured and kept."""
        folder = Path(self.env.srcdir) / "benchmarks" / "results"
        return [
            json.loads(path.read_text(encoding="utf-8"))
            for path in sorted(folder.glob("edition_*.json"))
        ]

    def markdown(self, text: str) -> list[nodes.Node]:
        """Parse MyST, whose links to chapters Sphinx then checks."""
        node = nodes.container()
        node.document = self.state.document
        self.state.nested_parse(text.splitlines(), self.content_offset, node)
        return node.children

    def link(self, chapter: Chapter) -> str:
        return f"[{chapter.title}](/book/executed/{chapter.stem})"


class ChapterMap(_Computed):
    """A table of the chapters: what, how long to read, how long to run."""

    def run(self) -> list[nodes.Node]:
        chapters = self.chapters()
        lines = ["| | chapter | to read | to run |", "|---|---|---|---|"]
        part = ""
        for chapter in chapters:
            if chapter.part != part:
                part = chapter.part
                lines.append(f"| | **{part}** | | |")
            lines.append(
                f"| {chapter.number} | {self.link(chapter)} | {chapter.reading_minutes} min "
                f"| {duration(chapter.seconds)} |"
            )
        minutes = sum(chapter.reading_minutes for chapter in chapters)
        profiles = " and ".join(f"`{p}`" for p in sorted({chapter.profile for chapter in chapters}))
        at_once = max(chapter.at_once for chapter in chapters)
        beside = f"; up to {at_once} ran at once, and each is faster alone" if at_once > 1 else ""
        lines += [
            "", f"Together {duration(60 * minutes)} to read: "
            "200 words or 25 lines of code a minute, half a minute a figure, rounded "
            "to five minutes. "
            f"Running: what the executions shown here took, under {profiles}, with "
            f"what earlier chapters leave behind already there{beside}. From the first chapter to "
            "the last: " + "; ".join(map(_whole, self.editions())) + ".",
        ]  # fmt: skip
        return self.markdown("\n".join(lines))


def _whole(edition: dict[str, Any]) -> str:
    """Say how long an edition took, of how many chapters, where and how."""
    return (
        f"{duration(edition['wall_s'])} for {len(edition['by_chapter_s'])} chapters as "
        f"{edition['benchmark'].removeprefix('edition ')}, {edition['jobs']} at once, on "
        f"{edition['machine']}"
    )


class RunTimes(_Computed):
    """A table for those who run chapters in front of a class."""

    def run(self) -> list[nodes.Node]:
        kept = [e for e in self.editions() if e["benchmark"] == "edition demo"]
        lines = [
            f"| chapter | run time | profile |{' as `demo` |' * len(kept)} words | lines of code "
            "| figures |",
            "|---|---|---|---|---|---|" + "---|" * len(kept),
        ]
        for c in self.chapters():
            took = (edition["by_chapter_s"].get(c.number) for edition in kept)
            demo = "".join(f" {duration(s)} |" if s else " |" for s in took)
            lines.append(
                f"| [{c.number}](/book/executed/{c.stem}) | {duration(c.seconds)} | {c.profile} "
                f"|{demo} {c.words:,} | {c.code_lines} | {c.figures} |"
            )
        lines += ["", f"From the first to the last: {'; '.join(map(_whole, self.editions()))}."]
        return self.markdown("\n".join(lines))


class ChapterGoals(_Computed):
    """What one will be able to do, chapter by chapter, with notebooks and slides."""

    def run(self) -> list[nodes.Node]:
        above = "../" * self.env.docname.count("/")
        lines = []
        for c in self.chapters():
            lines += [f"**{c.number} · {self.link(c)}**", ""]
            lines += [*(f"- {goal}" for goal in c.goals), ""]
            links = (
                (f"slides/{c.stem}.html", "slides"),
                (f"downloads/{c.stem}.ipynb", "notebook"),
                (f"downloads/{c.stem}-exercises.ipynb", "notebook without solutions"),
            )
            said = " · ".join(
                f'<a href="{above}{address}">{text}<span class="visually-hidden"> of chapter '
                f"{c.number}</span></a>" for address, text in links
            )  # fmt: skip
            lines += [f'<p class="chapter-files">{said}</p>', ""]
        return self.markdown("\n".join(lines))


class Library(SphinxDirective):
    """The reference of the modules from one floor to another: ``{library} dataset splits``."""

    required_arguments = 1
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        first, last = self.arguments[0], (self.arguments[1:] or [""])[0]
        result: list[nodes.Node] = []
        for module in api.modules_between(first, last):
            self.env.note_dependency(str(api.PACKAGE.parent / module.path))
            section = self._section(module.name.removeprefix("deepgps_core."), module.name)
            section += api.prose(module.doc.splitlines())
            for entry in module.entries:
                section += self._entry(module, entry)
            result.append(section)
        return result

    def _section(self, title: str, name: str, kind: str = "module") -> nodes.section:
        section = nodes.section(ids=[name.replace("_", "-").lower()], names=[name.lower()])
        section += nodes.title(
            "", "", nodes.literal("", title) if kind == "module" else nodes.Text(title)
        )
        self.env.get_domain("py").note_object(name, kind, section["ids"][0], location=section)  # type: ignore[attr-defined]
        return section

    def _entry(self, module: api.Module, entry: api.Entry) -> nodes.section:
        name = f"{module.name}.{entry.name}"
        section = self._section(entry.name, name, entry.kind)
        words = "class " if entry.kind == "class" else ""
        signature = f"{words}{entry.signature}"
        section += nodes.literal_block(
            signature, signature, language="python", classes=["api-signature"]
        )
        section += api.documented(entry.doc)
        for method in entry.methods:
            term = nodes.term("", "", nodes.literal("", f".{method.signature}"))
            body = nodes.definition("", *api.documented(method.doc))
            section += nodes.definition_list("", nodes.definition_list_item("", term, body),
                                             classes=["api-methods"])  # fmt: skip
        place = nodes.paragraph("", f"{module.path}, line {entry.line}", classes=["api-source"])
        section += place
        return section


class Commands(SphinxDirective):
    """The reference of the command line."""

    def run(self) -> list[nodes.Node]:
        import typer

        from deepgps_core.cli import app

        for path in api.PACKAGE.glob("cli*.py"):
            self.env.note_dependency(str(path))
        result: list[nodes.Node] = []
        for name, command in commands.walk(typer.main.get_command(app), "deepgps"):
            section = nodes.section(ids=[name.replace(" ", "-")], names=[name])
            section += nodes.title("", "", nodes.literal("", name))
            line = commands.usage(name, command)
            section += nodes.literal_block(line, line, language="text")
            section += api.prose((command.help or "").replace("\b", "").splitlines())
            rows = commands.parameters(command)
            if rows:
                section += self._table(rows)
            result.append(section)
        return result

    @staticmethod
    def _table(rows: list[tuple[str, str, str]]) -> nodes.table:
        group = nodes.tgroup("", *(nodes.colspec(colwidth=w) for w in (30, 15, 55)), cols=3)
        head = nodes.row("", *(nodes.entry("", nodes.paragraph("", word))
                               for word in ("option", "default", "what it does")))  # fmt: skip
        body = nodes.tbody()
        for name, default, text in rows:
            cells = [[nodes.literal("", name)], [nodes.literal("", default)] if default else [],
                     api.inline(text)]  # fmt: skip
            body += nodes.row("", *(nodes.entry("", nodes.paragraph("", "", *c)) for c in cells))
        group += [nodes.thead("", head), body]
        return nodes.table("", group, classes=["api-options"])


def register(app: Sphinx) -> None:
    """Make the directives known."""
    for name, directive in (
        ("chapter-map", ChapterMap), ("run-times", RunTimes), ("chapter-goals", ChapterGoals),
        ("library", Library), ("commands", Commands),
    ):  # fmt: skip
        app.add_directive(name, directive)
