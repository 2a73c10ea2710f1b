"""Intervals and tests: against statsmodels, scipy, brute force, simulation and printed examples."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.anova import anova_lm

from deepgps_core.metrics import auroc
from deepgps_core.statistics import (
    DISCORDANT_SHARE,
    Interval,
    bootstrap_interval,
    bootstrap_intervals,
    delong_interval,
    delong_test,
    holm,
    mcnemar_exact,
    mcnemar_power,
    proteins_needed,
    summarize_splits,
    two_way_shares,
    wilson_interval,
)


def test_wilson_by_the_formula() -> None:
    """Wilson's interval solves (p - x/n)^2 = z^2 p (1 - p) / n at both ends."""
    z = 1.959964
    for successes, n in ((47, 63), (52, 63), (0, 10), (10, 10), (1, 3)):
        found = wilson_interval(successes, n)
        for end in (found.low, found.high):
            gap = (end - successes / n) ** 2 - z**2 * end * (1 - end) / n
            assert gap == pytest.approx(0, abs=1e-8)
    assert f"{wilson_interval(52, 63):.3f}" == "0.825 (0.714 to 0.900)"


def test_mean_interval_equals_scipys_on_protein_means() -> None:
    """Crops are averaged first; the rest is scipy's BCa on the means, seed for seed."""
    rng = np.random.default_rng(0)
    means = rng.gamma(2.0, size=25)
    groups = np.repeat([f"p{i:02}" for i in range(25)], 4)
    offsets = np.tile([-1.0, 1.0, -0.5, 0.5], 25)
    found = bootstrap_interval(np.repeat(means, 4) + offsets, groups, seed=3)
    expected = stats.bootstrap(
        (means,), np.mean, n_resamples=5000, method="BCa", rng=np.random.default_rng(3)
    ).confidence_interval
    assert tuple(found) == pytest.approx((means.mean(), expected.low, expected.high))
    assert bootstrap_interval([0.5, 0.5, 0.5]) == Interval(0.5, 0.5, 0.5)


def test_general_bootstrap_agrees_with_scipy() -> None:
    """BCa of two skewed statistics at once, single-row groups, lies where scipy's lies."""
    data = np.random.default_rng(1).lognormal(size=40)
    groups = [f"{i:02}" for i in range(40)]
    found = bootstrap_intervals(
        lambda rows: np.array([data[rows].mean(), np.std(data[rows])]), groups, n_resamples=4000
    )
    for interval, function in zip(found, (np.mean, np.std), strict=True):
        expected = stats.bootstrap((data,), function, n_resamples=20000, method="BCa", rng=0)
        low, high = expected.confidence_interval
        width = high - low
        assert interval.estimate == pytest.approx(function(data))
        assert interval.low == pytest.approx(low, abs=0.06 * width)
        assert interval.high == pytest.approx(high, abs=0.06 * width)


def test_crops_are_no_observations() -> None:
    """Copying each protein's row ten times leaves the interval as it was."""
    data = np.random.default_rng(2).normal(size=30)
    groups = np.array([f"{i:02}" for i in range(30)])
    once = bootstrap_intervals(lambda rows: data[rows].mean(), groups, n_resamples=500)[0]
    ten = np.repeat(data, 10)
    many = bootstrap_intervals(
        lambda rows: ten[rows].mean(), np.repeat(groups, 10), n_resamples=500
    )[0]
    assert tuple(many) == pytest.approx(tuple(once))


def test_bootstrap_covers_the_truth() -> None:
    """In 150 experiments of 40 proteins with 5 crops, about 95 % of intervals hold the mean."""
    rng, hits = np.random.default_rng(4), 0
    groups = np.repeat(np.arange(40), 5)
    for trial in range(150):
        values = np.repeat(rng.exponential(size=40), 5) + rng.normal(size=200)
        found = bootstrap_interval(values, groups, n_resamples=600, seed=trial)
        hits += found.low <= 1.0 <= found.high
    assert 0.88 <= hits / 150 <= 0.99


def test_undefined_draws_are_left_out() -> None:
    """With one positive protein many draws have no AUROC; the interval exists all the same."""
    is_positive, score = np.arange(12) == 0, np.r_[5.0, np.arange(11)]
    found = bootstrap_intervals(
        lambda rows: auroc(is_positive[rows], score[rows]), np.arange(12), n_resamples=300
    )[0]
    assert found.low <= found.estimate <= found.high
    with pytest.raises(ValueError, match="at least two"):
        bootstrap_intervals(lambda rows: 1.0, ["a", "a"])


def test_mcnemar_by_counting() -> None:
    """p-values are binomial tails: 5 against 0 gives 0.0625, equal counts give 1."""
    first = np.array([True] * 5 + [False] * 3)
    assert mcnemar_exact(first, np.zeros(8, bool)) == pytest.approx((5 / 8, 0.0625))
    assert mcnemar_exact(np.array([True, False]), np.array([False, True])) == pytest.approx((0, 1))
    a = np.array([True] * 12 + [False] * 3 + [True] * 20)
    b = np.array([False] * 12 + [True] * 3 + [True] * 20)
    assert mcnemar_exact(a, b).p_value == pytest.approx(stats.binomtest(12, 15).pvalue)


def placements(is_positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return DeLong's structural components, pair by pair as in the 1988 paper."""
    positive, negative = score[is_positive], score[~is_positive]
    kernel = [[(p > n) + 0.5 * (p == n) for n in negative] for p in positive]
    return np.mean(kernel, axis=1), np.mean(kernel, axis=0)


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_delong_equals_the_definition(seed: int) -> None:
    """Area, variance and paired test equal the sums over all pairs, with ties."""
    rng = np.random.default_rng(seed)
    is_positive = np.arange(30) < rng.integers(5, 25)
    first, second = np.round(rng.normal(size=(2, 30)) + is_positive, 1)
    parts = [placements(is_positive, score) for score in (first, second)]
    v10, v01 = (np.stack([part[k] for part in parts]) for k in (0, 1))
    covariance = np.cov(v10) / v10.shape[1] + np.cov(v01) / v01.shape[1]
    interval = delong_interval(is_positive, first)
    assert interval.estimate == pytest.approx(auroc(is_positive, first))
    area, sd = interval.estimate, math.sqrt(covariance[0, 0])
    if 0 < area < 1:
        half = 1.959964 * sd / (area * (1 - area))
        assert math.log(interval.high / (1 - interval.high)) == pytest.approx(
            math.log(area / (1 - area)) + half, abs=1e-4
        )
    found = delong_test(is_positive, first, second)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    expected = 2 * stats.norm.sf(abs(v10[0].mean() - v10[1].mean()) / math.sqrt(variance))
    assert found.p_value == pytest.approx(expected, rel=1e-6)


def test_delong_agrees_with_the_jackknife() -> None:
    """The variance is, to first order, that of leaving out one protein at a time."""
    rng = np.random.default_rng(7)
    is_positive = np.arange(120) < 70
    score = rng.normal(size=120) + 0.9 * is_positive
    left_out = [auroc(np.delete(is_positive, i), np.delete(score, i)) for i in range(120)]
    jackknife_sd = math.sqrt(119 * np.var(left_out))
    found = delong_interval(is_positive, score)
    sd = math.log(found.high / (1 - found.high)) - math.log(found.low / (1 - found.low))
    sd *= found.estimate * (1 - found.estimate) / (2 * 1.959964)
    assert sd == pytest.approx(jackknife_sd, rel=0.03)


def test_delong_at_its_limits() -> None:
    """Perfect separation has no width; equal rankings do not differ; one protein is refused."""
    is_positive = np.arange(10) < 5
    assert delong_interval(is_positive, -np.arange(10.0)) == Interval(1.0, 1.0, 1.0)
    score = np.random.default_rng(0).normal(size=10)
    assert delong_test(is_positive, score, 2 * score + 1) == (0.0, 1.0)
    with pytest.raises(ValueError, match="two proteins of each class"):
        delong_interval(np.arange(10) < 1, score)


def test_delong_holds_its_level() -> None:
    """Of 400 comparisons of equally good, correlated scores about 5 % are called different."""
    rng, called = np.random.default_rng(5), 0
    is_positive = np.arange(60) < 35
    for _ in range(400):
        common = rng.normal(size=60) + is_positive
        pair = common + 0.7 * rng.normal(size=(2, 60))
        called += delong_test(is_positive, *pair).p_value < 0.05
    assert 0.025 <= called / 400 <= 0.085


def test_holm_by_hand() -> None:
    """Holm's own steps: smallest times m, next times m - 1, never decreasing, at most 1."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_power_by_enumeration_and_simulation() -> None:
    """Exact power equals a sum over all outcomes for n = 6, and a simulation for n = 150."""
    n, difference, discordant = 6, 0.5, 0.9
    p = ((discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant)
    total = sum(
        math.factorial(n) / math.prod(map(math.factorial, c))
        * math.prod(q**k for q, k in zip(p, c, strict=True))
        for c in itertools.product(range(n + 1), repeat=3)
        if sum(c) == n and c[0] + c[1] and stats.binomtest(c[0], c[0] + c[1]).pvalue <= 0.05
    )  # fmt: skip
    assert mcnemar_power(n, difference, discordant) == pytest.approx(total)
    rng = np.random.default_rng(0)
    wins, losses, _ = rng.multinomial(150, [0.165, 0.085, 0.75], size=3000).T
    p_values = np.minimum(1, 2 * stats.binom.cdf(np.minimum(wins, losses), wins + losses, 0.5))
    assert mcnemar_power(150, 0.08, 0.25) == pytest.approx((p_values <= 0.05).mean(), abs=0.025)


def test_number_of_proteins_reaches_its_power() -> None:
    """At the computed number, the exact power is near the wanted one; at 63 it is far from it."""
    assert DISCORDANT_SHARE < 2 * 0.75 * 0.25, "errors of two models do overlap"
    for discordant in (0.15, 0.2, DISCORDANT_SHARE):
        n = proteins_needed(0.08, discordant)
        assert mcnemar_power(n, 0.08, discordant) == pytest.approx(0.78, abs=0.05)
        assert mcnemar_power(63, 0.08, discordant) < 0.35


def test_split_summary_widens_for_shared_proteins() -> None:
    """Mean and sd are plain; the interval's half-width is t sd sqrt(1/n + test/train)."""
    found = summarize_splits([0.70, 0.74, 0.78, 0.74], test_share=0.2)
    assert (found.mean, found.n) == (pytest.approx(0.74), 4)
    assert found.sd == pytest.approx(math.sqrt(2 * 0.04**2 / 3))
    half = 3.182446 * found.sd * math.sqrt(1 / 4 + 1 / 4)
    assert (found.low, found.high) == pytest.approx((0.74 - half, 0.74 + half), abs=1e-6)


def test_two_way_shares_agree_with_an_anova_by_regression() -> None:
    """Shares equal the sums of squares of statsmodels' two-way analysis of variance."""
    table = np.random.default_rng(0).normal(size=(5, 7)) + np.arange(5)[:, None]
    long = pd.DataFrame(table).stack().reset_index(name="y").rename(
        columns={"level_0": "r", "level_1": "c"}
    )  # fmt: skip
    fitted = smf.ols("y ~ C(r) + C(c)", long).fit()
    squares = anova_lm(fitted)["sum_sq"].to_numpy()
    np.testing.assert_allclose(two_way_shares(table), squares / squares.sum())
    assert np.isnan(two_way_shares(np.ones((3, 3)))).all()
