"""
From a protein structure to a point cloud of its surface, n x 6, as PointNet takes it.

Follows the paper's Methods, "Feature representation of the protein tertiary structure": points
from PyUUL [Orlando et al. 2022], and three columns that say carbon, oxygen or
nitrogen. What the paper leaves open is a field of `PointCloudConfig`: how many points, centring,
scale, and sulphur. PyUUL's `PointCloudSurface` gives coordinates only and compares each atom
with each other one, so its memory grows with the square of the chain; the surface here is the
same, found with a KD-tree in memory linear in atoms and points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from deepgps_core.dataset import InputError
from deepgps_core.structure_io import Structure

#: Columns 3 to 5 of a point cloud, in the paper's order.
CHANNELS = ("C", "O", "N")
#: Radii in angstrom that PyUUL takes from the FoldX force field: by element, and exceptions.
ELEMENT_RADII = {"C": 1.7, "O": 1.37, "N": 1.45, "S": 1.7, "SE": 1.7, "P": 1.49}
CARBONYL_RADIUS, METHYL_RADIUS, UNKNOWN_RADIUS = 1.55, 1.75, 1.0
_CARBONYL = {("ARG", "CZ"), ("ASN", "CG"), ("ASP", "CG"), ("GLN", "CD"), ("GLU", "CD")}
_METHYL = {
    ("ALA", "CB"), ("ILE", "CG2"), ("ILE", "CD1"), ("LEU", "CD1"), ("LEU", "CD2"), ("MET", "CE"),
    ("THR", "CG2"), ("VAL", "CG1"), ("VAL", "CG2"),
}  # fmt: skip
#: PyUUL's: atoms farther apart than this (angstrom) do not bury each other's points.
NEIGHBOR_ANGSTROM = 5.0
#: PyUUL's: width of an atom's density relative to its radius.
DENSITY_WIDTH = 0.93
#: Largest occupancy, by the other atoms, of a point on the surface.
SURFACE_OCCUPANCY = 0.5
#: Distances computed at a time; bounds memory at any size of protein.
_BLOCK = 1_000_000
_GOLDEN = (1 + 5**0.5) / 2


@dataclass(frozen=True)
class PointCloudConfig:
    """
    How a structure becomes points; the paper states none of these.

    Parameters
    ----------
    n_points : int
        Points a protein, drawn from the surface with replacement, as PyUUL draws them.
    sulphur : str
        What a point next to sulphur (or another element that is not C, O, N) is called:
        "carbon" (PyUUL's radii of the two are equal) or "none" (three zeros).
    scale_angstrom : float, optional
        Centred coordinates are divided by this, so that large proteins stay large; None divides
        by the distance of the farthest point instead, and forgets the size.
    external_radius_factor : float
        Points are tried this many radii from each atom; PyUUL's default.
    seed : int
        Decides which points are drawn.
    """

    n_points: int = 1024
    sulphur: str = "carbon"
    scale_angstrom: float | None = 50.0
    external_radius_factor: float = 1.4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_points < 1 or self.external_radius_factor <= 0:
            raise InputError(
                f"point cloud: n_points {self.n_points} and external_radius_factor "
                f"{self.external_radius_factor} have to be positive; raise them."
            )
        if self.scale_angstrom is not None and self.scale_angstrom <= 0:
            raise InputError(
                f"point cloud: scale_angstrom is {self.scale_angstrom}; give more than 0, or None."
            )
        if self.sulphur not in ("carbon", "none"):
            raise InputError(
                f"point cloud: sulphur {self.sulphur!r} is unknown; choose carbon or none."
            )


def atom_radii(structure: Structure) -> np.ndarray:
    """
    Return the radius of each atom in angstrom, as PyUUL does.

    Returns
    -------
    radii : ndarray, shape (A,), dtype float32
    """
    residues, names = structure.residue_names.tolist(), structure.atom_names.tolist()
    radii = [ELEMENT_RADII.get(e, UNKNOWN_RADIUS) for e in structure.elements.tolist()]
    for i, pair in enumerate(zip(residues, names, strict=True)):
        if pair[1] == "C" or pair in _CARBONYL:
            radii[i] = CARBONYL_RADIUS
        elif pair in _METHYL:
            radii[i] = METHYL_RADIUS
    return np.array(radii, dtype=np.float32)


def fibonacci_sphere(n: int) -> np.ndarray:
    """
    Spread points evenly over the unit sphere.

    Returns
    -------
    points : ndarray, shape (n, 3), dtype float32
    """
    i = np.arange(n)
    longitude = 2 * np.pi * i / _GOLDEN
    height = 1 - 2 * (i + 0.5) / n
    across = np.sqrt(1 - height**2)
    points = np.stack([np.cos(longitude) * across, np.sin(longitude) * across, height], axis=1)
    return points.astype(np.float32)


def _atom_blocks(n_neighbors: np.ndarray, per_atom: int) -> list[np.ndarray]:
    """Split atoms into runs of at most `_BLOCK` distances (one atom at least)."""
    block = np.cumsum(n_neighbors * per_atom) // _BLOCK
    return np.split(np.arange(len(block)), np.flatnonzero(np.diff(block)) + 1)


def _free_points(
    points: np.ndarray, neighbors: list[list[int]], coordinates: np.ndarray, radii: np.ndarray
) -> np.ndarray:
    """
    Tell which points (a, n, 3) of `a` atoms lie free of the atoms' neighbors, bool (a, n).

    A point's occupancy is ``1 - prod(1 - exp(-d^2 / (0.93 r)^2))`` over those neighbors.
    """
    counts = [len(found) for found in neighbors]
    owner = np.repeat(np.arange(len(points)), counts)  # one row a pair of atoms
    other = np.concatenate(neighbors).astype(int)
    away = points[owner] - coordinates[other][:, None]  # (pairs, n, 3)
    squared = np.einsum("pnk,pnk->pn", away, away)
    with np.errstate(divide="ignore"):  # a point in the middle of another atom: log 0
        free = np.log1p(-np.exp(-squared / (DENSITY_WIDTH * radii[other][:, None]) ** 2))
    log_free = np.zeros(points.shape[:2], dtype=np.float32)
    starts = np.cumsum([0, *counts[:-1]])
    filled = np.array(counts) > 0
    if len(owner):
        log_free[filled] = np.add.reduceat(free, starts[filled], axis=0)
    return 1 - np.exp(log_free) <= SURFACE_OCCUPANCY


def surface_points(
    coordinates: np.ndarray, radii: np.ndarray, per_atom: int, external_radius_factor: float = 1.4
) -> tuple[np.ndarray, np.ndarray]:
    """
    Find all candidate points on the surface of a molecule.

    Each atom gets `per_atom` points on a sphere about it; those that its neighbors do not bury
    are on the surface.

    Parameters
    ----------
    coordinates : ndarray, shape (A, 3), dtype float32
        Angstrom.
    radii : ndarray, shape (A,), dtype float32
        Angstrom.
    per_atom : int
    external_radius_factor : float

    Returns
    -------
    points : ndarray, shape (S, 3), dtype float32
        In the order of PyUUL's.
    atoms : ndarray, shape (S,), dtype int64
        Which atom each was tried around.
    """
    sphere = fibonacci_sphere(per_atom)
    tree = cKDTree(coordinates)
    counts = tree.query_ball_point(coordinates, NEIGHBOR_ANGSTROM, return_length=True)
    found = []
    for atoms in _atom_blocks(counts, per_atom):
        outer = (external_radius_factor * radii[atoms])[:, None, None]
        points = coordinates[atoms][:, None] - sphere * outer  # (a, n, 3)
        around = tree.query_ball_point(coordinates[atoms], NEIGHBOR_ANGSTROM)
        others = [[i for i in row if i != atom] for row, atom in zip(around, atoms, strict=True)]
        row, column = _free_points(points, others, coordinates, radii).nonzero()
        found.append((points[row, column], atoms[row]))
    return np.concatenate([p for p, _ in found]), np.concatenate([a for _, a in found])


def candidates_per_atom(n_atoms: int, n_points: int) -> int:
    """Return how many points PyUUL tries around each atom: at least twice what is asked for."""
    return 2 * (n_points // n_atoms + 1)


def element_columns(
    points: np.ndarray, coordinates: np.ndarray, elements: np.ndarray, sulphur: str = "carbon"
) -> np.ndarray:
    """
    Say of each point which element its nearest atom is.

    Returns
    -------
    columns : ndarray, shape (P, 3), dtype float32
        One-hot in the order of `CHANNELS`.
    """
    _, nearest = cKDTree(coordinates).query(points)
    element = elements[nearest]
    columns = (element[:, None] == np.array(CHANNELS)).astype(np.float32)
    if sulphur == "carbon":
        columns[~columns.any(axis=1), CHANNELS.index("C")] = 1
    return columns


def point_cloud(structure: Structure, config: PointCloudConfig | None = None) -> np.ndarray:
    """
    Turn a structure into points on its surface with the element next to each.

    Parameters
    ----------
    structure : Structure
    config : PointCloudConfig, optional

    Returns
    -------
    cloud : ndarray, shape (P, 6), dtype float32
        Coordinates, centred on the points' mean and scaled; then C, O, N as 0 or 1.

    Raises
    ------
    InputError
        If no point of the structure is on a surface.
    """
    config = config or PointCloudConfig()
    coordinates = structure.coordinates - structure.coordinates.mean(axis=0)
    per_atom = candidates_per_atom(len(structure), config.n_points)
    candidates, _ = surface_points(
        coordinates, atom_radii(structure), per_atom, config.external_radius_factor
    )
    if not len(candidates):
        raise InputError(
            f"{structure.source}: no point lies on a surface; are all atoms at one place?"
        )
    drawn = np.random.default_rng(config.seed).integers(len(candidates), size=config.n_points)
    points = candidates[drawn]
    columns = element_columns(points, coordinates, structure.elements, config.sulphur)
    points = points - points.mean(axis=0)
    scale = config.scale_angstrom or max(float(np.linalg.norm(points, axis=1).max()), 1e-6)
    return np.concatenate([points / scale, columns], axis=1).astype(np.float32)
