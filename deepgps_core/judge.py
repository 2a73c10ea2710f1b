"""
A judge of protein images that has never seen a generated one.

A small convolutional network learns from real images of training proteins (measured, or
simulated where the dataset is) where each protein is. Its answer to a generated image is
the image's localization; its features compare sets of images (Fréchet distance).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
