"""A notebook begun with the command has a chapter's anatomy, is listed, runs, and is kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import jupytext
import nbformat
import pytest
import yaml
from typer.testing import CliRunner

from deepgps_core.cli import app
from deepgps_core.dataset import InputError
from deepgps_core.new_analysis import new_analysis, title_of
from tests import test_notebooks

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a checkout with contents, profiles and the build, and no chapter yet."""
    (tmp_path / "notebooks").mkdir()
    shutil.copytree(ROOT / "notebooks" / "profiles", tmp_path / "notebooks" / "profiles")
    (tmp_path / "book").mkdir()
    shutil.copy(ROOT / "book" / "build.py", tmp_path / "book")
    shutil.copy(ROOT / "_toc.yml", tmp_path)
    (tmp_path / "deepgps_core").mkdir()
    return tmp_path


def test_anatomy_is_that_of_a_chapter(checkout: Path) -> None:
    """What is asked of every chapter of the book holds for the new notebook as it is written."""
    path = new_analysis("are_long_ones_harder", checkout, execute=False)
    assert path.name == "B1_are_long_ones_harder.py"
    test_notebooks.test_anatomy(path)
    test_notebooks.test_figures_only_through_show(path)
    assert jupytext.read(path).cells[0].source.startswith("# B1 · Are long ones harder?")


def test_contents_grow_by_one_and_keep_their_lines(checkout: Path) -> None:
    """Each notebook is listed once, in a part of its own; no line of the contents is lost."""
    before = (checkout / "_toc.yml").read_text()
    for name in ("first_one", "second_one"):
        new_analysis(name, checkout, execute=False)
    after = (checkout / "_toc.yml").read_text()
    assert after.startswith(before.rstrip("\n"))
    part = yaml.safe_load(after)["parts"][-1]
    assert part["caption"] == "My analyses"
    assert [entry["file"] for entry in part["chapters"]] == [
        "book/executed/B1_first_one", "book/executed/B2_second_one",
    ]  # fmt: skip


def test_a_part_in_the_middle_is_continued(checkout: Path) -> None:
    """Where the part is not the last one, the entry still goes to its end."""
    new_analysis("first_one", checkout, execute=False)
    toc = checkout / "_toc.yml"
    toc.write_text(toc.read_text() + "  - caption: Last\n    chapters:\n      - file: book/cite\n")
    new_analysis("second_one", checkout, execute=False)
    parts = yaml.safe_load(toc.read_text())["parts"]
    assert [len(part["chapters"]) for part in parts[-2:]] == [2, 1]


def test_what_cannot_be_used_is_refused_in_one_line(checkout: Path, tmp_path: Path) -> None:
    """Wrong names, taken names and places that are no checkout leave everything as it was."""
    before = sorted(checkout.rglob("*"))
    for name in ("Big Words", "../escape", "a", ""):
        with pytest.raises(InputError, match="not a name"):
            new_analysis(name, checkout, execute=False)
    with pytest.raises(InputError, match="no checkout"):
        new_analysis("good_name", tmp_path / "elsewhere", execute=False)
    assert sorted(checkout.rglob("*")) == before
    new_analysis("good_name", checkout, execute=False)
    with pytest.raises(InputError, match="exists already"):
        new_analysis("good_name", checkout, execute=False)


@pytest.mark.slow
def test_it_is_green_from_the_start(checkout: Path) -> None:
    """The command executes the notebook and keeps a pair that passes the book's own tests."""
    arguments = ["new-analysis", "are_long_ones_harder", "--root", str(checkout)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "make book ONLY=B1_are_long_ones_harder" in result.output
    pair = checkout / "notebooks" / "B1_are_long_ones_harder.ipynb"
    test_notebooks.test_pair_is_executed_and_clean(pair)
    outputs = str(nbformat.read(pair, as_version=4).cells)
    assert "<figure" in outputs and "What the paper says" in outputs


def test_titles_read_as_questions() -> None:
    """Underscores become spaces, and the first letter is large."""
    assert title_of("are_long_ones_harder") == "Are long ones harder"
