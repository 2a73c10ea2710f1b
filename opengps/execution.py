"""What a worker does with a job it holds: predict or compare, and write the results."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from deepgps_core.dataset import InputError, read_field_tiff
from opengps import storage
from opengps.database import Submission
from opengps.export import export_dataset
from opengps.intake import COMPARE
from opengps.jobs import Claim
from opengps.prediction import (
    catalog,
    compared_mutants,
    mutants_of,
    paths_of,
    predict,
    summary_of,
    title_of,
)

Progress = Callable[[int, int], None]


def execute(engine: Engine, settings: Mapping[str, Any], held: Claim, progress: Progress) -> None:
    """
    Do a job and write the results of this attempt.

    Raises
    ------
    InputError
        If what the user gave cannot be used after all, as when no nucleus is found.
    OSError
        If the disk is full.
    """
    run = _compare if held.kind == COMPARE else _predict
    with storage.new_result(settings["DATA"], held.id, held.attempt) as folder:
        run(engine, settings, held, folder, progress)


def _model_path(settings: Mapping[str, Any], name: str) -> str:
    found = paths_of(tuple(settings["MODELS"])).get(name)
    if found is None:
        raise InputError(f"model {name!r} is no longer offered; choose another.")
    return found


def _predict(
    engine: Engine, settings: Mapping[str, Any], held: Claim, folder: Path, progress: Progress
) -> None:
    from deepgps_core.outputs import write_results

    model, sequences = _model_path(settings, held.params["model"]), held.params["sequences"]
    mutations = held.params.get("mutations", [])
    predicted, _ = predict(
        model, {**sequences, **mutants_of(sequences, mutations)},
        storage.load_inputs(settings["DATA"], held.id),
        pixel_size_um=held.params["pixel_size_um"], max_nuclei=settings["MAX_NUCLEI"],
        samples=held.params.get("samples", 0), progress=progress,
    )  # fmt: skip
    assert predicted.nuclear_images is not None and predicted.images_by_nucleus is not None
    np.save(folder / "nuclei.npy", storage.to_uint8(predicted.nuclear_images))
    np.save(folder / "drawn.npy", storage.to_uint8(predicted.images_by_nucleus))
    if predicted.samples is not None and predicted.spread is not None:
        np.save(folder / "samples.npy", storage.to_uint8(predicted.samples))
        # deviations are small beside intensities: stretched, as the page says
        brightest = max(float(predicted.spread.max()), 1e-6)
        np.save(folder / "spread.npy", storage.to_uint8(predicted.spread / brightest))
    info = catalog(tuple(settings["MODELS"]))[held.params["model"]]
    compared = compared_mutants(model, sequences, mutations)
    write_results(predicted, info, folder / "files", mutations=compared)
    storage.zip_folder(folder / "files", folder / "results.zip")
    storage.zip_folder(folder / "files" / "images", folder / "images.zip")
    storage.write_json(summary_of(predicted, info, compared), folder / "summary.json")


def _compare(
    engine: Engine, settings: Mapping[str, Any], held: Claim, folder: Path, progress: Progress
) -> None:
    from deepgps_core.predictor import load_predictor
    from opengps.comparison import compare, write_comparison

    with Session(engine) as session:
        rows = session.scalars(
            select(Submission).where(Submission.job_id == held.id).order_by(Submission.number)
        ).all()
        session.expunge_all()
    name = held.params["model"]
    predictor = load_predictor(_model_path(settings, name))
    results: list[dict[str, Any]] = []
    for row in rows:
        field = read_field_tiff(storage.submitted_path(settings["DATA"], row.image))
        about = {
            "protein_id": row.protein_id, "locations": row.locations, "cell_line": row.cell_line,
            "file_name": row.file_name, "n_residues": len(row.sequence),
        }  # fmt: skip
        try:
            found = compare(
                predictor, row.protein_id, row.sequence, field, row.pixel_size_um,
                settings["MAX_NUCLEI"], lambda done, total: progress(len(results), len(rows)),
            )  # fmt: skip
        except InputError as error:  # one image without a nucleus does not spoil the others
            results.append(about | {"error": str(error)})
        else:
            stacks = np.stack([found.nuclei, found.measured, found.drawn])
            np.save(folder / f"cells_{row.number}.npy", storage.to_uint8(stacks))
            results.append(about | found.summary)
        progress(len(results), len(rows))
    write_comparison(results, folder / "comparison.csv")
    export_dataset(engine, settings, folder / "dataset", held.id)
    storage.zip_folder(folder / "dataset", folder / "dataset.zip")
    shutil.rmtree(folder / "dataset")
    info = catalog(tuple(settings["MODELS"]))[name]
    storage.write_json(
        {
            "model": info.name, "title": title_of(info), "notice": info.notice,
            "labels": list(info.labels), "submissions": results,
            "pixel_size_um": info.scale.pixel_size_um,
        },
        folder / "summary.json",
    )  # fmt: skip
