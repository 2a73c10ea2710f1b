"""
What every answer carries and every change has to show: headers, form tokens, a rate limit.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from flask import Flask, Response, current_app, request, session
from itsdangerous import BadData, URLSafeTimedSerializer

from opengps.errors import FieldErrors

FORM_LIFE_S = 12 * 3600
#: Nothing from elsewhere, nothing inline, no frames, forms to here only.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",  # the address of a result is its key
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "X-Robots-Tag": "noindex",
}


def add_headers(response: Response) -> Response:
    """Put the security headers on an answer; results are for one reader's cache only."""
    for name, value in HEADERS.items():
        response.headers[name] = value
    if request.is_secure:
        response.headers["Strict-Transport-Security"] = "max-age=31536000"
    if request.endpoint != "static":
        response.headers.setdefault("Cache-Control", "private, no-store")
    return response


def _signer() -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(str(current_app.secret_key), salt="opengps-form")


def form_token() -> str:
    """Return a token for a form, bound to the visitor's cookie and signed."""
    if "visitor" not in session:
        session["visitor"] = secrets.token_urlsafe(16)
    return _signer().dumps(session["visitor"])


def check_form_token() -> None:
    """
    Refuse a form that did not come from one of our own pages.

    Raises
    ------
    FieldErrors
        The form is shown again with what was typed and a fresh token.
    """
    try:
        told = _signer().loads(request.form.get("form_token", ""), max_age=FORM_LIFE_S)
    except BadData:
        told = ""
    visitor = session.get("visitor", "")
    if not visitor or not hmac.compare_digest(str(told), visitor):
        raise FieldErrors(
            {"form": "This form was open too long, or cookies are off. Send it again."}, 400
        )


class RateLimit:
    """
    At most so many events a minute of each address, in this process.

    Parameters
    ----------
    per_minute : int
    clock : callable
        Seconds; for tests.
    """

    MOST_ADDRESSES = 10_000

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute, self._clock = per_minute, clock
        self._events: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait_s(self, address: str) -> int:
        """Count an event; return 0, or seconds to wait if it is one too many."""
        now = self._clock()
        with self._lock:
            events = self._events.setdefault(address, deque())
            self._events.move_to_end(address)
            while len(self._events) > self.MOST_ADDRESSES:  # the longest silent one is forgotten
                self._events.popitem(last=False)
            while events and events[0] <= now - 60:
                events.popleft()
            if len(events) >= self.per_minute:
                return max(1, round(events[0] + 60 - now))
            events.append(now)
            return 0


def check_rate() -> None:
    """
    Count a change asked for by this visitor's address.

    Raises
    ------
    FieldErrors
        With status 429, if there were too many within a minute.
    """
    limit: RateLimit = current_app.extensions["opengps_rate"]
    wait = limit.wait_s(request.remote_addr or "unknown")
    if wait:
        raise FieldErrors(
            {"form": f"Too many requests from your address. Try again in {wait} seconds."}, 429
        )


def protect(app: Flask) -> None:
    """Set up headers and the rate limit of an application."""
    app.extensions["opengps_rate"] = RateLimit(app.config["POSTS_PER_MINUTE"])
    app.after_request(add_headers)
    app.jinja_env.globals["form_token"] = form_token
