"""
How sure one can be: intervals, paired tests and sample sizes, with the protein as the unit.

None of this is in the paper, which prints no interval. statsmodels and scipy do what they have;
the bootstrap over proteins and DeLong's test, which they lack, are written out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

#: Share of test proteins on which exactly one of two models is right, where it is not measured.
#: An assumption: two models of one accuracy near .75 whose errors are mostly, but not always, on
#: the same proteins; if they erred independently it would be .375. More needs more proteins.
DISCORDANT_SHARE = 0.25


class Interval(NamedTuple):
    """An estimate and the ends of its confidence interval."""

    estimate: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """Write ``estimate (low to high)``, each in the given format."""
        spec = spec or ".3f"
        return f"{self.estimate:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


class PairedTest(NamedTuple):
    """A difference (first minus second) and its two-sided p-value."""

    difference: float
    p_value: float


class SplitSummary(NamedTuple):
    """Scores over repeated splits: mean, standard deviation, interval of the mean, count."""

    mean: float
    sd: float
    low: float
    high: float
    n: int


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """
    Compute Wilson's interval of a rate.

    Examples
    --------
    >>> f"{wilson_interval(47, 63):.3f}"
    '0.746 (0.627 to 0.837)'
    """
    low, high = proportion_confint(successes, n, alpha=1 - confidence, method="wilson")
    return Interval(successes / n, float(low), float(high))


def _bca_quantiles(
    estimate: np.ndarray, draws: np.ndarray, jackknife: np.ndarray, confidence: float
) -> np.ndarray:
    """Return the two levels (2, M) at which to read the bootstrap distribution: Efron's BCa."""
    below = ((draws < estimate).mean(axis=0) + (draws <= estimate).mean(axis=0)) / 2  # (M,)
    bias = stats.norm.ppf(np.clip(below, 1e-9, 1 - 1e-9))
    spread = jackknife.mean(axis=0) - jackknife  # (G, M)
    scale = (spread**2).sum(axis=0) ** 1.5
    acceleration = (spread**3).sum(axis=0) / np.where(scale > 0, 6 * scale, 1.0)
    tail = stats.norm.ppf([(1 - confidence) / 2, (1 + confidence) / 2])[:, None]  # (2, 1)
    shifted = bias + tail
    return stats.norm.cdf(bias + shifted / (1 - acceleration * shifted))  # (2, M)


def bootstrap_intervals(
    statistic: Callable[[np.ndarray], np.ndarray],
    groups: Sequence[str] | np.ndarray,
    *,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[Interval]:
    """
    Compute bias-corrected and accelerated bootstrap intervals, resampling whole proteins.

    Parameters
    ----------
    statistic : callable
        Given row numbers, shape (n,), dtype int, with repetitions, returns M numbers.
    groups : sequence of str, length N
        Protein of each row; rows of a protein are drawn, and left out, together.
    n_resamples : int
        How many times the proteins are drawn anew.
    confidence : float
        Of each interval by itself.
    seed : int
        The same seed gives the same intervals.

    Returns
    -------
    intervals : list of Interval, length M

    Raises
    ------
    ValueError
        If there are fewer than two groups.

    Notes
    -----
    Draws for which a statistic is ``nan`` (an AUROC of one class) are left out of it. Efron
    (1987), with the jackknife over groups.
    """
    names, number = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"a bootstrap over groups needs at least two, got {len(names)}")
    rows_of = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])

    def evaluate(chosen: np.ndarray) -> np.ndarray:
        return np.atleast_1d(statistic(np.concatenate([rows_of[g] for g in chosen])))

    rng, everyone = np.random.default_rng(seed), np.arange(len(names))
    estimate = evaluate(everyone)  # (M,)
    draws = np.array([evaluate(rng.integers(len(names), size=len(names)))
                      for _ in range(n_resamples)])  # fmt: skip
    left_out = np.array([evaluate(np.delete(everyone, g)) for g in everyone])  # (G, M)
    return [
        _interval_of(estimate[m], draws[:, m], left_out[:, m], confidence)
        for m in range(len(estimate))
    ]


def _interval_of(
    estimate: float, draws: np.ndarray, jackknife: np.ndarray, confidence: float
) -> Interval:
    draws, jackknife = draws[np.isfinite(draws)], jackknife[np.isfinite(jackknife)]
    if not len(draws) or not len(jackknife) or not np.isfinite(estimate):
        return Interval(float(estimate), math.nan, math.nan)
    levels = _bca_quantiles(np.array([estimate]), draws[:, None], jackknife[:, None], confidence)
    low, high = np.quantile(draws, levels[:, 0])
    return Interval(float(estimate), float(low), float(high))


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    groups: Sequence[str] | np.ndarray | None = None,
    *,
    n_resamples: int = 5000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """
    Compute the mean over proteins and its BCa bootstrap interval.

    Parameters
    ----------
    values : sequence of float, length N
        One score a row, such as the PSNR of a crop.
    groups : sequence of str, length N, optional
        Protein of each row: rows of a protein are averaged first. Without it, each row is its
        own.
    n_resamples, confidence, seed
        As in `bootstrap_intervals`.

    Returns
    -------
    interval : Interval
    """
    means = np.asarray(values, dtype=float)
    if groups is not None:
        _, number = np.unique(np.asarray(groups), return_inverse=True)
        means = np.bincount(number, weights=means) / np.bincount(number)
    if np.ptp(means) == 0:  # scipy would warn and answer nan
        return Interval(float(means[0]), float(means[0]), float(means[0]))
    result = stats.bootstrap(
        (means,), np.mean, n_resamples=n_resamples, confidence_level=confidence,
        method="BCa", rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return Interval(float(means.mean()), float(result.low), float(result.high))


def mcnemar_exact(correct_first: np.ndarray, correct_second: np.ndarray) -> PairedTest:
    """
    Test whether two methods are right equally often on the same proteins, exactly.

    Parameters
    ----------
    correct_first, correct_second : ndarray, shape (N,), dtype bool
        Whether each method was right on each protein.

    Returns
    -------
    test : PairedTest
        Difference in accuracy and exact binomial p-value of the discordant proteins.
    """
    first, second = np.asarray(correct_first, bool), np.asarray(correct_second, bool)
    table = [
        [(first & second).sum(), (first & ~second).sum()],
        [(~first & second).sum(), (~first & ~second).sum()],
    ]
    p_value = mcnemar(np.array(table), exact=True).pvalue
    return PairedTest(float(first.mean() - second.mean()), float(min(p_value, 1.0)))


def _delong_components(
    is_positive: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """
    Return AUROC (S,) and its covariance (S, S) for S scores (S, N) of the same proteins.

    Sun and Xu (2014): the placements of DeLong et al. (1988), from ranks.
    """
    positive, negative = scores[:, is_positive], scores[:, ~is_positive]
    m, n = positive.shape[1], negative.shape[1]
    if m < 2 or n < 2:
        raise ValueError(f"DeLong needs two proteins of each class, got {m} and {n}")
    rank_all = stats.rankdata(np.concatenate([positive, negative], axis=1), axis=1)
    # share of negatives below each positive, and of positives above each negative
    above = (rank_all[:, :m] - stats.rankdata(positive, axis=1)) / n  # (S, m)
    below = 1 - (rank_all[:, m:] - stats.rankdata(negative, axis=1)) / m  # (S, n)
    covariance = np.atleast_2d(np.cov(above)) / m + np.atleast_2d(np.cov(below)) / n
    return above.mean(axis=1), covariance


def delong_interval(
    is_positive: np.ndarray, score: np.ndarray, confidence: float = 0.95
) -> Interval:
    """
    Compute an AUROC and DeLong's interval of it, on the logit scale so that it stays in [0, 1].

    Parameters
    ----------
    is_positive : ndarray, shape (N,), dtype bool
    score : ndarray, shape (N,), dtype float

    Returns
    -------
    interval : Interval
        From the area to itself where the classes separate without overlap.
    """
    areas, covariance = _delong_components(np.asarray(is_positive, bool), np.atleast_2d(score))
    area, sd = float(areas[0]), math.sqrt(float(covariance[0, 0]))
    if not 0 < area < 1 or sd == 0:
        return Interval(area, area, area)
    half = float(stats.norm.ppf((1 + confidence) / 2)) * sd / (area * (1 - area))
    center = math.log(area / (1 - area))
    low, high = (1 / (1 + math.exp(-(center + sign * half))) for sign in (-1, 1))
    return Interval(area, low, high)


def delong_test(is_positive: np.ndarray, first: np.ndarray, second: np.ndarray) -> PairedTest:
    """
    Test whether two scores of the same proteins have the same AUROC (DeLong et al. 1988).

    Parameters
    ----------
    is_positive : ndarray, shape (N,), dtype bool
    first, second : ndarray, shape (N,), dtype float

    Returns
    -------
    test : PairedTest
        Difference in AUROC, two-sided p-value of the normal approximation.
    """
    areas, covariance = _delong_components(np.asarray(is_positive, bool), np.stack([first, second]))
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    difference = float(areas[0] - areas[1])
    if variance <= 1e-15:  # the two scores rank alike
        return PairedTest(difference, 1.0 if difference == 0 else 0.0)
    return PairedTest(difference, float(2 * stats.norm.sf(abs(difference) / math.sqrt(variance))))


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return p-values adjusted for many comparisons by Holm's method, in the order given."""
    return multipletests(np.asarray(p_values, dtype=float), method="holm")[1]


def mcnemar_power(n: int, difference: float, discordant: float, alpha: float = 0.05) -> float:
    """
    Compute the power of the exact McNemar test, summing over all outcomes.

    Parameters
    ----------
    n : int
        Number of test proteins.
    difference : float
        True difference in accuracy, at most `discordant`.
    discordant : float
        Share of proteins on which exactly one method is right.
    alpha : float
        Two-sided significance level.

    Returns
    -------
    power : float
    """
    wins = (1 + difference / discordant) / 2
    counts = np.arange(n + 1)  # number of discordant proteins
    critical = stats.binom.ppf(alpha / 2, counts, 0.5)  # rejected up to it, if within the level
    critical -= stats.binom.cdf(critical, counts, 0.5) > alpha / 2
    rejected = stats.binom.cdf(critical, counts, wins) + stats.binom.cdf(critical, counts, 1 - wins)
    return float((stats.binom.pmf(counts, n, discordant) * rejected).sum())


def proteins_needed(
    difference: float, discordant: float, power: float = 0.8, alpha: float = 0.05
) -> int:
    """
    Compute how many test proteins a paired comparison of accuracies needs.

    Parameters
    ----------
    difference, discordant, alpha
        As in `mcnemar_power`.
    power : float
        Wanted probability to see the difference.

    Returns
    -------
    n : int
        By Miettinen's normal approximation (Connor 1987).

    Examples
    --------
    >>> proteins_needed(0.08, 0.15), proteins_needed(0.08, 0.25)
    (182, 305)
    """
    z_alpha, z_power = stats.norm.ppf([1 - alpha / 2, power])
    root = z_alpha * math.sqrt(discordant) + z_power * math.sqrt(discordant - difference**2)
    return math.ceil(root**2 / difference**2)


def summarize_splits(
    values: Sequence[float] | np.ndarray, test_share: float = 0.2, confidence: float = 0.95
) -> SplitSummary:
    """
    Summarize a score over repeated splits of one set of proteins.

    Parameters
    ----------
    values : sequence of float, length n
        One score a split.
    test_share : float
        Share of proteins in the test part.

    Returns
    -------
    summary : SplitSummary
        The interval is Nadeau and Bengio's (2003): splits share proteins, so the variance of
        the mean is ``(1/n + test/train) sd**2`` and does not vanish with more splits.
    """
    scores = np.asarray(values, dtype=float)
    mean, sd, n = float(scores.mean()), float(scores.std(ddof=1)), len(scores)
    widening = math.sqrt(1 / n + test_share / (1 - test_share))
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * sd * widening
    return SplitSummary(mean, sd, mean - half, mean + half, n)


def two_way_shares(table: np.ndarray) -> np.ndarray:
    """
    Split the variance of a complete table into rows, columns and what neither explains.

    Parameters
    ----------
    table : ndarray, shape (R, C), dtype float
        One value for each pair, as of R sequences painted into C nuclei.

    Returns
    -------
    shares : ndarray, shape (3,), dtype float
        Of the total sum of squares: between rows, between columns, remainder. They add to 1;
        NaN where all values are equal.

    Examples
    --------
    >>> two_way_shares(np.array([[0.0, 1.0], [4.0, 5.0]])).round(3)
    array([0.941, 0.059, 0.   ])
    """
    values = np.asarray(table, dtype=float)
    centered = values - values.mean()
    total = np.square(centered).sum()
    if total == 0:
        return np.full(3, np.nan)
    rows = values.shape[1] * np.square(centered.mean(axis=1)).sum()
    columns = values.shape[0] * np.square(centered.mean(axis=0)).sum()
    return np.array([rows, columns, total - rows - columns]) / total
