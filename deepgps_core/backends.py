"""
What stands behind a `deepgps_core.predictor.Predictor`: a shipped model, or runs.

A backend says what it thinks of sequences once, and draws it beside as many nuclei as asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn, Protocol

import numpy as np
import torch
from torch import Tensor

from deepgps_core.dataset import InputError
from deepgps_core.encoders import SequenceEncoder, load_encoder
from deepgps_core.generative import Sampling, sample
from deepgps_core.predict import reflect_to_multiple
from deepgps_core.residues import pad_residues
from deepgps_core.runs import Run
from deepgps_core.shipped import Painter, ShippedModel, opinion

#: Images drawn at once.
BATCH = 16


@dataclass(frozen=True)
class Described:
    """
    What a model thinks of N proteins before it has seen a nucleus.

    Parameters
    ----------
    probabilities : ndarray, shape (members, N, K)
    condition : ndarray, shape (N, D), dtype float32
        What the image branch is given.
    residues : list of ndarray, shape (L, D)
        Per-residue vectors, for a fusion that reads them.
    """

    probabilities: np.ndarray
    condition: np.ndarray
    residues: Sequence[np.ndarray] = ()


class Backend(Protocol):
    """What a predictor needs of a model."""

    def describe(self, sequences: Mapping[str, str]) -> Described:
        """Say what the model thinks of sequences."""
        ...

    def draw(self, described: Described, nucleus: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield rows of the proteins, and their images (rows, H, W) beside a nucleus (H, W)."""
        ...

    def check_samples(self, name: str) -> None:
        """Raise InputError unless the model can draw several images of the same protein."""
        ...

    def sample(
        self, sequences: Mapping[str, str], nucleus: np.ndarray, n_samples: int
    ) -> np.ndarray:
        """Draw n_samples images of each protein beside a nucleus (H, W), (N, n_samples, H, W)."""
        ...


@lru_cache(maxsize=2)
def cached_encoder(name: str) -> SequenceEncoder:
    """Return an encoder, loaded once."""
    return load_encoder(name)


def _vectors(encoder: SequenceEncoder, sequences: Mapping[str, str]) -> np.ndarray:
    found = encoder.embed(sequences)
    return np.stack([found[name] for name in sequences]).astype(np.float32)


def _refuse_samples(name: str) -> NoReturn:
    raise InputError(
        f"model {name!r} draws one image a nucleus, always the same; samples need a model that "
        "generates (chapter 19): give its run folder as the model, or leave samples out."
    )


class ShippedBackend:
    """A shipped model: label heads on the language model's vectors, images from their opinion."""

    def __init__(self, model: ShippedModel, painter: Painter) -> None:
        self.model, self.painter = model, painter
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        painter.network.to(self.device)

    def describe(self, sequences: Mapping[str, str]) -> Described:
        """Say what the label heads think."""
        heads = self.model.heads
        members = heads.probabilities(_vectors(cached_encoder(heads.config.encoder), sequences))
        return Described(
            members, opinion(members.mean(axis=0), self.model.labels, self.painter.places)
        )

    @torch.inference_mode()
    def draw(self, described: Described, nucleus: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Draw what the label heads think."""
        painter = self.painter.network
        padded = reflect_to_multiple(nucleus, 2**painter.config.depth)
        image = torch.from_numpy(padded)[None, None].to(self.device)
        height, width = nucleus.shape
        for start in range(0, len(described.condition), BATCH):
            rows = slice(start, start + BATCH)
            condition = torch.from_numpy(described.condition[rows]).to(self.device)
            drawn = painter(image.expand(len(condition), -1, -1, -1), condition).image
            yield rows, drawn[:, 0, :height, :width].cpu().numpy()

    def check_samples(self, name: str) -> None:
        """Refuse: the same input always gives the same image."""
        _refuse_samples(name)

    def sample(
        self, sequences: Mapping[str, str], nucleus: np.ndarray, n_samples: int
    ) -> np.ndarray:
        """Refuse, too."""
        _refuse_samples(", ".join(self.model.labels))


class RunBackend:
    """Runs of one shape: probabilities of each, the mean of their images."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        config = runs[0].model_config
        if config.inputs != "sequence":
            raise InputError(
                f"{runs[0].path}: was trained on inputs={config.inputs!r} and needs structures; "
                "use a run of sequences."
            )
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.models = [run.model.to(self.device) for run in runs]

    @torch.inference_mode()
    def describe(self, sequences: Mapping[str, str]) -> Described:
        """Say what each run's label head thinks."""
        encoder = cached_encoder(self.runs[0].training_config.encoder)
        vectors = _vectors(encoder, sequences)
        features = torch.from_numpy(vectors).to(self.device)
        members = [model.probabilities(model.describe(features)[1]) for model in self.models]
        residues: list[np.ndarray] = []
        if self.runs[0].model_config.needs_residues:
            by_residue = encoder.embed(sequences, per_residue=True)
            residues = [by_residue[name] for name in sequences]
        return Described(torch.stack(members).cpu().double().numpy(), vectors, residues)

    @torch.inference_mode()
    def draw(self, described: Described, nucleus: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Draw with each run and average."""
        padded = reflect_to_multiple(nucleus, 2 ** self.runs[0].model_config.depth)
        image = torch.from_numpy(padded)[None, None].to(self.device)
        height, width = nucleus.shape
        for start in range(0, len(described.condition), BATCH):
            rows = slice(start, start + BATCH)
            condition = torch.from_numpy(described.condition[rows]).to(self.device)
            limit = self.runs[0].model_config.max_residues
            residues = (
                pad_residues(described.residues[rows], self.device, limit)
                if described.residues
                else None
            )
            nuclei = image.expand(len(condition), -1, -1, -1)
            drawn: list[Tensor] = [
                model(nuclei, condition, residues=residues).image for model in self.models
            ]
            mean = torch.stack(drawn).mean(dim=0)
            yield rows, mean[:, 0, :height, :width].cpu().numpy()

    def check_samples(self, name: str) -> None:
        """Refuse: the same input always gives the same image."""
        _refuse_samples(name)

    def sample(
        self, sequences: Mapping[str, str], nucleus: np.ndarray, n_samples: int
    ) -> np.ndarray:
        """Refuse, too."""
        _refuse_samples(self.runs[0].path.name)


class FlowBackend(RunBackend):
    """Runs that generate: as many images as asked for, shared out among the runs."""

    def check_samples(self, name: str) -> None:
        """Accept: each noise gives another image."""

    def sample(
        self, sequences: Mapping[str, str], nucleus: np.ndarray, n_samples: int
    ) -> np.ndarray:
        """Draw with each run its share of the samples, each of another seed."""
        encoder = cached_encoder(self.runs[0].training_config.encoder)
        padded = reflect_to_multiple(nucleus, 2 ** self.runs[0].model_config.depth)
        height, width = nucleus.shape
        drawn = []
        for seed, part in enumerate(np.array_split(np.arange(n_samples), len(self.runs))):
            how = Sampling(n_samples=len(part), seed=seed, batch_size=BATCH)
            if len(part):
                drawn.append(
                    sample(self.runs[seed], sequences, padded[None], how, encoder=encoder)[:, 0]
                )
        return np.concatenate(drawn, axis=1)[..., :height, :width]
