"""
What was fetched before, and whether a file is what it should be.

``sources.lock.yaml`` remembers size, SHA-256, ETag and date of every file at its first download.
Sources that publish no hash are pinned by it: a later download that differs is an error.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from pathlib import Path
from typing import Any

import yaml

from deepgps_core.dataset import InputError, atomic_path, sha256_of

LOCK_NAME = "sources.lock.yaml"
_MD5_ETAG = re.compile(r"[0-9a-f]{32}", re.IGNORECASE)
#: First bytes by the end of a file's name, and what such a file is called.
MAGIC: dict[str, tuple[tuple[bytes, ...], str]] = {
    ".tif": ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF"),
    ".tiff": ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF"),
    ".jpg": ((b"\xff\xd8\xff",), "JPEG"),
    ".jpeg": ((b"\xff\xd8\xff",), "JPEG"),
    ".png": ((b"\x89PNG",), "PNG"),
    ".zip": ((b"PK\x03\x04", b"PK\x05\x06"), "ZIP"),
    ".gz": ((b"\x1f\x8b",), "gzip"),
}
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def path_inside(folder: Path, name: str) -> Path:
    """
    Return `folder` / `name`, or refuse a name that leads out of the folder.

    Raises
    ------
    InputError
        If `name` is absolute, climbs out with ``..`` or through a symbolic link, or is the
        lock file's own.
    """
    path = folder / name
    is_odd = not name or "\\" in name or "\0" in name or ".." in Path(name).parts
    # the last part may be a link to elsewhere, as in a folder that shares large files
    if is_odd or not path.parent.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{folder}: path {name!r} leaves the folder; refuse this source's list.")
    if name == LOCK_NAME or path == folder:
        raise InputError(f"{folder}: path {name!r} is not a file's to take; rename it.")
    return path


def check_content(path: Path, name: str) -> str:
    """
    Return why the bytes cannot be what the name says, or the empty string.

    A proxy or a login page answers 200 with HTML; saved as an image it fails much later.
    """
    with open(path, "rb") as stream:
        head = stream.read(512)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    suffix = Path(name).suffix.lower()
    is_html = text.startswith((b"<!doctype html", b"<html"))
    if is_html and suffix not in (".html", ".htm"):
        kind = MAGIC[suffix][1] if suffix in MAGIC else "file of data"
        return f"no {kind} but an HTML page; is a proxy or a login in the way?"
    if suffix in MAGIC and not head.startswith(MAGIC[suffix][0]):
        return f"no {MAGIC[suffix][1]}: it begins with {head[:8]!r}"
    return ""


def _md5_of(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def check_against(
    path: Path, size: int | None, sha256: str | None, etag: str | None, *, found_sha256: str
) -> str:
    """Return how the file differs from what its source states, or the empty string."""
    actual = path.stat().st_size
    if size is not None and actual != size:
        return f"{actual:,} bytes, not {size:,}"
    if sha256 and found_sha256 != sha256.lower():
        return f"its sha256 is {found_sha256[:12]}…, not {sha256[:12].lower()}…"
    # an S3 ETag without a dash is the file's MD5
    if etag and _MD5_ETAG.fullmatch(etag.strip('"')) and _md5_of(path) != etag.strip('"').lower():
        return f"its MD5 is not the bucket's {etag.strip(chr(34))[:12]}…"
    return ""


class Lock:
    """
    The lock file of one folder.

    Entries are appended while files arrive (one short write each, so that a kill loses at
    most the last) and the whole is sorted and rewritten when the run ends.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK_NAME
        self._guard = threading.Lock()
        self.entries: dict[str, dict[str, Any]] = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            text = self.path.read_text(encoding="utf-8")
            # what follows the last complete line was cut off by a kill or a full disk
            content = yaml.load(text[: text.rfind("\n") + 1], Loader=_Loader) or {}
            return {name: dict(entry) for name, entry in content.items() if "date" in entry}
        except FileNotFoundError:
            return {}
        except (yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:100]
            raise InputError(
                f"{self.path}: not readable ({reason}); restore it, or remove it to pin anew."
            ) from None

    def add(self, name: str, entry: dict[str, Any]) -> None:
        """Append one entry; on disk before the file it describes gets its name."""
        with self._guard:
            self.entries[name] = entry
            block = yaml.dump({name: entry}, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
            with open(self.path, "ab") as stream:
                stream.write(block.encode())
                stream.flush()
                os.fsync(stream.fileno())

    def tidy(self) -> None:
        """Rewrite the file sorted by path."""
        if not self.entries:
            return
        text = yaml.dump(
            dict(sorted(self.entries.items())),
            Dumper=_Dumper, sort_keys=False, allow_unicode=True,
        )  # fmt: skip
        with atomic_path(self.path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def difference(self, name: str, path: Path, *, found_sha256: str | None = None) -> str:
        """Return how a file differs from its entry, with the remedy; empty if it does not."""
        entry = self.entries.get(name)
        if entry is None:
            return ""
        found = found_sha256 or sha256_of(path)
        if found == entry.get("sha256"):
            return ""
        return (
            f"not the file pinned on {entry.get('date')} (sha256 {found[:12]}…, then "
            f"{str(entry.get('sha256'))[:12]}…)"
        )
