"""
Fusions: how what is known of the protein enters the image branch of deepGPS.

"paper" is the published computation (paper, Methods, "Image generation by deepGPS"), an attention
with a single key; the others repair it, each in its own way, and are options.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from deepgps_core.model import DeepGPSConfig


#: Residues read of a protein, half from each end, unless a model says otherwise.
MAX_RESIDUES = 512


class ResidueBatch(NamedTuple):
    """
    The residues of B proteins, filled up to one length.

    Parameters
    ----------
    values : Tensor, shape (B, L, D), dtype float
        Per-residue vectors of the language model; anything where `mask` is False.
    mask : Tensor, shape (B, L), dtype bool
        True where there is a residue.
    """

    values: Tensor
    mask: Tensor


class Fusion(nn.Module):
    """
    How a sequence vector enters the image branch; by itself, not at all.

    A subclass overrides what it changes: the coarsest features, or any level's skip.
    """

    def __init__(self, config: DeepGPSConfig) -> None:
        super().__init__()
        self.config = config

    #: Whether the fusion reads the residues one by one, and not only the pooled vector.
    needs_residues = False

    def fuse_bottleneck(
        self, features: Tensor, sequence: Tensor, residues: ResidueBatch | None = None
    ) -> Tensor:
        """Take and return coarsest features (B, C, H, W); `sequence` is (B, hidden_dim)."""
        return features

    def fuse_skip(self, features: Tensor, sequence: Tensor, level: int) -> Tensor:
        """Take and return the skip features of one level, 0 being full resolution."""
        return features


class PaperFusion(Fusion):
    """
    Attention with the image as queries and the sequence vector as the only key and value.

    One key makes every attention weight 1, whatever the query: the output is the projected
    sequence vector at each position, and the image's coarsest features are lost. This is the
    published computation; chapter 07 proves and repairs it.
    """

    def __init__(self, config: DeepGPSConfig) -> None:
        super().__init__(config)
        hidden = config.hidden_dim
        self.attention = nn.MultiheadAttention(
            config.bottleneck_dim, num_heads=1, kdim=hidden, vdim=hidden, batch_first=True
        )

    def fuse_bottleneck(
        self, features: Tensor, sequence: Tensor, residues: ResidueBatch | None = None
    ) -> Tensor:
        queries = features.flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, H * W, C)
        # (B, hidden) -> (B, 1, hidden); sequence and structure together are two keys already
        key = sequence.unsqueeze(1) if sequence.dim() == 2 else sequence
        fused, _ = self.attention(queries, key, key)
        return fused.transpose(1, 2).reshape(features.shape)  # -> (B, C, H, W)


class ConcatFusion(Fusion):
    """The sequence vector beside the image's features at each position, mixed by one layer."""

    def __init__(self, config: DeepGPSConfig) -> None:
        super().__init__(config)
        channels = config.bottleneck_dim
        self.mix = nn.Conv2d(channels + config.hidden_dim, channels, kernel_size=1)

    def fuse_bottleneck(
        self, features: Tensor, sequence: Tensor, residues: ResidueBatch | None = None
    ) -> Tensor:
        tiled = sequence[:, :, None, None].expand(-1, -1, *features.shape[2:])
        return self.mix(torch.cat([features, tiled], dim=1))


class FilmFusion(Fusion):
    """The sequence vector scales and shifts the channels of each level; none are lost."""

    def __init__(self, config: DeepGPSConfig) -> None:
        super().__init__(config)
        channels = [config.width * 2**level for level in range(config.depth + 1)]
        self.modulations = nn.ModuleList(nn.Linear(config.hidden_dim, 2 * c) for c in channels)

    def fuse_bottleneck(
        self, features: Tensor, sequence: Tensor, residues: ResidueBatch | None = None
    ) -> Tensor:
        return self.fuse_skip(features, sequence, self.config.depth)

    def fuse_skip(self, features: Tensor, sequence: Tensor, level: int) -> Tensor:
        # (B, hidden) -> (B, 2C, 1, 1) -> two of (B, C, 1, 1)
        scale, shift = self.modulations[level](sequence)[:, :, None, None].chunk(2, dim=1)
        return features * (1 + scale) + shift


class ResidueAttentionFusion(Fusion):
    """
    Attention that has something to choose from: image positions attend over single residues.

    Keys are the sequence vector, as in the published fusion, and beside it a projection of each
    residue's vector; the result is added to the image's features, so that none are lost. With
    the residues masked away and without that sum, it would be the published fusion.
    """

    needs_residues = True

    def __init__(self, config: DeepGPSConfig) -> None:
        super().__init__(config)
        channels, hidden = config.bottleneck_dim, config.hidden_dim
        self.scale = nn.LayerNorm(config.sequence_dim)
        self.linear = nn.Linear(config.sequence_dim, hidden)
        self.attention = nn.MultiheadAttention(
            channels, num_heads=1, kdim=hidden, vdim=hidden, batch_first=True
        )

    def attend(
        self, features: Tensor, sequence: Tensor, residues: ResidueBatch
    ) -> tuple[Tensor, Tensor]:
        """
        Let each position of the coarsest features (B, C, H, W) attend to sequence and residues.

        Returns
        -------
        fused : Tensor, shape (B, H * W, C)
        weights : Tensor, shape (B, H * W, 1 + L)
            Sum to 1 over the last axis; the first column is the sequence vector's.
        """
        queries = features.flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, H * W, C)
        values = residues.values.masked_fill(~residues.mask[:, :, None], 0)
        keys = torch.cat([sequence[:, None], self.linear(self.scale(values)).relu()], dim=1)
        hidden = torch.cat([residues.mask.new_zeros(len(keys), 1), ~residues.mask], dim=1)
        return self.attention(queries, keys, keys, key_padding_mask=hidden)

    def fuse_bottleneck(
        self, features: Tensor, sequence: Tensor, residues: ResidueBatch | None = None
    ) -> Tensor:
        assert residues is not None  # the model has asked for them
        fused, _ = self.attend(features, sequence, residues)
        return features + fused.transpose(1, 2).reshape(features.shape)


FUSIONS: dict[str, type[Fusion]] = {
    "paper": PaperFusion,
    "film": FilmFusion,
    "concat": ConcatFusion,
    "residue_attention": ResidueAttentionFusion,
}
