"""What a reviewer asks: relatives, overlap, the experiment's table, paired tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from deepgps_core.dataset import InputError
from deepgps_core.measured_evidence import (
    EXPERIMENT_COLUMNS,
    by_closeness,
    closest_training,
    label_from_experiment,
    library_table,
    overlap,
    paired_tests,
    showcase_relatives,
)
from deepgps_core.measured_labels import SINGLE_2

COLUMNS = ["query", "target", "identity", "query_coverage", "target_coverage", "evalue", "bits"]


def hits_of(*pairs: tuple[str, str, float, float, float]) -> pd.DataFrame:
    """Make hits: query, target, identity, coverage of both, bits."""
    rows = [(q, t, i, c, c, 1e-9, b) for q, t, i, c, b in pairs]
    return pd.DataFrame(rows, columns=COLUMNS)


def split_of(**parts: str) -> pd.Series:
    return pd.Series(parts)


def test_closest_training_protein_by_hand() -> None:
    """Test proteins, short alignments and unknown proteins are no training relatives."""
    hits = hits_of(("a", "a", 1.0, 1.0, 99), ("a", "b", 0.9, 0.9, 90), ("a", "c", 0.4, 0.6, 50),
                   ("a", "d", 0.8, 0.3, 40), ("a", "x", 0.9, 1.0, 90))  # fmt: skip
    found = closest_training(hits, split_of(a="test", b="test", c="train", d="validation"))
    assert found.to_dict() == {"a": 0.4, "b": 0.0}


def test_bands_count_each_protein_once() -> None:
    """Two splits test a protein, right once: its share is a half; bands follow the identity."""
    predictions = pd.DataFrame({
        "method": "m", "split": ["s", "s", "t"], "protein_id": ["a", "b", "a"],
        "label": ["Cytoplasm", "Nucleus", "Cytoplasm"],
        "p_Cytoplasm": [0.9, 0.2, 0.1], "p_Nucleus": [0.1, 0.8, 0.9],
    })  # fmt: skip
    splits = [("s", split_of(a="test", b="test", c="train")),
              ("t", split_of(a="test", b="train", c="train"))]  # fmt: skip
    hits = hits_of(("a", "c", 0.6, 0.9, 50))
    found = by_closeness(predictions, hits, splits, SINGLE_2).set_index("closest")
    assert found.loc["over 50 %", "n_proteins"] == found.loc["none", "n_proteins"] == 1
    assert found.loc["none", "estimate"] == 1.0


def test_showcase_relatives_by_hand() -> None:
    """A gene's relatives are counted once, itself never; absent genes are said to be absent."""
    proteins = pd.DataFrame({"protein_id": ["a", "b", "c"], "gene": ["AGO1", "AGO2", "X"],
                             "place": ["Cytoplasm", "Cytoplasm", "Nucleus"]})  # fmt: skip
    hits = hits_of(("a", "a", 1.0, 1.0, 900), ("a", "b", 0.8, 1.0, 700), ("a", "c", 0.35, 0.5, 60))
    found = showcase_relatives(proteins, hits, "place", ["AGO1", "X", "BRD3"]).set_index("gene")
    assert found.loc["AGO1", ["n_relatives", "closest", "same_label"]].tolist() == [
        2,
        "AGO2",
        "yes",
    ]
    assert found.loc["AGO1", "p_trained_on"] == pytest.approx(1 - 0.18**2)
    assert found.loc["X", "n_relatives"] == 0
    assert found.loc["BRD3", "label"] == "not in the table"


def test_overlap_by_hand() -> None:
    """By accession, by cluster, and by a cluster mate that says the same."""
    proteins = pd.DataFrame({
        "protein_id": ["A", "A#1", "B", "C", "D"], "cluster_30": ["1", "1", "2", "2", "3"],
        "opencell": ["Nucleus", "", "Cytoplasm", "", "Nucleus"],
        "uniprot_places": ["", "Nucleus;Golgi", "", "Nucleus", ""],
    })  # fmt: skip
    found = overlap(proteins, "uniprot", SINGLE_2).set_index("by")["estimate"]
    assert found.to_numpy() == pytest.approx([1 / 3, 2 / 3, 1 / 3])


def test_a_label_that_the_experiment_tells_is_found(tmp_path: Path) -> None:
    """A terminus that tells the label has an AUROC near 1; random fractions are near a half."""
    rng = np.random.default_rng(0)
    is_cytoplasm = rng.random(200) < 0.6
    names = [f"P{i}" for i in range(200)]
    library = pd.DataFrame(rng.random((200, 3)), columns=list(EXPERIMENT_COLUMNS))
    library["uniprot_id"], library["tagged_terminus"] = names, np.where(is_cytoplasm, "N", "c")
    (tmp_path / "opencell").mkdir()
    library.to_csv(tmp_path / "opencell/opencell-library-metadata.csv", index=False)
    proteins = pd.DataFrame({"protein_id": names,
                             "opencell": np.where(is_cytoplasm, *SINGLE_2)})  # fmt: skip
    found = label_from_experiment(library_table(tmp_path), proteins, SINGLE_2).set_index("what")
    assert found.loc["tagged terminus", "estimate"] > 0.95
    assert found.loc["allele fractions", "low"] < 0.55
    library.drop(columns="tagged_terminus").to_csv(
        tmp_path / "opencell/opencell-library-metadata.csv", index=False
    )
    with pytest.raises(InputError, match="tagged_terminus is missing"):
        library_table(tmp_path)


def test_paired_tests_against_scipy() -> None:
    """McNemar's p-value is the binomial test of the discordant; Holm never makes one smaller."""
    rng = np.random.default_rng(1)
    truth = np.where(rng.random(120) < 0.5, *SINGLE_2)
    tables = []
    for name, noise in (("ours", 0.6), ("better", 0.3), ("worse", 3.0), ("ours#1", 0.6)):
        p = 1 / (1 + np.exp(-4 * (truth == "Cytoplasm") + 2 - noise * rng.normal(size=120) * 4))
        tables.append(pd.DataFrame({
            "method": name, "protein_id": [f"P{i}" for i in range(120)], "label": truth,
            "p_Cytoplasm": p, "p_Nucleus": 1 - p,
        }))  # fmt: skip
    found = paired_tests(pd.concat(tables), SINGLE_2, "ours").set_index("model")
    assert list(found.index) == ["better", "worse"]
    right = {t["method"][0]: ((t["p_Cytoplasm"] >= 0.5) == (t["label"] == "Cytoplasm"))
             for t in tables}  # fmt: skip
    wins = int((right["ours"] & ~right["worse"]).sum())
    losses = int((~right["ours"] & right["worse"]).sum())
    assert found.loc["worse", "mcnemar_p"] == pytest.approx(binomtest(wins, wins + losses).pvalue)
    assert (found["mcnemar_holm"] >= found["mcnemar_p"]).all()
    assert (found["delong_holm"] >= found["delong_p"]).all()
