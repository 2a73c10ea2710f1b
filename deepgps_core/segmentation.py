"""
Nuclei as star-convex polygons: StarDist finds them, a table and 32 radii each carry them.

Paper, Methods, "Image preprocessing": StarDist segments the nucleus channel; which model and
which thresholds it does not say. Here the published ``2D_versatile_fluo`` can be named where
it can be downloaded, and a small model of this project's own (package data) is the default.
TensorFlow is imported only when a segmenter is built: what it found is drawn, measured and
cropped on machines that have none.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from deepgps_core.dataset import InputError, config_hash, data_root, sha256_of

#: The model that ships with the package.
EMBEDDED_MODEL = Path(__file__).parent / "data" / "stardist_nuclei"
#: StarDist's published models of fluorescence images, fetched by StarDist itself.
PUBLISHED_MODELS = ("2D_versatile_fluo", "2D_paper_dsb2018")
N_RAYS = 32


@dataclass(frozen=True)
class Nuclei:
    """
    The nuclei of one field, as StarDist describes them.

    Parameters
    ----------
    y_px, x_px : ndarray, shape (n,), dtype float32
        The point from which the radii are measured: inside the nucleus, not its centroid.
    area_px : ndarray, shape (n,), dtype int64
        Pixels of the polygon that lie inside the field and belong to no likelier nucleus.
    probability : ndarray, shape (n,), dtype float32
        StarDist's object probability.
    radii : ndarray, shape (n, 32), dtype float32
        Distance to the outline in pixels; direction k points along
        (sin, cos)(2 pi k / 32) in (y, x).
    """

    y_px: np.ndarray
    x_px: np.ndarray
    area_px: np.ndarray
    probability: np.ndarray
    radii: np.ndarray

    def __len__(self) -> int:
        return len(self.y_px)

    def __getitem__(self, chosen: np.ndarray | slice) -> Nuclei:
        return Nuclei(
            self.y_px[chosen],
            self.x_px[chosen],
            self.area_px[chosen],
            self.probability[chosen],
            self.radii[chosen],
        )

    @cached_property
    def outlines(self) -> np.ndarray:
        """Corners of the polygons in (y, x), shape (n, 2, 32), dtype float32."""
        angles = np.linspace(0, 2 * np.pi, N_RAYS, endpoint=False)
        directions = np.stack([np.sin(angles), np.cos(angles)])  # (2, 32)
        points = np.stack([self.y_px, self.x_px], axis=1)  # (n, 2)
        return (points[:, :, None] + self.radii[:, None] * directions).astype(np.float32)

    @cached_property
    def centroids(self) -> np.ndarray:
        """Centers of gravity of the polygons in (y, x), shape (n, 2), dtype float64."""
        y, x = np.moveaxis(self.outlines.astype(np.float64), 1, 0)  # (n, 2, 32) -> 2 x (n, 32)
        y0, x0 = y[:, :1], x[:, :1]  # near the origin the sums keep their digits
        y, x = y - y0, x - x0
        y_next, x_next = np.roll(y, -1, axis=1), np.roll(x, -1, axis=1)
        cross = x * y_next - x_next * y
        doubled = cross.sum(axis=1)
        doubled[np.abs(doubled) < 1e-9] = 1e-9
        center_y = ((y + y_next) * cross).sum(axis=1) / (3 * doubled) + y0[:, 0]
        center_x = ((x + x_next) * cross).sum(axis=1) / (3 * doubled) + x0[:, 0]
        return np.stack([center_y, center_x], axis=1)


def nucleus_labels(nuclei: Nuclei, shape: tuple[int, int]) -> np.ndarray:
    """
    Draw nuclei into a label image; the likelier of two lies on top.

    Returns
    -------
    labels : ndarray, shape (H, W), dtype int32
        0 background, i + 1 for the i-th of `nuclei`.

    Notes
    -----
    The same pixels as ``stardist.geometry.polygons_to_label``.
    """
    from skimage.draw import polygon

    labels = np.zeros(shape, dtype=np.int32)
    for i in np.argsort(nuclei.probability, kind="stable"):
        y, x = nuclei.outlines[i]
        rows, columns = polygon(y, x, shape=shape)
        labels[rows, columns] = i + 1
    return labels


def measured_nuclei(
    points: np.ndarray, radii: np.ndarray, probability: np.ndarray, shape: tuple[int, int]
) -> Nuclei:
    """
    Make `Nuclei` of points (n, 2) in (y, x) and radii (n, 32): sorted, their areas counted.

    Returns
    -------
    nuclei : Nuclei
        Top to bottom, then left to right, so that their numbers do not depend on StarDist's
        order; without those that have no pixel of their own.
    """
    order = np.lexsort((points[:, 1], points[:, 0]))
    unmeasured = Nuclei(
        points[order, 0].astype(np.float32),
        points[order, 1].astype(np.float32),
        np.zeros(len(order), dtype=np.int64),
        probability[order].astype(np.float32),
        radii[order].astype(np.float32),
    )
    labels = nucleus_labels(unmeasured, shape)
    area = np.bincount(labels.ravel(), minlength=len(order) + 1)[1:]
    nuclei = Nuclei(
        unmeasured.y_px, unmeasured.x_px, area, unmeasured.probability, unmeasured.radii
    )
    return nuclei[area > 0]


def segmentation_score(
    truths: Sequence[np.ndarray],
    found: Sequence[np.ndarray],
    overlap: float = 0.5,
    minimum_area_px: int = 0,
) -> dict[str, float]:
    """
    Score label images against the truth, all images pooled.

    Parameters
    ----------
    truths, found : sequence of ndarray, shape (H, W), dtype int
        0 background, one number a nucleus.
    overlap : float
        Intersection over union from which a found nucleus counts as the true one.
    minimum_area_px : int
        Smaller objects that match nothing are neither missed nor wrongly found.

    Returns
    -------
    score : dict
        ``precision``, ``recall``, ``f1`` and the counts ``tp``, ``fp``, ``fn``.

    Examples
    --------
    >>> truth = np.zeros((9, 9), int)
    >>> truth[1:4, 1:4], truth[6:8, 6:8] = 1, 2
    >>> segmentation_score([truth], [np.where(truth == 1, 1, 0)])["recall"]
    0.5
    """
    from stardist.matching import matching

    tp = fp = fn = 0
    for truth, label in zip(truths, found, strict=True):
        result = matching(truth, label, thresh=overlap, report_matches=True)
        pairs = zip(result.matched_pairs, result.matched_scores, strict=True)
        right = [pair for pair, score in pairs if score >= overlap]
        large = [
            {i for i in np.flatnonzero(np.bincount(image.ravel()) >= max(1, minimum_area_px)) if i}
            for image in (truth, label)
        ]
        tp += len(right)
        fn += len(large[0] - {pair[0] for pair in right})
        fp += len(large[1] - {pair[1] for pair in right})
    precision, recall = tp / max(1, tp + fp), tp / max(1, tp + fn)
    f1 = 2 * tp / max(1, 2 * tp + fp + fn)
    return {"precision": precision, "recall": recall, "f1": f1, "tp": tp, "fp": fp, "fn": fn}


def segmenter_identity(model: str | Path = "embedded") -> str:
    """
    Return what tells one segmentation model from another, without loading it.

    Returns
    -------
    identity : str
        The name of a published model, else the folder's name and 16 digits of its content.
    """
    if str(model) in PUBLISHED_MODELS:
        return str(model)
    folder = model_folder(model)
    contents = {path.name: sha256_of(path) for path in sorted(folder.glob("*.*"))
                if path.suffix in (".json", ".h5")}  # fmt: skip
    return f"{folder.name}-{config_hash(contents)}"


def model_folder(model: str | Path) -> Path:
    """
    Return the folder of a model given as "embedded" or as a path.

    Raises
    ------
    InputError
        If no StarDist model is there.
    """
    folder = EMBEDDED_MODEL if str(model) == "embedded" else Path(model)
    if not (folder / "config.json").exists():
        raise InputError(
            f"{folder}: no StarDist model (config.json is missing); use 'embedded', "
            f"{' or '.join(map(repr, PUBLISHED_MODELS))}, or a folder that StarDist saved."
        )
    return folder


class NucleusSegmenter:
    """
    StarDist, loaded and ready.

    Parameters
    ----------
    model : str or Path
        "embedded", a published name ("2D_versatile_fluo"; what `deepgps fetch stardist` brought
        is used, else StarDist downloads it), or a folder that StarDist saved.
    probability_threshold, nms_threshold : float, optional
        In place of the thresholds stored with the model.
    scale : float
        Zoom of the image before StarDist; results are in pixels of the original image.

    Raises
    ------
    InputError
        If the model is not found, or stardist or TensorFlow are not installed.
    """

    def __init__(
        self,
        model: str | Path = "embedded",
        probability_threshold: float | None = None,
        nms_threshold: float | None = None,
        scale: float = 1.0,
    ) -> None:
        self.identity = segmenter_identity(model)
        self.probability_threshold = probability_threshold
        self.nms_threshold = nms_threshold
        self.scale = scale
        self._find = _load_stardist(model)

    def __call__(self, nuclear_image: np.ndarray) -> Nuclei:
        """
        Segment one normalized nucleus image.

        Parameters
        ----------
        nuclear_image : ndarray, shape (H, W), dtype float32
            Normalized by percentiles; about 0 where there is nothing, 1 in bright nuclei.

        Returns
        -------
        nuclei : Nuclei
            All that StarDist finds, small ones too.

        Raises
        ------
        ValueError
            If the image is not two-dimensional.
        """
        if nuclear_image.ndim != 2:
            raise ValueError(f"one channel (H, W) is needed, got shape {nuclear_image.shape}")
        found = self._find(
            nuclear_image,
            prob_thresh=self.probability_threshold,
            nms_thresh=self.nms_threshold,
            scale=None if self.scale == 1.0 else self.scale,
        )
        points = np.asarray(found["points"], dtype=np.float32).reshape(-1, 2)
        corners = np.asarray(found["coord"]).reshape(-1, 2, N_RAYS)
        radii = np.hypot(*np.moveaxis(corners - points[:, :, None], 1, 0))  # (n, 2, 32) -> (n, 32)
        probability = np.asarray(found["prob"], dtype=np.float32)
        return measured_nuclei(points, radii, probability, nuclear_image.shape)


def _load_stardist(model: str | Path) -> Callable[..., Mapping[str, Any]]:
    """Return what finds objects: StarDist itself, or its twin where TensorFlow is missing."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # fields of many sizes make it warn of retracing, which is not the caller's to mend
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    fetched = data_root() / "weights" / str(model)  # where `deepgps fetch stardist` puts it
    published = str(model) in PUBLISHED_MODELS
    folder = fetched if published else model_folder(model)
    try:
        from stardist.models import StarDist2D
    except RuntimeError:  # StarDist's way of saying that TensorFlow is missing
        return _load_twin(folder, model)
    except ImportError as error:
        raise InputError(
            f"segmentation needs StarDist ({error}); install deepgps-core[segment], "
            "or bring nuclei.csv, nuclei.npz and nuclei.yaml from a machine that has it."
        ) from None
    with contextlib.redirect_stdout(io.StringIO()):  # StarDist reports thresholds by printing
        if (folder / "config.json").exists():
            found = StarDist2D(None, name=folder.name, basedir=str(folder.resolve().parent))
        else:
            found = _download_stardist(StarDist2D, str(model))

    def find(image: np.ndarray, **thresholds: Any) -> Mapping[str, Any]:
        return found.predict_instances(
            image,
            axes="YX",
            return_labels=False,
            show_tile_progress=False,
            predict_kwargs={"b": 0},  # also nuclei whose middle lies on the border
            **thresholds,
        )[1]

    return find


def _load_twin(folder: Path, model: str | Path) -> Callable[..., Mapping[str, Any]]:
    from deepgps_core.stardist_torch import TorchStarDist

    if not (folder / "config.json").exists():
        raise InputError(
            f"{model}: StarDist downloads it with TensorFlow, which is missing; bring it with "
            "`deepgps fetch stardist`, or use model='embedded'."
        )
    return TorchStarDist(folder).predict_instances


def _download_stardist(kind: Any, model: str) -> Any:
    try:
        return kind.from_pretrained(model)
    except Exception as error:  # whatever a download can fail with
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"{model}: the published model could not be fetched ({reason}); bring it with "
            "`deepgps fetch stardist`, or use model='embedded', which needs no network."
        ) from None


def model_thresholds(model: str | Path = "embedded") -> dict[str, float]:
    """Return the thresholds stored with a model folder: ``prob`` and ``nms``."""
    return json.loads((model_folder(model) / "thresholds.json").read_text())
