"""The solver finds the table behind a row and rejects a corrupted one; rates match scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score, recall_score

from deepgps_core import forensics
from deepgps_core.forensics import TwoClassTable

COUNTS = st.integers(0, 40)


def labels(table: TwoClassTable) -> tuple[list[int], list[int]]:
    """Return true and predicted labels whose confusion matrix is `table`."""
    true = [1] * (table.tp + table.fn) + [0] * (table.tn + table.fp)
    predicted = [1] * table.tp + [0] * table.fn + [0] * table.tn + [1] * table.fp
    return true, predicted


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_solver_finds_the_truth(tp: int, fn: int, tn: int, fp: int) -> None:
    """The matrix behind a rounded row is always among those found, and all found agree."""
    assume(tp + fn > 0 and tn + fp > 0)
    truth = TwoClassTable(tp, fn, tn, fp)
    row = {name: round(value, 3) for name, value in truth.rates().items()}
    found = forensics.consistent_tables(row, tp + fn, tn + fp)
    assert truth in found
    for table in found:
        for name, value in table.rates().items():
            assert abs(value - row[name]) <= 0.0005 + 1e-9


@given(COUNTS, COUNTS, COUNTS, COUNTS, st.sampled_from(forensics.RATES))
def test_solver_rejects_a_corrupted_row(tp: int, fn: int, tn: int, fp: int, name: str) -> None:
    """One rate moved by more than one count of any kind leaves no matrix."""
    assume(tp + fn > 4 and tn + fp > 4 and tp > 2)
    row = {key: round(value, 3) for key, value in TwoClassTable(tp, fn, tn, fp).rates().items()}
    row[name] = row[name] + (0.3 if row[name] < 0.5 else -0.3)
    others = [key for key in forensics.RATES if key != name]
    assume(len(forensics.consistent_tables(row, tp + fn, tn + fp, use=others)) == 1)
    assert forensics.consistent_tables(row, tp + fn, tn + fp) == []


def test_rates_agree_with_scikit_learn() -> None:
    """Accuracy, sensitivity, specificity and F1 are scikit-learn's."""
    true, predicted = labels(TwoClassTable(30, 10, 15, 8))
    rates = TwoClassTable(30, 10, 15, 8).rates()
    assert rates["accuracy"] == pytest.approx(accuracy_score(true, predicted))
    assert rates["sensitivity"] == pytest.approx(recall_score(true, predicted))
    assert rates["specificity"] == pytest.approx(recall_score(true, predicted, pos_label=0))
    assert rates["f1"] == pytest.approx(f1_score(true, predicted))


@given(st.integers(2, 5).flatmap(lambda k: st.lists(
    st.lists(st.integers(1, 30), min_size=k, max_size=k), min_size=k, max_size=k)))  # fmt: skip
def test_many_class_identities(rows: list[list[int]]) -> None:
    """Weighted recall is accuracy; mean one-vs-rest accuracy is 1 - 2(1 - accuracy)/K."""
    confusion = np.array(rows)
    k, accuracy = len(rows), forensics.exact_accuracy(confusion)
    assert forensics.weighted_recall(confusion) == pytest.approx(accuracy)
    mean = forensics.one_vs_rest_accuracies(confusion).mean()
    assert mean == pytest.approx(1 - 2 * (1 - accuracy) / k)


def test_many_class_numbers_agree_with_scikit_learn() -> None:
    """Kappa and accuracy of Fig. 4d, expanded to labels, are scikit-learn's."""
    confusion = np.array(forensics.published()["figure_4"]["proteins"])
    true = np.repeat(np.arange(4), confusion.sum(axis=1))
    predicted = np.concatenate([np.repeat(np.arange(4), row) for row in confusion])
    assert forensics.cohen_kappa(confusion) == pytest.approx(cohen_kappa_score(true, predicted))
    assert forensics.exact_accuracy(confusion) == pytest.approx(accuracy_score(true, predicted))


@given(st.floats(0.05, 0.95), st.floats(0, 1), st.floats(0, 1))
def test_positive_share_inverts_accuracy(share: float, sensitivity: float, specificity: float):
    """Accuracy made from a share gives the share back, and lies between the two rates."""
    assume(abs(sensitivity - specificity) > 1e-3)
    accuracy = share * sensitivity + (1 - share) * specificity
    row = {"accuracy": accuracy, "sensitivity": sensitivity, "specificity": specificity}
    assert forensics.positive_share(row) == pytest.approx(share, abs=1e-6)
    low, high = forensics.possible_positive_shares(row) if abs(
        sensitivity - specificity) > 0.01 else (0, 1)  # fmt: skip
    assert low <= share <= high
    assert forensics.accuracy_is_between(row)


def test_counts_behind_a_rate() -> None:
    """k/n is found from its print, ties either way; a print no ratio gives is refused."""
    assert forensics.counts_behind(0.5, 4) == [2]
    assert forensics.counts_behind(0.12, 8, decimals=2) == [1]  # .125 printed as .12
    assert forensics.counts_behind(0.13, 8, decimals=2) == [1]
    assert forensics.counts_behind(0.6, 4) == []


def test_closest_table_misses_nothing_when_one_fits() -> None:
    """For a possible row the closest table is exact up to rounding."""
    truth = TwoClassTable(32, 8, 15, 8)
    table, miss = forensics.closest_table(truth.rates(), 40, 23)
    assert table == truth and miss == 0


@pytest.mark.parametrize(("positives", "use"), [(0, forensics.RATES), (5, ("mcc",))])
def test_bad_questions_raise(positives: int, use: tuple[str, ...]) -> None:
    """An empty class or an unknown rate is a ValueError."""
    with pytest.raises(ValueError):
        forensics.consistent_tables({name: 0.5 for name in forensics.RATES}, positives, 5, use=use)
