"""
The library's reference, read from its source: signatures and docstrings, nothing imported.

Modules are grouped by the floor on which they stand (``FLOORS`` in ``tests/test_project.py``).
Reading instead of importing keeps a book build light, and one bad docstring a small matter.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from docutils import nodes
from numpydoc.docscrape import NumpyDocString

_SPEC = importlib.util.find_spec("deepgps_core")
assert _SPEC and _SPEC.origin
PACKAGE = Path(_SPEC.origin).parent
#: ``code`` and `name` alike: what docstrings set apart is code here.
INLINE = re.compile(r"``(.+?)``|`(.+?)`|\*\*(.+?)\*\*|\*(\S.*?)\*", re.DOTALL)
SECTIONS = ("Parameters", "Returns", "Yields", "Raises")


@dataclass(frozen=True)
class Entry:
    """A public function or class: its name, its line, its signature and its docstring."""

    name: str
    kind: str
    line: int
    signature: str
    doc: str
    methods: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class Module:
    """A module: dotted name, its file in the repository, its docstring, what it offers."""

    name: str
    path: str
    doc: str
    entries: tuple[Entry, ...]


def floors(package: Path = PACKAGE) -> list[set[str]]:
    """Return the floors of the library, lowest first; what stands on none comes last."""
    modules = {p.stem for p in package.glob("*.py") if p.stem not in ("__init__", "__main__")}
    modules |= {p.parent.name for p in package.glob("*/__init__.py")}
    test = package.parent / "tests" / "test_project.py"
    found: list[set[str]] = []
    if test.exists():
        for node in ast.parse(test.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FLOORS":
                found = list(eval(compile(ast.Expression(node.value), test.name, "eval"), {}))
    rest = modules - set().union(*found)
    return found + ([rest] if rest else [])


def _signature(node: ast.FunctionDef, *, method: bool = False) -> str:
    """Return ``name(arguments) -> type`` without the annotations, which the table has."""
    arguments = ast.parse(ast.unparse(node)).body[0].args  # type: ignore[attr-defined]
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    for argument in [*every, arguments.vararg, arguments.kwarg]:
        if argument is not None:
            argument.annotation = None
    if method and arguments.args and arguments.args[0].arg in ("self", "cls"):
        arguments.args.pop(0)
    return f"{node.name}({ast.unparse(arguments)})"


def _entry(node: ast.AST, *, method: bool = False) -> Entry | None:
    if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
        return Entry(node.name, "function", node.lineno, _signature(node, method=method),
                     ast.get_docstring(node) or "")  # fmt: skip
    if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
        fields = [
            ast.unparse(item.target) + (f"={ast.unparse(item.value)}" if item.value else "")
            for item in node.body
            if isinstance(item, ast.AnnAssign) and "dataclass" in ast.unparse(node.decorator_list)
        ] if node.decorator_list else []  # fmt: skip
        starts = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        signature = _signature(starts[0], method=True).removeprefix("__init__") if starts else ""
        methods = tuple(
            found for item in node.body
            if isinstance(item, ast.FunctionDef) and (found := _entry(item, method=True))
            and found.doc
        )  # fmt: skip
        return Entry(node.name, "class", node.lineno,
                     node.name + (signature or (f"({', '.join(fields)})" if fields else "")),
                     ast.get_docstring(node) or "", methods)  # fmt: skip
    return None


def read_module(path: Path, package: Path = PACKAGE) -> Module:
    """Read what a module offers: its public functions and classes that have a docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = path.relative_to(package.parent)
    dotted = ".".join(inside.with_suffix("").parts)
    entries = tuple(found for node in tree.body if (found := _entry(node)) and found.doc)
    return Module(dotted, inside.as_posix(), ast.get_docstring(tree) or "", entries)


def modules_between(first: str, last: str, package: Path = PACKAGE) -> Iterator[Module]:
    """Yield the modules from the floor of `first` to that of `last`, or to the top."""
    levels = floors(package)
    start = next(i for i, floor in enumerate(levels) if first in floor)
    end = next((i for i, floor in enumerate(levels) if last and last in floor), len(levels) - 1)
    for floor in levels[start : end + 1]:
        for name in sorted(floor):
            paths = [package / f"{name}.py"] if (package / f"{name}.py").exists() else sorted(
                p for p in (package / name).glob("*.py") if not p.name.startswith("_"))  # fmt: skip
            for path in paths:
                module = read_module(path, package)
                if module.entries:
                    yield module


def inline(text: str) -> list[nodes.Node]:
    """Return a line of docstring as nodes: code, strong, emphasis, words."""
    found: list[nodes.Node] = []
    start = 0
    for match in INLINE.finditer(text):
        found.append(nodes.Text(text[start : match.start()]))
        code, name, strong, emphasis = match.groups()
        if code or name:
            found.append(nodes.literal("", code or name))
        else:
            found.append((nodes.strong if strong else nodes.emphasis)("", strong or emphasis))
        start = match.end()
    return [*found, nodes.Text(text[start:])]


def prose(lines: Iterable[str]) -> list[nodes.Node]:
    """Return docstring lines as paragraphs, lists and examples."""
    blocks = re.split(r"\n\s*\n", "\n".join(lines).strip("\n"))
    result: list[nodes.Node] = []
    for block in filter(str.strip, blocks):
        text = block.strip()
        if text.startswith(">>>"):
            literal = nodes.literal_block(block, re.sub(r"^ +", "", block, flags=re.MULTILINE)
                                          if block.startswith(" ") else block)  # fmt: skip
            literal["language"] = "python"
            result.append(literal)
        elif block.startswith("    "):
            result.append(nodes.literal_block(block, block, language="text"))
        elif text.startswith("- "):
            items = nodes.bullet_list()
            for item in re.split(r"^\s*- ", text, flags=re.MULTILINE)[1:]:
                paragraph = nodes.paragraph("", "", *inline(" ".join(item.split())))
                items += nodes.list_item("", paragraph)
            result.append(items)
        else:
            words = " ".join(text.split()).removesuffix("::").rstrip()
            result.append(nodes.paragraph("", "", *inline(words)))
    return result


def _fields(section: str, parsed: NumpyDocString) -> list[nodes.Node]:
    """Return one of the sections with names, types and descriptions."""
    rows = parsed[section]
    if not rows:
        return []
    listed = nodes.definition_list(classes=["api-fields"])
    for row in rows:
        name, kind = (row.name, row.type) if row.name else ("", row.type)
        term = nodes.term()
        if name:
            term += nodes.literal("", name)
        if kind:
            term += nodes.inline("", f" {kind}" if name else kind, classes=["api-type"])
        body = nodes.definition("", *(prose(row.desc) or [nodes.paragraph()]))
        listed += nodes.definition_list_item("", term, body)
    return [nodes.rubric("", section), listed]


def documented(doc: str) -> list[nodes.Node]:
    """Return a numpydoc docstring as nodes; one that cannot be parsed stays as it is written."""
    try:
        parsed = NumpyDocString(doc)
    except ValueError:
        return [nodes.literal_block(doc, doc, language="text")]
    result = prose(parsed["Summary"]) + prose(parsed["Extended Summary"])
    for section in SECTIONS:
        result += _fields(section, parsed)
    for section in ("Notes", "Examples"):
        if parsed[section]:
            result += [nodes.rubric("", section), *prose(parsed[section])]
    return result
