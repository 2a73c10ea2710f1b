"""
A measured field beside its prediction: the same nuclei, the book's metrics, cell by cell.

The nuclei of the field are found, and both channels are cut around them as in training; the model
draws its protein beside the same nuclei; what is measured and what is drawn are then compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from skimage.filters import threshold_otsu

from deepgps_core.image_metrics import affine_nrmse, nuclear_proportion, pearson
from deepgps_core.metrics import psnr, ssim
from deepgps_core.nucleus_images import NetworkScale, NucleusCrops, nuclei_of
from deepgps_core.outputs import write_csv
from deepgps_core.sources._images import rescale_field


@dataclass(frozen=True)
class Compared:
    """
    A field's cells, and how the prediction does on them.

    Parameters
    ----------
    nuclei, measured, drawn : ndarray, shape (n, H, W), dtype float32
        In [0, 1].
    summary : dict
        Label, probabilities, and the mean of each metric over the cells.
    """

    nuclei: np.ndarray
    measured: np.ndarray
    drawn: np.ndarray
    summary: dict[str, Any]


def cells_of(
    field: np.ndarray, pixel_size_um: float, scale: NetworkScale, max_nuclei: int
) -> tuple[NucleusCrops, np.ndarray]:
    """
    Cut the cells of a field out of both channels.

    Returns
    -------
    nuclei : NucleusCrops
    measured : ndarray, shape (n, H, W), dtype float32
        The protein beside each nucleus, in [0, 1].
    """
    same = rescale_field(field, pixel_size_um, scale.field_pixel_size_um)
    nuclei = nuclei_of(same[0], scale, max_nuclei=max_nuclei, beside=same[1])
    assert nuclei.beside is not None
    return nuclei, nuclei.beside


def scores_of(nuclei: np.ndarray, measured: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
    """Return the mean of each metric over cells; those without a value are left out."""
    masks = np.stack([image > threshold_otsu(image) for image in nuclei])
    found = {
        "psnr_db": psnr(drawn, measured, 1.0),
        "ssim": ssim(drawn, measured, 1.0),
        "pearson_r": pearson(drawn, measured),
        "nrmse": affine_nrmse(drawn, measured),
        "nuclear_share_measured": nuclear_proportion(measured, masks),
        "nuclear_share_predicted": nuclear_proportion(drawn, masks),
    }
    means = {name: values[np.isfinite(values)] for name, values in found.items()}
    return {name: round(float(v.mean()), 4) for name, v in means.items() if len(v)}


def write_comparison(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a row for each submitted image: what was predicted, and the metrics."""
    rows = []
    for result in results:
        told = {k: v for k, v in result.items() if k not in ("scores", "probabilities")}
        chances = {f"p_{k}": v for k, v in result.get("probabilities", {}).items()}
        rows.append({**told, **chances, **result.get("scores", {})})
    write_csv(pd.DataFrame(rows), path)


def compare(
    predictor: Any,
    protein_id: str,
    sequence: str,
    field: np.ndarray,
    pixel_size_um: float,
    max_nuclei: int,
    progress: Callable[[int, int], None],
) -> Compared:
    """
    Predict a submitted protein beside its own nuclei, and compare.

    Raises
    ------
    InputError
        If no nucleus can be used.
    """
    nuclei, measured = cells_of(field, pixel_size_um, predictor.info.scale, max_nuclei)
    predicted = predictor.predict({protein_id: sequence}, nuclei=nuclei, progress=progress)
    drawn = predicted.images_by_nucleus[0]
    row = predicted.table.iloc[0]
    summary = {
        "label": str(row["predicted_label"]), "confidence": round(float(row["confidence"]), 4),
        "unsure": bool(row["unsure"]),
        "probabilities": {k: round(float(row[f"p_{k}"]), 4) for k in predictor.labels},
        "n_cells": len(nuclei.images), "scores": scores_of(nuclei.images, measured, drawn),
    }  # fmt: skip
    return Compared(nuclei.images, measured, drawn, summary)
