"""Submissions that somebody meant ill, or did not mean: limits, names and formulas."""

from __future__ import annotations

import io
from pathlib import Path

import opengps_site as site
import pandas as pd
import pytest
from flask import Flask

from deepgps_core.dataset import Dataset
from opengps import submissions
from opengps.database import Submission
from opengps.export import export_dataset


@pytest.fixture
def app(tmp_path: Path) -> Flask:
    return site.make_app(tmp_path / "site")


def submit(app: Flask, protein_id: str, sequence: str, **values: str) -> None:
    """Hand in one drawn field."""
    image = site.tiff(site.field(size_px=64))
    answer = site.send(
        app.test_client(), "/submit", protein_id=protein_id, sequence=sequence, image=image,
        **site.ABOUT | values,
    )  # fmt: skip
    site.job_id_of(answer)


def exported(app: Flask, path: Path) -> Dataset:
    """Export all submissions and open them."""
    return export_dataset(app.extensions["opengps_engine"], app.config, path)


def test_no_image_is_decoded_after_the_first_bad_row(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first line that cannot be used is told; what comes after it costs nothing."""
    decoded: list[str] = []
    real = submissions._row_item

    def counting(row: dict[str, str], *rest: object) -> object:
        decoded.append(row["protein_id"])
        return real(row, *rest)

    monkeypatch.setattr(submissions, "_row_item", counting)
    files = {"a.tif": site.tiff(site.field(size_px=64)), "b.tif": b"no image"}
    table = b"protein_id,image,sequence\none,a.tif,MKK\ntwo,b.tif,MKK\nthree,a.tif,MKK\n"
    answer = site.send(
        app.test_client(), "/submit/batch", archive=site.archive(files), table=table, **site.ABOUT
    )
    assert answer.status_code == 400
    assert "Line 3" in site.complaint(answer.get_data(as_text=True), "table")
    assert decoded == ["one", "two"] and site.counted(app, Submission) == 0


def test_a_made_name_takes_nobodys_own(app: Flask, tmp_path: Path) -> None:
    """Two sequences under one name are told apart by a name that no third protein was given."""
    submit(app, "mine", "MKKRKV")
    submit(app, "mine-sequence2", "MAAAAA")
    submit(app, "mine", "MDDDDD")
    found = exported(app, tmp_path / "out")
    assert found.sequences() == {
        "mine": "MKKRKV", "mine-sequence2": "MAAAAA", "mine-sequence3": "MDDDDD"
    }  # fmt: skip
    assert found.fields["field_id"].is_unique


def test_what_strangers_write_is_no_formula(app: Flask, tmp_path: Path) -> None:
    """A spreadsheet that opens the table of origins computes nothing."""
    submit(app, "mine", "MKKRKV", provenance="=HYPERLINK(A1)", cell_line="@SUM(1)")
    exported(app, tmp_path / "out")
    text = (tmp_path / "out" / "provenance.csv").read_text(encoding="utf-8")
    (row,) = pd.read_csv(io.StringIO(text)).to_dict("records")
    assert row["provenance"] == "'=HYPERLINK(A1)" and row["cell_line"] == "'@SUM(1)"


def test_a_full_store_takes_no_more(tmp_path: Path) -> None:
    """Once the images kept exceed the limit the form says so, and nothing is added."""
    app = site.make_app(tmp_path / "site", MAX_STORED_BYTES=100)
    submit(app, "mine", "MKKRKV")
    answer = site.send(
        app.test_client(), "/submit", protein_id="other", sequence="MKK",
        image=site.tiff(site.field("Cytoplasm", 64)), **site.ABOUT,
    )  # fmt: skip
    assert answer.status_code == 503 and "full" in answer.get_data(as_text=True)
    assert site.counted(app, Submission) == 1
