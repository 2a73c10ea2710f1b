"""
PointNet, which turns a protein's point cloud into one vector (paper, Methods, "Feature
representation of the protein tertiary structure"; Qi et al. 2017, arXiv 1612.00593).

Each point goes through the same small network, and the maximum over points forgets their order.
As in the paper's released code, the input transform is learned for all six columns, so that
coordinates and elements mix, and the transforms are not kept near orthogonal; the penalty of the
PointNet paper is here as an option.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from deepgps_core.dataset import InputError


class BatchNorm(nn.BatchNorm1d):
    """Batch normalization that uses its running statistics where a batch has a single row."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.dim() == 2 and len(input) == 1:
            return nn.functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias,
                training=False, eps=self.eps,
            )  # fmt: skip
        return super().forward(input)


def _per_point(channels: tuple[int, ...], *, last_relu: bool = True) -> nn.Sequential:
    """Chain layers that treat each point (column of (B, C, P)) alike."""
    layers: list[nn.Module] = []
    for before, after in zip(channels[:-1], channels[1:], strict=True):
        layers += [nn.Conv1d(before, after, 1), nn.BatchNorm1d(after), nn.ReLU()]
    return nn.Sequential(*(layers if last_relu else layers[:-1]))


class Transform(nn.Module):
    """Learn a k x k matrix from all points (STNkd); it starts as the unit matrix plus noise."""

    def __init__(self, k: int, width: int, out_dim: int) -> None:
        super().__init__()
        self.k = k
        self.points = _per_point((k, width, 2 * width, out_dim))
        self.matrix = nn.Sequential(
            nn.Linear(out_dim, out_dim // 2), BatchNorm(out_dim // 2), nn.ReLU(),
            nn.Linear(out_dim // 2, out_dim // 4), BatchNorm(out_dim // 4), nn.ReLU(),
            nn.Linear(out_dim // 4, k * k),
        )  # fmt: skip

    def forward(self, points: Tensor) -> Tensor:
        """Take (B, k, P), return (B, k, k)."""
        pooled = self.points(points).amax(dim=2)  # (B, k, P) -> (B, out)
        unit = torch.eye(self.k, device=points.device, dtype=points.dtype)
        return self.matrix(pooled).view(-1, self.k, self.k) + unit


class Described(NamedTuple):
    """What PointNet says of a batch: vector (B, D) and feature transform (B, width, width)."""

    vector: Tensor
    transform: Tensor


class PointNet(nn.Module):
    """
    Point cloud to vector; the defaults are the published ones (2,810,852 parameters).

    Parameters
    ----------
    out_dim : int
        Width of the vector.
    width : int
        Channels after the first layer, and size of the feature transform.
    in_dim : int
        Columns of a point cloud.
    """

    def __init__(self, out_dim: int = 1024, width: int = 64, in_dim: int = 6) -> None:
        super().__init__()
        self.in_dim = in_dim
        self.input_transform = Transform(in_dim, width, out_dim)
        self.first = _per_point((in_dim, width))
        self.feature_transform = Transform(width, width, out_dim)
        self.rest = _per_point((width, 2 * width, out_dim), last_relu=False)

    def forward(self, clouds: Tensor) -> Described:
        """
        Describe point clouds.

        Parameters
        ----------
        clouds : Tensor, shape (B, P, 6), dtype float32
            In any order of points.

        Returns
        -------
        described : Described

        Raises
        ------
        InputError
            If the shape is another, or there is no point.
        """
        if clouds.dim() != 3 or clouds.shape[2] != self.in_dim or not clouds.shape[1]:
            raise InputError(
                f"point clouds have shape {tuple(clouds.shape)}, not (B, P, {self.in_dim}); "
                "make them with structure.point_cloud."
            )
        points = clouds.transpose(1, 2)  # (B, P, 6) -> (B, 6, P)
        points = self.first(self.input_transform(points).transpose(1, 2) @ points)
        transform = self.feature_transform(points)
        points = transform.transpose(1, 2) @ points
        return Described(self.rest(points).amax(dim=2), transform)


def orthogonality_penalty(transform: Tensor) -> Tensor:
    """
    Measure how far transforms are from orthogonal: the mean norm of ``A A^T - 1``.

    Parameters
    ----------
    transform : Tensor, shape (B, k, k)

    Returns
    -------
    penalty : Tensor, shape ()
        0 for rotations and mirror images.
    """
    unit = torch.eye(transform.shape[1], device=transform.device, dtype=transform.dtype)
    return torch.linalg.matrix_norm(transform @ transform.transpose(1, 2) - unit).mean()
