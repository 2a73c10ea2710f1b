"""The flow: its field learns what can be computed by hand, and training and sampling repeat."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from tiny import make_tiny
from torch import Tensor
from typer.testing import CliRunner

from deepgps_core import training_loop
from deepgps_core.cli import app
from deepgps_core.crops import load_crops
from deepgps_core.dataset import Dataset, InputError
from deepgps_core.flow import FlowConfig, FlowGPS
from deepgps_core.fusions import ResidueBatch
from deepgps_core.losses import Batch
from deepgps_core.runs import Run, TrainingConfig, load_run
from deepgps_core.samplers import (
    colored,
    draw_classes,
    draw_noise,
    guided,
    image_key,
    integrate,
)
from deepgps_core.training import fit, predict_crops
from deepgps_core.velocity import time_embedding

CONFIG = FlowConfig(
    sequence_dim=6, hidden_dim=24, width=4, depth=2, crop_size_px=24, n_classes=2, time_dim=8,
    steps=3, ema_decay=0.9,
)  # fmt: skip
TRAINING = TrainingConfig(
    encoder="drawn", epochs=2, batch_size=8, learning_rate=3e-3, seed=1, select_by="image_loss"
)


def model_of(config: FlowConfig = CONFIG, seed: int = 0) -> FlowGPS:
    torch.manual_seed(seed)
    return FlowGPS(config)


def shaken(config: FlowConfig = CONFIG) -> FlowGPS:
    """Return a model in evaluation mode whose last layer is not zero, as if trained."""
    model = model_of(config)
    for part in (model.field, model.averaged):
        torch.nn.init.normal_(part.outc.weight, std=0.3)
        for film in part.film_down:
            torch.nn.init.normal_(film.linear.weight, std=0.3)
    torch.nn.init.normal_(model.no_sequence)
    return model.eval()


def batch_of(n: int = 5, side: int = 24) -> Batch:
    generator = torch.Generator().manual_seed(0)
    nucleus, protein = torch.rand(2, n, 1, side, side, generator=generator)
    vectors = torch.randn(n, 6, generator=generator)
    return Batch(nucleus, protein, vectors, torch.arange(n) % 2, torch.ones(n))


# ---- the solver and the noise


def gaussian_velocity(x: Tensor, t: Tensor, mean: float, sd: float) -> Tensor:
    """Return E[x1 - x0 | x_t] for x0 ~ N(0, 1), x1 ~ N(mean, sd**2), by regression of Gaussians."""
    t = t[:, None, None, None]
    variance = (1 - t) ** 2 + t**2 * sd**2
    slope = (t * sd**2 - (1 - t)) / variance
    return mean + slope * (x - t * mean)


@pytest.mark.parametrize(
    ("solver", "steps", "tolerance"), [("euler", 400, 0.01), ("heun", 40, 0.01)]
)
def test_a_gaussian_flow_ends_where_theory_says(solver: str, steps: int, tolerance: float) -> None:
    """The exact field of a Gaussian carries noise z to mean + sd z."""
    noise = torch.linspace(-2, 2, 9).view(9, 1, 1, 1)
    end = integrate(lambda x, t: gaussian_velocity(x, t, 3.0, 0.5), noise, steps, solver)
    assert torch.allclose(end, 3 + 0.5 * noise, atol=tolerance)


def test_heun_converges_quadratically_and_euler_linearly() -> None:
    """Twice as many steps: a quarter of Heun's error, half of Euler's."""
    noise = torch.full((1, 1, 1, 1), 1.5, dtype=torch.float64)

    def error(solver: str, steps: int) -> float:
        end = integrate(lambda x, t: gaussian_velocity(x, t, 3.0, 0.5), noise, steps, solver)
        return abs(end.item() - 3.75)

    assert error("euler", 80) / error("euler", 160) == pytest.approx(2, rel=0.1)
    assert error("heun", 80) / error("heun", 160) == pytest.approx(4, rel=0.15)


def test_one_euler_step_is_the_mean_of_all_samples() -> None:
    """At t = 0 the best velocity is mean minus noise: one step gives one image for every noise."""
    noise = torch.randn(50, 1, 1, 1)
    end = integrate(lambda x, t: gaussian_velocity(x, t, 3.0, 0.5), noise, 1)
    assert torch.allclose(end, torch.full_like(end, 3.0), atol=1e-5)


def test_guidance_is_linear_between_the_field_with_the_sequence_and_the_one_without() -> None:
    """The first half of the doubled batch knows the sequence, the second does not."""
    x, t = torch.arange(8.0).view(2, 1, 2, 2), torch.tensor([0.25, 0.5])
    factor = torch.tensor([3.0, 3.0, 1.0, 1.0]).view(4, 1, 1, 1)
    for guidance, expected in ((1, 3), (0, 1), (2, 5)):
        velocity = guided(lambda x, t: factor * x + t.view(-1, 1, 1, 1), guidance)
        assert torch.equal(velocity(x, t), expected * x + t.view(-1, 1, 1, 1))


@pytest.mark.parametrize("fusion", ["film", "residue_attention"])
def test_guidance_zero_knows_no_sequence_and_two_goes_on_from_there(fusion: str) -> None:
    """Guided steps are those of two samplers, one told the sequence and one told none."""
    config = dataclasses.replace(CONFIG, fusion=fusion, steps=1, image_scale=1e-3)
    model, batch, sequence = shaken(config), batch_of(), torch.randn(5, 24)
    residues = None
    if fusion == "residue_attention":
        residues = ResidueBatch(torch.randn(5, 7, 6), torch.ones(5, 7, dtype=torch.bool))
    none = model.without_sequence(sequence, residues)
    noise = torch.randn(5, 1, 24, 24)
    told, untold, zero, two = (
        model.sample(batch.nuclear_image, vectors, noise, of_them, guidance=guidance)
        for vectors, of_them, guidance in (
            (sequence, residues, 1), (*none, 1), (sequence, residues, 0), (sequence, residues, 2),
        )
    )  # fmt: skip
    assert not torch.allclose(told, untold, atol=1e-5)
    assert torch.allclose(zero, untold, atol=1e-6)
    # one step, and a scale that nothing is cut off at: the picture is linear in the velocity
    assert torch.allclose(two, untold + 2 * (told - untold), atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("fusion", ["film", "residue_attention"])
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_a_recorded_field_draws_what_the_field_itself_draws(
    fusion: str, solver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replayed on a GPU, for one input after another, the samples are those of single launches."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    config = dataclasses.replace(CONFIG, fusion=fusion, steps=8, solver=solver, guidance=1.5)
    model = shaken(config).to("cuda")
    drawn = {}
    for limit in (0, 16):
        monkeypatch.setattr("deepgps_core.flow.RECORDED_AT_MOST", limit)
        torch.manual_seed(0)
        for n in (1, 5, 1):
            nuclei, noise = torch.rand(2, n, 1, 24, 24, device="cuda")
            sequence, residues = torch.randn(n, 24, device="cuda"), None
            if fusion == "residue_attention":
                mask = torch.rand(n, 7, device="cuda") < 0.8
                residues = ResidueBatch(torch.randn(n, 7, 6, device="cuda"), mask)
            with torch.inference_mode():
                images = model.sample(nuclei, sequence, noise, residues)
            drawn.setdefault(limit, []).append(images.cpu())
    assert len({images.mean().item() for images in drawn[0]}) == 3
    for plain, replayed in zip(drawn[0], drawn[16], strict=True):
        assert torch.allclose(plain, replayed, atol=1e-5)


def test_unknown_solver_or_no_step_is_refused() -> None:
    """The message names what there is."""
    with pytest.raises(InputError, match="euler or heun"):
        integrate(lambda x, t: x, torch.zeros(1, 1, 1, 1), 3, "midpoint")
    with pytest.raises(InputError, match="at least 1"):
        integrate(lambda x, t: x, torch.zeros(1, 1, 1, 1), 0)


def test_noise_is_named_not_counted() -> None:
    """Noise of a key is the same alone and among others; other keys and seeds give other noise."""
    alone, among = draw_noise(["b"], 16, 16, 3)[0], draw_noise(["a", "b", "c"], 16, 16, 3)
    assert torch.equal(alone, among[1])
    assert not torch.equal(among[0], among[1])
    assert not torch.equal(alone, draw_noise(["b"], 16, 16, 4)[0])
    many = draw_noise([str(i) for i in range(200)], 16, 16)
    assert abs(many.mean().item()) < 0.02 and abs(many.std().item() - 1) < 0.02


def test_an_image_is_named_by_its_gray_levels() -> None:
    """Differences below rounding do not rename an image; one gray level does."""
    image = np.full((4, 4), 100 / 255, np.float32)
    assert image_key(image) == image_key(torch.from_numpy(image + 1e-4))
    assert image_key(image) != image_key(image + 1 / 255)


# ---- the network


def test_times_are_told_apart() -> None:
    """Embeddings of near times are near, of far ones far, and of unit length per pair."""
    codes = time_embedding(torch.tensor([0.0, 0.001, 0.5]), 8)
    assert torch.allclose(codes.square().sum(dim=1), torch.full((3,), 4.0), atol=1e-5)
    assert (codes[0] - codes[1]).norm() < (codes[0] - codes[2]).norm()


@pytest.mark.parametrize("patch_px", [1, 2, 4])
def test_field_sees_every_pixel_at_any_size(patch_px: int) -> None:
    """Patches lose no pixel: each pixel of the noisy image reaches the velocity."""
    model = shaken(dataclasses.replace(CONFIG, patch_px=patch_px, depth=3))
    x = torch.randn(1, 1, 16, 24, requires_grad=True)
    velocity = model.velocity(torch.rand(1, 1, 16, 24), torch.zeros(1, 24))
    velocity(x, torch.tensor([0.5])).square().sum().backward()
    assert x.grad is not None and bool((x.grad.abs() > 0).all())


@pytest.mark.parametrize(
    "changes",
    [{"patch_px": 3}, {"patch_px": 4}, {"fusion": "paper"}, {"solver": "rk4"}, {"ema_decay": 1.0},
     {"time_dim": 7}, {"inputs": "both"}],
)  # fmt: skip
def test_impossible_configurations_are_refused(changes: dict[str, Any]) -> None:
    """One line says what is wrong."""
    with pytest.raises(InputError):
        dataclasses.replace(CONFIG, **changes)


def test_matching_loss_is_the_error_of_the_velocity() -> None:
    """A field that says 0 costs the mean square of image minus noise, at any time."""
    model, batch = model_of().eval(), batch_of()
    model.averaged.outc.bias.data.zero_()
    noise = torch.randn(batch.protein_image.shape)
    loss = model.matching_loss(batch, torch.zeros(5, 24), noise, torch.rand(5))
    x1 = (batch.protein_image - 0.25) / 0.25
    assert torch.allclose(loss, (x1 - noise).square().mean(dim=(1, 2, 3)), atol=1e-5)


def test_hidden_sequences_make_no_difference() -> None:
    """Where the sequence is hidden, all sequences, and all residues, cost the same."""
    model = shaken(dataclasses.replace(CONFIG, fusion="residue_attention"))
    batch = batch_of()
    residues = ResidueBatch(torch.randn(5, 7, 6), torch.ones(5, 7, dtype=torch.bool))
    noise, t = torch.randn(5, 1, 24, 24), torch.full((5,), 0.5)
    for hide, same in ((True, True), (False, False)):
        rows = torch.full((5,), hide)
        losses = [
            model.matching_loss(batch._replace(residues=r), sequence, noise, t, rows)
            for r, sequence in (
                (residues, torch.zeros(5, 24)),
                (residues._replace(values=residues.values.flip(1) * 2), torch.ones(5, 24)),
            )
        ]
        assert torch.allclose(*losses) == same


def test_average_follows_its_closed_form() -> None:
    """After n steps the average is the weighted sum that its decay says."""
    model = model_of()
    weight, average = model.field.outc.bias, model.averaged.outc.bias
    expected, decays = average.detach().clone(), []
    for step in range(1, 21):
        weight.data.fill_(float(step))
        model.after_step()
        decay = min(0.9, (1 + step) / (10 + step))
        decays.append(decay)
        expected = decay * expected + (1 - decay) * step
    assert decays[0] == pytest.approx(2 / 11) and decays[-1] < 0.9
    assert torch.allclose(average, expected, atol=1e-4)
    assert not average.requires_grad


def test_field_learns_a_gaussian() -> None:
    """Trained on flat images of gray N(m, s), the field's samples have that mean and spread."""
    config = dataclasses.replace(
        CONFIG, crop_size_px=8, patch_px=2, width=8, unconditional=0.0, ema_decay=0.98,
        image_center=0.0, image_scale=1.0,
    )  # fmt: skip
    model = model_of(config).train()
    optimizer = torch.optim.Adam(model.field.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(1)
    sequence = torch.zeros(64, 24)
    for _ in range(220):
        gray = 0.5 + 0.1 * torch.randn(64, 1, 1, 1, generator=generator)
        batch = Batch(torch.zeros(64, 1, 8, 8), gray.expand(-1, 1, 8, 8), sequence[:, :6],
                      torch.zeros(64), torch.ones(64))  # fmt: skip
        noise, t, _ = model._draws(batch.protein_image)
        model.matching_loss(batch, sequence, noise, t).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        model.after_step()
    model.eval()
    noise = draw_noise([str(i) for i in range(256)], 8, 8)
    with torch.no_grad():
        drawn = model.sample(torch.zeros(256, 1, 8, 8), torch.zeros(256, 24), noise, steps=20)
    means = drawn.mean(dim=(1, 2, 3))
    assert means.mean().item() == pytest.approx(0.5, abs=0.04)
    assert means.std().item() == pytest.approx(0.1, rel=0.35)


def test_field_itself_is_the_closed_form_of_a_gaussian() -> None:
    """Trained on pixels of gray N(m, s), v(x, t) is what regression of Gaussians says, at any t."""
    mean, sd = 0.5, 0.5
    config = dataclasses.replace(
        CONFIG, crop_size_px=8, patch_px=1, depth=1, width=8, unconditional=0.0, ema_decay=0.98,
        image_center=0.0, image_scale=1.0,
    )  # fmt: skip
    model = model_of(config).train()
    optimizer = torch.optim.Adam(model.field.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=300)
    generator = torch.Generator().manual_seed(1)
    nuclei, sequence = torch.zeros(64, 1, 8, 8), torch.zeros(64, 24)

    def images() -> Tensor:
        return mean + sd * torch.randn(64, 1, 8, 8, generator=generator)

    for _ in range(300):
        batch = Batch(nuclei, images(), sequence[:, :6], torch.zeros(64), torch.ones(64))
        noise, t, _ = model._draws(batch.protein_image)
        model.matching_loss(batch, sequence, noise, t).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        model.after_step()
        schedule.step()
    velocity = model.eval().velocity(nuclei, sequence)
    for time in (0.2, 0.5, 0.8):
        t = torch.full((64,), time)
        x = (1 - time) * torch.randn(64, 1, 8, 8, generator=generator) + time * images()
        with torch.no_grad():
            error = velocity(x, t) - gaussian_velocity(x, t, mean, sd)
        # image minus noise, from which it learns, varies by 1.1: a quarter of that, and a tenth of
        # it for the mean, where pixels average out; the true field varies by .9, .7 and 0
        assert error.square().mean().sqrt().item() < 0.28
        assert abs(error.mean().item()) < 0.11


def test_one_call_answers_as_the_published_model_does() -> None:
    """A sample for each nucleus, in [0, 1], the same alone, in a batch, and again."""
    model, batch = shaken(), batch_of()
    with torch.no_grad():
        together = model.predict_batch(batch)
        alone = model(batch.nuclear_image[2:3], batch.sequence_features[2:3])
    assert together.image.shape == (5, 1, 24, 24) and together.logits.shape == (5, 2)
    assert 0 <= together.image.min() < together.image.max() <= 1
    assert torch.allclose(together.image[2:3], alone.image, atol=1e-5)


def test_residues_are_asked_for() -> None:
    """A fusion over residues without any says so."""
    model = shaken(dataclasses.replace(CONFIG, fusion="residue_attention"))
    with pytest.raises(InputError, match="per-residue"):
        model.predict_batch(batch_of())


# ---- training


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_tiny(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def run(dataset: Dataset, root: Path) -> Run:
    return fit(dataset, "random-0", CONFIG, TRAINING, root / "flow")


def test_run_opens_as_what_it_is(run: Run, dataset: Dataset) -> None:
    """The configuration names the family; opened again, the run predicts the same images."""
    again = load_run(run.path)
    assert type(again.model_config) is FlowConfig and again.model_config == CONFIG
    assert isinstance(again.model, FlowGPS) and again.hash == run.hash
    crops = load_crops(
        dataset, ["P08"], encoder="drawn", labels=run.labels, crop_size_px=24
    )  # fmt: skip
    images = [next(iter(predict_crops(r.model, crops)))[1].image for r in (run, again)]
    assert torch.equal(*images)
    assert np.isfinite(run.history["validation_image_loss"]).all()
    assert set(run.crops["split"]) == {"validation", "test"}


def test_killed_training_goes_on_as_if_nothing_had_happened(
    run: Run, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise, average and weights of a resumed run are those of an undisturbed one."""
    real_end = training_loop.Recorder.on_train_epoch_end

    def dies(self: Any, *args: Any) -> None:
        real_end(self, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(training_loop.Recorder, "on_train_epoch_end", dies)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(dataset, "random-0", CONFIG, TRAINING, tmp_path / "run")
    monkeypatch.undo()
    resumed = fit(dataset, "random-0", CONFIG, TRAINING, tmp_path / "run")
    ours, theirs = run.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    pd.testing.assert_frame_equal(
        run.history.drop(columns="seconds"), resumed.history.drop(columns="seconds")
    )
    assert resumed.model.steps_taken == ours["_extra_state"][0] > 0


def test_student_takes_the_strides_of_its_teacher(
    run: Run, dataset: Dataset, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its target is where the teacher gets to in several steps; its run needs no teacher."""
    monkeypatch.setenv("DEEPGPS_DATA", str(root))
    config = dataclasses.replace(CONFIG, teacher="flow", steps=2, teacher_steps=3)
    student = shaken(config)
    teacher = run.model
    student.learn_from(teacher)
    student.train()
    batch, noise = batch_of(), torch.randn(5, 1, 24, 24)
    sequence = teacher.describe(batch.sequence_features)[0]
    begin, velocity, t = student._stride(
        batch, torch.zeros_like(noise), noise, torch.zeros(5), None
    )
    with torch.no_grad():
        whole = integrate(teacher.velocity(batch.nuclear_image, sequence), noise, 6)
        x, six = noise, teacher.velocity(batch.nuclear_image, sequence)
        for i in range(3):
            x = x + six(x, torch.full((5,), i / 6)) / 6
    assert torch.equal(begin, noise) and not t.any()
    assert torch.allclose(begin + velocity / 2, x, atol=1e-5)
    assert not torch.allclose(x, whole, atol=1e-3)
    made = fit(dataset, "random-0", config, TRAINING, root / "student")
    assert made.path.name == "student" and load_run(made.path).model_config == config


def test_teacher_of_another_family_is_refused(
    dataset: Dataset, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing teacher is named before anything is trained."""
    monkeypatch.setenv("DEEPGPS_DATA", str(root))
    config = dataclasses.replace(CONFIG, teacher="nowhere")
    with pytest.raises(InputError, match="nowhere"):
        fit(dataset, "random-0", config, TRAINING, tmp_path / "run")


def test_command_line_trains_a_flow(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`deepgps train --config` with a family makes a run of that family."""
    monkeypatch.setenv("DEEPGPS_DATA", str(dataset.path.parent))
    model = {
        name: getattr(CONFIG, name)
        for name in (
            "family",
            "hidden_dim",
            "width",
            "depth",
            "crop_size_px",
            "time_dim",
            "n_classes",
        )
    }
    config = tmp_path / "flow.yaml"
    config.write_text(yaml.safe_dump({"model": model, "training": {"encoder": "drawn"}}))
    arguments = ["train", "tiny", "--config", str(config), "--epochs", "1"]
    result = CliRunner().invoke(app, [*arguments, "--run", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    opened = load_run(tmp_path / "run")
    assert isinstance(opened.model_config, FlowConfig)
    assert opened.training_config.name == "single-2-flow"
    config.write_text(config.read_text().replace("family: flow", "family: gan"))
    refused = CliRunner().invoke(app, [*arguments, "--run", str(tmp_path / "other")])
    assert refused.exit_code == 2 and "gan" in refused.stderr


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_shifted_steps_solve_the_same_equation(solver: str) -> None:
    """With smaller steps first, the exact Gaussian field still ends at mean + sd z."""
    noise = torch.linspace(-2, 2, 5).view(5, 1, 1, 1)
    end = integrate(lambda x, t: gaussian_velocity(x, t, 3.0, 0.5), noise, 400, solver, 3.0)
    assert torch.allclose(end, 3 + 0.5 * noise, atol=0.02)


def test_student_strides_on_a_shifted_clock(run: Run) -> None:
    """Strides begin on the shifted grid and end on its next point."""
    config = dataclasses.replace(CONFIG, teacher="flow", steps=4, teacher_steps=1, time_shift=3.0)
    student = model_of(config)
    assert isinstance(run.model, FlowGPS)
    student.learn_from(run.model)
    noise = torch.randn(5, 1, 24, 24)
    times = torch.tensor([0.0, 0.09, 0.11, 0.3, 0.9])
    t = student._stride(batch_of(), torch.zeros_like(noise), noise, times, None)[2]
    assert t.tolist() == pytest.approx([0, 0, 0.1, 0.25, 0.5])  # (0, 1/4, 1/2, 3/4) / (3 - 2 u)


# ---- told the place


def test_classes_are_shared_out_as_probable() -> None:
    """Of n samples of one key a class gets n times its probability, within two; keys differ."""
    probabilities = torch.tensor([[0.7, 0.2, 0.1]]).repeat(300, 1)
    keys = [f"protein {i // 30}" for i in range(300)]
    numbers = [i % 30 for i in range(300)]
    drawn = draw_classes(probabilities, keys, numbers)
    for start in range(0, 300, 30):
        counts = torch.bincount(drawn[start : start + 30], minlength=3)
        assert (counts - torch.tensor([21, 6, 3])).abs().max() <= 2
    assert len({tuple(drawn[s : s + 30].tolist()) for s in range(0, 300, 30)}) > 1
    again = draw_classes(probabilities[:7], keys[:7], numbers[:7])
    assert torch.equal(again, drawn[:7])  # named, not counted
    assert not torch.equal(draw_classes(probabilities, keys, numbers, seed=1), drawn)


def test_classes_of_single_samples_are_random() -> None:
    """One sample each of many keys: shares as probable, within chance."""
    n = 2000
    drawn = draw_classes(
        torch.tensor([[0.25, 0.75]]).repeat(n, 1), [str(i) for i in range(n)], [0] * n
    )
    assert abs(drawn.double().mean().item() - 0.75) < 4 * (0.25 * 0.75 / n) ** 0.5


def test_coarse_noise_keeps_its_variance_and_has_the_spectrum_it_says() -> None:
    """Variance 1; the coarse share falls with the square of frequency, the rest is flat."""
    white = draw_noise([str(i) for i in range(400)], 32, 32, 5)
    assert torch.equal(colored(white, 0.0), white)
    for coarse in (0.2, 1.0):
        noise = colored(white, coarse)
        assert noise.square().mean().item() == pytest.approx(1, abs=0.03)
        power = torch.fft.fft2(noise[:, 0]).abs().square().mean(dim=0) / 32**2
        four, eight = power[0, 4].item() - (1 - coarse), power[0, 8].item() - (1 - coarse)
        assert four / eight == pytest.approx(4, rel=0.5)
        alone = colored(white[7:8], coarse)
        assert torch.allclose(alone[0], noise[7], atol=1e-6), "depends on what is beside it"
    # noise of one size is that of another, seen from farther away: coarse power grows with pixels
    large = colored(draw_noise([str(i) for i in range(400)], 64, 64, 6), 1.0)
    ratio = torch.fft.fft2(large[:, 0]).abs().square().mean(dim=0)[0, 1] / (64**2 * power[0, 1])
    assert ratio.item() == pytest.approx(4 * 0.84, rel=0.3)


def test_color_is_given_in_training_and_in_drawing() -> None:
    """White noise goes in; loss and sample are those of the colored noise, given as it is."""
    plain, batch = shaken(CONFIG), batch_of()
    model = FlowGPS(dataclasses.replace(CONFIG, coarse_noise=0.3))
    model.load_state_dict(plain.state_dict())
    noise, t = torch.randn_like(batch.protein_image), torch.linspace(0.1, 0.9, 5)
    told = torch.zeros(5, CONFIG.hidden_dim)
    for network in (plain, model):
        network.eval()
    ready = colored(noise, 0.3)
    assert torch.allclose(
        model.matching_loss(batch, told, noise, t), plain.matching_loss(batch, told, ready, t)
    )
    assert torch.allclose(
        model.sample(batch.nuclear_image, told, noise),
        plain.sample(batch.nuclear_image, told, ready),
    )


PLACED = dataclasses.replace(CONFIG, condition="label")


def test_a_flow_told_the_place_learns_from_true_places() -> None:
    """In training the vector of the true place is told, whatever the sequence; of two, the mean."""
    model, batch = shaken(PLACED), batch_of()
    other = batch._replace(sequence_features=batch.sequence_features.flip(0))
    losses = [model.score(b)[1] for b in (batch, other)]
    assert torch.allclose(*losses)
    swapped = model.score(batch._replace(label=1 - batch.label))[1]
    assert not torch.allclose(losses[0], swapped)
    both = batch._replace(targets=torch.ones(5, 2))
    mean = model._told_the_truth(both, torch.zeros(5, 24))
    assert torch.allclose(mean, model.places.mean(dim=0).expand(5, -1))
    unknown = batch._replace(label=torch.full((5,), -1))
    assert torch.equal(model._told_the_truth(unknown, torch.zeros(5, 24))[0], model.no_sequence)


def test_a_flow_told_the_place_draws_places_as_probable() -> None:
    """In drawing, places follow the label head: sure of one, always it; unsure, both."""
    model = shaken(PLACED)
    keys, numbers = ["a"] * 10, list(range(10))
    for logits, wanted in (([9.0, -9.0], {0}), ([-9.0, 9.0], {1}), ([0.0, 0.0], {0, 1})):
        told = model.told(torch.zeros(10, 24), torch.tensor([logits]).repeat(10, 1), keys, numbers)
        distances = torch.cdist(told, model.places)
        assert distances.min(dim=1).values.max() < 1e-6
        assert set(distances.argmin(dim=1).tolist()) == wanted


@pytest.mark.parametrize(
    "changes",
    [{"condition": "name"}, {"condition": "label", "fusion": "residue_attention"},
     {"condition": "label", "label_loss": "multi_label"}, {"coarse_noise": 1.5}],
)  # fmt: skip
def test_impossible_conditions_are_refused(changes: dict[str, Any]) -> None:
    """What cannot be told is refused with one line."""
    with pytest.raises(InputError):
        dataclasses.replace(CONFIG, **changes)
