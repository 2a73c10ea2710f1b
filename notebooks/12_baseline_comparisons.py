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
# # 12 · Which rivals does a label have to beat, and by how much?
#
# The paper compares its labels with four programs on 63 proteins (Table 1) and calls the result
# comparable {cite}`deepgps`. It has no simple baseline, no interval and no test. Here every rival
# that can be run is trained on exactly the proteins that deepGPS trains on, and both tables are
# rebuilt twice: as the paper prints them, and as they can be read.
#
# *About two minutes on two cores; 2 GB of memory; no network. With `MEASURED` on and the tables at
# hand, relatives and vectors of 12,762 proteins come first: half an hour on a quiet laptop, once.*
#
# **You will**
#
# - run seven rivals on the splits of deepGPS, from a zero rule to light attention;
# - rebuild Table 1 with intervals and paired tests, and read outputs of the paper's four tools;
# - see how far measured labels can be predicted, and how far two sources of labels agree.

# %% tags=["parameters"]
PROFILE = "demo"
DATASET = "embedded-demo"
SEED = 0
ENCODER = "embedded"  # whose sequence vectors
N_SPLITS = 5  # of each kind
N_FOLDS = 5  # of one grouped cross-validation, in which each protein is tested once
ATTENTION_EPOCHS = 10
WORKERS = 2
TOOLS_FOLDER = ""  # outputs of MultiLoc2, DeepLoc 1.0, BUSCA, MULocDeep for the test proteins
MEASURED = False  # compute the last section from the tables that DEEPGPS_REAL_DATA names
MEASURED_SPLITS = 20  # of each kind and task, of that section

# %%
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from deepgps_core.baselines import (
    HomologyTransfer,
    composition_svm,
    evaluate_baselines,
    logistic,
    nearest_neighbors,
    vector_svm,
    zero_rule,
)
from deepgps_core.dataset import data_root, sha256_of
from deepgps_core.encoders import embed_dataset, load_encoder
from deepgps_core.homology import find_relatives
from deepgps_core.label_head import LabelHeadClassifier
from deepgps_core.light_attention import LightAttentionClassifier, residue_array
from deepgps_core.measured_evidence import BANDS, library_table
from deepgps_core.measured_study import best_encoder, load_measured, run_study
from deepgps_core.metrics import auroc
from deepgps_core.plotting import (
    PALETTE,
    execution_record,
    interval_plot,
    plt,
    show,
    tell,
    use_book_style,
)
from deepgps_core.real_benchmark import COMBINED, LABEL_HEAD, recorded
from deepgps_core.runs import load_run
from deepgps_core.sources.embedded import ensure_dataset
from deepgps_core.splits import repeated_splits
from deepgps_core.statistics import mcnemar_power, proteins_needed, summarize_splits
from deepgps_core.tables import Method, published_table, rebuild_tables, results_tables
from deepgps_core.tools import DEEPLOC_PLACES, read_tool, two_classes

use_book_style()

# %% [markdown]
# ## Inputs
#
# The single-2 proteins of chapter 06: real sequences and labels. Images play no part in a label,
# so none is used; a vector stands for the whole protein, a matrix for its residues.

# %%
dataset = ensure_dataset(DATASET, seed=SEED)
LABELS = ("Cytoplasm", "Nucleus")
proteins = dataset.proteins[dataset.proteins["label"].isin(LABELS)].reset_index(drop=True)
path = dataset.path / "proteins.csv"
tell(
    "| file | source | licence | rows | sha256 |\n|---|---|---|---|---|\n"
    f"| {path.name} | {dataset.info.source} | {dataset.info.licence} | {len(proteins)} of "
    f"{len(dataset.proteins)} | `{sha256_of(path)[:12]}…` |"
)

# %%
sequences = dict(zip(proteins["protein_id"], proteins["sequence"], strict=True))
vectors = embed_dataset(dataset, load_encoder(ENCODER))
residues = load_encoder(ENCODER).embed(sequences, per_residue=True)
hits = find_relatives(sequences, sequences)
inputs = {
    "sequence": proteins["sequence"].to_numpy(object),
    "protein_id": proteins["protein_id"].to_numpy(object),
    "vector": np.stack([vectors[name] for name in sequences]),  # (N, D)
    "mean and sd": np.stack([np.r_[m.mean(0), m.std(0)] for m in residues.values()]),  # (N, 2D)
    "residues": residue_array([m.astype(np.float16) for m in residues.values()]),
}
print({name: X.shape for name, X in inputs.items()})

# %% [markdown]
# ## The field
#
# All have scikit-learn's interface. Settings of the machines, the regression and the neighbors
# are chosen inside the training part, on folds that keep homology clusters together; the label
# head and light attention keep settings fixed beforehand.
#
# | rival | sees | idea |
# |---|---|---|
# | zero rule | nothing | class shares of the training part |
# | closest relative | sequence | label of the best-aligned training protein |
# | composition | sequence | 20 shares and a support vector machine {cite}`huasun` |
# | composition of ends | sequence | the same for the first 40, the last 40 and the other residues |
# | neighbors, logistic, SVM | mean vector | three classic classifiers |
# | logistic, mean and sd | two vectors | pooling beyond the mean |
# | light attention | residues | learns which residues count |

# %%
head = LabelHeadClassifier(
    hidden_dim=256, epochs=20, learning_rate=3e-4, standardize=True, validation_fraction=0,
    seed=SEED,
)  # fmt: skip
estimators = {
    "deepGPS label head": ("vector", head),
    "zero rule": ("sequence", zero_rule()),
    "closest relative": ("protein_id", HomologyTransfer(sequences, hits)),
    "composition": ("sequence", composition_svm()),
    "composition of ends": ("sequence", composition_svm(segments=True)),
    "neighbors": ("vector", nearest_neighbors()),
    "logistic": ("vector", logistic()),
    "SVM": ("vector", vector_svm()),
    "logistic, mean and sd": ("mean and sd", logistic()),
    "light attention": (
        "residues", LightAttentionClassifier(epochs=ATTENTION_EPOCHS, max_residues=600, seed=SEED)
    ),
}  # fmt: skip
kinds = ("random", "grouped")
predictions = {
    kind: evaluate_baselines(
        estimators, inputs, proteins, repeated_splits(proteins, kind, N_SPLITS, SEED), WORKERS
    )
    for kind in kinds
}

# %% [markdown]
# *Guess: how far apart are the best and the third best, next to the width of their intervals?*


# %%
def area(rows: pd.DataFrame) -> float:
    """Return the AUROC of one classifier on one split."""
    return auroc(rows["label"] == "Cytoplasm", rows["p_Cytoplasm"])


areas = {
    kind: table.groupby(["split", "baseline"])[["label", "p_Cytoplasm"]].apply(area).unstack()
    for kind, table in predictions.items()
}
summary = {kind: {name: summarize_splits(table[name]) for name in estimators}
           for kind, table in areas.items()}  # fmt: skip
fig, axes = plt.subplots(1, 2, figsize=(8, 3.6), sharex=True, sharey=True)
for ax, kind in zip(axes, kinds, strict=True):
    found = summary[kind]
    interval_plot(
        ax, list(estimators), [s.mean for s in found.values()],
        [(max(s.low, 0.3), min(s.high, 1)) for s in found.values()],
        colors=[PALETTE[0], *["0.45"] * (len(found) - 1)], reference=0.5, reference_name="chance",
    )  # fmt: skip
    ax.set_xlabel(f"AUROC, {kind} splits")
show(
    fig,
    caption=f"Nucleus against cytoplasm, mean AUROC per protein over {N_SPLITS} splits of each "
    f"kind of the same {len(proteins)} real proteins, with 95 % intervals that allow for shared "
    "proteins. No image is involved. The intervals are far wider than the differences.",
    alt="Two interval plots of ten classifiers; vector methods lie to the right of composition, "
    "the zero rule is at one half, and all intervals overlap.",
)

# %% [markdown]
# ## Is any difference real?
#
# Methods answer for the same proteins, so they can be compared protein by protein. One grouped
# cross-validation tests each protein once. McNemar's exact test asks who is right more often,
# DeLong's who ranks better; Holm's method pays for asking many times.

# %%
folds = StratifiedGroupKFold(N_FOLDS, shuffle=True, random_state=SEED)
cv_splits = []
for number, (_, test) in enumerate(
    folds.split(proteins, proteins["label"], proteins["cluster_30"])
):
    part = np.where(np.isin(np.arange(len(proteins)), test), "test", "train")
    cv_splits.append((f"fold-{number}", pd.Series(part, index=proteins["protein_id"])))
crossed = evaluate_baselines(estimators, inputs, proteins, cv_splits, WORKERS)
truth = proteins.set_index("protein_id")["label"] == "Cytoplasm"
methods = [
    Method(name, "cross-validation", rows.set_index("protein_id")["p_Cytoplasm"])
    for name, rows in crossed.groupby("baseline", sort=False)
]
tables = results_tables(methods, truth, n_resamples=500, seed=SEED)
tests = tables.tests.set_index("model")
tests[["discordant", "accuracy_difference", "mcnemar_p", "mcnemar_holm",
       "auroc_difference", "delong_p", "delong_holm"]].round(3)  # fmt: skip

# %%
distinct = tests.index[(tests["mcnemar_holm"] < 0.05) | (tests["delong_holm"] < 0.05)]
shares = tests["discordant"].drop("zero rule")
tell(
    f"With {len(proteins)} proteins the label head can be told from "
    f"{', '.join(distinct) if len(distinct) else 'none of its rivals'} (Holm, 5 %). Two methods "
    f"disagree on {100 * shares.min():.0f} to {100 * shares.max():.0f} % of the proteins. To see a "
    f"difference of 0.08 in accuracy, four times out of five, takes "
    f"{proteins_needed(0.08, max(shares.min(), 0.1))} to {proteins_needed(0.08, shares.max())} "
    f"test proteins; with the paper's 63 the chance is "
    f"{mcnemar_power(63, 0.08, float(shares.median())):.2f}."
)

# %% tags=["check"]
assert tests.loc["zero rule", "delong_holm"] < 0.05, "no better than a zero rule"
assert mcnemar_power(63, 0.08, float(shares.median())) < 0.5

# %% [markdown]
# ## Table 1, as printed and as it can be read
#
# The trained deepGPS of chapter 06, grouped split. Published rows are the paper's own numbers,
# copied; nothing about them was recomputed, and their proteins are OpenCell's, not ours. Ours
# were trained and tested on the same split. The printed row of deepGPS counts crops of
# **simulated** images; a label needs no image.

# %%
run_path = data_root() / f"runs/{DATASET}/single-2-paper/grouped-{SEED}-single-2/{SEED}"
rivals = {name: pair for name, pair in estimators.items() if name != "deepGPS label head"}
if (run_path / "config.yaml").exists():
    rebuilt = rebuild_tables(
        dataset, load_run(run_path), rivals, inputs, tools_folder=TOOLS_FOLDER or None,
        n_resamples=500, seed=SEED,
    )  # fmt: skip
else:  # chapter 06 has not trained a model here: its label head stands in
    print("no run of chapter 06 at hand; the label head alone stands in, per protein")
    rebuilt = results_tables(methods, truth, published_rows="table_1", n_resamples=500, seed=SEED)
rebuilt.as_printed.round(3)

# %%
order = ["accuracy", "specificity", "sensitivity", "f1", "auroc", "auprc"]
read = rebuilt.as_read.assign(
    shown=[f"{r.estimate:.2f} ({r.low:.2f}–{r.high:.2f})" for r in rebuilt.as_read.itertuples()]
)
read.pivot(index=["model", "images", "n_proteins"], columns="metric", values="shown")[order].loc[
    list(rebuilt.as_read["model"].unique())
]

# %%
smallest = min(rebuilt.tests["mcnemar_holm"].min(), rebuilt.tests["delong_holm"].min())
n_test = int(rebuilt.tests["n_proteins"].max())
tell(
    f"Read per protein, with {n_test} test proteins, the smallest adjusted p-value of all "
    f"{2 * len(rebuilt.tests)} comparisons with deepGPS is {smallest:.2g}. The table as printed "
    "would have named a winner in each column."
)

# %% [markdown]
# ## What a class mapping is worth
#
# The paper makes two classes of four to ten: nucleus, and all others, which count as cytoplasm.
# To see what that gives away, take a tool that knows nothing: ten random probabilities for each
# protein, **drawn here**, in DeepLoc 1.0's format, read by the same parser as real outputs.

# %%
rng = np.random.default_rng(SEED)
drawn = rng.dirichlet(np.ones(10), size=len(proteins))
rows = [
    "\t".join([name, DEEPLOC_PLACES[p.argmax()], "0.5", *(f"{x:.4f}" for x in p)])
    for name, p in zip(proteins["protein_id"], drawn, strict=True)
]
with tempfile.TemporaryDirectory() as folder:
    output = Path(folder) / "drawn.txt"
    output.write_text(
        "\n".join(["\t".join(["ID", "Location", "Membrane", *DEEPLOC_PLACES]), *rows])
    )
    tool, scores = read_tool(output)
mapped = {}
for mapping in ("paper", "fair"):
    calls = two_classes(tool, scores, mapping)["called"]
    sensitivity, specificity = (
        (calls[truth[calls.index] == is_cytoplasm] == label).mean()
        for label, is_cytoplasm in zip(LABELS, (True, False), strict=True)
    )
    # the test set of the paper: 40 cytoplasmic, 23 nuclear
    mapped[mapping] = (sensitivity, specificity, (40 * sensitivity + 23 * specificity) / 63)
pd.DataFrame(mapped, index=["sensitivity", "specificity", "accuracy on 40 + 23"]).T.round(3)

# %% tags=["check"]
assert mapped["paper"][0] > 0.8 and mapped["paper"][2] > mapped["fair"][2]

# %% [markdown]
# A tool that answers at random gets most cytoplasmic proteins right under the paper's mapping,
# because nine of its ten places count as cytoplasm. Under the fairer one, P(nucleus) against
# P(cytoplasm), it is at chance.
#
# Outputs of the real tools go into one folder, `TOOLS_FOLDER`: MultiLoc2's result file (LowRes),
# DeepLoc 1.0's table, BUSCA's CSV, MULocDeep's `sub_cellular_prediction.txt`. Run them on a FASTA
# file named by the dataset's protein_id; Table 1 above then gains two rows a tool, one a mapping.

# %% [markdown]
# ## Measured labels
#
# Where OpenCell's and the Protein Atlas's tables are at hand, this section predicts measured
# localization. OpenCell's proteins of two or four classes are held out at random, as in the paper,
# or by homology cluster. Most methods learn from OpenCell alone; four also learn from proteins that
# the Protein Atlas and UniProt place, without any that shares a cluster, a gene or an accession
# with a test protein. With the weights of the paper's language model at hand, vectors are its.

# %%
real_data = os.environ.get("DEEPGPS_REAL_DATA", "") if MEASURED else ""
if real_data:
    encoder = best_encoder(ENCODER)
    measured = load_measured(real_data, encoder)
    benchmark, evidence = run_study(measured, library_table(real_data), n_splits=MEASURED_SPLITS,
                                    encoder=encoder, workers=WORKERS)  # fmt: skip
else:
    benchmark, evidence = recorded("real_benchmark"), recorded("real_evidence")
    tell("The tables of measured labels are **not at hand** (or `MEASURED` is off), so nothing was "
         "computed in this section: these are results recorded when they were.")  # fmt: skip
for name in ("accuracy", "auroc"):
    benchmark[f"{name}, text"] = [
        f"{r[name]:.3f} ({r[f'{name}_low']:.3f}–{r[f'{name}_high']:.3f})"
        for r in benchmark.to_dict("records")
    ]
benchmark["labels"] = "measured"
columns = ["labels", "method", "n_splits", "accuracy, text", "auroc, text"]
benchmark.query("splits == 'grouped'").set_index("task")[columns]

# %% [markdown]
# *Guess before the figure: which method loses most when relatives of test proteins are kept out?*

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 5), sharey=True)
PAPER_REAL = {"single-2": ("auroc", 0.761, "AUROC"), "single-4": ("accuracy", 66 / 105, "accuracy")}
names = list(dict.fromkeys(benchmark["method"]))
for ax, (task, (metric, printed, word)) in zip(axes, PAPER_REAL.items(), strict=True):
    for shift, kind, color in ((-0.17, "random", "0.6"), (0.17, "grouped", PALETTE[0])):
        rows = (
            benchmark.query("task == @task and splits == @kind").set_index("method").reindex(names)
        )
        error = [rows[metric] - rows[f"{metric}_low"], rows[f"{metric}_high"] - rows[metric]]
        ax.errorbar(rows[metric], np.arange(len(names)) + shift, xerr=error, fmt="o", color=color,
                    markersize=4, label=f"{kind} splits")  # fmt: skip
    ax.axvline(printed, color="0.3", linestyle="--", linewidth=1)
    ax.set(xlabel=f"{task}: {word}")
axes[0].set_yticks(range(len(names)), names)
axes[0].invert_yaxis()
axes[1].legend(loc="upper right")
show(
    fig,
    caption="Measured labels of OpenCell's proteins: means and 95 % intervals over splits. Dashed: "
    "the paper, on one random split. Single-4's accuracy is the share of exactly right proteins; "
    "the paper's is recomputed from its printed confusion matrix. No image is involved.",
    alt="Two dot-and-interval plots by method, random and homology-grouped splits side by side; "
    "the combined method is rightmost and close to the dashed line of the paper in both.",
)

# %% [markdown]
# ## How good can it get?
#
# Sources of labels are made by people from images and papers. Where two sources place the same
# protein, how often do they agree? No method can be better than the labels it is scored on.

# %%
agreement = evidence[evidence["question"] == "agreement of sources"]
agreement = agreement.assign(
    shown=[f"{r.estimate:.3f} ({r.low:.3f}–{r.high:.3f})" for r in agreement.itertuples()],
    labels="measured",
)
agreement.set_index(["labels", "what", "group"])[["n_proteins", "shown"]]

# %%
rate = agreement.set_index(["what", "group"])["estimate"]
top = benchmark.query("splits == 'grouped'").set_index(["task", "method"])
tell(
    f"OpenCell and the Protein Atlas give the same single label to "
    f"{rate['the same label, single-2', 'opencell, hpa']:.3f} of shared proteins with two classes "
    f"and {rate['the same label, single-4', 'opencell, hpa']:.3f} with four; whole sets of places "
    f"are the same for {rate['same set', 'opencell, hpa']:.2f}. Against that ceiling stand "
    f"{top.loc[('single-2', COMBINED), 'accuracy']:.3f} and "
    f"{top.loc[('single-4', COMBINED), 'accuracy']:.3f}."
)

# %% [markdown]
# ## Measured labels and their leaks
#
# Accuracy by how close the closest training protein is, single-4; each protein counts once.

# %%
near = evidence[
    (evidence["question"] == "closest training protein") & (evidence["task"] == "single-4")
]
near = near.assign(shown=[f"{r.estimate:.2f} (n = {r.n_proteins})" for r in near.itertuples()])
shown = ["zero rule", "closest relative", "SVM", LABEL_HEAD, "relatives' vote", COMBINED]
by_band = near.pivot(index=["splits", "what"], columns="group", values="shown")
rows = pd.MultiIndex.from_product([("random", "grouped"), shown], names=["splits", "method"])
by_band.reindex(rows, columns=BANDS).astype(object).fillna("").assign(labels="measured")

# %%
twins = evidence[evidence["question"] == "relatives of shown proteins"]
held = evidence[evidence["question"] == "held by another source"].query("task == 'single-2'")
held = held.set_index(["what", "group"])["estimate"]
lines = [
    f"| {r.what} | {r.n_proteins} | {r.group} | {f'{100 * r.estimate:.0f} %' if r.n_proteins else ''} "
    f"| {1 - 0.18**r.n_proteins:.2f} |"
    for r in twins.itertuples()
]
tell(
    "Proteins that the paper shows as test proteins, or from outside, and their relatives (at least "
    "30 % identical) among OpenCell's own targets. The last column is the chance that at least one "
    "was trained on, at the paper's training share of 82 %.\n\n"
    "| shown | relatives in OpenCell | closest | identity | P(trained on) |\n|---|---|---|---|---|\n"
    + "\n".join(lines)
    + f"\n\nAnd the rivals? SCL2205 (experimental locations of Swiss-Prot, where DeepLoc and "
    f"MULocDeep learned too) holds {held['uniprot', 'accession']:.0%} of OpenCell's single-2 "
    f"proteins by accession and {held['uniprot', 'cluster']:.0%} by cluster; a cluster mate with "
    f"the right answer exists for {held['uniprot', 'cluster, with the same place']:.0%}. The lists "
    "that the four programs were really trained on are not at hand, so theirs cannot be counted."
)

# %%
plates = evidence[evidence["question"] == "label from the experiment's table"]
told = {r.what: f"{r.estimate:.2f} ({r.low:.2f} to {r.high:.2f})" for r in plates.itertuples()}
tests = evidence[evidence["question"] == f"{COMBINED} minus"]
clear = tests[tests["p_holm"] < 0.05]
tell(
    "*Plates.* OpenCell's library table names no plate and no imaging day, so grouping by plate "
    "cannot be done from it. What it does say of the experiment predicts cytoplasm against nucleus "
    f"with an AUROC of {told['tagged terminus']} (which end was tagged), {told['allele fractions']} "
    f"(shares of edited alleles) and {told['both']} (both): close to one half, so the label "
    "hardly leaks this way.\n\n"
    f"*Paired tests.* One grouped cross-validation, {len(tests)} comparisons of *{COMBINED}* with "
    f"all others, McNemar and DeLong, adjusted by Holm: **{len(clear)}** are clear at 5 %: "
    + (
        ", ".join(f"{r.what} ({r.task}, {r.group.split()[0]})" for r in clear.itertuples())
        or "none"
    )
    + f". Seeds move the label head's accuracy by "
    f"{top.loc[('single-2', LABEL_HEAD), 'accuracy_seed_sd']:.3f} (sd on one split), splits by "
    f"{top.loc[('single-2', LABEL_HEAD), 'accuracy_sd']:.3f}."
)

# %% tags=["check"]
area_of = benchmark.pivot(index=["task", "method"], columns="splits", values="auroc")
for task in ("single-2", "single-4"):
    assert area_of.loc[(task, COMBINED), "grouped"] > area_of.loc[(task, LABEL_HEAD), "grouped"]
    if "random" in area_of:  # copying from relatives gains by a random split
        lost = (area_of["random"] - area_of["grouped"])[task]
        assert lost["closest relative"] > 0, f"relatives are worth nothing: {lost}"

# %% [markdown]
# A mean vector learns little from a few hundred proteins, and little more from thousands of the
# Protein Atlas and UniProt, whose words mean slightly different places. What helps most is what
# other databases say of *remote* relatives, which share a domain and no cluster; a small
# regression on that evidence, and on places predicted from vectors, adds the rest. Tried and not
# kept: dipeptides, windows of charge and hydropathy, pooling of ends, maxima and standard
# deviations of more layers, one kernel over vectors and evidence. Settings were chosen on splits
# with seeds from 0, reported ones begin at 100; both draw from the same proteins, which makes the
# last row a little optimistic.
#
# ## What the paper says, what we see

# %%
best = top.xs(COMBINED, level="method")
printed = published_table("table_1").set_index("model").loc["deepGPS-single-2"]
ours = summary["grouped"]["deepGPS label head"]


def verdict(task: str, metric: str, value: float) -> str:
    """Say on which side of the paper's number ours lies, and whether its interval holds it."""
    row = best.loc[task]
    side = "reached" if row[metric] >= value else "not reached"
    sure = row[f"{metric}_low"] <= value <= row[f"{metric}_high"]
    return side + (", cannot be told apart" if sure else "")


tell(
    "```{admonition} What the paper says / What we see\n"
    "| | paper | here | verdict |\n|---|---|---|---|\n"
    f"| rivals | four programs, none retrained | {len(estimators) - 1} on the same splits "
    "| differs |\n"
    f"| AUROC, single-2, embedded proteins | | label head {ours.mean:.2f} ({ours.low:.2f} to "
    f"{ours.high:.2f}), {len(proteins)} proteins, {N_SPLITS} grouped splits | other proteins |\n"
    f"| AUROC, single-2, OpenCell | {printed['auroc']} (63 proteins, random split) | "
    f"{best.loc['single-2', 'auroc, text']}, grouped "
    f"| {verdict('single-2', 'auroc', printed['auroc'])} |\n"
    f"| accuracy, single-2, OpenCell | {printed['accuracy']} | "
    f"{best.loc['single-2', 'accuracy, text']} "
    f"| {verdict('single-2', 'accuracy', printed['accuracy'])} |\n"
    f"| exactly right, single-4, OpenCell | {66 / 105:.3f} (66 of 105) | "
    f"{best.loc['single-4', 'accuracy, text']} "
    f"| {verdict('single-4', 'accuracy', 66 / 105)} |\n"
    "| comparable to the four programs | said | 63 proteins cannot show 0.08 | cannot tell |\n\n"
    f"Different on purpose: the language model ({best['encoder'].iloc[0]}), splits that keep "
    "families together, proteins as the unit. The combined method also learns from other "
    "databases, which the paper's does not; the label head alone stands in the table above.\n"
    "```"
)

# %% [markdown]
# ## Recap
#
# - A label head is a sequence classifier, and its peers are a regression and a support vector
#   machine on the same vectors; with some dozens of test proteins none can be told apart.
# - A table without intervals names a winner by chance. The mapping of classes alone moves a
#   tool's accuracy.
# - On measured labels, what is known of remote relatives adds more than a larger head does, and
#   two databases agree on little more than the best method reaches.
#
# ### Exercises
#
# 1. *Read.* Why does the zero rule's AUROC equal one half exactly, and its accuracy not?
# 2. *Change.* Set `N_SPLITS = 20`. Which intervals get narrower, and why not all by half?
# 3. *Build.* Average the probabilities of logistic regression and light attention. Is the mean
#    better than both?

# %% tags=["solution"]
tell("**1.** All scores are equal, and ties count one half; accuracy is the share of the larger "
     "class.\n\n**2.** Only the part of the variance that comes from the draw of splits: the "
     "proteins stay the same.")  # fmt: skip
wide = crossed.pivot(index="protein_id", columns="baseline", values="p_Cytoplasm")
for name, p in {
    "logistic": wide["logistic"], "light attention": wide["light attention"],
    "mean of both": wide[["logistic", "light attention"]].mean(axis=1),
}.items():  # fmt: skip
    print(f"3. {name}: {auroc(truth[p.index].to_numpy(), p.to_numpy()):.3f}")

# %% [markdown]
# Next: [14 · forensics of the published tables](14_forensics_of_the_published_tables).

# %%
execution_record(PROFILE, SEED)
