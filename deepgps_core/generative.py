"""
Samples of a flow run: many pictures of one protein beside one nucleus, and their score in reverse.

A picture by itself says nothing of how sure it is. Many say what stays the same and what does
not: the share of the protein in the nucleus, the number of spots, the grain. The same velocity
field, asked how well it predicts a given picture from each of many sequences, ranks them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from deepgps_core.crops import CropDataset
from deepgps_core.dataset import InputError, check_sequence
from deepgps_core.encoders import SequenceEncoder, load_encoder
from deepgps_core.flow import FlowGPS
from deepgps_core.fusions import ResidueBatch
from deepgps_core.losses import Batch
from deepgps_core.residues import pad_residues
from deepgps_core.runs import Run
from deepgps_core.samplers import draw_noise, image_key


class Sampling(NamedTuple):
    """
    How to sample; what is None is as in the run's configuration.

    Parameters
    ----------
    n_samples : int
        Of each protein beside each nucleus.
    steps, solver, guidance : int, str, float, optional
        See `deepgps_core.samplers`.
    seed : int
    batch_size : int
        Images at a time; changes nothing but speed and memory.
    """

    n_samples: int = 8
    steps: int | None = None
    solver: str | None = None
    guidance: float | None = None
    seed: int = 0
    batch_size: int = 64


DEFAULT = Sampling()


def flow_model(run: Run) -> FlowGPS:
    """
    Return a run's network on the fastest device, if it is one that samples.

    Raises
    ------
    InputError
        If the run is of another family.
    """
    if not isinstance(run.model, FlowGPS):
        raise InputError(
            f"{run.path}: this model answers with one image and draws no samples; "
            "name a run of family 'flow'."
        )
    return run.model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _faster(device: torch.device) -> AbstractContextManager[object]:
    """Compute in half precision where a GPU does the work."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


@torch.inference_mode()
def draw_samples(
    model: FlowGPS,
    nuclear_images: Tensor,
    features: Tensor,
    keys: Sequence[str],
    how: Sampling = DEFAULT,
    residues: ResidueBatch | None = None,
    places: Tensor | None = None,
) -> np.ndarray:
    """
    Draw samples of N proteins, each beside a nucleus of its own.

    Parameters
    ----------
    model : FlowGPS
        In evaluation mode.
    nuclear_images : Tensor, shape (N, 1, H, W), dtype float
        Intensities in [0, 1].
    features : Tensor, shape (N, D)
    keys : sequence of str
        Name of each pair; decides the noise, together with the seed and the sample's number.
    how : Sampling
    residues : ResidueBatch, optional
        Of the N proteins.
    places : Tensor, shape (N,), dtype int64, optional
        Class numbers to draw instead of those that the label head finds probable.

    Returns
    -------
    images : ndarray, shape (N, n_samples, H, W), dtype float32
        In [0, 1].

    Raises
    ------
    InputError
        If places are given to a model that is told the sequence, or one of them is unknown.
    """
    if places is not None and model.config.condition != "label":
        raise InputError("this flow is told the sequence, no place; leave out places.")
    if places is not None and (places < 0).any():
        raise InputError("some proteins have no single place; leave them out, or places.")
    device = next(model.parameters()).device
    height, width = nuclear_images.shape[2:]
    pairs = torch.arange(len(keys)).repeat_interleave(how.n_samples)
    names = [f"{key}/{number}" for key in keys for number in range(how.n_samples)]
    images = np.empty((len(pairs), height, width), dtype=np.float32)
    rows = torch.arange(len(pairs)).split(how.batch_size)
    for part in tqdm(rows, desc="sampling", unit="batch", disable=None):
        here = pairs[part]
        noise = draw_noise([names[i] for i in part], height, width, how.seed).to(device)
        of_these = None
        if residues is not None:
            of_these = ResidueBatch(*(x[here.to(x.device)].to(device) for x in residues))
        with _faster(device):
            hidden, logits, _ = model.describe(features[here.to(features.device)].to(device))
            owners, numbers = [keys[i] for i in here], (part % how.n_samples).tolist()
            known = None if places is None else places[here.to(places.device)].to(device)
            sequence = model.told(hidden, logits, owners, numbers, how.seed, places=known)
            nuclei = nuclear_images[here.to(nuclear_images.device)].to(device)
            drawn = model.sample(
                nuclei, sequence, noise, of_these,
                steps=how.steps, guidance=how.guidance, solver=how.solver,
            )  # fmt: skip
        images[part.numpy()] = drawn[:, 0].float().cpu().numpy()
    return images.reshape(len(keys), how.n_samples, height, width)


def sample_crops(
    run: Run, crops: CropDataset, how: Sampling = DEFAULT, *, true_places: bool = False
) -> np.ndarray:
    """
    Draw samples for crops: each protein beside the nucleus it was imaged with.

    With `true_places` a model that is told the place is told the true one: what is then still
    wrong is not the label head's fault.

    Returns
    -------
    images : ndarray, shape (N, n_samples, H, W), dtype float32
    """
    nuclei = crops.images[:, :1].float() / 255
    owners = crops.protein_index
    keys = [
        f"{crops.protein_ids[row]}/{image_key(nucleus[0])}"
        for row, nucleus in zip(owners.tolist(), nuclei, strict=True)
    ]
    residues = crops.residues_of(owners) if run.model_config.needs_residues else None
    return draw_samples(
        flow_model(run), nuclei, crops.features[owners], keys, how, residues,
        crops.labels[owners] if true_places else None,
    )  # fmt: skip


def sample(
    run: Run,
    sequences: Mapping[str, str],
    nuclear_images: np.ndarray,
    how: Sampling = DEFAULT,
    *,
    encoder: SequenceEncoder | None = None,
) -> np.ndarray:
    """
    Draw samples of each protein beside each nucleus.

    Parameters
    ----------
    run : Run
        Of family "flow".
    sequences : mapping of str to str
        protein_id -> sequence; P of them.
    nuclear_images : ndarray, shape (M, H, W), dtype float
        Intensities in [0, 1] at the run's pixel size; sides that the network can halve.
    how : Sampling
    encoder : SequenceEncoder, optional
        By default the one whose vectors the run was trained on.

    Returns
    -------
    images : ndarray, shape (P, M, n_samples, H, W), dtype float32
        In [0, 1]; the same for a protein whatever others are asked for beside it.

    Raises
    ------
    InputError
        If the run does not sample, or a sequence is no protein.
    """
    model = flow_model(run)
    checked = {name: check_sequence(name, text) for name, text in sequences.items()}
    encoder = encoder or load_encoder(run.training_config.encoder)
    vectors = encoder.embed(checked)
    names, count = list(checked), len(nuclear_images)
    features = torch.from_numpy(np.stack([vectors[name] for name in names])).float()
    residues = None
    if run.model_config.needs_residues:
        by_residue = encoder.embed(checked, per_residue=True)
        padded = pad_residues(
            [by_residue[name] for name in names], "cpu", run.model_config.max_residues
        )
        residues = ResidueBatch(*(x.repeat_interleave(count, dim=0) for x in padded))
    nuclei = torch.from_numpy(np.ascontiguousarray(nuclear_images, dtype=np.float32))[:, None]
    keys = [f"{name}/{image_key(nucleus)}" for name in names for nucleus in nuclei[:, 0]]
    images = draw_samples(
        model, nuclei.repeat(len(names), 1, 1, 1), features.repeat_interleave(count, dim=0), keys,
        how, residues,
    )  # fmt: skip
    return images.reshape(len(names), count, *images.shape[1:])


@torch.inference_mode()
def score_sequences(
    run: Run,
    crops: CropDataset,
    candidates: Tensor,
    *,
    n_draws: int = 16,
    seed: int = 0,
    batch_size: int = 256,
) -> np.ndarray:
    """
    Ask how well each of many sequences explains each image.

    Parameters
    ----------
    run : Run
        Of family "flow" and fusion "film".
    crops : CropDataset
        N images with their nuclei.
    candidates : Tensor, shape (Q, D)
        Sequence vectors.
    n_draws : int
        Noises and times at which the velocity is compared; the same for all sequences.

    Returns
    -------
    loss : ndarray, shape (N, Q), dtype float
        Flow-matching loss with the sequence minus that without any: below 0, the sequence
        explains the image better than none. Up to constants and a weight over time, this is a
        bound on the logarithm of the likelihood ratio.

    Raises
    ------
    InputError
        If the run does not sample, or reads residues.
    """
    model = flow_model(run)
    if model.config.needs_residues:
        raise InputError(f"{run.path}: ranks by pooled vectors only; use a run of fusion 'film'.")
    device = next(model.parameters()).device
    with _faster(device):
        hidden, logits, _ = model.describe(candidates.to(device))
    of_place = model.config.condition == "label"
    if of_place:  # the loss is that of the places, weighed by how probable the sequence makes them
        hidden = model.places.to(hidden.dtype)
    hidden = torch.cat([model.no_sequence[None].to(hidden.dtype), hidden])  # (1 + Q, hidden)
    height, width = crops.images.shape[2:]
    # times in the middle of n equal parts; noise of each of its own
    t = ((torch.arange(n_draws) + 0.5) / n_draws).to(device)
    noise = draw_noise([f"score/{i}" for i in range(n_draws)], height, width, seed).to(device)
    loss = np.empty((len(crops), len(hidden)))
    for row in tqdm(range(len(crops)), desc="ranking", unit="image", disable=None):
        image = crops.images[row].to(device).float()[None] / 255
        pairs = torch.cartesian_prod(torch.arange(len(hidden)), torch.arange(n_draws)).to(device)
        by_pair = []
        for part in pairs.split(batch_size):
            who, draw = part.unbind(dim=1)
            wide = image.expand(len(part), -1, -1, -1)
            batch = Batch(wide[:, :1], wide[:, 1:], hidden[who], who, t[draw])
            with _faster(device):
                by_pair.append(model.matching_loss(batch, hidden[who], noise[draw], t[draw]))
        loss[row] = torch.cat(by_pair).view(-1, n_draws).mean(dim=1).float().cpu().numpy()
    gain = loss[:, 1:] - loss[:, :1]
    if not of_place:
        return gain
    return np.asarray(gain @ model.probabilities(logits.float()).cpu().numpy().T)
