"""
The list of OpenCell's images in its public bucket.

Keys look like ``microscopy/raw/AAMP_ENSG00000127837/OC-FOV_AAMP_ENSG00000127837_CID001050_
FID00013888_proj.tif``: gene, Ensembl id, cell line, field of view. Projections are uint16
(2, 600, 600), channel 0 Hoechst, channel 1 the tagged protein; stacks are left alone.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from deepgps_core.dataset import InputError, read_field_tiff, read_table, write_table
from deepgps_core.sources._streams import (
    Refused,
    Unreachable,
    offline_error,
    s3_call,
    s3_filesystem,
    with_retries,
)
from deepgps_core.sources.opencell_tables import PROJECTION_COLUMNS
from deepgps_core.sources.transfer import Remote

BUCKET = "czb-opencell"
PREFIX = "microscopy/raw"
#: Field of view to pixel, from the paper on OpenCell: 63x objective, 13 um camera pixels.
PIXEL_SIZE_UM = 0.206
PROJECTION = re.compile(
    r"OC-FOV_(?P<gene>[\w.-]+?)_(?P<ensg_id>ENSG\d{11})_CID\d+_FID(?P<fov_id>\d+)_proj\.tif"
)


def list_projections(
    path: Path | str, *, bucket: str = BUCKET, s3_endpoint: str | None = None
) -> pd.DataFrame:
    """
    List the projections in the bucket, and keep the list as a table.

    Parameters
    ----------
    path : Path or str
        The table. What it lists is not asked for again, so that a dataset stays the same while
        it is fetched; remove it to see what is new in the bucket.
    bucket : str
    s3_endpoint : str, optional
        By default ``DEEPGPS_S3_ENDPOINT``, else AWS.

    Returns
    -------
    projections : DataFrame
        Columns key, size (bytes), etag, gene, ensg_id, fov_id; all text; sorted by key.

    Raises
    ------
    InputError
        If the bucket cannot be reached or has no projections.
    """
    path = Path(path)
    if not path.exists():
        found = _list_bucket(bucket, s3_endpoint)
        if not found:
            raise InputError(f"s3://{bucket}/{PREFIX}: holds no OC-FOV_*_proj.tif; check its name.")
        frame = pd.DataFrame(found, columns=list(PROJECTION_COLUMNS))
        write_table(frame.sort_values("key"), path)
    return read_table(path, PROJECTION_COLUMNS, "remove it and fetch again")


def _list_bucket(bucket: str, s3_endpoint: str | None) -> list[tuple[str, ...]]:
    files = s3_filesystem(s3_endpoint)
    where = f"{bucket}/{PREFIX}"
    try:
        listing = with_retries(lambda: s3_call(bucket, files.find, where, detail=True), retries=5)
    except Unreachable as error:
        raise offline_error(f"s3://{bucket}") from error
    except Refused as error:
        raise InputError(f"s3://{where}: {error}; check its name.") from error
    found = []
    for key, info in listing.items():
        match = PROJECTION.fullmatch(key.rsplit("/", 1)[-1])
        if match:
            etag = str(info.get("ETag", "")).strip('"')
            found.append((key, str(info["size"]), etag, *match.group("gene", "ensg_id", "fov_id")))
    return found


def match_targets(projections: pd.DataFrame, targets: pd.DataFrame) -> pd.DataFrame:
    """
    Give each projection the accession of its target.

    By Ensembl id, as the annotations or the library have it; else by the gene's name.

    Returns
    -------
    projections : DataFrame
        With ``uniprot_id``, empty where no target fits.
    """
    accession: dict[str, str] = {}
    for column in ("target_name", "gene_name", "library_ensg_id", "ensg_id"):  # the last one wins
        accession |= dict(zip(targets[column].str.casefold(), targets["uniprot_id"], strict=True))
    accession.pop("", None)
    by_id = projections["ensg_id"].str.casefold().map(accession)
    by_name = projections["gene"].str.casefold().map(accession)
    return projections.assign(uniprot_id=by_id.fillna(by_name).fillna(""))


def check_projection(path: Path) -> None:
    """Refuse an image that is not uint16, two channels."""
    try:
        read_field_tiff(path)
    except InputError as error:
        raise InputError(str(error).replace(str(path), "the image")) from None


def field_name(key: str) -> str:
    """
    Return a field's identifier.

    Examples
    --------
    >>> field_name("x/OC-FOV_AAMP_ENSG00000127837_CID001050_FID00013888_proj.tif")
    'AAMP_FID00013888'
    """
    match = PROJECTION.fullmatch(key.rsplit("/", 1)[-1])
    if match is None:
        raise InputError(f"{key}: no key of an OpenCell projection; list the bucket again.")
    return f"{match['gene']}_FID{match['fov_id']}"


def remote_of(key: str, size: str, etag: str) -> Remote:
    """Return what is to be fetched for one projection."""
    name = key.rsplit("/", 1)[-1]
    return Remote(
        f"s3://{key}", f"fields/{name}", int(size) if size else None, etag=etag or None,
        check=check_projection,
    )  # fmt: skip
