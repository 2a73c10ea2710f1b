"""
The label head of deepGPS trained by itself, with scikit-learn's interface.

The published label head never sees an image, so its labels can be studied without any: one
vector a protein, in seconds instead of minutes. What differs from the whole model is only that
the projection, which both branches share, gets no gradient from the images.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import train_test_split
from torch.nn import functional as F

from deepgps_core.model import DeepGPSConfig, SequenceHead


class LabelHeadClassifier(ClassifierMixin, BaseEstimator):
    """
    Projection and label head of deepGPS: D -> hidden -> hidden / 2 -> hidden / 4 -> K.

    Parameters
    ----------
    hidden_dim : int
        1024 as published.
    epochs, batch_size : int
    learning_rate, lr_gamma, weight_decay : float
        Of AdamW; the learning rate is multiplied by `lr_gamma` after each epoch.
    standardize : bool
        Give each feature mean 0 and standard deviation 1 over the training proteins.
    validation_fraction : float
        Share of the proteins given to `fit` that only choose the epoch; 0 keeps the last one.
    seed : int
        Decides initial weights, order, and who validates.
    """

    def __init__(
        self,
        hidden_dim: int = 1024,
        epochs: int = 50,
        batch_size: int = 32,
        learning_rate: float = 2e-4,
        lr_gamma: float = 0.9,
        weight_decay: float = 0.0,
        standardize: bool = False,
        validation_fraction: float = 0.125,
        seed: int = 0,
    ) -> None:
        self.hidden_dim = hidden_dim
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.lr_gamma = lr_gamma
        self.weight_decay = weight_decay
        self.standardize = standardize
        self.validation_fraction = validation_fraction
        self.seed = seed

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """
        Train on vectors X, shape (N, D), and labels y, shape (N,).

        The weights kept are those of the epoch with the lowest loss on the validation share.
        """
        self.classes_, number = np.unique(y, return_inverse=True)
        rows, held_out = np.arange(len(y)), np.arange(0)
        if self.validation_fraction:
            rows, held_out = train_test_split(
                rows, test_size=self.validation_fraction, stratify=number, random_state=self.seed
            )
        features, labels = torch.as_tensor(X, dtype=torch.float32), torch.as_tensor(number)
        self.head_ = self._initial_head(features[rows])
        optimizer = torch.optim.AdamW(
            self.head_.parameters(), self.learning_rate, weight_decay=self.weight_decay, fused=True
        )
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, self.lr_gamma)
        rng = np.random.default_rng(self.seed)
        best_loss, best = float("inf"), self.head_.state_dict()
        for _ in range(self.epochs):
            for batch in torch.from_numpy(rng.permutation(rows)).split(self.batch_size):
                loss = F.cross_entropy(self.head_(features[batch])[1], labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
            held_out_loss = self._loss(features[held_out], labels[held_out])
            if held_out_loss < best_loss or not self.validation_fraction:
                best_loss = held_out_loss
                best = {name: value.clone() for name, value in self.head_.state_dict().items()}
        self.head_.load_state_dict(best)
        return self

    def _initial_head(self, features: torch.Tensor) -> SequenceHead:
        config = DeepGPSConfig(
            sequence_dim=features.shape[1], hidden_dim=self.hidden_dim, n_classes=len(self.classes_)
        )
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            head = SequenceHead(config)
        if self.standardize:
            head.feature_mean.copy_(features.mean(dim=0))
            head.feature_scale.copy_(features.std(dim=0).clamp(min=1e-6))
        return head

    @torch.no_grad()
    def _loss(self, features: torch.Tensor, labels: torch.Tensor) -> float:
        return F.cross_entropy(self.head_(features)[1], labels).item()

    @torch.no_grad()
    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return class probabilities (N, K)."""
        logits = self.head_(torch.as_tensor(X, dtype=torch.float32))[1]
        return logits.softmax(dim=1).double().numpy()

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return labels (N,)."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]
