"""The segmenter's training: targets against StarDist's own, the loss by hand, a short fit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from skimage.draw import ellipse
from skimage.measure import label as connected_components
from stardist import star_dist

from deepgps_core.segmentation_training import (
    Patches,
    PatchStore,
    SegmentationTrainingConfig,
    disturb,
    draw_patches,
    gather_patches,
    stardist_loss,
    train_segmenter,
)
from deepgps_core.stardist_torch import StarDistNet


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep small tensors on one thread: faster than sharing them out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw_labels() -> np.ndarray:
    """Three ellipses of different tilt, shape (256, 256)."""
    labels = np.zeros((256, 256), dtype=np.int32)
    shapes = [(120, 130, 30, 18, 0.5), (60, 60, 20, 12, 1.0), (190, 200, 25, 15, -0.4)]
    for i, (y, x, a, b, tilt) in enumerate(shapes, start=1):
        rows, columns = ellipse(y, x, a, b, rotation=tilt)
        labels[rows, columns] = i
    return labels


@pytest.fixture(scope="module")
def store() -> PatchStore:
    """One image, bright where its labels are."""
    labels = draw_labels()
    return PatchStore([(labels > 0).astype(np.float32)], [labels])


@pytest.mark.parametrize("turn", [0, 5, 8, 23])
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_turned_targets_equal_newly_computed_ones(
    store: PatchStore, turn: int, mirror: bool, scale: float
) -> None:
    """Rolled, reflected and scaled radii are StarDist's radii of the turned image."""
    patches = gather_patches(
        store, torch.tensor([0]), torch.tensor([[127.5, 127.5]]), torch.tensor([scale]),
        torch.tensor([turn]), torch.tensor([mirror]), patch_px=256, grid=1, augment=False,
    )  # fmt: skip
    labels = connected_components(patches.image[0, 0].numpy() > 0.5)
    valid = patches.valid[0, 0].numpy() & (patches.probability[0, 0].numpy() > 0.3) & (labels > 0)
    radii = patches.distance[0].permute(1, 2, 0).numpy()
    error = np.abs(radii - star_dist(labels, 32))[valid].mean()
    wrong = np.abs(np.roll(radii, 3, axis=2) - star_dist(labels, 32))[valid].mean()
    assert valid.sum() > 900 and error < 0.8 < 3 < wrong


def test_pixels_beyond_the_image_do_not_count(store: PatchStore) -> None:
    """A patch half outside is half invalid, and the invalid half has no part in the loss."""
    config = SegmentationTrainingConfig()
    patches = gather_patches(
        store, torch.tensor([0]), torch.tensor([[0.0, 128.0]]), torch.ones(1),
        torch.tensor([0]), torch.tensor([False]), patch_px=128, grid=2, augment=False,
    )  # fmt: skip
    assert patches.valid.float().mean() == pytest.approx(0.5, abs=0.02)
    logits, radii = torch.zeros(1, 1, 64, 64), torch.ones(1, 32, 64, 64)
    before = stardist_loss(logits, radii, patches, config)
    outside = ~patches.valid
    changed = stardist_loss(logits + 9.0 * outside, radii + 50.0 * outside, patches, config)
    assert changed == pytest.approx(before.item(), rel=1e-6)


def test_loss_by_hand() -> None:
    """Even odds cost ln 2; radii off by 3 in nuclei of the typical size cost 0.2 x 3."""
    ones = torch.ones(1, 1, 8, 8)
    patches = Patches(ones, ones, torch.full((1, 32, 8, 8), 12.0), ones.bool())
    loss = stardist_loss(
        torch.zeros(1, 1, 8, 8), torch.full((1, 32, 8, 8), 15.0), patches,
        SegmentationTrainingConfig(),
    )  # fmt: skip
    assert loss.item() == pytest.approx(np.log(2) + 0.2 * 3, rel=1e-5)


def test_patches_keep_to_the_range_of_sizes(store: PatchStore) -> None:
    """No patch shows nuclei larger than asked for, whatever scale was drawn."""
    config = SegmentationTrainingConfig(
        batch_size=64, patch_px=64, diameter_range_px=(8.0, 20.0), native_fraction=0.0
    )
    torch.manual_seed(0)
    patches = draw_patches(store, config, grid=2, augment=False)
    assert patches.image.shape == (64, 1, 64, 64)
    assert patches.distance.shape == (64, 32, 32, 32)
    largest = 35 * 20.0 / store.diameter_px.item()  # the largest radius anywhere, scaled
    assert patches.distance.max() < 2 * largest


def test_disturbed_images_stay_finite_and_differ(store: PatchStore) -> None:
    """Intensities change, by another amount in each image of a batch, and never overflow."""
    torch.manual_seed(0)
    image = torch.rand(8, 1, 64, 64) * 3 - 0.5
    out = disturb(image)
    assert out.shape == image.shape and torch.isfinite(out).all()
    change = (out - image).abs().mean(dim=(1, 2, 3))
    assert change.std() > 0.01


def fit(store: PatchStore, steps: int) -> list[float]:
    """Train a small network from one seed."""
    config = SegmentationTrainingConfig(
        batch_size=4, patch_px=64, steps=steps, learning_rate=5e-3, warmup_steps=5,
        average_decay=0.8, native_fraction=1.0,
    )  # fmt: skip
    torch.manual_seed(0)
    return train_segmenter(StarDistNet(n_filter_base=8, n_features=16), store, config)


def test_a_small_network_learns(store: PatchStore) -> None:
    """Sixty steps take away a third of the loss."""
    losses = fit(store, 60)
    assert np.mean(losses[-10:]) < 0.75 * np.mean(losses[:4])


def test_the_same_seed_gives_the_same_losses(store: PatchStore) -> None:
    """Training draws all its chances from the seed."""
    assert fit(store, 3) == fit(store, 3)
