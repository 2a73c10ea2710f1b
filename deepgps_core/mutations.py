"""
Mutations of a protein, written as biologists write them, and what a model makes of them.

``R12A`` replaces residue 12 (counted from 1), ``del5-20`` removes residues, ``ins0:PKKKRKV``
inserts after residue 0 (in front of everything), ``graft:PKKKRKV`` appends at the end. Several
joined by ``+`` are made at once, all counted in the wild type. What the wild type has is
checked: a wrong letter is the commonest sign of a wrong isoform.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from deepgps_core.dataset import AMINO_ACIDS, InputError, check_sequence

#: A mutation is called a change if the probability moves by at least this, and all members agree
#: on the direction.
CHANGE_THRESHOLD = 0.1
_SUBSTITUTION = re.compile(r"(?:p\.)?([A-Z])(\d+)([A-Z])")
_DELETION = re.compile(r"del(\d+)(?:-(\d+))?")
_INSERTION = re.compile(r"ins(\d+):([A-Z]+)")
_GRAFT = re.compile(r"graft:([A-Z]+)")
_HELP = "write R12A, del5-20, ins0:PKKKRKV or graft:PKKKRKV, joined by + to make several at once"


@dataclass(frozen=True)
class Edit:
    """
    Residues ``start`` (0-based) up to ``stop`` of the wild type, replaced by ``letters``.

    Parameters
    ----------
    start, stop : int
    letters : str
        Empty: a deletion.
    wild_type : str
        What must stand there, if the notation says so.
    """

    start: int
    stop: int
    letters: str
    wild_type: str = ""


class Labels(Protocol):
    """What is asked of a model here: `deepgps_core.predictor.Predictor` has it."""

    labels: tuple[str, ...]

    def probabilities(self, sequences: Mapping[str, str]) -> np.ndarray:
        """Return (members, N, K)."""
        ...


def _parse_edit(text: str, n_residues: int, protein_id: str) -> Edit:
    """Read one edit and check that its positions are there."""
    if found := _SUBSTITUTION.fullmatch(text):
        position = int(found[2])
        edit = Edit(position - 1, position, found[3], found[1])
    elif found := _DELETION.fullmatch(text):
        first = int(found[1])
        edit = Edit(first - 1, int(found[2] or first), "")
    elif found := _INSERTION.fullmatch(text):
        edit = Edit(int(found[1]), int(found[1]), found[2])
    elif found := _GRAFT.fullmatch(text):
        edit = Edit(n_residues, n_residues, found[1])
    else:
        raise InputError(f"mutation {text[:40]!r} is unknown; {_HELP}.")
    if not 0 <= edit.start <= edit.stop <= n_residues:
        raise InputError(
            f"mutation {text[:40]!r}: protein {protein_id!r} has residues 1 to {n_residues}; "
            "correct the position."
        )
    unknown = sorted(set(edit.letters) - set(AMINO_ACIDS))
    if unknown:
        raise InputError(f"mutation {text[:40]!r}: {unknown[0]} is no amino acid; correct it.")
    return edit


def parse_mutation(text: str, sequence: str, protein_id: str = "protein") -> list[Edit]:
    """
    Read a mutation, and check it against the wild type.

    Parameters
    ----------
    text : str
        Such as ``R12A``, ``p.R12A``, ``del5-20``, ``ins0:PKKKRKV``, ``graft:PKKKRKV`` or
        ``R12A+K14A``.
    sequence : str
        The wild type.

    Returns
    -------
    edits : list of Edit
        From the end to the beginning, so that they can be made one after the other.

    Raises
    ------
    InputError
        If the notation is unknown, a position is not there, the wild type has another residue,
        or two edits overlap.

    Examples
    --------
    >>> parse_mutation("K3A", "MSKR")
    [Edit(start=2, stop=3, letters='A', wild_type='K')]
    """
    edits = [_parse_edit(part.strip(), len(sequence), protein_id) for part in text.split("+")]
    for edit in edits:
        there = sequence[edit.start : edit.stop]
        if edit.wild_type and there != edit.wild_type:
            raise InputError(
                f"mutation {text[:40]!r}: residue {edit.stop} of protein {protein_id!r} is "
                f"{there}, not {edit.wild_type}; check the numbering and the isoform."
            )
    edits.sort(key=lambda edit: (edit.start, edit.stop), reverse=True)
    for later, earlier in zip(edits, edits[1:], strict=False):
        if earlier.stop > later.start:
            raise InputError(f"mutation {text[:40]!r}: two edits overlap; write them as one.")
    return edits


def mutate(sequence: str, text: str, protein_id: str = "protein") -> str:
    """
    Return the mutant's sequence.

    Raises
    ------
    InputError
        As `parse_mutation`; also if nothing is left.

    Examples
    --------
    >>> mutate("MSKRT", "K3A+del5"), mutate("MSKRT", "ins0:PK"), mutate("MSKRT", "graft:KV")
    ('MSAR', 'PKMSKRT', 'MSKRTKV')
    """
    mutant = sequence
    for edit in parse_mutation(text, sequence, protein_id):
        mutant = mutant[: edit.start] + edit.letters + mutant[edit.stop :]
    if not mutant:
        raise InputError(f"mutation {text[:40]!r}: nothing of protein {protein_id!r} is left.")
    return check_sequence(f"{protein_id} {text}", mutant)


def split_mutations(text: str) -> list[str]:
    """
    Split what ``--mutate`` was given at its commas.

    Raises
    ------
    InputError
        If nothing is there.
    """
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise InputError(f"no mutation given; {_HELP}.")
    return found


def compare_mutants(
    model: Labels, protein_id: str, sequence: str, mutations: Sequence[str]
) -> pd.DataFrame:
    """
    Predict the wild type and its mutants, and what each mutation changes.

    Parameters
    ----------
    model : Labels
        Such as a `deepgps_core.predictor.Predictor`.
    mutations : sequence of str
        As `parse_mutation` reads them.

    Returns
    -------
    table : DataFrame
        One row a mutation: protein_id, mutation, n_residues, wild_type_label, mutant_label,
        label (the one whose probability moved most), p_wild_type, p_mutant, change,
        change_low, change_high (least and most change among the ensemble's members), called
        ("changed" if the change is at least `CHANGE_THRESHOLD` and all members agree on its
        direction, else "no change called").
    """
    wild = check_sequence(protein_id, sequence)
    mutants = {text: mutate(wild, text, protein_id) for text in mutations}
    members = model.probabilities({"wild type": wild} | mutants)  # (members, 1 + N, K)
    mean = members.mean(axis=0)
    rows = []
    for number, (text, mutant) in enumerate(mutants.items(), start=1):
        moved = np.abs(mean[number] - mean[0])
        k = int(mean[0].argmax())  # the wild type's label, unless another moved more
        k = k if moved[k] > moved.max() - 1e-9 else int(moved.argmax())
        change = members[:, number, k] - members[:, 0, k]
        agreed = abs(np.sign(change).sum()) == len(change)
        called = agreed and abs(change.mean()) >= CHANGE_THRESHOLD
        rows.append(
            (protein_id, text, len(mutant), model.labels[mean[0].argmax()],
             model.labels[mean[number].argmax()], model.labels[k], mean[0, k], mean[number, k],
             change.mean(), change.min(), change.max(),
             "changed" if called else "no change called")
        )  # fmt: skip
    columns = ["protein_id", "mutation", "n_residues", "wild_type_label", "mutant_label", "label",
               "p_wild_type", "p_mutant", "change", "change_low", "change_high",
               "called"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)
