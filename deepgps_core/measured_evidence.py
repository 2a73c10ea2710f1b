"""
Questions a reviewer asks of a benchmark on measured labels: relatives, overlap, plates, ties.

How good are the methods on proteins with and without a relative in training; which proteins that
the paper shows have a twin; how many of OpenCell's proteins do other tools' databases hold; does
anything in the table of the experiment, which knows no sequence, tell the label; and which
differences between methods survive a paired test. All answers are counts and rates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from deepgps_core.dataset import InputError
from deepgps_core.statistics import delong_interval, delong_test, holm, mcnemar_exact
from deepgps_core.statistics import wilson_interval as wilson

#: Test proteins the paper shows (Fig. 2e) or calls external.
SHOWCASE = ("AGO1", "FAM120A", "HNRNPD", "SMARCD2", "BRD3", "CPSF6", "CSTF2", "EEF2")
#: Of identity with the closest training protein.
BANDS = ("none", "under 30 %", "30 to 50 %", "over 50 %")
#: What OpenCell's library table says of the experiment and not of the protein.
EXPERIMENT_COLUMNS = (
    "fraction_wt_alleles", "fraction_mng11_integrated_alleles", "fraction_other_alleles",
)  # fmt: skip


def closest_training(hits: pd.DataFrame, split: pd.Series, coverage: float = 0.5) -> pd.Series:
    """
    Return each test protein's identity with the closest other protein of the split.

    Parameters
    ----------
    hits : DataFrame
        As `homology.find_relatives` returns it.
    split : Series, index protein_id
    coverage : float
        Share of the test protein that has to be aligned.
    """
    is_test = split == "test"
    known = hits["query"].isin(split.index) & hits["target"].isin(split.index)
    part = hits[known & (hits["query_coverage"] >= coverage)]
    usable = part["query"].map(is_test).astype(bool) & ~part["target"].map(is_test).astype(bool)
    best = part[usable].groupby("query")["identity"].max()
    return best.reindex(split.index[is_test]).fillna(0.0)


def by_closeness(
    predictions: pd.DataFrame, hits: pd.DataFrame, splits: Iterable[tuple[str, pd.Series]],
    labels: Sequence[str],
) -> pd.DataFrame:  # fmt: skip
    """
    Score methods on test proteins sorted by their closest training protein.

    Returns
    -------
    table : DataFrame
        One row a method and band of identity: method, closest, n_proteins, estimate, low, high
        of the accuracy. A protein that several splits test counts once, with the share of them
        that called it right, rounded for the interval.
    """
    closeness = pd.concat(
        [closest_training(hits, split).rename("identity").rename_axis("protein_id")
         .reset_index().assign(split=name) for name, split in splits]
    )  # fmt: skip
    columns = [f"p_{label}" for label in labels]
    called = np.asarray(labels)[predictions[columns].to_numpy().argmax(axis=1)]
    table = predictions.assign(right=called == predictions["label"].to_numpy(str))
    table = table[~table["method"].str.contains("#")].merge(closeness, on=["protein_id", "split"])
    table["closest"] = pd.cut(table["identity"], [-1, 0, 0.3, 0.5, 1.0], labels=list(BANDS))
    grouped = table.groupby(["method", "closest", "protein_id"], sort=False, observed=True)
    shares = grouped["right"].mean().groupby(["method", "closest"], sort=False, observed=True)
    rows = [(*key, len(part), *wilson(round(float(part.sum())), len(part))) for key, part in shares]
    return pd.DataFrame(
        rows, columns=["method", "closest", "n_proteins", "estimate", "low", "high"]
    )


def showcase_relatives(
    proteins: pd.DataFrame, hits: pd.DataFrame, label: str, genes: Sequence[str] = SHOWCASE,
    *, train_share: float = 0.82, min_identity: float = 0.3,
) -> pd.DataFrame:  # fmt: skip
    """
    Find same-table relatives of the proteins a paper shows.

    Parameters
    ----------
    proteins : DataFrame
        Columns protein_id, gene, and the one named `label` (empty: not in the table searched).
    train_share : float
        Chance that a protein of the table was trained on.

    Returns
    -------
    table : DataFrame
        One row a gene: gene, label, n_relatives, closest (its gene), identity, same_label (of
        the closest), and p_trained_on, the chance that at least one relative was.
    """
    table = proteins[proteins[label] != ""].set_index("protein_id")
    inside = hits["query"].isin(table.index) & hits["target"].isin(table.index)
    found = hits[inside & (hits["identity"] >= min_identity) & (hits["query_coverage"] >= 0.3)]
    rows: list[tuple[Any, ...]] = []
    place, gene_of = table[label].to_dict(), table["gene"].to_dict()
    for gene in genes:
        names = table.index[table["gene"] == gene]
        if names.empty:
            rows.append((gene, "not in the table", 0, "", np.nan, "", 0.0))
            continue
        mine = found[(found["query"] == names[0]) & ~found["target"].isin(names)]
        mine = mine.sort_values("bits", ascending=False).drop_duplicates("target")
        own = place[names[0]]
        if mine.empty:
            rows.append((gene, own, 0, "", np.nan, "", 0.0))
            continue
        closest, identity = mine["target"].iloc[0], mine["identity"].iloc[0]
        rows.append((gene, own, len(mine), gene_of[closest], identity,
                     "yes" if place[closest] == own else "no",
                     1 - (1 - train_share) ** len(mine)))  # fmt: skip
    columns = ["gene", "label", "n_relatives", "closest", "identity", "same_label", "p_trained_on"]
    return pd.DataFrame(rows, columns=columns)


def overlap(proteins: pd.DataFrame, of: str, labels: Sequence[str]) -> pd.DataFrame:
    """
    Count OpenCell's proteins that another source holds too, by accession and by cluster.

    Parameters
    ----------
    of : str
        "hpa" or "uniprot"; the latter is SCL2205: experimental locations of Swiss-Prot, which
        is also what DeepLoc and MULocDeep were trained on.

    Returns
    -------
    table : DataFrame
        Rows by accession, by cluster, by cluster with the same label: n_proteins, estimate,
        low, high of the share.
    """
    own = proteins[proteins["opencell"].isin(labels)]
    accession = proteins["protein_id"].str.split("#").str[0]
    there = proteins[f"{of}_places"] != ""
    same_accession = accession[own.index].isin(set(accession[there]))
    same_cluster = own["cluster_30"].isin(set(proteins.loc[there, "cluster_30"]))
    labeled = proteins[there].assign(place=proteins[f"{of}_places"].str.split(";")).explode("place")
    answers = set(zip(labeled["cluster_30"], labeled["place"], strict=True))
    told = [pair in answers for pair in zip(own["cluster_30"], own["opencell"], strict=True)]
    rows = [
        (by, len(own), *wilson(int(np.sum(held)), len(own)))
        for by, held in (("accession", same_accession), ("cluster", same_cluster),
                         ("cluster, with the same place", told))
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["by", "n_proteins", "estimate", "low", "high"])


def library_table(folder: Path | str) -> pd.DataFrame:
    """
    Read OpenCell's library table: how each line was made.

    Raises
    ------
    InputError
        If it is not there, or lacks a column.
    """
    path = Path(folder) / "opencell/opencell-library-metadata.csv"
    if not path.exists():
        raise InputError(f"{path}: not found; DEEPGPS_REAL_DATA has to name its folder.")
    table = pd.read_csv(path)
    missing = {"uniprot_id", "tagged_terminus", *EXPERIMENT_COLUMNS} - set(table.columns)
    if missing:
        raise InputError(f"{path}: column {', '.join(sorted(missing))} is missing; fetch it again.")
    return table


def label_from_experiment(
    library: pd.DataFrame, proteins: pd.DataFrame, labels: Sequence[str], seed: int = 0
) -> pd.DataFrame:
    """
    Predict the label from how the line was made, without sequence or image.

    Returns
    -------
    table : DataFrame
        Rows "tagged terminus", "allele fractions", "both": n_proteins, estimate, low, high of
        the AUROC for the first of `labels`, cross-validated (DeLong's interval).
    """
    own = proteins[proteins["opencell"].isin(labels)].copy()
    own["uniprot_id"] = own["protein_id"].str.split("#").str[0]
    own = own.merge(library.drop_duplicates("uniprot_id"), on="uniprot_id")
    terminus = (own["tagged_terminus"].str.upper() == "N").to_numpy(float)[:, None]
    given = own[list(EXPERIMENT_COLUMNS)].astype(float)
    fractions = given.fillna(given.median()).to_numpy()
    truth = (own["opencell"] == labels[0]).to_numpy()
    rows = []
    for name, X in {"tagged terminus": terminus, "allele fractions": fractions,
                    "both": np.hstack([terminus, fractions])}.items():  # fmt: skip
        model = make_pipeline(StandardScaler(), LogisticRegression())
        folds = StratifiedKFold(5, shuffle=True, random_state=seed)
        score = cross_val_predict(model, X, truth, cv=folds, method="decision_function")
        rows.append((name, len(own), *delong_interval(truth, score)))
    return pd.DataFrame(rows, columns=["what", "n_proteins", "estimate", "low", "high"])


def paired_tests(predictions: pd.DataFrame, labels: Sequence[str], first: str) -> pd.DataFrame:
    """
    Compare one method with all others, protein by protein, on one cross-validation.

    Parameters
    ----------
    predictions : DataFrame
        As `run_benchmark` returns it for splits that test each protein once.
    first : str
        Name of the method the others are compared with.

    Returns
    -------
    table : DataFrame
        model, n_proteins, discordant, accuracy_difference (first minus model), its low and
        high, mcnemar_p, mcnemar_holm; with two classes also auroc_difference, auroc_low,
        auroc_high, delong_p, delong_holm. Holm's method pays for all tests of the table
        together; the intervals are 95 % each.
    """
    columns = [f"p_{label}" for label in labels]
    answers = {
        str(name): part.set_index("protein_id").sort_index()
        for name, part in predictions.groupby("method", sort=False)
        if "#" not in str(name)
    }
    truth = answers[first]["label"].to_numpy(str)
    right = {name: np.asarray(labels)[part[columns].to_numpy().argmax(axis=1)] == truth
             for name, part in answers.items()}  # fmt: skip
    rows = []
    for name in answers:
        if name == first:
            continue
        test = mcnemar_exact(right[first], right[name])
        discordant = float((right[first] != right[name]).mean())
        half = 1.96 * math.sqrt(max(discordant - test.difference**2, 0.0) / len(truth))
        row: dict[str, object] = {
            "model": name, "n_proteins": len(truth), "discordant": discordant,
            "accuracy_difference": test.difference, "low": test.difference - half,
            "high": test.difference + half, "mcnemar_p": test.p_value,
        }  # fmt: skip
        if len(labels) == 2:
            scores = [answers[n][columns[0]].to_numpy(float) for n in (first, name)]
            area = delong_test(truth == labels[0], *scores)
            # the interval that belongs to DeLong's test: as wide as its p-value says
            z = stats.norm.isf(min(max(area.p_value, 1e-300), 1.0) / 2)
            half = 1.96 * abs(area.difference) / z if z > 0 else 0.0
            row |= {
                "auroc_difference": area.difference, "auroc_low": area.difference - half,
                "auroc_high": area.difference + half, "delong_p": area.p_value,
            }  # fmt: skip
        rows.append(row)
    table = pd.DataFrame(rows)
    tested = [name for name in ("mcnemar_p", "delong_p") if name in table]
    adjusted = holm(np.concatenate([table[name] for name in tested]))
    for name, values in zip(tested, np.split(adjusted, len(tested)), strict=True):
        table[name.replace("_p", "_holm")] = values
    return table
