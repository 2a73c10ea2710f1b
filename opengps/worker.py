"""
The worker: a process that takes jobs from the database until it is told to stop.

It renews its lease from a thread of its own, so that a long job is not taken for a dead one. It
ends when its parent does: no worker outlives the server that started it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from deepgps_core.dataset import InputError
from opengps import jobs, storage
from opengps.database import Job, new_token, open_database
from opengps.execution import execute
from opengps.intake import EXAMPLE, accept_prediction, as_request, sweep
from opengps.prediction import catalog, paths_of
from opengps.settings import load_settings

log = logging.getLogger("opengps.worker")
BROKEN = "Something went wrong on the server; it has been noted. Try again, or with less at once."
RETRY_S = 5.0
SWEEP_S = 3600.0


class LostLease(RuntimeError):
    """Another worker has taken the job."""


@contextlib.contextmanager
def heartbeat(engine: Engine, held: jobs.Claim, lease_s: float) -> Iterator[Any]:
    """Hold a job while the block runs; yields ``progress(done, total)``."""
    stop, lost, state = threading.Event(), threading.Event(), {"done": 0}

    def beat() -> None:
        while not stop.wait(lease_s / 4):
            with contextlib.suppress(SQLAlchemyError):  # busy now; the lease lasts for four beats
                if not jobs.renew(engine, held, lease_s, state["done"]):
                    lost.set()
                    return

    last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if lost.is_set():
            raise LostLease
        state["done"] = round(100 * done / max(1, total))  # per cent
        if time.monotonic() - last > 0.5:
            last = time.monotonic()
            with contextlib.suppress(OperationalError):
                jobs.renew(engine, held, lease_s, state["done"])

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield progress
    finally:
        stop.set()
        thread.join(timeout=lease_s)


def _persistently(action: Any, *args: Any, **options: Any) -> Any:
    """Do something with the database, as often as it takes while that is locked or full."""
    for _ in range(60):
        try:
            return action(*args, **options)
        except OperationalError as error:
            log.warning("database: %s", error.orig)
            time.sleep(1)
    return action(*args, **options)


def work_once(engine: Engine, settings: Mapping[str, Any], name: str) -> bool:
    """Take one job, do it and report; False where there was none."""
    held = jobs.claim(
        engine, name, lease_s=settings["LEASE_S"], max_attempts=settings["MAX_ATTEMPTS"]
    )
    if held is None:
        return False
    error = ""
    try:
        with heartbeat(engine, held, settings["LEASE_S"]) as progress:
            execute(engine, settings, held, progress)
    except LostLease:
        log.warning("job %s: taken by another worker", held.id[:6])
        return True
    except InputError as problem:
        error = str(problem)
    except OSError as problem:
        if storage.is_no_room(problem):
            log.error("job %s: the disk is full; it is tried again", held.id[:6])
            _persistently(jobs.put_back, engine, held, RETRY_S)
            return True
        log.exception("job %s", held.id[:6])
        error = BROKEN
    except (KeyboardInterrupt, SystemExit):
        jobs.put_back(engine, held, 0.0)  # told to stop: the next worker begins it again at once
        raise
    except OperationalError as problem:
        log.warning("job %s: %s; it is tried again", held.id[:6], problem.orig)
        _persistently(jobs.put_back, engine, held, RETRY_S)
        return True
    except Exception:  # one job must not end the worker; the cause is in the log
        log.exception("job %s", held.id[:6])
        error = BROKEN
    _persistently(jobs.finish, engine, held, error)
    return True


def warm_up(settings: Mapping[str, Any]) -> None:
    """Open the models and use each once, so that the first visitor does not wait for it."""
    from deepgps_core.predictor import load_predictor

    for path in paths_of(tuple(settings["MODELS"])).values():
        load_predictor(path).predict({"warm": "MKKLLAAR"}, progress=lambda done, total: None)


def ensure_example(engine: Engine, settings: Mapping[str, Any]) -> None:
    """Put the example of the home page into the queue, once."""
    from deepgps_core.sources.embedded import embedded_proteins

    with Session(engine) as session:
        if session.get(Job, EXAMPLE):
            return
    proteins = embedded_proteins().set_index("protein_id")
    chosen = {p: str(proteins.loc[p, "sequence"]) for p in EXAMPLE_PROTEINS}
    model = next(iter(catalog(tuple(settings["MODELS"]))))
    with contextlib.suppress(SQLAlchemyError, RuntimeError):  # two workers may start at once
        accept_prediction(engine, settings, as_request(chosen, model), EXAMPLE)


#: Held-out proteins of the embedded table: VRK3, nuclear; two of the paper's Fig. S9.
EXAMPLE_PROTEINS = ("Q8IV63", "Q16630", "P13639")


def run(settings: Mapping[str, Any]) -> None:
    """Work until the parent ends or a signal comes."""
    # told by the server, since that may have died while this process was still importing
    parent = int(os.environ.get("OPENGPS_PARENT") or os.getppid())
    engine = open_database(settings["DATABASE"])
    name, swept = f"{os.getpid()}-{new_token()[:8]}", 0.0
    _persistently(ensure_example, engine, settings)
    warm_up(settings)
    log.info("worker %s is ready", name)
    while os.getppid() == parent:
        try:
            busy = work_once(engine, settings, name)
            if time.monotonic() - swept > SWEEP_S:
                swept = time.monotonic()
                sweep(engine, settings)
        except SQLAlchemyError as error:
            log.warning("database: %s", error)
            busy = False
            time.sleep(1)
        if not busy:
            time.sleep(settings["POLL_S"])


def main() -> None:
    """Run a worker with the settings of the environment; `deepgps serve` starts it so."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    with contextlib.suppress(KeyboardInterrupt):
        run(load_settings())


if __name__ == "__main__":
    main()
