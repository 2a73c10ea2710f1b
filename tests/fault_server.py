"""A web server for tests that can fail in every way a real one does."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from deepgps_core.sources.transfer import Remote

#: Few attempts, hardly any waiting.
QUICK: dict[str, Any] = {"retries": 3, "backoff_s": 0.01}
#: What a path answers: gets the number of the request (from 0) and the handler.
Behavior = Callable[[int, "Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Serve `server.files` with ranges and ETags, unless `server.faults` says otherwise."""

    protocol_version = "HTTP/1.1"
    server: FaultServer

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        path = unquote(self.path)
        with self.server.guard:
            number = self.server.asked[path]
            self.server.asked[path] += 1
            self.server.ranges.append((path, self.headers.get("Range", "")))
        fault = self.server.faults.get(path)
        if fault:
            fault(number, self)
        else:
            self.send_file()

    def do_HEAD(self) -> None:
        content = self.server.files.get(unquote(self.path))
        if content is None:
            return self.answer(404)
        self.send_response(200)
        self.send_header("ETag", etag_of(content))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return None

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Answer with a status, headers (underscores become dashes) and a body."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_file(self, *, cut_after: int | None = None, pause_s: float = 0.0) -> None:
        """Send the file, or the part asked for; `cut_after` bytes hang up."""
        content = self.server.files.get(unquote(self.path))
        if content is None:
            return self.answer(404)
        etag, start, end = etag_of(content), 0, len(content)
        wants = self.headers.get("Range", "")
        if wants and self.server.resumes and self.headers.get("If-Range") in (None, etag):
            first, _, last = wants.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) + 1, end) if last else end
            if start >= len(content):
                return self.answer(416, Content_Range=f"bytes */{len(content)}")
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        body = content[start : end if cut_after is None else min(end, start + cut_after)]
        for first in range(0, len(body), 1 << 16):
            self.wfile.write(body[first : first + (1 << 16)])
            self.wfile.flush()
            time.sleep(pause_s)
        if cut_after is not None:
            self.close_connection = True
        return None


def etag_of(content: bytes) -> str:
    """Return the MD5 in quotes, as an S3 server gives it."""
    return f'"{hashlib.md5(content).hexdigest()}"'


class FaultServer(ThreadingHTTPServer):
    """Holds files (path -> bytes), faults (path -> behavior), and what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, Behavior] = {}
        self.asked: Counter[str] = Counter()
        self.ranges: list[tuple[str, str]] = []
        self.resumes = True
        self.guard = threading.Lock()

    @property
    def url(self) -> str:
        """Address without a slash at the end."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up (it was killed) is no news."""


@contextmanager
def fault_server() -> Iterator[FaultServer]:
    """Run a server in a thread."""
    server = FaultServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def contents_of(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, hidden ones included, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def noise(n_bytes: int, seed: int = 0) -> bytes:
    """Return bytes that no two files share."""
    return np.random.default_rng(seed).bytes(n_bytes)


@contextmanager
def stocked_server() -> Iterator[FaultServer]:
    """Run a server with six small files and a large one."""
    with fault_server() as running:
        running.files |= {f"/f{i}.bin": noise(1000 + i, i) for i in range(6)}
        running.files["/large.bin"] = noise(3_000_000)
        yield running


def remotes(server: FaultServer, *paths: str) -> list[Remote]:
    """Return the files at the given paths, by default the six small ones."""
    paths = paths or tuple(f"/f{i}.bin" for i in range(6))
    return [Remote(server.url + path, f"files{path}") for path in paths]
