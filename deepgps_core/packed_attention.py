"""
How proteins are laid out for the network: side by side in one row, long ones in windows.

Filling a batch up to its longest protein computes on nothing, and hiding what was filled in takes
a mask that keeps attention from its fastest kernels. In a packed row every token is one of a
protein, layers that treat tokens alike do not notice, and attention is told where proteins end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

#: Whether a GPU has one kernel for all proteins of a row (from torch 2.10 on); without it they are
#: done one by one.
HAS_VARLEN = find_spec("torch.nn.attention.varlen") is not None
#: Longest stretch ESM-2 was trained on, in residues.
WINDOW_RESIDUES = 1022
#: Residues two neighboring windows share at least; each sees this much context beside it.
OVERLAP_RESIDUES = 256


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
        if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and HAS_VARLEN:
            # brings torch's compiler, two seconds that a processor need not wait
            from torch.nn.attention.varlen import varlen_attn

            longest = max(self.lengths)
            q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # (T, heads, d)
            attended = varlen_attn(q, k, v, self.bounds, self.bounds, longest, longest)
            assert isinstance(attended, Tensor)  # without auxiliary outputs
            return attended.transpose(0, 1)[None]
        parts = zip(*(x.split(self.lengths, dim=2) for x in (query, key, value)), strict=True)
        return torch.cat([F.scaled_dot_product_attention(*part) for part in parts], dim=2)


def window_starts(
    n_residues: int, window: int = WINDOW_RESIDUES, overlap: int = OVERLAP_RESIDUES
) -> list[int]:
    """
    Return where the windows of a long protein begin, as evenly spread as whole numbers allow.

    All windows but those of a protein that fits are full; neighbors share at least `overlap`.

    Examples
    --------
    >>> window_starts(900), window_starts(2700)
    ([0], [0, 559, 1119, 1678])
    """
    if n_residues <= window:
        return [0]
    n_windows = 1 + -(-(n_residues - window) // (window - overlap))
    return np.linspace(0, n_residues - window, n_windows).round().astype(int).tolist()


class Stitcher:
    """Joins the windows of one protein: residues in several windows are averaged."""

    def __init__(self, n_residues: int) -> None:
        self.n_tokens = n_residues + 2
        self.total: Tensor | None = None
        self.count: Tensor | None = None

    def add(self, start: int, embedding: Tensor) -> None:
        """Add a window, (layers, window + 2, D); only the outer ends keep their end tokens."""
        n_layers, n_tokens, width = embedding.shape
        if n_tokens == self.n_tokens:
            self.total = embedding
            return
        if self.total is None or self.count is None:
            self.total = embedding.new_zeros(n_layers, self.n_tokens, width)
            self.count = embedding.new_zeros(self.n_tokens, 1)
        first = 0 if start == 0 else 1
        last = n_tokens if start + n_tokens == self.n_tokens else n_tokens - 1
        self.total[:, start + first : start + last] += embedding[:, first:last]
        self.count[start + first : start + last] += 1

    def result(self) -> Tensor:
        """Return the joined embedding, (layers, L + 2, D)."""
        assert self.total is not None
        return self.total if self.count is None else self.total / self.count


def batches(windows: list[Any], max_tokens: int) -> Iterator[list[Any]]:
    """Cut windows, sorted by length, into batches of at most `max_tokens` after padding."""
    batch: list[Any] = []
    for window in windows:
        if batch and (len(batch) + 1) * len(window[2]) > max_tokens:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch
