"""The U-Net keeps sizes, counts parameters as published, and refuses sizes it cannot halve."""

from __future__ import annotations

import pytest
import torch

from deepgps_core.dataset import InputError
from deepgps_core.unet import Decoder, DoubleConv, Encoder, check_image_size


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
