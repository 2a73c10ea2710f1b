"""
Published weights: ESM-2 of any size, and StarDist's models of fluorescence images.

The paper uses ESM-2 with 650M parameters and a StarDist model it does not name. Both are optional
here: the package carries small models of its own. fair-esm publishes no checksums, so the
SHA-256 of the first download is kept in ``sources.lock.yaml`` beside the files, and a later
download that differs is refused; StarDist's registry states the hash of each archive. Nothing is
unpickled: whoever loads the files does so with ``weights_only`` (`deepgps_core.encoders`), and an
archive is unpacked only if all of it belongs to a model folder.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from deepgps_core.dataset import InputError, data_root
from deepgps_core.sources.transfer import FetchReport, Remote, fetch_all

ESM_BASE = "https://dl.fbaipublicfiles.com/fair-esm/"
ESM_LICENCE = "MIT (fair-esm, Meta AI)"
#: Published sizes: layers, width and the bytes of the weights file, rounded.
ESM2_MODELS: Mapping[str, tuple[int, int, float]] = MappingProxyType(
    {
        "esm2_t6_8M_UR50D": (6, 320, 30e6),
        "esm2_t12_35M_UR50D": (12, 480, 136e6),
        "esm2_t30_150M_UR50D": (30, 640, 593e6),
        "esm2_t33_650M_UR50D": (33, 1280, 2.605e9),
        "esm2_t36_3B_UR50D": (36, 2560, 5.7e9),
        "esm2_t48_15B_UR50D": (48, 5120, 30e9),
    }
)
STARDIST_BASE = "https://github.com/stardist/stardist-models/releases/download/v0.1/"
STARDIST_LICENCE = "BSD-3 (StarDist)"
#: SHA-256 of the archives, as StarDist 0.9.2 registers them.
STARDIST_MODELS: Mapping[str, str] = MappingProxyType(
    {
        "2D_versatile_fluo": "4ad678d0758eed6e55625f1b5ae30771e59adb79f1239e09b9772eac8846c3dd",
        "2D_paper_dsb2018": "4c11cf68512341d9e8ce3d1278c64ceb8ac400582739f85fcab079a2e82840d2",
    }
)
#: What a StarDist model folder consists of; an archive may hold nothing else that matters.
_MODEL_FILES = ("config.json", "thresholds.json", "weights_best.h5")
_OTHER_FILES = ("weights_last.h5", "weights_now.h5", "TF_SavedModel.zip")
MAX_MODEL_BYTES = 500_000_000
MAX_MEMBERS = 100


def weights_folder() -> Path:
    """Return where weights lie: ``weights`` under the data root."""
    return data_root() / "weights"


def fetch_esm2(
    model: str = "esm2_t33_650M_UR50D",
    folder: Path | str | None = None,
    *,
    base: str = ESM_BASE,
    load: Callable[[Path], object] | None = None,
    dry_run: bool = False,
) -> tuple[Path, FetchReport]:
    """
    Fetch an ESM-2 and its contact-regression file.

    Parameters
    ----------
    model : str
        One of `ESM2_MODELS`.
    folder : Path or str, optional
        By default `weights_folder`, where `load_encoder` finds the model by name.
    load : callable, optional
        Gets the path of the weights and raises InputError if they are no ESM-2
        (``deepgps_core.esm2.load_network``).

    Returns
    -------
    path : Path
        Of the weights.
    report : FetchReport

    Raises
    ------
    InputError
        If no such model is published, or `load` refuses the file.
    """
    if model not in ESM2_MODELS:
        raise InputError(f"{model}: no published ESM-2; choose of {', '.join(ESM2_MODELS)}.")
    folder = Path(folder or weights_folder())
    files = [
        Remote(f"{base}models/{model}.pt", f"{model}.pt"),
        Remote(f"{base}regression/{model}-contact-regression.pt", f"{model}-contact-regression.pt"),
    ]
    report = fetch_all(files, folder, workers=2, dry_run=dry_run, licence=ESM_LICENCE)
    if dry_run and report.planned:  # the server states no sizes before it is asked
        report.bytes = int(ESM2_MODELS[model][2]) * (f"{model}.pt" in report.planned)
        report.unsized = 0
    path = folder / f"{model}.pt"
    if load and not dry_run and path.name not in report.failed:
        load(path)
    return path, report


def _check_members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """Return file name -> member of one model folder; refuse what no model archive has."""
    members: dict[str, zipfile.ZipInfo] = {}
    if len(archive.infolist()) > MAX_MEMBERS:
        raise InputError(f"{path}: over {MAX_MEMBERS} members, so no StarDist model; remove it.")
    for member in archive.infolist():
        name = PurePosixPath(member.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or ":" in member.filename:
            raise InputError(f"{path}: member {member.filename!r} leaves its folder; remove it.")
        if member.is_dir() or name.name in _OTHER_FILES or "__MACOSX" in name.parts:
            continue
        if name.name in _MODEL_FILES:
            if name.name in members:
                raise InputError(f"{path}: two files {name.name}, so no single model; remove it.")
            members[name.name] = member
    missing = [name for name in _MODEL_FILES if name not in members]
    if missing:
        raise InputError(f"{path}: no StarDist model ({missing[0]} is missing); remove it.")
    return members


def unpack_model(path: Path | str, folder: Path | str) -> Path:
    """
    Unpack a StarDist archive into a model folder, all of it or nothing.

    Parameters
    ----------
    path, folder : Path or str
        The archive, and the folder to make; an older one is replaced.

    Raises
    ------
    InputError
        If the archive is damaged or no model, a member's name leaves the folder, or it
        unpacks to over 500 MB.
    """
    path, folder = Path(path), Path(folder)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    temporary.mkdir(parents=True)
    try:
        with zipfile.ZipFile(path) as archive:
            left = MAX_MODEL_BYTES
            for name, member in _check_members(archive, path).items():
                with archive.open(member) as source, open(temporary / name, "wb") as target:
                    # counted while unpacking: what the directory states may be a lie
                    while block := source.read(1 << 20):
                        left -= len(block)
                        if left < 0:
                            raise InputError(
                                f"{path}: unpacks to over {MAX_MODEL_BYTES:,} bytes; remove it."
                            )
                        target.write(block)
        json.loads((temporary / "config.json").read_text(encoding="utf-8"))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: damaged ({error}); remove it and fetch again.") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def fetch_stardist(
    model: str = "2D_versatile_fluo",
    folder: Path | str | None = None,
    *,
    base: str = STARDIST_BASE,
    sha256: str | None = None,
    dry_run: bool = False,
) -> tuple[Path, FetchReport]:
    """
    Fetch one of StarDist's published models.

    Parameters
    ----------
    model : str
        One of `STARDIST_MODELS`.
    folder : Path or str, optional
        By default `weights_folder`.
    sha256 : str, optional
        In place of the registered one, for a copy of another release.

    Returns
    -------
    path : Path
        The model's folder, for ``NucleusSegmenter`` and ``deepgps prepare --model``.
    report : FetchReport

    Raises
    ------
    InputError
        If no such model is registered, or the archive is not what it should be.
    """
    if model not in STARDIST_MODELS:
        raise InputError(f"{model}: no model of StarDist; choose of {', '.join(STARDIST_MODELS)}.")
    folder = Path(folder or weights_folder())
    archive = Remote(
        f"{base}python_{model}.zip", f"python_{model}.zip", sha256=sha256 or STARDIST_MODELS[model]
    )
    report = fetch_all([archive], folder, workers=1, dry_run=dry_run, licence=STARDIST_LICENCE)
    if not dry_run and not report.failed:
        unpack_model(folder / archive.path, folder / model)
    return folder / model, report
