"""Samples repeat whatever is drawn beside them; their metrics have answers known by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import Letters, make_tiny

from deepgps_core.crops import CropDataset, load_crops
from deepgps_core.dataset import Dataset, InputError
from deepgps_core.flow import FlowConfig, FlowGPS
from deepgps_core.generative import (
    Sampling,
    draw_samples,
    flow_model,
    sample,
    sample_crops,
    score_sequences,
)
from deepgps_core.generative_metrics import (
    frechet_distance,
    inside_interval,
    nearest_distance,
    rank_of_own,
    spot_count,
)
from deepgps_core.judge import judged, train_judge
from deepgps_core.model import DeepGPSConfig
from deepgps_core.runs import Run, TrainingConfig
from deepgps_core.training import fit

CONFIG = FlowConfig(
    sequence_dim=6, hidden_dim=24, width=4, depth=2, crop_size_px=24, n_classes=2, time_dim=8,
    steps=2, ema_decay=0.9,
)  # fmt: skip
TRAINING = TrainingConfig(encoder="drawn", epochs=2, batch_size=8, learning_rate=1e-2, seed=1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_tiny(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture(scope="module")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fit(dataset, "random-0", CONFIG, TRAINING, tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def crops(dataset: Dataset, run: Run) -> CropDataset:
    names = list(dataset.proteins["protein_id"][-4:])
    return load_crops(dataset, names, encoder="drawn", labels=run.labels, crop_size_px=24)


def test_samples_do_not_depend_on_the_batch(run: Run, crops: CropDataset) -> None:
    """One at a time or all at once, alone or among others: the same images."""
    many = sample_crops(run, crops, Sampling(3, batch_size=64))
    assert many.shape == (16, 3, 24, 24) and 0 <= many.min() <= many.max() <= 1
    single = sample_crops(run, crops, Sampling(3, batch_size=1))
    np.testing.assert_allclose(many, single, atol=1e-5)
    alone = sample_crops(run, crops.take(torch.tensor([7])), Sampling(2))
    np.testing.assert_allclose(many[7, :2], alone[0], atol=1e-5)


def test_seed_decides_the_samples(run: Run, crops: CropDataset) -> None:
    """The same seed repeats every pixel; another seed, or another number, draws another image."""
    first, again, other = (sample_crops(run, crops, Sampling(2, seed=s)) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert not np.allclose(first[:, 0], first[:, 1])


def test_guidance_one_is_no_guidance(run: Run, crops: CropDataset) -> None:
    """Guidance 1 gives what the model itself says; 3 does not."""
    plain, one, three = (
        sample_crops(run, crops, Sampling(1, guidance=g)) for g in (None, 1.0, 3.0)
    )
    np.testing.assert_array_equal(plain, one)
    assert not np.allclose(one, three)


def test_sequences_beside_nuclei(run: Run) -> None:
    """Every protein beside every nucleus; a protein's samples do not depend on its company."""
    nuclei = np.random.default_rng(0).random((2, 24, 32)).astype(np.float32)
    sequences = {"A": "MKKKK", "B": "MRRRR"}
    images = sample(run, sequences, nuclei, Sampling(2), encoder=Letters())
    assert images.shape == (2, 2, 2, 24, 32)
    alone = sample(run, {"B": "MRRRR"}, nuclei[1:], Sampling(2), encoder=Letters())
    np.testing.assert_allclose(alone[0, 0], images[1, 1], atol=1e-5)


def test_residues_travel_with_their_protein(dataset: Dataset) -> None:
    """With a fusion over residues, samples are the same for any batch size."""
    torch.manual_seed(0)
    model = FlowGPS(dataclasses.replace(CONFIG, fusion="residue_attention")).eval()
    torch.nn.init.normal_(model.averaged.outc.weight)
    from deepgps_core.fusions import ResidueBatch

    residues = ResidueBatch(torch.randn(3, 5, 6), torch.arange(5) < torch.tensor([[2], [5], [3]]))
    nuclei, features = torch.rand(3, 1, 16, 16), torch.randn(3, 6)
    many, single = (
        draw_samples(model, nuclei, features, ["a", "b", "c"], Sampling(2, batch_size=n), residues)
        for n in (6, 1)
    )
    np.testing.assert_allclose(many, single, atol=1e-5)


def test_a_run_without_samples_says_so(dataset: Dataset, tmp_path: Path) -> None:
    """The published model has one answer."""
    config = DeepGPSConfig(sequence_dim=6, hidden_dim=24, width=4, depth=2, crop_size_px=24)
    training = dataclasses.replace(TRAINING, epochs=1)
    with pytest.raises(InputError, match="no samples"):
        flow_model(fit(dataset, "random-0", config, training, tmp_path / "run"))


def test_scores_compare_a_sequence_with_none(run: Run, crops: CropDataset) -> None:
    """Scores do not depend on the batch or on the other candidates."""
    few = crops.take(torch.arange(3))
    scores = score_sequences(run, few, crops.features, n_draws=4)
    assert scores.shape == (3, len(crops.features)) and np.isfinite(scores).all()
    part = score_sequences(run, few, crops.features[2:4], n_draws=4, batch_size=3)
    np.testing.assert_allclose(scores[:, 2:4], part, atol=1e-5)


# ---- metrics


@pytest.mark.parametrize(("n_samples", "level"), [(9, 0.8), (16, 0.8), (39, 0.5)])
def test_intervals_of_the_right_distribution_hold_what_they_promise(
    n_samples: int, level: float
) -> None:
    """Truth and samples from one distribution: coverage is the level, however few samples."""
    rng = np.random.default_rng(0)
    values = rng.gamma(2, size=(20_000, n_samples + 1))
    inside = inside_interval(values[:, 1:], values[:, 0], level)
    assert inside.mean() == pytest.approx(level, abs=0.012)  # four standard errors


def test_too_few_samples_span_no_interval() -> None:
    """Eight samples cannot leave a tenth on either side."""
    with pytest.raises(ValueError, match="8 samples"):
        inside_interval(np.zeros((2, 8)), np.zeros(2))


def test_spots_are_counted() -> None:
    """As many as were planted, whatever the background; none in a blur."""
    y, x = np.mgrid[:64, :64]
    centers = [(10, 10), (10, 40), (40, 20), (50, 50)]
    spots = sum(np.exp(-((y - a) ** 2 + (x - b) ** 2) / 4) for a, b in centers)
    assert spot_count((0.5 * spots + 0.2)[None], 1.4).tolist() == [4]
    assert spot_count((x / 64)[None], 1.4).tolist() == [0]


def test_frechet_distance_of_known_gaussians() -> None:
    """Equal sets: 0; a shift adds its square; a scale by 2 adds the variances' difference."""
    x = np.random.default_rng(0).normal(size=(4000, 5))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(x + [3, 0, 0, 0, 0], x) == pytest.approx(9)
    trace = np.trace(np.cov(x, rowvar=False))
    gap = (x.mean(axis=0) ** 2).sum()
    assert frechet_distance(2 * x, x) == pytest.approx(trace + gap)  # (2 - 1)**2 tr C


def test_a_copy_is_found_in_any_orientation() -> None:
    """A turned copy of a training image is at 0, an image shifted in gray by that much."""
    training = np.random.default_rng(0).integers(0, 200, (20, 16, 16)).astype(np.uint8)
    copies = np.stack([np.rot90(training[3], k)[:, ::s] for k in range(4) for s in (1, -1)])
    assert nearest_distance(copies, training, factor=2) == pytest.approx(np.zeros(8), abs=1e-3)
    brighter = training[3:4].astype(float) / 255 + 0.1
    assert nearest_distance(brighter, training, factor=2)[0] == pytest.approx(0.1, abs=1e-3)


def test_rank_counts_ties_by_half() -> None:
    """First is 1, last 0, all equal one half."""
    scores = np.array([[0.0, 1, 2], [2, 1, 0], [5, 5, 5]])
    assert rank_of_own(scores, np.zeros(3, int)).tolist() == [1, 0, 0.5]


def test_judge_learns_places_from_real_images(dataset: Dataset) -> None:
    """Trained on some proteins' crops, it tells nucleus from cytoplasm in others', repeatably."""
    crops = load_crops(
        dataset, list(dataset.proteins["protein_id"]), encoder="drawn",
        labels=("Cytoplasm", "Nucleus"), crop_size_px=48,
    )  # fmt: skip
    labels = crops.labels[crops.protein_index]
    known, unseen = torch.arange(len(crops)) < 32, torch.arange(len(crops)) >= 32
    judge = train_judge(crops.images[known], labels[known], epochs=12, batch_size=8)
    nuclei, proteins = (crops.images[unseen, k].numpy() / 255 for k in (0, 1))
    probability, features = judged(judge, nuclei, proteins)
    assert (probability.argmax(axis=1) == labels[unseen].numpy()).mean() >= 0.9
    assert features.shape == (int(unseen.sum()), 32)
    again = train_judge(crops.images[known], labels[known], epochs=12, batch_size=8)
    np.testing.assert_allclose(judged(again, nuclei, proteins)[0], probability, atol=1e-4)


def test_true_places_are_told_in_place_of_the_heads() -> None:
    """Told the places by force, samples are those of a head that is sure of them."""
    torch.manual_seed(0)
    model = FlowGPS(dataclasses.replace(CONFIG, condition="label")).eval()
    torch.nn.init.normal_(model.averaged.outc.weight, std=0.1)
    for film in model.averaged.film_down:
        torch.nn.init.normal_(film.linear.weight)
    nuclei, features, keys = torch.rand(2, 1, 16, 16), torch.randn(2, 6), ["a", "b"]
    for place in (0, 1):
        told = draw_samples(
            model, nuclei, features, keys, Sampling(2), places=torch.full((2,), place)
        )
        last = [layer for layer in model.head.modules() if isinstance(layer, torch.nn.Linear)][-1]
        with torch.no_grad():
            last.weight.zero_()
            last.bias.copy_(torch.tensor([20.0, -20.0]) * (1 - 2 * place))
        np.testing.assert_array_equal(
            told, draw_samples(model, nuclei, features, keys, Sampling(2))
        )
    for network, places, complaint in (
        (FlowGPS(CONFIG), [0, 0], "no place"), (model, [1, -1], "no single place"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=complaint):
            draw_samples(network, nuclei, features, keys, Sampling(1), places=torch.tensor(places))
