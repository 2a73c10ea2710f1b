"""
Training of deepGPS, from a prepared dataset to a run folder.

Follows the paper's released code (AdamW, learning rate 2e-4 times 0.9 an epoch, 50 epochs, L1
and cross-entropy 1:1) and departs from it where it went wrong: seeds are used, the weights kept
are those of the lowest loss on validation proteins (taken from the training side of the split)
and really a copy, and the test proteins are not looked at before training ends.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor

from deepgps_core.crops import Batch, CropDataset, data_fingerprint, load_crops
from deepgps_core.dataset import (
    Dataset,
    InputError,
    config_hash,
    data_root,
    one_at_a_time,
    write_table,
    write_yaml,
)
from deepgps_core.families import build_model
from deepgps_core.flow import FlowConfig, FlowGPS
from deepgps_core.losses import balanced_class_weight
from deepgps_core.model import DeepGPS, DeepGPSConfig, Prediction
from deepgps_core.runs import (
    Run,
    TrainingConfig,
    default_run_path,
    load_run,
    read_config,
    save_weights,
)
from deepgps_core.targets import called_places
from deepgps_core.training_loop import DeepGPSModule, Recorder, train_network
from deepgps_core.unet import make_lean

__all__ = ["Run", "TrainingConfig", "fit", "load_run", "predict_crops", "predict_labels"]


def _default_name(model: DeepGPSConfig) -> str:
    """Name a model as the paper does, with its inputs where they are not the sequence."""
    name = f"single-{model.n_classes}"
    if isinstance(model, FlowConfig):
        told = "-place" if model.condition == "label" else ""
        return f"{name}-flow{told}-student" if model.teacher else f"{name}-flow{told}"
    return name if model.inputs == "sequence" else f"{name}-{model.inputs}"


def _plan(
    dataset: Dataset,
    split_name: str,
    model: DeepGPSConfig,
    training: TrainingConfig,
    path: Path | str | None,
) -> Run:
    """Describe the run that is asked for, whether or not it exists."""
    labels = training.labels or dataset.info.labels[: model.n_classes]
    unknown = sorted(set(labels) - set(dataset.info.labels))
    if len(labels) != model.n_classes or unknown:
        raise InputError(
            f"{dataset.path / 'dataset.yaml'}: its labels are {', '.join(dataset.info.labels)}; "
            f"the model asks for {model.n_classes}: {', '.join(labels)}; name the classes it has."
        )
    if bool(training.structures) != (model.inputs != "sequence"):
        raise InputError(
            f"training: the model's inputs are {model.inputs!r}, its point clouds "
            f"{training.structures!r}; name some for a model that takes them, and only then."
        )
    split = dataset.split(split_name)
    for part in ("train", "validation"):
        if part not in set(split):
            raise InputError(
                f"{dataset.path / 'splits' / split_name}.csv: no {part} proteins; split again."
            )
    training = dataclasses.replace(
        training, labels=tuple(labels), name=training.name or _default_name(model)
    )
    full_size = dataset.crop_images.shape[-1]
    data = data_fingerprint(dataset, split, training.encoder, training.structures)
    if training.initial_run:  # what that run has seen, this one has seen too
        data = config_hash(
            {"data": data, "first": load_run(data_root() / training.initial_run).hash}
        )
    return Run(
        path=Path(path) if path else default_run_path(
            dataset.info.name, training.name, model.fusion, split_name, training.seed
        ),
        dataset_name=dataset.info.name, split_name=split_name, labels=tuple(labels),
        images=dataset.info.images,
        field_pixel_size_um=dataset.info.pixel_size_um,
        pixel_size_um=dataset.info.pixel_size_um * full_size / model.crop_size_px,
        data=data, model_config=model, training_config=training,
    )  # fmt: skip


def _finished(plan: Run, replace: bool) -> Run | None:
    """Return the run if it is there already; clear away what belongs to another one."""
    resume = plan.path / ".resume"
    if (plan.path / "config.yaml").exists():
        found = load_run(plan.path)
        if found.hash == plan.hash:
            return found
        if not replace:
            raise InputError(
                f"{plan.path}: holds a run with another configuration or other data; name another "
                "folder, or replace it (replace=True, --replace)."
            )
        shutil.rmtree(plan.path)
    if (resume / "config.yaml").exists() and read_config(resume / "config.yaml").hash != plan.hash:
        shutil.rmtree(resume)
    return None


def initial_model(
    config: DeepGPSConfig, training: TrainingConfig, features: Tensor, labels: Tensor
) -> DeepGPS:
    """
    Build the network; the seed decides its weights, nobody else's random numbers change.

    Parameters
    ----------
    features : Tensor, shape (training proteins, D)
    labels : Tensor, shape (training proteins,), dtype int64
        Class numbers, -1 without a single label; for the weights of a class-weighted loss.
    """
    if features.shape[1] != config.sequence_dim:
        raise InputError(
            f"sequence vectors of encoder {training.encoder!r} have {features.shape[1]} numbers, "
            f"the model takes {config.sequence_dim}; set sequence_dim or embed again."
        )
    with torch.random.fork_rng():
        torch.manual_seed(training.seed)
        model = build_model(config)
    if training.standardize_features:
        model.head.feature_mean.copy_(features.mean(dim=0))
        model.head.feature_scale.copy_(features.std(dim=0).clamp(min=1e-6))
    if config.label_loss == "class_weighted":
        model.head.class_weight.copy_(balanced_class_weight(labels, config.n_classes))
    if training.initial_run:  # after the rest: vectors stay scaled as it knows them
        initial = load_run(data_root() / training.initial_run)
        if initial.model_config != config:
            raise InputError(
                f"{initial.path}: its network has another configuration than the one to be "
                "trained; give both the same."
            )
        model.load_state_dict(initial.model.state_dict())
    if isinstance(model, FlowGPS) and model.config.teacher:
        teacher = load_run(data_root() / model.config.teacher).model
        if not isinstance(teacher, FlowGPS):
            raise InputError(f"{model.config.teacher}: no flow model; name one as teacher.")
        model.learn_from(teacher)
    return model


def _batches(model: DeepGPS, crops: CropDataset, batch_size: int = 64) -> Iterator[Batch]:
    """
    Yield the crops in their order; the model stops learning.

    Where there is a GPU both are moved there, and the model stays: after training it is back on
    the CPU, where the published network takes a second a crop.
    """
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    crops = crops.to(next(model.parameters()).device)
    weight = torch.ones(len(crops.protein_ids), device=crops.images.device)
    for rows in torch.arange(len(crops), device=crops.images.device).split(batch_size):
        yield crops.batch(rows, weight)


@torch.inference_mode()
def predict_crops(
    model: DeepGPS, crops: CropDataset, batch_size: int = 64
) -> Iterator[tuple[Batch, Prediction]]:
    """
    Yield batches of crops, in their order, with what the model says of them (float32).

    Where there is a GPU the model is moved there, and stays there.
    """
    for batch in _batches(model, crops, batch_size):
        yield batch, model.predict_batch(batch)


@torch.inference_mode()
def _crop_losses(model: DeepGPS, crops: CropDataset, part_of: pd.Series) -> pd.DataFrame:
    """Score the crops of held-out proteins one by one."""
    rows = [torch.stack(model.score(batch)[1:]) for batch in _batches(model, crops)]
    image_loss, label_loss = torch.cat(rows, dim=1).cpu().numpy()
    protein_ids = [crops.protein_ids[row] for row in crops.protein_index.tolist()]
    return pd.DataFrame(
        {
            "crop_id": crops.crop_ids, "protein_id": protein_ids,
            "split": part_of[protein_ids].to_numpy(),
            "image_loss": image_loss, "label_loss": label_loss,
        }
    )  # fmt: skip


@torch.inference_mode()
def predict_labels(model: DeepGPS, crops: CropDataset, labels: tuple[str, ...]) -> pd.DataFrame:
    """
    Predict the label of every protein; no image is needed for it, so once each.

    Returns
    -------
    proteins : DataFrame
        Columns protein_id, label, predicted_label (the most probable), ``p_<label>``, n_crops;
        of a multi-label head also predicted_locations, all places of probability 1/2 or more.
    """
    device = next(model.parameters()).device
    logits = []
    for rows in torch.arange(len(crops.protein_ids)).split(64):
        clouds = None if crops.point_clouds is None else crops.point_clouds[rows].to(device)
        logits.append(model.describe(crops.features[rows].to(device), clouds)[1])
    probability = model.probabilities(torch.cat(logits)).cpu()
    columns = {f"p_{name}": probability[:, k].numpy() for k, name in enumerate(labels)}
    places: dict[str, list[str]] = {}
    if model.config.multi_label:
        places = {"predicted_locations": called_places(probability, labels)}
    return pd.DataFrame(
        {
            "protein_id": crops.protein_ids,
            "label": [labels[k] if k >= 0 else "" for k in crops.labels.tolist()],
            "predicted_label": [labels[k] for k in probability.argmax(dim=1).tolist()],
            **places,
            **columns,
            "n_crops": crops.crop_counts().numpy(),
        }
    )


def _write_run(
    plan: Run,
    model: DeepGPS,
    history: list[dict[str, float]],
    crops: CropDataset,
    part_of: pd.Series,
) -> None:
    """Write the run folder, its configuration last, and take away what resuming needed."""
    model.load_state_dict(load_file(plan.path / ".resume" / "best.safetensors"))
    model.eval()
    save_weights(model, plan.path / "model.safetensors")
    write_table(pd.DataFrame(history).astype({"epoch": int}), plan.path / "history.csv")
    proteins = predict_labels(model, crops, plan.labels)
    proteins.insert(1, "split", part_of[proteins["protein_id"]].to_numpy())
    write_table(proteins, plan.path / "proteins.csv")
    held_out = crops.of_proteins(list(part_of.index[part_of != "train"]))
    write_table(_crop_losses(model, held_out, part_of), plan.path / "crops.csv")
    device = next(model.parameters()).device
    made_with = {
        "torch": str(torch.__version__), "device": device.type,
        "precision": plan.training_config.resolved_precision(),
    }  # fmt: skip
    write_yaml(plan.to_mapping() | {"made_with": made_with}, plan.path / "config.yaml")
    shutil.rmtree(plan.path / ".resume")


def fit(
    dataset: Dataset,
    split_name: str,
    model_config: DeepGPSConfig | None = None,
    training_config: TrainingConfig | None = None,
    run_path: Path | str | None = None,
    *,
    replace: bool = False,
) -> Run:
    """
    Train a model, or return it if it has been trained already.

    Training that was killed goes on from its last whole epoch and ends with the numbers it
    would have had undisturbed. Who asks for a run that another process is training waits for it.

    Parameters
    ----------
    dataset : Dataset
        Prepared (crops), embedded (features) and split.
    split_name : str
        One of its splits; every protein in it is used.
    model_config : DeepGPSConfig, optional
    training_config : TrainingConfig, optional
    run_path : Path or str, optional
        By default ``runs/<dataset>/<model>-<fusion>/<split>/<seed>`` under the data root.
    replace : bool
        Remove a finished run with another configuration that is in the way.

    Raises
    ------
    InputError
        If the data do not fit the configuration, or another run is in the way.
    """
    plan = _plan(
        dataset, split_name, model_config or DeepGPSConfig(), training_config or TrainingConfig(),
        run_path,
    )  # fmt: skip
    # processes of one training, whoever starts them, must not wait for each other
    together = plan.training_config.devices > 1 or int(os.environ.get("WORLD_SIZE", 1)) > 1
    with nullcontext() if together else one_at_a_time(plan.path):
        return _finished(plan, replace) or _train(dataset, plan)


def _train(dataset: Dataset, plan: Run) -> Run:
    """Train what is planned, and return it."""
    config = plan.training_config
    split = dataset.split(plan.split_name)
    crops = load_crops(
        dataset, list(split.index), encoder=config.encoder, labels=plan.labels,
        crop_size_px=plan.model_config.crop_size_px, structures=config.structures,
        residues=plan.model_config.needs_residues, max_residues=plan.model_config.max_residues,
    )  # fmt: skip
    parts = {name: list(split.index[split == name]) for name in ("train", "validation", "test")}
    for name in ("train", "validation"):
        if not len(crops.of_proteins(parts[name])):
            raise InputError(f"{dataset.path / 'crops.csv'}: no crop of a {name} protein; prepare.")
    in_train = torch.tensor((split == "train").to_numpy())
    model = initial_model(
        plan.model_config, config, crops.features[in_train], crops.labels[in_train]
    )
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.lean:
        make_lean(model)
    if config.compile:
        model.compile()
    resume = plan.path / ".resume"
    write_yaml(plan.to_mapping(), resume / "config.yaml")
    recorder = Recorder(resume)
    module = DeepGPSModule(
        model, config, crops.of_proteins(parts["train"]), crops.of_proteins(parts["validation"])
    )
    trainer = train_network(module, recorder, resume / "last.ckpt")
    if trainer.is_global_zero:
        # scored once: compiling for it would take longer
        with torch.compiler.set_stance("force_eager" if config.compile else "default"):
            _write_run(plan, model, recorder.history, crops, split)
    trainer.strategy.barrier()
    return load_run(plan.path)
