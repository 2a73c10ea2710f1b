"""Which of OpenCell's proteins go into a dataset, with sequence and homology cluster."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from deepgps_core.dataset import InputError, atomic_path
from deepgps_core.homology import cluster_proteins
from deepgps_core.sources.opencell_tables import (
    LABEL_OF,
    SEQUENCES_NAME,
    OpenCellTables,
    label_rule,
)
from deepgps_core.sources.uniprot import (
    LONGEST_PROTEIN,
    FetchedSequences,
    fetch_sequences,
    read_fasta,
)


@dataclass(frozen=True)
class OpenCellPlan:
    """
    Which proteins and how many fields of each.

    `proteins` are genes, Ensembl ids or accessions; without them all, or, with `n_per_label`, as
    many of each label, no two from one homology cluster where it can be helped.
    """

    proteins: tuple[str, ...] = ()
    n_per_label: Mapping[str, int] = field(default_factory=dict)
    fields_per_protein: int | None = None
    seed: int = 0


#: A laptop's worth of the real thing: 120 fields, about 175 MB.
MINI = OpenCellPlan(n_per_label={"Cytoplasm": 30, "Nucleus": 30}, fields_per_protein=2)


def _named(targets: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the targets of the given genes, Ensembl ids or accessions."""
    columns = ("target_name", "gene_name", "ensg_id", "library_ensg_id", "uniprot_id")
    keys = targets[list(columns)].apply(lambda column: column.str.casefold())
    chosen = pd.Series(False, index=targets.index)
    for name in names:
        hit = (keys == name.casefold()).any(axis=1)
        if not hit.any():
            raise InputError(f"OpenCell: no target {name!r}; give a gene, ENSG or accession of it.")
        chosen |= hit
    return targets[chosen]


def _drawn(targets: pd.DataFrame, plan: OpenCellPlan) -> pd.DataFrame:
    """Draw proteins of each label, those of new homology clusters first."""
    rng, used, parts = np.random.default_rng(plan.seed), set[str](), []
    for label, count in plan.n_per_label.items():
        pool = targets[targets["label"].map(LABEL_OF) == label]
        if len(pool) < count:
            raise InputError(
                f"OpenCell: {len(pool)} proteins with label {label} and images, not {count}; "
                "ask for fewer."
            )
        pool = pool.iloc[rng.permutation(len(pool))]
        is_new = ~pool["cluster_30"].isin(used) & ~pool["cluster_30"].duplicated()
        drawn = pd.concat([pool[is_new], pool[~is_new]]).head(count)
        used |= set(drawn["cluster_30"])
        parts.append(drawn)
    return pd.concat(parts)


def _candidates(tables: OpenCellTables, images: pd.DataFrame, plan: OpenCellPlan) -> pd.DataFrame:
    """Return the targets that may be used, before any sequence is known."""
    targets = tables.targets
    targets = targets[(targets["uniprot_id"] != "") & (targets["locations"] != "")]
    if plan.proteins:
        targets = _named(targets, plan.proteins)
    elif plan.n_per_label:
        enough = images.groupby("uniprot_id").size() >= (plan.fields_per_protein or 1)
        wanted = targets["label"].map(LABEL_OF).isin(plan.n_per_label)
        targets = targets[wanted & targets["uniprot_id"].isin(enough.index[enough])]
    return targets.sort_values("uniprot_id")


def protein_table(targets: pd.DataFrame) -> pd.DataFrame:
    """Return rows of ``proteins.csv``; OpenCell's own words stay in columns behind."""
    words = targets["locations"].str.split(";")
    return pd.DataFrame(
        {
            "protein_id": targets["uniprot_id"], "gene": targets["target_name"],
            "uniprot": targets["uniprot_id"], "sequence": targets["sequence"],
            "locations": [";".join(sorted(LABEL_OF[word] for word in row)) for row in words],
            "label": targets["label"].map(LABEL_OF).fillna(""),
            "cluster_30": targets["cluster_30"], "ensg_id": targets["ensg_id"],
            "opencell_grade_3": targets["annotations_grade_3"],
            "opencell_grade_2": targets["annotations_grade_2"],
        }
    ).reset_index(drop=True)  # fmt: skip


def find_sequences(
    folder: Path, accessions: Sequence[str], own: Path | None, uniprot_url: str | None
) -> FetchedSequences:
    """Take sequences from your own FASTA file, without asking anybody; else from UniProt."""
    if own is None:
        return fetch_sequences(accessions, folder / SEQUENCES_NAME, base_url=uniprot_url)
    known = read_fasta(own, max_residues=LONGEST_PROTEIN)
    with atomic_path(folder / SEQUENCES_NAME) as temporary:
        shutil.copyfile(own, temporary)
    return FetchedSequences(
        sequences={name: known[name] for name in accessions if name in known},
        failed={name: f"has no sequence in {own.name}" for name in accessions if name not in known},
        release=f"from {own.name}",
    )


def choose_proteins(
    tables: OpenCellTables,
    images: pd.DataFrame,
    plan: OpenCellPlan,
    own_sequences: Path | None,
    uniprot_url: str | None,
) -> tuple[pd.DataFrame, FetchedSequences]:
    """Return the proteins, with sequences and clusters, and what UniProt had to say."""
    candidates = _candidates(tables, images, plan)
    answered = find_sequences(
        tables.folder, list(candidates["uniprot_id"]), own_sequences, uniprot_url
    )
    candidates = candidates.assign(sequence=candidates["uniprot_id"].map(answered.sequences))
    candidates = candidates[candidates["sequence"].notna()]
    is_admitted = [label_rule(row).is_admitted for row in candidates.to_dict("records")]
    chosen = candidates[is_admitted]
    if chosen.empty:
        raise InputError(f"{tables.folder}: no protein is left to fetch; choose others.")
    clusters = cluster_proteins(dict(zip(chosen["uniprot_id"], chosen["sequence"], strict=True)))
    chosen = chosen.assign(cluster_30=chosen["uniprot_id"].map(clusters))
    if plan.n_per_label and not plan.proteins:
        chosen = _drawn(chosen, plan).sort_values("uniprot_id")
    return chosen, answered
