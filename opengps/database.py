"""
Tables, and how they are reached: SQLite by default, any database by its URL.

All statements go through SQLAlchemy with bound values. SQLite is put into write-ahead mode, so
that the pages can read while the worker writes, and waits for a lock before giving up.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

from sqlalchemy import JSON, Engine, Float, Integer, String, Text, create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

#: Seconds SQLite waits for another writer.
BUSY_S = 10
QUEUED, RUNNING, DONE, FAILED = "queued", "running", "done", "failed"


def new_token() -> str:
    """Return 192 random bits as 32 letters: who has not been given it cannot find it."""
    return secrets.token_urlsafe(24)


class Base(DeclarativeBase):
    """What the tables share."""


class Job(Base):
    """
    A prediction or a comparison, from acceptance to result; the queue is this table.

    `attempts` counts who has taken it: only the last taker may report, so that a worker that was
    thought dead and was not cannot finish a job a second time.
    """

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=new_token)
    kind: Mapped[str] = mapped_column(String(20))
    state: Mapped[str] = mapped_column(String(10), default=QUEUED, index=True)
    created: Mapped[float] = mapped_column(Float, default=time.time, index=True)
    not_before: Mapped[float] = mapped_column(Float, default=0.0)
    started: Mapped[float | None] = mapped_column(Float)
    finished: Mapped[float | None] = mapped_column(Float)
    lease_until: Mapped[float] = mapped_column(Float, default=0.0)
    worker: Mapped[str] = mapped_column(String(40), default="")
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    #: Attempts that ended by themselves, as when the disk was full: these are not held against it.
    postponed: Mapped[int] = mapped_column(Integer, default=0)
    done: Mapped[int] = mapped_column(Integer, default=0)
    total: Mapped[int] = mapped_column(Integer, default=0)
    params: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    error: Mapped[str] = mapped_column(Text, default="")


class Submission(Base):
    """An experimental image that somebody handed in, and how the prediction compares."""

    __tablename__ = "submissions"
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=new_token)
    job_id: Mapped[str] = mapped_column(String(40), index=True)
    #: Its place among the submissions of this job.
    number: Mapped[int] = mapped_column(Integer, default=0)
    #: SHA-256 of the pixels: names the stored image, so that the same one is kept once.
    image: Mapped[str] = mapped_column(String(64), index=True)
    pixel_size_um: Mapped[float] = mapped_column(Float)
    created: Mapped[float] = mapped_column(Float, default=time.time)
    protein_id: Mapped[str] = mapped_column(String(80))
    sequence: Mapped[str] = mapped_column(Text)
    locations: Mapped[str] = mapped_column(String(200), default="")
    cell_line: Mapped[str] = mapped_column(String(100))
    provenance: Mapped[str] = mapped_column(Text)
    file_name: Mapped[str] = mapped_column(String(200), default="")


def open_database(url: str) -> Engine:
    """Connect, and make the tables that are missing."""
    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("sqlite"):
        options["connect_args"] = {"timeout": BUSY_S}
    engine = create_engine(url, **options)
    if url.startswith("sqlite"):

        @event.listens_for(engine, "connect")
        def configure(connection: Any, record: Any) -> None:
            cursor = connection.cursor()
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=FULL")  # an accepted job survives a power cut
            cursor.close()

    Base.metadata.create_all(engine)
    return engine
