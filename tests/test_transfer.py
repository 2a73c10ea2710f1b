"""Whatever the network, the server or the disk do: a file is whole and checked, or absent."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from fault_server import (
    QUICK,
    FaultServer,
    Handler,
    contents_of,
    remotes,
    stocked_server,
)

from deepgps_core.dataset import InputError
from deepgps_core.sources.transfer import (
    FetchReport,
    Remote,
    fetch_all,
    fetch_one,
    get_response,
)

LOCK = "sources.lock.yaml"
TIFF = b"II*\0" + bytes(200)


@pytest.fixture()
def server() -> Iterator[FaultServer]:
    with stocked_server() as running:
        yield running


def test_files_arrive_once_with_a_lock(server: FaultServer, tmp_path: Path) -> None:
    """All bytes arrive, the lock tells their true hashes, and a second run asks for nothing."""
    report = fetch_all(remotes(server), tmp_path, licence="CC0")
    assert report.fetched == [f"files/f{i}.bin" for i in range(6)] and not report.failed
    assert report.bytes == sum(1000 + i for i in range(6)) and report.licence == "CC0"
    lock = yaml.safe_load((tmp_path / LOCK).read_text())
    for i in range(6):
        content = (tmp_path / f"files/f{i}.bin").read_bytes()
        entry = lock[f"files/f{i}.bin"]
        assert content == server.files[f"/f{i}.bin"]
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["size"] == len(content) and entry["url"].endswith(f"/f{i}.bin")
        assert entry["etag"] and entry["date"]
    asked, before = dict(server.asked), contents_of(tmp_path)
    again = fetch_all(remotes(server), tmp_path)
    assert len(again.present) == 6 and not again.fetched and again.bytes == 0
    assert dict(server.asked) == asked and contents_of(tmp_path) == before


@pytest.mark.parametrize("status", [500, 502, 503, 408])
def test_passing_failures_are_tried_again(server: FaultServer, tmp_path: Path, status: int) -> None:
    """Two failures of the server cost two more requests, nothing else."""
    server.faults["/f0.bin"] = lambda n, h: h.answer(status) if n < 2 else h.send_file()
    report = fetch_all(remotes(server), tmp_path, **QUICK)
    assert len(report.fetched) == 6 and server.asked["/f0.bin"] == 3


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_honoured(server: FaultServer, tmp_path: Path, as_date: bool) -> None:
    """A 429 that asks for a second gets a second, given as seconds or as a date."""
    moments: list[float] = []

    def busy(number: int, handler: Handler) -> None:
        moments.append(time.monotonic())
        if number:
            return handler.send_file()
        later = datetime.now(UTC) + timedelta(seconds=2)  # a date has no fractions
        asked = format_datetime(later, usegmt=True) if as_date else "1"
        return handler.answer(429, Retry_After=asked)

    server.faults["/f0.bin"] = busy
    assert not fetch_all(remotes(server, "/f0.bin"), tmp_path, **QUICK).failed
    assert moments[1] - moments[0] >= 0.95


def test_a_server_that_asks_for_hours_is_left_alone(server: FaultServer, tmp_path: Path) -> None:
    """Nobody waits an hour; the cause says what the server wants."""
    server.faults["/f0.bin"] = lambda n, h: h.answer(429, Retry_After="3600")
    report = fetch_all(remotes(server, "/f0.bin"), tmp_path, **QUICK)
    assert "3600 s" in report.failed["files/f0.bin"] and server.asked["/f0.bin"] == 1


def test_one_bad_file_never_stops_the_rest(server: FaultServer, tmp_path: Path) -> None:
    """A 404, a dead server and a forbidden file are listed with their causes; the rest comes."""
    server.faults["/f1.bin"] = lambda n, h: h.answer(404)
    server.faults["/f3.bin"] = lambda n, h: h.answer(500)
    server.faults["/f4.bin"] = lambda n, h: h.answer(403)
    report = fetch_all(remotes(server), tmp_path, **QUICK)
    assert report.fetched == [f"files/f{i}.bin" for i in (0, 2, 5)]
    assert "404" in report.failed["files/f1.bin"] and "403" in report.failed["files/f4.bin"]
    assert "500" in report.failed["files/f3.bin"] and "4 times" in report.failed["files/f3.bin"]
    assert server.asked["/f1.bin"] == 1 and server.asked["/f3.bin"] == 4
    assert "failed: files/f1.bin: " in report.describe()
    del server.faults["/f1.bin"], server.faults["/f3.bin"], server.faults["/f4.bin"]
    after = fetch_all(remotes(server), tmp_path)
    assert len(after.present) == 3 and len(after.fetched) == 3
    undisturbed = tmp_path / "other"
    fetch_all(remotes(server), undisturbed)
    wanted = contents_of(undisturbed)
    assert {k: v for k, v in contents_of(tmp_path).items() if "other" not in k} == wanted


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"sha256": "0" * 64}, "sha256"),
        ({"size": 999}, "1,000 bytes, not 999"),
        ({"etag": "0" * 32}, "MD5"),
    ],
)
def test_wrong_hash_or_size(
    server: FaultServer, tmp_path: Path, stated: dict[str, Any], said: str
) -> None:
    """What is not what the source states is refused and leaves nothing behind."""
    report = fetch_all([Remote(f"{server.url}/f0.bin", "f0.bin", **stated)], tmp_path, **QUICK)
    assert said in report.failed["f0.bin"] and not (tmp_path / "f0.bin").exists()
    assert not any(name.endswith(".part") for name in contents_of(tmp_path))


def test_right_hash_passes(server: FaultServer, tmp_path: Path) -> None:
    """The stated SHA-256, in either case, and an MD5 ETag are accepted when they fit."""
    content = server.files["/f0.bin"]
    sha256, md5 = hashlib.sha256(content).hexdigest(), hashlib.md5(content).hexdigest()
    remote = Remote(f"{server.url}/f0.bin", "f0.bin", 1000, sha256.upper(), f'"{md5}"')
    assert fetch_all([remote], tmp_path).fetched == ["f0.bin"]


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("a.tif", b"<!DOCTYPE html><html>Please log in</html>", "no TIFF but an HTML page"),
        ("a.csv", b"\n <HTML><body>Proxy</body>", "no file of data but an HTML page"),
        ("a.tif", b"\x89PNG\r\n", "no TIFF: it begins with"),
        ("a.jpg", b"GIF89a", "no JPEG"),
        ("a.zip", b"", "no ZIP"),
    ],
)
def test_content_is_what_the_name_says(
    server: FaultServer, tmp_path: Path, name: str, body: bytes, said: str
) -> None:
    """A proxy's page saved as an image is refused at once, with the reason."""
    server.files |= {f"/{name}": body, "/right.tif": TIFF}
    report = fetch_all(remotes(server, f"/{name}", "/right.tif"), tmp_path, **QUICK)
    assert said in report.failed[f"files/{name}"] and report.fetched == ["files/right.tif"]
    assert not (tmp_path / "files" / name).exists()


def test_own_check(server: FaultServer, tmp_path: Path) -> None:
    """A file's own check can refuse it."""

    def refuse(path: Path) -> None:
        raise ValueError(f"{path.stat().st_size} bytes are not enough")

    report = fetch_all([Remote(f"{server.url}/f0.bin", "f0.bin", check=refuse)], tmp_path)
    assert report.failed == {"f0.bin": "1000 bytes are not enough"}


def test_changed_source_and_changed_file(server: FaultServer, tmp_path: Path) -> None:
    """A file that differs from its pin is an error that names the remedy, in both directions."""
    fetch_all(remotes(server, "/f0.bin"), tmp_path)
    path = tmp_path / "files/f0.bin"
    path.write_bytes(b"mine")
    report = fetch_all(remotes(server, "/f0.bin"), tmp_path)
    assert "remove it and fetch again" in report.failed["files/f0.bin"]
    path.unlink()
    server.files["/f0.bin"] = b"another release"
    report = fetch_all(remotes(server, "/f0.bin"), tmp_path)
    assert "not the file pinned on" in report.failed["files/f0.bin"]
    assert LOCK in report.failed["files/f0.bin"] and not path.exists()
    (tmp_path / LOCK).unlink()
    assert fetch_all(remotes(server, "/f0.bin"), tmp_path).fetched


def test_torn_and_broken_locks(server: FaultServer, tmp_path: Path) -> None:
    """A lock torn by a kill loses only its last entry; one that is no lock is an error."""
    fetch_all(remotes(server), tmp_path)
    whole = (tmp_path / LOCK).read_text()
    (tmp_path / LOCK).write_text(whole[:-60])
    fetch_all(remotes(server), tmp_path)
    assert yaml.safe_load((tmp_path / LOCK).read_text()).keys() == yaml.safe_load(whole).keys()
    (tmp_path / LOCK).write_text("- a\n- b\n")
    with pytest.raises(InputError, match="restore it, or remove it"):
        fetch_all(remotes(server), tmp_path)


@pytest.mark.parametrize(
    "path", ["../out.bin", "/elsewhere/out.bin", "a/../../out", "a\\b", "", LOCK]
)
def test_no_path_leaves_the_folder(server: FaultServer, tmp_path: Path, path: str) -> None:
    """A source's list cannot write elsewhere; nothing at all is fetched then."""
    folder = tmp_path / "inside"
    files = [*remotes(server, "/f1.bin"), Remote(f"{server.url}/f0.bin", path)]
    with pytest.raises(InputError):
        fetch_all(files, folder)
    assert not server.asked and not folder.exists()
    (tmp_path / "link").symlink_to("/tmp")
    with pytest.raises(InputError, match="leaves the folder"):
        fetch_all([Remote(f"{server.url}/f0.bin", "link/x.bin")], tmp_path)


def test_two_sources_for_one_path(server: FaultServer, tmp_path: Path) -> None:
    """One path, also in another case, is one file."""
    files = [Remote(f"{server.url}/f0.bin", "A.bin"), Remote(f"{server.url}/f1.bin", "a.bin")]
    with pytest.raises(InputError, match="two sources"):
        fetch_all(files, tmp_path)


def test_dry_run_and_limit(server: FaultServer, tmp_path: Path) -> None:
    """A dry run counts and touches nothing; a limit takes the first."""
    files = [Remote(f"{server.url}/f{i}.bin", f"f{i}.bin", size=1000 + i) for i in range(6)]
    report = fetch_all(files, tmp_path / "x", dry_run=True, licence="CC BY 4.0")
    assert len(report.planned) == 6 and report.bytes == 6015 and report.unsized == 0
    assert "would fetch 6 files" in report.describe() and "CC BY 4.0" in report.describe()
    assert not server.asked and not (tmp_path / "x").exists()
    assert fetch_all(files, tmp_path, limit=2).fetched == ["f0.bin", "f1.bin"]
    assert fetch_all(files, tmp_path, dry_run=True).present == ["f0.bin", "f1.bin"]


def test_parallelism_is_bounded(server: FaultServer, tmp_path: Path) -> None:
    """Never more transfers at a time than asked for, and as many where there is work."""
    now, most = [0], [0]

    def slow(number: int, handler: Handler) -> None:
        with server.guard:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.1)
        with server.guard:
            now[0] -= 1
        handler.send_file()

    server.faults |= {f"/f{i}.bin": slow for i in range(6)}
    fetch_all(remotes(server), tmp_path, workers=3)
    assert most[0] == 3


def test_one_dead_host_among_two(server: FaultServer, tmp_path: Path) -> None:
    """A host that does not answer is a failure of its files, not of the others."""
    files = [Remote("http://127.0.0.1:9/x", "x"), *remotes(server)]
    report = fetch_all(files, tmp_path, **QUICK)
    assert len(report.fetched) == 6 and report.failed == {"x": "127.0.0.1:9 cannot be reached"}


def test_unknown_scheme(tmp_path: Path) -> None:
    """Only the web and buckets are fetched from; a local file is not."""
    report = fetch_all([Remote("file:///etc/passwd", "x")], tmp_path)
    assert "'file'" in report.failed["x"]


def test_fetch_one_and_get_response(server: FaultServer, tmp_path: Path) -> None:
    """Single files and answers come with retries, and fail in one line."""
    server.faults["/f0.bin"] = lambda n, h: h.answer(503) if n == 0 else h.send_file()
    assert fetch_one(f"{server.url}/f0.bin", tmp_path / "f0.bin").stat().st_size == 1000
    with pytest.raises(InputError, match="404"):
        fetch_one(f"{server.url}/none", tmp_path / "none")
    server.faults["/f1.bin"] = lambda n, h: h.answer(500) if n == 0 else h.answer(200, b"yes")
    assert get_response(f"{server.url}/f1.bin", backoff_s=0.01).content == b"yes"
    with pytest.raises(InputError, match="404"):
        get_response(f"{server.url}/none")


def test_reports_add_up() -> None:
    """Reports of several steps make one."""
    a = FetchReport(["b"], [], {"x": "why"}, 10, licence="A")
    b = FetchReport(["a"], ["c"], {}, 5)
    both = a + b
    assert both.fetched == ["a", "b"] and both.bytes == 15 and both.failed == {"x": "why"}
    assert "2 files fetched" in both.describe() and "licence: A" in both.describe()
