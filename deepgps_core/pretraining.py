"""
Masked language modelling: how the embedded protein language model was trained.

The paper uses a published ESM-2; this module trains a small one of the same architecture
from sequences alone, with ESM's masking (15 % of residues: 80 % hidden, 10 % replaced, 10 %
kept). What makes minutes enough: whole proteins packed into rows without padding, a fused
attention that keeps packed proteins apart, Muon for the matrices, and a learning rate that
falls to zero exactly when time is up. Nothing in the loop waits for the device.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from deepgps_core.esm2 import ESM2, FIRST_RESIDUE, MASK, N_RESIDUES, PAD, tokenize

CHOSEN, HIDDEN, REPLACED = 0.15, 0.8, 0.1


@dataclasses.dataclass(frozen=True)
class PretrainingConfig:
    """
    How to train; the defaults are those of the embedded encoder.

    ``n_steps`` and ``seconds`` both end the run, whichever comes first, and the learning
    rate reaches zero there. Rates are peak values: ``matrix_rate`` for Muon, ``other_rate``
    for AdamW on embeddings, biases and norms.
    """

    n_steps: int | None = None
    seconds: float | None = None
    row_tokens: int = 1024
    batch_rows: int = 128
    matrix_rate: float = 0.02
    other_rate: float = 3e-3
    weight_decay: float = 0.05
    momentum: float = 0.95
    warmup_steps: int = 200
    decay_share: float = 0.6
    seed: int = 0
    held_out_every_s: float = 60.0
    #: Held-out proteins scored along the way; all of them are scored at the end.
    n_held_out_between: int = 400


def hold_out(sequences: Sequence[str], n: int = 2000, seed: int = 0) -> tuple[list[str], list[str]]:
    """
    Split sequences into a training list and `n` held-out ones.

    Returns
    -------
    training, held_out : list of str
        The held-out ones are the first `n` of a seeded permutation.
    """
    chosen = np.random.default_rng(seed).permutation(len(sequences))[:n]
    hidden = set(chosen.tolist())
    training = [sequence for i, sequence in enumerate(sequences) if i not in hidden]
    return training, [sequences[i] for i in chosen]


def _place(lengths: np.ndarray, row_tokens: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Best fit, longest first: return each protein's row and column, and the row count."""
    row, column, n_rows = np.zeros(len(lengths), int), np.zeros(len(lengths), int), 0
    rows_with_room: list[list[int]] = [[] for _ in range(row_tokens + 1)]
    for protein in np.argsort(-lengths, kind="stable"):
        length = int(lengths[protein])
        room = next((r for r in range(length, row_tokens) if rows_with_room[r]), row_tokens)
        if room == row_tokens:
            row[protein], n_rows = n_rows, n_rows + 1
        else:
            row[protein] = rows_with_room[room].pop()
        column[protein] = row_tokens - room
        rows_with_room[room - length].append(int(row[protein]))
    return row, column, n_rows


def pack_rows(sequences: Sequence[str], row_tokens: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """
    Lay whole proteins side by side in rows of one length, longest first, best fit.

    Parameters
    ----------
    sequences : sequence of str
        Proteins. One too long for a row is cut into pieces that fit.
    row_tokens : int
        Tokens in a row.

    Returns
    -------
    tokens : ndarray, shape (R, row_tokens), dtype uint8
        Token ids, each protein between its begin and end token, ``<pad>`` in the gaps.
    documents : ndarray, shape (R, row_tokens), dtype int16
        Which protein of the row a token is of, from 1; 0 is padding.
    """
    piece = row_tokens - 2
    pieces = [tokenize(s[i : i + piece]) for s in sequences for i in range(0, len(s), piece)]
    lengths = np.array([len(tokens) for tokens in pieces])
    row, column, n_rows = _place(lengths, row_tokens)
    order = np.lexsort((column, row))
    rank = np.arange(len(order)) - np.searchsorted(row[order], row[order])  # within its row
    start = np.repeat((row * row_tokens + column)[order], lengths[order])
    offset = np.arange(len(start)) - np.repeat(
        np.cumsum(lengths[order]) - lengths[order], lengths[order]
    )
    tokens = np.full(n_rows * row_tokens, PAD, dtype=np.uint8)
    documents = np.zeros(n_rows * row_tokens, dtype=np.int16)
    tokens[start + offset] = np.concatenate([pieces[i] for i in order])
    documents[start + offset] = np.repeat(rank + 1, lengths[order])
    return tokens.reshape(n_rows, row_tokens), documents.reshape(n_rows, row_tokens)


def mask_tokens(tokens: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """
    Choose 15 % of the residues; hide 80 % of those, replace 10 %, keep 10 %.

    Parameters
    ----------
    tokens : Tensor, shape (B, L), dtype int64
        Token ids; begin, end and padding are never chosen.
    generator : torch.Generator
        On the device of `tokens`.

    Returns
    -------
    masked : Tensor, shape (B, L), dtype int64
        What the network reads.
    targets : Tensor, shape (B, L), dtype int64
        The true token where one was chosen, else -100 (ignored by the loss).
    """
    draw = torch.rand(tokens.shape, generator=generator, device=tokens.device)
    other = torch.randint(
        FIRST_RESIDUE, FIRST_RESIDUE + N_RESIDUES, tokens.shape,
        generator=generator, device=tokens.device,
    )  # fmt: skip
    chosen = (tokens >= FIRST_RESIDUE) & (draw < CHOSEN)
    masked = torch.where(chosen & (draw < CHOSEN * HIDDEN), MASK, tokens)
    replaced = (draw >= CHOSEN * HIDDEN) & (draw < CHOSEN * (HIDDEN + REPLACED))
    masked = torch.where(chosen & replaced, other, masked)
    return masked, torch.where(chosen, tokens, -100)


def _orthogonalize(matrices: Tensor) -> Tensor:
    """Bring all singular values of (n, rows, columns) near one: Newton-Schulz, five steps."""
    # half precision is enough, and fast on a GPU; most processors imitate it, ten times slower
    x = matrices.to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = 3.4445, -4.7750, 2.0315
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x


class Muon:
    """
    Momentum whose step is orthogonalized, for the matrices inside the network.

    Equal shapes are stacked, so that one batched product updates all layers.

    Notes
    -----
    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers".
    """

    def __init__(self, parameters: Sequence[Tensor], momentum: float, weight_decay: float) -> None:
        self.momentum, self.weight_decay = momentum, weight_decay
        self.groups: dict[tuple[int, ...], list[Tensor]] = {}
        for parameter in parameters:
            self.groups.setdefault(tuple(parameter.shape), []).append(parameter)
        self.velocity = {k: torch.zeros_like(torch.stack(v)) for k, v in self.groups.items()}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move every matrix by one step of length `rate`."""
        for shape, parameters in self.groups.items():
            gradient = torch.stack([p.grad for p in parameters if p.grad is not None])
            velocity = self.velocity[shape].lerp_(gradient, 1 - self.momentum)
            # Nesterov: look one step ahead
            update = _orthogonalize(gradient.lerp(velocity, self.momentum)).float()
            step = rate * max(1.0, shape[0] / shape[1]) ** 0.5
            torch._foreach_mul_(parameters, 1 - rate * self.weight_decay)
            torch._foreach_add_(parameters, list(update.unbind(0)), alpha=-step)


def make_optimizers(network: ESM2, config: PretrainingConfig) -> tuple[Muon, torch.optim.AdamW]:
    """Return Muon for the inner matrices and AdamW for everything else."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in network.named_parameters():
        inner = parameter.ndim == 2 and "embed" not in name
        (matrices if inner else others).append(parameter)
    fused = others[0].is_cuda
    adam = torch.optim.AdamW(
        others, lr=config.other_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=fused
    )
    return Muon(matrices, config.momentum, config.weight_decay), adam


def held_out_loss(
    network: ESM2, sequences: Sequence[str], seed: int = 0, max_residues: int = 1022
) -> float:
    """
    Return the masked-LM loss on `sequences`, in nats per chosen residue.

    The standard 15 % masking, drawn once from `seed`; each protein is one row of its own,
    cut after `max_residues`.
    """
    device = network.embed_tokens.weight.device
    generator = torch.Generator(device=device).manual_seed(seed)
    ordered = sorted((tokenize(s[:max_residues]) for s in sequences), key=len)
    total, count = torch.zeros(2, dtype=torch.float64, device=device)
    with torch.no_grad():
        for batch in _padded_batches(ordered, 65536 if device.type == "cuda" else 4096):
            masked, targets = mask_tokens(torch.from_numpy(batch).long().to(device), generator)
            logits = network.lm_head(network(masked)).float()
            total += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
            count += (targets >= 0).sum()
    return float(total / count)


def _padded_batches(ordered: list[np.ndarray], max_tokens: int) -> Iterator[np.ndarray]:
    start = 0
    while start < len(ordered):
        stop = start + 1
        while stop < len(ordered) and (stop - start + 1) * len(ordered[stop]) <= max_tokens:
            stop += 1
        batch = np.full((stop - start, len(ordered[stop - 1])), PAD, dtype=np.uint8)
        for i, tokens in enumerate(ordered[start:stop]):
            batch[i, : len(tokens)] = tokens
        yield batch
        start = stop


def learning_rate(step: int, progress: float, config: PretrainingConfig) -> float:
    """Return the share of the peak rate: warm up, hold, fall linearly to zero at the end."""
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    return warm * min(1.0, max(0.0, 1 - progress) / config.decay_share)


def _block_mask_maker(batch_rows: int, row_tokens: int) -> Callable[[Tensor], Any]:
    from torch.nn.attention.flex_attention import create_block_mask

    compiled = torch.compile(create_block_mask)

    def make(documents: Tensor) -> Any:
        def same_protein(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return documents[row, query] == documents[row, key]

        return compiled(same_protein, batch_rows, None, row_tokens, row_tokens, device="cuda")

    return make


def pretrain(
    network: ESM2,
    training: Sequence[str],
    held_out: Sequence[str],
    config: PretrainingConfig,
    on_log: Callable[[dict[str, float], ESM2], None] | None = None,
) -> list[dict[str, float]]:
    """
    Train `network` in place on the device it is on.

    Parameters
    ----------
    network : ESM2
        Fresh (`ESM2.initialize`) or trained weights to continue from.
    training, held_out : sequence of str
        Proteins to learn from and to score.
    config : PretrainingConfig
        Length of the run, rates and batch.
    on_log : callable, optional
        Called with each row of the history and the network, to print or to save.

    Returns
    -------
    history : list of dict
        ``step``, ``tokens``, ``seconds``, ``training_loss`` and ``held_out_loss`` (nats).
    """
    if config.n_steps is None and config.seconds is None:
        raise ValueError("give n_steps or seconds; nothing else ends the run")
    return _Run(network, training, held_out, config, on_log).train()


class _Run:
    """The state of one training run."""

    def __init__(
        self,
        network: ESM2,
        training: Sequence[str],
        held_out: Sequence[str],
        config: PretrainingConfig,
        on_log: Callable[[dict[str, float], ESM2], None] | None,
    ) -> None:
        self.network, self.held_out, self.config, self.on_log = network, held_out, config, on_log
        self.device = network.embed_tokens.weight.device
        self.on_gpu = self.device.type == "cuda"
        tokens, documents = pack_rows(training, config.row_tokens)
        # one byte a token: all of Swiss-Prot stays on the device
        self.tokens = torch.from_numpy(tokens).to(self.device)
        self.documents = torch.from_numpy(documents).to(self.device)
        self.batch_rows = min(config.batch_rows, len(tokens))
        self.muon, self.adam = make_optimizers(network, config)
        self.generator = torch.Generator(device=self.device).manual_seed(config.seed + 1)
        self.order = np.random.default_rng(config.seed)
        self.make_mask = (
            _block_mask_maker(self.batch_rows, config.row_tokens) if self.on_gpu else None
        )
        self.loss = torch.compile(self._loss) if self.on_gpu else self._loss
        self.history: list[dict[str, float]] = []

    def _loss(self, masked: Tensor, targets: Tensor, documents: Tensor, mask: Any) -> Tensor:
        logits = self.network.lm_head(self.network(masked, documents, mask))
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    def _batches(self) -> Iterator[Tensor]:
        while True:
            order = torch.from_numpy(self.order.permutation(len(self.tokens))).to(self.device)
            for start in range(0, len(order) - self.batch_rows + 1, self.batch_rows):
                yield order[start : start + self.batch_rows]

    def _step(self, rows: Tensor, rate: float) -> Tensor:
        documents = self.documents[rows].long()
        masked, targets = mask_tokens(self.tokens[rows].long(), self.generator)
        mask = self.make_mask(documents) if self.make_mask else None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.on_gpu):
            loss = self.loss(masked, targets, documents, mask)
        loss.backward()
        for group in self.adam.param_groups:
            group["lr"] = self.config.other_rate * rate
        self.adam.step()
        self.muon.step(self.config.matrix_rate * rate)
        self.network.zero_grad(set_to_none=True)
        return loss.detach()

    def train(self) -> list[dict[str, float]]:
        """Take steps until time or steps are used up; return the history."""
        config, started, logged = self.config, time.perf_counter(), 0.0
        bar = tqdm(total=config.n_steps, unit="step", disable=config.n_steps is None)
        losses: list[Tensor] = []
        for step, rows in enumerate(self._batches()):
            seconds = time.perf_counter() - started
            progress = max(
                step / config.n_steps if config.n_steps else 0.0,
                seconds / config.seconds if config.seconds else 0.0,
            )
            last = progress >= 1
            if last or seconds - logged > config.held_out_every_s or step in (1, 20):
                self._log(step, seconds, losses, last)
                losses, logged = [], seconds
            if last:
                break
            losses.append(self._step(rows, learning_rate(step, progress, config)))
            bar.update()
        bar.close()
        return self.history

    def _log(self, step: int, seconds: float, losses: list[Tensor], last: bool) -> None:
        held_out = self.held_out if last else self.held_out[: self.config.n_held_out_between]
        self.history.append(
            {
                "step": step,
                "tokens": step * self.batch_rows * self.config.row_tokens,
                "seconds": round(seconds, 1),
                "training_loss": float(torch.stack(losses[-50:]).mean()) if losses else np.nan,
                "held_out_loss": held_out_loss(self.network, held_out) if held_out else np.nan,
            }
        )
        if self.on_log:
            self.on_log(self.history[-1], self.network)
