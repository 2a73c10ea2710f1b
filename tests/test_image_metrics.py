"""Image scores against closed forms, torchmetrics and scipy, and properties they must have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from scipy.stats import pearsonr
from torchmetrics.functional.image import structural_similarity_index_measure

from deepgps_core.crops import CropDataset
from deepgps_core.image_metrics import (
    affine_nrmse,
    agreement,
    by_convention,
    ms_ssim,
    nuclear_proportion,
    pearson,
    radial_log_spectrum,
    spectrum_distance,
    texture,
)
from deepgps_core.trivial import borrowed_images, flat_masks


def some_images(n: int = 3, side: int = 24, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=(n, side, side))


def test_pearson_equals_scipy() -> None:
    """Each image correlates as scipy says; a flat one scores 0 and an affine copy 1."""
    target, drawn = some_images(), some_images(seed=1)
    expected = [
        pearsonr(d.ravel(), t.ravel()).statistic for d, t in zip(drawn, target, strict=True)
    ]
    assert pearson(drawn, target) == pytest.approx(expected)
    assert pearson(np.full_like(target, 0.3), target) == pytest.approx([0, 0, 0])
    assert pearson(3 * target + 1, target) == pytest.approx([1, 1, 1])


def test_affine_error_equals_least_squares() -> None:
    """The error is the residual of numpy's own straight line, in standard deviations."""
    target, drawn = some_images(), some_images(seed=1) + some_images()
    for d, t, score in zip(drawn, target, affine_nrmse(drawn, target), strict=True):
        line = np.polyval(np.polyfit(d.ravel(), t.ravel(), 1), d.ravel())
        assert score == pytest.approx(np.sqrt(((t.ravel() - line) ** 2).mean()) / t.std())


@given(gain=st.floats(0.1, 10), offset=st.floats(-5, 5))
def test_affine_error_forgives_gain_and_offset(gain: float, offset: float) -> None:
    """Brightness and contrast of the prediction do not matter."""
    target, drawn = some_images(1), some_images(1, seed=1)
    assert affine_nrmse(gain * drawn + offset, target) == pytest.approx(
        affine_nrmse(drawn, target), abs=1e-6
    )


@pytest.mark.parametrize("side", [11, 24, 104, 208])
def test_ms_ssim_of_equal_images_is_one(side: int) -> None:
    """Equal images score 1 at every size, one score an image, and noise lowers it."""
    target = some_images(2, side)
    assert ms_ssim(target, target) == pytest.approx([1, 1])
    assert (ms_ssim(some_images(2, side, seed=1), target) < 0.9).all()


def test_ms_ssim_of_one_scale_is_ssim() -> None:
    """Where only one scale fits, it is torchmetrics' SSIM of that image."""
    target, drawn = some_images(2, 12), 0.7 * some_images(2, 12) + 0.3 * some_images(2, 12, seed=1)
    for d, t, score in zip(drawn, target, ms_ssim(drawn, target), strict=True):
        pair = (torch.from_numpy(x)[None, None] for x in (d, t))
        expected = structural_similarity_index_measure(*pair, data_range=1.0)
        assert score == pytest.approx(float(expected), abs=1e-5)
    with pytest.raises(ValueError, match="too small"):
        ms_ssim(some_images(1, 8), some_images(1, 8))


def test_spectrum_peaks_at_the_frequency_of_a_wave() -> None:
    """A wave of 6 cycles has its power there, in either direction; blur takes fine grain away."""
    y, x = np.mgrid[:64, :64] / 64
    waves = np.stack([np.sin(2 * np.pi * 6 * x), np.sin(2 * np.pi * 6 * y)])
    assert (radial_log_spectrum(waves).argmax(axis=1) + 1 == 6).all()
    noise = some_images(4, 64)
    blurred = ndimage.gaussian_filter(noise, (0, 2, 2))
    assert spectrum_distance(noise, noise) == 0
    assert spectrum_distance(blurred, noise) > spectrum_distance(some_images(4, 64, 9), noise)


def test_spectrum_is_quadratic_in_contrast() -> None:
    """Ten times the contrast is two powers of ten more power."""
    noise = 100 * some_images(2, 32)
    assert radial_log_spectrum(10 * noise) == pytest.approx(
        radial_log_spectrum(noise) + 2, abs=1e-3
    )


def test_texture_of_a_flat_and_a_striped_image() -> None:
    """Flat: no contrast, all else 1. Stripes: rough by closed form."""
    flat = texture(np.full((1, 12, 12), 0.5))[0]
    assert flat == pytest.approx([0, 0, 1, 1, 1, 1, 1, 1])
    stripes = np.tile([0.0, 0.99], (1, 12, 6))  # grays 0 and 15; only along stripes equal
    # of four directions, three cross a stripe at 1 pixel: 15**2 * 3 / 4; at 3 pixels only one,
    # as diagonals are rounded to (2, 2), which leads back to an equal stripe
    assert texture(stripes)[0, :2] == pytest.approx([168.75, 56.25])


def test_nuclear_proportion_by_counting() -> None:
    """A flat image has the mask's share of the area; all inside is 1; none at all is NaN."""
    mask = np.zeros((3, 40, 40), dtype=bool)
    mask[:, 15:25, 15:25] = True
    images = np.stack([np.ones((40, 40)), mask[0].astype(float), np.zeros((40, 40))])
    disk = np.hypot(*np.mgrid[-4:5, -4:5]) <= 4
    cell = ndimage.binary_dilation(mask[0], disk)
    found = nuclear_proportion(images, mask, ring_px=4)
    assert found[0] == pytest.approx(100 / cell.sum())
    assert found[1] == 1
    assert np.isnan(found[2])


def test_agreement_of_known_values() -> None:
    """r equals scipy's, half of a halved deviation is slope 2, and sides are counted."""
    truth = np.random.default_rng(0).uniform(size=40)
    drawn = 0.5 + (truth - 0.5) / 2
    found = agreement(truth, drawn, n_resamples=50)
    assert found["r"].estimate == pytest.approx(1)
    assert found["slope"].estimate == pytest.approx(2)
    assert found["right_side"].estimate == 1
    noisy = np.random.default_rng(1).uniform(size=40)
    found = agreement(truth, noisy, n_resamples=50)
    assert found["r"].estimate == pytest.approx(pearsonr(truth, noisy).statistic)
    assert found["right_side"].estimate == ((truth > 0.5) == (noisy > 0.5)).mean()
    assert np.isnan(agreement(truth, np.full(40, 0.4), n_resamples=50)["r"].estimate)


def test_conventions_by_hand() -> None:
    """Errors .1 and .01 are 20 and 40 dB: 30 on average, less pooled; half the range takes 6."""
    target = some_images(2, 16) / 2
    target[:, 0, 0], target[:, 0, 1] = 0, 0.5  # each spans one half
    drawn = target + np.array([0.1, 0.01])[:, None, None]
    table = by_convention(drawn, target).set_index(["metric", "over", "data_range"])["score"]
    assert table["psnr_db", "mean of images", "fixed"] == pytest.approx(30)
    pooled = -10 * np.log10((0.01 + 0.0001) / 2)
    assert table["psnr_db", "pooled stack", "fixed"] == pytest.approx(pooled)
    assert table["psnr_db", "mean of images", "per image"] == pytest.approx(30 - 20 * np.log10(2))


@pytest.mark.parametrize("score", [pearson, ms_ssim, nuclear_proportion, by_convention])
def test_shapes_must_agree(score: object) -> None:
    """Different shapes are refused, not broadcast."""
    with pytest.raises(ValueError, match="shapes"):
        score(some_images(1), some_images(2))  # type: ignore[operator]


def crops(grays: list[int], features: list[list[float]], labels: list[int]) -> CropDataset:
    images = torch.zeros(len(grays), 2, 4, 4, dtype=torch.uint8)
    images[:, 1] = torch.tensor(grays, dtype=torch.uint8)[:, None, None]
    images[:, 0, 1, 1] = 255
    names = tuple(f"P{i}" for i in range(len(grays)))
    return CropDataset(images, torch.arange(len(grays)), torch.tensor(features),
                       torch.tensor(labels), names, names)  # fmt: skip


def test_borrowed_images_come_from_whom_they_should() -> None:
    """The nearest vector's crop whatever its length, a crop of the class asked for, a blur."""
    training = crops([51, 102, 204], [[1.0, 0.0], [0.0, 5.0], [-1.0, -1.0]], [0, 1, 1])
    test = crops([0, 0], [[9.0, 1.0], [-3.0, -2.0]], [0, 1])
    found = borrowed_images(test, training, np.array([0, 0]))
    assert found["nearest protein"][:, 0, 0] == pytest.approx([0.2, 0.8])
    assert found["same class"][:, 0, 0] == pytest.approx([0.2, 0.2])
    assert found["nucleus blurred"].shape == (2, 4, 4)
    again = borrowed_images(test, training, np.array([1, 1]), seed=3)
    once = borrowed_images(test, training, np.array([1, 1]), seed=3)
    assert (again["same class"] == once["same class"]).all()


def test_flat_masks_have_the_class_means() -> None:
    """Inside and outside of the nucleus get their class's mean grays, counted over pixels."""
    training = crops([0, 0, 0], [[0.0]] * 3, [0, 0, 1])
    nuclei = np.zeros((3, 4, 4), dtype=bool)
    nuclei[:, :2] = True
    training.images[:, 1, :2] = torch.tensor([255, 51, 102], dtype=torch.uint8)[:, None, None]
    asked = np.zeros((2, 4, 4), dtype=bool)
    asked[:, 0, 0] = True
    drawn = flat_masks(training, nuclei, asked, np.array([0, 1]))
    assert drawn[:, 0, 0] == pytest.approx([0.6, 0.4])
    assert drawn[:, 3, 3] == pytest.approx([0, 0])
