"""
Scores of images and of labels, each for one image or one set of proteins at a time.

Follows the paper's Methods, "Evaluation", with one difference: images are scored one by one,
labels protein by protein (crops of a protein are averaged first). What the published code
computes instead, one PSNR pooled over all images, has a function of its own. No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.stats import rankdata
from skimage.metrics import structural_similarity

Range = float | np.ndarray
TWO_CLASS_METRICS = ("accuracy", "specificity", "sensitivity", "f1", "auroc", "auprc")


def _check_images(predicted: np.ndarray, target: np.ndarray, data_range: Range) -> np.ndarray:
    if predicted.shape != target.shape or predicted.ndim != 3:
        raise ValueError(f"need equal shapes (N, H, W), got {predicted.shape} and {target.shape}")
    ranges = np.broadcast_to(np.asarray(data_range, dtype=float), (len(predicted),))
    if not (ranges > 0).all():
        raise ValueError(f"data_range must be positive, got {data_range}")
    return ranges


def psnr(predicted: np.ndarray, target: np.ndarray, data_range: Range) -> np.ndarray:
    """
    Compute the peak signal-to-noise ratio of each image.

    Parameters
    ----------
    predicted, target : ndarray, shape (N, H, W), dtype float
        Protein-channel intensity, same scale for both.
    data_range : float or ndarray, shape (N,)
        Largest minus smallest possible intensity, in those units.

    Returns
    -------
    scores : ndarray, shape (N,), dtype float
        Decibels; ``inf`` where the images are equal.

    Raises
    ------
    ValueError
        If shapes differ, are not 3-D, or `data_range` is not positive.

    Notes
    -----
    Source: paper, Methods, "Evaluation". Differs: scored per image, not pooled.

    Examples
    --------
    >>> psnr(np.full((1, 4, 4), 0.1), np.zeros((1, 4, 4)), data_range=1.0).round(1)
    array([20.])
    """
    ranges = _check_images(predicted, target, data_range)
    difference = np.asarray(predicted, dtype=float) - np.asarray(target, dtype=float)
    mse = (difference**2).mean(axis=(1, 2))  # (N, H, W) -> (N,)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(ranges**2 / mse)


def pooled_psnr(predicted: np.ndarray, target: np.ndarray, data_range: float = 1.0) -> float:
    """
    Compute one PSNR over all pixels of all images, as the published training code does.

    Parameters
    ----------
    predicted, target : ndarray, shape (N, H, W), dtype float
        Protein-channel intensity.
    data_range : float
        Largest minus smallest possible intensity.

    Returns
    -------
    score : float
        Decibels. At most the mean of the per-image values: the worst images dominate.
    """
    _check_images(predicted, target, data_range)
    rows = (1, -1, 1)  # all images as one tall one
    return float(psnr(predicted.reshape(rows), target.reshape(rows), data_range)[0])


def ssim(predicted: np.ndarray, target: np.ndarray, data_range: Range) -> np.ndarray:
    """
    Compute the structural similarity of each image, with scikit-image's 7 x 7 uniform window.

    Parameters
    ----------
    predicted, target : ndarray, shape (N, H, W), dtype float
        Protein-channel intensity, same scale for both; H and W at least 7.
    data_range : float or ndarray, shape (N,)
        Largest minus smallest possible intensity. The published evaluation script takes
        each target's own maximum minus minimum; then scores of dim images differ.

    Returns
    -------
    scores : ndarray, shape (N,), dtype float
        At most 1, where the images are equal.

    Raises
    ------
    ValueError
        If shapes differ, are not 3-D, or `data_range` is not positive.
    """
    ranges = _check_images(predicted, target, data_range)
    pairs = zip(np.asarray(predicted, float), np.asarray(target, float), ranges, strict=True)
    scores = [structural_similarity(p, t, data_range=r) for p, t, r in pairs]
    return np.array(scores, dtype=float)


def rings_around(nuclear_masks: np.ndarray, ring_px: int) -> np.ndarray:
    """
    Return the pixels within `ring_px` of each nucleus, without the nucleus.

    Parameters
    ----------
    nuclear_masks : ndarray, shape (N, H, W), dtype bool

    Returns
    -------
    rings : ndarray, shape (N, H, W), dtype bool
        Empty around an empty mask.
    """
    # distances take a thirtieth of the time of dilating by a disk
    around = [m.any() & (ndimage.distance_transform_edt(~m) <= ring_px) for m in nuclear_masks]
    return np.array(around, bool).reshape(nuclear_masks.shape) & ~nuclear_masks


def nuclear_ratio(images: np.ndarray, nuclear_masks: np.ndarray, ring_px: int = 10) -> np.ndarray:
    """
    Compare the protein's intensity in the nucleus with that in a ring around it.

    Needs no outline of the cell, so it can be taken of measured and of generated images alike.
    Where nuclei crowd, the ring reaches into neighbors, which pulls the ratio towards 1.

    Parameters
    ----------
    images : ndarray, shape (N, H, W), dtype float
        Protein images, intensities at least 0.
    nuclear_masks : ndarray, shape (N, H, W), dtype bool
        The nucleus of each.
    ring_px : int
        Width of the ring.

    Returns
    -------
    ratio : ndarray, shape (N,), dtype float
        Mean inside over mean in the ring; NaN where a mask is empty or fills the image.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    images, masks = np.asarray(images, float), np.asarray(nuclear_masks, bool)
    if images.shape != masks.shape or images.ndim != 3:
        raise ValueError(f"images {images.shape} and masks {masks.shape} must both be (N, H, W)")
    rings = rings_around(masks, ring_px)
    with np.errstate(invalid="ignore", divide="ignore"):
        inside, around = (
            (images * part).sum(axis=(1, 2)) / part.sum(axis=(1, 2)) for part in (masks, rings)
        )
        # a ring of exact zeros, which a sigmoid never gives, would make it infinite
        return inside / np.maximum(around, np.finfo(np.float32).eps)


def average_by(protein_ids: Sequence[str] | np.ndarray, values: np.ndarray) -> pd.DataFrame:
    """
    Average the crops of each protein, so that the protein becomes the unit.

    Parameters
    ----------
    protein_ids : sequence of str, length N
        Protein of each crop.
    values : ndarray, shape (N,) or (N, K)
        Scores or probabilities.

    Returns
    -------
    means : DataFrame, index protein_id (sorted), one column for each of K
    """
    index = pd.Index(np.asarray(protein_ids), name="protein_id")
    return pd.DataFrame(np.asarray(values, dtype=float), index=index).groupby(level=0).mean()


def auroc(is_positive: np.ndarray, score: np.ndarray) -> float:
    """
    Compute the probability that a positive scores above a negative (ties count one half).

    Parameters
    ----------
    is_positive : ndarray, shape (N,), dtype bool
    score : ndarray, shape (N,), dtype float

    Returns
    -------
    area : float
        ``nan`` unless both classes occur.
    """
    is_positive = np.asarray(is_positive, dtype=bool)  # 0 and 1 would index, not select
    n_positive = int(is_positive.sum())
    n_negative = len(is_positive) - n_positive
    if not n_positive or not n_negative:
        return float("nan")
    rank_sum = rankdata(score)[is_positive].sum()
    return float((rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def auprc(is_positive: np.ndarray, score: np.ndarray) -> float:
    """
    Compute the average precision: precision at each distinct score, weighted by the recall gained.

    Parameters
    ----------
    is_positive : ndarray, shape (N,), dtype bool
    score : ndarray, shape (N,), dtype float

    Returns
    -------
    area : float
        Chance level is the share of positives; ``nan`` without any positive.
    """
    if not is_positive.any():
        return float("nan")
    order = np.argsort(-np.asarray(score), kind="stable")
    ranked, hits = np.asarray(score)[order], np.cumsum(is_positive[order])
    last = np.flatnonzero(np.append(np.diff(ranked) != 0, True))  # ties enter together
    precision, recall = hits[last] / (last + 1), hits[last] / hits[-1]
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def classification_metrics(
    y_true: Sequence[str] | np.ndarray,
    p_positive: np.ndarray,
    positive: str = "Cytoplasm",
    threshold: float = 0.5,
) -> dict[str, float]:
    """
    Compute the six label metrics of the paper's Tables 1 and 2.

    Parameters
    ----------
    y_true : sequence of str, length N
        Labels; everything that is not `positive` is negative.
    p_positive : ndarray, shape (N,), dtype float
        Predicted probability of the positive class.
    positive : str
        Sensitivity is the recall of this class, specificity that of the other.
    threshold : float
        A protein is called positive at this probability or above it.

    Returns
    -------
    metrics : dict of str to float
        accuracy, specificity, sensitivity, f1, auroc, auprc; ``nan`` where undefined.

    Raises
    ------
    ValueError
        If lengths differ, or there is nothing to score.
    """
    is_positive, score = np.asarray(y_true) == positive, np.asarray(p_positive, dtype=float)
    if is_positive.shape != score.shape or not len(score):
        raise ValueError(f"need equal lengths above 0, got {is_positive.shape} and {score.shape}")
    called = score >= threshold
    tp, fp = int((called & is_positive).sum()), int((called & ~is_positive).sum())
    fn, tn = int((~called & is_positive).sum()), int((~called & ~is_positive).sum())
    return {
        "accuracy": (tp + tn) / len(score),
        "specificity": _ratio(tn, tn + fp),
        "sensitivity": _ratio(tp, tp + fn),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "auroc": auroc(is_positive, score),
        "auprc": auprc(is_positive, score),
    }


def multiclass_metrics(
    y_true: Sequence[str] | np.ndarray, probabilities: np.ndarray, labels: Sequence[str]
) -> dict[str, float]:
    """
    Compute label metrics for K classes: exact ones, and the one-vs-rest means the paper prints.

    Parameters
    ----------
    y_true : sequence of str, length N
    probabilities : ndarray, shape (N, K), dtype float
    labels : sequence of str, length K
        Class of each column.

    Returns
    -------
    metrics : dict of str to float
        exact_accuracy (the right class of K), balanced_accuracy (mean recall of the classes
        that occur), macro_f1, one_vs_rest_accuracy and one_vs_rest_auroc (means over classes;
        the accuracy is ``1 - 2 (1 - exact) / K``, so it is high for any K large enough).

    Raises
    ------
    ValueError
        If shapes disagree or a label is unknown.
    """
    truth = np.asarray(y_true)
    if probabilities.shape != (len(truth), len(labels)) or not len(truth):
        raise ValueError(f"probabilities {probabilities.shape}, not {(len(truth), len(labels))}")
    unknown = set(truth) - set(labels)
    if unknown:
        raise ValueError(f"label '{sorted(unknown)[0]}' is none of {', '.join(labels)}")
    called = np.asarray(labels)[probabilities.argmax(axis=1)]  # (N, K) -> (N,)
    per_class = [
        classification_metrics(truth, (called == label).astype(float), positive=label)
        for label in labels
    ]
    areas = [auroc(truth == label, probabilities[:, k]) for k, label in enumerate(labels)]
    return {
        "exact_accuracy": float((called == truth).mean()),
        "balanced_accuracy": float(np.nanmean([m["sensitivity"] for m in per_class])),
        "macro_f1": float(np.nanmean([m["f1"] for m in per_class])),
        "one_vs_rest_accuracy": float(np.mean([m["accuracy"] for m in per_class])),
        "one_vs_rest_auroc": float(np.nanmean(areas)),
    }
