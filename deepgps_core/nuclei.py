"""
The nuclei of a dataset: found once, kept as a table, radii and a record of how.

``nuclei.csv`` and ``nuclei.npz`` hold what StarDist found, small objects included, and
``nuclei.yaml`` for which fields (their checksums), with which model and which choices. The
three files can be carried to a machine without TensorFlow and are then used as they are.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import yaml
from tqdm import tqdm

from deepgps_core.cropping import PreprocessingConfig, normalize_field
from deepgps_core.dataset import (
    NUCLEUS_COLUMNS,
    Dataset,
    InputError,
    atomic_path,
    config_hash,
    sha256_of,
    write_table,
    write_yaml,
)
from deepgps_core.segmentation import N_RAYS, Nuclei, NucleusSegmenter, segmenter_identity

_REDO = "run `deepgps prepare` again"
Item = TypeVar("Item")
Result = TypeVar("Result")


def find_nuclei(
    dataset: Dataset, config: PreprocessingConfig, segmenter: NucleusSegmenter | None, hidden: Path
) -> dict[str, Nuclei]:
    """Return the nuclei of each field: those on disk, or else newly segmented and written."""
    record = {
        "model": segmenter.identity if segmenter else segmenter_identity(),
        "fields_sha256": _fields_digest(dataset),
        **config.of_segmentation(),
    }
    if segmenter:  # its own settings are the ones that count
        record |= {name: getattr(segmenter, name, record[name])
                   for name in ("probability_threshold", "nms_threshold", "scale")}  # fmt: skip
    if _recorded(dataset.path / "nuclei.yaml") == record:
        return read_nuclei(dataset)
    shards = hidden / f"nuclei-{config_hash(record)}"
    rows = dataset.fields[["field_id", "path", "sha256"]].itertuples(index=False)
    pending = [row for row in rows if not (shards / f"{row.field_id}.npz").exists()]
    if pending:
        segmenter = segmenter or NucleusSegmenter(
            "embedded", config.probability_threshold, config.nms_threshold, config.scale
        )

    def load(row: Any) -> tuple[str, np.ndarray]:
        path = dataset.path / row.path
        if path.exists() and row.sha256 and sha256_of(path) != row.sha256:
            raise InputError(
                f"{path}: not the file that fields.csv describes (its sha256 differs); "
                "restore it or make the dataset again."
            )
        return row.field_id, normalize_field(dataset.read_field(row.field_id), config)[0]

    images = _ahead(load, pending)
    for field_id, image in tqdm(images, total=len(pending), desc="nuclei", unit="field"):
        assert segmenter is not None  # there is something pending
        _write_shard(shards / f"{field_id}.npz", segmenter(image))
    found = {field_id: _read_shard(shards / f"{field_id}.npz")
             for field_id in dataset.fields["field_id"]}  # fmt: skip
    _write_nuclei(dataset, found, record)
    return found


def _ahead(load: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield `load(item)` in order, the next two loaded in threads while one is being used."""
    waiting: list[Future[Result]] = []
    with ThreadPoolExecutor(2) as pool:
        for item in items:
            waiting.append(pool.submit(load, item))
            if len(waiting) > 2:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def _fields_digest(dataset: Dataset) -> str:
    text = dataset.fields[["field_id", "sha256"]].to_csv(index=False, lineterminator="\n")
    return hashlib.sha256(text.encode()).hexdigest()


def _recorded(path: Path) -> dict[str, Any] | None:
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None


def _write_shard(path: Path, nuclei: Nuclei) -> None:
    columns = {field.name: getattr(nuclei, field.name) for field in dataclasses.fields(nuclei)}
    with atomic_path(path) as temporary:
        np.savez(temporary, **columns)


def _read_shard(path: Path) -> Nuclei:
    with np.load(path, allow_pickle=False) as archive:
        return Nuclei(**{field.name: archive[field.name] for field in dataclasses.fields(Nuclei)})


def _write_nuclei(dataset: Dataset, found: dict[str, Nuclei], record: dict[str, Any]) -> None:
    """Write the three files; the record last, so that it never vouches for older tables."""
    parts = [
        pd.DataFrame(
            {
                "field_id": field_id,
                "nucleus_id": np.arange(len(nuclei)),
                "y_px": nuclei.y_px,
                "x_px": nuclei.x_px,
                "area_px": nuclei.area_px,
                "probability": nuclei.probability,
            },
            columns=list(NUCLEUS_COLUMNS),
        )
        for field_id, nuclei in found.items()
    ]
    (dataset.path / "nuclei.yaml").unlink(missing_ok=True)
    write_table(pd.concat(parts, ignore_index=True), dataset.path / "nuclei.csv")
    radii: dict[str, Any] = {field_id: nuclei.radii for field_id, nuclei in found.items()}
    with atomic_path(dataset.path / "nuclei.npz") as temporary:
        np.savez_compressed(temporary, **radii)
    write_yaml(record, dataset.path / "nuclei.yaml")


def read_nuclei(dataset: Dataset) -> dict[str, Nuclei]:
    """
    Read ``nuclei.csv`` and ``nuclei.npz``.

    Returns
    -------
    found : dict
        field_id -> `Nuclei`, in the order of fields.csv; empty ones included.

    Raises
    ------
    InputError
        If a file is missing or the two disagree.
    """
    table = dataset.nuclei
    path = dataset.path / "nuclei.npz"
    try:
        with np.load(path, allow_pickle=False) as archive:
            radii = {key: archive[key] for key in archive.files}
    except FileNotFoundError:
        raise InputError(f"{path}: not found; {_REDO}.") from None
    groups = dict(list(table.groupby("field_id")))
    found = {}
    for field_id in dataset.fields["field_id"]:
        rows = groups.get(field_id, table.iloc[:0])
        of_field = radii.get(field_id, np.zeros((0, N_RAYS), dtype=np.float32))
        if len(rows) != len(of_field):
            raise InputError(
                f"{path}: {len(of_field)} nuclei of field {field_id!r}, but nuclei.csv has "
                f"{len(rows)}; {_REDO}."
            )
        columns = (rows[name].to_numpy() for name in ("y_px", "x_px", "area_px", "probability"))
        y_px, x_px, area_px, probability = columns
        found[field_id] = Nuclei(
            y_px.astype(np.float32), x_px.astype(np.float32), area_px.astype(np.int64),
            probability.astype(np.float32), of_field,
        )  # fmt: skip
    return found
