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
# # A4 · What makes it fast, and what is still in the way?
#
# The models of the paper are trained on tens of thousands of crops, and its language model reads
# thousands of proteins. Whether that takes an afternoon or a week depends on a few settings. This
# appendix shows what each was worth, measured beside the plain way in one run, and where the time
# goes that is left.
#
# *Seconds on two cores, 1 GB of memory, no network: it reads results that are kept in the
# repository and measures one small thing itself.*
#
# **You will**
#
# - see what half precision, memory layout and compilation each add to training;
# - tell a method that is faster from one that grows more slowly;
# - measure a ratio on your own machine, and check that both sides compute the same.

# %% tags=["parameters"]
PROFILE = "demo"
SEED = 0
RESULTS = "benchmarks/results"  # under the root of the repository
LIVE_PROTEINS = 8  # embedded twice, here and now
LONGEST = 400  # residues of these

# %%
import re
import sys
import time
from pathlib import Path

import esm
import numpy as np
import pandas as pd
import torch

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "benchmarks").is_dir())
sys.path.insert(0, str(ROOT))

from benchmarks.half_precision import compared
from benchmarks.table import as_markdown, one_table, read_results, shown
from benchmarks.training_scaling import curves, scaled
from deepgps_core.dataset import sha256_of
from deepgps_core.encoders import EMBEDDED_WEIGHTS, ESM2Encoder
from deepgps_core.plotting import PALETTE, execution_record, plt, show, tell, use_book_style
from deepgps_core.sources.embedded import embedded_proteins

use_book_style()

# %% [markdown]
# ## Inputs
#
# `make bench` measures and writes one file for each benchmark and machine. Nothing here is typed
# in: what follows is read from these files.

# %%
files = sorted((ROOT / RESULTS).glob("*.json"))
results = read_results(ROOT / RESULTS)
tell(
    "| file | benchmark | machine | sha256 |\n|---|---|---|---|\n"
    + "\n".join(
        f"| {path.name} | {result['benchmark']} | {result['machine']} | `{sha256_of(path)[:12]}…` |"
        for path, result in zip(files, results, strict=True)
    )
)


def result_of(benchmark: str, on_gpu: bool) -> dict:
    """Return a benchmark's result on a GPU or on none."""
    found = [
        r for r in results if r["benchmark"] == benchmark and (" x " in r["machine"]) == on_gpu
    ]
    return found[-1]


# %% [markdown]
# ## What is each setting worth?
#
# The published network at its published size, trained on the same crops by one process: first as
# published, then with one change after the other. The dashed line is what the processor could do
# if all of it were one large matrix product in half precision. *Guess: which single change gives
# most?*

# %%
training = result_of("training", on_gpu=True)
ladder = pd.DataFrame([r for r in training["rows"] if "images_per_s" in r and "epochs" not in r])
loops = {r["setting"]: r for r in training["rows"] if "epochs" in r}
whole = min(loops.values(), key=lambda row: row["epoch_s"])
ladder["step"] = ladder["images_per_s"] / ladder["images_per_s"].shift()
ceiling = 1000 * training["matmul_bf16_tflops"] / training["gflop_per_image"]
ladder["share"] = ladder["images_per_s"] / ceiling
fig, ax = plt.subplots(figsize=(7, 3.8))
ax.barh(ladder["setting"], ladder["images_per_s"], color=PALETTE[0])
ax.axvline(ceiling, color="0.4", linestyle="--")
ax.invert_yaxis()
ax.set(xlabel="images a second", xscale="log", xlim=(90, 6000))
ax.minorticks_off()
ax.set_xticks([100, 200, 500, 1000, 2000, 4000], ["100", "200", "500", "1,000", "2,000", "4,000"])
best = ladder.loc[ladder["images_per_s"].idxmax()]
show(
    fig,
    caption=f"Training on {training['machine']}: from {ladder['images_per_s'][0]:.0f} to "
    f"{best['images_per_s']:,.0f} images a second. Dashed: {ceiling:,.0f}, the measured "
    f"{training['matmul_bf16_tflops']:.0f} TFLOP/s over {training['gflop_per_image']:.0f} GFLOP an "
    "image. Logarithmic axis.",
    alt="Horizontal bars of images a second, growing from the published settings to compiled "
    "half precision in large batches; the best ends at less than half of the dashed ceiling.",
)

# %%
gain = ladder.loc[ladder["batch_size"].eq(ladder["batch_size"].shift())].set_index("setting")[
    "step"
]
tell(
    f"Largest single step at a constant batch: **{gain.idxmax().strip('+ ')}**, {gain.max():.2f} "
    f"times. Half precision on top of it gives {gain['+ bf16 autocast']:.2f}, less than its "
    "arithmetic promises, because tensors are laid out channel by channel and have to be turned "
    "round before each convolution; laid out pixel by pixel (*channels last*) they need not be: "
    f"{gain['+ channels last']:.2f} times more. Fusing the small steps (*compiled*) gives "
    f"{gain['+ compiled']:.2f}. Leaving out what changes nothing (*lean*) gives "
    f"{gain['batch 256, compiled, lean'] - 1:.1%} more: biases in front of a normalization, which "
    "takes away what they add, and copies of gradients, number by number. All together "
    f"{best['images_per_s'] / ladder['images_per_s'][0]:.1f} times the published settings, "
    f"{best['share']:.0%} of the ceiling. (The published code sets nothing, and PyTorch by itself would "
    "already use TF32 in convolutions; the first row is single precision in the strict sense.)"
    + (f"\n\n*What ran beside it.* {training['conditions']}" if "conditions" in training else "")
)

# %% tags=["check"]
assert gain["+ channels last"] > gain["+ bf16 autocast"] > 1
assert (ladder["images_per_s"] < ceiling).all(), "faster than the machine"
losses = np.array([loop["losses"] for loop in loops.values()])
assert np.ptp(losses, axis=0).max() < 1e-3, "lean training is another training"

# %% [markdown]
# ## Where does the rest of the time go?
#
# A profile of the device while it trains, kernel by kernel, before the lean setting. Convolutions do
# the arithmetic. The other kernels move numbers: they are limited by memory, and no faster
# arithmetic helps them. What lean training leaves out was found here, among the copies.

# %%
(profiled,) = [row for row in training["rows"] if "kernels" in row]
kinds = {"convolution": "xmma|gemm|cutlass|conv2d", "batch norm, ReLU": "batch_norm|relu"}


def kind_of(kernel: str) -> str:
    return next(
        (k for k, words in kinds.items() if re.search(words, kernel)), "copies and the rest"
    )


kernels = pd.DataFrame(profiled["kernels"])
shares = kernels.groupby(kernels["kernel"].map(kind_of))["share"].sum()
shares["many small ones"] = 1 - shares.sum()
fig, ax = plt.subplots(figsize=(7, 1.8))
left = 0.0
for color, (name, share) in zip(PALETTE, shares.sort_values(ascending=False).items(), strict=False):
    ax.barh(0, share, left=left, color=color, label=f"{name} {share:.0%}")
    left += share
ax.set(xlim=(0, 1), yticks=[], xlabel="share of the device's time")
ax.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
show(
    fig,
    caption=f"Device time at {profiled['setting']} ({training['machine']}); the "
    f"{len(kernels)} longest kernels by kind, all others together as many small ones.",
    alt="One stacked bar of time by kind of kernel; convolutions take the largest named part.",
)

# %% [markdown]
# ## Is the result still the same?
#
# Half precision rounds every product to three digits. The same network, trained on the same
# simulated crops with several seeds, in single precision and in the faster ways: a way is as good
# if held-out proteins' losses differ by no more than seeds do.

# %%
precision = result_of("half precision", on_gpu=True)
trained = pd.DataFrame(precision["rows"])
per_way = trained.groupby("way", sort=False)
tell(
    "| trained in | image loss, each seed | label loss, each seed | seconds |\n|---|---|---|---|\n"
    + "\n".join(
        f"| {way} | {', '.join(f'{x:.4f}' for x in rows['image_loss'])} "
        f"| {', '.join(f'{x:.3f}' for x in rows['label_loss'])} | {rows['seconds'].mean():.0f} |"
        for way, rows in per_way
    )
    + f"\n\n{precision['held_out_proteins']} held-out proteins, {precision['images']} images, "
    f"{precision['epochs']} epochs, {precision['machine']}. {precision.get('conditions', '')}"
)
losses = {"image_loss": "image loss", "label_loss": "label loss", "auroc": "AUROC"}
verdicts_by, clear, wider = [], 0, 0
for loss, name in losses.items():
    by_way = compared(precision["rows"], loss)
    of_seeds = by_way["sd of seeds"].iloc[0]
    for way, row in by_way.iloc[1:].iterrows():
        clear += abs(row["difference"]) > row["half_width"]
        wider += abs(row["difference"]) > of_seeds
        verdicts_by.append(
            f"- {name}, {way}: {row['difference']:+.4f} (± {row['half_width']:.4f}) from single "
            f"precision, whose seeds have a standard deviation of {of_seeds:.4f}"
        )
tell(
    "\n".join(verdicts_by)
    + "\n\nDifferences are paired by seed, with half the width of their 95 % interval. "
    + f"{clear or 'None'} of the {len(verdicts_by)} {'are' if clear > 1 else 'is'} clear of zero, "
    f"{wider or 'none'} larger than the standard deviation between seeds. With "
    f"{trained['seed'].nunique()} seeds only large differences could be clear."
)  # fmt: skip

# %% [markdown]
# ## Several GPUs
#
# Each takes a batch of its own through the network, and gradients are averaged: the same loop,
# started by `torchrun`. Twice the GPUs would be twice as fast if averaging cost nothing.

# %%
several = result_of("training on several", on_gpu=True)
one_gpu, *more_gpus = scaled(several)
linear = {
    r["devices"]: r["images_per_s"] / one_gpu["images_per_s"] / r["devices"] for r in more_gpus
}
apart = curves(several)
of_row = {r["setting"]: f"{r['devices']} devices" if r["devices"] > 1 else "another seed"
          for r in several["rows"] if r["devices"] > 1 or r["seed"]}  # fmt: skip
beside = {r["setting"]: "compared with" for r in several["rows"][1:] if r["setting"] not in of_row}
beside |= {setting: ", ".join(f"{value:+.1%}" for value in apart[key])
           for setting, key in of_row.items() if key in apart}  # fmt: skip
together, seeds = (max(map(abs, apart[key])) for key in ("2 devices", "another seed"))
tell(
    "| setting | images/s | of linear | loss of each epoch |\n|---|---|---|---|\n"
    + "\n".join(
        f"| {r['setting']} | {r['images_per_s']:,.0f} "
        + (f"| {linear[r['devices']]:.1%} " if r in more_gpus else "| ")
        + f"| {beside.get(r['setting'], '')} |"
        for r in several["rows"]
    )
    + f"\n\n{several['machine']}; {several['crops']:,} crops that can be learned, "
    f"{one_gpu['epochs']} epochs, compiled and lean. {several.get('conditions', '')}\n\nLosses are compared at the "
    "same number of crops a step: two GPUs with one that takes the batches of both, and another seed "
    "with the same one, as a measure of what is usual. In the first epoch two GPUs are "
    f"{abs(apart['2 devices'][0]):.1%} apart, another seed {abs(apart['another seed'][0]):.1%}; in their "
    f"worst one {together:.0%} and {seeds:.0%}. "
    + ("Two GPUs end lower, so nothing is lost, but one training of each cannot say more."
       if together > seeds and apart["2 devices"][-1] < 0 else
       "Two GPUs end higher by more than a seed does." if together > seeds else
       "No more than a seed does.")
)  # fmt: skip

# %% tags=["check"]
assert abs(apart["2 devices"][0]) < 0.05, "two GPUs learn something else"

# %% [markdown]
# ## And the language model?
#
# The paper's encoder, ESM-2 with 650 million parameters {cite}`esm2`, in its shape, reading as many
# proteins as OpenCell has. Beside it fair-esm's own loops with the same weights.

# %%
table = one_table(results)
is_gpu = table["machine"].str.contains(" x ")
tell(as_markdown(shown(table[is_gpu])) + "\n\nPairs are ours / beside.")
embedding = result_of("embedding", on_gpu=True)
accuracy = {r["setting"]: r["relative_difference"] for r in embedding["rows"][1:]}
opencell_residues, residues = 789_000, embedding["residues"]  # the paper's targets have as many
tell(
    f"{embedding['proteins']:,} human proteins, {residues:,} residues (OpenCell's "
    f"1,301 targets have about {opencell_residues:,}). Vectors differ from fair-esm's in single precision, "
    "relative to the largest number, by at most "
    + "; ".join(f"{value:.0e} ({name})" for name, value in accuracy.items())
    + ". Single products in bf16 round at 4e-03."
    + (f"\n\n*What ran beside it.* {embedding['conditions']}" if "conditions" in embedding else "")
)
if quiet := embedding.get("undisturbed"):
    fastest = max(r["residues_per_s"] for r in embedding["rows"])
    tell(
        "Residues a second with nothing beside: "
        + "; ".join(f"{rate:,.0f} ({name})" for name, rate in quiet.items())
        + f". Against these, the fastest row above ({fastest:,.0f}, itself disturbed) is "
        + " and ".join(f"{fastest / rate:.1f} times {name.split(', ')[1]}"
                       for name, rate in quiet.items() if name.startswith("fair-esm"))
        + "."
    )  # fmt: skip

# %% tags=["check"]
assert accuracy["ours, fp32"] < 1e-5
assert max(v for name, v in accuracy.items() if name.startswith("ours")) < 2e-2

# %% [markdown]
# ## On a processor without a GPU
#
# The same comparisons on a machine as readers have. Here fair-esm meets another limit: it writes
# down every attention map, each residue against each, and padding multiplies them.

# %%
tell(as_markdown(shown(table[~is_gpu])) + "\n\nPairs are ours / beside.")

# %% [markdown]
# ## Faster, or growing more slowly?
#
# A ratio holds for one size. Fitted as a power of the size, the exponent tells what happens with
# more: at an exponent of 1, twice the work takes twice as long. *Guess: which of the four curves
# below has 2?*

# %%
clouds, small = result_of("point clouds", on_gpu=False), result_of("embedding", on_gpu=False)
curves = {}
for tool, name in (("kdtree", "surface points, KD-tree"), ("pyuul", "surface points, PyUUL")):
    done = [row for row in clouds["rows"] if row[tool]]
    curves[name] = ([r["atoms"] for r in done], [r[tool]["seconds"] for r in done])
for row in small["rows"]:
    if row["setting"] in ("ours, fp32", "fair-esm, padded batches of 8, fp32"):
        name = "embedding, " + row["setting"].split(",")[0]
        curves[name] = (small["lengths"], row["seconds_by_length"])
exponents = {n: float(np.polyfit(np.log(x), np.log(y), 1)[0]) for n, (x, y) in curves.items()}
fig, axes = plt.subplots(1, 2, figsize=(8, 3.6))
for color, (name, (sizes, seconds)) in zip(PALETTE, curves.items(), strict=False):
    ax = axes[int(name.startswith("embedding"))]
    ax.loglog(sizes, seconds, "o-", color=color, label=f"{name}: n^{exponents[name]:.2f}")
for ax, size, ticks in zip(
    axes, ("atoms", "residues of a protein"),
    ([1000, 3000, 10_000, 30_000], [100, 200, 500, 1000]), strict=True,
):  # fmt: skip
    ax.minorticks_off()
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.set_yticks([0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5], "0.02 0.05 0.1 0.2 0.5 1 2 5".split())
    ax.set(xlabel=size, ylabel="seconds", ylim=(0.01, 20))
    ax.legend(fontsize="small")
show(
    fig,
    caption=f"Time over size on {clouds['machine']}, both axes logarithmic, with the exponent of a "
    "straight-line fit. Left: points on a molecule's surface (simulated chains); PyUUL runs as far "
    "as memory allows. Right: the language model on one protein.",
    alt="Two log-log panels. Left: PyUUL's line is steeper than the KD-tree's. Right: both lines of "
    "the language model rise, fair-esm's more steeply.",
)

# %% tags=["check"]
slow, fast = exponents["surface points, PyUUL"], exponents["surface points, KD-tree"]
assert fast < 1.3 < slow, (fast, slow)

# %% [markdown]
# Comparing each atom with every other one is quadratic, asking a tree for the neighbors is not.
# In the language model attention is quadratic too, but up to a thousand residues the layers that
# treat each residue alone cost more.
#
# ## What was aimed at, and what was reached
#
# The aims were set before anything was measured, on one H100; the machine here is named above.

# %%
wide = {r["setting"]: r for r in embedding["rows"]}
peer = next(iter(wide.values()))["residues_per_s"]
top = max(r["residues_per_s"] for r in wide.values())
fifty_min = (whole["first_epoch_s"] + 49 * whole["epoch_s"]) / 60
narrow = {r["setting"]: r["residues_per_s"] for r in small["rows"]}
ours = max(rate for name, rate in narrow.items() if name.startswith("ours"))
their_rates = {n.split(", ")[1]: rate for n, rate in narrow.items() if n.startswith("fair-esm")}
by_chapter = {r["benchmark"]: r["by_chapter_s"] for r in results if "by_chapter_s" in r}
on_gpu_too = by_chapter.get("edition gpu", by_chapter["edition demo"])
elsewhere = {n: s for n, s in by_chapter["edition demo"].items() if n not in on_gpu_too}
aims = [  # what, aim, reached, format
    ("training, times the published settings", 12, best["images_per_s"] / ladder["images_per_s"][0], ".2f"),
    ("training, images a second", 1900, best["images_per_s"], ",.0f"),
    ("training, share of the matrix-product rate", 0.45, best["share"], ".0%"),
    ("50 epochs of 13,463 crops through the project's loop, minutes", 7, fifty_min, ".1f"),
    *[(f"{len(r['by_chapter_s'])} chapters under gpu, {r['jobs']} at once on {r['machine']}, GPU minutes", 40,
       r["wall_s"] / 60 * int(r["machine"].split()[0]), ".0f")
      for r in results if r["benchmark"] == "edition gpu"],
    *[(f"{len(r['by_chapter_s'])} chapters under demo, {r['jobs']} at once on {r['machine']}, minutes", 25,
       r["wall_s"] / 60, ".0f")
      for r in results if r["benchmark"] == "edition demo"],
    ("vectors in bf16, largest difference from fair-esm in fp32, relative", 1e-3,
     min(v for n, v in accuracy.items() if n.startswith("ours, bf16")), ".0e"),
    *[(f"training on {n} GPUs, share of linear", 0.95 if n == 2 else 0.9, share, ".1%")
      for n, share in linear.items()],
    ("embedding on a GPU, times padded batches of 8", 9, top / peer, ".2f"),
    ("embedding on a GPU, residues a second", 100_000, top, ",.0f"),
    *[(f"embedding on a CPU, times fair-esm's {n}", 2, ours / rate, ".2f") for n, rate in their_rates.items()],
    *[(f"one sample of the flow (chapter 19) on {name}, milliseconds", aim,
       result_of("sampling", on_gpu)["one_ms"], ",.0f")
      for name, aim, on_gpu in (("a GPU", 50, True), ("a CPU", 3000, False))],
]  # fmt: skip
verdicts = {
    what: reached <= aim
    if what.endswith(("minutes", "milliseconds", "relative"))
    else reached >= aim
    for what, aim, reached, _ in aims
}
tell(
    "| what | aim | reached | |\n|---|---|---|---|\n"
    + "\n".join(
        f"| {what} | {aim:{f}} | {reached:{f}} | {'reached' if verdicts[what] else 'not reached'} |"
        for what, aim, reached, f in aims
    )
    + f"\n\n{sum(verdicts.values())} of {len(verdicts)}. All 62,108 crops of the paper, 50 epochs at the "
    f"rate of the whole loop: {62_108 * 50 / whole['images_per_s'] / 60:.0f} minutes. The fifty epochs are the first, with its "
    f"compilation, and 49 times the median of the next {whole['epochs'] - 1}; of an epoch's "
    f"{whole['epoch_s']:.1f} s (not lean, {max(loop['epoch_s'] for loop in loops.values()):.1f} s), "
    "steps at the rate of the ladder would take "
    f"{training['crops'] / ladder.set_index('setting').loc['batch 128, compiled, lean', 'images_per_s']:.1f} s. "
    "Validation and the last, smaller batch run uncompiled: compiled, they would call for a program "
    "of more general sizes, which would then serve all batches, slower. "
    + ("" if 4 in linear else "Four GPUs, of which 90 % of linear were asked, were not at hand. ")
    + (
        f"{', '.join(elsewhere)} use no GPU and were executed elsewhere, in "
        f"{sum(elsewhere.values()) / 60:.0f} minutes."
        if elsewhere
        else ""
    )
)

# %% [markdown]
# What is still in the way. More than half of the arithmetic that the device could do is not done
# because the first and last levels of the U-Net have few channels and many pixels: their
# convolutions move more than they compute, and their normalizations only move. Lean training is an
# option: the published code trains idle biases, and so do the chapters. Nothing holds such biases:
# Adam scales even the rounding of their gradients to whole steps, they drift, and in evaluation the
# running means lag behind them.
#
# In the language model, padding was the hurdle: a mask keeps attention from its fastest kernels, and
# without one (*packed*: proteins side by side in one row) or with the small steps between the large
# products fused (*compiled*) the same layers run twice as fast. On a processor half precision does
# most, where the processor has instructions for it. A single sample on a GPU waited for Python,
# which launched each of the network's small operations anew in every step; now the second step is
# recorded and the others replay it, to the same last bit. Hundreds of samples a second come only
# out of a batch. (Chapter 19 times a sample, too, beside whatever else its machine does then; what
# counts is the table above, measured with nothing beside.)
#
# ## Here and now
#
# A few proteins, the embedded language model, this machine: in fair-esm's network, one batch filled
# up to the longest, and in ours. A ratio of seconds measured once is rough; that both compute the
# same numbers is not.

# %%
pool = embedded_proteins()
pool = pool[pool["sequence"].str.len() <= LONGEST].sample(LIVE_PROTEINS, random_state=SEED)
sequences = dict(zip(pool["protein_id"], pool["sequence"], strict=True))
encoder = ESM2Encoder(EMBEDDED_WEIGHTS, device="cpu", progress=False)
alphabet = esm.data.Alphabet.from_architecture("ESM-1b")
theirs = esm.model.esm2.ESM2(6, encoder.network.width, 20, alphabet, token_dropout=True).eval()
theirs.load_state_dict(encoder.network.state_dict(), strict=False)


def with_fair_esm() -> dict[str, np.ndarray]:
    _, _, tokens = alphabet.get_batch_converter()(list(sequences.items()))
    with torch.no_grad():
        hidden = theirs(tokens, repr_layers=[6])["representations"][6]
    rows = zip(hidden, sequences.items(), strict=True)
    return {name: row[1 : len(text) + 1].mean(0).numpy() for row, (name, text) in rows}


seconds, vectors = {}, {}
for name, work in (("fair-esm", with_fair_esm), ("ours", lambda: encoder.embed(sequences))):
    work()  # warm
    start = time.perf_counter()
    vectors[name] = work()
    seconds[name] = time.perf_counter() - start
apart = max(float(np.abs(vectors["ours"][n] - vectors["fair-esm"][n]).max()) for n in sequences)
residues = sum(map(len, sequences.values()))
print(f"{residues:,} residues: fair-esm {seconds['fair-esm']:.2f} s, ours {seconds['ours']:.2f} s, "
      f"{seconds['fair-esm'] / seconds['ours']:.1f} times; largest difference {apart:.0e}")  # fmt: skip

# %% tags=["check"]
assert apart < 1e-4, "faster, and wrong"

# %%
tell(
    "```{admonition} What the paper says / What we see\n"
    "| | paper | here | verdict |\n|---|---|---|---|\n"
    f"| batch | its code: 8 on each GPU | {ladder['images_per_s'][0]:.0f} images/s so; "
    f"{best['images_per_s']:,.0f} at {best['batch_size']:.0f} | faster, and another batch |\n"
    "| precision | not said; its code uses single | half, where the hardware has it | differs |\n"
    "| time and hardware | not said | named in each row | cannot tell |\n\n"
    "Images a second are measured on random crops: speed does not depend on what they show.\n"
    "```"
)

# %% [markdown]
# ## Recap
#
# - Layout, half precision and compilation multiply; none of them alone gives the whole.
# - The exponent, not the ratio, tells what a larger molecule or a longer protein will cost.
# - A ratio counts when both sides ran in the same process on the same data and gave the same result.
#
# ### Exercises
#
# 1. *Read.* Why is the published batch of 8 slow on a large GPU even in the same precision?
# 2. *Change.* Set `LONGEST` to 1,000. Which of the two live numbers grows more, and why?
# 3. *Build.* From the ladder, compute how long fifty epochs on the paper's 13,463 crops of single-2
#    take before and after, if nothing but the network's steps takes time.

# %% tags=["solution"]
epochs, crops = 50, training["crops"]
hours = {name: epochs * crops / rate / 3600 for name, rate in
         zip(("before", "after"), (ladder["images_per_s"][0], best["images_per_s"]), strict=True)}  # fmt: skip
print("3.", {name: f"{60 * value:.0f} min" for name, value in hours.items()})
tell(
    "**1.** Each kernel is started by the host and has too few pixels to fill the processor; with "
    "more images a kernel has more to do for the same start.\n\n"
    "**2.** fair-esm's: one long protein fills up the whole batch to its length, and attention maps "
    "grow with the square of it."
)

# %%
execution_record(PROFILE, SEED)
