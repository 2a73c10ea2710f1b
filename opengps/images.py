"""
Pictures from strangers: known by their content, measured before they are unpacked.

TIFFs are read page by page: few pages, no other files (OME metadata may name some), only
compressions whose output can be bounded, and every strip unpacked no further than its page says.
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import tifffile
from PIL import Image

MAX_PAGES = 32
MAX_SCANS = 64
#: Of all pages, unpacked: four channels of 4,096 x 4,096 pixels with 16 bits.
MAX_BYTES = 4 * 4096**2 * 2
_NONE, _DEFLATE = 1, (8, 32946)


class PictureError(ValueError):
    """A picture that is not accepted, and why."""


def kind_of(data: bytes) -> str:
    """
    Tell a file's type by its first bytes; "" for anything unknown.

    Examples
    --------
    >>> kind_of(b"PK\\x03\\x04..."), kind_of(b"<html>")
    ('zip', '')
    """
    magics = {
        b"II*\0": "tiff", b"MM\0*": "tiff", b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg",
        b"PK\x03\x04": "zip", b"PK\x05\x06": "zip",
    }  # fmt: skip
    return next((kind for magic, kind in magics.items() if data.startswith(magic)), "")


def _count_pages(data: bytes) -> int:
    """Follow a TIFF's chain of pages, no further than is allowed."""
    order = "<" if data[:2] == b"II" else ">"
    pages, seen = 0, set()
    (offset,) = struct.unpack_from(order + "I", data, 4)
    while offset:
        pages += 1
        if offset in seen or pages > MAX_PAGES:
            raise PictureError(f"has more than {MAX_PAGES} pages; save nucleus and protein only")
        seen.add(offset)
        (entries,) = struct.unpack_from(order + "H", data, offset)
        (offset,) = struct.unpack_from(order + "I", data, offset + 2 + 12 * entries)
    return pages


def _check_page(page: tifffile.TiffPage, data: bytes, max_px: int) -> None:
    """Refuse a page that is too large, or whose strips unpack to more than it says."""
    if max(page.imagewidth, page.imagelength, page.tilewidth, page.tilelength) > max_px:
        raise PictureError(f"is larger than {max_px} x {max_px} pixels; cut it")
    if page.imagedepth > 1 or page.samplesperpixel > 4 or page.dtype is None:
        raise PictureError("is no plain image of one or two channels")
    if page.dtype.kind not in "uif" or page.dtype.itemsize > 4:
        raise PictureError(f"holds {page.dtype}; save it with 8 or 16 bits")
    if page.compression == _NONE:
        return
    if page.compression not in _DEFLATE:
        raise PictureError("is compressed in a way not read here; save it uncompressed or as ZIP")
    limit = int(np.prod(page.chunks)) * page.dtype.itemsize
    if len(page.dataoffsets) > int(np.prod(page.chunked)):
        raise PictureError("has more strips than its size asks for; save it again")
    for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True):
        unpacked = zlib.decompressobj().decompress(data[offset : offset + size], limit + 1)
        if len(unpacked) > limit:
            raise PictureError("unpacks to more than it says; save it again")


def _read_tiff(data: bytes, max_px: int) -> np.ndarray:
    _count_pages(data)
    with tifffile.TiffFile(io.BytesIO(data), is_ome=False) as tiff:
        pages = list(tiff.pages)[:MAX_PAGES]
        if len(pages) > 4:
            raise PictureError(f"has {len(pages)} pages; save nucleus and protein only")
        for page in pages:
            if not isinstance(page, tifffile.TiffPage):
                raise PictureError("is no plain TIFF; save it again")
            _check_page(page, data, max_px)
        if sum(page.nbytes for page in pages) > MAX_BYTES:
            raise PictureError(f"unpacks to over {MAX_BYTES // 1_000_000} MB; cut it")
        planes = [page.asarray() for page in pages]
    if len({plane.shape for plane in planes}) > 1:
        raise PictureError("has pages of different sizes; save nucleus and protein only")
    return planes[0] if len(planes) == 1 else np.stack(planes)


def _read_other(data: bytes, max_px: int) -> np.ndarray:
    # each scan of a progressive JPEG costs a pass over all pixels; within scans FF is never
    # followed by DA, so this counts them
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > MAX_SCANS:
        raise PictureError("is stored in too many scans; save it again")
    with Image.open(io.BytesIO(data), formats=["PNG", "JPEG"]) as picture:
        if max(picture.size) > max_px:
            raise PictureError(f"is larger than {max_px} x {max_px} pixels; cut it")
        if picture.mode in ("1", "LA", "La"):  # alpha is no channel
            return np.asarray(picture.convert("L"))
        if picture.mode in ("P", "PA", "RGBA", "RGBa", "CMYK", "YCbCr", "LAB", "HSV"):
            return np.asarray(picture.convert("RGB"))
        return np.asarray(picture)


def read_picture(data: bytes, *, max_px: int) -> np.ndarray:
    """
    Decode a TIFF, PNG or JPEG.

    Returns
    -------
    picture : ndarray, shape (C, H, W)
        Channels first; an RGB picture all of whose colors are equal has one.

    Raises
    ------
    PictureError
        If it is none of them, damaged, too large, or would unpack to more than it says.
    """
    kind = kind_of(data)
    if kind not in ("tiff", "png", "jpeg"):
        raise PictureError("is no TIFF, PNG or JPEG, whatever its name says")
    try:
        picture = (_read_tiff if kind == "tiff" else _read_other)(data, max_px)
    except PictureError:
        raise
    # the readers raise many kinds on damaged files, among them zlib.error and struct.error
    except Exception:
        raise PictureError("is damaged; save it again") from None
    picture = np.squeeze(picture)
    if picture.ndim == 3 and picture.shape[-1] in (2, 3, 4):
        picture = np.moveaxis(picture[..., : min(3, picture.shape[-1])], -1, 0)
        if len(picture) == 3 and (picture == picture[0]).all():
            picture = picture[0]
    if picture.ndim == 2:
        picture = picture[None]
    if picture.ndim != 3 or picture.dtype.kind not in "uif":
        raise PictureError(f"has the shape {picture.shape}; save one or two channels")
    if min(picture.shape[1:]) < 16:
        raise PictureError("is smaller than 16 pixels")
    if not np.isfinite(picture).all():
        raise PictureError("has pixels that are no numbers")
    return picture
