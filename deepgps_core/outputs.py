"""
From files to files: a FASTA and a nucleus image in, a folder of labels, images and a report out.

All inputs are read and checked before anything is computed, and the folder appears whole or not
at all; but labels alone, of a whole proteome, are written as they come (`label_files`).
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
import yaml
from tqdm import tqdm

from deepgps_core import __version__
from deepgps_core.dataset import InputError, config_hash, sha256_of, write_yaml
from deepgps_core.encoders import LONGEST_PROTEIN
from deepgps_core.mutations import compare_mutants, mutate
from deepgps_core.predict import Predicted, read_nuclear_image
from deepgps_core.predictor import ModelInfo, Predictor, load_predictor
from deepgps_core.report import png_bytes, render_report
from deepgps_core.shipped import MODELS_PATH, SHIPPED
from deepgps_core.sources.uniprot import read_fasta


def file_stem(number: int, protein_id: str) -> str:
    """
    Return a file name for a protein that is unique by its number and harmless on any system.

    Examples
    --------
    >>> file_stem(3, "../sp|P04637|P53")
    '0003_sp_P04637_P53'
    """
    cleaned = re.sub(r"[^A-Za-z0-9-]+", "_", protein_id).strip("_")[:60]
    return f"{number:04d}_{cleaned}" if cleaned else f"{number:04d}"


def _as_uint16(image: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(image, 0, 1) * 65535).astype(np.uint16)


def _write_tiff(path: Path, images: np.ndarray, pixel_size_um: float, axes: str = "ZYX") -> None:
    """Write images in [0, 1] as 16-bit pages, with the pixel size where ImageJ looks for it."""
    tifffile.imwrite(
        path, _as_uint16(images), imagej=True, resolution=(1 / pixel_size_um, 1 / pixel_size_um),
        metadata={"axes": axes, "unit": "um"},
    )  # fmt: skip


def write_results(
    predicted: Predicted,
    info: ModelInfo,
    folder: Path | str,
    *,
    mutations: pd.DataFrame | None = None,
) -> None:
    """
    Write a prediction as a new folder.

    ``predictions.csv`` (its column ``files`` names the images), ``images/<n>_<id>.png`` (beside
    the first nucleus) and ``.tif`` (16 bit, a page a nucleus), ``nuclei.tif``, ``report.html``,
    and ``mutations.csv`` where there are any. Where samples were drawn, these images are their
    means; ``<n>_<id>_spread.tif`` holds their standard deviation and ``<n>_<id>_samples.tif``
    all of them (ImageJ's Z counts nuclei, its T samples).

    Raises
    ------
    InputError
        If the folder is there already; nothing is written then.
    """
    folder = Path(folder)
    check_new(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    (temporary / "images").mkdir(parents=True)
    try:
        _write_images(predicted, temporary)
        stems = [file_stem(n, name) for n, name in enumerate(predicted.table["protein_id"])]
        table = predicted.table.assign(files=stems, model=info.name, notice=info.notice)
        write_csv(table, temporary / "predictions.csv")
        if mutations is not None:
            write_csv(mutations, temporary / "mutations.csv")
        page = render_report(predicted, info, mutations=mutations)
        (temporary / "report.html").write_text(page, encoding="utf-8")
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV in which no text can be taken for a formula."""
    path.write_bytes(_csv_text(table).encode())


def _csv_text(table: pd.DataFrame, *, header: bool = True) -> str:
    # spreadsheets run what begins like a formula; a leading apostrophe makes it text
    text = table.select_dtypes(exclude="number").columns
    safe = table.copy()
    for name in text:
        safe[name] = pd.Series([_harmless(value) for value in table[name]], index=table.index)
    return safe.to_csv(index=False, header=header, lineterminator="\n", float_format="%.5f")


def _harmless(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value


def _write_images(predicted: Predicted, folder: Path) -> None:
    images, nuclei = predicted.images_by_nucleus, predicted.nuclear_images
    if images is None or nuclei is None:
        images, nuclei = predicted.images[:, None], predicted.nuclear_image[None]
    _write_tiff(folder / "nuclei.tif", nuclei, predicted.pixel_size_um)
    for number, name in enumerate(predicted.table["protein_id"]):
        path = folder / "images" / file_stem(number, name)
        path.with_name(f"{path.name}.png").write_bytes(png_bytes(images[number, 0]))
        _write_tiff(path.with_name(f"{path.name}.tif"), images[number], predicted.pixel_size_um)
        if predicted.samples is not None:
            _write_samples(predicted.samples[number], path, predicted.pixel_size_um)


def _write_samples(samples: np.ndarray, path: Path, pixel_size_um: float) -> None:
    """Write samples (n, S, H, W) of one protein, and their standard deviation."""
    by_sample = samples.swapaxes(0, 1)  # (n, S, H, W) -> (S, n, H, W)
    _write_tiff(path.with_name(f"{path.name}_samples.tif"), by_sample, pixel_size_um, "TZYX")
    _write_tiff(path.with_name(f"{path.name}_spread.tif"), samples.std(axis=1), pixel_size_um)


def check_new(folder: Path) -> None:
    """Raise InputError if the folder is there already."""
    if folder.exists():
        raise InputError(f"{folder}: exists already; name another folder or remove it.")


def mutations_of(sequences: Mapping[str, str], mutations: Sequence[str]) -> dict[str, list[str]]:
    """
    Say which mutation is of which protein: ``ID=R12A`` of one, ``R12A`` of all.

    Raises
    ------
    InputError
        If a protein is not among the sequences.
    """
    found: dict[str, list[str]] = {name: [] for name in sequences}
    for text in mutations:
        name, equals, of_one = text.rpartition("=")
        if equals and name not in found:
            raise InputError(
                f"mutation {text[:40]!r}: no protein {name[:40]!r} in the FASTA; write its "
                "identifier before the equals sign."
            )
        for owner in [name] if equals else found:
            found[owner].append(of_one)
    return found


def predict_with_mutants(
    model: Predictor,
    sequences: Mapping[str, str],
    nuclear_image: np.ndarray | None,
    mutations: Sequence[str],
    *,
    pixel_size_um: float | None = None,
    samples: int = 0,
    max_nuclei: int = 8,
) -> tuple[Predicted, pd.DataFrame | None]:
    """
    Predict proteins and their mutants, and compare these.

    Returns
    -------
    predicted : Predicted
        Rows of the proteins, then of the mutants, named ``<id> <mutation>``.
    compared : DataFrame or None
        As `compare_mutants` returns it; None without mutations.
    """
    asked = mutations_of(sequences, mutations)
    mutants = {
        f"{name} {text}": mutate(sequences[name], text, name)
        for name, texts in asked.items()
        for text in texts
    }  # all are checked before anything is computed
    predicted = model.predict(
        {**sequences, **mutants}, nuclear_image, pixel_size_um=pixel_size_um, samples=samples,
        max_nuclei=max_nuclei,
    )  # fmt: skip
    if not mutants:
        return predicted, None
    tables = [
        compare_mutants(model, name, sequences[name], texts)
        for name, texts in asked.items()
        if texts
    ]
    return predicted, pd.concat(tables, ignore_index=True)


def predict_files(
    model: Path | str,
    fasta: Path | str,
    nucleus: Path | str | None,
    out: Path | str,
    *,
    mutations: Sequence[str] = (),
    pixel_size_um: float | None = None,
    samples: int = 0,
    max_nuclei: int = 8,
) -> Predicted:
    """
    Predict from a FASTA file and a nucleus image file, and write the results as a new folder.

    Parameters
    ----------
    model : Path or str
        As `predictor.load_predictor` takes it.
    nucleus : Path or str, optional
        None: the simulated nucleus that ships.
    out : Path or str
        A new folder, laid out as `write_results` says.

    Raises
    ------
    InputError
        If a file cannot be used, a mutation does not fit, or `out` is there already.
    """
    check_new(Path(out))
    sequences = read_fasta(Path(fasta), max_residues=LONGEST_PROTEIN)
    image = None if nucleus is None else read_nuclear_image(nucleus)
    opened = load_predictor(model)
    predicted, compared = predict_with_mutants(
        opened, sequences, image, mutations, pixel_size_um=pixel_size_um, samples=samples,
        max_nuclei=max_nuclei,
    )  # fmt: skip
    write_results(predicted, opened.info, out, mutations=compared)
    return predicted


def label_files(model: Path | str, fasta: Path | str, out: Path | str, *, block: int = 500) -> Path:
    """
    Predict labels alone from a FASTA file, of any number of proteins, a block at a time.

    Memory beyond the sequences themselves is that of one block. A call that was stopped leaves
    whole blocks; the same call goes on from there, and does nothing once all are done.

    Parameters
    ----------
    model : Path or str
        As `predictor.load_predictor` takes it.
    out : Path or str
        A folder, new or left by such a call: ``predictions.csv``, in the order of the FASTA and
        without a column ``files``, and ``labels.yaml``, what was asked and how much is done.
    block : int
        Proteins predicted, and then written, together.

    Returns
    -------
    path : Path
        Of ``predictions.csv``.

    Raises
    ------
    InputError
        If a file cannot be used, or `out` holds something else: another FASTA's or model's labels.
    """
    folder, sequences = Path(out), read_fasta(Path(fasta), max_residues=LONGEST_PROTEIN)
    asked = {"fasta_sha256": sha256_of(fasta), "model": str(model), "made_by": _identity(model)}
    path, names = folder / "predictions.csv", list(sequences)
    done, n_bytes = _labels_done(folder, asked)
    opened = load_predictor(model)
    folder.mkdir(parents=True, exist_ok=True)
    with (
        open(path, "r+b" if n_bytes else "wb") as stream,
        tqdm(total=len(names), initial=done, desc="labels", unit="protein", disable=None) as bar,
    ):
        stream.seek(n_bytes)
        stream.truncate()  # what a killed call wrote of a block
        while done < len(names):
            part = {name: sequences[name] for name in names[done : done + block]}
            table = opened.label(part).assign(model=opened.name, notice=opened.info.notice)
            stream.write(_csv_text(table, header=done == 0).encode())
            stream.flush()
            os.fsync(stream.fileno())
            done += len(part)
            progress = {"proteins": len(names), "done": done, "bytes": stream.tell()}
            write_yaml(asked | progress, folder / "labels.yaml")  # only now does the block count
            bar.update(len(part))
    return path


def _identity(model: Path | str) -> str:
    """Return a hash of a model's weights and of the version that applies them."""
    stem = MODELS_PATH / str(model)
    shipped = [stem.with_suffix(f".{end}") for end in ("yaml", "safetensors")]
    found = [*Path(model).glob("model.safetensors"), *Path(model).glob("*/model.safetensors")]
    files = shipped if str(model) in SHIPPED else sorted(found)
    return config_hash([__version__, *(sha256_of(path) for path in files)])


def _labels_done(folder: Path, asked: Mapping[str, object]) -> tuple[int, int]:
    """Return how many proteins, and bytes of their table, an earlier call has written."""
    state_path, path = folder / "labels.yaml", folder / "predictions.csv"
    if not state_path.exists():
        if folder.exists() and {item.name for item in folder.iterdir()} - {path.name}:
            check_new(folder)
        return 0, 0
    try:
        state = yaml.safe_load(state_path.read_text(encoding="utf-8"))
        done, n_bytes = int(state["done"]), int(state["bytes"])
        size = path.stat().st_size
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        raise InputError(f"{state_path}: damaged; remove the folder and repeat.") from None
    if {key: state.get(key) for key in asked} != dict(asked) or size < n_bytes:
        raise InputError(
            f"{folder}: holds labels of another FASTA or model; name another folder or remove it."
        )
    return done, n_bytes
