"""What the book computes about itself: chapters, reference, downloads, slides, links, formats."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import typer
import yaml

from deepgps_core.cli import app
from deepgps_core.dataset import SPLIT_PARTS, Dataset, sha256_of
from deepgps_core.runs import Run, read_config
from tests.tiny import make_tiny

ROOT = Path(__file__).resolve().parent.parent
PAIR = ROOT / "notebooks" / "06_single2_and_the_cross_assay.ipynb"


def load(name: str, path: Path) -> ModuleType:
    search = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=search)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


EXTENSION = load("deepgps_book", ROOT / "book" / "_ext" / "deepgps_book" / "__init__.py")
from deepgps_book import api, chapters, commands, downloads, slides  # noqa: E402

LINKS = load("check_links", ROOT / "book" / "check_links.py")


def notebook(*cells: tuple[str, str, list[str]]) -> dict[str, Any]:
    """Return a notebook of (kind, source, tags)."""
    made = []
    for kind, text, tags in cells:
        cell: dict[str, Any] = {"cell_type": kind, "source": text, "metadata": {"tags": tags}}
        made.append(cell | ({"outputs": [{"output_type": "stream", "text": "7"}],
                             "execution_count": 1} if kind == "code" else {}))  # fmt: skip
    return {"cells": made, "metadata": {"deepgps": {"seconds": 75, "profile": "demo"}},
            "nbformat": 4, "nbformat_minor": 5}  # fmt: skip


SMALL = notebook(
    ("markdown", "# 09 · A claim\n\nWhy {cite}`deepgps`.\n\n**You will**\n\n- see one;\n- do two\n  things.", []),  # noqa: E501
    ("code", "a = 1\n\nb = 2", []),
    ("markdown", "## A question?\n\nSome words.", []),
    ("code", "show(fig)", ["hide-input"]),
    ("code", "tell('the answer')", ["solution"]),
)  # fmt: skip


def write(folder: Path, content: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "09_a_claim.ipynb"
    path.write_text(json.dumps(content))
    return path


def test_a_chapter_is_read_from_its_notebook(tmp_path: Path) -> None:
    """Number, title, goals, seconds as recorded; folded code and solutions are not read."""
    chapter = chapters.read_chapter(write(tmp_path, SMALL), "I")
    assert (chapter.number, chapter.title, chapter.part) == ("09", "A claim", "I")
    assert chapter.goals == ("see one", "do two things")
    assert (chapter.seconds, chapter.profile, chapter.code_lines) == (75, "demo", 2)
    assert chapter.at_once == 1, "a record without it is of a chapter that ran alone"
    assert chapter.reading_minutes == 5


def test_every_chapter_has_goals_and_a_time() -> None:
    """No committed chapter is without a title, three goals, prose and a run time."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        chapter = chapters.read_chapter(path)
        assert chapter.title and len(chapter.goals) >= 3, path.name
        assert chapter.words > 300 and chapter.seconds > 0, path.name


@pytest.mark.parametrize(
    ("seconds", "said"), [(6, "6 s"), (59.4, "59 s"), (75, "1 min"), (3599, "1 h 00 min")]
)
def test_durations_read_well(seconds: float, said: str) -> None:
    """Seconds below a minute, then minutes, then hours."""
    assert chapters.duration(seconds) == said


def test_every_public_module_is_in_the_reference() -> None:
    """The five pages together hold each module once, and each documented public function."""
    asked = []
    for page in sorted((ROOT / "book").glob("reference_*.md")):
        asked += re.findall(r"^```\{library\} (\S+)(?: (\S+))?$", page.read_text(), re.MULTILINE)
    found = [m for first, last in asked for m in api.modules_between(first, last)]
    names = [module.path for module in found]
    assert len(names) == len(set(names)), "a module is on two pages"
    listed = {(m.path, entry.name) for m in found for entry in m.entries}
    for path in sorted((ROOT / "deepgps_core").rglob("*.py")):
        if path.name.startswith("_"):
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                if ast.get_docstring(node):
                    where = path.relative_to(ROOT).as_posix()
                    assert (where, node.name) in listed, f"{where}: {node.name}"


def test_reference_shows_signature_fields_and_examples() -> None:
    """A known function: its arguments, its sections, its doctest as code."""
    (module,) = [m for m in api.modules_between("metrics", "metrics") if m.name.endswith("metrics")]
    (entry,) = [e for e in module.entries if e.name == "psnr"]
    assert entry.signature == "psnr(predicted, target, data_range)"
    text = "\n".join(node.astext() for node in api.documented(entry.doc))
    assert "predicted, target" in text and "Decibels" in text and "ValueError" in text


def test_broken_docstring_is_shown_as_it_stands() -> None:
    """A docstring that numpydoc refuses does not stop the book."""
    doc = "Do.\n\nReturns\n-------\nint\n\nReturns\n-------\nstr\n"
    assert "Returns" in api.documented(doc)[0].astext()


def test_commands_are_all_there_with_their_options() -> None:
    """Each command once, called as `--help` says, with the help of each option."""
    listed = dict(commands.walk(typer.main.get_command(app), "deepgps"))
    assert {"deepgps train", "deepgps predict", "deepgps new-analysis"} <= set(listed)
    assert commands.usage("deepgps train", listed["deepgps train"]) == (
        "deepgps train DATASET [OPTIONS]"
    )
    rows = {name.split(",")[0].split()[0]: text
            for name, _, text in commands.parameters(listed["deepgps train"])}  # fmt: skip
    assert rows["--epochs"] == "By default 50, as published."
    for name, command in listed.items():
        assert command.help, name


def test_downloads_with_and_without_solutions(tmp_path: Path) -> None:
    """Students get neither outputs nor solutions, only a place for each answer."""
    written = downloads.write_downloads(write(tmp_path, SMALL).parent, tmp_path / "out")
    assert sorted(p.name for p in written) == ["09_a_claim-exercises.ipynb", "09_a_claim.ipynb"]
    full, student = (json.loads((tmp_path / "out" / n).read_text())
                     for n in ("09_a_claim.ipynb", "09_a_claim-exercises.ipynb"))  # fmt: skip
    assert "the answer" in json.dumps(full)
    assert "the answer" not in json.dumps(student) and "# Your answer" in json.dumps(student)
    assert all(not cell.get("outputs") for cell in student["cells"])
    assert "{cite}" not in json.dumps(full)


def test_hosted_notebooks_begin_with_a_set_up_cell(tmp_path: Path) -> None:
    """Only where a repository is configured; the cell names it."""
    address = "https://github.com/owner/book"
    folder = write(tmp_path, SMALL).parent
    downloads.write_downloads(folder, tmp_path / "out", address)
    launched = json.loads((tmp_path / "out" / "launch" / "09_a_claim.ipynb").read_text())
    assert address in launched["cells"][0]["source"]


def test_launch_buttons_need_an_address() -> None:
    """None without a repository on GitHub; with one, Colab and Binder, naming the chapter."""
    assert EXTENSION.launch_buttons("", "06_x") == []
    assert EXTENSION.launch_buttons("https://example.org/owner/book", "06_x") == []
    buttons = EXTENSION.launch_buttons("https://github.com/owner/book", "06_x")
    assert [b["text"] for b in buttons] == ["Colab", "Binder"]
    assert all("owner/book" in b["url"] and "06_x.ipynb" in b["url"] for b in buttons)


def test_slides_hold_every_figure_and_no_solution(tmp_path: Path) -> None:
    """A slide for each figure of the chapter, one for its box, none of what is hidden."""
    content = json.loads(PAIR.read_text())
    made = slides.slides_of(content, "06", ("one",))
    figures = PAIR.read_text().count("<figure class=")
    assert sum("<figure" in slide for slide in made) == figures > 5
    assert sum("What the paper says" in slide for slide in made) >= 1
    solution = next(c for c in content["cells"] if "solution" in c["metadata"].get("tags", []))
    answer = "".join(
        "".join(o.get("data", {}).get("text/markdown", "")) for o in solution["outputs"]
    )
    assert answer and not any(answer[4:60] in slide for slide in made)
    (path,) = slides.write_slides(write(tmp_path, SMALL).parent, tmp_path / "slides", "../_static")
    assert "http" not in re.sub(r'(href|src)="\.\./', "", path.read_text())


def test_broken_links_are_found(tmp_path: Path) -> None:
    """A missing page, picture or anchor is named; links that hold are not."""
    (tmp_path / "index.html").write_text(
        '<a href="b.html#here">1</a><a href="b.html#gone">2</a><img src="no.png">'
        '<a href="https://example.org">3</a><a href="#top" id="top">4</a><a href="../x.html">5</a>'
    )
    (tmp_path / "b.html").write_text('<p id="here">x</p><a href="index.html">i</a>')
    problems = LINKS.broken_links(tmp_path)
    assert len(problems) == 3
    assert all(any(word in line for line in problems) for word in ("#gone", "no.png", "../x.html"))


def test_empty_header_cells_become_plain_cells() -> None:
    """A table header that says nothing is no header; one that says something stays."""
    shaped = EXTENSION.EMPTY_HEADER.sub(
        "<td></td>", '<th></th><th class="a"><p></p></th><th>x</th>'
    )
    assert shaped == "<td></td><td></td><th>x</th>"


def examples() -> dict[str, str]:
    """Return the example files of the page on formats."""
    page = (ROOT / "book" / "formats.md").read_text()
    return dict(re.findall(r"^```\w+\n# example: (\S+)\n(.*?)^```", page, re.MULTILINE | re.DOTALL))


def test_the_dataset_format_is_what_the_library_reads(tmp_path: Path) -> None:
    """A folder written by hand from the page's examples opens, with every table named there."""
    for name in ("dataset.yaml", "proteins.csv", "splits/random-0.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(examples()[name])
    tifffile.imwrite(tmp_path / "a.tif", np.ones((2, 300, 300), np.uint16))
    field = {
        "field_id": "f",
        "protein_id": "A1",
        "path": "a.tif",
        "sha256": sha256_of(tmp_path / "a.tif"),
    }
    pd.DataFrame([field]).to_csv(tmp_path / "fields.csv", index=False)
    dataset = Dataset(tmp_path)
    assert list(dataset.proteins["label"]) == ["Cytoplasm", ""]
    assert dataset.split("random-0").to_dict() == {"A1": "train", "A2": "test"}
    assert dataset.read_field("f").shape == (2, 300, 300)


def test_the_pages_columns_are_the_librarys() -> None:
    """Every column of every table, and every part of a split, is on the page on formats."""
    from deepgps_core import dataset

    page = (ROOT / "book" / "formats.md").read_text()
    for columns in (dataset.PROTEIN_COLUMNS, dataset.FIELD_COLUMNS, dataset.NUCLEUS_COLUMNS,
                    dataset.CROP_COLUMNS, SPLIT_PARTS):  # fmt: skip
        for column in columns:
            assert f"`{column}`" in page, column
    for field in dataset.DatasetInfo.__dataclass_fields__:
        assert field in yaml.safe_load(examples()["dataset.yaml"]), field


def test_the_run_format_is_what_the_library_reads(tmp_path: Path) -> None:
    """The page's config.yaml opens as a run, and a new run has the files and columns it lists."""
    from deepgps_core.model import DeepGPSConfig
    from deepgps_core.training import TrainingConfig, fit

    (tmp_path / "config.yaml").write_text(examples()["config.yaml"])
    run = read_config(tmp_path / "config.yaml")
    assert isinstance(run, Run) and run.labels == ("Cytoplasm", "Nucleus")
    model = DeepGPSConfig(sequence_dim=6, hidden_dim=8, width=2, depth=1, crop_size_px=48)
    dataset = make_tiny(tmp_path / "tiny")
    made = fit(
        dataset, "random-0", model, TrainingConfig(encoder="drawn", epochs=1), tmp_path / "r"
    )
    page = (ROOT / "book" / "formats.md").read_text()
    files = {path.name for path in made.path.iterdir()}
    for name in ("config.yaml", "model.safetensors", "history.csv", "proteins.csv", "crops.csv"):
        assert name in files and f"`{name}`" in page
    for column in [*made.crops.columns, "label", "predicted_label", "n_crops"]:
        assert f"`{column}`" in page, column
