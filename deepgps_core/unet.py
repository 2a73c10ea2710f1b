"""
The image branch of deepGPS: a U-Net from a nucleus image to a protein image.

Follows the paper's Methods, "Image generation by deepGPS", read as the common U-Net: one block
at full resolution, then `depth` blocks that each halve it, and the way back up with a skip at
every level. What happens to the features between the way down and the way up (the fusion with
the protein's sequence) is the business of `deepgps_core.model`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, autograd, cat, channels_last, nn, no_grad, sigmoid

from deepgps_core.dataset import InputError


def check_image_size(height: int, width: int, depth: int) -> None:
    """
    Say why an image cannot pass a U-Net that halves it `depth` times.

    Raises
    ------
    InputError
        If a side is not a positive multiple of ``2**depth`` pixels.
    """
    step = 2**depth
    if min(height, width) < step or height % step or width % step:
        raise InputError(
            f"image of {height} x {width} px: a network {depth} levels deep needs sides divisible "
            f"by {step}; crop or pad the image."
        )


def initialize_convolutions(module: nn.Module) -> None:
    """Draw convolution weights with He's uniform rule and set their biases to zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class NormalizedConv(nn.Conv2d):
    """A 3 x 3 convolution in front of a normalization, which takes away what its bias adds."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1)
        self.biased = True

    def forward(self, images: Tensor) -> Tensor:
        return self._conv_forward(images, self.weight, self.bias if self.biased else None)


class DoubleConv(nn.Sequential):
    """Twice: 3 x 3 convolution that keeps the size, batch normalization, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            layers += [
                NormalizedConv(channels, out_channels),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers)


class Down(nn.Sequential):
    """Halve the image, double the channels."""

    def __init__(self, in_channels: int) -> None:
        super().__init__(nn.MaxPool2d(2), DoubleConv(in_channels, 2 * in_channels))


class DenseGradient(autograd.Function):
    """The identity, whose gradient is laid out anew, pixel by pixel."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.view_as(images)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous(memory_format=channels_last)


class Up(nn.Module):
    """Double the image, halve the channels, and take in the encoder's features of that size."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(in_channels, in_channels // 2, kernel_size=2, stride=2)
        self.convolve = DoubleConv(in_channels, in_channels // 2)
        self.dense_gradient = False

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        # (B, 2C, H, W), (B, C, 2H, 2W) -> (B, C, 2H, 2W)
        upsampled = self.upsample(features)
        if self.dense_gradient:
            upsampled = DenseGradient.apply(upsampled)
        return self.convolve(cat([skip, upsampled], dim=1))


class Encoder(nn.Module):
    """
    The way down.

    Parameters
    ----------
    width : int
        Channels at full resolution; each level doubles them.
    depth : int
        How often the image is halved.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.inc = DoubleConv(1, width)
        self.downs = nn.ModuleList(Down(width * 2**level) for level in range(depth))

    def forward(self, nuclear_image: Tensor) -> list[Tensor]:
        """Return the features of each level, (B, width * 2**i, H / 2**i, W / 2**i)."""
        levels = [self.inc(nuclear_image)]
        for down in self.downs:
            levels.append(down(levels[-1]))
        return levels


class Decoder(nn.Module):
    """The way up, from the fused bottleneck and the skips to an image in [0, 1]."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.ups = nn.ModuleList(Up(width * 2**level) for level in range(depth, 0, -1))
        self.outc = nn.Conv2d(width, 1, kernel_size=1)

    def forward(self, bottleneck: Tensor, skips: list[Tensor]) -> Tensor:
        """Take skips from the finest to the coarsest; return (B, 1, H, W)."""
        features = bottleneck
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            features = up(features, skip)
        return sigmoid(self.outc(features))


@no_grad()
def make_lean(network: nn.Module) -> None:
    """
    Leave out of a network's training what changes nothing; what it computes stays the same.

    A bias in front of a normalization shifts a channel's mean, which is subtracted at once; its
    gradient is zero but for rounding. It becomes zero, the running mean moves by as much, and it
    is neither added nor trained any more: two passes over memory fewer in each convolution.
    Trained, such biases drift, since Adam scales even rounding to whole steps, and in evaluation
    the running means lag behind them.

    The gradient of what is upsampled, half of the channels of another tensor, is laid out densely
    in one fast pass; cuDNN would copy it number by number.
    """
    for module in network.modules():
        if isinstance(module, Up):
            module.dense_gradient = True
        elif isinstance(module, DoubleConv):
            for convolve, normalize in pairwise(module):
                if isinstance(convolve, NormalizedConv):
                    assert isinstance(normalize, nn.BatchNorm2d)
                    assert convolve.bias is not None and normalize.running_mean is not None
                    normalize.running_mean -= convolve.bias
                    convolve.bias.zero_().requires_grad_(False)
                    convolve.biased = False
