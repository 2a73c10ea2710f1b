"""
Measured labels: OpenCell's proteins, with the Protein Atlas and UniProt (SCL2205) beside.

Three sources say where a protein is, each in its own words. They are joined by sequence, into one
table with the single label of each source and, for learning, its whole set of places in coarser
words that the three share. How far the sources agree bounds what any method can reach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from deepgps_core.dataset import Dataset, DatasetInfo, InputError, check_sequence, data_root
from deepgps_core.sources.opencell_tables import LABEL_OF
from deepgps_core.statistics import wilson_interval

SINGLE_2 = ("Cytoplasm", "Nucleus")
SINGLE_4 = ("Cytoplasm", "Nucleus", "Vesicles", "ER")
SOURCES = ("opencell", "hpa", "uniprot")
#: Words that the sources' places are reduced to; the first four are those of single-4.
PLACES = (
    *SINGLE_4, "Membrane", "Golgi", "Nucleolus", "Centrosome", "Cytoskeleton", "Nuclear membrane",
    "Mitochondrion", "Secreted", "Any membrane",
)  # fmt: skip
#: OpenCell's categories, in the words of `LABEL_OF`, where the place has another name.
OPENCELL_PLACES: Mapping[str, str] = MappingProxyType(
    {
        "Nuclear punctae": "Nucleus", "Chromatin": "Nucleus", "Nucleolus GC": "Nucleolus",
        "Nucleolus FC/DFC": "Nucleolus", "Cell contact": "Membrane",
        "Focal adhesions": "Membrane", "Big aggregates": "",
    }
)  # fmt: skip
#: The Protein Atlas's words; speckles, bodies and chromosomes count as nucleus.
HPA_PLACES: Mapping[str, str] = MappingProxyType(
    {
        "Cytosol": "Cytoplasm", "Nucleoplasm": "Nucleus", "Nuclear speckles": "Nucleus",
        "Nuclear bodies": "Nucleus", "Mitotic chromosome": "Nucleus", "Vesicles": "Vesicles",
        "Lysosomes": "Vesicles", "Endosomes": "Vesicles", "Peroxisomes": "Vesicles",
        "Endoplasmic reticulum": "ER", "Plasma membrane": "Membrane",
        "Cell Junctions": "Membrane", "Focal adhesion sites": "Membrane",
        "Golgi apparatus": "Golgi", "Nucleoli": "Nucleolus",
        "Nucleoli fibrillar center": "Nucleolus", "Nucleoli rim": "Nucleolus",
        "Centrosome": "Centrosome", "Centriolar satellite": "Centrosome",
        "Microtubules": "Cytoskeleton", "Actin filaments": "Cytoskeleton",
        "Intermediate filaments": "Cytoskeleton", "Nuclear membrane": "Nuclear membrane",
        "Mitochondria": "Mitochondrion",
    }
)  # fmt: skip
#: The Atlas's single labels; its nucleoli count as nucleus there.
HPA_LABELS: Mapping[str, str] = MappingProxyType(
    {
        "Cytosol": "Cytoplasm", "Nucleoplasm": "Nucleus", "Nuclear speckles": "Nucleus",
        "Nuclear bodies": "Nucleus", "Nucleoli": "Nucleus", "Vesicles": "Vesicles",
        "Endoplasmic reticulum": "ER",
    }
)  # fmt: skip
#: SCL2205's words; its "Membrane" is any membrane.
UNIPROT_PLACES: Mapping[str, str] = MappingProxyType(
    {
        "Cytoplasm": "Cytoplasm", "Nucleus": "Nucleus", "ER": "ER", "Peroxisome": "Vesicles",
        "Centrosome": "Centrosome", "Cytoskeleton": "Cytoskeleton",
        "Mitochondrion": "Mitochondrion", "Secreted": "Secreted", "Membrane": "Any membrane",
    }
)  # fmt: skip


def _usable(sequence: str) -> bool:
    try:
        check_sequence("", sequence)
    except InputError:
        return False
    return True


def _places(locations: pd.Series, words: Mapping[str, str]) -> pd.Series:
    """Translate ``;``-separated locations; sorted, without those that have no word here."""
    return locations.map(
        lambda cell: ";".join(sorted({words.get(word, "") for word in cell.split(";")} - {""}))
    )


def read_measured_tables(folder: Path | str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """
    Read OpenCell's and the Protein Atlas's tables, joined with sequences.

    Parameters
    ----------
    folder : Path or str
        With ``opencell/opencell_targets_with_seq.csv`` and ``hpa/hpa_with_uniprot_and_seq.csv.gz``.

    Returns
    -------
    targets, genes : DataFrame
        As `benchmark_proteins` takes them.

    Raises
    ------
    InputError
        If a table is not there.
    """
    tables = []
    for name in ("opencell/opencell_targets_with_seq.csv", "hpa/hpa_with_uniprot_and_seq.csv.gz"):
        path = Path(folder) / name
        if not path.exists():
            raise InputError(f"{path}: not found; DEEPGPS_REAL_DATA has to name its folder.")
        tables.append(pd.read_csv(path, dtype=str, keep_default_na=False))
    targets = tables[0].rename(columns={"uniprot": "uniprot_id", "seq": "sequence"})
    targets["locations"] = targets["grade3"].str.replace("|", ";")
    targets["label"] = targets["locations"].where(~targets["locations"].str.contains(";"), "")
    genes = tables[1].rename(columns={"seq": "sequence", "Gene name": "gene"})
    return targets, genes


def benchmark_proteins(
    targets: pd.DataFrame, genes: pd.DataFrame, proteins: pd.DataFrame
) -> pd.DataFrame:
    """
    Join the three sources of labels by sequence.

    Parameters
    ----------
    targets : DataFrame
        OpenCell's: uniprot_id, gene, sequence, locations (its own words), label (empty unless
        singly localized).
    genes : DataFrame
        The Protein Atlas's: uniprot, gene, sequence, Reliability, Main location, Additional
        location. Uncertain genes get nothing; those with several locations no single label.
    proteins : DataFrame
        UniProt's, as `embedded_proteins` returns them: protein_id, gene, sequence, locations,
        label.

    Returns
    -------
    table : DataFrame
        One row a distinct sequence that at least one source places: protein_id, gene,
        sequence, and for each of `SOURCES` its label among `SINGLE_4` (or empty), and
        ``<source>_places``, all places of `PLACES` with ``;`` between them.
    """
    sure = genes["Reliability"] != "Uncertain"
    main, more = genes["Main location"].where(sure, ""), genes["Additional location"]
    everywhere = (main + ";" + more.where(sure, "")).str.strip(";")
    opencell = {word: OPENCELL_PLACES.get(name, name) for word, name in LABEL_OF.items()}
    labels = {
        "opencell": targets["label"].map(LABEL_OF),
        "hpa": main.where(more == "").map(HPA_LABELS),
        "uniprot": proteins["label"].where(proteins["label"].isin(SINGLE_2)),
    }
    places = {
        "opencell": _places(targets["locations"], opencell),
        "hpa": _places(everywhere, HPA_PLACES),
        "uniprot": _places(proteins["locations"], UNIPROT_PLACES),
    }
    origin = {"opencell": (targets, "uniprot_id"), "hpa": (genes, "uniprot"),
              "uniprot": (proteins, "protein_id")}  # fmt: skip
    tables = []
    for source, (frame, name) in origin.items():
        rows = pd.DataFrame({"protein_id": frame[name], "gene": frame["gene"]})
        rows[source] = labels[source].where(labels[source].isin(SINGLE_4)).fillna("")
        rows[f"{source}_places"] = places[source]
        rows = rows.set_index(frame["sequence"].to_numpy())
        rows = rows[(rows[source] != "") | (rows[f"{source}_places"] != "")]
        tables.append(rows[~rows.index.duplicated()])
    joined = pd.concat([t.drop(columns=["protein_id", "gene"]) for t in tables], axis=1).fillna("")
    names = pd.concat([t[["protein_id", "gene"]] for t in tables])
    joined = names[~names.index.duplicated()].reindex(joined.index).join(joined)
    table = joined.rename_axis(index="sequence").reset_index()
    table = table[[_usable(sequence) for sequence in table["sequence"]]]
    # an accession may stand for two sequences in two releases; both are kept, under two names
    again = table.groupby("protein_id").cumcount()
    table["protein_id"] += again.map(lambda n: f"#{n}" if n else "")
    return table.sort_values("protein_id", ignore_index=True)


def clusters_of(
    proteins: pd.DataFrame, hits: pd.DataFrame, min_identity: float = 0.3, coverage: float = 0.8
) -> pd.Series:
    """
    Return each protein's cluster: relatives over their whole length, one accession, or one gene.

    Parameters
    ----------
    proteins : DataFrame
        Columns protein_id, gene: sequences of one accession or gene are one protein's.
    hits : DataFrame
        As `homology.find_relatives` returns it, unfiltered: the same hits serve the votes.

    Returns
    -------
    clusters : Series, index protein_id
    """
    protein_ids = proteins["protein_id"]
    number = pd.Series(np.arange(len(proteins)), index=protein_ids)
    covered = hits[["query_coverage", "target_coverage"]].min(axis=1) >= coverage
    near = hits[covered & (hits["identity"] >= min_identity)]
    near = near[near["query"].isin(number.index) & near["target"].isin(number.index)]
    ends = [(number[near["query"]].to_numpy(), number[near["target"]].to_numpy())]
    for name in (protein_ids.str.split("#").str[0], proteins["gene"]):
        named = np.flatnonzero(name != "")
        first = pd.Series(named).groupby(name.to_numpy()[named]).transform("first").to_numpy()
        ends.append((named, first))
    rows, columns = (np.concatenate(side) for side in zip(*ends, strict=True))
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(number), len(number)))
    _, component = connected_components(graph, directed=False)
    return pd.Series(component, index=number.index).map("c{}".format)


def measured_dataset(proteins: pd.DataFrame) -> Dataset:
    """
    Return the table as a dataset folder without images, so that its vectors are kept there.

    Parameters
    ----------
    proteins : DataFrame
        As `benchmark_proteins` returns it, with cluster_30.
    """
    table = pd.DataFrame(
        {
            "protein_id": proteins["protein_id"], "gene": proteins["gene"],
            "uniprot": proteins["protein_id"].str.split("#").str[0],
            "sequence": proteins["sequence"], "locations": proteins["opencell"],
            "label": proteins["opencell"], "cluster_30": proteins["cluster_30"],
        }
    )  # fmt: skip
    info = DatasetInfo(
        name="measured-labels", source="OpenCell, Human Protein Atlas, SCL2205",
        release="as fetched", licence="CC BY-SA 4.0 and others", images="measured",
        cell_line="several", pixel_size_um=0.206, labels=SINGLE_4,
    )  # fmt: skip
    path = data_root() / info.name
    if (path / "dataset.yaml").exists():
        known = Dataset(path)
        if known.proteins["sequence"].tolist() == table["sequence"].tolist():
            return known
    return Dataset.create(path, info, table)


def _agreement(rows: list[tuple[str, str, np.ndarray]]) -> pd.DataFrame:
    """Make one row a pair of sources and the shared proteins' verdicts."""
    table = [
        (first, second, len(same), *wilson_interval(int(same.sum()), len(same)))
        for first, second, same in rows
        if len(same)
    ]
    return pd.DataFrame(table, columns=["first", "second", "n_proteins", "estimate", "low", "high"])


def label_agreement(proteins: pd.DataFrame, labels: Sequence[str] = SINGLE_2) -> pd.DataFrame:
    """
    Compare what two sources say of the same proteins: no method can be better than that.

    Returns
    -------
    table : DataFrame
        One row a pair of sources: first, second, n_proteins, estimate, low, high, of the
        share of proteins with the same label among those that both give one of `labels`.
    """
    rows = []
    for i, first in enumerate(SOURCES):
        for second in SOURCES[i + 1 :]:
            both = proteins[proteins[first].isin(labels) & proteins[second].isin(labels)]
            rows.append((first, second, (both[first] == both[second]).to_numpy()))
    return _agreement(rows)


def places_agreement(proteins: pd.DataFrame) -> pd.DataFrame:
    """
    Compare whole sets of places, in the words that two sources share.

    Returns
    -------
    table : DataFrame
        As `label_agreement`, and what: "same set" or "a place in common". Places that one of
        the two sources never names are left out of both.
    """
    rows: dict[str, list[tuple[str, str, np.ndarray]]] = {"same set": [], "a place in common": []}
    for i, first in enumerate(SOURCES):
        for second in SOURCES[i + 1 :]:
            pair = []
            for source in (first, second):
                column = proteins[f"{source}_places"].str.split(";")
                pair.append([set(cell) - {""} for cell in column])
            common = set().union(*pair[0]) & set().union(*pair[1])
            pairs = [(a & common, b & common) for a, b in zip(*pair, strict=True)]
            pairs = [(a, b) for a, b in pairs if a and b]
            rows["same set"].append((first, second, np.array([a == b for a, b in pairs], bool)))
            shared = np.array([bool(a & b) for a, b in pairs], bool)
            rows["a place in common"].append((first, second, shared))
    return pd.concat(
        [_agreement(of_what).assign(what=what) for what, of_what in rows.items()],
        ignore_index=True,
    )
