"""
The Human Protein Atlas: from genes to fields of one cell line.

A gene's XML lists its fields with antibody and cell line. Channels are separate JPEGs, blue the
nucleus and green the protein, of 0.08 µm a pixel; they become 16-bit fields at OpenCell's pixel
size, so that a crop of 208 pixels spans the same 43 µm in both. The paper says only that "similar
processing was applied": cutting 208 pixels at 0.08 µm would give 17 µm, less than one U-2 OS
nucleus, so we take it to mean the same span.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from deepgps_core.dataset import (
    FIELD_COLUMNS,
    MAX_RESIDUES,
    PROTEIN_COLUMNS,
    Dataset,
    DatasetInfo,
    InputError,
    config_hash,
    sha256_of,
)
from deepgps_core.homology import cluster_proteins
from deepgps_core.sources import hpa
from deepgps_core.sources._hpa_xml import FieldSource, GeneEntry, field_id_of, read_gene_xml
from deepgps_core.sources._images import (
    OPENCELL_PIXEL_SIZE_UM,
    color_plane,
    read_image,
    rescale_field,
    to_uint16,
    write_field,
)
from deepgps_core.sources.transfer import FetchReport, Remote, fetch_all, fetch_one
from deepgps_core.sources.uniprot import fetch_sequences

#: Bytes of a channel's JPEG and of a gene's XML, about; for dry runs.
JPEG_BYTES, XML_BYTES = 700_000, 2_000_000
#: Nucleus and protein; red is the microtubules, yellow the endoplasmic reticulum.
CHANNELS = ("blue", "green")
TABLE_NAME = "subcellular_location.tsv.zip"
#: Fields of one gene in one cell line, about (two or more antibodies, two fields each).
FIELDS_PER_GENE = 4


@dataclass(frozen=True)
class HPAConfig:
    """
    Which part of the atlas.

    Parameters
    ----------
    cell_line : str
        As the atlas spells it.
    reliability, strict
        See `hpa.single_location_genes`.
    fields_per_gene : int, optional
        At most so many fields of a gene; by default all.
    site, uniprot_url : str, optional
        Other addresses, such as ``https://v23.proteinatlas.org`` for an older release.
    """

    cell_line: str = "U-2 OS"
    reliability: tuple[str, ...] = hpa.DEFAULT_RELIABILITY
    strict: bool = True
    fields_per_gene: int | None = None
    site: str = hpa.SITE
    uniprot_url: str | None = None


def read_jpeg_field(nucleus: Path, protein: Path) -> np.ndarray:
    """
    Read one field from its blue and its green JPEG.

    Returns
    -------
    field : ndarray, shape (2, H, W), dtype uint16
        At OpenCell's pixel size.

    Raises
    ------
    InputError
        If a file is no image, or the two differ in size.
    """
    planes = [
        to_uint16(color_plane(read_image(nucleus), "blue", str(nucleus))),
        to_uint16(color_plane(read_image(protein), "green", str(protein))),
    ]
    if planes[0].shape != planes[1].shape:
        raise InputError(f"{protein}: {planes[1].shape}, but {nucleus} is {planes[0].shape}.")
    return rescale_field(np.stack(planes), hpa.PIXEL_SIZE_UM, OPENCELL_PIXEL_SIZE_UM)


def _gene_entries(
    genes: pd.DataFrame, folder: Path, workers: int, site: str
) -> tuple[list[GeneEntry], FetchReport]:
    files = [Remote(f"{site}/{gene}.xml", f"xml/{gene}.xml") for gene in genes["Gene"]]
    report = fetch_all(files, folder, workers=workers, licence=hpa.LICENCE)
    entries = []
    for remote, gene in zip(files, genes["Gene"], strict=True):
        if remote.path in report.failed:
            continue
        try:
            entry = read_gene_xml(folder / remote.path)
            if entry.gene_id != gene:
                raise InputError(
                    f"{folder / remote.path}: is of gene {entry.gene_id!r}; remove it."
                )
            entries.append(entry)
        except InputError as error:
            report.failed[remote.path] = str(error)
    return entries, report


def fields_of_line(
    entry: GeneEntry, config: HPAConfig, allowed: Collection[str] | None = None
) -> list[FieldSource]:
    """
    Return the fields of a gene in the chosen cell line.

    Parameters
    ----------
    allowed : collection of str, optional
        Names of fields (``57_F11_1``) outside of which none is used: a Kaggle table's.
    """
    fields = [
        field
        for field in entry.fields
        if field.cell_line == config.cell_line and (allowed is None or field.name in allowed)
    ]
    return fields[: config.fields_per_gene]


def _proteins(
    entries: Sequence[GeneEntry], genes: pd.DataFrame, path: Path, config: HPAConfig,
    report: FetchReport,
) -> tuple[pd.DataFrame, str]:  # fmt: skip
    """Return the protein table of entries with fields, and UniProt's release."""
    label = genes.set_index("Gene")["label"]
    # an entry lists its reviewed accessions; the first is the gene's main one
    named = {entry.gene_id: entry.uniprot[0] for entry in entries if entry.uniprot}
    answer = fetch_sequences(
        named.values(), path / "source" / "sequences.fasta", base_url=config.uniprot_url
    )
    report.failed |= {f"UniProt {name}": cause for name, cause in answer.failed.items()}
    rows = []
    for entry in entries:
        accession = named.get(entry.gene_id, "")
        sequence = answer.sequences.get(accession, "")
        if not accession:
            report.failed[f"xml/{entry.gene_id}.xml"] = "the entry names no UniProt accession"
        elif len(sequence) > MAX_RESIDUES:
            report.failed[f"UniProt {accession}"] = (
                f"has {len(sequence)} residues, over {MAX_RESIDUES}: left out, as in the paper"
            )
        elif sequence:
            place = label[entry.gene_id]
            rows.append((entry.gene_id, entry.gene, accession, sequence, place, place, ""))
    return pd.DataFrame(rows, columns=list(PROTEIN_COLUMNS)), answer.release


def _convert(
    sources: Sequence[tuple[str, FieldSource]], path: Path, report: FetchReport, workers: int
) -> pd.DataFrame:
    """Turn JPEGs into fields; one that fails is reported and left out."""

    def convert(source: tuple[str, FieldSource]) -> tuple[str, str]:
        target = path / "fields" / f"{field_id_of(source[1])}.tif"
        if target.exists():  # whole, or it would not have its name
            return sha256_of(target), ""
        jpegs = [_jpeg(source[1], color) for color in CHANNELS]
        if missing := [name for name in jpegs if name in report.failed]:
            return "", f"{missing[0]} is missing"
        blue, green = (path / "source" / name for name in jpegs)
        try:
            write_field(read_jpeg_field(blue, green), target)
        except InputError as error:
            return "", str(error)
        return sha256_of(target), ""

    with ThreadPoolExecutor(workers) as pool:
        done = list(tqdm(pool.map(convert, sources), total=len(sources), desc="fields"))
    rows = []
    for (gene_id, source), (sha256, cause) in zip(sources, done, strict=True):
        name = field_id_of(source)
        if cause:
            report.failed[f"fields/{name}.tif"] = cause
        else:
            rows.append((name, gene_id, f"fields/{name}.tif", sha256))
    return pd.DataFrame(rows, columns=list(FIELD_COLUMNS))


def _jpeg(source: FieldSource, color: str) -> str:
    return f"images/{field_id_of(source)}_{color}.jpg"


def fetch_hpa(
    path: Path | str,
    config: HPAConfig | None = None,
    *,
    table: Path | None = None,
    kaggle: Path | None = None,
    workers: int = 4,
    limit: int | None = None,
    dry_run: bool = False,
) -> tuple[Dataset | None, FetchReport]:
    """
    Fetch the single-localized genes of one cell line and make a dataset folder of them.

    Parameters
    ----------
    path : Path or str
        The dataset folder; what is fetched lies in its ``source``.
    table : Path, optional
        A copy of ``subcellular_location.tsv`` in place of a download.
    kaggle : Path, optional
        A copy of the table that the paper cites: only fields it lists for this cell line with
        a single location are used.
    limit : int, optional
        Only so many genes, the two locations in turn.
    dry_run : bool
        Fetch the gene table only, and estimate the rest.

    Returns
    -------
    dataset : Dataset or None
        None after a dry run.
    report : FetchReport
        Its `failed` lists genes, images and sequences that are missing, with the cause.

    Raises
    ------
    InputError
        If the atlas or UniProt cannot be reached, or no field is left.
    """
    path, config = Path(path), config or HPAConfig()
    table = table or fetch_one(f"{config.site}/{hpa.TABLE_PATH}", path / "source" / TABLE_NAME)
    genes = hpa.single_location_genes(
        hpa.read_gene_table(table), reliability=config.reliability, strict=config.strict
    )[:limit]
    if dry_run:
        return None, _plan(genes, config)
    entries, report = _gene_entries(genes, path / "source", workers, config.site)
    allowed = _names_in_kaggle(kaggle, config.cell_line) if kaggle else None
    fields_of = {entry.gene_id: fields_of_line(entry, config, allowed) for entry in entries}
    if not any(fields_of.values()):
        raise InputError(
            f"{path}: no field of cell line {config.cell_line!r} in {len(entries)} genes; "
            "check its spelling (U-2 OS), or widen the choice of genes."
        )
    with_fields = [entry for entry in entries if fields_of[entry.gene_id]]
    proteins, release = _proteins(with_fields, genes, path, config, report)
    sources = {
        field_id_of(source): (gene_id, source)
        for gene_id in proteins["protein_id"]
        for source in fields_of[gene_id]
    }
    files = [
        Remote(source.url(color), _jpeg(source, color))
        for _, source in sources.values()
        for color in CHANNELS
    ]
    report = report + fetch_all(files, path / "source", workers=workers, licence=hpa.LICENCE)
    fields = _convert(list(sources.values()), path, report, workers)
    return _write(path, config, proteins, fields, table, release), report


def _plan(genes: pd.DataFrame, config: HPAConfig) -> FetchReport:
    n_images = 2 * len(genes) * (config.fields_per_gene or FIELDS_PER_GENE)
    planned = [f"xml/{gene}.xml" for gene in genes["Gene"]]
    return FetchReport(
        planned=planned + [f"images/{i}.jpg (an estimate)" for i in range(n_images)],
        bytes=len(genes) * XML_BYTES + n_images * JPEG_BYTES,
        licence=hpa.LICENCE,
    )


def _names_in_kaggle(table: Path, cell_line: str) -> set[str]:
    images = hpa.read_kaggle_table(table)
    return set(images.loc[(images["cell_line"] == cell_line) & (images["label"] != ""), "name"])


def _write(
    path: Path,
    config: HPAConfig,
    proteins: pd.DataFrame,
    fields: pd.DataFrame,
    table: Path,
    release: str,
) -> Dataset:
    """Write the dataset of the proteins that have a field."""
    if fields.empty:
        raise InputError(f"{path}: no image could be used; the report lists the causes.")
    proteins = proteins[proteins["protein_id"].isin(fields["protein_id"])].reset_index(drop=True)
    sequences = dict(zip(proteins["protein_id"], proteins["sequence"], strict=True))
    proteins["cluster_30"] = proteins["protein_id"].map(cluster_proteins(sequences))
    info = DatasetInfo(
        name=path.name, source=f"Human Protein Atlas ({config.site})",
        release=f"gene table sha256 {sha256_of(table)[:12]}, {release}",
        licence=hpa.LICENCE, images="measured", cell_line=config.cell_line,
        pixel_size_um=OPENCELL_PIXEL_SIZE_UM, labels=tuple(hpa.LABEL_OF.values()),
        config_hash=config_hash(config),
    )  # fmt: skip
    return Dataset.create(path, info, proteins, fields)
