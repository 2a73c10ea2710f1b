"""
The label side on measured labels: OpenCell's proteins, held out at random or by homology cluster.

OpenCell has a few hundred singly localized proteins, too few to learn from alone. Methods that
learn from them only are those of `baselines`, with the label head of deepGPS and light attention;
those of `three_sources` learn from other databases too. All answer for the same test proteins of
many splits. No image is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from sklearn.base import BaseEstimator
from tqdm import tqdm

from deepgps_core.baselines import (
    HomologyTransfer,
    composition_svm,
    evaluate_baselines,
    logistic,
    nearest_neighbors,
    vector_svm,
    zero_rule,
)
from deepgps_core.label_head import LabelHeadClassifier
from deepgps_core.light_attention import LightAttentionClassifier, residue_array
from deepgps_core.metrics import auroc
from deepgps_core.statistics import summarize_splits
from deepgps_core.three_sources import COMBINED, Measured, predict_split

__all__ = [
    "COMBINED", "LABEL_HEAD", "Measured", "own_estimators", "recorded", "run_benchmark", "run_own",
    "run_sources", "split_scores", "summarize_benchmark",
]  # fmt: skip

LABEL_HEAD = "deepGPS label head"


def recorded(name: str = "real_benchmark") -> pd.DataFrame:
    """
    Return results recorded when the measured labels were last at hand.

    Parameters
    ----------
    name : {"real_benchmark", "real_evidence"}

    Returns
    -------
    table : DataFrame
        Of the benchmark: one row a task (single-2, single-4), kind of split and method, with
        columns as `summarize_benchmark` gives them, n_proteins and encoder.
    """
    path = files("deepgps_core") / "data" / f"{name}.csv"
    with path.open(encoding="utf-8") as stream:
        return pd.read_csv(stream, keep_default_na=False, na_values={"p_holm": [""]})


def own_estimators(
    measured: Measured, n_seeds: int = 3, attention_epochs: int = 10
) -> dict[str, tuple[str, BaseEstimator]]:
    """
    Return what learns from OpenCell's proteins alone, as `evaluate_baselines` takes it.

    Parameters
    ----------
    n_seeds : int
        Initial weights of the label head; from the second on, ``#<seed>`` is in its name.
    attention_epochs : int
        Of light attention, which is left out without residue embeddings.
    """
    labeled = measured.proteins[measured.proteins["opencell"] != ""]
    sequences = dict(zip(labeled["protein_id"], labeled["sequence"], strict=True))
    among = measured.hits["query"].isin(sequences) & measured.hits["target"].isin(sequences)
    estimators: dict[str, tuple[str, BaseEstimator]] = {
        "zero rule": ("sequence", zero_rule()),
        "closest relative": ("protein_id", HomologyTransfer(sequences, measured.hits[among])),
        "composition": ("sequence", composition_svm()),
        "composition of ends": ("sequence", composition_svm(segments=True)),
        "neighbors": ("vector", nearest_neighbors()),
        "logistic": ("vector", logistic()),
        "SVM": ("vector", vector_svm()),
        "SVM, three layers": ("layers", vector_svm()),
    }
    if measured.residues:
        estimators["light attention"] = (
            "residues", LightAttentionClassifier(epochs=attention_epochs, max_residues=600)
        )  # fmt: skip
    for seed in range(n_seeds):
        head = LabelHeadClassifier(
            hidden_dim=256, epochs=20, learning_rate=3e-4, standardize=True, validation_fraction=0,
            seed=seed,
        )  # fmt: skip
        estimators[f"{LABEL_HEAD}#{seed}" if seed else LABEL_HEAD] = ("vector", head)
    return estimators


def run_own(
    measured: Measured, labels: Sequence[str], splits: Sequence[tuple[str, pd.Series]],
    *, n_seeds: int = 3, attention_epochs: int = 10, workers: int = 1,
) -> pd.DataFrame:  # fmt: skip
    """Run `own_estimators` on splits; columns as `run_benchmark` returns them."""
    own = measured.own(labels)
    layers = measured.vectors[own.index.to_numpy()]
    inputs = {
        "sequence": own["sequence"].to_numpy(object), "layers": layers,
        "protein_id": own["protein_id"].to_numpy(object),
        "vector": layers[:, -(layers.shape[1] // 3) :],
    }  # fmt: skip
    if measured.residues:
        inputs["residues"] = residue_array([measured.residues[p] for p in own["protein_id"]])
    estimators = own_estimators(measured, n_seeds, attention_epochs)
    found = evaluate_baselines(estimators, inputs, own.reset_index(drop=True), splits, workers)
    return found.rename(columns={"baseline": "method"})


def run_sources(
    measured: Measured, labels: Sequence[str], splits: Sequence[tuple[str, pd.Series]],
    workers: int = 1,
) -> pd.DataFrame:  # fmt: skip
    """Run `predict_split` on splits; columns as `run_benchmark` returns them."""
    proteins, tasks = measured.proteins, []
    asked = measured.hits["query"].isin(measured.own(labels)["protein_id"])
    # what each process needs, and no more
    measured = replace(measured, hits=measured.hits[asked], residues=None)
    for _, split in splits:
        part = proteins["protein_id"].map(split)
        is_test = ((part == "test") & proteins["opencell"].isin(labels)).to_numpy()
        tasks.append(delayed(predict_split)(measured, labels, is_test))
    done = Parallel(n_jobs=workers, return_as="generator", max_nbytes="1M")(tasks)
    bar = tqdm(done, total=len(tasks), desc="three sources", disable=None)
    joined = [table.assign(split=name) for (name, _), table in zip(splits, bar, strict=True)]
    return pd.concat(joined, ignore_index=True)


def run_benchmark(
    measured: Measured, labels: Sequence[str], splits: Iterable[tuple[str, pd.Series]],
    *, workers: int = 1, **options: int,
) -> pd.DataFrame:  # fmt: skip
    """
    Run all methods on many splits of OpenCell's proteins.

    Parameters
    ----------
    labels : sequence of str
        `SINGLE_2` or `SINGLE_4`.
    splits : iterable of (str, Series)
        Of ``measured.own(labels)``.
    workers : int
        Processes; the result does not depend on it.
    **options
        n_seeds and attention_epochs of `own_estimators`.

    Returns
    -------
    predictions : DataFrame
        Columns method, split, protein_id, label, ``p_<label>``; the combined method last.
    """
    splits = list(splits)
    alone = run_own(measured, labels, splits, workers=workers, **options)
    return pd.concat([alone, run_sources(measured, labels, splits, workers)], ignore_index=True)


def split_scores(predictions: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """
    Score each method on each split: accuracy, and AUROC (mean one-vs-rest beyond two classes).

    Returns
    -------
    scores : DataFrame
        Columns method, seed, split, accuracy, auroc; methods in the order of `predictions`.
    """
    columns = [f"p_{label}" for label in labels]
    rows = []
    for (name, split), part in predictions.groupby(["method", "split"], sort=False):
        truth, p = part["label"].to_numpy(str), part[columns].to_numpy()
        called = np.asarray(labels)[p.argmax(axis=1)]
        areas = [auroc(truth == label, p[:, k]) for k, label in enumerate(labels)]
        method, _, seed = str(name).partition("#")
        accuracy = float((called == truth).mean())
        rows.append((method, int(seed or 0), split, accuracy, float(np.nanmean(areas))))
    return pd.DataFrame(rows, columns=["method", "seed", "split", "accuracy", "auroc"])


def summarize_benchmark(predictions: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """
    Summarize accuracy and AUROC over splits.

    Returns
    -------
    table : DataFrame
        One row a method: method, n_splits, n_seeds, and for each of accuracy and auroc the mean,
        sd between splits, low and high (Nadeau and Bengio's interval for splits that share
        proteins), and seed_sd, the sd between seeds on one split (0 for one seed).
    """
    scores = split_scores(predictions, labels)
    rows = []
    for method, part in scores.groupby("method", sort=False):
        row: dict[str, object] = {
            "method": method, "n_splits": part["split"].nunique(),
            "n_seeds": part["seed"].nunique(),
        }  # fmt: skip
        for metric in ("accuracy", "auroc"):
            by_split = part.groupby("split", sort=False)[metric]
            summary = summarize_splits(by_split.mean().to_numpy())
            row |= {metric: summary.mean, f"{metric}_sd": summary.sd,
                    f"{metric}_low": summary.low, f"{metric}_high": summary.high,
                    f"{metric}_seed_sd": float(by_split.std().fillna(0.0).mean())}  # fmt: skip
        rows.append(row)
    return pd.DataFrame(rows)
