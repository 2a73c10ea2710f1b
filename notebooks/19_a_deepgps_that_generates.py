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
# *Five minutes on two cores after chapter 06, whose run is reused; 3 GB of memory; no
# network. Under `demo` the pictures are small and the flow is barely trained: it shows what can be
# measured, and the `gpu` profile what can be reached.*
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
FILM_EPOCHS = 3  # of the repaired fusion
FILM_CROPS = 4  # of a protein in each of its epochs
FLOW_WIDTH = 8  # channels of the flow, counted at full resolution; 32 in the gpu profile
FLOW_EPOCHS = 20  # of each of two
FLOW_LEARNING_RATE = 3e-3
FLOW_GAMMA = 0.9  # times after each epoch
LABEL_LEARNING_RATE = 2.5e-5  # of its label head; with more it grows sure of everything
COARSE_NOISE = 0.2  # share of the noise's variance that is coarse, as images are
WHITE_NOISE = False  # train one more flow, from white noise
STEPS = 10  # from noise to image
GUIDANCE = 1.5  # how much what the network is told counts in drawing; 1 as learned
EMA_DECAY = 0.99  # of the averaged weights; 0.999 for long trainings
STUDENT_EPOCHS = 2  # of the distilled four-step model
RESIDUE_EPOCHS = 0  # of the flow that reads single residues; 0 leaves it out
N_SAMPLES = 9  # of each protein in each nucleus
CROPS_PER_PROTEIN = 2  # that are scored, at most
N_ABLATION = 60  # crops in the ablations
N_DRAWS = 6  # noises and times in the reverse ranking
RING_UM = 4.0  # width of the ring around the nucleus that stands for the cytoplasm

# %%
import dataclasses
import time

import numpy as np
import pandas as pd
import torch

from deepgps_core.crops import CropDataset, average_down, load_crops
from deepgps_core.dataset import data_root
from deepgps_core.encoders import embed_dataset, load_encoder
from deepgps_core.flow import FlowConfig
from deepgps_core.generative import Sampling, sample_crops, score_sequences
from deepgps_core.generative_metrics import (
    frechet_distance,
    inside_interval,
    nearest_distance,
    rank_of_own,
    spot_count,
)
from deepgps_core.image_metrics import (
    agreement,
    ms_ssim,
    nuclear_proportion,
    pearson,
    radial_log_spectrum,
    texture,
)
from deepgps_core.judge import judged, train_judge
from deepgps_core.metrics import psnr, ssim
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
from deepgps_core.trivial import mean_images, trivial_images

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
runs = {"paper, L1": fit(dataset, split_name, published, training, replace=True)}


def crops_of(names: list[str], per_protein: int | None = None) -> CropDataset:
    """Load the crops of some proteins, of each at most so many."""
    crops = load_crops(
        dataset, names, encoder=ENCODER, labels=LABELS, crop_size_px=CROP_SIZE_PX,
        residues=RESIDUE_EPOCHS > 0,
    )  # fmt: skip
    return crops.first_of_each(per_protein or len(crops))


if RESIDUE_EPOCHS:
    embed_residues(dataset, encoder)
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
# And what is noise? White noise has as much of every frequency; cells differ a thousand times more
# from one side to the other than from pixel to pixel. On the way from white noise to an image, how
# much of the protein goes into the nucleus is settled within the first hundredth, by averages
# over thousands of noisy pixels, which a network hardly learns to read: all samples then agree. So
# some of the noise's variance is coarse here, the share `COARSE_NOISE`.

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
runs["film, L1"] = fit(
    dataset, split_name, dataclasses.replace(published, fusion="film"),
    dataclasses.replace(
        training, epochs=FILM_EPOCHS, crops_per_protein=FILM_CROPS, name="generates"
    ),
    replace=True,
)  # fmt: skip
print("seconds of training:",
      ", ".join(f"{name} {run.history['seconds'].sum():.0f}" for name, run in runs.items()))  # fmt: skip

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
if RESIDUE_EPOCHS:
    runs["flow, residues"] = fit(
        dataset, split_name, dataclasses.replace(vector_config, fusion="residue_attention"),
        dataclasses.replace(flow_training, epochs=RESIDUE_EPOCHS), replace=True,
    )  # fmt: skip

# %% [markdown]
# ## Pictures
#
# Each sample has noise of its own, named by protein, nucleus and number of the sample: it is the
# same whatever is drawn beside it. *Guess: which column has the highest PSNR?*

# %%
started = time.perf_counter()
samples = sample_crops(flow, test, Sampling(N_SAMPLES, seed=SEED))  # (N, S, H, W)
per_sample = (time.perf_counter() - started) / (samples.shape[0] * N_SAMPLES)
one_crop, alone = test.take(torch.tensor([0])), []
for _ in range(5):
    started = time.perf_counter()
    sample_crops(flow, one_crop, Sampling(1, seed=SEED))
    alone.append(time.perf_counter() - started)
of_vector = sample_crops(runs["flow, vector"], test, Sampling(N_SAMPLES, seed=SEED))
target, nuclei = test.images[:, 1].numpy() / 255, test.images[:, 0].numpy() / 255
owner = test.protein_index.numpy()
label = test.labels.numpy()[owner]


def one_image(name: str) -> np.ndarray:
    """Let a run answer with one image for each crop."""
    return np.concatenate(
        [p.image[:, 0].float().cpu().numpy() for _, p in predict_crops(runs[name].model, test)]
    )


first = pd.Series(owner).groupby(owner).cumcount().to_numpy() == 0
trivial = trivial_images(mean_images(known, 2), nuclei, label, label, label)
other = np.arange(len(test))
for protein in np.unique(owner):
    rows = np.flatnonzero(owner == protein)
    other[rows] = np.roll(rows, 1)
predictions = {
    "flow, one sample": samples[:, 0],
    f"flow, mean of {N_SAMPLES}": samples.mean(axis=1),
    "flow, one step": sample_crops(flow, test, Sampling(1, steps=1, guidance=1.0, seed=SEED))[:, 0],
    "flow, vector, one": of_vector[:, 0],
    f"flow, vector, mean of {N_SAMPLES}": of_vector.mean(axis=1),
    "student, four steps": sample_crops(runs["student"], test, Sampling(1, seed=SEED))[:, 0],
    "paper, L1": one_image("paper, L1"),
    "film, L1": one_image("film, L1"),
    "class mean, true": trivial["class mean, true"],
    "training mean": trivial["training mean"],
    "nucleus copied": nuclei,
    "another cell": target[other],
}
if RESIDUE_EPOCHS:
    predictions["flow, residues"] = sample_crops(
        runs["flow, residues"], test, Sampling(1, seed=SEED)
    )[:, 0]

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
show(
    fig,
    caption=f"Held-out proteins drawn by the seed, not by hand ({kind} images; rows: true label). "
    "All pictures from 0 to 1; scale bar 10 µm; PSNR below. The mean of samples and the L1 model "
    "are smooth; each sample has grain, and fewer decibels.",
    alt="Grid of cell images: nuclei, target proteins, smooth predictions, and grainy samples that "
    "differ from one another.",
)

# %% [markdown]
# ## One ruler
#
# **Chosen after looking.** All choices were made under `demo`. What the flow is told and how fast the
# label head learns were first settled by scores on held-out proteins: with seed 0 the flows' scores
# of `demo` may be too good. Then it turned out that samples agreed too well even where the true
# place was told, and even on training proteins. The noise, the guidance and the number of steps and
# of epochs were settled by that, on training and validation proteins alone. The other models were
# not tuned here.
# With seed 1, another split that was looked at only when everything was settled, the intervals of
# `demo` again hold clearly more cells than those of the flow told the vector, but what guidance adds
# to that with seed 0 does not show. And there the L1 model has more decibels than the mean of samples
# and at least the same *r*: seed 0's advantage in both does not hold up.
#
# Likeness (PSNR, SSIM, MS-SSIM), place (correlation *r* of the nuclear proportion, per protein,
# and the share on the right side of one half), and realism: the distance of the mean log power
# spectrum from real crops, the difference of gray-level co-occurrence (GLCM), and a Fréchet
# distance on the features of a *judge*, a small network trained on real crops of training
# proteins only. The judge's own answer is the last column: does it see the true label?


# %%
at_crop = {name: i for i, name in enumerate(dataset.crops["crop_id"])}
factor = dataset.crop_images.shape[-1] // CROP_SIZE_PX
ring_px = max(1, round(RING_UM / flow.pixel_size_um))
spot_px = max(0.7, 0.3 / flow.pixel_size_um)  # sigma of a spot of 0.3 µm


def masks_of(crops: CropDataset) -> np.ndarray:
    """Return the nuclear masks of crops at the size of the network's images, (N, H, W)."""
    masks = np.asarray(dataset.nuclear_masks[:])[[at_crop[name] for name in crops.crop_ids]]
    return average_down(masks.astype(np.uint8) * 255, factor) > 127


def per_protein(values: np.ndarray) -> np.ndarray:
    """Average crops within proteins, (proteins, ...)."""
    return pd.DataFrame(values).groupby(owner).mean().to_numpy().squeeze()


masks = masks_of(test)
judge = train_judge(known.images, known.labels[known.protein_index], seed=SEED)
real_share = nuclear_proportion(target, masks, ring_px)
real_spectrum, real_texture = radial_log_spectrum(target), texture(target)
real_answer, real_features = judged(judge, nuclei, target)
proportions, rows = {}, []
for name, images in predictions.items():
    answer, features = judged(judge, nuclei, images)
    proportions[name] = nuclear_proportion(images, masks, ring_px)
    place = agreement(per_protein(real_share), per_protein(proportions[name]), seed=SEED)
    gap = per_protein(radial_log_spectrum(images) - real_spectrum)
    (spectrum,) = bootstrap_intervals(
        lambda draw, gap=gap: np.array([np.sqrt((gap[draw].mean(axis=0) ** 2).mean())]),
        np.arange(len(gap)), seed=SEED,
    )  # fmt: skip
    scores = {
        "PSNR (dB)": psnr(images, target, 1.0),
        "SSIM": ssim(images, target, 1.0),
        "MS-SSIM": ms_ssim(images, target),
        "GLCM": np.abs(texture(images) - real_texture)[:, 2:].mean(axis=1),
        "judge": answer.argmax(axis=1) == label,
    }
    intervals = {k: bootstrap_interval(per_protein(v), seed=SEED) for k, v in scores.items()}
    intervals |= {"r": place["r"], "right side": place["right_side"], "spectrum": spectrum}
    rows += [(name, metric, *interval[:3]) for metric, interval in intervals.items()]
    rows.append((name, "Fréchet", frechet_distance(features, real_features), np.nan, np.nan))
table = pd.DataFrame(rows, columns=["prediction", "metric", "estimate", "low", "high"])

# %%
METRICS = ["PSNR (dB)", "SSIM", "MS-SSIM", "r", "right side", "spectrum", "GLCM", "Fréchet",
           "judge"]  # fmt: skip
table["text"] = [
    "flat" if np.isnan(r.estimate) else f"{r.estimate:.2f}" if np.isnan(r.low)
    else f"{r.estimate:.2f} ({r.low:.2f} to {r.high:.2f})"
    for r in table.itertuples()
]  # fmt: skip
table.pivot(index="prediction", columns="metric", values="text").loc[list(predictions), METRICS]

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
show(
    fig,
    caption=f"{len(np.unique(owner))} held-out proteins, {len(test)} crops ({kind} images); bars "
    "are 95 % intervals over proteins. PSNR (more is better) puts the blurs first; the distance of "
    "the power spectrum (less is better) puts them last.",
    alt="Three interval plots with a row for each prediction: PSNR, spectrum distance, correlation "
    "of nuclear proportion. The order of the rows reverses between the first two.",
)

# %%
value = table.set_index(["prediction", "metric"])
number, text = value["estimate"], value["text"]
mean_name = f"flow, mean of {N_SAMPLES}"
decibels = number.xs("PSNR (dB)", level="metric")
regained = (decibels[mean_name] - decibels["flow, one sample"]) / (
    decibels["paper, L1"] - decibels["flow, one sample"]
)
tell(
    f"A real cell of the very same protein has {text['another cell', 'PSNR (dB)']} dB; the mean "
    f"image of the class, which shows no cell at all, {text['class mean, true', 'PSNR (dB)']} dB. "
    f"A picture cannot know where this cell's grains are, and PSNR charges twice for grain in the "
    f"wrong place. So one sample ({text['flow, one sample', 'PSNR (dB)']} dB) stands behind the L1 "
    f"model ({text['paper, L1', 'PSNR (dB)']} dB), and averaging samples takes back "
    + (f"{regained:.0%} of the difference" if regained <= 1 else "all of the difference and more")
    + f" ({text[mean_name, 'PSNR (dB)']} dB). The spectrum says the opposite: "
    f"{text['flow, one sample', 'spectrum']} for a sample, {text['paper, L1', 'spectrum']} for the "
    f"L1 model, {text['another cell', 'spectrum']} for another cell. One Euler step from the noise "
    "is, for a perfect field, the mean of all samples, whatever the noise: the flow contains the "
    f"blur ({text['flow, one step', 'PSNR (dB)']} dB). The right spectrum is no proof of the right "
    "structure: look at the pictures, too."
)

# %% tags=["check"]
assert number["flow, one sample", "spectrum"] < number["paper, L1", "spectrum"], "no grain"
assert number[mean_name, "PSNR (dB)"] > number["flow, one sample", "PSNR (dB)"]
assert number["class mean, true", "PSNR (dB)"] > number["another cell", "PSNR (dB)"]

# %% [markdown]
# ## Can the spread be believed?
#
# For each crop the samples give an interval of the nuclear proportion and of the number of spots.
# If the model is calibrated, 80 % intervals hold the real cell's value for 80 % of the crops.


# %%
def shares_of(images: np.ndarray, in_masks: np.ndarray) -> np.ndarray:
    """Return the nuclear proportion of samples (N, S, H, W) in the masks (N, H, W), (N, S)."""
    flat, repeated = images.reshape(-1, *images.shape[2:]), in_masks.repeat(images.shape[1], axis=0)
    return nuclear_proportion(flat, repeated, ring_px).reshape(len(images), -1)


# %% [markdown]
# As learned, samples of the two places differ less than cells of the two places do. Classifier-free
# guidance moves them apart by one number, `GUIDANCE`. It was chosen here, on the validation proteins
# of `demo`, not on those that are scored below:

# %%
checked = crops_of(list(split.index[split == "validation"]), CROPS_PER_PROTEIN)
checked_owner, checked_masks = checked.protein_index.numpy(), masks_of(checked)
checked_target = checked.images[:, 1].numpy() / 255
checked_share = nuclear_proportion(checked_target, checked_masks, ring_px)
by_guidance = {}
for guidance in sorted({1.0, GUIDANCE, 2.0}):
    how = Sampling(N_SAMPLES, guidance=guidance, seed=SEED)
    drawn, of_truth = (
        sample_crops(flow, checked, how, true_places=truth) for truth in (False, True)
    )
    gap = radial_log_spectrum(drawn[:, 0]) - radial_log_spectrum(checked_target)
    held, held_of_truth = (
        bootstrap_interval(
            inside_interval(shares_of(images, checked_masks), checked_share), checked_owner,
            seed=SEED,
        )
        for images in (drawn, of_truth)
    )  # fmt: skip
    decibels = bootstrap_interval(
        psnr(drawn.mean(axis=1), checked_target, 1.0), checked_owner, seed=SEED
    )
    by_guidance[f"{guidance:g}"] = {
        "80 % intervals hold": f"{held:.2f}", "told the truth": f"{held_of_truth:.2f}",
        "spectrum distance": f"{np.sqrt((gap.mean(axis=0) ** 2).mean()):.2f}",
        "PSNR of the mean (dB)": f"{decibels:.1f}",
    }  # fmt: skip
print(f"{len(checked)} crops of {len(checked.protein_ids)} validation proteins")
pd.DataFrame(by_guidance).T.rename_axis("guidance")

# %% [markdown]
# More guidance, more spread across the places, and less within one of them: told the true place,
# intervals hold fewer cells. The spread below is calibrated for the question "where?", much less
# for "how much, if it is nuclear?". On held-out proteins:

# %%
of_truth = sample_crops(flow, test, Sampling(N_SAMPLES, seed=SEED), true_places=True)
share, share_by_vector, share_by_truth = (
    shares_of(images, masks) for images in (samples, of_vector, of_truth)
)
spots = spot_count(samples.reshape(-1, *samples.shape[2:]), spot_px).reshape(len(test), -1)
real_spots = spot_count(target, spot_px)
#: counts are whole numbers: a draw within one half on either side breaks ties
jitter = np.random.default_rng(SEED).uniform(-0.5, 0.5, (len(test), N_SAMPLES + 1))
coverage = {
    "nuclear proportion": inside_interval(share, real_share),
    "nuclear proportion, told the vector": inside_interval(share_by_vector, real_share),
    "nuclear proportion, told the truth": inside_interval(share_by_truth, real_share),
    "spots": inside_interval(spots + jitter[:, 1:], real_spots + jitter[:, 0]),
}
if WHITE_NOISE:
    white = sample_crops(runs["flow, white noise"], test, Sampling(N_SAMPLES, seed=SEED))
    coverage["nuclear proportion, white noise"] = inside_interval(
        shares_of(white, masks), real_share
    )
covered = {k: bootstrap_interval(per_protein(v), seed=SEED) for k, v in coverage.items()}
place_of_mean = agreement(per_protein(real_share), per_protein(share.mean(axis=1)), seed=SEED)
for what, interval in covered.items():
    print(f"80 % intervals of {what} hold {interval:.2f} of the cells")
print(f"spots a crop: {np.mean(real_spots):.1f} in cells, {spots.mean():.1f} in samples")
print(f"r of the samples' mean nuclear proportion: {place_of_mean['r']:.2f}, "
      f"slope {place_of_mean['slope']:.2f}; told the vector "
      f"{agreement(per_protein(real_share), per_protein(share_by_vector.mean(axis=1)))['r']:.2f}")  # fmt: skip

# %%
PROPORTION = "nuclear proportion"
by_place, by_vector, by_truth = (
    covered[PROPORTION + told] for told in ("", ", told the vector", ", told the truth")
)
tell(
    "Told the sequence's vector, the network has learned the training proteins by heart and is as "
    f"sure of new ones: its intervals hold {by_vector:.2f} of the cells. Told a place that is drawn "
    f"with the label head's probabilities, {by_place:.2f}. "
    + ("The spread is worth something only because the head's probabilities are."
       if by_place.low > by_vector.high else "At this size the two cannot be told apart.")
    + f" Told the true place, {by_truth:.2f}"
    + (": what is missing there is no fault of the head's, but spread within a place, which the flow "
       "has not learned and guidance does not give." if by_truth.estimate < 0.75 else ".")
    + (f" From white noise, {covered[PROPORTION + ', white noise']:.2f}." if WHITE_NOISE else "")
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
outside_masks = masks_of(outside)
drawn = sample_crops(flow, outside, Sampling(N_SAMPLES, seed=SEED))
cells = nuclear_proportion(outside.images[:, 1].numpy() / 255, outside_masks, ring_px)
draws = shares_of(drawn, outside_masks)
spread = []
for name, of_cells, of_samples, who in (
    *((text_, real_share[label == k], share[label == k], owner[label == k])
      for k, text_ in enumerate(LABELS)),
    ("both", cells, draws, outside.protein_index.numpy()),
):  # fmt: skip
    by = pd.Series(of_cells).groupby(who)
    spread.append({
        "protein is in": name, "proteins": by.ngroups, "mean, cells": of_cells.mean(),
        "mean, samples": of_samples.mean(), "sd of cells": by.std().mean(),
        "sd of samples": pd.Series(of_samples.std(axis=1, ddof=1)).groupby(who).mean().mean(),
    })  # fmt: skip
spread = pd.DataFrame(spread).set_index("protein is in")
spread.round(2)

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
for color, (what, samples_of, truth) in zip(
    PALETTE, (("nuclear proportion", share, real_share),
              ("the same, told the vector", share_by_vector, real_share),
              ("the same, told the truth", share_by_truth, real_share),
              ("spots", spots + jitter[:, 1:], real_spots + jitter[:, 0])), strict=False,
):  # fmt: skip
    held = [inside_interval(samples_of, truth, 1 - level).mean() for level in levels]
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
# beside that of real held-out cells.

# %%
training_images = known.images[:, 1].numpy()
nearest = {
    "held-out cells": nearest_distance(target, training_images),
    "samples": nearest_distance(samples[:, 0], training_images),
    "paper, L1": nearest_distance(predictions["paper, L1"], training_images),
}
pd.DataFrame(
    {name: np.quantile(v, [0.05, 0.5, 0.95]) for name, v in nearest.items()},
    index=["5 %", "median", "95 %"],
).round(3)

# %% [markdown]
# ## What matters?
#
# One sample for each of a few crops. *Sequence shuffled* gives each protein another's vector: the
# place should be lost. *Nucleus shuffled* gives another cell's nucleus: the protein should follow
# the new one. "As above" is guided by `GUIDANCE`.

# %%
few = test.take(
    torch.from_numpy(np.sort(np.random.default_rng(SEED).permutation(len(test))[:N_ABLATION]))
)
few_owner = few.protein_index.numpy()
few_target, few_nuclei = few.images[:, 1].numpy() / 255, few.images[:, 0].numpy() / 255
few_masks = masks_of(few)
turn = np.roll(np.arange(len(few)), len(few) // 2)
mixed = torch.from_numpy(np.random.default_rng(SEED).permutation(len(few.protein_ids)))
swapped_nuclei = few.images.clone()
swapped_nuclei[:, 0] = few.images[turn, 0]
settings: dict[str, tuple[CropDataset, Sampling]] = {
    "as above": (few, Sampling(1)),
    "4 Euler steps": (few, Sampling(1, steps=4)),
    "30 Euler steps": (few, Sampling(1, steps=30)),
    "5 Heun steps": (few, Sampling(1, steps=5, solver="heun")),
    "no sequence (guidance 0)": (few, Sampling(1, guidance=0.0)),
    "as learned (guidance 1)": (few, Sampling(1, guidance=1.0)),
    "guidance 4": (few, Sampling(1, guidance=4.0)),
    "sequence shuffled": (dataclasses.replace(few, features=few.features[mixed]), Sampling(1)),
    "nucleus shuffled": (dataclasses.replace(few, images=swapped_nuclei), Sampling(1)),
}
few_share = nuclear_proportion(few_target, few_masks, ring_px)
few_spectrum = radial_log_spectrum(few_target).mean(axis=0)
ablation, drawn_by = [], {}
for name, (crops, how) in settings.items():
    drawn_by[name] = images = sample_crops(flow, crops, how._replace(seed=SEED))[:, 0]
    in_masks = few_masks[turn] if name == "nucleus shuffled" else few_masks
    shares = nuclear_proportion(images, in_masks, ring_px)
    means = pd.DataFrame({"cell": few_share, "drawn": shares}).groupby(few_owner).mean()
    place = agreement(means["cell"].to_numpy(), means["drawn"].to_numpy(), seed=SEED)
    gap = radial_log_spectrum(images).mean(axis=0) - few_spectrum
    ablation.append((name, f"{place['r']:.2f}", place["r"].estimate, np.sqrt((gap**2).mean()),
                     psnr(images, few_target, 1.0).mean()))  # fmt: skip
columns = ["setting", "r of nuclear proportion", "r", "spectrum distance", "PSNR (dB)"]
ablation = pd.DataFrame(ablation, columns=columns).set_index("setting")
ablation.drop(columns="r").round(2)

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
tell(
    f"With the sequence shuffled r is {ablation.loc['sequence shuffled', 'r']:.2f} instead of "
    f"{ablation.loc['as above', 'r']:.2f}. With the nucleus shuffled, nuclear proteins differ from "
    f"cytoplasmic ones by {contrast['new']:.2f} of nuclear proportion when it is counted in the new "
    f"nucleus, and by {contrast['old']:.2f} when it is counted where the old one was. Which of the "
    f"two nuclei shapes the picture? Its pixels share {follows['new']:.2f} of their variance with "
    f"the new nucleus' image, and {follows['old']:.2f} with the old one's."
)

# %% tags=["check"]
assert follows["new"].estimate > follows["old"].estimate, "the picture ignores its nucleus"

# %% [markdown]
# ## In reverse: which sequence explains this image?
#
# The velocity field can be asked how well it predicts a *given* image under each of many
# sequences, as others rank sequences for images {cite}`celle2,celldiff`. For each held-out
# image, all held-out proteins compete; the score is the flow-matching loss with the sequence
# minus the loss without any (the loss of each place, weighed by its probability).

# %%
rows_first = torch.from_numpy(np.flatnonzero(first))
images_first = test.take(rows_first)
who = images_first.protein_index.numpy()
loss = score_sequences(flow, images_first, test.features[who], n_draws=N_DRAWS, seed=SEED)
rank = bootstrap_interval(rank_of_own(loss, np.arange(len(who))), seed=SEED)
label_first = test.labels.numpy()[who]
same_class = bootstrap_interval(
    (label_first[loss.argmin(axis=1)] == label_first).astype(float), seed=SEED
)
tell(
    f"The own sequence stands ahead of {rank:.2f} of the others (one half is guessing) among "
    f"{len(who)} candidates; the best candidate has the right label for {same_class:.2f} of the "
    "images. "
    + (
        "What the ranking finds is the place, more than the protein."
        if same_class.low > 0.5
        else "The best candidate's label is not better than guessed: the whole ranking carries some "
        "information, its first place, at this size, none."
    )
)

# %% [markdown]
# ## What the paper says, what we see

# %%
ratio = number["flow, one sample", "spectrum"] / number["paper, L1", "spectrum"]
loss_db = number["paper, L1", "PSNR (dB)"] - number[mean_name, "PSNR (dB)"]
behind = number["paper, L1", "r"] - place_of_mean["r"].estimate
no_copy = np.median(nearest["samples"]) >= np.median(nearest["held-out cells"])
share_covered = covered["nuclear proportion"]
aims = [
    ("spectrum distance, of the L1 model's", "at most .10", f"{ratio:.2f}", ratio <= 0.1),
    ("r of nuclear proportion, behind L1", "at most .01", f"{behind:.2f}", behind <= 0.01),
    ("PSNR of the mean, behind L1 (dB)", "at most 0.3", f"{loss_db:.2f}", loss_db <= 0.3),
    ("80 % intervals hold", ".75 to .85", f"{share_covered:.2f}",
     0.75 <= share_covered.estimate <= 0.85),
    ("nearest training image, to that of cells", "at least 1",
     f"{np.median(nearest['samples']) / np.median(nearest['held-out cells']):.2f}", no_copy),
    ("seconds for a sample, batched", "3 on two cores, at 208 px",
     f"{per_sample:.3f} at {CROP_SIZE_PX} px", per_sample < 3),
    ("milliseconds for one sample, alone", "50 on a GPU, 3,000 on two cores",
     f"{1000 * np.median(alone):.0f} at {CROP_SIZE_PX} px",
     np.median(alone) < (0.05 if torch.cuda.is_available() else 3)),
]  # fmt: skip
tell(
    "```{admonition} What the paper says / What we see\n"
    "The paper reports one image for each input and 14.5 dB, and calls texture and details an open "
    f"problem. Here, on {len(np.unique(owner))} held-out proteins and {kind} images, with a "
    f"flow trained for {flow.history['seconds'].sum():.0f} s:\n\n"
    "| aim | asked | here | reached |\n|---|---|---|---|\n"
    + "\n".join(f"| {a} | {b} | {c} | {'yes' if d else 'no'} |" for a, b, c, d in aims)
    + "\n\n*Chosen after looking:* some of the flow's settings were first tried out on the held-out "
    "proteins of seed 0. *Different on purpose:* a flow instead of a regression, and everything "
    "chapter 06 lists. **Texture** can be drawn by a model that is allowed several answers; PSNR does not "
    "see it. **Place** is as good as the sequence vector allows, for both models: no loss of "
    "images makes up for what the sequence does not say.\n"
    "```"
)

# %% [markdown]
# ## Recap
#
# - A flow uses the published blocks and answers with samples; their mean is the old blur.
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
strong = sample_crops(flow, few, Sampling(N_SAMPLES, guidance=4.0, seed=SEED))
plain = sample_crops(flow, few, Sampling(N_SAMPLES, seed=SEED))
held, held_plain = (
    inside_interval(shares_of(drawn, few_masks), few_share).mean() for drawn in (strong, plain)
)
best = np.max([psnr(samples[:, i], target, 1.0) for i in range(N_SAMPLES)], axis=0)
tell(
    "**1.** The squared error of a sample is the error of the mean plus the sample's own variance "
    "around it; averaging removes the second part and leaves the first.\n\n"
    f"**2.** The intervals hold {held:.2f} of these cells, with guidance {GUIDANCE:g} "
    f"{held_plain:.2f}. Samples of the two places move apart: intervals across both become wider, "
    "and where the head is sure, both ends lie further out than cells do.\n\n"
    f"**3.** Best of {N_SAMPLES}: {per_protein(best).mean():.1f} dB against "
    f"{per_protein(psnr(samples[:, 0], target, 1.0)).mean():.1f} dB for one. It looks at the "
    "answer, and grows with the number of tries."
)

# %% [markdown]
# Next: [A1 · training the encoder](A1_training_the_encoder).

# %%
execution_record(PROFILE, SEED)
