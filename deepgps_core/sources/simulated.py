"""
A procedural microscope: raw fields like OpenCell's, drawn from a protein's location alone.

The images this module draws are simulated, and every figure made from them says so. A field is
what OpenCell stores: uint16, two channels (nucleus, protein), 600 x 600 pixels of 0.206 um. The
simulator is given locations and never a sequence; the nucleus channel comes from a stream of
random numbers of its own, so that it carries no cue to the label. The same seed gives the same
bytes. What it leaves out: the cell cycle beyond mitosis, neighbours above and below, bleaching.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from scipy import ndimage
from tqdm import tqdm

from deepgps_core.dataset import (
    Dataset,
    DatasetInfo,
    InputError,
    atomic_path,
    config_hash,
    sha256_of,
    usable_cores,
    worker_pool,
)
from deepgps_core.sources._cells import CellGeometry, Cells, draw_cells, smooth_noise
from deepgps_core.sources._staining import Staining, stain, through_jpeg
from deepgps_core.sources._textures import TEXTURES

#: What the location words of UniProt (as SCL2205 writes them) look like under the microscope.
CATEGORIES_OF: dict[str, tuple[str, ...]] = {
    "Cytoplasm": ("cytoplasmic",),
    "Nucleus": ("nucleoplasm",),
    "Membrane": ("membrane",),
    "Mitochondrion": ("mitochondria",),
    "Endoplasmic reticulum": ("er",),
    "Secreted": ("er", "golgi"),
    "Peroxisome": ("vesicles",),
    "Cytoskeleton": ("cytoskeleton",),
    "centrosome": ("centrosome",),
    "microtubule organizing center": ("centrosome",),
} | {name: (name,) for name in TEXTURES}


@dataclasses.dataclass(frozen=True)
class SimulationConfig:
    """
    The microscope and the cells under it.

    Intensities are camera counts. ``background`` and ``nuclear_signal`` are medians measured in
    OpenCell's Hoechst channel; the protein's brightness is drawn anew for each protein. Without
    ``staining`` the cells live and their proteins carry a dye, as OpenCell's do; with it they are
    fixed, stained with antibodies and stored as JPEG, as the Human Protein Atlas's are.
    """

    seed: int = 0
    field_size_px: int = 600
    fields_per_protein: int = 1
    pixel_size_um: float = 0.206
    cell_line: str = "HEK293T-like (simulated)"
    geometry: CellGeometry = CellGeometry()
    background: float = 490.0
    nuclear_signal: float = 1700.0
    protein_background: float = 300.0
    protein_signal: float = 900.0
    protein_signal_spread: float = 0.5
    blur_px: float = 1.3
    haze_share: float = 0.22
    haze_px: float = 11.0
    counts_per_photon: float = 2.2
    read_noise: float = 9.0
    out_of_focus_share: float = 0.05
    debris_per_field: float = 2.0
    staining: Staining | None = None

    def identity(self, proteins: Sequence[str] = ()) -> str:
        """Return 16 hexadecimal digits that change with anything that changes an image."""
        settings = dataclasses.asdict(self) | {"proteins": list(proteins)}
        if self.staining is None:  # so that folders older than the option keep their name
            del settings["staining"]
        return config_hash(settings)


#: Larger, flatter, sparser cells: a second cell line for comparisons.
U2OS_LIKE = SimulationConfig(
    cell_line="U-2 OS-like (simulated)",
    geometry=CellGeometry(
        nucleus_diameter_px=92.0, nucleus_diameter_sd_px=13.0, eccentricity=0.68,
        nuclei_per_field=11.0, spacing=1.35, margin_px=62.0, mitotic_share=0.02,
    ),
    nuclear_signal=2300.0, haze_share=0.12, protein_signal_spread=0.8,
)  # fmt: skip
#: The same cells as the Human Protein Atlas shows them: fixed, two antibodies a protein, JPEG.
U2OS_STAINED = dataclasses.replace(U2OS_LIKE, staining=Staining(), blur_px=1.0)


@dataclasses.dataclass(frozen=True)
class SimulatedField:
    """A raw field (2, H, W) uint16 and the truth behind it: nucleus and cell labels (H, W)."""

    field: np.ndarray
    nucleus_labels: np.ndarray
    cell_labels: np.ndarray


def categories_of(locations: Sequence[str]) -> tuple[str, ...]:
    """
    Return the texture categories of a set of location words.

    Raises
    ------
    InputError
        If a word is unknown or there is none.
    """
    unknown = [word for word in locations if word not in CATEGORIES_OF]
    if unknown or not locations:
        raise InputError(
            f"simulator: location {unknown[0] if unknown else ''!r} is unknown; "
            f"use one of {', '.join(CATEGORIES_OF)}."
        )
    return tuple(dict.fromkeys(name for word in locations for name in CATEGORIES_OF[word]))


def _stream(config: SimulationConfig, *words: object) -> np.random.Generator:
    """Return a random stream of its own for each combination of words."""
    keys = [zlib.crc32(str(word).encode()) for word in words]
    return np.random.default_rng(np.random.SeedSequence([config.seed, *keys]))


def _expose(
    density: np.ndarray, background: float, rng: np.random.Generator, config: SimulationConfig,
    *, sharpness: float = 1.0,
) -> np.ndarray:  # fmt: skip
    """Send a density (counts above background) through optics and camera; uint16."""
    sharp = ndimage.gaussian_filter(density, config.blur_px * sharpness)
    small = ndimage.zoom(density, 0.25, order=1)
    haze = ndimage.zoom(ndimage.gaussian_filter(small, config.haze_px / 4), 4, order=1)
    seen = (1 - config.haze_share) * sharp + config.haze_share * haze
    slope = 1 + 0.06 * smooth_noise(rng, density.shape, 300)
    light = np.clip(seen + background * slope, 0, None)
    photons = rng.poisson(light / config.counts_per_photon)
    noise = rng.normal(0, config.read_noise, density.shape)
    return np.clip(photons * config.counts_per_photon + noise, 0, 65535).astype(np.uint16)


def _nuclear_channel(
    cells: Cells, rng: np.random.Generator, config: SimulationConfig
) -> np.ndarray:
    """Draw the DNA stain: bright in proportion to DNA, grainy, brighter where condensed."""
    brightness = rng.lognormal(0, 0.42, cells.n + 1) * np.where(cells.mitotic, 2.1, 1.0)
    grain = 1 + 0.22 * smooth_noise(rng, cells.nuclei.shape, 7)
    dome = np.clip(cells.inside / 9, 0, 1) ** 0.5
    density = config.nuclear_signal * brightness[cells.nuclei] * (cells.nuclei > 0) * grain * dome
    for _ in range(rng.poisson(config.debris_per_field)):
        radius = rng.uniform(3, 11)
        y, x = rng.uniform(0, config.field_size_px, 2)
        rows, columns = np.ogrid[: config.field_size_px, : config.field_size_px]
        dot = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        density = np.where(dot, rng.uniform(0.5, 2.0) * config.nuclear_signal, density)
    blurred = rng.uniform() < config.out_of_focus_share
    return _expose(
        density.astype(np.float32), config.background, rng, config, sharpness=3.0 if blurred else 1
    )


@dataclasses.dataclass(frozen=True)
class _Protein:
    """What is the same in every field of one protein."""

    weights: np.ndarray
    ratio: float
    brightness: float
    sharpness: float


def _draw_protein(
    categories: Sequence[str], rng: np.random.Generator, config: SimulationConfig
) -> _Protein:
    """Draw how a protein deviates from the others of its class."""
    textures = [TEXTURES[name] for name in categories]
    weights = rng.dirichlet(np.full(len(textures), 4.0))
    center = weights @ np.log([texture.ratio for texture in textures])
    spread = weights @ np.array([texture.spread for texture in textures])
    return _Protein(
        weights=weights,
        ratio=float(np.exp(rng.normal(center, spread))),
        brightness=config.protein_signal * rng.lognormal(0, config.protein_signal_spread),
        sharpness=float(rng.lognormal(0, 0.15)),
    )


def _protein_density(
    categories: Sequence[str], protein: _Protein, cells: Cells, rng: np.random.Generator
) -> np.ndarray:
    """Mix the categories' textures, at the protein's nuclear / cytoplasmic ratio."""
    nucleus, cytoplasm = cells.nuclei > 0, cells.cytoplasm
    level: dict[bool, np.ndarray] = {
        here: np.zeros(nucleus.shape, np.float32) for here in (True, False)
    }
    for name, weight in zip(categories, protein.weights, strict=True):
        drawn = TEXTURES[name].density(cells, rng)
        place = nucleus if TEXTURES[name].nuclear else cytoplasm
        level[TEXTURES[name].nuclear] += weight * drawn / max(float(drawn[place].mean()), 1e-6)
    # a compartment no category fills gets the even shine of what is above and below the focus
    for is_nuclear, place in ((True, nucleus), (False, cytoplasm)):
        if not level[is_nuclear].any():
            level[is_nuclear] = place * (1 + 0.06 * smooth_noise(rng, place.shape, 12))
        else:
            level[is_nuclear] /= max(float(level[is_nuclear][place].mean()), 1e-6)
    ratio = protein.ratio * rng.lognormal(0, 0.12, cells.n + 1)
    ratio[cells.mitotic] = 1.0  # no envelope, no difference
    expression = rng.lognormal(0, 0.25, cells.n + 1)
    inside = 2 * ratio / (1 + ratio)
    return expression[cells.cells] * (
        level[True] * inside[cells.cells] + level[False] * (2 - inside)[cells.cells]
    )


def simulate_field(
    locations: Sequence[str],
    protein_id: str = "P00000",
    field_number: int = 0,
    config: SimulationConfig | None = None,
) -> SimulatedField:
    """
    Draw one field.

    Parameters
    ----------
    locations : sequence of str
        Location words (a key of `CATEGORIES_OF`), one or several. Nothing else of the protein
        is used but its name, and that only to seed.
    protein_id : str
        Proteins of one class differ by it.
    field_number : int
        Fields of one protein differ by it.
    config : SimulationConfig, optional
        The microscope.

    Returns
    -------
    field : SimulatedField
        uint16 (2, H, W), and the label images behind it, int32 (H, W).

    Raises
    ------
    InputError
        If a location is unknown.
    """
    config = config or SimulationConfig()
    categories = categories_of(locations)
    scene = _stream(config, protein_id, field_number, "nuclei")
    cells = draw_cells(scene, config.geometry, config.field_size_px)
    nuclear = _nuclear_channel(cells, scene, config)
    protein = _draw_protein(categories, _stream(config, protein_id, "protein"), config)
    rng = _stream(config, protein_id, field_number, "texture")
    density = protein.brightness * _protein_density(categories, protein, cells, rng)
    if config.staining:
        number = field_number % config.staining.antibodies
        antibody = _stream(config, protein_id, number, "antibody")
        density = stain(density, cells, config.staining, antibody, rng)
    shown = _expose(
        density.astype(np.float32), config.protein_background, rng, config,
        sharpness=protein.sharpness,
    )  # fmt: skip
    channels = [nuclear, shown]
    if config.staining:
        channels = [through_jpeg(x, config.staining.jpeg_quality) for x in channels]
    return SimulatedField(np.stack(channels), cells.nuclei, cells.cells)


def _write_field(
    path: Path, locations: tuple[str, ...], protein_id: str, number: int, config: SimulationConfig
) -> str:
    """Draw and write one field unless its file is there; return its SHA-256."""
    if not path.exists():
        drawn = simulate_field(locations, protein_id, number, config)
        with atomic_path(path) as temporary:
            tifffile.imwrite(
                temporary, drawn.field, photometric="minisblack", metadata={"axes": "CYX"},
                compression="zlib", compressionargs={"level": 1},
            )  # fmt: skip
    return sha256_of(path)


def simulate_dataset(
    path: Path | str,
    proteins: pd.DataFrame,
    config: SimulationConfig | None = None,
    workers: int | None = None,
    labels: Sequence[str] = (),
) -> Dataset:
    """
    Draw fields of all proteins and write them as a dataset folder.

    A killed call is continued by the next: a field's file is whole or absent, and
    ``dataset.yaml`` is written last. Files drawn under another configuration are not mixed in:
    the folder name of the fields carries the configuration's hash.

    Parameters
    ----------
    path : Path or str
        The dataset folder.
    proteins : DataFrame
        The columns of ``proteins.csv``; only protein_id, gene and locations are used to draw.
    config : SimulationConfig, optional
        The microscope.
    workers : int, optional
        Processes; by default one a core.
    labels : sequence of str
        The label vocabulary, in order; by default the labels found, sorted.

    Returns
    -------
    dataset : Dataset

    Raises
    ------
    InputError
        If a location is unknown, or the folder holds a dataset of another configuration.
    """
    path, config = Path(path), config or SimulationConfig()
    identity = config.identity(list(proteins["protein_id"]))
    if (path / "dataset.yaml").exists():
        dataset = Dataset(path)
        if dataset.info.config_hash == identity:
            return dataset
        raise InputError(f"{path}: holds a dataset made otherwise; remove it or choose a new name.")
    jobs = []
    for protein_id, gene, words in proteins[["protein_id", "gene", "locations"]].to_numpy():
        locations = tuple(words.split(";"))
        categories_of(locations)
        for number in range(config.fields_per_protein):
            name = f"OC-FOV_{gene or protein_id}_{protein_id}_FID{number:08d}_proj"
            file = path / "fields" / identity / f"{name}.tif"
            jobs.append((name, file, locations, protein_id, number))
    rows = []
    with worker_pool(workers or usable_cores()) as pool:
        futures = [
            pool.submit(_write_field, file, locations, protein_id, number, config)
            for _, file, locations, protein_id, number in jobs
        ]
        bar = tqdm(zip(jobs, futures, strict=True), total=len(jobs), desc="simulate", unit="field")
        for (name, file, _, protein_id, _), future in bar:
            relative = file.relative_to(path).as_posix()
            rows.append((name, protein_id, relative, future.result()))
    fields = pd.DataFrame(rows, columns=["field_id", "protein_id", "path", "sha256"])
    info = DatasetInfo(
        name=path.name, source="deepgps_core.sources.simulated", release=f"seed {config.seed}",
        licence="CC BY 4.0", images="simulated", cell_line=config.cell_line,
        pixel_size_um=config.pixel_size_um,
        labels=tuple(labels) or tuple(sorted(set(proteins["label"]) - {""})), config_hash=identity,
    )  # fmt: skip
    return Dataset.create(path, info, proteins, fields)
