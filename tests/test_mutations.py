"""Mutations are read as written, checked against the wild type, and compared with it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepgps_core.dataset import AMINO_ACIDS, InputError
from deepgps_core.mutations import compare_mutants, mutate, parse_mutation, split_mutations

WILD = "MSKRTAYQPLKKKRKVED"
letters = st.sampled_from(list(AMINO_ACIDS))


@pytest.mark.parametrize(
    ("text", "mutant"),
    [
        ("K3A", "MSARTAYQPLKKKRKVED"), ("p.K3A", "MSARTAYQPLKKKRKVED"),
        ("del11-15", "MSKRTAYQPLVED"), ("del1", WILD[1:]), ("ins0:PKV", "PKV" + WILD),
        ("ins1:PKV", "MPKV" + WILD[1:]), ("graft:PKV", WILD + "PKV"),
        ("K3A+R4A", "MSAATAYQPLKKKRKVED"), ("R4A+K3A", "MSAATAYQPLKKKRKVED"),
        ("del1-2+K3A+graft:G", "A" + WILD[3:] + "G"),
    ],
)  # fmt: skip
def test_notation(text: str, mutant: str) -> None:
    """Each notation gives the sequence written out by hand; positions are the wild type's."""
    assert mutate(WILD, text) == mutant


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("R3A", "residue 3 of protein 'P1' is K, not R"), ("K99A", "residues 1 to 18"),
        ("K0A", "residues 1 to 18"), ("del5-99", "residues 1 to 18"),
        ("del9-5", "residues 1 to 18"), ("ins19:A", "residues 1 to 18"), ("K3", "unknown"),
        ("", "unknown"), ("K3A+", "unknown"), ("K3Z", "Z is no amino acid"), ("insX", "unknown"),
        ("del1-18", "nothing of protein"), ("K3A+del2-5", "overlap"), ("graft:", "unknown"),
        ("K3A\n<script>", "unknown"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(text: str, named: str) -> None:
    """A wrong residue, a position that is not there, an unknown notation: one line each."""
    with pytest.raises(InputError, match="mutation") as error:
        mutate(WILD, text, "P1")
    assert named in str(error.value) and "\n" not in str(error.value)


@given(st.text(letters, min_size=2, max_size=60), st.data())
def test_a_substitution_and_back(sequence: str, data: st.DataObject) -> None:
    """Mutating a residue and mutating it back gives the wild type."""
    position = data.draw(st.integers(1, len(sequence)))
    before, after = sequence[position - 1], data.draw(letters)
    mutant = mutate(sequence, f"{before}{position}{after}")
    assert len(mutant) == len(sequence)
    assert mutate(mutant, f"{after}{position}{before}") == sequence


@given(st.text(letters, min_size=1, max_size=40), st.text(letters, min_size=1, max_size=9),
       st.data())  # fmt: skip
def test_an_insertion_deleted_again(sequence: str, insert: str, data: st.DataObject) -> None:
    """Deleting what was inserted gives the wild type."""
    after = data.draw(st.integers(0, len(sequence)))
    mutant = mutate(sequence, f"ins{after}:{insert}")
    assert mutate(mutant, f"del{after + 1}-{after + len(insert)}") == sequence


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text does anything but give edits or an InputError."""
    try:
        assert parse_mutation(text, WILD)
    except InputError as error:
        assert "\n" not in str(error)


def test_list_of_mutations() -> None:
    """A comma separates mutations; none at all is an error."""
    assert split_mutations("K3A, del5-7,") == ["K3A", "del5-7"]
    with pytest.raises(InputError, match="no mutation"):
        split_mutations(" , ")


class ByLysines:
    """A model whose two members count lysines, one more steeply than the other."""

    labels = ("Cytoplasm", "Nucleus")

    def __init__(self, slopes: tuple[float, float]) -> None:
        self.slopes = slopes

    def probabilities(self, sequences: Mapping[str, str]) -> np.ndarray:
        count = np.array([s.count("K") for s in sequences.values()])
        p = np.clip([0.5 + slope * (count - 5) for slope in self.slopes], 0, 1)
        return np.stack([1 - p, p], axis=2)


def test_comparison_by_hand() -> None:
    """Four lysines less move p(Nucleus) of members by .1 and .2, .15 on average: changed."""
    (row,) = compare_mutants(ByLysines((0.025, 0.05)), "P1", WILD, ["del11-15"]).itertuples()
    assert (row.wild_type_label, row.mutant_label, row.called) == (
        "Cytoplasm", "Cytoplasm", "changed",
    )  # fmt: skip
    # both labels move alike; the wild type's is named
    assert row.label == "Cytoplasm"
    assert row.change == pytest.approx(0.15)
    assert (row.change_low, row.change_high) == pytest.approx((0.1, 0.2))


def test_disagreeing_members_call_nothing() -> None:
    """However large, a change whose direction members dispute is not called."""
    (row,) = compare_mutants(ByLysines((0.2, -0.01)), "P1", WILD, ["del11-13"]).itertuples()
    assert abs(row.change) > 0.1 and row.called == "no change called"
