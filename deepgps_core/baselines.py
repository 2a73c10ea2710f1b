"""
What deepGPS's label head has to beat: simple classifiers with scikit-learn's interface.

Amino-acid composition with a support vector machine goes back to Hua and Sun (2001); the others
are a zero rule, composition of the two ends and the middle, nearest neighbors and logistic
regression on vectors, and the label of the closest training protein. Settings are chosen by
cross-validation inside the training part, grouped by homology cluster. The label head sees the
sequence only, so on the same vectors these are its peers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Self

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from tqdm import tqdm

from deepgps_core.dataset import AMINO_ACIDS
from deepgps_core.homology import find_relatives

#: Folds of the inner cross-validation.
INNER_FOLDS = 3
#: Length of a terminal segment, in residues: room for a signal or transit peptide.
SEGMENT_RESIDUES = 40
_CODES = np.frombuffer(AMINO_ACIDS.encode("ascii"), dtype=np.uint8)


def composition(sequence: str) -> np.ndarray:
    """
    Compute the share of each of the 20 amino acids.

    Returns
    -------
    shares : ndarray, shape (20,), dtype float
        In the order of `AMINO_ACIDS`; other letters count in the length only.

    Examples
    --------
    >>> composition("AAC")[:3].round(2)
    array([0.67, 0.33, 0.  ])
    """
    letters = np.frombuffer(sequence.encode("ascii"), dtype=np.uint8)
    counts = np.bincount(letters, minlength=128)[_CODES]
    return counts / max(len(letters), 1)


class Composition(TransformerMixin, BaseEstimator):
    """
    Turn sequences into amino-acid compositions, of the whole or of three segments.

    Parameters
    ----------
    segments : bool
        Whether to take the first and the last `SEGMENT_RESIDUES` and the part between them
        separately: 60 numbers instead of 20.
    """

    def __init__(self, segments: bool = False) -> None:
        self.segments = segments

    def fit(self, X: np.ndarray, y: np.ndarray | None = None) -> Self:
        """Do nothing: there is nothing to learn."""
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Return compositions, shape (N, 20) or (N, 60), of N sequences."""
        return np.stack([self._describe(str(sequence)) for sequence in X])

    def _describe(self, sequence: str) -> np.ndarray:
        if not self.segments:
            return composition(sequence)
        ends = sequence[:SEGMENT_RESIDUES], sequence[-SEGMENT_RESIDUES:]
        middle = sequence[SEGMENT_RESIDUES:-SEGMENT_RESIDUES]
        return np.concatenate([composition(part) for part in (ends[0], middle, ends[1])])

    def __sklearn_is_fitted__(self) -> bool:
        return True


class HomologyTransfer(ClassifierMixin, BaseEstimator):
    """
    Give each protein the label of the training protein that MMseqs2 aligns best.

    Parameters
    ----------
    sequences : mapping of str to str
        protein_id -> sequence; `fit` and `predict` take arrays of protein_id.
    hits : DataFrame, optional
        `find_relatives` of all against all, so that repeated splits need no new search.
    """

    def __init__(self, sequences: Mapping[str, str], hits: pd.DataFrame | None = None) -> None:
        self.sequences = sequences
        self.hits = hits

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Remember the training proteins and the class shares."""
        self.classes_, counts = np.unique(y, return_counts=True)
        self.prior_ = counts / counts.sum()
        self.label_of_ = dict(zip(X, y, strict=True))
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """
        Return class probabilities (N, K).

        The closest protein's label gets as much weight as the share of identical residues; the
        rest, all of it where MMseqs2 finds no relative, goes by the class shares.
        """
        best = self._best_hits(X)
        probabilities = np.tile(self.prior_, (len(X), 1))  # (N, K)
        for row, protein_id in enumerate(X):
            if protein_id in best:
                closest, identity = best[protein_id]
                is_label = self.classes_ == self.label_of_[closest]
                probabilities[row] = identity * is_label + (1 - identity) * self.prior_
        return probabilities

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return labels (N,)."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def _best_hits(self, X: np.ndarray) -> dict[str, tuple[str, float]]:
        hits = self.hits
        if hits is None:
            train = {name: self.sequences[name] for name in self.label_of_}
            hits = find_relatives({name: self.sequences[name] for name in X}, train)
        usable = hits["query"].isin(X) & hits["target"].isin(list(self.label_of_))
        best = hits[usable & (hits["query"] != hits["target"])]
        best = best.sort_values(["bits", "target"], ascending=[False, True])
        best = best.drop_duplicates("query")
        pairs = zip(best["target"], best["identity"], strict=True)
        return dict(zip(best["query"], pairs, strict=True))


def _tuned(model: BaseEstimator, grid: Mapping[str, list[float]]) -> GridSearchCV:
    folds = StratifiedGroupKFold(INNER_FOLDS, shuffle=True, random_state=0)
    return GridSearchCV(model, dict(grid), cv=folds, scoring="neg_log_loss", error_score="raise")


def _support_vectors(*first: BaseEstimator) -> GridSearchCV:
    # scaled so that gamma 1 / width means the same for 20 and for 60 numbers
    machine = make_pipeline(*first, StandardScaler(), SVC(random_state=0))
    grid = {"svc__C": [0.5, 2.0, 8.0], "svc__gamma": [0.005, 0.02]}
    folds = StratifiedGroupKFold(INNER_FOLDS, shuffle=True, random_state=0)
    return GridSearchCV(machine, grid, cv=folds, scoring="balanced_accuracy")


class CalibratedMachine(ClassifierMixin, BaseEstimator):
    """
    A tuned classifier whose decision values become probabilities by Platt's sigmoid.

    Parameters
    ----------
    search : GridSearchCV
        Tuned on the training part with grouped folds; the sigmoid is fitted on folds that are
        grouped the same way.
    """

    def __init__(self, search: GridSearchCV) -> None:
        self.search = search

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> Self:
        """Tune, then calibrate; `groups` are the homology clusters."""
        groups = np.arange(len(y)) if groups is None else groups
        best = clone(self.search).fit(X, y, groups=groups)
        self.best_params_ = best.best_params_
        folds = list(best.cv.split(X, y, groups))
        self.model_ = CalibratedClassifierCV(best.best_estimator_, cv=folds, ensemble=False)
        self.model_.fit(X, y)
        self.classes_ = self.model_.classes_
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return class probabilities (N, K)."""
        return self.model_.predict_proba(X)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return labels (N,)."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


def zero_rule() -> DummyClassifier:
    """Return the classifier that answers with the class shares of the training part."""
    return DummyClassifier(strategy="prior")


def composition_svm(segments: bool = False) -> CalibratedMachine:
    """Return composition with a radial support vector machine, for arrays of sequences."""
    return CalibratedMachine(_support_vectors(Composition(segments)))


def vector_svm() -> CalibratedMachine:
    """Return the same machine for vectors (N, D)."""
    return CalibratedMachine(_support_vectors())


def logistic(*first: BaseEstimator) -> GridSearchCV:
    """Return logistic regression for vectors (N, D), or for what `first` makes of the input."""
    model = make_pipeline(*first, StandardScaler(), LogisticRegression(max_iter=2000))
    return _tuned(model, {"logisticregression__C": [0.001, 0.01, 0.1, 1.0]})


def nearest_neighbors(*first: BaseEstimator) -> GridSearchCV:
    """Return k nearest neighbors for vectors (N, D), or for what `first` makes of the input."""
    model = make_pipeline(*first, StandardScaler(), KNeighborsClassifier(algorithm="brute"))
    return _tuned(model, {"kneighborsclassifier__n_neighbors": [5, 15, 35]})


def _fit_and_predict(
    named: tuple[str, BaseEstimator | Pipeline],
    X: np.ndarray,
    proteins: pd.DataFrame,
    named_split: tuple[str, pd.Series],
) -> pd.DataFrame:
    """Fit one baseline on one split; return the predictions of its test proteins."""
    (name, estimator), (split_name, split) = named, named_split
    is_test = (proteins["protein_id"].map(split) == "test").to_numpy()
    train, test = proteins[~is_test], proteins[is_test]
    model = clone(estimator)
    takes_groups = isinstance(model, (GridSearchCV, CalibratedMachine))
    extra = {"groups": train["cluster_30"].to_numpy(str)} if takes_groups else {}
    model.fit(X[~is_test], train["label"].to_numpy(str), **extra)
    rows = test[["protein_id", "label"]].reset_index(drop=True)
    rows.insert(0, "baseline", name)
    rows.insert(1, "split", split_name)
    p_names = [f"p_{label}" for label in model.classes_]
    return rows.join(pd.DataFrame(model.predict_proba(X[is_test]), columns=p_names))


def evaluate_baselines(
    estimators: Mapping[str, tuple[str, BaseEstimator | Pipeline]],
    inputs: Mapping[str, np.ndarray],
    proteins: pd.DataFrame,
    splits: Iterable[tuple[str, pd.Series]],
    workers: int = 1,
) -> pd.DataFrame:
    """
    Fit each baseline on each split and predict its test proteins.

    Parameters
    ----------
    estimators : mapping of str to (str, estimator)
        Name of a baseline -> the input it takes, and the unfitted classifier.
    inputs : mapping of str to ndarray, length N
        Name of an input -> one entry a protein, in the order of `proteins`: sequences,
        protein_ids, or vectors (N, D).
    proteins : DataFrame, length N
        Columns protein_id, label (never empty), cluster_30.
    splits : iterable of (str, Series)
        Name of a split, and the part of each protein by protein_id. Baselines have no use for
        validation proteins: they train on these too.
    workers : int
        Processes; the result does not depend on it.

    Returns
    -------
    predictions : DataFrame
        One row a baseline, split and test protein: columns baseline, split, protein_id, label
        and one column ``p_<class>`` for each class.

    Raises
    ------
    ValueError
        If a protein has no label.
    """
    if (proteins["label"] == "").any():
        raise ValueError("baselines need one label for each protein; leave out multi-localized")
    tasks = [
        delayed(_fit_and_predict)((name, model), inputs[input_name], proteins, named_split)
        for named_split in splits
        for name, (input_name, model) in estimators.items()
    ]
    done = Parallel(n_jobs=workers, return_as="generator")(tasks)
    tables = list(tqdm(done, total=len(tasks), desc="baselines", disable=None))
    return pd.concat(tables, ignore_index=True)
