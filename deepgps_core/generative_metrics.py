"""
Are samples real, are they right, and are they as different as cells are?

Beside the metrics of `deepgps_core.image_metrics`, which compare a picture with one cell, these
compare what a model could draw with what cells look like.
"""

from __future__ import annotations

import numpy as np
from scipy import linalg, ndimage


def inside_interval(samples: np.ndarray, truth: np.ndarray, level: float = 0.8) -> np.ndarray:
    """
    Say which true values lie within the interval that their samples span.

    Parameters
    ----------
    samples : ndarray, shape (N, S), dtype float
        Of a number that can be read off an image, such as the nuclear proportion.
    truth : ndarray, shape (N,), dtype float
    level : float
        Share of true values that the intervals should hold.

    Returns
    -------
    inside : ndarray, shape (N,), dtype bool
        If truth and samples come from one distribution, True for `level` of them, whatever S:
        quantiles are at rank p (S + 1).

    Raises
    ------
    ValueError
        If there are too few samples for such an interval.
    """
    tail = (1 - level) / 2
    if tail * (samples.shape[1] + 1) < 1 - 1e-9:
        raise ValueError(f"{samples.shape[1]} samples span no interval of {level:.0%}")
    low, high = np.quantile(samples, [tail, 1 - tail], axis=1, method="weibull")
    return (low <= truth) & (truth <= high)


def spot_count(images: np.ndarray, sigma_px: float = 1.0, threshold: float = 0.06) -> np.ndarray:
    """
    Count bright spots: maxima of a difference of Gaussians.

    Parameters
    ----------
    images : ndarray, shape (N, H, W), dtype float
        Intensities in [0, 1].
    sigma_px : float
        Of the narrower Gaussian, the size of the spots; the wider one has twice that.
    threshold : float
        By how much a spot must stand out.

    Returns
    -------
    counts : ndarray, shape (N,), dtype int64

    Examples
    --------
    >>> image = np.zeros((1, 32, 32))
    >>> image[0, [8, 20], [8, 20]] = 1
    >>> spot_count(image).item()
    2
    """
    narrow, wide = (
        ndimage.gaussian_filter(np.asarray(images, dtype=np.float32), (0, s, s))
        for s in (sigma_px, 2 * sigma_px)
    )
    contrast = narrow - wide
    reach = 2 * round(sigma_px) + 1
    peak = contrast == ndimage.maximum_filter(contrast, (1, reach, reach))
    return (peak & (contrast > threshold)).sum(axis=(1, 2))


def frechet_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """
    Compute the Fréchet distance of two sets of feature vectors, each taken as one Gaussian.

    Parameters
    ----------
    features : ndarray, shape (N, F), dtype float
    reference : ndarray, shape (M, F), dtype float

    Returns
    -------
    distance : float
        ``|m1 - m2|**2 + tr(C1 + C2 - 2 sqrt(C1 C2))`` (Heusel et al. 2017), 0 for equal
        moments. It falls as N grows: compare sets of the same size only.
    """
    gap = features.mean(axis=0) - reference.mean(axis=0)
    first, second = np.cov(features, rowvar=False), np.cov(reference, rowvar=False)
    # the trace of sqrt(C1 C2), by way of a symmetric matrix with the same eigenvalues
    root = _symmetric_root(first)
    eigenvalues = linalg.eigvalsh(root @ second @ root)
    cross = np.sqrt(np.clip(eigenvalues, 0, None)).sum()
    return float(gap @ gap + np.trace(first) + np.trace(second) - 2 * cross)


def _symmetric_root(matrix: np.ndarray) -> np.ndarray:
    """Return the symmetric square root of a covariance matrix."""
    values, vectors = linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def nearest_distance(
    images: np.ndarray, training: np.ndarray, *, factor: int = 4, block: int = 512
) -> np.ndarray:
    """
    Find how far each image is from the training image most like it.

    Parameters
    ----------
    images : ndarray, shape (N, H, W), dtype float or uint8
    training : ndarray, shape (T, H, W), of the same kind
    factor : int
        Both are averaged over squares of so many pixels first: noise would drown likeness.

    Returns
    -------
    distance : ndarray, shape (N,), dtype float
        Root mean squared difference of intensities in [0, 1], the least over the training images
        and their eight mirror images and rotations. To be read beside that of real held-out
        images: copies would be nearer.
    """
    small, known = (_shrunk(x, factor) for x in (images, training))
    nearest = np.full(len(small), np.inf)
    length = (known.reshape(len(known), -1) ** 2).sum(axis=1)
    for turned in _eight_views(small):
        flat = np.ascontiguousarray(turned.reshape(len(turned), -1))
        for start in range(0, len(known), block):
            rows = slice(start, start + block)
            cross = flat @ known[rows].reshape(len(length[rows]), -1).T
            squared = (flat**2).sum(axis=1)[:, None] - 2 * cross + length[rows]
            nearest = np.minimum(nearest, squared.min(axis=1))
    return np.sqrt(np.clip(nearest, 0, None) / small[0].size)


def _shrunk(images: np.ndarray, factor: int) -> np.ndarray:
    scale = 255 if images.dtype == np.uint8 else 1
    as_gray = np.asarray(images, dtype=np.float32) / np.float32(scale)
    count, height, width = as_gray.shape
    squares = as_gray.reshape(count, height // factor, factor, width // factor, factor)
    return squares.mean(axis=(2, 4))


def _eight_views(images: np.ndarray) -> list[np.ndarray]:
    turned = [np.rot90(images, k, axes=(1, 2)) for k in range(4)]
    return turned + [x[:, :, ::-1] for x in turned]


def rank_of_own(scores: np.ndarray, own: np.ndarray) -> np.ndarray:
    """
    Rank each image's own sequence among all candidates.

    Parameters
    ----------
    scores : ndarray, shape (N, Q), dtype float
        Lower is better.
    own : ndarray, shape (N,), dtype int
        Column of the own sequence.

    Returns
    -------
    rank : ndarray, shape (N,), dtype float
        Share of the other candidates that are worse, equal ones counted half: 1 is first, 0
        last, one half what guessing gives.
    """
    mine = np.take_along_axis(scores, own[:, None], axis=1)
    better = (scores > mine).sum(axis=1) + 0.5 * ((scores == mine).sum(axis=1) - 1)
    return better / (scores.shape[1] - 1)
