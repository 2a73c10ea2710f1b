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
# # 06 · deepGPS-single-2: can it place a protein it has never seen?
#
# Two inputs, two outputs: a sequence and a nucleus go in; a label, *cytoplasm* or *nucleus*, and
# a picture of the protein come out {cite}`deepgps`. This chapter trains the published network
# on the spot (a smaller one under `demo`), and asks two questions of proteins it was not trained
# on. Is the label right more often than counting amino acids makes it? And does the picture show
# what the *sequence* says, or what the *nucleus* image suggests?
#
# *Four to eight minutes on two cores the first time (two trainings), seconds of training after;
# 3 GB of memory; no network.*
#
# **You will**
#
# - train the same model on a random and on a homology-grouped split;
# - read its scores per protein, with intervals, next to predictions that need no network;
# - paint every held-out sequence into every held-out nucleus, and see which of the two decides.

# %% tags=["parameters"]
PROFILE = "demo"
DATASET = "embedded-demo"
SEED = 0
ENCODER = "embedded"  # whose sequence vectors
WIDTH = 12  # channels at full resolution; 64 as published
DEPTH = 3  # halvings of the image; 4 as published
CROP_SIZE_PX = 104  # side of the images; 208 as published
HIDDEN_DIM = 256  # of the projected sequence vector; 1024 as published
EPOCHS = 6  # 50 as published
BATCH_SIZE = 16  # 32 as published
LEARNING_RATE = 4e-3  # of the image branch; 2e-4 as published
LR_GAMMA = 0.8  # times after each epoch; 0.9 as published
SEQUENCE_LEARNING_RATE = 2e-5  # of projection and label head; 2e-4 as published
N_SPLITS = 20  # of each kind, for the label head alone
N_CROSS = 36  # held-out proteins in the cross-assay, at most

# %%
import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

from deepgps_core.baselines import composition_svm, evaluate_baselines, zero_rule
from deepgps_core.crops import load_crops
from deepgps_core.cross_assay import (
    assay_summary,
    control_table,
    crop_masks,
    cross_assay,
    first_crops,
    follow_table,
    paint,
    ring_width_px,
    variance_shares,
)
from deepgps_core.dataset import sha256_of
from deepgps_core.encoders import embed_dataset, load_encoder
from deepgps_core.evaluation import evaluate
from deepgps_core.label_head import LabelHeadClassifier
from deepgps_core.metrics import auroc
from deepgps_core.model import DeepGPS, DeepGPSConfig
from deepgps_core.plotting import (
    LABEL_COLORS,
    PALETTE,
    channel_composite,
    draw_image,
    execution_record,
    interval_plot,
    panels,
    plt,
    show,
    tell,
    use_book_style,
)
from deepgps_core.preprocessing import prepare
from deepgps_core.sources.embedded import ensure_dataset, single2_proteins
from deepgps_core.splits import make_split, repeated_splits
from deepgps_core.statistics import (
    Interval,
    bootstrap_interval,
    bootstrap_intervals,
    summarize_splits,
)
from deepgps_core.tables import scaled_down
from deepgps_core.training import TrainingConfig, fit, predict_crops
from deepgps_core.trivial import TRIVIAL_PREDICTIONS

use_book_style()

# %% [markdown]
# ## Inputs
#
# Crops from chapter 02 and vectors from chapter 04; what is missing is made here. Of the
# dataset's proteins, single-2 uses those that are only cytoplasmic or only nuclear.

# %%
dataset = prepare(ensure_dataset(DATASET, seed=SEED))
vectors = embed_dataset(dataset, load_encoder(ENCODER))
LABELS = ("Cytoplasm", "Nucleus")
proteins = dataset.proteins[dataset.proteins["label"].isin(LABELS)].reset_index(drop=True)
kind_of_images = dataset.info.images
n_crops = dataset.crops["protein_id"].isin(proteins["protein_id"]).sum()
tell(
    "| file | source | licence | rows | sha256 |\n|---|---|---|---|---|\n"
    + "\n".join(
        f"| {name}.csv | {dataset.info.source} | {dataset.info.licence} | {len(table):,} "
        f"| `{sha256_of(dataset.path / f'{name}.csv')[:12]}…` |"
        for name, table in (("proteins", dataset.proteins), ("crops", dataset.crops))
    )
    + f"\n\nOf these, {len(proteins)} proteins and {n_crops:,} crops are single-2's "
    f"({' and '.join(f'{n} {label.lower()}' for label, n in proteins['label'].value_counts().items())}"
    f"). Sequences and labels are real; images are **{kind_of_images}**."
)

# %% [markdown]
# ## What is in the network?
#
# `head` turns the sequence vector into a shorter one and into a label; it never sees the image.
# `encoder` looks at the nucleus, `decoder` draws, and `fusion` is where the sequence enters: an
# attention whose queries are image positions and whose only key is the sequence vector. What an
# attention with a single key can do is a chapter of its own.

# %%
config = DeepGPSConfig(
    sequence_dim=len(next(iter(vectors.values()))), hidden_dim=HIDDEN_DIM, width=WIDTH,
    depth=DEPTH, crop_size_px=CROP_SIZE_PX, n_classes=2,
)  # fmt: skip


def count_parameters(config: DeepGPSConfig) -> dict[str, int]:
    """Count the parameters of each part, without making room for them."""
    with torch.device("meta"):
        model = DeepGPS(config)
    return {
        name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()
    }


parts = pd.DataFrame(
    {"published": count_parameters(DeepGPSConfig()), "here": count_parameters(config)}
)
parts.loc["all"] = parts.sum()
parts.map("{:,}".format)

# %% tags=["check"]
assert parts.loc["all", "published"] == 37_209_155, "not the published computation"

# %% [markdown]
# ## Train twice
#
# One split is random, as in the paper. The other keeps each homology cluster on one side. An
# eighth of the training side validates: it chooses the epoch whose weights are kept, by how well
# images are drawn. The test proteins are not looked at until training is over.

# %%
training_config = TrainingConfig(
    encoder=ENCODER, labels=LABELS, epochs=EPOCHS, batch_size=BATCH_SIZE,
    learning_rate=LEARNING_RATE, lr_gamma=LR_GAMMA, weight_decay=0.01, seed=SEED,
    sequence_learning_rate=SEQUENCE_LEARNING_RATE, select_by="image_loss",
    standardize_features=True, precision="auto",
)  # fmt: skip
kinds = ("random", "grouped")
runs = {}
for kind in kinds:
    name = f"{kind}-{SEED}-single-2"
    dataset.write_split(name, make_split(proteins, kind, SEED))
    runs[kind] = fit(dataset, name, config, training_config, replace=True)
    print(f"{kind:8s} {runs[kind].history['seconds'].sum():4.0f} s, best epoch",
          runs[kind].history["validation_image_loss"].idxmin() + 1)  # fmt: skip

# %%
fig, axes = plt.subplots(1, 2, figsize=(7, 2.8))
for kind, color in zip(kinds, PALETTE, strict=False):
    history = runs[kind].history
    for ax, what in zip(axes, ("image_loss", "label_loss"), strict=True):
        epochs = history["epoch"] + 1
        ax.plot(epochs, history[f"train_{what}"], ":", color=color)
        ax.plot(epochs, history[f"validation_{what}"], color=color, label=kind)
axes[0].set(xlabel="epoch", ylabel="L1 (intensities in [0, 1])")
axes[1].set(xlabel="epoch", ylabel="cross-entropy (nats)")
axes[1].axhline(np.log(2), color="0.6", linestyle="--")
axes[0].legend()
show(
    fig,
    caption="Losses by epoch: left of images, right of labels; solid on validation proteins, "
    "dotted on training crops. Dashed: a label head that always says one half. "
    f"{kind_of_images.capitalize()} images.",
    alt="Two line charts of losses over epochs, images left and labels right, on training and "
    "validation proteins of a random and a grouped split.",
)
for kind in kinds:
    history = runs[kind].history
    losses, kept = history["validation_label_loss"], history["validation_image_loss"].idxmin()
    tell(
        f"- **{kind}**: the epoch kept for its images is {kept + 1} of {len(losses)}; its label "
        f"loss on validation proteins is {losses[kept]:.2f}, the lowest {losses.min():.2f} (epoch "
        f"{losses.idxmin() + 1}); one half for all gives ln 2 = {np.log(2):.2f}."
        + (" The label head kept is worse than that: it is too sure of itself."
           if losses[kept] > np.log(2) else "")
    )  # fmt: skip

# %% [markdown]
# ## Is the label right?
#
# The unit is the protein: a label depends on the sequence alone, so all crops of a protein get
# the same one, and counting crops, as the paper does, counts one answer many times.
# *Guess before you look: with so few test proteins, how wide is the interval of the accuracy?*

# %%
evaluations = {kind: evaluate(runs[kind], dataset, seed=SEED) for kind in kinds}
PAPER = {"accuracy": 0.744, "auroc": 0.761, "psnr_db": 14.5, "ssim": 0.20}


def with_interval(row: pd.Series, digits: int = 2) -> str:
    """Write an estimate and its interval."""
    low, high = row["low"], row["high"]
    return f"{row['estimate']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


label_scores = {kind: evaluations[kind].labels.set_index("metric") for kind in kinds}
pd.DataFrame(
    {
        (kind, column): (
            scores.apply(with_interval, axis=1) if column == "per protein"
            else scores["per_crop"].round(2)
        )
        for kind, scores in label_scores.items() for column in ("per protein", "per crop")
    }
)  # fmt: skip

# %%
n_test = {kind: len(evaluations[kind].proteins) for kind in kinds}
majority = {
    kind: evaluations[kind].proteins["label"].value_counts(normalize=True).max() for kind in kinds
}
wide = {kind: label_scores[kind].loc["auroc"] for kind in kinds}
tell(
    "\n".join(
        f"- **{kind}**: {n_test[kind]} test proteins. Answering with the more frequent class gives "
        f"an accuracy of {majority[kind]:.2f}, chance an AUROC of .50. The interval of the AUROC "
        f"is {wide[kind]['high'] - wide[kind]['low']:.2f} wide."
        for kind in kinds
    )
)

# %% [markdown]
# One draw of some dozens of test proteins says little, whichever way it comes out: the paper's 63
# have the same problem. So the question is asked again with many draws.
#
# ## Does the language model beat counting amino acids?
#
# As the label head sees no image, it can be trained alone in a second, on as many splits as we
# like. Its rival counts the 20 amino acids and gives them to a support vector machine
# {cite}`huasun`. Both train and test on exactly the same proteins, so they are compared split by
# split; the interval of a mean over splits takes into account that splits share proteins.

# %%
inputs = {
    "sequence": proteins["sequence"].to_numpy(object),
    "vector": np.stack([vectors[name] for name in proteins["protein_id"]]),  # (N, D)
}
label_head = LabelHeadClassifier(
    hidden_dim=HIDDEN_DIM, epochs=20, learning_rate=3e-4, standardize=True,
    validation_fraction=0, seed=SEED,
)  # fmt: skip
classifiers = {
    "label head": ("vector", label_head),
    "composition + SVM": ("sequence", composition_svm()),
    "zero rule": ("sequence", zero_rule()),
}
repeated = {
    kind: evaluate_baselines(
        classifiers, inputs, proteins, repeated_splits(proteins, kind, N_SPLITS, SEED)
    )
    for kind in kinds
}


def auroc_by_split(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the protein-level AUROC of each split (rows) and classifier (columns)."""
    groups = predictions.groupby(["split", "baseline"])[["label", "p_Cytoplasm"]]
    scores = groups.apply(lambda rows: auroc(rows["label"] == "Cytoplasm", rows["p_Cytoplasm"]))
    return scores.unstack()[list(classifiers)]


by_split = {kind: auroc_by_split(repeated[kind]) for kind in kinds}
rows = []
for kind in kinds:
    scores = by_split[kind]
    for name in classifiers:
        gain = summarize_splits(scores["label head"] - scores[name])
        rows.append((kind, name, *summarize_splits(scores[name])[:4], *gain[:1], *gain[2:4]))
columns = ["split", "classifier", "AUROC", "sd", "low", "high", "gain", "gain low", "gain high"]
label_table = pd.DataFrame(rows, columns=columns).set_index(["split", "classifier"])
label_table.round(3)

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.5, 2.2), sharex=True)
for ax, kind in zip(axes, kinds, strict=True):
    table = label_table.loc[kind]
    interval_plot(
        ax, list(table.index), table["AUROC"], list(zip(table["low"], table["high"], strict=True)),
        colors=[PALETTE[0], PALETTE[4], "0.5"], reference=PAPER["auroc"], reference_name="paper",
    )  # fmt: skip
    ax.set_xlabel(f"AUROC, {kind} splits")
show(
    fig,
    caption=f"Protein-level AUROC of nucleus against cytoplasm, mean of {N_SPLITS} splits of each "
    f"kind of the same {len(proteins)} real proteins, with 95 % intervals (corrected for splits "
    "that share proteins). No image is involved. The paper's value is of another set of proteins.",
    alt="Two interval plots; the label head is a little right of composition in both, the zero "
    "rule is at one half.",
)

# %%
tell(
    "\n".join(
        f"- **{kind}** splits: the label head is better by "
        f"{row['gain']:.3f} ({row['gain low']:.3f} to {row['gain high']:.3f}), in "
        f"{int((by_split[kind]['label head'] > by_split[kind]['composition + SVM']).sum())} of "
        f"{N_SPLITS} splits."
        for kind in kinds
        for row in [label_table.loc[(kind, "composition + SVM")]]
    )
)

# %% tags=["check"]
KNOWN = DATASET == "embedded-demo"  # of other data nobody knows beforehand what comes out
for kind in kinds if KNOWN else ():
    assert label_table.loc[(kind, "label head"), "low"] > 0.5, f"no better than chance: {kind}"
    assert label_table.loc[(kind, "composition + SVM"), "gain"] > 0, f"composition wins: {kind}"

# %%
better = [kind for kind in kinds if label_table.loc[(kind, "label head"), "low"] > 0.5]
ahead = [kind for kind in kinds if label_table.loc[(kind, "composition + SVM"), "gain"] > 0]
tell(
    "The label head is better than chance, whole interval, on "
    f"{' and on '.join(better) or 'neither kind of'} splits. The mean gain over composition is positive on {' and on '.join(ahead) or 'neither kind of'} "
    "splits. Whether its interval excludes zero is to be read off above: with "
    f"{len(proteins)} proteins, a few hundredths are near the limit of what can be seen. "
    f"Chapter 03 trains on {len(single2_proteins()):,}."
)

# %% [markdown]
# ## Are the images any good?
#
# The paper reports a mean PSNR of 14.5 dB and an SSIM of 0.20, and nothing to compare them with.
# Six predictions that draw nothing are beside ours:

# %%
tell(
    "| prediction | what it is |\n|---|---|\n"
    + "\n".join(f"| {name} | {what} |" for name, what in TRIVIAL_PREDICTIONS.items())
)

# %%
image_scores = {kind: evaluations[kind].images for kind in kinds}
fig, axes = plt.subplots(2, 2, figsize=(8, 5), sharex="row", sharey=True)
for i, (metric, unit) in enumerate((("psnr_db", "PSNR (dB)"), ("ssim", "SSIM"))):
    for ax, kind in zip(axes[i], kinds, strict=True):
        table = image_scores[kind][image_scores[kind]["metric"] == metric]
        interval_plot(
            ax, list(table["prediction"]), table["estimate"],
            list(zip(table["low"], table["high"], strict=True)),
            colors=[PALETTE[0], *["0.45"] * (len(table) - 1)],
            reference=PAPER[metric], reference_name="paper",
        )  # fmt: skip
        ax.set_xlabel(f"{unit}, {kind} split")
show(
    fig,
    caption=f"Image scores on held-out proteins ({n_test['random']} random, {n_test['grouped']} "
    f"grouped; {kind_of_images} images), mean of per-protein means with 95 % bootstrap intervals "
    "over proteins. Gray: predictions that draw nothing. The paper's values are of measured images "
    "and of crops.",
    alt="Four interval plots of deepGPS, at the top, and six trivial predictions: PSNR above, SSIM "
    "below, random split left, grouped right.",
)

# %%
gains = pd.concat(
    [table.assign(split=kind) for kind, table in image_scores.items()], ignore_index=True
)
gains = gains[(gains["metric"] == "psnr_db") & (gains["prediction"] != "deepGPS")]
gains["better by (dB)"] = gains.apply(
    lambda row: f"{row['gain']:.2f} ({row['gain_low']:.2f} to {row['gain_high']:.2f})", axis=1
)
gains.pivot(index="prediction", columns="split", values="better by (dB)").loc[
    list(TRIVIAL_PREDICTIONS), list(kinds)
]

# %% tags=["check"]
for name in ("training mean", "nucleus copied", "class mean, shuffled"):
    low = gains.loc[gains["prediction"] == name, "gain_low"]
    assert not KNOWN or (low > 0).all(), f"images do not beat {name!r}: {low.tolist()}"

# %%
beaten = {kind: int((gains[gains["split"] == kind]["gain_low"] > 0).sum()) for kind in kinds}
tell(
    "With an interval clear of zero, it beats "
    + " and ".join(f"{beaten[k]} of {len(TRIVIAL_PREDICTIONS)} ({k} split)" for k in kinds)
    + ". A gain over all of them would say that the network uses its inputs, not which: a picture "
    "can gain several decibels by putting dark where no cell is, which the nucleus alone tells."
)

# %% [markdown]
# ## What does it draw?
#
# Chosen by rule: of the held-out proteins of the grouped split, those with the best, the median
# and the worst PSNR, and of each the crop nearest to its own mean.

# %%
run, evaluation = runs["grouped"], evaluations["grouped"]
crops = load_crops(
    dataset, list(evaluation.proteins["protein_id"]), encoder=ENCODER, labels=LABELS,
    crop_size_px=CROP_SIZE_PX,
)  # fmt: skip
drawn = np.concatenate([p.image[:, 0].float().cpu() for _, p in predict_crops(run.model, crops)])
own = evaluation.crops[evaluation.crops["prediction"] == "deepGPS"].set_index("crop_id")
ranked = evaluation.proteins.sort_values("psnr_db", ascending=False, ignore_index=True)
chosen = ranked.iloc[[0, 1, len(ranked) // 2 - 1, len(ranked) // 2, -2, -1]]
ranks = ["best", "second", "median", "median", "second worst", "worst"]
gene = dataset.proteins.set_index("protein_id")["gene"]

fig, axes = panels(4, 6, panel_inches=1.45)
for column, (rank, protein) in enumerate(zip(ranks, chosen.itertuples(), strict=True)):
    of_protein = own.loc[own["protein_id"] == protein.protein_id, "psnr_db"]
    row = crops.crop_ids.index((of_protein - of_protein.mean()).abs().idxmin())
    nucleus, target = crops.images[row].numpy() / 255
    for ax, image in zip(axes[:3, column], (nucleus, target, drawn[row]), strict=True):
        draw_image(ax, image)
    axes[3, column].imshow(channel_composite(nucleus, drawn[row]))
    axes[0, column].set_title(
        f"{rank}\n{gene[protein.protein_id]}\n{protein.psnr_db:.1f} dB", fontsize="x-small"
    )
    axes[3, column].set_xlabel(
        f"is {protein.label.lower()}\nsays {protein.predicted_label.lower()}", fontsize="x-small"
    )
for ax, name in zip(axes[:, 0], ("nucleus", "protein", "generated", "overlay"), strict=True):
    ax.set_ylabel(name, fontsize="small")
show(
    fig,
    caption=f"Held-out proteins of the grouped split, chosen by rank of PSNR. Rows: nucleus and "
    f"protein ({kind_of_images}), the generated protein image, and nucleus (blue) with the "
    "generated protein (orange). All gray values from 0 to 1. Generated images are smooth: L1 is "
    "least for the median of all pictures that would fit. Checkered or blank patches, where there are "
    "any, are artefacts of the network.",
    alt="Grid of cell images in six columns from best to worst, with smooth generated images "
    "below grainy originals.",
)

# %% [markdown]
# ## The cross-assay: sequence or nucleus?
#
# The paper paints four sequences into four nuclei, both chosen by hand, and finds that the
# picture follows the sequence (its Figure 2e). Here the four are chosen by rule, two of each
# class with the median PSNR; then many more are painted, each into all the others' nuclei.

# %%
four = []
for label in LABELS:
    of_class = ranked[ranked["label"] == label].reset_index(drop=True)
    four += list(of_class["protein_id"].iloc[[len(of_class) // 2 - 1, len(of_class) // 2]])
of_four = first_crops(crops, four)
nuclei, originals = (of_four.images.numpy() / 255).swapaxes(0, 1)

fig, axes = panels(5, 5, panel_inches=1.45)
axes[0, 0].set_visible(False)
for i, (name, row) in enumerate(zip(four, of_four.protein_index.tolist(), strict=True), start=1):
    draw_image(axes[0, i], nuclei[i - 1])
    axes[0, i].set_title(f"nucleus of\n{gene[name]}", fontsize="x-small")
    draw_image(axes[i, 0], originals[i - 1])
    axes[i, 0].set_ylabel(f"{gene[name]}\n{LABELS[(i - 1) // 2].lower()}", fontsize="x-small")
    for ax, image in zip(axes[i, 1:], paint(run.model, of_four, row), strict=True):
        draw_image(ax, image)
axes[1, 0].set_title("protein itself", fontsize="x-small")
show(
    fig,
    caption="Four held-out sequences (rows) painted into four held-out nuclei (columns); on the "
    f"diagonal, each into its own. First column: the {kind_of_images} protein image; top row: the "
    "nucleus given. Same gray values everywhere. Checkered or blank patches, where there are "
    "any, are artefacts of the network.",
    alt="Five by five grid of images: nuclei on top, proteins at the left, and sixteen generated "
    "images, one for each pair; those of a column share the shape of the nucleus.",
)

# %% [markdown]
# Eyes are generous. One number a picture, then: how bright is the protein inside the nucleus,
# relative to a ring around it? *Guess: of the variation of this ratio over all pairs, which share
# belongs to the sequence, and which to the nucleus?*

# %%
ring_px = ring_width_px(dataset, CROP_SIZE_PX)
assays = {}
for kind in kinds:
    table = evaluations[kind].proteins.sort_values(["label", "protein_id"])
    table = table[table["protein_id"].isin(evaluations[kind].crops["protein_id"])]
    table = table[:: -(-len(table) // N_CROSS)]
    of_kind = load_crops(
        dataset, list(table["protein_id"]), encoder=ENCODER, labels=LABELS,
        crop_size_px=CROP_SIZE_PX,
    )  # fmt: skip
    of_each = first_crops(of_kind, list(table["protein_id"]))
    masks = crop_masks(dataset, of_each.crop_ids, CROP_SIZE_PX)  # (N, H, W)
    assays[kind] = cross_assay(
        runs[kind].model, of_each, masks, table["label"].to_numpy(str), ring_px=ring_px
    )
    print(f"{kind}: {len(table)} of {n_test[kind]} held-out proteins, {len(table) ** 2:,} pictures")
assay = assays["grouped"]
names, labels, log_ratio = list(assay.protein_ids), assay.labels, assay.log_ratio

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6), width_ratios=[1.25, 1])
limit = np.abs(log_ratio).max()
drawn_matrix = left.imshow(log_ratio, cmap="RdBu_r", vmin=-limit, vmax=limit)
edge = (labels == LABELS[0]).sum() - 0.5
left.axhline(edge, color="black", linewidth=0.8)
left.axvline(edge, color="black", linewidth=0.8)
ticks = [edge / 2, (edge + len(names)) / 2]
left.set_xticks(ticks, [f"{x.lower()}'s" for x in LABELS])
left.set_yticks(ticks, [x.lower() for x in LABELS], rotation=90, va="center")
left.set(xlabel="whose nucleus", ylabel="whose sequence")
fig.colorbar(drawn_matrix, ax=left, label="log2 (nucleus / ring)", shrink=0.85)
for label in LABELS:
    of_class = labels == label
    right.scatter(assay.original_log_ratio[of_class], np.diag(log_ratio)[of_class], s=18,
                  color=LABEL_COLORS[label], label=label.lower())  # fmt: skip
ends = [assay.original_log_ratio.min(), assay.original_log_ratio.max()]
right.plot(ends, ends, color="0.6", linestyle="--", linewidth=1)
right.set(xlabel=f"of the {kind_of_images} image", ylabel="of the generated image")
right.legend(loc="upper left")
show(
    fig,
    caption=f"Nuclear ratio, log2. Left: each of {len(names)} held-out sequences (rows) painted "
    f"into each of their nuclei (columns). Right: each protein in its own nucleus, against the "
    f"{kind_of_images} image; dashed: equal. Grouped split.",
    alt="Left, a square heat map of ratios, sequences by nuclei, in blocks of the two classes; "
    "right, a scatter plot of generated against original ratios with the diagonal dashed.",
)

# %% [markdown]
# Three numbers on it. The variance, split into rows, columns and what neither explains. The share
# of swaps that **follow the sequence**: painted into another's nucleus, is the ratio nearer to
# what the sequence has in its own nucleus, or to what that nucleus has with its own sequence?
# And whether the picture says what the label head says. Proteins are rows and columns at once, so
# the intervals come from drawing proteins, with all their pairs.

# %%
shares = variance_shares(assay, seed=SEED)
print("share of the variance: " + ", ".join(f"{name} {shares[name]:.2f}" for name in shares))
follows = follow_table(assay, seed=SEED).set_index("pairs")
for pairs, row in follows.iterrows():
    print(f"swaps that follow the sequence, {pairs:15s} {row['share']:.2f} "
          f"({row['low']:.2f} to {row['high']:.2f}), {row['n_pairs']:.0f} pairs")  # fmt: skip
mean_of = {
    label: bootstrap_interval(log_ratio[labels == label].mean(axis=1), seed=SEED)
    for label in LABELS
}
for label in LABELS:
    print(f"mean log2 ratio painted from {label.lower():9s} sequences: {mean_of[label]:.2f}")
p_nucleus = evaluation.proteins.set_index("protein_id")["p_Nucleus"][names].to_numpy()
(belief,) = bootstrap_intervals(
    lambda draw: np.array([spearmanr(p_nucleus[draw], log_ratio[draw].mean(axis=1)).statistic]),
    np.arange(len(names)), seed=SEED,
)  # fmt: skip
print(f"rank correlation of the label head's P(nucleus) with the painted ratio: {belief:.2f}")

# %% tags=["check"]
if KNOWN:
    assert shares["sequence"].estimate > shares["nucleus"].estimate, "the nucleus decides more"
    assert follows.loc["all", "low"] > 0.5, "pictures do not follow the sequence"
assert not KNOWN or mean_of["Nucleus"].estimate > mean_of["Cytoplasm"].estimate
#: with one key, the bottleneck does not see the nucleus at all: sequences act everywhere alike
assert not KNOWN or shares["both"].estimate < 0.25

# %% [markdown]
# Following the sequence is not being right: the picture follows what the network *thinks* of it.
# So three more numbers, on the paper's kind of split, too. *Gap*: the painted ratio of nuclear
# sequences minus that of cytoplasmic ones. *Side*: the share of pictures whose ratio is nearer to
# the original images' mean of the sequence's true label than to that of the other label. *Swap*:
# how much more a sequence of the other class costs than one of the same class.

# %%
summary = {kind: assay_summary(assays[kind], seed=SEED) for kind in kinds}
most = {kind: max(np.mean(assays[kind].labels == label) for label in LABELS) for kind in kinds}
meaning = {
    "variance": "share of the variance that is the sequence's",
    "gap": "gap (log2 ratio), nothing: 0",
    "side": "side, chance: 0.50, majority: "
    + " and ".join(f"{most[kind]:.2f} ({kind})" for kind in kinds),
    "swap": "swap across minus within classes (dB), nothing: 0",
}
tell(
    f"| | {' | '.join(f'{kind} split' for kind in kinds)} |\n|---|---|---|\n"
    + "\n".join(
        f"| {text} | {' | '.join(f'{summary[kind][name]:.2f}' for kind in kinds)} |"
        for name, text in meaning.items()
    )
)


def verdict(interval: Interval, yes: str, no: str, neither: str) -> str:
    """Choose the words for an interval above zero, below it, or around it."""
    return yes if interval.low > 0 else no if interval.high < 0 else neither


# %%
sequence_decides = {k: shares_of["variance"].low > 0.5 for k, shares_of in summary.items()}
tell(
    "\n".join(
        f"- **{kind}** split: the sequence decides "
        + ("most" if sequence_decides[kind] else "not clearly most")
        + " of what varies; "
        + verdict(found["gap"], "nuclear sequences are painted more nuclear, as they should be",
                  "the classes are painted **reversed**, nuclear sequences less nuclear",
                  "nuclear sequences are **not** measurably painted more nuclear than others")
        + f"; {found['side'].estimate:.0%} of the pictures are on the right side, "
        + verdict(Interval(*np.subtract(found["side"], 0.5)),
                  "more than", "fewer than", "not clearly other than")
        + " chance; a swap across classes costs "
        + verdict(found["swap"], "more than", "less than", "not measurably other than")
        + " one within."
        for kind, found in summary.items()
    )
    + "\n\nThe paper's sixteen pictures can show the first of these only; the other three say "
    "whether it is of use. A nucleus that carries no hint of the class, as in simulated images by construction, "
    "leaves nothing but the sequence to follow; in measured images that is not given."
)  # fmt: skip

# %% [markdown]
# ### What is each input worth?
#
# A ratio that follows the sequence need not be the right one. So the same pictures are compared
# with the {term}`held-out protein`'s own image, once with both inputs and then with one taken away.
# A swap can be unlucky; the two *only* rows are less so: each is the mean of this model's pictures
# over all strangers. That is not the best that can be drawn without the missing input; a network
# trained without it might do better. *Guess: how many decibels does a protein's own sequence buy?*

# %%
controls = control_table(assay, seed=SEED)
fig, ax = plt.subplots(figsize=(6.5, 2.9))
interval_plot(
    ax, list(controls["control"]), controls["psnr_db"],
    list(zip(controls["low"], controls["high"], strict=True)),
    colors=[PALETTE[0], *[PALETTE[1] if "sequence s" in x else PALETTE[2] if "swapped" in x
            else "0.45" for x in controls["control"][1:]]],
    reference=controls["psnr_db"].iloc[0], reference_name="own inputs",
)  # fmt: skip
ax.set_xlabel("PSNR to the protein's own image (dB)")
show(
    fig,
    caption=f"What the pictures of the cross-assay are worth, mean over {len(names)} held-out "
    f"proteins with 95 % intervals ({kind_of_images} images, grouped split, one crop each). Swaps "
    "are means over all partners; only: the mean picture over all strangers. Nucleus swapped and "
    "sequence only also lose the cell's outline, which no protein model could guess.",
    alt="Interval plot of PSNR for seven controls: own inputs at the top, then swapped sequences "
    "and nuclei, then one input only; a dashed line marks own inputs.",
)

# %%
controls = controls.set_index("control")


def cost(name: str) -> str:
    """Write what a control costs."""
    row = controls.loc[name]
    return f"{row['cost_db']:.2f} dB ({row['cost_low']:.2f} to {row['cost_high']:.2f})"


tell(
    "Paired within proteins, own inputs minus the control:\n\n"
    f"- another sequence costs {cost('sequence swapped')}: within the class "
    f"{cost('sequence swapped within classes')}, across classes "
    f"{cost('sequence swapped across classes')};\n"
    f"- no sequence at all costs {cost('nucleus only')};\n"
    f"- another nucleus costs {cost('nucleus swapped')}, no nucleus {cost('sequence only')}."
)

# %% tags=["check"]
assert not KNOWN or controls.loc["nucleus swapped", "cost_low"] > 0, "the nucleus buys nothing"
across, within = (
    controls.loc[f"sequence swapped {x} classes", "cost_db"] for x in ("across", "within")
)
assert not KNOWN or across > within, "a swap within the class costs more than one across classes"
#: refused by the demonstration: that a protein's own sequence beats the mean of all others'
own_sequence_pays = controls.loc["nucleus only", "cost_low"] > 0
assert not (KNOWN and PROFILE == "demo") or not own_sequence_pays

# %%
nucleus_pays = Interval(*controls.loc["nucleus swapped", ["cost_db", "cost_low", "cost_high"]])
tell(
    verdict(nucleus_pays, "The nucleus image is worth decibels: a cell elsewhere is wrong "
              "everywhere. ", "Another nucleus even scores higher. ",
              "The nucleus image is not measurably worth anything. ")
    + "Of the protein's own sequence: "
    + (
        "its own drawing is measurably better than the mean of all other sequences' drawings: "
        if own_sequence_pays
        else "its own drawing is not measurably better than the mean of all other sequences' "
        "drawings: "
    )
    + f"{cost('nucleus only')}. Averaging is what PSNR rewards, and a confident picture of the "
    "wrong class is punished. The sixteen pictures of the paper's Figure 2e can show that the "
    "sequence is *used*; whether it is used *well* takes the controls, and more proteins."
)  # fmt: skip

# %% [markdown]
# ## What the paper says, what we see

# %%
psnr_row, ssim_row = (
    image_scores["random"].query("prediction == 'deepGPS' and metric == @name").iloc[0]
    for name in ("psnr_db", "ssim")
)
best_trivial = (
    image_scores["random"].query("metric == 'psnr_db' and prediction != 'deepGPS'")
    .sort_values("estimate").iloc[-1]
)  # fmt: skip
scores = label_scores["random"]
held = [
    m for m in ("accuracy", "auroc") if scores.loc[m, "low"] <= PAPER[m] <= scores.loc[m, "high"]
]
scaled = scaled_down(
    {"channels": (WIDTH, 64), "pixels": (CROP_SIZE_PX, 208), "epochs": (EPOCHS, 50)}
)
tell(
    "```{admonition} What the paper says / What we see\n"
    f"| random split | paper (OpenCell, measured) | here ({kind_of_images} images), per protein "
    "| per crop |\n|---|---|---|---|\n"
    f"| accuracy | {PAPER['accuracy']} | {with_interval(scores.loc['accuracy'])} "
    f"| {scores.loc['accuracy', 'per_crop']:.2f} |\n"
    f"| AUROC | {PAPER['auroc']} | {with_interval(scores.loc['auroc'])} "
    f"| {scores.loc['auroc', 'per_crop']:.2f} |\n"
    f"| AUROC, {N_SPLITS} splits | no other split | "
    f"{label_table.loc[('random', 'label head'), 'AUROC']:.2f} "
    f"({label_table.loc[('random', 'label head'), 'low']:.2f} to "
    f"{label_table.loc[('random', 'label head'), 'high']:.2f}) | |\n"
    f"| PSNR (dB) | {PAPER['psnr_db']} | {with_interval(psnr_row, 1)} "
    f"| {psnr_row['per_crop']:.1f} |\n"
    f"| SSIM | {PAPER['ssim']:.2f} | {with_interval(ssim_row)} | {ssim_row['per_crop']:.2f} |\n"
    f"| best trivial PSNR | none given | {with_interval(best_trivial, 1)} "
    f"({best_trivial['prediction']}) | {best_trivial['per_crop']:.1f} |\n\n"
    "*Different on purpose:* other proteins (SCL2205), labels (UniProt's, not grades of images), a "
    f"smaller language model ({config.sequence_dim} numbers a protein for 1,280), a network of "
    f"{parts.loc['all', 'here']:,} parameters, {', '.join(scaled)}, and {kind_of_images} images, "
    f"whose noise decides how many decibels can be had. **Labels**: {len(held)} of the 2 intervals "
    f"hold the paper's value ({', '.join(held) or 'none'}), and many others. **Images**: "
    "levels cannot be compared across image sources; gains over trivial predictions can.\n"
    "```"
)

# %% [markdown]
# ## Recap
#
# - The label comes from the sequence alone and is worth what the language model is worth; counted
#   per protein, one split decides little.
# - Images are compared with predictions that draw nothing; they are as smooth as L1 makes them.
# - Whether a picture follows the sequence, whether it then says what the true label says, and
#   whether that makes it better are three questions; the tables above answer each by itself.
#
# ### Exercises
#
# 1. *Read.* The label head gives every crop of a protein the same answer. Why is the accuracy
#    per crop still not equal to the accuracy per protein?
# 2. *Change.* Set `label_loss="published"`, which applies a softmax twice. How low can the loss
#    get for a perfect answer, and what happens to the probabilities?
# 3. *Build.* The assay takes one crop of each protein. Take another crop of each: how much does
#    the share that follows the sequence change, compared with its interval?

# %% tags=["solution"]
tell(
    "**1.** Proteins have different numbers of crops, so the crops weigh proteins unequally.\n\n"
    f"**2.** Two softmaxes leave at least ln(1 + 1/e) = {np.log1p(np.exp(-1)):.3f} nats, so the "
    "gradient never stops pushing, and the probabilities are no longer calibrated."
)
owner = np.array([crops.protein_ids[i] for i in crops.protein_index.tolist()])
last = crops.take(torch.tensor([np.flatnonzero(owner == name)[-1] for name in names]))
again = follow_table(
    cross_assay(
        run.model, last, crop_masks(dataset, last.crop_ids, CROP_SIZE_PX), labels,
        ring_px=ring_px,
    ),
    seed=SEED,
).set_index("pairs")  # fmt: skip
print(f"3. first crops {follows.loc['all', 'share']:.2f}, last crops {again.loc['all', 'share']:.2f}; "
      f"the interval was {follows.loc['all', 'low']:.2f} to {follows.loc['all', 'high']:.2f}")  # fmt: skip

# %% [markdown]
# Next: [07 · what the attention does](07_what_the_attention_does).

# %%
execution_record(PROFILE, SEED)
