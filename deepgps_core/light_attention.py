"""
Light attention over residue embeddings, with scikit-learn's interface (Stärk et al. 2021).

A mean over residues forgets where in the protein a signal stands. Light attention lets the data
say which residues count: one convolution along the sequence gives values, another gives weights,
and the weighted sum goes, beside the largest values, to a small classifier. It is the strongest
sequence-only method in an independent comparison on human proteins. deepGPS has nothing like it:
its attention has a single key.

Differs from the published network: features are standardized and may be projected onto their
principal axes first, the layers are narrower, and long proteins give up their middle, because a
few hundred proteins and two processor cores have to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LightAttention", "LightAttentionClassifier", "residue_array"]


class LightAttention(nn.Module):
    """
    The network: two convolutions, attention over residues, two linear layers.

    Parameters
    ----------
    dim : int
        Width of a residue's features.
    n_classes : int
    filters : int
        Channels of each convolution; the published network has as many as `dim`.
    kernel_size : int
        Residues a convolution sees, odd; 9 as published.
    dropout : float
        Of the convolved values and of the hidden layer; .25 as published.
    """

    def __init__(
        self, dim: int, n_classes: int, filters: int, kernel_size: int = 9, dropout: float = 0.25
    ) -> None:
        super().__init__()
        self.values = nn.Conv1d(dim, filters, kernel_size, padding=kernel_size // 2)
        self.weights = nn.Conv1d(dim, filters, kernel_size, padding=kernel_size // 2)
        self.hidden = nn.Linear(2 * filters, 32)
        self.out = nn.Linear(32, n_classes)
        self.dropout = nn.Dropout(dropout)

    def attention(self, features: Tensor, mask: Tensor) -> Tensor:
        """Return weights that add to 1 over the residues of `mask`, shape (B, F, L)."""
        scores = self.weights(features.transpose(1, 2))  # (B, L, D) -> (B, F, L)
        return scores.masked_fill(~mask[:, None], float("-inf")).softmax(dim=-1)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Return logits (B, K) for features (B, L, D), zero where `mask` (B, L) is false."""
        values = self.dropout(self.values(features.transpose(1, 2)))  # (B, F, L)
        attended = (values * self.attention(features, mask)).sum(dim=-1)  # (B, F)
        largest = values.masked_fill(~mask[:, None], float("-inf")).amax(dim=-1)
        hidden = F.relu(self.hidden(torch.cat([attended, largest], dim=1)))
        return self.out(self.dropout(hidden))


def residue_array(matrices: Sequence[np.ndarray]) -> np.ndarray:
    """
    Put residue embeddings of unequal length into the array that `LightAttentionClassifier` takes.

    Returns
    -------
    X : ndarray, shape (N,), dtype object
        Each element an ndarray (L, D).
    """
    X = np.empty(len(matrices), dtype=object)
    for i, matrix in enumerate(matrices):
        X[i] = matrix
    return X


class LightAttentionClassifier(ClassifierMixin, BaseEstimator):
    """
    Light attention as a classifier of proteins.

    Parameters
    ----------
    filters, kernel_size, dropout
        As in `LightAttention`.
    projection : int
        Principal axes of the standardized residue features that are kept; 0 keeps the features.
    max_residues : int
        Of a longer protein, the first and the last half so many are used.
    epochs, batch_size : int
    learning_rate, weight_decay : float
        Of AdamW; the learning rate falls to zero along half a cosine.
    class_weight : {"balanced", None}
        Whether each class counts the same in the loss.
    members : int
        Networks with different initial weights whose probabilities are averaged.
    seed : int
        The same seed gives the same classifier.
    """

    def __init__(
        self,
        filters: int = 32,
        kernel_size: int = 9,
        dropout: float = 0.25,
        projection: int = 64,
        max_residues: int = 1000,
        epochs: int = 12,
        batch_size: int = 16,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
        class_weight: str | None = "balanced",
        members: int = 1,
        seed: int = 0,
    ) -> None:
        self.filters = filters
        self.kernel_size = kernel_size
        self.dropout = dropout
        self.projection = projection
        self.max_residues = max_residues
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.class_weight = class_weight
        self.members = members
        self.seed = seed

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """
        Train on residue features X, an array of N matrices (L, D), and labels y, shape (N,).

        Raises
        ------
        ValueError
            If lengths differ, there is one class only, or an element is no matrix.
        """
        if len(X) != len(y):
            raise ValueError(f"need as many labels as proteins, got {len(y)} and {len(X)}")
        self.classes_, number = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("need at least two classes")
        self._fit_projection(X)
        features, labels = [self._prepare(matrix) for matrix in X], torch.as_tensor(number)
        share = np.bincount(number) / len(number)
        weights = (
            1 / (len(share) * share) if self.class_weight == "balanced" else np.ones(len(share))
        )
        loss_weights = torch.as_tensor(weights, dtype=torch.float32)
        self.networks_ = [
            self._train(features, labels, loss_weights, self.seed + i) for i in range(self.members)
        ]
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return class probabilities (N, K), the mean over the members."""
        features = [self._prepare(matrix) for matrix in X]
        p = np.empty((len(features), len(self.classes_)))
        # proteins of like length together: less padding
        order = np.argsort([len(matrix) for matrix in features], kind="stable")
        with torch.no_grad():
            for rows in np.array_split(order, max(1, -(-len(order) // self.batch_size))):
                batch = _pad([features[row] for row in rows])
                found = [network(*batch).softmax(dim=1) for network in self.networks_]
                p[rows] = torch.stack(found).mean(dim=0).double().numpy()
        return p

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return labels (N,)."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def attention(self, matrix: np.ndarray) -> np.ndarray:
        """Return how much each residue used of one protein counts, (L,), adding to 1."""
        batch = _pad([self._prepare(matrix)])
        with torch.no_grad():
            found = [network.attention(*batch)[0].mean(dim=0) for network in self.networks_]
        return torch.stack(found).mean(dim=0).numpy()

    def _fit_projection(self, X: np.ndarray) -> None:
        """Learn mean, scale and principal axes from residues of the training proteins."""
        rng = np.random.default_rng(self.seed)
        # 40 residues of each protein: long ones do not outvote the others
        drawn = np.concatenate(
            [m[rng.integers(len(m), size=40)].astype(np.float64) for m in map(_matrix, X)]
        )
        self.mean_, self.scale_ = drawn.mean(axis=0), drawn.std(axis=0) + 1e-6
        if not self.projection or self.projection >= drawn.shape[1]:
            axes = np.eye(drawn.shape[1])
        else:
            standard = (drawn - self.mean_) / self.scale_
            values, vectors = np.linalg.eigh(standard.T @ standard / len(standard))
            # whitened, so that small axes are heard too
            axes = vectors[:, -self.projection :] / np.sqrt(values[-self.projection :] + 1e-6)
        self.axes_ = (axes / self.scale_[:, None]).astype(np.float32)  # (D, P)
        self.offset_ = (self.mean_ @ self.axes_).astype(np.float32)

    def _prepare(self, matrix: np.ndarray) -> Tensor:
        matrix = _matrix(matrix)
        if len(matrix) > self.max_residues:
            half = self.max_residues // 2
            matrix = np.concatenate([matrix[:half], matrix[-(self.max_residues - half) :]])
        return torch.from_numpy(matrix.astype(np.float32) @ self.axes_ - self.offset_)

    def _train(
        self, features: list[Tensor], labels: Tensor, loss_weights: Tensor, seed: int
    ) -> LightAttention:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = LightAttention(
                features[0].shape[1], len(self.classes_), self.filters, self.kernel_size,
                self.dropout,
            )  # fmt: skip
            optimizer = torch.optim.AdamW(
                network.parameters(), self.learning_rate, weight_decay=self.weight_decay
            )
            rng = np.random.default_rng(seed)
            n_batches = -(-len(features) // self.batch_size)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
                optimizer, self.epochs * n_batches
            )
            for _ in range(self.epochs):
                for rows in _batches(features, self.batch_size, rng):
                    logits = network(*_pad([features[row] for row in rows]))
                    loss = F.cross_entropy(logits, labels[rows], weight=loss_weights)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
        return network.eval()


def _matrix(matrix: np.ndarray) -> np.ndarray:
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or not len(matrix):
        raise ValueError(f"need residue features of shape (L, D), got {matrix.shape}")
    return matrix


def _batches(features: list[Tensor], batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Deal proteins into batches of like length, in random order, with random neighbors."""
    lengths = np.array([len(matrix) for matrix in features])
    order = np.argsort(lengths * rng.uniform(0.8, 1.25, size=len(lengths)))
    batches = np.array_split(order, -(-len(order) // batch_size))
    return [batches[i] for i in rng.permutation(len(batches))]


def _pad(features: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return features (B, L, D), padded with zeros, and where they are, (B, L)."""
    padded = nn.utils.rnn.pad_sequence(features, batch_first=True)
    lengths = torch.tensor([len(matrix) for matrix in features])
    return padded, torch.arange(padded.shape[1]) < lengths[:, None]
