"""
Submitted fields as a dataset folder: what people measured becomes what the chapters train on.

All fields are brought to one pixel size. A protein that came with two sequences becomes two
proteins; places that different people saw are joined.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from deepgps_core.dataset import (
    FIELD_COLUMNS,
    PROTEIN_COLUMNS,
    Dataset,
    DatasetInfo,
    InputError,
    config_hash,
    read_field_tiff,
    sha256_of,
)
from deepgps_core.homology import cluster_proteins
from deepgps_core.outputs import write_csv
from deepgps_core.sources._images import OPENCELL_PIXEL_SIZE_UM, rescale_field, write_field
from opengps import storage
from opengps.database import Submission

#: UniProt's own pattern of an accession.
_ACCESSION = re.compile(r"[OPQ][0-9][A-Z0-9]{3}[0-9]|[A-NR-Z][0-9](?:[A-Z][A-Z0-9]{2}[0-9]){1,2}")


def _unique(rows: Sequence[Submission]) -> list[tuple[str, Submission]]:
    """Name the proteins, and leave out an image that came twice for the same protein."""
    names: dict[tuple[str, str], str] = {}
    asked = {row.protein_id for row in rows}  # no made name may be one that somebody gave
    taken: set[str] = set()
    found, seen = [], set()
    for row in rows:
        key = (row.protein_id, row.sequence)
        if key not in names:
            name, number = row.protein_id, 2
            while name in taken or (name in asked and name != row.protein_id):
                name, number = f"{row.protein_id}-sequence{number}", number + 1
            taken.add(name)
            names[key] = name
        if (names[key], row.image) not in seen:
            seen.add((names[key], row.image))
            found.append((names[key], row))
    return found


def _proteins(named: Sequence[tuple[str, Submission]]) -> pd.DataFrame:
    places: dict[str, set[str]] = {}
    sequences: dict[str, str] = {}
    for name, row in named:
        places.setdefault(name, set()).update(p for p in row.locations.split(";") if p)
        sequences[name] = row.sequence
    clusters = cluster_proteins(sequences)
    records = []
    for name, sequence in sequences.items():
        seen = sorted(places[name])
        records.append(
            {
                "protein_id": name, "gene": "",
                "uniprot": name if _ACCESSION.fullmatch(name) else "", "sequence": sequence,
                "locations": ";".join(seen), "label": seen[0] if len(seen) == 1 else "",
                "cluster_30": clusters[name],
            }
        )  # fmt: skip
    return pd.DataFrame(records)[list(PROTEIN_COLUMNS)]


def _write_fields(
    named: Sequence[tuple[str, Submission]], data: Path, path: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write the images; return the table of fields, and where each came from."""
    fields, origins, counts = [], [], dict[str, int]()
    for name, row in named:
        field_id = f"{name}_{counts.get(name, 0):03d}"
        counts[name] = counts.get(name, 0) + 1
        field = read_field_tiff(storage.submitted_path(data, row.image))
        target = path / "fields" / f"{field_id}.tif"
        write_field(rescale_field(field, row.pixel_size_um, OPENCELL_PIXEL_SIZE_UM), target)
        fields.append((field_id, name, f"fields/{field_id}.tif", sha256_of(target)))
        origins.append((field_id, row.cell_line, row.pixel_size_um, row.file_name, row.provenance))
    columns = ["field_id", "cell_line", "submitted_pixel_size_um", "file_name", "provenance"]
    return pd.DataFrame(fields, columns=FIELD_COLUMNS), pd.DataFrame(origins, columns=columns)


def export_dataset(
    engine: Engine, settings: Mapping[str, Any], path: Path | str, job_id: str = ""
) -> Dataset:
    """
    Write submitted fields as a dataset folder that `deepgps prepare` and the chapters take.

    Parameters
    ----------
    path : Path or str
        A new folder.
    job_id : str
        Only those of one submission; by default all.

    Raises
    ------
    InputError
        If there is no submission, or the folder is there already.
    """
    path = Path(path)
    if path.exists():
        raise InputError(f"{path}: exists already; name another folder or remove it.")
    with Session(engine) as session:
        statement = select(Submission).order_by(Submission.created, Submission.number)
        rows = session.scalars(
            statement.where(Submission.job_id == job_id) if job_id else statement
        ).all()
        session.expunge_all()
    if not rows:
        raise InputError(f"{settings['DATA']}: no submission yet; nothing to export.")
    named = _unique(rows)
    fields, origins = _write_fields(named, Path(settings["DATA"]), path)
    proteins = _proteins(named)
    lines = sorted({row.cell_line for _, row in named})
    info = DatasetInfo(
        name=path.name, source="submitted to openGPS", release="-", licence="see provenance.csv",
        images="measured", cell_line=lines[0] if len(lines) == 1 else "several",
        pixel_size_um=OPENCELL_PIXEL_SIZE_UM,
        labels=tuple(sorted(set(proteins["label"]) - {""})),
        config_hash=config_hash({"images": [row.image for _, row in named]}),
    )  # fmt: skip
    write_csv(origins, path / "provenance.csv")  # what strangers wrote is no formula
    return Dataset.create(path, info, proteins, fields)
