"""Baselines: they learn what can be learned, and nothing from the test part."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.dummy import DummyClassifier

from deepgps_core.baselines import (
    SEGMENT_RESIDUES,
    CalibratedMachine,
    Composition,
    HomologyTransfer,
    composition,
    composition_svm,
    evaluate_baselines,
    logistic,
    nearest_neighbors,
    vector_svm,
    zero_rule,
)
from deepgps_core.dataset import AMINO_ACIDS
from deepgps_core.homology import find_relatives
from deepgps_core.metrics import classification_metrics
from deepgps_core.splits import repeated_splits


@pytest.fixture(scope="module")
def proteins() -> pd.DataFrame:
    """90 random proteins; nuclear ones have twice the lysines."""
    rng = np.random.default_rng(0)
    labels = np.array(["Cytoplasm", "Nucleus"])[rng.integers(2, size=90)]
    weights = np.ones((2, 20))
    weights[1, AMINO_ACIDS.index("K")] = 2
    weights /= weights.sum(axis=1, keepdims=True)
    sequences = ["".join(rng.choice(list(AMINO_ACIDS), 200, p=weights[int(label == "Nucleus")]))
                 for label in labels]  # fmt: skip
    ids = [f"P{i:02}" for i in range(90)]
    columns = {"protein_id": ids, "label": labels, "locations": labels, "sequence": sequences}
    return pd.DataFrame(columns | {"cluster_30": [f"c{i // 2}" for i in range(90)]})


def test_composition_by_hand() -> None:
    """Shares sum to one, in alphabetical order; unknown letters dilute; the ends stand alone."""
    assert composition("KKAX").sum() == pytest.approx(0.75)
    assert composition("KKAX")[AMINO_ACIDS.index("K")] == 0.5
    n = SEGMENT_RESIDUES
    parts = Composition(segments=True).transform(np.array(["A" * n + "W" * 5 + "K" * n]))
    assert parts.shape == (1, 60)
    assert np.flatnonzero(parts[0]).tolist() == [0, 20 + 18, 40 + AMINO_ACIDS.index("K")]
    assert Composition(segments=True).transform(np.array(["MK"])).shape == (1, 60)


def test_every_baseline_beats_the_zero_rule(proteins: pd.DataFrame) -> None:
    """Where composition decides, composition and vectors find it; the zero rule is at chance."""
    inputs = {
        "sequence": proteins["sequence"].to_numpy(object),
        "vector": Composition().transform(proteins["sequence"].to_numpy(object)),
    }
    estimators = {
        "zero": ("sequence", zero_rule()), "svm": ("sequence", composition_svm()),
        "segments": ("sequence", composition_svm(segments=True)),
        "vector svm": ("vector", vector_svm()), "logistic": ("vector", logistic()),
        "knn": ("vector", nearest_neighbors()),
    }  # fmt: skip
    splits = list(repeated_splits(proteins, "grouped", n=2))
    found = evaluate_baselines(estimators, inputs, proteins, splits)
    assert len(found) == 6 * sum((split == "test").sum() for _, split in splits)
    assert found[["p_Cytoplasm", "p_Nucleus"]].sum(axis=1).to_numpy() == pytest.approx(1)
    scores = {
        name: classification_metrics(rows["label"], rows["p_Cytoplasm"].to_numpy())["auroc"]
        for name, rows in found[found["split"] == "grouped-0"].groupby("baseline")
    }
    assert scores.pop("zero") == 0.5
    assert min(scores.values()) > 0.75, scores


class Spy(ClassifierMixin, BaseEstimator):
    """Answers with certainty which proteins it was trained on."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> Spy:
        self.classes_, self.seen_ = np.unique(y), set(X)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        assert not self.seen_ & set(X), "trained on a test protein"
        return np.full((len(X), len(self.classes_)), 0.5)


def test_test_proteins_are_never_trained_on(proteins: pd.DataFrame) -> None:
    """Each estimator is fitted anew on each split's other proteins, validation included."""
    inputs = {"id": proteins["protein_id"].to_numpy(object)}
    splits = list(repeated_splits(proteins, "random", n=4))
    found = evaluate_baselines({"spy": ("id", Spy())}, inputs, proteins, splits)
    for name, split in splits:
        tested = found.loc[found["split"] == name, "protein_id"]
        assert set(tested) == set(split.index[split == "test"])


def test_workers_do_not_change_the_result(proteins: pd.DataFrame) -> None:
    """Two processes and one give the same table."""
    inputs = {"sequence": proteins["sequence"].to_numpy(object)}
    estimators = {"svm": ("sequence", composition_svm()), "zero": ("sequence", zero_rule())}
    splits = list(repeated_splits(proteins, "grouped", n=2))
    one, two = (evaluate_baselines(estimators, inputs, proteins, splits, n) for n in (1, 2))
    pd.testing.assert_frame_equal(one, two)


def test_inner_folds_keep_clusters_together(proteins: pd.DataFrame) -> None:
    """Tuning and calibration never see a cluster on both sides."""
    machine = composition_svm()
    X, y = proteins["sequence"].to_numpy(object), proteins["label"].to_numpy(str)
    clusters = proteins["cluster_30"].to_numpy(str)
    machine.fit(X, y, groups=clusters)
    for train, held_out in machine.model_.cv:
        assert not set(clusters[train]) & set(clusters[held_out])
    assert isinstance(machine, CalibratedMachine) and set(machine.best_params_) == {
        "svc__C", "svc__gamma",
    }  # fmt: skip


def test_homology_transfer_copies_the_relatives_label() -> None:
    """A protein 90 % identical to a training one gets its label; a stranger the class shares."""
    rng = np.random.default_rng(1)
    draw = rng.integers(20, size=(4, 200))
    sequences = {f"t{i}": "".join(np.array(list(AMINO_ACIDS))[row]) for i, row in enumerate(draw)}
    sequences["relative"] = "M" * 20 + sequences["t2"][20:]
    sequences["stranger"] = "".join(rng.choice(list(AMINO_ACIDS), 200))
    train, test = np.array(["t0", "t1", "t2"]), np.array(["relative", "stranger"])
    y = np.array(["Cytoplasm", "Cytoplasm", "Nucleus"])
    for hits in (None, find_relatives(sequences, sequences)):
        model = HomologyTransfer(sequences, hits).fit(train, y)
        p = model.predict_proba(test)
        assert list(model.predict(test)) == ["Nucleus", "Cytoplasm"]
        assert p[0, 1] > 0.9 and p[1] == pytest.approx([2 / 3, 1 / 3])


def test_multi_localized_proteins_are_refused(proteins: pd.DataFrame) -> None:
    """A protein without its one label cannot be scored, and is not scored silently."""
    table = proteins.assign(label="")
    with pytest.raises(ValueError, match="leave out multi-localized"):
        evaluate_baselines({"zero": ("x", DummyClassifier())}, {"x": np.zeros(90)}, table, [])
