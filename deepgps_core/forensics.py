"""
What follows from a printed table of results, by arithmetic alone.

Rates are ratios of whole numbers. Given the sizes of the classes, a printed row either belongs
to one of a few confusion matrices or to none; given no sizes, three rates still fix the share of
positives. Nothing here uses data: only what the paper prints (``data/published.yaml``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import yaml

RATES = ("accuracy", "specificity", "sensitivity", "f1")


def published() -> dict[str, Any]:
    """Return what the paper prints, as nested mappings of numbers."""
    text = (files("deepgps_core") / "data" / "published.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


@dataclass(frozen=True)
class TwoClassTable:
    """A two-class confusion matrix: true and false positives and negatives, in counts."""

    tp: int
    fn: int
    tn: int
    fp: int

    def rates(self) -> dict[str, float]:
        """Return accuracy, specificity, sensitivity and F1 of the positive class."""
        total = self.tp + self.fn + self.tn + self.fp
        return {
            "accuracy": (self.tp + self.tn) / total,
            "specificity": self.tn / (self.tn + self.fp),
            "sensitivity": self.tp / (self.tp + self.fn),
            "f1": 2 * self.tp / (2 * self.tp + self.fp + self.fn),
        }


def counts_behind(rate: float, n: int, decimals: int = 3) -> list[int]:
    """
    Return every k for which k / n, rounded either way at a tie, prints as `rate`.

    Examples
    --------
    >>> counts_behind(0.800, 40), counts_behind(0.650, 23)
    ([32], [])
    """
    k = np.arange(n + 1)
    return k[printed_as(k / n, rate, decimals)].tolist()


def printed_as(values: np.ndarray | float, rate: float, decimals: int = 3) -> np.ndarray:
    """Say for each value whether it rounds to `rate`; a tie may have gone either way."""
    half = 0.5 * 10.0**-decimals
    return np.abs(np.asarray(values) - rate) <= half + 1e-9


def consistent_tables(
    row: Mapping[str, float],
    positives: int,
    negatives: int,
    *,
    use: Iterable[str] = RATES,
    decimals: int = 3,
) -> list[TwoClassTable]:
    """
    Find every confusion matrix that prints as a row of a results table.

    Parameters
    ----------
    row : mapping
        Printed rates: accuracy, specificity, sensitivity, f1.
    positives, negatives : int
        Sizes of the two classes.
    use : iterable of str
        The rates that have to agree.
    decimals : int
        Printed digits after the point.

    Returns
    -------
    tables : list of TwoClassTable
        All that agree; empty if the row is impossible for these sizes.

    Raises
    ------
    ValueError
        If a class is empty or a rate is asked for that the row does not have.
    """
    use = tuple(use)
    if positives < 1 or negatives < 1:
        raise ValueError("both classes need at least one member")
    if missing := [name for name in use if name not in row]:
        raise ValueError(f"the row has no {', '.join(missing)}")
    tp = np.arange(positives + 1)[:, None]
    tn = np.arange(negatives + 1)[None, :]
    fp, fn = negatives - tn, positives - tp
    values = {
        "accuracy": (tp + tn) / (positives + negatives),
        "specificity": np.broadcast_to(tn / negatives, (positives + 1, negatives + 1)),
        "sensitivity": np.broadcast_to(tp / positives, (positives + 1, negatives + 1)),
        "f1": 2 * tp / (2 * tp + fp + fn),
    }
    agree = np.all([printed_as(values[name], row[name], decimals) for name in use], axis=0)
    return [
        TwoClassTable(int(i), positives - int(i), int(j), negatives - int(j))
        for i, j in np.argwhere(agree)
    ]


def closest_table(
    row: Mapping[str, float], positives: int, negatives: int, *, use: Iterable[str] = RATES
) -> tuple[TwoClassTable, float]:
    """
    Return the confusion matrix whose rates come closest to a row, and by how much they miss.

    The miss is the largest absolute difference over the rates in `use`.
    """
    best: tuple[TwoClassTable, float] | None = None
    names = tuple(use)
    for tp in range(positives + 1):
        for tn in range(negatives + 1):
            table = TwoClassTable(tp, positives - tp, tn, negatives - tn)
            rates = table.rates()
            miss = max(abs(rates[name] - row[name]) for name in names)
            if best is None or miss < best[1]:
                best = (table, miss)
    assert best is not None
    return best


def accuracy_is_between(row: Mapping[str, float]) -> bool:
    """
    Say whether accuracy lies between sensitivity and specificity, as it must.

    Accuracy is their mean, weighted by the share of positives, whatever that share is.
    """
    low, high = sorted((row["sensitivity"], row["specificity"]))
    return low <= row["accuracy"] <= high


def positive_share(row: Mapping[str, float]) -> float:
    """
    Solve accuracy = p sensitivity + (1 - p) specificity for the share of positives p.

    Raises
    ------
    ValueError
        If sensitivity equals specificity, so that any share would do.
    """
    difference = row["sensitivity"] - row["specificity"]
    if difference == 0:
        raise ValueError("sensitivity equals specificity: any share of positives agrees")
    return (row["accuracy"] - row["specificity"]) / difference


def possible_positive_shares(row: Mapping[str, float], decimals: int = 3) -> tuple[float, float]:
    """Return the range of the share of positives when each rate may be off by its rounding."""
    half = 0.5 * 10.0**-decimals
    shares = [
        positive_share(
            {
                "accuracy": row["accuracy"] + a * half,
                "sensitivity": row["sensitivity"] + b * half,
                "specificity": row["specificity"] + c * half,
            }
        )
        for a in (-1, 1)
        for b in (-1, 1)
        for c in (-1, 1)
    ]
    return min(shares), max(shares)


def exact_accuracy(confusion: np.ndarray) -> float:
    """Return the share of the diagonal of a (K, K) confusion matrix: what is usually meant."""
    confusion = np.asarray(confusion)
    return float(np.trace(confusion) / confusion.sum())


def one_vs_rest_accuracies(confusion: np.ndarray) -> np.ndarray:
    """
    Return the accuracy of each class against all others, shape (K,).

    Their mean is 1 - 2 (1 - accuracy) / K: every error is an error of two classes only and
    right for all others, so the mean rises with the number of classes.
    """
    confusion = np.asarray(confusion)
    wrong = confusion.sum(axis=0) + confusion.sum(axis=1) - 2 * np.diag(confusion)
    return 1 - wrong / confusion.sum()


def weighted_recall(confusion: np.ndarray) -> float:
    """Return recall averaged over classes by their size; always equal to accuracy."""
    confusion = np.asarray(confusion, dtype=float)
    sizes = confusion.sum(axis=1)
    return float(np.sum(sizes / sizes.sum() * np.diag(confusion) / sizes))


def cohen_kappa(confusion: np.ndarray) -> float:
    """Return the agreement beyond what class frequencies alone give (Cohen, 1960)."""
    confusion = np.asarray(confusion, dtype=float)
    n = confusion.sum()
    chance = (confusion.sum(axis=0) * confusion.sum(axis=1)).sum() / n**2
    return float((np.trace(confusion) / n - chance) / (1 - chance))
