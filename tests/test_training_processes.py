"""Training by several processes through torchrun: the same curve, one run folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny import make_tiny

from deepgps_core.runs import load_run

MODEL = {"hidden_dim": 8, "width": 4, "depth": 2, "crop_size_px": 24, "n_classes": 2}
TRAINING = {"encoder": "drawn", "epochs": 3, "learning_rate": 0.003, "seed": 1}


def train(folder: Path, name: str, batch_size: int, launcher: list[str]) -> Path:
    """Train the tiny dataset by the command line; return the run's folder."""
    config = folder / f"{name}.yaml"
    config.write_text(
        yaml.dump({"model": MODEL, "training": TRAINING | {"batch_size": batch_size}})
    )
    deepgps = [str(Path(sys.executable).parent / "deepgps")]
    command = [*launcher, *deepgps, "train", "tiny", "--config", str(config),
               "--run", str(folder / name)]  # fmt: skip
    environment = os.environ | {"DEEPGPS_DATA": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
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
    alone = load_run(train(tmp_path, "alone", 8, []))
    together = load_run(train(tmp_path, "together", 4, launcher))
    for column in ("train_image_loss", "train_label_loss", "validation_image_loss"):
        np.testing.assert_allclose(together.history[column], alone.history[column], rtol=0.01)
    assert len(together.history) == 3 and len(together.crops) == len(alone.crops)
    assert not (tmp_path / "together" / ".resume").exists()
