"""Calibration: closed forms, invariances, and a temperature found again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepgps_core.calibration import (
    brier_score,
    calibration_intervals,
    error_if_calibrated,
    expected_calibration_error,
    fit_temperature,
    log_loss,
    member_probabilities,
    normalized_entropy,
    reliability,
)


def drawn(n: int, temperature: float, multi_label: bool) -> tuple[np.ndarray, np.ndarray]:
    """Draw logits, and truths as often as the logits over a temperature say."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (1, n, 3))
    p = member_probabilities(logits, temperature, multi_label=multi_label)[0]
    if multi_label:
        return logits, (rng.random(p.shape) < p).astype(float)
    chosen = (rng.random((n, 1)) > p.cumsum(axis=1)).sum(axis=1)
    return logits, np.eye(3)[chosen]


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_is_found_again(temperature: float, multi_label: bool) -> None:
    """Truths drawn at a temperature give that temperature back."""
    logits, truth = drawn(20_000, temperature, multi_label)
    found = fit_temperature(logits, truth, multi_label=multi_label)
    assert found == pytest.approx(temperature, rel=0.05)


def test_temperature_of_two_equal_proteins_in_closed_form() -> None:
    """Of four proteins with logit 1 three are true: sigmoid(1 / T) = 3/4, so T = 1 / ln 3."""
    logits = np.ones((1, 4, 1))
    truth = np.array([[1.0], [1.0], [1.0], [0.0]])
    assert fit_temperature(logits, truth, multi_label=True) == pytest.approx(
        1 / np.log(3), rel=1e-4
    )


def test_temperature_changes_no_label() -> None:
    """The likeliest class of a single model is the same at any temperature."""
    logits = np.random.default_rng(1).normal(size=(1, 50, 4))
    first = member_probabilities(logits, 0.3)[0].argmax(axis=1)
    assert np.array_equal(first, member_probabilities(logits, 5.0)[0].argmax(axis=1))


def test_calibration_error_by_hand() -> None:
    """Two bins: .9 stated, .5 came true (4 of 6 rows); .1 stated, 0 came true (2 of 6)."""
    p = np.array([0.95, 0.95, 0.95, 0.95, 0.15, 0.15])
    right = np.array([True, True, False, False, False, False])
    expected = (4 * abs(0.95 - 0.5) + 2 * 0.15) / 6
    assert expected_calibration_error(right, p) == pytest.approx(expected)
    bins = reliability(right, p)
    assert list(bins["n"]) == [2, 4]
    assert list(bins["observed"]) == [0.0, 0.5]


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50))
def test_error_agrees_with_the_bins(rows: list[tuple[float, bool]]) -> None:
    """The error is the weighted gap of the printed bins, whatever the probabilities."""
    p, right = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    bins = reliability(right, p)
    gap = ((bins["stated"] - bins["observed"]).abs() * bins["n"]).sum() / len(rows)
    assert expected_calibration_error(right, p) == pytest.approx(gap, abs=1e-12)
    assert bins["n"].sum() == len(rows)


def test_calibrated_truths_have_little_error() -> None:
    """Truths drawn from the stated probabilities leave an error near 0."""
    p = np.random.default_rng(2).random(50_000)
    right = np.random.default_rng(3).random(50_000) < p
    assert expected_calibration_error(right, p) < 0.01


def test_scores_of_certainty() -> None:
    """Certain and right costs nothing; certain and wrong the most there is."""
    truth = np.array([[1.0, 0.0]])
    assert brier_score(truth, truth) == 0
    assert brier_score(truth, truth[:, ::-1]) == 2
    assert log_loss(truth, truth) == pytest.approx(0, abs=1e-9)
    assert normalized_entropy(np.full((1, 4), 0.25)) == pytest.approx(1)
    assert normalized_entropy(np.array([[0.5, 1.0]]), multi_label=True) == pytest.approx(0.5)


def test_intervals_hold_what_they_are_of() -> None:
    """Estimates are those of the plain functions, within their intervals."""
    logits, _ = drawn(300, 1.0, False)
    p = member_probabilities(logits[:, :, :2])[0]
    nuclear = np.random.default_rng(1).random(300) < p[:, 1]
    truth = np.stack([~nuclear, nuclear], axis=1).astype(float)
    found = calibration_intervals(truth, p, n_resamples=300)
    assert found["accuracy"].estimate == (p.argmax(axis=1) == nuclear).mean()
    assert found["Brier"].estimate == pytest.approx(brier_score(truth, p))
    assert found["ECE"].estimate == pytest.approx(expected_calibration_error(nuclear, p[:, 1]))
    assert all(x.low <= x.estimate <= x.high for x in (found["accuracy"], found["Brier"]))
    sure = calibration_intervals(truth, truth, n_resamples=50)
    assert sure["accuracy"].estimate == 1 and sure["ECE"].estimate == sure["Brier"].estimate == 0


def test_calibrated_probabilities_have_an_error_too() -> None:
    """Sure ones have none; of one half the error shrinks with the root of how many there are."""
    assert not error_if_calibrated(np.array([0.0, 1.0, 1.0]), n_draws=20).any()
    few, many = (error_if_calibrated(np.full(n, 0.5), n_draws=400).mean() for n in (25, 400))
    assert few / many == pytest.approx(4, rel=0.2)
    # the mean distance of a binomial share from one half
    assert many == pytest.approx(np.sqrt(2 / np.pi) * 0.5 / 20, rel=0.15)
