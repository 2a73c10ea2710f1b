"""
Protein sequences: from FASTA files, read with care, and from UniProt by accession.

UniProt's headers (``>sp|P12345|NAME_HUMAN ...``) are named by their accession, all others by
their first word. Sequences may be wrapped, in lower case, or end in a stop sign.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

from deepgps_core.dataset import MAX_RESIDUES, InputError, atomic_path, check_sequence

#: About twice the whole of Swiss-Prot; a larger file is a mistake, or an attack.
MAX_FASTA_BYTES = 500_000_000
#: UniProt's service, unless ``DEEPGPS_UNIPROT_URL`` names a mirror. Content: CC BY 4.0.
UNIPROT_URL = "https://rest.uniprot.org/uniprotkb"
#: Accessions asked for at once; an address of the service may not become too long.
BATCH_SIZE = 100
#: Longer than the longest human protein (titin, 34,350 residues): the limit comes later.
LONGEST_PROTEIN = 50_000
#: UniProt's own pattern, with an isoform's number behind it.
ACCESSION = re.compile(
    r"([OPQ][0-9][A-Z0-9]{3}[0-9]|[A-NR-Z][0-9](?:[A-Z][A-Z0-9]{2}[0-9]){1,2})(?:-[0-9]+)?"
)
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


@dataclass
class FetchedSequences:
    """
    What UniProt answered.

    `sequences` is keyed by the accession that was asked for; `renamed` maps those that UniProt
    files under another one today; `failed` maps the others to the reason.
    """

    sequences: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    release: str = ""


def fetch_sequences(
    accessions: Iterable[str], cache: Path | str, *, base_url: str | None = None
) -> FetchedSequences:
    """
    Get sequences by accession, a hundred at a time; what is in `cache` is not asked for again.

    A plain accession gives the canonical sequence, one with a number (P12345-2) that isoform.

    Parameters
    ----------
    accessions : iterable of str
    cache : Path or str
        A FASTA file, extended after each batch, so that an interrupted call goes on; its
        comments name the releases. A file of your own with these accessions will do.
    base_url : str, optional
        By default ``DEEPGPS_UNIPROT_URL``, else UniProt.

    Raises
    ------
    InputError
        If UniProt cannot be reached or answers nonsense. An accession that it does not know, that
        was removed, or that stands for several sequences is no error but in `failed`.
    """
    base_url = (base_url or os.environ.get("DEEPGPS_UNIPROT_URL") or UNIPROT_URL).rstrip("/")
    cache, asked = Path(cache), list(dict.fromkeys(accessions))
    result = FetchedSequences()
    comments: list[str] = []
    known: dict[str, str] = {}
    if cache.exists():
        known = read_fasta(cache, max_residues=LONGEST_PROTEIN)
        lines = cache.read_text(encoding="utf-8").splitlines()
        comments = [line for line in lines if line.startswith(";")]
        result.release = comments[-1].split(",")[0].strip("; ") if comments else "own file"
    for accession in asked:
        if accession not in known and (fault := _malformed(accession)):
            result.failed[accession] = fault
    missing = [a for a in asked if a not in known and a not in result.failed]
    starts = range(0, len(missing), BATCH_SIZE)
    for start in tqdm(starts, desc="sequences", unit="batch", disable=not missing):
        found = _ask(base_url, missing[start : start + BATCH_SIZE], result)
        known |= found
        comment = f"; {result.release}, fetched {datetime.now(UTC):%Y-%m-%d}"
        if found and comment not in comments:
            comments.append(comment)
        _write_fasta(known, comments, cache)
    result.sequences = {a: known[a] for a in asked if a in known}
    return result


def _malformed(accession: str) -> str:
    if re.search(r"[;,\s]", accession.strip()):
        return "names several accessions or isoforms; name one"
    return "" if ACCESSION.fullmatch(accession) else "is no UniProt accession; correct it"


def _write_fasta(sequences: dict[str, str], comments: list[str], path: Path) -> None:
    lines = [*comments, *(f">{name}\n{sequence}" for name, sequence in sorted(sequences.items()))]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _records(url: str, text: str) -> dict[str, str]:
    if not text.strip():
        return {}
    if not text.lstrip().startswith(">"):
        raise InputError(f"{url}: answered no FASTA but {text.strip()[:40]!r}; try again later.")
    try:
        return read_fasta(text, max_residues=LONGEST_PROTEIN)
    except InputError as error:
        raise InputError(f"{url}: {error}") from None


def _ask(base_url: str, batch: list[str], result: FetchedSequences) -> dict[str, str]:
    """Ask for a batch, then one by one for what it left open."""
    from deepgps_core.sources.transfer import get_response

    url = f"{base_url}/accessions"
    params = {"accessions": ",".join(a for a in batch if "-" not in a), "format": "fasta"}
    records: dict[str, str] = {}
    if params["accessions"]:
        response = get_response(url, params=params, accept=(400,))
        # one accession that the service cannot read spoils the batch, not the others
        records = _records(url, response.text) if response.is_success else {}
        _note_release(response.headers.get("X-UniProt-Release", ""), result)
    found = {accession: records[accession] for accession in batch if accession in records}
    for accession in batch:
        if accession not in found and (sequence := _ask_one(base_url, accession, result)):
            found[accession] = sequence
    return found


def _note_release(release: str, result: FetchedSequences) -> None:
    result.release = f"UniProt {release or 'of unnamed release'}"


def _ask_one(base_url: str, accession: str, result: FetchedSequences) -> str:
    """Return one sequence; or the empty string, and the reason in `result.failed`."""
    from deepgps_core.sources.transfer import get_response

    url = f"{base_url}/{accession}.fasta"
    response = get_response(url, accept=(400, 404, 410))
    if not response.is_success:
        result.failed[accession] = "is unknown to UniProt; correct it"
        return ""
    records = _records(url, response.text)
    _note_release(response.headers.get("X-UniProt-Release", ""), result)
    if not records:
        result.failed[accession] = "was removed from UniProt; choose another"
    elif accession in records:
        return records[accession]
    elif len(records) == 1:
        result.renamed[accession], sequence = next(iter(records.items()))
        return sequence
    elif {name.split("-")[0] for name in records} == {accession}:
        result.failed[accession] = f"has several isoforms; name one of {', '.join(records)}"
    else:
        result.failed[accession] = f"became several entries; choose one of {', '.join(records)}"
    return ""
