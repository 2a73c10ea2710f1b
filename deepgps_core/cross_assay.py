"""
The cross-assay: every held-out sequence painted into every held-out nucleus.

The paper paints four sequences into four nuclei and looks (Fig. 2e). Here the whole matrix is
drawn and two questions are asked of it. Whom does a picture follow, the protein whose sequence
was given or the one whose nucleus it was? And what is lost when sequence or nucleus is taken
away? Proteins are rows and columns at once, so intervals come from drawing proteins anew and
taking all pairs of those drawn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from deepgps_core.crops import CropDataset, average_down
from deepgps_core.dataset import Dataset, InputError
from deepgps_core.metrics import psnr, rings_around
from deepgps_core.model import DeepGPS
from deepgps_core.statistics import Interval, bootstrap_intervals, two_way_shares
from deepgps_core.training import predict_crops

#: Which pairs of proteins are meant: all, or those with equal or with different labels.
PAIRS = ("all", "within classes", "across classes")
#: Name in tables -> what the network was given, for captions.
CONTROLS = {
    "own sequence, own nucleus": "both inputs as they belong together",
    "sequence swapped within classes": "the sequence of another protein with the same label",
    "sequence swapped across classes": "the sequence of a protein with another label",
    "sequence swapped": "the sequence of any other protein",
    "nucleus swapped": "the nucleus image of any other protein",
    "nucleus only": "own nucleus; mean of the pictures that all other sequences give in it",
    "sequence only": "own sequence; mean of the pictures it gives in all other nuclei",
}


@dataclass(frozen=True)
class CrossAssay:
    """
    What came of painting n sequences into n nuclei.

    Parameters
    ----------
    protein_ids : tuple of str, length n
    labels : ndarray, shape (n,), dtype str
        Empty for proteins without a single label.
    log_ratio : ndarray, shape (n, n), dtype float
        log2 of nuclear over ring intensity; row i is the sequence, column j the nucleus.
    original_log_ratio : ndarray, shape (n,), dtype float
        The same of the protein images that were measured (or simulated).
    psnr_to_nucleus_db, psnr_to_sequence_db : ndarray, shape (n, n), dtype float
        PSNR of picture (i, j) against the image of protein j, and against that of protein i.
    nucleus_only_db, sequence_only_db : ndarray, shape (n,), dtype float
        PSNR of a column's and of a row's mean picture, its own left out.
    """

    protein_ids: tuple[str, ...]
    labels: np.ndarray
    log_ratio: np.ndarray
    original_log_ratio: np.ndarray
    psnr_to_nucleus_db: np.ndarray
    psnr_to_sequence_db: np.ndarray
    nucleus_only_db: np.ndarray
    sequence_only_db: np.ndarray


def first_crops(crops: CropDataset, protein_ids: Sequence[str]) -> CropDataset:
    """
    Keep the first crop of each of some proteins, in the order given.

    Raises
    ------
    InputError
        If one of them has no crop.
    """
    owners = crops.protein_index.cpu().numpy()
    number = {name: i for i, name in enumerate(crops.protein_ids)}
    rows = []
    for name in protein_ids:
        of_protein = np.flatnonzero(owners == number.get(name, -1))
        if not len(of_protein):
            raise InputError(f"cross-assay: protein {name!r} has no crop; leave it out.")
        rows.append(of_protein[0])
    return crops.take(torch.tensor(rows, dtype=torch.int64))


def crop_masks(dataset: Dataset, crop_ids: Sequence[str], crop_size_px: int) -> np.ndarray:
    """
    Read the nuclear masks of some crops, at the size the network draws.

    Returns
    -------
    masks : ndarray, shape (N, crop_size_px, crop_size_px), dtype bool
        A pixel is nucleus where more than half of what was averaged is.
    """
    row_of = {name: row for row, name in enumerate(dataset.crops["crop_id"])}
    rows = np.array([row_of[name] for name in crop_ids])
    order = np.argsort(rows, kind="stable")
    masks = np.empty((len(rows), *dataset.nuclear_masks.shape[1:]), dtype=bool)
    masks[order] = dataset.nuclear_masks.oindex[rows[order]]
    factor = masks.shape[-1] // crop_size_px
    return average_down(masks.astype(np.uint8) * 255, factor) > 127


def ring_width_px(dataset: Dataset, crop_size_px: int, width_um: float = 4.0) -> int:
    """Return the width in pixels of a ring of `width_um` around a nucleus, at least 1."""
    pixel_um = dataset.info.pixel_size_um * dataset.nuclear_masks.shape[-1] / crop_size_px
    return max(1, round(width_um / pixel_um))


def paint(model: DeepGPS, crops: CropDataset, protein: int) -> np.ndarray:
    """
    Draw one protein into the nuclei of all crops.

    Parameters
    ----------
    protein : int
        Its row in the crops' features; everything known of it but its image is used.

    Returns
    -------
    images : ndarray, shape (N, H, W), dtype float32
    """
    of_one = dataclasses.replace(crops, protein_index=torch.full_like(crops.protein_index, protein))
    drawn = [prediction.image[:, 0].float().cpu() for _, prediction in predict_crops(model, of_one)]
    return torch.cat(drawn).numpy()


def log_nuclear_ratio(images: np.ndarray, masks: np.ndarray, rings: np.ndarray) -> np.ndarray:
    """
    Compute log2 of `metrics.nuclear_ratio`, for many images of the same nuclei.

    Parameters
    ----------
    images : ndarray, shape (N, H, W), dtype float
        Intensities at least 0.
    masks, rings : ndarray, shape (N, H, W), dtype bool
        Nuclei, and the rings around them (`rings_around`).

    Returns
    -------
    log_ratio : ndarray, shape (N,), dtype float
        NaN where a nucleus or its ring is empty.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        inside, around = (
            (images * part).sum(axis=(1, 2), dtype=float) / part.sum(axis=(1, 2))
            for part in (masks, rings)
        )
        return np.log2(inside / np.maximum(around, np.finfo(np.float32).eps))


def cross_assay(
    model: DeepGPS, crops: CropDataset, masks: np.ndarray, labels: Sequence[str], *, ring_px: int
) -> CrossAssay:
    """
    Paint the protein of every crop into the nucleus of every crop.

    Parameters
    ----------
    model : DeepGPS
    crops : CropDataset
        One crop of each of n held-out proteins (`first_crops`).
    masks : ndarray, shape (n, H, W), dtype bool
        Their nuclei (`crop_masks`).
    labels : sequence of str, length n
        Labels of their proteins; empty for none.
    ring_px : int
        Width of the ring around a nucleus that stands for the cytoplasm.

    Returns
    -------
    assay : CrossAssay

    Raises
    ------
    ValueError
        If there are fewer than two proteins, one comes twice, or lengths differ.
    """
    n, owners = len(crops), crops.protein_index.tolist()
    if n < 2 or len(set(owners)) < n or not n == len(masks) == len(labels):
        raise ValueError(
            f"need one crop each of two or more proteins, got {n} crops of {len(set(owners))}, "
            f"{len(masks)} masks and {len(labels)} labels"
        )
    device = next(model.parameters()).device
    on_device, rings = crops.to(device), rings_around(masks, ring_px)
    originals = crops.images[:, 1].cpu().numpy() / 255
    ratio, to_nucleus, to_sequence = (np.empty((n, n)) for _ in range(3))
    by_nucleus, sequence_only = np.zeros_like(originals), np.empty(n)
    own = np.empty_like(originals)
    for i, protein in enumerate(owners):
        drawn = paint(model, on_device, protein)
        target = np.broadcast_to(originals[i], drawn.shape)
        ratio[i] = log_nuclear_ratio(drawn, masks, rings)
        to_nucleus[i], to_sequence[i] = psnr(drawn, originals, 1.0), psnr(drawn, target, 1.0)
        others = (drawn.sum(axis=0) - drawn[i]) / (n - 1)
        sequence_only[i] = psnr(others[None], originals[i : i + 1], 1.0)[0]
        by_nucleus, own[i] = by_nucleus + drawn, drawn[i]
    return CrossAssay(
        protein_ids=tuple(crops.protein_ids[p] for p in owners), labels=np.asarray(labels, str),
        log_ratio=ratio, original_log_ratio=log_nuclear_ratio(originals, masks, rings),
        psnr_to_nucleus_db=to_nucleus, psnr_to_sequence_db=to_sequence,
        nucleus_only_db=psnr((by_nucleus - own) / (n - 1), originals, 1.0),
        sequence_only_db=sequence_only,
    )  # fmt: skip


def follows_sequence(log_ratio: np.ndarray) -> np.ndarray:
    """
    Say of each picture whether its ratio is nearer to the sequence's or to the nucleus's own.

    Parameters
    ----------
    log_ratio : ndarray, shape (n, n), dtype float
        Rows sequences, columns nuclei; the diagonal is each protein in its own nucleus.

    Returns
    -------
    follows : ndarray, shape (n, n), dtype float
        1 where picture (i, j) is nearer to (i, i) than to (j, j), 0 where farther, 0.5 where
        equally near, NaN on the diagonal.

    Examples
    --------
    >>> float(np.nanmean(follows_sequence(np.array([[0.0, 0.1], [1.0, 1.1]]))))
    1.0
    """
    own = np.diag(log_ratio)
    of_sequence = np.abs(log_ratio - own[:, None])
    of_nucleus = np.abs(log_ratio - own[None, :])
    follows = 0.5 + 0.5 * np.sign(of_nucleus - of_sequence)
    np.fill_diagonal(follows, np.nan)
    return follows


def _wanted_pairs(labels: np.ndarray, pairs: str) -> np.ndarray:
    """Return which ordered pairs of different proteins are meant, (n, n) bool."""
    same = labels[:, None] == labels[None, :]
    chosen = {"all": np.ones_like(same), "within classes": same, "across classes": ~same}[pairs]
    return chosen & ~np.eye(len(labels), dtype=bool)


def _mean_over_pairs(
    values: np.ndarray, wanted: np.ndarray, drawn: np.ndarray, axis: int
) -> np.ndarray:
    """Average each protein's score over its wanted partners, each as often as drawn; else NaN."""
    counts = wanted * np.expand_dims(drawn, 1 - axis)
    with np.errstate(invalid="ignore"):
        return (np.nan_to_num(values) * counts).sum(axis=axis) / counts.sum(axis=axis)


def _scores_of_drawn(assay: CrossAssay, drawn: np.ndarray) -> dict[str, np.ndarray]:
    """
    Score each protein under each of `CONTROLS`, its partners counting as often as they were drawn.

    A bootstrap that kept everybody's partners would make the intervals of swaps too narrow. The
    two *only* controls are mean pictures, made once: their partners stay.
    """
    to_nucleus, to_sequence = assay.psnr_to_nucleus_db, assay.psnr_to_sequence_db
    of_pairs = {pairs: _wanted_pairs(assay.labels, pairs) for pairs in PAIRS}
    swapped = {
        f"sequence swapped{'' if pairs == 'all' else ' ' + pairs}": _mean_over_pairs(
            to_nucleus, wanted, drawn, axis=0
        )
        for pairs, wanted in of_pairs.items()
    }
    scores = swapped | {
        "own sequence, own nucleus": np.diag(to_nucleus),
        "nucleus swapped": _mean_over_pairs(to_sequence, of_pairs["all"], drawn, axis=1),
        "nucleus only": assay.nucleus_only_db,
        "sequence only": assay.sequence_only_db,
    }
    return {name: scores[name] for name in CONTROLS}


def _mean_of_drawn(values: np.ndarray, drawn: np.ndarray) -> float:
    """Average scores, each as often as its protein was drawn; without those that are NaN."""
    known = ~np.isnan(values) & (drawn > 0)
    return float(np.average(values[known], weights=drawn[known])) if known.any() else np.nan


def follow_table(assay: CrossAssay, *, n_resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """
    Compute the share of pictures that follow the sequence, with intervals over proteins.

    Returns
    -------
    table : DataFrame
        One row for each of `PAIRS` that occurs: pairs, share, low, high, n_pairs, n_proteins.
        A protein drawn twice by the bootstrap makes no pair with itself.
    """
    follows, rows = follows_sequence(assay.log_ratio), []
    everyone = np.arange(len(assay.labels))
    for pairs in PAIRS:
        wanted = _wanted_pairs(assay.labels, pairs)
        if not wanted.any():
            continue

        def share(draw: np.ndarray, wanted: np.ndarray = wanted) -> np.ndarray:
            cells = np.ix_(draw, draw)
            chosen = follows[cells][wanted[cells]]
            return np.atleast_1d(chosen.mean() if len(chosen) else np.nan)

        (interval,) = bootstrap_intervals(share, everyone, n_resamples=n_resamples, seed=seed)
        rows.append((pairs, *interval, int(wanted.sum()), len(everyone)))
    columns = ["pairs", "share", "low", "high", "n_pairs", "n_proteins"]
    return pd.DataFrame(rows, columns=columns)


def variance_shares(
    assay: CrossAssay, *, n_resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Split the variance of the ratio into "sequence", "nucleus" and "both", over all pairs."""
    intervals = bootstrap_intervals(
        lambda draw: two_way_shares(assay.log_ratio[np.ix_(draw, draw)]),
        np.arange(len(assay.labels)), n_resamples=n_resamples, seed=seed,
    )  # fmt: skip
    return dict(zip(("sequence", "nucleus", "both"), intervals, strict=True))


def on_label_side(assay: CrossAssay) -> np.ndarray:
    """
    Say of each picture whether its ratio lies on the side of its sequence's true label.

    Returns
    -------
    right : ndarray, shape (n, n), dtype float
        1 where the ratio is nearer to the mean of the original images of the sequence's label
        than to that of any other label, else 0.

    Raises
    ------
    ValueError
        If there are fewer than two labels.
    """
    names, own = np.unique(assay.labels, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"sides need two labels or more, got {names.tolist()}")
    centers = np.array([np.nanmean(assay.original_log_ratio[own == k]) for k in range(len(names))])
    nearest = np.abs(assay.log_ratio[:, :, None] - centers).argmin(axis=2)  # (n, n)
    return (nearest == own[:, None]).astype(float)


def assay_summary(
    assay: CrossAssay, positive: str = "Nucleus", *, n_resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """
    Ask whether pictures follow the sequence, and whether that is right.

    Parameters
    ----------
    positive : str
        The label whose proteins should have the higher ratio.

    Returns
    -------
    summary : dict of str to Interval
        "variance": share of the ratio's variance that belongs to the sequence; "gap": mean log2
        ratio painted from `positive` sequences minus that from others; "side": share of pictures
        on the side of the sequence's label (`on_label_side`); "swap": PSNR lost by a sequence
        from another class minus that lost by one of the own; "own": PSNR of the own sequence
        minus that of the mean picture of all others. 95 % intervals over proteins, each drawn
        with its pairs; the mean picture alone is that of everybody.
    """
    right, n = on_label_side(assay), len(assay.labels)
    is_positive = assay.labels == positive

    def of_draw(draw: np.ndarray) -> np.ndarray:
        cells = np.ix_(draw, draw)
        painted, chosen = assay.log_ratio[cells].mean(axis=1), is_positive[draw]
        both = chosen.any() and not chosen.all()
        gap = painted[chosen].mean() - painted[~chosen].mean() if both else np.nan
        drawn = np.bincount(draw, minlength=n)
        scores = _scores_of_drawn(assay, drawn)
        lost = (
            scores["sequence swapped within classes"] - scores["sequence swapped across classes"],
            scores["own sequence, own nucleus"] - scores["nucleus only"],
        )
        return np.array(
            [two_way_shares(assay.log_ratio[cells])[0], gap, right[cells].mean(),
             *(_mean_of_drawn(values, drawn) for values in lost)]
        )  # fmt: skip

    intervals = bootstrap_intervals(of_draw, np.arange(n), n_resamples=n_resamples, seed=seed)
    return dict(zip(("variance", "gap", "side", "swap", "own"), intervals, strict=True))


def control_scores(assay: CrossAssay) -> pd.DataFrame:
    """
    Score each protein's image under each control.

    Returns
    -------
    scores : DataFrame, index protein_id
        PSNR in dB, one column for each of `CONTROLS`; swaps are means over all partners, and
        NaN where a protein has none.
    """
    scores = _scores_of_drawn(assay, np.ones(len(assay.labels), dtype=int))
    return pd.DataFrame(scores, index=pd.Index(assay.protein_ids, name="protein_id"))


def control_table(assay: CrossAssay, *, n_resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """
    Say what each input is worth: the PSNR under each control, and what it costs.

    Returns
    -------
    table : DataFrame
        Columns control, psnr_db, low, high, cost_db, cost_low, cost_high, n_proteins: means
        over proteins with 95 % intervals, each drawn with its pairs. The cost is paired within
        proteins: own inputs minus the control.
    """
    scores, rows, n = control_scores(assay), [], len(assay.labels)
    for name in CONTROLS:
        known = np.flatnonzero(scores[name].notna())
        if len(known) < 2:
            continue

        def of_draw(draw: np.ndarray, name: str = name, known: np.ndarray = known) -> np.ndarray:
            drawn = np.bincount(known[draw], minlength=n)
            of_control = _scores_of_drawn(assay, drawn)[name]
            lost = np.diag(assay.psnr_to_nucleus_db) - of_control
            return np.array([_mean_of_drawn(of_control, drawn), _mean_of_drawn(lost, drawn)])

        level, lost = bootstrap_intervals(of_draw, known, n_resamples=n_resamples, seed=seed)
        rows.append((name, *level, *lost, len(known)))
    columns = ["control", "psnr_db", "low", "high", "cost_db", "cost_low", "cost_high"]
    return pd.DataFrame(rows, columns=[*columns, "n_proteins"])
