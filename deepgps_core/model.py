"""
deepGPS: a protein's sequence vector and a nucleus image to a localization label and an image.

The whole network stands here and in `deepgps_core.unet`. The defaults of `DeepGPSConfig` are the
published model (paper, Methods, "Feature representation of the protein primary sequence" and
"Image generation by deepGPS"); what the paper leaves open (ReLU after the projection, widths
512 and 256 in the label head, batch normalization, sigmoid) follows its released code. Layers
which that code declares but never calls are left out. Structures enter as point clouds
(`deepgps_core.pointnet`) in two of the paper's three variants (Fig. 3b), chosen by `inputs`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepgps_core.dataset import InputError
from deepgps_core.pointnet import PointNet
from deepgps_core.unet import Decoder, Encoder, check_image_size, initialize_convolutions


@dataclass(frozen=True)
class DeepGPSConfig:
    """
    The network's shape and losses; the defaults are the published deepGPS-single-2.

    Parameters
    ----------
    sequence_dim : int
        Width of the sequence vector (1280: ESM-2 650M).
    hidden_dim : int
        Width of the projected sequence vector, which label head and image branch share.
    width, depth : int
        Channels at full resolution, and how often the image is halved.
    crop_size_px : int
        Side of the images it is trained on; any multiple of ``2**depth`` can be predicted.
    n_classes : int
        Localization labels, K.
    fusion : str
        How the sequence enters the image branch, a key of `FUSIONS`: "paper" (attention over
        a single key, in place of the bottleneck), "film" or "concat".
    label_loss : str
        "cross_entropy", or "published": the released code's softmax before it.
    image_loss : str
        "l1" as published, "mse" or "bce".
    inputs : str
        What is known of the protein beside the nucleus: "sequence", "structure" or "both", the
        two as two keys of the attention.
    structure_width : int
        Channels of PointNet's first layer.
    """

    sequence_dim: int = 1280
    hidden_dim: int = 1024
    width: int = 64
    depth: int = 4
    crop_size_px: int = 208
    n_classes: int = 2
    fusion: str = "paper"
    label_loss: str = "cross_entropy"
    image_loss: str = "l1"
    inputs: str = "sequence"
    structure_width: int = 64

    def __post_init__(self) -> None:
        for name in ("sequence_dim", "hidden_dim", "width", "depth", "n_classes"):
            if getattr(self, name) < 1:
                raise InputError(f"model: {name} is {getattr(self, name)}; give at least 1.")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known():
                choices = ", ".join(known())
                raise InputError(
                    f"model: {name} {getattr(self, name)!r} is unknown; choose one of {choices}."
                )
        check_image_size(self.crop_size_px, self.crop_size_px, self.depth)
        if self.inputs == "both" and self.fusion != "paper":
            raise InputError(
                f"model: fusion {self.fusion!r} takes one vector, not two; set fusion='paper'."
            )

    @property
    def bottleneck_dim(self) -> int:
        """Channels at the coarsest level."""
        return self.width * 2**self.depth


class Prediction(NamedTuple):
    """
    What the network says of a batch: image (B, 1, H, W) in [0, 1], logits (B, K).

    With a structure also PointNet's feature transform, for its penalty.
    """

    image: Tensor
    logits: Tensor
    structure_transform: Tensor | None = None


class Fusion(nn.Module):
    """
    How a sequence vector enters the image branch; by itself, not at all.

    A subclass overrides what it changes: the coarsest features, or any level's skip.
    """

    def __init__(self, config: DeepGPSConfig) -> None:
        super().__init__()
        self.config = config

    def fuse_bottleneck(self, features: Tensor, sequence: Tensor) -> Tensor:
        """Take and return coarsest features (B, C, H, W); `sequence` is (B, hidden_dim)."""
        return features

    def fuse_skip(self, features: Tensor, sequence: Tensor, level: int) -> Tensor:
        """Take and return the skip features of one level, 0 being full resolution."""
        return features


class PaperFusion(Fusion):
    """
    Attention with the image as queries and the sequence vector as the only key and value.

    One key makes every attention weight 1, whatever the query: the output is the projected
    sequence vector at each position, and the image's coarsest features are lost. This is the
    published computation; chapter 07 proves and repairs it.
    """

    def __init__(self, config: DeepGPSConfig) -> None:
        super().__init__(config)
        hidden = config.hidden_dim
        self.attention = nn.MultiheadAttention(
            config.bottleneck_dim, num_heads=1, kdim=hidden, vdim=hidden, batch_first=True
        )

    def fuse_bottleneck(self, features: Tensor, sequence: Tensor) -> Tensor:
        queries = features.flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, H * W, C)
        # (B, hidden) -> (B, 1, hidden); sequence and structure together are two keys already
        key = sequence.unsqueeze(1) if sequence.dim() == 2 else sequence
        fused, _ = self.attention(queries, key, key)
        return fused.transpose(1, 2).reshape(features.shape)  # -> (B, C, H, W)


class ConcatFusion(Fusion):
    """The sequence vector beside the image's features at each position, mixed by one layer."""

    def __init__(self, config: DeepGPSConfig) -> None:
        super().__init__(config)
        channels = config.bottleneck_dim
        self.mix = nn.Conv2d(channels + config.hidden_dim, channels, kernel_size=1)

    def fuse_bottleneck(self, features: Tensor, sequence: Tensor) -> Tensor:
        tiled = sequence[:, :, None, None].expand(-1, -1, *features.shape[2:])
        return self.mix(torch.cat([features, tiled], dim=1))


class FilmFusion(Fusion):
    """The sequence vector scales and shifts the channels of each level; none are lost."""

    def __init__(self, config: DeepGPSConfig) -> None:
        super().__init__(config)
        channels = [config.width * 2**level for level in range(config.depth + 1)]
        self.modulations = nn.ModuleList(nn.Linear(config.hidden_dim, 2 * c) for c in channels)

    def fuse_bottleneck(self, features: Tensor, sequence: Tensor) -> Tensor:
        return self.fuse_skip(features, sequence, self.config.depth)

    def fuse_skip(self, features: Tensor, sequence: Tensor, level: int) -> Tensor:
        # (B, hidden) -> (B, 2C, 1, 1) -> two of (B, C, 1, 1)
        scale, shift = self.modulations[level](sequence)[:, :, None, None].chunk(2, dim=1)
        return features * (1 + scale) + shift


FUSIONS: dict[str, type[Fusion]] = {
    "paper": PaperFusion,
    "film": FilmFusion,
    "concat": ConcatFusion,
}


def published_cross_entropy(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    """Compute the released code's label loss: softmax, then cross-entropy's own softmax."""
    return F.cross_entropy(logits.softmax(dim=-1), target, **options)


LABEL_LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "published": published_cross_entropy,
}
IMAGE_LOSSES: dict[str, Callable[..., Tensor]] = {
    "l1": F.l1_loss,
    "mse": F.mse_loss,
    "bce": F.binary_cross_entropy,
}
_CHOICES: dict[str, Callable[[], list[str]]] = {
    "fusion": lambda: list(FUSIONS),
    "label_loss": lambda: list(LABEL_LOSSES),
    "image_loss": lambda: list(IMAGE_LOSSES),
    "inputs": lambda: ["sequence", "structure", "both"],
}


class SequenceHead(nn.Module):
    """
    The half of deepGPS that never sees an image: projection and label head.

    With the defaults, 1280 -> 1024 -> 512 -> 256 -> K: the paper's "MLP with four layers".
    """

    #: Mean and scale of the training proteins' vectors; 0 and 1 (as published) unless set.
    feature_mean: Tensor
    feature_scale: Tensor

    def __init__(self, config: DeepGPSConfig) -> None:
        super().__init__()
        hidden = config.hidden_dim
        self.register_buffer("feature_mean", torch.zeros(config.sequence_dim))
        self.register_buffer("feature_scale", torch.ones(config.sequence_dim))
        self.linear = (
            nn.Identity()
            if config.inputs == "structure"
            else nn.Linear(config.sequence_dim, hidden)
        )
        self.classify = nn.Sequential(
            nn.Linear(hidden, hidden // 2),
            nn.ReLU(),
            nn.Linear(hidden // 2, hidden // 4),
            nn.ReLU(),
            nn.Linear(hidden // 4, config.n_classes),
        )

    def forward(self, sequence_features: Tensor) -> tuple[Tensor, Tensor]:
        """Take (B, D); return the projected vector (B, hidden_dim) and the logits (B, K)."""
        scaled = (sequence_features - self.feature_mean) / self.feature_scale
        sequence = self.linear(scaled).relu()
        return sequence, self.classify(sequence)


class DeepGPS(nn.Module):
    """The network: `head` reads the sequence; `encoder`, `fusion` and `decoder` draw."""

    def __init__(self, config: DeepGPSConfig) -> None:
        super().__init__()
        self.config = config
        self.head = SequenceHead(config)
        self.structure = (
            None if config.inputs == "sequence"
            else PointNet(config.hidden_dim, config.structure_width)
        )  # fmt: skip
        self.encoder = Encoder(config.width, config.depth)
        self.fusion = FUSIONS[config.fusion](config)
        self.decoder = Decoder(config.width, config.depth)
        initialize_convolutions(self.encoder)
        initialize_convolutions(self.decoder)

    def describe(
        self, sequence_features: Tensor, point_clouds: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """
        Say what is known of proteins before any image is seen.

        Returns
        -------
        hidden : Tensor, shape (B, hidden_dim); with ``inputs="both"`` (B, 2, hidden_dim)
        logits : Tensor, shape (B, K)
            With both inputs, the mean of what the label head says of each: the paper does not
            tell how they are joined.
        structure_transform : Tensor or None
        """
        if self.structure is None:
            return (*self.head(sequence_features), None)
        if point_clouds is None:
            raise InputError(
                f"this model was trained on inputs={self.config.inputs!r} and needs the proteins' "
                "point clouds; give them, or use a model of sequences."
            )
        vector, transform = self.structure(point_clouds)
        if self.config.inputs == "structure":
            return vector, self.head.classify(vector), transform
        hidden = torch.stack([vector, self.head(sequence_features)[0]], dim=1)
        return hidden, self.head.classify(hidden).mean(dim=1), transform

    def forward(
        self, nuclear_image: Tensor, sequence_features: Tensor, point_clouds: Tensor | None = None
    ) -> Prediction:
        """
        Predict protein images and label logits.

        Parameters
        ----------
        nuclear_image : Tensor, shape (B, 1, H, W), dtype float
            Intensities in [0, 1]; H and W multiples of ``2**depth``.
        sequence_features : Tensor, shape (B, D), dtype float
            One vector a protein.
        point_clouds : Tensor, shape (B, P, 6), dtype float, optional
            Of the structures, for a model that takes them.

        Returns
        -------
        prediction : Prediction
            image (B, 1, H, W) in [0, 1] and logits (B, K).

        Raises
        ------
        InputError
            If an image's side is not divisible by ``2**depth``, or point clouds are missing.
        """
        check_image_size(nuclear_image.shape[2], nuclear_image.shape[3], self.config.depth)
        sequence, logits, transform = self.describe(sequence_features, point_clouds)
        *skips, coarsest = self.encoder(nuclear_image)
        bottleneck = self.fusion.fuse_bottleneck(coarsest, sequence)
        skips = [self.fusion.fuse_skip(s, sequence, level) for level, s in enumerate(skips)]
        return Prediction(self.decoder(bottleneck, skips), logits, transform)


def losses(
    prediction: Prediction, protein_image: Tensor, label: Tensor, config: DeepGPSConfig
) -> tuple[Tensor, Tensor]:
    """
    Compute the image and the label loss of each crop.

    Parameters
    ----------
    prediction : Prediction
        Of B crops.
    protein_image : Tensor, shape (B, 1, H, W), dtype float
        Measured intensities in [0, 1].
    label : Tensor, shape (B,), dtype int64
        Class numbers; -1 where the protein has no single label: its label loss is 0.
    config : DeepGPSConfig
        Names the two losses.

    Returns
    -------
    image_loss, label_loss : Tensor, shape (B,), dtype float32
    """
    # autocast refuses binary cross-entropy in half precision, and sums want float32
    image, logits = prediction.image.float(), prediction.logits.float()
    by_pixel = IMAGE_LOSSES[config.image_loss](image, protein_image, reduction="none")
    by_crop = LABEL_LOSSES[config.label_loss](logits, label, ignore_index=-1, reduction="none")
    return by_pixel.flatten(1).mean(dim=1), by_crop
