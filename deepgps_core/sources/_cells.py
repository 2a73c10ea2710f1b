"""
Where nuclei and cells lie in a simulated field: the geometry under every texture.

Nuclei are ellipses with wavy outlines, placed at random until the field is crowded; a cell is
what lies nearer to its nucleus than to any other and within a ragged margin. All of this is
drawn from a stream of random numbers that knows nothing of the protein.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage
from skimage.draw import polygon


@dataclass(frozen=True)
class CellGeometry:
    """Sizes of nuclei and cells, in pixels, and how crowded they stand."""

    nucleus_diameter_px: float = 70.0
    nucleus_diameter_sd_px: float = 8.0
    eccentricity: float = 0.63
    nuclei_per_field: float = 34.0
    spacing: float = 0.98  #: smallest distance of two centers, in diameters
    margin_px: float = 34.0  #: how far a cell reaches beyond its nucleus
    mitotic_share: float = 0.04


@dataclass(frozen=True)
class Cells:
    """
    The cells of one field.

    Parameters
    ----------
    nuclei, cells : ndarray, shape (H, W), dtype int32
        Label images; 0 is background. A nucleus and its cell share their number.
    centers : ndarray, shape (n, 2), dtype float
        Centers of the nuclei, y and x, in pixels.
    mitotic : ndarray, shape (n + 1,), dtype bool
        Whether cell i is dividing; entry 0 is background.
    """

    nuclei: np.ndarray
    cells: np.ndarray
    centers: np.ndarray
    mitotic: np.ndarray

    @property
    def n(self) -> int:
        """Number of cells."""
        return len(self.centers)

    @cached_property
    def inside(self) -> np.ndarray:
        """Distance of nuclear pixels to the nuclear edge, px; 0 elsewhere."""
        return ndimage.distance_transform_edt(self.nuclei > 0).astype(np.float32)

    @cached_property
    def outside(self) -> np.ndarray:
        """Distance of other pixels to the nearest nucleus, px; 0 in nuclei."""
        return ndimage.distance_transform_edt(self.nuclei == 0).astype(np.float32)

    @cached_property
    def to_border(self) -> np.ndarray:
        """Distance of cell pixels to the border of their own cell, px; 0 outside cells."""
        same = np.ones(self.cells.shape, bool)
        for axis in (0, 1):
            step = np.diff(self.cells, axis=axis) != 0
            first = [slice(None)] * 2
            first[axis] = slice(None, -1)
            same[tuple(first)] &= ~step
        return ndimage.distance_transform_edt(same & (self.cells > 0)).astype(np.float32)

    @cached_property
    def cytoplasm(self) -> np.ndarray:
        """Pixels of cells that are not nucleus."""
        return (self.cells > 0) & (self.nuclei == 0)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], scale_px: float) -> np.ndarray:
    """
    Draw Gaussian noise of mean 0 and sd 1 whose features are about `scale_px` wide.

    Returns
    -------
    noise : ndarray, shape `shape`, dtype float32
    """
    # drawn on a coarse grid and interpolated: wide features need no fine grid
    step = max(1, int(scale_px / 2.5))
    coarse = tuple(-(-side // step) + 4 for side in shape)
    noise = ndimage.gaussian_filter(
        rng.standard_normal(coarse, dtype=np.float32), scale_px / step / 2, mode="wrap"
    )
    if step > 1:
        noise = ndimage.zoom(noise, step, order=1)
    noise = noise[: shape[0], : shape[1]]
    return (noise - noise.mean()) / noise.std()


def _place(rng: np.random.Generator, geometry: CellGeometry, size_px: int) -> np.ndarray:
    """Draw centers one by one, each at least a diameter from the others, edges included."""
    reach = geometry.nucleus_diameter_px * 0.5
    nearest = geometry.nucleus_diameter_px * geometry.spacing
    wanted = max(3, int(rng.normal(geometry.nuclei_per_field, 0.18 * geometry.nuclei_per_field)))
    centers = np.empty((0, 2))
    for candidate in rng.uniform(-reach, size_px + reach, (40 * wanted, 2)):
        if len(centers) == wanted:
            break
        if not len(centers) or np.hypot(*(centers - candidate).T).min() > nearest:
            centers = np.vstack([centers, candidate])
    return centers


def _outline(
    rng: np.random.Generator, geometry: CellGeometry, mitotic: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return y and x offsets of a nucleus' outline from its center, px."""
    diameter = rng.normal(geometry.nucleus_diameter_px, geometry.nucleus_diameter_sd_px)
    diameter = max(diameter, 0.6 * geometry.nucleus_diameter_px)
    eccentricity = np.clip(rng.normal(geometry.eccentricity, 0.12), 0.1, 0.88)
    ratio = np.sqrt(1 - eccentricity**2)
    if mitotic:  # condensed chromosomes: a dense bar
        diameter, ratio = 0.62 * diameter, 0.45
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    major, minor = diameter / np.sqrt(ratio) / 2, diameter * np.sqrt(ratio) / 2
    waves = 1 + sum(
        rng.normal(0, 0.022) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4, 5)
    )
    along, across = major * np.cos(angle) * waves, minor * np.sin(angle) * waves
    turn = rng.uniform(0, np.pi)
    return (
        along * np.sin(turn) + across * np.cos(turn),
        along * np.cos(turn) - across * np.sin(turn),
    )


def draw_cells(rng: np.random.Generator, geometry: CellGeometry, size_px: int) -> Cells:
    """Place nuclei and cells in a field of `size_px` x `size_px` pixels."""
    centers = _place(rng, geometry, size_px)
    mitotic = np.zeros(len(centers) + 1, bool)
    mitotic[1:] = rng.uniform(size=len(centers)) < geometry.mitotic_share
    nuclei = np.zeros((size_px, size_px), np.int32)
    for number, center in enumerate(centers, start=1):
        y, x = _outline(rng, geometry, bool(mitotic[number]))
        rows, columns = polygon(center[0] + y, center[1] + x, nuclei.shape)
        free = nuclei[rows, columns] == 0
        nuclei[rows[free], columns[free]] = number
    distance, nearest = ndimage.distance_transform_edt(nuclei == 0, return_indices=True)
    reach = geometry.margin_px * (1 + 0.35 * smooth_noise(rng, nuclei.shape, 60))
    cells = np.where(distance < np.maximum(reach, 6), nuclei[tuple(nearest)], 0)
    return Cells(nuclei, cells.astype(np.int32), centers, mitotic)
