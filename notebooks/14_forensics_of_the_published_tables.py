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
# # 14 · What follows from the printed tables alone?
#
# A rate is a ratio of whole numbers. If the sizes of the classes are known, a printed row of
# accuracy, sensitivity and specificity either belongs to one of a few confusion matrices, or to
# none. No data are needed to find out: only the paper {cite}`deepgps`, arithmetic, and the wish to
# read it in its best light.
#
# *Seconds; no data, no network.*
#
# **You will**
#
# - recover the confusion matrices behind a table, and spot a row that has none;
# - tell whether a row counts proteins or pictures;
# - say what an "average accuracy" of 0.81 is worth.

# %% tags=["parameters"]
PROFILE = "demo"
SEED = 0
DIFFERENCE = 0.08  # accuracy, the largest gap to a rival in Table 1

# %%
import numpy as np
import pandas as pd

from deepgps_core.forensics import (
    TwoClassTable,
    accuracy_is_between,
    closest_table,
    cohen_kappa,
    consistent_tables,
    counts_behind,
    exact_accuracy,
    one_vs_rest_accuracies,
    possible_positive_shares,
    published,
    weighted_recall,
)
from deepgps_core.plotting import (
    PALETTE,
    execution_record,
    interval_plot,
    plt,
    show,
    tell,
    use_book_style,
)
from deepgps_core.statistics import mcnemar_power, proteins_needed, wilson_interval

use_book_style()

# %% [markdown]
# ## Inputs
#
# | what | source | licence |
# |---|---|---|
# | Tables 1 and 2, Fig. 4d and 4e, counts in the text, typed once into `published.yaml` | the paper | facts; cited |
#
# Positive means cytoplasm, as in the paper: its Table 1 was made on 40 cytoplasmic and 23
# nucleoplasmic test proteins.

# %%
paper = published()
ours = "deepGPS-single-2"
positives, negatives = paper["table_1"]["proteins"].values()
table_1 = pd.DataFrame(paper["table_1"]["rows"]).T
table_2 = pd.DataFrame(paper["table_2"]["rows"]).T
table_1

# %% [markdown]
# ## Do the rows of Table 1 count proteins?
#
# If they do, each sensitivity is a whole number over 40, each specificity one over 23, each
# accuracy one over 63. *Guess: how many of the five rows pass?*

# %%
sizes = {"sensitivity": positives, "specificity": negatives, "accuracy": positives + negatives}
counts = pd.DataFrame(
    {
        f"{name} x {n}": [
            ", ".join(map(str, counts_behind(row[name], n))) or "none"
            for _, row in table_1.iterrows()
        ]
        for name, n in sizes.items()
    },
    index=table_1.index,
)
counts

# %% [markdown]
# Four rivals give whole numbers (one of them with a slip in one entry). The row of deepGPS gives
# none, in no column. Rates have to agree with one another too: accuracy is the mean of sensitivity
# and specificity, weighted by class size, so it must lie between them.

# %%
matrices = pd.DataFrame(
    [
        {
            "row": name,
            "matrices that print so": len(consistent_tables(row, positives, negatives)),
            "accuracy between the two": accuracy_is_between(row),
            "closest miss": round(closest_table(row, positives, negatives)[1], 4),
        }
        for name, row in table_1.iterrows()
    ]
).set_index("row")
matrices

# %% tags=["check"]
rivals = ["MultiLoc2", "DeepLoc v1.0", "MULocDeep"]
assert (matrices.loc[rivals, "matrices that print so"] == 1).all()
assert matrices.loc[ours, "matrices that print so"] == 0
assert not matrices.loc[ours, "accuracy between the two"]

# %% [markdown]
# ## Then what does the deepGPS row count?
#
# The same search, over the 1,919 cytoplasmic and 1,127 nucleoplasmic *crops* of the test set, first
# with all four rates and then leaving one out at a time.

# %%
row = table_1.loc[ours]
crops = paper["table_1"]["crops"].values()
rates = ["accuracy", "specificity", "sensitivity", "f1"]
searches = {"all four": rates} | {f"without {n}": [r for r in rates if r != n] for n in rates}
found = {name: consistent_tables(row, *crops, use=use) for name, use in searches.items()}
pd.Series({name: len(tables) for name, tables in found.items()}, name="matrices")

# %%
(only,) = found["without specificity"]
tell(
    f"Exactly one matrix of crops fits accuracy, sensitivity and F1: **{only.tp:,} of "
    f"{only.tp + only.fn:,}** cytoplasmic and **{only.tn:,} of {only.tn + only.fp:,}** nucleoplasmic "
    f"crops right. Its specificity is {only.rates()['specificity']:.3f}, not the printed "
    f"{row['specificity']:.3f}."
)

# %% tags=["check"]
assert only == TwoClassTable(tp=1519, fn=400, tn=746, fp=381)
assert not found["all four"] and len(found["without specificity"]) == 1

# %% [markdown]
# ```{admonition} Finding 1
# :class: note
# **Printed:** one row of crops among rows of proteins, with a specificity of .745. **Follows:** the
# row cannot be of proteins; as crops it is consistent but for the specificity, which should read
# .662. **How sure:** certain, given the class sizes in the text. **Most charitable reading:** crops
# were scored because the training loop does so, and one entry was mistyped.
# ```
#
# The difference matters for precision: 3,046 crops of 63 proteins that share their label are 63
# trials, not 3,046.

# %%
n_proteins = positives + negatives
as_crops = wilson_interval(only.tp + only.tn, sum(crops))
as_proteins = wilson_interval(round(row["accuracy"] * n_proteins), n_proteins)
majority = wilson_interval(positives, n_proteins)
fig, ax = plt.subplots(figsize=(7, 2.6))
names, values, intervals = [], [], []
for name in table_1.index:
    k = round(table_1.loc[name, "accuracy"] * n_proteins)
    interval = wilson_interval(k, n_proteins)
    names.append(f"{name} (per protein)")
    values.append(interval.estimate)
    intervals.append((interval.low, interval.high))
names.append(f"{ours} (as if crops were trials)")
values.append(as_crops.estimate)
intervals.append((as_crops.low, as_crops.high))
interval_plot(
    ax, names, values, intervals, reference=majority.estimate, reference_name="always cytoplasm",
    colors=[PALETTE[0]] * 4 + [PALETTE[1]] * 2,
)  # fmt: skip
ax.set(xlabel="accuracy, Table 1")
show(
    fig,
    caption=f"Published accuracies with Wilson 95 % intervals; n = {n_proteins} test proteins (last "
    f"row: {sum(crops):,} crops). Counted as proteins, all intervals overlap, and three "
    "include the rate of always answering cytoplasm.",
    alt="Dot-and-interval plot of six rows. The protein-level intervals are about 0.2 wide and all "
    "overlap; the crop-level one is narrow.",
)

# %% tags=["check"]
width = {"crops": as_crops.high - as_crops.low, "proteins": as_proteins.high - as_proteins.low}
assert 6 < width["proteins"] / width["crops"] < 8
assert sum(low < majority.estimate < high for low, high in intervals[:-1]) == 3
assert max(low for low, _ in intervals[:-1]) < min(high for _, high in intervals[:-1])

# %%
best_case = [mcnemar_power(n_proteins, DIFFERENCE, d) for d in (0.15, 0.25)]
needed = [proteins_needed(DIFFERENCE, d) for d in (0.15, 0.25)]
tell(
    f"With {n_proteins} proteins a true difference of {DIFFERENCE:.2f} in accuracy is seen with a "
    f"probability of {best_case[1]:.0%} to {best_case[0]:.0%}; to see it four times in five takes "
    f"{needed[0]} to {needed[1]} test proteins (methods that disagree on 15 to 25 % of them)."
)

# %% [markdown]
# ## Table 2: which share of positives?
#
# The paper does not say how many test proteins Table 2 has. But accuracy = p · sensitivity +
# (1 − p) · specificity can be solved for the share of positives p, which must be the same in every
# row of one table.

# %%
shares = pd.DataFrame(
    {name: possible_positive_shares(row) for name, row in table_2.iterrows()},
    index=["least", "most"],
).T.round(3)
shares

# %% tags=["check"]
assert shares.drop(ours).stack().between(0.31, 0.34).all()
assert shares.loc[ours, "least"] > 0.9
assert table_2.loc[ours, "accuracy"] == table_2.loc[ours, "sensitivity"]

# %% [markdown]
# Four rows agree on about a third. The row of deepGPS would need a test set without negatives. Its
# accuracy equals its sensitivity to the last digit, and there is a statistic that always equals
# accuracy: recall averaged over classes *weighted by their size*. For any matrix:

# %%
rng = np.random.default_rng(SEED)
examples = [rng.integers(1, 50, (k, k)) for k in (2, 3, 4) for _ in range(200)]
gaps = [abs(weighted_recall(example) - exact_accuracy(example)) for example in examples]
print(f"largest |weighted recall - accuracy| over {len(examples)} random matrices: {max(gaps):.1e}")

# %% tags=["check"]
assert max(gaps) < 1e-12

# %% [markdown]
# If specificity and F1 were weighted too, the three numbers fix the matrix. Search all shares of
# positives for one in which weighted recall, weighted specificity and weighted F1 print as the row
# does.


# %%
def weighted_rates(p: float, sensitivity: np.ndarray, specificity: np.ndarray) -> np.ndarray:
    """Return accuracy, weighted specificity and weighted F1 for shares p and 1 - p."""
    accuracy = p * sensitivity + (1 - p) * specificity
    swapped = p * specificity + (1 - p) * sensitivity
    tp, fp = p * sensitivity, (1 - p) * (1 - specificity)
    tn, fn = (1 - p) * specificity, p * (1 - sensitivity)
    f1 = p * 2 * tp / (2 * tp + fp + fn) + (1 - p) * 2 * tn / (2 * tn + fp + fn)
    return np.stack([accuracy, swapped, f1])


grid = np.linspace(0.5, 0.99, 491)
sensitivity, specificity = np.meshgrid(grid, grid, indexing="ij")
target = table_2.loc[ours, ["accuracy", "specificity", "f1"]].to_numpy()[:, None, None]
solutions = []
for p in np.arange(0.25, 0.55, 0.005):
    miss = np.abs(weighted_rates(p, sensitivity, specificity) - target).max(axis=0)
    i, j = np.unravel_index(miss.argmin(), miss.shape)
    solutions.append((p, grid[i], grid[j], miss.min()))
solutions = pd.DataFrame(solutions, columns=["positives", "sensitivity", "specificity", "miss"])
fitting = solutions[solutions["miss"] < 0.0015]
best = fitting.loc[fitting["miss"].idxmin()] if len(fitting) else solutions.loc[0]
fitting.round(4)

# %%
tell(
    f"Shares of positives from {fitting['positives'].min():.3f} to {fitting['positives'].max():.3f} "
    f"fit. The cytoplasmic proteins found would then be {best['sensitivity']:.0%}, not 80 %, against "
    f"{table_2.loc['MULocDeep', 'sensitivity']:.0%} for MULocDeep in the same table."
)

# %% tags=["check"]
assert len(fitting) > 0 and fitting["sensitivity"].between(0.6, 0.75).all()

# %% [markdown]
# ```{admonition} Finding 2
# :class: note
# **Printed:** sensitivity .797 = accuracy .797. **Follows:** it is not the sensitivity of a class.
# **How sure:** that the row is no two-class row: certain. That it holds weighted averages: a
# hypothesis that fits, and the released training script asks for weighted averages. **Most
# charitable reading:** a library default; but then "outperforms on sensitivity" does not follow.
# ```
#
# ## What is an average accuracy of 0.81 over four classes?
#
# Fig. 4d prints the confusion matrix of deepGPS-single-4 itself.

# %%
figure_4 = paper["figure_4"]
matrix = {kind: np.array(figure_4[kind]) for kind in ("proteins", "crops")}
summary = pd.DataFrame(
    {
        kind: {
            "n": m.sum(),
            "right": np.trace(m),
            "accuracy": exact_accuracy(m),
            "mean one-vs-rest accuracy": one_vs_rest_accuracies(m).mean(),
            "kappa": cohen_kappa(m),
        }
        for kind, m in matrix.items()
    }
)
summary.round(3)

# %%
proteins = matrix["proteins"]
exact = wilson_interval(int(np.trace(proteins)), int(proteins.sum()))
largest = np.zeros_like(proteins)
largest[:, proteins.sum(axis=1).argmax()] = proteins.sum(axis=1)
tell(
    f"**{np.trace(proteins)} of {proteins.sum()}** proteins are right: {exact:.3f}. The printed "
    f"{figure_4['average_accuracy']:.2f} is the mean of four one-vs-rest accuracies "
    f"({one_vs_rest_accuracies(proteins).mean():.3f}), in which a protein put into the wrong class "
    f"still counts as right for the two classes it has nothing to do with. Always answering the "
    f"largest class scores {one_vs_rest_accuracies(largest).mean():.2f} on that measure and "
    f"{exact_accuracy(largest):.2f} on the usual one."
)

# %%
fig, ax = plt.subplots(figsize=(4.6, 3.6))
share = proteins / proteins.sum(axis=1, keepdims=True)
ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
for (i, j), count in np.ndenumerate(proteins):
    ax.text(j, i, count, ha="center", va="center", color="white" if share[i, j] > 0.5 else "black")
ax.set_xticks(range(4), figure_4["classes"], rotation=30, ha="right")
ax.set_yticks(range(4), figure_4["classes"])
ax.set(xlabel="predicted", ylabel="true")
show(
    fig,
    caption="Published confusion matrix of deepGPS-single-4 (Fig. 4d), redrawn from its numbers; "
    f"n = {proteins.sum()} test proteins, shading by row. One cytoplasmic protein in four is called "
    "nucleoplasmic; half of the vesicular ones are found.",
    alt="A four by four matrix of counts. The diagonal holds 26, 14, 11 and 15; the largest other "
    "entries are 10 cytoplasmic proteins called nucleoplasm and 8 vesicular called cytoplasm.",
)

# %% tags=["check"]
assert np.trace(proteins) == 66 and proteins.sum() == 105
assert round(one_vs_rest_accuracies(proteins).mean(), 2) == figure_4["average_accuracy"]

# %% [markdown]
# ```{admonition} Finding 3
# :class: note
# **Printed:** average accuracy 0.81. **Follows:** 66 of 105 proteins are right. **How sure:** certain.
# **Most charitable reading:** averaging over classes is common, and the figure shows the matrix for
# anyone to add up.
# ```
#
# ## Smaller things
#
# The text prints 1,326 crops of vesicular proteins for training *and* for testing. And the images of
# the three models are compared on three different test sets.

# %%
per_class = pd.DataFrame({n: v for n, v in paper["sets"].items() if isinstance(v, dict)}).T
per_class["crops a training protein"] = per_class.train_crops / per_class.train_proteins
per_class["crops a test protein"] = per_class.test_crops / per_class.test_proteins
per_class["training share"] = per_class.train_proteins / (
    per_class.train_proteins + per_class.test_proteins
)
per_class.round(2)

# %%
matrix_row = int(matrix["crops"][1].sum())
tell(
    f"Vesicular proteins would have {per_class.loc['vesicles', 'crops a training protein']:.0f} crops "
    f"each in training and {per_class.loc['vesicles', 'crops a test protein']:.0f} in testing, where "
    f"every other class has about 48 in both. The confusion matrix of crops has {matrix_row:,} in that "
    f"row, so the *test* number is right and the training number is the slip. Fig. 4g compares image "
    f"quality on {paper['sets']['single_2_test_proteins']}, "
    f"{paper['sets']['single_4_test_proteins']} and {paper['sets']['all_test_proteins']} test "
    "proteins of different classes: a difference there may be one of proteins, not of models. And an "
    f"AUPRC starts at the share of positives: {positives / n_proteins:.3f} in Table 1, about "
    f"{shares.drop(ours).to_numpy().mean():.2f} in Table 2. Their .838 and .645 cannot be compared."
)

# %% tags=["check"]
assert matrix_row == paper["sets"]["vesicles"]["test_crops"]
assert per_class.loc["vesicles", "crops a training protein"] < 15

# %% [markdown]
# ```{admonition} What the paper says / What we see
# :class: note
# The paper says that deepGPS-single-2 is comparable to other tools (Table 1) and better than them on
# most metrics with more data (Table 2). We see that in Table 1 nothing can be told apart with 63
# proteins, and that the deepGPS rows of both tables are computed otherwise than the rows beside them.
# Verdict: the first claim stands as far as it goes; the second cannot be told from what is printed.
# ```
#
# ## Recap
#
# - A matrix behind a row can be found by counting; the deepGPS row of Table 1 has none for proteins.
# - It counts crops. Its honest interval is seven times as wide as crops suggest.
# - 0.81 is an average of one-vs-rest accuracies; 66 of 105 proteins are right.
#
# ## Exercises
#
# 1. **Read.** Why must accuracy lie between sensitivity and specificity, and when does it equal one?
# 2. **Change.** Corrupt one rate of the MULocDeep row by .02 and search again. How large must a slip
#    be before the search notices?
# 3. **Build.** BUSCA's specificity, .650, is no whole number over 23. Find the nearest possible value,
#    and look along the row for where .650 may have come from.

# %% tags=["solution"]
# 3. The nearest is 15/23; the row prints .650 once more, as its AUROC.
busca = table_1.loc["BUSCA"]
nearest = min(range(negatives + 1), key=lambda k: abs(k / negatives - busca["specificity"]))
print(f"{nearest}/{negatives} = {nearest / negatives:.3f}; AUROC {busca['auroc']:.3f}")

# %%
execution_record(PROFILE, SEED)
