"""The AlphaFold database: its answers, sequences compared, structures fetched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from fake_web import Web, serve

from deepgps_core.dataset import PROTEIN_COLUMNS, Dataset, DatasetInfo, InputError
from deepgps_core.sources.alphafold import (
    SAME,
    Prediction,
    choose_prediction,
    fetch_structures,
    read_predictions,
    read_structures,
    sequence_difference,
)

PDB = b"HEADER    TEST\nATOM      1  CA  MET A   1       0.000   0.000   0.000  1.00 90.00\nEND\n"
OWN = {"a": "MKVLA", "b": "MKVLAAG", "c": "MSRRK", "d": "MPPGG", "e": "MTTTT", "f": "MWWWW"}


def entry(web: Web, accession: str, sequence: str, version: int = 6, piece: str = "F1") -> dict:
    base = f"{web.address}/files/AF-{accession}-{piece}-model_v{version}"
    return {
        "entryId": f"AF-{accession}-{piece}", "uniprotAccession": accession,
        "uniprotSequence": sequence, "latestVersion": version,
        "pdbUrl": f"{base}.pdb", "cifUrl": f"{base}.cif",
    }  # fmt: skip


@pytest.fixture()
def database() -> Iterator[Web]:
    """
    Serve six proteins: one as it should be, one of another length, two isoforms, unknown, in
    fragments, and one whose file is gone.
    """
    with serve() as web:
        answers = {
            "P00001": [entry(web, "P00001", OWN["a"])],
            "P00002": [entry(web, "P00002", OWN["b"] + "K", version=7)],
            "P00003": [entry(web, "P00003", "MXX"), entry(web, "P00003-2", OWN["c"])],
            "P00005": [entry(web, "P00005", "MT", piece=f"F{i}") for i in (1, 2, 3)],
            "P00006": [entry(web, "P00006", OWN["f"], version=4)],
        }
        for accession, content in answers.items():
            web.answers[f"/api/{accession}"] = json.dumps(content).encode()
            for item in content:
                web.answers[item["pdbUrl"].removeprefix(web.address)] = PDB
        web.answers["/files/AF-P00006-F1-model_v4.pdb"] = 404
        yield web


@pytest.fixture()
def dataset(tmp_path: Path) -> Dataset:
    """Make a dataset of six proteins without images."""
    rows = [(name, name, f"P0000{i}", sequence, "", "", "")
            for i, (name, sequence) in enumerate(OWN.items(), start=1)]  # fmt: skip
    info = DatasetInfo("x", "drawn", "1", "CC0", "simulated", "none", 0.2, ())
    return Dataset.create(tmp_path / "x", info, pd.DataFrame(rows, columns=list(PROTEIN_COLUMNS)))


def test_sequences_are_compared() -> None:
    """Equal, of another length, and different in places."""
    assert sequence_difference("MKV", "MKV") == SAME
    assert sequence_difference("MKVA", "MKV") == "4 residues here, 3 folded"
    assert (
        sequence_difference("MKV", "ARV") == "2 residues differ, the first at 1: M here, A folded"
    )


def test_choice_among_isoforms_and_fragments() -> None:
    """The isoform with the protein's own sequence is chosen; a protein in pieces has none."""
    whole = Prediction("AF-P1-F1", "MKV", "6", {})
    isoform = Prediction("AF-P1-2-F1", "MK", "6", {})
    assert choose_prediction([whole, isoform], "MK") == (isoform, SAME)
    chosen, agreement = choose_prediction([whole, isoform], "MKVV")
    assert chosen is whole and agreement.endswith("no other of 2 isoforms is equal)")
    pieces = [Prediction(f"AF-P1-F{i}", "MKV", "6", {}) for i in (1, 2)]
    assert choose_prediction(pieces, "MKV") == (None, "only in 2 fragments")
    assert choose_prediction([], "MKV") == (None, "not in the database")


def test_structures_are_fetched_and_differences_listed(database: Web, dataset: Dataset) -> None:
    """Two of six have their structure; the table says of each other why not."""
    report, structures = fetch_structures(dataset, api=f"{database.address}/api/")
    assert sorted(report.fetched) == ["a.pdb", "c.pdb"]
    by_protein = structures.set_index("protein_id")
    assert by_protein["agreement"].to_dict() == {
        "a": SAME,
        "b": "7 residues here, 8 folded",
        "c": SAME,
        "d": "unknown accession, or not in the database",
        "e": "only in 3 fragments",
        "f": by_protein.at["f", "agreement"],
    }
    assert "404" in by_protein.at["f", "agreement"] and "404" in report.failed["f.pdb"]
    assert by_protein.at["c", "entry_id"] == "AF-P00003-2-F1"
    assert (dataset.path / "structures" / "a.pdb").read_bytes() == PDB
    assert list(read_structures(dataset)["path"]) == ["a.pdb", "", "c.pdb", "", "", ""]


def test_versions_are_the_services(database: Web, dataset: Dataset) -> None:
    """The file's version is whatever the service answers; a mismatch is fetched if allowed."""
    _, structures = fetch_structures(
        dataset, api=f"{database.address}/api/", allow_mismatch=True, limit=2
    )
    assert list(structures["version"]) == ["6", "7"]
    assert database.asked["/files/AF-P00002-F1-model_v7.pdb"] == 1
    assert list(structures["path"]) == ["a.pdb", "b.pdb"]


def test_dry_run_and_resume(database: Web, dataset: Dataset) -> None:
    """A dry run writes nothing; a second run fetches no structure again."""
    report, _ = fetch_structures(dataset, api=f"{database.address}/api/", dry_run=True)
    assert report.planned == ["a.pdb", "c.pdb", "f.pdb"]
    assert not (dataset.path / "structures").exists()
    for _ in range(2):
        fetch_structures(dataset, api=f"{database.address}/api/", limit=3)
    assert database.asked["/files/AF-P00001-F1-model_v6.pdb"] == 1


def test_wrong_answers(database: Web, dataset: Dataset) -> None:
    """A page instead of JSON is listed, another service's JSON and no network are errors."""
    database.answers["/api/P00001"] = b"<html>login</html>"
    _, structures = fetch_structures(dataset, api=f"{database.address}/api/", limit=1)
    assert structures.at[0, "agreement"].startswith("the answer is no JSON")
    database.answers["/files/AF-P00003-2-F1-model_v6.pdb"] = b"no structure at all"
    report, _ = fetch_structures(dataset, api=f"{database.address}/api/", limit=3)
    assert "it has no atoms" in report.failed["c.pdb"]
    with pytest.raises(InputError, match="not an answer of the prediction service"):
        read_predictions([{"entry": 1}], "P00001")
    with pytest.raises(InputError, match="cannot be reached"):
        fetch_structures(dataset, api="http://127.0.0.1:9/api/")
    with pytest.raises(InputError, match="run `deepgps fetch alphafold`"):
        read_structures(Dataset.create(dataset.path / "n", dataset.info, dataset.proteins))
