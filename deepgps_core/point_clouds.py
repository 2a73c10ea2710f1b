"""
The point clouds of a dataset's proteins: made once, kept beside its other features.

``structures/<name>.npz`` holds protein_id -> (P, 6). The name says where the structures come
from, the number of points, and a hash of every setting and sequence, so that clouds made
otherwise are never taken for these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tqdm import tqdm

from deepgps_core.coarse_chain import coarse_chain
from deepgps_core.dataset import Dataset, InputError, atomic_path, config_hash, read_table
from deepgps_core.structure import PointCloudConfig, point_cloud
from deepgps_core.structure_io import Structure, check_same_protein, read_structure

#: Where structures come from: the stand-in, or files fetched from the AlphaFold database.
SOURCES = ("chain", "alphafold")
SHIPPED = Path(__file__).parent / "data" / "structures"


def shipped_structures() -> dict[str, dict[str, str]]:
    """Return entry -> what is known of the experimental structures that come with the package."""
    content = yaml.safe_load((SHIPPED / "provenance.yaml").read_text(encoding="utf-8"))
    return {name: dict(entry) for name, entry in content["structures"].items()}


def shipped_path(entry: str) -> Path:
    """
    Return the file of an experimental structure that comes with the package.

    Raises
    ------
    InputError
        If there is none of that name.
    """
    known = shipped_structures()
    if entry not in known:
        raise InputError(
            f"{SHIPPED}: no structure {entry!r}; shipped ones are {', '.join(known)}: name one."
        )
    return SHIPPED / known[entry]["file"]


def _alphafold_structures(dataset: Dataset) -> Iterator[Structure]:
    """Read the fetched structure of each protein; refuse where there is none of its sequence."""
    table_path = dataset.path / "structures" / "alphafold.csv"
    table = read_table(table_path, ("protein_id", "path"), "run `deepgps fetch alphafold`")
    files = dict(zip(table["protein_id"], table["path"], strict=True))
    for protein_id, sequence in dataset.sequences().items():
        if not files.get(protein_id):
            raise InputError(
                f"{table_path}: no structure of protein {protein_id!r}; fetch it, or leave the "
                "protein out of proteins.csv."
            )
        structure = read_structure(dataset.path / "structures" / files[protein_id])
        check_same_protein(structure, sequence)
        yield structure


def ensure_point_clouds(
    dataset: Dataset, source: str = "chain", config: PointCloudConfig | None = None
) -> str:
    """
    Make the point clouds of all proteins of a dataset, unless they are there.

    Parameters
    ----------
    dataset : Dataset
    source : str
        "chain": the stand-in made from the sequences, simulated; "alphafold": files that
        `sources.alphafold` fetched.
    config : PointCloudConfig, optional

    Returns
    -------
    name : str
        For `read_point_clouds` and `TrainingConfig.structures`.

    Raises
    ------
    InputError
        If the source is unknown, or a protein has no structure of its own sequence.
    """
    config = config or PointCloudConfig()
    if source not in SOURCES:
        raise InputError(f"structures {source!r} are unknown; choose {' or '.join(SOURCES)}.")
    sequences = dataset.sequences()
    made_from = {"config": dataclasses.asdict(config), "sequences": sequences}
    name = f"{source}-{config.n_points}-{config_hash(made_from)[:8]}"
    if (dataset.path / "structures" / f"{name}.npz").exists():
        return name
    structures = (
        (coarse_chain(text, seed=config.seed, protein_id=key) for key, text in sequences.items())
        if source == "chain"
        else _alphafold_structures(dataset)
    )
    bar = tqdm(structures, total=len(sequences), desc="point clouds", unit="protein", disable=None)
    clouds = [point_cloud(structure, config) for structure in bar]
    write_point_clouds(dataset, name, dict(zip(sequences, clouds, strict=True)))
    return name


def write_point_clouds(dataset: Dataset, name: str, clouds: Mapping[str, np.ndarray]) -> None:
    """Write protein_id -> point cloud (P, 6) as ``structures/<name>.npz``, atomically."""
    path = dataset.path / "structures" / f"{name}.npz"
    path.parent.mkdir(exist_ok=True)
    arrays: dict[str, Any] = dict(clouds)
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def read_point_clouds(dataset: Dataset, name: str, protein_ids: Sequence[str]) -> np.ndarray:
    """
    Read the point clouds of some proteins.

    Returns
    -------
    clouds : ndarray, shape (proteins, P, 6), dtype float32
        In the order asked for.

    Raises
    ------
    InputError
        If there are none of that name, or none of a protein.
    """
    path = dataset.path / "structures" / f"{name}.npz"
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = sorted(set(protein_ids) - set(archive.files))
            if missing:
                raise InputError(
                    f"{path}: no point cloud of protein {missing[0]!r}; make them again."
                )
            return np.stack([archive[name] for name in protein_ids]).astype(np.float32)
    except FileNotFoundError:
        raise InputError(
            f"{path}: point clouds not found; make them with point_clouds.ensure_point_clouds."
        ) from None
