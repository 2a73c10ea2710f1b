"""
More ways to score protein images: each sees something that PSNR and SSIM do not.

Likeness pixel by pixel (Pearson, NRMSE after an affine fit, MS-SSIM), grain (radial power
spectrum, gray-level co-occurrence), and place (the share of the protein inside the nucleus, which
PUPS prints). None of these is in the paper. torchmetrics is imported only where it is used.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from skimage.feature import graycomatrix, graycoprops

from deepgps_core.metrics import pooled_psnr, psnr, rings_around, ssim
from deepgps_core.statistics import Interval, bootstrap_intervals

#: Weights of the five scales of MS-SSIM (Wang et al. 2003), fine to coarse.
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
TEXTURES = ("contrast", "homogeneity", "energy", "correlation")


def _stack(images: np.ndarray) -> np.ndarray:
    stack = np.asarray(images, dtype=float)
    if stack.ndim != 3:
        raise ValueError(f"images must be (N, H, W), got {stack.shape}")
    return stack


def _pair(predicted: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    predicted, target = _stack(predicted), _stack(target)
    if predicted.shape != target.shape:
        raise ValueError(f"shapes differ: {predicted.shape} and {target.shape}")
    return predicted, target


def pearson(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    """
    Correlate the pixels of each image with those of its target.

    Parameters
    ----------
    predicted, target : ndarray, shape (N, H, W), dtype float

    Returns
    -------
    r : ndarray, shape (N,), dtype float
        0 where an image is flat: it then says nothing about place.

    Raises
    ------
    ValueError
        If shapes differ or are not 3-D.
    """
    centered = [x - x.mean(axis=(1, 2), keepdims=True) for x in _pair(predicted, target)]
    covariance = (centered[0] * centered[1]).mean(axis=(1, 2))
    spread = [np.sqrt((x**2).mean(axis=(1, 2))) for x in centered]
    flat = (spread[0] < 1e-9) | (spread[1] < 1e-9)
    return np.where(flat, 0.0, covariance / np.where(flat, 1.0, spread[0] * spread[1]))


def affine_nrmse(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    """
    Compute the error left after the best gain and offset, in standard deviations of the target.

    That is ``sqrt(1 - r**2)``, shape (N,): 0 for any gain and offset, 1 for a flat image. A
    negative gain is allowed, so a picture inverted also scores 0; read it beside r.
    """
    return np.sqrt(np.clip(1 - pearson(predicted, target) ** 2, 0, 1))


def ms_ssim(predicted: np.ndarray, target: np.ndarray, data_range: float = 1.0) -> np.ndarray:
    """
    Compute the multi-scale structural similarity of each image with torchmetrics.

    Parameters
    ----------
    predicted, target : ndarray, shape (N, H, W), dtype float
    data_range : float
        Largest minus smallest possible intensity.

    Returns
    -------
    scores : ndarray, shape (N,), dtype float
        With as many of Wang's five scales, weights renormalized, as fit an 11-pixel window:
        four at 104 pixels, all five at 208. Scores of different sizes do not compare.

    Raises
    ------
    ValueError
        If shapes differ, are not 3-D, or a side is too short for one scale.
    """
    import torch
    from torchmetrics.functional.image import (
        multiscale_structural_similarity_index_measure as reference,
    )

    predicted, target = _pair(predicted, target)
    # torchmetrics wants side // (scales - 1)**2 above the window, and a last scale above it
    side = min(predicted.shape[1:])
    fitting = [n for n in range(1, 6) if side // max(1, (n - 1)) ** 2 > 10 and side >> (n - 1) > 10]
    if not fitting:
        raise ValueError(f"images of {side} pixels are too small for MS-SSIM; need 11")
    weights = np.array(MS_SSIM_WEIGHTS[: fitting[-1]])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scores = []
    for start in range(0, len(predicted), 64):  # its buffers are many times the images
        drawn, truth = (
            torch.from_numpy(x[start : start + 64, None].astype(np.float32)).to(device)
            for x in (predicted, target)
        )
        score = reference(
            drawn, truth, data_range=data_range, betas=tuple((weights / weights.sum()).tolist()),
            reduction="none", normalize="relu",
        )  # fmt: skip
        scores.append(score.reshape(-1).cpu().numpy())
    return np.concatenate(scores).astype(float)


def radial_log_spectrum(images: np.ndarray) -> np.ndarray:
    """
    Compute the power spectrum of each image, averaged over directions.

    Parameters
    ----------
    images : ndarray, shape (N, H, W), dtype float

    Returns
    -------
    log_power : ndarray, shape (N, R), dtype float
        log10 of the power (plus 1e-6, about what rounding to 8 bits adds) at 1, 2, ... R
        cycles per image, R half the shorter side; a Hann window keeps the borders out.

    Raises
    ------
    ValueError
        If the images are not 3-D.
    """
    stack = _stack(images)
    height, width = stack.shape[1:]
    window = np.outer(np.hanning(height), np.hanning(width))
    windowed = (stack - stack.mean(axis=(1, 2), keepdims=True)) * window
    power = np.abs(np.fft.fft2(windowed)) ** 2 / (height * width)
    y, x = np.fft.fftfreq(height) * height, np.fft.fftfreq(width) * width
    radius = np.rint(np.hypot(y[:, None], x[None])).astype(int)
    rings = np.arange(1, min(height, width) // 2 + 1)
    means = np.stack([power[:, radius == r].mean(axis=1) for r in rings], axis=1)
    return np.log10(means + 1e-6)


def spectrum_distance(predicted: np.ndarray, target: np.ndarray) -> float:
    """
    Compare the mean log spectra of two sets of images.

    Parameters
    ----------
    predicted : ndarray, shape (N, H, W), dtype float
    target : ndarray, shape (M, H, W), dtype float
        Not necessarily of the same cells: a picture may be right for another cell.

    Returns
    -------
    distance : float
        Root mean squared difference over frequencies, in powers of ten.
    """
    spectra = [radial_log_spectrum(x).mean(axis=0) for x in (predicted, target)]
    return float(np.sqrt(((spectra[0] - spectra[1]) ** 2).mean()))


def texture(images: np.ndarray, levels: int = 16) -> np.ndarray:
    """
    Describe the grain of each image by gray-level co-occurrence at 1 and 3 pixels.

    Parameters
    ----------
    images : ndarray, shape (N, H, W), dtype float
        Intensities in [0, 1]; outside is cut off.
    levels : int
        Grays told apart.

    Returns
    -------
    features : ndarray, shape (N, 8), dtype float
        Each of `TEXTURES`, means over four directions, at 1 and at 3 pixels.

    Raises
    ------
    ValueError
        If the images are not 3-D.
    """
    gray = np.clip(np.floor(_stack(images) * levels), 0, levels - 1).astype(np.uint8)
    angles = np.arange(4) * np.pi / 4
    rows = []
    for image in gray:
        pairs = graycomatrix(image, [1, 3], angles, levels=levels, symmetric=True, normed=True)
        rows.append(np.concatenate([graycoprops(pairs, x).mean(axis=1) for x in TEXTURES]))
    return np.array(rows)


def nuclear_proportion(
    images: np.ndarray, nuclear_masks: np.ndarray, ring_px: int = 10
) -> np.ndarray:
    """
    Compute the share of the protein that is inside the nucleus, of nucleus and ring together.

    Parameters
    ----------
    images : ndarray, shape (N, H, W), dtype float
        Protein images, intensities at least 0.
    nuclear_masks : ndarray, shape (N, H, W), dtype bool
    ring_px : int
        Width of the ring that stands for the cytoplasm.

    Returns
    -------
    share : ndarray, shape (N,), dtype float
        From 0 to 1; NaN without any signal. PUPS takes the whole cell's outline, which needs
        another stain: its numbers and these compare in kind, not in size.

    Raises
    ------
    ValueError
        If shapes differ or are not 3-D.
    """
    stack, masks = _pair(images, nuclear_masks)
    nuclei = masks > 0
    whole = (stack * (nuclei | rings_around(nuclei, ring_px))).sum(axis=(1, 2))
    inside = (stack * nuclei).sum(axis=(1, 2))
    return np.where(whole > 0, inside / np.where(whole > 0, whole, 1), np.nan)


def agreement(
    measured: np.ndarray, generated: np.ndarray, *, n_resamples: int = 2000, seed: int = 0
) -> dict[str, Interval]:
    """
    Compare nuclear proportions of generated images with the measured ones, as PUPS does.

    Parameters
    ----------
    measured, generated : ndarray, shape (P,), dtype float
        One value a protein.
    n_resamples, seed : int
        Of the bootstrap over proteins.

    Returns
    -------
    intervals : dict
        r (Pearson), right_side (share of proteins on the same side of one half), error (mean
        absolute difference) and slope (of measured on generated; 1 is calibrated).
    """

    def statistic(rows: np.ndarray) -> np.ndarray:
        truth, drawn = measured[rows], generated[rows]
        spread = drawn.std() * truth.std()
        flat = spread < 1e-9
        covariance = ((truth - truth.mean()) * (drawn - drawn.mean())).mean()
        r = np.nan if flat else covariance / spread
        slope = np.nan if flat else covariance / drawn.var()
        side = ((truth > 0.5) == (drawn > 0.5)).mean()
        return np.array([r, side, np.abs(truth - drawn).mean(), slope])

    found = bootstrap_intervals(
        statistic, np.arange(len(measured)), n_resamples=n_resamples, seed=seed
    )
    return dict(zip(("r", "right_side", "error", "slope"), found, strict=True))


def by_convention(predicted: np.ndarray, target: np.ndarray) -> pd.DataFrame:
    """
    Score the same images by each published convention of PSNR and SSIM.

    Parameters
    ----------
    predicted, target : ndarray, shape (N, H, W), dtype float
        Intensities in [0, 1].

    Returns
    -------
    table : DataFrame
        Columns metric, over ("pooled stack" or "mean of images"), data_range ("fixed": 1,
        "per image": the target's maximum minus minimum), score.
    """
    predicted, target = _pair(predicted, target)
    own = np.ptp(target, axis=(1, 2))
    lit = own > 0
    rows = [
        ("psnr_db", "pooled stack", "fixed", pooled_psnr(predicted, target)),
        ("psnr_db", "mean of images", "fixed", psnr(predicted, target, 1.0).mean()),
        (
            "psnr_db",
            "mean of images",
            "per image",
            psnr(predicted[lit], target[lit], own[lit]).mean(),
        ),
        ("ssim", "mean of images", "fixed", ssim(predicted, target, 1.0).mean()),
        ("ssim", "mean of images", "per image", ssim(predicted[lit], target[lit], own[lit]).mean()),
    ]
    return pd.DataFrame(rows, columns=["metric", "over", "data_range", "score"])
