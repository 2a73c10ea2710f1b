"""openGPS before noise: any JSON, any text, any call of the OpenAPI document is answered."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import opengps_site as site
import pytest
import schemathesis
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from opengps.errors import FieldErrors
from opengps.forms import parse_fasta, parse_prediction
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


@pytest.mark.slow
def test_interface_keeps_its_promises(app: Flask) -> None:
    """Schemathesis, from the OpenAPI document: no 500, and only answers that it describes."""
    schema = schemathesis.openapi.from_wsgi("/api/openapi.json", app)
    checks = schemathesis.checks
    seen: list[str] = []
    for operation in schema.get_all_operations():
        api = operation.ok()

        @settings(
            max_examples=15,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.explicit, Phase.generate),
        )
        @given(case=api.as_strategy())
        def one(case: Any) -> None:
            answer = case.call()
            assert answer.status_code < 500, f"{case.method} {case.path}: {answer.status_code}"
            case.validate_response(
                # a FASTA that fits the schema may still be none: the answer then says so
                answer, excluded_checks=[checks.positive_data_acceptance]
            )  # fmt: skip

        one()
        seen.append(f"{api.method.upper()} {api.path}")
    assert len(seen) >= 10 and "POST /api/predictions" in seen


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
KINDS = ("predictions", "submissions")
FIELDS = ("fasta", "model", "pixel_size_um", "nucleus_images", "mutations", "protein_id",
          "sequence", "locations", "cell_line", "provenance", "image", "nucleus")  # fmt: skip


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    st.dictionaries(st.sampled_from(FIELDS), JSON), st.sampled_from(["predictions", "submissions"])
)
def test_any_json_is_answered(app_of_fuzz: Flask, body: dict[str, Any], kind: str) -> None:
    """Whatever type stands in whatever field, the answer is a message, not an error of ours."""
    answer = app_of_fuzz.test_client().post(f"/api/{kind}", data=json.dumps(body),
                                            content_type="application/json")  # fmt: skip
    assert answer.status_code in (202, 400), answer.get_data(as_text=True)
    if answer.status_code == 400:
        assert all(isinstance(text, str) for text in answer.get_json()["errors"].values())


@pytest.fixture(scope="module")
def app_of_fuzz(tmp_path_factory: pytest.TempPathFactory) -> Flask:
    """An application whose queue never fills."""
    return site.make_app(tmp_path_factory.mktemp("fuzz"), MAX_QUEUE=10**6)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.text(max_size=200) | st.from_regex(r"(>[^\n]{0,20}\n[A-Za-z*\-. \r\n]{0,40}){0,4}"))
def test_any_text_as_fasta(text: str) -> None:
    """What is taken is clean sequences under names that fit; all else is refused in a sentence."""
    try:
        found = parse_fasta(text, DEFAULTS)
    except ValueError as error:
        assert 0 < len(str(error)) <= 400 and "\n" not in str(error)
        assert not isinstance(error, UnicodeError)
    else:
        assert found
        for name, sequence in found.items():
            assert 0 < len(name) <= 80 and re.fullmatch(r"[A-Z]+", sequence)


def test_a_path_typed_as_fasta_is_not_opened(tmp_path: Path) -> None:
    """The reader that takes files on the command line never sees a path from the web."""
    (tmp_path / "secret.fasta").write_text(">secret\nMKKLLL\n")
    for text in (str(tmp_path / "secret.fasta"), f"{tmp_path / 'secret.fasta'}\n"):
        with pytest.raises(FieldErrors) as caught:
            parse_prediction({"fasta": text}, [], DEFAULTS, ["single-2"])
        assert "MKKLLL" not in str(caught.value)
