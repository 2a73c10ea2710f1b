"""
What the shipped models are worth on proteins of other homology clusters than their training's.

Every figure has a 95 % interval from drawing proteins anew; calibration is scored beside
accuracy, because a probability that is printed will be believed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from deepgps_core.calibration import UNSURE_BELOW, brier_score, expected_calibration_error
from deepgps_core.evaluation import OURS, Evaluation
from deepgps_core.metrics import auroc
from deepgps_core.statistics import bootstrap_intervals


def truth_of(said: pd.DataFrame, labels: tuple[str, ...]) -> np.ndarray:
    """Return (N, K) with 1 for each place of a protein, float64."""
    places = [set(text.split(";")) for text in said["locations"]]
    return np.array([[float(name in found) for name in labels] for found in places])


def label_scores(
    truth: np.ndarray, probabilities: np.ndarray, *, multi_label: bool = False
) -> dict[str, float]:
    """
    Score the labels of N proteins.

    Parameters
    ----------
    truth, probabilities : ndarray, shape (N, K)

    Returns
    -------
    scores : dict of str to float
        accuracy (likeliest label is right; with `multi_label`, is among the protein's places),
        auroc (mean over labels, each against the rest), ece (of the likeliest label; with
        `multi_label`, of all labels), brier, share_sure, accuracy_sure, accuracy_unsure.
    """
    top = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    right = truth[np.arange(len(top)), top] == 1
    areas = [auroc(truth[:, k] == 1, probabilities[:, k]) for k in range(truth.shape[1])]
    sure = confidence >= UNSURE_BELOW
    stated, came_true = (
        (probabilities.ravel(), truth.ravel() == 1) if multi_label else (confidence, right)
    )
    return {
        "accuracy": float(right.mean()),
        "auroc": float(np.mean(areas)),
        "ece": expected_calibration_error(came_true, stated),
        "brier": brier_score(truth, probabilities),
        "share_sure": float(sure.mean()),
        "accuracy_sure": float(right[sure].mean()) if sure.any() else float("nan"),
        "accuracy_unsure": float(right[~sure].mean()) if (~sure).any() else float("nan"),
    }


def label_card(
    said: pd.DataFrame, labels: tuple[str, ...], multi_label: bool = False, *, seed: int = 0
) -> dict[str, Any]:
    """
    Score a model's labels on its test proteins, with intervals.

    Parameters
    ----------
    said : DataFrame
        Columns split, locations, ``p_<label>``.

    Returns
    -------
    card : dict
        n_test, majority (share of the most frequent label), and per score
        ``[estimate, low, high]``.
    """
    test = said[said["split"] == "test"]
    truth = truth_of(test, labels)
    probabilities = test[[f"p_{name}" for name in labels]].to_numpy()
    names = list(label_scores(truth, probabilities, multi_label=multi_label))

    def scores(rows: np.ndarray) -> np.ndarray:
        found = label_scores(truth[rows], probabilities[rows], multi_label=multi_label)
        return np.array(list(found.values()))

    intervals = bootstrap_intervals(
        scores, np.arange(len(test)).astype(str), n_resamples=1000, seed=seed
    )
    card: dict[str, Any] = {"n_test": len(test), "majority": round(float(truth.mean(0).max()), 3)}
    for name, interval in zip(names, intervals, strict=True):
        card[name] = [round(float(number), 3) for number in interval]
    return card


def image_card(evaluation: Evaluation) -> dict[str, Any]:
    """
    Shorten the image scores of an evaluation for a model card.

    Returns
    -------
    card : dict
        n_test proteins with images, psnr_db and ssim as ``[estimate, low, high]``, and the gain
        of each over the best prediction that needs no network.
    """
    images = evaluation.images
    card: dict[str, Any] = {"n_test": len(evaluation.proteins)}
    for metric in ("psnr_db", "ssim"):
        table = images[images["metric"] == metric].set_index("prediction")
        # the mean image of the true label knows what no prediction can know
        rival = str(table.drop(index=[OURS, "class mean, true"])["estimate"].idxmax())
        for key, row, names in (
            (metric, OURS, ("estimate", "low", "high")),
            (f"{metric}_gain", rival, ("gain", "gain_low", "gain_high")),
        ):
            card[key] = [round(float(table[name][row]), 3) for name in names]
        card[f"{metric}_rival"] = rival
    return card
