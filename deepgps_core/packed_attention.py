"""
Attention over proteins that lie side by side in one row, without padding.

Filling a batch up to its longest protein computes on nothing, and hiding what was filled in takes
a mask that keeps attention from its fastest kernels. In a packed row every token is one of a
protein, layers that treat tokens alike do not notice, and attention is told where proteins end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

try:  # from torch 2.10 on
    from torch.nn.attention import varlen
except ImportError:
    varlen = None  # type: ignore[assignment]
#: Whether a GPU has one kernel for all proteins of a row; without it they are done one by one.
HAS_VARLEN = varlen is not None


class Packed(NamedTuple):
    """
    Where the proteins of one row are.

    Parameters
    ----------
    lengths : tuple of int
        Tokens of each protein, in order; known to the host, which then waits for nothing.
    documents : Tensor, shape (1, T), dtype int64
        Number of each token's protein.
    positions : Tensor, shape (T,), dtype int64
        Of each token within its protein.
    bounds : Tensor, shape (proteins + 1,), dtype int32
        Where each protein begins, and where the last one ends.
    """

    lengths: tuple[int, ...]
    documents: Tensor
    positions: Tensor
    bounds: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str = "cpu") -> Packed:
        """Lay out proteins of so many tokens."""
        counts = torch.tensor(list(lengths))
        documents = torch.arange(len(counts)).repeat_interleave(counts)
        bounds = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
        positions = torch.arange(len(documents)) - bounds[documents]
        return cls(
            tuple(lengths), documents[None].to(device), positions.to(device),
            bounds.to(device, torch.int32),
        )  # fmt: skip

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Let each token look at those of its own protein; all shapes (1, heads, T, d)."""
        if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and varlen:
            longest = max(self.lengths)
            q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # (T, heads, d)
            attended = varlen.varlen_attn(q, k, v, self.bounds, self.bounds, longest, longest)
            assert isinstance(attended, Tensor)  # without auxiliary outputs
            return attended.transpose(0, 1)[None]
        parts = zip(*(x.split(self.lengths, dim=2) for x in (query, key, value)), strict=True)
        return torch.cat([F.scaled_dot_product_attention(*part) for part in parts], dim=2)
