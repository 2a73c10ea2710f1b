"""
ZIP archives from strangers: counted and measured before anything is unpacked, never onto the disk.

Members are read into memory, each no further than its share of the limit; their names are only
ever compared with those in the table, so that no name can reach outside.
"""

from __future__ import annotations

import io
import stat
import zipfile
from pathlib import PurePosixPath


class ArchiveError(ValueError):
    """An archive that is not accepted, and why."""


def _check_member(info: zipfile.ZipInfo) -> None:
    path = PurePosixPath(info.filename)
    if path.is_absolute() or ".." in path.parts or "\\" in info.filename or ":" in info.filename:
        raise ArchiveError(f"has a file whose name leaves it: {info.filename[:60]!r}")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise ArchiveError(f"has a link, {info.filename[:60]!r}; put the file itself in")
    if info.flag_bits & 0x1:
        raise ArchiveError("is encrypted; save it without a password")
    # of the other methods zipfile unpacks whole blocks, however little is asked for
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ArchiveError("is compressed in a way not read here; make it in the usual way")


def read_archive(data: bytes, *, max_files: int, max_bytes: int) -> dict[str, bytes]:
    """
    Unpack a ZIP archive into memory.

    Returns
    -------
    files : dict of str to bytes
        Path in the archive -> content; folders and what macOS adds are left out.

    Raises
    ------
    ArchiveError
        If it is no ZIP, has too many or too large files, links, or names that leave it.
    """
    # zipfile reads the whole directory first, be it of a million empty files
    if data.count(b"PK\x01\x02") > max_files + 1000:
        raise ArchiveError(f"has too many files; at most {max_files} are taken")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            if len(infos) > max_files:
                raise ArchiveError(f"has {len(infos)} files; at most {max_files} are taken")
            for info in infos:
                _check_member(info)
            files, left = {}, max_bytes
            for info in infos:
                if info.filename.startswith("__MACOSX/"):
                    continue
                with archive.open(info) as stream:
                    content = stream.read(left + 1)  # whatever the directory claims
                left -= len(content)
                if left < 0:
                    raise ArchiveError(f"unpacks to more than {max_bytes // 1_000_000} MB")
                files[info.filename] = content
            return files
    except ArchiveError:
        raise
    # zipfile raises several kinds on damaged archives, among them zlib.error and EOFError
    except Exception:
        raise ArchiveError("is no ZIP archive, or damaged; make it again") from None
