"""
The dataset folder: the one shape in which every source hands over proteins and images.

A dataset is a directory with a ``dataset.yaml`` and a few plain tables (see the book's page
on formats). This module opens it, checks it, joins it and writes it; it knows nothing of
where the data came from, of segmentation, or of models. No torch here.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import tifffile
import yaml
import zarr
from filelock import FileLock, Timeout
from tqdm import tqdm

#: The 20 amino acids and the letters UniProt uses for unusual or unknown residues.
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
LEGAL_LETTERS = frozenset(AMINO_ACIDS + "XUOBZ")
#: Longest protein the paper admits (Methods: complete AlphaFold structures end there).
MAX_RESIDUES = 2700
#: Largest field edge that is read, in pixels: refuses decompression bombs, admits HPA's 2048.
MAX_FIELD_PX = 8192

PROTEIN_COLUMNS = (
    "protein_id", "gene", "uniprot", "sequence", "locations", "label", "cluster_30",
)  # fmt: skip
FIELD_COLUMNS = ("field_id", "protein_id", "path", "sha256")
NUCLEUS_COLUMNS = ("field_id", "nucleus_id", "y_px", "x_px", "area_px", "probability")
CROP_COLUMNS = ("crop_id", "field_id", "nucleus_id", "protein_id", "y0_px", "x0_px")
SPLIT_PARTS = ("train", "validation", "test")


class InputError(ValueError):
    """Something the user gave cannot be used; one line names it and the remedy."""


def data_root() -> Path:
    """Return the folder that holds datasets and runs: ``DEEPGPS_DATA``, else ``./data``."""
    return Path(os.environ.get("DEEPGPS_DATA", "data"))


def usable_cores() -> int:
    """Return how many cores this process may use: under Slurm or in a container, not all."""
    from joblib import cpu_count  # here: a quarter of a second that prediction need not wait

    return int(cpu_count())


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """Return a pool of fresh processes, which end with this one, even where it is killed."""
    # fresh: forking after TensorFlow has started its threads can hang
    return ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_end_with_parent
    )


def _end_with_parent() -> None:
    """Watch the process that started this one; without it, a worker would wait for ever."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def one_at_a_time(path: Path | str) -> Iterator[None]:
    """
    Let one process at a time make `path`; others wait, say so, and find it made.

    A lock file beside it, hidden, is freed by the system however its process ends. Where nothing
    can be written there is nothing to make, and nobody waits.
    """
    path = Path(path)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        tqdm.write(f"{path}: another process is at work on it; waiting.", file=sys.stderr)
        lock.acquire()
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS):
            raise
    try:
        yield
    finally:
        lock.release()


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """
    Yield a temporary path beside `path` and rename it into place on success.

    Whatever happens, `path` is either the old file or the whole new one: readers never see
    half of it, and a killed process leaves only a hidden temporary file behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # the suffix stays last, because writers such as numpy and tifffile look at it
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_table(frame: pd.DataFrame, path: Path | str) -> None:
    """Write `frame` as CSV without its index, atomically."""
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")


def write_yaml(content: Mapping[str, Any], path: Path | str) -> None:
    """Write `content` as YAML in its own key order, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(yaml.safe_dump(dict(content), sort_keys=False), encoding="utf-8")


def sha256_of(path: Path | str) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def config_hash(config: Any) -> str:
    """Return 16 hexadecimal digits that identify a configuration (mapping or dataclass)."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = dataclasses.asdict(config)
    text = json.dumps(config, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_sequence(
    protein_id: str, sequence: str, *, max_residues: int = MAX_RESIDUES, source: str = "input"
) -> str:
    """
    Return `sequence` in upper case, or say why it cannot be a protein.

    Raises
    ------
    InputError
        If it is empty, holds a letter that is no amino acid, or is longer than
        `max_residues`.
    """
    cleaned = "".join(sequence.split()).upper().removesuffix("*")
    if not cleaned:
        raise InputError(f"{source}: protein {protein_id!r} has an empty sequence; remove it.")
    illegal = sorted(set(cleaned) - LEGAL_LETTERS)
    if illegal:
        raise InputError(
            f"{source}: protein {protein_id!r} has letters that are no amino acids: "
            f"{' '.join(illegal[:5])}; correct the sequence."
        )
    if len(cleaned) > max_residues:
        raise InputError(
            f"{source}: protein {protein_id!r} has {len(cleaned)} residues, more than "
            f"{max_residues}; cut it or raise the limit."
        )
    return cleaned


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What ``dataset.yaml`` says: origin, licence, and how its images came about."""

    name: str
    source: str
    release: str
    licence: str
    images: Literal["measured", "simulated"]
    cell_line: str
    pixel_size_um: float
    labels: tuple[str, ...]
    config_hash: str = ""

    def to_mapping(self) -> dict[str, Any]:
        """Return plain types, as written to YAML."""
        return dataclasses.asdict(self) | {"labels": list(self.labels)}


def _read_info(path: Path) -> DatasetInfo:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return DatasetInfo(**(content | {"labels": tuple(content["labels"])}))
    except FileNotFoundError:
        raise InputError(
            f"{path}: not found, so {path.parent} is no dataset folder; "
            "make one with `deepgps simulate` or `deepgps fetch`."
        ) from None
    except (TypeError, KeyError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a dataset description ({reason}); write it anew.") from None


def read_table(path: Path, columns: tuple[str, ...], remedy: str) -> pd.DataFrame:
    """
    Read a CSV table in which the given columns must exist.

    Identifiers and text stay text (an empty cell is the empty string); columns whose names
    end in ``_px`` or ``_um``, ``nucleus_id`` and ``probability`` become numbers.

    Raises
    ------
    InputError
        If the file is missing, is no CSV, or lacks a column.
    """
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise InputError(f"{path}: table not found; {remedy}.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a CSV table ({reason}); {remedy}.") from None
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise InputError(f"{path}: column {', '.join(missing)} is missing; {remedy}.")
    for name in frame.columns:
        if name.endswith(("_px", "_um")) or name in ("nucleus_id", "probability"):
            try:
                frame[name] = pd.to_numeric(frame[name])
            except ValueError:
                raise InputError(f"{path}: column {name} holds no numbers; {remedy}.") from None
    return frame


def _check_unique(frame: pd.DataFrame, column: str, path: Path) -> None:
    repeated = frame.loc[frame[column].duplicated(), column]
    if len(repeated):
        raise InputError(
            f"{path}: {column} {repeated.iloc[0]!r} occurs more than once; keep one row of it."
        )


class Dataset:
    """
    A dataset folder, opened.

    Parameters
    ----------
    path : Path or str
        The folder. ``dataset.yaml`` and ``proteins.csv`` must be there; the other tables are
        read, and missed, only when they are asked for.

    Raises
    ------
    InputError
        If the folder is no dataset, or a table is missing or malformed.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.info = _read_info(self.path / "dataset.yaml")
        if not (self.path / "proteins.csv").exists():
            raise InputError(
                f"{self.path / 'proteins.csv'}: table not found; make the dataset again."
            )

    def __repr__(self) -> str:
        return f"Dataset({self.info.name!r}, images={self.info.images!r})"

    @classmethod
    def create(
        cls,
        path: Path | str,
        info: DatasetInfo,
        proteins: pd.DataFrame,
        fields: pd.DataFrame | None = None,
    ) -> Dataset:
        """
        Write the tables of a new dataset, its description last, and open it.

        An interrupted call leaves a folder that does not open, never one that opens wrongly.
        """
        path = Path(path)
        unknown = sorted(set(proteins["label"]) - {""} - set(info.labels))
        if unknown:
            raise InputError(
                f"{path}: label {unknown[0]!r} is not in the vocabulary {', '.join(info.labels)}; "
                "add it to labels or correct the table."
            )
        _check_unique(proteins, "protein_id", path / "proteins.csv")
        write_table(proteins, path / "proteins.csv")
        if fields is not None:
            write_table(fields, path / "fields.csv")
        write_yaml(info.to_mapping(), path / "dataset.yaml")
        return cls(path)

    def _table(self, name: str, columns: tuple[str, ...], remedy: str) -> pd.DataFrame:
        return read_table(self.path / name, columns, remedy)

    @cached_property
    def proteins(self) -> pd.DataFrame:
        """One row a protein; text columns, the empty string where nothing is known."""
        path = self.path / "proteins.csv"
        frame = read_table(path, PROTEIN_COLUMNS, "make the dataset again")
        _check_unique(frame, "protein_id", path)
        for protein_id, sequence in zip(frame["protein_id"], frame["sequence"], strict=True):
            check_sequence(protein_id, sequence, source=str(path))
        return frame

    @cached_property
    def fields(self) -> pd.DataFrame:
        """One row a field of view; `path` is relative to the dataset folder."""
        path = self.path / "fields.csv"
        frame = read_table(path, FIELD_COLUMNS, "make the dataset again")
        _check_unique(frame, "field_id", path)
        unknown = sorted(set(frame["protein_id"]) - set(self.proteins["protein_id"]))
        if unknown:
            raise InputError(f"{path}: protein {unknown[0]!r} is not in proteins.csv; add it.")
        return frame

    @cached_property
    def nuclei(self) -> pd.DataFrame:
        """One row a segmented nucleus, in pixels of its field."""
        return self._table("nuclei.csv", NUCLEUS_COLUMNS, "run `deepgps prepare`")

    @cached_property
    def crops(self) -> pd.DataFrame:
        """One row a crop, in the order of ``crops.zarr``."""
        return self._table("crops.csv", CROP_COLUMNS, "run `deepgps prepare`")

    def sequences(self) -> dict[str, str]:
        """Return protein_id -> sequence."""
        return dict(zip(self.proteins["protein_id"], self.proteins["sequence"], strict=True))

    def read_field(self, field_id: str) -> np.ndarray:
        """
        Read one raw field.

        Returns
        -------
        field : ndarray, shape (2, H, W), dtype uint16
            Channel 0 nucleus, channel 1 protein.

        Raises
        ------
        InputError
            If the field is unknown, leaves the folder, or is not such an image.
        """
        rows = self.fields.loc[self.fields["field_id"] == field_id, "path"]
        if rows.empty:
            raise InputError(f"{self.path / 'fields.csv'}: no field {field_id!r}; check its name.")
        path = (self.path / rows.iloc[0]).resolve()
        if not path.is_relative_to(self.path.resolve()):
            raise InputError(
                f"{self.path / 'fields.csv'}: path {rows.iloc[0]!r} leaves the dataset folder; "
                "move the image inside it."
            )
        return read_field_tiff(path)

    def _crop_array(self, name: str) -> zarr.Array:
        try:
            array = zarr.open_array(self.path / "crops.zarr" / name, mode="r")
        except FileNotFoundError:
            raise InputError(
                f"{self.path / 'crops.zarr'}: {name} not found; run `deepgps prepare`."
            ) from None
        if array.shape[0] != len(self.crops):
            raise InputError(
                f"{self.path / 'crops.zarr'}: {array.shape[0]} crops, but crops.csv has "
                f"{len(self.crops)}; run `deepgps prepare` again."
            )
        return array

    @property
    def crop_images(self) -> zarr.Array:
        """uint8, shape (N, 2, 208, 208): normalized crops, channel 0 nucleus, 1 protein."""
        return self._crop_array("image")

    @property
    def nuclear_masks(self) -> zarr.Array:
        """bool, shape (N, 208, 208): the nucleus each crop is centred on."""
        return self._crop_array("nuclear_mask")

    def features(self, encoder_name: str) -> dict[str, np.ndarray]:
        """Return protein_id -> vector (D,), float32, as written by `write_features`."""
        path = self.path / "features" / f"{encoder_name}.npz"
        try:
            with np.load(path, allow_pickle=False) as archive:
                return {key: archive[key] for key in archive.files}
        except FileNotFoundError:
            raise InputError(f"{path}: features not found; run `deepgps embed`.") from None

    def write_features(self, encoder_name: str, vectors: Mapping[str, np.ndarray]) -> None:
        """Write protein_id -> vector as ``features/<encoder_name>.npz``, atomically."""
        arrays: dict[str, Any] = {
            key: np.asarray(value, dtype=np.float32) for key, value in vectors.items()
        }
        with atomic_path(self.path / "features" / f"{encoder_name}.npz") as temporary:
            np.savez(temporary, **arrays)

    def split(self, name: str) -> pd.Series:
        """Return the part (train, validation or test) of each protein, indexed by protein_id."""
        path = self.path / "splits" / f"{name}.csv"
        frame = read_table(path, ("protein_id", "split"), "make it with `deepgps split`")
        _check_unique(frame, "protein_id", path)
        unknown = sorted(set(frame["split"]) - set(SPLIT_PARTS))
        if unknown:
            raise InputError(f"{path}: part {unknown[0]!r} is none of {', '.join(SPLIT_PARTS)}.")
        return frame.set_index("protein_id")["split"]

    def write_split(self, name: str, split: pd.Series) -> None:
        """Write a split (index protein_id, values train, validation, test), atomically."""
        frame = pd.DataFrame({"protein_id": split.index, "split": split.to_numpy()})
        write_table(frame, self.path / "splits" / f"{name}.csv")


def read_field_tiff(path: Path | str) -> np.ndarray:
    """
    Read a two-channel field as OpenCell stores it.

    Returns
    -------
    field : ndarray, shape (2, H, W), dtype uint16

    Raises
    ------
    InputError
        If the file is no TIFF, is truncated, too large, or not uint16 (2, H, W).
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            shape, dtype = tiff.series[0].shape, tiff.series[0].dtype
            if len(shape) != 3 or shape[0] != 2 or dtype != np.uint16:
                raise InputError(
                    f"{path}: holds {dtype} {shape}, not uint16 (2, H, W); "
                    "save nucleus and protein as two channels of 16 bits."
                )
            if max(shape) > MAX_FIELD_PX:
                raise InputError(f"{path}: {shape} is over {MAX_FIELD_PX} pixels; tile it.")
            return tiff.series[0].asarray()
    except FileNotFoundError:
        raise InputError(f"{path}: field image not found; make the dataset again.") from None
    except InputError:
        raise
    # tifffile raises many kinds on damaged files, among them zlib.error and struct.error
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: damaged or no TIFF ({reason}); get it again.") from None
