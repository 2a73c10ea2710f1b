"""Training in processes of its own: several through torchrun, and one that is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny import make_tiny

from deepgps_core.runs import load_run

MODEL = {"hidden_dim": 8, "width": 4, "depth": 2, "crop_size_px": 24, "n_classes": 2}
TRAINING = {"encoder": "drawn", "epochs": 3, "learning_rate": 0.003, "seed": 1}


def command_of(folder: Path, name: str, **training: object) -> list[str]:
    """Return the command that trains the tiny dataset, its configuration written."""
    config = folder / f"{name}.yaml"
    config.write_text(yaml.dump({"model": MODEL, "training": TRAINING | training}))
    deepgps = str(Path(sys.executable).parent / "deepgps")
    return [deepgps, "train", "tiny", "--config", str(config), "--run", str(folder / name)]


def environment_of(folder: Path) -> dict[str, str]:
    """Return this process's environment with another data root and one thread."""
    return os.environ | {"DEEPGPS_DATA": str(folder), "OMP_NUM_THREADS": "1"}


def train(folder: Path, name: str, launcher: list[str], **training: object) -> Path:
    """Train the tiny dataset by the command line; return the run's folder."""
    command = [*launcher, *command_of(folder, name, **training)]
    done = subprocess.run(
        command, env=environment_of(folder), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / name


@pytest.mark.slow
def test_two_processes_follow_the_curve_of_one(tmp_path: Path) -> None:
    """Half the batch in each of two: the losses of one process, but for batch normalization."""
    torchrun = Path(sys.executable).parent / "torchrun"
    if not torchrun.exists() and shutil.which("torchrun") is None:
        pytest.skip("torchrun is not installed beside this Python")
    make_tiny(tmp_path / "tiny")
    launcher = [str(torchrun), "--standalone", "--nproc-per-node", "2", "--no-python", "--"]
    alone = load_run(train(tmp_path, "alone", [], batch_size=8))
    together = load_run(train(tmp_path, "together", launcher, batch_size=4))
    for column in ("train_image_loss", "train_label_loss", "validation_image_loss"):
        np.testing.assert_allclose(together.history[column], alone.history[column], rtol=0.01)
    assert len(together.history) == 3 and len(together.crops) == len(alone.crops)
    # both processes score with what the first one saves, batch normalization's counts too
    validation = together.crops[together.crops["split"] == "validation"]
    saved = validation.groupby("protein_id")["image_loss"].mean().mean()
    np.testing.assert_allclose(together.history["validation_image_loss"].min(), saved, rtol=1e-5)
    assert not (tmp_path / "together" / ".resume").exists()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="processes are killed otherwise here")
def test_training_killed_by_the_system_ends_as_if_undisturbed(tmp_path: Path) -> None:
    """SIGKILL after some epoch: no finished run; the same command goes on to the same bits."""
    make_tiny(tmp_path / "tiny")
    asked = {"batch_size": 2, "epochs": 30}
    undisturbed = train(tmp_path, "undisturbed", [], **asked)
    command = command_of(tmp_path, "killed", **asked)
    process = subprocess.Popen(
        command, env=environment_of(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    checkpoint = tmp_path / "killed" / ".resume" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "training had ended before it was killed"
    assert checkpoint.exists() and not (tmp_path / "killed" / "config.yaml").exists()
    ours, theirs = load_run(train(tmp_path, "killed", [], **asked)), load_run(undisturbed)
    assert (ours.path / "model.safetensors").read_bytes() == (
        theirs.path / "model.safetensors"
    ).read_bytes()
    for name in ("proteins", "crops"):
        assert (ours.path / f"{name}.csv").read_text() == (theirs.path / f"{name}.csv").read_text()
    assert ours.history.drop(columns="seconds").equals(theirs.history.drop(columns="seconds"))


@pytest.mark.slow
def test_two_who_ask_for_the_same_run_train_it_once(tmp_path: Path) -> None:
    """Started together, as by two notebooks: one trains, one waits and says so, both end well."""
    make_tiny(tmp_path / "tiny")
    undisturbed = train(tmp_path, "undisturbed", [], epochs=30)
    command = command_of(tmp_path, "shared", epochs=30)
    both = [
        subprocess.Popen(command, env=environment_of(tmp_path), stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=240)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("another process is at work on it" in text for text in said) == 1
    shared = load_run(tmp_path / "shared")
    expected = load_run(undisturbed).history.drop(columns="seconds")
    assert shared.history.drop(columns="seconds").equals(expected)
    assert not (shared.path / ".resume").exists()
