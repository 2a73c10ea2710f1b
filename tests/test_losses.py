"""Label losses: closed forms, reference implementations, and what each does not count."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight

from deepgps_core.losses import LABEL_LOSSES, balanced_class_weight, losses
from deepgps_core.model import DeepGPSConfig, Prediction

CONFIG = DeepGPSConfig(sequence_dim=4, hidden_dim=8, width=4, depth=1, crop_size_px=4, n_classes=3)
LABEL = torch.tensor([0, 2, 1, 0, -1])
#: The last protein is in two places, and so has no single label.
TARGETS = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 1, 1]])


def label_loss(kind: str, logits: torch.Tensor, **more: torch.Tensor) -> torch.Tensor:
    """Return the label loss of proteins with LABEL and TARGETS."""
    image = torch.zeros(len(logits), 1, 4, 4)
    config = dataclasses.replace(CONFIG, label_loss=kind)
    return losses(Prediction(image, logits), image, LABEL, config, TARGETS, **more)[1]


@pytest.fixture()
def logits() -> torch.Tensor:
    """Return logits of five proteins."""
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


def test_cross_entropy_is_that_of_scikit_learn(logits: torch.Tensor) -> None:
    """The mean over proteins with a label equals sklearn.metrics.log_loss."""
    probability = logits[:4].softmax(dim=1).numpy()
    expected = log_loss(LABEL[:4].numpy(), probability, labels=[0, 1, 2])
    assert label_loss("cross_entropy", logits)[:4].mean().item() == pytest.approx(expected, 1e-5)


def test_class_weights_are_those_of_scikit_learn(logits: torch.Tensor) -> None:
    """Balanced weights equal scikit-learn's, and each protein's loss is multiplied by its own."""
    weight = balanced_class_weight(LABEL, 3)
    known = LABEL[LABEL >= 0].numpy()
    expected = compute_class_weight("balanced", classes=np.arange(3), y=known)
    np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-6)
    plain = label_loss("cross_entropy", logits)
    weighted = label_loss("class_weighted", logits, class_weight=weight)
    np.testing.assert_allclose(weighted[:4], plain[:4] * weight[LABEL[:4]], rtol=1e-5)


def test_focal_loss_by_hand() -> None:
    """Lin et al. 2017: (1 - p)^2 (-ln p), here with p = 1/2 and p = 9/10."""
    for p in (0.5, 0.9):
        rest = math.log((1 - p) / 2)
        logits = torch.full((5, 3), rest)
        logits[torch.arange(4), LABEL[:4]] = math.log(p)
        expected = (1 - p) ** 2 * -math.log(p)
        assert label_loss("focal", logits)[:4].tolist() == pytest.approx([expected] * 4, rel=1e-5)


def test_soft_labels_are_least_at_equal_shares() -> None:
    """A protein in two places costs ln 2 at even odds of the two, and more at any other."""
    logits = torch.full((5, 3), -30.0)
    logits[4, 1:] = 0.0
    assert label_loss("soft", logits)[4].item() == pytest.approx(math.log(2), rel=1e-5)
    for shift in (-0.5, 0.5):
        logits[4, 1] = shift
        assert label_loss("soft", logits)[4].item() > math.log(2) + 1e-3


def test_soft_equals_cross_entropy_where_there_is_one_place(logits: torch.Tensor) -> None:
    """With a single place the two losses are one."""
    np.testing.assert_allclose(
        label_loss("soft", logits)[:4], label_loss("cross_entropy", logits)[:4], rtol=1e-5
    )


def test_multi_label_is_the_mean_of_binary_losses(logits: torch.Tensor) -> None:
    """Each class counts by itself: equals -mean(t ln p + (1 - t) ln(1 - p))."""
    p = logits.double().sigmoid()
    expected = -(TARGETS * p.log() + (1 - TARGETS) * (1 - p).log()).mean(dim=1)
    np.testing.assert_allclose(label_loss("multi_label", logits), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", sorted(LABEL_LOSSES))
def test_what_is_not_known_costs_nothing(kind: str, logits: torch.Tensor) -> None:
    """A protein of no class costs 0 and gets no gradient, under every loss."""
    image = torch.zeros(5, 1, 4, 4)
    config = dataclasses.replace(CONFIG, label_loss=kind)
    logits.requires_grad_()
    nowhere = torch.full((5,), -1)
    loss = losses(Prediction(image, logits), image, nowhere, config, torch.zeros(5, 3))[1]
    assert not loss.any()
    loss.sum().backward()
    assert not logits.grad.any()  # type: ignore[union-attr]
