"""
The study of measured labels as a whole: load, run, and reduce to two tables of results.

The tables hold rates, intervals and counts only, so that they can be kept and printed where the
data they were computed from cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from deepgps_core.dataset import InputError, atomic_path, write_table
from deepgps_core.encoders import SequenceEncoder, embed_dataset, load_encoder
from deepgps_core.homology import find_relatives
from deepgps_core.measured_evidence import (
    by_closeness,
    label_from_experiment,
    overlap,
    paired_tests,
    showcase_relatives,
)
from deepgps_core.measured_labels import (
    SINGLE_2,
    SINGLE_4,
    benchmark_proteins,
    clusters_of,
    label_agreement,
    measured_dataset,
    places_agreement,
    read_measured_tables,
)
from deepgps_core.place_evidence import PlaceEvidence
from deepgps_core.real_benchmark import COMBINED, Measured, run_benchmark, summarize_benchmark
from deepgps_core.sources.embedded import embedded_proteins
from deepgps_core.splits import repeated_splits

TASKS = {"single-2": SINGLE_2, "single-4": SINGLE_4}
#: The paper's language model, used where its weights are at hand.
PAPER_ENCODER = "esm2_t33_650M_UR50D"
#: First seed of the splits that are reported; settings were chosen on those from 0 on.
REPORTED_SEED = 100
EVIDENCE_COLUMNS = ["question", "task", "splits", "what", "group", "n_proteins", "estimate", "low",
                    "high", "p_holm"]  # fmt: skip


def best_encoder(fallback: str = "embedded") -> str:
    """Return the paper's encoder where its weights are at hand, else `fallback`."""
    try:
        load_encoder(PAPER_ENCODER)
    except InputError:
        return fallback
    return PAPER_ENCODER


def load_measured(
    folder: Path | str, encoder: str = "embedded", *, residues: bool = True, **options: Any
) -> Measured:
    """
    Read the tables, search relatives, embed; what takes long is kept in the dataset folder.

    Parameters
    ----------
    folder : Path or str
        Where `read_measured_tables` finds its tables.
    encoder : str
        As `load_encoder` takes it, without a pooling: middle, last but one and last layer are
        averaged.
    residues : bool
        Whether OpenCell's proteins of single-4 are embedded by residue too, for light attention.
    **options
        Of `load_encoder`.
    """
    targets, genes = read_measured_tables(folder)
    proteins = benchmark_proteins(targets, genes, embedded_proteins())
    dataset = measured_dataset(proteins.assign(cluster_30=""))
    sequences = dataset.sequences()
    path = dataset.path / "relatives.csv"
    if not path.exists():
        write_table(find_relatives(sequences, sequences, sensitivity=7.5), path)
    hits = pd.read_csv(path)
    proteins["cluster_30"] = clusters_of(proteins, hits).to_numpy()
    vectors = embed_dataset(dataset, load_encoder(f"{encoder}+mean-layers", **options))
    stacked = np.stack([vectors[name] for name in proteins["protein_id"]])
    by_residue = None
    if residues:
        own = proteins[proteins["opencell"] != ""]
        by_residue = residues_of(
            dict(zip(own["protein_id"], own["sequence"], strict=True)),
            load_encoder(encoder, **options), dataset.path / "features",
        )  # fmt: skip
    evidence = PlaceEvidence(proteins, stacked, hits)
    return Measured(proteins, stacked, hits, evidence, by_residue)


def residues_of(
    sequences: dict[str, str], encoder: SequenceEncoder, folder: Path
) -> dict[str, np.ndarray]:
    """Return residue embeddings in half precision, from a file in `folder` once it is there."""
    path = folder / f"{encoder.name}-residues.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as stored:
            known = {name: stored[name] for name in stored.files}
        if all(len(known.get(name, ())) == len(text) for name, text in sequences.items()):
            return {name: known[name] for name in sequences}
    matrices = encoder.embed(sequences, per_residue=True)
    found: dict[str, Any] = {name: m.astype(np.float16) for name, m in matrices.items()}
    with atomic_path(path) as temporary:
        np.savez(temporary, **found)
    return found


def run_study(
    measured: Measured, library: pd.DataFrame, *, n_splits: int = 10, n_folds: int = 5,
    first_seed: int = REPORTED_SEED, encoder: str = "embedded", workers: int = 2, **options: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """
    Run the benchmark on random and grouped splits, and answer the questions beside it.

    Parameters
    ----------
    library : DataFrame
        `measured_evidence.library_table`.
    n_splits : int
        Of each kind.
    n_folds : int
        Of one grouped cross-validation, for the paired tests.
    first_seed : int
        Of the splits.
    encoder : str
        Written into the table.
    **options
        Of `run_benchmark`.

    Returns
    -------
    benchmark, evidence : DataFrame
        As `recorded` returns them.
    """
    summaries, evidence = [], [agreement_rows(measured.proteins)]
    for task, labels in TASKS.items():
        own = measured.own(labels)
        for kind in ("random", "grouped"):
            splits = list(repeated_splits(own, kind, n_splits, first_seed))
            found = run_benchmark(measured, labels, splits, workers=workers, **options)
            summaries.append(
                summarize_benchmark(found, labels).assign(
                    task=task, splits=kind, n_proteins=len(own), encoder=encoder
                )
            )
            near = by_closeness(found, measured.hits, splits, labels)
            evidence.append(
                near.rename(columns={"method": "what", "closest": "group"}).assign(
                    question="closest training protein", task=task, splits=kind
                )
            )
        folds = list(grouped_folds(own, n_folds, first_seed))
        crossed = run_benchmark(
            measured, labels, folds, workers=workers, **options | {"n_seeds": 1}
        )
        tests = paired_tests(crossed, labels, COMBINED)
        evidence.append(paired_rows(tests).assign(task=task, splits="grouped"))
        evidence.append(leakage_rows(measured, library, labels).assign(task=task))
    table = pd.concat(evidence, ignore_index=True).reindex(columns=EVIDENCE_COLUMNS)
    text = ["question", "task", "splits", "what", "group"]
    table[text] = table[text].fillna("").astype(str)
    return pd.concat(summaries, ignore_index=True), table


def grouped_folds(proteins: pd.DataFrame, n_folds: int, seed: int) -> list[tuple[str, pd.Series]]:
    """Return splits that together test each protein once, clusters kept whole."""
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    names = proteins["protein_id"].to_numpy()
    parts = []
    dealt = folds.split(names, proteins["label"], proteins["cluster_30"])
    for number, (_, test) in enumerate(dealt):
        part = np.where(np.isin(np.arange(len(names)), test), "test", "train")
        parts.append((f"fold-{number}", pd.Series(part, index=names)))
    return parts


def agreement_rows(proteins: pd.DataFrame) -> pd.DataFrame:
    """Return how far the sources agree, as rows of the evidence."""
    tables = [
        label_agreement(proteins, labels).assign(what=f"the same label, {task}")
        for task, labels in TASKS.items()
    ]
    table = pd.concat([*tables, places_agreement(proteins)], ignore_index=True)
    table["group"] = table["first"] + ", " + table["second"]
    return table.assign(question="agreement of sources")


def paired_rows(tests: pd.DataFrame) -> pd.DataFrame:
    """Return paired tests as rows of the evidence: accuracy, and AUROC where there is one."""
    accuracy = tests.rename(columns={"accuracy_difference": "estimate", "mcnemar_holm": "p_holm"})
    rows = [accuracy.assign(group="accuracy (McNemar)")]
    if "auroc_difference" in tests:
        area = tests.drop(columns=["low", "high"]).rename(
            columns={"auroc_difference": "estimate", "auroc_low": "low", "auroc_high": "high",
                     "delong_holm": "p_holm"}
        )  # fmt: skip
        rows.append(area.assign(group="AUROC (DeLong)"))
    table = pd.concat(rows, ignore_index=True).rename(columns={"model": "what"})
    return table.assign(question=f"{COMBINED} minus")


def leakage_rows(measured: Measured, library: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """Return overlap with other sources, relatives of shown proteins, and the experiment."""
    proteins = measured.proteins
    rows = []
    for source in ("uniprot", "hpa"):
        table = overlap(proteins, source, labels).rename(columns={"by": "group"})
        rows.append(table.assign(question="held by another source", what=source))
    if tuple(labels) == SINGLE_2:
        shown = showcase_relatives(proteins, measured.hits, "opencell_places")
        shown = shown.rename(columns={"gene": "what", "n_relatives": "n_proteins"})
        shown["group"] = shown["closest"].where(
            shown["closest"] != "", shown["label"].where(shown["n_proteins"] > 0, "none")
        ) + shown["same_label"].map({"yes": ", same place", "no": ", another place", "": ""})
        absent = shown["label"] == "not in the table"
        shown.loc[absent, "group"] = "not in OpenCell"
        identity = shown["identity"].fillna(0.0)
        rows.append(shown[["what", "group", "n_proteins"]].assign(
            estimate=identity, low=identity, high=identity, question="relatives of shown proteins"
        ))  # fmt: skip
        told = label_from_experiment(library, proteins, labels)
        rows.append(told.assign(question="label from the experiment's table", group="AUROC"))
    return pd.concat(rows, ignore_index=True)
