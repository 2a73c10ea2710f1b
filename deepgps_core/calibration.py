"""
How sure is sure: temperature, reliability, and what an ensemble's members disagree about.

A probability is calibrated if of all proteins given 0.8 for a label, eight in ten have it. One
number, the temperature by which logits are divided, is fitted on validation proteins; it changes
no label. Source: Guo et al., 2017, "On calibration of modern neural networks".
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar

from deepgps_core.statistics import Interval, bootstrap_intervals

#: Below this probability of the likeliest label a prediction is flagged as unsure.
UNSURE_BELOW = 0.7


def member_probabilities(
    logits: np.ndarray, temperature: float = 1.0, *, multi_label: bool = False
) -> np.ndarray:
    """
    Turn an ensemble's logits into probabilities.

    Parameters
    ----------
    logits : ndarray, shape (members, N, K)
    temperature : float
        Above 1 softens, below 1 sharpens.
    multi_label : bool
        Each class by itself (logistic) instead of one sum of 1 (softmax).

    Returns
    -------
    probabilities : ndarray, shape (members, N, K), dtype float64

    Examples
    --------
    >>> member_probabilities(np.zeros((1, 1, 2))).tolist()
    [[[0.5, 0.5]]]
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    if multi_label:
        return 1 / (1 + np.exp(-np.clip(scaled, -500, 500)))
    scaled = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return scaled / scaled.sum(axis=-1, keepdims=True)


def log_loss(truth: np.ndarray, probabilities: np.ndarray, *, multi_label: bool = False) -> float:
    """
    Return the mean negative log-likelihood in nats.

    Parameters
    ----------
    truth : ndarray, shape (N, K)
        1 for each class a protein has, else 0.
    probabilities : ndarray, shape (N, K)
    """
    p = np.clip(probabilities, 1e-12, 1 - 1e-12)
    likelihood = truth * np.log(p)
    if multi_label:
        likelihood = likelihood + (1 - truth) * np.log(1 - p)
    return float(-likelihood.sum(axis=1).mean())


def fit_temperature(logits: np.ndarray, truth: np.ndarray, *, multi_label: bool = False) -> float:
    """
    Find the temperature at which the members' mean probability is likeliest.

    Parameters
    ----------
    logits : ndarray, shape (members, N, K)
        Of proteins that none of them was trained on.
    truth : ndarray, shape (N, K)
        1 for each class a protein has, else 0.

    Returns
    -------
    temperature : float
        Between 0.05 and 20.
    """

    def loss(log_temperature: float) -> float:
        p = member_probabilities(logits, np.exp(log_temperature), multi_label=multi_label)
        return log_loss(truth, p.mean(axis=0), multi_label=multi_label)

    found = minimize_scalar(loss, bounds=np.log([0.05, 20]), method="bounded")
    return float(np.exp(found.x))


def _bin_of(probability: np.ndarray, n_bins: int) -> np.ndarray:
    """Return the number of each probability's bin; 1 belongs to the last."""
    return np.digitize(probability, np.linspace(0, 1, n_bins + 1)[1:-1])


def reliability(is_true: np.ndarray, probability: np.ndarray, n_bins: int = 10) -> pd.DataFrame:
    """
    Compare stated probabilities with how often they came true, in bins of equal width.

    Parameters
    ----------
    is_true : ndarray, shape (N,), dtype bool
    probability : ndarray, shape (N,)

    Returns
    -------
    bins : DataFrame
        Columns low, high, stated (mean probability), observed (share that is true), n; empty
        bins are left out.
    """
    edges = np.linspace(0, 1, n_bins + 1)
    number = _bin_of(probability, n_bins)
    frame = pd.DataFrame({"bin": number, "stated": probability, "observed": is_true.astype(float)})
    table = frame.groupby("bin").agg(
        stated=("stated", "mean"), observed=("observed", "mean"), n=("stated", "size")
    )
    table.insert(0, "low", edges[table.index])
    table.insert(1, "high", edges[table.index + 1])
    return table.reset_index(drop=True)


def expected_calibration_error(
    is_true: np.ndarray, probability: np.ndarray, n_bins: int = 10
) -> float:
    """
    Return the mean distance of stated from observed, each bin weighing as many as it holds.

    Notes
    -----
    Even a perfectly calibrated model has an error above 0 in a finite sample.

    Examples
    --------
    >>> expected_calibration_error(np.array([True, False]), np.array([0.75, 0.75]))
    0.25
    """
    gap = np.bincount(_bin_of(probability, n_bins), weights=is_true - np.asarray(probability))
    return float(np.abs(gap).sum() / len(probability))


def brier_score(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """
    Return the mean squared distance of probabilities from what is true, summed over classes.

    Examples
    --------
    >>> brier_score(np.array([[1, 0]]), np.array([[0.5, 0.5]]))
    0.5
    """
    return float(((np.asarray(probabilities) - truth) ** 2).sum(axis=1).mean())


def calibration_intervals(
    truth: np.ndarray, probabilities: np.ndarray, *, n_resamples: int = 2000, seed: int = 0
) -> dict[str, Interval]:
    """
    Score the probabilities of one label a protein, with intervals over proteins.

    Parameters
    ----------
    truth : ndarray, shape (N, K)
        1 for the class a protein has, else 0.
    probabilities : ndarray, shape (N, K)
        Rows sum to 1.
    n_resamples, seed : int
        Of the bootstrap.

    Returns
    -------
    intervals : dict of str to Interval
        "accuracy", "ECE" (of the last class) and "Brier".
    """

    def statistic(rows: np.ndarray) -> np.ndarray:
        t, p = truth[rows], probabilities[rows]
        right = (p.argmax(axis=1) == t.argmax(axis=1)).mean()
        error = expected_calibration_error(t[:, -1] > 0, p[:, -1])
        return np.array([right, error, brier_score(t, p)])

    found = bootstrap_intervals(
        statistic, np.arange(len(truth)), n_resamples=n_resamples, seed=seed
    )
    return dict(zip(("accuracy", "ECE", "Brier"), found, strict=True))


def error_if_calibrated(
    probability: np.ndarray, n_bins: int = 10, *, n_draws: int = 1000, seed: int = 0
) -> np.ndarray:
    """
    Draw the calibration errors that these probabilities have if they are exactly right.

    Parameters
    ----------
    probability : ndarray, shape (N,)
    n_bins : int
        As in `expected_calibration_error`.

    Returns
    -------
    errors : ndarray, shape (n_draws,)
        Each with labels drawn anew; above 0, because N is finite.
    """
    draws = np.random.default_rng(seed).random((n_draws, len(probability))) < probability
    return np.array([expected_calibration_error(labels, probability, n_bins) for labels in draws])


def normalized_entropy(probabilities: np.ndarray, *, multi_label: bool = False) -> np.ndarray:
    """
    Return how undecided each row is: 0 certain, 1 as undecided as can be.

    Parameters
    ----------
    probabilities : ndarray, shape (N, K)
        With `multi_label`, the mean over classes of the entropy of each.

    Examples
    --------
    >>> normalized_entropy(np.array([[0.5, 0.5], [1.0, 0.0]])).tolist()
    [1.0, 0.0]
    """
    p = np.asarray(probabilities, dtype=np.float64)

    def entropy(share: np.ndarray) -> np.ndarray:
        return -share * np.log(np.where(share > 0, share, 1))

    if multi_label:
        return ((entropy(p) + entropy(1 - p)) / np.log(2)).mean(axis=1) + 0.0
    return entropy(p).sum(axis=1) / np.log(p.shape[1]) + 0.0
