"""
The steps between a raw field and its crops, each a function of arrays.

Paper, Methods, "Image preprocessing": percentile normalization (CSBDeep), objects under 1,000
pixels removed, 208 x 208 crops with a nucleus in the middle. What the paper leaves open is a
field of `PreprocessingConfig`. Segmentation itself is in `segmentation`; running the steps
over a dataset is in `preprocessing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from deepgps_core.dataset import InputError
from deepgps_core.segmentation import Nuclei


@dataclass(frozen=True)
class PreprocessingConfig:
    """
    The choices between a raw field and its crops; the defaults are what the book uses.

    Parameters
    ----------
    percentile_low, percentile_high : float
        Intensities that become 0 and 1. The paper names csbdeep, whose own default is 3 and
        99.8; StarDist's examples use 1 and 99.8, and so do we.
    normalize_by : {"field_channel", "field"}
        Percentiles of each channel of each field, or of both channels together.
    minimum_area_px : int
        Smaller objects are removed (the paper's 1,000).
    crop_size_px : int
        Edge of a crop (the paper's 208).
    border_rule : {"drop", "shift", "pad"}
        A nucleus nearer the border than half a crop: left out, cut off center, or filled up
        with zeros. The paper does not say.
    probability_threshold, nms_threshold : float, optional
        StarDist's; by default those stored with the model.
    scale : float
        Zoom of the nucleus channel for StarDist alone; crops are not resampled.
    """

    percentile_low: float = 1.0
    percentile_high: float = 99.8
    normalize_by: Literal["field_channel", "field"] = "field_channel"
    minimum_area_px: int = 1000
    crop_size_px: int = 208
    border_rule: Literal["drop", "shift", "pad"] = "drop"
    probability_threshold: float | None = None
    nms_threshold: float | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.normalize_by not in ("field_channel", "field"):
            raise InputError(f"normalize_by {self.normalize_by!r}: use 'field_channel' or 'field'.")
        if self.border_rule not in ("drop", "shift", "pad"):
            raise InputError(f"border_rule {self.border_rule!r}: use 'drop', 'shift' or 'pad'.")
        if not 0 <= self.percentile_low < self.percentile_high <= 100:
            raise InputError(
                f"percentiles {self.percentile_low} and {self.percentile_high}: "
                "give two increasing numbers between 0 and 100."
            )

    def of_segmentation(self) -> dict[str, Any]:
        """Return the choices on which the nuclei depend; the others only concern the cutting."""
        names = ("percentile_low", "percentile_high", "normalize_by",
                 "probability_threshold", "nms_threshold", "scale")  # fmt: skip
        return {name: getattr(self, name) for name in names}


def normalize_field(field: np.ndarray, config: PreprocessingConfig | None = None) -> np.ndarray:
    """
    Normalize a field by percentiles.

    Parameters
    ----------
    field : ndarray, shape (C, H, W), dtype uint16
        Raw counts.

    Returns
    -------
    normalized : ndarray, shape (C, H, W), dtype float32
        0 at the low and 1 at the high percentile; not clipped.

    Raises
    ------
    ValueError
        If the field is not three-dimensional.

    Notes
    -----
    Source: ``csbdeep.utils.normalize``, as the paper says.

    Examples
    --------
    >>> field = np.arange(200, dtype=np.uint16).reshape(2, 10, 10)
    >>> normalize_field(field, PreprocessingConfig(0, 100)).max()
    np.float32(1.0)
    """
    from csbdeep.utils import normalize

    config = config or PreprocessingConfig()
    if field.ndim != 3:
        raise ValueError(f"a field (C, H, W) is needed, got shape {field.shape}")
    axis = (1, 2) if config.normalize_by == "field_channel" else None
    return normalize(field, config.percentile_low, config.percentile_high, axis=axis)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Clip a normalized image to [0, 1] and store it in 256 steps."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def select_nuclei(nuclei: Nuclei, config: PreprocessingConfig) -> np.ndarray:
    """Return which nuclei are large enough, shape (n,), dtype bool."""
    return nuclei.area_px >= config.minimum_area_px


def crop_origins(
    centroids: np.ndarray, shape: tuple[int, int], config: PreprocessingConfig
) -> tuple[np.ndarray, np.ndarray]:
    """
    Place a window around each centroid.

    Parameters
    ----------
    centroids : ndarray, shape (n, 2)
        (y, x) in pixels.
    shape : (H, W)
        Size of the field.

    Returns
    -------
    origins : ndarray, shape (n, 2), dtype int64
        Upper left corner; negative where the window hangs over the field ("pad").
    kept : ndarray, shape (n,), dtype bool
        False where the border rule drops the nucleus.

    Raises
    ------
    InputError
        If the field is smaller than a crop, unless the border rule is "pad".
    """
    size = config.crop_size_px
    if config.border_rule != "pad" and min(shape) < size:
        raise InputError(
            f"a field of {shape[0]} x {shape[1]} pixels is smaller than a crop of {size}; "
            "use border_rule='pad' or a smaller crop_size_px."
        )
    origins = np.rint(centroids).astype(np.int64) - size // 2
    limits = np.array(shape) - size
    if config.border_rule == "shift":
        return np.clip(origins, 0, limits), np.ones(len(origins), dtype=bool)
    inside = ((origins >= 0) & (origins <= limits)).all(axis=1)
    return origins, inside if config.border_rule == "drop" else np.ones_like(inside)


def cut_crops(image: np.ndarray, origins: np.ndarray, size: int) -> np.ndarray:
    """
    Cut square windows; what lies outside the image is 0.

    Parameters
    ----------
    image : ndarray, shape (..., H, W)
        Leading axes are kept.
    origins : ndarray, shape (n, 2), dtype int
        Upper left corners, as `crop_origins` returns them.

    Returns
    -------
    crops : ndarray, shape (n, ..., size, size)
        Same dtype.
    """
    crops = np.zeros((len(origins), *image.shape[:-2], size, size), dtype=image.dtype)
    for crop, (y0, x0) in zip(crops, origins, strict=True):
        top, left = max(0, -y0), max(0, -x0)
        part = image[..., max(0, y0) : max(0, y0 + size), max(0, x0) : max(0, x0 + size)]
        crop[..., top : top + part.shape[-2], left : left + part.shape[-1]] = part
    return crops
