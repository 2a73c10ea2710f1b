"""Nuclei as polygons, the StarDist model that ships, and its twin in PyTorch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from skimage.draw import ellipse

from deepgps_core import segmentation
from deepgps_core.cropping import PreprocessingConfig, normalize_field
from deepgps_core.dataset import InputError
from deepgps_core.segmentation import (
    EMBEDDED_MODEL,
    N_RAYS,
    Nuclei,
    NucleusSegmenter,
    measured_nuclei,
    nucleus_labels,
    segmentation_score,
    segmenter_identity,
)
from deepgps_core.stardist_torch import (
    StarDistNet,
    TorchStarDist,
    load_network,
    read_keras_h5,
    save_as_stardist,
)


@pytest.fixture(scope="module")
def segmenter() -> NucleusSegmenter:
    """Return the embedded model, loaded once."""
    return NucleusSegmenter("embedded")


def disc(y: float, x: float, radius: float, probability: float) -> Nuclei:
    """Return one round nucleus."""
    return measured_nuclei(
        np.array([[y, x]]), np.full((1, N_RAYS), radius), np.array([probability]), (200, 200)
    )


def draw_scene(scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Draw blurred, noisy ellipses on a grid: image float32 in about [0, 1], labels int32."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    size = int(400 * scale)
    labels = np.zeros((size, size), dtype=np.int32)
    for i in range(4):
        for j in range(4):
            rows, columns = ellipse(
                (55 + 95 * i + rng.uniform(-6, 6)) * scale, (55 + 95 * j) * scale,
                rng.uniform(30, 38) * scale, rng.uniform(22, 30) * scale,
                shape=labels.shape, rotation=rng.uniform(0, 3),
            )  # fmt: skip
            labels[rows, columns] = 4 * i + j + 1
    image = gaussian_filter((labels > 0).astype(np.float32), 1.5 * scale)
    return image + rng.normal(0, 0.04, image.shape).astype(np.float32), labels


def test_a_round_nucleus_has_the_area_of_its_polygon() -> None:
    """The 32-gon of a circle of radius 20 covers 32 / 2 sin(2 pi / 32) r^2 pixels."""
    nuclei = disc(100, 90, 20, 0.9)
    expected = N_RAYS / 2 * np.sin(2 * np.pi / N_RAYS) * 20**2
    assert nuclei.area_px[0] == pytest.approx(expected, rel=0.02)
    assert nuclei.centroids[0] == pytest.approx([100, 90], abs=1e-4)


def test_the_centroid_is_not_the_point_of_the_radii() -> None:
    """Radii measured from off the middle still give the middle of the polygon."""
    angles = np.linspace(0, 2 * np.pi, N_RAYS, endpoint=False)
    offset = 10.0  # the point lies 10 pixels left of the center of a circle of radius 30
    radii = offset * np.cos(angles) + np.sqrt(30**2 - (offset * np.sin(angles)) ** 2)
    nuclei = measured_nuclei(np.array([[80.0, 70.0]]), radii[None], np.ones(1), (200, 200))
    assert nuclei.centroids[0] == pytest.approx([80, 80], abs=0.3)


def test_the_likelier_nucleus_lies_on_top() -> None:
    """Where two polygons overlap, the pixels and the area belong to the likelier one."""
    points, radii = np.array([[100.0, 90.0], [100.0, 110.0]]), np.full((2, N_RAYS), 20.0)
    nuclei = measured_nuclei(points, radii, np.array([0.6, 0.9]), (200, 200))
    labels = nucleus_labels(nuclei, (200, 200))
    assert labels[100, 100] == 2 and nuclei.area_px[1] > nuclei.area_px[0]
    assert np.bincount(labels.ravel())[1:].tolist() == nuclei.area_px.tolist()


def test_labels_equal_stardists_own() -> None:
    """Our drawing gives the pixels of stardist.geometry.polygons_to_label."""
    from stardist.geometry import polygons_to_label

    rng = np.random.default_rng(1)
    points, radii = rng.uniform(0, 200, (12, 2)), rng.uniform(8, 30, (12, N_RAYS))
    nuclei = measured_nuclei(points, radii, rng.uniform(0.5, 1, 12), (200, 180))
    stored = np.stack([nuclei.y_px, nuclei.x_px], axis=1)
    expected = polygons_to_label(nuclei.radii, stored, (200, 180), prob=nuclei.probability)
    assert np.array_equal(nucleus_labels(nuclei, (200, 180)), expected)


def test_order_does_not_depend_on_stardists() -> None:
    """Nuclei are numbered from top to bottom, whatever order they come in."""
    points, radii = np.array([[90.0, 50.0], [30.0, 60.0]]), np.full((2, N_RAYS), 10.0)
    likely = np.array([0.9, 0.8])
    one = measured_nuclei(points, radii, likely, (200, 200))
    other = measured_nuclei(points[::-1], radii, likely[::-1], (200, 200))
    assert one.y_px.tolist() == other.y_px.tolist() == [30, 90]
    assert one.probability.tolist() == other.probability.tolist()


def test_small_objects_can_be_left_out_of_the_score() -> None:
    """A missed sliver and a found speck count, unless they are below the minimum."""
    truth, found = np.zeros((60, 60), int), np.zeros((60, 60), int)
    truth[5:30, 5:30] = found[6:30, 5:30] = 1
    truth[59, 10:15] = 2  # a sliver, missed
    found[50:53, 40:43] = 2  # a speck, found
    every = segmentation_score([truth], [found])
    assert (every["tp"], every["fp"], every["fn"]) == (1, 1, 1) and every["f1"] == 0.5
    assert segmentation_score([truth], [found], minimum_area_px=100)["f1"] == 1.0
    assert segmentation_score([truth], [found], overlap=0.99)["tp"] == 0


@pytest.mark.parametrize("scale", [0.4, 1.0, 1.8])
def test_drawn_ellipses_are_found_at_any_scale(segmenter: NucleusSegmenter, scale: float) -> None:
    """All sixteen are found, once each, overlapping their truth by more than 0.7."""
    image, truth = draw_scene(scale)
    found = nucleus_labels(segmenter(image), truth.shape)
    score = segmentation_score([truth], [found], overlap=0.7)
    assert (score["tp"], score["fp"], score["fn"]) == (16, 0, 0)


@pytest.mark.slow
def test_simulated_nuclei_are_found(segmenter: NucleusSegmenter) -> None:
    """On held-out simulated fields F1 is at least 0.95 over nuclei of 1,000 pixels and more."""
    from deepgps_core.sources.simulated import SimulationConfig, simulate_field

    fields = [
        simulate_field(["Nucleus"], f"HELDOUT{i}", 0, SimulationConfig(seed=5)) for i in range(5)
    ]
    truths = [field.nucleus_labels for field in fields]
    images = [normalize_field(field.field)[0] for field in fields]
    found = [nucleus_labels(segmenter(image), image.shape) for image in images]
    assert segmentation_score(truths, found, minimum_area_px=1000)["f1"] >= 0.95
    assert segmentation_score(truths, found)["f1"] >= 0.9  # specks and border slivers counted


def test_an_empty_field_has_no_nuclei(segmenter: NucleusSegmenter) -> None:
    """Constant darkness gives an empty table of the right shapes."""
    nuclei = segmenter(np.zeros((128, 160), dtype=np.float32))
    assert len(nuclei) == 0 and nuclei.radii.shape == (0, N_RAYS)
    assert nuclei.centroids.shape == (0, 2)
    assert nucleus_labels(nuclei, (128, 160)).max() == 0


def test_scaling_returns_pixels_of_the_original() -> None:
    """Segmenting at half size moves no nucleus by more than a pixel or two."""
    image, truth = draw_scene()
    half = NucleusSegmenter("embedded", scale=0.5)(image)
    centers = np.array([np.argwhere(truth == i).mean(axis=0) for i in range(1, 17)])
    distance = np.linalg.norm(half.centroids[:, None] - centers[None], axis=2).min(axis=1)
    assert len(half) == 16 and distance.max() < 2.5


def test_two_channels_at_once_are_refused(segmenter: NucleusSegmenter) -> None:
    """The message shows the shape that came."""
    with pytest.raises(ValueError, match=r"got shape \(2, 64, 64\)"):
        segmenter(np.zeros((2, 64, 64), dtype=np.float32))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    """The message names the folder and what can be used instead."""
    with pytest.raises(InputError, match="no StarDist model.*use 'embedded'"):
        NucleusSegmenter(tmp_path)


def test_identity_tells_models_apart(tmp_path: Path) -> None:
    """Another threshold file is another model; a published model is known by name."""
    for path in EMBEDDED_MODEL.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "thresholds.json").write_text('{"prob": 0.9, "nms": 0.3}')
    assert segmenter_identity().startswith("stardist_nuclei-")
    assert segmenter_identity(tmp_path).split("-")[-1] != segmenter_identity().split("-")[-1]
    assert segmenter_identity("2D_versatile_fluo") == "2D_versatile_fluo"


def test_without_stardist_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without StarDist is told to bring the nuclei."""
    monkeypatch.setitem(sys.modules, "stardist.models", None)
    with pytest.raises(InputError, match=r"deepgps-core\[segment\].*nuclei\.npz"):
        NucleusSegmenter("embedded")


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_without_tensorflow_the_twin_finds_the_same_nuclei(
    segmenter: NucleusSegmenter, monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    """Points, probabilities and radii are those of StarDist itself, sides of any length."""
    image = draw_scene()[0][:390, :371]
    expected = NucleusSegmenter("embedded", scale=scale)(image)

    twin = TorchStarDist(EMBEDDED_MODEL).predict_instances
    monkeypatch.setattr(segmentation, "_load_stardist", lambda _: twin)
    found = NucleusSegmenter("embedded", scale=scale)(image)
    assert len(found) == len(expected) >= 12
    np.testing.assert_allclose(found.y_px, expected.y_px)
    np.testing.assert_allclose(found.probability, expected.probability, atol=1e-4)
    np.testing.assert_allclose(found.radii, expected.radii, atol=1e-2)


def test_tensorflow_is_not_needed() -> None:
    """In a process where TensorFlow cannot be imported, a disc is found all the same."""
    code = """
import sys
for name in ("tensorflow", "keras"):
    sys.modules[name] = None
import numpy as np
from deepgps_core.segmentation import NucleusSegmenter
y, x = np.mgrid[:256, :256]
found = NucleusSegmenter()((np.hypot(y - 128, x - 128) < 35).astype(np.float32))
assert abs(found.area_px[0] - 3848) < 400, found.area_px
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_costs_no_tensorflow() -> None:
    """Cropping, drawing and reading nuclei load neither TensorFlow nor torch."""
    code = (
        "import sys, numpy as np\n"
        "from deepgps_core.preprocessing import nucleus_labels, normalize_field, prepare\n"
        "normalize_field(np.ones((2, 9, 9), np.uint16))\n"
        "print([m for m in ('tensorflow', 'keras', 'torch', 'matplotlib.pyplot')"
        " if m in sys.modules and m != 'matplotlib.pyplot'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_model_is_small() -> None:
    """What ships stays under 3 MB."""
    assert sum(path.stat().st_size for path in EMBEDDED_MODEL.iterdir()) < 3_000_000


def stardist_model(folder: Path) -> Any:
    """Load a model folder with StarDist's own class."""
    from stardist.models import StarDist2D

    return StarDist2D(None, name=folder.name, basedir=str(folder.parent))


def test_the_twin_predicts_what_keras_predicts() -> None:
    """PyTorch and Keras agree within 1e-4 on probability and radii, borders included."""
    image = np.random.default_rng(0).normal(0.4, 0.4, (1, 96, 144, 1)).astype(np.float32)
    probability, distance = stardist_model(EMBEDDED_MODEL).keras_model.predict(image, verbose=0)
    with torch.no_grad():
        logits, radii = load_network(EMBEDDED_MODEL)(torch.from_numpy(image.transpose(0, 3, 1, 2)))
    assert np.abs(logits.sigmoid().numpy()[:, 0] - probability[..., 0]).max() < 1e-4
    assert np.abs(radii.numpy().transpose(0, 2, 3, 1) - distance).max() < 1e-3  # of 100 pixels
    relative = np.abs(radii.numpy().transpose(0, 2, 3, 1) - distance) / (1 + np.abs(distance))
    assert relative.max() < 1e-4


def test_weights_go_both_ways() -> None:
    """Weights taken out in Keras's order of axes and put back give the same network."""
    torch.manual_seed(0)
    first, second = StarDistNet(n_filter_base=4), StarDistNet(n_filter_base=4)
    second.load_keras_weights(first.keras_weights())
    image = torch.rand(1, 1, 32, 48)
    assert torch.equal(first(image)[1], second(image)[1])
    with pytest.raises(ValueError, match="convolutions given"):
        first.load_keras_weights(first.keras_weights()[:-1])
    with pytest.raises(ValueError, match="kernel"):
        StarDistNet(n_filter_base=8).load_keras_weights(first.keras_weights())


def test_a_saved_network_is_a_stardist_model(tmp_path: Path) -> None:
    """A network written here is loaded by StarDist and predicts the same to half precision."""
    torch.manual_seed(0)
    network = StarDistNet(n_filter_base=8, n_features=16)
    save_as_stardist(network, tmp_path / "model", {"prob": 0.4, "nms": 0.3})
    loaded = stardist_model(tmp_path / "model")
    assert (loaded.thresholds.prob, loaded.thresholds.nms) == (0.4, 0.3)
    image = np.random.default_rng(0).random((1, 32, 48, 1)).astype(np.float32)
    _, distance = loaded.keras_model.predict(image, verbose=0)
    with torch.no_grad():
        _, radii = network(torch.from_numpy(image.transpose(0, 3, 1, 2)))
    assert np.abs(radii.numpy().transpose(0, 2, 3, 1) - distance).max() < 1e-3
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "config.json", "thresholds.json", "weights_best.h5"]  # fmt: skip


def test_the_weights_file_holds_the_networks_parameters() -> None:
    """As many numbers as StarDist2D has with 24 filters on a grid of 2: 810,785."""
    weights = read_keras_h5(EMBEDDED_MODEL / "weights_best.h5")
    assert sum(kernel.size + bias.size for kernel, bias in weights) == 810_785


@pytest.mark.slow
@pytest.mark.real_data
def test_scores_on_dsb2018(segmenter: NucleusSegmenter, real_data: Path) -> None:
    """F1 at an overlap of 0.5 is at least 0.88 on DSB2018's 50 test images."""
    truth, found = [], []
    for path in sorted((real_data / "dsb2018" / "test" / "images").glob("*.tif")):
        image = tifffile.imread(path).astype(np.uint16)
        nuclei = segmenter(normalize_field(image[None], PreprocessingConfig())[0])
        found.append(nucleus_labels(nuclei, image.shape))
        truth.append(tifffile.imread(path.parents[1] / "masks" / path.name).astype(np.int32))
    assert len(truth) == 50
    assert segmentation_score(truth, found)["f1"] >= 0.88


@pytest.mark.slow
@pytest.mark.real_data
def test_real_hek_nuclei_are_not_split(segmenter: NucleusSegmenter, real_data: Path) -> None:
    """Median diameter in seven real fields is plausible, and few fragments surround it."""
    diameters, small = [], []
    for path in sorted((real_data / "opencell" / "hoechst").glob("*.tif")):
        image = tifffile.imread(path)
        nuclei = segmenter(normalize_field(image.reshape(1, *image.shape[-2:]))[0])
        small.append(nuclei.area_px < 1000)
        diameters.append(np.sqrt(4 * nuclei.area_px[nuclei.area_px >= 1000] / np.pi))
    assert len(diameters) == 7
    assert 55 < np.median(np.concatenate(diameters)) < 85
    assert np.concatenate(small).mean() < 0.15  # debris, mostly
