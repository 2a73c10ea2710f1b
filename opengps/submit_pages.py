"""The pages of the Submit module: one image or many, and what became of them."""

from __future__ import annotations

from flask import Blueprint, Response, abort, redirect, render_template, request, send_file, url_for
from werkzeug.wrappers import Response as AnyResponse

from opengps import results
from opengps.context import engine, models, settings
from opengps.errors import BusyError, FieldErrors
from opengps.intake import COMPARE, accept_submission, seen_before
from opengps.pages import send_picture, shown_again
from opengps.security import check_form_token, check_rate
from opengps.submissions import SubmissionRequest, parse_batch, parse_submission

blueprint = Blueprint("submit", __name__)
COMMON = ("cell_line", "provenance", "pixel_size_um", "model")
SINGLE = ("protein_id", "sequence", "locations", *COMMON)


def _file(name: str) -> bytes:
    """Return what was uploaded in a field of the form; nothing where no file was chosen."""
    file = request.files.get(name)
    return b"" if file is None or not file.filename else file.read()


def _file_name() -> str:
    file = request.files.get("image")
    name = (file.filename or "") if file is not None else ""
    # only shown, never used as a path; control characters would not fit into a table
    return "".join(letter for letter in name if letter.isprintable())[:200]


def _read_single() -> SubmissionRequest:
    values = {name: request.form.get(name, "") for name in SINGLE} | {"file_name": _file_name()}
    images = {name: _file(name) for name in ("image", "nucleus")}
    return parse_submission(values, images, settings(), list(models()))


def _read_batch() -> SubmissionRequest:
    values = {name: request.form.get(name, "") for name in COMMON}
    return parse_batch(values, _file("archive"), _file("table"), settings(), list(models()))


def _accept(template: str, names: tuple[str, ...]) -> AnyResponse:
    """Check a form, keep its images, and put their comparison into the queue."""
    values = {name: request.form.get(name, "") for name in names}
    try:
        check_form_token()
        check_rate()
        asked = _read_single() if template == "submit.html" else _read_batch()
        job_id = accept_submission(engine(), settings(), asked)
    except (FieldErrors, BusyError) as error:
        return shown_again(template, error, values)
    return redirect(url_for("submit.submission", job_id=job_id), 303)


@blueprint.get("/submit")
def single() -> str:
    """Show the form for one image."""
    return render_template("submit.html", errors={}, values={})


@blueprint.post("/submit")
def start_single() -> AnyResponse:
    """Take one image."""
    return _accept("submit.html", SINGLE)


@blueprint.get("/submit/batch")
def batch() -> str:
    """Show the form for a ZIP of images and a table."""
    return render_template("submit_batch.html", errors={}, values={})


@blueprint.post("/submit/batch")
def start_batch() -> AnyResponse:
    """Take a ZIP of images and a table."""
    return _accept("submit_batch.html", COMMON)


@blueprint.get("/submissions/<job_id>")
def submission(job_id: str) -> str:
    """Show what was handed in at once, and how the prediction compares as soon as it is known."""
    found = results.find_job(engine(), job_id, COMPARE)
    if found is None:
        abort(404)
    return render_template(
        "submission.html", job=results.describe(engine(), settings(), found),
        items=results.submitted_items(engine(), job_id), again=seen_before(engine(), job_id),
        link=url_for("submit.submission", job_id=job_id, _external=True),
    )  # fmt: skip


@blueprint.get("/submissions/<job_id>/fields/<int:number>/<channel>.png")
def submission_field(job_id: str, number: int, channel: str) -> Response:
    """Answer with a preview of a submitted field."""
    found = results.find_job(engine(), job_id, COMPARE) or abort(404)
    return send_picture(results.field_preview(engine(), settings(), found.id, number, channel))


@blueprint.get("/submissions/<job_id>/images/<int:number>/<int:cell>/<channel>.png")
def submission_image(job_id: str, number: int, cell: int, channel: str) -> Response:
    """Answer with one image of a comparison."""
    found = results.find_job(engine(), job_id, COMPARE) or abort(404)
    return send_picture(results.picture(settings(), found, number, cell, channel))


@blueprint.get("/submissions/<job_id>/files/<name>")
def submission_file(job_id: str, name: str) -> Response:
    """Answer with a file of a comparison, to be saved."""
    found = results.find_job(engine(), job_id, COMPARE) or abort(404)
    path = results.download(settings(), found, name) or abort(404)
    return send_file(path, as_attachment=True, download_name=f"opengps-{name}", max_age=0)
