"""One file on its way: temporary name, resumption, checks, lock entry, final name."""

from __future__ import annotations

import errno
import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deepgps_core.dataset import sha256_of
from deepgps_core.sources._lock import Lock, check_against, check_content
from deepgps_core.sources._manifest import Remote
from deepgps_core.sources._streams import (
    BeyondEnd,
    Connections,
    Refused,
    Transient,
    Unreachable,
    with_retries,
)


@dataclass
class Run:
    """What the transfers of one call share."""

    folder: Path
    lock: Lock
    connections: Connections
    retries: int
    backoff_s: float
    bar: Any = None
    stop: threading.Event = field(default_factory=threading.Event)
    stopped_by: str = ""
    received: Counter[str] = field(default_factory=Counter)  #: bytes by path, retries included


def _problem(remote: Remote, path: Path, name: str, lock: Lock, sha256: str) -> str:
    """Return what is wrong with a file's content, or the empty string."""
    problem = check_against(path, remote.size, remote.sha256, remote.etag, found_sha256=sha256)
    problem = problem or check_content(path, name)
    if not problem and remote.check:
        try:
            remote.check(path)
        except ValueError as error:
            problem = " ".join(str(error).split())
    if not problem and (difference := lock.difference(name, path, found_sha256=sha256)):
        problem = (
            f"{difference}; if the source's new version is wanted, remove the file and its entry "
            f"in {lock.path.name}"
        )
    return problem


def _entry(remote: Remote, path: Path, sha256: str, etag: str) -> dict[str, Any]:
    stated = (remote.etag or etag).strip('"')
    return {
        "url": remote.url, "size": path.stat().st_size, "sha256": sha256,
        # without an ETag, a date of change guards the resumption, but it identifies nothing
        "etag": "" if " " in stated else stated, "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }  # fmt: skip


def _part_of(path: Path) -> tuple[Path, Path]:
    """Return the temporary file of a download, and the file that holds its version."""
    return path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.part-etag")


def _attempt(run: Run, remote: Remote, path: Path) -> None:
    """Download once; what is here already and does not fit is thrown away."""
    try:
        _receive(run, remote, path)
    except BeyondEnd:
        _part_of(path)[0].unlink(missing_ok=True)
        raise


def _receive(run: Run, remote: Remote, path: Path) -> None:
    """Download once, going on where an earlier attempt or run stopped."""
    part, version = _part_of(path)
    known = version.read_text(encoding="utf-8") if version.exists() and part.exists() else ""
    start = part.stat().st_size if known else 0
    with run.connections.open(remote.url, start, known) as stream:
        if stream.start > start:
            raise Refused(f"the server sent the bytes from {stream.start:,} on, not {start:,}")
        resumed = stream.start > 0
        if stream.etag:
            version.write_text(stream.etag, encoding="utf-8")
        else:  # another version would not be noticed: begin anew next time
            version.unlink(missing_ok=True)
        with open(part, "ab" if resumed else "wb") as output:
            output.truncate(stream.start)
            for chunk in stream.chunks:
                if run.stop.is_set():
                    raise Refused(f"not finished: {run.stopped_by}")
                output.write(chunk)
                run.received[remote.path] += len(chunk)
                if run.bar is not None:
                    run.bar.update(len(chunk))
        size = part.stat().st_size
        if stream.total is not None and size != stream.total:
            raise Transient(f"the connection ended after {size:,} of {stream.total:,} bytes")
    sha256 = sha256_of(part)
    if problem := _problem(remote, part, remote.path, run.lock, sha256):
        part.unlink()
        # two halves that do not fit together: once more, from the beginning
        raise Transient(problem, 0.0) if resumed else Refused(problem)
    run.lock.add(remote.path, _entry(remote, part, sha256, stream.etag))
    part.replace(path)
    version.unlink(missing_ok=True)


def _present(run: Run, remote: Remote, path: Path) -> bool:
    """Whether the file is here and right; adopts a right one that has no entry yet."""
    if not path.is_file():
        return False
    sha256 = sha256_of(path)
    if problem := _problem(remote, path, remote.path, run.lock, sha256):
        raise Refused(f"the file that is here is wrong ({problem}); remove it and fetch again")
    if remote.path not in run.lock.entries:
        run.lock.add(remote.path, _entry(remote, path, sha256, ""))
    return True


def transfer_file(run: Run, remote: Remote) -> str:
    """Bring one file; return what happened: present, fetched, or why not."""
    path = run.folder / remote.path
    if run.stop.is_set():
        return f"not started: {run.stopped_by}"
    try:
        if _present(run, remote, path):
            return "present"
        path.parent.mkdir(parents=True, exist_ok=True)
        with_retries(lambda: _attempt(run, remote, path), run.retries, run.backoff_s, run.stop)
        return "fetched"
    except Unreachable as error:
        return f"{error} cannot be reached"
    except Refused as error:
        return str(error)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return f"{error.strerror or error} ({error.filename or path})"
        # what would not fit is taken away, so that the machine can go on
        for leftover in _part_of(path):
            leftover.unlink(missing_ok=True)
        run.stopped_by = "the disk is full; free space and run the same command again"
        run.stop.set()
        return run.stopped_by
