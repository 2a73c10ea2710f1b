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
# # 02 · How does a field of view become training images?
#
# A microscope delivers fields with dozens of cells; the model wants small pictures with a nucleus
# in the middle. The paper describes the way between them in five sentences {cite}`deepgps`. This
# chapter walks it step by step, and at each step counts what another choice would have changed.
#
# *Three to nine minutes on two cores the first time (fields are simulated and segmented), seconds
# after; 2 GB of memory; no network.*
#
# **You will**
#
# - normalize a raw 16-bit field by percentiles and say what clipping costs;
# - find nuclei with StarDist {cite}`stardist`, and remove what is too small or too near the
#   border;
# - count crops under each choice that the paper leaves open.

# %% tags=["parameters"]
PROFILE = "demo"
DATASET = "embedded-demo"
SEED = 0

# %%
import numpy as np
import pandas as pd

from deepgps_core.dataset import sha256_of
from deepgps_core.plotting import (
    PALETTE,
    channel_composite,
    draw_image,
    execution_record,
    panels,
    plt,
    show,
    tell,
    use_book_style,
)  # fmt: skip
from deepgps_core.preprocessing import (
    NucleusSegmenter,
    PreprocessingConfig,
    crop_origins,
    crop_table,
    cut_crops,
    normalize_field,
    nucleus_labels,
    prepare,
    read_nuclei,
    select_nuclei,
    to_uint8,
)  # fmt: skip
from deepgps_core.sources.embedded import ensure_dataset

use_book_style()

# %% [markdown]
# ## Inputs
#
# Fields are 16-bit TIFFs of two channels, nucleus first, in the layout in which OpenCell
# {cite}`opencell` stores them. Where the dataset is not there yet, the next cell makes it.

# %%
dataset = ensure_dataset(DATASET, seed=SEED)
simulated = dataset.info.images == "simulated"
kind = "simulated" if simulated else "measured"
tell(
    "| file | source | licence | rows | sha256 |\n|---|---|---|---|---|\n"
    + "\n".join(
        f"| {name}.csv | {dataset.info.source} | {dataset.info.licence} | {len(table)} "
        f"| `{sha256_of(dataset.path / f'{name}.csv')[:12]}…` |"
        for name, table in (("proteins", dataset.proteins), ("fields", dataset.fields))
    )
)

# %% [markdown]
# The images of the embedded dataset are **simulated**: a procedural microscope draws them, and an
# appendix shows how. Everything below runs unchanged on OpenCell's measured fields.
#
# ## What does a raw field look like?

# %%
field_id = dataset.fields["field_id"].iloc[0]
field = dataset.read_field(field_id)  # (2, H, W)
pixel_size_um = dataset.info.pixel_size_um
print(f"{field_id}: shape {field.shape}, {field.dtype}, counts {field.min()} to {field.max()}")
for name, channel in zip(("nucleus", "protein"), field, strict=True):
    print(f"{name:8s} median {np.median(channel):6.0f}, 99.8th percentile "
          f"{np.percentile(channel, 99.8):6.0f}")  # fmt: skip

# %% [markdown]
# Most of the 65,536 gray values stay unused, the two channels differ in level, and nothing says
# that another field has the same one. Counts cannot be fed to a network as they are.
#
# ## What does normalization do, and what does it cost?
#
# `csbdeep.utils.normalize`, which the paper names, maps a low percentile to zero and a high one
# to one. The paper does not give the percentiles; csbdeep's own default is 3 and 99.8, StarDist's
# examples use 1 and 99.8. It does not say either whether values above one are cut, but the
# model's last layer is a sigmoid, which cannot reach them. We store crops in [0, 1] with 256 steps.
# *Guess: which share of the pixels changes?*

# %%
rows = []
for low, high in ((0, 100), (1, 99.8), (3, 99.8), (1, 99)):
    normalized = normalize_field(field, PreprocessingConfig(low, high))
    cut = (normalized < 0) | (normalized > 1)
    rows.append((low, high, *(100 * cut.mean(axis=(1, 2))), *normalized.mean(axis=(1, 2))))
columns = ["low %", "high %", "nucleus cut %", "protein cut %", "mean nucleus", "mean protein"]
pd.DataFrame(rows, columns=columns).round(2)

# %% [markdown]
# Without clipping (0 and 100), a single hot pixel decides how bright everything else is. With 1
# and 99.8 about one pixel in eighty is cut, nearly all of them background.

# %%
config = PreprocessingConfig()
normalized = normalize_field(field, config)
fig, axes = panels(1, 3, panel_inches=2.9)
draw_image(axes[0, 0], normalized[0], title="nucleus", pixel_size_um=pixel_size_um)
draw_image(axes[0, 1], normalized[1], title="protein", pixel_size_um=pixel_size_um)
axes[0, 2].imshow(channel_composite(*to_uint8(normalized) / 255))
axes[0, 2].set_title("both", fontsize="small")
label = dataset.proteins.set_index("protein_id")["locations"][dataset.fields["protein_id"].iloc[0]]
show(
    fig,
    caption=f"One {kind} field after normalization, shown from 0 to 1; scale bars 10 µm. The "
    f"protein is annotated as {label}.",
    alt="Three gray-scale and color panels of one field: nuclei, protein, and both overlaid.",
)

# %% [markdown]
# ## Where are the nuclei?
#
# StarDist predicts, for each pixel, how likely it lies in a nucleus, and how far the outline is
# in 32 directions; overlapping candidates are then thinned out. Which model the paper used it
# does not say. Ours was trained for this book on simulated nuclei and on public microscope images
# {cite}`dsb2018`, because the published weights need a download; an appendix trains and scores
# it.

# %%
segmenter = NucleusSegmenter("embedded")
nuclei = segmenter(normalized[0])
large = select_nuclei(nuclei, config)
origins, inside = crop_origins(nuclei.centroids, field.shape[-2:], config)
print(f"{len(nuclei)} objects; {large.sum()} of at least {config.minimum_area_px} pixels; "
      f"{(large & inside).sum()} of them far enough from the border")  # fmt: skip

# %%
fig, axes = panels(1, 2, panel_inches=4)
draw_image(axes[0, 0], normalized[0], pixel_size_um=pixel_size_um)
draw_image(axes[0, 1], normalized[0], pixel_size_um=pixel_size_um)
half = config.crop_size_px // 2
height, width = field.shape[-2:]
square = plt.Rectangle((half, half), width - 2 * half, height - 2 * half, fill=False)
axes[0, 1].add_patch(square)
square.set(edgecolor="white", linestyle=":")
for (y, x), big, kept in zip(nuclei.outlines, large, inside, strict=True):
    color = PALETTE[4] if big and kept else PALETTE[5] if big else PALETTE[3]
    axes[0, 1].fill(x, y, fill=False, edgecolor=color, linewidth=1.3)
axes[0, 1].set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
show(
    fig,
    caption=f"A {kind} field and what StarDist finds in it. Orange: nuclei that give a crop; blue: "
    "too near the border (their centers lie outside the dotted square); pink: under 1,000 pixels.",
    alt="A field of nuclei, and the same with outlines in three colors, blue at the border.",
)

# %% [markdown]
# A nucleus is kept as one row of a table and 32 numbers, its radii, not as a picture. From these
# any machine redraws the label image without TensorFlow, which matters where the GPU is:

# %%
labels = nucleus_labels(nuclei, (height, width))
areas = np.bincount(labels.ravel(), minlength=len(nuclei) + 1)[1:]
print("radii:", nuclei.radii.shape, nuclei.radii.dtype, f"{nuclei.radii.nbytes / 1024:.1f} KiB;",
      "label image:", labels.shape, f"{labels.nbytes / 1024:.0f} KiB")  # fmt: skip

# %% tags=["check"]
assert np.array_equal(areas, nuclei.area_px), "redrawn polygons differ from the segmented ones"

# %% [markdown]
# ## Do the percentiles matter to StarDist?
#
# Six fields, four choices. If segmentation depended on them, the paper's silence would matter.

# %%
sample = dataset.fields["field_id"].iloc[:6]
counts = {}
for low, high in ((0, 100), (1, 99.8), (3, 99.8), (1, 99)):
    choice = PreprocessingConfig(low, high)
    found = [segmenter(normalize_field(dataset.read_field(name), choice)[0]) for name in sample]
    counts[f"{low} to {high}"] = [int(select_nuclei(each, choice).sum()) for each in found]
by_percentile = pd.DataFrame(counts, index=[f"field {i}" for i in range(1, 7)]).T
by_percentile.assign(all=by_percentile.sum(axis=1))

# %% tags=["check"]
totals = by_percentile.sum(axis=1)
usual = totals["1 to 99.8"]
assert abs(totals["3 to 99.8"] - usual) <= 0.05 * usual, f"percentiles matter: {totals.to_dict()}"

# %% [markdown]
# ## All fields
#
# `prepare` does the same for every field: nuclei first, then crops, in parallel and resumable.
# What is there already is not computed again.

# %%
dataset = prepare(dataset, config, segmenter)
nuclei_of = read_nuclei(dataset)
print(f"{len(dataset.fields)} fields, {len(dataset.nuclei)} objects, {len(dataset.crops)} crops")
print("crops.zarr:", dataset.crop_images.shape, dataset.crop_images.dtype, "and masks",
      dataset.nuclear_masks.shape)  # fmt: skip
diameter_px = np.sqrt(4 * dataset.nuclei["area_px"] / np.pi)
kept = dataset.nuclei["area_px"] >= config.minimum_area_px
print(f"median nucleus: {diameter_px[kept].median():.0f} pixels across "
      f"({diameter_px[kept].median() * pixel_size_um:.1f} µm)")  # fmt: skip

# %%
fig, ax = plt.subplots(figsize=(7, 2.8))
ax.hist(dataset.nuclei["area_px"], bins=np.arange(0, 8200, 200), color=PALETTE[0])
ax.axvline(config.minimum_area_px, color=PALETTE[1], linestyle="--")
ax.annotate("1,000 pixels", (1050, 0.92), xycoords=("data", "axes fraction"), color=PALETTE[1])
ax.set(xlabel="area of an object (pixels)", ylabel="objects")
show(
    fig,
    caption=f"Areas of all {len(dataset.nuclei)} objects found in {len(dataset.fields)} {kind} "
    f"fields. {(~kept).sum()} lie under the paper's 1,000 pixels: debris, and slivers.",
    alt="Histogram of object areas with one broad peak and a dashed line at 1,000 pixels.",
)

# %% [markdown]
# ## How many crops does each choice give?
#
# *Guess before you look: of all nuclei, how many survive "drop" in a field of 600 pixels, when a
# crop is 208 wide?* For centers spread evenly it would be $((600 - 208) / 600)^2 = 43\,\%$.

# %%
rows = []
for rule in ("drop", "shift", "pad"):
    for minimum in (0, 500, 1000, 2000):
        choice = PreprocessingConfig(border_rule=rule, minimum_area_px=minimum)
        rows.append((rule, minimum, len(crop_table(dataset, nuclei_of, choice))))
sweep = pd.DataFrame(rows, columns=["border rule", "minimum area (px)", "crops"])
sweep = sweep.pivot(index="border rule", columns="minimum area (px)", values="crops")
sweep.loc[["drop", "shift", "pad"]]

# %% [markdown]
# The border rule changes the size of the dataset more than twofold; the minimum area hardly does.
# And the rules differ in kind: "shift" gives crops whose nucleus is not in the middle, which is
# not what the paper describes, and "pad" teaches the model black bars.

# %%
edge_id = next(name for name in dataset.fields["field_id"] if len(nuclei_of[name]) > 8)
edge = nuclei_of[edge_id]
edge = edge[select_nuclei(edge, config)]
nearest = np.argsort(edge.centroids.min(axis=1))[:1]
image = to_uint8(normalize_field(dataset.read_field(edge_id)))
fig, axes = panels(1, 2, panel_inches=2.2)
for ax, rule in zip(axes[0], ("shift", "pad"), strict=True):
    where, _ = crop_origins(
        edge.centroids[nearest], image.shape[-2:], PreprocessingConfig(border_rule=rule)
    )
    ax.imshow(channel_composite(*cut_crops(image, where, config.crop_size_px)[0] / 255))
    ax.set_title(rule, fontsize="small")
show(
    fig,
    caption=f"The nucleus nearest to the upper or left border of a {kind} field, cut by the two "
    "rules that keep it. The default, drop, leaves it out.",
    alt="Two crops of one nucleus: one with the nucleus off center, one with a black bar.",
)

# %% [markdown]
# ## What do the crops look like?

# %%
rng = np.random.default_rng(SEED)
chosen = np.sort(rng.choice(len(dataset.crops), 10, replace=False))
location = dataset.proteins.set_index("protein_id")["locations"]
fig, axes = panels(2, 5)
for ax, i in zip(axes.flat, chosen, strict=True):
    ax.imshow(channel_composite(*dataset.crop_images[i] / 255))
    ax.contour(dataset.nuclear_masks[i], [0.5], colors="white", linewidths=0.8)
    ax.set_title(location[dataset.crops["protein_id"].iloc[i]], fontsize="x-small")
show(
    fig,
    caption=f"Ten of {len(dataset.crops)} {kind} crops, drawn at random: nucleus blue, protein "
    f"orange, {config.crop_size_px} pixels ({config.crop_size_px * pixel_size_um:.0f} µm) wide. "
    "White: the nucleus on which the crop is centered. Above: the annotated location.",
    alt="Grid of ten two-color cell images, each with the outline of the central nucleus in white.",
)

# %% tags=["check"]
center = config.crop_size_px // 2
masks = dataset.nuclear_masks[:]
covered = masks[:, center, center].mean()
assert covered > 0.99, f"only {covered:.1%} of the crops have their nucleus in the middle"
assert dataset.crops["protein_id"].nunique() >= 0.9 * len(dataset.proteins)

# %% [markdown]
# ## Is the yield that of the paper?

# %%
per_field = (
    dataset.crops["field_id"].value_counts().reindex(dataset.fields["field_id"], fill_value=0)
)
PAPER_CROPS, PAPER_FIELDS, PAPER_PROTEINS = 62_108, 6_239, 1_301
resampled = rng.choice(per_field.to_numpy(), (2000, len(per_field))).mean(axis=1)
low, high = np.percentile(resampled, [2.5, 97.5])
fig, ax = plt.subplots(figsize=(7, 2.8))
ax.hist(per_field, bins=np.arange(-0.5, per_field.max() + 1.5), color=PALETTE[0])
ax.axvline(PAPER_CROPS / PAPER_FIELDS, color=PALETTE[1], linestyle="--")
ax.annotate("paper's mean", (PAPER_CROPS / PAPER_FIELDS, 1.0), ha="center", va="bottom",
            xycoords=("data", "axes fraction"), color=PALETTE[1])  # fmt: skip
ax.set(xlabel="crops from one field", ylabel="fields")
show(
    fig,
    caption=f"Crops per {kind} field, n = {len(per_field)} fields: mean {per_field.mean():.2f} "
    f"(95 % interval {low:.2f} to {high:.2f}, bootstrap over fields). The paper's mean is "
    f"{PAPER_CROPS / PAPER_FIELDS:.2f}.",
    alt="Histogram of crops per field with one peak, and a dashed line at the paper's mean.",
)

# %%
tell(
    "| | paper (OpenCell) | here |\n|---|---|---|\n"
    f"| images | measured | {kind} |\n"
    f"| proteins | {PAPER_PROTEINS:,} | {len(dataset.proteins):,} |\n"
    f"| fields | {PAPER_FIELDS:,} | {len(dataset.fields):,} |\n"
    f"| crops | {PAPER_CROPS:,} | {len(dataset.crops):,} |\n"
    f"| fields a protein | {PAPER_FIELDS / PAPER_PROTEINS:.2f} "
    f"| {len(dataset.fields) / len(dataset.proteins):.2f} |\n"
    f"| crops a field | {PAPER_CROPS / PAPER_FIELDS:.2f} | {per_field.mean():.2f} |\n"
    f"| crops a protein | {PAPER_CROPS / PAPER_PROTEINS:.1f} "
    f"| {len(dataset.crops) / len(dataset.proteins):.1f} |"
)

# %% tags=["check"]
assert 0.6 < per_field.mean() / (PAPER_CROPS / PAPER_FIELDS) < 1.6, "another yield than the paper's"

# %% [markdown]
# ## Does it work on a real image?
#
# Simulated nuclei are drawn by rules; real ones are not. StarDist's own package carries one
# measured fluorescence image with its nuclei outlined by hand. Its nuclei are smaller than ours,
# so 1,000 pixels is no filter for it.

# %%
from stardist.data import test_image_nuclei_2d  # noqa: E402
from stardist.matching import matching  # noqa: E402

real_image, truth = test_image_nuclei_2d(return_mask=True)
real = normalize_field(real_image[None].astype(np.uint16), config)[0]
real_nuclei = segmenter(real)
agreement = matching(truth, nucleus_labels(real_nuclei, real.shape), thresh=0.5)
fig, axes = panels(1, 2, panel_inches=3.6)
draw_image(axes[0, 0], real)
draw_image(axes[0, 1], real)
for y, x in real_nuclei.outlines:
    axes[0, 1].fill(x, y, fill=False, edgecolor=PALETTE[4], linewidth=1)
axes[0, 1].set(xlim=axes[0, 0].get_xlim(), ylim=axes[0, 0].get_ylim())
show(
    fig,
    caption=f"A measured fluorescence image (from the stardist package) and the "
    f"{len(real_nuclei)} nuclei found in it; {agreement.n_true} were outlined by hand, "
    f"F1 {agreement.f1:.2f} at an overlap of 0.5.",
    alt="A crowded field of real nuclei, and the same with outlines around nearly all of them.",
)

# %% tags=["check"]
assert agreement.f1 > 0.8, f"the embedded model fails on a real image: F1 {agreement.f1:.2f}"

# %% [markdown]
# ## What the paper says, what we see

# %%
drop, shift = sweep.loc["drop", 1000], sweep.loc["shift", 1000]
tell(
    "```{admonition} What the paper says / What we see\n"
    "| | paper | here | verdict |\n|---|---|---|---|\n"
    f"| crops a field | {PAPER_CROPS / PAPER_FIELDS:.2f} (Methods, Fig. 2a) "
    f"| {per_field.mean():.2f} ({low:.2f} to {high:.2f}), n = {len(per_field)} {kind} fields "
    f"| {'agrees' if low <= PAPER_CROPS / PAPER_FIELDS <= high else 'differs'} |\n"
    f"| border rule | not said | drop: {drop:,}, shift: {shift:,} crops | cannot tell |\n"
    "| percentiles | not said | "
    f"{totals['1 to 99.8']} nuclei with 1 to 99.8, {totals['3 to 99.8']} with 3 to 99.8 "
    "| hardly matters |\n\n"
    "The simulator's density of cells was chosen near OpenCell's, so the yield is a check of the "
    "rules and no discovery. Of the three border rules only *drop* comes near the paper's yield "
    "at that density. Scaled down: the number of proteins and of fields.\n"
    "```"
)

# %% [markdown]
# ## Recap
#
# - Percentiles make fields comparable. A little clipping is the price, and it falls on the
#   background.
# - StarDist turns each nucleus into a point and 32 radii. The 1,000-pixel rule removes debris and
#   slivers and hardly any nuclei.
# - Of the choices that the paper leaves open, the border rule changes the number of crops most.
#
# ### Exercises
#
# 1. *Read.* A crop often shows several nuclei, and neighbors appear in each other's crops. Why
#    must training and test sets then be split by protein and not by crop?
# 2. *Change.* Set `normalize_by="field"`, so that both channels share their percentiles. What
#    happens to a dim protein?
# 3. *Build.* Rotate each crop so that its nucleus's long axis is horizontal. Which part of
#    `read_nuclei`'s answer gives you the angle?

# %% tags=["solution"]
tell(
    "**1.** Two crops of one field share pixels, so a split by crop tests on what was trained on; "
    "and even crops of different fields share the sequence, which is the model's other input."
)
together = normalize_field(field, PreprocessingConfig(normalize_by="field"))
print("2. mean of the protein channel:", *(f"{x[1].mean():.3f}" for x in (normalized, together)))
corners = nuclei.outlines[0] - nuclei.centroids[0][:, None]  # (2, 32)
_, axes_of_nucleus = np.linalg.eigh(corners @ corners.T)
print("3. long axis at", np.degrees(np.arctan2(*axes_of_nucleus[:, 1])).round(), "degrees")

# %% [markdown]
# Next: [03 · splits and leakage](03_splits_and_leakage).

# %%
execution_record(PROFILE, SEED)
