"""The equivariant structure encoder: blind to rotations, not to shape; optional."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.spatial.transform import Rotation
from tiny import make_tiny
from torch import Tensor, nn

from deepgps_core.dataset import InputError
from deepgps_core.equivariant import EquivariantNet, neighbors
from deepgps_core.model import DeepGPS, DeepGPSConfig
from deepgps_core.point_clouds import ensure_point_clouds
from deepgps_core.pointnet import PointNet, orthogonality_penalty
from deepgps_core.runs import TrainingConfig
from deepgps_core.structure import PointCloudConfig
from deepgps_core.training import fit


def clouds(n: int = 3, n_points: int = 40, seed: int = 0) -> Tensor:
    """Draw point clouds: coordinates, then one of three elements."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randn(n, n_points, 3, generator=generator)
    kinds = torch.randint(3, (n, n_points), generator=generator)
    return torch.cat([places, nn.functional.one_hot(kinds, 3).float()], dim=2)


@pytest.fixture(scope="module")
def network() -> EquivariantNet:
    pytest.importorskip("e3nn", reason="e3nn is an option: pip install deepgps-core[equivariant]")
    torch.manual_seed(0)
    return EquivariantNet(16, width=8).eval()


def moved(batch: Tensor, matrix: Tensor, by: Tensor | None = None) -> Tensor:
    places = batch[..., :3] @ matrix.T + (0 if by is None else by)
    return torch.cat([places, batch[..., 3:]], dim=2)


def test_nearest_neighbors_by_hand() -> None:
    """On a line, a point's neighbors are those beside it, never itself."""
    places = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [2.5, 0, 0], [7, 0, 0]]])
    assert neighbors(places, 2).tolist() == [[[1, 2], [0, 2], [1, 0], [2, 1]]]
    assert neighbors(places, 9).shape == (1, 4, 3)


def test_rotations_and_shifts_change_nothing(network: EquivariantNet) -> None:
    """Turned at random and moved, a molecule gets the same vector; PointNet gives another."""
    batch, pointnet = clouds(), PointNet(16, width=4).eval()
    with torch.inference_mode():
        vector, other = network(batch).vector, pointnet(batch).vector
        for seed in range(5):
            matrix = torch.tensor(Rotation.random(rng=seed).as_matrix(), dtype=torch.float32)
            turned = moved(batch, matrix, torch.tensor([3.0, -1.0, 0.5]))
            torch.testing.assert_close(network(turned).vector, vector, atol=1e-4, rtol=1e-3)
            assert not torch.allclose(pointnet(moved(batch, matrix)).vector, other, atol=1e-3)


def test_shape_elements_and_mirror_images_count(network: EquivariantNet) -> None:
    """Other places, other elements, and the mirror image give other vectors."""
    batch = clouds()
    mirror = moved(batch, torch.diag(torch.tensor([1.0, 1.0, -1.0])))
    relabelled = torch.cat([batch[..., :3], batch[..., 3:].roll(1, dims=2)], dim=2)
    with torch.inference_mode():
        vector = network(batch).vector
        scale = vector.abs().max()
        for other in (clouds(seed=1), relabelled, mirror):
            assert (network(other).vector - vector).abs().max() > 1e-3 * scale


def test_order_and_company_change_nothing(network: EquivariantNet) -> None:
    """Points in another order, and proteins one by one, give the same vectors."""
    batch = clouds()
    with torch.inference_mode():
        vector = network(batch).vector
        shuffled = network(batch[:, torch.randperm(40)]).vector
        single = torch.cat([network(one[None]).vector for one in batch])
    torch.testing.assert_close(shuffled, vector, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(single, vector, atol=1e-5, rtol=1e-4)


def test_every_weight_is_used(network: EquivariantNet) -> None:
    """All weights get a gradient, and there is no transform to punish."""
    described = network(clouds())
    assert orthogonality_penalty(described.transform) == 0
    described.vector.sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("shape", [(2, 6), (2, 9, 3), (2, 1, 6)])
def test_other_shapes_are_refused(network: EquivariantNet, shape: tuple[int, ...]) -> None:
    """Three columns, a single point, no batch: refused with the shape."""
    with pytest.raises(InputError, match="point clouds have shape"):
        network(torch.zeros(shape))


def test_without_e3nn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line with the extra's name; a model with PointNet needs none."""
    real = builtins.__import__

    def hidden(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("e3nn"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", hidden)
    with pytest.raises(InputError, match=r"pip install deepgps-core\[equivariant\]"):
        EquivariantNet()
    config = DeepGPSConfig(
        sequence_dim=6, hidden_dim=8, width=4, depth=1, crop_size_px=24, inputs="structure",
        structure_width=4,
    )  # fmt: skip
    assert isinstance(DeepGPS(config).structure, PointNet)


def test_unknown_encoders_are_named() -> None:
    """The choices are listed."""
    with pytest.raises(InputError, match="pointnet, equivariant"):
        DeepGPSConfig(structure_encoder="graph")


def test_it_trains_through_the_same_path(tmp_path: Path, network: EquivariantNet) -> None:
    """Trained, written, and opened again: the run says which encoder it has."""
    dataset = make_tiny(tmp_path / "tiny")
    structures = ensure_point_clouds(dataset, "chain", PointCloudConfig(n_points=24))
    config = DeepGPSConfig(
        sequence_dim=6, hidden_dim=8, width=4, depth=2, crop_size_px=24, inputs="both",
        structure_width=4, structure_encoder="equivariant",
    )  # fmt: skip
    training = TrainingConfig(encoder="drawn", structures=structures, epochs=1, batch_size=8)
    run = fit(dataset, "random-0", config, training, tmp_path / "run")
    assert run.model_config.structure_encoder == "equivariant"
    assert isinstance(run.model.structure, EquivariantNet)
    assert run.history["validation_image_loss"].notna().all()
