"""
Begin a notebook of one's own: the anatomy of a chapter, in place and green.

``deepgps new-analysis NAME`` writes a source in the book's percent format with title, goals,
parameters, inputs, one question, one figure, one claim with its check, the box of comparison,
recap, exercises and solution; lists it in the contents; and executes it into its pair. What it
holds is a small real analysis (does length tell a label?), to be replaced piece by piece.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml

from deepgps_core.dataset import InputError, atomic_path

CAPTION = "My analyses"
_HEADER = """# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

"""
_BODY = """# %% [markdown]
# # {number} · {title}?
#
# Two sentences: what is asked, and why anybody should care about the answer. Until you change
# it, this notebook asks whether the length of a protein tells where it is.
#
# *Seconds on one core, half a gigabyte of memory, no network.*
#
# **You will**
#
# - read the proteins and their labels;
# - compare a measurement between two classes, with an interval;
# - say what would refute the claim.

# %% tags=["parameters"]
PROFILE = "demo"
SEED = 0
N_EACH = 200  # proteins of each label, at most
N_RESAMPLES = 2000  # of the bootstrap

# %%
import numpy as np
import pandas as pd

from deepgps_core.plotting import (
    LABEL_COLORS,
    execution_record,
    plt,
    show,
    tell,
    use_book_style,
)
from deepgps_core.sources.embedded import embedded_proteins
from deepgps_core.statistics import bootstrap_interval

use_book_style()

# %% [markdown]
# ## Inputs
#
# One row a protein. Replace this by your own table, or by `Dataset("data/mine").proteins`.

# %%
LABELS = ("Cytoplasm", "Nucleus")
everything = embedded_proteins()
rows = [
    part.sample(min(N_EACH, len(part)), random_state=SEED)
    for label in LABELS
    for part in [everything[everything["label"] == label]]
]
proteins = pd.concat(rows, ignore_index=True)
tell(
    "| file | source | licence | rows |\\n|---|---|---|---|\\n"
    f"| proteins.csv.gz | SCL2205, from UniProt | MIT, CC BY 4.0 | {{len(proteins):,}} used |"
)

# %% [markdown]
# ## The question, in words
#
# Say here what is measured, on what, and which answer you expect. *Guess before you look.*

# %%
proteins["log2_length"] = np.log2(proteins["sequence"].str.len())
by_label = {{label: part["log2_length"] for label, part in proteins.groupby("label")}}
intervals = {{
    label: bootstrap_interval(values.to_numpy(), n_resamples=N_RESAMPLES, seed=SEED)
    for label, values in by_label.items()
}}

# %%
fig, ax = plt.subplots(figsize=(6, 2.6))
for row, label in enumerate(LABELS):
    values = by_label[label]
    jitter = np.random.default_rng(SEED).uniform(-0.2, 0.2, len(values))
    ax.plot(values, row + jitter, "o", markersize=2, alpha=0.5, color=LABEL_COLORS[label])
    ax.plot(intervals[label].estimate, row, "k|", markersize=28)
ax.set_yticks(range(len(LABELS)), LABELS)
ax.set_xlabel("residues (log2)")
show(
    fig,
    caption=f"Length of {{len(proteins)}} real proteins, one dot a protein; bars are means. "
    "No images are involved.",
    alt="Two rows of dots, one a label, that overlap almost wholly; a bar marks each mean.",
)

# %% [markdown]
# ## The claim
#
# State it in one sentence, and let a cell fail when it no longer holds. Here: lengths differ less
# than twofold on average, so length alone cannot place a protein.

# %% tags=["check"]
difference = abs(intervals["Cytoplasm"].estimate - intervals["Nucleus"].estimate)
assert difference < 1, f"mean lengths differ {{2**difference:.1f}}-fold"

# %% [markdown]
# ## What others say, what we see

# %%
tell(
    "```{{admonition}} What the paper says / What we see\\n"
    "The value you compare with, and where it is printed; here: "
    + "; ".join(
        f"{{label.lower()}} {{2**i.estimate:.0f}} residues ({{2**i.low:.0f}} to {{2**i.high:.0f}})"
        for label, i in intervals.items()
    )
    + f", n = {{len(proteins)}} proteins. Do they agree or differ, and why?\\n```"
)

# %% [markdown]
# ## Recap
#
# - One answer for each thing promised above.
#
# ### Exercises
#
# 1. *Read.* What would have to be true for length to be a useful predictor?
# 2. *Change.* Set `N_EACH` to 20. What happens to the intervals?
# 3. *Build.* Add a second measurement, and compare the two on the same proteins.

# %% tags=["solution"]
overlap = np.mean(by_label["Cytoplasm"].to_numpy()[:, None] > by_label["Nucleus"].to_numpy())
tell(
    "**1.** One label would have to be longer than the other almost always; here a cytoplasmic "
    f"protein is the longer one of a pair in {{100 * overlap:.0f}} % of pairs.\\n\\n"
    "**2.** They widen about threefold: by the square root of ten."
)

# %%
execution_record(PROFILE, SEED)
"""


def title_of(name: str) -> str:
    """Return the heading for a name: ``are_long_ones_harder`` -> "Are long ones harder"."""
    return name.replace("_", " ").capitalize()


def _next_number(notebooks: Path) -> str:
    """Return the next of B1, B2, ...: chapters of one's own stand behind the appendices."""
    taken = [
        int(match[1]) for path in notebooks.glob("B*_*.py")
        if (match := re.match(r"B(\d+)_", path.name))
    ]  # fmt: skip
    return f"B{max(taken, default=0) + 1}"


def _with_entry(contents: str, entry: str) -> str:
    """Return the text of ``_toc.yml`` with one more chapter; the rest stays as it is written."""
    line = f"      - file: {entry}\n"
    heading = f"  - caption: {CAPTION}\n    chapters:\n"
    if heading in contents:
        start = contents.index(heading) + len(heading)
        listed = re.match(r"(?: {6}.*\n)*", contents[start:])
        end = start + (listed.end() if listed else 0)
        return contents[:end] + line + contents[end:]
    return contents.rstrip("\n") + "\n" + heading + line


def new_analysis(name: str, root: Path | str = ".", *, execute: bool = True) -> Path:
    """
    Write a notebook with the anatomy in place, list it, execute it, and keep its pair.

    Parameters
    ----------
    name : str
        Lower-case words with underscores; they become the title.
    root : Path or str
        The checkout: the folder with ``notebooks/`` and ``_toc.yml``.
    execute : bool
        Run it and write the executed pair, so that the book's tests pass at once.

    Returns
    -------
    path : Path
        The source, ``notebooks/B<n>_<name>.py``.

    Raises
    ------
    InputError
        If the name cannot be used, is taken, or `root` is not a checkout of the book.
    """
    root = Path(root)
    notebooks, toc = root / "notebooks", root / "_toc.yml"
    if not re.fullmatch(r"[a-z][a-z0-9_]{2,60}", name):
        raise InputError(
            f"{name!r}: not a name for a notebook; use lower-case letters, digits and _."
        )
    if not notebooks.is_dir() or not toc.exists():
        raise InputError(f"{root.resolve()}: no checkout of the book; run it where _toc.yml is.")
    taken = sorted(path.name for path in notebooks.glob(f"*_{name}.py"))
    if taken:
        raise InputError(f"{notebooks / taken[0]}: exists already; choose another name.")
    number = _next_number(notebooks)
    stem = f"{number}_{name}"
    path = notebooks / f"{stem}.py"
    text = _HEADER + _BODY.format(number=number, title=title_of(name))
    contents = _with_entry(toc.read_text(encoding="utf-8"), f"book/executed/{stem}")
    yaml.safe_load(contents)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    with atomic_path(toc) as temporary:
        temporary.write_text(contents, encoding="utf-8")
    if execute:
        for step in ("run", "record"):
            command = [sys.executable, str(root / "book" / "build.py"), step, "--only", stem]
            if subprocess.run(command, check=False).returncode != 0:
                raise InputError(
                    f"{path}: written, but it did not run through; run `make book ONLY={stem}`."
                )
    return path


def new_analysis_command(
    name: Annotated[str, typer.Argument(help="Lower-case words with _: are_long_ones_harder.")],
    root: Annotated[Path, typer.Option(help="The checkout of the book.")] = Path("."),
    execute: Annotated[bool, typer.Option(help="Run it, and keep the executed pair.")] = True,
) -> None:
    """Begin a notebook with a chapter's anatomy: it runs, is listed, and is yours to change."""
    path = new_analysis(name, root, execute=execute)
    typer.echo(f"{path}: change it, then `make book ONLY={path.stem}`")
