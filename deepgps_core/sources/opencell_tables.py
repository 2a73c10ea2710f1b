"""
OpenCell's two tables: which protein was tagged, where people saw it, and the paper's label rule.

The tables agree on 1,300 Ensembl ids and disagree on ten: nine of those are one gene under two
ids (an alternative assembly) and are joined by name; the last, ATP6V1E1 here and ATP6V0E1 there,
are two different proteins and are not joined. Source of the rule: paper, Methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pandas as pd

from deepgps_core.dataset import MAX_RESIDUES, InputError, data_root, read_table
from deepgps_core.sources.uniprot import LONGEST_PROTEIN, read_fasta

ANNOTATIONS_NAME = "opencell-localization-annotations.csv"
LIBRARY_NAME = "opencell-library-metadata.csv"
SEQUENCES_NAME = "uniprot.fasta"
PROJECTIONS_NAME = "projections.csv"
ANNOTATION_COLUMNS = ("target_name", "ensg_id", "annotations_grade_3", "annotations_grade_2")
LIBRARY_COLUMNS = ("gene_name", "uniprot_id", "ensg_id")
PROJECTION_COLUMNS = ("key", "size", "etag", "gene", "ensg_id", "fov_id")

#: OpenCell's 17 categories and the words this book uses for them; single-2 is the first two.
LABEL_OF: Mapping[str, str] = MappingProxyType(
    {
        "cytoplasmic": "Cytoplasm", "nucleoplasm": "Nucleus", "vesicles": "Vesicles", "er": "ER",
        "membrane": "Membrane", "nuclear_punctae": "Nuclear punctae", "chromatin": "Chromatin",
        "golgi": "Golgi", "nucleolus_gc": "Nucleolus GC", "nucleolus_fc_dfc": "Nucleolus FC/DFC",
        "centrosome": "Centrosome", "big_aggregates": "Big aggregates",
        "cell_contact": "Cell contact", "cytoskeleton": "Cytoskeleton",
        "nuclear_membrane": "Nuclear membrane", "mitochondria": "Mitochondrion",
        "focal_adhesions": "Focal adhesions",
    }
)  # fmt: skip
#: Single-localized proteins as the paper counts them (Fig. 2b and Methods).
PAPER_COUNTS: Mapping[str, int] = MappingProxyType(
    {
        "targets": 1301, "single-localized": 865, "cytoplasmic": 222, "vesicles": 140,
        "nucleoplasm": 132, "er": 78, "cytoskeleton": 11, "mitochondria": 10,
    }
)  # fmt: skip


class PaperLabel(NamedTuple):
    """
    What the paper's rule says of one target.

    `label` is the only major location, or empty; `grade` is the grade the locations come from
    (0: none); `is_admitted` tells whether the protein is short enough.
    """

    locations: tuple[str, ...]
    label: str
    grade: int
    is_admitted: bool


def _categories(cell: str) -> tuple[str, ...]:
    return tuple(sorted({word.strip() for word in cell.split(";") if word.strip()}))


def label_rule(row: Mapping[Any, Any], *, max_residues: int = MAX_RESIDUES) -> PaperLabel:
    """
    Apply the paper's label rule to one row of OpenCell's annotations.

    Parameters
    ----------
    row : mapping
        ``annotations_grade_3`` and ``annotations_grade_2``, categories with ``;`` between them;
        and ``sequence``, empty where it is not known.
    max_residues : int
        A protein known to be longer is not admitted.

    Returns
    -------
    rule : PaperLabel

    Notes
    -----
    Source: paper, Methods. Major locations are those of grade 3 (very prominent), else of grade 2
    (unambiguous, less prominent); grade 1 never counts. One major location makes a protein
    single-localized.

    Examples
    --------
    >>> row = {"annotations_grade_3": "", "annotations_grade_2": "er", "sequence": "MK"}
    >>> label_rule(row)
    PaperLabel(locations=('er',), label='er', grade=2, is_admitted=True)
    """
    is_admitted = len(str(row.get("sequence", ""))) <= max_residues
    for grade in (3, 2):
        locations = _categories(str(row[f"annotations_grade_{grade}"]))
        if locations:
            label = locations[0] if len(locations) == 1 else ""
            return PaperLabel(locations, label, grade, is_admitted)
    return PaperLabel((), "", 0, is_admitted)


def join_tables(annotations: pd.DataFrame, library: pd.DataFrame) -> pd.DataFrame:
    """
    Join annotations and library on ``ensg_id``; what is left over, on the gene's name.

    Never on the name first: twelve names are spelled differently where the ids agree.

    Returns
    -------
    targets : DataFrame
        The rows of `annotations`, with ``gene_name``, ``uniprot_id``, ``library_ensg_id`` and
        ``joined_by`` (ensg_id, gene_name, or empty: not in the library).
    """
    library = library[list(LIBRARY_COLUMNS)].rename(columns={"ensg_id": "library_ensg_id"})
    by_id = library.set_index("library_ensg_id", drop=False)
    rest = library[~library["library_ensg_id"].isin(annotations["ensg_id"])]
    by_name = rest.set_index(rest["gene_name"].str.casefold())
    found = by_id.reindex(annotations["ensg_id"]).reset_index(drop=True)
    named = by_name.reindex(annotations["target_name"].str.casefold()).reset_index(drop=True)
    is_by_id = found["uniprot_id"].notna()
    joined = found.where(is_by_id, named).fillna("")
    by = pd.Series("ensg_id", index=joined.index).where(
        is_by_id, named["uniprot_id"].notna().map({True: "gene_name", False: ""})
    )
    return pd.concat([annotations.reset_index(drop=True), joined], axis=1).assign(joined_by=by)


@dataclass(frozen=True)
class OpenCellTables:
    """The tables that `deepgps fetch opencell` leaves in a folder."""

    folder: Path

    @cached_property
    def annotations(self) -> pd.DataFrame:
        """Graded locations, one row a target; text."""
        return read_opencell_table(self.folder / ANNOTATIONS_NAME, ANNOTATION_COLUMNS)

    @cached_property
    def library(self) -> pd.DataFrame:
        """What was tagged, one row a target; text."""
        return read_opencell_table(self.folder / LIBRARY_NAME, LIBRARY_COLUMNS)

    @cached_property
    def sequences(self) -> dict[str, str]:
        """Return uniprot_id -> sequence, for those that were fetched."""
        path = self.folder / SEQUENCES_NAME
        return read_fasta(path, max_residues=LONGEST_PROTEIN) if path.exists() else {}

    @cached_property
    def projections(self) -> pd.DataFrame | None:
        """The list of images in the bucket, or None where it was not asked for."""
        path = self.folder / PROJECTIONS_NAME
        if not path.exists():
            return None
        return read_table(path, PROJECTION_COLUMNS, "remove it and fetch again")

    @cached_property
    def targets(self) -> pd.DataFrame:
        """The joined tables with ``sequence``, ``locations``, ``label``, ``grade``, admission."""
        joined = join_tables(self.annotations, self.library)
        sequences = self.sequences
        joined["sequence"] = joined["uniprot_id"].map(lambda name: sequences.get(name, ""))
        rules = [label_rule(row) for row in joined.to_dict("records")]
        return joined.assign(
            locations=[";".join(rule.locations) for rule in rules],
            label=[rule.label for rule in rules],
            grade=[rule.grade for rule in rules],
            is_admitted=[rule.is_admitted for rule in rules],
        )


def read_opencell_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """
    Read and check one of the tables.

    Raises
    ------
    InputError
        If it is no such table, is empty, an Ensembl id repeats, or a category is unknown.
    """
    table = read_table(path, tuple(columns), "download it again, or give your own copy")
    if table.empty or table["ensg_id"].duplicated().any():
        raise InputError(f"{path}: ensg_id is missing or repeats; download the table again.")
    for grade in [name for name in columns if name.startswith("annotations_grade")]:
        words = {word for cell in table[grade] for word in _categories(cell)}
        if unknown := sorted(words - set(LABEL_OF)):
            raise InputError(
                f"{path}: category {unknown[0]!r} is none of OpenCell's 17; is it another table?"
            )
    return table


def opencell_tables(root: Path | None = None, *, coverage: float = 0.95) -> OpenCellTables | None:
    """
    Find OpenCell's tables where `deepgps fetch opencell` puts them.

    Parameters
    ----------
    root : Path, optional
        By default the data root.
    coverage : float
        Least share of the accessions whose sequence is there too; with fewer, as in a dataset of
        a few proteins, nobody could tell who is too long.

    Returns
    -------
    tables : OpenCellTables or None
        Those of the dataset ``opencell``, else of any other dataset.
    """
    root = root or data_root()
    for folder in (root / "opencell" / "tables", *sorted(root.glob("*/tables"))):
        if not ((folder / ANNOTATIONS_NAME).exists() and (folder / LIBRARY_NAME).exists()):
            continue
        tables = OpenCellTables(folder)
        targets = tables.targets[tables.targets["uniprot_id"] != ""]
        if (targets["sequence"] != "").mean() >= coverage:
            return tables
    return None


def count_targets(targets: pd.DataFrame) -> pd.DataFrame:
    """
    Count targets and single-localized ones by category, before and after the length limit.

    Returns
    -------
    counts : DataFrame, index ``targets``, ``single-localized`` and the categories
        Columns ``all``, ``admitted`` (not known to be longer than the limit) and ``paper``
        (missing where the paper gives no number).
    """
    counts = {}
    for name, rows in (("all", targets), ("admitted", targets[targets["is_admitted"]])):
        single = rows["label"].value_counts().drop("", errors="ignore")
        totals = pd.Series({"targets": len(rows), "single-localized": int(single.sum())})
        counts[name] = pd.concat([totals, single])
    table = pd.DataFrame(counts).fillna(0).astype(int)
    paper = pd.Series(PAPER_COUNTS).reindex(table.index).astype("Int64")
    # the totals are the largest, so they stay on top
    return table.assign(paper=paper).sort_values("all", ascending=False, kind="stable")
