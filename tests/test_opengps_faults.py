"""What was accepted is done, once, whatever dies, fills up or is locked in between."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import opengps_site as site
import pytest
from flask import Flask
from sqlalchemy import select
from sqlalchemy.orm import Session

from opengps import database, execution, intake, jobs, storage, worker
from opengps.database import DONE, FAILED, QUEUED, RUNNING, Job, open_database
from opengps.forms import PredictionRequest

SEQUENCES = {"one": "MKKRKVEDPL"}


@pytest.fixture
def app(tmp_path: Path) -> Flask:
    """An application of its own for each fault."""
    return site.make_app(tmp_path, LEASE_S=5.0)


def engine_of(app: Flask) -> Any:
    """Return the application's database."""
    return app.extensions["opengps_engine"]


def accept(app: Flask, sequences: dict[str, str] | None = None) -> str:
    """Put a prediction into the queue."""
    request = PredictionRequest(sequences or SEQUENCES, "single-2", [], None)
    return intake.accept_prediction(engine_of(app), app.config, request)


def row_of(app: Flask, job_id: str) -> Job:
    """Read a job's row."""
    with Session(engine_of(app)) as session:
        job = session.get(Job, job_id)
        assert job is not None
        session.expunge_all()
        return job


def claim(app: Flask, name: str, lease_s: float = 60.0) -> jobs.Claim | None:
    """Take a job as a worker does."""
    return jobs.claim(engine_of(app), name, lease_s=lease_s, max_attempts=5)


# ---------------------------------------------------------------------------------------- queue


def test_oldest_first_and_nobody_twice(app: Flask) -> None:
    """Many workers at once: each job is taken by one of them, in the order of arrival."""
    ids = [accept(app) for _ in range(12)]
    taken: list[str] = []
    guard = threading.Lock()

    def take(name: str) -> None:
        while held := claim(app, name):
            with guard:
                taken.append(held.id)

    threads = [threading.Thread(target=take, args=(str(k),)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(ids)
    assert claim(app, "late") is None


def test_a_dead_worker_loses_its_job_and_cannot_report(app: Flask) -> None:
    """After the lease the next one has it; the first may neither renew, report nor put back."""
    job_id = accept(app)
    first = claim(app, "first", lease_s=0.01)
    assert first and first.id == job_id
    time.sleep(0.05)
    second = claim(app, "second")
    assert second and (second.id, second.attempt) == (job_id, 2)
    assert not jobs.renew(engine_of(app), first, 60)
    assert not jobs.put_back(engine_of(app), first, 0)
    assert not jobs.finish(engine_of(app), first, "mine")
    assert row_of(app, job_id).state == RUNNING
    assert jobs.finish(engine_of(app), second)
    assert not jobs.finish(engine_of(app), second), "reported twice"
    assert (row_of(app, job_id).state, row_of(app, job_id).error) == (DONE, "")


def test_a_living_worker_keeps_its_job(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that takes longer than its lease is not taken away: the lease is renewed."""
    job_id, others = accept(app), []

    def slow(*_: object) -> None:
        for _ in range(8):
            time.sleep(0.4)
            others.append(claim(app, "other"))

    monkeypatch.setattr(worker, "execute", slow)
    config = dict(app.config) | {"LEASE_S": 2.0}  # on a busy machine, too
    assert worker.work_once(engine_of(app), config, "slow")
    assert others == [None] * 8
    assert (row_of(app, job_id).state, row_of(app, job_id).attempts) == (DONE, 1)


def test_a_job_that_kills_its_workers_is_given_up(app: Flask) -> None:
    """Not for ever: after so many attempts it fails, and says so."""
    job_id = accept(app)
    for _ in range(3):
        assert jobs.claim(engine_of(app), "victim", lease_s=-1, max_attempts=3)
    assert jobs.claim(engine_of(app), "next", lease_s=60, max_attempts=3) is None
    job = row_of(app, job_id)
    assert job.state == FAILED and job.error == jobs.GAVE_UP


def test_an_unexpected_error_is_told_without_its_inside(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job fails with a sentence; what broke, and where, is in the log only."""
    job_id = accept(app)

    def broken(*_: object) -> None:
        raise RuntimeError("/secret/path is broken")

    monkeypatch.setattr(worker, "execute", broken)
    assert worker.work_once(engine_of(app), app.config, "w")
    page = app.test_client().get(f"/jobs/{job_id}").get_data(as_text=True)
    assert "secret" not in page and worker.BROKEN.split(";")[0] in page


# ------------------------------------------------------------------------------------ full disk


def no_room(*_: object, **__: object) -> None:
    """Fail as a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["save_inputs", "save_submitted"])
def test_full_disk_at_the_form(app: Flask, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """503 with a time to wait; what was typed is kept; nothing half-stored stays."""
    client = app.test_client()
    monkeypatch.setattr(storage, where, no_room)
    page, values = ("/predict", {"fasta": ">kept\nMKKRKV"})
    if where == "save_submitted":
        page, values = "/submit", {"protein_id": "P13639", **site.ABOUT}
        values["image"] = site.tiff(site.field())  # type: ignore[assignment]
    answer = site.send(client, page, **values)
    text = answer.get_data(as_text=True)
    assert answer.status_code == 503 and answer.headers["Retry-After"]
    assert "disk" in text
    assert ("MKKRKV" if page == "/predict" else "Drawn for a test") in text
    assert list((app.config["DATA"] / "jobs").iterdir()) == []
    assert jobs.waiting(engine_of(app)) == 0


def test_full_disk_in_the_worker(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job goes back into the queue, is held against nobody, and finishes when there is room."""
    job_id = accept(app)
    with monkeypatch.context() as patch:
        patch.setattr(worker, "RETRY_S", 0.0)
        patch.setattr(storage, "write_json", no_room)
        for _ in range(7):  # more often than a job may be tried
            assert worker.work_once(engine_of(app), app.config, "w")
        assert row_of(app, job_id).state == QUEUED
        assert [p.name for p in (app.config["DATA"] / "jobs" / job_id).iterdir()] == []
    assert site.work(app) == 1
    assert row_of(app, job_id).state == DONE


def test_a_failed_write_leaves_no_result(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of results appears whole or not at all."""
    job_id = accept(app)
    seen = []

    def half(settings: Any, folder: Path) -> None:
        (folder / "summary.json").write_text("{")
        seen.extend(p.name for p in folder.parent.iterdir())
        no_room()

    monkeypatch.setattr(execution, "_predict", lambda e, s, h, folder, p: half(s, folder))
    assert worker.work_once(engine_of(app), app.config, "w")
    assert seen and all(name.startswith(".") for name in seen)
    assert list((app.config["DATA"] / "jobs" / job_id).iterdir()) == []


# ------------------------------------------------------------------------------ locked database


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the database's write lock, as a backup or a broken client might."""
    connection = sqlite3.connect(folder / "opengps.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


@pytest.fixture
def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flask:
    """An application that waits a tenth of a second for a lock."""
    monkeypatch.setattr(database, "BUSY_S", 0.1)
    return site.make_app(tmp_path)


def test_locked_database_at_the_form(impatient: Flask) -> None:
    """Pages can be read meanwhile; a form is answered with 503 and kept; then all is well."""
    client = impatient.test_client()
    job_id = accept(impatient)
    with locked(impatient.config["DATA"]):
        assert client.get(f"/jobs/{job_id}").status_code == 200
        answer = site.send(client, "/predict", fasta=">kept\nMKKRKV")
        assert answer.status_code == 503 and "MKKRKV" in answer.get_data(as_text=True)
        answer = client.post("/api/predictions", json={"fasta": "MKK"})
        assert answer.status_code == 503 and answer.headers["Retry-After"]
        assert [p.name for p in (impatient.config["DATA"] / "jobs").iterdir()] == [job_id]
    site.job_id_of(site.send(client, "/predict", fasta=">kept\nMKKRKV"))
    assert site.work(impatient) == 2


def test_locked_database_when_a_job_is_done(
    impatient: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker waits with its report for as long as it takes; nothing is lost."""
    job_id = accept(impatient)
    done = execution.execute

    def then_lock(*arguments: Any) -> None:
        done(*arguments)
        lock = locked(impatient.config["DATA"])
        lock.__enter__()
        unlock.append(lock)

    unlock: list[Any] = []
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if unlock:
            unlock.pop().__exit__(None, None, None)

    monkeypatch.setattr(worker, "execute", then_lock)
    monkeypatch.setattr(worker.time, "sleep", nap)
    assert worker.work_once(engine_of(impatient), impatient.config, "w")
    assert naps, "it never met the lock"
    assert row_of(impatient, job_id).state == DONE


# ---------------------------------------------------------------------------------------- sweep


def test_sweep_forgets_what_is_old_and_keeps_the_rest(app: Flask) -> None:
    """Old finished predictions go with their files; waiting ones and submissions stay."""
    old, waits, fresh = accept(app), accept(app), accept(app)
    submitted = site.job_id_of(
        site.send(app.test_client(), "/submit", protein_id="P13639",
                  image=site.tiff(site.field()), **site.ABOUT)
    )  # fmt: skip
    with Session(engine_of(app)) as session, session.begin():
        for job in session.scalars(select(Job)):
            job.state = QUEUED if job.id == waits else DONE
            job.created -= 0 if job.id == fresh else 10_000_000
    lost = app.config["DATA"] / "jobs" / "of-nobody-0000"
    lost.mkdir()
    os.utime(lost, (0, 0))
    assert intake.sweep(engine_of(app), app.config) == 1
    left = {path.name for path in (app.config["DATA"] / "jobs").iterdir()}
    assert left == {waits, fresh, submitted} and old not in left
    assert len(list((app.config["DATA"] / "submitted").iterdir())) == 1


def test_full_queue_refuses(tmp_path: Path) -> None:
    """More than the queue holds is refused with 503 before anything is stored."""
    app = site.make_app(tmp_path, MAX_QUEUE=2)
    client = app.test_client()
    codes = [client.post("/api/predictions", json={"fasta": "MKK"}).status_code for _ in range(3)]
    assert codes == [202, 202, 503]
    assert len(list((tmp_path / "jobs").iterdir())) == 2


# ------------------------------------------------------------------- killed workers and servers


def worker_of(process: subprocess.Popen[str]) -> list[int]:
    """Return the process ids of a server's workers."""
    # any of its threads may have started them
    children = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(child) for path in children for child in path.read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers through /proc")
def test_killed_worker_and_killed_server(tmp_path: Path) -> None:
    """SIGKILL for the worker in the middle of a job, then for the server: all jobs finish, once."""
    rng = np.random.default_rng(0)
    letters = list("ACDEFGHIKLMNPQRSTVWY")
    fasta = "\n".join(f">p{n}\n{''.join(rng.choice(letters, 800))}" for n in range(25))
    engine = open_database(f"sqlite:///{tmp_path}/opengps.db")

    def states() -> dict[str, tuple[str, int, float | None]]:
        with Session(engine) as session:
            rows = session.execute(select(Job.id, Job.state, Job.attempts, Job.finished)).all()
        return {row.id: (row.state, row.attempts, row.finished) for row in rows}

    with site.server(tmp_path) as (process, address):
        long = site.call(f"{address}/api/predictions", {"fasta": fasta})["id"]
        short = [
            site.call(f"{address}/api/predictions", {"fasta": site.FASTA})["id"] for _ in range(4)
        ]
        site.wait_for(lambda: states()[long][0] == RUNNING)
        (first,) = worker_of(process)
        os.kill(first, signal.SIGKILL)
        site.wait_for(lambda: set(worker_of(process)) - {first})  # it is started again
        site.wait_for(lambda: states()[long][1] >= 2 or DONE in {states()[k][0] for k in short})
        second = worker_of(process)
        process.kill()
        process.wait()
        # no worker outlives its server
        site.wait_for(lambda: not any(Path(f"/proc/{pid}/cmdline").exists()
                                 and Path(f"/proc/{pid}/cmdline").read_bytes()
                                 for pid in second))  # fmt: skip
    before = states()
    with site.server(tmp_path) as (process, address):
        site.wait_for(lambda: all(s[0] in (DONE, FAILED) for s in states().values()), 120)
        after = states()
        assert {after[k][0] for k in (long, *short)} == {DONE}
        assert after[long][1] >= 2, "it was not interrupted"
        for job_id, (state, attempts, finished) in before.items():
            if state == DONE:  # what was done is not done again
                assert after[job_id] == (state, attempts, finished)
        for job_id in (long, *short):
            found = [p.name for p in (tmp_path / "jobs" / job_id).iterdir()
                     if p.name.startswith("result")]  # fmt: skip
            assert found == [f"result-{after[job_id][1]}"]
        told = site.call(f"{address}/api/predictions/{long}")
        assert len(told["result"]["proteins"]) == 25
