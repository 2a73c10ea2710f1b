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
# # 01 · Which proteins, and who says where they live?
#
# deepGPS learns from proteins whose place in the cell is known {cite}`deepgps`. Before any model
# is trained, this chapter asks what "known" means: how many proteins, how long, in which
# compartments, by whose word.
#
# *Half a minute on two cores, 0.5 GB of memory, no network.*
#
# **You will**
#
# - count proteins by location and compare the shares with the paper's;
# - apply the paper's limit of 2,700 residues and see whom it removes;
# - recount the paper's own proteins from OpenCell's tables, where those are at hand;
# - tell a location, a label and a homology cluster apart, and measure how well one predicts the
#   other.

# %% tags=["parameters"]
PROFILE = "demo"
SEED = 0

# %%
from itertools import combinations

import numpy as np
import pandas as pd

from deepgps_core.dataset import MAX_RESIDUES, data_root, sha256_of
from deepgps_core.plotting import (
    LABEL_COLORS,
    PALETTE,
    execution_record,
    plt,
    show,
    tell,
    use_book_style,
)
from deepgps_core.sources.embedded import DEMO_PLAN, LABELS, embedded_proteins, plan_proteins
from deepgps_core.sources.embedded_table import HUMAN_PATH, TABLE_PATH, human_entries
from deepgps_core.sources.hpa import count_genes, read_gene_table
from deepgps_core.sources.opencell_images import match_targets
from deepgps_core.sources.opencell_tables import (
    ANNOTATIONS_NAME,
    LIBRARY_NAME,
    PAPER_COUNTS,
    count_targets,
    label_rule,
    opencell_tables,
)
from deepgps_core.statistics import wilson_interval

use_book_style()

# %% [markdown]
# ## Inputs
#
# Both files ship with the package. SCL2205 is a published set of proteins whose location UniProt
# records as experimentally established; its PyPI package was the source. Which entries are human
# is in a second list. The {doc}`data card <../data_card>` has the full provenance.

# %%
proteins, human = embedded_proteins(), human_entries()
tell(
    "| file | source | licence | rows | sha256 |\n|---|---|---|---|---|\n"
    f"| {TABLE_PATH.name} | p-scldata 2025.6.0; UniProt 2022_05 | MIT; CC BY 4.0 "
    f"| {len(proteins):,} | `{sha256_of(TABLE_PATH)[:12]}…` |\n"
    f"| {HUMAN_PATH.name} | HGNC, UniProt column | CC0 "
    f"| {len(human):,} | `{sha256_of(HUMAN_PATH)[:12]}…` |"
)

# %% [markdown]
# ## What is in a row?
#
# One protein: an accession that finds it in UniProt, a gene name for people, the sequence for the
# model, and what is known about its place.

# %%
examples = proteins.set_index("gene").loc[["MYC", "RPL4", "CD4", "FAM120A"]]
examples = examples.assign(residues=examples["sequence"].str.len())
examples.assign(sequence=examples["sequence"].str[:12] + "…")[
    ["uniprot", "sequence", "residues", "locations", "label", "cluster_30"]
]

# %% [markdown]
# `locations` is the whole set, as recorded. `label` is the single location of a protein that has
# exactly one, and empty otherwise: such proteins are called *multi-localized*, and a two-class
# model never sees them. The paper draws the same line, from grades that people gave to images.
#
# ## How many live where?
#
# *Guess before you look: is the nucleus, the cytoplasm or a membrane the most frequent place?*

# %%
counts = proteins["locations"].value_counts()
short = {name: name.replace("Microtubule organizing center", "MTOC") for name in counts.index}
is_single = ~counts.index.str.contains(";")
fig, ax = plt.subplots(figsize=(7, 4))
ax.barh([short[name] for name in counts.index], counts,
        color=np.where(is_single, PALETTE[0], PALETTE[4]))  # fmt: skip
ax.bar_label(ax.containers[0], fmt="{:,.0f}", padding=3, fontsize="small")
ax.invert_yaxis()
ax.set(xlabel="proteins", xlim=(0, 1.12 * counts.max()))
show(
    fig,
    caption=f"Locations of {len(proteins):,} human proteins of SCL2205. Blue: one location; "
    f"orange: several ({(proteins['label'] == '').sum():,} proteins, multi-localized).",
    alt="Bar chart of proteins by location; membrane and nucleus lead, peroxisome is last.",
)

# %% tags=["check"]
assert list(counts.index[:4]) == ["Membrane", "Nucleus", "Cytoplasm;Nucleus", "Cytoplasm"]
assert proteins["protein_id"].is_unique and (proteins["sequence"] != "").all()

# %% [markdown]
# ## Whom does the length limit remove?
#
# AlphaFold predicts proteins of up to 2,700 residues in one piece; the paper therefore leaves out
# longer ones, also from models that use no structure. We keep the rule.

# %%
residues = proteins["sequence"].str.len()
removed = len(human) - len(proteins)
left_out = human.loc[~human["uniprot"].isin(proteins["uniprot"]), "gene"]
share_removed = wilson_interval(removed, len(human))
tell(
    f"{removed} of {len(human):,} human proteins ({100 * share_removed.estimate:.2f} %) are longer "
    f"than {MAX_RESIDUES:,} residues, among them {', '.join(sorted(left_out)[:8])}. The longest "
    f"that stays has {residues.max():,}, the median is {residues.median():.0f}, and "
    f"{(residues > 1022).sum()} are longer than the 1,022 residues on which ESM-2 was trained."
)

# %%
fig, ax = plt.subplots(figsize=(7, 3))
bins = np.geomspace(residues.min(), MAX_RESIDUES, 22)
for label in LABELS:
    of_class = residues[proteins["label"] == label]
    ax.hist(of_class, bins=bins, weights=np.full(len(of_class), 100 / len(of_class)),
            histtype="step", linewidth=1.8, color=LABEL_COLORS[label], label=label)  # fmt: skip
ax.set(xscale="log", xlabel="residues", ylabel="% of the class")
ax.legend(fontsize="small")
show(
    fig,
    caption="Lengths of proteins with one location, for the four classes of the demonstration "
    f"(n = {', '.join(f'{counts[label]:,} {label}' for label in LABELS)}). Mitochondrial proteins "
    "are shorter; the others overlap.",
    alt="Four outlined histograms of protein length on a logarithmic axis, largely overlapping.",
)

# %% tags=["check"]
PAPER_REMOVED = wilson_interval(10, 1310)  # of OpenCell's public table, ten are longer
assert residues.max() <= MAX_RESIDUES and removed == len(left_out)
assert share_removed.low < PAPER_REMOVED.estimate < share_removed.high, "another share removed"

# %% [markdown]
# The rule removes fewer than one protein in a hundred, here as in OpenCell, where it takes ten of
# 1,310: too few to bias a score.
#
# ## Are these the paper's classes?
#
# OpenCell tagged proteins one by one in living HEK293T cells, and people graded the images
# {cite}`opencell`. SCL2205 collects what the literature says, of any cell. The shares differ:

# %%
PAPER = {"cytoplasm": 222, "nucleoplasm": 132, "vesicles": 140, "ER": 78, "other, single": 293,
         "multi-localized": 436}  # fmt: skip
n_paper = sum(PAPER.values())  # Fig. 2b: 865 single of 1,301
others = counts[is_single].drop(["Cytoplasm", "Nucleus", "ER"]).sum()
ours = {"cytoplasm": counts["Cytoplasm"], "nucleoplasm": counts["Nucleus"], "vesicles": 0,
        "ER": counts["ER"], "other, single": others,
        "multi-localized": counts[~is_single].sum()}  # fmt: skip
shares = pd.DataFrame({"OpenCell (paper)": PAPER, "here": ours})
shares = shares.assign(**{"paper %": 100 * shares["OpenCell (paper)"] / n_paper,
                          "here %": 100 * shares["here"] / len(proteins)})  # fmt: skip
shares.round(1)

# %% [markdown]
# Three differences matter later. SCL2205 has many proteins in places where the paper has few
# (membranes, the outside, mitochondria). It has no *vesicles*; so our classes keep their own
# names. And nuclear proteins outnumber cytoplasmic ones, which turns the two-class problem's
# majority around:

# %%
n_positive, n_two = counts["Cytoplasm"], counts["Cytoplasm"] + counts["Nucleus"]
positive = wilson_interval(n_positive, n_two)
paper_positive = wilson_interval(222, 354)
tell(
    f"Cytoplasm is {positive:.3f} of our {n_two:,} two-class proteins and "
    f"{paper_positive:.3f} of the paper's 354 (95 % intervals). An answer of *always the majority* "
    f"scores {1 - positive.estimate:.3f} here and {paper_positive.estimate:.3f} there, and the "
    "precision-recall curve's chance level moves with it: compare AUROCs across the two, never "
    "accuracies or AUPRCs."
)

# %% tags=["check"]
assert positive.high < paper_positive.low, "the class balance is no longer another one"

# %% [markdown]
# ## Do the paper's counts follow from OpenCell's tables?
#
# OpenCell publishes two tables: what people saw, in grades, and what was tagged. The paper's rule
# takes the places of grade 3, very prominent; where there is none, those of grade 2. One such
# place makes a protein *single-localized*:

# %%
label_rule({"annotations_grade_3": "", "annotations_grade_2": "vesicles"})

# %% [markdown]
# The tables do not ship with the book. Where `deepgps fetch` has brought them, the next cells
# count; elsewhere they say so.

# %%
tables = opencell_tables()
targets = tables.targets if tables else None
counts_opencell = count_targets(targets) if tables else None
WITHOUT = "*(This needs OpenCell's tables.)*"
summary = (
    "OpenCell's tables are not here; `deepgps fetch opencell --tables-only` gets them (3 MB), and "
    "`python book/build.py run --only 01` counts."
)
if tables:
    rows = counts_opencell[counts_opencell["paper"].notna()].iterrows()
    hashes = [sha256_of(tables.folder / name)[:12] for name in (ANNOTATIONS_NAME, LIBRARY_NAME)]
    summary = (
        "| OpenCell | all rows | at most 2,700 residues | paper |\n|---|---|---|---|\n"
        + "\n".join(f"| {name} | {row['all']:,} | {row['admitted']:,} | {row['paper']:,} |"
                    for name, row in rows)
        + f"\n\nAnnotations: CC BY-SA 4.0, sha256 `{hashes[0]}…`; library: `{hashes[1]}…`. "
        f"{(targets['sequence'] == '').sum()} targets without a sequence at hand count as short."
    )  # fmt: skip
tell(summary)

# %% tags=["check"]
if tables:
    assert len(targets) == 1310, f"another release of the annotations: {len(targets)} targets"
    assert counts_opencell.loc["vesicles", ["all", "admitted"]].eq(140).all()
    assert counts_opencell.loc[["nucleoplasm", "er"], "admitted"].to_list() == [132, 78]
    apart = (counts_opencell["admitted"] - counts_opencell["paper"]).dropna().abs()
    assert apart.max() <= 2, f"more than two proteins from the paper: {apart.idxmax()}"
assert PAPER_COUNTS["cytoplasmic"] + PAPER_COUNTS["nucleoplasm"] == 354  # single-2, Fig. 2c

# %% [markdown]
# Where the numbers differ, the tables tell why for some and are silent on others.

# %%
summary = WITHOUT
if tables:
    long = targets[~targets["is_admitted"]]
    n = counts_opencell["admitted"]
    summary = (
        f"- **Targets.** The limit removes {len(long)}: {', '.join(sorted(long['target_name']))}. "
        f"So does the paper, from 1,311 to 1,301; the table has {len(targets):,} rows, one fewer, and "
        f"ends at {n['targets']:,}. Which protein the paper has more, it does not say.\n"
        f"- **Nucleoplasm.** {counts_opencell.loc['nucleoplasm', 'all']} before and "
        f"{n['nucleoplasm']} after the limit: the paper's 132 is counted after it.\n"
        f"- **Cytoplasm.** {counts_opencell.loc['cytoplasmic', 'all']} before, {n['cytoplasmic']} "
        f"after; {', '.join(long.loc[long['label'] == 'cytoplasmic', 'target_name'])} is too long. "
        "The paper's 222 is one more: the target that the table lacks, or this one, left in."
    )
tell(summary)

# %%
summary = WITHOUT
if tables:
    by = targets["joined_by"]
    two_spellings = (by == "ensg_id") & (targets["target_name"] != targets["gene_name"])
    summary = (
        f"- **Single-localized.** {n['single-localized']} against 865. One may be that target. "
        f"Mitochondria ({n['mitochondria']} here, 10 there) and cytoskeleton "
        f"({n['cytoskeleton']}, 11) differ the other way: the paper's annotations were not quite these.\n"
        f"- **Grade 2** decides for {(targets['grade'] == 2).sum()} targets only: "
        f"{', '.join(targets.loc[targets['grade'] == 2, 'target_name'])}.\n"
        f"- **Joining.** The tables agree on the Ensembl id of {(by == 'ensg_id').sum():,} targets; "
        f"{(by == 'gene_name').sum()} more have one name and two ids; "
        f"{', '.join(targets.loc[by == '', 'target_name'])} stands in one table only. Names alone "
        f"would go wrong: {two_spellings.sum()} are spelled in two ways."
    )
tell(summary)

# %% [markdown]
# The images follow the proteins. What do the paper's own numbers say of them?

# %%
FIELDS, SHORT_FIELDS, CROPS, SINGLE_CROPS = 6301, 6239, 62108, 41261  # paper, Methods and Fig. 2
images = tables.projections if tables else None
in_bucket = ""
if images is not None:
    short_enough = set(targets.loc[targets["is_admitted"], "uniprot_id"]) - {""}
    stay = match_targets(images, targets)["uniprot_id"].isin(short_enough)
    in_bucket = f" OpenCell's bucket lists {len(images):,}, {stay.sum():,} after the limit."
tell(
    f"Of {FIELDS:,} projections, {SHORT_FIELDS:,} stay: the ten long proteins had "
    f"{(FIELDS - SHORT_FIELDS) / 10:.1f} each, the others have {SHORT_FIELDS / 1301:.1f}.{in_bucket} "
    f"{CROPS:,} crops are {CROPS / SHORT_FIELDS:.2f} a field and {CROPS / 1301:.1f} a protein. "
    f"The {SINGLE_CROPS:,} of single-localized proteins are {SINGLE_CROPS / 865:.1f} a protein, "
    "as many as the rest has."
)

# %% [markdown]
# Fields themselves, and so crops, cannot be recounted from tables: that takes 9 GB of images
# (`deepgps fetch opencell`) and chapter 02.
#
# ### Is CPSF6 a protein from outside?
#
# The paper predicts three proteins that it takes to be outside of OpenCell, as a test of its
# reach: CPSF6, CSTF2 and EEF2.

# %%
summary = WITHOUT
if tables:
    labels = targets.set_index("target_name")["label"]
    summary = "| gene | OpenCell target | its label there |\n|---|---|---|\n"
    for gene in ("CPSF6", "CSTF2", "EEF2"):
        found = gene in labels.index
        summary += f"| {gene} | {'**yes**' if found else 'no'} | {labels.get(gene, '')} |\n"
    summary += (
        "\nCPSF6 is a target, single-localized and short enough: by the paper's rule it is in the "
        "pool from which training and test proteins were drawn. The other two are outside."
    )
tell(summary)

# %% tags=["check"]
if tables:
    cpsf6 = targets.set_index("target_name").loc["CPSF6"]
    assert cpsf6["label"] == "nucleoplasm" and cpsf6["is_admitted"]
    assert not targets["target_name"].isin(["CSTF2", "EEF2"]).any()
assert abs(SINGLE_CROPS / 865 - CROPS / 1301) < 0.1  # crops a protein: the same for both sets

# %% [markdown]
# ### And the Human Protein Atlas?
#
# For a second cell line the paper takes 2,087 proteins of the Human Protein Atlas that are in the
# cytosol or the nucleoplasm alone, and leaves open what "alone" asks for. The atlas's gene table
# has columns for more than one answer.

# %%
summary = "*(This needs the atlas's gene table; `deepgps fetch hpa --dry-run` gets it.)*"
found = sorted((data_root() / "hpa" / "source").glob("subcellular_location.tsv*"))
if found:
    counts_atlas = count_genes(read_gene_table(found[0]))
    summary = (
        "| genes with, one rule added after the other | cytosol | nucleoplasm | both |\n"
        "|---|---|---|---|\n"
        + "\n".join(f"| {rule} | {cytosol:,} | {nucleoplasm:,} | {both:,} |"
                    for rule, cytosol, nucleoplasm, both in counts_atlas.to_numpy())
        + "\n\nNo rule of this table gives 2,087; it lies between two of them. The table does not "
        "say in which cell line a protein was seen, which would take some away."
    )  # fmt: skip
tell(summary)

# %% tags=["check"]
if found:
    sums = counts_atlas["sum"].to_numpy()
    assert (np.diff(sums) <= 0).all() and sums.min() < 2087 < sums.max()

# %% [markdown]
# ## Do relatives share a place?
#
# `cluster_30` groups proteins that MMseqs2 {cite}`mmseqs2` aligns over 80 % of both with at least
# 30 % identical residues, directly or through others. If relatives share a label, a test protein
# whose relative was trained on is an easy question.

# %%
sizes = proteins["cluster_30"].value_counts()
two_class = proteins[proteins["label"].isin(["Cytoplasm", "Nucleus"])]
pairs = [a == b for _, labels in two_class.groupby("cluster_30")["label"]
         for a, b in combinations(labels, 2)]  # fmt: skip
agreement = np.mean(pairs)
by_chance = (two_class["label"].value_counts(normalize=True) ** 2).sum()
tell(
    f"{len(proteins):,} proteins fall into {len(sizes):,} clusters; {(sizes > 1).sum()} have more "
    f"than one member, the largest {sizes.max()}. Among nuclear and cytoplasmic proteins, "
    f"{100 * agreement:.0f} % of the {len(pairs)} pairs within a cluster have the same label; of "
    f"two proteins drawn at random, {100 * by_chance:.0f} % would."
)

# %% tags=["check"]
assert agreement > by_chance + 0.3, f"relatives agree no more than others: {agreement:.2f}"
assert (proteins.groupby("sequence")["cluster_30"].nunique() == 1).all()

# %% [markdown]
# That is a biological fact, and a trap: chapter 03 shows what it does to a test score.
#
# ## Which proteins does the demonstration use?
#
# The demonstration draws from this table, no two from one cluster. Their sequences and labels
# are real; only the images are simulated.

# %%
demo = plan_proteins(DEMO_PLAN, SEED)
tell(
    "| locations | proteins | median residues |\n|---|---|---|\n"
    + "\n".join(
        f"| {name} | {len(rows)} | {rows['sequence'].str.len().median():.0f} |"
        for name, rows in demo.groupby("locations")
    )
    + f"\n| all | {len(demo)} | {demo['sequence'].str.len().median():.0f} |"
)

# %% tags=["check"]
assert demo["cluster_30"].is_unique and set(demo["label"]) == {*LABELS, ""}

# %% [markdown]
# ## What the paper says, what we see

# %%
in_tables = ""
if tables:
    n = counts_opencell["admitted"]
    in_tables = (f"; by the paper's rule they hold {n['cytoplasmic']} cytoplasmic and "
                 f"{n['nucleoplasm']} nucleoplasmic single-localized proteins, the paper 222 and "
                 "132")  # fmt: skip
tell(
    "```{admonition} What the paper says / What we see\n"
    "| | paper (OpenCell) | here (SCL2205, human) | verdict |\n|---|---|---|---|\n"
    f"| proteins of at most 2,700 residues | 1,301 (Methods) | {len(proteins):,} | another set |\n"
    f"| removed by that rule | 10 of 1,310: {PAPER_REMOVED:.4f} | {removed} of {len(human):,}: "
    f"{share_removed:.4f} | agrees |\n"
    f"| multi-localized | 436 ({shares.loc['multi-localized', 'paper %']:.0f} %) "
    f"| {counts[~is_single].sum():,} ({shares.loc['multi-localized', 'here %']:.0f} %) "
    "| differs: literature, not images |\n"
    f"| cytoplasm of two classes | 222 of 354: {paper_positive:.3f} | {n_positive} of {n_two:,}: "
    f"{positive:.3f} | differs |\n\n"
    "Labels here come from many laboratories and cell types, the paper's from one microscope and "
    "one cell line. The paper starts from 1,311 targets; OpenCell's public table has 1,310"
    f"{in_tables}.\n"
    "```"
)

# %% [markdown]
# ## Recap
#
# - Membrane and nucleus lead; nuclear proteins outnumber cytoplasmic ones, the reverse of the
#   paper's set. Accuracies do not carry over.
# - The 2,700-residue rule removes under one percent, here as there.
# - OpenCell's tables give the paper's counts to within two proteins a category, and CPSF6 is one
#   of its targets.
# - A location is what was recorded, a label is a location without company, a cluster is a family;
#   and families mostly share a label.
#
# ### Exercises
#
# 1. *Read.* SCL2205 writes "Membrane" without saying which. Name two compartments in which such a
#    protein could appear under the microscope, and what that does to a simulated image of it.
# 2. *Change.* Lower the limit to 1,022 residues, the length on which ESM-2 was trained. Which
#    location loses most?
# 3. *Build.* Draw your own balanced set of 50 proteins from four locations with `demo_proteins`.
#    How many clusters does it have?

# %% tags=["solution"]
from deepgps_core.sources.embedded import demo_proteins  # noqa: E402

tell("**1.** The plasma membrane (a thin rim) and the ER or Golgi (a net or cap beside the "
     "nucleus), among others. A simulator told only *Membrane* has to choose one.")  # fmt: skip
lost = (residues > 1022).groupby(proteins["locations"]).mean()
print(f"2. {short[lost.idxmax()]}: {100 * lost.max():.0f} % are longer")
mine = demo_proteins({"ER": 13, "Secreted": 13, "Nucleus": 12, "Peroxisome": 12}, seed=SEED)
print(f"3. {len(mine)} proteins, {mine['cluster_30'].nunique()} clusters")

# %% [markdown]
# Next: [02 · from fields to crops](02_from_fields_to_crops).

# %%
execution_record(PROFILE, SEED)
