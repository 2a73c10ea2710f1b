"""openGPS in a test: an application with a folder of its own, a visitor, and files to send."""

from __future__ import annotations

import base64
import html
import io
import json
import os
import re
import struct
import subprocess
import sys
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from deepgps_core.sources.simulated import SimulationConfig, simulate_field
from opengps import create_app
from opengps.worker import work_once

#: Short ones, so that a prediction takes a tenth of a second.
FASTA = ">one\nMKKRKVEDPLSTAAGLWQ\n>two\nMSTAAGLWQEEDDLLSTAAG\n"
ABOUT = {"cell_line": "HeLa", "provenance": "Drawn for a test; CC0.", "pixel_size_um": "0.206"}


def make_app(folder: Path, **settings: Any) -> Flask:
    """Return an application with the smallest model only."""
    return create_app(
        {
            "DATA": folder, "MODELS": ("single-2",), "POSTS_PER_MINUTE": 100_000,
            "SECRET_KEY": "of a test", **settings,
        }
    )  # fmt: skip


def work(app: Flask, name: str = "test-worker") -> int:
    """Do all jobs of the queue; return how many."""
    done = 0
    while work_once(app.extensions["opengps_engine"], app.config, name):
        done += 1
    return done


def token_of(client: FlaskClient, page: str) -> str:
    """Open a form and return its token."""
    found = re.search(r'name="form_token" value="([^"]+)"', client.get(page).get_data(as_text=True))
    assert found, page
    return found[1]


def send(client: FlaskClient, page: str, **values: Any) -> TestResponse:
    """Open a form, fill it in and send it, as a browser does; bytes are sent as files."""
    data: dict[str, Any] = {"form_token": token_of(client, page)}
    for name, value in values.items():
        data[name] = (io.BytesIO(value), f"{name}.bin") if isinstance(value, bytes) else value
    return client.post(page, data=data, content_type="multipart/form-data")


def job_id_of(answer: TestResponse) -> str:
    """Return the identifier of the job a form led to."""
    assert answer.status_code == 303, answer.get_data(as_text=True)[:2000]
    return answer.headers["Location"].rsplit("/", 1)[1]


def field(place: str = "Nucleus", size_px: int = 300) -> np.ndarray:
    """Return a simulated field (2, H, W) uint16."""
    return simulate_field((place,), "P1", 0, SimulationConfig(field_size_px=size_px)).field


def tiff(image: np.ndarray, **options: Any) -> bytes:
    """Encode as TIFF."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, image, **options)
    return buffer.getvalue()


def picture(image: np.ndarray, kind: str = "png", **options: Any) -> bytes:
    """Encode as PNG or JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format=kind, **options)
    return buffer.getvalue()


def archive(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Pack files, under whatever names, into a ZIP."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return buffer.getvalue()


def png_claiming(width: int, height: int, packed: bytes = b"") -> bytes:
    """Return a PNG of some hundred bytes whose header promises a huge picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
        + chunk(b"IDAT", packed or zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )  # fmt: skip


def text64(data: bytes) -> str:
    """Return bytes as base64 text, as the interface takes files."""
    return base64.b64encode(data).decode()


def counted(app: Flask, table: Any) -> int:
    """Return the number of rows of a table."""
    with Session(app.extensions["opengps_engine"]) as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def complaint(page: str, name: str) -> str:
    """Return the message beside a field, which has to point to it."""
    found = re.search(rf'id="{name}-error"[^>]*>(.*?)</p>', page, re.DOTALL)
    assert found, f"no message beside {name}"
    assert re.search(rf'aria-describedby="[^"]*{name}-error"', page), name
    return html.unescape(re.sub(r"<[^>]+>", "", found[1])).strip()


@contextmanager
def server(folder: Path, **settings: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `deepgps serve` with one worker; yield the process and its address."""
    environment = os.environ | {"OPENGPS_MODELS": "single-2", "OMP_NUM_THREADS": "1",
                                "OPENGPS_LEASE_S": "2", "OPENGPS_POSTS_PER_MINUTE": "1000",
                                "PYTHONPATH": str(Path(__file__).parent.parent)}  # fmt: skip
    command = [sys.executable, "-c", "from deepgps_core.cli import main; main()", "serve",
               "--port", "0", "--data", str(folder)]  # fmt: skip
    process = subprocess.Popen(
        command, env=environment | settings | {"PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert process.stdout
        address = re.search(r"http://\S+", process.stdout.readline())
        assert address
        yield process, address[0].rstrip("/")
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.wait()


def call(address: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask the interface."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return dict(json.load(answer))


def wait_for(what: Any, limit_s: float = 60.0) -> Any:
    """Return the first true answer."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")
