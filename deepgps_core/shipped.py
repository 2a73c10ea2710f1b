"""
The small models that ship: ensembles of label heads, and a network that draws what they think.

The label needs no image, so five label heads a model were trained on the packaged proteins of the
training side, each without a different fifth of them. The image branch, one for all three models,
is the deepGPS network (`deepgps_core.model`); in place of the language model's vector it is given
the ensemble's opinion, the log odds of its calibrated probabilities, so that picture and label
cannot contradict each other. `deepgps_core.shipped_recipe` trains them. Half precision, no pickle:
``<name>.safetensors`` and ``<name>.yaml`` a model, ``painter.*`` for the image branch;
``<name>.csv`` holds what a model says of the proteins it was not trained on.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from deepgps_core.calibration import member_probabilities
from deepgps_core.dataset import InputError, atomic_path, read_table, write_yaml
from deepgps_core.model import DeepGPS, DeepGPSConfig, SequenceHead

MODELS_PATH = Path(__file__).parent / "data" / "models"
SHIPPED = ("single-2", "single-4", "all")
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class HeadConfig:
    """
    The label heads of an ensemble.

    Parameters
    ----------
    encoder : str
        Whose sequence vectors they read.
    sequence_dim, hidden_dim, n_classes : int
        Shape of each: D -> hidden -> hidden / 2 -> hidden / 4 -> K.
    n_members : int
    multi_label : bool
        Each class by itself, for proteins in several places.
    temperature : float
        By which logits are divided; fitted on validation proteins.
    """

    encoder: str
    sequence_dim: int
    hidden_dim: int
    n_classes: int
    n_members: int
    multi_label: bool = False
    temperature: float = 1.0


class LabelEnsemble(nn.Module):
    """Several label heads that differ in seed and in the fifth of proteins they never saw."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        shape = DeepGPSConfig(
            sequence_dim=config.sequence_dim, hidden_dim=config.hidden_dim,
            n_classes=config.n_classes,
        )  # fmt: skip
        self.members = nn.ModuleList(SequenceHead(shape) for _ in range(config.n_members))

    @torch.inference_mode()
    def logits(self, vectors: np.ndarray) -> np.ndarray:
        """Return (members, N, K) of sequence vectors (N, D)."""
        features = torch.as_tensor(vectors, dtype=torch.float32)
        return torch.stack([member(features)[1] for member in self.members]).numpy()

    def probabilities(self, vectors: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities (members, N, K) of sequence vectors (N, D)."""
        return member_probabilities(
            self.logits(vectors), self.config.temperature, multi_label=self.config.multi_label
        )


def opinion(probabilities: np.ndarray, labels: Sequence[str], places: Sequence[str]) -> np.ndarray:
    """
    Return what the image branch is told: log odds of each place it can draw.

    Parameters
    ----------
    probabilities : ndarray, shape (N, K)
        Of `labels`.
    places : sequence of str
        What the image branch knows; those that are no label count as ruled out.

    Returns
    -------
    told : ndarray, shape (N, places), dtype float32
        Between the log odds of 1 in 20 and of 19 in 20: in training it hardly met more certainty.

    Examples
    --------
    >>> opinion(np.array([[0.5, 1.0]]), ("b", "a"), ("a", "b", "c")).round().tolist()
    [[3.0, 0.0, -3.0]]
    """
    by_place = np.zeros((len(probabilities), len(places)))
    for k, label in enumerate(labels):
        by_place[:, places.index(label)] = probabilities[:, k]
    p = np.clip(by_place, 0.05, 0.95)
    return np.log(p / (1 - p)).astype(np.float32)


@dataclass(frozen=True)
class Painter:
    """
    The image branch, opened.

    Parameters
    ----------
    places : tuple of str
        Whose log odds it takes, in this order.
    images : str
        "simulated" or "measured": what it learned from.
    field_pixel_size_um, pixel_size_um : float
        Of the fields, and of the images the network takes.
    network : DeepGPS
    card : mapping
        How it was trained and what it scored, for people to read.
    """

    places: tuple[str, ...]
    images: str
    field_pixel_size_um: float
    pixel_size_um: float
    network: DeepGPS
    card: Mapping[str, Any]


@dataclass(frozen=True)
class ShippedModel:
    """
    A shipped model, opened: its label heads, and the image branch it shares with the others.

    Parameters
    ----------
    name, title : str
    labels : tuple of str
    heads : LabelEnsemble
    card : mapping
        How it was trained and what it scored, for people to read.
    """

    name: str
    title: str
    labels: tuple[str, ...]
    heads: LabelEnsemble
    card: Mapping[str, Any]


_PAINTER_FIELDS = ("places", "images", "field_pixel_size_um", "pixel_size_um")


def _save(module: nn.Module, stem: Path, content: dict[str, Any]) -> None:
    """Write weights in half precision, then what they are."""
    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in module.state_dict().items()
    }
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor.float()).all():
            raise InputError(f"{stem}: {name} is too large for half precision; train again.")
    stem.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(stem.with_name(f"{stem.name}.safetensors")) as temporary:
        save_file(tensors, temporary)
    plain = json.loads(json.dumps(content))  # tuples become lists, which YAML can say
    write_yaml(plain, stem.with_name(f"{stem.name}.yaml"))


def _load(module: Module, stem: Path) -> Module:
    """Read weights into a module, in full precision."""
    path = stem.with_name(f"{stem.name}.safetensors")
    try:
        tensors = {
            name: tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in load_file(path).items()
        }
        module.load_state_dict(tensors)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: missing or damaged ({reason}); install again.") from None
    # convolutions draw up to half faster so, on a processor too
    return module.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def save_shipped(model: ShippedModel, folder: Path = MODELS_PATH) -> None:
    """Write the label heads of a model and their card."""
    content = {
        "name": model.name, "title": model.title, "labels": model.labels,
        "heads": dataclasses.asdict(model.heads.config), "card": dict(model.card),
    }  # fmt: skip
    _save(model.heads, folder / model.name, content)


def save_painter(painter: Painter, folder: Path = MODELS_PATH) -> None:
    """Write the image branch and its card."""
    content = {field: getattr(painter, field) for field in _PAINTER_FIELDS} | {
        "network": dataclasses.asdict(painter.network.config),
        "card": dict(painter.card),
    }
    _save(painter.network, folder / "painter", content)


def read_card(name: str, folder: Path = MODELS_PATH) -> dict[str, Any]:
    """
    Read what a shipped model, or "painter", says of itself, without its weights.

    Raises
    ------
    InputError
        If there is no such model.
    """
    path = folder / f"{name}.yaml"
    try:
        content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path}: no model {name!r} ships; choose one of {', '.join(SHIPPED)}, or give the "
            "folder of a run."
        ) from None
    return content


def load_shipped(name: str, folder: Path = MODELS_PATH) -> ShippedModel:
    """
    Open the label heads of a model that ships with the package.

    Raises
    ------
    InputError
        If there is no such model, or its weights are damaged.
    """
    content = read_card(name, folder)
    heads = _load(LabelEnsemble(HeadConfig(**content["heads"])), folder / name)
    return ShippedModel(name, content["title"], tuple(content["labels"]), heads, content["card"])


@lru_cache(maxsize=2)
def load_painter(folder: Path = MODELS_PATH) -> Painter:
    """
    Open the image branch of the shipped models.

    Raises
    ------
    InputError
        If its weights are missing or damaged.
    """
    content = read_card("painter", folder)
    network = _load(DeepGPS(DeepGPSConfig(**content["network"])), folder / "painter")
    fields = {name: content[name] for name in _PAINTER_FIELDS} | {
        "places": tuple(content["places"])
    }
    return Painter(**fields, network=network, card=content["card"])


def held_out_predictions(name: str, folder: Path = MODELS_PATH) -> pd.DataFrame:
    """
    Return what a shipped model says of the proteins it was not trained on.

    Returns
    -------
    proteins : DataFrame
        Columns protein_id, split (validation or test; no homology cluster is in two parts),
        locations, ``p_<label>``, spread: calibrated probabilities, and the standard deviation
        over members of that of the likeliest label.
    """
    text = ["protein_id", "split", "locations"]
    frame = read_table(folder / f"{name}.csv", tuple(text), "install deepgps-core again")
    for column in frame.columns.difference(text):
        frame[column] = pd.to_numeric(frame[column])
    return frame
