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
# # 17 · How do I predict my own protein, and should I believe it?
#
# You have a sequence, perhaps an image of nuclei, and want to know where the protein goes. That
# takes one command. Knowing what the answer is worth takes the rest of this chapter: how often
# the model is right when it says 0.8, which residues it looked at, and whether it knows the best
# known address label of a cell, the nuclear localization signal.
#
# *About a minute on two cores; 2 GB of memory; no network. Nothing is trained here: the small
# models that ship with the package are used.*
#
# **You will**
#
# - predict proteins that the model has never seen, and read how sure it is;
# - delete a nuclear localization signal, graft one, and tell a result from an anecdote;
# - run the same from the command line and open its report.

# %% tags=["parameters"]
PROFILE = "demo"
SEED = 0
MODEL = "single-2"  # single-2, single-4, all, or a run folder
PROTEIN = "Q8IV63"  # VRK3, nuclear, held out: with a signal in two basic parts
N_GRAFT = 36  # cytoplasmic held-out proteins that are given a signal
LONGEST = 500  # residues of these, so that a minute is enough
WINDOW = 12  # residues hidden at once

# %%
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from deepgps_core.calibration import expected_calibration_error, reliability
from deepgps_core.mutations import CHANGE_THRESHOLD, compare_mutants, mutate
from deepgps_core.occlusion import occlude
from deepgps_core.plotting import (
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
from deepgps_core.predictor import UNSURE_BELOW, available_models, load_predictor
from deepgps_core.shipped import held_out_predictions
from deepgps_core.sources.embedded import embedded_proteins
from deepgps_core.statistics import bootstrap_interval

use_book_style()

# %% [markdown]
# ## Inputs
#
# Three models ship. Each is five label heads, which read the language model's vector of a
# sequence (chapter 04), and one small image branch, which draws what the heads think. The labels
# were learned from real proteins. The images were learned from **simulated** cells.

# %%
models = available_models()
tell(
    "| model | labels | training proteins | test proteins | accuracy | AUROC | calibration error |\n"
    "|---|---|---|---|---|---|---|\n"
    + "\n".join(
        f"| {info.name} | {', '.join(info.labels)} | {info.card['proteins']['train']:,} "
        f"| {scores['n_test']} | "
        + " | ".join(
            f"{scores[k][0]:.2f} ({scores[k][1]:.2f} to {scores[k][2]:.2f})"
            for k in ("accuracy", "auroc", "ece")
        )
        + " |"
        for info in models
        for scores in [info.card["labels"]]
    )
    + "\n\nTest proteins are of homology clusters that no training protein belongs to; 95 % "
    "intervals over proteins. *all* lets a protein be in several places: its accuracy asks whether "
    "the likeliest place is one of them."
)

# %% [markdown]
# ## One protein, step by step
#
# The model wants a dictionary of sequences; a nucleus image is optional. Without one, it draws
# beside a simulated nucleus that ships. The protein below was not in the training.

# %%
model = load_predictor(MODEL)
held_out = held_out_predictions(model.name).merge(
    embedded_proteins()[["protein_id", "gene", "sequence", "label"]], on="protein_id"
)
test = held_out[held_out["split"] == "test"].set_index("protein_id")
protein = test.loc[PROTEIN]
predicted = model.predict({protein["gene"]: protein["sequence"]})
predicted.table.T.rename(columns={0: "value"})

# %%
fig, axes = panels(1, 3)
pair = (predicted.nuclear_image, predicted.images[0])
for ax, image, title in zip(axes[0], pair, ("nucleus", "predicted"), strict=False):
    draw_image(ax, image, pixel_size_um=predicted.pixel_size_um, title=title)
axes[0, 2].imshow(channel_composite(*pair))
axes[0, 2].set_title("overlay", fontsize="small")
show(
    fig,
    caption=f"{protein['gene']}, beside {predicted.nuclei_source}. {model.info.notice} "
    "Scale bar 10 µm; overlay: nucleus blue, protein orange.",
    alt="Three panels: a nucleus, the image predicted for the protein, and both on top of each "
    "other.",
)

# %%
row = predicted.table.iloc[0]
tell(
    f"UniProt says *{protein['label']}*; the model says *{row['predicted_label']}* with a "
    f"probability of {row['confidence']:.2f}. Its five members say between "
    f"{row['confidence_low']:.2f} and {row['confidence_high']:.2f}. A prediction is flagged "
    f"**unsure** below {UNSURE_BELOW}, or if a member prefers another label: here it is "
    f"{'flagged' if row['unsure'] else 'not flagged'}."
)

# %% [markdown]
# ## Is 0.8 really eight in ten?
#
# The members' logits were divided by one number, the temperature, fitted on validation proteins
# {cite}`guo2017`. Test proteins show whether the probabilities that result can be taken at their
# word. *Guess before you look: is a model this small too bold, or too timid?*

# %%
columns = [f"p_{name}" for name in model.labels]
probabilities = test[columns].to_numpy()
called = np.asarray(model.labels)[probabilities.argmax(axis=1)]
confidence, is_right = probabilities.max(axis=1), called == test["label"].to_numpy()
bins = reliability(is_right, confidence)
spans = [bootstrap_interval(is_right[(confidence >= low) & (confidence <= high)], seed=SEED)
         for low, high in zip(bins["low"], bins["high"], strict=True)]  # fmt: skip
fig, ax = plt.subplots(figsize=(4.2, 3.6))
ax.plot([0.5, 1], [0.5, 1], "--", color="0.6", linewidth=1)
ax.errorbar(
    bins["stated"], [span.estimate for span in spans], fmt="o", color=PALETTE[0],
    yerr=np.abs([(s.estimate - s.low, s.high - s.estimate) for s in spans]).T,
)  # fmt: skip
ax.set(xlabel="stated probability of the label", ylabel="share that is right", ylim=(0.2, 1.02))
show(
    fig,
    caption=f"Reliability of {model.name} on {len(test)} held-out proteins of other homology "
    "clusters (real sequences and labels), in bins of a tenth; 95 % bootstrap intervals. On the "
    "dashed line, what is stated comes true.",
    alt="Points with error bars, rising along the dashed diagonal from one half to one.",
)

# %%
sure = confidence >= UNSURE_BELOW
accuracy = {name: bootstrap_interval(is_right[rows], seed=SEED)
            for name, rows in (("sure", sure), ("unsure", ~sure))}  # fmt: skip
tell(
    f"The calibration error is {expected_calibration_error(is_right, confidence):.3f}. "
    f"{sure.mean():.0%} of the proteins get a probability of at least {UNSURE_BELOW}: of these the "
    f"label is right for {accuracy['sure']:.2f}; of the others for {accuracy['unsure']:.2f}."
)

# %% tags=["check"]
assert accuracy["sure"].low > accuracy["unsure"].high, "the flag does not separate anything"

# %% [markdown]
# ## Which residues does the label rest on?
#
# Hide a window of residues behind X, the letter for *any amino acid*, for which the language
# model has a token; predict again; note what the label lost. This is **occlusion**. It asks the
# model, not the cell. The classical signal is one or two clusters of lysines and arginines
# {cite}`kalderon1984`; where a sequence matches a pattern of it is marked.
#
# **Attention** is the other usual answer. The models that ship have none over residues: their
# vector is a mean. [Chapter 07](07_what_the_attention_does) trains a network that has, finds a
# residue that was planted, and then compares the maps of two trainings; read that before believing
# a map.

# %%
SIGNAL = re.compile(r"KR.{10,12}K[KR].[KR]|[KR]{4,}|K[KR].[KR]")
signals = [(m.start(), m.end()) for m in SIGNAL.finditer(protein["sequence"])]
hidden = occlude(model, protein["sequence"], label="Nucleus", window=WINDOW)
fig, ax = plt.subplots(figsize=(7.5, 2.6))
middle = (hidden.starts + hidden.stops) / 2
ax.fill_between(middle, hidden.drop_low, hidden.drop_high, color=PALETTE[5], alpha=0.5, linewidth=0)
ax.plot(middle, hidden.drop, color=PALETTE[0])
ax.axhline(0, color="0.6", linewidth=1)
for start, end in signals:
    ax.axvspan(start, end, color=PALETTE[4], alpha=0.6, linewidth=0)
ax.set(xlabel="residue", ylabel="loss of p(Nucleus)")
show(
    fig,
    caption=f"Occlusion of {protein['gene']}: what the probability of *Nucleus* "
    f"({hidden.probability:.2f}) loses when {hidden.stops[0] - hidden.starts[0]} residues are "
    "hidden; line: mean of the ensemble, band: its members; orange: matches of a pattern of "
    "nuclear localization signals. No image is involved.",
    alt="A line along the residues of a protein, near zero with some peaks; vertical bands mark "
    "where signals match.",
)

# %%
in_signal = np.array(
    [any(a < end and start < b for start, end in signals)
     for a, b in zip(hidden.starts, hidden.stops, strict=True)]
)  # fmt: skip
tell(
    f"The largest loss of any window is {hidden.drop.max():.3f}, at residues "
    f"{hidden.starts[hidden.drop.argmax()] + 1} to {hidden.stops[hidden.drop.argmax()]}. Windows "
    f"that touch a signal lose {hidden.drop[in_signal].mean():.3f} on average, the others "
    f"{hidden.drop[~in_signal].mean():.3f}. Hiding anything costs something: the unknown letters "
    "themselves move the vector, so compare windows with each other, not with zero. The label "
    "rests on the whole protein more than on any one place: the vector is a **mean over "
    "residues**, in which a dozen of some hundreds weigh little."
)

# %% [markdown]
# ## Delete the signal
#
# Mutations are written as usual: `R12A`, `del5-20`, `ins0:PKKKRKV` after residue 0. The wild type
# is checked, so that a numbering of another isoform does not pass. A change is *called* if the
# probability moves by at least 0.1 and all members of the ensemble agree on its direction.

# %%
deletions = [f"del{start + 1}-{end}" for start, end in signals]
everything = "+".join(deletions)
compared = compare_mutants(
    model, protein["gene"], protein["sequence"], [*deletions[:3], everything]
)
compared["mutation"] = [*deletions[:3], f"all {len(signals)} matches"]
compared[["mutation", "p_wild_type", "p_mutant", "change", "change_low", "change_high", "called"]]

# %% [markdown]
# One protein is an anecdote, whichever way it comes out.
#
# ## Graft a signal onto many proteins, with controls
#
# SV40's large T antigen carries PKKKRKV; attached to a cytoplasmic protein, it takes that protein
# into the nucleus of a real cell {cite}`kalderon1984`. Does the model know? Every protein gets it
# behind its first residue, and so do three controls of the same length: PK**T**KRKV, a single
# change (and one charge less) that abolishes import in cells; the same letters shuffled; and a
# linker without charge. If the model had learned the *signal*, only the first would move it. If it
# counts charges, all but the linker do.

# %%
GRAFTS = {"signal": "PKKKRKV", "K3T": "PKTKRKV", "shuffled": "", "linker": "GSGSGSG"}
rng = np.random.default_rng(SEED)
cytoplasmic = test[(test["label"] == "Cytoplasm") & (test["sequence"].str.len() <= LONGEST)]
cytoplasmic = cytoplasmic.iloc[rng.permutation(len(cytoplasmic))[:N_GRAFT]]
variants = {}
for name, sequence in cytoplasmic["sequence"].items():
    variants[name, "wild type"] = sequence
    for kind, letters in GRAFTS.items():
        letters = letters or "".join(rng.permutation(list(GRAFTS["signal"])))
        variants[name, kind] = mutate(sequence, f"ins1:{letters}", name)
labels = model.label({"/".join(key): text for key, text in variants.items()})
p_nucleus = pd.Series(labels["p_Nucleus"].to_numpy(), pd.MultiIndex.from_tuples(variants)).unstack()
gain = p_nucleus[list(GRAFTS)].sub(p_nucleus["wild type"], axis=0)

# %%
effects = {kind: bootstrap_interval(gain[kind], seed=SEED) for kind in GRAFTS}
effects |= {
    f"signal − {kind}": bootstrap_interval(gain["signal"] - gain[kind], seed=SEED)
    for kind in list(GRAFTS)[1:]
}
fig, ax = plt.subplots(figsize=(6, 2.8))
interval_plot(
    ax, list(effects), [e.estimate for e in effects.values()],
    [(e.low, e.high) for e in effects.values()],
    colors=[PALETTE[0]] * len(GRAFTS) + [PALETTE[1]] * (len(GRAFTS) - 1), reference=0,
)  # fmt: skip
ax.set_xlabel("change of p(Nucleus)")
show(
    fig,
    caption=f"Seven residues grafted onto {len(gain)} held-out cytoplasmic proteins: mean change "
    "of the probability of *Nucleus*, and (orange) how much more the signal does than each "
    "control, protein by protein; 95 % bootstrap intervals over proteins. No image is involved.",
    alt="Interval plot of seven rows: changes after four grafts, and three paired differences.",
)

# %%
moved = (gain["signal"].abs() >= CHANGE_THRESHOLD).mean()
more = {kind: effects[f"signal − {kind}"].low > 0 for kind in list(GRAFTS)[1:]}
tell(
    f"The signal moves the probability of *Nucleus* by {effects['signal']:.3f}; in {moved:.0%} of "
    f"the proteins by at least {CHANGE_THRESHOLD}. Against the uncharged linker it does "
    f"{'more' if more['linker'] else 'not measurably more'}: {effects['signal − linker']:.3f}. K3T "
    f"has one charge less; the signal does {'more' if more['K3T'] else 'not measurably more'}, "
    f"{effects['signal − K3T']:.3f}. The shuffled letters are just as basic: against them it does "
    f"{'more' if more['shuffled'] else 'not measurably more'}, {effects['signal − shuffled']:.3f}. "
    + ("So the order of the letters counts a little, and their charge several times as much. "
       if more["shuffled"] else "So what counts is charge, not what an import receptor reads. ")
    + "A cell would move these proteins; this model does not reliably."
)  # fmt: skip

# %% tags=["check"]
largest = max(abs(effects[kind].estimate) for kind in GRAFTS)
assert largest < 0.3, f"a graft moves the mean by {largest:.2f}: the text says it moves little"

# %% [markdown]
# ## The same as one command
#
# It takes a FASTA file, and if there is one an image of nuclei: a single cell, or a field, whose
# nuclei are found and cut out. It writes a table, images as PNG and 16-bit TIFF, and a report.

# %%
folder = Path(tempfile.mkdtemp())
(folder / "my.fasta").write_text(f">{protein['gene']}\n{protein['sequence']}\n")
command = ["predict", "--fasta", "my.fasta", "--model", MODEL, "--mutate", deletions[0],
           "--out", "predicted"]  # fmt: skip
program = [sys.executable, "-c", "from deepgps_core.cli import main; main()"]
done = subprocess.run([*program, *command], cwd=folder, capture_output=True, text=True, check=False)
print("$ deepgps", *command)
print(done.stdout or done.stderr)

# %% tags=["check"]
assert done.returncode == 0, done.stderr
written = sorted(p.relative_to(folder).as_posix() for p in (folder / "predicted").rglob("*.*"))
assert {"predicted/report.html", "predicted/mutations.csv"} <= set(written), written

# %% [markdown]
# `predicted/report.html` opens in any browser and needs nothing beside it. Chapter 18 has the same
# on a web page.
#
# ## When not to trust it
#
# - **The label.** It is a guess from a sequence, right about three times in four. It is no
#   evidence for a reviewer; it is a reason to do, or not to do, an experiment first.
# - **The choice.** single-2 knows two places. A secreted protein gets one of the two as well, and
#   may get it with confidence: calibration holds for proteins like those it was tested on.
# - **Mutants.** A mean over residues hardly feels seven of them. That nothing changes here does not
#   mean that nothing changes in a cell.
# - **The image.** It shows what the label looks like in the simulator. A model trained on measured
#   cells is used in the same way: give its run folder as `--model`.

# %%
best = next(info.card["labels"] for info in models if info.name == MODEL)
signal, margin = effects["signal"], effects["signal − shuffled"]
tell(
    "```{admonition} What the paper says / What we see\n:class: important\n"
    "The paper offers prediction on a website (its Fig. 5) and gives no measure of certainty and no "
    "mutation.\n\n"
    f"Here: AUROC {best['auroc'][0]:.2f} ({best['auroc'][1]:.2f} to {best['auroc'][2]:.2f}) on "
    f"{best['n_test']} proteins of other homology clusters; the paper reports .761 on 63 proteins "
    "of a random split, which cannot be compared directly. Calibration error "
    f"{best['ece'][0]:.3f} ({best['ece'][1]:.3f} to {best['ece'][2]:.3f}).\n\n"
    f"A grafted signal moves the probability by {signal.estimate:.3f} ({signal.low:.3f} to "
    f"{signal.high:.3f}), by {margin.estimate:.3f} ({margin.low:.3f} to {margin.high:.3f}) more "
    f"than its own shuffled letters (n = {len(gain)}).\n\n"
    "Verdict: usable to rank candidates, not to read out signals. Scaled down: a language model of "
    "6 layers instead of 33, small heads, simulated images.\n```"
)

# %% [markdown]
# ## Recap
#
# - A sequence is enough for a label; a nucleus image decides where the protein is drawn.
# - A probability is worth as much as its calibration on proteins that were held out.
# - The flag *unsure* marks the predictions that are little better than a coin.
# - One mutant of one protein is an anecdote; many proteins and a control are a result.
#
# ## Exercises
#
# 1. **Read.** Why must a control have the same length and the same letters as the signal?
# 2. **Change.** Set `MODEL = "single-4"`. Which of the four labels gains when the signal is grafted?
# 3. **Build.** Graft a mitochondrial presequence (`ins0:MLSLRQSIRFFKPATRTLCSSRYLL`, of yeast COX4)
#    and its shuffled letters onto the same proteins with single-4, and compare as above.

# %% tags=["solution"]
four = load_predictor("single-4")
presequence = "MLSLRQSIRFFKPATRTLCSSRYLL"
some = cytoplasmic["sequence"].head(6)
grafted = {
    f"{name}/{kind}": mutate(text, f"ins0:{letters}")
    for name, text in some.items()
    for kind, letters in (
        ("presequence", presequence), ("shuffled", "".join(rng.permutation(list(presequence)))),
    )
}  # fmt: skip
table = four.label(grafted)
table["graft"] = table["protein_id"].str.split("/").str[1]
table.groupby("graft")[[f"p_{name}" for name in four.labels]].mean().round(3)

# %%
execution_record(PROFILE, SEED)
