"""
Losses of deepGPS: of the image, pixel by pixel, and of the label, in several forms.

The published pair is L1 and cross-entropy, 1:1 (paper, Methods, "Model training"); its released
code takes a softmax before a cross-entropy that has its own, kept here as "published". The other
label losses are options: for thin classes, and for proteins of several places.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from deepgps_core.fusions import ResidueBatch

if TYPE_CHECKING:
    from deepgps_core.model import DeepGPSConfig, Prediction

#: Exponent of the focal loss (Lin et al. 2017, who found 2 to work best).
FOCAL_EXPONENT = 2.0


class Batch(NamedTuple):
    """
    B crops: nuclear and protein image (B, 1, H, W), features (B, D), label and weight (B,).

    For a model of structures, also their point clouds (B, P, 6); for a fusion that reads
    residues, these. `targets` (B, K) holds 1 for each class that the protein is in.
    """

    nuclear_image: Tensor
    protein_image: Tensor
    sequence_features: Tensor
    label: Tensor
    weight: Tensor
    point_clouds: Tensor | None = None
    residues: ResidueBatch | None = None
    targets: Tensor | None = None


def _cross_entropy(logits: Tensor, label: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    return F.cross_entropy(logits, label, ignore_index=-1, reduction="none")


def _published(logits: Tensor, label: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """Compute the released code's label loss: softmax, then cross-entropy's own softmax."""
    return F.cross_entropy(logits.softmax(dim=-1), label, ignore_index=-1, reduction="none")


def _class_weighted(logits: Tensor, label: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    return F.cross_entropy(logits, label, weight, ignore_index=-1, reduction="none")


def _focal(logits: Tensor, label: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """Weigh the cross-entropy of each protein by (1 - p of its class) ** 2."""
    loss = F.cross_entropy(logits, label, ignore_index=-1, reduction="none")
    return (1 - torch.exp(-loss)) ** FOCAL_EXPONENT * loss


def _soft(logits: Tensor, label: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy against equal shares of all places of a protein."""
    shares = targets / targets.sum(dim=1, keepdim=True).clamp(min=1)
    return -(shares * logits.log_softmax(dim=-1)).sum(dim=1)


def _multi_label(logits: Tensor, label: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """Binary cross-entropy of each class by itself, averaged; proteins of no class cost 0."""
    by_class = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return by_class.mean(dim=1) * targets.any(dim=1)


#: name -> loss of (logits (B, K), label (B,), targets (B, K), class_weight (K,)), shape (B,).
LABEL_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "cross_entropy": _cross_entropy,
    "published": _published,
    "class_weighted": _class_weighted,
    "focal": _focal,
    "soft": _soft,
    "multi_label": _multi_label,
}
#: Losses that learn from every place of a protein, not from its single label.
OF_ALL_LOCATIONS = ("soft", "multi_label")
IMAGE_LOSSES: dict[str, Callable[..., Tensor]] = {
    "l1": F.l1_loss,
    "mse": F.mse_loss,
    "bce": F.binary_cross_entropy,
}


def balanced_class_weight(labels: Tensor, n_classes: int) -> Tensor:
    """
    Weigh classes against their frequency, n / (K n_k), as scikit-learn's "balanced".

    Parameters
    ----------
    labels : Tensor, shape (proteins,), dtype int64
        -1 for proteins without a single label, which do not count.

    Examples
    --------
    >>> balanced_class_weight(torch.tensor([0, 0, 0, 1, -1]), 2)
    tensor([0.6667, 2.0000])
    """
    counts = torch.bincount(labels[labels >= 0], minlength=n_classes)
    return counts.sum() / (n_classes * counts.clamp(min=1))


def is_labelled(batch: Batch, config: DeepGPSConfig) -> Tensor:
    """Say which crops the label loss counts, shape (B,), dtype bool."""
    if config.label_loss in OF_ALL_LOCATIONS and batch.targets is not None:
        return batch.targets.any(dim=1)
    return batch.label >= 0


def losses(
    prediction: Prediction,
    protein_image: Tensor,
    label: Tensor,
    config: DeepGPSConfig,
    targets: Tensor | None = None,
    class_weight: Tensor | None = None,
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
    targets : Tensor, shape (B, K), dtype float, optional
        1 for every class the protein is in; by default, of its label alone.
    class_weight : Tensor, shape (K,), optional
        For the class-weighted loss; by default 1.

    Returns
    -------
    image_loss, label_loss : Tensor, shape (B,), dtype float32
    """
    # autocast refuses binary cross-entropy in half precision, and sums want float32
    image, logits = prediction.image.float(), prediction.logits.float()
    if targets is None:
        targets = F.one_hot(label.clamp(min=0), logits.shape[1]).float() * (label >= 0)[:, None]
    if class_weight is None:
        class_weight = torch.ones_like(logits[0])
    by_pixel = IMAGE_LOSSES[config.image_loss](image, protein_image, reduction="none")
    by_crop = LABEL_LOSSES[config.label_loss](logits, label, targets, class_weight)
    return by_pixel.flatten(1).mean(dim=1), by_crop
