"""
The nucleus beside which a protein is drawn: one that ships, or those of an image that is given.

An image no larger than one and a half crops is taken as it is, the way a single cell is saved.
A larger one is a field of view: StarDist finds its nuclei, small ones are left out, and each of
the others gives one crop with the nucleus in the middle, as in training.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.transform import resize_local_mean

from deepgps_core.cropping import (
    PreprocessingConfig,
    crop_origins,
    cut_crops,
    normalize_field,
    select_nuclei,
)
from deepgps_core.dataset import InputError
from deepgps_core.segmentation import NucleusSegmenter

DEFAULT_NUCLEUS = Path(__file__).parent / "data" / "models" / "default_nucleus.png"
#: Pixel size of the default nucleus, micrometers.
DEFAULT_PIXEL_SIZE_UM = 0.206
#: An image with sides up to so many crops is one cell and is not segmented.
SINGLE_CROP_SIDES = 1.5


@dataclass(frozen=True)
class NucleusCrops:
    """
    Nuclei as a network takes them.

    Parameters
    ----------
    images : ndarray, shape (n, H, W), dtype float32
        In [0, 1], at the network's pixel size.
    n_found : int
        Nuclei in the image that could be used; more than n where a limit was given.
    source : str
        What they are, in words for a report.
    beside : ndarray, shape (n, H, W), dtype float32, optional
        The same windows of another channel of the image, where there is one.
    """

    images: np.ndarray
    n_found: int
    source: str
    beside: np.ndarray | None = None


@dataclass(frozen=True)
class NetworkScale:
    """
    Pixel sizes of the fields a network was trained on and of its input, and its crop.

    Parameters
    ----------
    field_pixel_size_um, pixel_size_um : float
    crop_size_px : int
        Side of the network's crops, in pixels of `pixel_size_um`.
    """

    field_pixel_size_um: float
    pixel_size_um: float
    crop_size_px: int

    @property
    def field_crop_px(self) -> int:
        """Side of a crop in pixels of the field."""
        return round(self.crop_size_px * self.pixel_size_um / self.field_pixel_size_um)


def _resized(image: np.ndarray, zoom: float) -> np.ndarray:
    if zoom == 1:
        return image
    return resize_local_mean(image, tuple(max(1, round(side * zoom)) for side in image.shape))


@lru_cache(maxsize=1)
def default_nucleus() -> np.ndarray:
    """Return the simulated nucleus that ships, shape (208, 208), float32 in [0, 1]."""
    with Image.open(DEFAULT_NUCLEUS) as picture:
        return np.asarray(picture, dtype=np.float32) / 255


def default_crops(scale: NetworkScale) -> NucleusCrops:
    """Return the default nucleus at a network's pixel size."""
    image = _resized(default_nucleus(), DEFAULT_PIXEL_SIZE_UM / scale.pixel_size_um)
    source = "the default nucleus (simulated), as none was given"
    return NucleusCrops(np.clip(image, 0, 1)[None].astype(np.float32), 1, source)


@lru_cache(maxsize=1)
def _segmenter() -> NucleusSegmenter:
    return NucleusSegmenter()


def nuclei_of(
    image: np.ndarray,
    scale: NetworkScale,
    *,
    pixel_size_um: float | None = None,
    max_nuclei: int = 8,
    beside: np.ndarray | None = None,
) -> NucleusCrops:
    """
    Bring the nuclei of an image to the intensities, pixel size and crop of a network.

    Parameters
    ----------
    image : ndarray, shape (H, W)
        Raw counts of the nucleus channel, as `predict.read_nuclear_image` returns them.
    pixel_size_um : float, optional
        By default that of the fields the network was trained on.
    max_nuclei : int
        At most so many of a field, the surest first.
    beside : ndarray, shape (H, W), optional
        Another channel of the same image, such as the measured protein, to be cut alike.

    Returns
    -------
    nuclei : NucleusCrops
        One image where the image is a single crop already, else one a nucleus.

    Raises
    ------
    InputError
        If no nucleus is found, or the pixel size is impossible.
    """
    pixel_size_um = scale.field_pixel_size_um if pixel_size_um is None else pixel_size_um
    if not 0.01 <= pixel_size_um <= 10:
        raise InputError(f"pixel size {pixel_size_um} um: not between 0.01 and 10; correct it.")
    channels = [image] if beside is None else [image, beside]
    zoom = pixel_size_um / scale.field_pixel_size_um
    planes = np.stack([_resized(channel.astype(np.float32), zoom) for channel in channels])
    planes = normalize_field(planes)  # (C, H, W), each channel by its own percentiles
    plane = planes[0]
    if max(plane.shape) <= SINGLE_CROP_SIDES * scale.field_crop_px:
        crops, n_found = planes[None], 1
        source = "the image that was given, used as a single cell"
    else:
        crops, n_found = _cells(planes, scale, max_nuclei)
        source = f"{len(crops)} of {n_found} nuclei found in the image that was given"
    zoom = scale.field_pixel_size_um / scale.pixel_size_um
    stacks = [
        np.stack([np.clip(_resized(crop[k], zoom), 0, 1) for crop in crops]).astype(np.float32)
        for k in range(len(channels))
    ]  # of each channel (n, H, W)
    return NucleusCrops(stacks[0], n_found, source, None if beside is None else stacks[1])


def _cells(planes: np.ndarray, scale: NetworkScale, max_nuclei: int) -> tuple[np.ndarray, int]:
    """Segment the first plane of a normalized field and cut its surest nuclei, (n, C, H, W)."""
    plane = planes[0]
    nuclei = _segmenter()(plane)
    nuclei = nuclei[select_nuclei(nuclei, PreprocessingConfig())]
    if not len(nuclei):
        raise InputError(
            f"nucleus image: no nucleus found in {plane.shape[0]} x {plane.shape[1]} px (at "
            f"{scale.field_pixel_size_um} um); check the channel and give its pixel size."
        )
    shape, size = (plane.shape[0], plane.shape[1]), scale.field_crop_px
    config = PreprocessingConfig(crop_size_px=size, border_rule="pad")
    inside = PreprocessingConfig(crop_size_px=size, border_rule="drop")
    origins, kept = crop_origins(nuclei.centroids, shape, config)
    if min(shape) >= size:
        whole = crop_origins(nuclei.centroids, shape, inside)[1]
        kept = whole if whole.any() else kept  # cells cut by the border only if there is no other
    rows = np.flatnonzero(kept)
    surest = rows[np.argsort(-nuclei.probability[rows], kind="stable")][:max_nuclei]
    return cut_crops(planes, origins[surest], size), len(rows)
