"""The book's build: what changed is executed, what fails is not published, pairs stay true."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from jupyter_client.provisioning.local_provisioner import LocalPortCache

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
def test_kernels_listen_on_no_port(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """No port is chosen, so none can be taken; the kernel is spoken to by files, which then go."""

    def find(cache: LocalPortCache, ip: str) -> int:
        raise AssertionError("a port was asked for")

    monkeypatch.setattr(LocalPortCache, "find_available_port", find)
    tells = "from ipykernel.kernelapp import IPKernelApp\nprint(IPKernelApp.instance().ip)"
    (build.NOTEBOOKS / "01_one.py").write_text(f"{CHAPTER}\n# %%\n{tells}\n")
    build.run("demo", "")
    sockets = Path(executed(build).cells[-1].outputs[0].text.strip())
    assert sockets.is_absolute() and not sockets.parent.exists()
    assert "eavesdropping" not in capfd.readouterr().err


def test_a_chapter_of_measured_speeds_follows_what_is_kept(build: ModuleType) -> None:
    """A new result of a benchmark executes the chapter that reads them again, and no other."""
    reads = build.NOTEBOOKS / "02_speed.py"
    reads.write_text(CHAPTER + "from benchmarks.table import shown\n")
    (build.ROOT / "benchmarks").mkdir()
    profile = build.read_profile("demo")
    paths = (reads, build.NOTEBOOKS / "01_one.py")
    before = [build.execution_key(path, profile) for path in paths]
    (build.ROOT / "benchmarks" / "new.json").write_text("{}")
    after = [build.execution_key(path, profile) for path in paths]
    assert after[0] != before[0] and after[1] == before[1]


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


def test_a_chapter_waits_for_those_it_reuses(build: ModuleType) -> None:
    """Whatever runs, each chapter begins once, after all it reuses have ended; none is stuck."""
    stems = [path.stem for path in load_build().sources()]
    numbers = {stem.split("_")[0]: stem for stem in stems}
    assert {n for entry in build.REUSES.items() for n in (entry[0], *entry[1])} <= set(numbers)
    for jobs in (1, 2, 30):
        waiting, running, ended = list(stems), list[str](), list[str]()
        while waiting or running:
            while len(running) < jobs and (stem := build.next_ready(waiting, running)):
                needed = {numbers[n] for n in build.REUSES.get(stem.split("_")[0], ())}
                assert needed <= set(ended)
                waiting.remove(stem)
                running.append(stem)
            assert running
            ended.append(running.pop())  # the last that began ends first
        assert sorted(ended) == stems
    assert build.next_ready([numbers["16"]], []) == numbers["16"]
    hasty = load_build().in_haste(stems, "demo")
    assert sorted(hasty) == stems
    assert hasty.index(numbers["06"]) < hasty.index(numbers["19"]) < hasty.index(numbers["01"])


def test_the_longest_chapter_is_known_by_profile(build: ModuleType) -> None:
    """What was measured under the profile counts; under another one, what pairs say."""
    kept = build.ROOT / "benchmarks" / "results"
    kept.mkdir(parents=True)
    (kept / "edition_demo_here.json").write_text('{"by_chapter_s": {"14": 9, "17": 900.5}}')
    for stem, seconds in (("14_a", 300), ("17_b", 20)):
        pair = nbformat.v4.new_notebook(metadata={"deepgps": {"seconds": seconds}})
        nbformat.write(pair, build.NOTEBOOKS / f"{stem}.ipynb")
    assert build.in_haste(["14_a", "17_b"], "demo") == ["17_b", "14_a"]
    assert build.in_haste(["14_a", "17_b"], "gpu") == ["14_a", "17_b"]
    nbformat.write(nbformat.v4.new_notebook(), build.NOTEBOOKS / "14_a.ipynb")  # saved by hand
    assert build.in_haste(["14_a", "17_b"], "gpu") == ["17_b", "14_a"]


@pytest.mark.slow
def test_side_by_side_the_order_holds_and_a_failure_stops_the_rest(tmp_path: Path) -> None:
    """Real processes: 06 reads what 02 writes late; once it fails, 13 does not begin."""
    notebooks = tmp_path / "notebooks"
    (notebooks / "profiles").mkdir(parents=True)
    (notebooks / "profiles" / "demo.yaml").write_text("")
    (tmp_path / "deepgps_core").mkdir()
    (tmp_path / "book").mkdir()
    shutil.copy(ROOT / "book" / "build.py", tmp_path / "book")
    wait = "import time, pathlib\ntime.sleep(2)\npathlib.Path('of_02').write_text('here')"
    read = "import pathlib\nprint(pathlib.Path('of_02').read_text())"
    cells = {"01_a": "print('one')", "02_b": wait, "06_c": read, "13_d": "print('thirteen')"}

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        for stem, cell in cells.items():
            (notebooks / f"{stem}.py").write_text(f"{CHAPTER}\n# %%\n{cell}\n")
        command = [sys.executable, "book/build.py", "run", "--jobs", "3", *options]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    first, executed = run(), tmp_path / "book" / "executed"
    assert first.returncode == 0, first.stderr
    assert {path.stem for path in executed.glob("*.ipynb")} == set(cells)
    # whoever reads the seconds of a chapter must know that two others shared the cores
    assert nbformat.read(executed / "06_c.ipynb", as_version=4).metadata["deepgps"]["at_once"] == 3
    cells["06_c"], cells["13_d"] = "assert 1 == 2, 'no'", "print('again')"
    second = run()
    assert second.returncode == 1
    assert "06_c.py stopped in cell" in second.stderr
    assert "stopped: 06_c; not begun: 13_d" in second.stderr
    assert second.stdout.count("up to date") == 2
    # 13 reuses 06, 08 does not
    cells["08_e"] = "print('eight')"
    third = run("--keep-going")
    assert "stopped: 06_c; not begun: 13_d" in third.stderr and (executed / "08_e.ipynb").exists()


def test_chapters_share_out_the_gpus(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """What may be seen is what is used, as the driver's variable says; none is none."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert build.visible_gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert build.visible_gpus() == []


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


@pytest.mark.slow
def test_a_chapter_alone_is_shown_among_recorded_ones(build: ModuleType) -> None:
    """After ONLY=..., others are shown as recorded; that is no execution, nor a new recording."""
    (build.NOTEBOOKS / "02_two.py").write_text(CHAPTER)
    build.run("demo", "")
    build.record("")
    recorded = (build.NOTEBOOKS / "02_two.ipynb").read_bytes()
    shutil.rmtree(build.EXECUTED)
    build.run("demo", "01")
    build.fill()
    assert {path.stem for path in build.EXECUTED.glob("*.ipynb")} == {"01_one", "02_two"}
    key = build.execution_key(build.NOTEBOOKS / "02_two.py", build.read_profile("demo"))
    assert build.executed_key(build.EXECUTED / "02_two.ipynb") != key
    build.record("")
    assert (build.NOTEBOOKS / "02_two.ipynb").read_bytes() == recorded


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
