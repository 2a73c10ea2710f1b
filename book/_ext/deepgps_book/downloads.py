"""
Notebooks to take home: with the solutions, as exercises, and ready for a hosted notebook service.

All three are made from the executed chapters, so that they cannot fall behind them.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

from .chapters import source, tags

#: Runs first on a hosted service, where nothing is installed; at home it does nothing.
SET_UP = """# Installs the book's library where it is missing, as on Colab; minutes, once.
import importlib.util, os
if importlib.util.find_spec("deepgps_core") is None:
    !git clone -q --depth 1 {url} deepgps
    %cd deepgps
    !pip install -q -e '.[segment,fetch]'
    import sys; sys.path.insert(0, os.getcwd())
"""


def _cell(kind: str, text: str, name: str) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "id": name, "metadata": {}, "source": text}
    return cell | ({"outputs": [], "execution_count": None} if kind == "code" else {})


def plain(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return the notebook with markdown that notebook programs show too: no MyST roles."""
    result = copy.deepcopy(notebook)
    for cell in result["cells"]:
        if cell["cell_type"] == "markdown":
            text = re.sub(r"\{cite\}`([^`]*)`", r"[\1]", source(cell))
            cell["source"] = re.sub(r"\{(?:doc|term)\}`([^`<]*?)(?:\s*<[^`>]*>)?`", r"\1", text)
    return result


def without_solutions(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return the notebook as a student gets it: no outputs, and a cell for each answer."""
    result = plain(notebook)
    for index, cell in enumerate(result["cells"]):
        if "solution" in tags(cell):
            result["cells"][index] = _cell("code", "# Your answer\n", f"answer-{index:03d}")
        elif cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    return result


def with_set_up(notebook: dict[str, Any], url: str) -> dict[str, Any]:
    """Return the notebook with a first cell that installs the library from `url`."""
    result = plain(notebook)
    result["cells"].insert(0, _cell("code", SET_UP.format(url=url), "set-up"))
    return result


def write_downloads(executed: Path, folder: Path, repository: str = "") -> list[Path]:
    """
    Write the notebooks of `executed` into `folder`; return what was written.

    ``NN_name.ipynb`` is the chapter as shown, ``NN_name-exercises.ipynb`` has neither outputs
    nor solutions; with a `repository`, ``launch/NN_name.ipynb`` begins with a set-up cell.
    """
    written = []
    for path in sorted(executed.glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        forms = {
            path.name: plain(notebook),
            f"{path.stem}-exercises.ipynb": without_solutions(notebook),
        }
        if repository:
            forms[f"launch/{path.name}"] = with_set_up(without_solutions(notebook), repository)
        for name, content in forms.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(
                json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )
            written.append(target)
    return written
