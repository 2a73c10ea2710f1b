"""The book holds together: every chapter is in the contents, has its anatomy and a true pair."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import jupytext
import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "notebooks").glob("[0-9AB]*_*.py"))
PAIRS = [path.with_suffix(".ipynb") for path in SOURCES]


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def test_contents_and_notebooks_agree() -> None:
    """Each notebook is listed once in _toc.yml, in order, and each listed page exists."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    listed = [Path(entry["file"]) for part in toc["parts"] for entry in part["chapters"]]
    assert sorted(p.name for p in listed if p.parent.name == "executed") == [
        path.stem for path in SOURCES
    ]
    pages = [toc["root"], *(str(p) for p in listed if p.parent.name != "executed")]
    for page in pages:
        assert (ROOT / f"{page}.md").exists(), page


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_anatomy(path: Path) -> None:
    """Title, goals, parameters, checks, recap, exercises with a hidden solution, and who ran it."""
    notebook = jupytext.read(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    assert notebook.cells[0].source.startswith("# ")
    assert len([c for c in code if "parameters" in tags(c)]) == 1
    assert any("check" in tags(c) for c in code)
    assert any("solution" in tags(c) for c in notebook.cells)
    for heading in ("You will", "Recap", "Exercises"):
        assert heading in prose, heading
    assert "execution_record(" in code[-1].source


@pytest.mark.parametrize(
    "profile", sorted((ROOT / "notebooks/profiles").glob("*.yaml")), ids=lambda p: p.stem
)
def test_profiles_set_parameters_that_exist(profile: Path) -> None:
    """Each section of a profile names one notebook, and only names of its parameters cell."""
    for key, section in yaml.safe_load(profile.read_text()).items():
        if not isinstance(section, dict):
            assert any(re.search(rf"^{key} = ", path.read_text(), re.MULTILINE) for path in SOURCES)
            continue
        (path,) = [path for path in SOURCES if path.stem.split("_")[0] == key]
        (cell,) = [cell for cell in jupytext.read(path).cells if "parameters" in tags(cell)]
        for name in section:
            assert re.search(rf"^{name} = ", cell.source, re.MULTILINE), f"{key}: {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_figures_only_through_show(path: Path) -> None:
    """No cell shows a figure by itself: each goes through `show`, with caption and alt text."""
    text = path.read_text()
    assert "plt.show(" not in text
    for call in re.findall(r"^\s*show\((.*?)^\)", text, re.MULTILINE | re.DOTALL):
        assert "caption=" in call and "alt=" in call


@pytest.mark.parametrize("path", PAIRS, ids=lambda p: p.stem)
def test_pair_is_executed_and_clean(path: Path) -> None:
    """A committed pair ran to its end, without error, log or a path of the machine it ran on."""
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata["deepgps"]["profile"]
    assert notebook.metadata["papermill"]["duration"] > 0
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        assert cell.execution_count, cell.source[:80]
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr"
            text = str(output.get("text", output.get("data", "")))
            assert not re.search(r"/(?:root|home|tmp|Users|work)/", text), text[:200]


def test_pairs_are_small() -> None:
    """0.6 MB each and 8 MB together at most: who clones the book takes all of them along."""
    sizes = {path.name: path.stat().st_size for path in PAIRS}
    assert max(sizes.values()) <= 600_000, sizes
    assert sum(sizes.values()) <= 8_000_000


def test_pairs_belong_to_their_sources() -> None:
    """Each pair records the hash of the source it was executed from; none is stale."""
    spec = importlib.util.spec_from_file_location("build", ROOT / "book" / "build.py")
    assert spec and spec.loader
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    assert list(build.stale_pairs()) == []
    for source, pair in zip(SOURCES, PAIRS, strict=True):
        wanted = [c.source for c in jupytext.read(source).cells if "parameters" not in tags(c)]
        found = [c.source for c in nbformat.read(pair, 4).cells if "parameters" not in tags(c)]
        assert wanted == found
