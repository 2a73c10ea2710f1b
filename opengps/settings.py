"""
What can be set, its defaults and its limits; secrets come from the environment or a private file.

Every limit is here, so that a page of the book, the About page and the tests read the same one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepgps_core.dataset import MAX_RESIDUES, InputError, data_root

DEFAULTS: dict[str, Any] = {
    "MODELS": ("single-2", "single-4", "all"),
    "MAX_SEQUENCES": 100,  # of one job, variants included
    "MAX_RESIDUES": MAX_RESIDUES,
    "MAX_TOTAL_RESIDUES": 100_000,  # of one job: bounds its time
    "MAX_FASTA_BYTES": 1_000_000,
    "MAX_IMAGE_BYTES": 20_000_000,
    "MAX_IMAGE_PX": 4096,  # of a side
    "MAX_NUCLEI": 4,  # drawn of each nucleus image
    "MAX_IMAGES": 4,  # nucleus images of one job
    "MAX_SAMPLES": 16,  # of a protein beside a nucleus
    "MAX_SAMPLED": 64,  # proteins times samples of one job: each takes a second of a core
    "MAX_SUBMISSIONS": 50,  # of one batch
    "MAX_ARCHIVE_BYTES": 50_000_000,
    "MAX_ARCHIVE_FILES": 100,
    "MAX_UNPACKED_BYTES": 200_000_000,
    "MAX_STORED_BYTES": 20_000_000_000,  # of all submissions together
    "MAX_FIELDS_BYTES": 400_000_000,  # of one batch, decoded
    "MAX_CONTENT_LENGTH": 60_000_000,  # of a request; what is longer is cut off unread
    "MAX_FORM_MEMORY_SIZE": 2_000_000,
    "MAX_FORM_PARTS": 40,
    "MAX_QUEUE": 500,
    "POSTS_PER_MINUTE": 30,  # of one address
    "LEASE_S": 20.0,
    "MAX_ATTEMPTS": 5,
    "POLL_S": 0.1,
    "KEEP_DAYS": 30,
    "HOSTS": "",  # names this server answers to, comma-separated; empty: any
    "PROXIES": 0,  # trusted ones in front, whose X-Forwarded-For counts
    "SESSION_COOKIE_HTTPONLY": True,
    "SESSION_COOKIE_SAMESITE": "Lax",
    "SESSION_COOKIE_SECURE": False,
}
#: Numbers that may be set in the environment, as ``OPENGPS_<NAME>``.
_FROM_ENVIRONMENT = (
    "MAX_SEQUENCES", "MAX_TOTAL_RESIDUES", "MAX_QUEUE", "POSTS_PER_MINUTE", "KEEP_DAYS", "PROXIES",
    "MAX_STORED_BYTES", "MAX_ATTEMPTS", "LEASE_S", "SESSION_COOKIE_SECURE", "POLL_S",
)  # fmt: skip


def _numbers(environment: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in _FROM_ENVIRONMENT:
        text = environment.get(f"OPENGPS_{name}")
        if text is None:
            continue
        try:
            found[name] = type(DEFAULTS[name])(float(text))  # bool("0") would be true
        except (ValueError, OverflowError):
            raise InputError(f"OPENGPS_{name}: {text!r} is no number; correct it.") from None
    return found


def _secret(data: Path, environment: Mapping[str, str]) -> str:
    """Return the key that signs cookies: from the environment, else a private file made once."""
    if environment.get("OPENGPS_SECRET"):
        return environment["OPENGPS_SECRET"]
    path = data / "secret"
    if not path.exists():
        mine = data / f".secret.{secrets.token_hex(4)}"
        descriptor = os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(32))
        with contextlib.suppress(FileExistsError):  # another process was faster: its key counts
            os.link(mine, path)
        mine.unlink()
    return path.read_text(encoding="ascii")


def load_settings(
    overrides: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """
    Return the settings: defaults, then the environment, then `overrides`.

    ``OPENGPS_DATA`` names the folder (by default ``opengps`` under the data root),
    ``OPENGPS_DATABASE`` any database SQLAlchemy knows (by default SQLite in that folder),
    ``OPENGPS_SECRET`` the key that signs cookies, ``OPENGPS_HOSTS`` the names it answers to and
    ``OPENGPS_MODELS`` the models on offer, by name or run folder, all comma-separated.

    Raises
    ------
    InputError
        If a number in the environment is none.
    """
    environment = os.environ if environment is None else environment
    settings = DEFAULTS | _numbers(environment) | dict(overrides or {})
    data = Path(settings.get("DATA") or environment.get("OPENGPS_DATA") or data_root() / "opengps")
    for name in ("HOSTS", "MODELS"):
        listed = environment.get(f"OPENGPS_{name}")
        if listed and name not in (overrides or {}):
            settings[name] = tuple(word.strip() for word in listed.split(",") if word.strip())
    if settings["HOSTS"]:
        settings["TRUSTED_HOSTS"] = list(settings["HOSTS"])
    for name in ("jobs", "submitted"):
        (data / name).mkdir(parents=True, exist_ok=True)
    settings["DATA"] = data.resolve()
    settings.setdefault(
        "DATABASE",
        environment.get("OPENGPS_DATABASE") or f"sqlite:///{settings['DATA']}/opengps.db",
    )
    if not settings.get("SECRET_KEY"):
        settings["SECRET_KEY"] = _secret(settings["DATA"], environment)
    return settings
