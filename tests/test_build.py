"""The book's build: what changed is executed, what fails is not published, pairs stay true."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
CHAPTER = """# %% [markdown]
# # A chapter

# %% tags=["parameters"]
NUMBER = 1  # apples
NAME = "a"

# %%
print(NUMBER * 10, NAME)
"""


def load_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build", ROOT / "book" / "build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def build(tmp_path: Path) -> Iterator[ModuleType]:
    """Return the build with a root of its own that holds one chapter and two profiles."""
    module = load_build()
    module.ROOT = tmp_path
    module.NOTEBOOKS = tmp_path / "notebooks"
    module.EXECUTED = tmp_path / "book" / "executed"
    module.BUILD = tmp_path / "_build"
    (module.NOTEBOOKS / "profiles").mkdir(parents=True)
    (tmp_path / "deepgps_core").mkdir()
    (module.NOTEBOOKS / "01_one.py").write_text(CHAPTER)
    profiles = module.NOTEBOOKS / "profiles"
    (profiles / "demo.yaml").write_text("UNRELATED: 3\n")
    (profiles / "other.yaml").write_text('NUMBER: 4\n"01": {NAME: b}\n')
    yield module


def executed(build: ModuleType) -> nbformat.NotebookNode:
    return nbformat.read(build.EXECUTED / "01_one.ipynb", as_version=4)


@pytest.mark.slow
def test_profile_values_are_used_and_shown_once(build: ModuleType) -> None:
    """A reader sees one parameters cell, with the values that were used and its comments."""
    build.run("other", "")
    notebook = executed(build)
    assert len(notebook.cells) == 3
    assert notebook.cells[1].source == "NUMBER = 4  # apples\nNAME = 'b'"
    assert notebook.cells[2].outputs[0].text == "40 b\n"
    assert notebook.metadata["papermill"]["parameters"] == {"NUMBER": 4, "NAME": "b"}


@pytest.mark.slow
def test_only_what_changed_is_executed(
    build: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second run executes nothing; a changed source, parameter or library executes again."""
    build.run("demo", "")
    capsys.readouterr()
    build.run("demo", "")
    assert "up to date" in capsys.readouterr().out
    before = executed(build).metadata["deepgps"]["key"]
    for change in ("source", "library", "profile"):
        if change == "source":
            (build.NOTEBOOKS / "01_one.py").write_text(CHAPTER + "print('more')\n")
        elif change == "library":
            (build.ROOT / "deepgps_core" / "new.py").write_text("")
        profile = build.read_profile("other" if change == "profile" else "demo")
        key = build.execution_key(build.NOTEBOOKS / "01_one.py", profile)
        assert key != before, change
        before = key


@pytest.mark.slow
def test_a_failure_is_named_and_not_published(build: ModuleType) -> None:
    """The message has notebook, cell, error and command; nothing half-executed is left."""
    (build.NOTEBOOKS / "01_one.py").write_text(CHAPTER + "\n# %%\nassert 1 == 2, 'no'\n")
    with pytest.raises(SystemExit) as stop:
        build.run("demo", "")
    message = str(stop.value)
    for word in ("01_one.py", "cell 4", "AssertionError: no", "make book ONLY=01_one"):
        assert word in message
    assert not list(build.EXECUTED.glob("*"))


@pytest.mark.slow
def test_pairs_are_recorded_and_become_stale(build: ModuleType) -> None:
    """A recorded pair is fresh until its source changes; a missing pair is stale."""
    assert "missing" in next(iter(build.stale_pairs()))
    build.run("demo", "")
    build.record("")
    assert not list(build.stale_pairs())
    build.check()
    (build.NOTEBOOKS / "01_one.py").write_text(CHAPTER.replace("* 10", "* 11"))
    assert "01_one.ipynb" in next(iter(build.stale_pairs()))
    with pytest.raises(SystemExit, match="01_one"):
        build.stage(build.BUILD / "edition")


def test_wrong_names_are_answered_with_the_right_ones(build: ModuleType) -> None:
    """An unknown profile or notebook stops with the list of those there are."""
    with pytest.raises(SystemExit, match="demo, other"):
        build.read_profile("laptop")
    with pytest.raises(SystemExit, match="01_one"):
        build.sources("07")


def test_code_behind_figures_and_solutions_is_folded(build: ModuleType) -> None:
    """Figures, prose and solutions fold; parameters, checks and plain code stay open."""
    cells = [
        nbformat.v4.new_code_cell(source, metadata={"tags": tags})
        for source, tags in (
            ("NUMBER = 1", ["parameters"]),
            ("fig = draw()\nshow(\n    fig,\n)", []),
            ("tell('yes')", ["solution"]),
            ("assert show('x')", ["check"]),
            ("shown = [1]\nprint(shown)", []),
        )
    ]
    build.fold(nbformat.v4.new_notebook(cells=cells))
    assert [cell.metadata.get("tags", []) for cell in cells] == [
        ["parameters"], ["hide-input"], ["hide-cell", "solution"], ["check"], [],
    ]  # fmt: skip


def test_a_book_without_solutions_holds_none(build: ModuleType) -> None:
    """Laid out for students, no chapter has a solution; laid out as it is, each keeps its own."""
    pair = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("# 01 · One"),
            nbformat.v4.new_code_cell("tell('answer')", metadata={"tags": ["solution"]}),
        ],
        metadata={
            "deepgps": {"source_sha256": build.sha256_of_text(build.NOTEBOOKS / "01_one.py")}
        },
    )
    nbformat.write(pair, build.NOTEBOOKS / "01_one.ipynb")
    extension = build.ROOT / "book" / "_ext" / "mine"
    extension.mkdir(parents=True)
    (extension / "__init__.py").write_text("")
    (build.ROOT / "_config.yml").write_text("")
    (build.ROOT / "_toc.yml").write_text("")
    for solutions in (True, False):
        folder = build.BUILD / "laid-out"
        build.stage(folder, solutions=solutions)
        text = (folder / "book" / "executed" / "01_one.ipynb").read_text()
        assert ("answer" in text) == solutions
        assert (folder / "book" / "_ext" / "mine" / "__init__.py").exists()
    assert "answer" in (build.NOTEBOOKS / "01_one.ipynb").read_text()


def test_the_last_executions_can_be_laid_out(build: ModuleType) -> None:
    """Without committed pairs, a book of one's own executions still has its pages."""
    build.EXECUTED.mkdir(parents=True)
    cells = [nbformat.v4.new_markdown_cell("# 01 · Mine")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), build.EXECUTED / "01_one.ipynb")
    build.stage(build.BUILD / "laid-out", executed=True, solutions=False)
    staged = build.BUILD / "laid-out" / "book" / "executed" / "01_one.ipynb"
    assert "Mine" in staged.read_text()
