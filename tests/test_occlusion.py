"""Occlusion finds the residues that a known model looks at, and covers every residue."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepgps_core.dataset import InputError
from deepgps_core.occlusion import occlude, window_bounds


class SeesSignal:
    """A model that says Nucleus exactly if PKKKRKV is there."""

    labels = ("Cytoplasm", "Nucleus")

    def probabilities(self, sequences: Mapping[str, str]) -> np.ndarray:
        p = np.array([0.9 if "PKKKRKV" in s else 0.2 for s in sequences.values()])
        return np.stack([1 - p, p], axis=1)[None]


@given(st.integers(1, 400), st.integers(1, 40), st.integers(1, 40))
def test_every_residue_is_in_a_window(n_residues: int, window: int, step: int) -> None:
    """Windows not wider apart than they are wide cover the protein and never leave it."""
    starts, stops = window_bounds(n_residues, window, min(step, window))
    covered = np.zeros(n_residues, dtype=bool)
    for start, stop in zip(starts, stops, strict=True):
        assert 0 <= start < stop <= n_residues
        covered[start:stop] = True
    assert covered.all()


def test_the_signal_is_found() -> None:
    """Only windows that touch the signal lose the label, by just what the model lost."""
    sequence = "MAGT" * 10 + "PKKKRKV" + "EDLS" * 10
    found = occlude(SeesSignal(), sequence, window=6, step=3)
    assert (found.label, found.probability) == ("Nucleus", pytest.approx(0.9))
    touches = (found.starts < 47) & (found.stops > 40)
    assert found.drop == pytest.approx(np.where(touches, 0.7, 0.0))
    by_residue = found.by_residue(len(sequence))
    assert by_residue[40:47] == pytest.approx(0.7)
    assert by_residue[:35].max() == by_residue[52:].max() == 0


def test_any_label_can_be_asked_for() -> None:
    """What one of two labels loses the other wins."""
    sequence = "MAGT" * 5 + "PKKKRKV"
    nucleus = occlude(SeesSignal(), sequence, label="Nucleus")
    cytoplasm = occlude(SeesSignal(), sequence, label="Cytoplasm")
    assert nucleus.drop == pytest.approx(-cytoplasm.drop)


def test_long_proteins_take_about_a_hundred_windows() -> None:
    """The cost does not grow with the protein."""
    assert len(occlude(SeesSignal(), "MAGT" * 600).starts) <= 102


def test_bad_requests_are_named() -> None:
    """An unknown label or a window of nothing is one line."""
    with pytest.raises(InputError, match="Moon"):
        occlude(SeesSignal(), "MAGT", label="Moon")
    with pytest.raises(InputError, match="at least 1"):
        occlude(SeesSignal(), "MAGT", window=0)
