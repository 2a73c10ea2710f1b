"""
The queue: a table in the database, taken from by comparing and setting, so no broker is needed.

A worker takes a job by raising its number of attempts, and only if nobody did so meanwhile. It
holds it for a lease that it renews; a job whose lease ran out is taken by the next worker.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import CursorResult, Engine, and_, func, or_, select, update
from sqlalchemy.orm import Session

from opengps.database import DONE, FAILED, QUEUED, RUNNING, Job

GAVE_UP = "The server stopped several times while it worked on this; please send less at once."


@dataclass(frozen=True)
class Claim:
    """A job that this worker holds; `attempt` proves it."""

    id: str
    kind: str
    attempt: int
    params: dict[str, Any]


def waiting(engine: Engine) -> int:
    """Return how many jobs are not finished."""
    with Session(engine) as session:
        unfinished = Job.state.in_((QUEUED, RUNNING))
        return session.scalar(select(func.count()).select_from(Job).where(unfinished)) or 0


def _change(engine: Engine, job_id: str, attempt: int, was: str, **values: Any) -> bool:
    """Change a job if it still is in this state and at this attempt; say whether it was."""
    statement = (
        update(Job)
        .where(Job.id == job_id, Job.attempts == attempt, Job.state == was)
        .values(**values)
    )
    with Session(engine) as session, session.begin():
        result = session.execute(statement)
        assert isinstance(result, CursorResult)
        return result.rowcount == 1


def claim(engine: Engine, worker: str, *, lease_s: float, max_attempts: int) -> Claim | None:
    """Take the oldest job that nobody holds; None where there is none."""
    while True:
        now = time.time()
        free = or_(
            and_(Job.state == QUEUED, Job.not_before <= now),
            and_(Job.state == RUNNING, Job.lease_until < now),
        )
        with Session(engine) as session:
            found = session.execute(
                select(Job.id, Job.kind, Job.state, Job.attempts, Job.postponed, Job.params)
                .where(free).order_by(Job.created, Job.id).limit(1)
            ).first()  # fmt: skip
        if found is None:
            return None
        if found.attempts - found.postponed >= max_attempts:
            _change(
                engine, found.id, found.attempts, found.state, state=FAILED, finished=now,
                error=GAVE_UP,
            )  # fmt: skip
            continue
        attempt = found.attempts + 1
        if _change(
            engine, found.id, found.attempts, found.state, state=RUNNING, attempts=attempt,
            worker=worker, started=now, lease_until=now + lease_s, done=0,
        ):  # fmt: skip
            return Claim(found.id, found.kind, attempt, found.params)


def renew(engine: Engine, held: Claim, lease_s: float, done: int | None = None) -> bool:
    """Hold a job longer and report progress; False if another worker has it by now."""
    values: dict[str, Any] = {"lease_until": time.time() + lease_s}
    if done is not None:
        values["done"] = done
    return _change(engine, held.id, held.attempt, RUNNING, **values)


def finish(engine: Engine, held: Claim, error: str = "") -> bool:
    """Report a job as done or failed; False if another worker has it by now."""
    return _change(
        engine, held.id, held.attempt, RUNNING, state=FAILED if error else DONE, error=error,
        finished=time.time(),
    )  # fmt: skip


def put_back(engine: Engine, held: Claim, delay_s: float) -> bool:
    """Give a job back to be tried again later, as when the disk is full."""
    return _change(
        engine, held.id, held.attempt, RUNNING, state=QUEUED, not_before=time.time() + delay_s,
        postponed=Job.postponed + 1,
    )  # fmt: skip
