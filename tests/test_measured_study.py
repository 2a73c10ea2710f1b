"""The study of measured labels: its parts fit together, and what took long is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deepgps_core.measured_study import (
    EVIDENCE_COLUMNS,
    PAPER_ENCODER,
    agreement_rows,
    best_encoder,
    grouped_folds,
    paired_rows,
    residues_of,
)


class CountingEncoder:
    """An encoder that counts how often it is asked."""

    name, dim, calls = "counting", 2, 0

    def embed(self, sequences: dict[str, str], per_residue: bool = False) -> dict[str, np.ndarray]:
        self.calls += 1
        return {name: np.full((len(text), 2), len(text), float) for name, text in sequences.items()}


def test_folds_test_each_protein_once_and_keep_clusters_whole() -> None:
    """Every protein is a test protein exactly once, its cluster mates in the same fold."""
    rng = np.random.default_rng(0)
    proteins = pd.DataFrame({
        "protein_id": [f"P{i}" for i in range(60)], "label": rng.choice(["a", "b"], 60),
        "cluster_30": [f"c{i // 3}" for i in range(60)],
    })  # fmt: skip
    folds = grouped_folds(proteins, 4, seed=1)
    tested = pd.concat([part[part == "test"] for _, part in folds])
    assert sorted(tested.index) == sorted(proteins["protein_id"])
    cluster = proteins.set_index("protein_id")["cluster_30"]
    for _, part in folds:
        assert not set(cluster[part.index[part == "test"]]) & set(
            cluster[part.index[part == "train"]]
        )


def test_residues_are_kept_and_made_anew_when_a_sequence_changes(tmp_path: Path) -> None:
    """The second call reads the file; another length of a protein asks the encoder again."""
    encoder = CountingEncoder()
    first = residues_of({"a": "MK", "b": "MKL"}, encoder, tmp_path)
    again = residues_of({"b": "MKL"}, encoder, tmp_path)
    assert encoder.calls == 1 and again["b"].dtype == np.float16
    np.testing.assert_array_equal(first["b"], again["b"])
    assert len(residues_of({"a": "MKV"}, encoder, tmp_path)["a"]) == 3
    assert encoder.calls == 2


def test_rows_have_the_columns_of_the_evidence() -> None:
    """Agreement and paired tests become rows; an AUROC's rows have its own interval."""
    proteins = pd.DataFrame({
        "opencell": ["Cytoplasm", "Nucleus", "ER"], "hpa": ["Cytoplasm", "Cytoplasm", "ER"],
        "uniprot": ["", "", ""], "opencell_places": ["Cytoplasm", "Nucleus", "ER"],
        "hpa_places": ["Cytoplasm", "Cytoplasm", "ER"], "uniprot_places": ["", "", ""],
    })  # fmt: skip
    agreed = agreement_rows(proteins).set_index("what")["estimate"]
    assert agreed["the same label, single-2"] == pytest.approx(1 / 2)
    assert agreed["the same label, single-4"] == pytest.approx(2 / 3)
    tests = pd.DataFrame([{
        "model": "m", "n_proteins": 9, "discordant": 0.2, "accuracy_difference": 0.1, "low": 0.0,
        "high": 0.2, "mcnemar_p": 0.3, "mcnemar_holm": 0.6, "auroc_difference": 0.3,
        "auroc_low": 0.25, "auroc_high": 0.35, "delong_p": 0.01, "delong_holm": 0.02,
    }])  # fmt: skip
    rows = paired_rows(tests).set_index("group")
    assert rows.loc["AUROC (DeLong)", ["estimate", "low", "p_holm"]].tolist() == [0.3, 0.25, 0.02]
    assert rows.loc["accuracy (McNemar)", "estimate"] == 0.1
    assert {"question", "what", "n_proteins"} <= set(rows.columns) & set(EVIDENCE_COLUMNS)


def test_the_papers_encoder_is_used_where_its_weights_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a weights file the fallback is used; with one in the data root, the paper's."""
    monkeypatch.setenv("DEEPGPS_DATA", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    assert best_encoder("embedded") == "embedded"
    from deepgps_core.encoders import EMBEDDED_WEIGHTS

    (tmp_path / "weights").mkdir()
    (tmp_path / f"weights/{PAPER_ENCODER}.safetensors").symlink_to(EMBEDDED_WEIGHTS)
    assert best_encoder("embedded") == PAPER_ENCODER
