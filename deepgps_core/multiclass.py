"""
Labels of more than two classes: confusion matrices, each class against the rest, and curves.

The paper prints two confusion matrices and one average accuracy (Fig. 4d and 4e). Here each
number comes per protein with an interval, and the average accuracy beside the share of proteins
that are right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from deepgps_core.metrics import auroc
from deepgps_core.statistics import Interval, bootstrap_intervals, wilson_interval

CLASS_METRICS = ("recall", "precision", "f1", "auroc")


def confusion_counts(
    proteins: pd.DataFrame, labels: Sequence[str], *, by_crop: bool = False
) -> np.ndarray:
    """
    Count true labels (rows) against predicted ones (columns).

    Parameters
    ----------
    proteins : DataFrame
        Columns label, ``p_<label>`` and, to count crops, n_crops; proteins without a single
        label are left out. The predicted label is the most probable one.
    labels : sequence of str, length K
    by_crop : bool
        Count a protein as often as it has crops, as the paper's Fig. 4e does.

    Returns
    -------
    counts : ndarray, shape (K, K), dtype int
    """
    single = proteins[proteins["label"].isin(labels)]
    number = {label: k for k, label in enumerate(labels)}
    truth = single["label"].map(number).to_numpy(int)
    called = single[[f"p_{x}" for x in labels]].to_numpy(float).argmax(axis=1)
    weight = single["n_crops"].to_numpy(int) if by_crop else np.ones(len(single), int)
    counts = np.zeros((len(labels), len(labels)), dtype=int)
    np.add.at(counts, (truth, called), weight)
    return counts


def class_rates(confusion: np.ndarray) -> np.ndarray:
    """
    Compute recall, precision and F1 of each class of a (K, K) confusion matrix.

    Returns
    -------
    rates : ndarray, shape (3, K), dtype float
        NaN where undefined: a class that does not occur, or is never called.

    Examples
    --------
    >>> class_rates(np.array([[3, 1], [0, 4]])).round(2)
    array([[0.75, 1.  ],
           [1.  , 0.8 ],
           [0.86, 0.89]])
    """
    hits = np.diag(confusion).astype(float)
    true, called = confusion.sum(axis=1), confusion.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([hits / true, hits / called, 2 * hits / (true + called)])


def _rate_intervals(confusion: np.ndarray) -> list[Interval]:
    """
    Return Wilson's intervals of recall, precision and F1, in the order of `class_rates`.

    F1 is 2J / (1 + J) of Jaccard's share J: of the proteins that are of the class or called so,
    those that are both.
    """
    hits, true, called = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    trials = np.stack([true, called, true + called - hits])  # (3, K)
    found = [
        wilson_interval(int(h), int(n)) if n else Interval(math.nan, math.nan, math.nan)
        for row in trials
        for h, n in zip(hits, row, strict=True)
    ]
    of_jaccard = [Interval(*(2 * x / (1 + x) for x in j)) for j in found[2 * len(hits) :]]
    return found[: 2 * len(hits)] + of_jaccard


def class_table(
    proteins: pd.DataFrame, labels: Sequence[str], *, n_resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """
    Score each class against the rest, per protein with intervals, and per crop beside it.

    Parameters
    ----------
    proteins : DataFrame
        As for `confusion_counts`.
    n_resamples, seed
        Of the bootstrap over proteins, which gives the interval of the AUROC. The others are
        Wilson's, so that a rate of 0 or 1 has a width.

    Returns
    -------
    table : DataFrame
        One row a class and metric of `CLASS_METRICS`: label, metric, estimate, low, high,
        per_crop, n_proteins (of the class). A class that is never called has recall and F1 0
        and no precision (NaN).
    """
    single = proteins[proteins["label"].isin(labels)].reset_index(drop=True)
    p = single[[f"p_{x}" for x in labels]].to_numpy(float)
    truth = single["label"].to_numpy(str)

    def areas(rows: np.ndarray) -> np.ndarray:
        return np.array([auroc(truth[rows] == x, p[rows, k]) for k, x in enumerate(labels)])

    intervals = _rate_intervals(confusion_counts(single, labels)) + bootstrap_intervals(
        areas, np.arange(len(single)), n_resamples=n_resamples, seed=seed
    )
    of_crops = np.full(len(intervals), np.nan)
    if "n_crops" in single:
        rates = class_rates(confusion_counts(single, labels, by_crop=True))
        rows = np.repeat(np.arange(len(single)), single["n_crops"].astype(int))
        of_crops = np.concatenate([rates.ravel(), areas(rows)])
    sizes = {label: int((truth == label).sum()) for label in labels}
    lines = [
        (
            label,
            metric,
            *intervals[i * len(labels) + k],
            of_crops[i * len(labels) + k],
            sizes[label],
        )
        for k, label in enumerate(labels)
        for i, metric in enumerate(CLASS_METRICS)
    ]
    columns = ["label", "metric", "estimate", "low", "high", "per_crop", "n_proteins"]
    return pd.DataFrame(lines, columns=columns)


def roc_curve(is_positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Compute the receiver operating characteristic; equal scores enter together.

    Parameters
    ----------
    is_positive : ndarray, shape (N,), dtype bool
    score : ndarray, shape (N,), dtype float

    Returns
    -------
    false_positive_rate, true_positive_rate : ndarray, dtype float
        From (0, 0) to (1, 1); the area under straight lines between them is `metrics.auroc`.

    Raises
    ------
    ValueError
        Unless both classes occur.
    """
    positive = np.asarray(is_positive, bool)
    if positive.all() or not positive.any():
        raise ValueError("a ROC curve needs positives and negatives")
    order = np.argsort(-np.asarray(score, float), kind="stable")
    ranked, hit = np.asarray(score, float)[order], positive[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    found, wrong = np.cumsum(hit)[last], np.cumsum(~hit)[last]
    return np.r_[0.0, wrong / (~positive).sum()], np.r_[0.0, found / positive.sum()]
