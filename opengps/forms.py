"""
From what people type and upload to checked values; each complaint names its field.

The pages and the interface use the same functions, so there is one place to get this right.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deepgps_core.dataset import InputError
from deepgps_core.sources._images import OPENCELL_PIXEL_SIZE_UM
from deepgps_core.sources.uniprot import read_fasta
from opengps.errors import FieldErrors
from opengps.images import PictureError, read_picture
from opengps.prediction import mutants_of

if TYPE_CHECKING:
    from deepgps_core.predictor import ModelInfo

MAX_NAME = 80
MAX_LINE = 200
#: Control characters but tab and line ends, and halves of characters, which no database takes.
_UNFIT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class PredictionRequest:
    """What to predict: sequences by name, raw nucleus images (H, W), and with which model."""

    sequences: dict[str, str]
    model: str
    images: list[np.ndarray]
    pixel_size_um: float | None
    mutations: tuple[str, ...] = ()
    samples: int = 0


def clean_text(value: Any, *, max_letters: int, lines: bool = False) -> str:
    """
    Return a text without blanks around it, or say what is wrong with it.

    Raises
    ------
    ValueError
        If it is no text, too long, or has control characters.
    """
    if not isinstance(value, str):
        raise ValueError("This has to be text.")
    text = value.strip()
    if len(text) > max_letters:
        raise ValueError(f"This is {len(text):,} letters long; at most {max_letters:,} fit.")
    if _UNFIT.search(text) or (not lines and re.search(r"[\r\n\t\x85\u2028\u2029]", text)):
        raise ValueError("This has control characters; type it anew.")
    return text


def parse_fasta(text: Any, settings: Mapping[str, Any]) -> dict[str, str]:
    """
    Read sequences from FASTA text, or from one bare sequence, within the limits of a job.

    Raises
    ------
    ValueError
        In one sentence, if there is none, too many or too long, or one is no protein.
    """
    text = clean_text(text, max_letters=settings["MAX_FASTA_BYTES"], lines=True)
    if not text:
        raise ValueError("Paste a sequence or choose a FASTA file.")
    if not text.startswith((">", ";")):
        text = ">protein_1\n" + text
    if text.count(">") > 20 * settings["MAX_SEQUENCES"]:
        raise ValueError(f"At most {settings['MAX_SEQUENCES']} proteins fit in one job.")
    try:
        # the line end keeps read_fasta from ever taking a text for the name of a file
        sequences = read_fasta(text + "\n", max_residues=settings["MAX_RESIDUES"])
    except InputError as error:
        raise ValueError(_sentence(str(error))) from None
    if len(sequences) > settings["MAX_SEQUENCES"]:
        raise ValueError(
            f"These are {len(sequences)} proteins; at most {settings['MAX_SEQUENCES']} fit in one "
            "job. Send the rest after it."
        )
    if too_long := [name for name in sequences if len(name) > MAX_NAME]:
        raise ValueError(f"The name {too_long[0][:30]!r}… is longer than {MAX_NAME} letters.")
    total = sum(len(sequence) for sequence in sequences.values())
    if total > settings["MAX_TOTAL_RESIDUES"]:
        raise ValueError(
            f"These are {total:,} residues; at most {settings['MAX_TOTAL_RESIDUES']:,} fit in one "
            "job. Send fewer proteins at once."
        )
    return sequences


def _sentence(message: str) -> str:
    """Turn an error of the library into a sentence beside a field."""
    text = message.removeprefix("FASTA text: ").removeprefix("input: ")
    return (text[:1].upper() + text[1:])[:300]


def parse_pixel_size(value: Any) -> float | None:
    """Return micrometers a pixel; None where nothing was given."""
    if value is None or value == "":
        return None
    try:
        number = float(value if isinstance(value, int | float) else str(value).replace(",", "."))
    except (ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not 0.01 <= number <= 10:
        raise ValueError("Give micrometers a pixel, between 0.01 and 10, such as 0.206.")
    return number


def parse_samples(value: Any, n_proteins: int, generates: bool, settings: Mapping[str, Any]) -> int:
    """
    Return how many images to draw of each protein; 0 where nothing was given: one, as ever.

    Raises
    ------
    ValueError
        If it is no small whole number, too much for one job, or the model draws only one.
    """
    if value is None or value in ("", 0, "0"):
        return 0
    most = settings["MAX_SAMPLES"]
    text = str(value).strip()
    if isinstance(value, bool | float) or not text.isascii() or not text.isdigit():
        raise ValueError(f"Give a whole number up to {most}, or leave it empty.")
    number = int(text[:9])
    if number > most:
        raise ValueError(f"At most {most} samples are drawn of a protein.")
    if not generates:
        raise ValueError("This model draws one image, always the same; choose one that generates.")
    if number * n_proteins > settings["MAX_SAMPLED"]:
        raise ValueError(
            f"{number} samples of {n_proteins} proteins are too many for one job; at most "
            f"{settings['MAX_SAMPLED']} images fit."
        )
    return number


def parse_picture(data: bytes, settings: Mapping[str, Any]) -> np.ndarray:
    """
    Decode an uploaded image to (C, H, W), or say in one sentence why not.

    Raises
    ------
    ValueError
    """
    if len(data) > settings["MAX_IMAGE_BYTES"]:
        raise ValueError(f"The image is over {settings['MAX_IMAGE_BYTES'] // 1_000_000} MB.")
    try:
        return read_picture(data, max_px=settings["MAX_IMAGE_PX"])
    except PictureError as error:
        raise ValueError(f"The file {error}.") from None


def nucleus_plane(picture: np.ndarray) -> np.ndarray:
    """Return the nucleus channel: the first of two, the blue one of three."""
    return picture[2] if len(picture) == 3 else picture[0]


def check_scale(
    shape: Sequence[int], pixel_size_um: float | None, settings: Mapping[str, Any]
) -> None:
    """
    Refuse a pixel size that would blow an image up: it is brought to 0.206 µm a pixel.

    Raises
    ------
    ValueError
    """
    zoom = (pixel_size_um or OPENCELL_PIXEL_SIZE_UM) / OPENCELL_PIXEL_SIZE_UM
    if max(shape) * zoom > settings["MAX_IMAGE_PX"]:
        raise ValueError(
            f"At this pixel size the image spans {max(shape) * zoom * OPENCELL_PIXEL_SIZE_UM:,.0f} "
            f"µm; at most {settings['MAX_IMAGE_PX'] * OPENCELL_PIXEL_SIZE_UM:,.0f} fit. Check the "
            "pixel size or cut the image."
        )
    if min(shape) * zoom < 32:
        raise ValueError("At this pixel size the image is smaller than a nucleus. Check it.")


def parse_model(value: Any, names: Sequence[str]) -> str:
    """Return the name of a model on offer; the first where nothing was chosen."""
    if value in (None, ""):
        return names[0]
    if not isinstance(value, str) or value not in names:
        raise ValueError(f"Choose one of {', '.join(names)}.")
    return value


def parse_mutations(
    value: Any, sequences: Mapping[str, str], settings: Mapping[str, Any]
) -> tuple[str, ...]:
    """
    Read mutations, with commas or line ends between them, and check that they fit.

    Raises
    ------
    ValueError
    """
    text = clean_text("" if value is None else value, max_letters=10_000, lines=True)
    parts = tuple(part.strip() for part in re.split(r"[,\r\n]+", text) if part.strip())
    if not parts:
        return ()
    if len(sequences) * len(parts) > 20 * settings["MAX_SEQUENCES"]:
        raise ValueError(f"Proteins and mutants together: at most {settings['MAX_SEQUENCES']}.")
    try:
        mutants = mutants_of(sequences, parts)
    except InputError as error:
        raise ValueError(_sentence(str(error))) from None
    if len(sequences) + len(mutants) > settings["MAX_SEQUENCES"]:
        raise ValueError(
            f"These are {len(sequences)} proteins and {len(mutants)} mutants; together at most "
            f"{settings['MAX_SEQUENCES']} fit in one job."
        )
    total = sum(len(sequence) for sequence in (*sequences.values(), *mutants.values()))
    if total > settings["MAX_TOTAL_RESIDUES"]:
        raise ValueError(f"With the mutants these are {total:,} residues; send fewer at once.")
    return parts


class Collector:
    """Runs checks and gathers what they complain about, by field."""

    def __init__(self) -> None:
        self.errors: dict[str, str] = {}

    def take(self, field: str, check: Any, *args: Any, **options: Any) -> Any:
        """Return what `check` returns; None, and a complaint beside `field`, where it raises."""
        try:
            return check(*args, **options)
        except ValueError as error:
            self.errors.setdefault(field, str(error))
            return None

    def stop_if_any(self) -> None:
        """Raise `FieldErrors` with all complaints so far."""
        if self.errors:
            raise FieldErrors(self.errors)


def parse_prediction(
    values: Mapping[str, Any], files: Sequence[bytes], settings: Mapping[str, Any],
    models: Mapping[str, ModelInfo],
) -> PredictionRequest:  # fmt: skip
    """
    Check a request to predict.

    Parameters
    ----------
    values : mapping
        fasta, model, pixel_size_um, mutations, samples, as typed.
    files : sequence of bytes
        Nucleus images.

    Raises
    ------
    FieldErrors
        With one sentence for each field that cannot be used.
    """
    found = Collector()
    sequences = found.take("fasta", parse_fasta, values.get("fasta"), settings)
    mutations: tuple[str, ...] = ()
    if sequences:
        mutations = found.take(
            "mutations", parse_mutations, values.get("mutations"), sequences, settings
        )
    model = found.take("model", parse_model, values.get("model"), list(models))
    samples = 0
    if sequences and model and mutations is not None:
        n_proteins = len(sequences) + len(mutants_of(sequences, mutations))
        samples = found.take(
            "samples", parse_samples, values.get("samples"), n_proteins, models[model].generates,
            settings,
        )  # fmt: skip
    size = found.take("pixel_size_um", parse_pixel_size, values.get("pixel_size_um"))
    if len(files) > settings["MAX_IMAGES"]:
        found.errors["nucleus"] = f"At most {settings['MAX_IMAGES']} nucleus images fit in a job."
        files = []
    images = []
    for number, data in enumerate(files, start=1):
        picture = found.take("nucleus", parse_picture, data, settings)
        if picture is None:
            if len(files) > 1:
                found.errors["nucleus"] = f"Image {number}: {found.errors['nucleus']}"
            break
        plane = nucleus_plane(picture)
        if plane.min() == plane.max():
            found.errors["nucleus"] = "All pixels of the nucleus channel are equal."
        found.take("pixel_size_um", check_scale, plane.shape, size, settings)
        images.append(plane)
    found.stop_if_any()
    return PredictionRequest(sequences, model, images, size, mutations, samples)
