"""Cut connections, broken buckets, full disks and kill -9: the next run makes it whole."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_server import (
    QUICK,
    Behavior,
    FaultServer,
    Handler,
    contents_of,
    noise,
    remotes,
    stocked_server,
)

from deepgps_core.dataset import InputError
from deepgps_core.sources import _streams, _transfer_file
from deepgps_core.sources.transfer import (
    Remote,
    fetch_all,
    get_response,
)

LOCK = "sources.lock.yaml"
TIFF = b"II*\0" + bytes(200)


@pytest.fixture()
def server() -> Iterator[FaultServer]:
    with stocked_server() as running:
        yield running


@pytest.mark.parametrize("resumes", [True, False])
def test_cut_connection_goes_on(server: FaultServer, tmp_path: Path, resumes: bool) -> None:
    """A connection cut in the middle goes on there, or begins anew where the server cannot."""
    server.resumes = resumes

    def cut_once(number: int, handler: Handler) -> None:
        handler.send_file(cut_after=1_200_000 if number == 0 else None)

    server.faults["/large.bin"] = cut_once
    report = fetch_all(remotes(server, "/large.bin"), tmp_path, **QUICK)
    assert report.fetched and not report.failed
    assert (tmp_path / "files/large.bin").read_bytes() == server.files["/large.bin"]
    assert sorted(contents_of(tmp_path)) == ["files/large.bin", LOCK]
    first, second = [asked for _, asked in server.ranges]
    assert not first and second.startswith("bytes=") and int(second[6:-1]) > 0
    total = len(server.files["/large.bin"])
    assert (report.bytes == total) if resumes else (report.bytes >= total)


def test_a_file_that_changed_in_between_is_not_glued(server: FaultServer, tmp_path: Path) -> None:
    """Half of the old version and half of the new one never make a file."""
    new = noise(3_000_000, 99)

    def swap(number: int, handler: Handler) -> None:
        if number == 0:
            return handler.send_file(cut_after=1_500_000)
        server.files["/large.bin"] = new
        return handler.send_file()

    server.faults["/large.bin"] = swap
    assert not fetch_all(remotes(server, "/large.bin"), tmp_path, **QUICK).failed
    assert (tmp_path / "files/large.bin").read_bytes() == new


@pytest.mark.parametrize(
    "fault",
    [
        lambda n, h: h.send_file(cut_after=2_000_000 if n < 2 else None),
        lambda n, h: h.answer(500) if n < 2 else h.send_file(),
        lambda n, h: h.answer(503, Retry_After="0") if n < 2 else h.send_file(),
    ],
    ids=["cut", "500", "503"],
)
def test_bucket_with_faults(server: FaultServer, tmp_path: Path, fault: Behavior) -> None:
    """A bucket's connection that is cut, or a server error, costs another request, no byte."""
    server.files["/bucket/big.bin"] = noise(9_000_000)  # more than one request reads
    server.faults["/bucket/big.bin"] = fault
    remote = Remote("s3://bucket/big.bin", "big.bin")
    report = fetch_all([remote], tmp_path, s3_endpoint=server.url, **QUICK)
    assert report.fetched == ["big.bin"] and not report.failed
    assert (tmp_path / "big.bin").read_bytes() == server.files["/bucket/big.bin"]
    missing = Remote("s3://bucket/none.bin", "none.bin")
    report = fetch_all([missing], tmp_path, s3_endpoint=server.url, **QUICK)
    assert "404" in report.failed["none.bin"]


def test_bucket_resumes(server: FaultServer, tmp_path: Path) -> None:
    """What a failed run left of a bucket's file is not asked for again."""
    server.files["/bucket/big.bin"] = noise(9_000_000)
    server.faults["/bucket/big.bin"] = lambda n, h: h.send_file() if n == 0 else h.answer(500)
    remote = Remote("s3://bucket/big.bin", "big.bin")
    report = fetch_all([remote], tmp_path, s3_endpoint=server.url, **QUICK)
    assert "big.bin" in report.failed and not (tmp_path / "big.bin").exists()
    server.faults.clear()
    server.ranges.clear()
    report = fetch_all([remote], tmp_path, s3_endpoint=server.url, **QUICK)
    assert report.fetched and report.bytes < 9_000_000
    assert not any(asked.startswith("bytes=0-") for _, asked in server.ranges)
    assert (tmp_path / "big.bin").read_bytes() == server.files["/bucket/big.bin"]


def test_full_disk(server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk ends the run with a cause, frees the half file, and the next run completes."""

    class Full:
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def write(self, chunk: bytes) -> int:
            self.stream.write(chunk[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stream, name)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.stream.close()

    with monkeypatch.context() as patch:
        patch.setattr(_transfer_file, "open", lambda *a: Full(open(*a)), raising=False)
        report = fetch_all(remotes(server), tmp_path, workers=1, **QUICK)
    assert not report.fetched and len(report.failed) == 6
    assert all("the disk is full" in cause for cause in report.failed.values())
    assert sum(server.asked.values()) == 1  # the others were not even started
    assert contents_of(tmp_path) == {}
    assert len(fetch_all(remotes(server), tmp_path).fetched) == 6


def test_no_network_says_so_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thousands of files on a host that does not answer few are tried: one line says why."""
    files = [Remote(f"http://127.0.0.1:9/f{i}", f"f{i}") for i in range(2000)]
    find, tried = socket.getaddrinfo, list[object]()

    def count(*address: Any, **more: Any) -> Any:
        tried.append(address)
        return find(*address, **more)

    monkeypatch.setattr(socket, "getaddrinfo", count)
    with pytest.raises(InputError, match="deepgps simulate embedded-demo") as caught:
        fetch_all(files, tmp_path)
    assert 0 < len(tried) < 100 and "\n" not in str(caught.value)
    with pytest.raises(InputError, match="deepgps simulate embedded-demo"):
        get_response("http://127.0.0.1:9/")
    with pytest.raises(InputError, match="deepgps simulate embedded-demo"):
        fetch_all([Remote("s3://bucket/f", "f")], tmp_path, s3_endpoint="http://127.0.0.1:9")


def test_waits_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits double, within their random quarter."""
    waits: list[float] = []

    class Clock:
        def wait(self, seconds: float) -> bool:
            waits.append(seconds)
            return False

    def fail() -> None:
        raise _streams.Transient("no")

    with pytest.raises(_streams.Refused, match="5 times"):
        _streams.with_retries(fail, 4, 1.0, Clock())  # type: ignore[arg-type]
    assert len(waits) == 4
    for wait, middle in zip(waits, (1, 2, 4, 8), strict=True):
        assert 0.75 * middle <= wait <= 1.25 * middle


KILLED = """
import sys
from deepgps_core.sources.transfer import Remote, fetch_all
url, folder, *names = sys.argv[1:]
fetch_all([Remote(f"{url}/{name}", name) for name in names], folder, workers=2)
"""


def test_kill_in_the_middle(server: FaultServer, tmp_path: Path) -> None:
    """After kill -9 in the middle, the next run's folder equals the undisturbed one's."""
    names = [f"f{i}.bin" for i in range(6)] + ["large.bin", "huge.bin"]
    server.files["/huge.bin"] = noise(6_000_000, 7)
    slow = {"/large.bin", "/huge.bin"}
    server.faults |= {path: lambda n, h: h.send_file(pause_s=0.05) for path in slow}
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    process = subprocess.Popen([sys.executable, "-c", KILLED, server.url, killed, *names])
    part = killed / ".large.bin.part"
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size > 1_000_000):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "large.bin").exists()
    server.faults.clear()
    files = [Remote(f"{server.url}/{name}", name) for name in names]
    report = fetch_all(files, killed)
    assert not report.failed and len(report.present) + len(report.fetched) == 8
    assert any(path == "/large.bin" and asked for path, asked in server.ranges), "began anew"
    assert report.bytes < 9_000_000 - 1_000_000
    fetch_all(files, undisturbed)
    assert contents_of(killed) == contents_of(undisturbed)
