"""
The label side on measured labels: OpenCell's proteins, with the Protein Atlas and UniProt beside.

OpenCell has a few hundred singly localized proteins, too few to learn from alone. Here they are
split at random or by homology cluster, and methods may also learn from proteins that the Human
Protein Atlas and UniProt (SCL2205) place in one location, *without every protein that shares a
cluster with a test protein*. Clusters are those of all proteins together. No image is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from types import MappingProxyType

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.base import BaseEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from deepgps_core.baselines import CalibratedMachine, composition_svm
from deepgps_core.dataset import InputError, check_sequence
from deepgps_core.label_head import LabelHeadClassifier
from deepgps_core.metrics import auroc
from deepgps_core.sources.opencell_tables import LABEL_OF
from deepgps_core.statistics import Interval, summarize_splits, wilson_interval

SINGLE_2 = ("Cytoplasm", "Nucleus")
SINGLE_4 = ("Cytoplasm", "Nucleus", "Vesicles", "ER")
#: The Protein Atlas's words; parts of the nucleus count as nucleus.
HPA_LABELS: Mapping[str, str] = MappingProxyType(
    {
        "Cytosol": "Cytoplasm", "Nucleoplasm": "Nucleus", "Nuclear speckles": "Nucleus",
        "Nuclear bodies": "Nucleus", "Nucleoli": "Nucleus", "Vesicles": "Vesicles",
        "Endoplasmic reticulum": "ER",
    }
)  # fmt: skip
SOURCES = ("opencell", "hpa", "uniprot")
#: Bits of alignment that weigh as much as the class shares do.
PRIOR_BITS = 50.0
#: Exponent of the vote in `combined`: chosen among 1/2, 1 and 2 on 12 grouped splits of single-2.
VOTE_WEIGHT = 2.0
#: How steeply decision values become probabilities in `combined`.
SLOPE = 2.0


def recorded_benchmark() -> pd.DataFrame:
    """
    Return the results recorded when the measured labels were last at hand.

    Returns
    -------
    table : DataFrame
        One row a task (single-2, single-4), kind of split and method: columns as
        `summarize_benchmark` gives them, and n_proteins.
    """
    path = files("deepgps_core") / "data" / "real_benchmark.csv"
    with path.open(encoding="utf-8") as stream:
        return pd.read_csv(stream)


def _usable(sequence: str) -> bool:
    try:
        check_sequence("", sequence)
    except InputError:
        return False
    return True


def benchmark_proteins(
    targets: pd.DataFrame, genes: pd.DataFrame, proteins: pd.DataFrame
) -> pd.DataFrame:
    """
    Join the three sources of labels by sequence.

    Parameters
    ----------
    targets : DataFrame
        OpenCell's: uniprot_id, sequence, label (its own words; empty unless singly localized).
    genes : DataFrame
        The Protein Atlas's: uniprot, sequence, Reliability, Main location, Additional location.
        Uncertain genes, and those with several locations, get no label.
    proteins : DataFrame
        UniProt's, as `embedded_proteins` returns them: protein_id, sequence, label.

    Returns
    -------
    table : DataFrame
        One row a distinct sequence that at least one source labels: protein_id, sequence, and
        a column for each of `SOURCES`, empty where that source has no single label.
    """
    main, single = genes["Main location"], genes["Additional location"] == ""
    sure = single & (genes["Reliability"] != "Uncertain")
    parts = {
        "opencell": (targets["uniprot_id"], targets["sequence"], targets["label"].map(LABEL_OF)),
        "hpa": (genes["uniprot"], genes["sequence"], main.where(sure).map(HPA_LABELS)),
        "uniprot": (
            proteins["protein_id"], proteins["sequence"],
            proteins["label"].where(proteins["label"].isin(SINGLE_2)),
        ),
    }  # fmt: skip
    tables = []
    for source, (names, sequences, labels) in parts.items():
        rows = pd.DataFrame({"protein_id": names, "sequence": sequences, source: labels})
        rows = rows[rows[source].isin(SINGLE_4)].drop_duplicates("sequence")
        tables.append(rows.set_index("sequence"))
    joined = pd.concat([t.drop(columns="protein_id") for t in tables], axis=1).fillna("")
    names = pd.concat([t["protein_id"] for t in tables])
    joined.insert(0, "protein_id", names[~names.index.duplicated()].reindex(joined.index))
    table = joined.rename_axis(index="sequence").reset_index()
    table = table[[_usable(sequence) for sequence in table["sequence"]]]
    # an accession may stand for two sequences in two releases; both are kept, under two names
    again = table.groupby("protein_id").cumcount()
    table["protein_id"] += again.map(lambda n: f"#{n}" if n else "")
    return table.sort_values("protein_id", ignore_index=True)


def clusters_of(
    protein_ids: Sequence[str], hits: pd.DataFrame, min_identity: float = 0.3, coverage: float = 0.8
) -> pd.Series:
    """
    Return each protein's homology cluster from hits of all against all.

    Parameters
    ----------
    hits : DataFrame
        As `homology.find_relatives` returns it, unfiltered: the same hits serve `relatives_vote`.
    """
    covered = hits[["query_coverage", "target_coverage"]].min(axis=1) >= coverage
    near = hits[covered & (hits["identity"] >= min_identity)]
    number = pd.Series(np.arange(len(protein_ids)), index=list(protein_ids))
    near = near[near["query"].isin(number.index) & near["target"].isin(number.index)]
    ends = (number[near["query"]].to_numpy(), number[near["target"]].to_numpy())
    graph = coo_array((np.ones(len(near)), ends), shape=(len(number), len(number)))
    _, component = connected_components(graph, directed=False)
    return pd.Series(component, index=number.index).map("c{}".format)


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
    # another source may have the same protein in another length, and so in another cluster
    accession = proteins["protein_id"].str.split("#").str[0]
    related = proteins["cluster_30"].isin(set(proteins.loc[is_test, "cluster_30"]))
    related |= accession.isin(set(accession[is_test]))
    parts = []
    for source in sources:
        usable = ~is_test & proteins[source].isin(labels)
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
    bits = total.reindex(test_ids).fillna(0.0).to_numpy()  # (N, K)
    return (bits + prior_bits * prior) / (bits.sum(axis=1, keepdims=True) + prior_bits)


def _machine_probabilities(
    X: np.ndarray, y: np.ndarray, weights: np.ndarray, X_test: np.ndarray, labels: Sequence[str]
) -> np.ndarray:
    """Fit a support vector machine; return exp(slope x decision value), normalized, (N, K)."""
    machine = make_pipeline(StandardScaler(), SVC(C=1.5, random_state=0))
    machine.fit(X, y, svc__sample_weight=weights)
    decision, classes = machine.decision_function(X_test), list(machine.classes_)
    if decision.ndim == 1:
        decision = np.stack([-decision, decision], axis=1) / 2
    raised = np.exp(SLOPE * decision[:, [classes.index(label) for label in labels]])
    return raised / raised.sum(axis=1, keepdims=True)


def _baselines() -> dict[str, tuple[str, BaseEstimator]]:
    head = LabelHeadClassifier(
        hidden_dim=256, epochs=20, learning_rate=3e-4, standardize=True, validation_fraction=0
    )
    return {"composition SVM": ("sequence", composition_svm()), "label head": ("vector", head)}


def predict_split(
    proteins: pd.DataFrame, vectors: np.ndarray, hits: pd.DataFrame, labels: Sequence[str],
    is_test: np.ndarray,
) -> pd.DataFrame:  # fmt: skip
    """
    Train every method on one split and predict its test proteins.

    Parameters
    ----------
    proteins : DataFrame, length N
        As for `training_rows`.
    vectors : ndarray, shape (N, D)
        NaN where a protein of another source has none: then it has a vote only.
    hits : DataFrame
        `homology.find_relatives` of all against all.
    labels : sequence of str
        `SINGLE_2` or `SINGLE_4`.
    is_test : ndarray, shape (N,), dtype bool
        Proteins with a label of OpenCell's among `labels`.

    Returns
    -------
    predictions : DataFrame
        Columns method, protein_id, label, ``p_<label>``.
    """
    own = training_rows(proteins, is_test, labels, ["opencell"])
    every = training_rows(proteins, is_test, labels, SOURCES)
    prior = own["label"].value_counts(normalize=True).reindex(list(labels)).fillna(0.0)
    ids = proteins["protein_id"].to_numpy(object)
    # sources differ in class shares: weighted to those of OpenCell
    share = every.groupby("source")["label"].value_counts(normalize=True)
    pairs = zip(every["source"], every["label"], strict=True)
    weights = np.array([prior[label] / share[source, label] for source, label in pairs])
    inputs = {"sequence": proteins["sequence"].to_numpy(object), "vector": vectors}
    found: dict[str, np.ndarray] = {}
    at_own = own["row"].to_numpy()
    for name, (kind, estimator) in _baselines().items():
        extra = {}
        if isinstance(estimator, CalibratedMachine):
            extra["groups"] = proteins["cluster_30"].to_numpy(str)[at_own]
        estimator.fit(inputs[kind][at_own], own["label"].to_numpy(str), **extra)
        at = [list(estimator.classes_).index(label) for label in labels]
        found[name] = estimator.predict_proba(inputs[kind][is_test])[:, at]
    for name, rows, weight in (
        ("vector SVM", own, np.ones(len(own))), ("vector SVM, three sources", every, weights)
    ):  # fmt: skip
        known = np.isfinite(vectors[rows["row"], 0])
        learned_from = rows[known]
        found[name] = _machine_probabilities(
            vectors[learned_from["row"]], learned_from["label"].to_numpy(str), weight[known],
            vectors[is_test], labels,
        )  # fmt: skip
    found["relatives' vote"] = relatives_vote(
        hits, ids[every["row"]], every["label"].to_numpy(), ids[is_test], labels, prior.to_numpy()
    )
    learned = np.sqrt(found["vector SVM"] * found["vector SVM, three sources"])
    both = learned * (found["relatives' vote"] / prior.to_numpy()) ** VOTE_WEIGHT
    found["combined"] = both / both.sum(axis=1, keepdims=True)
    truth = proteins.loc[is_test, ["protein_id", "opencell"]].reset_index(drop=True)
    truth = truth.rename(columns={"opencell": "label"})
    columns = [f"p_{label}" for label in labels]
    tables = [
        truth.join(pd.DataFrame(p, columns=columns)).assign(method=name)
        for name, p in found.items()
    ]
    return pd.concat(tables, ignore_index=True)[["method", "protein_id", "label", *columns]]


def run_benchmark(
    proteins: pd.DataFrame, vectors: np.ndarray, hits: pd.DataFrame, labels: Sequence[str],
    splits: Iterable[tuple[str, pd.Series]],
) -> pd.DataFrame:  # fmt: skip
    """Return `predict_split` of many splits of OpenCell's proteins, with a column split."""
    tables = []
    for name, split in splits:
        part = proteins["protein_id"].map(split)
        is_test = ((part == "test") & proteins["opencell"].isin(labels)).to_numpy()
        tables.append(predict_split(proteins, vectors, hits, labels, is_test).assign(split=name))
    return pd.concat(tables, ignore_index=True)


def summarize_benchmark(predictions: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """
    Summarize accuracy and AUROC (mean one-vs-rest for more than two classes) over splits.

    Returns
    -------
    table : DataFrame
        One row a method: method, n_splits, and for each of accuracy and auroc the mean, sd,
        low and high, with Nadeau and Bengio's interval for splits that share proteins.
    """
    columns = [f"p_{label}" for label in labels]
    rows = []
    for method, of_method in predictions.groupby("method", sort=False):
        scores: dict[str, list[float]] = {"accuracy": [], "auroc": []}
        for _, rows_of_split in of_method.groupby("split", sort=False):
            truth, p = rows_of_split["label"].to_numpy(str), rows_of_split[columns].to_numpy()
            called = np.asarray(labels)[p.argmax(axis=1)]
            scores["accuracy"].append(float((called == truth).mean()))
            areas = [auroc(truth == label, p[:, k]) for k, label in enumerate(labels)]
            scores["auroc"].append(float(np.nanmean(areas)))
        row: dict[str, object] = {"method": method, "n_splits": len(scores["auroc"])}
        for metric, values in scores.items():
            summary = summarize_splits(values)
            row |= {metric: summary.mean, f"{metric}_sd": summary.sd,
                    f"{metric}_low": summary.low, f"{metric}_high": summary.high}  # fmt: skip
        rows.append(row)
    return pd.DataFrame(rows)


def label_agreement(proteins: pd.DataFrame, labels: Sequence[str] = SINGLE_2) -> pd.DataFrame:
    """
    Compare what two sources say of the same proteins: no method can be better than that.

    Returns
    -------
    table : DataFrame
        One row a pair of sources: first, second, n_proteins, estimate, low, high.
    """
    rows = []
    for i, first in enumerate(SOURCES):
        for second in SOURCES[i + 1 :]:
            both = proteins[proteins[first].isin(labels) & proteins[second].isin(labels)]
            if both.empty:
                continue
            same = int((both[first] == both[second]).sum())
            interval: Interval = wilson_interval(same, len(both))
            rows.append((first, second, len(both), *interval))
    return pd.DataFrame(rows, columns=["first", "second", "n_proteins", "estimate", "low", "high"])
