"""Masked language modelling: packing loses nothing, masking is ESM's, training learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepgps_core.dataset import AMINO_ACIDS
from deepgps_core.encoders import EMBEDDED_WEIGHTS
from deepgps_core.esm2 import BOS, EOS, ESM2, MASK, PAD, load_network, tokenize
from deepgps_core.pretraining import (
    Muon,
    PretrainingConfig,
    held_out_loss,
    hold_out,
    learning_rate,
    mask_tokens,
    pack_rows,
    pretrain,
)
from deepgps_core.sources.embedded import embedded_proteins


def sequences_of(lengths: list[int], seed: int = 0) -> list[str]:
    """Return random proteins of these lengths."""
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list(AMINO_ACIDS), n)) for n in lengths]


def test_packing_keeps_every_protein_whole() -> None:
    """Unpacking the rows gives back exactly the proteins that went in."""
    rng = np.random.default_rng(1)
    proteins = sequences_of(rng.integers(5, 62, 200).tolist())
    tokens, documents = pack_rows(proteins, row_tokens=64)
    assert (documents == 0).tolist() == (tokens == PAD).tolist()
    found = [
        tuple(row[number == d])
        for row, number in zip(tokens, documents, strict=True)
        for d in range(1, number.max() + 1)
    ]
    assert sorted(found) == sorted(tuple(tokenize(s)) for s in proteins)
    assert (tokens != PAD).mean() > 0.9


def test_packing_cuts_what_is_too_long() -> None:
    """A protein longer than a row becomes pieces that hold all its residues once."""
    (protein,) = sequences_of([150])
    tokens, _ = pack_rows([protein], row_tokens=64)
    residues = np.sort(tokens[~np.isin(tokens, (BOS, EOS, PAD))])
    assert residues.tolist() == sorted(tokenize(protein)[1:-1].tolist())


def test_packed_proteins_do_not_see_each_other() -> None:
    """Embeddings of packed proteins equal those of the same proteins alone, masks included."""
    network = load_network(EMBEDDED_WEIGHTS).eval()
    tokens, documents = pack_rows(sequences_of([40, 30, 20]), row_tokens=100)
    rows = torch.from_numpy(tokens).long()
    rows[:, 5:9] = MASK  # in the first protein only: each has its own token-dropout factor
    with torch.no_grad():
        packed = network(rows, torch.from_numpy(documents).long())[0]
        for number in (1, 2, 3):
            chosen = torch.from_numpy(documents[0] == number)
            alone = network(rows[:, chosen])[0]
            assert torch.allclose(packed[chosen], alone, atol=1e-4)


def test_masking_is_esms() -> None:
    """15 % of residues are chosen: 80 % of them hidden, 10 % replaced, 10 % kept."""
    tokens = torch.from_numpy(np.stack([tokenize(sequences_of([998])[0])] * 300)).long()
    tokens[:, 900:] = PAD
    masked, targets = mask_tokens(tokens, torch.Generator().manual_seed(0))
    chosen = targets >= 0
    assert not chosen[tokens < 4].any()
    assert torch.equal(targets[chosen], tokens[chosen])
    assert torch.equal(masked[~chosen], tokens[~chosen])
    n = (tokens >= 4).sum()
    # five standard errors of a share of 40,000 are 0.01
    assert abs(float(chosen.sum() / n) - 0.15) < 0.005
    hidden = masked[chosen] == MASK
    kept = masked[chosen] == tokens[chosen]
    assert abs(float(hidden.float().mean()) - 0.8) < 0.01
    # one replacement in twenty draws the true residue
    assert abs(float(kept.float().mean()) - 0.105) < 0.01


def test_held_out_loss_of_an_even_guess_is_known() -> None:
    """A network whose logits are all equal has a loss of ln 33; the seed fixes the masks."""
    network = ESM2(n_layers=1, width=20, n_heads=2)
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    proteins = sequences_of([30, 80, 55])
    assert held_out_loss(network, proteins) == pytest.approx(np.log(33), abs=1e-5)
    trained = load_network(EMBEDDED_WEIGHTS).eval()
    assert held_out_loss(trained, proteins) == held_out_loss(trained, proteins)
    assert held_out_loss(trained, proteins) != held_out_loss(trained, proteins, seed=1)


def test_learning_rate_warms_holds_and_ends_at_zero() -> None:
    """The rate rises over the warm-up, holds one, and falls linearly to exactly zero."""
    config = PretrainingConfig(n_steps=100, warmup_steps=10, decay_share=0.5)
    assert learning_rate(0, 0.0, config) == pytest.approx(0.1)
    assert learning_rate(30, 0.3, config) == 1
    assert learning_rate(75, 0.75, config) == pytest.approx(0.5)
    assert learning_rate(100, 1.0, config) == 0


def test_muon_steps_along_the_orthogonal_factor() -> None:
    """The first step is close to U V^T of the gradient, whatever its singular values."""
    rng = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(24, 16))
    left, _ = torch.linalg.qr(torch.randn(24, 16, generator=rng))
    right, _ = torch.linalg.qr(torch.randn(16, 16, generator=rng))
    weight.grad = left @ torch.diag(torch.logspace(0, -1, 16)) @ right.T
    Muon([weight], momentum=0.95, weight_decay=0.0).step(rate=0.1)
    step = -weight.detach() / (0.1 * (24 / 16) ** 0.5)
    # Newton-Schulz with these coefficients leaves singular values between 0.7 and 1.2
    values = torch.linalg.svdvals(step)
    assert values.min() > 0.6 and values.max() < 1.3
    assert (
        torch.nn.functional.cosine_similarity(step.flatten(), (left @ right.T).flatten(), 0) > 0.95
    )


def test_hold_out_is_a_seeded_partition() -> None:
    """Held-out proteins are the head of a seeded permutation, and never trained on."""
    proteins = [f"M{'A' * i}" for i in range(50)]
    training, held_out = hold_out(proteins, n=5)
    assert held_out == [proteins[i] for i in np.random.default_rng(0).permutation(50)[:5]]
    assert sorted(training + held_out) == sorted(proteins)


def test_training_learns_a_rule_and_repeats() -> None:
    """On sequences that alternate two residues the loss falls far; the same seed repeats it."""
    proteins = ["AC" * 20] * 16
    config = PretrainingConfig(
        n_steps=80, row_tokens=64, batch_rows=8, warmup_steps=5, other_rate=1e-2
    )

    def run() -> list[dict[str, float]]:
        network = ESM2(n_layers=1, width=32, n_heads=2)
        network.initialize(torch.Generator().manual_seed(0))
        return pretrain(network, proteins, proteins[:4], config)

    first = run()
    assert first[-1]["step"] == 80 and first[-1]["tokens"] == 80 * 8 * 64
    assert first[0]["held_out_loss"] > 2.0 and first[-1]["held_out_loss"] < 0.5
    losses = [[row["held_out_loss"] for row in history] for history in (first, run())]
    assert losses[0] == losses[1]


def test_a_run_needs_an_end() -> None:
    """Without steps or seconds the run is refused."""
    with pytest.raises(ValueError, match="n_steps or seconds"):
        pretrain(ESM2(1, 20, 2), ["MKV"], [], PretrainingConfig())


def test_embedded_weights_have_learned_proteins() -> None:
    """The shipped model predicts masked residues of real proteins better than frequencies."""
    proteins = [s for s in embedded_proteins()["sequence"] if 100 < len(s) < 150][:40]
    loss = held_out_loss(load_network(EMBEDDED_WEIGHTS).eval(), proteins)
    assert loss < 2.75  # nats; residue frequencies alone give 2.9
