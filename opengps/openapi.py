"""The OpenAPI document, in one place: limits are those of the settings, models those on offer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deepgps_core import __version__
from opengps.forms import MAX_LINE, MAX_NAME
from opengps.results import CHANNELS, DOWNLOADS

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
BASE64: Schema = {"type": "string", "contentEncoding": "base64"}
SHARES: Schema = {"type": "object", "additionalProperties": SHARE}
PIXEL_SIZE: Schema = {
    "type": ["number", "null"], "minimum": 0.01, "maximum": 10,
    "description": "Micrometers a pixel of the images; by default 0.206.",
}  # fmt: skip
#: Fields of the requests; `fields_of` and the document read the same.
REQUESTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "PredictionRequest": (
        ("fasta",), ("model", "pixel_size_um", "nucleus_images", "mutations", "samples"),
    ),
    "SubmissionRequest": (
        ("protein_id", "cell_line", "provenance", "pixel_size_um", "image"),
        ("sequence", "locations", "model", "nucleus"),
    ),
}  # fmt: skip


def fields_of(schema: str) -> tuple[str, ...]:
    """Return the names a request may use."""
    required, optional = REQUESTS[schema]
    return (*required, *optional)


def _object(properties: Mapping[str, Schema], optional: Sequence[str] = ()) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": dict(properties), "required": required}


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _request_fields(settings: Mapping[str, Any], models: Sequence[str]) -> dict[str, Schema]:
    return {
        "fasta": {
            "type": "string", "minLength": 1, "maxLength": settings["MAX_FASTA_BYTES"],
            "examples": [">my_protein\nMPKKKRKVEDPSTLLAARG"],
            "description": f"FASTA, or one bare sequence; up to {settings['MAX_SEQUENCES']} "
            f"proteins of up to {settings['MAX_RESIDUES']} residues.",
        },
        "model": {"type": ["string", "null"], "enum": [*models, "", None]},
        "pixel_size_um": PIXEL_SIZE,
        "nucleus_images": {
            **_list(BASE64), "type": ["array", "null"], "maxItems": settings["MAX_IMAGES"],
            "description": "TIFF, PNG or JPEG files of nuclei; by default a simulated nucleus.",
        },
        "mutations": {
            "type": ["string", "null"], "maxLength": 10_000, "examples": ["R12A, del5-20"],
            "description": "R12A, del5-20, ins0:PKKKRKV or graft:PKKKRKV, with commas; ID=R12A "
            "names the protein, + joins several in one mutant.",
        },
        "samples": {
            "type": ["integer", "null"], "minimum": 0, "maximum": settings["MAX_SAMPLES"],
            "description": "Images of each protein beside each nucleus, of a model that generates.",
        },
        "protein_id": {
            "type": "string", "minLength": 1, "maxLength": MAX_NAME,
            "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        },
        "sequence": {
            "type": ["string", "null"], "maxLength": settings["MAX_FASTA_BYTES"],
            "description": "May be left out where protein_id is an accession that ships.",
        },
        "locations": {
            "type": ["string", "null"], "maxLength": MAX_LINE, "examples": ["Cytoplasm;Nucleus"],
        },
        "cell_line": {"type": "string", "minLength": 1, "maxLength": 100},
        "provenance": {"type": "string", "minLength": 1, "maxLength": 2000},
        "image": {**BASE64, "description": "Both channels, or the protein channel alone."},
        "nucleus": {**BASE64, "type": ["string", "null"]},
    }  # fmt: skip


def _result_schemas() -> dict[str, Schema]:
    label = {
        "label": TEXT, "probabilities": SHARES, "confidence": SHARE, "unsure": FLAG,
    }  # fmt: skip
    protein = {
        "protein_id": TEXT, "n_residues": COUNT, **label, "confidence_low": SHARE,
        "confidence_high": SHARE, "entropy": SHARE,
    }  # fmt: skip
    compared = {
        "protein_id": TEXT, "locations": TEXT, "cell_line": TEXT, "file_name": TEXT,
        "n_residues": COUNT, "error": TEXT, **label, "n_cells": COUNT,
        "scores": {"type": "object", "additionalProperties": {"type": "number"}},
    }  # fmt: skip
    about = {"model": TEXT, "title": TEXT, "notice": TEXT, "labels": _list(TEXT)}
    return {
        "Protein": _object(protein),
        "Compared": _object(compared, ("error", *label, "n_cells", "scores")),
        "PredictionResult": _object(
            {
                **about, "multi_label": FLAG, "n_members": COUNT, "calibrated": FLAG,
                "n_nuclei": COUNT, "n_samples": COUNT, "nuclei_source": TEXT,
                "pixel_size_um": {"type": "number"}, "width_um": {"type": "number"},
                "proteins": _list(_ref("Protein")), "mutations": _list({"type": "object"}),
            }
        ),
        "SubmissionResult": _object(
            {
                **about, "pixel_size_um": {"type": "number"},
                "submissions": _list(_ref("Compared")),
            }
        ),
    }  # fmt: skip


def _job(result: str) -> Schema:
    return _object(
        {
            "id": TEXT, "state": {"enum": ["queued", "running", "done", "failed"]},
            "progress": {"type": "integer", "minimum": 0, "maximum": 100}, "ahead": COUNT,
            "error": TEXT, "created": {"type": "number", "description": "Unix time."},
            "model": TEXT, "result": _ref(result), "links": _object({"self": TEXT, "page": TEXT}),
        },
        ("result",),
    )  # fmt: skip


def _schemas(settings: Mapping[str, Any], models: Sequence[str]) -> dict[str, Schema]:
    fields = _request_fields(settings, models)
    requests = {}
    for name, (required, optional) in REQUESTS.items():
        chosen = {field: dict(fields[field]) for field in (*required, *optional)}
        for field in required:
            if isinstance(chosen[field].get("type"), list):
                chosen[field]["type"] = chosen[field]["type"][0]
        requests[name] = {**_object(chosen, optional), "additionalProperties": False}
    model = {
        "name": TEXT, "title": TEXT, "labels": _list(TEXT), "images": TEXT, "n_members": COUNT,
        "calibrated": FLAG, "multi_label": FLAG, "notice": TEXT,
    }  # fmt: skip
    return {
        **requests, **_result_schemas(), "Model": _object(model),
        "Prediction": _job("PredictionResult"), "Submission": _job("SubmissionResult"),
        "Errors": _object({"errors": {"type": "object", "additionalProperties": TEXT}}),
    }  # fmt: skip


def _answer(text: str, schema: Schema, media: str = "application/json") -> dict[str, Any]:
    return {"description": text, "content": {media: {"schema": schema}}}


def _errors(*statuses: int) -> dict[str, Any]:
    said = {
        400: "A field cannot be used; the message stands beside its name.",
        404: "There is no such result.",
        413: "More than this server takes at once.",
        415: "Not application/json.",
        429: "Too many requests; Retry-After says when to try again.",
        500: "An error of the server.",
        503: "Queue or disk full, or database busy; try again.",
    }
    return {str(s): _answer(said[s], _ref("Errors")) for s in (*statuses, 500, 503)}


def _parameter(name: str, schema: Schema) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _paths_of(name: str, request: str, answer: str, does: str) -> dict[str, Any]:
    job_id = _parameter("job_id", {"type": "string", "pattern": "^[A-Za-z0-9_-]{7,40}$"})
    place = [job_id, *(_parameter(n, COUNT) for n in ("number", "cell"))]
    place.append(_parameter("channel", {"enum": list(CHANNELS)}))
    file = _parameter("file_name", {"enum": list(DOWNLOADS)})
    body = {"required": True, "content": {"application/json": {"schema": _ref(request)}}}
    accepted = _answer("Accepted: ask again at links.self.", _ref(answer))
    accepted["headers"] = {"Location": {"schema": TEXT}}
    accepted["links"] = {
        "job": {"operationId": f"get_{name}", "parameters": {"job_id": "$response.body#/id"}}
    }
    binary = {"type": "string", "format": "binary"}
    saved = {
        "description": "The file.",
        "content": {
            media: {"schema": binary} for media in ("text/csv", "application/zip", "text/html")
        },
    }

    def get(text: str, parameters: list[Any], found: dict[str, Any]) -> dict[str, Any]:
        answers = {"200": found, **_errors(404)}
        named = {"operationId": f"get_{name}"} if parameters == [job_id] else {}
        return {"get": {"summary": text, **named, "parameters": parameters, "responses": answers}}

    post = {
        "operationId": f"post_{name}", "summary": does, "requestBody": body,
        "responses": {"202": accepted, **_errors(400, 413, 415, 429)},
    }  # fmt: skip
    png = _answer("The image.", binary, "image/png")
    return {
        f"/api/{name}": {"post": post},
        f"/api/{name}/{{job_id}}": get(
            "State, progress and results", [job_id], _answer("The job.", _ref(answer))
        ),
        f"/api/{name}/{{job_id}}/images/{{number}}/{{cell}}/{{channel}}": get(
            "One image", place, png
        ),
        f"/api/{name}/{{job_id}}/files/{{file_name}}": get("One file", [job_id, file], saved),
    }


def document(
    settings: Mapping[str, Any], models: Sequence[str], server: str = "/"
) -> dict[str, Any]:
    """
    Return the OpenAPI 3.1 document.

    Parameters
    ----------
    server : str
        Where the application is mounted.
    """
    health = _object({"status": TEXT, "version": TEXT, "waiting": COUNT})
    offered = _object({"models": _list(_ref("Model"))})

    def get(text: str, schema: Schema) -> dict[str, Any]:
        answers = {"200": _answer(text, schema), **_errors()}
        return {"get": {"summary": text, "responses": answers}}

    return {
        "openapi": "3.1.0",
        "info": {
            "title": "openGPS", "version": __version__,
            "description": "Where in a cell a protein goes, from its sequence and a nucleus.",
        },
        "servers": [{"url": server}],
        "paths": {
            "/api/health": get("Whether the server answers, and its queue", health),
            "/api/models": get("The models on offer", offered),
            **_paths_of("predictions", "PredictionRequest", "Prediction", "Predict proteins"),
            **_paths_of(
                "submissions", "SubmissionRequest", "Submission", "Submit an experimental image"
            ),
        },
        "components": {"schemas": _schemas(settings, models)},
    }  # fmt: skip
