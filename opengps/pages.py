"""The pages of the Predict module: home, the form, progress and results, and what is behind it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from flask import Blueprint, Response, abort, redirect, render_template, request, send_file, url_for
from werkzeug.wrappers import Response as AnyResponse

from opengps import results
from opengps.context import engine, models, settings
from opengps.errors import BusyError, FieldErrors
from opengps.forms import parse_prediction
from opengps.intake import EXAMPLE, PREDICT, accept_prediction
from opengps.security import check_form_token, check_rate

blueprint = Blueprint("pages", __name__)
TYPED = ("fasta", "model", "pixel_size_um", "mutations", "samples")
#: What the examples of the home page fill into the form: UniProt accessions, and mutations.
EXAMPLES: dict[str, tuple[tuple[str, ...], str]] = {
    "three": (("Q8IV63", "Q16630", "P13639"), ""),
    "mutant": (("Q8IV63",), "del5-60, graft:PKKKRKV"),
}


@lru_cache(maxsize=4)
def example_form(name: str) -> dict[str, str]:
    """Return what an example fills into the form; nothing for an unknown name."""
    from deepgps_core.sources.embedded import embedded_proteins

    if name not in EXAMPLES:
        return {}
    chosen, mutations = EXAMPLES[name]
    table = embedded_proteins().set_index("protein_id").loc[list(chosen)]
    records = zip(table.index, table["gene"], table["sequence"], strict=True)
    fasta = "\n".join(f">{name} {gene}\n{sequence}" for name, gene, sequence in records)
    return {"fasta": fasta, "mutations": mutations}


def shown_again(
    template: str, error: FieldErrors | BusyError, values: Mapping[str, Any]
) -> Response:
    """Show a form again: what was typed, and what to do about it beside each field."""
    busy = isinstance(error, BusyError)
    errors = {"form": str(error)} if isinstance(error, BusyError) else error.errors
    status = 503 if isinstance(error, BusyError) else error.status
    page = Response(render_template(template, errors=errors, values=values), status)
    if status in (429, 503):
        page.headers["Retry-After"] = "30" if busy else "60"
    return page


def send_picture(data: bytes | None) -> Response:
    """Answer with a PNG, which never changes; 404 where there is none."""
    if data is None:
        abort(404)
    headers = {"Cache-Control": "private, max-age=86400, immutable"}
    return Response(data, mimetype="image/png", headers=headers)


@blueprint.get("/")
def home() -> str:
    """Say what this is, with examples one click away."""
    job = results.find_job(engine(), EXAMPLE, PREDICT)
    example = None if job is None else results.describe(engine(), settings(), job)
    return render_template("home.html", example=example)


@blueprint.get("/about")
def about() -> str:
    """Say which models there are, what they learned from, and what they cannot do."""
    return render_template("about.html", limits=settings())


@blueprint.get("/predict")
def predict() -> str:
    """Show the form, filled in with an example if one is asked for."""
    values = example_form(request.args.get("example", ""))
    return render_template("predict.html", errors={}, values=values)


def _typed_fasta() -> str:
    """Join what was pasted and what was uploaded; the form shows it all again after an error."""
    typed = request.form.get("fasta", "")
    file = request.files.get("fasta_file")
    if file is None or not file.filename:
        return typed
    data = file.read(settings()["MAX_FASTA_BYTES"] + 1)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise FieldErrors({"fasta": "The file is no text. Choose a FASTA file."}) from None
    return f"{typed.rstrip()}\n{text}" if typed.strip() else text


@blueprint.post("/predict")
def start_prediction() -> AnyResponse:
    """Check the form, and put the job into the queue."""
    values = {name: request.form.get(name, "") for name in TYPED}
    try:
        check_form_token()
        check_rate()
        values["fasta"] = _typed_fasta()
        files = [file.read() for file in request.files.getlist("nucleus") if file.filename]
        asked = parse_prediction(values, files, settings(), models())
        job_id = accept_prediction(engine(), settings(), asked)
    except (FieldErrors, BusyError) as error:
        return shown_again("predict.html", error, values)
    return redirect(url_for("pages.job", job_id=job_id), 303)


@blueprint.get("/jobs/<job_id>")
def job(job_id: str) -> str:
    """Show how far a job is, or what came of it."""
    found = results.find_job(engine(), job_id, PREDICT)
    if found is None:
        abort(404)
    told = results.describe(engine(), settings(), found)
    n_cells = told["result"]["n_nuclei"] if "result" in told else 1
    cell = min(max(1, request.args.get("cell", 1, type=int)), n_cells)
    return render_template(
        "job.html", job=told, cell=cell - 1, days=settings()["KEEP_DAYS"], example=EXAMPLE,
        link=url_for("pages.job", job_id=job_id, _external=True),
    )  # fmt: skip


@blueprint.get("/jobs/<job_id>/images/<int:number>/<int:cell>/<channel>.png")
def job_image(job_id: str, number: int, cell: int, channel: str) -> Response:
    """Answer with one image of a result."""
    found = results.find_job(engine(), job_id, PREDICT) or abort(404)
    return send_picture(results.picture(settings(), found, number, cell, channel))


@blueprint.get("/jobs/<job_id>/files/<name>")
def job_file(job_id: str, name: str) -> Response:
    """Answer with a file of a result, to be saved."""
    found = results.find_job(engine(), job_id, PREDICT) or abort(404)
    path = results.download(settings(), found, name) or abort(404)
    return send_file(path, as_attachment=True, download_name=f"opengps-{name}", max_age=0)
