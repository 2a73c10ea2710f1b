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
# # 08 · The structure ablation: does a shape add to a sequence?
#
# The paper trains single-2 three times: with the sequence, with the structure, and with both
# {cite}`deepgps`. The sequence alone did best, and the paper concludes that the language model
# already holds what a structure could add. That is a conclusion about a difference, from one
# training each. This chapter trains the three under one budget, more than once, and asks how large
# a difference would have to be to be seen.
#
# **With the embedded data, the structures are stand-ins made from the sequence. This tests the
# code, not the biology.**
#
# *About two minutes on two cores the first time, seconds of training after; 3 GB of memory; no
# network.*
#
# **You will**
#
# - train the three variants of Figure 3b through the same code, split and budget;
# - compare them protein by protein, with paired tests;
# - check what each variant really looks at, by giving it another protein's structure.

# %% tags=["parameters"]
PROFILE = "demo"
DATASET = "embedded-demo"
SEED = 0
SEEDS = (0, 1)  # trainings of each variant
STRUCTURES = "chain"  # stand-ins, simulated; "alphafold" where fetched
SPLIT = "grouped"  # no homologs across; the paper's is random
ENCODER = "embedded"
N_POINTS = 192  # points a protein; the paper does not say
STRUCTURE_ENCODER = "pointnet"  # as published; or "equivariant", which ignores orientation
STRUCTURE_WIDTH = 16  # channels of PointNet's first layer; 64 as published
WIDTH = 8  # channels at full resolution; 64 as published
DEPTH = 2  # halvings of the image; 4 as published
CROP_SIZE_PX = 52  # side of the images; 208 as published
HIDDEN_DIM = 128  # of the vector of sequence or structure; 1024 as published
EPOCHS = 6  # 50 as published
CROPS_PER_PROTEIN = 4  # in an epoch; all as published
SCORED_CROPS = 8  # of a held-out protein, at most
BATCH_SIZE = 16  # 32 as published
LEARNING_RATE = 4e-3  # of image branch and PointNet; 2e-4 as published
SEQUENCE_LEARNING_RATE = 2e-4  # of projection and label head
LR_GAMMA = 0.85  # times after each epoch; 0.9 as published

# %%
import dataclasses

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_curve

from deepgps_core.crops import load_crops
from deepgps_core.dataset import sha256_of
from deepgps_core.encoders import embed_dataset, load_encoder
from deepgps_core.evaluation import evaluate, label_table
from deepgps_core.model import DeepGPS, DeepGPSConfig
from deepgps_core.plotting import (
    PALETTE,
    execution_record,
    interval_plot,
    plt,
    show,
    tell,
    use_book_style,
)
from deepgps_core.point_clouds import ensure_point_clouds
from deepgps_core.preprocessing import prepare
from deepgps_core.sources.embedded import ensure_dataset
from deepgps_core.splits import make_split
from deepgps_core.statistics import (
    DISCORDANT_SHARE,
    bootstrap_interval,
    delong_test,
    holm,
    mcnemar_exact,
    proteins_needed,
)
from deepgps_core.structure import PointCloudConfig
from deepgps_core.training import TrainingConfig, fit, predict_labels

use_book_style()
VARIANTS = ("sequence", "structure", "both")
COLORS = dict(zip(VARIANTS, PALETTE, strict=False))

# %% [markdown]
# ## Inputs
#
# Crops, vectors and labels as in chapter 06; a point cloud for each protein as in chapter 05.

# %%
dataset = prepare(ensure_dataset(DATASET, seed=SEED))
vectors = embed_dataset(dataset, load_encoder(ENCODER))
clouds = ensure_point_clouds(dataset, STRUCTURES, PointCloudConfig(n_points=N_POINTS, seed=SEED))
LABELS = ("Cytoplasm", "Nucleus")
proteins = dataset.proteins[dataset.proteins["label"].isin(LABELS)].reset_index(drop=True)
split_name = f"{SPLIT}-{SEED}-single-2"
dataset.write_split(split_name, make_split(proteins, SPLIT, SEED))
split = dataset.split(split_name)
kind_of_images = dataset.info.images
kind_of_structures = {"chain": "stand-ins (simulated)", "alphafold": "AlphaFold DB"}[STRUCTURES]
cloud_file = dataset.path / "structures" / f"{clouds}.npz"
tell(
    "| what | source | rows | sha256 |\n|---|---|---|---|\n"
    f"| proteins.csv | {dataset.info.source} | {len(dataset.proteins):,} "
    f"| `{sha256_of(dataset.path / 'proteins.csv')[:12]}…` |\n"
    f"| {cloud_file.name} | {kind_of_structures} | {len(dataset.proteins):,} x {N_POINTS} points "
    f"| `{sha256_of(cloud_file)[:12]}…` |\n\n"
    f"Single-2 uses {len(proteins)} of these proteins: "
    + ", ".join(f"{n} {part}" for part, n in split.value_counts().items())
    + f" ({SPLIT} split). Images are **{kind_of_images}**, structures **{kind_of_structures}**."
)

# %% [markdown]
# ## Three networks that differ in one setting
#
# `sequence` is chapter 06's. `structure` has PointNet (or another `STRUCTURE_ENCODER`, chapter 05)
# in place of the projected sequence vector.
# `both` gives the attention two keys to choose from, so that for once its weights are not 1. What
# the label head does with two vectors, the paper does not say (its released code stops with an
# error there); here it answers for each, and the two answers are averaged.

# %%
config = DeepGPSConfig(
    sequence_dim=len(next(iter(vectors.values()))), hidden_dim=HIDDEN_DIM, width=WIDTH,
    depth=DEPTH, crop_size_px=CROP_SIZE_PX, structure_width=STRUCTURE_WIDTH,
    structure_encoder=STRUCTURE_ENCODER,
)  # fmt: skip
configs = {inputs: dataclasses.replace(config, inputs=inputs) for inputs in VARIANTS}


def n_parameters(config: DeepGPSConfig) -> int:
    """Count a model's parameters, without making room for them where that is possible."""
    with torch.device("cpu" if config.structure_encoder == "equivariant" else "meta"):
        return sum(p.numel() for p in DeepGPS(config).parameters())


sizes = pd.DataFrame(
    {
        "published size": [n_parameters(DeepGPSConfig(inputs=v)) for v in VARIANTS],
        "here": [n_parameters(configs[v]) for v in VARIANTS],
    },
    index=list(VARIANTS),
)
sizes.map("{:,}".format)

# %% tags=["check"]
gain = sizes["published size"]["both"] - sizes["published size"]["sequence"]
assert gain == 2_810_852, "PointNet is not the published one"

# %%
training = TrainingConfig(
    encoder=ENCODER, labels=LABELS, epochs=EPOCHS, batch_size=BATCH_SIZE,
    learning_rate=LEARNING_RATE, lr_gamma=LR_GAMMA, weight_decay=0.01,
    sequence_learning_rate=SEQUENCE_LEARNING_RATE, crops_per_protein=CROPS_PER_PROTEIN,
    standardize_features=True, precision="auto",
)  # fmt: skip
runs = {}
for inputs in VARIANTS:
    for seed in SEEDS:
        named = dataclasses.replace(
            training,
            seed=seed,
            name=f"ablation-{inputs}",
            structures="" if inputs == "sequence" else clouds,
        )
        runs[inputs, seed] = fit(dataset, split_name, configs[inputs], named, replace=True)
seconds = {v: sum(runs[v, s].history["seconds"].sum() for s in SEEDS) for v in VARIANTS}
print("seconds of training:", ", ".join(f"{v} {seconds[v]:.0f}" for v in VARIANTS))

# %% [markdown]
# ## Scores, protein by protein
#
# For each protein we average over its crops, then over the trainings. Intervals come from drawing
# proteins anew. *Guess: with this many test proteins, how far apart must two AUROCs be?*

# %%
scored = {
    key: evaluate(run, dataset, crops_per_protein=SCORED_CROPS, n_resamples=50, seed=SEED)
    for key, run in runs.items()
}
NUMBERS = ["p_Cytoplasm", "p_Nucleus", "n_crops", "psnr_db", "ssim"]


def over_seeds(inputs: str) -> pd.DataFrame:
    """Average a variant's scores of each protein over its trainings."""
    tables = pd.concat([scored[inputs, seed].proteins for seed in SEEDS])
    mean = tables.groupby(["protein_id", "label"])[NUMBERS].mean().reset_index()
    return mean.assign(n_crops=mean["n_crops"].astype(int))


of_variant = {inputs: over_seeds(inputs) for inputs in VARIANTS}
label_scores = {v: label_table(of_variant[v], LABELS).set_index("metric") for v in VARIANTS}
image_scores = {
    v: {m: bootstrap_interval(of_variant[v][m].to_numpy(), seed=SEED) for m in ("psnr_db", "ssim")}
    for v in VARIANTS
}
n_test = len(of_variant["sequence"])
pd.DataFrame(
    {
        v: {
            **{m: f"{r['estimate']:.2f} ({r['low']:.2f} to {r['high']:.2f})"
               for m, r in label_scores[v].iterrows()},
            **{m: f"{value:.2f}" for m, value in image_scores[v].items()},
        }
        for v in VARIANTS
    }
)  # fmt: skip

# %%
majority = of_variant["sequence"]["label"].value_counts(normalize=True)
told = []
for v in VARIANTS:
    called = np.where(of_variant[v]["p_Cytoplasm"] > 0.5, *LABELS)
    right, share = label_scores[v].loc["accuracy", "estimate"], (called == majority.index[0]).mean()
    told.append(
        f"`{v}` calls {share:.0%} of the proteins {majority.index[0].lower()} and is right on "
        f"{right:.0%}" + ("" if right > majority.iloc[0] else ", **no better than that**")
    )
tell(
    f"{majority.iloc[0]:.0%} of these proteins are {majority.index[0].lower()}: so many are right "
    f"if all are called that. {'; '.join(told)}."
)

# %% tags=["check"]
tested = [list(of_variant[v]["protein_id"]) for v in VARIANTS]
assert tested[0] == tested[1] == tested[2], "the variants were not scored on the same proteins"
assert not set(tested[0]) & set(split.index[split != "test"])

# %%
METRICS = ("accuracy", "specificity", "sensitivity", "f1")
fig, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.3), width_ratios=[1.5, 1])
for i, v in enumerate(VARIANTS):
    table = label_scores[v].loc[list(METRICS)]
    x = np.arange(len(METRICS)) + 0.22 * (i - 1)
    left.errorbar(
        x, table["estimate"], fmt="o", color=COLORS[v], label=v,
        yerr=[table["estimate"] - table["low"], table["high"] - table["estimate"]],
    )  # fmt: skip
    is_cytoplasm = of_variant[v]["label"] == "Cytoplasm"
    false, true, _ = roc_curve(is_cytoplasm, of_variant[v]["p_Cytoplasm"])
    right.plot(false, true, color=COLORS[v],
               label=f"{v} {label_scores[v].loc['auroc', 'estimate']:.2f}")  # fmt: skip
left.axhline(0.5, color="0.7", linestyle="--", linewidth=1)
left.set_xticks(range(len(METRICS)), METRICS)
left.set(ylim=(0, 1), ylabel="score of proteins")
left.legend(loc="lower left", fontsize="small")
right.plot([0, 1], [0, 1], "--", color="0.7", linewidth=1)
right.set(xlabel="1 - specificity", ylabel="sensitivity", aspect="equal")
right.legend(loc="lower right", fontsize="small", title="AUROC", title_fontsize="small")
show(
    fig,
    caption=f"Figure 3c again: labels of {n_test} held-out proteins by three variants, mean of "
    f"{len(SEEDS)} trainings, 95 % bootstrap intervals over proteins; right, ROC curves of "
    f"cytoplasm. Structures are {kind_of_structures}, images {kind_of_images} (and not used for "
    "labels).",
    alt="Left, dots with wide error bars for four metrics and three variants; right, three ROC "
    "curves with AUROCs in the legend.",
)

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.6, 2))
for ax, (metric, unit) in zip(axes, (("psnr_db", "PSNR (dB)"), ("ssim", "SSIM")), strict=True):
    values = [image_scores[v][metric] for v in VARIANTS]
    interval_plot(
        ax, list(VARIANTS), [value.estimate for value in values],
        [(value.low, value.high) for value in values], colors=list(COLORS.values()),
    )  # fmt: skip
    ax.set_xlabel(unit)
show(
    fig,
    caption=f"Figure 3d again: images of {n_test} held-out proteins ({kind_of_images}), mean of "
    "per-protein means with 95 % bootstrap intervals. Overlapping intervals do not decide: the same "
    "proteins are drawn by all three.",
    alt="Two interval plots, of PSNR and of SSIM, one dot and interval for each variant.",
)

# %% [markdown]
# ## Paired, as it has to be
#
# Two variants that are scored on the same proteins are compared protein by protein: an easy protein
# is easy for both. Accuracy by McNemar's exact test, AUROC by DeLong's; these p-values are corrected
# for their number (Holm). PSNR by the interval of the difference, outside of that correction.

# %%
PAIRS = (("sequence", "structure"), ("both", "sequence"), ("both", "structure"))
rows = []
for first, second in PAIRS:
    a, b = of_variant[first], of_variant[second]
    truth = (a["label"] == "Cytoplasm").to_numpy()
    right_a = (a["p_Cytoplasm"] > 0.5).to_numpy() == truth
    right_b = (b["p_Cytoplasm"] > 0.5).to_numpy() == truth
    accuracy = mcnemar_exact(right_a, right_b)
    area = delong_test(truth, a["p_Cytoplasm"].to_numpy(), b["p_Cytoplasm"].to_numpy())
    image = bootstrap_interval((a["psnr_db"] - b["psnr_db"]).to_numpy(), seed=SEED)
    rows.append((f"{first} - {second}", accuracy.difference, accuracy.p_value, area.difference,
                 area.p_value, image.estimate, image.low, image.high))  # fmt: skip
columns = ["difference", "accuracy", "p accuracy", "AUROC", "p AUROC", "PSNR (dB)", "low", "high"]
paired = pd.DataFrame(rows, columns=columns).set_index("difference")
corrected = holm(paired[["p accuracy", "p AUROC"]].to_numpy().ravel()).reshape(-1, 2)
paired[["p accuracy", "p AUROC"]] = corrected
paired.round(3)

# %%
needed = proteins_needed(difference=0.04, discordant=DISCORDANT_SHARE)
between_seeds = {
    v: np.ptp([scored[v, s].labels.set_index("metric").loc["auroc", "estimate"] for s in SEEDS])
    for v in VARIANTS
}
p_values = paired[["p accuracy", "p AUROC"]].rename(columns=lambda name: name[2:]).stack()
seen = [
    f"{metric} of {pair.replace(' - ', ' against ')} ({paired.loc[pair, metric]:+.2f}, p = {p:.3f})"
    for (pair, metric), p in p_values.items() if p < 0.05
]  # fmt: skip
drawn_apart = [
    f"{pair.replace(' - ', ' against ')} {row['PSNR (dB)']:+.2f} dB ({row['low']:+.2f} to {row['high']:+.2f})"
    for pair, row in paired.iterrows() if row["low"] > 0 or row["high"] < 0
]  # fmt: skip
tell(
    f"With {n_test} test proteins, {len(seen)} of {p_values.size} label comparisons are significant"
    f"{': ' + '; '.join(seen) if seen else ''}. Of the {len(PAIRS)} differences in PSNR, not "
    f"corrected, {len(drawn_apart)} {'has' if len(drawn_apart) == 1 else 'have'} an interval without "
    f"0{': ' + '; '.join(drawn_apart) if drawn_apart else ''}. The {len(SEEDS)} trainings of a "
    f"variant differ in AUROC by up to {max(between_seeds.values()):.2f} by their seed alone.\n\n"
    "The paper's difference in accuracy, .74 for the sequence and, read off the figure, about .70 "
    f"for the others, would take about {needed:,} test proteins to be seen four times in five, if "
    f"two variants disagree on {DISCORDANT_SHARE:.0%} of the proteins; the paper has 63."
)

# %% [markdown]
# ## What does each variant look at?
#
# Swap the structures: every test protein gets another one's. A model that uses structure must
# change its mind. In `both`, the attention has two keys, and its weights say which is used.

# %%
held_out = list(of_variant["sequence"]["protein_id"])
changes = []
for inputs in VARIANTS:
    run = runs[inputs, SEEDS[0]]
    crops = load_crops(
        dataset, held_out, encoder=ENCODER, labels=LABELS, crop_size_px=CROP_SIZE_PX,
        structures=clouds,
    )  # fmt: skip
    order = torch.arange(len(held_out)).roll(1)  # nobody keeps its own
    own = predict_labels(run.model, crops, LABELS)["p_Nucleus"]
    for what, moved in (
        ("sequence", dataclasses.replace(crops, features=crops.features[order])),
        ("structure", dataclasses.replace(crops, point_clouds=crops.point_clouds[order])),
    ):
        other = predict_labels(run.model, moved, LABELS)["p_Nucleus"]
        changes.append((inputs, what, (other - own).abs().mean()))
table = pd.DataFrame(changes, columns=["variant", "swapped", "change"])
table.pivot(index="variant", columns="swapped", values="change").loc[list(VARIANTS)].round(3)

# %%
model = runs["both", SEEDS[0]].model.cpu()
with torch.inference_mode():
    one_each = torch.unique(crops.protein_index, sorted=True)
    first_crop = torch.stack([(crops.protein_index == p).nonzero()[0, 0] for p in one_each])
    images = crops.images[first_crop, :1].float() / 255
    hidden, _, _ = model.describe(crops.features[one_each], crops.point_clouds[one_each])
    coarsest = model.encoder(images)[-1].flatten(2).transpose(1, 2)  # (B, H * W, C)
    _, weights = model.fusion.attention(coarsest, hidden, hidden)  # (B, H * W, 2)
on_structure = weights[..., 0].mean(dim=1).numpy()
within = weights[..., 0].std(dim=1).mean().item()
print(f"attention on the structure: mean {on_structure.mean():.2f}, over proteins "
      f"{on_structure.min():.2f} to {on_structure.max():.2f}, sd within an image {within:.3f}")  # fmt: skip

# %% tags=["check"]
change = {(v, what): value for v, what, value in changes}
assert change["sequence", "structure"] == 0, "the sequence variant reads structures"
assert change["structure", "sequence"] == 0, "the structure variant reads sequences"
assert min(change["sequence", "sequence"], change["structure", "structure"]) > 0
assert change["both", "sequence"] > 0 and change["both", "structure"] > 0
assert np.allclose(weights.sum(dim=2), 1, atol=1e-5)
drawn = {v: scored[v, SEEDS[0]].images.query("metric == 'psnr_db'").set_index("prediction")
         for v in VARIANTS}  # fmt: skip
for v in VARIANTS:
    low = drawn[v].loc["training mean", "gain_low"]
    assert low > 0, f"{v}: images do not beat the mean image ({low:.2f} dB)"

# %% [markdown]
# ## What the paper says, what we see

# %%
auroc = {v: label_scores[v].loc["auroc"] for v in VARIANTS}
biology = (
    "the structures are made from the sequence, so they can hold nothing about a protein that the "
    "sequence does not: the table tests the code, not the biology"
    if STRUCTURES == "chain"
    else "predicted structures, as in the paper, without their confidence"
)
tell(
    "```{admonition} What the paper says / What we see\n"
    f"| | paper (Fig. 3c, 3d; OpenCell, AlphaFold) | here ({kind_of_images} images, "
    f"{kind_of_structures}), {n_test} proteins, {len(SEEDS)} trainings |\n|---|---|---|\n"
    + "".join(
        f"| AUROC, {v} | {'.76' if v == 'sequence' else 'lower'} | {auroc[v]['estimate']:.2f} "
        f"({auroc[v]['low']:.2f} to {auroc[v]['high']:.2f}) |\n"
        for v in VARIANTS
    )
    + "".join(
        f"| PSNR, {v} (dB) | {'14.5' if v == 'sequence' else 'lower'} "
        f"| {image_scores[v]['psnr_db']:.1f} |\n"
        for v in VARIANTS
    )
    + "| intervals, tests, seeds | none | above |\n\n"
    f"*Verdict:* {len(seen)} of {p_values.size} label comparisons are significant here"
    f"{' (' + '; '.join(seen) + ')' if seen else ''}, and {biology}. For the paper: a single training "
    "each on 63 test proteins cannot show that structure adds *nothing*.\n"
    "```"
)

# %% [markdown]
# A later study of 20,181 human proteins reports that predicted structures do help {cite}`capsul`.
#
# To run it on predicted structures: `deepgps fetch alphafold`, then this notebook with
# `STRUCTURES="alphafold"`. A protein whose file is missing or belongs to another sequence is
# named and refused.
#
# ## Recap
#
# - The three variants are one setting, `inputs`, of one model and one training.
# - Differences between variants are compared within proteins, over several trainings: with so few
#   proteins, a seed alone moves the scores.
# - "Little impact" needs an interval that excludes a large impact. Neither the paper's design nor
#   this demonstration has one.
#
# ### Exercises
#
# 1. *Read.* Why can a stand-in structure predict a label at all, if it was made from the sequence?
# 2. *Change.* Train `both` with `orthogonality_weight=0.001`. Does the penalty move anything?
# 3. *Build.* How wide would the interval of an AUROC difference be with 500 test proteins?

# %% tags=["solution"]
difference = of_variant["sequence"]["p_Cytoplasm"] - of_variant["structure"]["p_Cytoplasm"]
tell(
    "**1.** Its size is the length of the sequence, and its elements and surface follow the "
    "composition; both may carry a little of the location. Here the AUROC is "
    f"{auroc['structure']['estimate']:.2f} ({auroc['structure']['low']:.2f} to "
    f"{auroc['structure']['high']:.2f}): "
    + (
        "more than chance.\n\n"
        if auroc["structure"]["low"] > 0.5
        else "not shown to be more than chance, .50; if they carry something, this network did not find it.\n\n"
    )
    + f"**2.** Set it in `TrainingConfig` together with `structures`; compare within proteins, as "
    f"above. The two variants' probabilities already differ by {difference.abs().mean():.2f} on "
    "average.\n\n**3.** Intervals shrink with the square root: by a factor of "
    f"{np.sqrt(n_test / 500):.2f} from those of {n_test} proteins."
)

# %% [markdown]
# Next: [09 · deepGPS-single-4](09_single4).

# %%
execution_record(PROFILE, SEED)
