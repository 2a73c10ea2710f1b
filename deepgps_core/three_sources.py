"""
Methods that learn a label of OpenCell's from OpenCell, the Protein Atlas and UniProt together.

*Without every protein that shares a cluster, a gene or an accession with a test protein*. Clusters
are those of all proteins together. A support vector machine on vectors, a vote of remote
relatives, a regression on the places that other proteins suggest, and the three combined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from deepgps_core.measured_labels import SOURCES
from deepgps_core.place_evidence import PRIOR_BITS, PlaceEvidence

#: Exponent of the vote in `combined`: chosen among 1/2, 1 and 2 on splits that are not reported.
VOTE_WEIGHT = 2.0
#: How steeply decision values become probabilities in `combined`.
SLOPE = 2.0
#: Inverse penalty of the regression on places' evidence, chosen like `VOTE_WEIGHT`.
EVIDENCE_C = 0.03
COMBINED = "combined"


@dataclass(frozen=True)
class Measured:
    """
    What the benchmark is run on.

    Parameters
    ----------
    proteins : DataFrame, length N
        As `benchmark_proteins` returns them, and cluster_30.
    vectors : ndarray, shape (N, D)
        Of the middle, last but one and last layer. NaN where a protein of another source has
        none: then it has a vote only.
    hits : DataFrame
        `homology.find_relatives` of all against all.
    evidence : PlaceEvidence
        Of the same proteins.
    residues : dict of str to ndarray, optional
        Residue embeddings (L, D / 3) of OpenCell's proteins, for light attention.
    """

    proteins: pd.DataFrame
    vectors: np.ndarray
    hits: pd.DataFrame
    evidence: PlaceEvidence
    residues: dict[str, np.ndarray] | None = None

    def own(self, labels: Sequence[str]) -> pd.DataFrame:
        """Return OpenCell's proteins with one of `labels`, in the columns splits ask for."""
        chosen = self.proteins[self.proteins["opencell"].isin(labels)]
        return chosen.assign(label=chosen["opencell"], locations=chosen["opencell"])


def training_rows(
    proteins: pd.DataFrame, is_test: np.ndarray, labels: Sequence[str], sources: Sequence[str]
) -> pd.DataFrame:
    """
    Return what may be learned from: one row a protein and source that labels it.

    Parameters
    ----------
    proteins : DataFrame
        Columns as `benchmark_proteins` returns them, and cluster_30.
    is_test : ndarray, shape (N,), dtype bool
    sources : sequence of str
        Of `SOURCES`.

    Returns
    -------
    rows : DataFrame
        Columns row (in `proteins`), label, source. No protein of a test protein's cluster.
    """
    related = proteins["cluster_30"].isin(set(proteins.loc[is_test, "cluster_30"])).to_numpy()
    parts = []
    for source in sources:
        usable = ~is_test & proteins[source].isin(labels).to_numpy()
        if source != "opencell":  # in a random split, OpenCell's own relatives stay
            usable &= ~related
        rows = np.flatnonzero(usable)
        parts.append(pd.DataFrame({"row": rows, "label": proteins[source].to_numpy()[rows]}))
        parts[-1]["source"] = source
    return pd.concat(parts, ignore_index=True)


def relatives_vote(
    hits: pd.DataFrame, train_ids: np.ndarray, train_labels: np.ndarray, test_ids: np.ndarray,
    labels: Sequence[str], prior: np.ndarray, prior_bits: float = PRIOR_BITS,
) -> np.ndarray:  # fmt: skip
    """
    Let all relatives vote, each with the bits of its alignment.

    Relatives that are no cluster mates share a domain, or are remote.

    Returns
    -------
    probabilities : ndarray, shape (N, K)
        Class shares `prior` where a protein has no relative.
    """
    votes = pd.get_dummies(pd.Series(train_labels)).reindex(columns=list(labels), fill_value=False)
    votes = votes.astype(float).groupby(np.asarray(train_ids)).mean()
    usable = hits["target"].isin(votes.index) & hits["query"].isin(test_ids)
    found = hits[usable & (hits["query"] != hits["target"])]
    weighted = votes.loc[found["target"]].to_numpy() * found[["bits"]].to_numpy()
    total = pd.DataFrame(weighted, columns=list(labels)).groupby(found["query"].to_numpy()).sum()
    bits = total.reindex(test_ids).to_numpy(float, na_value=0.0)  # (N, K)
    return (bits + prior_bits * prior) / (bits.sum(axis=1, keepdims=True) + prior_bits)


def _normalized(scores: np.ndarray) -> np.ndarray:
    return scores / scores.sum(axis=1, keepdims=True)


def _machine_probabilities(
    X: np.ndarray, y: np.ndarray, weights: np.ndarray, X_test: np.ndarray, labels: Sequence[str]
) -> np.ndarray:
    """Fit a support vector machine; return exp(slope x decision value), normalized, (N, K)."""
    machine = make_pipeline(StandardScaler(), SVC(C=1.5, random_state=0))
    machine.fit(X, y, svc__sample_weight=weights)
    decision, classes = machine.decision_function(X_test), list(machine.classes_)
    if decision.ndim == 1:
        decision = np.stack([-decision, decision], axis=1) / 2
    return _normalized(np.exp(SLOPE * decision[:, [classes.index(label) for label in labels]]))


def evidence_probabilities(
    evidence: PlaceEvidence, own: pd.DataFrame, is_test: np.ndarray, labels: Sequence[str]
) -> np.ndarray:
    """
    Learn from OpenCell's training proteins what evidence of places means; ask the test proteins.

    Parameters
    ----------
    own : DataFrame
        `training_rows` of OpenCell.
    is_test : ndarray, shape (N,), dtype bool

    Returns
    -------
    probabilities : ndarray, shape (M, K)
    """
    rows, test = own["row"].to_numpy(), np.flatnonzero(is_test)
    features = evidence.features(np.concatenate([rows, test]), is_test)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=EVIDENCE_C, max_iter=1000))
    model.fit(features[: len(rows)], own["label"].to_numpy(str))
    at = [list(model.classes_).index(label) for label in labels]
    return model.predict_proba(features[len(rows) :])[:, at]


def predict_split(measured: Measured, labels: Sequence[str], is_test: np.ndarray) -> pd.DataFrame:
    """
    Train the methods that use other sources on one split and predict its test proteins.

    Parameters
    ----------
    labels : sequence of str
        `SINGLE_2` or `SINGLE_4`.
    is_test : ndarray, shape (N,), dtype bool
        Proteins with a label of OpenCell's among `labels`.

    Returns
    -------
    predictions : DataFrame
        Columns method, protein_id, label, ``p_<label>``.
    """
    proteins, vectors = measured.proteins, measured.vectors
    own = training_rows(proteins, is_test, labels, ["opencell"])
    every = training_rows(proteins, is_test, labels, SOURCES)
    prior = own["label"].value_counts(normalize=True).reindex(list(labels)).fillna(0.0)
    ids = proteins["protein_id"].to_numpy(object)
    # sources differ in class shares: weighted to those of OpenCell
    share = every.groupby("source")["label"].value_counts(normalize=True)
    pairs = zip(every["source"], every["label"], strict=True)
    weights = np.array([prior[label] / share[source, label] for source, label in pairs])
    found: dict[str, np.ndarray] = {}
    for name, rows, weight in (
        ("own", own, np.ones(len(own))), ("vector SVM, three sources", every, weights)
    ):  # fmt: skip
        known = np.isfinite(vectors[rows["row"], 0])
        learned_from = rows[known]
        found[name] = _machine_probabilities(
            vectors[learned_from["row"]], learned_from["label"].to_numpy(str), weight[known],
            vectors[is_test], labels,
        )  # fmt: skip
    found["relatives' vote"] = relatives_vote(
        measured.hits, ids[every["row"]], every["label"].to_numpy(), ids[is_test], labels,
        prior.to_numpy(),
    )  # fmt: skip
    found["evidence of places"] = evidence_probabilities(measured.evidence, own, is_test, labels)
    found[COMBINED] = combine(found, prior.to_numpy())
    truth = proteins.loc[is_test, ["protein_id", "opencell"]].reset_index(drop=True)
    truth = truth.rename(columns={"opencell": "label"})
    columns = [f"p_{label}" for label in labels]
    tables = [
        truth.join(pd.DataFrame(p, columns=columns)).assign(method=name)
        for name, p in found.items()
        if name != "own"
    ]
    return pd.concat(tables, ignore_index=True)[["method", "protein_id", "label", *columns]]


def combine(found: dict[str, np.ndarray], prior: np.ndarray) -> np.ndarray:
    """Join machines, vote and evidence into one set of probabilities, (N, K)."""
    learned = np.sqrt(found["own"] * found["vector SVM, three sources"])
    voted = _normalized(learned * (found["relatives' vote"] / prior) ** VOTE_WEIGHT)
    return _normalized(np.sqrt(voted * found["evidence of places"]))
