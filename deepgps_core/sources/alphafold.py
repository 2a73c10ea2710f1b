"""
Predicted structures from the AlphaFold database (paper, Methods, "Structure encoder").

The database is asked for each accession, and answers with the address of its current file: file
versions come and go (the paper's, of version 4, are no longer served), so none is written here.
The answer also holds the sequence that was folded. A structure is used only if that is the
protein's own sequence; where it is not, as for another isoform or an older UniProt release, the
difference is listed. Structures that exist only in fragments (over 2,700 residues) are too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from tqdm import tqdm

from deepgps_core.dataset import Dataset, InputError, read_table, write_table
from deepgps_core.sources.transfer import (
    FetchReport,
    Remote,
    fetch_all,
    get_response,
    http_client,
)

API = "https://alphafold.ebi.ac.uk/api/prediction/"
LICENCE = "CC BY 4.0 (AlphaFold Protein Structure Database, EMBL-EBI and Google DeepMind)"
#: One row a protein: which entry of which version, its file, and how its sequence agrees.
STRUCTURE_COLUMNS = ("protein_id", "uniprot", "entry_id", "version", "path", "agreement")
SAME = "same"
Format = Literal["pdb", "cif"]


@dataclass(frozen=True)
class Prediction:
    """One entry of the database's answer."""

    entry_id: str
    sequence: str
    version: str
    urls: Mapping[str, str]

    @property
    def is_fragment(self) -> bool:
        """Whether this is a later piece of a protein folded in pieces."""
        return "-F" in self.entry_id and not self.entry_id.endswith("-F1")


def read_predictions(answer: Any, accession: str) -> list[Prediction]:
    """
    Read the answer of the prediction service.

    Raises
    ------
    InputError
        If it is not what the service documents.
    """
    try:
        return [
            Prediction(
                str(entry["entryId"]),
                str(entry.get("uniprotSequence") or entry["sequence"]),
                str(entry.get("latestVersion", "")),
                {"pdb": str(entry["pdbUrl"]), "cif": str(entry["cifUrl"])},
            )
            for entry in answer
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{API}{accession}: not an answer of the prediction service ({error!r}); "
            "is a proxy in the way?"
        ) from None


def sequence_difference(own: str, folded: str) -> str:
    """
    Say how two sequences differ; `SAME` if they do not.

    Examples
    --------
    >>> sequence_difference("MKV", "MKV"), sequence_difference("MKV", "MRV")
    ('same', '1 residue differs, the first at 2: K here, R folded')
    """
    if own == folded:
        return SAME
    if len(own) != len(folded):
        return f"{len(own)} residues here, {len(folded)} folded"
    places = [i for i, (a, b) in enumerate(zip(own, folded, strict=True)) if a != b]
    some = "1 residue differs" if len(places) == 1 else f"{len(places)} residues differ"
    first = places[0]
    return f"{some}, the first at {first + 1}: {own[first]} here, {folded[first]} folded"


def choose_prediction(
    predictions: Iterable[Prediction], sequence: str
) -> tuple[Prediction | None, str]:
    """
    Choose the entry whose sequence is the protein's own.

    Returns
    -------
    prediction : Prediction or None
        The equal one, else the first whole one; None if there is none.
    agreement : str
        `SAME`, or what is different.
    """
    predictions = list(predictions)
    if any(prediction.is_fragment for prediction in predictions):
        return None, f"only in {len(predictions)} fragments"
    for prediction in predictions:
        if prediction.sequence == sequence:
            return prediction, SAME
    if not predictions:
        return None, "not in the database"
    difference = sequence_difference(sequence, predictions[0].sequence)
    if len(predictions) > 1:
        difference += f" (and no other of {len(predictions)} isoforms is equal)"
    return predictions[0], difference


@dataclass(frozen=True)
class _Answer:
    """What is known of one protein's structure before its file is fetched."""

    protein_id: str
    uniprot: str
    entry_id: str = ""
    version: str = ""
    path: str = ""
    agreement: str = ""
    url: str = ""


def _ask(client: Any, api: str, protein: Any, file_format: Format) -> _Answer:
    answer = _Answer(protein.protein_id, protein.uniprot)
    if not protein.uniprot:
        return replace(answer, agreement="no UniProt accession in proteins.csv")
    response = get_response(f"{api}{protein.uniprot}", client=client, accept=(400, 404, 422))
    if not response.is_success:
        return replace(answer, agreement="unknown accession, or not in the database")
    try:
        content = response.json()
    except ValueError:
        return replace(answer, agreement="the answer is no JSON; is a proxy in the way?")
    chosen, agreement = choose_prediction(
        read_predictions(content, protein.uniprot), protein.sequence
    )
    if chosen is None:
        return replace(answer, agreement=agreement)
    return replace(
        answer, entry_id=chosen.entry_id, version=chosen.version, agreement=agreement,
        path=f"{protein.protein_id}.{file_format}", url=chosen.urls[file_format],
    )  # fmt: skip


def _check_structure(path: Path) -> None:
    """Raise ValueError unless the file holds atoms."""
    with open(path, "rb") as stream:
        for line in stream:
            if line.startswith((b"ATOM  ", b"_atom_site.")):
                return
    raise ValueError("no structure: it has no atoms")


def fetch_structures(
    dataset: Dataset,
    *,
    api: str = API,
    file_format: Format = "pdb",
    allow_mismatch: bool = False,
    workers: int = 4,
    limit: int | None = None,
    dry_run: bool = False,
) -> tuple[FetchReport, pd.DataFrame]:
    """
    Fetch the structures of a dataset's proteins into its folder ``structures``.

    Parameters
    ----------
    dataset : Dataset
        Its proteins need UniProt accessions.
    api : str
        Address to which an accession is appended.
    allow_mismatch : bool
        Fetch the structure also where the folded sequence is another one.
    limit : int, optional
        Only the first so many proteins.
    dry_run : bool
        Ask the service, but fetch and write nothing.

    Returns
    -------
    report : FetchReport
        Of the files.
    structures : DataFrame
        `STRUCTURE_COLUMNS`, as written to ``structures/alphafold.csv``; ``path`` is empty where
        there is no file, and ``agreement`` says why.

    Raises
    ------
    InputError
        If the service cannot be reached, or its answers are no answers.
    """
    folder = dataset.path / "structures"
    proteins = list(dataset.proteins.head(limit or len(dataset.proteins)).itertuples(index=False))
    with http_client() as client, ThreadPoolExecutor(workers) as pool:
        # the first alone: without a network one attempt is enough to know
        answers = [_ask(client, api, protein, file_format) for protein in proteins[:1]]
        rest = pool.map(lambda p: _ask(client, api, p, file_format), proteins[1:])
        answers += tqdm(rest, total=len(proteins) - 1, desc="AlphaFold entries", unit="protein")
    wanted = [a for a in answers if a.url and (allow_mismatch or a.agreement == SAME)]
    files = [Remote(a.url, a.path, check=_check_structure) for a in wanted]
    report = fetch_all(files, folder, workers=workers, dry_run=dry_run, licence=LICENCE)
    kept = {a.protein_id for a in wanted if a.path not in report.failed}
    rows = [
        (a.protein_id, a.uniprot, a.entry_id, a.version, a.path if a.protein_id in kept else "",
         report.failed.get(a.path, a.agreement))
        for a in answers
    ]  # fmt: skip
    structures = pd.DataFrame(rows, columns=list(STRUCTURE_COLUMNS))
    if not dry_run:
        write_table(structures, folder / "alphafold.csv")
    return report, structures


def read_structures(dataset: Dataset) -> pd.DataFrame:
    """
    Read which structures were fetched; see `fetch_structures`.

    Raises
    ------
    InputError
        If none were.
    """
    path = dataset.path / "structures" / "alphafold.csv"
    return read_table(path, STRUCTURE_COLUMNS, "run `deepgps fetch alphafold`")
