"""What is known of a job, for the pages and the interface alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from deepgps_core.dataset import read_field_tiff
from opengps import storage
from opengps.database import DONE, QUEUED, Job, Submission
from opengps.intake import PREDICT

#: What can be downloaded, and where it is among the results; those of either kind of job.
DOWNLOADS = {
    "predictions.csv": "files/predictions.csv",
    "mutations.csv": "files/mutations.csv",
    "report.html": "files/report.html",
    "images.zip": "images.zip",
    "results.zip": "results.zip",
    "comparison.csv": "comparison.csv",
    "dataset.zip": "dataset.zip",
}
#: Longest side of a preview.
PREVIEW_PX = 512
#: Samples of which there are pictures; all are in the files.
SHOWN_SAMPLES = 8
CHANNELS = (
    "nucleus", "protein", "overlay", "measured", "spread",
    *(f"sample-{number}" for number in range(1, SHOWN_SAMPLES + 1)),
)  # fmt: skip


def find_job(engine: Engine, job_id: str, kind: str) -> Job | None:
    """Return a job of this kind, or None; what is no identifier never reaches the database."""
    if not storage.is_token(job_id):
        return None
    with Session(engine) as session:
        job = session.get(Job, job_id)
        session.expunge_all()
    return job if job is not None and job.kind == kind else None


def ahead_of(engine: Engine, job: Job) -> int:
    """Return how many jobs stand before this one."""
    with Session(engine) as session:
        earlier = select(func.count()).select_from(Job).where(
            Job.state == QUEUED, Job.created < job.created
        )  # fmt: skip
        return session.scalar(earlier) or 0


def describe(engine: Engine, settings: Mapping[str, Any], job: Job) -> dict[str, Any]:
    """
    Return state, progress and, where it is done, the results of a job.

    Returns
    -------
    description : dict
        id, state (queued, running, done, failed), progress (0 to 100), ahead (jobs before it),
        error, and ``result``, as `prediction.summary_of` makes it.
    """
    found: dict[str, Any] = {
        "id": job.id, "state": job.state, "progress": 100 if job.state == DONE else job.done,
        "ahead": ahead_of(engine, job) if job.state == QUEUED else 0, "error": job.error,
        "created": round(job.created, 3), "model": job.params["model"],
    }  # fmt: skip
    if job.state == DONE:
        found["result"] = storage.read_json(folder_of(settings, job) / "summary.json")
    return found


def folder_of(settings: Mapping[str, Any], job: Job) -> Path:
    """Return the folder of the attempt that counts."""
    return storage.result_folder(settings["DATA"], job.id, job.attempts)


def picture(
    settings: Mapping[str, Any], job: Job, number: int, nucleus: int, channel: str
) -> bytes | None:
    """
    Return one image of a result as PNG.

    Parameters
    ----------
    number : int
        Of the protein, or of the submission.
    nucleus : int
        Of the cell, from 0.
    channel : str
        One of `CHANNELS`.
    """
    if job.state != DONE or channel not in CHANNELS:
        return None
    stacks = _channels(folder_of(settings, job), job.kind, number)
    if stacks is None or nucleus >= len(stacks["nucleus"]):
        return None
    if channel == "overlay":
        image = storage.overlay_of(stacks["nucleus"][nucleus], stacks["protein"][nucleus])
    elif channel in stacks:
        image = np.asarray(stacks[channel][nucleus])
    else:
        return None
    return storage.png_of(image)


def _channels(folder: Path, kind: str, number: int) -> dict[str, np.ndarray] | None:
    """Open the stacks (n, H, W) of one protein without reading all of them."""

    def mapped(name: str) -> np.ndarray:
        return np.asarray(np.load(folder / name, mmap_mode="r", allow_pickle=False))

    if kind == PREDICT:
        drawn = mapped("drawn.npy")
        if number >= len(drawn):
            return None
        stacks = {"nucleus": mapped("nuclei.npy"), "protein": drawn[number]}
        if (folder / "samples.npy").exists():
            stacks["spread"] = mapped("spread.npy")[number]
            of_one = mapped("samples.npy")[number]  # (n, samples, H, W)
            stacks |= {f"sample-{k + 1}": of_one[:, k] for k in range(of_one.shape[1])}
        return stacks
    path = folder / f"cells_{number}.npy"
    if not path.exists():
        return None
    nucleus, measured, protein = mapped(path.name)
    return {"nucleus": nucleus, "measured": measured, "protein": protein}


def submitted_items(engine: Engine, job_id: str) -> list[Submission]:
    """Return what was handed in together, in order."""
    with Session(engine) as session:
        found = select(Submission).where(Submission.job_id == job_id).order_by(Submission.number)
        items = list(session.scalars(found).all())
        session.expunge_all()
    return items


def field_preview(
    engine: Engine, settings: Mapping[str, Any], job_id: str, number: int, channel: str
) -> bytes | None:
    """
    Return one channel of a submitted field as a small PNG, stretched between its percentiles.

    Parameters
    ----------
    channel : str
        nucleus or protein.
    """
    if channel not in ("nucleus", "protein") or number > settings["MAX_SUBMISSIONS"]:
        return None
    with Session(engine) as session:
        image = session.scalar(
            select(Submission.image).where(
                Submission.job_id == job_id, Submission.number == number
            )
        )  # fmt: skip
    if image is None:
        return None
    field = read_field_tiff(storage.submitted_path(settings["DATA"], image))
    plane = field[0 if channel == "nucleus" else 1]
    step = max(1, -(-max(plane.shape) // PREVIEW_PX))
    plane = plane[::step, ::step].astype(np.float32)
    low, high = np.percentile(plane, (1, 99.8))
    return storage.png_of(storage.to_uint8((plane - low) / max(1.0, high - low)))


def download(settings: Mapping[str, Any], job: Job, name: str) -> Path | None:
    """Return a file to download, of the few that there are."""
    if job.state != DONE or name not in DOWNLOADS:
        return None
    path = folder_of(settings, job) / DOWNLOADS[name]
    return path if path.exists() else None
