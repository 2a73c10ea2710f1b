"""
Your own experiment: a folder of images and a spreadsheet become a dataset folder.

One row of the spreadsheet is one field of view: its image (one TIFF with both channels, or two
files), the protein that was stained or tagged, its sequence, and where somebody saw it. The
images are copied, as 16-bit fields at OpenCell's pixel size unless told otherwise; nothing in
the folder they come from is changed. From there on every command and chapter is the same.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from deepgps_core.dataset import (
    FIELD_COLUMNS,
    PROTEIN_COLUMNS,
    Dataset,
    DatasetInfo,
    InputError,
    check_sequence,
    config_hash,
    sha256_of,
    write_yaml,
)
from deepgps_core.homology import cluster_proteins
from deepgps_core.sources._images import (
    OPENCELL_PIXEL_SIZE_UM,
    color_plane,
    read_image,
    rescale_field,
    to_uint16,
    write_field,
)
from deepgps_core.sources.uniprot import read_fasta

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
#: What a spreadsheet may hold beside the images.
TEXT_COLUMNS = ("gene", "uniprot", "sequence", "locations")


@dataclass(frozen=True)
class ImportConfig:
    """
    What the images cannot say themselves.

    Parameters
    ----------
    pixel_size_um : float
        Micrometers a pixel of the images as they are.
    nucleus_channel, protein_channel : int
        Which channel of a two-file-in-one TIFF is which, from 0.
    target_pixel_size_um : float, optional
        What the fields are brought to; by default OpenCell's, so that a crop of 208 pixels
        spans 43 µm as in the paper. None keeps the images' own.
    cell_line, licence, source : str
        For the record.
    """

    pixel_size_um: float
    nucleus_channel: int = 0
    protein_channel: int = 1
    target_pixel_size_um: float | None = OPENCELL_PIXEL_SIZE_UM
    cell_line: str = "not stated"
    licence: str = "not stated"
    source: str = "own images"

    def __post_init__(self) -> None:
        if not 0.01 <= self.pixel_size_um <= 10:
            raise InputError(
                f"pixel size {self.pixel_size_um} µm: give micrometers a pixel, such as 0.2."
            )

    @property
    def final_pixel_size_um(self) -> float:
        """Micrometers a pixel of the dataset's fields."""
        return self.target_pixel_size_um or self.pixel_size_um


def read_spreadsheet(path: Path | str) -> pd.DataFrame:
    """
    Read the table that names images and proteins: CSV with commas, semicolons or tabs.

    Returns
    -------
    rows : DataFrame
        Text columns: ``image`` or ``nucleus`` and ``protein``; ``protein_id``; and `TEXT_COLUMNS`,
        empty where the file lacks them.

    Raises
    ------
    InputError
        If it is no such table, a cell that must not be empty is, or a name is unfit for a file.
    """
    path = Path(path)
    if path.suffix.lower() in (".xlsx", ".xls", ".ods"):
        raise InputError(f"{path}: a spreadsheet program's own format; save it as CSV.")
    try:
        with open(path, encoding="utf-8-sig") as stream:
            header = stream.readline()
        rows = pd.read_csv(
            path, sep=max(",;\t", key=header.count), dtype=str, keep_default_na=False,
            encoding="utf-8-sig",
        )  # fmt: skip
    except FileNotFoundError:
        raise InputError(f"{path}: table not found; check the path.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: no CSV table ({reason}); save it as CSV, UTF-8.") from None
    rows = rows.rename(columns=lambda name: name.strip().lower())
    rows = rows.apply(lambda column: column.str.strip())
    files = ["image"] if "image" in rows else ["nucleus", "protein"]
    missing = [name for name in ["protein_id", *files] if name not in rows]
    if missing:
        raise InputError(
            f"{path}: column {missing[0]} is missing; a row needs protein_id, and image, or "
            "nucleus and protein."
        )
    for name in ["protein_id", *files]:
        if (rows[name] == "").any():
            line = int(np.flatnonzero(rows[name] == "")[0]) + 2
            raise InputError(f"{path}: line {line} has no {name}; fill it in.")
    for protein_id in rows["protein_id"].unique():
        if not _SAFE.fullmatch(protein_id):
            raise InputError(
                f"{path}: protein_id {protein_id!r} is unfit for a file name; use letters, "
                "digits, dots, dashes and underscores."
            )
    return rows.assign(**{name: "" for name in TEXT_COLUMNS if name not in rows})


def _proteins(rows: pd.DataFrame, fasta: Path | None, source: Path) -> pd.DataFrame:
    """Return the protein table: one row a protein, checked to be told the same by all its rows."""
    sequences = read_fasta(fasta) if fasta else {}
    records = []
    for protein_id, group in rows.groupby("protein_id", sort=False):
        record: dict[str, Any] = {"protein_id": protein_id}
        for name in TEXT_COLUMNS:
            told = [value for value in group[name].unique() if value]
            if len(told) > 1:
                raise InputError(
                    f"{source}: protein {protein_id!r} has {name} {told[0][:30]!r} in one row and "
                    f"{told[1][:30]!r} in another; make them the same."
                )
            record[name] = told[0] if told else ""
        sequence = record["sequence"] or sequences.get(str(protein_id), "")
        if not sequence and fasta:
            raise InputError(f"{fasta}: no sequence of protein {protein_id!r}; add it.")
        record["sequence"] = check_sequence(str(protein_id), sequence, source=str(source))
        places = sorted({place.strip() for place in record["locations"].split(";")} - {""})
        record["locations"] = ";".join(places)
        record["label"] = places[0] if len(places) == 1 else ""
        records.append(record)
    return pd.DataFrame(records)


def _inside(folder: Path, name: str, table: Path) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise InputError(f"{table}: image {name!r} leaves {folder}; move it inside.")
    return path


def read_own_field(paths: list[Path], config: ImportConfig) -> np.ndarray:
    """
    Read one field from one file with both channels, or from a nucleus and a protein file.

    Returns
    -------
    field : ndarray, shape (2, H, W), dtype uint16
        At the pixel size that `config` asks for.

    Raises
    ------
    InputError
        If an image cannot be read or has other channels than it should.
    """
    channels = (config.nucleus_channel, config.protein_channel)
    images = [read_image(path) for path in paths]
    if len(images) == 1:
        image = images[0]
        if image.ndim == 3 and image.shape[-1] <= 4 < image.shape[0]:
            image = np.moveaxis(image, -1, 0)  # (H, W, C) -> (C, H, W)
        if image.ndim != 3 or image.shape[0] <= max(channels):
            raise InputError(
                f"{paths[0]}: shape {image.shape} has no channels {channels[0]} and "
                f"{channels[1]}; project stacks first, or give nucleus and protein as two files."
            )
        planes = [image[channel] for channel in channels]
    else:
        planes = [
            color_plane(images[0], "blue", str(paths[0])),
            color_plane(images[1], "green", str(paths[1])),
        ]
    if planes[0].shape != planes[1].shape:
        raise InputError(
            f"{paths[-1]}: {planes[1].shape}, but the nucleus is {planes[0].shape}; "
            "give two channels of the same field."
        )
    field = np.stack([to_uint16(plane) for plane in planes])
    return rescale_field(field, config.pixel_size_um, config.final_pixel_size_um)


def _copy_images(
    files: dict[str, list[Path]], path: Path, config: ImportConfig, workers: int
) -> tuple[dict[str, str], list[str]]:
    """Write the fields; return field_id -> sha256 of the good ones, and why the others failed."""

    def convert(field_id: str) -> tuple[str, str]:
        target = path / "fields" / f"{field_id}.tif"
        try:
            write_field(read_own_field(files[field_id], config), target)
        except InputError as error:
            return "", str(error)
        return sha256_of(target), ""

    with ThreadPoolExecutor(workers) as pool:
        done = list(tqdm(pool.map(convert, files), total=len(files), desc="images", unit="field"))
    written = {name: sha256 for name, (sha256, _) in zip(files, done, strict=True) if sha256}
    return written, [cause for _, cause in done if cause]


def import_images(
    folder: Path | str,
    table: Path | str,
    path: Path | str,
    config: ImportConfig,
    *,
    fasta: Path | None = None,
    workers: int = 4,
) -> tuple[Dataset, list[str]]:
    """
    Make a dataset folder of a folder of images and a table.

    Parameters
    ----------
    folder, table : Path or str
        The images, and the CSV that names them (see `read_spreadsheet`).
    path : Path or str
        The dataset folder to write.
    fasta : Path, optional
        Sequences by protein_id, where the table has none.

    Returns
    -------
    dataset : Dataset
        Of the fields that could be read.
    failed : list of str
        One line an image that could not, with its cause.

    Raises
    ------
    InputError
        If the table is unusable, or no image could be read.
    """
    folder, table, path = Path(folder), Path(table), Path(path)
    rows = read_spreadsheet(table)
    names = [name for name in ("image", "nucleus", "protein") if name in rows]
    names = names[:1] if names[0] == "image" else names
    proteins = _proteins(rows, fasta, table)
    rows["field_id"] = rows["protein_id"] + rows.groupby("protein_id").cumcount().map(
        "_{:03d}".format
    )
    files = {row["field_id"]: [_inside(folder, row[name], table) for name in names]
             for _, row in rows.iterrows()}  # fmt: skip
    sha256_of_field, failed = _copy_images(files, path, config, workers)
    if not sha256_of_field:
        raise InputError(
            f"{folder}: none of {len(rows)} images can be used; the first: {failed[0]}"
        )
    rows = rows.assign(
        sha256=rows["field_id"].map(sha256_of_field), path="fields/" + rows["field_id"] + ".tif"
    )
    fields = rows.dropna(subset="sha256")[list(FIELD_COLUMNS)]
    proteins = proteins[proteins["protein_id"].isin(fields["protein_id"])].reset_index(drop=True)
    clusters = cluster_proteins(dict(zip(proteins.protein_id, proteins.sequence, strict=True)))
    proteins["cluster_30"] = proteins["protein_id"].map(clusters)
    record = {"table_sha256": sha256_of(table), "config": config.__dict__}
    info = DatasetInfo(
        path.name, config.source, "-", config.licence, "measured", config.cell_line,
        config.final_pixel_size_um, tuple(sorted(set(proteins["label"]) - {""})),
        config_hash(record),
    )  # fmt: skip
    dataset = Dataset.create(path, info, proteins[list(PROTEIN_COLUMNS)], fields)
    write_yaml(record, path / "import.yaml")
    return dataset, failed
