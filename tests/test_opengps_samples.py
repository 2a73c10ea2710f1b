"""openGPS with a model that generates: several samples of a protein, their mean, their spread."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask import Flask
from opengps_site import FASTA, job_id_of, make_app, send, work
from PIL import Image
from tiny import DIM, Letters, make_tiny

from deepgps_core.flow import FlowConfig
from deepgps_core.runs import TrainingConfig
from deepgps_core.training import fit


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """Return an application that offers a shipped model and a tiny one that generates."""
    folder = tmp_path_factory.mktemp("samples")
    dataset = make_tiny(folder / "tiny")
    model = FlowConfig(
        sequence_dim=DIM, hidden_dim=8, width=4, depth=2, crop_size_px=24, time_dim=8, steps=2,
        condition="label",
    )  # fmt: skip
    training = TrainingConfig(encoder="drawn", epochs=1, batch_size=8)
    fit(dataset, "random-0", model, training, folder / "drawer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepgps_core.backends.cached_encoder", lambda name: Letters())
        yield make_app(folder / "site", MODELS=("single-2", str(folder / "drawer")), MAX_SAMPLED=24)


def asked(app: Flask, **values: Any) -> str:
    """Send the form; return the page that comes back."""
    return send(app.test_client(), "/predict", fasta=FASTA, **values).get_data(as_text=True)


def test_samples_are_drawn_and_shown(app: Flask) -> None:
    """The result tells their number and spread, shows each, and its files hold all."""
    client = app.test_client()
    job_id = job_id_of(send(client, "/predict", fasta=FASTA, model="drawer", samples="10"))
    assert work(app) == 1
    page = client.get(f"/jobs/{job_id}").get_data(as_text=True)
    assert "mean of 10 samples" in page and "the first 8 one by one" in page
    assert page.count("Spread of the samples 0.") == 2
    told = client.get(f"/api/predictions/{job_id}").get_json()["result"]
    assert told["n_samples"] == 10 and all(p["image_spread"] > 0 for p in told["proteins"])

    def picture(channel: str) -> np.ndarray:
        answer = client.get(f"/jobs/{job_id}/images/1/0/{channel}.png")
        assert answer.status_code == 200, channel
        return np.asarray(Image.open(io.BytesIO(answer.data)))

    drawn = np.stack([picture(f"sample-{k}") for k in range(1, 9)])
    assert drawn.std(axis=0).max() > 0
    assert picture("spread").max() > picture("spread").min()
    assert client.get(f"/jobs/{job_id}/images/1/0/sample-9.png").status_code == 404
    answer = client.get(f"/jobs/{job_id}/files/results.zip")
    with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
        assert sum(name.endswith("_samples.tif") for name in archive.namelist()) == 2


def test_one_image_as_ever_without_samples(app: Flask) -> None:
    """Left empty, nothing is said of samples and none can be seen."""
    client = app.test_client()
    job_id = job_id_of(send(client, "/predict", fasta=FASTA, model="drawer", samples=""))
    assert work(app) == 1
    assert "samples" not in client.get(f"/jobs/{job_id}").get_data(as_text=True)
    assert client.get(f"/api/predictions/{job_id}").get_json()["result"]["n_samples"] == 0
    assert client.get(f"/jobs/{job_id}/images/0/0/sample-1.png").status_code == 404


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": "drawer", "samples": "17"}, "At most 16 samples"),
        ({"model": "drawer", "samples": "13"}, "13 samples of 2 proteins are too many"),
        ({"model": "drawer", "samples": "-1"}, "whole number up to 16"),
        ({"model": "drawer", "samples": "³"}, "whole number up to 16"),
        ({"model": "single-2", "samples": "2"}, "draws one image, always the same"),
    ],
)
def test_what_cannot_be_sampled_is_said(app: Flask, values: dict[str, str], words: str) -> None:
    """One sentence beside the field, and no job."""
    page = asked(app, **values)
    assert words in page and work(app) == 0


def test_the_field_is_shown_where_a_model_generates(app: Flask, tmp_path: Path) -> None:
    """With shipped models alone nobody is asked for samples."""
    assert 'name="samples"' in app.test_client().get("/predict").get_data(as_text=True)
    plain = make_app(tmp_path / "plain")
    assert 'name="samples"' not in plain.test_client().get("/predict").get_data(as_text=True)
