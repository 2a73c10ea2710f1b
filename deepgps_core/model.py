"""
deepGPS: a protein's sequence vector and a nucleus image to a localization label and an image.

The whole network stands here, in `deepgps_core.unet` and in `deepgps_core.fusions`. The defaults
of `DeepGPSConfig` are the published model (paper, Methods, "Feature representation of the protein
primary sequence" and "Image generation by deepGPS"); what the paper leaves open (ReLU after the
projection, widths 512 and 256 in the label head, batch normalization, sigmoid) follows its
released code. Layers which that code declares but never calls are left out. Structures enter as
point clouds (`deepgps_core.pointnet`) in two of the paper's three variants (Fig. 3b), chosen by
`inputs`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from deepgps_core.dataset import InputError
from deepgps_core.equivariant import EquivariantNet
from deepgps_core.fusions import (
    FUSIONS,
    MAX_RESIDUES,
    ResidueAttentionFusion,
    ResidueBatch,
)
from deepgps_core.losses import IMAGE_LOSSES, LABEL_LOSSES, Batch, losses
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
        a single key, in place of the bottleneck), "film", "concat" or "residue_attention".
    label_loss : str
        A key of `LABEL_LOSSES`: "cross_entropy", or "published" (the released code's softmax
        before it); "focal" and "class_weighted" where classes are thin; "soft" (shares of all
        locations) and "multi_label" (each class by itself) also learn from multi-localized
        proteins.
    image_loss : str
        "l1" as published, "mse" or "bce".
    inputs : str
        What is known of the protein beside the nucleus: "sequence", "structure" or "both", the
        two as two keys of the attention.
    structure_width : int
        Channels of PointNet's first layer, or of the equivariant network's last one.
    structure_encoder : str
        "pointnet" as published, or "equivariant" (`deepgps_core.equivariant`; needs e3nn).
    max_residues : int
        Residues of a protein that a fusion over residues reads, half from each end.
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
    structure_encoder: str = "pointnet"
    max_residues: int = MAX_RESIDUES

    def __post_init__(self) -> None:
        for name in (
            "sequence_dim", "hidden_dim", "width", "depth", "n_classes", "max_residues",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise InputError(f"model: {name} is {getattr(self, name)}; give at least 1.")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known():
                choices = ", ".join(known())
                raise InputError(
                    f"model: {name} {getattr(self, name)!r} is unknown; choose one of {choices}."
                )
        check_image_size(self.crop_size_px, self.crop_size_px, self.depth)
        if self.inputs != "sequence" and FUSIONS[self.fusion].needs_residues:
            raise InputError(
                f"model: fusion {self.fusion!r} reads residues; set inputs='sequence'."
            )
        if self.inputs == "both" and self.fusion != "paper":
            raise InputError(
                f"model: fusion {self.fusion!r} takes one vector, not two; set fusion='paper'."
            )

    @property
    def needs_residues(self) -> bool:
        """Whether the image branch reads per-residue vectors."""
        return FUSIONS[self.fusion].needs_residues

    @property
    def multi_label(self) -> bool:
        """Whether each class has a probability of its own, instead of one sum of 1."""
        return self.label_loss == "multi_label"

    @property
    def bottleneck_dim(self) -> int:
        """Channels at the coarsest level."""
        return self.width * 2**self.depth


#: What turns a point cloud into a vector: name -> network of (out_dim, width).
STRUCTURE_ENCODERS: dict[str, Callable[[int, int], nn.Module]] = {
    "pointnet": PointNet, "equivariant": EquivariantNet,
}  # fmt: skip


class Prediction(NamedTuple):
    """
    What the network says of a batch: image (B, 1, H, W) in [0, 1], logits (B, K).

    With a structure also PointNet's feature transform, for its penalty.
    """

    image: Tensor
    logits: Tensor
    structure_transform: Tensor | None = None


_CHOICES: dict[str, Callable[[], list[str]]] = {
    "fusion": lambda: list(FUSIONS),
    "label_loss": lambda: list(LABEL_LOSSES),
    "image_loss": lambda: list(IMAGE_LOSSES),
    "inputs": lambda: ["sequence", "structure", "both"],
    "structure_encoder": lambda: list(STRUCTURE_ENCODERS),
}


class SequenceHead(nn.Module):
    """
    The half of deepGPS that never sees an image: projection and label head.

    With the defaults, 1280 -> 1024 -> 512 -> 256 -> K: the paper's "MLP with four layers".
    """

    #: Mean and scale of the training proteins' vectors; 0 and 1 (as published) unless set.
    feature_mean: Tensor
    feature_scale: Tensor
    #: Weight of each class in a class-weighted loss, (K,); 1 unless set.
    class_weight: Tensor

    def __init__(self, config: DeepGPSConfig) -> None:
        super().__init__()
        hidden = config.hidden_dim
        self.register_buffer("feature_mean", torch.zeros(config.sequence_dim))
        self.register_buffer("feature_scale", torch.ones(config.sequence_dim))
        # of the training alone, so it is no part of the weights: older ones have none
        self.register_buffer("class_weight", torch.ones(config.n_classes), persistent=False)
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
            else STRUCTURE_ENCODERS[config.structure_encoder](
                config.hidden_dim, config.structure_width
            )
        )  # fmt: skip
        self.build_image_branch()

    def build_image_branch(self) -> None:
        """Make what draws; another family of models draws in another way."""
        config = self.config
        self.encoder = Encoder(config.width, config.depth)
        self.fusion = FUSIONS[config.fusion](config)
        self.decoder = Decoder(config.width, config.depth)
        initialize_convolutions(self.encoder)
        initialize_convolutions(self.decoder)

    def after_step(self) -> None:
        """Do what a model does after each training step: nothing, here."""

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

    def attention_map(
        self, nuclear_image: Tensor, sequence_features: Tensor, residues: ResidueBatch
    ) -> Tensor:
        """
        Return where each position of the coarsest image looks, for "residue_attention".

        Returns
        -------
        weights : Tensor, shape (B, h, w, 1 + L)
            Over the sequence vector (first) and the residues; they sum to 1.
        """
        if not isinstance(self.fusion, ResidueAttentionFusion):
            raise InputError(f"fusion {self.config.fusion!r} does not choose among residues.")
        coarsest = self.encoder(nuclear_image)[-1]
        hidden = self.describe(sequence_features)[0]
        weights = self.fusion.attend(coarsest, hidden, residues)[1]
        return weights.unflatten(1, coarsest.shape[2:])

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return class probabilities (B, K): of one place each, or of every place by itself."""
        return logits.sigmoid() if self.config.multi_label else logits.softmax(dim=-1)

    def forward(
        self,
        nuclear_image: Tensor,
        sequence_features: Tensor,
        point_clouds: Tensor | None = None,
        residues: ResidueBatch | None = None,
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
        residues : ResidueBatch, optional
            For a fusion that reads them.

        Returns
        -------
        prediction : Prediction
            image (B, 1, H, W) in [0, 1] and logits (B, K).

        Raises
        ------
        InputError
            If an image's side is not divisible by ``2**depth``, or point clouds or residues are
            missing.
        """
        if self.config.needs_residues and residues is None:
            raise InputError(
                f"this model's fusion, {self.config.fusion!r}, needs per-residue vectors; give "
                "them, or use a model with another fusion."
            )
        check_image_size(nuclear_image.shape[2], nuclear_image.shape[3], self.config.depth)
        sequence, logits, transform = self.describe(sequence_features, point_clouds)
        *skips, coarsest = self.encoder(nuclear_image)
        bottleneck = self.fusion.fuse_bottleneck(coarsest, sequence, residues)
        skips = [self.fusion.fuse_skip(s, sequence, level) for level, s in enumerate(skips)]
        return Prediction(self.decoder(bottleneck, skips), logits, transform)

    def predict_batch(self, batch: Batch) -> Prediction:
        """Predict the images and labels of a batch of crops."""
        return self(
            batch.nuclear_image, batch.sequence_features, batch.point_clouds, batch.residues
        )

    def score(self, batch: Batch) -> tuple[Prediction, Tensor, Tensor]:
        """Return the prediction, and the image and label loss of each crop, (B,)."""
        prediction = self.predict_batch(batch)
        return prediction, *losses(
            prediction, batch.protein_image, batch.label, self.config,
            batch.targets, self.head.class_weight,
        )  # fmt: skip
