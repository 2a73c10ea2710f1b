"""
A geometry-only stand-in for a predicted structure, made from the sequence and labelled simulated.

It has the right residues with the right heavy atoms (Chemical Component Dictionary, ideal
geometry), joined as a compact random walk of alpha carbons that packs to the density of globular
proteins, water-fearing residues inside. It is no prediction: there are no helices and no sheets,
atoms of different residues may overlap, and what it knows of the protein is its length and the
order of its residues. It lets every step after it run where real structures are not at hand.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np

from deepgps_core.dataset import check_sequence
from deepgps_core.structure_io import Structure

#: Distance of neighboring alpha carbons, angstrom.
STEP_ANGSTROM = 3.8
#: Radius of gyration of globular proteins is about 2.2 N^0.38 angstrom [Skolnick et al. 1997].
GYRATION_ANGSTROM, GYRATION_POWER = 2.2, 0.38
#: Share of a step's direction kept from the step before.
PERSISTENCE = 0.6
#: Residues; the two rare ones that the genetic code adds, and what an unclear letter is read as.
RESIDUES = {
    "A": "ALA", "R": "ARG", "N": "ASN", "D": "ASP", "C": "CYS", "Q": "GLN", "E": "GLU",
    "G": "GLY", "H": "HIS", "I": "ILE", "L": "LEU", "K": "LYS", "M": "MET", "F": "PHE",
    "P": "PRO", "S": "SER", "T": "THR", "W": "TRP", "Y": "TYR", "V": "VAL",
    "U": "SEC", "O": "PYL", "B": "ASP", "Z": "GLU", "X": "GLY",
}  # fmt: skip
_WATER_FEARING = frozenset("AVILMFWCY")


def _frame(along: np.ndarray, toward: np.ndarray) -> np.ndarray:
    """Build orthonormal axes (..., 3, 3): first `along`, second in the plane with `toward`."""
    first = along / np.maximum(np.linalg.norm(along, axis=-1, keepdims=True), 1e-9)
    second = toward - (toward * first).sum(axis=-1, keepdims=True) * first
    second /= np.maximum(np.linalg.norm(second, axis=-1, keepdims=True), 1e-9)
    return np.stack([first, second, np.cross(first, second)], axis=-2)


@lru_cache(maxsize=64)
def residue_template(residue_name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Return a residue's heavy atoms in its own axes, alpha carbon at the origin.

    Returns
    -------
    coordinates : ndarray, shape (a, 3), dtype float64
        Angstrom; first axis from N to C, second toward the side chain.
    atom_names, elements : ndarray, shape (a,), dtype str
    """
    import biotite.structure.info as info

    atoms = info.residue(residue_name)
    atoms = atoms[(atoms.element != "H") & (atoms.atom_name != "OXT")]
    names = atoms.atom_name.astype(str)
    place = {name: atoms.coord[i].astype(float) for i, name in enumerate(names)}
    side = np.isin(names, ["N", "CA", "C", "O"], invert=True)
    center = atoms.coord[side].mean(axis=0) if side.any() else 2 * place["CA"] - place["O"]
    axes = _frame(place["C"] - place["N"], center - place["CA"])
    return (atoms.coord - place["CA"]) @ axes.T, names, atoms.element.astype(str)


def _alpha_carbons(water_fearing: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Walk in steps of 3.8 angstrom, drawn back from the edge of a ball; (L, 3)."""
    n = len(water_fearing)
    ball = GYRATION_ANGSTROM * n**GYRATION_POWER * (5 / 3) ** 0.5
    kicks = rng.normal(size=(n, 3))
    places = np.zeros((n, 3))
    x = y = z = 0.0
    u, v, w = kicks[0]
    for i in range(1, n):
        # water-fearing residues feel the pull of the middle from farther inside
        far = (x * x + y * y + z * z) ** 0.5 / ball
        pull = max(0.0, far - (0.8 if water_fearing[i] else 1.2)) * 3 / max(far * ball, 1e-9)
        a, b, c = kicks[i]
        u, v, w = (
            PERSISTENCE * u + 0.6 * a - pull * x,
            PERSISTENCE * v + 0.6 * b - pull * y,
            PERSISTENCE * w + 0.6 * c - pull * z,
        )
        length = (u * u + v * v + w * w) ** 0.5
        u, v, w = u / length, v / length, w / length
        x, y, z = x + STEP_ANGSTROM * u, y + STEP_ANGSTROM * v, z + STEP_ANGSTROM * w
        places[i] = x, y, z
    return places - places.mean(axis=0)


def coarse_chain(sequence: str, *, seed: int = 0, protein_id: str = "protein") -> Structure:
    """
    Make the stand-in structure of a protein; equal sequences get equal chains.

    Parameters
    ----------
    sequence : str
    seed : int
    protein_id : str
        Named in `Structure.source`.

    Returns
    -------
    structure : Structure
        With `simulated` set.

    Raises
    ------
    InputError
        If the sequence is no protein's.

    Examples
    --------
    >>> structure = coarse_chain("MGK")
    >>> len(structure), structure.simulated
    (21, True)
    """
    sequence = check_sequence(protein_id, sequence)
    digest = hashlib.sha256(sequence.encode()).digest()
    rng = np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])
    inside = np.array([letter in _WATER_FEARING for letter in sequence])
    alpha = _alpha_carbons(inside, rng)
    along = np.gradient(alpha, axis=0) if len(alpha) > 1 else np.array([[1.0, 0.0, 0.0]])
    outward = np.where(inside[:, None], -alpha, alpha) / (1 + np.linalg.norm(alpha, axis=1).max())
    axes = _frame(along, outward + 0.3 * rng.normal(size=alpha.shape))  # (L, 3, 3)
    names = [RESIDUES[letter] for letter in sequence]
    parts = [residue_template(name) for name in names]
    coordinates = [place + p[0] @ ax for place, p, ax in zip(alpha, parts, axes, strict=True)]
    counts = [len(p[0]) for p in parts]
    return Structure(
        coordinates=np.concatenate(coordinates).astype(np.float32),
        elements=np.char.upper(np.concatenate([p[2] for p in parts])),
        atom_names=np.concatenate([p[1] for p in parts]),
        residue_names=np.repeat(names, counts),
        residue_index=np.repeat(np.arange(len(names)), counts),
        sequence=sequence,
        source=f"{protein_id}, coarse chain (simulated)",
        simulated=True,
    )
