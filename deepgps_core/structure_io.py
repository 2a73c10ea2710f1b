"""
Protein structures from PDB and mmCIF files, read so that nothing is guessed in silence.

What a point cloud needs of a file (paper, Methods, "Feature representation of the protein
tertiary structure"): the heavy atoms of one protein chain. Experimental files hold more, and
less. What is left out is listed in `Structure.notes`; what cannot be decided is refused.
Predicted structures, as the paper used, need none of this. Confidence (pLDDT) is not used.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from deepgps_core.dataset import MAX_RESIDUES, InputError

#: Largest file that is read, unpacked: over ten times the largest single chain.
MAX_FILE_BYTES = 200_000_000
#: Least share of a residue's heavy atoms, over all residues, that makes a surface.
MIN_ATOM_SHARE = 0.5
_SUFFIXES = (".pdb", ".ent", ".cif", ".mmcif")
_FIRST_MODEL: dict[str, Any] = {"model": 1, "altloc": "all", "extra_fields": ["occupancy"]}


@dataclass(frozen=True)
class Structure:
    """
    The heavy atoms of one protein chain.

    Parameters
    ----------
    coordinates : ndarray, shape (A, 3), dtype float32
        Angstrom.
    elements : ndarray, shape (A,), dtype str
        "C", "N", "O", "S", ...
    atom_names, residue_names : ndarray, shape (A,), dtype str
        As in the file: "CA", "ALA".
    residue_index : ndarray, shape (A,), dtype int
        Which residue of `sequence` an atom belongs to.
    sequence : str
        One letter a residue that has atoms; a modified residue has its parent's letter.
    source : str
        File and chain, or how it was made.
    simulated : bool
        True for the stand-in made from a sequence.
    notes : tuple of str
        What was left out or replaced on reading.
    """

    coordinates: np.ndarray
    elements: np.ndarray
    atom_names: np.ndarray
    residue_names: np.ndarray
    residue_index: np.ndarray
    sequence: str
    source: str
    simulated: bool = False
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.coordinates)


@lru_cache(maxsize=4096)
def heavy_atom_count(residue_name: str) -> int:
    """
    Count the heavy atoms of a residue inside a chain, by the Chemical Component Dictionary.

    Examples
    --------
    >>> heavy_atom_count("GLY"), heavy_atom_count("TRP")
    (4, 14)
    """
    import biotite.structure.info as info

    try:
        residue = info.residue(residue_name)
    except KeyError:
        return 0
    return int(np.sum((residue.element != "H") & (residue.atom_name != "OXT")))


@lru_cache(maxsize=4096)
def _letter(residue_name: str) -> str:
    """Return the one-letter code of an amino acid or of its parent; X where there is none."""
    import biotite.structure.info as info

    return info.one_letter_code(residue_name) or "X"


def _read_text(path: Path) -> str:
    """Read a plain or gzipped text file, within the size limit."""
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: structure not found; check the path.") from None
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be read ({error}); get it again.") from None
    if len(content) > MAX_FILE_BYTES:
        raise InputError(
            f"{path}: over {MAX_FILE_BYTES // 10**6} MB; cut out the protein's own chain."
        )
    return content.decode("utf-8", errors="replace")


def _parse(path: Path) -> tuple[Any, int]:
    """Return the first model's atoms (biotite) and the number of models."""
    from biotite.structure.io import pdb, pdbx

    name = path.name.removesuffix(".gz")
    if not name.lower().endswith(_SUFFIXES):
        raise InputError(f"{path}: no known ending; name it {', '.join(_SUFFIXES)} (or .gz).")
    stream = io.StringIO(_read_text(path))
    # biotite raises many kinds on damaged files, among them IndexError and its own
    try:
        if name.lower().endswith((".pdb", ".ent")):
            file = pdb.PDBFile.read(stream)
            return file.get_structure(**_FIRST_MODEL), file.get_model_count()
        table = pdbx.CIFFile.read(stream)
        return pdbx.get_structure(table, **_FIRST_MODEL), pdbx.get_model_count(table)
    except Exception as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise InputError(f"{path}: no readable atoms ({reason}); get it again.") from None


def _one_place_each(atoms: Any, notes: list[str]) -> Any:
    """Keep one of the alternative places of an atom: the most occupied, else the first."""
    keys = list(
        zip(
            atoms.chain_id.tolist(), atoms.res_id.tolist(), atoms.ins_code.tolist(),
            atoms.atom_name.tolist(), strict=True,
        )
    )  # fmt: skip
    best: dict[tuple[Any, ...], int] = {}
    for row, key in enumerate(keys):
        if key not in best or atoms.occupancy[row] > atoms.occupancy[best[key]]:
            best[key] = row
    if len(best) < len(keys):
        notes.append(f"{len(keys) - len(best)} alternative places of atoms left out")
    return atoms[np.sort(list(best.values()))]


def _protein_atoms(atoms: Any, path: Path, notes: list[str]) -> Any:
    """Keep the heavy atoms of amino acids, modified ones included."""
    from biotite.structure import filter_amino_acids

    is_protein = filter_amino_acids(atoms)
    others = ~is_protein
    if others.any():
        names = sorted(set(atoms.res_name[others].tolist()))
        notes.append(
            f"{int(others.sum())} atoms outside the protein left out ({', '.join(names[:5])})"
        )
    hydrogen = np.isin(atoms.element, ["H", "D"])
    kept = atoms[is_protein & ~hydrogen]
    if not len(kept):
        raise InputError(f"{path}: no atoms of a protein; give a file that holds one.")
    if not np.isfinite(kept.coord).all():
        raise InputError(f"{path}: atoms without coordinates (NaN); remove or repair them.")
    return kept


def _one_chain(atoms: Any, path: Path, chain: str | None, notes: list[str]) -> Any:
    chains = list(dict.fromkeys(atoms.chain_id.tolist()))
    if chain is None and len(chains) > 1:
        raise InputError(
            f"{path}: {len(chains)} protein chains ({', '.join(chains[:8])}); name one (chain=)."
        )
    if chain is not None and chain not in chains:
        raise InputError(
            f"{path}: no protein chain {chain!r}; it has {', '.join(chains[:8])}: name one."
        )
    if len(chains) > 1:
        notes.append(f"chain {chain} of {len(chains)}")
    return atoms[atoms.chain_id == (chain or chains[0])]


def _check_complete(names: list[str], n_atoms: int, path: Path, notes: list[str]) -> None:
    """Note missing atoms; refuse a file that has little more than the chain's trace."""
    expected = sum(heavy_atom_count(name) for name in names)
    missing = expected - n_atoms
    if n_atoms < MIN_ATOM_SHARE * expected:
        raise InputError(
            f"{path}: {n_atoms} of {expected} heavy atoms; a trace has no surface: give a file "
            "with side chains."
        )
    if missing > 0:
        notes.append(f"{missing} of {expected} heavy atoms missing")


def read_structure(
    path: Path | str, *, chain: str | None = None, max_residues: int = MAX_RESIDUES
) -> Structure:
    """
    Read the heavy atoms of one protein chain.

    Parameters
    ----------
    path : Path or str
        PDB (.pdb, .ent) or mmCIF (.cif, .mmcif), plain or gzipped.
    chain : str, optional
        Needed where the file has several protein chains.
    max_residues : int
        Refuse longer chains; the paper has none over 2,700.

    Returns
    -------
    structure : Structure
        Of the first model, each atom at its most occupied place, without hydrogens, water and
        ligands; modified residues are kept. `Structure.notes` says what was left out.

    Raises
    ------
    InputError
        If the file cannot be read, has no protein, several chains and none is named, mostly
        missing atoms, or too many residues.
    """
    from biotite.structure import get_residue_starts, spread_residue_wise

    path = Path(path)
    notes: list[str] = []
    atoms, n_models = _parse(path)
    if n_models > 1:
        notes.append(f"model 1 of {n_models}")
    atoms = _protein_atoms(atoms, path, notes)
    atoms = _one_place_each(_one_chain(atoms, path, chain, notes), notes)
    starts = get_residue_starts(atoms)
    names = atoms.res_name[starts].tolist()
    if len(names) > max_residues:
        raise InputError(
            f"{path}: {len(names)} residues, more than {max_residues}; cut it or raise the limit."
        )
    _check_complete(names, len(atoms), path, notes)
    sequence = "".join(_letter(name) for name in names)
    modified = [name for name in names if heavy_atom_count(name) and name not in _STANDARD]
    if modified:
        listed = ", ".join(f"{n} as {_letter(n)}" for n in sorted(set(modified))[:5])
        notes.append(f"{len(modified)} modified residues read as their parents ({listed})")
    return Structure(
        coordinates=np.asarray(atoms.coord, dtype=np.float32),
        elements=np.char.upper(atoms.element.astype(str)),
        atom_names=atoms.atom_name.astype(str),
        residue_names=atoms.res_name.astype(str),
        residue_index=spread_residue_wise(atoms, np.arange(len(names))),
        sequence=sequence,
        source=f"{path.name}, chain {atoms.chain_id[0]}",
        notes=tuple(notes),
    )


_STANDARD = frozenset(
    "ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL".split()
)


def check_same_protein(structure: Structure, sequence: str, *, allow_gaps: bool = False) -> None:
    """
    Refuse a structure of another protein, isoform or release than the sequence.

    Parameters
    ----------
    structure : Structure
    sequence : str
        The protein's own.
    allow_gaps : bool
        Accept a structure that lacks residues (an experimental one) as long as those it has
        are found in the sequence in order.

    Raises
    ------
    InputError
        If they differ; it says how.
    """
    own, found = sequence.upper(), structure.sequence
    if own == found:
        return
    remaining = iter(own)
    if allow_gaps and all(letter in remaining for letter in found):
        return
    if len(own) != len(found):
        how = f"{len(found)} residues, the protein has {len(own)}"
    else:
        place = next(i for i, (a, b) in enumerate(zip(own, found, strict=True)) if a != b)
        how = f"residue {place + 1} is {found[place]}, the protein's is {own[place]}"
    raise InputError(
        f"{structure.source}: not the protein's structure ({how}); get the one of this sequence."
    )
