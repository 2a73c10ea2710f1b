"""Samples repeat whatever is drawn beside them; their metrics have answers known by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
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
    eight_views,
    inside_interval,
    nearest_distance,
    nearest_training,
    rank_of_own,
    sample_interval,
    sample_proportions,
    similarities,
    spectra,
    spot_count,
    textures,
)
from deepgps_core.image_metrics import nuclear_proportion, radial_log_spectrum, texture
from deepgps_core.judge import (
    Ruler,
    frechet_distance,
    frechet_spread,
    judged,
    train_judge,
)
from deepgps_core.metrics import ssim
from deepgps_core.model import DeepGPSConfig
from deepgps_core.runs import Run, TrainingConfig
from deepgps_core.training import fit
from deepgps_core.trivial import rows_of_class

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


@pytest.mark.gpu
def test_samples_do_not_depend_on_the_batch_where_steps_are_recorded() -> None:
    """On a GPU small batches replay a recording, large ones do not: equal within rounding."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    torch.manual_seed(0)
    model = FlowGPS(dataclasses.replace(CONFIG, steps=8, guidance=1.5)).eval()
    torch.nn.init.normal_(model.averaged.outc.weight, std=0.3)
    for film in model.averaged.film_down:
        torch.nn.init.normal_(film.linear.weight, std=0.3)
    model = model.to("cuda")
    nuclei, features = torch.rand(2, 1, 24, 24), torch.randn(2, 6)
    one, sixteen = (
        draw_samples(model, nuclei, features, ["a", "b"], Sampling(8, batch_size=n))
        for n in (1, 16)
    )
    assert one.std() > 0.05
    # eight bits of a number in bfloat16, over eight steps and a guidance of 1.5
    np.testing.assert_allclose(one, sixteen, atol=0.05)
    assert np.abs(one - sixteen).mean() < 0.005


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


def test_the_training_image_it_is_most_like_is_named() -> None:
    """Row and view lead back to the image that was copied."""
    training = np.random.default_rng(0).integers(0, 200, (20, 16, 16)).astype(np.uint8)
    copy = np.rot90(training[[13]], 3, axes=(1, 2))[:, :, ::-1]
    found = nearest_training(np.ascontiguousarray(copy), training, factor=2, block=6)
    assert found.row.tolist() == [13]
    np.testing.assert_array_equal(eight_views(copy)[found.view[0]][0], training[13])


def test_many_images_at_once_have_the_numbers_of_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Spectra, textures and SSIM are those of the plain functions, whatever the batch."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr("deepgps_core.generative_metrics.BATCH", 3)
    for shape in ((5, 24, 24), (4, 20, 33)):
        images = ndimage.gaussian_filter(rng.random(shape), (0, 1, 1)).astype(np.float32)
        images[1] = 0.5  # flat
        np.testing.assert_allclose(spectra(images), radial_log_spectrum(images), atol=1e-9)
        np.testing.assert_allclose(textures(images), texture(images), atol=1e-9)
        shifted = np.roll(images, 1, axis=1) * np.float32(0.9)
        np.testing.assert_allclose(
            similarities(shifted, images), ssim(shifted, images, 1.0), atol=1e-9
        )


def test_spots_are_those_of_the_plain_filters() -> None:
    """Two matrix products blur as `gaussian_filter` does, up to the borders."""
    images = np.random.default_rng(0).random((4, 32, 40)).astype(np.float32)
    narrow, wide = (ndimage.gaussian_filter(images, (0, s, s)) for s in (1.4, 2.8))
    contrast = narrow - wide
    peak = contrast == ndimage.maximum_filter(contrast, (1, 3, 3))
    expected = (peak & (contrast > 0.06)).sum(axis=(1, 2))
    assert expected.min() > 0
    np.testing.assert_array_equal(spot_count(images, 1.4), expected)


def test_proportions_of_samples_are_those_of_single_images() -> None:
    """The ring is drawn once a nucleus; the numbers are the same."""
    rng = np.random.default_rng(0)
    samples, y = rng.random((3, 5, 32, 32)).astype(np.float32), np.arange(32)
    masks = np.stack([np.hypot(*np.meshgrid(y - c, y - 16)) < 6 for c in (10, 16, 20)])
    found = sample_proportions(samples, masks, 4)
    for i in range(5):
        expected = nuclear_proportion(samples[:, i], masks, 4)
        np.testing.assert_allclose(found[:, i], expected, rtol=1e-5)


def test_intervals_have_ends() -> None:
    """Nine samples: an 80 % interval reaches from the least to the largest."""
    low, high = sample_interval(np.arange(18.0).reshape(2, 9))
    assert low.tolist() == [0, 9] and high.tolist() == [8, 17]


def test_rank_counts_ties_by_half() -> None:
    """First is 1, last 0, all equal one half; who does not compete does not count."""
    scores = np.array([[0.0, 1, 2], [2, 1, 0], [5, 5, 5]])
    assert rank_of_own(scores, np.zeros(3, int)).tolist() == [1, 0, 0.5]
    among = np.array([[True, True, False], [True, False, False], [True, True, True]])
    ranks = rank_of_own(scores, np.zeros(3, int), among)
    assert ranks[[0, 2]].tolist() == [1, 0.5] and np.isnan(ranks[1])


def test_a_frechet_distance_stands_within_its_spread() -> None:
    """The interval holds the distance, is wider for fewer proteins, and repeats."""
    rng = np.random.default_rng(0)
    features, owners = rng.normal(size=(400, 4)), np.repeat(np.arange(200), 2)
    reference = features + [1, 0, 0, 0] + 0.5 * rng.normal(size=features.shape)
    many = frechet_spread(features, reference, owners)
    few = frechet_spread(features[:80], reference[:80], owners[:80])
    assert many.low < many.estimate < many.high
    assert many.high - many.low < few.high - few.low
    assert many == frechet_spread(features, reference, owners)


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


def test_a_ruler_measures_what_is_known(dataset: Dataset) -> None:
    """The cells themselves are at no distance; equal pictures do not differ."""
    crops = load_crops(
        dataset, list(dataset.proteins["protein_id"]), encoder="drawn",
        labels=("Cytoplasm", "Nucleus"), crop_size_px=48,
    )  # fmt: skip
    owners = crops.protein_index.numpy()
    labels = crops.labels.numpy()[owners]
    judge = train_judge(crops.images, torch.from_numpy(labels), epochs=4, batch_size=8)
    nuclei, proteins = (crops.images[:, k].numpy() / np.float32(255) for k in (0, 1))
    ruler = Ruler(proteins, nuclei, nuclei > 0.5, owners, labels, 4, judge)
    noisy = np.clip(proteins + 0.05, 0, 1)
    own, other = ruler.measure(proteins), ruler.measure(noisy)
    found = ruler.intervals(own)
    assert found["r"].estimate == pytest.approx(1) and found["spectrum"].estimate == 0
    assert found["Fréchet"].estimate == pytest.approx(0, abs=1e-4) and found["GLCM"].estimate == 0
    assert found["SSIM"].estimate == pytest.approx(1)
    np.testing.assert_array_equal(own.scores["judge"], ruler.cells.scores["judge"])
    same = ruler.differences(other, other)
    assert same["r"].estimate == 0 and same["PSNR (dB)"].estimate == 0
    assert ruler.differences(other, ruler.measure(nuclei))["PSNR (dB)"].low > 0
    values = ruler.per_protein(np.arange(len(owners), dtype=float))
    np.testing.assert_allclose(values[0], np.flatnonzero(owners == owners.min()).mean())


def test_a_cell_of_the_class_is_drawn(dataset: Dataset) -> None:
    """Each row is of the class asked for, more than one is drawn, and the seed repeats them."""
    names = list(dataset.proteins["protein_id"])
    crops = load_crops(dataset, names, encoder="drawn", labels=("Cytoplasm", "Nucleus"),
                       crop_size_px=24)  # fmt: skip
    wanted = np.array([0, 1] * 10)
    rows = rows_of_class(crops, wanted, seed=3)
    np.testing.assert_array_equal(crops.labels[crops.protein_index[rows]].numpy(), wanted)
    assert len(set(rows.tolist())) > 4
    np.testing.assert_array_equal(rows, rows_of_class(crops, wanted, seed=3))


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
