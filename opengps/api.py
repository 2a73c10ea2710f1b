"""The JSON interface: the same functions as the pages, described by `opengps.openapi`."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, abort, jsonify, request, send_file, url_for

from deepgps_core import __version__
from opengps import results
from opengps.context import engine, models, settings
from opengps.database import Job
from opengps.errors import FieldErrors
from opengps.forms import parse_prediction
from opengps.intake import COMPARE, PREDICT, accept_prediction, accept_submission
from opengps.jobs import waiting
from opengps.openapi import document, fields_of
from opengps.pages import send_picture
from opengps.prediction import title_of
from opengps.security import check_rate
from opengps.submissions import parse_submission

blueprint = Blueprint("api", __name__, url_prefix="/api")


@blueprint.get("/openapi.json")
def openapi() -> Response:
    """Describe the interface to programs."""
    return jsonify(document(settings(), list(models()), request.script_root or "/"))


@blueprint.get("/health")
def health() -> Response:
    """Say that the server and its database answer, and how long the queue is."""
    return jsonify(status="ok", version=__version__, waiting=waiting(engine()))


@blueprint.get("/models")
def list_models() -> Response:
    """List the models on offer."""
    told = [
        {
            "name": info.name, "title": title_of(info), "labels": list(info.labels),
            "images": info.images, "n_members": info.n_members, "calibrated": info.calibrated,
            "multi_label": info.multi_label, "notice": info.notice,
        }
        for info in models().values()
    ]  # fmt: skip
    return jsonify(models=told)


def _body(schema: str) -> dict[str, Any]:
    """
    Read the JSON of a request; the type has to be stated, which no form of another site can.

    Raises
    ------
    FieldErrors
        If it is no object, or has a field that is not known.
    """
    try:
        body = request.get_json()
    except RecursionError:
        abort(400)
    if not isinstance(body, dict):
        raise FieldErrors({"form": "Send a JSON object."})
    known = fields_of(schema)
    if unknown := [name for name in body if name not in known]:
        # the name is the stranger's: it is shortened, and escaped by JSON
        raise FieldErrors({"form": f"No field {unknown[0][:40]!r}; known: {', '.join(known)}."})
    return body


def _decoded(value: Any, field: str) -> bytes:
    """
    Return the bytes of a file sent as base64.

    Raises
    ------
    FieldErrors
    """
    try:
        if not isinstance(value, str):
            raise ValueError
        return base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        raise FieldErrors({field: "Send the file as base64 text."}) from None


def _described(job: Job | None, get: str) -> dict[str, Any]:
    if job is None:
        abort(404)
    page = "pages.job" if job.kind == PREDICT else "submit.submission"
    links = {"self": url_for(get, job_id=job.id), "page": url_for(page, job_id=job.id)}
    return results.describe(engine(), settings(), job) | {"links": links}


def _accepted(job_id: str, kind: str, get: str) -> Response:
    told = _described(results.find_job(engine(), job_id, kind), get)
    response = jsonify(told)
    response.status_code = 202
    response.headers["Location"] = told["links"]["self"]
    return response


@blueprint.post("/predictions")
def start_prediction() -> Response:
    """Put a prediction into the queue."""
    check_rate()
    body = _body("PredictionRequest")
    sent = body.get("nucleus_images") or []
    if not isinstance(sent, list):
        raise FieldErrors({"nucleus_images": "Send a list of files as base64 text."})
    files = [_decoded(value, "nucleus_images") for value in sent]
    try:
        asked = parse_prediction(body, files, settings(), models())
    except FieldErrors as error:
        renamed = {("nucleus_images" if k == "nucleus" else k): v for k, v in error.errors.items()}
        raise FieldErrors(renamed, error.status) from None
    job_id = accept_prediction(engine(), settings(), asked)
    return _accepted(job_id, PREDICT, "api.prediction")


@blueprint.get("/predictions/<job_id>")
def prediction(job_id: str) -> Response:
    """Tell state, progress and results of a prediction."""
    return jsonify(_described(results.find_job(engine(), job_id, PREDICT), "api.prediction"))


@blueprint.post("/submissions")
def start_submission() -> Response:
    """Take an experimental image, and compare it with the prediction."""
    check_rate()
    body = _body("SubmissionRequest")
    images = {
        name: _decoded(body[name], name)
        for name in ("image", "nucleus")
        if body.get(name) is not None
    }
    asked = parse_submission(body, images, settings(), list(models()))
    job_id = accept_submission(engine(), settings(), asked)
    return _accepted(job_id, COMPARE, "api.submission")


@blueprint.get("/submissions/<job_id>")
def submission(job_id: str) -> Response:
    """Tell state, progress and results of a comparison."""
    return jsonify(_described(results.find_job(engine(), job_id, COMPARE), "api.submission"))


def _register_files(name: str, kind: str) -> None:
    """Add the addresses of a kind of job's images and files."""

    def image(job_id: str, number: int, cell: int, channel: str) -> Response:
        job = results.find_job(engine(), job_id, kind) or abort(404)
        return send_picture(results.picture(settings(), job, number, cell, channel))

    def file(job_id: str, file_name: str) -> Response:
        job = results.find_job(engine(), job_id, kind) or abort(404)
        path = results.download(settings(), job, file_name) or abort(404)
        return send_file(path, as_attachment=True, download_name=f"opengps-{file_name}")

    views: dict[str, Callable[..., Response]] = {
        f"/{name}/<job_id>/images/<int:number>/<int:cell>/<channel>": image,
        f"/{name}/<job_id>/files/<file_name>": file,
    }
    for rule, view in views.items():
        blueprint.add_url_rule(rule, f"{name}_{view.__name__}", view)


_register_files("predictions", PREDICT)
_register_files("submissions", COMPARE)
