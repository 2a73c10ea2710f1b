"""Real images of others go through the preprocessing functions: OpenCell's, and its Hoechst."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from deepgps_core.cropping import PreprocessingConfig, crop_origins, cut_crops, normalize_field
from deepgps_core.preprocessing import NucleusSegmenter, select_nuclei
from deepgps_core.segmentation import nucleus_labels

pytestmark = [pytest.mark.real_data, pytest.mark.slow]
CONFIG = PreprocessingConfig()


@pytest.fixture(scope="module")
def segmenter() -> NucleusSegmenter:
    return NucleusSegmenter()


def diameters(area_px: np.ndarray) -> np.ndarray:
    """Return the diameter of the disc of the same area."""
    return 2 * np.sqrt(area_px / np.pi)


def test_hoechst_fields_at_their_own_scale(real_data: Path, segmenter: NucleusSegmenter) -> None:
    """
    Nuclei of 1024-pixel camera fields measure 68 px, as in OpenCell's 600-pixel projections: those
    are cut from such fields and not shrunk, and 0.206 µm a pixel holds for both.
    """
    found = []
    for path in sorted((real_data / "opencell" / "hoechst").glob("*.tif"))[:3]:
        nucleus = tifffile.imread(path)
        field = np.stack([nucleus, nucleus])
        nuclei = segmenter(normalize_field(field, CONFIG)[0])
        kept = nuclei[select_nuclei(nuclei, CONFIG)]
        origins, inside = crop_origins(kept.centroids, nucleus.shape, CONFIG)
        crops = cut_crops(nucleus, origins[inside], CONFIG.crop_size_px)
        masks = cut_crops(nucleus_labels(kept, nucleus.shape), origins[inside], 208)
        assert len(crops) > 0.5 * len(kept) > 10
        # in the middle of a crop is its own nucleus, and that is brighter than the rest
        centers = masks[:, 104, 104]
        assert (centers == np.flatnonzero(inside) + 1).mean() > 0.9
        own = masks == (np.flatnonzero(inside) + 1)[:, None, None]
        assert crops[own].mean() > 2 * crops[masks == 0].mean()
        found.append(kept.area_px)
    median = np.median(diameters(np.concatenate(found)))
    assert median == pytest.approx(68, abs=4)
    # shrunk from 1024 to 600 pixels, they would be 40
    assert abs(median - 40) > 20


@pytest.mark.parametrize("gene", ["NPM1", "LMNB1", "VDAC1", "BCAP31"])
def test_thumbnails(real_data: Path, segmenter: NucleusSegmenter, gene: str) -> None:
    """
    Published composites, blue nucleus and gray protein, are segmented; the protein of a nuclear
    gene is brighter inside nuclei, that of a cytoplasmic one outside.
    """
    with Image.open(real_data / "opencell" / "thumbnails" / f"{gene}.png") as picture:
        rgb = np.asarray(picture.convert("RGB")).astype(np.uint16)
    protein = rgb[..., 0]  # gray has equal parts of all; blue alone is the nucleus
    nucleus = np.clip(rgb[..., 2].astype(int) - protein, 0, None).astype(np.uint16)
    normalized = normalize_field(np.stack([nucleus, protein]), CONFIG)
    nuclei = segmenter(normalized[0])
    inside = nucleus_labels(nuclei, nucleus.shape) > 0
    assert len(nuclei) >= 2 and 0.05 < inside.mean() < 0.8
    ratio = normalized[1][inside].mean() / max(0.01, normalized[1][~inside].mean())
    assert ratio > 1.3 if gene in ("NPM1", "LMNB1") else ratio < 0.9
