"""Scores of a run equal those computed by hand, count proteins, and refuse leaked ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio
from sklearn.metrics import accuracy_score, average_precision_score, recall_score, roc_auc_score
from tiny import make_tiny

from deepgps_core.crops import CropDataset, load_crops
from deepgps_core.dataset import Dataset, InputError
from deepgps_core.evaluation import (
    OURS,
    Evaluation,
    evaluate,
    image_table,
    label_table,
)
from deepgps_core.label_head import LabelHeadClassifier
from deepgps_core.model import DeepGPSConfig
from deepgps_core.runs import Run, TrainingConfig
from deepgps_core.training import fit, predict_crops
from deepgps_core.trivial import TRIVIAL_PREDICTIONS, mean_images, trivial_images

LABELS = ("Cytoplasm", "Nucleus")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_tiny(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture(scope="module")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    model = DeepGPSConfig(sequence_dim=6, hidden_dim=24, width=8, depth=2, crop_size_px=24)
    training = TrainingConfig(encoder="drawn", epochs=15, batch_size=4, learning_rate=1e-2)
    return fit(dataset, "random-0", model, training, tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def evaluation(run: Run, dataset: Dataset) -> Evaluation:
    return evaluate(run, dataset, n_resamples=200)


def some_crops(labels: list[int]) -> CropDataset:
    """Return one 2 x 2 crop a protein whose protein channel is 51 times its row number."""
    n = len(labels)
    images = torch.zeros(n, 2, 2, 2, dtype=torch.uint8)
    images[:, 1] = 51 * torch.arange(n, dtype=torch.uint8)[:, None, None]
    names = tuple(f"P{i}" for i in range(n))
    return CropDataset(
        images, torch.arange(n), torch.zeros(n, 1), torch.tensor(labels), names, names
    )


def test_scores_by_hand(run: Run, dataset: Dataset, evaluation: Evaluation) -> None:
    """Each crop's PSNR is scikit-image's, and a protein's is the mean over its crops."""
    ids = list(evaluation.proteins["protein_id"])
    crops = load_crops(dataset, ids, encoder="drawn", labels=LABELS, crop_size_px=24)
    ours = evaluation.crops[evaluation.crops["prediction"] == OURS].set_index("crop_id")
    drawn = torch.cat([p.image for _, p in predict_crops(run.model, crops)])[:, 0].numpy()
    target = crops.images[:, 1].numpy() / 255
    for crop_id, image, truth in zip(crops.crop_ids, drawn, target, strict=True):
        expected = peak_signal_noise_ratio(truth, image, data_range=1.0)
        assert ours.loc[crop_id, "psnr_db"] == pytest.approx(expected, abs=1e-4)
    first = ours[ours["protein_id"] == ids[0]]["psnr_db"].mean()
    assert evaluation.proteins["psnr_db"].iloc[0] == pytest.approx(first)


def test_the_network_beats_what_needs_none(evaluation: Evaluation) -> None:
    """Where cells are round and labels clear, deepGPS gains on every trivial prediction."""
    table = evaluation.images[evaluation.images["metric"] == "psnr_db"].set_index("prediction")
    assert set(table.index) == {OURS, *TRIVIAL_PREDICTIONS}
    assert (table.drop(OURS)["gain"] > 0).all()
    gains = table["estimate"][OURS] - table["estimate"]
    assert table["gain"].to_numpy() == pytest.approx(gains.to_numpy())
    assert (table["low"] <= table["estimate"]).all() and (table["estimate"] <= table["high"]).all()


def test_label_table_agrees_with_scikit_learn() -> None:
    """Label metrics are those of scikit-learn, per protein, and weighted by crops beside it."""
    rng = np.random.default_rng(0)
    truth = np.array(LABELS)[rng.integers(2, size=40)]
    p = np.clip(0.5 + 0.2 * (truth == "Cytoplasm") - 0.1 + rng.normal(0, 0.2, 40), 0, 1)
    n_crops = rng.integers(1, 9, 40)
    frame = pd.DataFrame({"label": truth, "p_Cytoplasm": p, "p_Nucleus": 1 - p, "n_crops": n_crops})
    frame.loc[40] = ["", 0.9, 0.1, 5]  # multi-localized: counts for nothing
    table = label_table(frame, LABELS, n_resamples=100).set_index("metric")
    positive, called = truth == "Cytoplasm", p >= 0.5
    for column, weight in (("estimate", None), ("per_crop", n_crops)):
        expected = {
            "accuracy": accuracy_score(positive, called, sample_weight=weight),
            "sensitivity": recall_score(positive, called, sample_weight=weight),
            "specificity": recall_score(~positive, ~called, sample_weight=weight),
            "auroc": roc_auc_score(positive, p, sample_weight=weight),
            "auprc": average_precision_score(positive, p, sample_weight=weight),
        }
        for name, value in expected.items():
            assert table.loc[name, column] == pytest.approx(value), (name, column)
    assert (table["n_proteins"] == 40).all() and (table["n_crops"] == n_crops.sum()).all()
    assert (table["low"] < table["estimate"]).all() and (table["estimate"] < table["high"]).all()


def test_more_crops_of_one_protein_change_only_the_crop_column() -> None:
    """Copying a protein's crops leaves every per-protein figure as it was."""
    rng = np.random.default_rng(1)
    crops = pd.DataFrame(
        {
            "protein_id": np.repeat([f"P{i}" for i in range(6)], 2).tolist() * 2,
            "prediction": [OURS] * 12 + ["constant"] * 12,
            "psnr_db": rng.normal(20, 3, 24), "ssim": rng.uniform(0, 1, 24),
        }
    )  # fmt: skip
    more = pd.concat([crops, *[crops[crops["protein_id"] == "P0"]] * 9])
    once, often = image_table(crops, n_resamples=50), image_table(more, n_resamples=50)
    same = ["estimate", "low", "high", "n_proteins", "gain", "gain_low", "gain_high"]
    assert np.allclose(once[same], often[same])
    assert not np.allclose(once["per_crop"], often["per_crop"])


def test_mean_images_count_proteins_and_classes() -> None:
    """Means are over proteins, by class; a class without proteins gets the overall mean."""
    crops = some_crops([0, 1, 1])  # intensities 0, 0.2, 0.4
    crops = crops.take(torch.tensor([0, 0, 0, 1, 2]))  # the first protein has three crops
    means = mean_images(crops, n_classes=3)
    assert means.overall == pytest.approx(np.full((2, 2), 0.2))
    assert means.by_class[:, 0, 0] == pytest.approx([0.0, 0.3, 0.2])


def test_trivial_images_are_what_their_names_say() -> None:
    """Class means follow the label they are given; -1 gets the overall mean."""
    means = mean_images(some_crops([0, 1]), n_classes=2)  # class means 0 and 0.2
    nucleus = np.random.default_rng(0).random((2, 2, 2), dtype=np.float32)
    images = trivial_images(means, nucleus, np.array([0, -1]), np.array([0, 1]), np.array([1, 0]))
    assert set(images) == set(TRIVIAL_PREDICTIONS)
    value = {name: image[:, 0, 0].tolist() for name, image in images.items()}
    assert value["constant"] == value["training mean"] == pytest.approx([0.1, 0.1])
    assert value["class mean, true"] == pytest.approx([0.0, 0.1])
    assert value["class mean, predicted"] == pytest.approx([0.0, 0.2])
    assert value["class mean, shuffled"] == pytest.approx([0.2, 0.0])
    assert np.array_equal(images["nucleus copied"], nucleus)


def test_a_protein_of_the_training_is_refused(run: Run, tmp_path: Path) -> None:
    """When the split was changed after training, a trained-on protein is not scored as unseen."""
    dataset = make_tiny(tmp_path / "tiny")
    split = dataset.split("random-0")
    split["P00"] = "test"
    dataset.write_split("random-0", split)
    with pytest.raises(InputError, match="trained on test protein 'P00'"):
        evaluate(run, dataset)


def test_label_unknown_to_the_model(run: Run, tmp_path: Path) -> None:
    """A held-out protein whose label the model lacks is named, in one line."""
    dataset = make_tiny(tmp_path / "tiny")
    table = dataset.proteins.replace({"label": {"Nucleus": "Vesicles"}})
    table.to_csv(dataset.path / "proteins.csv", index=False)
    with pytest.raises(InputError, match="has label 'Vesicles', which the model") as error:
        evaluate(run, Dataset(dataset.path))
    assert "\n" not in str(error.value)


def test_tables_are_written(evaluation: Evaluation, tmp_path: Path) -> None:
    """The four tables come back from disk as they were."""
    evaluation.write(tmp_path)
    read = pd.read_csv(tmp_path / "images.csv")
    pd.testing.assert_frame_equal(read, evaluation.images)


def test_label_head_alone_learns_and_repeats() -> None:
    """By itself the head separates separable classes, and the seed decides its numbers."""
    rng = np.random.default_rng(0)
    y = np.array(LABELS)[rng.integers(2, size=80)]
    X = rng.normal(0, 1, (80, 10)) + 3 * (y == "Nucleus")[:, None]
    settings = {"hidden_dim": 32, "epochs": 20, "learning_rate": 5e-3, "standardize": True}
    head = LabelHeadClassifier(**settings).fit(X[:60], y[:60])
    assert (head.predict(X[60:]) == y[60:]).mean() > 0.9
    p = head.predict_proba(X)
    assert p.sum(axis=1) == pytest.approx(np.ones(80))
    again = LabelHeadClassifier(**settings).fit(X[:60], y[:60])
    assert np.array_equal(p, again.predict_proba(X))
    other = LabelHeadClassifier(**settings, seed=1).fit(X[:60], y[:60])
    assert not np.array_equal(p, other.predict_proba(X))
