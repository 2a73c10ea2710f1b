"""
Predict with a model by name: what the command line, the website and chapter 17 stand on.

A model is one that ships (`SHIPPED`), the folder of a run, or a folder of several runs (seeds of
one training), which then are the members of an ensemble. Labels come with calibrated
probabilities where the model has been calibrated, and with what its members disagree about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from deepgps_core.backends import Backend, FlowBackend, RunBackend, ShippedBackend
from deepgps_core.calibration import UNSURE_BELOW, normalized_entropy
from deepgps_core.dataset import InputError, check_sequence
from deepgps_core.encoders import LONGEST_PROTEIN
from deepgps_core.flow import FlowConfig
from deepgps_core.nucleus_images import NetworkScale, NucleusCrops, default_crops, nuclei_of
from deepgps_core.predict import Predicted, check_plane
from deepgps_core.runs import Run, load_run
from deepgps_core.shipped import SHIPPED, load_painter, load_shipped, read_card

__all__ = [
    "SHIPPED", "UNSURE_BELOW", "ModelInfo", "Predictor", "available_models", "load_predictor",
]  # fmt: skip

#: Images and samples are held in memory until they are written.
MAX_IMAGES_BYTES = 4 * 2**30
#: Called with how many images are done, and how many there are.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ModelInfo:
    """
    What to know of a model before using it.

    Parameters
    ----------
    name, title : str
    labels : tuple of str
    images : str
        "simulated" or "measured": what the image branch learned from.
    n_members : int
        Models whose disagreement is the uncertainty.
    notice : str
        The sentence that every result must carry.
    multi_label : bool
        Whether each label has a probability of its own: a protein can be in several places.
    calibrated : bool
        Whether probabilities were calibrated on proteins outside the training.
    scale : NetworkScale
        Pixel sizes and crop.
    card : mapping
        How a shipped model was trained and what it scored; empty for a run.
    generates : bool
        Whether it can draw several images of the same protein, samples.
    """

    name: str
    title: str
    labels: tuple[str, ...]
    images: str
    n_members: int
    notice: str
    multi_label: bool
    calibrated: bool
    scale: NetworkScale
    card: Mapping[str, Any]
    generates: bool = False


def notice_of(images: str) -> str:
    """Return the sentence that results of a model must carry."""
    if images == "simulated":
        return (
            "The images are drawn by a model that learned from simulated cells: they show what a "
            "label looks like in the simulator, and are no evidence about a real cell."
        )
    return (
        "The images are drawn by a model that learned from measured cells: they are predictions, "
        "not measurements."
    )


def _scale(content: Mapping[str, Any], crop_size_px: int) -> NetworkScale:
    return NetworkScale(content["field_pixel_size_um"], content["pixel_size_um"], crop_size_px)


def available_models() -> list[ModelInfo]:
    """List the models that ship; reads their cards, not their weights."""
    drawing = read_card("painter")
    scale = _scale(drawing, drawing["network"]["crop_size_px"])
    found = []
    for name in SHIPPED:
        content = read_card(name)
        card = {**content["card"], "images": drawing["card"]}
        found.append(
            ModelInfo(
                name=name,
                title=content["title"],
                labels=tuple(content["labels"]),
                images=drawing["images"],
                n_members=content["heads"]["n_members"],
                notice=notice_of(drawing["images"]),
                multi_label=content["heads"]["multi_label"],
                calibrated=True,
                scale=scale,
                card=card,
            )  # fmt: skip
        )
    return found


def _run_info(runs: list[Run], path: Path) -> ModelInfo:
    first = runs[0]
    # the default folder of a run is called by its seed alone
    name = f"{first.training_config.name}-{path.name}" if path.name.isdigit() else path.name
    return ModelInfo(
        name=name, title=f"{first.training_config.name} ({path})", labels=first.labels,
        images=first.images, n_members=len(runs), notice=notice_of(first.images),
        multi_label=first.model_config.multi_label, calibrated=False,
        scale=_scale(vars(first), first.model_config.crop_size_px), card={},
        generates=isinstance(first.model_config, FlowConfig),
    )  # fmt: skip


def _runs_in(path: Path) -> list[Run]:
    """Open a run, or the runs in a folder of several."""
    if (path / "config.yaml").exists():
        return [load_run(path)]
    folders = sorted(found.parent for found in path.glob("*/config.yaml"))
    if not folders:
        raise InputError(
            f"{path}: no model; choose one of {', '.join(SHIPPED)}, or give a run folder "
            "(config.yaml, model.safetensors), as `deepgps train` makes it."
        )
    runs = [load_run(folder) for folder in folders]
    for other in runs[1:]:
        if (other.labels, other.model_config) != (runs[0].labels, runs[0].model_config):
            raise InputError(f"{other.path}: not of the same shape as {runs[0].path}; separate.")
    return runs


@lru_cache(maxsize=8)
def _loaded(model: str, written_ns: int) -> Predictor:
    if model in SHIPPED:
        info = next(known for known in available_models() if known.name == model)
        return Predictor(info, ShippedBackend(load_shipped(model), load_painter()))
    runs = _runs_in(Path(model))
    generates = isinstance(runs[0].model_config, FlowConfig)
    backend = FlowBackend(runs) if generates else RunBackend(runs)
    return Predictor(_run_info(runs, Path(model)), backend)


def load_predictor(model: str | Path = "single-2") -> Predictor:
    """
    Open a model; the second time it is there at once.

    Parameters
    ----------
    model : str or Path
        A name in `SHIPPED`, a run folder, or a folder of runs that become an ensemble.

    Raises
    ------
    InputError
        If there is no such model, or it is damaged.
    """
    name = str(model)
    if name in SHIPPED:
        return _loaded(name, 0)
    configs = [*Path(name).glob("config.yaml"), *Path(name).glob("*/config.yaml")]
    newest = max((path.stat().st_mtime_ns for path in configs), default=0)
    return _loaded(str(Path(name).resolve()), newest)  # a run trained anew is opened anew


class Predictor:
    """A model, ready: sequences and a nucleus to labels, their certainty, and images."""

    def __init__(self, info: ModelInfo, backend: Backend) -> None:
        self.info, self._backend = info, backend
        self.name, self.labels = info.name, info.labels

    def probabilities(self, sequences: Mapping[str, str]) -> np.ndarray:
        """Return label probabilities (members, N, K); needs no image."""
        return self._backend.describe(self._checked(sequences)).probabilities

    def label(self, sequences: Mapping[str, str]) -> pd.DataFrame:
        """
        Return the table of `predict` without drawing anything.

        Saves the images' memory, 43 KB a protein and nucleus; time only where drawing is slow:
        the language model takes most of it on a CPU.
        """
        checked = self._checked(sequences)
        return self._table(checked, self._backend.describe(checked).probabilities)

    def predict(
        self,
        sequences: Mapping[str, str],
        nuclear_image: np.ndarray | None = None,
        *,
        pixel_size_um: float | None = None,
        samples: int = 0,
        max_nuclei: int = 8,
        nuclei: NucleusCrops | None = None,
        progress: Progress | None = None,
    ) -> Predicted:
        """
        Predict labels and images of N proteins beside each of n nuclei.

        Parameters
        ----------
        sequences : mapping of str to str
            protein_id -> sequence.
        nuclear_image : ndarray, shape (H, W) or (2, H, W), optional
            Raw counts. Up to one and a half crops wide, one cell, used as it is; larger, a
            field, whose nuclei are found and cropped. By default a simulated nucleus that ships.
        pixel_size_um : float, optional
            Of `nuclear_image`; by default that of the model's training fields.
        samples : int
            Draw so many images a nucleus, and return their means beside them; only models that
            generate can.
        max_nuclei : int
            At most so many nuclei of a field.
        nuclei : NucleusCrops, optional
            Nuclei as `nuclei_of` returns them, in place of `nuclear_image`.
        progress : callable, optional
            Called as ``progress(done, total)`` after each batch of images; by default a bar
            where output goes to a terminal.

        Returns
        -------
        predicted : Predicted
            ``nuclear_images`` (n, H, W) and ``images_by_nucleus`` (N, n, H, W); with `samples`
            also these, (N, n, samples, H, W), and a column ``image_spread`` of the table: their
            standard deviation, the mean over pixels and nuclei.

        Raises
        ------
        InputError
            If there is no sequence, one is no protein, the image cannot be used, samples are
            asked of a model that has none, or images or samples do not fit in memory.
        """
        checked = self._checked(sequences)
        if samples:
            self._backend.check_samples(self.name)
        if nuclei is None and nuclear_image is None:
            nuclei = default_crops(self.info.scale)
        elif nuclei is None:
            plane = check_plane(np.asarray(nuclear_image), "nucleus image")
            nuclei = nuclei_of(
                plane, self.info.scale, pixel_size_um=pixel_size_um, max_nuclei=max_nuclei
            )
        _check_room(len(checked), nuclei, samples)
        described = self._backend.describe(checked)
        table, drawn = self._table(checked, described.probabilities), None
        if samples:
            drawn = self._sampled(checked, nuclei, samples, progress)
            images = drawn.mean(axis=2)
            table["image_spread"] = drawn.std(axis=2).mean(axis=(1, 2, 3))
        else:
            images = self._drawn(described, nuclei, progress)
        return Predicted(
            table=table, images=images[:, 0],
            nuclear_image=nuclei.images[0], pixel_size_um=self.info.scale.pixel_size_um,
            nuclear_images=nuclei.images, images_by_nucleus=images, n_nuclei_found=nuclei.n_found,
            nuclei_source=nuclei.source, samples=drawn,
        )  # fmt: skip

    def _sampled(
        self, sequences: dict[str, str], nuclei: NucleusCrops, samples: int,
        progress: Progress | None,
    ) -> np.ndarray:  # fmt: skip
        """Draw samples of every protein beside every nucleus, (N, n, samples, H, W)."""
        shape = (len(sequences), len(nuclei.images), samples, *nuclei.images.shape[1:])
        drawn, total = np.empty(shape, dtype=np.float32), shape[0] * shape[1]
        for number, nucleus in enumerate(nuclei.images):
            drawn[:, number] = self._backend.sample(sequences, nucleus, samples)
            if progress:
                progress((number + 1) * len(sequences), total)
        return drawn

    def _drawn(self, described: Any, nuclei: NucleusCrops, progress: Progress | None) -> np.ndarray:
        """Draw every protein beside every nucleus, (N, n, H, W)."""
        n_proteins, n_nuclei = described.probabilities.shape[1], len(nuclei.images)
        images = np.empty((n_proteins, *nuclei.images.shape), dtype=np.float32)
        total, done = n_proteins * n_nuclei, 0
        quiet = True if progress else None
        with tqdm(total=total, desc="drawing", unit="image", disable=quiet, delay=1) as bar:
            for number, nucleus in enumerate(nuclei.images):
                for rows, drawn in self._backend.draw(described, nucleus):
                    images[rows, number] = drawn
                    done += len(drawn)
                    bar.update(len(drawn))
                    if progress:
                        progress(done, total)
        return images

    def _checked(self, sequences: Mapping[str, str]) -> dict[str, str]:
        if not sequences:
            raise InputError("no sequence to predict; give at least one.")
        return {
            name: check_sequence(name, text, max_residues=LONGEST_PROTEIN)
            for name, text in sequences.items()
        }

    def _table(self, sequences: Mapping[str, str], members: np.ndarray) -> pd.DataFrame:
        return label_table(sequences, members, self.labels, multi_label=self.info.multi_label)


def _check_room(n_proteins: int, nuclei: NucleusCrops, samples: int) -> None:
    """Raise InputError if images of so many proteins, or samples, would not fit in memory."""
    n_bytes = 4 * n_proteins * nuclei.images.size * max(samples, 1)
    if n_bytes > MAX_IMAGES_BYTES:
        what = f"{samples} samples" if samples else "images"
        fewer = "fewer samples (--samples), " if samples else "labels alone (--labels-only), fewer "
        raise InputError(
            f"{what} of {n_proteins:,} proteins beside {len(nuclei.images)} nuclei take more than "
            f"{MAX_IMAGES_BYTES / 2**30:.0f} GiB; ask for {fewer}nuclei (--max-nuclei) or fewer "
            "proteins at a time."
        )


def label_table(
    sequences: Mapping[str, str],
    members: np.ndarray,
    labels: tuple[str, ...],
    *,
    multi_label: bool = False,
) -> pd.DataFrame:
    """
    Summarize what an ensemble's members say of each protein.

    Parameters
    ----------
    members : ndarray, shape (members, N, K)
        Probabilities.

    Returns
    -------
    table : DataFrame
        protein_id, n_residues, predicted_label (the likeliest; with `multi_label` all of at
        least one half, joined by ``;``), ``p_<label>`` (mean of the members), confidence (that of
        the likeliest label), confidence_low, confidence_high (least and most of a member), spread
        (their standard deviation), entropy (0 decided, 1 undecided), unsure (confidence below
        `UNSURE_BELOW`, or a member prefers another label).
    """
    mean = members.mean(axis=0)  # (N, K)
    top = mean.argmax(axis=1)
    of_top = members[:, np.arange(len(top)), top]  # (members, N)
    called = [labels[k] for k in top]
    if multi_label:
        places = [[labels[k] for k in np.flatnonzero(row >= 0.5)] for row in mean]
        called = [";".join(found) or labels[k] for found, k in zip(places, top, strict=True)]
    disagree = (members.argmax(axis=2) != top).any(axis=0)
    confidence = of_top.mean(axis=0)
    return pd.DataFrame(
        {
            "protein_id": list(sequences), "n_residues": [len(s) for s in sequences.values()],
            "predicted_label": called,
            **{f"p_{name}": mean[:, k] for k, name in enumerate(labels)},
            "confidence": confidence, "confidence_low": of_top.min(axis=0),
            "confidence_high": of_top.max(axis=0), "spread": of_top.std(axis=0),
            "entropy": normalized_entropy(mean, multi_label=multi_label),
            "unsure": (confidence < UNSURE_BELOW) | disagree,
        }
    )  # fmt: skip
