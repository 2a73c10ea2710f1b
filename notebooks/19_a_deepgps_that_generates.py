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
# # 19 · What would a deepGPS that generates look like?
#
# The paper calls deepGPS generative {cite}`deepgps`, yet it is a regression: one picture for each
# input, no noise, no second answer. Its L1 loss asks for the median of all cells that could be,
# and the median is a blur. This chapter builds the model that the title promises, a flow from
# noise to images given nucleus and sequence {cite}`flowmatching`, in the same run folder, and
# measures both by one ruler.
#
# *After chapter 06, whose run is reused: minutes, on two cores under `demo` and on a GPU under
# `gpu`; 3 GB of memory; no network. Under `demo` the pictures are small and the flow is barely
# trained: it shows what can be measured, and `gpu` what can be reached.*
#
# **You will**
#
# - train a flow-matching model, and draw several samples of the same protein in the same cell;
# - score blur and samples by metrics of likeness, of grain and of place, and see them disagree;
# - check whether the spread of samples can be believed, and run the model in reverse.

# %% tags=["parameters"]
PROFILE = "demo"
DATASET = "embedded-demo"
SEED = 0
ENCODER = "embedded"  # whose sequence vectors
WIDTH = 12  # this and the following as in chapter 06, or it is trained again
DEPTH = 3
CROP_SIZE_PX = 104
HIDDEN_DIM = 256
EPOCHS = 6
BATCH_SIZE = 16
LEARNING_RATE = 4e-3
LR_GAMMA = 0.8
SEQUENCE_LEARNING_RATE = 2e-5
FUSIONS = ()  # repaired fusions of the L1 model; each is trained as long as the published one
FLOW_WIDTH = 8  # channels of the flow, counted at full resolution; 32 in the gpu profile
FLOW_EPOCHS = 20  # of each flow
FLOW_LEARNING_RATE = 3e-3
FLOW_GAMMA = 0.9  # times after each epoch
LABEL_LEARNING_RATE = 2.5e-5  # of its label head; with more it grows sure of everything
COARSE_NOISE = 0.2  # share of the noise's variance that is coarse, as images are
WHITE_NOISE = False  # train one more flow, from white noise
STEPS = 10  # from noise to image
GUIDANCE = 1.5  # how much what the network is told counts in drawing; 1 as learned
EMA_DECAY = 0.99  # of the averaged weights; 0.999 for long trainings
STUDENT_EPOCHS = 2  # of the distilled four-step model
RESIDUES = False  # train one more flow, that reads single residues
N_SAMPLES = 9  # of each protein in each nucleus
CROPS_PER_PROTEIN = 2  # that are scored, at most
CHECK_CROPS = 1  # of each validation protein, beside which guidance is shown
N_KNOWN = 20  # training proteins that are drawn, too
N_ABLATION = 40  # crops in the ablations
N_REVERSE = 30  # images, and proteins that compete, in the reverse ranking
N_DRAWS = 6  # noises and times in it
JUDGE_EPOCHS = 8
RING_UM = 4.0  # width of the ring around the nucleus that stands for the cytoplasm

# %%
import dataclasses
import time

import numpy as np
import pandas as pd
import torch

from deepgps_core.calibration import (
    calibration_intervals,
    error_if_calibrated,
    fit_temperature,
    log_loss,
    member_probabilities,
)
from deepgps_core.crops import CropDataset, average_down, load_crops
from deepgps_core.dataset import data_root
from deepgps_core.encoders import embed_dataset, load_encoder
from deepgps_core.flow import FlowConfig
from deepgps_core.generative import Sampling, sample_crops, score_sequences
from deepgps_core.generative_metrics import (
    eight_views,
    inside_interval,
    nearest_training,
    rank_of_own,
    sample_interval,
    sample_proportions,
    spectra,
    spot_count,
)
from deepgps_core.image_metrics import agreement, nuclear_proportion, pearson
from deepgps_core.judge import Ruler, train_judge
from deepgps_core.metrics import psnr
from deepgps_core.model import DeepGPSConfig
from deepgps_core.plotting import (
    LABEL_COLORS,
    PALETTE,
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
from deepgps_core.residues import embed_residues
from deepgps_core.sources.embedded import ensure_dataset
from deepgps_core.splits import make_split
from deepgps_core.statistics import bootstrap_interval, bootstrap_intervals
from deepgps_core.training import TrainingConfig, fit, predict_crops
from deepgps_core.trivial import mean_images, rows_of_class, trivial_images

use_book_style()

# %% [markdown]
# ## Inputs
#
# The homology-grouped split of chapter 06, with its run of the published network. The flow is
# trained on exactly the same proteins and crops.

# %%
dataset = prepare(ensure_dataset(DATASET, seed=SEED))
encoder = load_encoder(ENCODER)
vectors = embed_dataset(dataset, encoder)
LABELS = ("Cytoplasm", "Nucleus")
proteins = dataset.proteins[dataset.proteins["label"].isin(LABELS)].reset_index(drop=True)
kind = dataset.info.images
split_name = f"grouped-{SEED}-single-2"
split = make_split(proteins, "grouped", SEED)
dataset.write_split(split_name, split)
published = DeepGPSConfig(
    sequence_dim=encoder.dim, hidden_dim=HIDDEN_DIM, width=WIDTH, depth=DEPTH,
    crop_size_px=CROP_SIZE_PX, n_classes=2,
)  # fmt: skip
training = TrainingConfig(
    encoder=ENCODER, labels=LABELS, epochs=EPOCHS, batch_size=BATCH_SIZE,
    learning_rate=LEARNING_RATE, lr_gamma=LR_GAMMA, weight_decay=0.01, seed=SEED,
    sequence_learning_rate=SEQUENCE_LEARNING_RATE, select_by="image_loss",
    standardize_features=True, precision="auto",
)  # fmt: skip
with_residues = RESIDUES or "residue_attention" in FUSIONS
if with_residues:
    embed_residues(dataset, encoder)
runs = {"paper, L1": fit(dataset, split_name, published, training, replace=True)}


def crops_of(names: list[str], per_protein: int | None = None) -> CropDataset:
    """Load the crops of some proteins, of each at most so many."""
    crops = load_crops(
        dataset, names, encoder=ENCODER, labels=LABELS, crop_size_px=CROP_SIZE_PX,
        residues=with_residues,
    )  # fmt: skip
    return crops.first_of_each(per_protein or len(crops))


known = crops_of(list(split.index[split == "train"]))
test = crops_of(list(split.index[split == "test"]), CROPS_PER_PROTEIN)
tell(
    "| file | source | licence | rows |\n|---|---|---|---|\n"
    + "\n".join(
        f"| {name}.csv | {dataset.info.source} | {dataset.info.licence} | {len(rows):,} |"
        for name, rows in (("proteins", dataset.proteins), ("crops", dataset.crops))
    )
    + f"\n\n{len(known):,} crops of {(split == 'train').sum()} proteins to train on; {len(test)} "
    f"crops of {len(test.protein_index.unique())} held-out proteins to score, {CROP_SIZE_PX} "
    f"pixels wide. Sequences and labels are real; images are **{kind}**."
)

# %% [markdown]
# ## A flow in three sentences
#
# Take an image, take noise, and walk in a straight line from the noise to the image: the velocity
# is image minus noise. A network learns to say this velocity at any point of the way, knowing the
# time, the nucleus and the sequence, but not the image; where many lines cross, the squared error
# makes it say their mean. To draw, start from noise and follow what it says.
#
# The network is the published U-Net's blocks with its finest level folded into channels; time and
# sequence scale and shift the channels of every level. A moving average of the weights draws. In
# a tenth of the training crops the sequence is hidden, so that the same network also knows what
# is drawn without one.
#
# What should the network be told of the sequence? Its *vector*, as the published one is: then a
# network that has learned the training proteins by heart is as sure of a new one, and wrong. Or
# the *place*: in training the true one, in drawing one that the label head draws with its
# probabilities, anew for each sample. A protein that is nuclear with .7 is then drawn in the
# nucleus seven times in ten. *Guess: which of the two has the spread that cells have?*
#
# And what is noise? White noise has as much of every frequency; cells differ far more from one
# side to the other than from pixel to pixel. On the way from white noise to an image, how much of
# the protein goes into the nucleus is settled very early, by averages over all the noisy pixels of
# a nucleus, which a network hardly learns to read. So some of the noise's variance is coarse here,
# the share `COARSE_NOISE`; with `WHITE_NOISE` the same flow is also trained without.
#
# No library does it for us: the loss and the two solvers take thirty lines, and `torchcfm`,
# `flow_matching` or `diffusers` would bring schedulers and pipelines of which nothing else is used.

# %%
flow_config = FlowConfig(
    sequence_dim=encoder.dim, hidden_dim=HIDDEN_DIM, width=FLOW_WIDTH, depth=DEPTH,
    crop_size_px=CROP_SIZE_PX, n_classes=2, time_dim=32, coarse_noise=COARSE_NOISE,
    ema_decay=EMA_DECAY, steps=STEPS, guidance=GUIDANCE, condition="label",
)  # fmt: skip
vector_config = dataclasses.replace(flow_config, condition="sequence", sequence_dropout=0.1)
flow_training = dataclasses.replace(
    training, epochs=FLOW_EPOCHS, learning_rate=FLOW_LEARNING_RATE, lr_gamma=FLOW_GAMMA,
    augment=True,
    sequence_learning_rate=LABEL_LEARNING_RATE,
)  # fmt: skip
flow = runs["flow"] = fit(dataset, split_name, flow_config, flow_training, replace=True)
runs["flow, vector"] = fit(dataset, split_name, vector_config, flow_training, replace=True)
if WHITE_NOISE:
    runs["flow, white noise"] = fit(
        dataset, split_name, dataclasses.replace(flow_config, coarse_noise=0.0),
        dataclasses.replace(flow_training, name="white"), replace=True,
    )  # fmt: skip
for fusion in FUSIONS:
    runs[f"{fusion}, L1"] = fit(
        dataset, split_name, dataclasses.replace(published, fusion=fusion),
        dataclasses.replace(training, name="generates"), replace=True,
    )  # fmt: skip
if RESIDUES:
    runs["flow, residues"] = fit(
        dataset, split_name, dataclasses.replace(vector_config, fusion="residue_attention"),
        flow_training, replace=True,
    )  # fmt: skip

# %% [markdown]
# A flow needs ten or more steps because its lines are not quite straight. A *student* with the
# same network learns to take one step where its teacher takes four: four steps in all.

# %%
student_config = dataclasses.replace(
    flow_config, teacher=str(flow.path.relative_to(data_root())), steps=4, teacher_steps=4
)
runs["student"] = fit(
    dataset, split_name, student_config,
    dataclasses.replace(flow_training, epochs=STUDENT_EPOCHS, learning_rate=FLOW_LEARNING_RATE / 5),
    replace=True,
)  # fmt: skip
budget = {
    name: {"epochs": len(run.history), "crops seen": f"{len(run.history) * len(known):,}",
           "seconds": round(run.history["seconds"].sum())}
    for name, run in runs.items()
}  # fmt: skip
pd.DataFrame(budget).T.rename_axis("model")

# %% [markdown]
# ## Pictures
#
# Each sample has noise of its own, named by protein, nucleus and number of the sample: it is the
# same whatever is drawn beside it. The flow told the vector draws as it has learned (guidance 1):
# `GUIDANCE` was chosen for the other one, to move its places apart. *Guess: which column has the
# highest PSNR?*

# %%
samples = sample_crops(flow, test, Sampling(N_SAMPLES, seed=SEED))  # (N, S, H, W)
one_crop, alone = test.take(torch.tensor([0])), []
for _ in range(5):
    started = time.perf_counter()
    sample_crops(flow, one_crop, Sampling(1, seed=SEED))
    alone.append(time.perf_counter() - started)
learned = Sampling(N_SAMPLES, guidance=1.0, seed=SEED)
of_vector = sample_crops(runs["flow, vector"], test, learned)
target, nuclei = test.images[:, 1].numpy() / 255, test.images[:, 0].numpy() / 255
owner = test.protein_index.numpy()
label = test.labels.numpy()[owner]


def one_image(name: str) -> np.ndarray:
    """Let a run answer with one image for each crop."""
    return np.concatenate(
        [p.image[:, 0].float().cpu().numpy() for _, p in predict_crops(runs[name].model, test)]
    )


first = pd.Series(owner).groupby(owner).cumcount().to_numpy() == 0
head = flow.proteins.set_index("protein_id")  # what the label head says of each protein
said = np.array([LABELS.index(head.loc[p, "predicted_label"]) for p in test.protein_ids])[owner]
trivial = trivial_images(mean_images(known, 2), nuclei, label, said, label)
other = known.take(torch.from_numpy(rows_of_class(known, label, seed=SEED)))
other_target, other_nuclei = other.images[:, 1].numpy() / 255, other.images[:, 0].numpy() / 255
predictions = {
    "flow, one sample": samples[:, 0],
    f"flow, mean of {N_SAMPLES}": samples.mean(axis=1),
    "flow, one step": sample_crops(flow, test, Sampling(1, steps=1, guidance=1.0, seed=SEED))[:, 0],
    "flow, vector, one": of_vector[:, 0],
    f"flow, vector, mean of {N_SAMPLES}": of_vector.mean(axis=1),
    "student, four steps": sample_crops(runs["student"], test, Sampling(1, seed=SEED))[:, 0],
    "paper, L1": one_image("paper, L1"),
    **{f"{fusion}, L1": one_image(f"{fusion}, L1") for fusion in FUSIONS},
    "class mean, true": trivial["class mean, true"],
    "class mean, predicted": trivial["class mean, predicted"],
    "training mean": trivial["training mean"],
    "nucleus copied": nuclei,
    "cell of the class": other_target,
}
if RESIDUES:
    of_residues = sample_crops(runs["flow, residues"], test, learned)
    predictions["flow, residues, one"] = of_residues[:, 0]
    predictions[f"flow, residues, mean of {N_SAMPLES}"] = of_residues.mean(axis=1)

# %%
chosen = np.random.default_rng(SEED).choice(np.flatnonzero(first), 5, replace=False)
shown = {
    "nucleus": nuclei, f"{kind}": target, "paper, L1": predictions["paper, L1"],
    f"flow, mean of {N_SAMPLES}": predictions[f"flow, mean of {N_SAMPLES}"],
    **{f"flow, sample {i + 1}": samples[:, i] for i in range(3)},
}  # fmt: skip
fig, axes = panels(len(chosen), len(shown), panel_inches=1.15)
for i, row in enumerate(chosen):
    for ax, (name, images) in zip(axes[i], shown.items(), strict=True):
        draw_image(ax, images[row], pixel_size_um=flow.pixel_size_um if ax is axes[i, 0] else None)
        if i == 0:
            ax.set_title(name, fontsize="x-small")
        if name not in ("nucleus", kind):
            ax.set_xlabel(
                f"{psnr(images[[row]], target[[row]], 1.0)[0]:.1f} dB", fontsize="x-small"
            )
    axes[i, 0].set_ylabel(LABELS[label[row]].lower(), fontsize="x-small")
by_sample = np.stack([psnr(samples[:, i], target, 1.0) for i in range(N_SAMPLES)], axis=1)
by_l1 = psnr(predictions["paper, L1"], target, 1.0)
show(
    fig,
    caption=f"Held-out proteins drawn by the seed, not by hand ({kind} images; rows: true label). "
    "All pictures from 0 to 1; scale bar 10 µm, in the first column only; PSNR below. On average over "
    f"all {len(test)} held-out crops a sample has {by_sample.mean():.1f} dB, the L1 model "
    f"{by_l1.mean():.1f} dB.",
    alt="Grid of cell images, five rows: nucleus, target protein, two smooth predictions, and three "
    "samples that differ from one another.",
)
ahead = by_l1[chosen, None] - by_sample[chosen, :3]
row, column = np.unravel_index(ahead.argmax(), ahead.shape)
fine = np.s_[:, CROP_SIZE_PX // 4 :]  # the upper half of the frequencies
grain = {
    name: spectra(image[None])[fine].mean() - spectra(target[chosen[[row]]])[fine].mean()
    for name, image in (("L1", predictions["paper, L1"][chosen[row]]),
                        ("sample", samples[chosen[row], column]))
}  # fmt: skip
tell(
    f"Where PSNR and the eye disagree most here: in row {row + 1} the L1 picture has "
    f"{ahead.max():.1f} dB more than sample {column + 1}, although the power of its fine half of "
    f"frequencies is {10 ** grain['L1']:.2f} times that of the cell, the sample's "
    f"{10 ** grain['sample']:.2f} times. In {(ahead < 0).sum()} of the {ahead.size} pictures of "
    "samples PSNR is on the sample's side: a smooth picture of the wrong place or brightness loses, "
    "too."
)

# %% [markdown]
# ## One ruler
#
# **Chosen after looking.** What happened before this edition: all choices were made under `demo`.
# What the flow is told and how fast the label head learns were first settled by scores on held-out
# proteins: with seed 0 the flows' scores of `demo` may be too good. Then samples agreed too well even
# where the true place was told, and even on training proteins; the noise, the guidance and the
# numbers of steps and epochs were settled by that, on training and validation proteins alone. The
# other models were not tuned here. With seed 1, another split that was looked at only when everything
# was settled, the intervals of `demo` again held clearly more cells than those of the flow told the
# vector, but what guidance had added with seed 0 did not show; and the L1 model had more decibels than
# the mean of samples and at least the same *r*.
#
# Likeness (PSNR, SSIM, MS-SSIM), place (correlation *r* of the nuclear proportion, per protein,
# and the share on the right side of one half), and realism: the distance of the mean log power
# spectrum from real crops, the difference of gray-level co-occurrence (GLCM: homogeneity, energy and
# correlation; contrast has another scale and is left out), and a Fréchet distance on the features of
# a *judge*, a small network trained on real crops of training proteins only. The judge's own answer
# is the last column: does it see the true label? `Ruler` applies them all.
#
# One row is no prediction: a random real cell of the same class, of a training protein, seen with
# its own nucleus. It is as real as can be, and so the floor of spectrum and Fréchet distance (its
# image may have taught the judge).


# %%
at_crop = {name: i for i, name in enumerate(dataset.crops["crop_id"])}
factor = dataset.crop_images.shape[-1] // CROP_SIZE_PX
ring_px = max(1, round(RING_UM / flow.pixel_size_um))
spot_px = max(0.7, 0.3 / flow.pixel_size_um)  # sigma of a spot of 0.3 µm
all_masks = np.asarray(dataset.nuclear_masks[:])


def masks_of(crops: CropDataset) -> np.ndarray:
    """Return the nuclear masks of crops at the size of the network's images, (N, H, W)."""
    masks = all_masks[[at_crop[name] for name in crops.crop_ids]]
    return average_down(masks.astype(np.uint8) * 255, factor) > 127


masks = masks_of(test)
judge = train_judge(known.images, known.labels[known.protein_index], epochs=JUDGE_EPOCHS, seed=SEED)
ruler = Ruler(target, nuclei, masks, owner, label, ring_px, judge)
per_protein = ruler.per_protein
measured, rows = {}, []
for name, images in predictions.items():
    own = (other_nuclei, masks_of(other)) if name == "cell of the class" else ()
    measured[name] = ruler.measure(images, *own)
    for metric, interval in ruler.intervals(measured[name], seed=SEED).items():
        rows.append((name, metric, *interval))
table = pd.DataFrame(rows, columns=["prediction", "metric", "estimate", "low", "high"])

# %%
METRICS = ["PSNR (dB)", "SSIM", "MS-SSIM", "r", "right side", "spectrum", "GLCM", "Fréchet",
           "judge"]  # fmt: skip
table["text"] = [
    "flat" if np.isnan(r.estimate) else f"{r.estimate:.2f} ({r.low:.2f} to {r.high:.2f})"
    for r in table.itertuples()
]
value = table.set_index(["prediction", "metric"])
number, text = value["estimate"], value["text"]
mean_name = f"flow, mean of {N_SAMPLES}"
table.pivot(index="prediction", columns="metric", values="text").loc[list(predictions), METRICS]

# %%
real_share = nuclear_proportion(target, masks, ring_px)
cells_right = bootstrap_interval(ruler.cells.scores["judge"], seed=SEED)
protein_label = per_protein(label.astype(float)) > 0.5
sides = ruler.cells.shares > 0.5
majority, one_side = (max(x.mean(), 1 - x.mean()) for x in (protein_label, sides))
tell(
    f"Read *judge* and *right side* beside who always answers alike: {majority:.2f} of these "
    f"proteins have the more frequent label, {one_side:.2f} lie on the more frequent side. On the "
    f"real held-out cells themselves the judge is right for {cells_right:.2f}: "
    + ("no picture can be expected to do better." if cells_right.low > majority else
       "it is itself not clearly better than that, and its column says little here.")
)  # fmt: skip

# %%
fig, axes = plt.subplots(1, 3, figsize=(9, 3.4), sharey=True)
for ax, metric in zip(axes, ("PSNR (dB)", "spectrum", "r"), strict=True):
    part = table[table["metric"] == metric].dropna().set_index("prediction")
    part = part.reindex([name for name in predictions if name in part.index])
    interval_plot(
        ax, list(part.index), list(part["estimate"]),
        list(zip(part["low"], part["high"], strict=True)),
        colors=[PALETTE[0] if "flow" in x or "student" in x else PALETTE[1] if "L1" in x else "0.5"
                for x in part.index],
    )  # fmt: skip
    ax.set_xlabel(metric)
decibels, distance = (number.xs(x, level="metric").dropna() for x in ("PSNR (dB)", "spectrum"))
predicted = distance.drop("cell of the class")
show(
    fig,
    caption=f"{len(np.unique(owner))} held-out proteins, {len(test)} crops ({kind} images); bars "
    f"are 95 % intervals over proteins. Most decibels: {decibels.idxmax()}. Of what is predicted, "
    f"nearest to the cells' spectrum (less is better): {predicted.idxmin()}; farthest: "
    f"{predicted.idxmax()}.",
    alt="Three interval plots with a row for each prediction: PSNR, spectrum distance, correlation "
    "of nuclear proportion.",
)

# %%
regained = (decibels[mean_name] - decibels["flow, one sample"]) / (
    decibels["paper, L1"] - decibels["flow, one sample"]
)
steps_grain = distance["flow, one step"], distance[mean_name]
tell(
    f"A real cell of the same class has {text['cell of the class', 'PSNR (dB)']} dB; the mean "
    f"image of the class, which shows no cell at all, {text['class mean, true', 'PSNR (dB)']} dB "
    f"({text['class mean, predicted', 'PSNR (dB)']} dB if the class has to be predicted). "
    f"A picture cannot know where this cell's grains are, and PSNR charges twice for grain in the "
    f"wrong place. So one sample ({text['flow, one sample', 'PSNR (dB)']} dB) stands behind the L1 "
    f"model ({text['paper, L1', 'PSNR (dB)']} dB), and averaging samples takes back "
    + (f"{regained:.0%} of the difference" if regained <= 1 else "all of the difference and more")
    + f" ({text[mean_name, 'PSNR (dB)']} dB). The spectrum says the opposite: "
    f"{text['flow, one sample', 'spectrum']} for a sample, {text['paper, L1', 'spectrum']} for the "
    f"L1 model, {text['cell of the class', 'spectrum']} for another cell.\n\n"
    "One Euler step from the noise is, for a perfect field, the mean of all samples at the place that "
    f"was drawn. Here it has {text['flow, one step', 'PSNR (dB)']} dB and a spectrum distance of "
    f"{steps_grain[0]:.2f}, the mean of samples {steps_grain[1]:.2f}: "
    + ("it is no blur yet, for this field is not perfect."
       if steps_grain[0] < 0.7 * steps_grain[1] else "it is as far from the cells.")
    + " The right spectrum is no proof of the right structure: look at the pictures, too."
)  # fmt: skip

# %% [markdown]
# Is the flow's mean better than the L1 models, on the same proteins? Differences have an interval of
# their own, by drawing the proteins anew for both.

# %%
L1_NAMES = ["paper, L1", *(f"{fusion}, L1" for fusion in FUSIONS)]
behind = {x: ruler.differences(measured[mean_name], measured[x], seed=SEED) for x in L1_NAMES}
pd.DataFrame(
    {x: {metric: f"{d:+.2f}" for metric, d in found.items()} for x, found in behind.items()}
).T.rename_axis(f"{mean_name}, minus")

# %% tags=["check"]
assert number["flow, one sample", "spectrum"] < number["paper, L1", "spectrum"], "no grain"
assert number[mean_name, "PSNR (dB)"] > number["flow, one sample", "PSNR (dB)"]
assert number["class mean, true", "PSNR (dB)"] > number["cell of the class", "PSNR (dB)"]

# %% [markdown]
# ## Can the spread be believed?
#
# First the label head, of which the flow draws its places. A probability is calibrated if of all
# proteins given .8 for the nucleus, eight in ten are nuclear. The expected calibration error (ECE) is
# never 0 in a finite sample: beside it stands the largest that probabilities which are exactly right
# would show in 95 of 100 such samples. One *temperature*, fitted on validation proteins, may help.

# %%
places = {}
for part in ("validation", "test"):
    of_part = head[(head["split"] == part) & (head["n_crops"] > 0)]
    places[part] = (of_part[[f"p_{x}" for x in LABELS]].to_numpy(),
                    np.stack([of_part["label"] == x for x in LABELS], axis=1).astype(float))  # fmt: skip
(checked_p, checked_truth), (stated, truth) = places["validation"], places["test"]
temperature = fit_temperature(np.log(checked_p.clip(1e-6))[None], checked_truth)
log_p = np.log(stated.clip(1e-6))
prior = np.bincount(known.labels.numpy()[np.unique(known.protein_index)], minlength=2)
answers = {
    "label head": stated,
    f"at temperature {temperature:.2f}": member_probabilities(log_p[None], temperature)[0],
    "shares of training proteins": np.tile(prior / prior.sum(), (len(stated), 1)),
}
quality = {name: calibration_intervals(truth, p, seed=SEED) for name, p in answers.items()}
bound = np.quantile(error_if_calibrated(stated[:, -1], seed=SEED), 0.95)
pd.DataFrame(
    {name: {k: f"{v:.2f}" for k, v in found.items()} for name, found in quality.items()}
).T.rename_axis(f"{len(truth)} held-out proteins")

# %%
honest = quality["label head"]["ECE"].estimate <= bound
nats = [log_loss(truth, p) for p in answers.values()]
tell(
    f"{truth.mean(axis=0).max():.2f} of these proteins have the more frequent label; the head is right "
    f"for {quality['label head']['accuracy']:.2f}. Its ECE, {quality['label head']['ECE']:.2f}, "
    + ("could be chance" if honest else "is more than chance")
    + f": exactly right probabilities stay below {bound:.2f} in 95 of 100 such samples. "
    f"The temperature {'helps' if nats[1] < nats[0] else 'does not help'} on held-out proteins "
    f"({nats[1]:.3f} nats instead of {nats[0]:.3f}; the shares of the training proteins alone give "
    f"{nats[2]:.3f}). The flow draws with the head's probabilities as they are."
)

# %% [markdown]
# Now the samples. For each crop they give an interval of the nuclear proportion, of the number of
# spots, of the grain (log power of the finer half of frequencies). If the model is calibrated, 80 %
# intervals hold the real cell's value for 80 % of the crops.
#
# As learned, samples of the two places differ less than cells of the two places do. Classifier-free
# guidance moves them apart by one number, `GUIDANCE`, which was chosen under `demo` (see above). On
# the validation proteins:


# %%
def shares_of(images: np.ndarray, in_masks: np.ndarray) -> np.ndarray:
    """Return the nuclear proportion of samples (N, S, H, W) in the masks (N, H, W), (N, S)."""
    return sample_proportions(images, in_masks, ring_px)


def holds(values: np.ndarray, real: np.ndarray, who: np.ndarray):
    """Return how many real values the 80 % intervals hold, with an interval over proteins."""
    return bootstrap_interval(inside_interval(values, real).astype(float), who, seed=SEED)


checked = crops_of(list(split.index[split == "validation"]), CHECK_CROPS)
checked_owner, checked_masks = checked.protein_index.numpy(), masks_of(checked)
checked_target = checked.images[:, 1].numpy() / 255
checked_share = nuclear_proportion(checked_target, checked_masks, ring_px)
by_guidance, within = {}, {}
for guidance in sorted({1.0, GUIDANCE, 2.0}):
    how = Sampling(N_SAMPLES, guidance=guidance, seed=SEED)
    drawn, of_truth = (
        sample_crops(flow, checked, how, true_places=truth) for truth in (False, True)
    )
    gap = spectra(drawn[:, 0]) - spectra(checked_target)
    within[guidance] = holds(shares_of(of_truth, checked_masks), checked_share, checked_owner)
    found = holds(shares_of(drawn, checked_masks), checked_share, checked_owner)
    by_guidance[f"{guidance:g}"] = {
        "80 % intervals hold": f"{found:.2f}", "told the truth": f"{within[guidance]:.2f}",
        "spectrum distance": f"{np.sqrt((gap.mean(axis=0) ** 2).mean()):.2f}",
        "PSNR of the mean (dB)": f"{psnr(drawn.mean(axis=1), checked_target, 1.0).mean():.1f}",
    }  # fmt: skip
print(f"{len(checked)} crops of {len(checked.protein_ids)} validation proteins")
pd.DataFrame(by_guidance).T.rename_axis("guidance")

# %%
weak, much = within[1.0].estimate, within[2.0].estimate
tell(
    f"Told the true place, intervals hold {weak:.2f} of the cells with guidance 1 and {much:.2f} with "
    "2: moving the places apart "
    + ("takes spread away within them. " if much < weak - 0.03 else "adds no spread within them. "
       if much < weak + 0.03 else "also widens the spread within them. ")
    + "What is drawn here is meant for the question \"where?\", less for \"how much, if it is there?\"."
)  # fmt: skip

# %% [markdown]
# On held-out proteins, beside an interval that needs no model: the same for every protein,
# from the cells of the training proteins. An interval is worth more the narrower it is, if it holds
# as many cells. Are the training proteins learned by heart? Some of them are drawn, too.

# %%
once = test.take(torch.from_numpy(np.flatnonzero(first)))
met = known.first_of_each(1)
few_met = met.take(torch.from_numpy(np.random.default_rng(SEED).permutation(len(met))[:N_KNOWN]))
met_share = nuclear_proportion(met.images[:, 1].numpy() / 255, masks_of(met), ring_px)
drawn = {  # name: samples, crops
    "flow": (samples, test),
    "flow, vector": (of_vector, test),
    "flow, told the true place": (
        sample_crops(flow, once, Sampling(N_SAMPLES, seed=SEED), true_places=True), once
    ),
    "flow, training proteins": (sample_crops(flow, few_met, Sampling(N_SAMPLES, seed=SEED)), few_met),
    "flow, vector, training proteins": (
        sample_crops(runs["flow, vector"], few_met, learned), few_met
    ),
}  # fmt: skip
if WHITE_NOISE:
    for name, told in (("flow, white noise", False), ("white noise, told the true place", True)):
        how = Sampling(N_SAMPLES, seed=SEED)
        drawn[name] = (
            sample_crops(runs["flow, white noise"], once, how, true_places=told), once
        )  # fmt: skip

# %%
shares, covered, widths, places_sd = {}, {}, {}, {}
for name, (images, crops) in drawn.items():
    in_masks, who = masks_of(crops), crops.protein_index.numpy()
    real = nuclear_proportion(crops.images[:, 1].numpy() / 255, in_masks, ring_px)
    shares[name] = values = shares_of(images, in_masks), real
    covered[name] = holds(*values, who)
    widths[name] = bootstrap_interval(np.ptp(sample_interval(values[0]), axis=0), who, seed=SEED)
    if "true place" in name:
        places_sd[name] = bootstrap_interval(values[0].std(axis=1, ddof=1), who, seed=SEED)
share, share_by_vector = shares["flow"][0], shares["flow, vector"][0]
ANYONE = "cells of training proteins"
covered[ANYONE] = holds(met_share[None], real_share, owner)
widths[ANYONE] = bootstrap_interval(np.ptp(sample_interval(met_share[None]), axis=0))
place_of_mean = agreement(ruler.cells.shares, per_protein(share.mean(axis=1)), seed=SEED)
print(f"r of the samples' mean nuclear proportion: {place_of_mean['r']:.2f}, "
      f"slope {place_of_mean['slope']:.2f}")  # fmt: skip
pd.DataFrame({
    name: {"80 % intervals hold": f"{covered[name]:.2f}", "mean width": f"{widths[name].estimate:.2f}"}
    for name in covered
}).T.rename_axis("nuclear proportion, intervals from")  # fmt: skip

# %%
flat = samples.reshape(-1, *samples.shape[2:])
spots = spot_count(flat, spot_px).reshape(len(test), -1)
real_spots = spot_count(target, spot_px)
#: counts are whole numbers: a draw within one half on either side breaks ties
jitter = np.random.default_rng(SEED).uniform(-0.5, 0.5, (len(test), N_SAMPLES + 1))
fineness = spectra(flat)[fine].mean(axis=1).reshape(len(test), -1)
real_fineness = spectra(target)[fine].mean(axis=1)
readings = {
    "spots": (spots + jitter[:, 1:], real_spots + jitter[:, 0]),
    "grain": (fineness, real_fineness),
}
for name, (values, real) in readings.items():
    covered[name] = holds(values, real, owner)
tell(
    f"80 % intervals of the number of spots hold {covered['spots']:.2f} of the cells (on average "
    f"{real_spots.mean():.1f} spots in cells, {spots.mean():.1f} in samples), those of the grain "
    f"{covered['grain']:.2f} ({real_fineness.mean():.2f} in cells, {fineness.mean():.2f} in samples, "
    "powers of ten). "
    + ("Texture is read with less doubt than it deserves: samples agree more than cells do, or are "
       "off together." if min(covered[x].high for x in readings) < 0.8
       else "Neither can be told from calibrated.")
)  # fmt: skip

# %%
by_place, by_vector, by_truth = (
    covered[x] for x in ("flow", "flow, vector", "flow, told the true place")
)
by_heart = covered["flow, vector, training proteins"]
narrower = widths["flow"].estimate < widths[ANYONE].estimate
tell(
    f"Told the sequence's vector, the flow's intervals hold {by_vector:.2f} of held-out cells, and "
    f"{by_heart:.2f} of the cells of training proteins"
    + (": it has learned these by heart, and is as sure of new ones. "
       if by_heart.low > by_vector.high else ". ")
    + f"Told a place that is drawn with the head's probabilities, they hold {by_place:.2f}. "
    + ("More, because the head's probabilities are "
       + ("about right. " if honest else "less sure of themselves than a vector is. ")
       if by_place.low > by_vector.high else "The two cannot be told apart at this size. ")
    + f"An interval that is the same for every protein holds {covered[ANYONE]:.2f}; the flow's are "
    + (f"{1 - widths['flow'].estimate / widths[ANYONE].estimate:.0%} narrower on average"
       if narrower else "not narrower on average")
    + f". Told the true place, {by_truth:.2f}"
    + (": what is missing there is no fault of the head's, but spread within a place, which the flow "
       "has not learned and guidance does not give." if by_truth.high < 0.8 else ".")
)  # fmt: skip
if WHITE_NOISE:
    coarse, white = places_sd.values()
    tell(
        f"*From white noise*, the same flow's intervals hold {covered['flow, white noise']:.2f}, and "
        f"told the true place {covered['white noise, told the true place']:.2f}. Within a place its "
        f"samples have a standard deviation of {white:.3f}, those from coarse noise {coarse:.3f}: "
        + ("the coarse noise is what makes them differ." if white.high < coarse.low else
           "that coarse noise makes them differ more does not show here." if white.high > coarse.low
           and white.estimate >= coarse.estimate else "a little less, not beyond doubt.")
    )  # fmt: skip

# %% [markdown]
# Proteins of two places: do samples disagree the way cells do? The flow has seen none of them in
# training. For each protein, the spread of the nuclear proportion over its cells beside the
# spread over samples.

# %%
multi = list(
    dataset.proteins.loc[dataset.proteins["locations"] == "Cytoplasm;Nucleus", "protein_id"]
)
outside = crops_of(multi[:20], CROPS_PER_PROTEIN)
outside_masks, outside_owner = masks_of(outside), outside.protein_index.numpy()
cells = nuclear_proportion(outside.images[:, 1].numpy() / 255, outside_masks, ring_px)
draws = shares_of(sample_crops(flow, outside, Sampling(N_SAMPLES, seed=SEED)), outside_masks)
spread, ratios = {}, {}
for name, of_cells, of_samples, who in (
    *((text_, real_share[label == k], share[label == k], owner[label == k])
      for k, text_ in enumerate(LABELS)),
    ("both", cells, draws, outside_owner),
):  # fmt: skip
    deviations = pd.DataFrame({
        "cells": pd.Series(of_cells).groupby(who).std(),
        "samples": pd.Series(of_samples.std(axis=1, ddof=1)).groupby(who).mean(),
    }).dropna().to_numpy()  # fmt: skip
    (ratios[name],) = bootstrap_intervals(
        lambda rows, sd=deviations: sd[rows, 1].mean(keepdims=True) / sd[rows, 0].mean(),
        np.arange(len(deviations)), seed=SEED,
    )  # fmt: skip
    spread[name] = {
        "proteins": len(deviations), "mean, cells": f"{of_cells.mean():.2f}",
        "mean, samples": f"{of_samples.mean():.2f}", "sd of cells": f"{deviations[:, 0].mean():.2f}",
        "sd of samples": f"{deviations[:, 1].mean():.2f}", "ratio": f"{ratios[name]:.1f}",
        "80 % intervals hold": f"{holds(of_samples, of_cells, who):.2f}",
    }  # fmt: skip
pd.DataFrame(spread).T.rename_axis("protein is in")

# %%
both = ratios["both"]
verdict = "more than" if both.low > 1 else "less than" if both.high < 1 else "about as much as"
tell(
    f"Do they disagree the way cells do? Samples of proteins of two places disagree {verdict} their "
    f"cells: {both:.1f} times. "
    + ("No, and for two reasons. Each sample is of one place that was drawn, where each of these "
       "cells shows both places at once; " if both.low > 1 else
       "Each sample is still of one place that was drawn, where each of these cells shows both; ")
    + ("and the simulator gives all cells of a protein nearly one ratio, so that cells cannot "
       "disagree in kind." if kind == "simulated" else
       "and two cells of a protein say little of how much cells differ.")
    + " The spread of samples says how sure the model is of a protein, not how its cells vary."
)  # fmt: skip

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3))
for k, name in enumerate(LABELS):
    rows_k = label == k
    left.errorbar(
        share[rows_k].mean(axis=1), real_share[rows_k], xerr=share[rows_k].std(axis=1), fmt="o",
        markersize=3, linewidth=0.6, color=LABEL_COLORS[name], label=name.lower(),
    )  # fmt: skip
left.axline((0.5, 0.5), slope=1, color="0.6", linestyle="--", linewidth=1)
left.set(xlabel="nuclear proportion, samples (mean and sd)", ylabel=f"{kind} cell")
left.legend()
levels = np.arange(1, N_SAMPLES // 2 + 1) * 2 / (N_SAMPLES + 1)
right.plot([0, 1], [0, 1], "--", color="0.6", linewidth=1)
for color, (what, samples_of, real) in zip(
    PALETTE, (("nuclear proportion", *shares["flow"]),
              ("the same, told the vector", *shares["flow, vector"]),
              ("the same, told the truth", *shares["flow, told the true place"]),
              *((name, *values) for name, values in readings.items())), strict=False,
):  # fmt: skip
    held = [inside_interval(samples_of, real, 1 - level).mean() for level in levels]
    right.plot(1 - levels, held, "o-", color=color, label=what, markersize=4)
right.set(xlabel="interval should hold", ylabel="interval holds", xlim=(0, 1), ylim=(0, 1))
right.legend(fontsize="x-small")
show(
    fig,
    caption=f"Left: nuclear proportion of each of {len(test)} crops, samples against the {kind} "
    "cell. Right: share of cells within central intervals of the samples; the dashed line is "
    "calibrated, below it the model is too sure.",
    alt="A scatter plot with horizontal error bars, and two calibration curves beside a diagonal.",
)

# %% [markdown]
# ## Does it copy?
#
# A generator could learn its training images by heart. For each picture, the distance to the most
# similar training image (averaged over squares of 4 pixels; all mirror images and rotations),
# beside that of the real held-out cell; and the three samples that come nearest.

# %%
training_images = known.images[:, 1].numpy()
pictures = {
    "held-out cells": target,
    "samples": samples[:, 0],
    "paper, L1": predictions["paper, L1"],
}
found = nearest_training(np.concatenate(list(pictures.values())), training_images)
nearest = dict(zip(pictures, np.split(found.distance, 3), strict=True))
log_ratio = bootstrap_interval(
    np.log(nearest["samples"] / nearest["held-out cells"]), owner, seed=SEED
)
copy_ratio = type(log_ratio)(*np.exp(log_ratio))
closest = len(test) + np.argsort(nearest["samples"])[:3]  # rows of what was found
fig, axes = panels(2, 3, panel_inches=1.4)
for (above, below), row in zip(axes.T, closest, strict=True):
    turned = eight_views(samples[row - len(test), :1])[found.view[row]][0]
    draw_image(above, turned, title=f"at {found.distance[row]:.3f}")
    draw_image(below, training_images[found.row[row]] / 255)
axes[0, 0].set_ylabel("sample", fontsize="x-small")
axes[1, 0].set_ylabel(f"training, {kind}", fontsize="x-small")
show(
    fig,
    caption="The three samples with the smallest distance to a training image, turned as they fit "
    f"it best, above that image ({kind}).",
    alt="Three pairs of cell images, a sample above the training image nearest to it.",
)
pd.DataFrame(
    {name: np.quantile(v, [0.05, 0.5, 0.95]) for name, v in nearest.items()},
    index=["5 %", "median", "95 %"],
).round(3)

# %%
tell(
    f"For the same crop a sample is {copy_ratio:.2f} times as far from the nearest training image as "
    "the real cell is. "
    + ("It is farther." if copy_ratio.low > 1 else
       "It cannot be told from 1: samples are no nearer than cells." if copy_ratio.high >= 1 else
       "Nearer than cells are; so is, more so, every blur, which is in the middle of all images: a "
       "copy would be at nearly 0.")
)  # fmt: skip

# %% [markdown]
# ## What matters?
#
# One sample for each of a few crops. *Sequence shuffled* gives each protein another's vector: the
# place should be lost. *Nucleus shuffled* gives another cell's nucleus: the protein should follow
# the new one. "As above" is guided by `GUIDANCE`. The last rows are of other models.

# %%
few_rows = np.sort(np.random.default_rng(SEED).permutation(len(test))[:N_ABLATION])
few = test.take(torch.from_numpy(few_rows))
few_owner = few.protein_index.numpy()
few_target, few_nuclei = few.images[:, 1].numpy() / 255, few.images[:, 0].numpy() / 255
few_masks = masks_of(few)
turn = np.roll(np.arange(len(few)), len(few) // 2)
mixed = torch.from_numpy(np.random.default_rng(SEED).permutation(len(few.protein_ids)))
swapped_nuclei = few.images.clone()
swapped_nuclei[:, 0] = few.images[turn, 0]
strong = sample_crops(flow, few, Sampling(N_SAMPLES, guidance=4.0, seed=SEED))
vector = runs["flow, vector"]
settings: dict[str, tuple] = {
    "4 Euler steps": (few, Sampling(1, steps=4)),
    "30 Euler steps": (few, Sampling(1, steps=30)),
    "50 Euler steps": (few, Sampling(1, steps=50)),
    "5 Heun steps": (few, Sampling(1, steps=5, solver="heun")),
    "no sequence (guidance 0)": (few, Sampling(1, guidance=0.0)),
    "as learned (guidance 1)": (few, Sampling(1, guidance=1.0)),
    "sequence shuffled": (dataclasses.replace(few, features=few.features[mixed]), Sampling(1)),
    "nucleus shuffled": (dataclasses.replace(few, images=swapped_nuclei), Sampling(1)),
}
drawn_by = {"as above": samples[few_rows, 0], "guidance 4": strong[:, 0]}
for name, (crops, how) in settings.items():
    drawn_by[name] = sample_crops(flow, crops, how._replace(seed=SEED))[:, 0]
drawn_by["student, four steps"] = predictions["student, four steps"][few_rows]
drawn_by["flow, vector, as learned"] = of_vector[few_rows, 0]
how = Sampling(1, guidance=GUIDANCE, seed=SEED)
drawn_by[f"flow, vector, guidance {GUIDANCE:g}"] = sample_crops(vector, few, how)[:, 0]
if RESIDUES:
    drawn_by["flow, residues, as learned"] = of_residues[few_rows, 0]

# %%
few_share, ablation = nuclear_proportion(few_target, few_masks, ring_px), {}
few_spectrum = spectra(few_target).mean(axis=0)
for name, images in drawn_by.items():
    in_masks = few_masks[turn] if name == "nucleus shuffled" else few_masks
    pair = {"cell": few_share, "drawn": nuclear_proportion(images, in_masks, ring_px)}
    means = pd.DataFrame(pair).groupby(few_owner).mean()
    place = agreement(means["cell"].to_numpy(), means["drawn"].to_numpy(), seed=SEED)
    gap = spectra(images).mean(axis=0) - few_spectrum
    ablation[name] = {
        "r of nuclear proportion": place["r"],
        "spectrum distance": f"{np.sqrt((gap**2).mean()):.2f}",
        "PSNR (dB)": bootstrap_interval(psnr(images, few_target, 1.0), few_owner, seed=SEED),
    }
ablation = pd.DataFrame(ablation).T.rename_axis(f"one sample of {len(few)} crops")
ablation.map(lambda x: f"{x:.2f}" if isinstance(x, tuple) else x)

# %%
moved = drawn_by["nucleus shuffled"]
by_new = nuclear_proportion(moved, few_masks[turn], ring_px)
by_old = nuclear_proportion(moved, few_masks, ring_px)
is_nuclear = few.labels.numpy()[few_owner] == 1
contrast = {
    name: shares[is_nuclear].mean() - shares[~is_nuclear].mean()
    for name, shares in (("new", by_new), ("old", by_old))
}
follows = {
    name: bootstrap_interval(pearson(moved, nucleus) ** 2, few_owner, seed=SEED)
    for name, nucleus in (("new", few_nuclei[turn]), ("old", few_nuclei))
}
r_plain, r_shuffled = (
    ablation.loc[x, "r of nuclear proportion"] for x in ("as above", "sequence shuffled")
)
distilled, undistilled = (ablation.loc[x] for x in ("student, four steps", "4 Euler steps"))
tell(
    f"With the sequence shuffled r is {r_shuffled:.2f} instead of {r_plain:.2f}"
    + (". " if r_plain.low > 0 else ", which is not clear of 0 either at this size. ")
    + "With the nucleus shuffled, nuclear proteins differ from "
    f"cytoplasmic ones by {contrast['new']:.2f} of nuclear proportion when it is counted in the new "
    f"nucleus, and by {contrast['old']:.2f} when it is counted where the old one was. Which of the "
    f"two nuclei shapes the picture? Its pixels share {follows['new']:.2f} of their variance with "
    f"the new nucleus' image, and {follows['old']:.2f} with the old one's.\n\n"
    "What distilling gives: in four steps the student is at a spectrum distance of "
    f"{distilled['spectrum distance']}, its teacher in four steps at "
    f"{undistilled['spectrum distance']}, with {distilled['PSNR (dB)']:.2f} and "
    f"{undistilled['PSNR (dB)']:.2f} dB."
)
if RESIDUES:
    gain = ruler.differences(
        measured[f"flow, residues, mean of {N_SAMPLES}"],
        measured[f"flow, vector, mean of {N_SAMPLES}"], seed=SEED,
    )  # fmt: skip
    tell(
        "*Pooled or residue by residue?* Trained as long, the mean of samples of the flow that reads "
        f"residues minus that of the flow told the vector: {gain['PSNR (dB)']:+.2f} dB and "
        f"{gain['r']:+.2f} of *r* on all held-out proteins. "
        + ("No difference in place that these proteins could show."
           if gain["r"].low <= 0 <= gain["r"].high else "The place differs.")
    )  # fmt: skip

# %% tags=["check"]
assert follows["new"].estimate > follows["old"].estimate, "the picture ignores its nucleus"
if r_plain.low > 0 and quality["label head"]["accuracy"].low > 0.5:  # else there is none to lose
    assert r_shuffled.estimate < r_plain.estimate, "a shuffled sequence keeps the place"

# %% [markdown]
# ## In reverse: which sequence explains this image?
#
# The velocity field can be asked how well it predicts a *given* image under each of many
# sequences, as others rank sequences for images {cite}`celle2,celldiff`. For each held-out
# image, all held-out proteins compete; the score is the flow-matching loss with the sequence
# minus the loss without any. Of the flow told the place it is the loss of each place, weighed by
# its probability: it can order proteins only by how nuclear the head finds them, and the best
# candidate for a nuclear image is the one the head is surest of. Only the flow told the vector could
# find the protein itself. So both are asked, among all candidates and among those of the same label.

# %%
once = test.take(torch.from_numpy(np.flatnonzero(first)[:N_REVERSE]))
candidates = once.protein_index
own, candidate_label = np.arange(len(once)), test.labels.numpy()[candidates]
alike = candidate_label[:, None] == candidate_label
reverse, ranks = {}, {}
for name in ("flow", "flow, vector"):
    loss = score_sequences(runs[name], once, test.features[candidates], n_draws=N_DRAWS, seed=SEED)
    rank, rank_within = rank_of_own(loss, own), rank_of_own(loss, own, alike)
    ahead = (1 - rank) * (len(own) - 1)  # candidates that are better
    ranks[name] = {
        "ahead of others": rank, "within the label": rank_within[np.isfinite(rank_within)],
        "first": ahead < 1, "among five": ahead < 5,
        "best has the right label": candidate_label[loss.argmin(axis=1)] == candidate_label,
    }  # fmt: skip
    ranks[name] = {
        k: bootstrap_interval(v.astype(float), seed=SEED) for k, v in ranks[name].items()
    }
    reverse[name] = {k: f"{v:.2f}" for k, v in ranks[name].items()}
reverse["guessing"] = dict(zip(
    reverse["flow"], (f"{x:.2f}" for x in (0.5, 0.5, 1 / len(own), 5 / len(own), alike.mean())),
    strict=True,
))  # fmt: skip
pd.DataFrame(reverse).T.rename_axis(f"{len(own)} images and candidates")

# %%
place, protein = (ranks[name]["ahead of others"] for name in ("flow", "flow, vector"))
inside = ranks["flow, vector"]["within the label"]
tell(
    f"Told the place, the own sequence stands ahead of {place:.2f} of the others"
    + (": the image says where, and the head knows something of it. " if place.low > 0.5 else
       ", not clear of guessing. ")
    + f"Told the vector, {protein:.2f}"
    + ("" if protein.low > 0.5 else ", not clear of guessing")
    + f", and {inside:.2f} among proteins of its own label: "
    + ("it finds something of the protein beyond its place."
       if inside.low > 0.5 else "nothing of the protein beyond its place is found at this size.")
    + (" In these simulated images there is little else to find: the simulator never sees the "
       "sequence, only the label." if kind == "simulated" else "")
)  # fmt: skip

# %% [markdown]
# ## What the paper says, what we see

# %%
ratio = distance["flow, one sample"] / distance["paper, L1"]
ahead_db, ahead_r = behind["paper, L1"].values()
on_gpu, full = torch.cuda.is_available(), CROP_SIZE_PX == 208
device = "a GPU" if on_gpu else "two cores"
seconds = np.median(alone)
timed = f"{1000 * seconds:.0f} ms on {device}, {CROP_SIZE_PX} px"
MEASURED = "not judged here; measured in [A4](A4_speed)"


def verdict_of(reached: bool, interval: tuple | None = None, threshold: float = 0.0) -> str:
    """Say whether an aim is reached, and whether its interval could say the opposite."""
    open_ = interval is not None and interval[1] < threshold < interval[2]
    return ("yes" if reached else "no") + ("; the interval allows both" if open_ else "")


inside_aim = 0.75 <= by_place.estimate <= 0.85
aims = [
    ("spectrum distance, of the L1 model's", "at most .10", f"{ratio:.2f}", verdict_of(ratio <= 0.1)),
    ("*r* of nuclear proportion, minus L1's", "at least -.01", f"{ahead_r:.2f}",
     verdict_of(ahead_r.estimate >= -0.01, ahead_r, -0.01)),
    ("PSNR of the mean, minus L1's (dB)", "at least -0.3", f"{ahead_db:.2f}",
     verdict_of(ahead_db.estimate >= -0.3, ahead_db, -0.3)),
    ("80 % intervals hold", ".75 to .85", f"{by_place:.2f}", verdict_of(inside_aim)),
    ("distance to training images, of cells'", "at least 1", f"{copy_ratio:.2f}",
     verdict_of(copy_ratio.estimate >= 1)
     + (", cannot be told from 1" if copy_ratio.low <= 1 <= copy_ratio.high else "")),
    ("one sample on a GPU, 208 px", "at most 50 ms", timed if on_gpu and full else "",
     verdict_of(seconds <= 0.05) if on_gpu and full else MEASURED),
    ("one sample on two cores, 208 px", "at most 3 s", timed if not on_gpu and full else "",
     verdict_of(seconds <= 3) if not on_gpu and full else MEASURED),
]  # fmt: skip
rivals = "; ".join(
    f"{x}: {d['PSNR (dB)']:+.2f} dB, {d['r']:+.2f} of *r*" for x, d in behind.items()
)
clear = all(d["r"].low > 0 for d in behind.values())
tell(
    "```{admonition} What the paper says / What we see\n"
    "The paper reports one image for each input and 14.5 dB, and calls texture and details an open "
    f"problem. Here, on {len(np.unique(owner))} held-out proteins and {kind} images, with a "
    f"flow trained for {flow.history['seconds'].sum():.0f} s:\n\n"
    "| aim | asked | here | reached |\n|---|---|---|---|\n"
    + "\n".join(f"| {a} | {b} | {c} | {d} |" for a, b, c, d in aims)
    + "\n\n*Chosen after looking:* some of the flow's settings were first tried out on the held-out "
    "proteins of seed 0, and with seed 1 under `demo` its lead over the L1 model did not hold up. "
    "*Different on purpose:* a flow instead of a regression, and everything chapter 06 lists. "
    "**Texture** can be drawn by a model that is allowed several answers; PSNR does not see it. "
    f"**Place.** The flow's mean minus each L1 model: {rivals}. "
    + (
        "Its lead in *r* is clear of 0 over each of them, in this split and with this seed."
        if clear
        else "Over some of them its *r* is not clearly better: one split and one seed do not "
        "settle it."
    )
    + f" The more frequent answer alone is right for {majority:.2f}, the judge on samples for "
    f"{number['flow, one sample', 'judge']:.2f}.\n"
    "```"
)

# %% [markdown]
# ## Recap
#
# - A flow uses the published blocks and answers with samples; their mean is smooth again.
# - Metrics of likeness prefer the blur, metrics of grain the sample: none alone decides.
# - Spread is only worth something once it has been checked against cells.
#
# ### Exercises
#
# 1. *Read.* Why does the mean of many samples have more decibels than any one of them, even if
#    every sample is a perfect cell?
# 2. *Change.* Draw with guidance 4. What happens to the coverage of the 80 % intervals, and why?
# 3. *Build.* Score the samples' *best of nine* PSNR. Why is this no fair metric?

# %% tags=["solution"]
held, wide = {}, {}
for name, images in ((4, strong), (GUIDANCE, samples[few_rows])):
    values = shares_of(images, few_masks)
    held[name] = inside_interval(values, few_share).mean()
    wide[name] = np.ptp(sample_interval(values), axis=0)
tell(
    "**1.** The squared error of a sample is the error of the mean plus the sample's own variance "
    "around it; averaging removes the second part and leaves the first.\n\n"
    f"**2.** The intervals hold {held[4]:.2f} of these cells, with guidance {GUIDANCE:g} "
    f"{held[GUIDANCE]:.2f}. They are {wide[4].mean():.2f} wide on average instead of "
    f"{wide[GUIDANCE].mean():.2f}: samples of the two places move apart, and where both are drawn "
    f"({(wide[4] > wide[GUIDANCE]).mean():.0%} of the crops become wider), intervals reach across. "
    "Where the head is sure, all samples move the same way.\n\n"
    f"**3.** Best of {N_SAMPLES}: {per_protein(by_sample.max(axis=1)).mean():.1f} dB against "
    f"{per_protein(by_sample[:, 0]).mean():.1f} dB for one. It looks at the "
    "answer, and grows with the number of tries."
)

# %% [markdown]
# Next: [A1 · training the encoder](A1_training_the_encoder).

# %%
execution_record(PROFILE, SEED)
