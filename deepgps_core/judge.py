"""
A judge of protein images that has never seen a generated one.

A small convolutional network learns from real images of training proteins (measured, or
simulated where the dataset is) where each protein is. Its answer to a generated image is
the image's localization; its features compare sets of images (Fréchet distance). `Ruler` measures
any pictures of held-out cells by it, and by the metrics of likeness, grain and place.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from scipy import linalg
from torch import Tensor, nn
from torch.nn import functional as F

from deepgps_core.generative_metrics import similarities, spectra, textures
from deepgps_core.image_metrics import agreement, ms_ssim, nuclear_proportion
from deepgps_core.metrics import psnr
from deepgps_core.statistics import Interval, bootstrap_interval, bootstrap_intervals

#: Numbers by which the judge describes an image.
N_FEATURES = 32


class Judge(nn.Module):
    """Four strided convolutions, a mean over positions, and one layer for the label."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        widths = (2, 16, 32, 64, 64)
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [
                nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1),
                nn.BatchNorm2d(after), nn.ReLU(inplace=True),
            ]  # fmt: skip
        self.see = nn.Sequential(*layers)
        self.describe = nn.Linear(2 * widths[-1], N_FEATURES)
        self.classify = nn.Linear(N_FEATURES, n_classes)

    def features(self, images: Tensor) -> Tensor:
        """Take (B, 2, H, W), nucleus and protein; return (B, N_FEATURES)."""
        seen = self.see(images).flatten(2)
        return self.describe(torch.cat([seen.mean(dim=2), seen.amax(dim=2)], dim=1))

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.features(images).relu())


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _small(images: Tensor, side: int) -> Tensor:
    """Average images (B, 2, H, W) down to a side, as floats in [0, 1]."""
    scaled = images.float() / 255 if images.dtype == torch.uint8 else images
    return F.adaptive_avg_pool2d(scaled, side)


def train_judge(
    images: Tensor,
    labels: Tensor,
    *,
    side: int = 104,
    epochs: int = 8,
    batch_size: int = 64,
    seed: int = 0,
) -> Judge:
    """
    Train a judge on real crops.

    Parameters
    ----------
    images : Tensor, shape (N, 2, H, W), dtype uint8
        Nucleus and protein, of training proteins alone.
    labels : Tensor, shape (N,), dtype int64
        Class numbers; crops with -1 are left out.
    side : int
        Images are averaged down to it, if they are larger.

    Returns
    -------
    judge : Judge
        In evaluation mode.
    """
    device, side = _device(), min(side, images.shape[-1])
    kept = (labels >= 0).nonzero().flatten()
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        judge = Judge(int(labels.max()) + 1).to(device)
    counts = torch.bincount(labels[kept]).clamp(min=1)
    weight = (len(kept) / (len(counts) * counts)).float().to(device)
    total = epochs * -(-len(kept) // batch_size)
    optimizer = torch.optim.AdamW(judge.parameters(), 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=total)
    judge.train()
    for _ in range(epochs):
        for rows in kept[torch.from_numpy(rng.permutation(len(kept)))].split(batch_size):
            turned = torch.rot90(
                _small(images[rows].to(device), side), int(rng.integers(4)), dims=(2, 3)
            )
            loss = F.cross_entropy(judge(turned), labels[rows].to(device), weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return judge.eval()


@torch.inference_mode()
def judged(
    judge: Judge, nuclear_images: np.ndarray, protein_images: np.ndarray, side: int = 104
) -> tuple[np.ndarray, np.ndarray]:
    """
    Let a judge look at images.

    Parameters
    ----------
    nuclear_images, protein_images : ndarray, shape (N, H, W), dtype float
        Intensities in [0, 1].
    side : int
        As in training.

    Returns
    -------
    probability : ndarray, shape (N, K), dtype float32
    features : ndarray, shape (N, N_FEATURES), dtype float32
    """
    device = next(judge.parameters()).device
    side = min(side, protein_images.shape[-1])
    said, seen = [], []
    for start in range(0, len(protein_images), 256):
        rows = slice(start, start + 256)
        pair = np.stack([nuclear_images[rows], protein_images[rows]], axis=1)
        images = _small(torch.from_numpy(pair.astype(np.float32)).to(device), side)
        features = judge.features(images)
        said.append(judge.classify(features.relu()).softmax(dim=1).cpu().numpy())
        seen.append(features.cpu().numpy())
    return np.concatenate(said), np.concatenate(seen)


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


def frechet_spread(
    features: np.ndarray,
    reference: np.ndarray,
    owners: np.ndarray,
    *,
    n_resamples: int = 100,
    seed: int = 0,
) -> Interval:
    """
    Compute a Fréchet distance and how much it moves with the proteins that happen to be there.

    Parameters
    ----------
    features, reference : ndarray, shape (N, F), dtype float
        Of drawn and of real images of the same crops.
    owners : ndarray, shape (N,)
        Protein of each crop; proteins are drawn anew, in both sets the same.

    Returns
    -------
    interval : Interval
        The distance, and the central 95 % of the draws moved so that their mean is the distance:
        proteins drawn twice make a set smaller in effect, and every distance of it larger.
    """
    rng, numbers = np.random.default_rng(seed), np.unique(owners, return_inverse=True)[1]
    rows_of = [np.flatnonzero(numbers == k) for k in range(numbers.max() + 1)]
    found = frechet_distance(features, reference)
    draws = []
    for _ in range(n_resamples):
        rows = np.concatenate([rows_of[k] for k in rng.integers(len(rows_of), size=len(rows_of))])
        draws.append(frechet_distance(features[rows], reference[rows]))
    low, high = np.quantile(np.array(draws) - np.mean(draws), [0.025, 0.975])
    return Interval(found, max(0.0, found + low), found + high)


class Measured(NamedTuple):
    """
    Pictures of N crops of P proteins, measured by a `Ruler`.

    Parameters
    ----------
    scores : dict of str to ndarray, shape (P,)
        PSNR (dB), SSIM, MS-SSIM, GLCM and judge, crops of a protein averaged.
    shares : ndarray, shape (P,)
        Nuclear proportion, likewise.
    spectrum_gap : ndarray, shape (P, R)
        Log power spectrum minus that of the cells.
    features : ndarray, shape (N, N_FEATURES)
        What the judge sees in each.
    """

    scores: dict[str, np.ndarray]
    shares: np.ndarray
    spectrum_gap: np.ndarray
    features: np.ndarray


@dataclass(frozen=True)
class Ruler:
    """
    Held-out cells, and how pictures of them are measured.

    Parameters
    ----------
    images, nuclei : ndarray, shape (N, H, W), dtype float
        Protein and nucleus images of the cells, in [0, 1].
    masks : ndarray, shape (N, H, W), dtype bool
        Their nuclei.
    owners, labels : ndarray, shape (N,), dtype int
        Protein of each crop, and its class number.
    ring_px : int
        Width of the ring that stands for the cytoplasm.
    judge : Judge
    """

    images: np.ndarray
    nuclei: np.ndarray
    masks: np.ndarray
    owners: np.ndarray
    labels: np.ndarray
    ring_px: int
    judge: Judge

    def per_protein(self, values: np.ndarray) -> np.ndarray:
        """Average the crops of each protein, (N, ...) -> (P, ...), in the order of `owners`."""
        number = np.unique(self.owners, return_inverse=True)[1]
        sums = np.zeros((number.max() + 1, *values.shape[1:]))
        np.add.at(sums, number, values)
        return (sums.T / np.bincount(number)).T

    @cached_property
    def cells(self) -> Measured:
        """The cells themselves; of their scores only the judge's says anything."""
        answer, features = judged(self.judge, self.nuclei, self.images)
        right = self.per_protein((answer.argmax(axis=1) == self.labels).astype(float))
        shares = nuclear_proportion(self.images, self.masks, self.ring_px)
        gap = np.zeros_like(self._spectra)
        return Measured({"judge": right}, self.per_protein(shares), self.per_protein(gap), features)

    @cached_property
    def _spectra(self) -> np.ndarray:
        return spectra(self.images)

    @cached_property
    def _textures(self) -> np.ndarray:
        return textures(self.images)

    def measure(
        self, images: np.ndarray, nuclei: np.ndarray | None = None, masks: np.ndarray | None = None
    ) -> Measured:
        """
        Measure one picture of each cell; of other cells, beside their own `nuclei` and `masks`.

        GLCM is the mean difference of homogeneity, energy and correlation; contrast, which is not
        between 0 and 1, is left out.
        """
        nuclei = self.nuclei if nuclei is None else nuclei
        masks = self.masks if masks is None else masks
        answer, features = judged(self.judge, nuclei, images)
        scores = {
            "PSNR (dB)": psnr(images, self.images, 1.0),
            "SSIM": similarities(images, self.images),
            "MS-SSIM": ms_ssim(images, self.images),
            "GLCM": np.abs(textures(images) - self._textures)[:, 2:].mean(axis=1),
            "judge": (answer.argmax(axis=1) == self.labels).astype(float),
        }
        shares = nuclear_proportion(images, masks, self.ring_px)
        gap = spectra(images) - self._spectra
        return Measured(
            {name: self.per_protein(values) for name, values in scores.items()},
            self.per_protein(shares), self.per_protein(gap), features,
        )  # fmt: skip

    def intervals(self, measured: Measured, seed: int = 0) -> dict[str, Interval]:
        """Return every score with its 95 % interval over proteins."""
        found = {k: bootstrap_interval(v, seed=seed) for k, v in measured.scores.items()}
        place = agreement(self.cells.shares, measured.shares, seed=seed)
        gap = measured.spectrum_gap
        (spectrum,) = bootstrap_intervals(
            lambda rows: np.array([np.sqrt((gap[rows].mean(axis=0) ** 2).mean())]),
            np.arange(len(gap)), seed=seed,
        )  # fmt: skip
        frechet = frechet_spread(measured.features, self.cells.features, self.owners, seed=seed)
        return found | {
            "r": place["r"], "right side": place["right_side"], "spectrum": spectrum,
            "Fréchet": frechet,
        }  # fmt: skip

    def differences(self, first: Measured, second: Measured, seed: int = 0) -> dict[str, Interval]:
        """Return PSNR (dB) and r of the first minus those of the second, on the same proteins."""
        decibels = first.scores["PSNR (dB)"] - second.scores["PSNR (dB)"]
        real = self.cells.shares

        def statistic(rows: np.ndarray) -> np.ndarray:
            r = [np.corrcoef(real[rows], x.shares[rows])[0, 1] for x in (first, second)]
            return np.array([decibels[rows].mean(), r[0] - r[1]])

        found = bootstrap_intervals(statistic, np.arange(len(real)), seed=seed)
        return dict(zip(("PSNR (dB)", "r"), found, strict=True))
