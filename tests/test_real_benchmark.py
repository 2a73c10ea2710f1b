"""The benchmark on measured labels: nothing related to a test protein is learned from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deepgps_core.real_benchmark import (
    SINGLE_2,
    SINGLE_4,
    SOURCES,
    benchmark_proteins,
    clusters_of,
    label_agreement,
    predict_split,
    recorded_benchmark,
    relatives_vote,
    summarize_benchmark,
    training_rows,
)
from deepgps_core.sources.embedded import embedded_proteins

COLUMNS = ["query", "target", "identity", "query_coverage", "target_coverage", "evalue", "bits"]


def hits_of(*pairs: tuple[str, str, float, float, float]) -> pd.DataFrame:
    """Make hits: query, target, identity, coverage of both, bits."""
    rows = [(q, t, i, c, c, 1e-9, b) for q, t, i, c, b in pairs]
    return pd.DataFrame(rows, columns=COLUMNS)


def drawn(n: int = 80, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Proteins of two classes whose vectors tell the class; a third in each source."""
    rng = np.random.default_rng(seed)
    labels = np.array(SINGLE_2)[np.arange(n) % 2]
    sequences = ["".join(rng.choice(list("ACDEFGHIKL"), 60)) for _ in range(n)]
    table = pd.DataFrame({"protein_id": [f"P{i:02}" for i in range(n)], "sequence": sequences})
    for i, source in enumerate(SOURCES):
        table[source] = np.where(np.arange(n) // 2 % 3 == i, labels, "")
    table["cluster_30"] = table["protein_id"]
    vectors = rng.normal(size=(n, 6))
    vectors[:, 0] += 3.0 * (labels == "Nucleus")
    return table, vectors


def test_sources_are_joined_by_sequence() -> None:
    """One row a sequence; uncertain, multi-localized and unknown labels are left empty."""
    a, b, c, d = ("M" + letter * 40 for letter in "ACDE")
    targets = pd.DataFrame({"uniprot_id": ["A", "B"], "sequence": [a, b],
                            "label": ["cytoplasmic", "golgi"]})  # fmt: skip
    genes = pd.DataFrame({
        "uniprot": ["A", "B", "C", "D"], "sequence": [a, b, c, d],
        "Reliability": ["Approved", "Supported", "Uncertain", "Enhanced"],
        "Main location": ["Cytosol", "Nucleoli", "Cytosol", "Cytosol"],
        "Additional location": ["", "", "", "Nucleoplasm"],
    })  # fmt: skip
    scl = pd.DataFrame({"protein_id": ["C"], "sequence": [c], "label": ["Nucleus"]})
    table = benchmark_proteins(targets, genes, scl).set_index("protein_id")
    assert table[list(SOURCES)].loc["A"].tolist() == ["Cytoplasm", "Cytoplasm", ""]
    assert table[list(SOURCES)].loc["B"].tolist() == ["", "Nucleus", ""]
    assert table[list(SOURCES)].loc["C"].tolist() == ["", "", "Nucleus"]
    assert "D" not in table.index


def test_clusters_are_connected_components() -> None:
    """A chain of full-length relatives is one cluster; a shared domain does not join."""
    hits = hits_of(("a", "b", 0.5, 0.9, 90), ("b", "c", 0.31, 0.85, 60), ("c", "d", 0.9, 0.4, 80),
                   ("d", "e", 0.25, 0.9, 40))  # fmt: skip
    clusters = clusters_of(list("abcde"), hits)
    assert clusters["a"] == clusters["b"] == clusters["c"]
    assert clusters[["a", "d", "e"]].nunique() == 3


def test_no_cluster_mate_of_a_test_protein_is_learned_from() -> None:
    """Other sources lose whole clusters, the test protein's own row included."""
    table, _ = drawn(12)
    table["hpa"] = table["opencell"].where(table["opencell"] != "", table["hpa"])
    table.loc[2, "cluster_30"] = table.loc[0, "cluster_30"]
    is_test = np.zeros(12, bool)
    is_test[0] = True
    rows = training_rows(table, is_test, SINGLE_2, SOURCES)
    assert not set(rows["row"]) & {0, 2}
    assert {1, 3} <= set(rows["row"])
    assert set(rows["source"]) == set(SOURCES)


def test_relatives_vote_by_hand() -> None:
    """50 bits for the nucleus against a prior worth 50: halfway; itself does not count."""
    hits = hits_of(("q", "q", 1.0, 1.0, 900), ("q", "t", 0.2, 0.5, 50))
    prior = np.array([0.6, 0.4])
    p = relatives_vote(hits, np.array(["t", "q"]), np.array(["Nucleus", "Cytoplasm"]),
                       np.array(["q", "lonely"]), SINGLE_2, prior, prior_bits=50.0)  # fmt: skip
    assert p[0] == pytest.approx([0.3, 0.7]) and p[1] == pytest.approx(prior)


def test_every_method_learns_and_missing_vectors_are_passed_over() -> None:
    """Methods on vectors find the class; probabilities add to one; NaN vectors do no harm."""
    table, vectors = drawn()
    own = np.flatnonzero(table["opencell"] != "")
    is_test = np.zeros(len(table), bool)
    is_test[own[:10]] = True
    vectors[np.flatnonzero(table["hpa"] != "")[:3]] = np.nan
    found = predict_split(table, vectors, hits_of(), SINGLE_2, is_test)
    assert found[["p_Cytoplasm", "p_Nucleus"]].sum(axis=1).to_numpy() == pytest.approx(1)
    scores = summarize_benchmark(
        pd.concat([found.assign(split="a"), found.assign(split="b")]), SINGLE_2
    ).set_index("method")
    for method in ("label head", "vector SVM", "vector SVM, three sources", "combined"):
        assert scores.loc[method, "auroc"] > 0.8, method
    assert scores.loc["relatives' vote", "auroc"] == 0.5
    assert scores.loc["combined", "n_splits"] == 2


def test_agreement_counts_shared_proteins_only() -> None:
    """Three shared proteins, two of one opinion; sources without overlap have no row."""
    table = pd.DataFrame({"opencell": ["Cytoplasm", "Nucleus", "Nucleus", ""],
                          "hpa": ["Cytoplasm", "Nucleus", "Cytoplasm", "Nucleus"],
                          "uniprot": ["", "", "", ""]})  # fmt: skip
    (row,) = label_agreement(table).to_dict("records")
    assert row["n_proteins"] == 3 and row["estimate"] == pytest.approx(2 / 3)


def test_recorded_results_are_complete() -> None:
    """Both tasks, grouped splits, all methods, and intervals that hold their estimates."""
    table = recorded_benchmark()
    for task in ("single-2", "single-4"):
        rows = table[(table["task"] == task) & (table["splits"] == "grouped")]
        assert rows["method"].iloc[-1] == "combined" and len(rows) == 6
    for metric in ("accuracy", "auroc"):
        assert table[metric].between(table[f"{metric}_low"], table[f"{metric}_high"]).all()


@pytest.mark.real_data
def test_real_tables_are_joined(real_data: Path) -> None:
    """OpenCell's and the Atlas's proteins are found in the numbers their tables hold."""
    targets = pd.read_csv(real_data / "opencell/opencell_targets_with_seq.csv", dtype=str)
    targets = targets.fillna("").rename(
        columns={"uniprot": "uniprot_id", "seq": "sequence", "grade3": "label"}
    )
    genes = pd.read_csv(real_data / "hpa/hpa_with_uniprot_and_seq.csv.gz", dtype=str).fillna("")
    table = benchmark_proteins(
        targets, genes.rename(columns={"seq": "sequence"}), embedded_proteins()
    )
    counts = table["opencell"].value_counts()
    assert 205 <= counts["Cytoplasm"] <= 225 and 115 <= counts["Nucleus"] <= 140
    assert set(SINGLE_4) <= set(table["hpa"])
    agreement = label_agreement(table).set_index(["first", "second"])["estimate"]
    assert agreement["opencell", "hpa"] > 0.75
