"""The application factory: settings, database, pages and interface put together."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, jsonify, render_template, request
from markupsafe import escape
from sqlalchemy.exc import OperationalError
from werkzeug.exceptions import HTTPException, SecurityError
from werkzeug.middleware.proxy_fix import ProxyFix

from deepgps_core.mutations import CHANGE_THRESHOLD
from opengps import api, pages, security, submit_pages
from opengps.context import models
from opengps.database import open_database
from opengps.errors import BusyError, FieldErrors
from opengps.prediction import title_of
from opengps.results import SHOWN_SAMPLES
from opengps.settings import load_settings

log = logging.getLogger("opengps")
EXPLAINED = {
    400: ("This request cannot be read", "Go back and send the form again."),
    404: ("Nothing is here", "The address is mistyped, or the result is older than it is kept."),
    405: ("This page takes no such request", "Open it from the menu."),
    413: ("Too much at once", "What was sent is larger than this server takes. Send less."),
    415: ("This is not the kind of data asked for", "Send JSON, as application/json."),
    500: ("Something went wrong", "It has been noted. Try again in a minute."),
    503: ("Busy", "Try again in a minute."),
}


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """
    Make the application.

    Parameters
    ----------
    config : mapping, optional
        Overrides of `settings.DEFAULTS`; tests use it, everybody else the environment.
    """
    app = Flask(__name__)
    app.config.update(load_settings(config))
    app.json.sort_keys = False  # type: ignore[attr-defined]
    engine = open_database(app.config["DATABASE"])
    app.extensions["opengps_engine"] = engine
    if app.config["PROXIES"]:
        count = app.config["PROXIES"]
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=count, x_proto=count)  # type: ignore[method-assign]
    security.protect(app)
    for blueprint in (pages.blueprint, submit_pages.blueprint, api.blueprint):
        app.register_blueprint(blueprint)
    app.jinja_env.globals.update(
        title_of=title_of, models=models, change_threshold=CHANGE_THRESHOLD,
        shown_samples=SHOWN_SAMPLES,
    )  # fmt: skip
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    _handle_errors(app)
    return app


def _wants_json() -> bool:
    return request.path.startswith("/api/")


def _answer(status: int, errors: Mapping[str, str], retry_s: int = 0) -> Response:
    """Answer with an error: JSON to programs, a page to people."""
    if _wants_json():
        response = jsonify(errors=dict(errors))
    else:
        title, advice = EXPLAINED.get(status, ("This did not work", ""))
        response = Response(_error_page(title, errors.get("form") or advice))
    response.status_code = status
    if retry_s:
        response.headers["Retry-After"] = str(retry_s)
    return response


def _error_page(title: str, advice: str) -> str:
    # asked under a name that is not ours, there are no addresses to build links with
    if isinstance(request.routing_exception, SecurityError):
        return f"<!doctype html><title>{escape(title)}</title><p>{escape(advice)}</p>"
    return render_template("error.html", title=title, advice=advice)


def _handle_errors(app: Flask) -> None:
    @app.errorhandler(HTTPException)
    def http(error: HTTPException) -> Response:
        status = error.code or 500
        title, advice = EXPLAINED.get(status, ("", error.name))
        told = advice if not _wants_json() or not title else f"{title}. {advice}"
        response = _answer(status, {"form": told})
        if status == 405 and error.get_response().headers.get("Allow"):
            response.headers["Allow"] = error.get_response().headers["Allow"]
        return response

    @app.errorhandler(FieldErrors)
    def fields(error: FieldErrors) -> Response:
        return _answer(error.status, error.errors, 60 if error.status == 429 else 0)

    @app.errorhandler(BusyError)
    def busy(error: BusyError) -> Response:
        return _answer(503, {"form": str(error)}, 30)

    @app.errorhandler(OperationalError)
    def locked(error: OperationalError) -> Response:
        log.error("%s %s: %s", request.method, request.path, error.orig)
        return _answer(503, {"form": "The database is busy. Try again in a minute."}, 30)

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        log.exception("%s %s", request.method, request.path)
        return _answer(500, {"form": " ".join(EXPLAINED[500])})
