"""
Which residues a label rests on: hide a window at a time and see what changes.

A window is hidden by writing X, the letter for any amino acid, over it; the language model has
a token for it, and the protein keeps its length. What the label loses is a property of the
model: a residue that matters to it need not matter to the cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from deepgps_core.dataset import InputError, check_sequence

HIDDEN_LETTER = "X"


class Labels(Protocol):
    """What is asked of a model here: `deepgps_core.predictor.Predictor` has it."""

    labels: tuple[str, ...]

    def probabilities(self, sequences: Mapping[str, str]) -> np.ndarray:
        """Return (members, N, K)."""
        ...


@dataclass(frozen=True)
class Occlusion:
    """
    What a label loses when a window of its protein is hidden.

    Parameters
    ----------
    label : str
        The label in question.
    probability : float
        Of the whole protein.
    starts, stops : ndarray, shape (W,), dtype int64
        Windows: residues ``starts`` (0-based) up to, not including, ``stops``.
    drop : ndarray, shape (W,), dtype float64
        Loss of probability when the window is hidden; positive: the window speaks for the label.
    drop_low, drop_high : ndarray, shape (W,), dtype float64
        Least and most loss among the ensemble's members.
    """

    label: str
    probability: float
    starts: np.ndarray
    stops: np.ndarray
    drop: np.ndarray
    drop_low: np.ndarray
    drop_high: np.ndarray

    def by_residue(self, n_residues: int) -> np.ndarray:
        """Return the mean loss over the windows that cover each residue, shape (L,)."""
        total, count = np.zeros(n_residues), np.zeros(n_residues)
        for start, stop, drop in zip(self.starts, self.stops, self.drop, strict=True):
            total[start:stop] += drop
            count[start:stop] += 1
        return total / count


def window_bounds(n_residues: int, window: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Place windows so that every residue is in one; the last ends with the protein.

    Examples
    --------
    >>> [bounds.tolist() for bounds in window_bounds(10, 4, 3)]
    [[0, 3, 6], [4, 7, 10]]
    """
    last = max(0, n_residues - window)
    starts = np.unique(np.append(np.arange(0, last, step), last))
    return starts, np.minimum(starts + window, n_residues)


def occlude(
    model: Labels,
    sequence: str,
    *,
    label: str | None = None,
    window: int = 12,
    step: int | None = None,
) -> Occlusion:
    """
    Hide each window of a protein in turn.

    Parameters
    ----------
    model : Labels
        Such as a `deepgps_core.predictor.Predictor`.
    label : str, optional
        By default the likeliest.
    window, step : int
        Residues hidden at once, and from one window to the next; by default half a window, and
        more on long proteins, so that there are at most about 100 windows.

    Raises
    ------
    InputError
        If the label is none of the model's, or window or step are below 1.
    """
    checked = check_sequence("protein", sequence)
    step = max(1, window // 2, -(-len(checked) // 100)) if step is None else step
    window = max(window, step) if window >= 1 else window
    if window < 1 or step < 1:
        raise InputError(f"window {window} and step {step}: give at least 1.")
    starts, stops = window_bounds(len(checked), window, step)
    hidden = {
        f"{start}-{stop}": checked[:start] + HIDDEN_LETTER * (stop - start) + checked[stop:]
        for start, stop in zip(starts, stops, strict=True)
    }
    members = model.probabilities({"whole": checked} | hidden)  # (members, 1 + W, K)
    whole = members[:, 0].mean(axis=0)
    label = model.labels[int(whole.argmax())] if label is None else label
    if label not in model.labels:
        raise InputError(f"label {label!r}: choose one of {', '.join(model.labels)}.")
    k = model.labels.index(label)
    drops = members[:, :1, k] - members[:, 1:, k]  # (members, W)
    return Occlusion(
        label, float(whole[k]), starts, stops, drops.mean(axis=0), drops.min(axis=0),
        drops.max(axis=0),
    )  # fmt: skip
