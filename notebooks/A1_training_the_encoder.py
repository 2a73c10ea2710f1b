# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A1 · How was this book's language model trained?
#
# The paper downloads ESM-2 with 650 million parameters {cite}`deepgps,esm2`. This book ships a
# model of the same architecture with 7.5 million, so that it runs anywhere without a download.
# This appendix shows where it came from, and goes on training it for a few steps.
#
# *About a minute on two cores, 1.5 GB of memory, no network.*
#
# **You will**
#
# - load the weights into fair-esm's own network and get the same numbers;
# - pack proteins into rows, hide residues, and read a learning curve;
# - continue the training with the function that did all of it.

# %% tags=["parameters"]
PROFILE = "demo"
SEED = 0
# "embedded", or a text file with one protein sequence a line (.xz is read too)
SEQUENCES = "embedded"
N_STEPS = 10
BATCH_ROWS = 2
ROW_TOKENS = 1024

# %%
import lzma

import esm
import numpy as np
import pandas as pd
import torch
import yaml

from deepgps_core.dataset import AMINO_ACIDS, sha256_of
from deepgps_core.encoders import EMBEDDED_WEIGHTS
from deepgps_core.esm2 import MASK, PAD, load_network, tokenize
from deepgps_core.plotting import PALETTE, execution_record, plt, show, tell, use_book_style
from deepgps_core.pretraining import (
    PretrainingConfig,
    held_out_loss,
    mask_tokens,
    pack_rows,
    pretrain,
)
from deepgps_core.sources.embedded import embedded_proteins, single2_proteins
from deepgps_core.sources.embedded_table import TABLE_PATH

use_book_style()
device = "cuda" if torch.cuda.is_available() else "cpu"

# %% [markdown]
# ## Inputs

# %%
card = yaml.safe_load(EMBEDDED_WEIGHTS.with_suffix(".yaml").read_text())
loss_path = EMBEDDED_WEIGHTS.with_name("esm2_small_loss.csv")
recorded, proteins = pd.read_csv(loss_path), embedded_proteins()
rows = [
    (EMBEDDED_WEIGHTS, "this project", "MIT", f"{card['parameters']:,} parameters"),
    (loss_path, "the log of that run", "MIT", f"{len(recorded)}"),
    (TABLE_PATH, "SCL2205 (UniProt), human", "MIT; CC BY 4.0", f"{len(proteins):,}"),
]
tell(
    "| file | source | licence | rows | sha256 |\n|---|---|---|---|---|\n"
    + "\n".join(f"| {p.name} | {s} | {li} | {n} | `{sha256_of(p)[:12]}…` |" for p, s, li, n in rows)
)
print(yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=88))

# %% [markdown]
# ## The same network as fair-esm's?
#
# Six layers, 320 numbers a residue, 20 heads: ESM-2's smallest published shape. The names of the
# parameters are fair-esm's {cite}`esm2`, so its class takes our weights; only the head that
# predicts contacts is missing.

# %%
network = load_network(EMBEDDED_WEIGHTS)
theirs = esm.model.esm2.ESM2(
    num_layers=6, embed_dim=320, attention_heads=20, alphabet="ESM-1b", token_dropout=True
)
missing = theirs.load_state_dict(network.state_dict(), strict=False).missing_keys
print("not in our file:", sorted({key.split(".")[-3] + "…" for key in missing}))
short = proteins.loc[proteins["sequence"].str.len() == 150, "sequence"].iloc[0]
tokens = torch.from_numpy(tokenize(short)).long()[None]
with torch.no_grad():
    difference = network.lm_head(network.eval()(tokens)) - theirs.eval()(tokens)["logits"]
n_parameters = sum(parameter.numel() for parameter in network.parameters())
print(f"{n_parameters:,} parameters; largest difference of a logit {difference.abs().max():.1e}")

# %% tags=["check"]
assert difference.abs().max() < 1e-4
assert n_parameters == card["parameters"]

# %% [markdown]
# ## What it read
#
# Sequences only: no location, no name, no image.

# %%
n_short = int((single2_proteins()["sequence"].str.len() <= card["longest"]).sum())
tell(
    f"{card['sequences']:,} sequences of Swiss-Prot, {card['residues'] / 1e6:.0f} million residues, "
    f"each at most {card['longest']:,} long, near-duplicates thinned out; "
    f"{card['held_out_proteins']:,} of them were held out to measure the loss.\n\n"
    f"**Test proteins are among them.** Of the {len(single2_proteins()):,} nuclear or cytoplasmic "
    f"proteins that this book trains and tests on, {n_short:,} are short enough, and "
    f"{card['single2_proteins_among_them']:,} of those stand in that file letter for letter. Their "
    "*sequences* were seen here, never their *labels*. The same is true of the paper: its ESM-2 was "
    "trained on UniRef, which holds all human proteins."
)

# %% tags=["check"]
assert n_short == card["single2_proteins_short_enough"]

# %% [markdown]
# Proteins differ in length, and padding wastes time. Whole proteins are therefore laid side by
# side in rows, longest first, each where it fits best; attention keeps them apart.

# %%
if SEQUENCES == "embedded":
    sequences = [s for s in proteins["sequence"] if len(s) <= ROW_TOKENS - 2]
else:
    opener = lzma.open if SEQUENCES.endswith(".xz") else open
    with opener(SEQUENCES, "rt") as stream:
        sequences = stream.read().split()
packed, documents = pack_rows(sequences, ROW_TOKENS)
lengths = np.array([len(s) + 2 for s in sequences])
shuffled = np.random.default_rng(SEED).permutation(lengths)[: len(lengths) // 8 * 8].reshape(-1, 8)
padded_share = 1 - shuffled.sum() / (shuffled.max(axis=1) * 8).sum()
packed_share = float((packed == PAD).mean())
print(f"{len(sequences):,} proteins in {len(packed):,} rows of {ROW_TOKENS} tokens")
print(f"padding: {padded_share:.1%} in random batches of 8, {packed_share:.1%} packed")

# %% tags=["check"]
assert packed_share < 0.05 < padded_share

# %% [markdown]
# ## What it had to do
#
# ESM's rule: 15 % of the residues are chosen; of those, 80 % are hidden, 10 % replaced by a random
# amino acid, 10 % left as they are. The network has to name all of them.

# %%
generator = torch.Generator().manual_seed(SEED)
masked, targets = mask_tokens(tokens, generator)
chosen = targets[0] >= 0
reads = ["?" if t == MASK else letter for t, letter in zip(masked[0, 1:-1], short, strict=True)]
print(short[:75], "\n" + "".join(reads)[:75])
print(f"{int(chosen.sum())} of {len(short)} chosen, {int((masked == MASK).sum())} hidden")

# %% [markdown]
# ## How it went
#
# Matrices were updated by Muon (momentum, made orthogonal), everything else by AdamW; rows of 1,024
# tokens, 128 of them a step; the learning rate fell linearly over the last 60 % of the time.

# %%
unigram = card["loss_of_residue_frequencies"]
fig, ax = plt.subplots(figsize=(7, 3.4))
curve = recorded[recorded["step"] > 20]
ax.plot(curve["tokens"] / 1e9, curve["training_loss"], "o-", color=PALETTE[5], label="training")
ax.plot(curve["tokens"] / 1e9, curve["held_out_loss"], "o-", color=PALETTE[0], label="held out")
ax.axhline(unigram, color="0.5", linestyle="--", label="residue frequencies")
ax.set(xlabel="tokens read (billions)", ylabel="loss (nats per hidden residue)")
ax.legend()
show(
    fig,
    caption=f"The recorded run: {recorded['step'].iloc[-1]:,} steps on one H100 in ten minutes. "
    "Held out: the first 400 of 2,000 proteins that were never trained on. Both curves lie on each "
    "other: after ten passes, nothing is memorized, and more time would help.",
    alt="Line plot of loss over tokens read; training and held-out curves coincide and fall from "
    "2.6 to 2.26, the dashed line of residue frequencies lies at 2.9.",
)
print(recorded.tail(3).to_string(index=False))

# %% tags=["check"]
last = recorded.iloc[-1]
assert last["held_out_loss"] < 2.42, last["held_out_loss"]
assert abs(last["held_out_loss"] - last["training_loss"]) < 0.02, "it memorizes"

# %% [markdown]
# The run was cut after ten minutes, with the learning rate at 27 % of its peak; one that ends with
# the rate at zero would be a little better still.
#
# ## Going on
#
# The same function, on the proteins of this book. Some homology clusters are held out as a whole.
# *Guess: Swiss-Prot is mostly bacteria. Is the loss on human proteins higher or lower than on
# Swiss-Prot at large?*

# %%
is_used = proteins["sequence"].isin(set(sequences)) if SEQUENCES == "embedded" else []
pool = proteins[is_used] if SEQUENCES == "embedded" else proteins
clusters = np.random.default_rng(SEED).permutation(pool["cluster_30"].unique())
hidden = set(clusters[: len(clusters) // 20])
is_held_out = pool["cluster_30"].isin(hidden)
held_out = pool.loc[is_held_out, "sequence"].tolist()[:60]
training = pool.loc[~is_held_out, "sequence"].tolist() if SEQUENCES == "embedded" else sequences
config = PretrainingConfig(
    n_steps=N_STEPS, row_tokens=ROW_TOKENS, batch_rows=BATCH_ROWS, warmup_steps=3,
    matrix_rate=1e-3, other_rate=1e-4, seed=SEED, held_out_every_s=1e9,
)  # fmt: skip
network = network.to(device).train()
before = held_out_loss(network, held_out)
history = pretrain(network, training, held_out, config)
after = history[-1]["held_out_loss"]
print(f"{len(held_out)} held-out human proteins: {before:.4f} before, {after:.4f} after")
print(f"{history[-1]['tokens']:,} tokens in {history[-1]['seconds']:.0f} s")

# %% tags=["check"]
assert after < before + 0.01, f"training on harms: {before:.4f} -> {after:.4f}"
assert before < unigram, "no better than residue frequencies"

# %% [markdown]
# A few thousand tokens after more than a billion change next to nothing; that the loss stays where
# it is shows that loading, packing, masking and both optimizers fit together. The loss on human
# proteins is higher than on Swiss-Prot at large, most of which are bacterial enzymes with many
# relatives, and which are easier to complete.
#
# For the full run, set `SEQUENCES` to a file of Swiss-Prot sequences, `N_STEPS` to 10,000,
# `BATCH_ROWS` to 128, `ROW_TOKENS` to 1,024, the two rates to their defaults, and start from
# `ESM2().initialize()`. A laptop would need weeks.

# %%
tell(
    "```{admonition} What the paper says / What we see\n"
    "| | paper | here | verdict |\n|---|---|---|---|\n"
    f"| encoder | ESM-2, 650 M parameters, 1,280 numbers | its architecture, "
    f"{n_parameters / 1e6:.1f} M, 320 numbers | scaled down 87 times |\n"
    f"| trained by | its authors, on UniRef50 | this book: {card['tokens'] / 1e9:.1f} billion tokens, "
    f"{card['seconds'] / 60:.0f} minutes | |\n"
    f"| masked loss, held out | not said | {card['held_out_loss']:.3f} nats "
    f"({card['held_out_proteins']:,} proteins) | cannot tell |\n\n"
    "ESM-2's authors report their losses on UniRef50, which is harder than Swiss-Prot: losses on "
    "different sets cannot be compared.\n"
    "```"
)

# %% [markdown]
# ## Recap
#
# - Our weights in fair-esm's class give fair-esm's numbers: the architecture is ESM-2's.
# - Packing wastes almost nothing; 15 % of the residues are chosen and most of them hidden; training
#   and held-out loss fell together.
# - `pretrain` continues from any weights; the shipped ones came from it.
#
# ### Exercises
#
# 1. *Read.* Why is one chosen residue in ten left unchanged, although the network then only has to
#    copy it?
# 2. *Change.* Set `matrix_rate` to 0.02, its value at the height of the run. What happens to the
#    loss in ten steps, and why is that no sign of a bug?
# 3. *Build.* Compute the loss by amino acid. Which are hardest to name, and does frequency explain
#    it?

# %% tags=["solution"]
network.eval()
totals, counts = torch.zeros(33), torch.zeros(33)
with torch.no_grad():
    for number, sequence in enumerate(held_out[:40]):
        row = torch.from_numpy(tokenize(sequence)).long()[None].to(device)
        masked, targets = mask_tokens(row, torch.Generator(device=device).manual_seed(number))
        logits = network.lm_head(network(masked))[0]
        each = torch.nn.functional.cross_entropy(logits, targets[0].clamp(min=0), reduction="none")
        kept = targets[0] >= 0
        totals.index_add_(0, targets[0][kept].cpu(), each[kept].cpu())
        counts.index_add_(0, targets[0][kept].cpu(), torch.ones(int(kept.sum())))
index = [int(tokenize(letter)[1]) for letter in AMINO_ACIDS]
by_letter = pd.Series((totals / counts)[index].numpy(), list(AMINO_ACIDS)).sort_values()
print(
    "3. easiest:",
    by_letter.head(4).round(2).to_dict(),
    "hardest:",
    by_letter.tail(4).round(2).to_dict(),
)
tell(
    "**1.** So that an unmasked residue may be wrong or asked for too: the network has to form an "
    "opinion about every position, as it must when nothing is hidden and vectors are wanted.\n\n"
    "**2.** It rises: at that rate the weights jitter, and only a falling rate lets them settle; "
    "the curve above is steepest where the rate falls."
)

# %%
execution_record(PROFILE, SEED)
