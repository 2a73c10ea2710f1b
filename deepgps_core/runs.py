"""
The run folder: everything a trained model leaves behind, and the configuration that made it.

``runs/<dataset>/<model>-<fusion>/<split>/<seed>/`` holds ``config.yaml`` (written last: a folder
without it is not a finished run), ``model.safetensors``, ``history.csv`` and the predictions
``proteins.csv`` and ``crops.csv``. Opening one needs neither the dataset nor Lightning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from deepgps_core.dataset import InputError, atomic_path, config_hash, data_root, read_table
from deepgps_core.families import build_model, config_class
from deepgps_core.model import DeepGPS, DeepGPSConfig


@dataclass(frozen=True)
class TrainingConfig:
    """
    How a model is trained; the defaults are the published settings (paper's released code).

    Parameters
    ----------
    name : str
        Name of the model in paths; by default "single-K".
    labels : tuple of str
        Classes in the order of the outputs; by default the dataset's first K.
    encoder : str
        Whose sequence vectors are read from the dataset.
    epochs, batch_size : int
    learning_rate, lr_gamma : float
        Of AdamW, multiplied by `lr_gamma` after each epoch.
    sequence_learning_rate : float, optional
        Of projection and label head; by default the same as of the image branch. A few hundred
        proteins are learned by heart long before any image is drawn well.
    weight_decay : float
    label_weight : float
        Weight of the label loss beside the image loss.
    structures : str
        Name of the dataset's point clouds, for a model whose inputs include structures.
    orthogonality_weight : float
        Weight of PointNet's penalty on its feature transform; not in the published loss.
    initial_run : str
        Folder of a finished run, below the data root, whose weights training goes on from (fine
        tuning); by default the seed decides the first weights.
    select_by : str
        Whose validation minimum names the weights that are kept: "loss" (both, weighted) or
        "image_loss". Labels of a few hundred proteins are soon overfitted, images are not.
    seed : int
        Decides the initial weights, the order of crops and the augmentation.
    crops_per_protein : int, optional
        At most so many crops of a protein in an epoch, new ones each time.
    augment : bool
        Flip and rotate training crops.
    augment_intensity : float
        Change the brightness and the contrast of training nuclei at random, by at most so much in
        natural logarithm (0.2: by a fifth); 0, as published, leaves them.
    standardize_features : bool
        Give each feature mean 0 and standard deviation 1 over the training proteins.
    precision : str
        "32-true", "bf16-mixed", or "auto": bf16 where the hardware computes in it.
    channels_last, compile : bool
        Memory layout and compilation of the network; results agree within rounding.
    lean : bool
        Leave out biases and copies that change nothing, see `unet.make_lean`; losses of training
        agree within rounding. Off by default: the published code trains such biases.
    devices : int
        Devices of this machine; under ``torchrun`` as many as it starts processes.
    """

    name: str = ""
    labels: tuple[str, ...] = ()
    encoder: str = "embedded"
    epochs: int = 50
    batch_size: int = 32
    learning_rate: float = 2e-4
    lr_gamma: float = 0.9
    sequence_learning_rate: float | None = None
    weight_decay: float = 0.0
    label_weight: float = 1.0
    select_by: str = "loss"
    seed: int = 0
    crops_per_protein: int | None = None
    augment: bool = False
    augment_intensity: float = 0.0
    standardize_features: bool = False
    precision: str = "32-true"
    channels_last: bool = True
    compile: bool = False
    lean: bool = False
    devices: int = 1
    structures: str = ""
    orthogonality_weight: float = 0.0
    initial_run: str = ""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "devices"):
            if getattr(self, name) <= 0:
                raise InputError(f"training: {name} is {getattr(self, name)}; give more than 0.")
        if self.augment_intensity < 0:
            raise InputError(
                f"training: augment_intensity is {self.augment_intensity}; give 0 or more."
            )
        if self.select_by not in ("loss", "image_loss"):
            raise InputError(
                f"training: select_by {self.select_by!r} is unknown; choose loss or image_loss."
            )
        if self.precision not in ("auto", "32-true", "bf16-mixed"):
            raise InputError(
                f"training: precision {self.precision!r} is unknown; choose auto, 32-true or "
                "bf16-mixed."
            )

    def resolved_precision(self) -> str:
        """Return "32-true" or "bf16-mixed", asking the hardware where it says "auto"."""
        if self.precision != "auto":
            return self.precision
        if torch.cuda.is_available():
            fast = torch.cuda.is_bf16_supported()
        else:  # without these instructions half precision is emulated, and slower
            fast = torch.cpu._is_avx512_bf16_supported()
        return "bf16-mixed" if fast else "32-true"


@dataclass(frozen=True)
class Run:
    """
    A finished run, opened.

    Parameters
    ----------
    path : Path
        Its folder.
    dataset_name, split_name : str
    labels : tuple of str
        Classes in the order of the outputs.
    images : str
        "measured" or "simulated": what it was trained on.
    field_pixel_size_um, pixel_size_um : float
        Of the fields, and of the images the network takes, which may have been averaged down.
    data : str
        Fingerprint of the data it was trained on.
    """

    path: Path
    dataset_name: str
    split_name: str
    labels: tuple[str, ...]
    images: str
    field_pixel_size_um: float
    pixel_size_um: float
    data: str
    model_config: DeepGPSConfig
    training_config: TrainingConfig

    @cached_property
    def model(self) -> DeepGPS:
        """The network with its best weights, ready to predict, on the CPU."""
        path = self.path / "model.safetensors"
        model = build_model(self.model_config)
        try:
            model.load_state_dict(load_file(path))
        except FileNotFoundError:
            raise InputError(f"{path}: weights not found; train the model again.") from None
        except (SafetensorError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise InputError(
                f"{path}: damaged or of another model ({reason}); train it again."
            ) from None
        # convolutions draw up to half faster so, on a processor too
        return model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row an epoch: losses, validation accuracy, learning rate, seconds."""
        return self._numbers("history.csv", ("epoch",))

    @cached_property
    def proteins(self) -> pd.DataFrame:
        """One row a protein: split, label, predicted_label, ``p_<label>``, n_crops."""
        return self._numbers("proteins.csv", ("protein_id", "split", "label", "predicted_label"))

    @cached_property
    def crops(self) -> pd.DataFrame:
        """One row a validation or test crop: crop_id, protein_id, split, image and label loss."""
        return self._numbers("crops.csv", ("crop_id", "protein_id", "split"))

    def _numbers(self, name: str, text_columns: tuple[str, ...]) -> pd.DataFrame:
        frame = read_table(self.path / name, text_columns, "train the model again")
        text = {"crop_id", "protein_id", "split", "label", "predicted_label"}
        text |= {"predicted_locations"}
        for column in frame.columns.difference(sorted(text)):
            frame[column] = pd.to_numeric(frame[column])
        return frame

    def to_mapping(self) -> dict[str, Any]:
        """Return what ``config.yaml`` says, in plain types."""
        content = {name: getattr(self, name) for name in _RUN_FIELDS} | {
            "model": dataclasses.asdict(self.model_config),
            "training": dataclasses.asdict(self.training_config),
        }
        content["labels"] = list(self.labels)
        content["training"]["labels"] = list(self.training_config.labels)
        return content

    @property
    def hash(self) -> str:
        """16 hexadecimal digits: equal for runs that would give the same results."""
        return config_hash(self.to_mapping())


_RUN_FIELDS = (
    "dataset_name", "split_name", "labels", "images", "field_pixel_size_um", "pixel_size_um",
    "data",
)  # fmt: skip


def default_run_path(
    dataset_name: str, model_name: str, fusion: str, split_name: str, seed: int
) -> Path:
    """Return the place of a run under the data root."""
    return data_root() / "runs" / dataset_name / f"{model_name}-{fusion}" / split_name / str(seed)


def run_from_mapping(path: Path, content: Mapping[str, Any]) -> Run:
    """
    Read back what `Run.to_mapping` gave.

    Raises
    ------
    InputError
        If a setting is missing or unknown.
    """
    try:
        training = content["training"] | {"labels": tuple(content["training"]["labels"])}
        return Run(
            path=path,
            model_config=config_class(content["model"])(**content["model"]),
            training_config=TrainingConfig(**training),
            **{name: content[name] for name in _RUN_FIELDS} | {"labels": tuple(content["labels"])},
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path / 'config.yaml'}: no description of a run ({error}); train the model again."
        ) from None


def read_config(path: Path) -> Run:
    """
    Read a ``config.yaml`` of a run, finished or not.

    Raises
    ------
    InputError
        If it is missing or malformed.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{path}: not found, so {path.parent} is no finished run; "
            "make one with `deepgps train`."
        ) from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: not YAML ({reason}); train the model again.") from None
    return run_from_mapping(path.parent, content)


def load_run(path: Path | str) -> Run:
    """
    Open a finished run.

    Parameters
    ----------
    path : Path or str
        Its folder.

    Raises
    ------
    InputError
        If the folder holds no finished run.
    """
    return read_config(Path(path) / "config.yaml")


def save_weights(model: DeepGPS, path: Path) -> None:
    """Write a copy of the weights as they are now, atomically."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)
