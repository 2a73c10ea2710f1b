"""
What each of OpenCell's 17 localization categories looks like, as a density on simulated cells.

Each texture takes the cells of a field and a stream of random numbers and returns a
non-negative density (H, W); how bright it becomes, and how much of it shines through the other
compartment, is decided in `deepgps_core.sources.simulated`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from deepgps_core.sources._cells import Cells, smooth_noise

Density = Callable[[Cells, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Texture:
    """
    A category's density and the nuclear / cytoplasmic intensity ratio of such proteins.

    ``ratio`` is the median over proteins and ``spread`` the sd of its logarithm, from single
    cells of the Human Protein Atlas where they were measured (see the appendix), else those
    of the nearest measured class.
    """

    density: Density
    nuclear: bool
    ratio: float
    spread: float


def _grain(cells: Cells, rng: np.random.Generator, scale_px: float, strength: float) -> np.ndarray:
    return np.clip(1 + strength * smooth_noise(rng, cells.nuclei.shape, scale_px), 0, None)


def _spots(
    mask: np.ndarray, rng: np.random.Generator, count: int, sigma_px: float, spread: float = 0.6
) -> np.ndarray:
    """Scatter `count` blurred points of unequal brightness over a mask."""
    image = np.zeros(mask.shape, np.float32)
    places = np.flatnonzero(mask)
    if len(places) and count:
        chosen = rng.choice(places, count)
        np.add.at(image.reshape(-1), chosen, rng.lognormal(0, spread, count).astype(np.float32))
    return ndimage.gaussian_filter(image, sigma_px)


def _nucleoli(cells: Cells, rng: np.random.Generator) -> np.ndarray:
    """Return one to four round bodies in each nucleus that does not divide, 0 to 1."""
    seeds = np.zeros(cells.nuclei.shape, np.float32)
    deep = (cells.inside > 9) & ~cells.mitotic[cells.nuclei]
    order = rng.permutation(np.flatnonzero(deep))
    taken = np.zeros(cells.n + 1, int)
    wanted = rng.integers(1, 5, cells.n + 1)
    for place in order[: 40 * cells.n]:
        number = cells.nuclei.flat[place]
        if taken[number] < wanted[number]:
            taken[number] += 1
            seeds.flat[place] = rng.uniform(0.7, 1.5)
    blurred = ndimage.gaussian_filter(seeds, 4.5)
    return np.clip(blurred / 0.0055, 0, 1) * (cells.nuclei > 0)


def cytoplasmic(cells: Cells, rng: np.random.Generator) -> np.ndarray:
    """Fill the cytoplasm, thinner towards the edge of the cell."""
    thickness = np.clip(cells.to_border / 10, 0.25, 1)
    return cells.cytoplasm * thickness * _grain(cells, rng, 5, 0.12)


def nucleoplasm(cells: Cells, rng: np.random.Generator) -> np.ndarray:
    """Fill the nucleus and spare its nucleoli."""
    return (cells.nuclei > 0) * _grain(cells, rng, 4, 0.10) * (1 - 0.7 * _nucleoli(cells, rng))


def chromatin(cells: Cells, rng: np.random.Generator) -> np.ndarray:
    """Fill the nucleus coarsely, denser at its rim."""
    rim = 1 + 0.5 * np.exp(-cells.inside / 4)
    dark = 1 - 0.85 * _nucleoli(cells, rng)
    return (cells.nuclei > 0) * rim * dark * _grain(cells, rng, 7, 0.35)


def nuclear_punctae(cells: Cells, rng: np.random.Generator) -> np.ndarray:
    """Put sharp dots into a faint nucleoplasm."""
    dots = _spots(cells.inside > 4, rng, 14 * cells.n, 1.6)
    return (cells.nuclei > 0) * (0.15 + 6 * dots / max(dots.max(), 1e-6))


def nucleolus_gc(cells: Cells, rng: np.random.Generator) -> np.ndarray:
    """Fill the nucleoli (granular component) over a faint nucleoplasm."""
    return (cells.nuclei > 0) * 0.12 + _nucleoli(cells, rng)


def nucleolus_fc_dfc(cells: Cells, rng: np.random.Generator) -> np.ndarray:
    """Put a few dots into each nucleolus (fibrillar centers)."""
    dots = _spots(_nucleoli(cells, rng) > 0.6, rng, 10 * cells.n, 1.5, 0.4)
    return (cells.nuclei > 0) * 0.08 + 2 * dots / max(dots.max(), 1e-6)


def nuclear_membrane(cells: Cells, rng: np.random.Generator) -> np.ndarray:
    """Trace the nuclear rim."""
    rim = np.exp(-(((cells.inside - 1.5) / 2.0) ** 2)) * (cells.nuclei > 0)
    return (rim + 0.12 * (cells.nuclei > 0)) * _grain(cells, rng, 5, 0.15)


def membrane(cells: Cells, rng: np.random.Generator) -> np.ndarray:
    """Trace the border of each cell."""
    line = np.exp(-(((cells.to_border - 1) / 1.8) ** 2)) * (cells.cells > 0)
    return (line + 0.06 * (cells.cells > 0)) * _grain(cells, rng, 8, 0.25)


def cell_contact(cells: Cells, rng: np.random.Generator) -> np.ndarray:
    """Trace only the borders that two cells share."""
    neighbours = ndimage.maximum_filter(cells.cells, 5) != cells.cells
    other = ndimage.minimum_filter(np.where(cells.cells > 0, cells.cells, 10**6), 5)
    shared = neighbours & (ndimage.minimum_filter(cells.cells, 5) > 0) | (
        (other != cells.cells) & (cells.cells > 0) & (ndimage.minimum_filter(cells.cells, 5) > 0)
    )
    return shared * _grain(cells, rng, 9, 0.4) + 0.05 * cells.cytoplasm


def er(cells: Cells, rng: np.random.Generator) -> np.ndarray:
    """Weave a net through the cytoplasm, densest at the nucleus."""
    net = np.exp(-np.abs(smooth_noise(rng, cells.nuclei.shape, 4)) * 1.6)
    near = 0.35 + np.exp(-cells.outside / 9)
    return cells.cytoplasm * net * near * np.clip(cells.to_border / 6, 0.1, 1)


def mitochondria(cells: Cells, rng: np.random.Generator) -> np.ndarray:
    """Draw short threads in the cytoplasm."""
    threads = np.abs(smooth_noise(rng, cells.nuclei.shape, 7)) < 0.22
    gaps = smooth_noise(rng, cells.nuclei.shape, 9) > -0.35
    near = np.clip(cells.to_border / 8, 0, 1)
    return ndimage.gaussian_filter(
        (threads & gaps & cells.cytoplasm) * near.astype(np.float32), 0.8
    )


def vesicles(cells: Cells, rng: np.random.Generator) -> np.ndarray:
    """Scatter dots over the cytoplasm, more of them near the nucleus."""
    here = cells.cytoplasm & (cells.outside < 14 + 8 * smooth_noise(rng, cells.nuclei.shape, 30))
    dots = _spots(here & (cells.to_border > 3), rng, 45 * cells.n, 1.5)
    return dots / max(dots.max(), 1e-6) * 3 + 0.06 * cells.cytoplasm


def golgi(cells: Cells, rng: np.random.Generator) -> np.ndarray:
    """Pile ribbons at one side of each nucleus."""
    return _beside(cells, rng, 12.0) * (0.2 + (smooth_noise(rng, cells.nuclei.shape, 4) > 0.1))


def _beside(cells: Cells, rng: np.random.Generator, width_px: float) -> np.ndarray:
    """Return a soft patch at a random side of each nucleus, in its cytoplasm."""
    y, x = np.indices(cells.nuclei.shape, dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi, cells.n + 1)
    center = np.vstack([[0, 0], cells.centers])
    dy, dx = y - center[cells.cells, 0], x - center[cells.cells, 1]
    facing = (dy * np.sin(angle)[cells.cells] + dx * np.cos(angle)[cells.cells]) / np.maximum(
        np.hypot(dy, dx), 1
    )
    return cells.cytoplasm * np.exp(-cells.outside / width_px) * np.clip((facing - 0.75) * 5, 0, 1)


def centrosome(cells: Cells, rng: np.random.Generator) -> np.ndarray:
    """Put one or two dots beside each nucleus."""
    dots: np.ndarray = np.zeros(cells.nuclei.shape, np.float32)
    near = np.flatnonzero((cells.outside > 1) & (cells.outside < 7) & cells.cytoplasm)
    seen = np.zeros(cells.n + 1, int)
    for place in rng.permutation(near)[: 30 * cells.n]:
        number = cells.cells.flat[place]
        if seen[number] < 1:
            seen[number] += 1
            dots.flat[place] = 1
            dots.flat[min(place + 4 * dots.shape[1] + 3, dots.size - 1)] = 0.8
    return 60 * ndimage.gaussian_filter(dots, 1.5) + 0.08 * cells.cytoplasm


def big_aggregates(cells: Cells, rng: np.random.Generator) -> np.ndarray:
    """Put a few large bright bodies into the cytoplasm."""
    bodies = _spots(cells.cytoplasm & (cells.to_border > 5), rng, 3 * cells.n, 3.2, 0.8)
    return 4 * bodies / max(bodies.max(), 1e-6) + 0.15 * cells.cytoplasm


def cytoskeleton(cells: Cells, rng: np.random.Generator) -> np.ndarray:
    """Draw long filaments, in the direction of the local grain."""
    shape = cells.nuclei.shape
    stretched = ndimage.zoom(smooth_noise(rng, (shape[0] // 5 + 2, shape[1]), 3), (5, 1), order=1)
    crossing = ndimage.zoom(smooth_noise(rng, (shape[0], shape[1] // 5 + 2), 3), (1, 5), order=1)
    lines = [np.exp(-np.abs(n[: shape[0], : shape[1]]) * 3) for n in (stretched, crossing)]
    side = smooth_noise(rng, shape, 40) > 0
    return cells.cytoplasm * np.where(side, *lines) * np.clip(cells.to_border / 4, 0.2, 1)


def focal_adhesions(cells: Cells, rng: np.random.Generator) -> np.ndarray:
    """Draw short streaks just inside the border of each cell."""
    edge = cells.cytoplasm & (cells.to_border > 1) & (cells.to_border < 7)
    streaks = _spots(edge, rng, 14 * cells.n, 1.0)
    streaks = ndimage.uniform_filter1d(streaks, 7, axis=int(rng.integers(2))) * cells.cytoplasm
    return 3 * streaks / max(streaks.max(), 1e-6) + 0.10 * cells.cytoplasm


TEXTURES: dict[str, Texture] = {
    "cytoplasmic": Texture(cytoplasmic, False, 0.94, 0.45),
    "nucleoplasm": Texture(nucleoplasm, True, 5.0, 0.59),
    "vesicles": Texture(vesicles, False, 0.79, 0.5),
    "er": Texture(er, False, 0.79, 0.5),
    "membrane": Texture(membrane, False, 0.92, 0.49),
    "nuclear_punctae": Texture(nuclear_punctae, True, 5.0, 0.59),
    "chromatin": Texture(chromatin, True, 5.0, 0.59),
    "golgi": Texture(golgi, False, 0.79, 0.5),
    "nucleolus_gc": Texture(nucleolus_gc, True, 2.0, 0.62),
    "nucleolus_fc_dfc": Texture(nucleolus_fc_dfc, True, 2.0, 0.62),
    "centrosome": Texture(centrosome, False, 0.94, 0.45),
    "big_aggregates": Texture(big_aggregates, False, 0.79, 0.5),
    "cell_contact": Texture(cell_contact, False, 0.92, 0.49),
    "cytoskeleton": Texture(cytoskeleton, False, 0.79, 0.5),
    "nuclear_membrane": Texture(nuclear_membrane, True, 2.0, 0.4),
    "mitochondria": Texture(mitochondria, False, 0.79, 0.63),
    "focal_adhesions": Texture(focal_adhesions, False, 0.92, 0.49),
}
