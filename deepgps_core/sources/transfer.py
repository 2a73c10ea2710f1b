"""
Fetching files: in parallel, checked, resumable, and never half there.

A list of `Remote` files goes in, a `FetchReport` comes out. Each file is downloaded to a hidden
temporary name, checked (size, hash, kind of content, the lock file), and then renamed; what is
there already and unchanged is not fetched again. One bad file never stops the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from deepgps_core.dataset import InputError
from deepgps_core.sources._lock import Lock, path_inside
from deepgps_core.sources._manifest import FetchReport, Remote, megabytes
from deepgps_core.sources._streams import (
    Connections,
    Refused,
    Unreachable,
    check_status,
    host_of,
    http_client,
    offline_error,
    translated_errors,
    with_retries,
)
from deepgps_core.sources._transfer_file import Run, transfer_file

__all__ = [
    "FetchReport",
    "Remote",
    "fetch_all",
    "fetch_one",
    "get_response",
    "http_client",
    "megabytes",
]


def _checked_list(files: Sequence[Remote], folder: Path) -> list[Remote]:
    for remote in files:
        path_inside(folder, remote.path)
    # a file system may not tell upper from lower case
    repeated = [p for p, n in Counter(r.path.casefold() for r in files).items() if n > 1]
    if repeated:
        raise InputError(f"{folder}: two sources for {repeated[0]!r}; name each file once.")
    return list(files)


def _plan(run: Run, files: list[Remote], licence: str) -> FetchReport:
    """Say what a run would fetch, without fetching."""
    report = FetchReport(licence=licence)
    for remote in files:
        if (run.folder / remote.path).is_file():
            report.present.append(remote.path)
        else:
            report.planned.append(remote.path)
            report.bytes += remote.size or 0
            report.unsized += remote.size is None
    return report


def fetch_all(
    files: Sequence[Remote],
    folder: Path | str,
    *,
    workers: int = 4,
    limit: int | None = None,
    dry_run: bool = False,
    licence: str = "",
    retries: int = 5,
    backoff_s: float = 0.5,
    s3_endpoint: str | None = None,
) -> FetchReport:
    """
    Fetch a list of files into a folder.

    Parameters
    ----------
    files : sequence of Remote
        What to fetch; no two to the same path.
    folder : Path or str
        Nothing outside of it is touched. Its ``sources.lock.yaml`` pins every file.
    workers : int
        Transfers at a time.
    limit : int, optional
        Only the first so many files.
    dry_run : bool
        Touch neither network nor disk: report files and bytes.
    licence : str
        Of the source; carried into the report.
    retries, backoff_s
        How often to try again after a passing failure, and the first wait, in seconds.
    s3_endpoint : str, optional
        Another S3 server than AWS; by default ``DEEPGPS_S3_ENDPOINT``.

    Returns
    -------
    report : FetchReport
        Its `failed` names each file that did not come, with the cause.

    Raises
    ------
    InputError
        If a path leaves the folder, or no host can be reached at all.
    """
    folder = Path(folder)
    wanted = _checked_list(files, folder)[:limit]
    run = Run(folder, Lock(folder), Connections(s3_endpoint), retries, backoff_s)
    if dry_run:
        return _plan(run, wanted, licence)
    folder.mkdir(parents=True, exist_ok=True)
    run.lock.tidy()  # a torn last line of a killed run would spoil what is appended to it
    known = sum(remote.size or 0 for remote in wanted)
    report, pool = FetchReport(licence=licence), ThreadPoolExecutor(max(1, workers))
    run.bar = tqdm(total=known or None, unit="B", unit_scale=True, desc=folder.name)
    try:
        pending = {pool.submit(transfer_file, run, remote): remote for remote in wanted}
        for done in as_completed(pending):
            _record(report, run, pending[done], done.result())
    except BaseException:
        run.stopped_by = "interrupted"
        run.stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        run.bar.close()
        run.connections.close()
        run.lock.tidy()
    _refuse_if_offline(report, wanted)
    report.fetched.sort(), report.present.sort()
    return report


def _record(report: FetchReport, run: Run, remote: Remote, outcome: str) -> None:
    report.bytes += run.received[remote.path]
    if outcome == "fetched":
        report.fetched.append(remote.path)
    elif outcome == "present":
        report.present.append(remote.path)
        if remote.size:
            run.bar.update(remote.size)
    else:
        report.failed[remote.path] = outcome


def _refuse_if_offline(report: FetchReport, wanted: list[Remote]) -> None:
    """Without any answer from anywhere, it is not the files: there is no network."""
    causes = set(report.failed.values())
    if causes and not report.fetched and all(c.endswith("cannot be reached") for c in causes):
        first = next(remote for remote in wanted if remote.path in report.failed)
        raise offline_error(host_of(first.url))


def fetch_one(url: str, path: Path | str, *, sha256: str | None = None) -> Path:
    """
    Fetch one file, with all the checks of `fetch_all`; the lock file lies beside it.

    Raises
    ------
    InputError
        If it cannot be had, naming the address and the cause.
    """
    path = Path(path)
    report = fetch_all([Remote(url, path.name, sha256=sha256)], path.parent, workers=1)
    if report.failed:
        raise InputError(f"{url}: {report.failed[path.name]}.")
    return path


def get_response(
    url: str,
    *,
    client: httpx.Client | None = None,
    params: dict[str, Any] | None = None,
    accept: Container[int] = (),
    retries: int = 5,
    backoff_s: float = 0.5,
) -> httpx.Response:
    """
    Ask a web service once, with retries; for small answers that stay in memory.

    Failures whose status is in `accept` (a 404, say) are answers, and returned as such.

    Raises
    ------
    InputError
        If the host cannot be reached, or refuses (the message has the status).
    """

    def attempt() -> httpx.Response:
        with translated_errors(host_of(url)):
            response = client.get(url, params=params) if client else _get_once(url, params)
        if response.status_code not in accept:
            check_status(response)
        return response

    try:
        return with_retries(attempt, retries, backoff_s)
    except Unreachable as error:
        raise offline_error(str(error)) from error
    except Refused as error:
        raise InputError(f"{url}: {error}.") from error


def _get_once(url: str, params: dict[str, Any] | None) -> httpx.Response:
    with http_client() as client:
        return client.get(url, params=params)
