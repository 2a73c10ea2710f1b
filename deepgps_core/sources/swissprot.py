"""
The whole of Swiss-Prot, for training a protein language model.

Swiss-Prot comes as one compressed FASTA file of some 90 MB and becomes a text file with one
sequence a line, which is what appendix A1 trains a protein language model on: sequences of 30
to 1,022 residues without unusual letters, each once, and of near-duplicates the first.
"""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from deepgps_core.dataset import AMINO_ACIDS, InputError, atomic_path, write_yaml
from deepgps_core.sources.transfer import fetch_one

SWISSPROT_URL = (
    "https://ftp.uniprot.org/pub/databases/uniprot/current_release/knowledgebase/complete/"
    "uniprot_sprot.fasta.gz"
)
LICENCE = "CC BY 4.0 (UniProt)"
#: Swiss-Prot unpacks to 0.3 GB; far more is no FASTA file of theirs.
MAX_UNPACKED_BYTES = 5_000_000_000
_CODE = np.full(256, 255, dtype=np.uint8)
_CODE[np.frombuffer(AMINO_ACIDS.encode(), dtype=np.uint8)] = np.arange(len(AMINO_ACIDS))


@dataclass(frozen=True)
class SwissProtFilter:
    """Which sequences are kept; the defaults are the embedded encoder's."""

    min_residues: int = 30
    max_residues: int = 1022
    thin: bool = True

    def accepts(self, sequence: str) -> bool:
        """Whether length and letters are right (only the twenty amino acids)."""
        letters = _CODE[np.frombuffer(sequence.encode("ascii", "replace"), dtype=np.uint8)]
        return self.min_residues <= len(sequence) <= self.max_residues and bool(
            (letters != 255).all()
        )


def read_records(path: Path | str) -> Iterator[str]:
    """
    Yield the sequences of a gzipped FASTA file one by one, in little memory.

    Raises
    ------
    InputError
        If the file is damaged, no FASTA, or unpacks to more than any release of Swiss-Prot.
    """
    parts: list[str] = []
    unpacked, begun = 0, False
    try:
        with gzip.open(path, "rt", encoding="ascii") as stream:
            for line in iter(lambda: stream.readline(1_000_000), ""):
                unpacked += len(line)
                if unpacked > MAX_UNPACKED_BYTES or len(line) == 1_000_000:
                    raise InputError(f"{path}: unpacks to no FASTA file of Swiss-Prot; remove it.")
                if line.startswith(">"):
                    if parts:
                        yield "".join(parts)
                    parts, begun = [], True
                elif begun:
                    parts.append(line.strip().upper())
                elif line.strip():
                    raise InputError(f"{path}: does not begin as FASTA does; fetch it again.")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(f"{path}: damaged ({error}); remove it and fetch again.") from None
    if parts:
        yield "".join(parts)


def sketch(sequence: str, n: int = 4) -> bytes:
    """
    Return a fingerprint that near-duplicates share: the least `n` of the hashed 8-residue words.

    Two sequences of which a share p of words is common agree in all `n` with chance about p^n.
    """
    codes = _CODE[np.frombuffer(sequence.encode(), dtype=np.uint8)].astype(np.uint64)
    words = np.zeros(max(1, len(codes) - 7), dtype=np.uint64)
    for offset in range(min(8, len(codes))):
        words = words * np.uint64(20) + codes[offset : offset + len(words)]
    # an odd multiplier is a permutation of 64 bits; the shift brings high bits down
    hashed = words * np.uint64(0x9E3779B97F4A7C15)
    hashed ^= hashed >> np.uint64(29)
    hashed *= np.uint64(0xBF58476D1CE4E5B9)
    return np.sort(np.partition(hashed, min(n, len(hashed)) - 1)[:n]).tobytes()


def filtered(sequences: Iterable[str], rule: SwissProtFilter) -> Iterator[str]:
    """Yield the sequences that `rule` keeps, in their order, each once."""
    seen: set[bytes | int] = set()
    for sequence in sequences:
        if not rule.accepts(sequence):
            continue
        key = sketch(sequence) if rule.thin else hash(sequence)
        if key not in seen:
            seen.add(key)
            yield sequence


def fetch_swissprot(
    folder: Path | str,
    *,
    url: str = SWISSPROT_URL,
    rule: SwissProtFilter | None = None,
    limit: int | None = None,
) -> Path:
    """
    Fetch Swiss-Prot and write the sequences that appendix A1 reads.

    Parameters
    ----------
    folder : Path or str
        Gets ``uniprot_sprot.fasta.gz``, ``swissprot.txt.xz`` (one sequence a line) and
        ``swissprot.yaml``, which says what was left out and why.
    limit : int, optional
        Keep only the first so many.

    Returns
    -------
    path : Path
        Of ``swissprot.txt.xz``.
    """
    folder, rule = Path(folder), rule or SwissProtFilter()
    source = fetch_one(url, folder / "uniprot_sprot.fasta.gz")
    path, read, kept = folder / "swissprot.txt.xz", 0, 0

    def counted() -> Iterator[str]:
        nonlocal read
        for sequence in tqdm(read_records(source), desc="Swiss-Prot", unit="sequence"):
            read += 1
            yield sequence

    with atomic_path(path) as temporary, lzma.open(temporary, "wt", preset=1) as output:
        for sequence in filtered(counted(), rule):
            output.write(sequence + "\n")
            kept += 1
            if kept == limit:
                break
    if not kept:
        raise InputError(f"{source}: none of {read} sequences is kept; widen the filter.")
    record = {"source": url, "licence": LICENCE, "read": read, "kept": kept} | rule.__dict__
    write_yaml(record, folder / "swissprot.yaml")
    return path
