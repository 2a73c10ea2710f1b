"""
What is kept in files: a folder a job, and submitted images by their content.

Inputs are stored before the job enters the queue. Each attempt writes a folder of its own, renamed
into place when whole, and the database says which attempt counts: nothing is ever half written.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import shutil
import time
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from deepgps_core.dataset import atomic_path
from deepgps_core.sources._images import write_field

_TOKEN = re.compile(r"[A-Za-z0-9_-]{7,40}")
#: What the system says when there is no room.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def is_token(text: str) -> bool:
    """Say whether a text may be a job's identifier; nothing else ever becomes part of a path."""
    return bool(_TOKEN.fullmatch(text))


def is_no_room(error: OSError) -> bool:
    """Say whether an error means that the disk is full."""
    return error.errno in _NO_ROOM


def job_folder(data: Path, job_id: str) -> Path:
    """Return a job's folder; refuses what is no identifier."""
    if not is_token(job_id):
        raise ValueError("no identifier of a job")
    return data / "jobs" / job_id


def save_inputs(data: Path, job_id: str, images: list[np.ndarray]) -> None:
    """Store the decoded nucleus images of a job; what was uploaded is itself not kept."""
    folder = job_folder(data, job_id)
    folder.mkdir(parents=True, exist_ok=True)
    if images:
        with atomic_path(folder / "inputs.npz") as temporary:
            named: dict[str, Any] = {f"image_{k}": image for k, image in enumerate(images)}
            np.savez(temporary, **named)


def load_inputs(data: Path, job_id: str) -> list[np.ndarray]:
    """Return the nucleus images of a job, in order."""
    path = job_folder(data, job_id) / "inputs.npz"
    if not path.exists():
        return []
    with np.load(path, allow_pickle=False) as stored:
        return [stored[f"image_{k}"] for k in range(len(stored.files))]


def save_submitted(data: Path, field: np.ndarray) -> str:
    """Store a submitted field (2, H, W) under the SHA-256 of its pixels; return that."""
    header = f"{field.dtype} {field.shape} ".encode()
    name = hashlib.sha256(header + np.ascontiguousarray(field).tobytes()).hexdigest()
    path = submitted_path(data, name)
    if not path.exists():
        write_field(field, path)
    return name


def submitted_bytes(data: Path) -> int:
    """Return how much room the submitted fields take."""
    return sum(entry.stat().st_size for entry in os.scandir(data / "submitted"))


def submitted_path(data: Path, name: str) -> Path:
    """Return where a submitted field is kept."""
    if not re.fullmatch(r"[0-9a-f]{64}", name):
        raise ValueError("no name of a stored image")
    return data / "submitted" / f"{name}.tif"


def result_folder(data: Path, job_id: str, attempt: int) -> Path:
    """Return where the results of an attempt are."""
    return job_folder(data, job_id) / f"result-{attempt}"


@contextmanager
def new_result(data: Path, job_id: str, attempt: int) -> Iterator[Path]:
    """Yield a folder to write results to; it gets its name when all is written."""
    final = result_folder(data, job_id, attempt)
    temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write JSON that any reader takes: no NaN, plain types."""
    path.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


def zip_folder(folder: Path, path: Path) -> None:
    """Pack a folder's files; names inside are relative to it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Store [0, 1] in 256 steps."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def png_of(image: np.ndarray) -> bytes:
    """Encode uint8 (H, W) or (H, W, 3) as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png")
    return buffer.getvalue()


def overlay_of(nucleus: np.ndarray, protein: np.ndarray) -> np.ndarray:
    """Lay a protein image (orange) over a nucleus (blue); uint8 (H, W) each, to (H, W, 3)."""
    blue, orange = np.array([0.15, 0.35, 1.0]), np.array([1.0, 0.65, 0.05])
    mixed = nucleus[..., None] * blue + protein[..., None] * orange
    return np.clip(mixed, 0, 255).astype(np.uint8)


def remove_job(data: Path, job_id: str) -> None:
    """Remove a job's folder."""
    shutil.rmtree(job_folder(data, job_id), ignore_errors=True)


def orphans(data: Path, known: set[str], age_s: float = 86400) -> list[Path]:
    """Return job folders that no row of the database knows and that are old enough to be dead."""
    limit = time.time() - age_s
    return [
        path
        for path in (data / "jobs").iterdir()
        if path.name not in known and path.stat().st_mtime < limit
    ]
