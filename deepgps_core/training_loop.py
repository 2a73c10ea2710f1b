"""
The training loop: the network as a Lightning module, and what is kept of every epoch.

One loop from a laptop's CPU to several GPUs. Inside an epoch the host never waits for the
device: batches are made on it (`deepgps_core.crops`), and sums are kept there.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from tqdm import tqdm

from deepgps_core.crops import Batch, CropDataset, CropLoader
from deepgps_core.dataset import InputError
from deepgps_core.losses import is_labelled
from deepgps_core.model import DeepGPS
from deepgps_core.pointnet import orthogonality_penalty
from deepgps_core.runs import TrainingConfig, save_weights


class DeepGPSModule(pl.LightningModule):
    """The network, its losses and its optimizer; sums of an epoch stay on the device."""

    def __init__(
        self, model: DeepGPS, config: TrainingConfig, training: CropDataset, validation: CropDataset
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self._crops = {"train": training, "validation": validation}
        self._sums: dict[str, Tensor] = {}

    def _loader(self, part: str) -> CropLoader:
        config, train = self.config, part == "train"
        crops = self._crops[part]
        try:
            crops = crops.to(self.device)
        except torch.OutOfMemoryError:
            raise InputError(
                f"training: {len(crops):,} crops ({crops.images.nbytes / 2**30:.1f} GiB) do not "
                "fit into the device's memory, where all of them stay; lower crop_size_px, or "
                "leave out proteins."
            ) from None
        return CropLoader(
            crops, config.batch_size, config.seed, train, config.crops_per_protein,
            config.augment and train, self.global_rank, self.trainer.world_size,
            compile=config.compile, intensity=config.augment_intensity if train else 0.0,
        )  # fmt: skip

    def train_dataloader(self) -> CropLoader:
        return self._loader("train")

    def val_dataloader(self) -> CropLoader:
        return self._loader("validation")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        head = list(self.model.head.parameters())
        others = [p for name, p in self.model.named_parameters() if not name.startswith("head.")]
        return torch.optim.AdamW(
            [{"params": others}, {"params": head}],
            self.config.learning_rate, weight_decay=self.config.weight_decay, fused=True,
        )  # fmt: skip

    def learning_rates(self) -> tuple[float, float]:
        """
        Return the epoch's learning rates of image branch and head.

        They are functions of the epoch, so that resuming needs no state of a scheduler.
        """
        config = self.config
        decay = config.lr_gamma**self.current_epoch
        head = config.sequence_learning_rate
        return decay * config.learning_rate, decay * (
            config.learning_rate if head is None else head
        )

    def on_train_epoch_start(self) -> None:
        loader: Any = self.trainer.train_dataloader
        loader.epoch = self.current_epoch
        groups = self.trainer.optimizers[0].param_groups
        for group, rate in zip(groups, self.learning_rates(), strict=True):
            group["lr"] = rate
        self._sums["train"] = torch.zeros(4, device=self.device)

    def on_validation_epoch_start(self) -> None:
        # the first process's are the ones that are saved, so all are scored with them
        for buffer in self.model.buffers() if self.trainer.world_size > 1 else ():
            torch.distributed.broadcast(buffer, src=0)
        self._sums["validation"] = torch.zeros(4, device=self.device)

    def _losses(self, batch: Batch, part: str) -> tuple[Tensor, Tensor, Tensor]:
        # one compiled program: another size, or evaluation, would compile a more general one, which
        # then serves all batches and is slower
        other = part != "train" or len(batch.label) != self.config.batch_size
        stance = "force_eager" if self.config.compile and other else "default"
        with torch.compiler.set_stance(stance):
            prediction, image_loss, label_loss = self.model.score(batch)
        labelled = is_labelled(batch, self.model.config)
        correct = (prediction.logits.argmax(dim=1) == batch.label) & (batch.label >= 0)
        one_row = torch.stack(
            [image_loss, label_loss, correct.float(), torch.ones_like(image_loss)]
        )
        # validation counts proteins, training counts crops
        weight = batch.weight if part == "validation" else torch.ones_like(batch.weight)
        self._sums[part] += (one_row.detach() * weight).sum(dim=1)
        label_mean = label_loss.sum() / labelled.sum().clamp(min=1)
        return image_loss.mean(), label_mean, self._penalty(prediction.structure_transform)

    def _penalty(self, transform: Tensor | None) -> Tensor:
        """Weigh the penalty on PointNet's transform; 0 without structures, and as published."""
        if transform is None or not self.config.orthogonality_weight:
            return torch.zeros((), device=self.device)
        return self.config.orthogonality_weight * orthogonality_penalty(transform.float())

    def training_step(self, batch: Batch, _: int) -> Tensor:
        image_loss, label_loss, penalty = self._losses(batch, "train")
        return image_loss + self.config.label_weight * label_loss + penalty

    def on_train_batch_end(self, *_: Any) -> None:
        self.model.after_step()

    def validation_step(self, batch: Batch, _: int) -> None:
        self._losses(batch, "validation")

    def epoch_means(self, part: str) -> list[float]:
        """Return image loss, label loss and accuracy, over all processes; the host waits here."""
        sums = self.trainer.strategy.reduce(self._sums[part], reduce_op="sum").tolist()
        return [total / max(sums[3], 1e-12) for total in sums[:3]]


class Recorder(pl.Callback):
    """Keep the history, the best weights and a point to resume from; show progress."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.history: list[dict[str, float]] = []
        self.best_loss = math.inf
        self._bar: Any = None
        self._started = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "best_loss": self.best_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history, self.best_loss = list(state_dict["history"]), state_dict["best_loss"]

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        steps, epochs = trainer.num_training_batches, trainer.max_epochs or 0
        self._bar = tqdm(
            total=int(steps * epochs), initial=int(steps * trainer.current_epoch), unit="batch",
            desc="training", disable=None if trainer.is_global_zero else True, mininterval=0.5,
        )  # fmt: skip

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self._bar.update()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, DeepGPSModule)
        train, validation = module.epoch_means("train"), module.epoch_means("validation")
        row = {"epoch": float(trainer.current_epoch)}
        for part, means in (("train", train), ("validation", validation)):
            names = (f"{part}_image_loss", f"{part}_label_loss", f"{part}_accuracy")
            row |= dict(zip(names, means, strict=True))
        row["learning_rate"] = module.learning_rates()[0]
        row["seconds"] = time.perf_counter() - self._started
        loss = validation[0]
        if module.config.select_by == "loss":
            loss += module.config.label_weight * validation[1]
        self.history.append(row)
        self._bar.set_postfix(validation_loss=f"{loss:.4f}")
        if loss < self.best_loss:
            self.best_loss = loss
            if trainer.is_global_zero:
                save_weights(module.model, self.folder / "best.safetensors")
        # every process takes part in a checkpoint; only the first one writes it
        temporary = self.folder / "last.new"
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            os.replace(temporary, self.folder / "last.ckpt")

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._bar.close()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's greetings and its advice on loader workers, which we do not have."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _one_program(config: TrainingConfig) -> AbstractContextManager[Any]:
    """
    Let several processes compile the backward pass as a whole.

    By default it is cut where gradients are bundled, so that some are sent while others are
    computed; for this network the steps that are then not fused cost more than sending does.
    """
    if not config.compile:
        return nullcontext()
    import torch._dynamo.config as dynamo

    return dynamo.patch(optimize_ddp=False)


def _strategy(n_processes: int) -> DDPStrategy | str:
    """
    Say how processes share the work; those that Lightning starts itself, as it sees fit.

    What batch normalization counts is passed on once an epoch, see `DeepGPSModule`, and not before
    every step; gradients are averaged where they lie. On two H200s a step of 128 crops each took
    69.1 ms so, 70.0 ms by default, and 66.7 ms without a second GPU.
    """
    if n_processes == 1 or "LOCAL_WORLD_SIZE" not in os.environ:
        return "auto"
    return DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)


def _checkpoint(last: Path) -> Path | None:
    """Return the point to resume from, if there is one; nothing in it is executed."""
    if not last.exists():
        return None
    try:
        torch.load(last, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError):
        raise InputError(
            f"{last}: damaged, or no checkpoint of this program; delete {last.parent} and train "
            "again."
        ) from None
    return last


def train_network(module: DeepGPSModule, recorder: Recorder, last: Path) -> pl.Trainer:
    """
    Train, going on from `last` if it is there, and return the trainer.

    Raises
    ------
    InputError
        If the checkpoint is damaged, a batch does not fit into memory, or the loss is not a
        number.
    """
    config = module.config
    precision: Any = config.resolved_precision()
    # torchrun says how many processes and machines there are
    devices = int(os.environ.get("LOCAL_WORLD_SIZE", config.devices))
    machines = int(os.environ.get("GROUP_WORLD_SIZE", 1))
    try:
        with _quiet(), _one_program(config):
            trainer = pl.Trainer(
                accelerator="auto", devices=devices, num_nodes=machines, max_epochs=config.epochs,
                strategy=_strategy(devices * machines), precision=precision, callbacks=[recorder],
                logger=False, enable_checkpointing=False, enable_progress_bar=False,
                enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=last.parent,
            )  # fmt: skip
            trainer.fit(module, ckpt_path=_checkpoint(last), weights_only=True)
    except RuntimeError as error:
        # a CPU has no type of its own for it
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate" not in str(error):
            raise
        raise InputError(
            f"training: a batch of {config.batch_size} crops does not fit into the device's "
            "memory; lower batch_size (--batch-size)."
        ) from None
    if len(recorder.history) < config.epochs:
        raise KeyboardInterrupt
    if not math.isfinite(recorder.best_loss):
        raise InputError("training: the loss is not a number; lower learning_rate.")
    return trainer
