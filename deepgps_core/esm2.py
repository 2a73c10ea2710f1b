"""
The ESM-2 network in plain PyTorch, in fair-esm's parameter names and to fair-esm's numbers.

A state dict goes both ways between this class and ``esm.model.esm2.ESM2`` (Lin et al. 2023);
outputs agree to rounding. What differs is speed: attention runs through PyTorch's fused
kernels and never stores its L x L maps, and rows may hold several proteins, each of which
sees itself alone (packing). Left out: the contact-prediction head.
Paper: Methods, "Sequence encoder".
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from deepgps_core.dataset import InputError
from deepgps_core.packed_attention import Packed

#: The 33 tokens of the "ESM-1b" alphabet, in order; residues follow their frequency.
TOKENS = ("<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>")
BOS, PAD, EOS, UNKNOWN, MASK = 0, 1, 2, 3, 32
#: Token ids of the 20 amino acids.
FIRST_RESIDUE, N_RESIDUES = 4, 20
#: Share of positions that read ``<mask>`` in training: 15 % chosen, 80 % of those masked.
TRAINING_MASK_SHARE = 0.15 * 0.8

_TOKEN_OF_BYTE = np.full(256, UNKNOWN, dtype=np.uint8)
for _token, _name in enumerate(TOKENS):
    if len(_name) == 1:
        _TOKEN_OF_BYTE[ord(_name)] = _token


def tokenize(sequence: str) -> np.ndarray:
    """
    Turn a sequence into token ids between a begin (0) and an end (2) token.

    Parameters
    ----------
    sequence : str
        One-letter residues, upper case. A letter without a token becomes ``<unk>``.

    Returns
    -------
    tokens : ndarray, shape (L + 2,), dtype uint8
        Token ids.

    Examples
    --------
    >>> tokenize("MLA")
    array([ 0, 20,  4,  5,  2], dtype=uint8)
    """
    residues = _TOKEN_OF_BYTE[np.frombuffer(sequence.encode("ascii", "replace"), dtype=np.uint8)]
    return np.concatenate(([BOS], residues, [EOS])).astype(np.uint8)


def _rotation(positions: Tensor, head_width: int) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of the rotary angles, each (L, head_width)."""
    exponent = torch.arange(0, head_width, 2, device=positions.device).float() / head_width
    angles = torch.outer(positions.float(), 10000.0**-exponent)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def _rotate(vectors: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = vectors.chunk(2, dim=-1)
    return (vectors * cosine + torch.cat((-second, first), dim=-1) * sine).to(vectors.dtype)


class SelfAttention(nn.Module):
    """Multi-head attention with rotary positions; `mask`: a bool mask, BlockMask or Packed."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Any) -> Tensor:
        """Return the attended values, shape (B, L, D)."""
        # one product for the three projections: the input is read from memory once
        projections = (self.q_proj, self.k_proj, self.v_proj)
        weight = torch.cat([projection.weight for projection in projections])
        bias = torch.cat([projection.bias for projection in projections])
        qkv = F.linear(x, weight, bias).unflatten(-1, (3, self.n_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (B, L, 3, h, d) -> 3 x (B, h, L, d)
        query, key = _rotate(query, *rotation), _rotate(key, *rotation)
        if isinstance(mask, Packed):
            attended = mask.attend(query, key, value)
        elif mask is None or isinstance(mask, Tensor):
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        else:
            from torch.nn.attention.flex_attention import flex_attention

            attended = flex_attention(query, key, value, block_mask=mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2))  # (B, h, L, d) -> (B, L, D)


class TransformerLayer(nn.Module):
    """Attention and a four-times-wider feed-forward step, each after a LayerNorm."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(width, n_heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Any) -> Tensor:
        """Return the layer's output, shape (B, L, D)."""
        x = x + self.self_attn(self.self_attn_layer_norm(x), rotation, mask)
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))


class LanguageModelHead(nn.Module):
    """Logits over the tokens; its last matrix is the token embedding itself."""

    def __init__(self, width: int, embedding: Tensor) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.layer_norm = nn.LayerNorm(width)
        self.weight = cast(nn.Parameter, embedding)
        self.bias = nn.Parameter(torch.zeros(len(embedding)))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, shape (..., 33)."""
        return F.linear(self.layer_norm(F.gelu(self.dense(x))), self.weight, self.bias)


class ESM2(nn.Module):
    """
    A masked language model of proteins, ESM-2's architecture at any size.

    Parameters
    ----------
    n_layers, width, n_heads : int
        Transformer layers, embedding width D and attention heads. The defaults are ESM-2's
        smallest published size (8M); the paper's is 33, 1280, 20 (650M).

    Notes
    -----
    Source: fair-esm 2.0.0, ``esm/model/esm2.py``. Equal in output, token dropout included.
    """

    def __init__(self, n_layers: int = 6, width: int = 320, n_heads: int = 20) -> None:
        super().__init__()
        self.n_heads, self.width = n_heads, width
        self.embed_tokens = nn.Embedding(len(TOKENS), width, padding_idx=PAD)
        self.layers = nn.ModuleList(TransformerLayer(width, n_heads) for _ in range(n_layers))
        self.emb_layer_norm_after = nn.LayerNorm(width)
        self.lm_head = LanguageModelHead(width, self.embed_tokens.weight)

    def forward(
        self, tokens: Tensor, documents: Tensor | None = None, block_mask: Any = None
    ) -> Tensor:
        """
        Return the last layer's residue embeddings.

        Parameters
        ----------
        tokens : Tensor, shape (B, L), dtype int64
            Token ids; ``<pad>`` fills short rows.
        documents : Tensor, shape (B, L), dtype int64, optional
            Which protein of its row each token belongs to, from 0, when rows hold several.
        block_mask : BlockMask, optional
            The same for FlexAttention (CUDA); without it a dense mask is built.

        Returns
        -------
        hidden : Tensor, shape (B, L, D)
            Normalized output of the last layer.
        """
        return self.hidden_layers(tokens, documents, block_mask, keep=[len(self.layers)])[0]

    def hidden_layers(
        self,
        tokens: Tensor,
        documents: Tensor | None = None,
        block_mask: Any = None,
        *,
        padded: bool | None = None,
        keep: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """
        Return the output of the embedding and of each layer, n_layers + 1 of (B, L, D).

        With `keep`, only those of these numbers, in their order; others are not held in memory.
        `block_mask` may be `Packed`, of one row. With `padded`, whether there is padding, the
        host need not wait to learn it from the device.
        """
        mask, positions = block_mask, torch.arange(tokens.shape[1], device=tokens.device)
        if isinstance(block_mask, Packed):
            documents, positions = block_mask.documents, block_mask.positions
        elif block_mask is None:
            mask = attention_mask(tokens, documents, padded)
        x = self.embed_tokens(tokens).masked_fill((tokens == MASK)[..., None], 0.0)
        x = x * _token_dropout_scale(tokens, documents)[..., None]
        if torch.is_autocast_enabled(x.device.type):
            # a half-precision residual stream halves the traffic that limits a narrow network
            x = x.to(torch.get_autocast_dtype(x.device.type))
        rotation = _rotation(positions, self.width // self.n_heads)
        wanted = range(len(self.layers) + 1) if keep is None else keep
        outputs = {0: x}
        for number, layer in enumerate(self.layers, start=1):
            x = layer(x, rotation, mask)
            outputs |= {number: x} if number in wanted else {}
        outputs[len(self.layers)] = self.emb_layer_norm_after(x)
        return [outputs[number] for number in wanted]

    def initialize(self, generator: torch.Generator | None = None) -> ESM2:
        """
        Draw fresh weights for training from nothing.

        Matrices that write into the residual stream start at zero, so that every layer
        begins as the identity; the others keep the variance of their input.
        """
        for name, parameter in self.named_parameters():
            if name.endswith("bias") or name.endswith(("out_proj.weight", "fc2.weight")):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:
                spread = 0.02 if "embed" in name else 1 / math.sqrt(parameter.shape[1])
                nn.init.normal_(parameter, std=spread, generator=generator)
        return self


def attention_mask(
    tokens: Tensor, documents: Tensor | None = None, padded: bool | None = None
) -> Tensor | None:
    """
    Return which token may look at which, broadcastable to (B, heads, L, L); None: all at all.

    Without `documents`, padding is hidden from everyone; with them, proteins of one row are
    hidden from each other (padding then is a document of its own).
    """
    if documents is not None:
        return (documents[:, :, None] == documents[:, None, :])[:, None]
    is_token = tokens != PAD
    padded = not bool(is_token.all()) if padded is None else padded
    return is_token[:, None, None, :] if padded else None


def _token_dropout_scale(tokens: Tensor, documents: Tensor | None) -> Tensor:
    """Return fair-esm's factor (B, L): as if 12 % of each protein's tokens were masked."""
    masked, present = (tokens == MASK).float(), (tokens != PAD).float()
    if documents is None:
        share = masked.sum(1, keepdim=True) / present.sum(1, keepdim=True).clamp(min=1)
    else:
        counts = torch.zeros(2, *tokens.shape, device=tokens.device)
        counts[0].scatter_add_(1, documents, masked)
        counts[1].scatter_add_(1, documents, present)
        share = (counts[0] / counts[1].clamp(min=1)).gather(1, documents)
    # a protein that is all mask has no unmasked token to scale
    return (1 - TRAINING_MASK_SHARE) / (1 - share).clamp(min=1e-3)


def load_network(path: Path | str) -> ESM2:
    """
    Read an ESM-2 of any size.

    Parameters
    ----------
    path : Path or str
        A ``.safetensors`` file, or a ``.pt`` checkpoint as fair-esm publishes it (read without
        executing anything: ``weights_only``).

    Raises
    ------
    InputError
        If the file is missing, damaged, or no ESM-2 in fair-esm's names.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: encoder weights not found; give a .safetensors or .pt file.")
    try:
        state, n_heads = _read_state(path)
        width = state["embed_tokens.weight"].shape[1]
        n_layers = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("layers."))
        network = ESM2(n_layers, width, n_heads or (40 if width >= 2560 else 20))
        state.setdefault("lm_head.weight", state["embed_tokens.weight"])
        network.load_state_dict({key: state[key].float() for key in network.state_dict()})
    except InputError:
        raise
    # a damaged file fails in many ways inside torch's and safetensors' readers
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: no ESM-2 weights ({reason}); get the file again.") from None
    except Exception as error:
        # pickle.UnpicklingError and its like: a pickle that wants to run code is refused
        raise InputError(
            f"{path}: not a plain checkpoint ({type(error).__name__}); use .safetensors."
        ) from None
    return network


def _read_state(path: Path) -> tuple[dict[str, Tensor], int | None]:
    """Return tensors under fair-esm's names, and the number of heads where the file tells."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as archive:
            heads = (archive.metadata() or {}).get("n_heads")
            keys = archive.keys()
            return {key: archive.get_tensor(key) for key in keys}, int(heads) if heads else None
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(path, map_location="cpu", weights_only=True)
    content = content.get("model", content)
    # as fair-esm's own loader does
    state = {
        key.removeprefix("encoder.").removeprefix("sentence_encoder."): value
        for key, value in content.items()
    }
    inverse = state.get("layers.0.self_attn.rot_emb.inv_freq")
    width = state["embed_tokens.weight"].shape[1]
    return state, None if inverse is None else width // (2 * len(inverse))
