"""Several classes: counts add up, rates are scikit-learn's, curves enclose the AUROC."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, roc_auc_score
from sklearn.metrics import roc_curve as reference_curve

from deepgps_core.forensics import exact_accuracy, one_vs_rest_accuracies
from deepgps_core.metrics import auroc, multiclass_metrics
from deepgps_core.multiclass import class_rates, class_table, confusion_counts, roc_curve
from deepgps_core.statistics import wilson_interval

LABELS = ("Cytoplasm", "Nucleus", "Membrane", "Mitochondrion")


def predictions(n: int = 60, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    truth = rng.choice(LABELS, n, p=[0.4, 0.4, 0.12, 0.08])
    p = rng.dirichlet(np.ones(4), n) + 0.3 * (truth[:, None] == np.array(LABELS))
    frame = pd.DataFrame(p / p.sum(axis=1, keepdims=True), columns=[f"p_{x}" for x in LABELS])
    return frame.assign(label=truth, n_crops=rng.integers(1, 9, n))


@pytest.mark.parametrize("by_crop", [False, True])
def test_counts_are_scikit_learns(by_crop: bool) -> None:
    """Rows are true labels and columns predicted ones; crops weigh proteins."""
    frame = predictions()
    called = np.array(LABELS)[frame[[f"p_{x}" for x in LABELS]].to_numpy().argmax(axis=1)]
    weight = frame["n_crops"] if by_crop else None
    expected = confusion_matrix(frame["label"], called, labels=LABELS, sample_weight=weight)
    assert (confusion_counts(frame, LABELS, by_crop=by_crop) == expected).all()


def test_multi_localized_proteins_do_not_count() -> None:
    """A protein without a single label is in no cell of the matrix and in no metric."""
    frame = predictions()
    more = pd.concat([frame, frame.head(9).assign(label="")], ignore_index=True)
    assert (confusion_counts(more, LABELS) == confusion_counts(frame, LABELS)).all()
    both = [class_table(x, LABELS, n_resamples=20) for x in (frame, more)]
    pd.testing.assert_frame_equal(*both)


def test_rates_are_scikit_learns() -> None:
    """Recall, precision and F1 of each class, and its AUROC against the rest."""
    frame = predictions()
    p = frame[[f"p_{x}" for x in LABELS]].to_numpy()
    called = np.array(LABELS)[p.argmax(axis=1)]
    precision, recall, f1, sizes = precision_recall_fscore_support(
        frame["label"], called, labels=LABELS
    )
    table = class_table(frame, LABELS, n_resamples=50).set_index(["metric", "label"])
    for name, expected in (("recall", recall), ("precision", precision), ("f1", f1)):
        assert table.loc[name, "estimate"][list(LABELS)].to_numpy() == pytest.approx(expected)
    for k, label in enumerate(LABELS):
        expected = roc_auc_score(frame["label"] == label, p[:, k])
        assert table.loc[("auroc", label), "estimate"] == pytest.approx(expected)
        expected = roc_auc_score(frame["label"] == label, p[:, k], sample_weight=frame["n_crops"])
        assert table.loc[("auroc", label), "per_crop"] == pytest.approx(expected)
        assert table.loc[("recall", label), "n_proteins"] == sizes[k]


def test_matrix_and_metrics_tell_the_same() -> None:
    """Exact and one-vs-rest accuracy from the matrix are those computed from probabilities."""
    frame = predictions()
    scores = multiclass_metrics(
        frame["label"], frame[[f"p_{x}" for x in LABELS]].to_numpy(), LABELS
    )
    counts = confusion_counts(frame, LABELS)
    assert exact_accuracy(counts) == pytest.approx(scores["exact_accuracy"])
    mean = one_vs_rest_accuracies(counts).mean()
    assert mean == pytest.approx(scores["one_vs_rest_accuracy"])
    assert mean == pytest.approx(1 - 2 * (1 - exact_accuracy(counts)) / 4)
    assert np.nanmean(class_rates(counts)[0]) == pytest.approx(scores["balanced_accuracy"])


def test_a_class_never_called() -> None:
    """It has recall and F1 zero, and no precision."""
    recall, precision, f1 = class_rates(np.array([[5, 0], [2, 0]]))
    assert (recall[1], f1[1]) == (0, 0)
    assert np.isnan(precision[1])


def test_rates_of_nothing_and_all_have_a_width() -> None:
    """Wilson: one protein called rightly is not certainty, and never called is no precision."""
    frame = pd.DataFrame({"label": ["a", "a", "a", "b", "b", "c"],
                          "p_a": [0.8, 0.8, 0.8, 0.8, 0.1, 0.8], "p_b": [0.1] * 4 + [0.8, 0.1],
                          "p_c": [0.1] * 6})  # fmt: skip
    table = class_table(frame, ["a", "b", "c"], n_resamples=20).set_index(["label", "metric"])
    rates = table[["estimate", "low", "high"]]
    assert tuple(rates.loc[("b", "precision")]) == pytest.approx(wilson_interval(1, 1))
    assert tuple(rates.loc[("a", "recall")]) == pytest.approx(wilson_interval(3, 3))
    assert tuple(rates.loc[("c", "recall")]) == pytest.approx(wilson_interval(0, 1))
    assert rates.loc[("c", "precision")].isna().all()
    assert rates.loc[("c", "f1"), "estimate"] == 0 < rates.loc[("c", "f1"), "high"] < 1
    # of b: one right, one missed, none wrongly called
    low, high = (2 * j / (1 + j) for j in wilson_interval(1, 2)[1:])
    assert tuple(rates.loc[("b", "f1")]) == pytest.approx((2 / 3, low, high))


def test_curve_is_scikit_learns_and_encloses_the_area() -> None:
    """With ties, the corners are those of the reference, and trapezoids give the AUROC."""
    rng = np.random.default_rng(2)
    truth, score = rng.random(80) < 0.4, rng.integers(0, 12, 80) / 12
    x, y = roc_curve(truth, score)
    expected = reference_curve(truth, score, drop_intermediate=False)
    assert x == pytest.approx(expected[0]) and y == pytest.approx(expected[1])
    assert np.trapezoid(y, x) == pytest.approx(auroc(truth, score))
    with pytest.raises(ValueError, match="positives and negatives"):
        roc_curve(np.ones(3, bool), np.zeros(3))
