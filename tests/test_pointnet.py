"""PointNet minds no order, counts as published, and trains in the three variants of Fig. 3b."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_tiny
from torch import nn

from deepgps_core.dataset import Dataset, InputError
from deepgps_core.evaluation import evaluate
from deepgps_core.model import DeepGPS, DeepGPSConfig
from deepgps_core.point_clouds import ensure_point_clouds
from deepgps_core.pointnet import PointNet, Transform, orthogonality_penalty
from deepgps_core.runs import TrainingConfig, load_run
from deepgps_core.structure import PointCloudConfig
from deepgps_core.training import fit, predict_labels

MODEL = DeepGPSConfig(
    sequence_dim=6, hidden_dim=24, width=4, depth=2, crop_size_px=24, structure_width=4
)
TRAINING = TrainingConfig(encoder="drawn", epochs=2, batch_size=8, learning_rate=1e-2, seed=1)


def clouds(n: int, n_points: int, seed: int = 0) -> torch.Tensor:
    """Draw point clouds: coordinates, then one of three elements."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randn(n, n_points, 3, generator=generator)
    kinds = torch.randint(3, (n, n_points), generator=generator)
    return torch.cat([places, nn.functional.one_hot(kinds, 3).float()], dim=2)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_published_parameter_counts() -> None:
    """The defaults are the published PointNet: 2,810,852 parameters, 64 x 64 feature transform."""
    with torch.device("meta"):
        network = PointNet()
    assert count(network) == 2_810_852
    assert count(network.input_transform) == 810_212
    assert count(network.feature_transform) == 1_857_344
    assert (network.input_transform.k, network.feature_transform.k) == (6, 64)


def test_order_of_points_does_not_matter() -> None:
    """Points in another order, or each twice, give the same vector."""
    torch.manual_seed(0)
    network = PointNet(16, width=4).eval()
    batch = clouds(3, 50)
    order = torch.randperm(50)
    with torch.inference_mode():
        vector = network(batch).vector
        torch.testing.assert_close(network(batch[:, order]).vector, vector)
        torch.testing.assert_close(network(torch.cat([batch, batch], dim=1)).vector, vector)
        assert not torch.allclose(network(clouds(3, 50, seed=1)).vector, vector)


def test_batch_equals_one_by_one() -> None:
    """A protein's vector does not depend on who else is in the batch."""
    torch.manual_seed(0)
    network = PointNet(16, width=4).eval()
    batch = clouds(4, 30)
    with torch.inference_mode():
        together = network(batch).vector
        single = torch.cat([network(one[None]).vector for one in batch])
    torch.testing.assert_close(together, single, atol=1e-5, rtol=1e-5)


def test_transform_is_applied_to_points() -> None:
    """With weights of zero, a transform is the matrix of its last bias plus the unit matrix."""
    transform = Transform(6, 4, 16).eval()
    nn.init.zeros_(transform.matrix[-1].weight)
    nn.init.zeros_(transform.matrix[-1].bias)
    with torch.inference_mode():
        torch.testing.assert_close(
            transform(clouds(2, 9).transpose(1, 2)), torch.eye(6).repeat(2, 1, 1)
        )


def test_single_protein_can_be_trained_on() -> None:
    """A last batch of one does not stop training."""
    network = PointNet(16, width=4).train()
    network(clouds(1, 20)).vector.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize("shape", [(2, 6), (2, 9, 3), (2, 0, 6)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    """Three columns, no points, no batch: refused with the shape."""
    with pytest.raises(InputError, match="point clouds have shape"):
        PointNet(16, width=4)(torch.zeros(shape))


def test_penalty_is_zero_for_rotations_only() -> None:
    """Rotations cost nothing; twice the unit matrix of size 3 costs 3 sqrt(3)."""
    rotation = torch.linalg.qr(torch.randn(2, 5, 5))[0]
    assert orthogonality_penalty(rotation).item() == pytest.approx(0, abs=1e-5)
    assert orthogonality_penalty(2 * torch.eye(3)[None]).item() == pytest.approx(3 * 3**0.5)


def test_variants_have_the_parts_they_use() -> None:
    """Structure adds PointNet; without the sequence, its projection goes; nothing else changes."""
    counts = {}
    for inputs in ("sequence", "structure", "both"):
        with torch.device("meta"):
            counts[inputs] = count(DeepGPS(DeepGPSConfig(inputs=inputs)))
    assert counts["sequence"] == 37_209_155
    assert counts["both"] == counts["sequence"] + 2_810_852
    assert counts["structure"] == counts["both"] - 1_311_744


def test_two_keys_make_attention_choose() -> None:
    """With both inputs the image decides between them: the query projection gets a gradient."""
    torch.manual_seed(0)
    image, vectors, points = torch.rand(2, 1, 24, 24), torch.randn(2, 6), clouds(2, 20)
    norms = {}
    for inputs in ("structure", "both"):
        model = DeepGPS(dataclasses.replace(MODEL, inputs=inputs))
        model(image, vectors, points).image.square().sum().backward()
        gradient = model.fusion.attention.q_proj_weight.grad  # type: ignore[union-attr]
        norms[inputs] = 0.0 if gradient is None else gradient.norm().item()
        assert any(p.grad is not None and p.grad.abs().sum() > 0
                   for p in model.structure.parameters())  # type: ignore[union-attr]  # fmt: skip
    assert norms["structure"] == 0
    assert norms["both"] > 0


def test_each_variant_uses_what_it_is_given() -> None:
    """A changed sequence moves only models that read it, a changed structure likewise."""
    torch.manual_seed(0)
    image, vectors, points = torch.rand(2, 1, 24, 24), torch.randn(2, 6), clouds(2, 20)
    for inputs, reads in (("sequence", (1, 0)), ("structure", (0, 1)), ("both", (1, 1))):
        model = DeepGPS(dataclasses.replace(MODEL, inputs=inputs, hidden_dim=64)).eval()
        with torch.inference_mode():
            before = model(image, vectors, points).logits
            moved = (
                not torch.equal(model(image, vectors + 1, points).logits, before),
                not torch.equal(model(image, vectors, clouds(2, 20, seed=1)).logits, before),
            )
        assert moved == tuple(map(bool, reads)), inputs


def test_impossible_combinations_are_refused() -> None:
    """Two vectors need the attention; a model of structures needs them."""
    with pytest.raises(InputError, match="takes one vector"):
        DeepGPSConfig(inputs="both", fusion="film")
    with pytest.raises(InputError, match="inputs 'text' is unknown"):
        DeepGPSConfig(inputs="text")
    model = DeepGPS(dataclasses.replace(MODEL, inputs="structure"))
    with pytest.raises(InputError, match="needs the proteins' point clouds"):
        model(torch.rand(1, 1, 24, 24), torch.randn(1, 6))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_tiny(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture(scope="module")
def structures(dataset: Dataset) -> str:
    return ensure_point_clouds(dataset, "chain", PointCloudConfig(n_points=12))


@pytest.mark.parametrize("inputs", ["structure", "both"])
def test_variants_train_through_the_same_path(
    inputs: str, dataset: Dataset, structures: str, tmp_path: Path
) -> None:
    """Each variant is fitted, opened, scored and repeated like the published model."""
    model = dataclasses.replace(MODEL, inputs=inputs)
    training = dataclasses.replace(TRAINING, structures=structures, orthogonality_weight=0.01)
    run = fit(dataset, "random-0", model, training, tmp_path / "run")
    assert load_run(run.path).hash == run.hash
    assert run.training_config.name == f"single-2-{inputs}"
    again = fit(dataset, "random-0", model, training, tmp_path / "again")
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
    scored = evaluate(run, dataset, n_resamples=50)
    assert np.isfinite(scored.proteins["psnr_db"]).all()
    assert set(scored.proteins["predicted_label"]) <= {"Cytoplasm", "Nucleus"}


def test_structures_are_part_of_what_a_run_is(
    dataset: Dataset, structures: str, tmp_path: Path
) -> None:
    """Clouds are asked for exactly by models that take them; other clouds, another run."""
    both = dataclasses.replace(MODEL, inputs="both")
    with pytest.raises(InputError, match="inputs are 'both', its point clouds ''"):
        fit(dataset, "random-0", both, TRAINING, tmp_path / "a")
    named = dataclasses.replace(TRAINING, structures=structures)
    with pytest.raises(InputError, match="inputs are 'sequence'"):
        fit(dataset, "random-0", MODEL, named, tmp_path / "b")
    with pytest.raises(InputError, match="point clouds not found"):
        fit(dataset, "random-0", both, dataclasses.replace(TRAINING, structures="x"), tmp_path)


def test_structure_model_predicts_without_the_sequence(dataset: Dataset, structures: str) -> None:
    """Labels of a model of structures do not move when the sequence vectors are noise."""
    from deepgps_core.crops import load_crops

    crops = load_crops(
        dataset, list(dataset.proteins["protein_id"]), encoder="drawn",
        labels=("Cytoplasm", "Nucleus"), crop_size_px=24, structures=structures,
    )  # fmt: skip
    torch.manual_seed(0)
    model = DeepGPS(dataclasses.replace(MODEL, inputs="structure")).eval()
    ours = predict_labels(model, crops, ("Cytoplasm", "Nucleus"))
    noise = dataclasses.replace(crops, features=torch.randn_like(crops.features))
    theirs = predict_labels(model, noise, ("Cytoplasm", "Nucleus"))
    assert ours["p_Nucleus"].tolist() == theirs["p_Nucleus"].tolist()
    assert ours["p_Nucleus"].nunique() > 1
