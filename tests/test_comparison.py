"""Models on the same crops: scores are those computed alone, differences paired by protein."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import make_tiny

from deepgps_core.comparison import (
    ORIGINAL,
    by_protein,
    category_table,
    compare_models,
    share_between,
)
from deepgps_core.crops import CropDataset, load_crops
from deepgps_core.cross_assay import crop_masks
from deepgps_core.dataset import Dataset
from deepgps_core.metrics import nuclear_ratio, psnr
from deepgps_core.model import DeepGPS, DeepGPSConfig
from deepgps_core.training import predict_crops


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_tiny(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture(scope="module")
def crops(dataset: Dataset) -> CropDataset:
    names = list(dataset.proteins["protein_id"])[:4]
    labels = ("Cytoplasm", "Nucleus")
    return load_crops(dataset, names, encoder="drawn", labels=labels, crop_size_px=24)


def model_of(seed: int) -> DeepGPS:
    torch.manual_seed(seed)
    config = DeepGPSConfig(sequence_dim=6, hidden_dim=16, width=8, depth=2, crop_size_px=24)
    return DeepGPS(config).eval()


def test_scores_are_those_of_each_model_alone(dataset: Dataset, crops: CropDataset) -> None:
    """PSNR and ratio of each row are computed from that model's picture of that crop."""
    models, masks = {"a": model_of(0), "b": model_of(1)}, crop_masks(dataset, crops.crop_ids, 24)
    gray = np.full((24, 24), 0.25)
    scores = compare_models(models, crops, masks, ring_px=3, fixed={"gray": gray})
    truth = crops.images[:, 1].numpy() / 255
    for name, model in models.items():
        drawn = torch.cat([p.image[:, 0] for _, p in predict_crops(model, crops)]).cpu().numpy()
        rows = scores[scores["model"] == name]
        assert list(rows["crop_id"]) == list(crops.crop_ids)
        assert rows["psnr_db"].to_numpy() == pytest.approx(psnr(drawn, truth, 1.0), abs=1e-4)
        expected = np.log2(nuclear_ratio(drawn, masks, 3))
        assert rows["log_ratio"].to_numpy() == pytest.approx(expected, abs=1e-4)
    rows = scores[scores["model"] == "gray"]
    assert rows["log_ratio"].to_numpy() == pytest.approx(np.zeros(len(crops)))
    rows = scores[scores["model"] == ORIGINAL]
    assert rows["log_ratio"].to_numpy() == pytest.approx(np.log2(nuclear_ratio(truth, masks, 3)))
    assert rows["psnr_db"].isna().all()


def made_up(values: dict[str, dict[str, list[float]]]) -> pd.DataFrame:
    """Return scores from model -> protein -> PSNR of its crops."""
    rows = [
        (model, f"{protein}-{i}", protein, value)
        for model, proteins in values.items()
        for protein, crops in proteins.items()
        for i, value in enumerate(crops)
    ]
    return pd.DataFrame(rows, columns=["model", "crop_id", "protein_id", "psnr_db"])


def test_gains_are_paired_and_proteins_count_once() -> None:
    """A constant gain has an interval of no width, however different proteins and crop counts."""
    base = {"P0": [10.0], "P1": [20.0] * 9, "P2": [13.0, 15.0], "Q0": [30.0]}
    better = {name: [x + 1 for x in crops] for name, crops in base.items()}
    scores = made_up({"base": base, "better": better})
    category = pd.Series({"P0": "P", "P1": "P", "P2": "P", "Q0": "Q"})
    table = category_table(scores, category, "base", n_resamples=200)
    table = table.set_index(["category", "model"])
    assert table.loc[("P", "base"), "estimate"] == pytest.approx((10 + 20 + 14) / 3)
    assert table.loc[("all", "base"), "estimate"] == pytest.approx((10 + 20 + 14 + 30) / 4)
    for name in ("P", "all"):
        gain = table.loc[(name, "better"), ["gain", "gain_low", "gain_high"]].astype(float)
        assert gain.to_numpy() == pytest.approx([1, 1, 1])
    assert table["n_proteins"].xs("base", level="model").to_dict() == {"all": 4, "P": 3, "Q": 1}
    assert np.isnan(table.loc[("Q", "better"), "gain_low"])
    assert by_protein(scores, "psnr_db").loc["P2"].tolist() == [14.0, 15.0]


def test_share_between_is_open_and_bounded() -> None:
    """Thresholds themselves are outside; the interval stays within 0 and 1."""
    values = np.array([0.0, 0.5, 1.0, 1.0, 0.7, 2.0])
    share = share_between(values, 0.0, 1.0)
    assert share.estimate == pytest.approx(2 / 6)
    assert 0 <= share.low < share.high <= 1
