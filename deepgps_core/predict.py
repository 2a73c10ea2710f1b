"""
Predict where new proteins go: sequences and one nucleus image to labels and protein images.

A nucleus image of any size is treated as the training fields were: percentile normalization
(`deepgps_core.cropping`), then averaged to the pixel size the network was trained at. Sides that
the network cannot halve often enough are filled up by reflection and cut off again afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
import torch
from PIL import Image, UnidentifiedImageError
from skimage.transform import resize_local_mean
from tqdm import tqdm

from deepgps_core.cropping import normalize_field
from deepgps_core.dataset import MAX_FIELD_PX, InputError, check_sequence
from deepgps_core.encoders import SequenceEncoder, load_encoder
from deepgps_core.residues import pad_residues
from deepgps_core.runs import Run


@dataclass(frozen=True)
class Predicted:
    """
    What a run says of N proteins beside one nucleus.

    Parameters
    ----------
    table : DataFrame
        One row a protein: protein_id, predicted_label, ``p_<label>``.
    images : ndarray, shape (N, H, W), dtype float32
        Protein images in [0, 1], in the order of the table.
    nuclear_image : ndarray, shape (H, W), dtype float32
        The nucleus as the network saw it.
    pixel_size_um : float
        Of these images.
    nuclear_images : ndarray, shape (n, H, W), dtype float32, optional
        All nuclei, where there may be several (`deepgps_core.predictor`); the first is
        `nuclear_image`.
    images_by_nucleus : ndarray, shape (N, n, H, W), dtype float32, optional
        Every protein beside every nucleus; `images` are those beside the first.
    n_nuclei_found : int
        Usable nuclei in the image that was given; more than n where a limit was set.
    nuclei_source : str
        Where the nuclei come from, in words for a report.
    samples : ndarray, shape (N, n, S, H, W), dtype float32, optional
        Of a model that generates: S images of every protein beside every nucleus;
        `images_by_nucleus` then are their means.
    """

    table: pd.DataFrame
    images: np.ndarray
    nuclear_image: np.ndarray
    pixel_size_um: float
    nuclear_images: np.ndarray | None = None
    images_by_nucleus: np.ndarray | None = None
    n_nuclei_found: int = 1
    nuclei_source: str = ""
    samples: np.ndarray | None = None

    @property
    def spread(self) -> np.ndarray | None:
        """Standard deviation of the samples, pixel by pixel, (N, n, H, W)."""
        return None if self.samples is None else self.samples.std(axis=2)


def check_plane(image: np.ndarray, source: str) -> np.ndarray:
    """Return the nucleus channel (H, W) of an image, or say why there is none."""
    if image.ndim == 3 and image.shape[0] == 2:  # a field in the layout of a dataset
        image = image[0]
    if image.ndim != 2 or image.dtype.kind not in "uif":
        raise InputError(
            f"{source}: holds {image.dtype} {image.shape}, not one gray channel (H, W); "
            "save the nucleus channel alone."
        )
    if not 16 <= min(image.shape) <= max(image.shape) <= MAX_FIELD_PX:
        raise InputError(
            f"{source}: {image.shape} is not between 16 and {MAX_FIELD_PX} px; cut it."
        )
    if not np.isfinite(image).all():
        raise InputError(f"{source}: has pixels that are no numbers (NaN); fill them in.")
    if image.min() == image.max():
        raise InputError(f"{source}: all pixels are equal; give an image of a nucleus.")
    return image


def read_nuclear_image(path: Path | str) -> np.ndarray:
    """
    Read a nucleus image from TIFF, PNG or JPEG.

    Returns
    -------
    image : ndarray, shape (H, W)
        Of a two-channel TIFF (2, H, W), as datasets keep fields, channel 0.

    Raises
    ------
    InputError
        If the file is missing, damaged, too large, or not one gray channel.
    """
    path = Path(path)
    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            with tifffile.TiffFile(path) as tiff:
                shape = tiff.series[0].shape
                if max(shape) > MAX_FIELD_PX:
                    raise InputError(f"{path}: {shape} is over {MAX_FIELD_PX} pixels; cut it.")
                return check_plane(tiff.series[0].asarray(), str(path))
        with Image.open(path) as picture:
            if max(picture.size) > MAX_FIELD_PX:
                raise InputError(f"{path}: {picture.size} is over {MAX_FIELD_PX} pixels; cut it.")
            return check_plane(np.asarray(picture), str(path))
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: image not found; check the path.") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: no image; give a TIFF, PNG or JPEG.") from None
    # both readers raise many kinds on damaged files, among them zlib.error and struct.error
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: damaged or no image ({reason}); get it again.") from None


def network_image(
    image: np.ndarray, run: Run, *, pixel_size_um: float | None = None, normalize: bool = True
) -> np.ndarray:
    """
    Bring a nucleus image to the intensities and the pixel size of the run's training.

    Parameters
    ----------
    image : ndarray, shape (H, W)
        Raw counts; with ``normalize=False``, intensities in [0, 1].
    pixel_size_um : float, optional
        By default that of the fields the run was trained on.

    Returns
    -------
    nuclear_image : ndarray, shape (H, W), dtype float32
        In [0, 1].
    """
    image = check_plane(np.asarray(image), "nucleus image").astype(np.float32)
    if normalize:
        image = normalize_field(image[None])[0]
    zoom = (pixel_size_um or run.field_pixel_size_um) / run.pixel_size_um
    if zoom != 1:
        shape = tuple(max(1, round(side * zoom)) for side in image.shape)
        image = resize_local_mean(image, shape)
    return np.clip(image, 0, 1).astype(np.float32)


def reflect_to_multiple(image: np.ndarray, step: int) -> np.ndarray:
    """Fill up the lower and right side so that both sides are multiples of `step`."""
    if min(image.shape) < step:
        raise InputError(
            f"nucleus image: {image.shape[0]} x {image.shape[1]} px at the network's pixel size, "
            f"less than {step}; give a larger image."
        )
    missing = [(0, -side % step) for side in image.shape]
    return np.pad(image, missing, mode="symmetric")


@torch.inference_mode()
def predict(
    run: Run,
    sequences: Mapping[str, str],
    nuclear_image: np.ndarray,
    *,
    encoder: SequenceEncoder | None = None,
    pixel_size_um: float | None = None,
    normalize: bool = True,
    batch_size: int = 16,
) -> Predicted:
    """
    Predict labels and images of proteins from their sequences and a nucleus.

    Parameters
    ----------
    run : Run
    sequences : mapping of str to str
        protein_id -> sequence.
    nuclear_image : ndarray, shape (H, W)
        Raw counts; with ``normalize=False``, intensities in [0, 1] such as those of a crop.
    encoder : SequenceEncoder, optional
        By default the one whose vectors the run was trained on.
    pixel_size_um : float, optional
        Of `nuclear_image`; by default that of the fields the run was trained on.

    Raises
    ------
    InputError
        If there is no sequence, one is no protein, or the image cannot be used.
    """
    if not sequences:
        raise InputError("no sequence to predict; give at least one.")
    checked = {name: check_sequence(name, text) for name, text in sequences.items()}
    nucleus = network_image(nuclear_image, run, pixel_size_um=pixel_size_um, normalize=normalize)
    padded = reflect_to_multiple(nucleus, 2**run.model_config.depth)
    encoder = encoder or load_encoder(run.training_config.encoder)
    vectors = encoder.embed(checked)
    by_residue = encoder.embed(checked, per_residue=True) if run.model_config.needs_residues else {}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = run.model.to(device)
    features = torch.from_numpy(np.stack([vectors[name] for name in checked])).float().to(device)
    image = torch.from_numpy(padded)[None, None].to(device)
    height, width = nucleus.shape
    images, probabilities = [], []
    rows = torch.arange(len(features)).split(batch_size)
    names = list(checked)
    for part in tqdm(rows, desc="drawing", unit="batch", disable=None):
        residues = (
            pad_residues(
                [by_residue[names[i]] for i in part], device, run.model_config.max_residues
            )
            if by_residue
            else None
        )
        nuclei = image.expand(len(part), -1, -1, -1)
        prediction = model(nuclei, features[part], residues=residues)
        images.append(prediction.image[:, 0, :height, :width].cpu().numpy())
        probabilities.append(model.probabilities(prediction.logits).cpu().numpy())
    table = label_rows(list(checked), np.concatenate(probabilities), run.labels)
    return Predicted(table, np.concatenate(images), nucleus, run.pixel_size_um)


def label_rows(
    protein_ids: Iterable[str], probabilities: np.ndarray, labels: Sequence[str]
) -> pd.DataFrame:
    """Return a table protein_id, predicted_label, ``p_<label>`` from probabilities (N, K)."""
    columns = {f"p_{name}": probabilities[:, k] for k, name in enumerate(labels)}
    called = [labels[k] for k in probabilities.argmax(axis=1)]
    return pd.DataFrame({"protein_id": list(protein_ids), "predicted_label": called} | columns)
