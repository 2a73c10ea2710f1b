"""Training repeats itself, survives being killed, keeps its best weights and minds its folder."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from functools import partial
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import CROPS_PER_PROTEIN, make_tiny
from torch import Tensor
from typer.testing import CliRunner

from deepgps_core import training_loop
from deepgps_core.cli import app
from deepgps_core.crops import (
    CropDataset,
    CropLoader,
    average_down,
    flip_and_rotate,
    load_crops,
    retone,
)
from deepgps_core.dataset import Dataset, InputError, write_table
from deepgps_core.encoders import CompositionEncoder
from deepgps_core.losses import losses
from deepgps_core.model import DeepGPS, DeepGPSConfig
from deepgps_core.residues import embed_residues
from deepgps_core.runs import Run, TrainingConfig, load_run
from deepgps_core.training import fit, predict_crops

MODEL = DeepGPSConfig(sequence_dim=6, hidden_dim=24, width=4, depth=2, crop_size_px=24)
TRAINING = TrainingConfig(
    encoder="drawn", epochs=3, batch_size=8, learning_rate=1e-2, lr_gamma=0.8, seed=1
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_tiny(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture(scope="module")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fit(dataset, "random-0", MODEL, TRAINING, tmp_path_factory.mktemp("run") / "run")


def changed(**changes: Any) -> TrainingConfig:
    return dataclasses.replace(TRAINING, **changes)


def same_numbers(first: Run, second: Run) -> None:
    """Assert that two runs hold the same weights, history and predictions, to the last bit."""
    ours, theirs = first.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    pd.testing.assert_frame_equal(
        first.history.drop(columns="seconds"), second.history.drop(columns="seconds"),
        check_exact=True,
    )  # fmt: skip
    pd.testing.assert_frame_equal(first.proteins, second.proteins, check_exact=True)
    pd.testing.assert_frame_equal(first.crops, second.crops, check_exact=True)


def test_run_folder_is_complete(run: Run) -> None:
    """A finished run holds what the design lists, and nothing that only resuming needs."""
    names = {path.name for path in run.path.iterdir()}
    assert names == {
        "config.yaml", "model.safetensors", "history.csv", "proteins.csv", "crops.csv",
    }  # fmt: skip
    assert run.labels == ("Cytoplasm", "Nucleus")
    assert run.images == "simulated"
    assert run.pixel_size_um == 1.0  # 48 px of 0.5 um averaged down to 24
    assert list(run.history["epoch"]) == [0, 1, 2]
    assert run.history["learning_rate"].tolist() == pytest.approx([1e-2, 8e-3, 6.4e-3])


def test_predictions_cover_proteins_and_held_out_crops(run: Run) -> None:
    """Every protein has probabilities that sum to one; every held-out crop has its losses."""
    assert len(run.proteins) == 12
    sums = run.proteins[["p_Cytoplasm", "p_Nucleus"]].sum(axis=1)
    assert np.allclose(sums, 1, atol=1e-6)
    assert (run.proteins["n_crops"] == CROPS_PER_PROTEIN).all()
    assert set(run.crops["split"]) == {"validation", "test"}
    assert len(run.crops) == 6 * CROPS_PER_PROTEIN


def test_learns(dataset: Dataset, tmp_path: Path) -> None:
    """Where sequence decides label and place, both losses of unseen proteins fall far."""
    run = fit(dataset, "random-0", MODEL, changed(epochs=12, batch_size=4), tmp_path / "run")
    history = run.history.set_index("epoch")
    assert history["validation_image_loss"].min() < 0.6 * history["validation_image_loss"][0]
    test = run.proteins[run.proteins["split"] == "test"]
    assert (test["label"] == test["predicted_label"]).all()


def test_kept_weights_are_the_best_not_the_last(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When training gets worse after its first epoch, the weights of that epoch are kept."""

    def rates(self: training_loop.DeepGPSModule) -> tuple[float, float]:
        return (1e-2, 1e-2) if self.current_epoch == 0 else (100.0, 100.0)  # ruins the network

    monkeypatch.setattr(training_loop.DeepGPSModule, "learning_rates", rates)
    run = fit(dataset, "random-0", MODEL, changed(epochs=2), tmp_path / "run")
    history = run.history
    total = history["validation_image_loss"] + history["validation_label_loss"]
    assert total.idxmin() == 0
    validation = run.crops[run.crops["split"] == "validation"]
    assert validation["image_loss"].mean() == pytest.approx(
        history["validation_image_loss"][0], rel=1e-4
    )


def test_same_seed_same_numbers(run: Run, dataset: Dataset, tmp_path: Path) -> None:
    """Two runs of one configuration agree to the last bit; another seed differs."""
    torch.rand(5)  # others' random numbers make no difference
    same_numbers(run, fit(dataset, "random-0", MODEL, TRAINING, tmp_path / "again"))
    other = fit(dataset, "random-0", MODEL, changed(seed=2), tmp_path / "other")
    assert other.history["train_image_loss"][0] != run.history["train_image_loss"][0]


def test_the_command_line_repeats_a_run(dataset: Dataset, tmp_path: Path) -> None:
    """A run's config.yaml is enough to train it again, on its own split, to the last bit."""
    parts = dataset.split("random-0").sort_index(ascending=False)
    dataset.write_split("backwards", pd.Series(parts.to_numpy()[::-1], parts.index))
    config = changed(epochs=2, augment=True, crops_per_protein=3, standardize_features=True)
    model = dataclasses.replace(MODEL, fusion="concat", label_loss="focal")
    run = fit(dataset, "backwards", model, config, tmp_path / "run")
    again = tmp_path / "again"
    command = ["train", str(dataset.path), "--config", str(run.path / "config.yaml")]
    result = CliRunner().invoke(app, [*command, "--run", str(again)])
    assert result.exit_code == 0, result.output
    same_numbers(run, load_run(again))
    assert load_run(again).hash == run.hash


@pytest.mark.parametrize("kind", ["residues", "fine tuning"])
def test_the_command_line_repeats_runs_that_need_more(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Per-residue vectors or the weights of another run: config.yaml says what is needed."""
    monkeypatch.setenv("DEEPGPS_DATA", str(tmp_path))
    dataset = make_tiny(tmp_path / "tiny")
    model, config = MODEL, changed(epochs=2)
    if kind == "residues":
        encoder = CompositionEncoder()
        dataset.write_features(encoder.name, encoder.embed(dataset.sequences()))
        embed_residues(dataset, encoder)
        model = dataclasses.replace(model, sequence_dim=encoder.dim, fusion="residue_attention")
        config = dataclasses.replace(config, encoder=encoder.name)
    else:
        fit(dataset, "random-0", model, config, tmp_path / "first")
        config = dataclasses.replace(config, initial_run="first")
    run = fit(dataset, "random-0", model, config, tmp_path / "run")
    command = ["train", str(dataset.path), "--config", str(run.path / "config.yaml")]
    result = CliRunner().invoke(app, [*command, "--run", str(tmp_path / "again")])
    assert result.exit_code == 0, result.output
    same_numbers(run, load_run(tmp_path / "again"))


def test_places_of_a_multi_label_head(tmp_path: Path) -> None:
    """Proteins in both places train it; each class has a probability, and places are named."""
    dataset = make_tiny(tmp_path / "tiny")
    table = dataset.proteins.copy()
    table.loc[:3, ["locations", "label"]] = ["Cytoplasm;Nucleus", ""]
    write_table(table, dataset.path / "proteins.csv")
    dataset = Dataset(dataset.path)
    model = dataclasses.replace(MODEL, label_loss="multi_label")
    run = fit(dataset, "random-0", model, changed(epochs=8), tmp_path / "run")
    p = run.proteins.set_index("protein_id")[["p_Cytoplasm", "p_Nucleus"]]
    assert not np.allclose(p.sum(axis=1), 1, atol=0.05)
    called = run.proteins.set_index("protein_id")["predicted_locations"]
    for protein_id, places in called.items():
        above = [name for name in run.labels if p.loc[protein_id, f"p_{name}"] >= 0.5]
        best = run.labels[int(p.loc[protein_id].to_numpy().argmax())]
        assert places == (";".join(above) or best)
    assert (run.proteins.loc[:3, "label"] == "").all()
    assert run.history["train_label_loss"].iloc[-1] < run.history["train_label_loss"].iloc[0]


@pytest.mark.parametrize("epoch", [0, 1])
def test_killed_training_goes_on(
    epoch: int, run: Run, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run cut off in the middle of an epoch ends where the undisturbed one ended."""
    step = training_loop.DeepGPSModule.training_step

    def dies(self: training_loop.DeepGPSModule, batch: Any, index: int) -> torch.Tensor:
        if self.current_epoch == epoch and index == 1:
            raise RuntimeError("killed")
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(training_loop.DeepGPSModule, "training_step", dies)
        with pytest.raises(RuntimeError, match="killed"):
            fit(dataset, "random-0", MODEL, TRAINING, tmp_path / "run")
    with pytest.raises(InputError, match="no finished run"):
        load_run(tmp_path / "run")
    started: list[int] = []
    hook = training_loop.DeepGPSModule.on_train_epoch_start

    def noted(self: training_loop.DeepGPSModule) -> None:
        started.append(self.current_epoch)
        hook(self)

    monkeypatch.setattr(training_loop.DeepGPSModule, "on_train_epoch_start", noted)
    resumed = fit(dataset, "random-0", MODEL, TRAINING, tmp_path / "run")
    assert started == list(range(epoch, TRAINING.epochs))
    same_numbers(run, resumed)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate")]
)
def test_a_batch_too_large_is_named(
    error: RuntimeError, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that does not suffice: the batch's size, and the option that changes it."""

    def too_much(*_: Any) -> torch.Tensor:
        raise error

    monkeypatch.setattr(training_loop.DeepGPSModule, "training_step", too_much)
    with pytest.raises(InputError, match=r"batch of 8 crops .* lower batch_size \(--batch-size\)"):
        fit(dataset, "random-0", MODEL, changed(batch_size=8), tmp_path / "run")


def test_crops_that_do_not_fit_are_not_blamed_on_the_batch(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All crops stay on the device: where they do not fit, a smaller batch is no remedy."""

    def too_much(*_: Any) -> CropDataset:
        raise torch.OutOfMemoryError("CUDA")

    monkeypatch.setattr(CropDataset, "to", too_much)
    with pytest.raises(InputError, match=r"crops \(0\.0 GiB\) do not fit .* lower crop_size_px"):
        fit(dataset, "random-0", MODEL, TRAINING, tmp_path / "run")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_host_never_waits_between_steps() -> None:
    """Batches, augmentation, losses and optimizer: PyTorch finds no synchronization in a step."""
    generator = torch.Generator().manual_seed(0)
    crops = CropDataset(
        images=torch.randint(0, 256, (64, 2, 24, 24), dtype=torch.uint8, generator=generator),
        protein_index=torch.arange(64) % 8, features=torch.randn(8, 6, generator=generator),
        labels=torch.arange(8) % 2, protein_ids=tuple("abcdefgh"),
        crop_ids=tuple(map(str, range(64))),
    ).to("cuda")  # fmt: skip
    model = DeepGPS(dataclasses.replace(MODEL, sequence_dim=6)).to("cuda")
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    loader = CropLoader(crops, 8, shuffle=True, augment=True, intensity=0.2)
    sums = torch.zeros(2, device="cuda")
    for number, batch in enumerate(loader):
        if number == 2:  # orders and draws are on the device, kernels are chosen
            torch.cuda.set_sync_debug_mode("error")
        with torch.autocast("cuda", torch.bfloat16):
            losses = torch.stack([part.mean() for part in model.score(batch)[1:]])
        optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        optimizer.step()
        sums += losses.detach()
    torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(sums).all() and number == 7


class Malicious:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_checkpoint_executes_nothing(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resume checkpoint that holds code is refused, and the code does not run."""
    with monkeypatch.context() as patch:
        patch.setattr("deepgps_core.training._write_run", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fit(dataset, "random-0", MODEL, TRAINING, tmp_path / "run")
    checkpoint = tmp_path / "run" / ".resume" / "last.ckpt"
    content = torch.load(checkpoint, weights_only=True)  # as it is written, it is harmless
    torch.save(content | {"extra": Malicious(tmp_path / "executed")}, checkpoint)
    with pytest.raises(InputError, match="last.ckpt.*train.*again"):
        fit(dataset, "random-0", MODEL, changed(epochs=3), tmp_path / "run")
    assert not (tmp_path / "executed").exists()


@pytest.mark.gpu
def test_weights_of_another_device_load_here(run: Run, dataset: Dataset, tmp_path: Path) -> None:
    """Trained on a GPU, the weights open on the CPU and draw the same there."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    trained = fit(dataset, "random-0", MODEL, TRAINING, tmp_path / "run")
    assert {p.device.type for p in trained.model.parameters()} == {"cpu"}
    crops = load_crops(dataset, ["P09"], encoder="drawn", labels=run.labels, crop_size_px=24)
    ((_, there),) = predict_crops(load_run(trained.path).model, crops)
    assert there.image.is_cuda
    batch = crops.batch(torch.arange(len(crops)), torch.ones(len(crops)))
    with torch.inference_mode():
        here = trained.model.eval()(batch.nuclear_image.cpu(), batch.sequence_features.cpu())
    assert torch.allclose(here.image, there.image.cpu(), atol=1e-3)  # TF32 there
    assert torch.allclose(here.logits, there.logits.cpu(), atol=1e-3)


def test_weights_know_no_device(run: Run) -> None:
    """The file holds numbers alone; any device takes them, the memory layout left behind."""
    with safe_open(run.path / "model.safetensors", framework="pt") as archive:
        assert archive.metadata() is None
    loaded = load_file(run.path / "model.safetensors", device="cpu")
    assert all(tensor.is_contiguous() for tensor in loaded.values())
    assert set(loaded) == set(run.model.state_dict())


def test_finished_run_is_returned_and_protected(
    run: Run, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same call trains once; another configuration or other data are refused by name."""
    path = tmp_path / "run"
    shutil.copytree(run.path, path)
    with monkeypatch.context() as patch:
        patch.setattr("deepgps_core.training.train_network", None)
        assert fit(dataset, "random-0", MODEL, TRAINING, path).hash == run.hash
    with pytest.raises(InputError, match="another configuration") as error:
        fit(dataset, "random-0", MODEL, changed(epochs=1), path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    other = make_tiny(tmp_path / "other", seed=5)
    with pytest.raises(InputError, match="other data"):
        fit(other, "random-0", MODEL, TRAINING, path)
    assert load_run(path).hash == run.hash
    replaced = fit(dataset, "random-0", MODEL, changed(epochs=1), path, replace=True)
    assert len(replaced.history) == 1


def test_unfinished_run_of_another_configuration_is_started_anew(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of an interrupted run enters one with other settings."""
    with monkeypatch.context() as patch:
        patch.setattr("deepgps_core.training._write_run", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fit(dataset, "random-0", MODEL, TRAINING, tmp_path / "run")
    assert (tmp_path / "run" / ".resume" / "last.ckpt").exists()
    config = changed(seed=9, epochs=2)
    fresh = fit(dataset, "random-0", MODEL, config, tmp_path / "fresh")
    same_numbers(fresh, fit(dataset, "random-0", MODEL, config, tmp_path / "run"))


def test_lean_training_takes_the_same_steps(run: Run, dataset: Dataset, tmp_path: Path) -> None:
    """Without biases that normalization cancels, losses of training differ by rounding alone."""
    lean = fit(dataset, "random-0", MODEL, changed(lean=True), tmp_path / "run")
    columns = ["train_image_loss", "train_label_loss"]
    assert np.allclose(run.history[columns], lean.history[columns], rtol=1e-5)
    # in evaluation running means lag behind biases that rounding moves and nothing holds
    validation = "validation_image_loss"
    assert np.allclose(run.history[validation], lean.history[validation], rtol=0.02)
    ours, theirs = run.model.state_dict(), lean.model.state_dict()
    assert list(ours) == list(theirs)
    idle = [name for name in ours if name.endswith("inc.0.bias")]
    assert idle and all(ours[name].any() and not theirs[name].any() for name in idle)


def test_default_place_and_options(dataset: Dataset, data_root: Path) -> None:
    """Without a path the run lies under the data root; every training option trains."""
    config = changed(
        epochs=1, augment=True, crops_per_protein=2, standardize_features=True,
        precision="bf16-mixed", channels_last=False, name="single-2",
    )  # fmt: skip
    run = fit(dataset, "random-0", dataclasses.replace(MODEL, fusion="film"), config)
    assert run.path == data_root / "runs" / "tiny" / "single-2-film" / "random-0" / "1"
    assert run.model.head.feature_scale.std() > 0
    assert np.isfinite(run.history.to_numpy()).all()


def test_predictions_do_not_depend_on_the_batch(run: Run, dataset: Dataset) -> None:
    """A crop's prediction is the same alone and among others, and its loss is the recorded one."""
    ids = list(run.proteins.loc[run.proteins["split"] == "test", "protein_id"])
    crops = load_crops(dataset, ids, encoder="drawn", labels=run.labels, crop_size_px=24)
    together = torch.cat([p.image for _, p in predict_crops(run.model, crops, batch_size=64)])
    alone = torch.cat([p.image for _, p in predict_crops(run.model, crops, batch_size=1)])
    assert torch.allclose(together, alone, atol=1e-5)
    batch, prediction = next(predict_crops(run.model, crops))
    image_loss, _ = losses(prediction, batch.protein_image, batch.label, run.model_config)
    recorded = run.crops.set_index("crop_id").loc[list(crops.crop_ids), "image_loss"]
    assert image_loss.numpy() == pytest.approx(recorded.to_numpy(), abs=1e-5)


def test_loader_gives_each_crop_once(dataset: Dataset) -> None:
    """An epoch holds every crop once, in a new order each time, the same order again on repeat."""
    crops = load_crops(dataset, list(dataset.split("random-0").index), encoder="drawn",
                       labels=("Cytoplasm", "Nucleus"), crop_size_px=24)  # fmt: skip
    loader = CropLoader(crops, batch_size=10, seed=0, shuffle=True)
    first = loader.order()
    assert sorted(first.tolist()) == list(range(48))
    assert torch.equal(first, loader.order())
    loader.epoch = 1
    assert not torch.equal(first, loader.order())
    assert [len(batch.label) for batch in loader] == [10, 10, 10, 10, 8] and len(loader) == 5


def test_loader_limits_crops_and_shares_them(dataset: Dataset) -> None:
    """A limit holds for each protein; processes share an epoch without overlap."""
    crops = load_crops(dataset, list(dataset.split("random-0").index), encoder="drawn",
                       labels=("Cytoplasm", "Nucleus"), crop_size_px=24)  # fmt: skip
    loader = CropLoader(crops, batch_size=8, shuffle=True, crops_per_protein=3)
    proteins = crops.protein_index[loader.order()]
    assert (proteins.bincount() == 3).all()
    assert loader.weight.tolist() == pytest.approx([1 / 3] * 12)
    shares = [CropLoader(crops, 8, shuffle=True, rank=r, world_size=2) for r in (0, 1)]
    seen = [batch.nuclear_image for share in shares for batch in share]
    assert torch.cat(seen).flatten(1).unique(dim=0).shape[0] == 48


def test_brightness_is_a_factor_and_a_power_of_the_nucleus_alone(dataset: Dataset) -> None:
    """Against the formula in numpy; proteins and unturned order stay; 0 changes nothing."""
    crops = load_crops(
        dataset, list(dataset.proteins["protein_id"]), encoder="drawn",
        labels=("Cytoplasm", "Nucleus"), crop_size_px=24,
    )  # fmt: skip
    plain, same, toned = (
        next(iter(CropLoader(crops, 8, seed=3, shuffle=True, intensity=amount)))
        for amount in (0.0, 0.0, 0.3)
    )
    assert torch.equal(plain.nuclear_image, same.nuclear_image)
    assert torch.equal(plain.protein_image, toned.protein_image)
    assert not torch.equal(plain.nuclear_image, toned.nuclear_image)
    # each within what factor and power may do together
    before, after = plain.nuclear_image.numpy(), toned.nuclear_image.numpy()
    some = (before > 0.05) & (after < 1)
    ratio = np.log(after[some] / before[some])
    assert (np.abs(ratio) <= 0.3 + np.abs(np.log(before[some])) * (np.exp(0.3) - 1) + 1e-5).all()
    image, tones = np.random.default_rng(0).random((2, 1, 3, 3)), np.array([[0.1, -0.2], [0, 0.0]])
    expected = np.clip(np.exp(0.1) * image[0] ** np.exp(-0.2), 0, 1)
    found = retone(torch.from_numpy(image), torch.from_numpy(tones)).numpy()
    np.testing.assert_allclose(found, [expected, image[1]], rtol=1e-12)


def test_augmentation_is_one_of_eight_and_the_same_for_both_channels() -> None:
    """Three draws reach all eight symmetries of the square; none changes what pixels there are."""
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    draws = torch.cartesian_prod(*[torch.tensor([False, True])] * 3)
    turned = flip_and_rotate(image.expand(8, 1, 3, 3), draws)
    assert turned.flatten(1).unique(dim=0).shape[0] == 8
    assert (turned.flatten(1).sort(dim=1).values == torch.arange(9.0)).all()


def test_crops_are_turned_as_bytes(dataset: Dataset) -> None:
    """Batches equal crops made into floats first and turned then, both channels alike."""
    crops = load_crops(dataset, ["P00", "P05"], encoder="drawn",
                       labels=("Cytoplasm", "Nucleus"), crop_size_px=24)  # fmt: skip
    rows = torch.tensor([3, 0, 7])
    draws = torch.tensor([[True, False, False], [False, True, True], [False, False, False]])
    batch = crops.batch(rows, torch.ones(2), draws)
    expected = flip_and_rotate(crops.images[rows].float() / 255, draws)
    assert torch.equal(torch.cat([batch.nuclear_image, batch.protein_image], dim=1), expected)
    assert torch.equal(crops.batch(rows, torch.ones(2)).nuclear_image[2], expected[2, :1])


@pytest.mark.slow
@pytest.mark.skipif(not which("g++") and not which("clang++"), reason="no C++ compiler")
def test_compiled_equals_eager(dataset: Dataset) -> None:
    """Augmentation, network and gradients, compiled: the numbers of the eager ones."""
    crops = load_crops(dataset, ["P00", "P05"], encoder="drawn",
                       labels=("Cytoplasm", "Nucleus"), crop_size_px=24)  # fmt: skip
    torch.manual_seed(0)
    eager = DeepGPS(dataclasses.replace(MODEL, depth=1))
    compiled = copy.deepcopy(eager)
    compiled.compile()
    found = []
    for model, is_compiled in ((eager, False), (compiled, True)):
        loader = CropLoader(crops, 8, shuffle=True, augment=True, compile=is_compiled)
        _, image_loss, label_loss = model.score(next(iter(loader)))
        (image_loss.mean() + label_loss.mean()).backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append({"image": image_loss.detach(), "label": label_loss.detach(), **gradients})
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not which("g++") and not which("clang++"), reason="no C++ compiler")
def test_compiled_training_compiles_the_network_once(dataset: Dataset, tmp_path: Path) -> None:
    """A smaller last batch and validation run as they are; losses are those of eager training."""
    compiled = []

    def count(graph: Any, inputs: list[Tensor]) -> Any:
        compiled.append([tuple(x.shape) for x in inputs if isinstance(x, Tensor) and x.dim() == 4])
        return graph.forward

    eager = fit(dataset, "random-0", MODEL, changed(batch_size=10), tmp_path / "eager")
    torch._dynamo.reset()
    with pytest.MonkeyPatch.context() as patch:
        once = partial(DeepGPS.compile, backend=count)
        patch.setattr(DeepGPS, "compile", lambda self: once(self))
        run = fit(
            dataset, "random-0", MODEL, changed(batch_size=10, compile=True), tmp_path / "compiled"
        )
    of_batches = {shapes[0][0] for shapes in compiled if shapes}
    assert of_batches == {10}
    for column in ("train_image_loss", "validation_image_loss"):
        np.testing.assert_allclose(run.history[column], eager.history[column], rtol=1e-3)


def test_averaging_down_keeps_the_mean() -> None:
    """Averaged squares of pixels keep the image's mean, within rounding to 8 bits."""
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 12, 12), dtype=np.uint8)
    small = average_down(images, 3)
    assert small.shape == (3, 2, 4, 4)
    assert small.mean(axis=(2, 3)) == pytest.approx(images.mean(axis=(2, 3)), abs=0.5)


@pytest.mark.parametrize(
    ("model", "training", "words"),
    [
        ({"n_classes": 3}, {}, "labels are Cytoplasm, Nucleus"),
        ({}, {"labels": ("Cytoplasm", "Vesicles")}, "Vesicles"),
        ({"sequence_dim": 7}, {}, "have 6 numbers, the model takes 7"),
        ({"crop_size_px": 20}, {}, "divisor"),
        ({}, {"encoder": "esm3"}, "deepgps embed"),
    ],
)
def test_misfits_are_named_and_leave_nothing(
    model: dict[str, Any], training: dict[str, Any], words: str, dataset: Dataset, tmp_path: Path
) -> None:
    """Data that do not fit the configuration are a one-line error, and no folder is made."""
    with pytest.raises(InputError, match=words) as error:
        fit(dataset, "random-0", dataclasses.replace(MODEL, **model), changed(**training),
            tmp_path / "run")  # fmt: skip
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_label_unknown_to_the_model(tmp_path: Path) -> None:
    """A protein of the split whose label the model lacks is named."""
    dataset = make_tiny(tmp_path / "tiny")
    with pytest.raises(InputError, match="'P01' has label 'Nucleus'.*does not know"):
        fit(dataset, "random-0", dataclasses.replace(MODEL, n_classes=1), TRAINING,
            tmp_path / "run")  # fmt: skip


def test_a_vector_that_is_no_number_is_named(tmp_path: Path) -> None:
    """NaN in one protein's vector is told by protein and file, before anything is trained."""
    dataset = make_tiny(tmp_path / "tiny")
    vectors = dataset.features("drawn")
    vectors["P03"][2] = np.nan
    dataset.write_features("drawn", vectors)
    with pytest.raises(InputError, match="drawn.npz.*'P03'.*NaN"):
        fit(dataset, "random-0", MODEL, TRAINING, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_damaged_runs_are_named(run: Run, tmp_path: Path) -> None:
    """Truncated weights, a missing table or a strange configuration name the file."""
    path = tmp_path / "run"
    shutil.copytree(run.path, path)
    (path / "model.safetensors").write_bytes((run.path / "model.safetensors").read_bytes()[:500])
    with pytest.raises(InputError, match="model.safetensors"):
        _ = load_run(path).model
    (path / "history.csv").unlink()
    with pytest.raises(InputError, match="history.csv"):
        _ = load_run(path).history
    (path / "config.yaml").write_text("model: 3\n")
    with pytest.raises(InputError, match="config.yaml"):
        load_run(path)
