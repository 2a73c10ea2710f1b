"""
Submitted experiments: an image, its protein and where it comes from, one or a ZIP with a table.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from deepgps_core.dataset import InputError, check_sequence
from deepgps_core.sources.own import read_spreadsheet
from opengps.archives import ArchiveError, read_archive
from opengps.forms import (
    MAX_LINE,
    MAX_NAME,
    Collector,
    check_scale,
    clean_text,
    parse_model,
    parse_picture,
    parse_pixel_size,
)
from opengps.images import kind_of

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
MAX_PROVENANCE = 2000


@dataclass(frozen=True)
class Item:
    """One submitted field: uint16 (2, H, W), nucleus first, and its protein."""

    protein_id: str
    sequence: str
    locations: str
    field: np.ndarray
    file_name: str


@dataclass(frozen=True)
class SubmissionRequest:
    """Fields that came together, and what holds for all of them."""

    items: list[Item]
    model: str
    cell_line: str
    provenance: str
    pixel_size_um: float


def _required(value: Any, max_letters: int, remedy: str, *, lines: bool = False) -> str:
    text = clean_text("" if value is None else value, max_letters=max_letters, lines=lines)
    if not text:
        raise ValueError(remedy)
    return text


def _protein_id(value: Any) -> str:
    text = _required(value, MAX_NAME, "Name the protein.")
    if not _SAFE.fullmatch(text):
        raise ValueError("Use letters, digits, dots, dashes and underscores only.")
    return text


@lru_cache(maxsize=1)
def _known_sequences() -> dict[str, str]:
    from deepgps_core.sources.embedded import embedded_proteins

    table = embedded_proteins()
    by_accession = zip(table["uniprot"], table["sequence"], strict=True)
    return {name: sequence for name, sequence in by_accession if name}


def _sequence(value: Any, protein_id: Any, settings: Mapping[str, Any]) -> str:
    """Return the sequence as typed; without one, that of a UniProt accession which ships."""
    if isinstance(value, str) and not value.strip() or value is None:
        known = _known_sequences().get(protein_id.strip() if isinstance(protein_id, str) else "")
        if known:
            return known
    text = _required(
        value, settings["MAX_FASTA_BYTES"],
        "Paste the sequence: this name is no accession of the human proteins that ship.",
        lines=True,
    )  # fmt: skip
    if text.startswith(">"):  # pasted with its header
        text = text.partition("\n")[2]
    try:
        return check_sequence("it", text, max_residues=settings["MAX_RESIDUES"])
    except InputError as error:
        said = str(error).removeprefix("input: protein 'it' ")
        raise ValueError(f"The sequence {said}") from None


def _locations(value: Any) -> str:
    text = clean_text("" if value is None else value, max_letters=MAX_LINE)
    return ";".join(sorted({place.strip() for place in text.split(";")} - {""}))


def _to_16_bits(picture: np.ndarray) -> np.ndarray:
    if picture.dtype == np.uint16:
        return picture
    if picture.dtype == np.uint8:
        return picture.astype(np.uint16) * 257
    low, high = float(picture.min()), float(picture.max())
    if low < 0 or high > 65535:
        raise ValueError("The image has values outside 0 to 65535; save it with 16 bits.")
    whole = picture * 65535 if high <= 1 else picture
    return np.rint(whole).astype(np.uint16)


def field_of(files: Sequence[bytes], settings: Mapping[str, Any]) -> np.ndarray:
    """
    Make a field of one file with both channels, or of a nucleus and a protein file.

    Returns
    -------
    field : ndarray, shape (2, H, W), dtype uint16

    Raises
    ------
    ValueError
        In one sentence.
    """
    pictures = [_to_16_bits(parse_picture(data, settings)) for data in files]
    if len(pictures) == 1:
        if len(pictures[0]) == 1:
            raise ValueError("The file has one channel; give the nucleus channel beside it.")
        # of a color picture blue is the nucleus and green the protein, as everywhere in the book
        planes = [pictures[0][2], pictures[0][1]] if len(pictures[0]) == 3 else list(pictures[0])
        if len(planes) != 2:
            raise ValueError(f"The file has {len(planes)} channels; save nucleus and protein only.")
    else:
        nucleus, protein = pictures
        planes = [nucleus[2 if len(nucleus) == 3 else 0], protein[1 if len(protein) == 3 else 0]]
    if planes[0].shape != planes[1].shape:
        raise ValueError(
            f"Nucleus {planes[0].shape} and protein {planes[1].shape} differ in size; give two "
            "channels of the same field."
        )
    if any(plane.min() == plane.max() for plane in planes):
        raise ValueError("All pixels of a channel are equal; give an image with cells.")
    return np.stack(planes)


def _common(
    values: Mapping[str, Any], found: Collector, models: Sequence[str]
) -> tuple[str, str, str, float]:
    model = found.take("model", parse_model, values.get("model"), models)
    cell_line = found.take(
        "cell_line", _required, values.get("cell_line"), 100, "Name the cell line, such as HeLa."
    )
    provenance = found.take(
        "provenance", _required, values.get("provenance"), MAX_PROVENANCE,
        "Say where the images come from: who took them, how, and under which licence.", lines=True,
    )  # fmt: skip
    size = found.take("pixel_size_um", parse_pixel_size, values.get("pixel_size_um"))
    if size is None:
        found.errors.setdefault("pixel_size_um", "Give micrometers a pixel, such as 0.206.")
    return model, cell_line, provenance, size or 0.206


def parse_submission(
    values: Mapping[str, Any], images: Mapping[str, bytes], settings: Mapping[str, Any],
    models: Sequence[str],
) -> SubmissionRequest:  # fmt: skip
    """
    Check one submitted image.

    Parameters
    ----------
    values : mapping
        protein_id, sequence, locations, cell_line, provenance, pixel_size_um, model, as typed.
    images : mapping of str to bytes
        ``image`` with both channels or the protein alone, and ``nucleus``, if it is apart.

    Raises
    ------
    FieldErrors
    """
    found = Collector()
    model, cell_line, provenance, size = _common(values, found, models)
    protein_id = found.take("protein_id", _protein_id, values.get("protein_id"))
    sequence = found.take("sequence", _sequence, values.get("sequence"), protein_id, settings)
    locations = found.take("locations", _locations, values.get("locations"))
    field = None
    if not images.get("image"):
        found.errors["image"] = "Choose the image of the protein, or of both channels."
    else:
        given = [images[name] for name in ("nucleus", "image") if images.get(name)]
        field = found.take("image", field_of, given, settings)
    if field is not None:
        found.take("pixel_size_um", check_scale, field.shape[1:], size, settings)
    found.stop_if_any()
    assert field is not None
    item = Item(protein_id, sequence, locations, field, str(values.get("file_name") or "")[:200])
    return SubmissionRequest([item], model, cell_line, provenance, size)


def _table_of(data: bytes) -> pd.DataFrame:
    """Read a CSV table from memory with the reader that the command line has."""
    if len(data) > 5_000_000:
        raise ValueError("The table is over 5 MB.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        path.write_bytes(data)
        try:
            return read_spreadsheet(path)
        except (InputError, ValueError) as error:
            said = " ".join(str(error).replace(str(path), "").split()).removeprefix(": ")
        # pandas raises more kinds on binary data than one would name
        except Exception as error:
            said = f"no table can be read from it ({type(error).__name__})"
    raise ValueError(f"The table: {said}"[:300])


def _find(files: Mapping[str, bytes], name: str) -> bytes:
    """Return a file of the archive by its path there, or by its name alone if that is unique."""
    if name in files:
        return files[name]
    same = [path for path in files if PurePosixPath(path).name == name]
    if len(same) != 1:
        raise ValueError(f"{name[:60]!r} is not in the ZIP file.")
    return files[same[0]]


def _row_item(
    row: Mapping[str, str], files: Mapping[str, bytes], settings: Mapping[str, Any], size: float
) -> Item:
    protein_id = _protein_id(row["protein_id"])
    sequence = _sequence(row["sequence"], protein_id, settings)
    locations = _locations(row["locations"])
    names = [row["image"]] if "image" in row else [row["nucleus"], row["protein"]]
    given = [_find(files, name) for name in names]
    field = field_of(given, settings)  # last: decoding is what costs
    check_scale(field.shape[1:], size, settings)
    return Item(protein_id, sequence, locations, field, names[-1][:200])


def parse_batch(
    values: Mapping[str, Any], archive: bytes, table: bytes, settings: Mapping[str, Any],
    models: Sequence[str],
) -> SubmissionRequest:  # fmt: skip
    """
    Check a ZIP of images and the table that names them; a bad row is named by its line.

    Raises
    ------
    FieldErrors
    """
    found = Collector()
    model, cell_line, provenance, size = _common(values, found, models)
    files: dict[str, bytes] = {}
    if not archive:
        found.errors["archive"] = "Choose the ZIP file with the images."
    elif len(archive) > settings["MAX_ARCHIVE_BYTES"] or kind_of(archive) != "zip":
        limit = settings["MAX_ARCHIVE_BYTES"] // 1_000_000
        found.errors["archive"] = f"This is no ZIP file of up to {limit} MB."
    else:
        try:
            files = read_archive(
                archive, max_files=settings["MAX_ARCHIVE_FILES"],
                max_bytes=settings["MAX_UNPACKED_BYTES"],
            )  # fmt: skip
        except ArchiveError as error:
            found.errors["archive"] = f"The ZIP file {error}."
    if not table:  # it may lie in the archive
        table = next((content for name, content in files.items() if name.endswith(".csv")), b"")
    rows = None
    if table:
        rows = found.take("table", _table_of, table)
    elif files:
        found.errors["table"] = "Choose the table, or put it into the ZIP file as .csv."
    if rows is not None and not 1 <= len(rows) <= settings["MAX_SUBMISSIONS"]:
        limit = settings["MAX_SUBMISSIONS"]
        found.errors["table"] = f"The table has {len(rows)} rows; 1 to {limit} are taken at once."
    found.stop_if_any()
    assert rows is not None
    items: list[Item] = []
    n_bytes = 0
    for number, row in enumerate(rows.to_dict("records"), start=2):
        try:
            items.append(_row_item({str(k): v for k, v in row.items()}, files, settings, size))
        except ValueError as error:
            found.errors["table"] = f"Line {number}: {error}"
            break  # the first bad row is told, and no more images are decoded
        n_bytes += items[-1].field.nbytes
        if n_bytes > settings["MAX_FIELDS_BYTES"]:  # one small file may be named by many rows
            limit = settings["MAX_FIELDS_BYTES"] // 1_000_000
            found.errors["archive"] = f"The images are over {limit} MB unpacked; send fewer."
            break
    found.stop_if_any()
    return SubmissionRequest(items, model, cell_line, provenance, size)
