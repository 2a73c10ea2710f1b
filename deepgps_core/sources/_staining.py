"""
What fixing, staining with antibodies and storing as JPEG do to a simulated field.

OpenCell's proteins carry their own dye; in the Human Protein Atlas an antibody brings it, which
also binds elsewhere, more or less so from antibody to antibody. Nothing here knows the sequence
or the location: an antibody's faults are drawn from its protein's name and its number alone.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from deepgps_core.sources._cells import Cells, smooth_noise
from deepgps_core.sources._images import to_uint16


@dataclass(frozen=True)
class Staining:
    """
    Immunofluorescence of fixed cells.

    Parameters
    ----------
    antibodies : int
        How many a protein has; field k is stained with number k modulo this.
    off_target : float
        Mean share of an antibody's signal that is not the protein. It is drawn for each antibody
        from a beta distribution, so that some are clean and some useless.
    off_target_concentration : float
        Of that beta distribution: the smaller, the more unequal the antibodies.
    speckle : float
        Strength of the grain that fixed and permeabilized cells show.
    jpeg_quality : int
        1 to 95, as the JPEG library counts.
    """

    antibodies: int = 2
    off_target: float = 0.25
    off_target_concentration: float = 2.0
    speckle: float = 0.25
    jpeg_quality: int = 85


def off_target_share(staining: Staining, rng: np.random.Generator) -> float:
    """Draw the share of an antibody's signal that is not the protein, between 0 and 1."""
    if not 0 < staining.off_target < 1:
        return float(np.clip(staining.off_target, 0, 1))
    total = staining.off_target_concentration
    return float(rng.beta(total * staining.off_target, total * (1 - staining.off_target)))


def stain(
    density: np.ndarray,
    cells: Cells,
    staining: Staining,
    antibody: np.random.Generator,
    rng: np.random.Generator,
) -> np.ndarray:
    """
    Mix a protein's density with what its antibody binds beside it, and make it grainy.

    Parameters
    ----------
    density : ndarray, shape (H, W), dtype float
        Of the protein itself.
    cells : Cells
    staining : Staining
    antibody, rng : Generator
        The antibody's own random numbers, the same in each of its fields, and the field's.

    Returns
    -------
    stained : ndarray, shape (H, W), dtype float
        As bright on the cells, on average, as what came in.
    """
    share = off_target_share(staining, antibody)
    in_nucleus = float(antibody.lognormal(0, 0.6))  # what it binds wrongly: more here, or there
    inside = cells.cells > 0
    elsewhere = inside * np.where(cells.nuclei > 0, in_nucleus, 1.0)
    elsewhere = elsewhere * np.clip(1 + 0.15 * smooth_noise(rng, density.shape, 9), 0, None)
    levels = [max(float(x[inside].mean()), 1e-6) if inside.any() else 1.0
              for x in (density, elsewhere)]  # fmt: skip
    mixed = (1 - share) * density + share * levels[0] / levels[1] * elsewhere
    grain = np.clip(1 + staining.speckle * smooth_noise(rng, density.shape, 3), 0, None)
    return mixed * grain


def through_jpeg(channel: np.ndarray, quality: int) -> np.ndarray:
    """
    Store a channel as 8-bit JPEG and read it back, as uint16.

    Parameters
    ----------
    channel : ndarray, shape (H, W), dtype uint16
    quality : int
        1 to 95.

    Returns
    -------
    channel : ndarray, shape (H, W), dtype uint16
        Stretched so that its darkest pixel and its 99.9th percentile span eight bits, which
        then become sixteen as everywhere in this package.
    """
    low, high = float(channel.min()), float(np.percentile(channel, 99.9))
    bytes_ = np.clip((channel - low) / max(high - low, 1.0) * 255, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(bytes_).save(buffer, format="JPEG", quality=quality)
    return to_uint16(np.asarray(Image.open(buffer)))
