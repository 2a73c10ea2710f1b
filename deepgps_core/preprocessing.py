"""
From raw fields to crops, for a whole dataset: normalize, segment, filter, cut.

Paper, Methods, "Image preprocessing". A field is normalized before it is cut, and each nucleus
that is large enough and not too near the border gives one crop; the choices the paper leaves
open are in `PreprocessingConfig`. `prepare` works in two steps that can run on two machines:
nuclei (needs TensorFlow), then crops (does not). Both resume where a killed run stopped.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import tifffile
import zarr
from tqdm import tqdm

from deepgps_core.cropping import (
    PreprocessingConfig,
    crop_origins,
    cut_crops,
    normalize_field,
    select_nuclei,
    to_uint8,
)
from deepgps_core.dataset import (
    Dataset,
    InputError,
    config_hash,
    one_at_a_time,
    read_field_tiff,
    sha256_of,
    usable_cores,
    worker_pool,
    write_table,
)
from deepgps_core.nuclei import find_nuclei, read_nuclei
from deepgps_core.segmentation import Nuclei, NucleusSegmenter, nucleus_labels

__all__ = [
    "Nuclei",
    "NucleusSegmenter",
    "PreprocessingConfig",
    "crop_origins",
    "crop_table",
    "cut_crops",
    "normalize_field",
    "nucleus_labels",
    "prepare",
    "read_nuclei",
    "select_nuclei",
    "to_uint8",
]

#: Crops in one chunk of crops.zarr, and in one unit of parallel work.
CHUNK_CROPS = 64
Item = TypeVar("Item")
Result = TypeVar("Result")


def prepare(
    dataset: Dataset,
    config: PreprocessingConfig | None = None,
    segmenter: NucleusSegmenter | None = None,
    workers: int | None = None,
) -> Dataset:
    """
    Segment and cut all fields of a dataset.

    Parameters
    ----------
    dataset : Dataset
        With fields; ``nuclei.csv``, ``nuclei.npz``, ``nuclei.yaml``, ``crops.csv`` and
        ``crops.zarr`` are written into its folder, each at once. What is there already for
        the same fields and choices is kept: nuclei brought from another machine are used as
        they are, and TensorFlow is not imported.
    segmenter : NucleusSegmenter, optional
        By default the embedded model, loaded only when there is something to segment.
    workers : int, optional
        Processes that cut; by default all cores.

    Returns
    -------
    dataset : Dataset
        The same folder, opened anew.

    Raises
    ------
    InputError
        If a field cannot be read, has changed, or none holds a nucleus.
    """
    config = config or PreprocessingConfig()
    workers = workers or usable_cores()
    hidden = dataset.path / ".prepare"
    with one_at_a_time(dataset.path):
        found = find_nuclei(dataset, config, segmenter, hidden)
        _warn_of_empty_fields(dataset, found)
        write_crops(dataset, found, config, workers, hidden)
        shutil.rmtree(hidden, ignore_errors=True)
    return Dataset(dataset.path)


def _warn_of_empty_fields(dataset: Dataset, found: dict[str, Nuclei]) -> None:
    empty = [field_id for field_id, nuclei in found.items() if not len(nuclei)]
    if empty and len(empty) == len(found):
        raise InputError(
            f"{dataset.path}: no nucleus in any of {len(found)} fields; "
            "check that channel 0 is the nucleus, or set `scale`."
        )
    if empty:
        warnings.warn(
            f"{dataset.path}: no nucleus in {len(empty)} of {len(found)} fields, "
            f"which give no crops: {', '.join(empty)}",
            stacklevel=3,
        )


def crop_table(
    dataset: Dataset, found: dict[str, Nuclei], config: PreprocessingConfig
) -> pd.DataFrame:
    """
    List the crops that nuclei give under `config`, without cutting them.

    Returns
    -------
    crops : DataFrame
        Columns of crops.csv, in the order of fields and nuclei.
    """
    parts = []
    for field_id, protein_id, path in zip(
        dataset.fields["field_id"], dataset.fields["protein_id"], dataset.fields["path"],
        strict=True,
    ):  # fmt: skip
        nuclei = found[field_id]
        chosen = np.flatnonzero(select_nuclei(nuclei, config))
        if not len(chosen):
            continue
        with tifffile.TiffFile(dataset.path / path) as tiff:
            height, width = tiff.series[0].shape[-2:]
        origins, kept = crop_origins(nuclei.centroids[chosen], (height, width), config)
        chosen, origins = chosen[kept], origins[kept]
        parts.append(
            pd.DataFrame(
                {
                    "crop_id": [f"{field_id}_n{i:03d}" for i in chosen],
                    "field_id": field_id,
                    "nucleus_id": chosen,
                    "protein_id": protein_id,
                    "y0_px": origins[:, 0],
                    "x0_px": origins[:, 1],
                }
            )
        )
    if not sum(map(len, parts)):
        raise InputError(
            f"{dataset.path}: no nucleus of at least {config.minimum_area_px} pixels gives a "
            f"whole crop; lower minimum_area_px or use border_rule='shift'."
        )
    return pd.concat(parts, ignore_index=True)


@dataclass(frozen=True)
class _Chunk:
    """One unit of cutting: consecutive crops, their fields' files, and the nuclei in them."""

    number: int
    crops: pd.DataFrame
    paths: dict[str, Path]
    nuclei: dict[str, Nuclei]
    store: Path
    config: PreprocessingConfig


def _array(group: zarr.Group, name: str) -> zarr.Array:
    array = group[name]
    assert isinstance(array, zarr.Array)  # prepare made it so
    return array


def _cut_chunk(chunk: _Chunk) -> int:
    """Cut one chunk, write it into the store and leave a mark that it is whole."""
    size = chunk.config.crop_size_px
    images, masks = [], []
    for field_id, path in chunk.paths.items():
        rows = chunk.crops[chunk.crops["field_id"] == field_id]
        field = normalize_field(read_field_tiff(path), chunk.config)
        origins = rows[["y0_px", "x0_px"]].to_numpy()
        images.append(cut_crops(to_uint8(field), origins, size))
        labels = nucleus_labels(chunk.nuclei[field_id], field.shape[-2:])
        own = rows["nucleus_id"].to_numpy()[:, None, None] + 1
        masks.append(cut_crops(labels, origins, size) == own)
    group = zarr.open_group(chunk.store, mode="r+")
    window = slice(chunk.number * CHUNK_CROPS, chunk.number * CHUNK_CROPS + len(chunk.crops))
    _array(group, "image")[window] = np.concatenate(images)
    _array(group, "nuclear_mask")[window] = np.concatenate(masks)
    (chunk.store / f".done-{chunk.number}").touch()
    return chunk.number


def write_crops(
    dataset: Dataset,
    found: dict[str, Nuclei],
    config: PreprocessingConfig,
    workers: int,
    hidden: Path,
) -> None:
    """Cut all crops into ``crops.zarr``, and list them in ``crops.csv``, written last."""
    crops = crop_table(dataset, found, config)
    nuclei_sha256 = [sha256_of(dataset.path / f"nuclei.{kind}") for kind in ("csv", "yaml")]
    identity = config_hash(dataclasses.asdict(config) | {"nuclei": nuclei_sha256})
    final = dataset.path / "crops.zarr"
    if _store_identity(final) == identity:
        if not (dataset.path / "crops.csv").exists():
            write_table(crops, dataset.path / "crops.csv")
        return
    store = hidden / f"crops-{identity}.zarr"
    if _store_identity(store) != identity:
        _new_store(store, len(crops), identity, config)
    chunks = list(_chunks(dataset, crops, found, store, config))
    for _ in tqdm(_in_processes(_cut_chunk, chunks, workers), total=len(chunks), desc="crops",
                  unit="chunk"):  # fmt: skip
        pass
    (dataset.path / "crops.csv").unlink(missing_ok=True)  # a table never describes other crops
    shutil.rmtree(final, ignore_errors=True)
    os.replace(store, final)
    write_table(crops, dataset.path / "crops.csv")
    for mark in final.glob(".done-*"):
        mark.unlink()


def _store_identity(store: Path) -> str:
    try:
        return str(zarr.open_group(store, mode="r").attrs.get("identity", ""))
    except FileNotFoundError:
        return ""


def _new_store(store: Path, n: int, identity: str, config: PreprocessingConfig) -> None:
    shutil.rmtree(store, ignore_errors=True)
    group = zarr.open_group(store, mode="w")
    size = config.crop_size_px
    for name, channels, dtype in (("image", (2,), "uint8"), ("nuclear_mask", (), "bool")):
        group.create_array(
            name, shape=(n, *channels, size, size), dtype=dtype,
            chunks=(CHUNK_CROPS, *channels, size, size),
        )  # fmt: skip
    # last: a store that names its identity is complete in its layout
    group.attrs.update({"preprocessing": dataclasses.asdict(config), "identity": identity})


def _chunks(
    dataset: Dataset,
    crops: pd.DataFrame,
    found: dict[str, Nuclei],
    store: Path,
    config: PreprocessingConfig,
) -> Iterator[_Chunk]:
    files = dict(zip(dataset.fields["field_id"], dataset.fields["path"], strict=True))
    for number, start in enumerate(range(0, len(crops), CHUNK_CROPS)):
        if not (store / f".done-{number}").exists():
            rows = crops.iloc[start : start + CHUNK_CROPS]
            field_ids = rows["field_id"].unique()
            paths = {field_id: dataset.path / files[field_id] for field_id in field_ids}
            nuclei = {field_id: found[field_id] for field_id in field_ids}
            yield _Chunk(number, rows, paths, nuclei, store, config)


def _in_processes(
    work: Callable[[Item], Result], items: list[Item], workers: int
) -> Iterator[Result]:
    """Yield the results as they come; in this process when there is little to do."""
    if workers == 1 or len(items) < 8:
        yield from map(work, items)
        return
    with worker_pool(min(workers, len(items))) as pool:
        yield from pool.map(work, items)
