"""OpenCell's tables: the paper's label rule, the join, and the counts of the real tables."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pandas as pd
import pytest

from deepgps_core.dataset import InputError
from deepgps_core.sources.opencell_images import match_targets
from deepgps_core.sources.opencell_tables import (
    ANNOTATION_COLUMNS,
    ANNOTATIONS_NAME,
    LABEL_OF,
    LIBRARY_NAME,
    SEQUENCES_NAME,
    OpenCellTables,
    count_targets,
    join_tables,
    label_rule,
    opencell_tables,
    read_opencell_table,
)

RULES = [
    (("cytoplasmic", "er"), (("cytoplasmic",), "cytoplasmic", 3)),
    (("er;cytoplasmic", "golgi"), (("cytoplasmic", "er"), "", 3)),
    (("", "vesicles"), (("vesicles",), "vesicles", 2)),
    (("", "er; er"), (("er",), "er", 2)),
    (("", "er;golgi"), (("er", "golgi"), "", 2)),
    (("", ""), ((), "", 0)),
]


@pytest.mark.parametrize(("grades", "expected"), RULES)
def test_label_rule(grades: tuple[str, str], expected: tuple) -> None:
    """Grade 3 first, else grade 2, never grade 1; one location makes a label."""
    row = {"annotations_grade_3": grades[0], "annotations_grade_2": grades[1],
           "annotations_grade_1": "membrane"}  # fmt: skip
    assert label_rule(row)[:3] == expected


def test_label_rule_length() -> None:
    """2,700 residues are admitted, 2,701 are not, and an unknown length is."""
    row = {"annotations_grade_3": "er", "annotations_grade_2": ""}
    for residues, admitted in ((0, True), (2700, True), (2701, False)):
        assert label_rule(row | {"sequence": "M" * residues}).is_admitted == admitted


def test_join_by_id_before_name() -> None:
    """Where ids agree, names that say otherwise are not listened to."""
    swapped = pd.DataFrame({"gene_name": ["B", "A"], "uniprot_id": ["PB", "PA"],
                            "ensg_id": ["E1", "E2"]})  # fmt: skip
    both = join_tables(pd.DataFrame({"target_name": ["A", "B"], "ensg_id": ["E1", "E2"]}), swapped)
    assert both["uniprot_id"].to_list() == ["PB", "PA"]


def test_images_of_no_target() -> None:
    """An image is matched by either table's Ensembl id, else by name, else by nothing."""
    targets = pd.DataFrame({
        "target_name": ["A", "B"], "gene_name": ["a", "b"], "ensg_id": ["E1", "E2"],
        "library_ensg_id": ["E9", "E2"], "uniprot_id": ["PA", "PB"],
    })  # fmt: skip
    images = pd.DataFrame({"gene": ["X", "B", "b", "Z"], "ensg_id": ["E9", "E1", "E5", "E6"]})
    assert match_targets(images, targets)["uniprot_id"].to_list() == ["PA", "PA", "PB", ""]


GOOD = ["A", "ENSG1", "er", ""]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "missing or repeats"),
        ([GOOD, GOOD], "missing or repeats"),
        ([["A", "ENSG1", "er;moon", ""]], "category 'moon'"),
    ],
)
def test_wrong_tables_are_refused(tmp_path: Path, rows: list[list[str]], said: str) -> None:
    """An empty table, a repeated target and an unknown category are errors that name the file."""
    path = tmp_path / "a.csv"
    pd.DataFrame(rows, columns=list(ANNOTATION_COLUMNS)).to_csv(path, index=False)
    with pytest.raises(InputError, match=said) as caught:
        read_opencell_table(path, ANNOTATION_COLUMNS)
    assert str(path) in str(caught.value)


@pytest.fixture()
def real_tables(real_data: Path, data_root: Path) -> OpenCellTables:
    """Return the real tables under the names that `deepgps fetch opencell` gives them."""
    folder = data_root / "opencell" / "tables"
    folder.mkdir(parents=True)
    for name in (ANNOTATIONS_NAME, LIBRARY_NAME):
        shutil.copyfile(real_data / "opencell" / name, folder / name)
    known = pd.read_csv(real_data / "opencell" / "opencell_targets_with_seq.csv", dtype=str)
    lines = [f">{u}\n{s}\n" for u, s in zip(known["uniprot"], known["seq"], strict=True)]
    (folder / SEQUENCES_NAME).write_text("".join(lines))
    tables = opencell_tables()
    assert tables is not None
    return tables


@pytest.mark.real_data
def test_real_counts(real_tables: OpenCellTables) -> None:
    """The paper's rule on the real tables gives the counts that were taken beforehand."""
    counts = count_targets(real_tables.targets)
    expected = {  # before and after the length limit
        "targets": (1310, 1300), "single-localized": (871, 863), "cytoplasmic": (222, 221),
        "vesicles": (140, 140), "nucleoplasm": (135, 132), "er": (78, 78),
        "mitochondria": (11, 11), "cytoskeleton": (13, 13),
    }  # fmt: skip
    for name, (every, admitted) in expected.items():
        assert tuple(counts.loc[name, ["all", "admitted"]]) == (every, admitted), name
    targets = real_tables.targets.set_index("target_name")
    too_long = "AKAP13 APC ATM CEP350 DYNC1H1 MKI67 PRKDC RANBP2 TRRAP UTRN".split()
    assert sorted(targets.index[~targets["is_admitted"]]) == too_long
    assert (targets["grade"] == 2).sum() == 4 and (targets["grade"] > 0).all()
    assert set(LABEL_OF) == {w for cell in targets["annotations_grade_3"] for w in cell.split(";")
                             if w}  # fmt: skip


@pytest.mark.real_data
def test_real_join(real_tables: OpenCellTables) -> None:
    """1,300 ids agree, nine genes are found by name, one pair is two proteins; CPSF6 is there."""
    targets = real_tables.targets.set_index("target_name")
    assert targets["joined_by"].value_counts().to_dict() == {"ensg_id": 1300, "gene_name": 9, "": 1}
    assert targets.loc["ATP6V1E1", "uniprot_id"] == ""
    by_id = targets[targets["joined_by"] == "ensg_id"]
    assert (by_id.index != by_id["gene_name"]).sum() == 12
    assert targets.loc["CPSF6", "label"] == "nucleoplasm" and targets.loc["CPSF6", "is_admitted"]
    assert "CSTF2" not in targets.index and "EEF2" not in targets.index


def test_no_tables_is_no_error(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing was fetched, there are no tables, and asking never goes to the network."""
    asked: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *of, **more: asked.append(of))
    assert opencell_tables() is None
    assert not asked and not data_root.exists()
