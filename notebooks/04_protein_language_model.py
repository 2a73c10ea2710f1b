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
# # 04 · What does a language model know about a protein it only reads?
#
# deepGPS never sees a protein: it sees a vector that ESM-2 makes of the sequence
# {cite}`deepgps,esm2`. This chapter opens that step. A small ESM-2, trained for this book
# ([appendix A1](A1_training_the_encoder)), guesses hidden residues, is pooled to one vector a
# protein, and is asked whether that vector tells nucleus from cytoplasm better than counting amino
# acids does.
#
# *One minute on two cores if chapter 03 has left its vectors, three if not; 2 GB of memory; no
# network.*
#
# **You will**
#
# - turn a sequence into tokens, hide residues, and score the guesses;
# - pool residue embeddings into one vector, and name the choices in that;
# - compare vectors with amino-acid composition on homology-grouped splits, with intervals.

# %% tags=["parameters"]
PROFILE = "demo"
SEED = 0
ENCODER = "embedded"  # or the path of ESM-2 weights of any size
N_SPLITS = 20
N_EACH = 100  # proteins of each label in the map
WORKERS = 2

# %%
import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA

from deepgps_core.baselines import evaluate_baselines, logistic
from deepgps_core.dataset import AMINO_ACIDS, sha256_of
from deepgps_core.encoders import (
    EMBEDDED_WEIGHTS,
    CompositionEncoder,
    embed_dataset,
    load_encoder,
    window_starts,
)
from deepgps_core.esm2 import MASK, TOKENS, tokenize
from deepgps_core.metrics import classification_metrics
from deepgps_core.plotting import (
    LABEL_COLORS,
    PALETTE,
    execution_record,
    interval_plot,
    plt,
    show,
    tell,
    use_book_style,
)
from deepgps_core.sources.embedded import LABELS, embedded_proteins, single2_dataset
from deepgps_core.splits import repeated_splits
from deepgps_core.statistics import summarize_splits

use_book_style()

# %% [markdown]
# ## Inputs

# %%
dataset, everyone = single2_dataset(), embedded_proteins()
proteins = dataset.proteins
encoder = load_encoder(ENCODER)
network = encoder.network
table_path = dataset.path / "proteins.csv"
tell(
    "| file | source | licence | rows | sha256 |\n|---|---|---|---|---|\n"
    f"| {EMBEDDED_WEIGHTS.name} | this project, trained on Swiss-Prot | MIT "
    f"| {sum(p.numel() for p in network.parameters()):,} parameters "
    f"| `{sha256_of(EMBEDDED_WEIGHTS)[:12]}…` |\n"
    f"| {table_path.name} | {dataset.info.source} | {dataset.info.licence} | {len(proteins):,} "
    f"| `{sha256_of(table_path)[:12]}…` |"
)
print(f"encoder {encoder.name!r}: {len(network.layers)} layers, {encoder.dim} numbers a residue")

# %% [markdown]
# ## What does it read?
#
# Each residue is a token: one of 33 numbers. Two more mark the beginning and the end.

# %%
sequences = everyone.set_index("protein_id")["sequence"]
protein_id = sequences[sequences.str.len().between(110, 140)].index[SEED]
sequence = sequences[protein_id]
tokens = torch.from_numpy(tokenize(sequence)).long()  # (L + 2,)
print(
    protein_id, everyone.set_index("protein_id").loc[protein_id, "gene"], len(sequence), "residues"
)
print(sequence[:12], "->", tokens[:13].tolist(), [TOKENS[t] for t in tokens[:4]])

# %% [markdown]
# ## Can it fill a gap?
#
# Hide one residue, ask for the probabilities of all twenty; then the next, for the whole protein.
# *Guess: how often will its first choice be right? The commonest amino acid, leucine, would be
# right one time in ten.*

# %%
n_residues = len(sequence)
hidden = tokens.repeat(n_residues, 1)  # (L, L + 2), row i hides residue i
where = torch.arange(n_residues)
hidden[where, where + 1] = MASK
with torch.no_grad():
    device = next(network.parameters()).device
    at_mask = torch.cat([
        network(rows.to(device))[range(len(rows)), (rows == MASK).int().argmax(1)]
        for rows in hidden.split(32)
    ])  # fmt: skip
    letters = torch.tensor([int(tokenize(letter)[1]) for letter in AMINO_ACIDS])
    guesses = network.lm_head(at_mask)[:, letters].softmax(dim=1).cpu().numpy()  # (L, 20)
truth = np.array([AMINO_ACIDS.index(letter) for letter in sequence])
print("hidden M at the start, first guesses:",
      [(AMINO_ACIDS[k], round(float(guesses[0, k]), 2)) for k in guesses[0].argsort()[::-1][:3]])  # fmt: skip

# %%
frequency = np.array([everyone["sequence"].str.count(letter).sum() for letter in AMINO_ACIDS])
frequency = frequency / frequency.sum()
p_true = guesses[where, truth]
first_right = (guesses.argmax(axis=1) == truth).mean()
fig, ax = plt.subplots(figsize=(8, 2.8))
ax.bar(where + 1, p_true, width=1.0, color=PALETTE[0], label="language model")
ax.step(where + 1, frequency[truth], where="mid", color=PALETTE[1], label="frequency in human")
ax.set(xlabel=f"hidden residue of {protein_id}", ylabel="probability of the truth")
ax.legend(loc="upper right")
show(
    fig,
    caption=f"Each residue of {protein_id} hidden in turn: what probability the model gives to the "
    f"one that was there. Its first choice is right for {first_right:.0%} of {n_residues} "
    f"residues; the commonest amino acid would be for {(truth == frequency.argmax()).mean():.0%}.",
    alt="Bar chart of the probability of the true residue along the sequence, mostly low with some "
    "peaks, over a step line of residue frequencies.",
)

# %%
loss, blind = -np.log(p_true).mean(), -np.log(frequency[truth]).mean()
tell(
    f"In nats a residue, the average surprise: {loss:.2f} for the model, {blind:.2f} for "
    f"frequencies alone. exp({loss:.2f}) = {np.exp(loss):.1f}: it hesitates as if between that "
    "many equally likely amino acids. A model of this size knows what kind of stretch it reads, "
    "and families it has met often; it does not know every protein by heart."
)

# %% tags=["check"]
assert loss < blind, f"reading does not help: {loss:.2f} against {blind:.2f} nats"

# %% [markdown]
# ## How do many residues become one vector?
#
# The last layer has a vector for each residue; deepGPS takes their mean. The paper does not say
# whether the begin and end tokens count, nor what happens beyond the 1,022 residues that ESM-2 was
# trained on. Here they do not count, and longer proteins are read in overlapping windows.

# %%
with torch.no_grad():
    residues = network(tokens[None].to(device))[0].cpu().numpy()  # (L + 2, D)
by_hand = residues[1:-1].mean(axis=0)
by_encoder = encoder.embed({protein_id: sequence})[protein_id]
print("largest difference between the mean by hand and the encoder:",
      f"{np.abs(by_hand - by_encoder).max():.1e}")  # fmt: skip
with_ends = np.corrcoef(residues.mean(axis=0), by_hand)[0, 1]
print(f"correlation with the mean that counts begin and end: {with_ends:.4f}")
print("windows of a protein of 2,700 residues start at", window_starts(2700))

# %% tags=["check"]
assert np.allclose(by_hand, by_encoder, atol=1e-4)

# %% [markdown]
# ## Do proteins of one place lie together?
#
# Four locations, the same number of proteins each, and the two directions in which their vectors
# differ most. The labels color the map; they did not make it.

# %%
vectors = embed_dataset(dataset, encoder)
rng = np.random.default_rng(SEED)
others = everyone[everyone["label"].isin(LABELS[2:]) & (everyone["sequence"].str.len() < 600)]
drawn = pd.concat(
    [pool[pool["label"] == label].sample(N_EACH, random_state=SEED)
     for pool, names in ((proteins, LABELS[:2]), (others, LABELS[2:])) for label in names]
)  # fmt: skip
missing = drawn[~drawn["protein_id"].isin(list(vectors))]
extra = encoder.embed(dict(zip(missing["protein_id"], missing["sequence"], strict=True)))
X = np.stack([(vectors | extra)[name] for name in drawn["protein_id"]])  # (N, D)
X = (X - X.mean(axis=0)) / X.std(axis=0)
pca = PCA(2, random_state=SEED)
places = pca.fit_transform(X)

# %%
fig, ax = plt.subplots(figsize=(6, 4.4))
for label in LABELS:
    chosen = (drawn["label"] == label).to_numpy()
    ax.scatter(*places[chosen].T, s=14, color=LABEL_COLORS[label], alpha=0.7, label=label)
share = 100 * pca.explained_variance_ratio_
ax.set(xlabel=f"component 1 ({share[0]:.0f} % of variance)",
       ylabel=f"component 2 ({share[1]:.0f} %)")  # fmt: skip
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
show(
    fig,
    caption=f"Principal components of {len(drawn)} protein vectors, {N_EACH} of each location. "
    "Membrane proteins lean away from the others, as their greasy stretches are easy to recognize; "
    "nucleus and cytoplasm overlap. Two dimensions show only part of what 320 hold.",
    alt="Scatter plot of two principal components colored by location; membrane proteins lie to "
    "the upper left on average, nucleus and cytoplasm overlap.",
)

# %%
centers = pd.DataFrame(places).groupby(drawn["label"].to_numpy()).mean()
spread = places.std(axis=0)
distance = pd.DataFrame(
    np.linalg.norm((centers.to_numpy()[:, None] - centers.to_numpy()) / spread, axis=2),
    index=centers.index, columns=centers.index,
)  # fmt: skip
distance.round(2)

# %% tags=["check"]
assert distance.loc["Membrane", "Cytoplasm"] > distance.loc["Nucleus", "Cytoplasm"]

# %% [markdown]
# ## Better than counting?
#
# The same classifier, logistic regression, on two inputs: 20 shares of amino acids, or the vector.
# Relatives are kept together, as in [chapter 03](03_splits_and_leakage). *Guess: which wins, and by
# how much?*

# %%
composition = CompositionEncoder().embed(dataset.sequences())
inputs = {
    name: np.stack([found[p] for p in proteins["protein_id"]])  # (N, 20) or (N, D)
    for name, found in (("composition", composition), ("language model", vectors))
}
estimators = {name: (name, logistic()) for name in inputs}
splits = repeated_splits(proteins, "grouped", N_SPLITS, SEED)
predictions = evaluate_baselines(estimators, inputs, proteins, splits, WORKERS)
auroc = predictions.groupby(["split", "baseline"])[["label", "p_Cytoplasm"]].apply(
    lambda rows: classification_metrics(rows["label"], rows["p_Cytoplasm"])["auroc"]
).unstack()  # fmt: skip
summary = {name: summarize_splits(auroc[name]) for name in inputs}
gain = summarize_splits(auroc["language model"] - auroc["composition"])

# %%
fig, ax = plt.subplots(figsize=(6.5, 1.9))
interval_plot(
    ax, list(summary), [s.mean for s in summary.values()],
    [(s.low, s.high) for s in summary.values()], reference=0.5, reference_name="chance",
)  # fmt: skip
ax.set(xlabel="AUROC, nucleus or cytoplasm, held-out proteins")
show(
    fig,
    caption=f"Logistic regression on {len(proteins):,} proteins, means over {N_SPLITS} "
    "homology-grouped splits; bars are 95 % intervals that allow for shared proteins. The language "
    f"model gains {gain.mean:.3f} ({gain.low:.3f} to {gain.high:.3f}) over composition.",
    alt="Two horizontal intervals of AUROC; the language model lies to the right of composition, "
    "both right of the dashed line of chance.",
)

# %% tags=["check"]
assert gain.low > 0, f"not distinguishable from composition: {gain.low:.3f} to {gain.high:.3f}"

# %% [markdown]
# ## What the paper says, what we see

# %%
plm, counted = summary["language model"], summary["composition"]
tell(
    "```{admonition} What the paper says / What we see\n"
    "| | paper | here | verdict |\n|---|---|---|---|\n"
    f"| encoder | ESM-2 650M, 1,280 numbers (Methods) | ESM-2's shape, 7.5M, {encoder.dim} numbers "
    "| scaled down |\n"
    "| pooling | mean over residues; ends and long proteins not said | mean without ends, windows "
    "past 1,022 | named choice |\n"
    f"| AUROC, nucleus or cytoplasm | 0.761, 63 OpenCell proteins (Table 1) | {plm.mean:.3f} "
    f"({plm.low:.3f} to {plm.high:.3f}), {len(proteins) // 5} held-out proteins a split | cannot "
    "tell: other proteins |\n"
    f"| what composition gives | not said | {counted.mean:.3f} ({counted.low:.3f} to "
    f"{counted.high:.3f}) | language model better by {gain.mean:.3f} |\n\n"
    "deepGPS's label comes from this vector alone, so these numbers bound what its images can add. "
    "The sequences, not the labels, of most held-out proteins were in what the language model read; "
    "the same holds for the paper's ESM-2.\n"
    "```"
)

# %% [markdown]
# ## Recap
#
# - A sequence is a row of tokens; the model names hidden ones better than frequencies can.
# - A protein's vector is the mean of its residues' embeddings; whether end tokens count and what
#   happens to long proteins are choices, named here.
# - On proteins without relatives in training, vectors beat composition. Much of what is left
#   unknown is not in a small model's reach, and perhaps not in the sequence.
#
# ### Exercises
#
# 1. *Read.* Why must the mean leave out padding, and how would a model that forgot this betray
#    itself when batches are composed differently?
# 2. *Change.* Shuffle the residues of each sequence before embedding. Composition stays the same;
#    how far does the vector move, compared with the distance between two proteins?
# 3. *Build.* Use `load_encoder("embedded+mean-layers")`, which joins the means of three layers, in
#    the last comparison. Is it worth three times the width?

# %% tags=["solution"]
tell("**1.** Padding embeds to something too; its share depends on the longest protein of the batch, "
     "so the same protein would get another vector in other company.")  # fmt: skip
some = proteins[proteins["sequence"].str.len() < 250].head(60)
real = dict(zip(some["protein_id"], some["sequence"], strict=True))
mixed = {name: "".join(rng.permutation(list(text))) for name, text in real.items()}
both = [np.stack(list(encoder.embed(which).values())) for which in (real, mixed)]
moved = np.linalg.norm(both[0] - both[1], axis=1).mean()
apart = np.linalg.norm(both[0][1:] - both[0][:-1], axis=1).mean()
print(f"2. shuffling moves a vector by {moved:.2f}; two proteins are {apart:.2f} apart")

# %% [markdown]
# Next: [05 · structure point clouds](05_structure_point_clouds).

# %%
execution_record(PROFILE, SEED)
