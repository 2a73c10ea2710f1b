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
# # 10 · deepGPS-all: does training on every protein help?
#
# Most human proteins are in more than one place. The paper's third model, deepGPS-all, is trained
# on all of them, draws without naming a label, and is said to have the highest image quality of
# the three {cite}`deepgps`. But each model was scored on its own test set. Here all three draw the
# *same* held-out proteins, and multi-localized ones are asked whether both places light up.
#
# *Two minutes on two cores alone, less after chapter 09; 3 GB of memory; no network.*
#
# **You will**
#
# - train on two classes, on four, and on everything, with the same proteins held out;
# - see how the choice of test set reorders models that have not changed;
# - define "both places light up" so that a blur does not win by default.

# %% tags=["parameters"]
PROFILE = "demo"
DATASET = "embedded-demo"
SEED = 0
TWO = ()  # classes of single-2; by default the dataset's first two labels
FOUR = ()  # classes of single-4; by default its first four
SPLIT = "grouped"  # or "random", as published
TEST_FRACTION = 0.5  # large, so that some multi-localized ones are held out; 0.2 as published
ENCODER = "embedded"
WIDTH = 12  # channels at full resolution; 64 as published
DEPTH = 3  # halvings of the image; 4 as published
CROP_SIZE_PX = 104  # side of the images; 208 as published
HIDDEN_DIM = 256  # of the projected sequence vector; 1024 as published
EPOCHS = 5  # 50 as published
BATCH_SIZE = 16  # 32 as published
LEARNING_RATE = 4e-3  # of the image branch; 2e-4 as published
LR_GAMMA = 0.8  # times after each epoch; 0.9 as published
SEQUENCE_LEARNING_RATE = 1e-4  # of projection and label head; 2e-4 as published
MAX_CROPS = 8  # of a held-out protein, scored
MAX_CATEGORIES = 8  # location sets shown by name; rarer ones are pooled

# %%
import numpy as np
import pandas as pd

from deepgps_core.comparison import (
    ORIGINAL,
    by_protein,
    category_table,
    compare_models,
    share_between,
)
from deepgps_core.crops import load_crops
from deepgps_core.cross_assay import crop_masks, first_crops, ring_width_px
from deepgps_core.encoders import embed_dataset, load_encoder
from deepgps_core.model import DeepGPSConfig
from deepgps_core.plotting import (
    LABEL_COLORS,
    PALETTE,
    draw_image,
    execution_record,
    panels,
    plt,
    show,
    tell,
    use_book_style,
)
from deepgps_core.preprocessing import prepare
from deepgps_core.sources.embedded import ensure_dataset
from deepgps_core.splits import SPLITTERS
from deepgps_core.statistics import bootstrap_intervals
from deepgps_core.tables import scaled_down
from deepgps_core.training import TrainingConfig, fit, predict_crops
from deepgps_core.trivial import mean_images

use_book_style()

# %% [markdown]
# ## Inputs
#
# The whole dataset is split once. Each model trains on the proteins of its kind that are on the
# training side, so a protein held out from one is held out from all.

# %%
dataset = prepare(ensure_dataset(DATASET, seed=SEED))
vectors = embed_dataset(dataset, load_encoder(ENCODER))
proteins = dataset.proteins.set_index("protein_id")
LABELS = dataset.info.labels
KNOWN = DATASET == "embedded-demo"  # of other data nobody knows beforehand what comes out
kind_of_images = dataset.info.images
whole = SPLITTERS[SPLIT](dataset.proteins, test_fraction=TEST_FRACTION, seed=SEED)

place = proteins["label"].where(proteins["label"] != "", proteins["locations"])
common = place.value_counts().index[:MAX_CATEGORIES]
category = place.where(place.isin(common), "other")
multi = proteins.index[proteins["label"] == ""]
pd.crosstab(category, whole[category.index].to_numpy()).reindex(
    dict.fromkeys([*common, *category.unique()])
).rename_axis(index="place", columns="part")

# %%
tell(
    f"{len(proteins)} proteins of **{dataset.info.source}** ({dataset.info.licence}), "
    f"{len(multi)} of them in several places; sequences and locations are real, images are "
    f"**{kind_of_images}**. (The paper: 1,301 proteins, 863 in one place.)"
)

# %% tags=["check"]
assert len(multi.intersection(whole.index[whole == "test"])) >= 2, "no multi-localized protein"

# %% [markdown]
# ## Train three models
#
# Same network, same epochs, other proteins. deepGPS-all draws only: its label loss has weight 0,
# as there is no one label to learn.

# %%
training_sets = {
    "single-2": tuple(TWO) or LABELS[:2],
    "single-4": tuple(FOUR) or LABELS[:4],
    "all": LABELS,
}
runs = {}
for name, classes in training_sets.items():
    of_kind = proteins.index[proteins["label"].isin(classes) | (name == "all")]
    split_name = f"{SPLIT}-{SEED}-{name}" + ("-half" if name == "single-2" else "")
    dataset.write_split(split_name, whole[of_kind])
    config = DeepGPSConfig(
        sequence_dim=len(next(iter(vectors.values()))), hidden_dim=HIDDEN_DIM, width=WIDTH,
        depth=DEPTH, crop_size_px=CROP_SIZE_PX, n_classes=len(classes),
    )  # fmt: skip
    training_config = TrainingConfig(
        name=name, encoder=ENCODER, labels=classes, epochs=EPOCHS, batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE, lr_gamma=LR_GAMMA, weight_decay=0.01, seed=SEED,
        sequence_learning_rate=SEQUENCE_LEARNING_RATE, select_by="image_loss",
        standardize_features=True, precision="auto", label_weight=0.0 if name == "all" else 1.0,
    )  # fmt: skip
    runs[name] = fit(dataset, split_name, config, training_config, replace=True)
    n_trained = (runs[name].proteins["split"] == "train").sum()
    print(
        f"{name:9s} {n_trained:4d} training proteins, {runs[name].history['seconds'].sum():4.0f} s"
    )

# %% [markdown]
# ## Everybody draws everybody
#
# Each model draws the crops of every held-out protein, also of kinds it was never trained on. Two
# answers that need no network stand beside: the mean training image, and the mean image of
# all nuclear and all cytoplasmic training proteins in equal parts.

# %%
test = [name for name in whole.index[whole == "test"]]
load = {"encoder": ENCODER, "labels": LABELS, "crop_size_px": CROP_SIZE_PX}
held_out = load_crops(dataset, test, **load)
crops = held_out.first_of_each(MAX_CROPS)
masks = crop_masks(dataset, crops.crop_ids, CROP_SIZE_PX)  # (N, H, W)
ring_px = ring_width_px(dataset, CROP_SIZE_PX)
training = load_crops(dataset, list(whole.index[whole == "train"]), **load)
means = mean_images(training, len(LABELS))
fixed = {"training mean": means.overall, "mean of two classes": means.by_class[:2].mean(axis=0)}
scores = compare_models(
    {name: run.model for name, run in runs.items()}, crops, masks, ring_px=ring_px, fixed=fixed
)
table = category_table(scores, category[test], "all", seed=SEED)
print(f"{len(crops):,} crops of {crops.protein_index.unique().numel()} held-out proteins, "
      f"{scores['model'].nunique() - 1} answers each")  # fmt: skip

# %% tags=["check"]
assert not any(set(run.proteins.query("split == 'train'")["protein_id"]) & set(test)
               for run in runs.values()), "a model was trained on a held-out protein"  # fmt: skip

# %% [markdown]
# ### As the paper compares
#
# Each model on the held-out proteins of its own kind: three test sets. *Guess: if a fourth model
# were single-2 again, scored on the test set of "all", would it rank as single-2 does?*

# %%
kinds = {name: set(runs[name].proteins["protein_id"]) & set(test) for name in runs}
psnr_db = by_protein(scores[scores["model"] != ORIGINAL], "psnr_db")
own_sets = pd.DataFrame(
    {
        f"test set of {name} ({len(chosen)})": psnr_db.loc[psnr_db.index.isin(chosen)].mean()
        for name, chosen in kinds.items()
    }
)
own_sets.loc[[*runs, *fixed]].round(2).rename_axis("PSNR (dB) of")

# %%
diagonal = [own_sets.loc[name].iloc[i] for i, name in enumerate(runs)]
same = own_sets.loc["single-2"]
tell(
    "Read along the diagonal, as the paper does: "
    + ", ".join(f"{name} {value:.2f}" for name, value in zip(runs, diagonal, strict=True))
    + f" dB. Read along a row: single-2, unchanged, goes from {same.iloc[0]:.2f} to "
    f"{same.iloc[2]:.2f} dB as its test set changes. The mean image, which knows nothing, goes from "
    f"{own_sets.loc['training mean'].iloc[0]:.2f} to {own_sets.loc['training mean'].iloc[2]:.2f}."
)

# %% [markdown]
# ### On the same proteins, by category

# %%
shown = table[table["model"].isin(runs)]
names = list(dict.fromkeys(shown["category"]))
fig, axes = plt.subplots(1, 2, figsize=(8.5, 0.42 * len(names) + 1.6), sharey=True)
for k, name in enumerate(runs):
    rows = shown[shown["model"] == name].set_index("category").loc[names]
    y = np.arange(len(names))[::-1] + 0.22 * (1 - k)
    for ax, (value, low, high) in zip(
        axes, (("estimate", "low", "high"), ("gain", "gain_low", "gain_high")), strict=True
    ):
        if value == "gain" and name == "all":
            continue
        ax.hlines(y, rows[low], rows[high], color=PALETTE[k], linewidth=2)
        ax.plot(rows[value], y, "o", color=PALETTE[k], markersize=5, label=name)
sizes = shown.drop_duplicates("category").set_index("category")["n_proteins"]
axes[0].set_yticks(np.arange(len(names))[::-1], [f"{x} ({sizes[x]})" for x in names])
axes[0].set_xlabel("PSNR (dB)")
axes[0].legend(fontsize="x-small")
axes[1].axvline(0, color="0.6", linestyle="--", linewidth=1)
axes[1].set_xlabel("minus deepGPS-all (dB), paired")
show(
    fig,
    caption=f"Image quality of three models on the same held-out proteins, by where these are "
    f"(number of proteins in brackets; {kind_of_images} images, {SPLIT} split). Means over proteins "
    "with 95 % bootstrap intervals. Right: differences within proteins; right of the line, the "
    "model beats deepGPS-all.",
    alt="Two interval plots with a row for each category. Left, the PSNR of three models; right, "
    "single-2 and single-4 minus deepGPS-all, around a dashed line at zero.",
)

# %%
verdicts = []
for name in ("single-2", "single-4"):
    row = table[(table["category"] == "all") & (table["model"] == name)].iloc[0]
    word = "worse" if row["gain_high"] < 0 else "better" if row["gain_low"] > 0 else "the same"
    verdicts.append(
        f"{name} {row['gain']:+.2f} dB ({row['gain_low']:+.2f} to {row['gain_high']:+.2f}): "
        f"{word if word != 'the same' else 'not distinguishable'}"
    )
by_place = table[table["model"].isin(("single-2", "single-4")) & (table["category"] != "all")]
apart = by_place[by_place["gain_low"] * by_place["gain_high"] > 0]
signs = ("", ", all with one sign: ", ", with both signs: ")[np.sign(apart["gain"]).nunique()]
mean_row = table[(table["category"] == "all") & (table["model"] == "training mean")].iloc[0]
tell(
    f"Over all {len(psnr_db)} held-out proteins, minus deepGPS-all: {'; '.join(verdicts)}; the mean "
    f"image {mean_row['gain']:+.2f} dB ({mean_row['gain_low']:+.2f} to {mean_row['gain_high']:+.2f}). "
    f"By category, {len(apart)} of {len(by_place)} intervals exclude zero{signs}"
    + "; ".join(f"{r.model} on {r.category.lower()} {r.gain:+.2f} dB" for r in apart.itertuples())
    + ". A mean over a test set is a vote among its categories, and the test set decides the votes. "
    "(The models differ in the number of training proteins too: "
    + ", ".join(f"{(r.proteins['split'] == 'train').sum()}" for r in runs.values())
    + "; more data and more places cannot be told apart here.)"
)

# %% tags=["check"]
assert not KNOWN or mean_row["gain_high"] < 0, "deepGPS-all is no better than the mean image"

# %% [markdown]
# ## Do both places light up?
#
# A protein of cytoplasm *and* nucleus should be seen in both. The number is the nuclear ratio,
# nucleus over ring, of chapter 06. Its scale comes from the training proteins: the **lower mark** is
# the median of those only in the first class, the **upper mark** that of those only in the second.
# A picture shows both places if its ratio is between the marks: dimmer in the nucleus than a
# nuclear protein's, brighter than a cytoplasmic one's. A blur of both classes passes too, so the
# same share among single-localized proteins stands beside. As the marks are medians, up to about
# half of these are expected inside, not none: what counts is how much more often the others are.

# %%
first, second = training_sets["single-2"]
training_masks = crop_masks(dataset, training.crop_ids, CROP_SIZE_PX)
of_training = by_protein(
    compare_models({}, training, training_masks, ring_px=ring_px), "log_ratio"
)[ORIGINAL]
marks = [
    of_training[proteins.loc[of_training.index, "label"] == label].median()
    for label in (first, second)
]
log_ratio = by_protein(scores, "log_ratio")
two_places = (proteins["locations"] == f"{first};{second}") | (
    proteins["locations"] == f"{second};{first}"
)
groups = {
    "both": log_ratio.index[two_places[log_ratio.index]],
    first: log_ratio.index[proteins.loc[log_ratio.index, "label"] == first],
    second: log_ratio.index[proteins.loc[log_ratio.index, "label"] == second],
}
answers = [ORIGINAL, *runs, "mean of two classes"]

fig, axes = plt.subplots(1, len(answers), figsize=(9, 3.2), sharey=True)
generator = np.random.default_rng(SEED)
colors = [LABEL_COLORS.get(x, PALETTE[4]) for x in ("Cytoplasm;Nucleus", first, second)]
for ax, name in zip(axes, answers, strict=True):
    ax.axhspan(*sorted(marks), color="0.92", zorder=0)
    for k, chosen in enumerate(groups.values()):
        spread = generator.uniform(-0.25, 0.25, len(chosen))
        ax.plot(k + spread, log_ratio.loc[chosen, name], ".", color=colors[k], markersize=5)
        ax.hlines(log_ratio.loc[chosen, name].median(), k - 0.35, k + 0.35, color="black")
    ax.set_xticks(range(3), ["both", "first", "second"], fontsize="small")
    ax.set_title(name, fontsize="small")
axes[0].set_ylabel("log2 (nucleus / ring)")
show(
    fig,
    caption=f"Nuclear ratio of held-out proteins in both places, only in {first.lower()} (first), or "
    f"only in {second.lower()} (second); black: medians. Left: the {kind_of_images} images; then what "
    "the models draw of the same crops; right: one mean image for all. Gray: between the marks, "
    "where both places count as lit.",
    alt="Five strip plots of three groups each over a gray band. Medians in the original images: "
    + ", ".join(f"{k} {log_ratio.loc[x, ORIGINAL].median():.2f}" for k, x in groups.items())
    + "; as deepGPS-all draws them: "
    + ", ".join(f"{log_ratio.loc[x, 'all'].median():.2f}" for x in groups.values())
    + ".",
)

# %%
rows, beyond = [], {}
for name in answers:
    shares = {
        group: share_between(log_ratio.loc[chosen, name].to_numpy(), *sorted(marks), seed=SEED)
        for group, chosen in groups.items()
    }
    alone = log_ratio.loc[[*groups[first], *groups[second]], name].to_numpy()
    inside = [(x > min(marks)) & (x < max(marks))
              for x in (log_ratio.loc[groups["both"], name].to_numpy(), alone)]  # fmt: skip
    values = np.concatenate(inside).astype(float)
    is_both = np.repeat([True, False], [len(inside[0]), len(inside[1])])

    def excess(draw: np.ndarray, values: np.ndarray = values, is_both: np.ndarray = is_both):
        if not 0 < is_both[draw].sum() < len(draw):
            return np.array([np.nan])
        return np.array([values[draw][is_both[draw]].mean() - values[draw][~is_both[draw]].mean()])

    if np.ptp(values):
        (beyond[name],) = bootstrap_intervals(
            excess, np.arange(len(values)), n_resamples=1000, seed=SEED
        )
        text = f"{beyond[name]:+.2f}"
    else:
        text = "+0.00 (same for all)"
    rows.append({"answer": name} | {f"{g} ({len(groups[g])})": f"{s:.2f}" for g, s in shares.items()}
                | {"both minus alone": text})  # fmt: skip
pd.DataFrame(rows).set_index("answer")

# %%
both_lit = {
    name: share_between(log_ratio.loc[groups["both"], name].to_numpy(), *sorted(marks), seed=SEED)
    for name in answers
}
passing = [name for name in runs if name in beyond and beyond[name].low > 0]
tell(
    f"Of the {len(groups['both'])} held-out proteins in both places, the {kind_of_images} images show "
    f"both in {both_lit[ORIGINAL].estimate:.2f} of cases and deepGPS-all in "
    f"{both_lit['all'].estimate:.2f}; one mean image for everybody in "
    f"{both_lit['mean of two classes'].estimate:.2f}. A model that draws everybody half and half has "
    "lit both places and said nothing, so the last column is what counts: by how much more often "
    "than a single-localized protein. "
    + (
        f"The {kind_of_images} images pass, and so do: {', '.join(passing) or 'none'} of the models."
        if ORIGINAL in beyond and beyond[ORIGINAL].low > 0
        else f"Even the {kind_of_images} images do not pass: their interval is not above zero, and by "
        "so few proteins no model can be judged."
    )
)
left_out = proteins.loc[multi.intersection(test).difference(groups["both"]), "locations"]
tell(
    f"Asked were proteins in {first.lower()} and {second.lower()} only. The other {len(left_out)} "
    "multi-localized ones held out are left out, for this ratio does not see their places: "
    + (", ".join(f"{n} {k}" for k, n in left_out.value_counts().items()) or "none") + "."
)  # fmt: skip

# %% tags=["check"]
assert marks[0] < marks[1] or not KNOWN, "the two classes do not separate in the original images"
assert both_lit["mean of two classes"].estimate in (0.0, 1.0), "one image, one answer"

# %% [markdown]
# ## What does it draw?
#
# Of the multi-localized proteins that were held out, those with the best, the median and the
# worst PSNR under deepGPS-all, drawn by all three.

# %%
multi_psnr = psnr_db.loc[psnr_db.index.isin(multi), "all"].sort_values(ascending=False)
chosen = list(multi_psnr.index[[0, (len(multi_psnr) - 1) // 2, -1]])
of_chosen = first_crops(crops, chosen)
pictures = {
    name: np.concatenate(
        [p.image[:, 0].float().cpu() for _, p in predict_crops(r.model, of_chosen)]
    )
    for name, r in runs.items()
}
fig, axes = panels(3, 5, panel_inches=1.4)
for line, name, row in zip(axes, chosen, range(3), strict=True):
    nucleus, original = of_chosen.images[row].numpy() / 255
    images = {"nucleus": nucleus, kind_of_images: original}
    for ax, (title, image) in zip(
        line, (images | {n: p[row] for n, p in pictures.items()}).items(), strict=True
    ):
        draw_image(ax, image)
        if row == 0:
            ax.set_title(title, fontsize="small")
    line[0].set_ylabel(
        f"{proteins.loc[name, 'gene']}\n{multi_psnr[name]:.1f} dB", fontsize="x-small"
    )
show(
    fig,
    caption="Multi-localized held-out proteins with the best, median and worst PSNR under "
    f"deepGPS-all, first crop of each. Columns: nucleus, protein ({kind_of_images}), and what the "
    "three models draw. All gray values from 0 to 1.",
    alt="Three rows of five cell images; the three generated ones of a row look much alike.",
)

# %% [markdown]
# ## What the paper says, what we see

# %%
cells = {}
for name in runs:
    row = table[(table["category"] == "all") & (table["model"] == name)].iloc[0]
    cells[name] = f"{row['estimate']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
of_all = table[(table["model"] == "all") & (table["category"] != "all")].set_index("category")
level = of_all["estimate"].sort_values()
smaller = scaled_down(
    {
        "epochs": (EPOCHS, 50), "channels": (WIDTH, 64), "pixels": (CROP_SIZE_PX, 208),
        "% of the proteins held out": (round(100 * TEST_FRACTION), 20),
    }
)  # fmt: skip
smaller.append(f"{len(groups['both'])} held-out proteins in both places, few to rank models on")
tell(
    "```{admonition} What the paper says / What we see\n"
    "| | paper (OpenCell, measured) | here, own test set | here, same proteins |\n|---|---|---|---|\n"
    + "".join(
        f"| {name} | {said} | {value:.2f} | {cells[name]} |\n"
        for name, said, value in zip(
            runs, ("14.5 dB", "not printed as a number", '"highest PSNR"; SSIM 0.22'), diagonal,
            strict=True,
        )
    )
    + f"\nPSNR in dB, per protein, {kind_of_images} images, {len(psnr_db)} held-out proteins. **The "
    "comparison**: the paper's three means are of three test sets (63, 105 and 250 proteins). Here "
    f"deepGPS-all alone goes from {level.iloc[0]:.1f} dB on {level.index[0].lower()} to "
    f"{level.iloc[-1]:.1f} dB on {level.index[-1].lower()}, so the order of three such means cannot "
    "be credited to the training set. **The finding**: on the same proteins, minus deepGPS-all: "
    f"{'; '.join(verdicts)}. **Different from the paper**: {'; '.join(smaller)}.\n```"
)  # fmt: skip

# %% [markdown]
# ## Recap
#
# - The three models hold out the same proteins and are compared within each of them.
# - A model's mean PSNR moves with its test set, without the model; what is gained on one
#   category may be lost on another.
# - "Both places light up" needs single-localized proteins beside it, for a blur passes, and the
#   original images, which need not.
#
# ### Exercises
#
# 1. *Read.* Why can deepGPS-all not be compared with the others on its labels?
# 2. *Change.* Give single-2 as many crops a protein as there are, and *all* only so many that both
#    see the same number an epoch (`crops_per_protein`). What is left of the difference?
# 3. *Build.* Replace the marks by the quartiles that lie towards the other class. How does the last
#    column of the table change?

# %% tags=["solution"]
tell(
    "**1.** Its label loss had weight 0: the head holds its first, random weights.\n\n"
    "**2.** Then the models differ in which proteins they saw, and no longer in how many crops of "
    "them an epoch has; what difference is left is of places."
)
quartiles = [
    of_training[proteins.loc[of_training.index, "label"] == label].quantile(q)
    for label, q in ((first, 0.75), (second, 0.25))
]
for name in answers:
    inside, outside = (
        share_between(log_ratio.loc[rows, name].to_numpy(), *sorted(quartiles)).estimate
        for rows in (groups["both"], groups[first].union(groups[second]))
    )
    print(f"3. {name:20s} both {inside:.2f}, alone {outside:.2f}")

# %% [markdown]
# Next: [11 · another cell line](11_another_cell_line).

# %%
execution_record(PROFILE, SEED)
