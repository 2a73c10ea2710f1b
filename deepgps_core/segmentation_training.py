"""
Training of the StarDist model that the package ships, on any mixture of labelled images.

The paper takes a published StarDist model; where its weights cannot be had, this one stands
in. Images and their targets are held as flat arrays on the training device, so that a batch
of patches, each with a position, rotation, reflection and *scale* of its own, is one gather;
StarDist's targets need no second computation, because turning an image by 360/32 degrees
rolls its 32 radii and scaling multiplies them. Left out: shape completion, several classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, conv2d, interpolate
from tqdm import tqdm

from deepgps_core.stardist_torch import StarDistNet

N_RAYS = 32


@dataclass(frozen=True)
class SegmentationTrainingConfig:
    """How patches are drawn and disturbed, and how the network is fitted to them."""

    patch_px: int = 256
    batch_size: int = 48
    steps: int = 10_000
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    weight_decay: float = 1e-5
    average_decay: float = 0.998  # of the moving average of the weights, which is what is kept
    distance_weight: float = 0.2  # StarDist's train_loss_weights
    background_weight: float = 1e-4  # StarDist's train_background_reg
    typical_radius_px: float = 12.0  # at which errors of the radii count as in StarDist
    scale_range: tuple[float, float] = (0.35, 3.0)
    diameter_range_px: tuple[float, float] = (8.0, 130.0)  # of the median nucleus, after scaling
    native_fraction: float = 0.4  # of patches stay near their image's own scale
    foreground_fraction: float = 0.9  # of patches are centred near a nucleus
    seed: int = 0


class PatchStore:
    """
    Labelled images and their StarDist targets, ready to draw patches from.

    Parameters
    ----------
    images : sequence of ndarray, shape (H, W), dtype float
        Normalized to about [0, 1]; sizes may differ.
    labels : sequence of ndarray, shape (H, W), dtype int
        0 background, one number a nucleus.
    weights : sequence of float, optional
        Relative chance of each image to be drawn.
    device : str
        Where the arrays live; about 70 bytes a pixel.
    """

    def __init__(
        self,
        images: Sequence[np.ndarray],
        labels: Sequence[np.ndarray],
        weights: Sequence[float] | None = None,
        device: str = "cpu",
    ) -> None:
        from stardist import edt_prob, star_dist

        if len(images) != len(labels) or not images:
            raise ValueError(f"{len(images)} images for {len(labels)} label images")
        self.device = device
        parts: list[tuple[torch.Tensor, ...]] = []
        diameters, points = [], []
        for image, label in zip(images, labels, strict=True):
            areas = np.unique(label[label > 0], return_counts=True)[1]
            diameters.append(float(np.median(np.sqrt(4 * areas / np.pi))) if len(areas) else 30.0)
            inside = np.argwhere(label > 0) if len(areas) else np.argwhere(label == 0)
            points.append(inside[np.linspace(0, len(inside) - 1, 512).astype(int)])
            columns = (
                image.astype(np.float16).reshape(-1),
                edt_prob(label).astype(np.float16).reshape(-1),
                star_dist(label, N_RAYS).astype(np.float16).reshape(-1, N_RAYS),
                label.astype(np.int32).reshape(-1),
            )
            parts.append(tuple(torch.from_numpy(column).to(device) for column in columns))
        self.image, self.probability, self.distance, self.label = (
            torch.cat([part[i] for part in parts]) for i in range(4)
        )
        shapes = torch.tensor([image.shape for image in images])
        self.shape = shapes.int().to(device)
        self.start = (shapes.prod(dim=1).cumsum(0) - shapes.prod(dim=1)).to(device)
        self.diameter_px = torch.tensor(diameters, device=device)
        self.inside = torch.from_numpy(np.stack(points)).float().to(device)  # (N, 512, 2)
        self.weights = torch.tensor(weights or [1.0] * len(images), device=device)

    def index(self, which: torch.Tensor, yx: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return flat indices of pixels `yx` (B, ..., 2), mirrored, and which lie inside."""
        view = (-1,) + (1,) * (yx.ndim - 2)
        size = self.shape[which].view(*view, 2)
        valid = ((yx >= 0) & (yx < size)).all(dim=-1)
        folded = yx.remainder(2 * size)  # mirror tiling: ... 2 1 0 0 1 2 ...
        folded = torch.minimum(folded, 2 * size - 1 - folded)
        within = folded[..., 0] * size[..., 1] + folded[..., 1]
        flat = within + self.start[which].view(view)  # 64 bits: stores may exceed 2^31 pixels
        return flat, valid


@dataclass
class Patches:
    """A batch: image (B, 1, H, W); targets on the network's coarser grid; valid says where."""

    image: torch.Tensor
    probability: torch.Tensor  # (B, 1, h, w)
    distance: torch.Tensor  # (B, 32, h, w)
    valid: torch.Tensor  # (B, 1, h, w)


def _uniform(low: float, high: float, *size: int, like: torch.Tensor) -> torch.Tensor:
    return low + (high - low) * torch.rand(*size, device=like.device)


def draw_patches(
    store: PatchStore, config: SegmentationTrainingConfig, grid: int, augment: bool = True
) -> Patches:
    """
    Draw a batch of randomly placed, turned, mirrored and scaled patches.

    Returns
    -------
    patches : Patches
        Radii in pixels of the patch. Pixels beyond their image are mirrored and not `valid`.
    """
    b, like = config.batch_size, store.image
    which = torch.multinomial(store.weights, b, replacement=True)
    diameter = store.diameter_px[which]
    low, high = (math.log(s) for s in config.scale_range)
    scale = _uniform(low, high, b, like=like).exp()
    native = _uniform(0.8, 1.25, b, like=like)
    keep = torch.rand(b, device=store.device) < config.native_fraction
    scale = torch.where(keep, native, scale)
    limits = config.diameter_range_px
    scale = torch.minimum(torch.maximum(scale, limits[0] / diameter), limits[1] / diameter)

    pick = torch.randint(store.inside.shape[1], (b,), device=store.device)
    near = store.inside[which, pick]
    jitter = _uniform(-0.35, 0.35, b, 2, like=like) * config.patch_px / scale[:, None]
    anywhere = torch.rand(b, 2, device=store.device) * store.shape[which]
    foreground = torch.rand(b, 1, device=store.device) < config.foreground_fraction
    center = torch.where(foreground, near + jitter, anywhere)
    turn = torch.randint(N_RAYS, (b,), device=store.device)
    mirror = torch.rand(b, device=store.device) < 0.5
    return gather_patches(store, which, center, scale, turn, mirror, config.patch_px, grid, augment)


def gather_patches(
    store: PatchStore,
    which: torch.Tensor,
    center: torch.Tensor,
    scale: torch.Tensor,
    turn: torch.Tensor,
    mirror: torch.Tensor,
    patch_px: int,
    grid: int,
    augment: bool,
) -> Patches:
    """Cut the patches; `turn` counts steps of 360/32 degrees, `mirror` reflects columns first."""
    angle = turn * (2 * math.pi / N_RAYS)
    axis = torch.arange(patch_px, device=store.device) - (patch_px - 1) / 2

    def source(offset_y: float, offset_x: float, step: int) -> torch.Tensor:
        y, x = torch.meshgrid(axis[::step] + offset_y, axis[::step] + offset_x, indexing="ij")
        x = torch.where(mirror[:, None, None], -x, x)
        cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
        turned = torch.stack([sin * x + cos * y, cos * x - sin * y], dim=-1)  # (B, h, w, 2)
        return center[:, None, None] + turned / scale[:, None, None, None]

    image = torch.zeros(len(which), patch_px, patch_px, device=store.device)
    gain = _nucleus_gain(store, len(which)) if augment else None
    # the mean of 2 x 2 nearest pixels: antialiasing when an image is shrunk, soft when enlarged
    for dy, dx in ((-0.25, -0.25), (-0.25, 0.25), (0.25, -0.25), (0.25, 0.25)):
        flat, _ = store.index(which, source(dy, dx, 1).round().int())
        value = store.image[flat].float()
        if gain is not None:
            value = value * gain.gather(1, (store.label[flat] % gain.shape[1]).flatten(1)).view_as(
                value
            )
        image += value / 4
    flat, valid = store.index(which, source(0.0, 0.0, grid).round().int())
    rays = torch.arange(N_RAYS, device=store.device)[None]
    rolled = torch.where(mirror[:, None], N_RAYS // 2 - rays, rays) + turn[:, None]
    distance = store.distance[flat].float().permute(0, 3, 1, 2)  # (B, h, w, 32) -> (B, 32, h, w)
    order = (rolled % N_RAYS)[:, :, None, None].expand_as(distance)
    return Patches(
        image[:, None],
        store.probability[flat].float()[:, None],
        distance.gather(1, order) * scale[:, None, None, None],
        valid[:, None],
    )


def _nucleus_gain(store: PatchStore, n: int) -> torch.Tensor:
    """Return random brightness factors (n, 251) of nuclei, 1 for the background and half of all."""
    gain = torch.exp(0.35 * torch.randn(n, 251, device=store.device))
    gain[:, 0] = 1.0
    even = torch.rand(n, 1, device=store.device) < 0.5
    return torch.where(even, torch.ones_like(gain), gain)


def _blur(image: torch.Tensor, sigma: float) -> torch.Tensor:
    radius = max(1, math.ceil(3 * sigma))
    x = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = torch.nn.functional.pad(image, (radius,) * 4, mode="reflect")
    return conv2d(conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))


def disturb(image: torch.Tensor) -> torch.Tensor:
    """
    Disturb intensities: gamma, texture, blur, uneven background, noise, wrong normalization.

    Parameters
    ----------
    image : Tensor, shape (B, 1, H, W)
        Normalized to about [0, 1]. Each is disturbed by a strength of its own, down to none.
    """
    b, _, height, width = image.shape
    strength = torch.rand(b, 1, 1, 1, device=image.device)

    def normal() -> torch.Tensor:
        return strength * torch.randn(b, 1, 1, 1, device=image.device)

    def amount(share: float) -> torch.Tensor:
        present = (torch.rand(b, 1, 1, 1, device=image.device) < share).float()
        return present * strength * torch.rand(b, 1, 1, 1, device=image.device)

    def smooth(cells: int) -> torch.Tensor:
        coarse = torch.randn(b, 1, cells, cells, device=image.device)
        return interpolate(coarse, size=(height, width), mode="bicubic")

    image = image.clamp(0, 4) ** torch.exp(0.5 * normal())
    grain_px = 3 * 13 ** float(torch.rand(1))  # chromatin: 3 to 39 px
    image = image * (1 + 0.8 * amount(0.6) * smooth(int(height / grain_px))).clamp(0.2, 2.5)
    quarter = (b + 3) // 4  # two quarters of the batch are blurred, each by another amount
    low, high = 0.5 + float(torch.rand(1)), 1.0 + 2.0 * float(torch.rand(1))
    image = torch.cat(
        [
            _blur(image[:quarter], low),
            _blur(image[quarter : 2 * quarter], high),
            image[2 * quarter :],
        ]
    )
    image = image + 0.3 * amount(0.5) * smooth(3)
    spread = 0.2 * amount(0.9)
    signal = image.clamp(0.02, 2).sqrt()
    image = image + spread * torch.randn_like(image) * (0.4 + signal)
    return image * torch.exp(0.4 * normal()) + 0.1 * normal()


def stardist_loss(
    logits: torch.Tensor,
    distances: torch.Tensor,
    patches: Patches,
    config: SegmentationTrainingConfig,
) -> torch.Tensor:
    """
    Return StarDist's loss: cross-entropy of the probability + 0.2 x masked absolute error.

    Notes
    -----
    Source: ``StarDistBase.prepare_for_training`` (train_dist_loss "mae"). The mask of the
    radii is the object probability itself. Differs: errors of the radii are relative to the
    nucleus's size, so that small nuclei count although all scales are mixed; and pixels beyond
    the image count in neither part.
    """
    valid = patches.valid.float()
    entropy = binary_cross_entropy_with_logits(logits, patches.probability, reduction="none")
    weight = patches.probability * valid
    radius = patches.distance.mean(dim=1, keepdim=True).clamp(min=2.0)
    error = (distances - patches.distance).abs() * config.typical_radius_px / radius
    error = (error * weight).mean() / (weight.mean() + 1e-7)
    background = (distances.abs() * (1 - patches.probability) * valid).mean()
    return (
        (entropy * valid).sum() / valid.sum().clamp(min=1)
        + config.distance_weight * (error + config.background_weight * background)
    )  # fmt: skip


def train_segmenter(
    network: StarDistNet, store: PatchStore, config: SegmentationTrainingConfig
) -> list[float]:
    """
    Fit `network` in place to patches from `store`; keep the moving average of its weights.

    Returns
    -------
    losses : list of float
        The loss of each step, on disturbed training patches.
    """
    torch.manual_seed(config.seed)
    network.to(store.device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    grid = 2**network.n_poolings
    optimizer = torch.optim.AdamW(
        network.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            min(1.0, (step + 1) / max(1, config.warmup_steps))
            * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / config.steps))))
        ),
    )
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(config.average_decay)
    )
    losses = []
    cuda = store.device.startswith("cuda")
    for _ in tqdm(range(config.steps), desc="training", mininterval=5):
        patches = draw_patches(store, config, grid)
        image = disturb(patches.image).to(memory_format=torch.channels_last)
        with torch.autocast("cuda", torch.bfloat16, enabled=cuda):
            logits, distances = network(image)
        loss = stardist_loss(logits.float(), distances.float(), patches, config)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(network)
        losses.append(loss.detach())
    network.load_state_dict(average.module.state_dict())
    return torch.stack(losses).cpu().tolist()
