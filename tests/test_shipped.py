"""The recipe of the shipped models: nobody is judged by who trained on it, files hold their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from deepgps_core.dataset import InputError
from deepgps_core.shipped import (
    MODELS_PATH,
    HeadConfig,
    LabelEnsemble,
    ShippedModel,
    held_out_predictions,
    load_shipped,
    opinion,
    save_shipped,
)
from deepgps_core.shipped_recipe import (
    KINDS,
    Recipe,
    cluster_folds,
    out_of_fold,
    shipped_split,
    train_labels,
)
from deepgps_core.shipped_scores import label_scores
from deepgps_core.sources.embedded import embedded_proteins


def drawn_proteins(n: int = 240) -> tuple[pd.DataFrame, np.ndarray, pd.Series]:
    """Draw proteins of two classes whose vectors tell them apart, in clusters of three."""
    rng = np.random.default_rng(0)
    number = np.arange(n) // 3 % 2
    labels = np.array(["Cytoplasm", "Nucleus"])[number]
    ids = [f"P{i:03d}" for i in range(n)]
    proteins = pd.DataFrame(
        {"protein_id": ids, "locations": labels, "label": labels,
         "cluster_30": [str(i // 3) for i in range(n)]}
    )  # fmt: skip
    vectors = rng.normal(0, 1, (n, 8)) + (2 * number[:, None] - 1)
    part = np.array(["train", "train", "train", "validation", "test"])[np.arange(n) // 3 % 5]
    return proteins, vectors.astype(np.float32), pd.Series(part, index=ids)


def test_labels_are_learned_and_training_rows_judged_by_strangers() -> None:
    """Separable proteins are told apart in every part; the same seed gives the same numbers."""
    proteins, vectors, split = drawn_proteins()
    recipe = Recipe(hidden_dim=16, n_members=3, label_epochs=15, label_learning_rate=1e-2)
    ensemble, said = train_labels(KINDS[0], proteins, vectors, split, recipe)
    again = train_labels(KINDS[0], proteins, vectors, split, recipe)[1]
    pd.testing.assert_frame_equal(said, again)
    for _, rows in said.groupby("split"):
        called = np.where(rows["p_Nucleus"] > 0.5, "Nucleus", "Cytoplasm")
        assert (called == rows["locations"]).mean() > 0.9
    assert ensemble.probabilities(vectors).shape == (3, 240, 2)


def test_folds_keep_clusters_whole() -> None:
    """A head never saw a relative of a protein that it is asked about."""
    proteins, _, _ = drawn_proteins()
    folds = cluster_folds(proteins, 5, 0)
    assert np.array_equal(np.sort(np.concatenate(folds)), np.arange(len(proteins)))
    for left_out in folds:
        inside = set(proteins["cluster_30"].iloc[left_out])
        outside = set(proteins["cluster_30"].drop(index=proteins.index[left_out]))
        assert not inside & outside


def test_out_of_fold_takes_the_stranger() -> None:
    """Row i of the result is of the member whose fold holds i."""
    members = np.arange(3)[:, None, None] * np.ones((3, 6, 2))
    folds = [np.array([0, 5]), np.array([1, 2]), np.array([3, 4])]
    assert out_of_fold(members, folds)[:, 0].tolist() == [0, 1, 1, 2, 2, 0]


def test_shipped_split_separates_clusters() -> None:
    """No homology cluster is in two parts of the split the models were made with."""
    proteins = embedded_proteins().set_index("protein_id")
    parts = shipped_split().groupby(proteins["cluster_30"]).nunique()
    assert (parts == 1).all()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_what_ships_is_about_held_out_proteins(kind: object) -> None:
    """The table of predictions holds the split's validation and test proteins, and no other."""
    name = kind.name  # type: ignore[attr-defined]
    said = held_out_predictions(name)
    split = shipped_split()
    assert set(said["split"]) == {"validation", "test"}
    assert (split.loc[said["protein_id"]].to_numpy() == said["split"].to_numpy()).all()


def test_card_agrees_with_the_table() -> None:
    """The accuracy on the card is that of the table beside it."""
    from deepgps_core.shipped import read_card

    test = held_out_predictions("single-2").query("split == 'test'")
    p = test[["p_Cytoplasm", "p_Nucleus"]].to_numpy()
    right = np.array(["Cytoplasm", "Nucleus"])[p.argmax(axis=1)] == test["locations"]
    card = read_card("single-2")["card"]["labels"]
    assert card["accuracy"][0] == pytest.approx(right.mean(), abs=1e-3)
    assert card["n_test"] == len(test)


def test_weights_come_back(tmp_path: Path) -> None:
    """Half precision moves no probability by more than a hundredth; no file is a pickle."""
    torch.manual_seed(0)
    heads = LabelEnsemble(HeadConfig("embedded", 8, 16, 2, 2, temperature=1.5)).eval()
    save_shipped(ShippedModel("single-2", "t", ("a", "b"), heads, {"x": 1}), tmp_path)
    again = load_shipped("single-2", tmp_path)
    vectors = np.random.default_rng(0).normal(size=(9, 8)).astype(np.float32)
    assert again.heads.probabilities(vectors) == pytest.approx(
        heads.probabilities(vectors), abs=0.01
    )
    assert (again.labels, again.card) == (("a", "b"), {"x": 1})
    for path in [*tmp_path.iterdir(), *MODELS_PATH.iterdir()]:
        assert not path.read_bytes().startswith((b"\x80", b"PK")), path.name


def test_weights_that_overflow_are_refused(tmp_path: Path) -> None:
    """What half precision cannot hold is not written."""
    heads = LabelEnsemble(HeadConfig("embedded", 4, 8, 2, 1))
    with torch.no_grad():
        next(heads.parameters())[0, 0] = 1e6
    with pytest.raises(InputError, match="half precision"):
        save_shipped(ShippedModel("x", "t", ("a", "b"), heads, {}), tmp_path)
    assert not list(tmp_path.iterdir())


def test_opinion_by_hand() -> None:
    """Log odds in the order of the places; what the model does not know is ruled out."""
    told = opinion(
        np.array([[0.25, 0.75]]), ("Cytoplasm", "Nucleus"), ("Nucleus", "Cytoplasm", "x")
    )
    floor = np.log(0.05 / 0.95)
    assert told[0] == pytest.approx([np.log(3), -np.log(3), floor], rel=1e-5)


def test_scores_by_hand() -> None:
    """Three of four right, both sure ones among them."""
    truth = np.array([[1, 0], [0, 1], [1, 0], [0, 1]])
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.55, 0.45]])
    scores = label_scores(truth, p)
    assert (scores["accuracy"], scores["share_sure"], scores["accuracy_sure"]) == (0.75, 0.5, 1)
    assert (scores["accuracy_unsure"], scores["auroc"]) == (0.5, 1.0)
