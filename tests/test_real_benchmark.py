"""The benchmark on measured labels: nothing related to a test protein is learned from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deepgps_core.measured_labels import (
    SINGLE_2,
    SINGLE_4,
    SOURCES,
    benchmark_proteins,
    clusters_of,
    label_agreement,
    measured_dataset,
    places_agreement,
    read_measured_tables,
)
from deepgps_core.place_evidence import PlaceEvidence
from deepgps_core.real_benchmark import (
    LABEL_HEAD,
    Measured,
    recorded,
    run_benchmark,
    summarize_benchmark,
)
from deepgps_core.sources.embedded import embedded_proteins
from deepgps_core.splits import repeated_splits
from deepgps_core.three_sources import relatives_vote, training_rows

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
    table["gene"] = table["protein_id"].str.replace("P", "G")
    for i, source in enumerate(SOURCES):
        table[source] = np.where(np.arange(n) // 2 % 3 == i, labels, "")
        table[f"{source}_places"] = table[source]
    table["cluster_30"] = table["protein_id"]
    vectors = rng.normal(size=(n, 6))
    vectors[:, [0, 3, 5]] += 3.0 * (labels == "Nucleus")[:, None]
    return table, vectors


def test_sources_are_joined_by_sequence() -> None:
    """One row a sequence; uncertain places are left out; several places are no single label."""
    a, b, c, d = ("M" + letter * 40 for letter in "ACDE")
    targets = pd.DataFrame({"uniprot_id": ["A", "B"], "gene": ["GA", "GB"], "sequence": [a, b],
                            "locations": ["cytoplasmic", "golgi;nucleolus_gc"],
                            "label": ["cytoplasmic", ""]})  # fmt: skip
    genes = pd.DataFrame({
        "uniprot": ["A", "B", "C", "D"], "gene": ["GA", "GB", "GC", "GD"],
        "sequence": [a, b, c, d],
        "Reliability": ["Approved", "Supported", "Uncertain", "Enhanced"],
        "Main location": ["Cytosol", "Nucleoli", "Cytosol", "Cytosol"],
        "Additional location": ["", "", "", "Nucleoplasm"],
    })  # fmt: skip
    scl = pd.DataFrame({"protein_id": ["C"], "gene": ["GC"], "sequence": [c],
                        "locations": ["Nucleus"], "label": ["Nucleus"]})  # fmt: skip
    table = benchmark_proteins(targets, genes, scl).set_index("protein_id")
    assert table[list(SOURCES)].loc["A"].tolist() == ["Cytoplasm", "Cytoplasm", ""]
    assert table[list(SOURCES)].loc["B"].tolist() == ["", "Nucleus", ""]
    assert table.loc["B", "opencell_places"] == "Golgi;Nucleolus"
    assert table[list(SOURCES)].loc["C"].tolist() == ["", "", "Nucleus"]
    assert table.loc["C", "hpa_places"] == ""
    assert table.loc["D", ["hpa", "hpa_places"]].tolist() == ["", "Cytoplasm;Nucleus"]


def test_clusters_are_connected_components() -> None:
    """A chain of full-length relatives is one cluster; a shared domain does not join; genes do."""
    hits = hits_of(("a", "b", 0.5, 0.9, 90), ("b", "c", 0.31, 0.85, 60), ("c", "d", 0.9, 0.4, 80),
                   ("d", "e", 0.25, 0.9, 40))  # fmt: skip
    names = ["a", "b", "c", "d", "e", "e#1", "f", "g", "h"]
    genes = ["", "", "", "G1", "G2", "G3", "G4", "G4", ""]
    clusters = clusters_of(pd.DataFrame({"protein_id": names, "gene": genes}), hits)
    assert clusters["a"] == clusters["b"] == clusters["c"]
    assert clusters["e"] == clusters["e#1"] and clusters["f"] == clusters["g"]
    assert clusters[["a", "d", "e", "f", "h"]].nunique() == 5


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
    """Methods on vectors find the class; NaN vectors do no harm; seeds are summed up in a row."""
    table, vectors = drawn(240)
    vectors[np.flatnonzero(table["hpa"] != "")[:3]] = np.nan
    evidence = PlaceEvidence(table, vectors, hits_of(), penalty=1.0)
    measured = Measured(table, vectors, hits_of(), evidence)
    splits = list(repeated_splits(measured.own(SINGLE_2), "grouped", 2))
    found = run_benchmark(measured, SINGLE_2, splits, n_seeds=2)
    assert found[["p_Cytoplasm", "p_Nucleus"]].sum(axis=1).to_numpy() == pytest.approx(1)
    scores = summarize_benchmark(found, SINGLE_2).set_index("method")
    for method in (LABEL_HEAD, "logistic", "vector SVM, three sources", "evidence of places",
                   "combined"):  # fmt: skip
        assert scores.loc[method, "auroc"] > 0.8, method
    assert scores.loc["relatives' vote", "auroc"] == scores.loc["zero rule", "auroc"] == 0.5
    assert scores.loc[LABEL_HEAD, "n_seeds"] == 2 and scores.loc["combined", "n_splits"] == 2
    assert scores.index[-1] == "combined"


def test_evidence_hides_the_test_clusters() -> None:
    """Changing what is known of a test protein's cluster changes nothing that is answered."""
    table, vectors = drawn(90)
    table.loc[7, "cluster_30"] = table.loc[0, "cluster_30"]
    hits = hits_of(("P00", "P10", 0.25, 0.5, 80), ("P00", "P07", 0.6, 0.9, 300),
                   ("P07", "P20", 0.25, 0.5, 90), ("P20", "P07", 0.25, 0.5, 90))  # fmt: skip
    is_test = np.arange(90) == 0
    rows = np.array([0, 20, 30])
    before = PlaceEvidence(table, vectors, hits, penalty=1.0).features(rows, is_test)
    for source in SOURCES:
        table.loc[[0, 7], f"{source}_places"] = "Golgi"
    after = PlaceEvidence(table, vectors, hits, penalty=1.0).features(rows, is_test)
    assert after == pytest.approx(before)
    seen = PlaceEvidence(table, vectors, hits, penalty=1.0).features(rows, np.arange(90) == 40)
    assert not np.allclose(seen, before)


def test_evidence_regression_is_ridge() -> None:
    """The regression's answers are those of scikit-learn's on the same rows, weights and folds."""
    from sklearn.linear_model import Ridge

    table, vectors = drawn(60)
    evidence = PlaceEvidence(table, vectors, hits_of(), n_folds=3, penalty=2.0)
    is_test = np.arange(60) < 5
    rows = np.array([2, 30])
    found = evidence.features(rows, is_test)[:, :13]
    for answer, row in zip(found, rows, strict=True):
        use = ~is_test & ((evidence.fold != evidence.fold[row]) | is_test[row])
        oracle = Ridge(alpha=2.0, fit_intercept=False).fit(
            evidence.vectors[use], evidence.places[use], sample_weight=evidence.weight[use]
        )
        assert answer == pytest.approx(oracle.predict(evidence.vectors[[row]])[0], abs=1e-6)


def test_agreement_counts_shared_proteins_only() -> None:
    """Three shared proteins, two of one opinion; sources without overlap have no row."""
    table = pd.DataFrame({"opencell": ["Cytoplasm", "Nucleus", "Nucleus", ""],
                          "hpa": ["Cytoplasm", "Nucleus", "Cytoplasm", "Nucleus"],
                          "uniprot": ["", "", "", ""]})  # fmt: skip
    (row,) = label_agreement(table).to_dict("records")
    assert row["n_proteins"] == 3 and row["estimate"] == pytest.approx(2 / 3)


def test_agreement_of_sets_by_hand() -> None:
    """Places one source never names do not count; a common place is not yet the same set."""
    table = pd.DataFrame({
        "opencell_places": ["Cytoplasm;Golgi", "Nucleus", "Cytoplasm", ""],
        "hpa_places": ["Cytoplasm;Nucleus", "Nucleus;Centrosome", "Nucleus", "Nucleus"],
        "uniprot_places": ["", "", "", ""],
    })  # fmt: skip
    found = places_agreement(table).set_index("what")
    assert found.loc["same set", "estimate"] == pytest.approx(1 / 3)
    assert found.loc["a place in common", "estimate"] == pytest.approx(2 / 3)
    assert (found["n_proteins"] == 3).all()


def test_dataset_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is kept while the proteins stay the same, and replaced when they change."""
    monkeypatch.setenv("DEEPGPS_DATA", str(tmp_path))
    table, _ = drawn(6)
    path = measured_dataset(table).path
    (path / "mark").touch()
    measured_dataset(table)
    assert (path / "mark").exists()
    assert len(measured_dataset(table.iloc[:4]).proteins) == 4


def test_recorded_results_are_complete() -> None:
    """Both tasks, grouped splits, the combined method last, and intervals around estimates."""
    table = recorded()
    for _, rows in table.groupby(["task", "splits"], sort=False):
        assert rows["method"].iloc[-1] == "combined" and rows["method"].is_unique
    assert set(table.loc[table["method"] == LABEL_HEAD, "task"]) == {"single-2", "single-4"}
    assert {("single-2", "grouped"), ("single-4", "grouped")} <= set(
        zip(table["task"], table["splits"], strict=True)
    )
    for metric in ("accuracy", "auroc"):
        assert table[metric].between(table[f"{metric}_low"], table[f"{metric}_high"]).all()
    evidence = recorded("real_evidence")
    assert (evidence["low"] <= evidence["estimate"]).all()
    assert (evidence["estimate"] <= evidence["high"]).all()
    assert not evidence["question"].eq("").any()


@pytest.mark.real_data
def test_real_tables_are_joined(real_data: Path) -> None:
    """OpenCell's and the Atlas's proteins are found in the numbers their tables hold."""
    targets, genes = read_measured_tables(real_data)
    table = benchmark_proteins(targets, genes, embedded_proteins())
    counts = table["opencell"].value_counts()
    assert 205 <= counts["Cytoplasm"] <= 225 and 115 <= counts["Nucleus"] <= 140
    assert set(SINGLE_4) <= set(table["hpa"])
    agreement = label_agreement(table).set_index(["first", "second"])["estimate"]
    assert agreement["opencell", "hpa"] > 0.75
