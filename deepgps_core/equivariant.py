"""
A structure encoder that knows rotations: the same vector however the molecule is turned.

PointNet learns from the coordinates as they lie in the file, and AlphaFold's have no direction in
common. Here points exchange what they know with their nearest neighbors, in scalars, vectors and
tensors of second order that turn with the molecule (tensor-field networks, Thomas et al. 2018;
`e3nn`, Geiger and Smidt 2022); only what does not turn is passed on. Among that are
pseudoscalars, so that a molecule differs from its mirror image, as proteins do.

Not in the paper. An option: ``structure_encoder="equivariant"``, with
``pip install deepgps-core[equivariant]``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from deepgps_core.dataset import InputError
from deepgps_core.pointnet import Described

#: What points pass on, in e3nn's words: copies x order and parity.
HIDDEN = "8x0e + 4x0o + 4x1o + 4x1e + 2x2e"
DIRECTIONS = "1x0e + 1x1o + 1x2e"
#: Nearest neighbors that a point listens to, and functions that tell their distance.
N_NEIGHBORS, N_RADIAL = 12, 8


def _e3nn() -> tuple[Any, Any]:
    """Return e3nn's two modules, imported where they are used, or say how to get them."""
    try:
        from e3nn import nn as layers
        from e3nn import o3
    except ImportError:
        raise InputError(
            "model: structure_encoder 'equivariant' needs the package e3nn; install it with "
            "`pip install deepgps-core[equivariant]`, or use structure_encoder='pointnet'."
        ) from None
    return o3, layers


def neighbors(places: Tensor, k: int) -> Tensor:
    """
    Find the nearest other points of each.

    Parameters
    ----------
    places : Tensor, shape (B, P, 3)

    Returns
    -------
    index : Tensor, shape (B, P, min(k, P - 1)), dtype int64
    """
    distances = torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist")
    distances.diagonal(dim1=1, dim2=2).fill_(float("inf"))
    return distances.topk(min(k, places.shape[1] - 1), largest=False).indices


def radial_functions(distances: Tensor) -> Tensor:
    """Tell distances (...), relative to their scale, by Gaussians side by side, (..., N_RADIAL)."""
    centers = torch.linspace(0, 2, N_RADIAL, device=distances.device)
    return torch.exp(-(((distances[..., None] - centers) * N_RADIAL / 2) ** 2))


class Listen(nn.Module):
    """One step: each point adds up what its neighbors say, seen from its place."""

    def __init__(self, before: str, after: str) -> None:
        super().__init__()
        o3, layers = _e3nn()
        irreps = o3.Irreps(after)
        scalars = o3.Irreps([entry for entry in irreps if entry.ir.l == 0])
        others = o3.Irreps([entry for entry in irreps if entry.ir.l > 0])
        gates = o3.Irreps([(others.num_irreps, "0e")] if others.dim else [])
        # odd scalars have to stay odd, even ones of the gate stay between 0 and 1
        acts = [torch.tanh if entry.ir.p < 0 else nn.functional.silu for entry in scalars]
        self.gate = layers.Gate(scalars, acts, gates, [torch.sigmoid] * bool(others.dim), others)
        self.product = o3.FullyConnectedTensorProduct(
            before, DIRECTIONS, self.gate.irreps_in, shared_weights=False, internal_weights=False
        )
        self.own = o3.Linear(before, self.gate.irreps_in)
        # keeps the variance of weights at 1, as the product expects them
        self.weights = layers.FullyConnectedNet(
            [N_RADIAL, 16, self.product.weight_numel], nn.functional.silu
        )

    def forward(self, x: Tensor, index: Tensor, directions: Tensor, radial: Tensor) -> Tensor:
        """Take x (B, P, before), neighbors (B, P, k) and how they lie; return (B, P, after)."""
        batch = torch.arange(len(x), device=x.device)[:, None, None]
        said = self.product(x[batch, index], directions, self.weights(radial))
        # directions of neighbors cancel: their sum grows with the root of their number
        return self.gate(self.own(x) + said.sum(dim=2) / index.shape[2] ** 0.5)


class EquivariantNet(nn.Module):
    """
    Point cloud to vector, the same for every rotation, translation and order of the points.

    Parameters
    ----------
    out_dim : int
        Width of the vector.
    width : int
        Scalars of each point in the last step.
    n_elements : int
        Columns of a point cloud after its coordinates.

    Raises
    ------
    InputError
        If e3nn is not installed.
    """

    def __init__(self, out_dim: int = 1024, width: int = 64, n_elements: int = 3) -> None:
        super().__init__()
        o3, _ = _e3nn()
        self.in_dim = 3 + n_elements
        self._harmonics = o3.SphericalHarmonics(
            o3.Irreps(DIRECTIONS), normalize=True, normalization="component"
        )
        last = f"{width}x0e + {max(1, width // 4)}x0o"
        steps = (f"{n_elements}x0e", HIDDEN, HIDDEN, last)
        self.steps = nn.ModuleList(
            Listen(before, after) for before, after in zip(steps[:-1], steps[1:], strict=True)
        )
        n_scalars = o3.Irreps(last).dim
        self.out = nn.Sequential(
            nn.Linear(2 * n_scalars, out_dim), nn.ReLU(), nn.Linear(out_dim, out_dim)
        )

    def forward(self, clouds: Tensor) -> Described:
        """
        Describe point clouds.

        Parameters
        ----------
        clouds : Tensor, shape (B, P, 6), dtype float32
            In any order of points, turned in any way.

        Returns
        -------
        described : Described
            Its transform is the number 1: there is none to be kept orthogonal.

        Raises
        ------
        InputError
            If the shape is another, or there are fewer than two points.
        """
        if clouds.dim() != 3 or clouds.shape[2] != self.in_dim or clouds.shape[1] < 2:
            raise InputError(
                f"point clouds have shape {tuple(clouds.shape)}, not (B, P, {self.in_dim}) with at "
                "least two points; make them with structure.point_cloud."
            )
        # neighbors and angles in full precision, whatever the rest is computed in
        with torch.autocast(clouds.device.type, enabled=False):
            return self._describe(clouds.float())

    def _describe(self, clouds: Tensor) -> Described:
        places, x = clouds[..., :3], clouds[..., 3:]
        index = neighbors(places, N_NEIGHBORS)
        batch = torch.arange(len(clouds), device=clouds.device)[:, None, None]
        away = places[batch, index] - places[:, :, None]  # (B, P, k, 3)
        distances = away.norm(dim=-1)
        # by the cloud's own scale: how far apart points are depends on how many were drawn
        relative = distances / distances.mean(dim=(1, 2), keepdim=True).clamp(min=1e-9)
        directions, radial = self._harmonics(away), radial_functions(relative)
        for step in self.steps:
            x = step(x, index, directions, radial)
        pooled = torch.cat([x.mean(dim=1), x.amax(dim=1)], dim=1)
        unit = torch.ones(len(clouds), 1, 1, device=clouds.device)
        return Described(self.out(pooled), unit)
