"""
OpenCell as a dataset folder: tables, sequences, and projections from its public bucket.

Cho et al., Science 2022 (doi:10.1126/science.abi6983); data CC BY-SA 4.0. The label rule and the
length limit are the paper's (see `opencell_tables`). Left out: three-dimensional stacks, and
OpenCell's own quality flags, which the paper does not mention.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pandas as pd

from deepgps_core.dataset import (
    Dataset,
    DatasetInfo,
    InputError,
    atomic_path,
    config_hash,
    sha256_of,
)
from deepgps_core.sources._lock import Lock
from deepgps_core.sources.opencell_choice import (
    MINI,
    OpenCellPlan,
    choose_proteins,
    find_sequences,
    protein_table,
)
from deepgps_core.sources.opencell_images import (
    BUCKET,
    PIXEL_SIZE_UM,
    field_name,
    list_projections,
    match_targets,
    remote_of,
)
from deepgps_core.sources.opencell_tables import (
    ANNOTATION_COLUMNS,
    ANNOTATIONS_NAME,
    LABEL_OF,
    LIBRARY_COLUMNS,
    LIBRARY_NAME,
    PROJECTIONS_NAME,
    OpenCellTables,
    count_targets,
    label_rule,
    opencell_tables,
    read_opencell_table,
)
from deepgps_core.sources.transfer import FetchReport, Remote, fetch_all
from deepgps_core.sources.uniprot import FetchedSequences

__all__ = [
    "MINI", "OpenCellFetch", "OpenCellPlan", "count_targets", "fetch_opencell", "fetch_tables",
    "fetch_tables_only",
    "label_rule", "opencell_tables",
]  # fmt: skip

LICENCE = "CC BY-SA 4.0 (OpenCell); CC BY 4.0 (UniProt)"
DOWNLOAD_PAGE = "https://opencell.sf.czbiohub.org/download"
#: The site moved; the newer host first. ``DEEPGPS_OPENCELL_URL`` names a mirror.
TABLE_HOSTS = (
    "https://opencell.sf.czbiohub.org/data/datasets",
    "https://opencell.czbiohub.org/data/datasets",
)


class OpenCellFetch(NamedTuple):
    """The dataset (None after a dry run), what became of each file, and remarks."""

    dataset: Dataset | None
    report: FetchReport
    notes: list[str]


def fetch_tables(
    folder: Path,
    *,
    annotations: Path | None = None,
    library: Path | None = None,
    hosts: Sequence[str] | None = None,
) -> FetchReport:
    """
    Bring OpenCell's two tables into `folder`: from your copies, or from the known hosts in turn.

    Raises
    ------
    InputError
        If no host gives them; it says how to get them by hand.
    """
    mirror = os.environ.get("DEEPGPS_OPENCELL_URL")
    hosts = tuple(hosts or ([mirror] if mirror else TABLE_HOSTS))
    report = FetchReport()
    wanted = ((ANNOTATIONS_NAME, ANNOTATION_COLUMNS, annotations),
              (LIBRARY_NAME, LIBRARY_COLUMNS, library))  # fmt: skip
    for name, columns, local in wanted:
        if local is not None:
            read_opencell_table(local, columns)
            if not (folder / name).exists() or sha256_of(folder / name) != sha256_of(local):
                with atomic_path(folder / name) as temporary:
                    shutil.copyfile(local, temporary)
            report.present.append(name)
        else:
            report += _from_hosts(folder, name, columns, hosts)
    return report


def _from_hosts(
    folder: Path, name: str, columns: Sequence[str], hosts: Sequence[str]
) -> FetchReport:
    """Try host after host; a table that is here already is good enough."""
    if (folder / name).exists():
        read_opencell_table(folder / name, columns)
        return FetchReport(present=[name])

    def check(path: Path) -> None:
        read_opencell_table(path, columns)

    causes, answered = [], False
    for host in hosts:
        try:
            remote = Remote(f"{host.rstrip('/')}/{name}", name, check=check)
            report = fetch_all([remote], folder, workers=1, retries=2)
        except InputError as error:
            causes.append(f"{urlsplit(host).netloc}: cannot be reached")
            if host == hosts[-1] and not answered:
                raise error
            continue
        if not report.failed:
            return report
        answered = True
        causes.append(f"{urlsplit(host).netloc}: {report.failed[name]}")
    option = "--annotations" if name == ANNOTATIONS_NAME else "--library"
    raise InputError(
        f"{name}: no known host gives it ({'; '.join(causes)}); download it by hand from "
        f"{DOWNLOAD_PAGE} and name your copy with {option}."
    )


def fetch_tables_only(
    path: Path | str,
    *,
    annotations: Path | None = None,
    library: Path | None = None,
    sequences: Path | None = None,
    hosts: Sequence[str] | None = None,
    uniprot_url: str | None = None,
    s3_endpoint: str | None = None,
) -> tuple[OpenCellTables, FetchReport, list[str]]:
    """
    Fetch all that counting needs and no image: tables, sequences, and the list of images.

    With copies of all three files, nobody is asked, and there is no list of images. For the
    parameters and errors, see `fetch_opencell`.
    """
    folder = Path(path) / "tables"
    report = fetch_tables(folder, annotations=annotations, library=library, hosts=hosts)
    tables = OpenCellTables(folder)
    accessions = sorted(set(tables.targets["uniprot_id"]) - {""})
    answered = find_sequences(folder, accessions, sequences, uniprot_url)
    images = pd.DataFrame({"uniprot_id": []})
    if not (annotations and library and sequences):
        listed = list_projections(folder / PROJECTIONS_NAME, s3_endpoint=s3_endpoint)
        images = match_targets(listed, tables.targets)
    # opened anew: the targets now have sequences
    return OpenCellTables(folder), report, _notes(tables, images, answered)


def _notes(tables: OpenCellTables, images: pd.DataFrame, answered: FetchedSequences) -> list[str]:
    unjoined = tables.targets.loc[tables.targets["joined_by"] == "", "target_name"]
    notes = [f"{name}: in the annotations, not in the library; left out" for name in unjoined]
    notes += [f"{old}: UniProt files it under {new} today" for old, new in answered.renamed.items()]
    notes += [f"{name}: {cause}; left out" for name, cause in answered.failed.items()]
    if strangers := int((images["uniprot_id"] == "").sum()):
        notes.append(f"{strangers} images in the bucket belong to no target; left out")
    return notes


def fetch_opencell(
    path: Path | str,
    plan: OpenCellPlan | None = None,
    *,
    limit: int | None = None,
    dry_run: bool = False,
    workers: int = 8,
    annotations: Path | None = None,
    library: Path | None = None,
    sequences: Path | None = None,
    hosts: Sequence[str] | None = None,
    uniprot_url: str | None = None,
    s3_endpoint: str | None = None,
    bucket: str = BUCKET,
) -> OpenCellFetch:
    """
    Fetch OpenCell, or a part of it, as a dataset folder. The same call goes on where one stopped.

    Parameters
    ----------
    path : Path or str
        The dataset's folder; tables and sequences go to its ``tables/``.
    plan : OpenCellPlan, optional
        Which proteins and fields; by default all. `MINI` is a laptop's worth.
    limit : int, optional
        At most so many fields.
    dry_run : bool
        Ask for tables, list and sequences (about 3 MB), and stop before the images.
    workers : int
        Transfers at a time.
    annotations, library, sequences : Path, optional
        Your copies of OpenCell's two tables, and a FASTA file named by accession.
    hosts, uniprot_url, s3_endpoint, bucket
        Other servers than the usual ones; see also ``DEEPGPS_OPENCELL_URL``,
        ``DEEPGPS_UNIPROT_URL`` and ``DEEPGPS_S3_ENDPOINT``.

    Returns
    -------
    fetched : OpenCellFetch
        `report.failed` lists the images that did not come; the dataset holds the others.

    Raises
    ------
    InputError
        If there is no network, a table cannot be had, or a protein is unknown.
    """
    path, plan = Path(path), plan or OpenCellPlan()
    report = fetch_tables(path / "tables", annotations=annotations, library=library, hosts=hosts)
    tables = OpenCellTables(path / "tables")
    images = list_projections(
        tables.folder / PROJECTIONS_NAME, bucket=bucket, s3_endpoint=s3_endpoint
    )
    images = match_targets(images, tables.targets)
    chosen, answered = choose_proteins(tables, images, plan, sequences, uniprot_url)
    images_chosen = images[images["uniprot_id"].isin(chosen["uniprot_id"])]
    if plan.fields_per_protein:
        images_chosen = images_chosen.groupby("uniprot_id").head(plan.fields_per_protein)
    images_chosen = images_chosen.head(limit) if limit is not None else images_chosen
    remotes = [
        remote_of(*row)
        for row in images_chosen[["key", "size", "etag"]].itertuples(index=False, name=None)
    ]
    came = fetch_all(
        remotes, path, workers=workers, dry_run=dry_run, licence=LICENCE, s3_endpoint=s3_endpoint
    )
    notes = _notes(tables, images, answered)
    if dry_run:
        return OpenCellFetch(None, replace(came, present=came.present + report.present), notes)
    dataset = _write_dataset(path, chosen, images_chosen, came.failed, answered.release)
    return OpenCellFetch(dataset, report + came, notes)


def _write_dataset(
    path: Path, chosen: pd.DataFrame, images: pd.DataFrame, failed: dict[str, str], release: str
) -> Dataset:
    """Write the dataset's tables for the images that are there."""
    lock, rows = Lock(path).entries, []
    for key, accession in images[["key", "uniprot_id"]].itertuples(index=False, name=None):
        name = remote_of(key, "", "").path
        if name not in failed:
            rows.append((field_name(key), accession, name, lock[name]["sha256"]))
    if not rows:
        causes = "; ".join(sorted(set(failed.values()))[:3]) or "none was asked for"
        raise InputError(f"{path}: none of the images came ({causes}); try again.")
    fields = pd.DataFrame(rows, columns=["field_id", "protein_id", "path", "sha256"])
    proteins = protein_table(chosen[chosen["uniprot_id"].isin(fields["protein_id"])])
    tables = {name: sha256_of(path / "tables" / name) for name in (ANNOTATIONS_NAME, LIBRARY_NAME)}
    hashes = ", ".join(f"{name} sha256 {digest[:12]}" for name, digest in tables.items())
    content = tables | dict(zip(fields["field_id"], fields["sha256"], strict=True))
    info = DatasetInfo(
        name=path.name,
        source="OpenCell (Cho et al. 2022), s3://czb-opencell",
        release=f"{hashes}; sequences {release}; sha256 of every file in sources.lock.yaml",
        licence=LICENCE,
        images="measured",
        cell_line="HEK293T",
        pixel_size_um=PIXEL_SIZE_UM,
        labels=tuple(word for word in LABEL_OF.values() if word in set(proteins["label"])),
        config_hash=config_hash(content),
    )
    return Dataset.create(path, info, proteins, fields)
