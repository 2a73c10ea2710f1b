"""
Preparing on many machines: the steps of `preprocessing.prepare`, handed out by Dask.

Both steps are independent by field (nuclei) and by chunk of crops, so that the whole of HPA
(some 80,000 fields) is a matter of adding workers. The dataset folder must be on a file system
that all workers see under the same path; names and outlines travel, never pixels. The
results are the files that the local path writes, byte for byte, and either resumes the other.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from tqdm import tqdm

from deepgps_core.cropping import PreprocessingConfig, normalize_field
from deepgps_core.dataset import Dataset, InputError, config_hash, sha256_of, usable_cores
from deepgps_core.nuclei import _fields_digest, _recorded, _write_shard, find_nuclei
from deepgps_core.preprocessing import (
    _chunks,
    _cut_chunk,
    _new_store,
    _store_identity,
    _warn_of_empty_fields,
    crop_table,
    write_crops,
)
from deepgps_core.segmentation import Nuclei, NucleusSegmenter, segmenter_identity

#: Fields in one task of segmentation: a second or a few, so that handing out costs nothing.
FIELDS_PER_TASK = 8
#: Tasks in flight for each thread of the cluster: bounds what the scheduler holds in memory.
TASKS_PER_THREAD = 4
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class SegmenterChoice:
    """A segmentation model by name, for workers to load; it segments nothing itself."""

    model: str
    probability_threshold: float | None
    nms_threshold: float | None
    scale: float

    @property
    def identity(self) -> str:
        """What `NucleusSegmenter` would say of itself."""
        return segmenter_identity(self.model)

    def __call__(self, nuclear_image: np.ndarray) -> Nuclei:
        raise InputError("a field was not segmented by any worker; run `deepgps prepare` again.")


@lru_cache(maxsize=1)
def _segmenter(choice: SegmenterChoice) -> NucleusSegmenter:
    """Load the model, once in each worker process."""
    return NucleusSegmenter(
        choice.model, choice.probability_threshold, choice.nms_threshold, choice.scale
    )


@lru_cache(maxsize=1)
def _dataset(path: Path, digest: str) -> Dataset:
    """Open the dataset once in each worker; another `digest` of its fields opens it anew."""
    return Dataset(path)


def _segment_fields(
    dataset_path: Path,
    digest: str,
    rows: Sequence[tuple[str, str, str]],
    shards: Path,
    choice: SegmenterChoice,
    config: PreprocessingConfig,
) -> int:
    """Segment some fields (name, path, sha256) and leave a shard of each; returns how many."""
    dataset = _dataset(dataset_path, digest)
    for field_id, relative, sha256 in rows:
        path = dataset_path / relative
        if path.exists() and sha256 and sha256_of(path) != sha256:
            raise InputError(
                f"{path}: not the file that fields.csv describes (its sha256 differs); "
                "restore it or make the dataset again."
            )
        image = normalize_field(dataset.read_field(field_id), config)[0]
        _write_shard(shards / f"{field_id}.npz", _segmenter(choice)(image))
    return len(rows)


def _handed_out(
    client: Any, work: Callable[..., Result], tasks: Iterator[tuple[Any, ...]]
) -> Iterator[Result]:
    """Yield results as they come, with no more tasks in flight than the cluster can use."""
    from distributed import as_completed

    room = TASKS_PER_THREAD * max(1, sum(client.nthreads().values()))

    def submit(task: tuple[Any, ...]) -> Any:
        # impure: a shard that was deleted has to be written again; a lost worker is no error
        return client.submit(work, *task, pure=False, retries=2)

    running = as_completed([submit(task) for task in islice(tasks, room)])
    for future in running:
        yield future.result()
        if (task := next(tasks, None)) is not None:
            running.add(submit(task))


def _find_nuclei(
    client: Any,
    dataset: Dataset,
    config: PreprocessingConfig,
    choice: SegmenterChoice,
    hidden: Path,
) -> dict[str, Nuclei]:
    """Have the missing shards made; `find_nuclei` then finds nothing left to segment."""
    digest = _fields_digest(dataset)
    record = {
        "model": choice.identity,
        "fields_sha256": digest,
        **config.of_segmentation(),
    }
    if _recorded(dataset.path / "nuclei.yaml") != record:
        shards = hidden / f"nuclei-{config_hash(record)}"
        columns = (dataset.fields[name] for name in ("field_id", "path", "sha256"))
        pending = [row for row in zip(*columns, strict=True)
                   if not (shards / f"{row[0]}.npz").exists()]  # fmt: skip
        tasks = (
            (dataset.path, digest, pending[start : start + FIELDS_PER_TASK], shards, choice, config)
            for start in range(0, len(pending), FIELDS_PER_TASK)
        )
        with tqdm(total=len(pending), desc="nuclei", unit="field") as bar:
            for count in _handed_out(client, _segment_fields, tasks):
                bar.update(count)
    return find_nuclei(dataset, config, cast(NucleusSegmenter, choice), hidden)


def _cut_crops(
    client: Any,
    dataset: Dataset,
    found: dict[str, Nuclei],
    config: PreprocessingConfig,
    hidden: Path,
) -> None:
    """Have the missing chunks cut; `write_crops` then only moves the store into place."""
    nuclei_sha256 = [sha256_of(dataset.path / f"nuclei.{kind}") for kind in ("csv", "yaml")]
    identity = config_hash(asdict(config) | {"nuclei": nuclei_sha256})
    if _store_identity(dataset.path / "crops.zarr") != identity:
        crops = crop_table(dataset, found, config)
        store = hidden / f"crops-{identity}.zarr"
        if _store_identity(store) != identity:
            _new_store(store, len(crops), identity, config)
        chunks = list(_chunks(dataset, crops, found, store, config))
        done = _handed_out(client, _cut_chunk, ((chunk,) for chunk in chunks))
        for _ in tqdm(done, total=len(chunks), desc="crops", unit="chunk"):
            pass
    write_crops(dataset, found, config, 1, hidden)


@contextmanager
def cluster_client(scheduler: str | None = None, workers: int | None = None) -> Iterator[Any]:
    """
    Yield a Dask client: of a scheduler that runs, or of a cluster of processes on this machine.

    Parameters
    ----------
    scheduler : str, optional
        Its address, such as ``tcp://10.0.0.1:8786``; by default, or as "local", a cluster of
        `workers` processes (all cores) is started here and ended afterwards.

    Raises
    ------
    InputError
        If dask.distributed is not installed, or no scheduler answers there.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise InputError(
            f"preparing on a cluster needs dask.distributed ({error}); install "
            "deepgps-core[fetch], or leave out --scheduler."
        ) from None
    if scheduler not in (None, "", "local"):
        try:
            client = Client(scheduler, timeout="5s")
        except (OSError, ValueError, TimeoutError) as error:
            reason = " ".join(str(error).split())[:120]
            raise InputError(
                f"{scheduler}: no Dask scheduler answers ({reason}); start one with "
                "`dask scheduler`, or use --scheduler local."
            ) from None
        with client:
            yield client
        return
    # one thread each: TensorFlow and zarr bring their own, and results must not depend on them
    with (
        LocalCluster(
            n_workers=workers or usable_cores(),
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def prepare_on_cluster(
    dataset: Dataset,
    client: Any,
    config: PreprocessingConfig | None = None,
    model: str | Path = "embedded",
) -> Dataset:
    """
    Segment and cut all fields of a dataset on a Dask cluster.

    Parameters
    ----------
    dataset : Dataset
        Its folder must lie where all workers see it under the same absolute path.
    client : distributed.Client
        Of a running cluster, as `cluster_client` yields it.
    model : str or Path
        Segmentation model: "embedded", a published name, or a folder all workers see.

    Returns
    -------
    dataset : Dataset
        The same folder, opened anew; equal to what `preprocessing.prepare` makes of it.

    Raises
    ------
    InputError
        If a field cannot be read, has changed, or none holds a nucleus.
    """
    config = config or PreprocessingConfig()
    dataset = Dataset(dataset.path.resolve())
    choice = SegmenterChoice(
        str(model), config.probability_threshold, config.nms_threshold, config.scale
    )
    hidden = dataset.path / ".prepare"
    found = _find_nuclei(client, dataset, config, choice, hidden)
    _warn_of_empty_fields(dataset, found)
    _cut_crops(client, dataset, found, config, hidden)
    shutil.rmtree(hidden, ignore_errors=True)
    return Dataset(dataset.path)
