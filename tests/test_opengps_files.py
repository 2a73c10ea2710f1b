"""What strangers upload: known by content, measured before it is unpacked, never a path."""

from __future__ import annotations

import io
import re
import resource
import stat
import struct
import time
import tracemalloc
import zipfile
import zlib
from typing import Any

import numpy as np
import opengps_site as site
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from opengps.archives import ArchiveError, read_archive
from opengps.images import MAX_PAGES, PictureError, kind_of, read_picture

GRAY = np.random.default_rng(0).integers(0, 255, (40, 50)).astype(np.uint8)
LIMITS: dict[str, Any] = {"max_files": 5, "max_bytes": 100_000}


class Memory:
    """The most memory that Python objects took within a block, in megabytes."""

    peak_mb = 0.0

    def __enter__(self) -> Memory:
        tracemalloc.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.peak_mb = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()


def packed_zeros(n_bytes: int) -> bytes:
    """Return zeros as a zlib stream."""
    packer = zlib.compressobj(9)
    block = bytes(1_000_000)
    return b"".join(packer.compress(block) for _ in range(n_bytes // 1_000_000)) + packer.flush()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (site.tiff(GRAY), "tiff"), (site.tiff(GRAY, byteorder=">"), "tiff"),
        (site.picture(GRAY), "png"), (site.picture(GRAY, "jpeg"), "jpeg"),
        (site.archive({"a": b"b"}), "zip"), (b"<svg onload=alert(1)>", ""), (b"GIF89a", ""),
        (b"%PDF-1.7", ""), (b"\x80\x04\x95pickle", ""), (b"", ""),
    ],
)  # fmt: skip
def test_type_is_known_by_content(data: bytes, kind: str) -> None:
    """The first bytes decide; there is no name to look at."""
    assert kind_of(data) == kind
    if kind in ("", "zip"):
        with pytest.raises(PictureError, match="no TIFF, PNG or JPEG"):
            read_picture(data, max_px=100)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_comes_back(dtype: Any, compression: str | None) -> None:
    """Two channels, plain or packed, are read as they were."""
    image = np.random.default_rng(1).integers(0, 250, (2, 30, 40)).astype(dtype)
    data = site.tiff(image, compression=compression, photometric="minisblack")
    assert (read_picture(data, max_px=64) == image).all()


def test_png_comes_back_and_colors_are_three_channels() -> None:
    """A gray picture has one channel, whether or not it is stored in colors."""
    color = np.stack([GRAY, GRAY // 2, 255 - GRAY], axis=-1)
    assert (read_picture(site.picture(GRAY), max_px=64) == GRAY[None]).all()
    assert (read_picture(site.picture(color), max_px=64) == np.moveaxis(color, -1, 0)).all()
    assert read_picture(site.picture(np.stack([GRAY] * 3, axis=-1)), max_px=64).shape[0] == 1


@pytest.mark.parametrize("side", [5000, 60_000, 2_000_000_000])
def test_pixel_bomb_png(side: int) -> None:
    """A PNG of some hundred bytes that promises a huge picture is refused by its header."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PictureError):
        read_picture(site.png_claiming(side, side), max_px=4096)
    # kilobytes; the larger two would take gigabytes
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_png_that_inflates_beyond_its_size_is_no_bomb() -> None:
    """What the packed data holds beyond the promised pixels is left alone."""
    data = site.png_claiming(64, 64, packed_zeros(100_000_000))
    with Memory() as memory:
        assert read_picture(data, max_px=4096).shape == (1, 64, 64)
    assert memory.peak_mb < 10


def test_pixel_bomb_tiff() -> None:
    """A TIFF is refused by the size in its tags, before a pixel is read."""
    data = bytearray(site.tiff(GRAY))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as opened:
        for name in ("ImageWidth", "ImageLength"):
            tag = opened.pages[0].tags[name]  # type: ignore[union-attr]
            form = "<H" if tag.dtype == 3 else "<I"
            struct.pack_into(form, data, tag.valueoffset, 65_000)
    with pytest.raises(PictureError, match="larger than 4096"):
        read_picture(bytes(data), max_px=4096)


def test_decompression_bomb_tiff() -> None:
    """A strip that unpacks to more than its page says is refused, at no cost of memory."""
    data = bytearray(site.tiff(np.zeros((64, 64), np.uint8), compression="zlib"))
    bomb = packed_zeros(60_000_000)
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as opened:
        tags = opened.pages[0].tags  # type: ignore[union-attr]
        for name, value in (("StripOffsets", len(data)), ("StripByteCounts", len(bomb))):
            tag = tags[name]
            struct.pack_into("<H" if tag.dtype == 3 else "<I", data, tag.valueoffset, value)
            assert tag.dtype != 3 or value < 65536
    whole = bytes(data) + bomb
    with Memory() as memory, pytest.raises(PictureError, match="unpacks to more"):
        read_picture(whole, max_px=4096)
    assert memory.peak_mb < 5


def test_tiff_of_many_pages_is_refused() -> None:
    """Neither too many pages nor a chain that bites its tail is followed."""
    with pytest.raises(PictureError, match="pages"):
        read_picture(site.tiff(np.zeros((MAX_PAGES + 5, 16, 16), np.uint8)), max_px=64)
    with pytest.raises(PictureError, match="pages"):
        read_picture(
            site.tiff(np.zeros((6, 16, 16), np.uint8), photometric="minisblack"), max_px=64
        )
    data = bytearray(site.tiff(GRAY))
    (first,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<I", data, first + 2 + 12 * entries, first)
    with pytest.raises(PictureError, match="pages"):
        read_picture(bytes(data), max_px=64)


def test_jpeg_of_many_scans_is_refused() -> None:
    """A progressive JPEG whose scans are repeated costs time with each; it is not decoded."""
    data = site.picture(np.zeros((512, 512), np.uint8), "jpeg", progressive=True)
    scans = [found.start() for found in re.finditer(b"\xff\xda", data)]
    assert len(scans) > 1
    assert read_picture(data, max_px=4096).shape == (1, 512, 512)
    with pytest.raises(PictureError, match="scans"):
        read_picture(data[:-2] + data[scans[-1] : -2] * 300 + data[-2:], max_px=4096)


@pytest.mark.parametrize(
    "image",
    [
        np.full((20, 20), np.nan, np.float32), np.zeros((20, 20), np.complex64),
        np.zeros((20, 20), np.float64), np.zeros((3, 4), np.uint8), np.zeros((20, 20), bool),
    ],
    ids=["nan", "complex", "double", "tiny", "bits"],
)  # fmt: skip
def test_unfit_images_are_refused_in_words(image: np.ndarray) -> None:
    """Numbers that are no intensities, and images too small for a cell."""
    with pytest.raises(PictureError):
        read_picture(site.tiff(image), max_px=64)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_damaged_images_never_end_in_anything_but_a_refusal(data: st.DataObject) -> None:
    """Flip bytes, cut and join: the reader returns pixels within its limits, or refuses."""
    whole = data.draw(
        st.sampled_from(
            [
                site.tiff(GRAY), site.tiff(np.stack([GRAY] * 2), photometric="minisblack"),
                site.tiff(GRAY, compression="zlib", tile=(16, 16)), site.tiff(GRAY, byteorder=">"),
                site.picture(GRAY), site.picture(GRAY, "jpeg", progressive=True),
            ]
        )
    )  # fmt: skip
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 8))):
        changed[data.draw(st.integers(4, len(changed) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(8, len(changed)))
    try:
        picture = read_picture(bytes(changed[:cut]), max_px=256)
    except PictureError as error:
        assert len(str(error)) < 200
    else:
        assert picture.ndim == 3 and max(picture.shape[1:]) <= 256
        assert np.isfinite(picture).all()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.binary(max_size=300), st.sampled_from([b"II*\0", b"MM\0*", b"\x89PNG\r\n\x1a\n", b""]))
def test_noise_is_refused(noise: bytes, magic: bytes) -> None:
    """Bytes that mean nothing, also behind a good beginning, are refused."""
    with pytest.raises(PictureError):
        read_picture(magic + noise, max_px=256)


# ------------------------------------------------------------------------------------ archives


def test_archive_comes_back() -> None:
    """Files are read under their path; folders and what macOS adds are left out."""
    files = {"table.csv": b"a,b\n", "images/one.tif": b"II*\0", "__MACOSX/._one.tif": b"x"}
    read = read_archive(site.archive(files), **LIMITS)
    assert read == {k: v for k, v in files.items() if not k.startswith("__")}


@pytest.mark.parametrize(
    "name",
    ["../evil.tif", "/etc/passwd", "a/../../b", "..\\evil", "C:\\evil", "C:/evil", "a\\..\\b"],
)
def test_names_that_leave_the_archive(name: str) -> None:
    """Path traversal is refused by name, though nothing is ever unpacked onto the disk."""
    with pytest.raises(ArchiveError, match="leaves it"):
        read_archive(site.archive({name: b"x"}), **LIMITS)


def test_links_and_passwords() -> None:
    """A symbolic link and an encrypted file are refused."""
    link = zipfile.ZipInfo("link.tif")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr(link, "/etc/passwd")
    with pytest.raises(ArchiveError, match="link"):
        read_archive(buffer.getvalue(), **LIMITS)
    secret = bytearray(site.archive({"a.tif": b"x"}))
    for magic, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        secret[secret.index(magic) + flags] |= 1
    with pytest.raises(ArchiveError, match="encrypted"):
        read_archive(bytes(secret), **LIMITS)


def test_limits_of_archives() -> None:
    """At the limit it is read; one file or one byte more is refused."""
    full = {f"{n}.tif": b"x" * 20_000 for n in range(5)}
    assert len(read_archive(site.archive(full), **LIMITS)) == 5
    with pytest.raises(ArchiveError, match="at most 5"):
        read_archive(site.archive({**full, "5.tif": b""}), **LIMITS)
    with pytest.raises(ArchiveError, match="unpacks to more"):
        read_archive(site.archive({"a": b"x" * 100_001}), **LIMITS)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_decompression_bomb_zip(method: int) -> None:
    """Whatever it is packed with, a bomb costs no more memory than the limit."""
    bomb = site.archive({"a.tif": bytes(50_000_000)}, method)
    assert len(bomb) < 60_000
    with Memory() as memory, pytest.raises(ArchiveError):
        read_archive(bomb, **LIMITS)
    assert memory.peak_mb < 5


def test_bomb_that_lies_about_its_size() -> None:
    """The size that the directory claims is not believed."""
    data = bytearray(site.archive({"a.tif": bytes(50_000_000)}))
    for magic, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", data, data.index(magic) + place, 10)
    try:
        read = read_archive(bytes(data), **LIMITS)
    except ArchiveError:
        return
    assert sum(map(len, read.values())) <= LIMITS["max_bytes"]


def test_archive_of_very_many_files_is_not_listed() -> None:
    """A directory of a hundred thousand empty files is refused before it is read."""
    data = site.archive({"a": b""})
    entry = data[data.index(b"PK\x01\x02") : data.index(b"PK\x05\x06")]
    many = 100_000
    end = struct.pack(
        "<IHHHHIIH", 0x06054B50, 0, 0, many % 65536, many % 65536, len(entry) * many,
        data.index(b"PK\x01\x02"), 0,
    )  # fmt: skip
    start = time.process_time()
    with pytest.raises(ArchiveError):
        read_archive(data[: data.index(b"PK\x01\x02")] + entry * many + end, **LIMITS)
    assert time.process_time() - start < 0.3


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_damaged_archives(data: st.DataObject) -> None:
    """Flipped bytes and cuts end in a refusal, or in files within the limits."""
    changed = bytearray(site.archive({"a.csv": b"x,y\n" * 50, "b/c.tif": bytes(500)}))
    for _ in range(data.draw(st.integers(1, 6))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = read_archive(bytes(changed), **LIMITS)
    except ArchiveError as error:
        assert len(str(error)) < 200
    else:
        assert sum(map(len, read.values())) <= LIMITS["max_bytes"]
