"""The cross-assay: rows are sequences, columns nuclei, and each share is what it says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio
from tiny import make_tiny

from deepgps_core.crops import CropDataset, load_crops
from deepgps_core.cross_assay import (
    CONTROLS,
    CrossAssay,
    assay_summary,
    control_scores,
    control_table,
    crop_masks,
    cross_assay,
    first_crops,
    follow_table,
    follows_sequence,
    on_label_side,
    paint,
    ring_width_px,
    variance_shares,
)
from deepgps_core.dataset import Dataset, InputError
from deepgps_core.metrics import nuclear_ratio
from deepgps_core.model import DeepGPS, DeepGPSConfig

LABELS = ("Cytoplasm", "Nucleus")
RING_PX = 3


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_tiny(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture(scope="module")
def crops(dataset: Dataset) -> CropDataset:
    names = list(dataset.proteins["protein_id"])
    every = load_crops(dataset, names, encoder="drawn", labels=LABELS, crop_size_px=24)
    return first_crops(every, names[::-1][:6])


@pytest.fixture(scope="module")
def model() -> DeepGPS:
    torch.manual_seed(0)
    config = DeepGPSConfig(sequence_dim=6, hidden_dim=24, width=8, depth=2, crop_size_px=24)
    model = DeepGPS(config).eval()
    with torch.no_grad():  # an untrained network draws nearly the same for everybody
        model.fusion.attention.out_proj.weight.mul_(20)
    return model


@pytest.fixture(scope="module")
def assay(model: DeepGPS, crops: CropDataset, dataset: Dataset) -> CrossAssay:
    masks = crop_masks(dataset, crops.crop_ids, 24)
    return cross_assay(model, crops, masks, labels_of(crops), ring_px=RING_PX)


def labels_of(crops: CropDataset) -> list[str]:
    return [LABELS[k] for k in crops.labels[crops.protein_index].tolist()]


def assay_of(log_ratio: np.ndarray, labels: list[str]) -> CrossAssay:
    """Return an assay with these ratios; its PSNR is 20 dB on the diagonal, 15 off it."""
    n = len(labels)
    psnr_db = np.where(np.eye(n, dtype=bool), 20.0, 15.0)
    return CrossAssay(
        tuple(f"P{i}" for i in range(n)), np.array(labels), log_ratio, np.diag(log_ratio),
        psnr_db, psnr_db - np.arange(n)[:, None], np.full(n, 16.0), np.full(n, 14.0),
    )  # fmt: skip


def test_rows_are_sequences_and_columns_nuclei(
    assay: CrossAssay, model: DeepGPS, crops: CropDataset, dataset: Dataset
) -> None:
    """Any cell equals the picture drawn by hand from that sequence and that nucleus."""
    masks = crop_masks(dataset, crops.crop_ids, 24)
    images = crops.images.float() / 255
    for i, j in ((0, 0), (1, 4), (4, 1), (5, 2)):
        vector = crops.features[crops.protein_index[i]][None]
        with torch.no_grad():
            drawn = model(images[j : j + 1, :1], vector).image[0].numpy()
        expected = np.log2(nuclear_ratio(drawn, masks[j : j + 1], RING_PX))[0]
        assert assay.log_ratio[i, j] == pytest.approx(expected, abs=1e-4)
        for scores, owner in ((assay.psnr_to_nucleus_db, j), (assay.psnr_to_sequence_db, i)):
            truth = images[owner, 1].numpy()
            expected = peak_signal_noise_ratio(truth, drawn[0], data_range=1.0)
            assert scores[i, j] == pytest.approx(expected, abs=1e-4)


def test_the_diagonal_is_each_protein_as_itself(
    assay: CrossAssay, crops: CropDataset, dataset: Dataset
) -> None:
    """On the diagonal both PSNRs are the same, and the originals' ratios are the metric's."""
    assert np.diag(assay.psnr_to_nucleus_db) == pytest.approx(np.diag(assay.psnr_to_sequence_db))
    masks = crop_masks(dataset, crops.crop_ids, 24)
    originals = np.log2(nuclear_ratio(crops.images[:, 1].numpy() / 255, masks, RING_PX))
    assert assay.original_log_ratio == pytest.approx(originals)
    assert list(assay.labels) == labels_of(crops)


def test_leaving_out_means_of_pictures(
    assay: CrossAssay, model: DeepGPS, crops: CropDataset
) -> None:
    """Nucleus only is the mean of the column without itself; sequence only that of the row."""
    pictures = np.stack([paint(model, crops, p) for p in crops.protein_index.tolist()])
    truth = crops.images[:, 1].numpy() / 255
    for k in range(len(crops)):
        others = np.arange(len(crops)) != k
        for mean, score in (
            (pictures[others, k].mean(axis=0), assay.nucleus_only_db[k]),
            (pictures[k, others].mean(axis=0), assay.sequence_only_db[k]),
        ):
            expected = peak_signal_noise_ratio(truth[k], mean.astype(float), data_range=1.0)
            assert score == pytest.approx(expected, abs=1e-3)


def test_order_of_proteins_does_not_matter(
    assay: CrossAssay, model: DeepGPS, crops: CropDataset, dataset: Dataset
) -> None:
    """Permuting the proteins permutes rows and columns, and changes no summary."""
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    turned = crops.take(order)
    masks = crop_masks(dataset, turned.crop_ids, 24)
    other = cross_assay(model, turned, masks, labels_of(turned), ring_px=RING_PX)
    cells = np.ix_(order, order)
    assert other.log_ratio == pytest.approx(assay.log_ratio[cells], abs=1e-5)
    ours, theirs = (follow_table(a, n_resamples=20)["share"] for a in (assay, other))
    assert theirs.to_numpy() == pytest.approx(ours.to_numpy())


@pytest.mark.parametrize(("axis", "share"), [(1, 1.0), (0, 0.0)])
def test_pure_sequence_and_pure_nucleus(axis: int, share: float) -> None:
    """A ratio that only the sequence decides is followed always; one of the nucleus, never."""
    rng = np.random.default_rng(0)
    labels = [LABELS[i % 2] for i in range(8)]
    ratio = np.expand_dims(rng.normal(size=8), axis) + np.zeros((8, 8))
    assay = assay_of(ratio, labels)
    table = follow_table(assay, n_resamples=50).set_index("pairs")
    assert (table[["share", "low", "high"]] == share).all(axis=None)
    assert table["n_pairs"].to_dict() == {"all": 56, "within classes": 24, "across classes": 32}
    found = variance_shares(assay, n_resamples=50)
    assert found["sequence"].estimate == pytest.approx(share)
    assert found["nucleus"].estimate == pytest.approx(1 - share)


def test_halfway_follows_nobody() -> None:
    """A picture exactly between the two counts one half; the diagonal counts for nothing."""
    level = np.arange(5.0)
    follows = follows_sequence((level[:, None] + level[None, :]) / 2)
    assert np.isnan(np.diag(follows)).all()
    assert np.nanmean(follows) == 0.5


def test_interval_is_wide_when_one_protein_decides() -> None:
    """The interval is over proteins: n**2 pictures of a few proteins do not make it narrow."""
    rng = np.random.default_rng(1)
    ratio = rng.normal(size=(8, 1)) + 1.2 * rng.normal(size=(8, 8))
    table = follow_table(assay_of(ratio, ["Nucleus"] * 8), n_resamples=400).set_index("pairs")
    assert list(table.index) == ["all", "within classes"]  # nobody to swap with across classes
    share, low, high = table.loc["all", ["share", "low", "high"]]
    as_if_independent = 2 * 1.96 * np.sqrt(share * (1 - share) / 56)
    assert low < share < high
    assert high - low > 1.2 * as_if_independent


def test_costs_are_own_minus_control() -> None:
    """Costs are differences within proteins, 0 for the own inputs; a lone label has no partner."""
    assay = assay_of(np.zeros((4, 4)), ["Nucleus", "Nucleus", "Nucleus", "Cytoplasm"])
    scores = control_scores(assay)
    assert list(scores) == list(CONTROLS)
    assert np.isnan(scores.loc["P3", "sequence swapped within classes"])
    table = control_table(assay, n_resamples=50).set_index("control")
    assert table.loc["own sequence, own nucleus", ["psnr_db", "cost_db"]].tolist() == [20.0, 0.0]
    assert table.loc["sequence swapped within classes", "n_proteins"] == 3
    expected = {"sequence swapped": 5.0, "nucleus only": 4.0, "sequence only": 6.0}
    for name, cost in expected.items():
        assert table.loc[name, ["cost_db", "cost_low", "cost_high"]].tolist() == [cost] * 3
    # protein i's image lies 15 - i dB away from its pictures in other nuclei
    assert table.loc["nucleus swapped", "psnr_db"] == pytest.approx(15 - 1.5)


def test_intervals_of_swaps_know_that_partners_were_drawn() -> None:
    """
    Where a few sequences fit all nuclei badly, another draw of proteins moves the costs with them.

    Picture (i, j) scores 20 dB minus the quality of sequence i, so that nuclei differ in nothing:
    with partners held fixed, the mean over nuclei would have next to no spread.
    """
    rng, widths, truth = np.random.default_rng(3), [], []
    for _ in range(40):
        quality = rng.exponential(size=12)
        assay = dataclasses.replace(
            assay_of(np.zeros((12, 12)), [LABELS[i % 2] for i in range(12)]),
            psnr_to_nucleus_db=20 - quality[:, None] + np.zeros((12, 12)),
        )
        row = control_table(assay, n_resamples=200).set_index("control").loc["sequence swapped"]
        widths.append(row["high"] - row["low"])
        truth.append(row["psnr_db"])
        swap = assay_summary(assay, n_resamples=100)["swap"]
        assert swap.high - swap.low > 0.3
    # 95 % intervals are about four standard deviations wide; of the mean of 12 they are .29 each
    assert 2.5 < np.mean(widths) / np.std(truth) < 5.5


@pytest.mark.parametrize(("sign", "right"), [(1.0, 1.0), (-1.0, 0.0)])
def test_following_the_sequence_is_not_being_right(sign: float, right: float) -> None:
    """Pictures that say the opposite of the label follow the sequence as well, on no right side."""
    labels = [LABELS[i % 2] for i in range(8)]
    level = np.array([1.0 if label == "Nucleus" else -1.0 for label in labels])
    assay = dataclasses.replace(
        assay_of(sign * level[:, None] + np.zeros((8, 8)), labels), original_log_ratio=level
    )
    assert (on_label_side(assay) == right).all()
    summary = assay_summary(assay, n_resamples=50)
    found = {name: interval.estimate for name, interval in summary.items()}
    expected = {"variance": 1.0, "gap": 2 * sign, "side": right, "swap": 0.0, "own": 4.0}
    assert found == pytest.approx(expected)


def test_one_label_has_no_sides() -> None:
    """With a single label there is no other side, and it says so."""
    with pytest.raises(ValueError, match="two labels"):
        on_label_side(assay_of(np.zeros((3, 3)), ["Nucleus"] * 3))


def test_ring_width_is_in_micrometers(dataset: Dataset) -> None:
    """4 um are 8 pixels of .5 um, half as many at half the size, and never none."""
    assert ring_width_px(dataset, 48) == 8
    assert ring_width_px(dataset, 24) == 4
    assert ring_width_px(dataset, 24, width_um=0.1) == 1


def test_what_it_refuses(model: DeepGPS, crops: CropDataset) -> None:
    """A protein without crops is named; one that comes twice is no second protein."""
    with pytest.raises(InputError, match="'Q9' has no crop"):
        first_crops(crops, ["Q9"])
    twice = crops.take(torch.tensor([0, 0, 1]))
    masks = np.ones((3, 24, 24), bool)
    with pytest.raises(ValueError, match="3 crops of 2"):
        cross_assay(model, twice, masks, ["", "", ""], ring_px=1)
