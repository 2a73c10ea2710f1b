"""What is to be fetched, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Remote:
    """
    One file at its source.

    Parameters
    ----------
    url : str
        ``http://``, ``https://`` or ``s3://bucket/key``.
    path : str
        Where it goes, relative to the folder.
    size : int, optional
        Bytes, where the source states them.
    sha256, etag : str, optional
        As the source states them; an S3 ETag without a dash is checked as the MD5 it is.
    check : callable, optional
        Gets the temporary path and raises ValueError if the content is wrong. The kind that the
        name promises (TIFF, JPEG, PNG, ZIP, gzip; not HTML) is checked without it.
    """

    url: str
    path: str
    size: int | None = None
    sha256: str | None = None
    etag: str | None = None
    check: Callable[[Path], None] | None = None


@dataclass
class FetchReport:
    """
    What became of each file: relative paths, sorted.

    `failed` maps a path to its cause; `bytes` counts what came over the network, or, after a dry
    run, what would (`planned`, of which `unsized` files state no size).
    """

    fetched: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    bytes: int = 0
    planned: list[str] = field(default_factory=list)
    unsized: int = 0
    licence: str = ""

    def __add__(self, other: FetchReport) -> FetchReport:
        return FetchReport(
            sorted(self.fetched + other.fetched), sorted(self.present + other.present),
            self.failed | other.failed, self.bytes + other.bytes,
            sorted(self.planned + other.planned), self.unsized + other.unsized,
            self.licence or other.licence,
        )  # fmt: skip

    def describe(self) -> str:
        """Return the report as text: counts first, then each failure with its cause."""
        if self.planned:
            more = f" and {self.unsized} of unknown size" if self.unsized else ""
            lines = [f"would fetch {len(self.planned)} files, {megabytes(self.bytes)}{more}"]
        else:
            lines = [f"{len(self.fetched)} files fetched, {megabytes(self.bytes)}"]
        lines[0] += f"; {len(self.present)} here already; {len(self.failed)} failed"
        if self.licence:
            lines.append(f"licence: {self.licence}")
        lines += [f"failed: {path}: {cause}" for path, cause in sorted(self.failed.items())]
        return "\n".join(lines)


def megabytes(n_bytes: int) -> str:
    """
    Return a count of bytes for people.

    Examples
    --------
    >>> megabytes(1_440_000), megabytes(9_000_000_000)
    ('1.4 MB', '9.0 GB')
    """
    if n_bytes >= 1e9:
        return f"{n_bytes / 1e9:.1f} GB"
    return f"{n_bytes / 1e6:.1f} MB"
