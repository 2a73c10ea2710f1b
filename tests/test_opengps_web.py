"""The pages, as a visitor uses them: predict, submit, download, and be told what is wrong."""

from __future__ import annotations

import csv
import html
import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import opengps_site as site
import pytest
from flask import Flask
from flask.testing import FlaskClient

from deepgps_core.dataset import Dataset
from opengps.database import Job, Submission
from opengps.settings import DEFAULTS

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Flask:
    """Share one application: what it answers does not depend on what it did before."""
    return site.make_app(tmp_path_factory.mktemp("opengps"))


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A visitor with cookies of their own."""
    return app.test_client()


def test_predict_from_form_to_files(app: Flask, client: FlaskClient) -> None:
    """A form becomes a job, the job a page with labels, images and files that hold together."""
    job = f"/jobs/{site.job_id_of(site.send(client, '/predict', fasta=site.FASTA))}"
    assert "progress" in client.get(job).get_data(as_text=True)
    site.work(app)
    page = client.get(job).get_data(as_text=True)
    assert "one" in page and "two" in page and "simulated" in page.lower()
    told = client.get(f"/api/predictions/{job.rsplit('/', 1)[1]}").get_json()
    assert told["state"] == "done" and told["progress"] == 100
    rows = list(csv.DictReader(io.StringIO(
        client.get(f"{job}/files/predictions.csv").get_data(as_text=True))))  # fmt: skip
    for row, protein in zip(rows, told["result"]["proteins"], strict=True):
        assert row["protein_id"] == protein["protein_id"]
        assert row["predicted_label"] == protein["label"]
        assert sum(protein["probabilities"].values()) == pytest.approx(1, abs=1e-3)
        assert protein["confidence"] == max(protein["probabilities"].values())
    for source in re.findall(r'src="(/jobs/[^"]+\.png)"', page):
        image = client.get(source)
        assert image.data.startswith(b"\x89PNG"), source
        assert image.mimetype == "image/png"
    packed = zipfile.ZipFile(io.BytesIO(client.get(f"{job}/files/results.zip").data))
    assert {"predictions.csv", "report.html"} <= set(packed.namelist())


def test_own_nuclei_and_mutations(app: Flask, client: FlaskClient) -> None:
    """A field of nuclei is cut into cells; a mutant is told beside its wild type."""
    answer = site.send(
        client, "/predict", fasta=site.FASTA, nucleus=site.tiff(site.field(size_px=600)[0]),
        pixel_size_um="0,206", mutations="one=K2A",
    )  # fmt: skip
    job_id = site.job_id_of(answer)
    site.work(app)
    found = client.get(f"/api/predictions/{job_id}").get_json()["result"]
    assert [p["protein_id"] for p in found["proteins"]] == ["one", "two", "one K2A"]
    assert 1 < found["n_nuclei"] <= DEFAULTS["MAX_NUCLEI"]
    assert [m["mutation"] for m in found["mutations"]] == ["K2A"]
    last = client.get(f"/api/predictions/{job_id}/images/2/{found['n_nuclei'] - 1}/overlay")
    assert last.data.startswith(b"\x89PNG")
    gone = client.get(f"/api/predictions/{job_id}/images/2/{found['n_nuclei']}/overlay")
    assert gone.status_code == 404


def test_api_is_the_same_as_the_page(app: Flask, client: FlaskClient) -> None:
    """The interface answers what the form's job answers, and says where to look."""
    answer = client.post("/api/predictions", json={"fasta": site.FASTA, "model": "single-2"})
    assert answer.status_code == 202
    assert answer.headers["Location"] == answer.get_json()["links"]["self"]
    by_form = site.job_id_of(site.send(client, "/predict", fasta=site.FASTA))
    site.work(app)
    first = client.get(answer.headers["Location"]).get_json()["result"]
    assert first == client.get(f"/api/predictions/{by_form}").get_json()["result"]


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("fasta", "", "Paste a sequence"),
        ("fasta", ">a\nMK1K", "1"),
        ("fasta", ">a\nMKK\n>a\nMKR", "a"),
        ("fasta", "\n".join(f">p{n}\nMKK" for n in range(101)), "at most 100"),
        ("fasta", f">a\n{'M' * 2701}", "2700"),
        ("fasta", "\n".join(f">p{n}\n{'M' * 2700}" for n in range(38)), "100,000"),
        ("fasta", f">{'n' * 81}\nMKK", "longer than 80"),
        ("pixel_size_um", "-1", "micrometers"),
        ("pixel_size_um", "nan", "micrometers"),
        ("pixel_size_um", "1e99", "micrometers"),
        ("mutations", "R1A", "not R"),
        ("mutations", "nonsense", "unknown"),
        ("mutations", f"ins0:{'A' * 3000}", ""),
        ("model", "../../etc", "Choose one of"),
        ("nucleus", b"<html>", "no TIFF, PNG or JPEG"),
        ("nucleus", site.png_claiming(5000, 5000), "4096"),
        ("nucleus", site.picture(np.zeros((64, 64), np.uint8)), "equal"),
    ],
)
def test_bad_prediction_is_told_beside_its_field(
    app: Flask, client: FlaskClient, field: str, value: Any, told: str
) -> None:
    """The form comes back with a message at the field; what was typed elsewhere is still there."""
    before = site.counted(app, Job)
    good = {"fasta": ">kept one\nMKKRKV", "pixel_size_um": "0.3", "mutations": "K2A"}
    answer = site.send(client, "/predict", **(good | {field: value}))
    page = answer.get_data(as_text=True)
    assert answer.status_code == 400
    assert told in site.complaint(page, field)
    assert 'role="alert"' in page
    for name, typed in (good | {field: value}).items():
        if isinstance(typed, str) and name not in ("model",):
            assert typed.strip() in html.unescape(page), name
    assert site.counted(app, Job) == before


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("protein_id", "", "Name the protein"),
        ("protein_id", "../x", "letters, digits"),
        ("protein_id", "a b", "letters, digits"),
        ("sequence", "MK1", "1"),
        ("sequence", "", "Paste the sequence"),
        ("cell_line", "", "cell line"),
        ("cell_line", "x" * 101, "at most 100"),
        ("provenance", "", "Say where"),
        ("provenance", "x" * 2001, "at most 2,000"),
        ("pixel_size_um", "", "micrometers"),
        ("locations", "x" * 201, "at most 200"),
        ("image", b"", "Choose the image"),
        ("image", b"MZ\x90 a program.tif", "no TIFF, PNG or JPEG"),
        ("image", site.tiff(np.zeros((40, 40), np.uint16)), "one channel"),
        ("image", site.tiff(np.zeros((2, 40, 40), np.uint16), photometric="minisblack"), "equal"),
    ],
)
def test_bad_submission_is_told_beside_its_field(
    app: Flask, client: FlaskClient, field: str, value: Any, told: str
) -> None:
    """As for predictions; nothing is stored."""
    before = site.counted(app, Submission), len(list((app.config["DATA"] / "submitted").iterdir()))
    good = {"protein_id": "mine", "sequence": "MKKRKV", "locations": "Nucleus", **site.ABOUT}
    good["image"] = site.tiff(site.field())  # type: ignore[assignment]
    answer = site.send(client, "/submit", **(good | {field: value}))
    page = answer.get_data(as_text=True)
    assert answer.status_code == 400
    assert told in site.complaint(page, field)
    for name, typed in good.items():
        if isinstance(typed, str) and name != field:
            assert typed in html.unescape(page), name
    assert before == (
        site.counted(app, Submission), len(list((app.config["DATA"] / "submitted").iterdir()))
    )  # fmt: skip


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("protein_id,image\nP13639,gone.tif\n", "Line 2: 'gone.tif' is not in"),
        ("protein_id,image\nP13639,../../etc/passwd\n", "is not in"),
        ("protein_id,image\nP13639,good.tif\n../x,good.tif\n", "unfit for a file name"),
        ("protein_id,image\nnobody,good.tif\n", "Line 2: Paste the sequence"),
        ("what,is\nthis,table\n", "protein_id"),
        ("", "table"),
        ("protein_id,image\n" + "P13639,good.tif\n" * 51, "51 rows"),
    ],
)
def test_bad_table_names_the_line(client: FlaskClient, table: str, told: str) -> None:
    """A batch is refused whole, and the message names the line and the remedy."""
    packed = site.archive({"good.tif": site.tiff(site.field(size_px=64)), "notes.txt": b"x"})
    answer = site.send(client, "/submit/batch", archive=packed, table=table.encode(), **site.ABOUT)
    assert answer.status_code == 400
    assert told in site.complaint(answer.get_data(as_text=True), "table")


def test_bad_archive_is_told(client: FlaskClient) -> None:
    """A text named .zip is no archive, and one that leaves its folder is refused."""
    for packed in (b"no zip", site.archive({"../up.tif": b"x"})):
        answer = site.send(client, "/submit/batch", archive=packed, table=b"a,b", **site.ABOUT)
        assert answer.status_code == 400
        assert site.complaint(answer.get_data(as_text=True), "archive")


def test_size_of_a_request(tmp_path: Path) -> None:
    """A body over the limit is refused with 413, as a page and as JSON."""
    client = site.make_app(tmp_path, MAX_CONTENT_LENGTH=10_000).test_client()
    token = site.token_of(client, "/predict")
    big = {"form_token": token, "fasta_file": (io.BytesIO(b"M" * 20_000), "a.fasta")}
    answer = client.post("/predict", data=big, content_type="multipart/form-data")
    assert answer.status_code == 413 and "<html" in answer.get_data(as_text=True)
    answer = client.post("/api/predictions", json={"fasta": "M" * 20_000})
    assert answer.status_code == 413 and set(answer.get_json()) == {"errors"}


def test_number_of_images(client: FlaskClient) -> None:
    """One nucleus image too many is refused beside its field."""
    many = [site.text64(site.picture(np.eye(32, dtype=np.uint8)))] * (DEFAULTS["MAX_IMAGES"] + 1)
    answer = client.post("/api/predictions", json={"fasta": "MKK", "nucleus_images": many})
    assert answer.status_code == 400 and "nucleus_images" in answer.get_json()["errors"]


def test_submission_from_image_to_dataset(app: Flask, client: FlaskClient, tmp_path: Path) -> None:
    """A field is stored, compared, exported; the export is a dataset that opens and checks out."""
    image = site.field("Cytoplasm", 600)
    answer = site.send(
        client, "/submit", protein_id="P13639", locations="Cytoplasm", image=site.tiff(image),
        **site.ABOUT,
    )  # fmt: skip
    page = f"/submissions/{site.job_id_of(answer)}"
    assert client.get(f"{page}/fields/0/protein.png").data.startswith(b"\x89PNG")
    site.work(app)
    told = client.get(f"/api{page}").get_json()
    (compared,) = told["result"]["submissions"]
    assert compared["n_cells"] > 1
    assert {"psnr_db", "ssim", "pearson_r"} <= set(compared["scores"])
    for source in re.findall(
        r'src="(/submissions/[^"]+)"', client.get(page).get_data(as_text=True)
    ):
        assert client.get(source).status_code == 200, source
    packed = zipfile.ZipFile(io.BytesIO(client.get(f"{page}/files/dataset.zip").data))
    packed.extractall(tmp_path / "mine")
    dataset = Dataset(tmp_path / "mine")
    assert dataset.info.images == "measured" and dataset.info.cell_line == "HeLa"
    (field_id,) = dataset.fields["field_id"]
    assert (dataset.read_field(field_id) == image).all(), "pixels changed on the way"
    assert dataset.proteins["label"].tolist() == ["Cytoplasm"]
    assert len(dataset.sequences()["P13639"]) == compared["n_residues"]


def test_batch_from_zip_to_table(app: Flask, client: FlaskClient, tmp_path: Path) -> None:
    """Rows with one file or two, in folders; an image without cells does not spoil the rest."""
    nuclear, other = site.field("Nucleus"), site.field("Mitochondrion")
    blank = np.random.default_rng(0).integers(90, 110, (2, 600, 600)).astype(np.uint16)
    files = {
        "a/dna.tif": site.tiff(nuclear[0]), "a/gfp.tif": site.tiff(nuclear[1]),
        "b/dna.tif": site.tiff(other[0]), "b/gfp.tif": site.tiff(other[1]),
        "c/dna.tif": site.tiff(blank[0]), "c/gfp.tif": site.tiff(blank[1]),
        "table.csv": b"protein_id,nucleus,protein,locations,sequence\n"
        b"Q8IV63,a/dna.tif,a/gfp.tif,Nucleus,\n"
        b"mine,b/dna.tif,b/gfp.tif,Mitochondrion;Nucleus,MKKRKVEDPL\n"
        b"blank,c/dna.tif,c/gfp.tif,,MKKRKV\n",
    }  # fmt: skip
    answer = site.send(client, "/submit/batch", archive=site.archive(files), **site.ABOUT)
    page = f"/submissions/{site.job_id_of(answer)}"
    site.work(app)
    rows = client.get(f"/api{page}").get_json()["result"]["submissions"]
    assert [row["protein_id"] for row in rows] == ["Q8IV63", "mine", "blank"]
    assert "error" in rows[2] and "scores" in rows[0]
    table = client.get(f"{page}/files/comparison.csv").get_data(as_text=True)
    assert len(list(csv.DictReader(io.StringIO(table)))) == 3
    packed = zipfile.ZipFile(io.BytesIO(client.get(f"{page}/files/dataset.zip").data))
    packed.extractall(tmp_path / "mine")
    dataset = Dataset(tmp_path / "mine")
    assert set(dataset.proteins["label"]) == {"Nucleus", ""}
    assert all(dataset.read_field(name).shape[0] == 2 for name in dataset.fields["field_id"])


def test_same_file_twice(app: Flask, client: FlaskClient) -> None:
    """The image is kept once; both submissions are, and the second is told."""
    image, before = site.tiff(site.field("Membrane")), site.counted(app, Submission)
    stored = set((app.config["DATA"] / "submitted").iterdir())
    pages = []
    for _ in range(2):
        answer = site.send(client, "/submit", protein_id="P13639", image=image, **site.ABOUT)
        pages.append(client.get(f"/submissions/{site.job_id_of(answer)}").get_data(as_text=True))
    assert site.counted(app, Submission) == before + 2
    assert len(set((app.config["DATA"] / "submitted").iterdir()) - stored) == 1
    assert "submitted before" in pages[1] and "submitted before" not in pages[0]
    assert site.work(app) >= 2
