"""
The velocity field of a flow: the published U-Net, told the time and the sequence at every level.

Blocks are those of `deepgps_core.unet`. Its finest levels are left out: squares of `patch_px`
pixels enter and leave as channels, which costs a fraction and loses no pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepgps_core.dataset import InputError
from deepgps_core.fusions import ResidueAttentionFusion, ResidueBatch
from deepgps_core.model import DeepGPSConfig
from deepgps_core.samplers import SOLVERS
from deepgps_core.unet import DoubleConv, Down, Up, initialize_convolutions


@dataclass(frozen=True)
class FlowConfig(DeepGPSConfig):
    """
    Shape of the flow model; what is not named here means the same as in `DeepGPSConfig`.

    Parameters
    ----------
    family : str
        "flow": says in ``config.yaml`` which class this is.
    fusion : str
        "film": the pooled vector at every level; "residue_attention": the residues too, by
        cross-attention at the coarsest level.
    patch_px : int
        A power of 2. The network's finest level has squares of so many pixels as channels;
        `width` and `depth` still count from single pixels, so 2 leaves out the published
        U-Net's finest level, 4 the finest two; a width of 32 keeps a default sample within
        seconds on two cores.
    time_dim : int
        Sines and cosines that write the time; even.
    sequence_dropout : float
        Share of the sequence vector's numbers hidden from the image branch in training.
    condition : str
        What the field is told of a protein: "sequence", the projected vector; or "label", a vector
        for the place. In training that is the true place, in sampling one drawn with the label
        head's probabilities, so that samples disagree as often as the head is unsure.
    unconditional : float
        Share of training crops without any sequence, for guidance.
    ema_decay : float
        Of the moving average of the weights, which is what samples.
    steps, solver, guidance : int, str, float
        How to sample if nothing else is said; see `deepgps_core.samplers`.
    time_shift : float
        Above 1, more training and more steps at early times, where the place is settled.
    coarse_noise : float
        Share of the noise's variance that is coarse, see `deepgps_core.samplers.colored`; 0 is
        white noise.
    image_center, image_scale : float
        Intensities that become 0 and 1 for the flow: about the mean and the standard deviation
        of protein images.
    teacher : str
        Folder, under the data root, of a flow run to distill from; empty for none.
    teacher_steps : int
        Steps of the teacher for which a student takes one; `steps` is then the student's grid.
    """

    width: int = 32
    fusion: str = "film"
    family: str = "flow"
    patch_px: int = 2
    time_dim: int = 64
    sequence_dropout: float = 0.0
    condition: str = "sequence"
    unconditional: float = 0.1
    ema_decay: float = 0.999
    steps: int = 10
    solver: str = "euler"
    guidance: float = 1.0
    time_shift: float = 1.0
    coarse_noise: float = 0.0
    image_center: float = 0.25
    image_scale: float = 0.25
    teacher: str = ""
    teacher_steps: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        problem = ""
        if self.patch_px & (self.patch_px - 1) or not 1 <= self.patch_px < 2**self.depth:
            problem = f"patch_px {self.patch_px} is no power of 2 below 2**depth"
        elif self.family != "flow" or self.inputs != "sequence":
            problem = f"family {self.family!r}, inputs {self.inputs!r} are not 'flow', 'sequence'"
        elif self.fusion not in ("film", "residue_attention"):
            problem = f"fusion {self.fusion!r} is not 'film' or 'residue_attention'"
        elif self.solver not in SOLVERS or self.steps < 1 or self.teacher_steps < 1:
            problem = f"solver {self.solver!r}, {self.steps} steps: not {' or '.join(SOLVERS)}, 1"
        elif self.condition not in ("sequence", "label"):
            problem = f"condition {self.condition!r} is not 'sequence' or 'label'"
        elif self.condition == "label" and (self.fusion != "film" or self.multi_label):
            problem = "condition 'label' needs fusion 'film' and one label a protein"
        elif self.time_shift < 1:
            problem = f"time_shift {self.time_shift} is less than 1"
        elif not 0 <= self.coarse_noise <= 1:
            problem = f"coarse_noise {self.coarse_noise} is not between 0 and 1"
        elif not (0 <= self.unconditional < 1 and 0 <= self.ema_decay < 1 < self.time_dim):
            problem = "unconditional and ema_decay lie in [0, 1), time_dim is at least 2"
        if problem or self.time_dim % 2:
            raise InputError(f"flow model: {problem or 'time_dim is odd'}; correct it.")

    @property
    def finest_level(self) -> int:
        """How often the image is halved before the network's finest level."""
        return self.patch_px.bit_length() - 1


def time_embedding(t: Tensor, width: int) -> Tensor:
    """
    Write times as sines and cosines of 1 to 1,000 radians.

    Parameters
    ----------
    t : Tensor, shape (B,)
        In [0, 1].
    width : int
        Even.

    Returns
    -------
    embedding : Tensor, shape (B, width), dtype float32
    """
    frequency = torch.exp(torch.linspace(0, math.log(1000), width // 2, device=t.device))
    angles = t.float()[:, None] * frequency
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Film(nn.Module):
    """Scale and shift channels as a vector says; at first it says nothing."""

    def __init__(self, condition_dim: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(condition_dim, 2 * channels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        # (B, condition_dim) -> two of (B, C, 1, 1)
        scale, shift = self.linear(condition)[:, :, None, None].chunk(2, dim=1)
        return features * (1 + scale) + shift


class VelocityField(nn.Module):
    """
    Say where a noisy image should go, (B, 1, H, W).

    Takes the noisy image and the nucleus (B, 1, H, W), the time (B,), the projected sequence
    vector (B, hidden_dim) and, for the fusion "residue_attention", the residues.
    """

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        patch, finest = config.patch_px, config.finest_level
        self.patch_px, self.time_dim = patch, config.time_dim
        levels = range(finest, config.depth + 1)
        channels = [config.width * 2**level for level in levels]
        self.inc = DoubleConv(2 * patch**2, channels[0])
        self.downs = nn.ModuleList(Down(c) for c in channels[:-1])
        self.ups = nn.ModuleList(Up(c) for c in reversed(channels[1:]))
        self.outc = nn.Conv2d(channels[0], patch**2, kernel_size=1)
        condition = 4 * config.time_dim
        self.dropout = nn.Dropout(config.sequence_dropout)
        self.condition = nn.Sequential(
            nn.Linear(config.time_dim + config.hidden_dim, condition), nn.SiLU(),
            nn.Linear(condition, condition), nn.SiLU(),
        )  # fmt: skip
        self.film_down = nn.ModuleList(Film(condition, c) for c in channels)
        self.film_up = nn.ModuleList(Film(condition, c) for c in reversed(channels[:-1]))
        self.attention = ResidueAttentionFusion(config) if config.needs_residues else None
        initialize_convolutions(self)
        nn.init.zeros_(self.outc.weight)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        nuclear_image: Tensor,
        sequence: Tensor,
        residues: ResidueBatch | None = None,
    ) -> Tensor:
        sequence = self.dropout(sequence)
        time = time_embedding(t, self.time_dim).to(sequence.dtype)
        condition = self.condition(torch.cat([time, sequence], dim=1))
        # (B, 2, H, W) -> (B, 2 * patch**2, H / patch, W / patch)
        features = F.pixel_unshuffle(torch.cat([x, nuclear_image], dim=1), self.patch_px)
        features = self.film_down[0](self.inc(features), condition)
        skips = []
        for down, film in zip(self.downs, self.film_down[1:], strict=True):
            skips.append(features)
            features = film(down(features), condition)
        if self.attention is not None:
            features = self.attention.fuse_bottleneck(features, sequence, residues)
        for up, film in zip(self.ups, self.film_up, strict=True):
            features = film(up(features, skips.pop()), condition)
        return F.pixel_shuffle(self.outc(features), self.patch_px)
