"""
Are samples real, are they right, and are they as different as cells are?

Beside the metrics of `deepgps_core.image_metrics`, which compare a picture with one cell, these
compare what a model could draw with what cells look like. Samples are many: spectra, textures,
SSIM and spots are computed for many images at once, on a GPU where there is one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F

from deepgps_core.image_metrics import TEXTURES
from deepgps_core.metrics import rings_around

#: Images at a time, where all at once would need much memory.
BATCH = 256


class Nearest(NamedTuple):
    """
    The training image most like each image.

    Parameters
    ----------
    distance : ndarray, shape (N,), dtype float
        See `nearest_distance`.
    row : ndarray, shape (N,), dtype int64
        Of the training image.
    view : ndarray, shape (N,), dtype int64
        Which of the image's `eight_views` it is most like.
    """

    distance: np.ndarray
    row: np.ndarray
    view: np.ndarray


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def sample_interval(samples: np.ndarray, level: float = 0.8) -> np.ndarray:
    """
    Return the ends of the central interval that samples span, (2, N).

    Parameters
    ----------
    samples : ndarray, shape (N, S), dtype float
    level : float
        Share of true values that the intervals should hold; quantiles are at rank p (S + 1).

    Raises
    ------
    ValueError
        If there are too few samples for such an interval.

    Examples
    --------
    >>> sample_interval(np.arange(9.0)[None]).ravel().tolist()
    [0.0, 8.0]
    """
    tail = (1 - level) / 2
    if tail * (samples.shape[1] + 1) < 1 - 1e-9:
        raise ValueError(f"{samples.shape[1]} samples span no interval of {level:.0%}")
    return np.quantile(samples, [tail, 1 - tail], axis=1, method="weibull")


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
    low, high = sample_interval(samples, level)
    return (low <= truth) & (truth <= high)


def sample_proportions(
    samples: np.ndarray, nuclear_masks: np.ndarray, ring_px: int = 10
) -> np.ndarray:
    """
    Compute the nuclear proportion of many samples beside each nucleus.

    Parameters
    ----------
    samples : ndarray, shape (N, S, H, W), dtype float
    nuclear_masks : ndarray, shape (N, H, W), dtype bool
    ring_px : int
        Width of the ring that stands for the cytoplasm.

    Returns
    -------
    share : ndarray, shape (N, S), dtype float
        As `image_metrics.nuclear_proportion` has it; the ring is drawn once a nucleus, where
        most of the time goes.
    """
    rows = np.arange(len(samples))
    drawn, masks = samples.reshape(*samples.shape[:2], -1), nuclear_masks > 0
    regions = (masks | rings_around(masks, ring_px)).astype(drawn.dtype)
    inside = np.stack([drawn[i] @ masks[i].ravel().astype(drawn.dtype) for i in rows])
    whole = np.stack([drawn[i] @ regions[i].ravel() for i in rows])
    return np.where(whole > 0, inside / np.where(whole > 0, whole, 1), np.nan)


def spectra(images: np.ndarray) -> np.ndarray:
    """
    Compute the numbers of `image_metrics.radial_log_spectrum`, of many images at once.

    Parameters
    ----------
    images : ndarray, shape (N, H, W), dtype float

    Returns
    -------
    log_power : ndarray, shape (N, R), dtype float
    """
    height, width = images.shape[1:]
    window = torch.from_numpy(np.outer(np.hanning(height), np.hanning(width))).to(_device())
    y, x = np.fft.fftfreq(height) * height, np.fft.rfftfreq(width) * width
    radius = np.rint(np.hypot(y[:, None], x[None])).astype(int).ravel()
    # half of the plane: columns between the first and the last stand for their mirror images
    twice = np.where((x > 0) & (2 * x < width), 2.0, 1.0)
    weight = np.broadcast_to(twice, (height, len(x))).ravel()
    rings = np.arange(1, min(height, width) // 2 + 1)
    to_rings = (radius[:, None] == rings) * weight[:, None]
    to_rings = torch.from_numpy(to_rings / to_rings.sum(axis=0)).to(_device())  # (pixels, R)
    out = []
    for part in torch.from_numpy(np.ascontiguousarray(images)).split(BATCH):
        stack = part.to(_device()).double()
        windowed = (stack - stack.mean(dim=(1, 2), keepdim=True)) * window
        power = torch.fft.rfft2(windowed).abs().square() / (height * width)
        out.append((power.flatten(1) @ to_rings + 1e-6).log10().cpu().numpy())
    return np.concatenate(out)


def similarities(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    """
    Compute the numbers of `metrics.ssim` at a data range of 1, of many images at once.

    Parameters
    ----------
    predicted, target : ndarray, shape (N, H, W), dtype float

    Returns
    -------
    scores : ndarray, shape (N,), dtype float
    """
    scores = []
    for start in range(0, len(predicted), BATCH):
        p, t = (
            torch.from_numpy(np.ascontiguousarray(x[start : start + BATCH])).to(_device()).double()
            for x in (predicted, target)
        )
        products = torch.stack([p, t, p * p, t * t, p * t], dim=1)  # (B, 5, H, W)
        mean_p, mean_t, pp, tt, pt = F.avg_pool2d(products, 7, stride=1).unbind(dim=1)
        unbiased = 49 / 48  # pixels of the window, over one fewer
        covariance = unbiased * (pt - mean_p * mean_t)
        variances = unbiased * (pp - mean_p**2 + tt - mean_t**2)
        c1, c2 = 0.01**2, 0.03**2
        score = (2 * mean_p * mean_t + c1) * (2 * covariance + c2)
        score = score / ((mean_p**2 + mean_t**2 + c1) * (variances + c2))
        scores.append(score.mean(dim=(1, 2)).cpu().numpy())
    return np.concatenate(scores)


def textures(images: np.ndarray, levels: int = 16) -> np.ndarray:
    """
    Compute the numbers of `image_metrics.texture`, counting the pairs of many images at once.

    Parameters
    ----------
    images : ndarray, shape (N, H, W), dtype float
        Intensities in [0, 1]; outside is cut off.
    levels : int
        Grays told apart.

    Returns
    -------
    features : ndarray, shape (N, 8), dtype float
    """
    parts = torch.from_numpy(np.ascontiguousarray(images)).split(BATCH)
    rows = []
    for part in parts:
        gray = (part.to(_device()).double() * levels).floor().clamp(0, levels - 1).long()
        by_distance = [
            torch.stack([_pair_texture(gray, distance, k, levels) for k in range(4)]).mean(dim=0)
            for distance in (1, 3)
        ]
        rows.append(torch.stack(by_distance, dim=2).flatten(1).cpu().numpy())  # (B, 4, 2)
    return np.concatenate(rows)


def _pair_texture(gray: torch.Tensor, distance: int, eighth: int, levels: int) -> torch.Tensor:
    """Return the four `TEXTURES` (B, 4) of pairs so far apart, so many eighths of a turn."""
    angle = eighth * np.pi / 4
    down, right = round(np.sin(angle) * distance), round(np.cos(angle) * distance)
    height, width = gray.shape[1:]
    left = max(0, -right)
    first = gray[:, : height - down, left : width - max(0, right)]
    second = gray[:, down:, left + right : width - max(0, right) + right]
    image = torch.arange(len(gray), device=gray.device)[:, None, None]
    number = (image * levels + first) * levels + second
    counts = torch.bincount(number.flatten(), minlength=len(gray) * levels**2)
    pairs = counts.view(-1, levels, levels).double()
    pairs = pairs + pairs.transpose(1, 2)
    pairs = pairs / pairs.sum(dim=(1, 2), keepdim=True)
    level = torch.arange(levels, device=gray.device).double()
    apart = (level[:, None] - level).square()
    mean = (pairs.sum(dim=2) @ level)[:, None]  # symmetric: rows and columns alike
    centered = level - mean  # (B, levels)
    variance = (pairs.sum(dim=2) * centered.square()).sum(dim=1)
    product = torch.einsum("bij,bi,bj->b", pairs, centered, centered)
    found = {
        "contrast": (pairs * apart).sum(dim=(1, 2)),
        "homogeneity": (pairs / (1 + apart)).sum(dim=(1, 2)),
        "energy": pairs.square().sum(dim=(1, 2)).sqrt(),
        # a flat image is correlated, as scikit-image has it
        "correlation": torch.where(variance < 1e-15, 1.0, product / variance.clamp(min=1e-30)),
    }
    return torch.stack([found[name] for name in TEXTURES], dim=1)


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
    reach = 2 * round(sigma_px) + 1
    # a Gaussian along one axis, borders mirrored, is one matrix: blurring is two products
    blurs = [
        [
            torch.from_numpy(ndimage.gaussian_filter1d(np.eye(side), sigma, axis=0)).float()
            .to(_device())
            for side in images.shape[1:]
        ]
        for sigma in (sigma_px, 2 * sigma_px)
    ]  # fmt: skip
    counts = []
    for part in torch.from_numpy(np.ascontiguousarray(images)).split(BATCH):
        stack = part.to(_device()).float()
        narrow, wide = (down @ stack @ across.T for down, across in blurs)
        contrast = narrow - wide
        peak = (
            contrast == F.max_pool2d(contrast[:, None], reach, stride=1, padding=reach // 2)[:, 0]
        )
        counts.append((peak & (contrast > threshold)).sum(dim=(1, 2)).cpu().numpy())
    return np.concatenate(counts)


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
    return nearest_training(images, training, factor=factor, block=block).distance


def nearest_training(
    images: np.ndarray, training: np.ndarray, *, factor: int = 4, block: int = 512
) -> Nearest:
    """
    Find the training image most like each image, in any of eight orientations.

    Parameters
    ----------
    images, training, factor
        As in `nearest_distance`; images square.
    block : int
        Training images at a time.

    Returns
    -------
    nearest : Nearest
    """
    small = torch.from_numpy(_shrunk(images, factor)).to(_device())
    views = torch.from_numpy(np.stack(eight_views(small.cpu().numpy()), axis=1))  # (N, 8, h, w)
    flat = views.flatten(2).flatten(0, 1).to(_device())
    found = torch.full((len(flat),), torch.inf, device=_device())
    row = torch.zeros(len(flat), dtype=torch.int64, device=_device())
    for start in range(0, len(training), block):
        part = _shrunk(training[start : start + block], factor)
        known = torch.from_numpy(part).to(_device()).flatten(1)
        squared = known.square().sum(dim=1) - 2 * flat @ known.T  # and the image's own, below
        least, at = squared.min(dim=1)
        row = torch.where(least < found, at + start, row)
        found = torch.minimum(found, least)
    squared = (found + flat.square().sum(dim=1)).clamp(min=0).view(len(images), 8)
    least, view = squared.min(dim=1)
    row = row.view(len(images), 8).gather(1, view[:, None])[:, 0]
    distance = (least.double() / flat.shape[1]).sqrt()
    return Nearest(distance.cpu().numpy(), row.cpu().numpy(), view.cpu().numpy())


def _shrunk(images: np.ndarray, factor: int) -> np.ndarray:
    scale = 255 if images.dtype == np.uint8 else 1
    count, height, width = images.shape
    squares = images.reshape(count, height // factor, factor, width // factor, factor)
    return squares.mean(axis=(2, 4), dtype=np.float32) / np.float32(scale)


def eight_views(images: np.ndarray) -> list[np.ndarray]:
    """Return square images (N, H, H) turned and mirrored in the eight ways, (N, H, H) each."""
    turned = [np.rot90(images, k, axes=(1, 2)) for k in range(4)]
    return turned + [x[:, :, ::-1] for x in turned]


def rank_of_own(scores: np.ndarray, own: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
    """
    Rank each image's own sequence among all candidates.

    Parameters
    ----------
    scores : ndarray, shape (N, Q), dtype float
        Lower is better.
    own : ndarray, shape (N,), dtype int
        Column of the own sequence.
    among : ndarray, shape (N, Q), dtype bool, optional
        Which candidates compete for each image, the own one included; by default all.

    Returns
    -------
    rank : ndarray, shape (N,), dtype float
        Share of the other candidates that are worse, equal ones counted half: 1 is first, 0
        last, one half what guessing gives; NaN without any other.
    """
    among = np.ones(scores.shape, dtype=bool) if among is None else among
    mine = np.take_along_axis(scores, own[:, None], axis=1)
    worse, equal = ((x & among).sum(axis=1) for x in (scores > mine, scores == mine))
    others = among.sum(axis=1) - 1
    return np.where(others > 0, (worse + 0.5 * (equal - 1)) / np.maximum(others, 1), np.nan)
