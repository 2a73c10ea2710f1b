"""
Accept a request: store its files, then put it into the queue; after that it is a promise.

The row is written last and in one transaction. A crash before it leaves files that nobody knows
and that are swept up later; a crash after it leaves a job that a worker will find.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from sqlalchemy import Engine, delete, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from opengps import storage
from opengps.database import DONE, FAILED, Job, Submission, new_token
from opengps.errors import BusyError
from opengps.forms import PredictionRequest
from opengps.jobs import waiting
from opengps.submissions import SubmissionRequest

log = logging.getLogger("opengps")
PREDICT, COMPARE = "predict", "compare"
#: The one job whose address is no secret: it shows what a result looks like.
EXAMPLE = "example"


@contextmanager
def saying_busy(data: Any = None, job_id: str = "") -> Iterator[None]:
    """Turn a full disk and a locked database into `BusyError`, and remove what was stored."""
    try:
        yield
    except OperationalError as error:
        log.error("database: %s", error.orig)
        reason = "The database is busy or full"
    except OSError as error:
        if not storage.is_no_room(error):
            raise
        log.error("storage: %s", error)
        reason = "The disk of the server is full"
    else:
        return
    if job_id:
        storage.remove_job(data, job_id)
    raise BusyError(f"{reason}. Nothing was lost of what you typed: try again in a minute.")


def check_room(engine: Engine, settings: Mapping[str, Any]) -> None:
    """
    Refuse more work than the queue holds.

    Raises
    ------
    BusyError
    """
    with saying_busy():
        if waiting(engine) >= settings["MAX_QUEUE"]:
            raise BusyError("The queue is full. Try again in some minutes.")


def accept_prediction(
    engine: Engine, settings: Mapping[str, Any], request: PredictionRequest, job_id: str = ""
) -> str:
    """
    Put a prediction into the queue.

    Returns
    -------
    job_id : str
        192 random bits: whoever has the address can see the result, and nobody else.

    Raises
    ------
    BusyError
        If the queue or the disk is full, or the database locked; nothing is kept then.
    """
    check_room(engine, settings)
    job_id = job_id or new_token()
    params = {
        "model": request.model, "pixel_size_um": request.pixel_size_um,
        "sequences": request.sequences, "n_images": len(request.images),
        "mutations": list(request.mutations), "samples": request.samples,
    }  # fmt: skip
    with saying_busy(settings["DATA"], job_id):
        storage.save_inputs(settings["DATA"], job_id, request.images)
        with Session(engine) as session, session.begin():
            session.add(Job(id=job_id, kind=PREDICT, params=params, total=len(request.sequences)))
    return job_id


def accept_submission(
    engine: Engine, settings: Mapping[str, Any], request: SubmissionRequest
) -> str:
    """
    Keep submitted fields, each image once, and put their comparison into the queue.

    Raises
    ------
    BusyError
        As `accept_prediction`.
    """
    check_room(engine, settings)
    if storage.submitted_bytes(settings["DATA"]) > settings["MAX_STORED_BYTES"]:
        raise BusyError("The store of submissions is full. Tell the operator of this server.")
    job_id = new_token()
    with saying_busy(settings["DATA"], job_id):
        images = [storage.save_submitted(settings["DATA"], item.field) for item in request.items]
        storage.save_inputs(settings["DATA"], job_id, [])
        rows = [
            Submission(
                job_id=job_id, number=k, image=image, protein_id=item.protein_id,
                sequence=item.sequence, locations=item.locations, cell_line=request.cell_line,
                provenance=request.provenance, file_name=item.file_name,
                pixel_size_um=request.pixel_size_um,
            )
            for k, (item, image) in enumerate(zip(request.items, images, strict=True))
        ]  # fmt: skip
        with Session(engine) as session, session.begin():
            session.add_all(rows)
            params = {"model": request.model}
            session.add(Job(id=job_id, kind=COMPARE, params=params, total=len(rows)))
    return job_id


def seen_before(engine: Engine, job_id: str) -> int:
    """Return how many images of a job had been submitted by an earlier one."""
    with Session(engine) as session:
        mine = select(Submission.image).where(Submission.job_id == job_id)
        first = select(Job.created).where(Job.id == job_id).scalar_subquery()
        earlier = (
            select(Submission.image)
            .join(Job, Job.id == Submission.job_id)
            .where(Submission.image.in_(mine), Job.created < first)
            .distinct()
        )
        return len(session.scalars(earlier).all())


def sweep(engine: Engine, settings: Mapping[str, Any]) -> int:
    """
    Forget predictions that are older than is promised, and files without a job.

    Submissions stay: they are what the data set grows by.
    """
    limit = time.time() - settings["KEEP_DAYS"] * 86400
    with Session(engine) as session, session.begin():
        old = session.scalars(
            select(Job.id).where(
                Job.created < limit, Job.kind == PREDICT, Job.state.in_((DONE, FAILED)),
                Job.id != EXAMPLE,
            )
        ).all()  # fmt: skip
        session.execute(delete(Job).where(Job.id.in_(old)))
        known = set(session.scalars(select(Job.id)).all())
    for job_id in old:
        storage.remove_job(settings["DATA"], job_id)
    for path in storage.orphans(settings["DATA"], known):
        storage.remove_job(settings["DATA"], path.name)
    return len(old)


def as_request(
    sequences: dict[str, str], model: str, images: list[np.ndarray] | None = None
) -> PredictionRequest:
    """Return a request made by the program itself, such as the example."""
    return PredictionRequest(sequences, model, images or [], None)
