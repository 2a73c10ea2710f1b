"""
Protein sequences from FASTA files, read with care: users bring their own.

UniProt's headers (``>sp|P12345|NAME_HUMAN ...``) are named by their accession, all others by
their first word. Sequences may be wrapped, in lower case, or end in a stop sign.
"""

from __future__ import annotations

import re
from pathlib import Path

from deepgps_core.dataset import MAX_RESIDUES, InputError, check_sequence

#: About twice the whole of Swiss-Prot; a larger file is a mistake, or an attack.
MAX_FASTA_BYTES = 500_000_000
UNIPROT_HEADER = re.compile(r"(?:sp|tr)\|([A-Z0-9-]+)\|")


def _read_text(path: Path, max_bytes: int) -> str:
    try:
        with open(path, "rb") as stream:
            content = stream.read(max_bytes + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path.") from None
    if len(content) > max_bytes:
        raise InputError(f"{path}: larger than {max_bytes:,} bytes; split the file.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InputError(f"{path}: not a text file; save the sequences as plain FASTA.")
    return text


def protein_id_of(header: str) -> str:
    """
    Return the identifier in a FASTA header, without its ``>``.

    Examples
    --------
    >>> protein_id_of("sp|Q16630|CPSF6_HUMAN Cleavage factor"), protein_id_of("mine v2")
    ('Q16630', 'mine')
    """
    words = header.split()
    match = UNIPROT_HEADER.match(words[0]) if words else None
    return match[1] if match else "".join(words[:1])


def read_fasta(
    path_or_text: Path | str,
    *,
    max_residues: int = MAX_RESIDUES,
    max_bytes: int = MAX_FASTA_BYTES,
) -> dict[str, str]:
    """
    Read protein sequences in FASTA format.

    Parameters
    ----------
    path_or_text : Path or str
        A file, or the text itself: a string that begins with ``>`` or holds a line break.
    max_residues : int
        Longest sequence that is accepted.
    max_bytes : int
        Largest file that is read.

    Returns
    -------
    sequences : dict of str to str
        protein_id -> sequence in upper case, in the order of the file.

    Raises
    ------
    InputError
        If there is no sequence, an identifier is missing or occurs twice, a sequence is empty,
        too long or holds a letter that is no amino acid, or the file is too large or no text.
    """
    is_text = isinstance(path_or_text, str) and (
        path_or_text.lstrip().startswith(">") or "\n" in path_or_text
    )
    source = "FASTA text" if is_text else str(path_or_text)
    text = str(path_or_text) if is_text else _read_text(Path(path_or_text), max_bytes)
    lines_of = _split_records(text, source)
    return {
        protein_id: check_sequence(
            protein_id, "".join(lines), max_residues=max_residues, source=source
        )
        for protein_id, lines in lines_of.items()
    }


def _split_records(text: str, source: str) -> dict[str, list[str]]:
    records: dict[str, list[str]] = {}
    current: list[str] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if line.startswith(">"):
            protein_id = protein_id_of(line[1:])
            if not protein_id:
                raise InputError(f"{source}: line {number} is a header without a name; add one.")
            if protein_id in records:
                raise InputError(
                    f"{source}: line {number} repeats protein {protein_id!r}; keep one of them."
                )
            current = records[protein_id] = []
        elif line and not line.startswith(";"):  # a semicolon begins an old-style comment
            if current is None:
                raise InputError(
                    f"{source}: line {number} stands before the first header; "
                    "begin each protein with a line `>name`."
                )
            current.append(line)
    if not records:
        raise InputError(f"{source}: holds no sequences; give at least one, `>name` and letters.")
    return records
