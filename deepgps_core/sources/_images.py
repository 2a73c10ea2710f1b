"""
Image files of other people, made into fields: read with care, scaled, written as OpenCell does.

Sources deliver channels as separate JPEGs, PNGs or TIFFs of 8 or 16 bits, at any pixel size. A
field of a dataset is one TIFF, uint16 (2, H, W), nucleus first. Eight bits become sixteen by
multiplying with 257, which maps 255 to 65,535 and keeps what averaging gains below one step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError
from skimage.transform import resize, resize_local_mean

from deepgps_core.dataset import MAX_FIELD_PX, InputError, atomic_path

#: Micrometers a pixel of OpenCell's fields (and of the simulated ones): where 208 pixels are
#: 43 µm. Fields of other sources are brought to it, so that a crop always spans the same.
OPENCELL_PIXEL_SIZE_UM = 0.206
Color = Literal["red", "green", "blue"]
_PLANE: dict[str, int] = {"red": 0, "green": 1, "blue": 2}


def read_image(path: Path | str) -> np.ndarray:
    """
    Read a TIFF, PNG or JPEG without trusting it.

    Returns
    -------
    image : ndarray, dtype uint8 or uint16
        As stored, axes of length 1 removed: (H, W), (C, H, W) or (H, W, C).

    Raises
    ------
    InputError
        If the file is missing, no image, damaged, too large, or not of 8 or 16 bits.
    """
    path = Path(path)
    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            with tifffile.TiffFile(path) as tiff:
                shape = tiff.series[0].shape
                _check_size(shape, path)
                image = tiff.series[0].asarray()
        else:
            with Image.open(path) as picture:
                _check_size(picture.size, path)
                image = np.asarray(picture)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: image not found; check the name.") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: no image ({_opening(path)}); get it again.") from None
    # both readers raise many kinds on damaged files, among them zlib.error and struct.error
    except Exception as error:
        reason = _opening(path) or " ".join(str(error).split())[:120]
        raise InputError(f"{path}: damaged or no image ({reason}); get it again.") from None
    if image.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{path}: holds {image.dtype}; save it with 8 or 16 bits, unsigned.")
    return np.squeeze(image)


def _check_size(shape: tuple[int, ...], path: Path) -> None:
    if max(shape) > MAX_FIELD_PX or int(np.prod(shape)) > 4 * MAX_FIELD_PX**2:
        raise InputError(f"{path}: {shape} is over {MAX_FIELD_PX} pixels; tile it.")


def _opening(path: Path) -> str:
    """Say what a file that is no image seems to be: often a proxy's or a server's page."""
    with open(path, "rb") as stream:
        start = stream.read(512).lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page, perhaps of a proxy"
    return "an empty file" if not start else ""


def color_plane(image: np.ndarray, color: Color, source: str = "image") -> np.ndarray:
    """
    Return one channel of a picture: that color of an RGB picture, all of a gray one.

    Raises
    ------
    InputError
        If the picture is neither (H, W) nor (H, W, 3 or 4).
    """
    if image.ndim == 2:
        return image
    if image.ndim == 3 and image.shape[-1] in (3, 4):
        return image[..., _PLANE[color]]
    raise InputError(f"{source}: shape {image.shape} is neither gray nor RGB; save it as one.")


def to_uint16(image: np.ndarray) -> np.ndarray:
    """
    Spread 8 bits over 16; 16 stay as they are.

    Examples
    --------
    >>> to_uint16(np.array([0, 1, 255], dtype=np.uint8))
    array([    0,   257, 65535], dtype=uint16)
    """
    return image.astype(np.uint16) * 257 if image.dtype == np.uint8 else image.astype(np.uint16)


def rescale_field(field: np.ndarray, from_um: float, to_um: float) -> np.ndarray:
    """
    Bring a field to another pixel size.

    Parameters
    ----------
    field : ndarray, shape (C, H, W), dtype uint16
    from_um, to_um : float
        Micrometers a pixel, before and after.

    Returns
    -------
    rescaled : ndarray, shape (C, H', W'), dtype uint16
        Averaged over the area of each new pixel where it shrinks, interpolated linearly where
        it grows. The same field where the two sizes differ by less than a percent.
    """
    zoom = from_um / to_um
    if abs(zoom - 1) < 0.01:
        return field
    shape = tuple(max(1, round(side * zoom)) for side in field.shape[-2:])
    method = resize_local_mean if zoom < 1 else resize
    planes = [method(plane.astype(np.float32), shape, preserve_range=True) for plane in field]
    return np.rint(np.clip(np.stack(planes), 0, 65535)).astype(np.uint16)


def write_field(field: np.ndarray, path: Path) -> None:
    """Write a field, uint16 (2, H, W), atomically; equal fields give equal files."""
    with atomic_path(path) as temporary:
        tifffile.imwrite(
            temporary, field, photometric="minisblack", metadata={"axes": "CYX"},
            compression="zlib", compressionargs={"level": 1},
        )  # fmt: skip
