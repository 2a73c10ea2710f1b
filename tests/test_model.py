"""deepGPS computes what was published, its degenerate attention included; repairs are options."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F

from deepgps_core.dataset import InputError
from deepgps_core.fusions import FUSIONS, ResidueBatch
from deepgps_core.losses import losses
from deepgps_core.model import DeepGPS, DeepGPSConfig, Prediction

SMALL = DeepGPSConfig(sequence_dim=12, hidden_dim=24, width=4, depth=2, crop_size_px=16)


def small(seed: int = 0, **changes: object) -> DeepGPS:
    torch.manual_seed(seed)
    return DeepGPS(dataclasses.replace(SMALL, **changes))  # type: ignore[arg-type]


def n_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def some_residues(lengths: tuple[int, ...] = (5, 9, 3, 9), seed: int = 2) -> ResidueBatch:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(len(lengths), max(lengths), 12, generator=generator)
    return ResidueBatch(values, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])


def loss_of(model: DeepGPS, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    nuclear, protein = torch.rand(2, 4, 1, 16, 16, generator=generator)
    features = torch.randn(4, 12, generator=generator)
    prediction = model(nuclear, features, residues=some_residues())
    parts = losses(prediction, protein, torch.tensor([0, 1, -1, 0]), model.config)
    return sum(part.mean() for part in parts)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def published() -> DeepGPS:
    return DeepGPS(DeepGPSConfig())


def test_parameter_counts_are_the_published_ones(published: DeepGPS) -> None:
    """Projection, label head and attention have as many parameters as in the released code."""
    assert n_parameters(published.head.linear) == 1_311_744
    assert n_parameters(published.head.classify) == 656_642
    assert n_parameters(published.fusion) == 4_198_400
    # 35,300,418 less its two layers that are never called, plus projection and label head
    assert n_parameters(published) == 35_300_418 - 54_249 - 5_400 + 1_311_744 + 656_642


@pytest.mark.parametrize(
    ("fusion", "count"),
    [
        ("paper", 4 * (1024**2 + 1024)),  # queries, keys, values, output
        ("film", 1025 * 2 * (64 + 128 + 256 + 512 + 1024)),  # scale and shift of every channel
        ("concat", (2 * 1024 + 1) * 1024),  # one 1 x 1 convolution
        # as "paper", with a projection and a layer norm of residues
        ("residue_attention", 4 * (1024**2 + 1024) + 1281 * 1024 + 2 * 1280),
    ],
)
def test_each_fusion_has_the_parameters_it_describes(fusion: str, count: int) -> None:
    """At the published size, counted by hand; the rest of the network is the same."""
    with torch.device("meta"):
        model = DeepGPS(DeepGPSConfig(fusion=fusion))
    assert n_parameters(model.fusion) == count
    assert n_parameters(model) - count == 37_209_155 - 4_198_400


def test_published_shapes(published: DeepGPS) -> None:
    """A 208 x 208 nucleus becomes 1024 x 13 x 13 at the bottleneck and 208 x 208 at the end."""
    with torch.inference_mode():
        nuclear = torch.rand(1, 1, 208, 208)
        assert published.encoder(nuclear)[-1].shape == (1, 1024, 13, 13)
        prediction = published.eval()(nuclear, torch.randn(1, 1280))
    assert prediction.image.shape == (1, 1, 208, 208)
    assert prediction.logits.shape == (1, 2)


def test_one_key_forgets_the_nucleus() -> None:
    """With a single key the bottleneck is the same, to the bit, whatever the image holds."""
    fusion = small().fusion
    sequence = torch.rand(3, 24)
    coarse = torch.rand(3, 16, 4, 4)
    fused = fusion.fuse_bottleneck(coarse, sequence)
    assert torch.equal(fused, fusion.fuse_bottleneck(100 * torch.randn_like(coarse), sequence))
    assert torch.equal(fused, fused[:, :, :1, :1].expand_as(fused))
    value = F.linear(sequence, fusion.attention.v_proj_weight)  # type: ignore[union-attr, arg-type]
    projected = fusion.attention.out_proj(value)  # type: ignore[union-attr, operator]
    assert torch.allclose(fused[:, :, 0, 0], projected, atol=1e-6)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_the_deepest_block_and_the_queries_never_learn(half: bool) -> None:
    """Gradients of the last encoder block and of the q and k projections are exactly zero."""
    model = small()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = loss_of(model)
    loss.backward()
    dead = {name for name, p in model.named_parameters() if not p.grad.any()}  # type: ignore[union-attr]
    deepest = {f"encoder.downs.1.{name}" for name, _ in model.encoder.downs[1].named_parameters()}
    assert dead == deepest | {"fusion.attention.q_proj_weight", "fusion.attention.k_proj_weight"}


@pytest.mark.parametrize("fusion", sorted(set(FUSIONS) - {"paper"}))
def test_repaired_fusions_train_all_they_have(fusion: str) -> None:
    """In every other fusion each parameter gets a gradient and the nucleus gets through."""
    model = small(fusion=fusion)
    loss_of(model).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    coarse, sequence, residues = torch.rand(2, 16, 4, 4), torch.rand(2, 24), some_residues((4, 6))
    fused = model.fusion.fuse_bottleneck(coarse, sequence, residues)
    assert not torch.allclose(fused, model.fusion.fuse_bottleneck(coarse + 1, sequence, residues))
    assert not torch.allclose(fused, model.fusion.fuse_bottleneck(coarse, sequence + 1, residues))


def test_padding_never_changes_a_result() -> None:
    """A batch of mixed lengths equals its proteins one by one, whatever fills the gaps."""
    model = small(fusion="residue_attention").eval()
    residues = some_residues((2, 9, 5))
    nuclear, features = torch.rand(3, 1, 16, 16), torch.randn(3, 12)
    filled = residues.values.masked_fill(~residues.mask[:, :, None], 1e4)
    with torch.no_grad():
        whole = model(nuclear, features, residues=ResidueBatch(filled, residues.mask))
        for i, n in enumerate((2, 9, 5)):
            alone = ResidueBatch(residues.values[i : i + 1, :n], residues.mask[i : i + 1, :n])
            one = model(nuclear[i : i + 1], features[i : i + 1], residues=alone)
            assert torch.allclose(one.image[0], whole.image[i], atol=1e-5)


def test_attention_chooses_among_residues() -> None:
    """Weights sum to 1, are 0 where nothing is, and depend on the image position."""
    model = small(fusion="residue_attention").eval()
    residues = some_residues((2, 9))
    nuclear = torch.rand(2, 1, 16, 16)
    weights = model.attention_map(nuclear, torch.randn(2, 12), residues)
    assert weights.shape == (2, 4, 4, 10)
    assert torch.allclose(weights.sum(dim=-1), torch.ones(2, 4, 4), atol=1e-6)
    assert not weights[0, :, :, 3:].any() and weights[1].all()
    assert weights.flatten(1, 2).std(dim=1).max() > 1e-4
    with pytest.raises(InputError, match="does not choose"):
        small().attention_map(nuclear, torch.randn(2, 12), residues)


def test_missing_residues_are_asked_for() -> None:
    """A fusion that reads residues says so; no other needs them."""
    with pytest.raises(InputError, match="residue_attention.*per-residue"):
        small(fusion="residue_attention")(torch.rand(1, 1, 16, 16), torch.rand(1, 12))


@pytest.mark.parametrize("fusion", sorted(FUSIONS))
def test_a_model_learns_eight_crops_by_heart(fusion: str) -> None:
    """Each fusion reaches 30 dB on eight crops that it is shown again and again."""
    model = small(fusion=fusion, width=16, image_loss="mse")
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    center = torch.linspace(4, 11, 8)[:, None, None]
    nuclear = torch.exp(-((y - center) ** 2 + (x - 8) ** 2) / 8)[:, None]
    protein = torch.exp(-((y - center) ** 2 + (x - 5 - center / 2) ** 2) / 18)[:, None]
    features = torch.eye(12)[:8]
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    label, residues = torch.zeros(8, dtype=torch.int64), some_residues((3,) * 8)
    for _ in range(250):
        prediction = model(nuclear, features, residues=residues)
        loss = losses(prediction, protein, label, model.config)[0].mean()
        if loss < 10**-3.2:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert -10 * math.log10(loss.item()) > 30


def test_label_head_never_sees_the_image() -> None:
    """Another image changes the label logits by nothing at all, and the drawing by something."""
    model = small().eval()
    features, nuclear = torch.randn(3, 12), torch.rand(3, 1, 16, 16)
    first, second = model(nuclear, features), model(1 - nuclear, features)
    assert torch.equal(first.logits, second.logits)
    assert not torch.equal(first.image, second.image)


def test_head_standardizes_with_its_own_mean_and_scale() -> None:
    """A head that holds mean and scale gives what a plain one gives on standardized vectors."""
    plain, scaling = small().eval().head, small().eval().head
    features = 5 + 3 * torch.randn(7, 12)
    scaling.feature_mean.copy_(features.mean(dim=0))
    scaling.feature_scale.copy_(features.std(dim=0))
    standard = (features - features.mean(dim=0)) / features.std(dim=0)
    assert torch.allclose(plain(standard)[1], scaling(features)[1], atol=1e-6)


def test_losses_by_hand() -> None:
    """L1 of 0.5 against 0.25 is 0.25; even odds cost ln 2; a protein without label costs 0."""
    prediction = Prediction(torch.full((2, 1, 4, 4), 0.5), torch.zeros(2, 2))
    image, label = losses(prediction, torch.full((2, 1, 4, 4), 0.25), torch.tensor([1, -1]), SMALL)
    assert image.tolist() == [0.25, 0.25]
    assert label.tolist() == pytest.approx([math.log(2), 0.0])


def test_published_label_loss_has_a_floor() -> None:
    """Softmax twice: even certainty costs ln(1 + 1/e) = 0.313, where the paper's intent is 0."""
    certain = Prediction(torch.zeros(1, 1, 4, 4), torch.tensor([[50.0, -50.0]]))
    for kind, floor in (("cross_entropy", 0.0), ("published", math.log(1 + math.exp(-1)))):
        config = dataclasses.replace(SMALL, label_loss=kind)
        _, label = losses(certain, torch.zeros(1, 1, 4, 4), torch.tensor([0]), config)
        assert label.item() == pytest.approx(floor, abs=1e-6)


@pytest.mark.parametrize("kind", ["l1", "mse", "bce"])
def test_image_losses_are_least_at_the_target(kind: str) -> None:
    """Each image loss prefers the target itself to anything near it."""
    config = dataclasses.replace(SMALL, image_loss=kind)
    target = torch.rand(5, 1, 4, 4)
    logits, label = torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64)
    exact, _ = losses(Prediction(target, logits), target, label, config)
    off, _ = losses(Prediction((target + 0.1).clamp(max=1), logits), target, label, config)
    assert (exact < off).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fusion": "glue"}, "paper, film, concat, residue_attention"),
        ({"label_loss": "hinge"}, "cross_entropy, published, class_weighted"),
        ({"image_loss": "ssim"}, "l1, mse, bce"),
        ({"crop_size_px": 18}, "divisible by 4"),
        ({"depth": 0}, "at least 1"),
    ],
)
def test_impossible_configurations_are_refused(change: dict[str, object], words: str) -> None:
    """A value that cannot be is a one-line error that names what can."""
    with pytest.raises(InputError, match=words) as error:
        dataclasses.replace(SMALL, **change)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_other_image_sizes_pass_or_are_refused() -> None:
    """A trained network takes any size it can halve, and names the step for one it cannot."""
    model = small().eval()
    assert model(torch.rand(1, 1, 20, 32), torch.rand(1, 12)).image.shape == (1, 1, 20, 32)
    with pytest.raises(InputError, match="18 x 16 px"):
        model(torch.rand(1, 1, 18, 16), torch.rand(1, 12))


def test_same_seed_same_network() -> None:
    """The seed decides the weights; another seed gives others."""
    first, again, other = (small(seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.linear.weight"], other["head.linear.weight"])
