"""
The one door to the models: which are offered, and what they say of sequences and nuclei.

Pages and interface ask for names; the worker asks for predictions. Everything scientific is in
`deepgps_core`; torch is imported when a model is first looked at, not before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from deepgps_core.predict import Predicted
    from deepgps_core.predictor import ModelInfo

Progress = Callable[[int, int], None]
#: Proteins predicted before progress is told.
AT_ONCE = 8


@lru_cache(maxsize=8)
def catalog(models: tuple[str, ...]) -> dict[str, ModelInfo]:
    """
    Return what is known of each model on offer, by the name that is shown and asked for.

    Parameters
    ----------
    models : tuple of str
        Names of shipped models, or run folders, which are shown by their last part; two that
        end alike are numbered.
    """
    return {info.name: info for info, _ in _opened(models)}


@lru_cache(maxsize=8)
def _opened(models: tuple[str, ...]) -> tuple[tuple[ModelInfo, str], ...]:
    """Return what is known of each model, under a name of its own, and where it is."""
    from deepgps_core.predictor import available_models, load_predictor

    shipped = {info.name: info for info in available_models()}
    found: dict[str, tuple[ModelInfo, str]] = {}
    for model in dict.fromkeys(models):
        info = shipped.get(model) or load_predictor(model).info
        name, number = info.name, 2
        while name in found:
            name, number = f"{info.name}-{number}", number + 1
        found[name] = replace(info, name=name), model
    return tuple(found.values())


def title_of(info: ModelInfo) -> str:
    """Return how a model is called on a page; a run by its name, not by its place on the disk."""
    return info.title if info.card else info.name


def paths_of(models: tuple[str, ...]) -> dict[str, str]:
    """Return shown name -> what `load_predictor` takes."""
    return {info.name: model for info, model in _opened(models)}


def mutants_of(sequences: Mapping[str, str], mutations: Sequence[str]) -> dict[str, str]:
    """
    Return the mutants asked for, named ``<id> <mutation>``.

    Raises
    ------
    InputError
        If a mutation cannot be read, or does not fit the protein.
    """
    from deepgps_core.mutations import mutate
    from deepgps_core.outputs import mutations_of

    return {
        f"{name} {text}": mutate(sequences[name], text, name)
        for name, texts in mutations_of(sequences, mutations).items()
        for text in texts
    }


def compared_mutants(
    model: str, sequences: Mapping[str, str], mutations: Sequence[str]
) -> pd.DataFrame | None:
    """Return what each mutation changes, as `mutations.compare_mutants`; None without any."""
    from deepgps_core.mutations import compare_mutants
    from deepgps_core.outputs import mutations_of
    from deepgps_core.predictor import load_predictor

    if not mutations:
        return None
    predictor = load_predictor(model)
    tables = [
        compare_mutants(predictor, name, sequences[name], list(dict.fromkeys(texts)))
        for name, texts in mutations_of(sequences, mutations).items()
        if texts
    ]
    return pd.concat(tables, ignore_index=True)


def predict(
    model: str,
    sequences: Mapping[str, str],
    nuclear_images: Sequence[np.ndarray],
    *,
    pixel_size_um: float | None,
    max_nuclei: int,
    samples: int = 0,
    progress: Progress,
) -> tuple[Predicted, ModelInfo]:
    """
    Predict proteins beside all nuclei of some images; without an image, beside the default one.

    Returns
    -------
    predicted : Predicted
        With ``nuclear_images`` (n, H, W) of all images, and ``images_by_nucleus`` (N, n, H, W);
        with `samples` these, too, (N, n, samples, H, W), whose means the images then are.
    info : ModelInfo

    Raises
    ------
    InputError
        If an image holds no nucleus that can be used, or a sequence is no protein.
    """
    from deepgps_core.nucleus_images import default_crops, nuclei_of
    from deepgps_core.predict import check_plane
    from deepgps_core.predictor import load_predictor

    predictor = load_predictor(model)
    scale, names = predictor.info.scale, list(sequences)
    crops = [
        nuclei_of(
            check_plane(image, "nucleus image"), scale, pixel_size_um=pixel_size_um,
            max_nuclei=max_nuclei,
        )
        for image in nuclear_images
    ] or [default_crops(scale)]  # fmt: skip
    done, by_image = 0, []
    for nuclei in crops:
        parts: list[Predicted] = []
        for start in range(0, len(names), AT_ONCE):  # reading sequences takes most of the time
            some = {name: sequences[name] for name in names[start : start + AT_ONCE]}
            parts.append(
                predictor.predict(some, nuclei=nuclei, samples=samples, progress=lambda *_: None)
            )
            done += len(some)
            progress(done, len(crops) * len(names))
        by_image.append(_stacked(parts))
    return _joined(by_image), predictor.info


def _stacked(parts: list[Predicted]) -> Predicted:
    """Put proteins predicted beside the same nuclei under each other."""
    return replace(
        parts[0], table=pd.concat([part.table for part in parts], ignore_index=True),
        images=np.concatenate([part.images for part in parts]),
        images_by_nucleus=np.concatenate(
            [part.images_by_nucleus for part in parts if part.images_by_nucleus is not None]
        ),
        samples=_all_samples(parts, axis=0),
    )  # fmt: skip


def _joined(parts: list[Predicted]) -> Predicted:
    """Lay the nuclei of several images side by side, at one size."""
    if len(parts) == 1:
        return parts[0]
    shape = tuple(max(p.nuclear_image.shape[axis] for p in parts) for axis in (0, 1))
    nuclei = np.concatenate([_filled(p.nuclear_images, shape) for p in parts])
    images = np.concatenate([_filled(p.images_by_nucleus, shape) for p in parts], axis=1)
    filled = [
        p if p.samples is None else replace(p, samples=_filled(p.samples, shape)) for p in parts
    ]
    return replace(
        parts[0], nuclear_images=nuclei, images_by_nucleus=images, nuclear_image=nuclei[0],
        images=images[:, 0], samples=_all_samples(filled, axis=1),
        n_nuclei_found=sum(p.n_nuclei_found for p in parts),
        nuclei_source=f"{len(nuclei)} nuclei of {len(parts)} images that were given",
    )  # fmt: skip


def _all_samples(parts: list[Predicted], axis: int) -> np.ndarray | None:
    """Put the parts' samples together, where there are any."""
    drawn = [part.samples for part in parts if part.samples is not None]
    return np.concatenate(drawn, axis=axis) if drawn else None


def _filled(stack: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    assert stack is not None
    room = [(0, 0)] * (stack.ndim - 2) + [(0, shape[k] - stack.shape[k - 2]) for k in (0, 1)]
    return np.pad(stack, room)


def summary_of(
    predicted: Predicted, info: ModelInfo, mutations: pd.DataFrame | None = None
) -> dict[str, Any]:
    """Return a prediction as plain types: what the results page shows and the interface answers."""
    rows = []
    for record in predicted.table.to_dict("records"):
        rows.append(
            {
                "protein_id": str(record["protein_id"]),
                "n_residues": int(record["n_residues"]),
                "label": str(record["predicted_label"]),
                "probabilities": {k: round(float(record[f"p_{k}"]), 4) for k in info.labels},
                "confidence": round(float(record["confidence"]), 4),
                "confidence_low": round(float(record["confidence_low"]), 4),
                "confidence_high": round(float(record["confidence_high"]), 4),
                "entropy": round(float(record["entropy"]), 4),
                "unsure": bool(record["unsure"]),
                **(
                    {"image_spread": round(float(record["image_spread"]), 4)}
                    if "image_spread" in record
                    else {}
                ),
            }
        )
    nuclei = predicted.nuclear_images
    width_um = predicted.nuclear_image.shape[-1] * predicted.pixel_size_um
    return {
        "model": info.name, "title": title_of(info),
        "notice": info.notice, "labels": list(info.labels), "multi_label": info.multi_label,
        "n_members": info.n_members, "calibrated": info.calibrated,
        "n_nuclei": 1 if nuclei is None else len(nuclei),
        "n_samples": 0 if predicted.samples is None else predicted.samples.shape[2],
        "nuclei_source": predicted.nuclei_source, "pixel_size_um": predicted.pixel_size_um,
        "width_um": round(width_um, 2),
        "proteins": rows,
        "mutations": [] if mutations is None else json.loads(mutations.to_json(orient="records")),
    }  # fmt: skip
