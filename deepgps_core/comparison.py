"""
Several models on the same held-out proteins, crop by crop, category by category.

The paper compares deepGPS-single-2, -single-4 and -all by their mean PSNR on three different
test sets (Fig. 4g). Here every model draws the same crops, and differences are paired within
proteins.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from deepgps_core.crops import CropDataset
from deepgps_core.cross_assay import log_nuclear_ratio
from deepgps_core.metrics import psnr, rings_around, ssim
from deepgps_core.model import DeepGPS
from deepgps_core.statistics import Interval, bootstrap_interval, bootstrap_intervals
from deepgps_core.training import predict_crops

#: Name of the images that were measured (or simulated), beside those that models draw.
ORIGINAL = "original"


def compare_models(
    models: Mapping[str, DeepGPS],
    crops: CropDataset,
    masks: np.ndarray,
    *,
    ring_px: int,
    fixed: Mapping[str, np.ndarray] | None = None,
) -> pd.DataFrame:
    """
    Let every model draw every crop.

    Parameters
    ----------
    models : mapping of str to DeepGPS
    crops : CropDataset
        Of proteins that none of them was trained on. Labels are not used.
    masks : ndarray, shape (N, H, W), dtype bool
        Their nuclei.
    ring_px : int
        Width of the ring that stands for the cytoplasm.
    fixed : mapping of str to ndarray, shape (H, W), optional
        Images that are given as the answer for every crop, such as a mean image.

    Returns
    -------
    scores : DataFrame
        One row a crop and model: model, crop_id, protein_id, psnr_db, ssim, log_ratio (log2 of
        nuclear over ring intensity). Rows of model "original" have the ratio alone.
    """
    originals = crops.images[:, 1].cpu().numpy() / 255
    rings = rings_around(masks, ring_px)
    names = {
        "crop_id": crops.crop_ids,
        "protein_id": [crops.protein_ids[p] for p in crops.protein_index.tolist()],
    }
    ratio = log_nuclear_ratio(originals, masks, rings)
    tables = [pd.DataFrame({"model": ORIGINAL} | names | {"log_ratio": ratio})]

    def score(name: str, drawn: np.ndarray) -> None:
        columns = {
            "psnr_db": psnr(drawn, originals, 1.0), "ssim": ssim(drawn, originals, 1.0),
            "log_ratio": log_nuclear_ratio(drawn, masks, rings),
        }  # fmt: skip
        tables.append(pd.DataFrame({"model": name} | names | columns))

    for name, model in models.items():
        parts = [p.image[:, 0].float().cpu() for _, p in predict_crops(model, crops)]
        score(name, torch.cat(parts).numpy())
    for name, image in (fixed or {}).items():
        score(name, np.broadcast_to(image, originals.shape))
    return pd.concat(tables, ignore_index=True)


def by_protein(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Average crops: one row a protein, one column a model, in the order they come."""
    table = scores.groupby(["protein_id", "model"], sort=False)[metric].mean().unstack()
    return table[list(scores["model"].unique())]


def category_table(
    scores: pd.DataFrame,
    category_of: pd.Series,
    reference: str,
    *,
    metric: str = "psnr_db",
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """
    Compare models within each category of proteins, and over all.

    Parameters
    ----------
    scores : DataFrame
        Of `compare_models`.
    category_of : Series, index protein_id
    reference : str
        The model that the others are compared with.
    metric : str
        The larger, the better.

    Returns
    -------
    table : DataFrame
        One row a category (and "all") and model: category, model, estimate, low, high, gain,
        gain_low, gain_high, n_proteins. The gain is over the reference, paired within proteins;
        intervals are NaN where a category has one protein.
    """
    means = by_protein(scores[scores["model"] != ORIGINAL], metric)
    category = category_of[means.index].to_numpy(str)
    rows = []
    for name in ["all", *dict.fromkeys(category_of.astype(str))]:
        chosen = means[(category == name) | (name == "all")]
        for model in means.columns if len(chosen) else ():
            both = np.stack([chosen[model], chosen[model] - chosen[reference]])  # (2, proteins)

            def means_of(draw: np.ndarray, both: np.ndarray = both) -> np.ndarray:
                return both[:, draw].mean(axis=1)

            if len(chosen) > 1:
                level, gain = bootstrap_intervals(
                    means_of, np.arange(len(chosen)), n_resamples=n_resamples, seed=seed
                )
            else:
                level, gain = (Interval(float(x), np.nan, np.nan) for x in both[:, 0])
            rows.append((name, model, *level, *gain, len(chosen)))
    columns = ["category", "model", "estimate", "low", "high", "gain", "gain_low", "gain_high"]
    return pd.DataFrame(rows, columns=[*columns, "n_proteins"])


def share_between(values: np.ndarray, low: float, high: float, *, seed: int = 0) -> Interval:
    """
    Compute the share of proteins whose value lies between two thresholds, with an interval.

    Examples
    --------
    >>> share_between(np.array([0.0, 1.0, 2.0, 3.0]), 0.5, 3.5).estimate
    0.75
    """
    between = (np.asarray(values) > low) & (np.asarray(values) < high)
    return bootstrap_interval(between.astype(float), seed=seed)
