"""
Bytes from a web server or a public S3 bucket, with one way to fail.

Everything that can go wrong on the way is one of three: `Transient` (try again, perhaps after
a time the server named), `Refused` (it will not get better), `Unreachable` (nobody answered).
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import urlsplit

from deepgps_core import __version__
from deepgps_core.dataset import InputError

try:
    import httpx
except ImportError:  # the extra that downloads is optional
    raise InputError(
        "fetching needs the packages httpx and s3fs; install them with "
        "`pip install 'deepgps-core[fetch]'`."
    ) from None

BLOCK_BYTES = 1 << 17
LONGEST_WAIT_S = 120.0
#: Answers after which another attempt may succeed.
PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}
T = TypeVar("T")


class Transient(Exception):
    """It may work the next time, after `retry_after` seconds where the server said so."""

    def __init__(self, cause: str, retry_after: float | None = None) -> None:
        super().__init__(cause)
        self.retry_after = retry_after


class BeyondEnd(Transient):
    """There are no bytes from where the transfer was to go on."""


class Refused(Exception):
    """It will not work however often it is tried."""


class Unreachable(Exception):
    """The host of this address never answered."""


@dataclass
class Stream:
    """
    The bytes of one file from `start` on.

    `start` is 0 where the server could not go on in the middle; `total` is the length of the
    whole file, or None; `etag` is empty where the server gives none.
    """

    start: int
    total: int | None
    etag: str
    chunks: Iterator[bytes]


def http_client() -> httpx.Client:
    """Return a client with timeouts, redirects and this project's name, for any web server."""
    return httpx.Client(
        timeout=httpx.Timeout(30.0, connect=10.0),
        follow_redirects=True,
        headers={"User-Agent": f"deepgps/{__version__}", "Accept-Encoding": "identity"},
    )


def offline_error(host: str) -> InputError:
    """Return the error of a host that cannot be reached; it names what works without network."""
    return InputError(
        f"{host}: cannot be reached, so nothing was fetched; connect to a network, or go on "
        "without one: `deepgps simulate embedded-demo`."
    )


def host_of(url: str) -> str:
    """Return the host (web) or bucket (S3) of an address."""
    return urlsplit(url).netloc


def _seconds(retry_after: str | None) -> float | None:
    """Read a Retry-After header: seconds, or a date."""
    if not retry_after:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None


def check_status(response: httpx.Response) -> None:
    """Raise `Transient` or `Refused` unless the answer is a success."""
    if response.status_code in PASSING_STATUS:
        raise Transient(
            f"the server answered {response.status_code} {response.reason_phrase}",
            _seconds(response.headers.get("Retry-After")),
        )
    if not response.is_success:
        raise Refused(f"the server answered {response.status_code} {response.reason_phrase}")


@contextmanager
def translated_errors(host: str) -> Iterator[None]:
    """Turn httpx' errors into ours."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
        raise Unreachable(host) from error
    except httpx.TransportError as error:
        raise Transient(f"the connection broke ({type(error).__name__})") from error
    except (httpx.InvalidURL, httpx.TooManyRedirects) as error:
        raise Refused(f"the address does not work ({error})") from error


def with_retries(
    attempt: Callable[[], T],
    retries: int,
    backoff_s: float = 0.5,
    stop: threading.Event | None = None,
) -> T:
    """
    Call `attempt` until it succeeds, at most 1 + `retries` times.

    Between attempts it waits `backoff_s`, twice that, four times ... with a random part, so
    that parallel transfers do not knock together; or as long as the server asked, if longer.
    """
    stop = stop or threading.Event()
    for number in range(retries + 1):
        try:
            return attempt()
        except Transient as error:
            if number == retries:
                raise Refused(f"{error}, {number + 1} times") from error
            asked = error.retry_after or 0.0
            if asked > LONGEST_WAIT_S:
                raise Refused(f"{error} and asks to come back in {asked:.0f} s") from error
            wait = min(backoff_s * 2**number, LONGEST_WAIT_S) * random.uniform(0.75, 1.25)
            if stop.wait(max(wait, asked)):
                raise Refused("interrupted") from None
    raise AssertionError("unreachable")


class Connections:
    """
    One client for web addresses and one for buckets, shared by all transfers of a run.

    A host that never answered is not asked again for the next file, so that a list of
    thousands fails at once without a network; one that answered before gets its retries.
    """

    def __init__(self, s3_endpoint: str | None = None) -> None:
        self.client = http_client()
        self._s3_endpoint = s3_endpoint
        self._answered: set[str] = set()
        self._dead: set[str] = set()
        self._guard = threading.Lock()

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    @cached_property
    def bucket(self) -> Any:
        """The file system of public buckets."""
        return s3_filesystem(self._s3_endpoint)

    @contextmanager
    def open(self, url: str, start: int = 0, etag: str = "") -> Iterator[Stream]:
        """Open `url` from byte `start` on, if it is still the version `etag`."""
        host = host_of(url)
        with self._guard:
            if host in self._dead:
                raise Unreachable(host)
        try:
            with self._opener(url, start, etag) as stream:
                self._answered.add(host)
                yield stream
        except Unreachable as error:
            if host in self._answered:
                raise Transient("the connection broke") from error
            self._dead.add(host)
            raise
        except (Transient, Refused):
            self._answered.add(host)  # an answer, if not a friendly one
            raise

    def _opener(self, url: str, start: int, etag: str) -> AbstractContextManager[Stream]:
        scheme = urlsplit(url).scheme
        if scheme in ("http", "https"):
            return _open_http(self.client, url, start, etag)
        if scheme == "s3":
            with self._guard:  # one for all threads
                files = self.bucket
            return _open_s3(files, url, start, etag)
        raise Refused(f"addresses of kind {scheme or 'none'!r} cannot be fetched")


@contextmanager
def _open_http(client: httpx.Client, url: str, start: int, etag: str) -> Iterator[Stream]:
    parts = urlsplit(url)  # OpenCell's host answers only to who comes from its own pages
    headers = {"Referer": f"{parts.scheme}://{parts.netloc}/"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": etag}
    with translated_errors(host_of(url)), client.stream("GET", url, headers=headers) as response:
        if response.status_code == 416:  # what is here already is longer than the file
            raise BeyondEnd("what was here of it does not fit", 0.0)
        check_status(response)
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdigit() else None
        begins = 0
        if response.status_code == 206:
            first, _, whole = response.headers.get("Content-Range", "").partition("/")
            begins = int(first.removeprefix("bytes ").split("-")[0] or 0)
            total = int(whole) if whole.isdigit() else None
        found = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        chunks = response.iter_raw(BLOCK_BYTES)
        yield Stream(begins, total, "" if found.startswith("W/") else found, chunks)


def s3_filesystem(endpoint: str | None = None) -> Any:
    """
    Return the anonymous file system of public buckets.

    Parameters
    ----------
    endpoint : str, optional
        Address of another S3 server (a mirror); by default ``DEEPGPS_S3_ENDPOINT``, else AWS.
    """
    import s3fs

    files = s3fs.S3FileSystem(
        anon=True,
        endpoint_url=endpoint or os.environ.get("DEEPGPS_S3_ENDPOINT") or None,
        config_kwargs={"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 0}},
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    files.retries = 1  # waiting and trying again is done here, the same way for every server
    return files


def s3_call(host: str, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Call a function of the bucket's file system and turn its errors into ours."""
    from aiohttp import ClientError as BrokenBody
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConnectTimeoutError,
        EndpointConnectionError,
    )

    try:
        return function(*arguments, **options)
    except (EndpointConnectionError, ConnectTimeoutError) as error:
        raise Unreachable(host) from error
    except FileNotFoundError as error:
        raise Refused("the bucket has no such file (404)") from error
    except PermissionError as error:
        raise Refused("the bucket does not give it to the public (403)") from error
    except (OSError, BotoCoreError, ClientError, BrokenBody) as error:
        reason = " ".join(str(error).split())[:80]
        raise Transient(f"the connection broke ({type(error).__name__}: {reason})") from error


@contextmanager
def _open_s3(files: Any, url: str, start: int, etag: str) -> Iterator[Stream]:
    bucket = host_of(url)
    info = s3_call(bucket, files.info, url)
    total, found = int(info["size"]), str(info.get("ETag", "")).strip('"')
    begins = start if start and etag == found and start <= total else 0

    def blocks() -> Iterator[bytes]:
        for first in range(begins, total, 32 * BLOCK_BYTES):
            last = min(total, first + 32 * BLOCK_BYTES)
            yield s3_call(bucket, files.cat_file, url, start=first, end=last)

    yield Stream(begins, total, found, blocks())
