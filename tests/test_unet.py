"""The U-Net keeps sizes, counts parameters as published, and refuses sizes it cannot halve."""

from __future__ import annotations

import pytest
import torch

from deepgps_core.dataset import InputError
from deepgps_core.unet import Decoder, DoubleConv, Encoder, check_image_size, make_lean


def n_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts_are_the_published_ones() -> None:
    """Each part of the published U-Net has exactly as many parameters as in the released code."""
    encoder, decoder = Encoder(width=64, depth=4), Decoder(width=64, depth=4)
    assert n_parameters(encoder.inc) == 37_824
    assert [n_parameters(d) for d in encoder.downs] == [221_952, 886_272, 3_542_016, 14_161_920]
    assert [n_parameters(u) for u in decoder.ups] == [9_178_624, 2_295_552, 574_336, 143_808]
    assert n_parameters(decoder.outc) == 65


def test_levels_halve_the_image_and_double_the_channels() -> None:
    """Level i has width * 2**i channels at the size over 2**i; the way back ends as it began."""
    encoder, decoder = Encoder(width=2, depth=3), Decoder(width=2, depth=3)
    image = torch.rand(3, 1, 16, 24)
    *skips, coarsest = encoder(image)
    assert [tuple(s.shape[1:]) for s in skips] == [(2, 16, 24), (4, 8, 12), (8, 4, 6)]
    assert coarsest.shape == (3, 16, 2, 3)
    drawn = decoder(coarsest, skips)
    assert drawn.shape == image.shape
    assert 0 <= drawn.min() and drawn.max() <= 1


def test_double_convolution_sees_two_pixels_far() -> None:
    """Two 3 x 3 convolutions carry a change two pixels far, and no farther."""
    block = DoubleConv(1, 4).eval()
    image = torch.zeros(1, 1, 11, 11)
    changed = image.clone()
    changed[0, 0, 5, 5] = 1.0
    moved = (block(changed) != block(image)).any(dim=1)[0]
    inside = torch.zeros(11, 11, dtype=torch.bool)
    inside[3:8, 3:8] = True
    assert moved[inside].any()
    assert not moved[~inside].any()


@pytest.mark.parametrize(("height", "width"), [(24, 20), (20, 24), (8, 0), (207, 208)])
def test_sizes_that_cannot_be_halved_are_refused(height: int, width: int) -> None:
    """A side that is no multiple of 2**depth is a one-line error that names the number."""
    with pytest.raises(InputError, match="divisible by 8") as error:
        check_image_size(height, width, depth=3)
    assert "\n" not in str(error.value)


def trained_block(seed: int = 0) -> torch.nn.ModuleList:
    """Return an encoder and a decoder in double precision whose biases and statistics are not 0."""
    torch.manual_seed(seed)
    parts = torch.nn.ModuleList([Encoder(width=2, depth=2), Decoder(width=2, depth=2)]).double()
    for layer in parts.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.normal_(layer.bias)
        elif isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(layer.running_mean)
            torch.nn.init.uniform_(layer.running_var, 0.5, 2)
    return parts


def draw(parts: torch.nn.ModuleList, images: torch.Tensor) -> torch.Tensor:
    *skips, coarsest = parts[0](images)
    return parts[1](coarsest, skips)


def test_a_lean_network_computes_and_learns_the_same() -> None:
    """Images, all other gradients and what evaluation does after a step: equal to rounding."""
    plain, lean = trained_block(), trained_block()
    make_lean(lean)
    images = torch.rand(3, 1, 16, 12, dtype=torch.float64)
    assert torch.allclose(draw(plain.eval(), images), draw(lean.eval(), images), atol=1e-12)
    for parts in (plain, lean):
        parts.train()
        drawn = draw(parts, images)
        (drawn - images).square().sum().backward()
        parts.eval()
    assert torch.allclose(draw(plain, images), draw(lean, images), atol=1e-12)  # moved statistics
    idle = {
        f"{path}.{number}.bias"
        for path, block in lean.named_modules()
        if isinstance(block, DoubleConv)
        for number in (0, 3)
    }
    assert len(idle) == 2 * (3 + 2)
    theirs = dict(plain.named_parameters())
    for name, ours in lean.named_parameters():
        gradient = theirs[name].grad
        assert gradient is not None
        if name in idle:
            assert gradient.abs().max() < 1e-12 and ours.grad is None and not ours.any()
        else:
            assert ours.grad is not None and gradient.abs().max() > 1e-6
            assert torch.allclose(gradient, ours.grad, atol=1e-12), name


def test_a_lean_network_is_kept_like_any_other() -> None:
    """Its weights have the names and sizes of the published ones and open in a plain network."""
    lean, again = trained_block(), trained_block(seed=1)
    make_lean(lean)
    again.load_state_dict(lean.state_dict())
    images = torch.rand(1, 1, 8, 8, dtype=torch.float64)
    assert torch.equal(draw(lean.eval(), images), draw(again.eval(), images))
