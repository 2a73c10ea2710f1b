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
# # 16 · The paper's figures: what does each panel show when it can be run?
#
# Five figures carry the paper's story {cite}`deepgps`. Here is every panel again, made from data
# and models that anybody can make, with what the paper reports beside it and what a panel leaves
# out: intervals, a prediction that knows nothing, and who was chosen by which rule.
#
# *One to two minutes on two cores when chapters 06, 08 and 10 have run, five alone; 3 GB of
# memory; no network.*
#
# **You will**
#
# - match each panel with the chapter that takes it apart;
# - see the same models through the paper's eyes and through a reviewer's;
# - tell which differences come from the data, which from the size, and which from counting.

# %% tags=["parameters"]
PROFILE = "demo"
DATASET = "embedded-demo"
SEED = 0
ENCODER = "embedded"
WIDTH = 12  # channels at full resolution; 64 as published
DEPTH = 3  # halvings of the image; 4 as published
CROP_SIZE_PX = 104  # side of the images; 208 as published
HIDDEN_DIM = 256  # of the projected sequence vector; 1024 as published
BATCH_SIZE = 16
LEARNING_RATE = 4e-3
LR_GAMMA = 0.8
EPOCHS = 6  # of single-2, as in chapter 06
SEQUENCE_LEARNING_RATE = 2e-5
EXTENDED_EPOCHS = 5  # of the models of Figure 4, as in chapter 10
EXTENDED_SEQUENCE_LEARNING_RATE = 1e-4
TEST_FRACTION = 0.5  # of Figure 4's split, as in chapter 10
MAX_CROPS = 8  # of a held-out protein, scored in Figure 4g

# %%
import numpy as np
import pandas as pd
import torch

from deepgps_core.comparison import by_protein, compare_models
from deepgps_core.cropping import PreprocessingConfig, normalize_field, select_nuclei
from deepgps_core.crops import CropDataset, load_crops
from deepgps_core.cross_assay import crop_masks, first_crops, paint, ring_width_px
from deepgps_core.dataset import data_root, sha256_of
from deepgps_core.encoders import embed_dataset, load_encoder
from deepgps_core.evaluation import evaluate
from deepgps_core.forensics import exact_accuracy, one_vs_rest_accuracies, published
from deepgps_core.model import DeepGPS, DeepGPSConfig
from deepgps_core.multiclass import confusion_counts, roc_curve
from deepgps_core.nuclei import read_nuclei
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
from deepgps_core.predictor import load_predictor
from deepgps_core.preprocessing import prepare
from deepgps_core.runs import Run, load_run
from deepgps_core.sources.embedded import embedded_proteins, ensure_dataset
from deepgps_core.splits import SPLITTERS, make_split
from deepgps_core.statistics import bootstrap_interval, delong_interval, wilson_interval
from deepgps_core.training import TrainingConfig, fit, predict_crops, predict_labels
from deepgps_core.trivial import mean_images

use_book_style()

# %% [markdown]
# ## Inputs
#
# The dataset of chapter 02 and the trained models of chapters 06, 08 and 10. Single-2 is taken on
# the random split, as published; its grouped twin is chapter 06's subject.

# %%
dataset = prepare(ensure_dataset(DATASET, seed=SEED))
vectors = embed_dataset(dataset, load_encoder(ENCODER))
proteins = dataset.proteins.set_index("protein_id")
LABELS = dataset.info.labels[:4]
TWO = LABELS[:2]
kind = dataset.info.images
PAPER = published()
notes: list[dict[str, str]] = []  # one row a panel, for the table at the end
tell(
    "| file | source | licence | rows | sha256 |\n|---|---|---|---|---|\n"
    + "\n".join(
        f"| {name}.csv | {dataset.info.source} | {dataset.info.licence} | {len(table):,} "
        f"| `{sha256_of(dataset.path / f'{name}.csv')[:12]}…` |"
        for name, table in (("proteins", dataset.proteins), ("crops", dataset.crops))
    )
    + f"\n\nSequences and labels are real; images are **{kind}**."
)


# %%
def note(panel: str, paper: str, here: str, why: str) -> None:
    """Keep a row for the table at the end."""
    notes.append({"panel": panel, "the paper": paper, "here": here, "why they differ": why})


def config_of(n_classes: int) -> DeepGPSConfig:
    """Return the network at this profile's size."""
    return DeepGPSConfig(
        sequence_dim=len(next(iter(vectors.values()))), hidden_dim=HIDDEN_DIM, width=WIDTH,
        depth=DEPTH, crop_size_px=CROP_SIZE_PX, n_classes=n_classes,
    )  # fmt: skip


common = {
    "encoder": ENCODER, "batch_size": BATCH_SIZE, "learning_rate": LEARNING_RATE,
    "lr_gamma": LR_GAMMA, "weight_decay": 0.01, "seed": SEED, "select_by": "image_loss",
    "standardize_features": True, "precision": "auto",
}  # fmt: skip
singles = dataset.proteins[dataset.proteins["label"].isin(TWO)].reset_index(drop=True)
single_2_split = f"random-{SEED}-single-2"
dataset.write_split(single_2_split, make_split(singles, "random", SEED))
single_2 = fit(
    dataset, single_2_split, config_of(2),
    TrainingConfig(
        labels=TWO, epochs=EPOCHS, sequence_learning_rate=SEQUENCE_LEARNING_RATE, **common
    ),
    replace=True,
)  # fmt: skip

# %%
whole = SPLITTERS["grouped"](dataset.proteins, test_fraction=TEST_FRACTION, seed=SEED)
extended = {}
for name, classes in (("single-2", TWO), ("single-4", LABELS), ("all", dataset.info.labels)):
    chosen = proteins.index[proteins["label"].isin(classes) | (name == "all")]
    split_name = f"grouped-{SEED}-{name}" + ("-half" if name == "single-2" else "")
    dataset.write_split(split_name, whole[chosen])
    training = TrainingConfig(
        name=name, labels=classes, epochs=EXTENDED_EPOCHS,
        sequence_learning_rate=EXTENDED_SEQUENCE_LEARNING_RATE,
        label_weight=0.0 if name == "all" else 1.0, **common,
    )  # fmt: skip
    extended[name] = fit(dataset, split_name, config_of(len(classes)), training, replace=True)

# %% [markdown]
# ## Figure 1: the design
#
# The paper's drawing shows sequence and nucleus joined in the middle, and label and image coming
# out of what was joined. This is what the published computation does, with its parameters counted.

# %%
with torch.device("meta"):
    published_model = DeepGPS(DeepGPSConfig())
count = {
    name: sum(p.numel() for p in module.parameters())
    for name, module in published_model.named_children()
}
total = sum(count.values())
boxes = {  # x, y, text, color
    "sequence": (0.6, 3.0, "sequence", "white"),
    "esm": (2.5, 3.0, "ESM-2\nmean of residues", "white"),
    "head": (4.6, 3.0, f"projection, label head\n{count['head'] / 1e6:.1f} M", PALETTE[5]),
    "label": (6.9, 3.0, "label", "white"),
    "nucleus": (0.6, 1.0, "nucleus", "white"),
    "encoder": (2.5, 1.0, f"encoder\n{count['encoder'] / 1e6:.1f} M", PALETTE[5]),
    "fusion": (4.6, 1.0, f"attention, one key\n{count['fusion'] / 1e6:.1f} M", PALETTE[4]),
    "decoder": (6.9, 1.0, f"decoder\n{count['decoder'] / 1e6:.1f} M", PALETTE[5]),
    "image": (8.6, 1.0, "image", "white"),
}
arrows = [
    ("sequence", "esm", "-"), ("esm", "head", "-"), ("head", "label", "-"),
    ("nucleus", "encoder", "-"), ("encoder", "fusion", ":"), ("head", "fusion", "-"),
    ("fusion", "decoder", "-"), ("decoder", "image", "-"),
]  # fmt: skip
fig, ax = plt.subplots(figsize=(8.6, 3.2))
drawn = {
    name: ax.text(x, y, text, ha="center", va="center", fontsize="small", color="black",
                  bbox={"boxstyle": "round,pad=0.45", "facecolor": color, "edgecolor": "0.4"})
    for name, (x, y, text, color) in boxes.items()
}  # fmt: skip
for start, end, style in arrows:
    ax.annotate("", boxes[end][:2], boxes[start][:2], arrowprops={
        "arrowstyle": "->", "linestyle": style, "color": "0.3", "shrinkA": 2, "shrinkB": 2,
        "patchA": drawn[start].get_bbox_patch(), "patchB": drawn[end].get_bbox_patch(),
    })  # fmt: skip
ax.annotate("", (6.9, 0.55), (2.5, 0.55), arrowprops={
    "arrowstyle": "->", "connectionstyle": "arc3,rad=0.25", "color": "0.3"})  # fmt: skip
ax.text(4.7, -0.28, "skip connections: all that the picture knows of this nucleus", ha="center",
        fontsize="small")  # fmt: skip
ax.set(xlim=(-0.2, 9.4), ylim=(-0.6, 3.6))
ax.axis("off")
show(
    fig,
    caption=f"Figure 1 again, as computed: {total:,} parameters. Dotted: queries that a softmax "
    "over one key ignores, so nothing of the nucleus passes there (chapter 07). The label comes "
    "from the sequence alone.",
    alt="Flow chart: sequence through ESM-2 and a projection to label and attention; nucleus "
    "through encoder and skip connections to the decoder and the image.",
)
note("1", "sequence and image are fused, then label and image come out",
     f"label from the sequence alone; nucleus through skips only; {total:,} parameters",
     "the drawing shows a concatenation, the equations an attention over one key")  # fmt: skip

# %% tags=["check"]
assert total == 37_209_155

# %% [markdown]
# ## Figure 2: data, and single-2
#
# **2a**, from field to crop. The field is the first of the dataset, not a chosen one.

# %%
field_id = dataset.fields["field_id"].iloc[0]
field = normalize_field(dataset.read_field(field_id))
nuclei = read_nuclei(dataset)[field_id]
preprocessing = PreprocessingConfig()
kept = select_nuclei(nuclei, preprocessing)
of_field = dataset.crops[dataset.crops["field_id"] == field_id]
fig, axes = panels(1, 4, panel_inches=2.1)
for ax, image, title in zip(
    axes[0, :3], (field[0], field[0], field[1]),
    ("nuclei, normalized", "StarDist", "protein, and crops"), strict=True,
):  # fmt: skip
    draw_image(ax, np.clip(image, 0, 1))
    ax.set_title(title, fontsize="small")
for big, (y, x) in zip(kept, nuclei.outlines, strict=True):
    axes[0, 1].plot(np.append(x, x[0]), np.append(y, y[0]), linewidth=0.9,
                    color=PALETTE[4] if big else PALETTE[1])  # fmt: skip
axes[0, 1].set(xlim=(0, field.shape[2]), ylim=(field.shape[1], 0))
for y, x in of_field[["y0_px", "x0_px"]].to_numpy():
    axes[0, 2].add_patch(plt.Rectangle((x, y), 208, 208, fill=False, color="white", linewidth=0.6))
first_crop = dataset.crop_images[int(of_field.index[0])] / 255
axes[0, 3].imshow(channel_composite(first_crop[0], first_crop[1]))
axes[0, 3].set_title("first crop", fontsize="small")
show(
    fig,
    caption=f"Figure 2a again: one {kind} field. Orange outlines: kept; red: smaller than 1,000 "
    f"pixels. {len(nuclei.area_px)} objects, {int(kept.sum())} large enough, {len(of_field)} crops "
    "of 208 pixels that lie within the field.",
    alt="Four panels: a field of nuclei, the same with outlines, the protein with square crops, "
    "and one crop in two colors.",
)
note("2a, S2C", "6,239 fields, 62,108 crops: 10.0 a field",
     f"{len(dataset.fields):,} fields, {len(dataset.crops):,} crops: "
     f"{len(dataset.crops) / len(dataset.fields):.1f} a field",
     "borders: the paper states no rule; see chapter 02")  # fmt: skip

# %% [markdown]
# **2b**, proteins by their one major place. The paper's counts are OpenCell's; chapter 01 counts
# them from the source where it is at hand.

# %%
theirs = {
    name: values["train_proteins"] + values["test_proteins"]
    for name, values in PAPER["sets"].items()
    if isinstance(values, dict) and name != "all"
}
ours = proteins.loc[proteins["label"] != "", "label"].value_counts()
fig, axes = plt.subplots(1, 2, figsize=(8, 2.4))
for ax, counts, title in (
    (axes[0], pd.Series(theirs).sort_values(), "paper (OpenCell)"),
    (axes[1], ours.sort_values(), f"here ({dataset.info.name})"),
):
    bars = ax.barh([x.capitalize() if x.islower() else x for x in counts.index], counts,
                   color=PALETTE[0])  # fmt: skip
    ax.bar_label(bars, padding=3, fontsize="small")
    ax.set(title=title, xlabel="proteins", xlim=(0, counts.max() * 1.15))
show(
    fig,
    caption="Figure 2b again: proteins with a single major place, the four largest of the paper's "
    "17 classes, and the classes here (real labels).",
    alt="Two bar charts of proteins per class; cytoplasm is the largest in the paper, cytoplasm and "
    "nucleus are alike here.",
)
note("2b, S2D, S2E", ", ".join(f"{n} {x}" for x, n in theirs.items()),
     ", ".join(f"{n} {x.lower()}" for x, n in ours.items()),
     "other proteins: OpenCell's there, SCL2205's here; chapter 01 recounts OpenCell's")  # fmt: skip


# %% [markdown]
# **2c**, who learns what; with 3b and 4a, which say the same of the other models.


# %%
def described(run: Run, inputs: str) -> dict[str, object]:
    """Return one line of the table of strategies."""
    parts = run.proteins["split"].value_counts()
    return {
        "inputs": inputs, "proteins": int(parts["train"]), "held out": int(parts["test"]),
        "label loss": run.training_config.label_weight, "classes": len(run.labels),
    }  # fmt: skip


pd.DataFrame(
    {
        "single-2 (Fig. 2c)": described(single_2, "nucleus, sequence"),
        **{f"{name} (Fig. 4a)": described(r, "nucleus, sequence") for name, r in extended.items()},
    }
).T
# %%
note("2c, 3b, 4a, S3", "single-2: 291 and 63 proteins; single-4: 467 and 105; all: 1,051 and 250",
     "; ".join(f"{n}: {(r.proteins['split'] == 'train').sum()} and "
               f"{(r.proteins['split'] == 'test').sum()}"
               for n, r in (("single-2", single_2), ("single-4", extended["single-4"]),
                            ("all", extended["all"]))),
     "sizes; Figure 4's models share one split here, so that they can be compared")  # fmt: skip

# %% [markdown]
# **2d**, six examples. The paper does not say how it chose them. Here they stand at equal steps of
# the ranking by PSNR, from the best protein to the worst; of each, the crop nearest to its mean.


# %%
def crops_of(names: list[str], labels: tuple[str, ...]) -> CropDataset:
    """Load crops at this profile's size."""
    return load_crops(dataset, names, encoder=ENCODER, labels=labels, crop_size_px=CROP_SIZE_PX)


def examples(run: Run, ranked: pd.DataFrame, own: pd.DataFrame) -> list[tuple]:
    """Return nucleus, protein, drawn and title of the crop nearest to each protein's mean."""
    crops = crops_of(list(ranked["protein_id"]), run.labels)
    drawn = np.concatenate(
        [p.image[:, 0].float().cpu() for _, p in predict_crops(run.model, crops)]
    )
    found = []
    for protein in ranked.itertuples():
        of_protein = own.loc[own["protein_id"] == protein.protein_id, "psnr_db"]
        row = crops.crop_ids.index((of_protein - of_protein.mean()).abs().idxmin())
        nucleus, target = crops.images[row].numpy() / 255
        gene = proteins.loc[protein.protein_id, "gene"]
        place = proteins.loc[protein.protein_id, "label"].lower()
        title = f"{gene}\n{place}\n{protein.psnr_db:.1f} dB"
        found.append((nucleus, target, drawn[row], title))
    return found


def draw_examples(found: list[tuple], panel_inches: float) -> plt.Figure:
    """Draw a column an example: nucleus, protein, drawn."""
    fig, axes = panels(3, len(found), panel_inches=panel_inches)
    for column, (*images, title) in zip(axes.T, found, strict=True):
        for ax, image in zip(column, images, strict=True):
            draw_image(ax, image)
        column[0].set_title(title, fontsize="xx-small", loc="center")
    for ax, name in zip(axes[:, 0], ("nucleus", "protein", "drawn"), strict=True):
        ax.set_ylabel(name, fontsize="small")
    return fig


# %%
scored = evaluate(single_2, dataset, n_resamples=1000, seed=SEED)
ranked = scored.proteins.sort_values("psnr_db", ascending=False, ignore_index=True)
chosen = ranked.iloc[np.linspace(0, len(ranked) - 1, 6).round().astype(int)]
own = scored.crops[scored.crops["prediction"] == "deepGPS"].set_index("crop_id")
show(
    draw_examples(examples(single_2, chosen, own), 1.45),
    caption=f"Figures 2d and S4 again: held-out proteins of the random split, at equal steps of "
    f"the ranking by PSNR. Nucleus and protein are {kind}; gray values from 0 to 1.",
    alt="Six columns of nucleus, protein and drawn protein, from best to worst.",
)
# %%
image_row = scored.images.set_index(["prediction", "metric"])
psnr = image_row.loc[("deepGPS", "psnr_db")]
trivial_name = image_row.xs("psnr_db", level="metric")["estimate"].drop("deepGPS").idxmax()
trivial = image_row.loc[(trivial_name, "psnr_db")]
tell(
    f"Over all {len(ranked)} held-out proteins: {psnr['estimate']:.1f} dB ({psnr['low']:.1f} to "
    f"{psnr['high']:.1f}), from {ranked['psnr_db'].min():.1f} to {ranked['psnr_db'].max():.1f}. The "
    f"best prediction without a network, *{trivial_name}*, has {trivial['estimate']:.1f} dB; the "
    f"network gains {trivial['gain']:.1f} dB ({trivial['gain_low']:.1f} to "
    f"{trivial['gain_high']:.1f}), protein by protein."
)
note("2d, S4", "six chosen examples",
     f"six by rank; all: {psnr['estimate']:.1f} dB ({psnr['low']:.1f} to {psnr['high']:.1f}), "
     f"{trivial_name} {trivial['estimate']:.1f}",
     "examples can be chosen; ranks cannot")  # fmt: skip

# %% tags=["check"]
assert set(chosen["protein_id"]) <= set(single_2.proteins.query("split == 'test'")["protein_id"])

# %% [markdown]
# **2e**, the cross-assay: one nucleus, four sequences. Two of each class, in the middle of their
# class by PSNR.

# %%
four = []
for label in TWO:
    of_class = ranked[ranked["label"] == label].reset_index(drop=True)
    four += list(of_class["protein_id"].iloc[[len(of_class) // 2 - 1, len(of_class) // 2]])
of_four = first_crops(crops_of(four, TWO), four)
fig, axes = panels(3, 5, panel_inches=1.5)
for line, nucleus_row in zip(axes, (0, 1, 3), strict=True):
    draw_image(line[0], of_four.images[nucleus_row, 0].numpy() / 255)
    line[0].set_ylabel(f"nucleus of\n{proteins.loc[four[nucleus_row], 'gene']}", fontsize="x-small")
    for ax, row in zip(line[1:], of_four.protein_index.tolist(), strict=True):
        draw_image(ax, paint(single_2.model, of_four, row)[nucleus_row])
for ax, name in zip(axes[0, 1:], four, strict=True):
    ax.set_title(f"{proteins.loc[name, 'gene']}\n{proteins.loc[name, 'label'].lower()}",
                 fontsize="x-small", loc="center")  # fmt: skip
show(
    fig,
    caption="Figure 2e again: three nuclei (rows), four held-out sequences (columns). Images are "
    f"drawn by single-2 of the random split, which learned from {kind} cells.",
    alt="Grid of images; within a row shapes agree, within a column the distribution.",
)
note("2e", "4 sequences in one nucleus, by eye", "4 in 3 nuclei here; all pairs in chapter 06",
     "one number a picture decides there, with an interval")  # fmt: skip

# %% [markdown]
# ## Table 1 and Figure 3: the label, and the structure
#
# **3c** and **3d** compare sequence, structure and both. The three variants are chapter 08's: the
# structures are stand-ins, so this tests the code and not the biology.

# %%
SHOWN = ("accuracy", "specificity", "sensitivity", "f1", "auroc")
scores_of = {"single-2, random split": (scored.proteins, scored.labels.set_index("metric"))}
folders = sorted((data_root() / "runs" / dataset.info.name).glob("ablation-*/*/0/config.yaml"))
for path in folders:
    run = load_run(path.parent)
    found = evaluate(run, dataset, n_resamples=500, seed=SEED)
    variant = run.training_config.name.removeprefix("ablation-")
    scores_of[f"{variant}, {run.split_name.split('-')[0]}"] = (
        found.proteins, found.labels.set_index("metric")
    )  # fmt: skip
printed = PAPER["table_1"]["rows"]["deepGPS-single-2"]
fig, axes = plt.subplots(1, len(SHOWN), figsize=(10, 0.35 * len(scores_of) + 1.1), sharey=True)
for ax, metric in zip(axes, SHOWN, strict=True):
    rows = [table.loc[metric] for _, table in scores_of.values()]
    interval_plot(ax, list(scores_of), [r["estimate"] for r in rows],
                  [(r["low"], r["high"]) for r in rows], reference=0.5)  # fmt: skip
    ax.axvline(printed[metric], color=PALETTE[1], linewidth=1)
    ax.set(xlim=(0, 1), xlabel=metric)
    ax.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
show(
    fig,
    caption="Table 1 and Figure 3c again, per protein, 95 % bootstrap intervals. Dashed: guessing "
    "between equal classes; red: the paper's value for the sequence (63 proteins, other data). "
    "Structures are stand-ins (simulated); labels and sequences are real.",
    alt="Five interval plots of label metrics for the variants; intervals overlap each other and "
    "the paper's value.",
)
if not folders:
    tell("The variants of Figure 3 are missing: `make book ONLY=08` trains them.")

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.6), width_ratios=[1, 1.4])
for k, (name, (table, _)) in enumerate(scores_of.items()):
    is_first = (table["label"] == TWO[0]).to_numpy()
    p = table[f"p_{TWO[0]}"].to_numpy()
    area = delong_interval(is_first, p)
    left.plot(*roc_curve(is_first, p), color=PALETTE[k], label=f"{name} {area:.2f}")
left.plot([0, 1], [0, 1], "--", color="0.7", linewidth=1)
left.set(xlabel="1 - specificity", ylabel="sensitivity", aspect="equal")
fig.legend(*left.get_legend_handles_labels(), fontsize="x-small", loc="outside lower center",
           ncols=2)  # fmt: skip
names = [n for n in scores_of] + ["training mean, random split"]
values = [bootstrap_interval(t["psnr_db"].dropna().to_numpy(), seed=SEED)
          for t, _ in scores_of.values()]  # fmt: skip
mean_row = image_row.loc[("training mean", "psnr_db")]
interval_plot(
    right, names, [*(v.estimate for v in values), mean_row["estimate"]],
    [*((v.low, v.high) for v in values), (mean_row["low"], mean_row["high"])],
    colors=[*PALETTE[: len(values)], "0.5"], reference=PAPER["image_quality"]["psnr_db"],
    reference_name="paper",
)  # fmt: skip
right.set_xlabel("PSNR (dB)")
show(
    fig,
    caption=f"Figure 3c, right, and 3d again: ROC curves of cytoplasm with DeLong's intervals, and "
    f"PSNR of drawn images ({kind}) with the mean training image beside. Chapter 08 compares the "
    "variants within proteins, over several trainings.",
    alt="Left, ROC curves; right, PSNR of the variants with overlapping intervals, all above the "
    "mean image.",
)
auroc = scored.labels.set_index("metric").loc["auroc"]
note("3a", "PyUUL points, three elements", "the same, from a KD-tree", "chapter 05: equal, in "
     "less memory")  # fmt: skip
note("3c, Table 1", f"AUROC {printed['auroc']:.2f}, accuracy {printed['accuracy']:.2f}",
     f"AUROC {auroc['estimate']:.2f} ({auroc['low']:.2f} to {auroc['high']:.2f}), "
     f"{int(auroc['n_proteins'])} proteins",
     "data, encoder size; one small split decides little (chapters 06, 12)")  # fmt: skip
note("3d", f"PSNR {PAPER['image_quality']['psnr_db']} dB, SSIM {PAPER['image_quality']['ssim']:.2f}; "
     "no baseline",
     f"PSNR {psnr['estimate']:.1f} dB; mean image {mean_row['estimate']:.1f}",
     f"{kind} images are easier; conventions move it by a decibel (chapter 13)")  # fmt: skip

# %% [markdown]
# ## Figure 4: four classes, and all proteins
#
# **4b** to **4e**. The paper's average accuracy is one-vs-rest; chapter 09 shows what that forgives.

# %%
four_run = extended["single-4"]
four_scored = evaluate(four_run, dataset, n_resamples=500, seed=SEED)
answers = four_scored.proteins
matrices = {
    "paper, proteins": (np.array(PAPER["figure_4"]["proteins"]), PAPER["figure_4"]["classes"]),
    "here, proteins": (confusion_counts(answers, LABELS), LABELS),
    "paper, crops": (np.array(PAPER["figure_4"]["crops"]), PAPER["figure_4"]["classes"]),
    "here, crops": (confusion_counts(answers, LABELS, by_crop=True), LABELS),
}
fig, axes = plt.subplots(1, 4, figsize=(11, 3.1))
for ax, (title, (matrix, classes)) in zip(axes, matrices.items(), strict=True):
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (i, j), n in np.ndenumerate(matrix):
        ax.text(j, i, f"{n:,}", ha="center", va="center", fontsize="x-small",
                color="white" if share[i, j] > 0.6 else "black")  # fmt: skip
    short = [c[:5] + "." if len(c) > 6 else c for c in classes]
    ax.set_xticks(range(4), short, fontsize="xx-small")
    ax.set_yticks(range(4), short, fontsize="xx-small")
    ax.set_title(title, fontsize="small")
axes[0].set(ylabel="true", xlabel="predicted")
show(
    fig,
    caption="Figures 4d and 4e, published and again: who is taken for whom. Shade: share of the "
    f"true class. Here {len(answers)} held-out proteins; images are not used for labels.",
    alt="Four heat maps of counts, the paper's two and ours.",
)

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.3))
for k, label in enumerate(LABELS):
    is_label = (answers["label"] == label).to_numpy()
    p = answers[f"p_{label}"].to_numpy()
    left.plot(*roc_curve(is_label, p), color=LABEL_COLORS.get(label, PALETTE[k]),
              label=f"{label.lower()} {delong_interval(is_label, p):.2f}")  # fmt: skip
left.plot([0, 1], [0, 1], "--", color="0.7", linewidth=1)
left.set(xlabel="others called so", ylabel="of the class called so", aspect="equal")
left.legend(fontsize="xx-small", loc="lower right")
measures = {}
for title, (matrix, _) in matrices.items():
    measures[f"{title}: one-vs-rest"] = float(one_vs_rest_accuracies(matrix).mean())
    measures[f"{title}: exact"] = exact_accuracy(matrix)
bars = right.barh(list(measures)[::-1], list(measures.values())[::-1],
                  color=[PALETTE[1], PALETTE[0]] * 4)  # fmt: skip
right.bar_label(bars, fmt="%.2f", padding=3, fontsize="x-small")
right.tick_params(axis="y", labelsize="x-small")
right.set(xlim=(0, 1), xlabel="accuracy")
show(
    fig,
    caption="Figures 4b and 4c again. Left: one-vs-rest ROC curves with DeLong's intervals. Right: "
    "the same matrices counted twice; blue forgives half of each error.",
    alt="Left, four ROC curves; right, bars: one-vs-rest accuracies are far above exact ones.",
)
mine, mine_exact = measures["here, proteins: one-vs-rest"], measures["here, proteins: exact"]
right_calls = wilson_interval(round(mine_exact * len(answers)), len(answers))
note("4b, 4c, 4d, 4e", f"average accuracy {PAPER['figure_4']['average_accuracy']}, AUROC "
     f"{PAPER['figure_4']['average_auroc']}",
     f"one-vs-rest {mine:.2f}, exact {right_calls:.2f}",
     f"the paper's exact accuracy is {measures['paper, proteins: exact']:.2f}")  # fmt: skip

# %% tags=["check"]
assert round(measures["paper, proteins: one-vs-rest"], 2) == PAPER["figure_4"]["average_accuracy"]

# %% [markdown]
# **4f**, examples at three cutoffs of image quality: of each class the best, the middle and the
# worst. **4g**, all three models on the *same* held-out proteins.

# %%
own = four_scored.crops[four_scored.crops["prediction"] == "deepGPS"].set_index("crop_id")
chosen = []
for label in LABELS:
    of_class = answers[answers["label"] == label].dropna(subset="psnr_db")
    of_class = of_class.sort_values("psnr_db", ascending=False)
    chosen.append(of_class.iloc[[0, (len(of_class) - 1) // 2, -1]])
show(
    draw_examples(examples(four_run, pd.concat(chosen), own), 0.95),
    caption="Figures 4f and S7 again: of each class the best, middle and worst protein by PSNR, "
    f"drawn by single-4. Nucleus and protein are {kind}.",
    alt="Twelve columns of nucleus, protein and drawn protein; threads of membranes and "
    "mitochondria are not drawn.",
)

# %%
held_out = crops_of([name for name in whole.index[whole == "test"]], dataset.info.labels)
owner = pd.Series(held_out.protein_index.numpy())
some = held_out.first_of_each(MAX_CROPS)
means = mean_images(crops_of(list(whole.index[whole == "train"]), dataset.info.labels),
                    len(dataset.info.labels))  # fmt: skip
compared = compare_models(
    {name: r.model for name, r in extended.items()}, some,
    crop_masks(dataset, some.crop_ids, CROP_SIZE_PX),
    ring_px=ring_width_px(dataset, CROP_SIZE_PX), fixed={"training mean": means.overall},
)  # fmt: skip
fig, axes = plt.subplots(1, 2, figsize=(8, 2.2), sharey=True)
for ax, (metric, unit) in zip(axes, (("psnr_db", "PSNR (dB)"), ("ssim", "SSIM")), strict=True):
    table = by_protein(compared[compared["model"] != "original"], metric)
    found = {name: bootstrap_interval(table[name].to_numpy(), seed=SEED) for name in table}
    interval_plot(ax, list(found), [v.estimate for v in found.values()],
                  [(v.low, v.high) for v in found.values()])  # fmt: skip
    ax.set_xlabel(unit)
    if metric == "psnr_db":
        psnr_of = found
show(
    fig,
    caption=f"Figure 4g again: the same {len(table)} held-out proteins for each model ({kind} "
    "images), per protein, 95 % bootstrap intervals. The paper scores each model on a test set of "
    "its own.",
    alt="Two interval plots of three models and the mean image; the models overlap.",
)
note("4f, S7", "twelve chosen examples", "twelve by rank within classes", "as for 2d")
note("4g", "deepGPS-all has the highest PSNR and SSIM",
     "; ".join(f"{n} {v.estimate:.1f}" for n, v in psnr_of.items()) + " dB, same proteins",
     "different test sets there (chapter 10)")  # fmt: skip

# %% [markdown]
# ## Figure 5: openGPS
#
# The website is an application in this repository, and chapter 18 walks through its pages. Its
# "Predict" module in one call, on those of Figure S9's three proteins that come with the book,
# beside the default nucleus:

# %%
model = load_predictor("all")
by_gene = embedded_proteins().set_index("gene")
showcase = [gene for gene in ("CPSF6", "CSTF2", "EEF2") if gene in by_gene.index]
answer = model.predict({gene: by_gene.loc[gene, "sequence"] for gene in showcase})
fig, axes = panels(1, len(showcase) + 1, panel_inches=1.8)
draw_image(axes[0, 0], answer.nuclear_image)
axes[0, 0].set_title("nucleus", fontsize="small", loc="center")
for ax, row, image in zip(axes[0, 1:], answer.table.itertuples(), answer.images, strict=True):
    draw_image(ax, image)
    ax.set_title(f"{row.protein_id}\nsays {row.predicted_label.lower()}", fontsize="x-small",
                 loc="center")  # fmt: skip
    ax.set_xlabel(
        f"p {row.confidence:.2f}" + (", unsure" if row.unsure else ""), fontsize="x-small"
    )
show(
    fig,
    caption=f"Figures 5c and S9 again. {answer.nuclei_source.capitalize()} nucleus; "
    f"{model.info.notice}",
    alt="A nucleus and the drawn images of the proteins with their labels and probabilities.",
)
tell(
    "UniProt's curators, through SCL2205, say: "
    + "; ".join(f"{gene} {by_gene.loc[gene, 'locations'].replace(';', ' and ').lower()}"
                for gene in showcase)
    + ". So few answers show little either way (chapter 15)."
)  # fmt: skip
note("5a-d", "a website", "`deepgps serve`: Home, Predict, Submit, an interface for programs",
     "the paper's site cannot be inspected; this one is tested (chapter 18)")  # fmt: skip
note("S9", "CPSF6, CSTF2, EEF2 all right",
     "; ".join(f"{r.protein_id} {r.predicted_label.lower()}" for r in answer.table.itertuples()),
     "CPSF6 is an OpenCell target (chapter 01)")  # fmt: skip

# %% [markdown]
# ## What the supplement describes
#
# **S2A, B**: proteins by length, and images a protein. **S8**: what deepGPS-all draws, by place.

# %%
length = proteins["sequence"].str.len()
a_protein = dataset.crops["protein_id"].value_counts()
fig, axes = plt.subplots(1, 2, figsize=(8, 2.3))
axes[0].hist(length, bins=np.geomspace(length.min(), length.max(), 30), color=PALETTE[0])
axes[0].axvline(2700, color=PALETTE[1], linestyle="--", linewidth=1)
axes[0].set(xscale="log", xlabel="residues (dashed: 2,700)", ylabel="proteins")
axes[1].hist(a_protein, bins=np.arange(0, a_protein.max() + 2), color=PALETTE[0])
axes[1].set(xlabel="crops of a protein")
show(
    fig,
    caption=f"S2A and S2B again: lengths of {len(length)} proteins (real), and crops of each "
    f"({kind}).",
    alt="Two histograms: lengths around some hundred residues, and around ten crops a protein.",
)

# %%
psnr_all = by_protein(compared, "psnr_db")["all"].dropna()
place = proteins["label"].where(proteins["label"] != "", proteins["locations"])
middle = []
for name in place[psnr_all.index].value_counts().index[:6]:
    of_place = psnr_all[place[psnr_all.index] == name].sort_values()
    middle.append(of_place.index[len(of_place) // 2])
of_middle = first_crops(some, middle)
drawn = torch.cat([p.image[:, 0].float().cpu()
                   for _, p in predict_crops(extended["all"].model, of_middle)])  # fmt: skip
fig, axes = panels(3, len(middle), panel_inches=1.35)
for column, name, both, image in zip(axes.T, middle, of_middle.images, drawn, strict=True):
    for ax, shown in zip(column, (*(both.numpy() / 255), image.numpy()), strict=True):
        draw_image(ax, shown)
    column[0].set_title(place[name].replace(";", ",\n").lower(), fontsize="x-small", loc="center")
for ax, name in zip(axes[:, 0], ("nucleus", "protein", "drawn"), strict=True):
    ax.set_ylabel(name, fontsize="small")
show(
    fig,
    caption="S8 again: the held-out protein with the middle PSNR of each place, drawn by "
    f"deepGPS-all. Nucleus and protein are {kind}.",
    alt="A column a place: nucleus, protein and drawn protein; drawn images know inside from "
    "outside of the nucleus and little more.",
)
note("S1", "other tools answer with labels, other models reconstruct images", "chapters 12, 19",
     "no data in this panel")  # fmt: skip
note("S5", "the three variants drawn", "chapter 08", "a schematic")
note("S6, Table 2", "U-2 OS: more proteins, better labels, rougher images", "chapter 11",
     "a second simulated cell line; HPA's images where fetched")  # fmt: skip
note("S8", "twelve organelles, general shape is right",
     f"{len(middle)} places; {psnr_all.mean():.1f} dB over {len(psnr_all)} proteins",
     "SCL2205 has fewer places")  # fmt: skip

# %% [markdown]
# ## What the paper says, what we see

# %%
order = sorted(notes, key=lambda row: (row["panel"].startswith("S"), row["panel"]))
tell(
    "```{admonition} What the paper says / What we see\n"
    "| panel | the paper | here | why they differ |\n|---|---|---|---|\n"
    + "\n".join("| " + " | ".join(row.values()) + " |" for row in order)
    + f"\n\nThe paper's images are measured (OpenCell, HPA); ours are {kind}. Its numbers and ours "
    "are not two estimates of one thing.\n```"
)

# %% tags=["check"]
panels_named = " ".join(row["panel"] for row in notes)
for figure in ("1", "2a", "2b", "2c", "2d", "2e", "3a", "3b", "3c", "3d", "4a", "4b", "4g", "5a"):
    assert figure in panels_named, f"panel {figure} is missing"
for number in range(1, 10):
    assert f"S{number}" in panels_named, f"figure S{number} is missing"

# %% [markdown]
# ## Recap
#
# - Every panel can be made again; most look like the paper's, because blurs and blobs at the right
#   place look right.
# - What a panel leaves out decides how to read it: the interval, the prediction that knows nothing,
#   and how the examples were chosen.
# - The numbers differ because data, sizes and units of counting differ; the last column says which.
#
# ## Exercises
#
# **1. Read** (5 min). Two panels of Figure 4 show the same counts of proteins and of crops. Why do
# they nearly agree here, and what would have to be true of the label head for them to differ?
#
# **2. Change** (10 min). Choose Figure 2d's six examples as somebody would who wants to convince:
# the six best. What is their mean PSNR, and that of a fair six?
#
# **3. Build** (half an hour). Draw Figure 2d again for the nucleus-only control of chapter 06.
# Could a reader tell the two figures apart?

# %% [markdown] tags=["solution"]
# **1.** The label depends on the sequence alone, so all crops of a protein are called the same;
# the matrix of crops is that of proteins, weighted by crops. It would differ in kind if the head
# saw the image.

# %% tags=["solution"]
fair = ranked["psnr_db"].iloc[np.linspace(0, len(ranked) - 1, 6).round().astype(int)]
print(f"2. the six best {ranked['psnr_db'].head(6).mean():.1f} dB, six by rank {fair.mean():.1f} dB, "
      f"all {ranked['psnr_db'].mean():.1f} dB")  # fmt: skip
told = predict_labels(single_2.model.cpu(), crops_of(list(ranked["protein_id"][:6]), TWO), TWO)
print(
    f"   of the six best, {(told['predicted_label'] == told['label']).sum()} have the right label"
)

# %%
execution_record(PROFILE, SEED)
