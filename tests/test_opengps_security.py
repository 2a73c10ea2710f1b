"""openGPS before a hostile stranger: what is refused, escaped, hidden, limited and signed."""

from __future__ import annotations

import ast
import html
import io
import re
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import opengps_site as site
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session

from opengps.database import Job, Submission, new_token
from opengps.security import RateLimit
from opengps.settings import DEFAULTS, load_settings

ROOT = Path(__file__).resolve().parent.parent
HOSTILE = (
    "'; DROP TABLE jobs; --", '" OR 1=1 --', "<script>alert(1)</script>", "{{7*7}}", "${7*7}",
    "../../../etc/passwd", "%00", "\u202etxt.exe", "=cmd|' /C calc'!A0", "𝔘𝔫𝔦 ü ß 漢",
)  # fmt: skip


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Flask:
    """Share one application: what it answers does not depend on what it did before."""
    return site.make_app(tmp_path_factory.mktemp("opengps"))


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A visitor with cookies of their own."""
    return app.test_client()


@pytest.fixture(scope="module")
def finished(app: Flask) -> Iterator[str]:
    """A finished prediction of one protein with a hostile name and one without."""
    answer = site.send(
        app.test_client(),
        "/predict",
        fasta=">a<script>alert(1)</script>\nMKKRKVEDPL\n>=1+1\nMSTAAG",
    )
    site.work(app)
    yield site.job_id_of(answer)


def test_html_in_names_is_escaped(client: FlaskClient, finished: str) -> None:
    """A protein named like a script is shown as text, on the page and in the report."""
    for path in (f"/jobs/{finished}", f"/jobs/{finished}/files/report.html"):
        page = client.get(path).get_data(as_text=True)
        assert "<script>alert" not in page
        assert "a&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_names_are_no_formulas_and_no_paths(client: FlaskClient, finished: str) -> None:
    """In the table a leading equals sign is text; in the archive no name leaves the folder."""
    table = client.get(f"/jobs/{finished}/files/predictions.csv").get_data(as_text=True)
    assert "\n'=1+1," in table and "\n=1+1" not in table
    packed = zipfile.ZipFile(io.BytesIO(client.get(f"/jobs/{finished}/files/results.zip").data))
    for name in packed.namelist():
        assert re.fullmatch(r"(images/)?[A-Za-z0-9_.-]+", name) and ".." not in name


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_in_every_field(app: Flask, client: FlaskClient, text: str) -> None:
    """SQL, scripts, templates and paths in each field: refused or kept as text, never obeyed."""
    forms: dict[str, dict[str, Any]] = {
        "/predict": dict.fromkeys(("fasta", "model", "pixel_size_um", "mutations"), text),
        "/submit": dict.fromkeys(
            ("protein_id", "sequence", "locations", "cell_line", "provenance", "pixel_size_um",
             "model"), text,
        ),
        "/submit/batch": dict.fromkeys(("cell_line", "provenance", "pixel_size_um", "model"), text),
    }  # fmt: skip
    before = site.counted(app, Job), site.counted(app, Submission)
    for page, values in forms.items():
        answer = site.send(client, page, **values)
        assert answer.status_code == 400
        assert "<script>alert" not in answer.get_data(as_text=True)
        assert "49" not in re.findall(r'value="(\d+)"', answer.get_data(as_text=True))
    for address in ("/jobs/", "/submissions/", "/api/predictions/", "/api/submissions/"):
        assert client.get(address + text.replace("/", "%2F")).status_code in (404, 308)
    assert before == (site.counted(app, Job), site.counted(app, Submission))


def test_hostile_text_is_stored_as_it_came(app: Flask, client: FlaskClient) -> None:
    """Where free text is allowed, the row and the page hold exactly what was typed."""
    text = "Rob'); DROP TABLE submissions;-- <b>bold</b>"
    answer = site.send(
        client, "/submit", protein_id="P13639", image=site.tiff(site.field()),
        **(site.ABOUT | {"provenance": text}),
    )  # fmt: skip
    job_id = site.job_id_of(answer)
    with Session(app.extensions["opengps_engine"]) as session:
        row = session.scalar(select(Submission).where(Submission.job_id == job_id))
        assert row is not None and row.provenance == text
    page = client.get(f"/submissions/{job_id}").get_data(as_text=True)
    assert html.escape(text, quote=False) in page.replace("&#39;", "'")


@pytest.mark.parametrize("page", ["/predict", "/submit", "/submit/batch"])
def test_form_of_another_site(app: Flask, page: str) -> None:
    """Without the page's token, or with somebody else's, a form is not obeyed."""
    mine, theirs = app.test_client(), app.test_client()
    good = {"fasta": site.FASTA, "protein_id": "P13639", **site.ABOUT}
    foreign = site.token_of(theirs, page)
    before = site.counted(app, Job)
    site.token_of(mine, page)  # a cookie
    for token in ("", "forged", foreign, foreign[:-1] + "x"):
        answer = mine.post(page, data=good | {"form_token": token})
        assert answer.status_code == 400
        assert 'id="form-error"' in answer.get_data(as_text=True)
    assert site.counted(app, Job) == before


def test_interface_takes_json_only(client: FlaskClient) -> None:
    """What a form of another site can send without asking is refused: 415, not obeyed."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = client.post("/api/predictions", data='{"fasta": "MKK"}', content_type=kind)
        assert answer.status_code == 415, kind
    answer = client.options("/api/predictions", headers={"Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_links_cannot_be_guessed(client: FlaskClient, finished: str) -> None:
    """192 random bits; a wrong, cut or strange one is a 404 that says nothing else."""
    tokens = {new_token() for _ in range(1000)}
    assert len(tokens) == 1000 and {len(token) for token in tokens} == {32}
    assert len({token[:6] for token in tokens}) > 990
    wrong = (
        finished[:-1],
        finished + "A",
        finished.swapcase(),
        "1",
        "../jobs",
        "a" * 200,
        "%2e%2e",
    )
    for job_id in wrong:
        for kind in ("jobs", "submissions", "api/predictions", "api/submissions"):
            assert client.get(f"/{kind}/{job_id}").status_code == 404
    assert client.get(f"/submissions/{finished}").status_code == 404, "of the other kind"
    page = client.get(f"/jobs/{new_token()}").get_data(as_text=True)
    assert finished not in page


@pytest.mark.parametrize(
    "tail",
    [
        "files/../../../secret", "files/..%2f..%2fsecret", "files/secret", "files/summary.json",
        "files/%2e%2e", "images/0/0/../../x.png", "images/-1/0/nucleus.png",
        "images/99/0/nucleus.png", "images/0/99/nucleus.png", "images/0/0/secret.png",
        f"images/{'9' * 300}/0/nucleus.png", f"images/0/{'9' * 5000}/nucleus.png",
    ],
)  # fmt: skip
def test_paths_and_numbers_lead_nowhere_else(client: FlaskClient, finished: str, tail: str) -> None:
    """Files are looked up in a list, never on the disk; numbers beyond the end are a 404."""
    answer = client.get(f"/jobs/{finished}/{tail}")
    assert answer.status_code == 404


def test_every_answer_carries_the_headers(client: FlaskClient, finished: str) -> None:
    """Pages, files, images, JSON, style sheets and errors: policy, no sniffing, no frames."""
    paths = (
        "/", "/about", "/predict", "/submit", "/submit/batch", f"/jobs/{finished}",
        f"/jobs/{finished}/files/report.html", f"/jobs/{finished}/images/0/0/nucleus.png",
        "/api/openapi.json", "/api/predictions/none", "/static/opengps.css", "/gone",
    )  # fmt: skip
    for path in paths:
        headers = client.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy, path
        assert "unsafe" not in policy and "http" not in policy and "*" not in policy, path
        assert headers["X-Content-Type-Options"] == "nosniff", path
        assert headers["X-Frame-Options"] == "DENY", path
        assert headers["Referrer-Policy"] == "no-referrer", path
    report = client.get(f"/jobs/{finished}/files/report.html")
    assert report.headers["Content-Disposition"].startswith("attachment")
    assert "no-store" in client.get(f"/jobs/{finished}").headers["Cache-Control"]
    assert "Strict-Transport-Security" not in client.get("/").headers
    assert client.get("/", base_url="https://localhost").headers["Strict-Transport-Security"]


def test_pages_need_no_inline_script_or_style(client: FlaskClient, finished: str) -> None:
    """What the policy forbids is not there; nothing is loaded from elsewhere."""
    for path in ("/", "/about", "/predict", "/submit", "/submit/batch", f"/jobs/{finished}"):
        page = client.get(path).get_data(as_text=True)
        assert re.findall(r"<script(?![^>]*\bsrc=)", page) == [], path
        assert re.findall(r"<style|\sstyle=|\son[a-z]+=|javascript:", page) == [], path
        outside = re.findall(r'(?:src|href|action)="(?:https?:)?//([^"]+)"', page)
        assert [place for place in outside if not place.startswith("localhost")] == [], path


def test_cookie_is_for_the_server_only(client: FlaskClient) -> None:
    """Scripts cannot read it, other sites do not send it; behind HTTPS it is secure."""
    cookie = client.get("/predict").headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie


def test_rate_limit(tmp_path: Path) -> None:
    """The form and the interface share one count; over it is 429 with a time to wait."""
    client = site.make_app(tmp_path, POSTS_PER_MINUTE=3).test_client()
    for _ in range(2):
        assert client.post("/api/predictions", json={"fasta": "MKK"}).status_code == 202
    site.job_id_of(site.send(client, "/predict", fasta="MKK"))
    answer = client.post("/api/predictions", json={"fasta": "MKK"})
    assert answer.status_code == 429 and int(answer.headers["Retry-After"]) > 0
    answer = site.send(client, "/predict", fasta=">typed\nMKKRRR")
    assert answer.status_code == 429 and "MKKRRR" in answer.get_data(as_text=True)
    # a header that anybody can write does not make another address
    headers = {"X-Forwarded-For": "10.1.2.3"}
    assert client.post("/api/predictions", json={"fasta": "M"}, headers=headers).status_code == 429


def test_rate_limit_forgets_after_a_minute() -> None:
    """The window slides; addresses do not share it, and not more than so many are remembered."""
    now = [0.0]
    limit = RateLimit(2, clock=lambda: now[0])
    assert [limit.wait_s("a") for _ in range(3)] == [0, 0, 60]
    assert limit.wait_s("b") == 0
    now[0] = 60.5
    assert limit.wait_s("a") == 0
    for number in range(RateLimit.MOST_ADDRESSES + 10):
        limit.wait_s(str(number))
    assert len(limit._events) == RateLimit.MOST_ADDRESSES


def test_secret_comes_from_the_environment_or_a_private_file(tmp_path: Path) -> None:
    """No key is in the code; the file is readable by its owner only, and stays the same."""
    assert load_settings({"DATA": tmp_path}, {"OPENGPS_SECRET": "given"})["SECRET_KEY"] == "given"
    assert not (tmp_path / "secret").exists()
    first = load_settings({"DATA": tmp_path}, {})["SECRET_KEY"]
    assert len(first) == 64 and first == load_settings({"DATA": tmp_path}, {})["SECRET_KEY"]
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert load_settings({"DATA": tmp_path / "other"}, {})["SECRET_KEY"] != first


def test_no_pickle_and_no_shell() -> None:
    """Neither the application nor what it calls with a stranger's file can run what is in it."""
    forbidden = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "yaml"}
    for path in (ROOT / "opengps").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {name.split(".")[0] for name in names} & forbidden, path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "os.system", "pickle.loads"), path
                given_words = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert given_words.get("shell") != "True", path
                assert given_words.get("allow_pickle", "False") == "False", path
                if called == "np.load":
                    assert given_words["allow_pickle"] == "False", path


def test_host_names(tmp_path: Path) -> None:
    """Where the names are set, asking under another one is refused and no link made of it."""
    client = site.make_app(tmp_path, HOSTS=("gps.example",)).test_client()
    assert client.get("/", base_url="http://gps.example").status_code == 200
    answer = client.get("/predict", base_url="http://evil.example")
    assert answer.status_code == 400 and b"evil" not in answer.data


def test_limits_told_are_the_limits_set() -> None:
    """The table of the threat model has every limit, with the number that is in force."""
    text = (ROOT / "book" / "threat_model.md").read_text()
    told = re.findall(r"^\| `([A-Z_]+)` \| ([\d,]+) \|", text, re.MULTILINE)
    assert {name: int(number.replace(",", "")) for name, number in told} == {
        name: DEFAULTS[name] for name, _ in told
    }
    limits = {name for name in DEFAULTS if name.startswith("MAX_")} - {
        "MAX_FORM_MEMORY_SIZE", "MAX_FORM_PARTS",
    }  # fmt: skip
    assert limits <= {name for name, _ in told}
