"""
Execute the notebooks and stage the book: what the Makefile's targets call.

The source of a chapter is ``notebooks/NN_name.py``. ``run`` executes each into
``book/executed/`` and never writes ``notebooks/``; ``record`` keeps those executions as the
committed pairs ``notebooks/NN_name.ipynb``, the edition of record; ``fill`` shows pairs where a
chapter was not executed; ``stage`` lays out a book made of the pairs alone; ``check`` says whether
every pair still belongs to its source.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
import yaml
from joblib import cpu_count
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
EXECUTED = ROOT / "book" / "executed"
BUILD = ROOT / "_build"
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
#: Cells whose code is not what a reader came for: figures, computed prose, imports.
FOLDED = re.compile(r"^(show|tell|execution_record|use_book_style)\(", re.MULTILINE)
#: Chapters whose data or trained networks another one reuses; side by side, it waits for them.
REUSES = {
    "04": ("03",), "05": ("02",), "06": ("02",), "07": ("02",), "08": ("02", "05"), "09": ("02",),
    "10": ("09",), "11": ("02",), "12": ("03", "06"), "13": ("06",), "15": ("03", "06"),
    "16": ("06", "08", "10"), "19": ("02",),
}  # fmt: skip
#: Quiet libraries, so that a page holds results and not logs; progress shows cell by cell.
QUIET = {"TQDM_DISABLE": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
#: How many chapters run side by side: told to their processes, which keep it with the seconds.
AT_ONCE = "DEEPGPS_CHAPTERS_AT_ONCE"
BAR = "{n_fmt} of {total_fmt} chapters |{bar}| {elapsed}{postfix}"


def sources(only: str = "") -> list[Path]:
    """Return the chapters' sources in order; `only` keeps those whose name starts with it."""
    found = sorted(NOTEBOOKS.glob("[0-9AB]*_*.py"))
    chosen = [path for path in found if path.stem.startswith(only)]
    if not chosen:
        sys.exit(f"no notebook's name starts with {only!r}; there are: "
                 + ", ".join(path.stem for path in found))  # fmt: skip
    return chosen


def sha256_of_text(path: Path) -> str:
    """Return the SHA-256 of a text file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def folder_hash(name: str) -> str:
    """Return one hash of all files in a folder of the repository, data included."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / name).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(ROOT)} {sha256_of_text(path)}\n".encode())
    return digest.hexdigest()


def read_profile(profile: str) -> dict[str, Any]:
    """Return the parameters of ``notebooks/profiles/<profile>.yaml``."""
    path = NOTEBOOKS / "profiles" / f"{profile}.yaml"
    if not path.exists():
        names = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        sys.exit(f"no profile {profile!r}; there are: {names}")
    return {"PROFILE": profile} | (yaml.safe_load(path.read_text(encoding="utf-8")) or {})


def notebook_parameters(path: Path, profile: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a profile that the notebook's parameters cell asks for."""
    cell = parameters_cell(jupytext.read(path))
    if cell is None:
        sys.exit(f"{path.name}: no cell tagged 'parameters'; add one")
    asked = re.findall(r"^([A-Z][A-Z0-9_]*)\s*(?::[^=]+)?=", cell.source, re.MULTILINE)
    specific = profile.get(path.stem.split("_")[0]) or {}
    return {name: value for name, value in (profile | specific).items() if name in asked}


def parameters_cell(notebook: NotebookNode) -> NotebookNode | None:
    """Return the cell tagged ``parameters``."""
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            return cell
    return None


def execution_key(path: Path, profile: dict[str, Any]) -> str:
    """Identify what an execution depends on: source, parameters and library."""
    parameters = json.dumps(notebook_parameters(path, profile), sort_keys=True)
    # the library counts for all; measured speeds for the chapter that shows them
    used = ["deepgps_core", *["benchmarks"] * ("benchmarks." in path.read_text(encoding="utf-8"))]
    text = "\n".join([sha256_of_text(path), parameters, *map(folder_hash, used)])
    return hashlib.sha256(text.encode()).hexdigest()


def executed_key(path: Path) -> str:
    """Return the key recorded in an executed notebook, or nothing."""
    if not path.exists():
        return ""
    return nbformat.read(path, as_version=4).metadata.get("deepgps", {}).get("key", "")


def show_used_values(notebook: NotebookNode, parameters: dict[str, Any]) -> None:
    """Write the used values into the parameters cell and drop papermill's second cell."""
    cell = parameters_cell(notebook)
    assert cell is not None
    for name, value in parameters.items():
        pattern = rf"^({name}\s*(?::[^=]+)?=\s*)[^#\n]*?(\s*(?:#.*)?)$"
        cell.source = re.sub(
            pattern, lambda m, v=value: m[1] + repr(v) + m[2], cell.source, flags=re.MULTILINE
        )
    notebook.cells = [
        cell
        for cell in notebook.cells
        if "injected-parameters" not in cell.metadata.get("tags", [])
    ]


def tidy(notebook: NotebookNode) -> list[str]:
    """Take logs out of the outputs and times out of the cells; return the log's lines."""
    log: list[str] = []
    for index, cell in enumerate(notebook.cells):
        # stable ids: executing again changes a line only where a result changed
        cell["id"] = f"cell-{index:03d}"
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            is_log = [o.get("name") == "stderr" for o in cell.outputs]
            log += [o.text for o, noise in zip(cell.outputs, is_log, strict=True) if noise]
            cell.outputs = [o for o, noise in zip(cell.outputs, is_log, strict=True) if not noise]
    return log


def fold(notebook: NotebookNode) -> None:
    """Fold solutions, and the code behind figures, prose and imports: one click opens them."""
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "solution" in tags:
            cell.metadata["tags"] = sorted({*tags, "hide-cell"})
            cell.metadata["mystnb"] = {
                f"code_prompt_{verb.lower()}": f"{verb} the solution" for verb in ("Show", "Hide")
            }
        elif cell.cell_type == "code" and FOLDED.search(cell.source) and not tags:
            cell.metadata["tags"] = ["hide-input"]


def fail(path: Path, error: PapermillExecutionError, partial: Path) -> None:
    """Keep the failed execution out of the book, and say what to do."""
    failed = BUILD / "failed" / f"{path.stem}.ipynb"
    failed.parent.mkdir(parents=True, exist_ok=True)
    partial.replace(failed)
    sys.exit(
        f"\n{path.name} stopped in cell {error.cell_index + 1}:\n\n{error.source}\n\n"
        f"{error.ename}: {error.evalue}\n\n"
        f"As far as it went: {failed.relative_to(ROOT)}\n"
        f"To run it again, alone: make book ONLY={path.stem}"
    )


def run_kernel(prepared: Path, partial: Path, parameters: dict[str, Any]) -> None:
    """
    Execute a notebook file, in a kernel that is spoken to through files of this user alone.

    Kernels listen on ports otherwise, which other users of the machine reach, and which are chosen
    before they are bound: chapters that begin in the same instant can be given the same one.
    """
    with tempfile.TemporaryDirectory() as folder:  # a socket's path must be short
        kernel = {"transport": "ipc", "ip": f"{folder}/kernel"}
        papermill.execute_notebook(
            str(prepared), str(partial), parameters=parameters, kernel_name="python3",
            cwd=str(ROOT), progress_bar=sys.stderr.isatty(), config=Config(KernelManager=kernel),
        )  # fmt: skip


def execute(path: Path, profile: dict[str, Any]) -> float:
    """Execute one notebook into ``book/executed``; return the seconds it took."""
    parameters = notebook_parameters(path, profile)
    key = execution_key(path, profile)
    partial = BUILD / "partial" / f"{path.stem}.ipynb"
    partial.parent.mkdir(parents=True, exist_ok=True)
    prepared = partial.with_suffix(".source.ipynb")
    notebook = jupytext.read(path)
    notebook.metadata["kernelspec"] = KERNEL
    nbformat.write(notebook, prepared)
    start = time.monotonic()
    try:
        run_kernel(prepared, partial, parameters)
    except PapermillExecutionError as error:
        fail(path, error, partial)
    seconds = time.monotonic() - start
    notebook = nbformat.read(partial, as_version=4)
    show_used_values(notebook, parameters)
    log = tidy(notebook)
    fold(notebook)
    (partial.with_suffix(".log")).write_text("".join(log), encoding="utf-8")
    notebook.metadata["deepgps"] = {
        "key": key,
        "profile": profile["PROFILE"],
        "source_sha256": sha256_of_text(path),
        "seconds": round(seconds),
        "at_once": int(os.environ.get(AT_ONCE, 1)),
    }
    # papermill's own record keeps parameters and duration, without this machine's folders
    record = notebook.metadata.get("papermill", {})
    notebook.metadata["papermill"] = {
        "parameters": parameters, "duration": record.get("duration"),
        "version": record.get("version"),
    }  # fmt: skip
    EXECUTED.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, partial)
    partial.replace(EXECUTED / f"{path.stem}.ipynb")
    return seconds


def run(profile_name: str, only: str) -> None:
    """Execute every chapter whose source, parameters or library changed."""
    profile = read_profile(profile_name)
    os.environ.update(QUIET)
    for stale in EXECUTED.glob("*.ipynb"):
        if not (NOTEBOOKS / f"{stale.stem}.py").exists():
            stale.unlink()
    chosen = sources(only)
    total = 0.0
    for number, path in enumerate(chosen, start=1):
        name = f"[{number}/{len(chosen)}] {path.stem}"
        if executed_key(EXECUTED / f"{path.stem}.ipynb") == execution_key(path, profile):
            print(f"{name}: up to date", flush=True)
            continue
        print(f"{name}: executing", flush=True)
        seconds = execute(path, profile)
        total += seconds
        print(f"{name}: {seconds:.0f} s", flush=True)
    print(f"all notebooks executed in {total:.0f} s", flush=True)


def next_ready(waiting: Iterable[str], running: Collection[str]) -> str | None:
    """Return the first of the waiting chapters (stems) that reuses none that is yet to be run."""
    waiting = list(waiting)
    unfinished = {stem.split("_")[0] for stem in (*waiting, *running)}
    for stem in waiting:
        if unfinished.isdisjoint(REUSES.get(stem.split("_")[0], ())):
            return stem
    return None


def known_seconds(profile: str) -> dict[str, float]:
    """Return how long chapters took, by number: measured under this profile, else as recorded."""
    known: dict[str, float] = {}
    for pair in NOTEBOOKS.glob("*.ipynb"):  # one that was saved by hand has no record
        about = nbformat.read(pair, as_version=4).metadata.get("deepgps", {})
        known[pair.stem.split("_")[0]] = about.get("seconds", 0.0)
    for measured in sorted((ROOT / "benchmarks" / "results").glob(f"edition_{profile}_*.json")):
        known |= json.loads(measured.read_text(encoding="utf-8"))["by_chapter_s"]
    return known


def in_haste(stems: Iterable[str], profile: str) -> list[str]:
    """Put first the chapters that others wait for, then those that take longest."""
    reused = {number for needed in REUSES.values() for number in needed}
    known = known_seconds(profile)

    def rank(stem: str) -> tuple[bool, float]:
        number = stem.split("_")[0]
        return number not in reused, -known.get(number, 0.0)

    return sorted(stems, key=rank)


def visible_gpus() -> list[str]:
    """Return the numbers of the GPUs that may be used; none where NVIDIA's driver is missing."""
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is not None:
        return [number for number in asked.split(",") if number]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    return re.findall(r"^GPU (\d+):", listed, re.MULTILINE)


def begin(stem: str, profile_name: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start the execution of one chapter as a process of its own."""
    command = [sys.executable, __file__, "run", "--profile", profile_name, "--only", stem]
    # one bar shows all chapters; their own would write over each other
    environment = os.environ | QUIET | environment
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def say(line: str) -> None:
    """Print a line above the bar, at once."""
    tqdm.write(line)
    sys.stdout.flush()


def run_side_by_side(profile_name: str, only: str, jobs: int, keep_going: bool = False) -> None:
    """
    Do what `run` does, several chapters at once: each a process with its share of the cores.

    Where there are several GPUs, a chapter gets the one with the fewest chapters on it. A failure
    lets none begin any more; with `keep_going`, only none that reuses what failed.
    """
    profile = read_profile(profile_name)
    stems = [path.stem for path in sources(only)]
    waiting, failed = in_haste(stems, profile_name), list[str]()
    running: dict[str, subprocess.Popen[bytes]] = {}
    environment = {"OMP_NUM_THREADS": str(max(1, cpu_count() // jobs)), AT_ONCE: str(jobs)}
    gpus, gpu_of = visible_gpus(), dict[str, str]()
    start = time.monotonic()
    bar = tqdm(total=len(stems), unit="chapter", disable=None, bar_format=BAR)

    def next_one() -> str | None:
        if len(running) == jobs or (failed and not keep_going):
            return None
        return next_ready(waiting, [*running, *failed])

    try:
        while (stem := next_one()) or running:
            if stem:
                waiting.remove(stem)
                name = f"[{len(stems) - len(waiting)}/{len(stems)}] {stem}"
                key = execution_key(NOTEBOOKS / f"{stem}.py", profile)
                if executed_key(EXECUTED / f"{stem}.ipynb") == key:
                    say(f"{name}: up to date")
                    bar.update()
                    continue
                say(f"{name}: executing")
                if gpus:
                    gpu_of[stem] = min(gpus, key=[gpu_of[other] for other in running].count)
                    environment["CUDA_VISIBLE_DEVICES"] = gpu_of[stem]
                running[stem] = begin(stem, profile_name, environment)
                continue
            numbers = ", ".join(sorted(stem.split("_")[0] for stem in running))
            bar.set_postfix_str(f"executing {numbers}")
            time.sleep(0.5)
            for ended in [stem for stem, process in running.items() if process.poll() is not None]:
                if running.pop(ended).returncode:  # the process has said why
                    failed.append(ended)
                else:
                    executed = nbformat.read(EXECUTED / f"{ended}.ipynb", as_version=4)
                    say(f"{ended}: {executed.metadata['deepgps']['seconds']} s")
                    bar.update()
    finally:
        bar.close()
        for process in running.values():
            process.terminate()
    if failed:
        sys.exit(f"stopped: {', '.join(failed)}; not begun: {', '.join(waiting) or 'none'}")
    print(f"all notebooks executed in {time.monotonic() - start:.0f} s", flush=True)


def record(only: str) -> None:
    """Keep the executions in ``book/executed`` as the committed pairs."""
    for path in sources(only):
        executed = EXECUTED / f"{path.stem}.ipynb"
        if not executed.exists():
            sys.exit(f"{executed.relative_to(ROOT)} not found; run `make book` first")
        notebook = nbformat.read(executed, as_version=4)
        if not notebook.metadata["deepgps"]["key"]:
            continue  # the pair itself (`fill`)
        if notebook.metadata["deepgps"]["source_sha256"] != sha256_of_text(path):
            sys.exit(f"{executed.relative_to(ROOT)} is older than its source; run `make book`")
        nbformat.write(notebook, NOTEBOOKS / f"{path.stem}.ipynb")


def fill() -> None:
    """Show the recorded pair of every chapter that was not executed here, as it is."""
    for path in sources():
        executed, pair = EXECUTED / f"{path.stem}.ipynb", path.with_suffix(".ipynb")
        if executed.exists() or not pair.exists():
            continue
        notebook = nbformat.read(pair, as_version=4)
        notebook.metadata["deepgps"]["key"] = ""  # no execution of this machine: it counts for none
        EXECUTED.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, executed)
        print(f"{path.stem}: not executed here, shown as recorded", flush=True)


def stale_pairs() -> Iterable[str]:
    """Yield one line for each committed pair that does not belong to its source."""
    for path in sources():
        pair = path.with_suffix(".ipynb")
        if not pair.exists():
            yield f"{pair.name}: missing; run `make book`, then `make record`"
            continue
        recorded = nbformat.read(pair, as_version=4).metadata.get("deepgps", {})
        if recorded.get("source_sha256") != sha256_of_text(path):
            yield f"{pair.name}: its source {path.name} changed since; run `make book record`"


def check() -> None:
    """Stop with a list of the pairs that are stale."""
    problems = list(stale_pairs())
    if problems:
        sys.exit("\n".join(problems))


def drop_solutions(path: Path) -> None:
    """Take the cells tagged ``solution`` out of a notebook file, for pages given to students."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [c for c in notebook.cells if "solution" not in c.metadata.get("tags", [])]
    nbformat.write(notebook, path)


def stage(folder: Path, *, executed: bool = False, solutions: bool = True) -> None:
    """
    Lay out a book in a folder of its own.

    Its chapters are the committed pairs, or, if `executed`, what `run` left in ``book/executed``.
    """
    if not executed:
        check()
    shutil.rmtree(folder, ignore_errors=True)
    ignored = shutil.ignore_patterns("executed", "_build", "__pycache__", "*.py")
    shutil.copytree(ROOT / "book", folder / "book", ignore=ignored)
    # the book's own directives are Python too
    extension = ROOT / "book" / "_ext"
    if extension.exists():
        unused = shutil.ignore_patterns("__pycache__")
        shutil.copytree(extension, folder / "book" / "_ext", ignore=unused, dirs_exist_ok=True)
    measured = Path("benchmarks") / "results"
    if (ROOT / measured).exists():
        shutil.copytree(ROOT / measured, folder / measured)
    (folder / "book" / "executed").mkdir()
    for name in ("_config.yml", "_toc.yml", "CITATION.cff", "CHANGELOG.md", "CONTRIBUTING.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder)
    for path in sources():
        target = folder / "book" / "executed" / f"{path.stem}.ipynb"
        shutil.copy(EXECUTED / target.name if executed else path.with_suffix(".ipynb"), target)
        if not solutions:
            drop_solutions(target)


def main() -> None:
    """Parse the command line and do one step."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    steps = parser.add_subparsers(dest="step", required=True)
    for name, text in (
        ("run", "execute the notebooks that changed"),
        ("fill", "show the committed pairs of chapters that were not executed"),
        ("record", "keep the executions as committed pairs"),
        ("check", "say which committed pairs are stale"),
        ("stage", "lay out the book of the committed pairs"),
    ):
        step = steps.add_parser(name, help=text)
        if name == "run":
            step.add_argument("--profile", default="demo", help="a name in notebooks/profiles")
            step.add_argument("--jobs", type=int, default=1, help="chapters at once")
            step.add_argument(
                "--keep-going", action="store_true", help="after a failure, with what can still run"
            )
        if name in ("run", "record"):
            step.add_argument("--only", default="", help="start of a notebook's name")
        if name == "stage":
            step.add_argument("--executed", action="store_true", help="the last executions")
            step.add_argument("--no-solutions", action="store_true", help="leave solutions out")
    arguments = parser.parse_args()
    # a chapter by itself gets all cores, and shows its cells as they are done
    if arguments.step == "run" and arguments.jobs > 1 and len(sources(arguments.only)) > 1:
        run_side_by_side(arguments.profile, arguments.only, arguments.jobs, arguments.keep_going)
    elif arguments.step == "run":
        run(arguments.profile, arguments.only)
    elif arguments.step == "fill":
        fill()
    elif arguments.step == "record":
        record(arguments.only)
    elif arguments.step == "check":
        check()
    else:
        folder = BUILD / ("no-solutions" if arguments.no_solutions else "edition")
        stage(folder, executed=arguments.executed, solutions=not arguments.no_solutions)


if __name__ == "__main__":
    main()
