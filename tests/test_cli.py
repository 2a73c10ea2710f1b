"""The command line explains itself, runs the whole way, and ends errors in one line and code 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
from tiny import DIM, SIZE_PX, make_tiny
from typer.testing import CliRunner, Result

from deepgps_core import __version__
from deepgps_core.cli import app
from deepgps_core.dataset import Dataset

COMMANDS = ["datasets", "simulate", "prepare", "embed", "split", "train", "evaluate", "predict"]
CONFIG = {
    "model": {"hidden_dim": 24, "width": 4, "depth": 2, "crop_size_px": 24},
    "training": {"encoder": "drawn", "epochs": 2, "batch_size": 8, "learning_rate": 0.01},
}


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(result: Result, *words: str | Path) -> None:
    """Assert that a command ended in one line on standard error with the given words."""
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    for word in words:
        assert str(word) in lines[0]


@pytest.fixture()
def dataset(data_root: Path) -> Dataset:
    return make_tiny(data_root / "tiny")


@pytest.fixture()
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_option(command: str) -> None:
    """Each command says what it is for, and each of its options what it does."""
    result = call(command, "--help")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) > 4
    listed = call("--help").stdout
    assert f"  {command}" in listed


def test_version_and_entry_point() -> None:
    """The module runs as installed, and says its version."""
    code = "from deepgps_core.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"deepgps {__version__}"


def test_help_needs_no_heavy_library() -> None:
    """Asking for help imports neither PyTorch nor matplotlib."""
    code = (
        "import sys; from deepgps_core.cli import main\n"
        "try:\n    main()\nfinally:\n    print(sorted({'torch', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True)
    assert done.stdout.strip().endswith("[]")


def test_predicting_starts_without_a_compiler_or_a_trainer() -> None:
    """Prediction imports neither torch's compiler nor what only training needs: seconds a start."""
    heavy = "{'torch._dynamo', 'pytorch_lightning', 'sklearn', 'tensorflow', 'matplotlib'}"
    code = f"import sys, deepgps_core.predictor\nprint(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_from_split_to_scores(dataset: Dataset, config: Path, data_root: Path) -> None:
    """Split, train, train again, evaluate and list: each says where its result lies."""
    made = call(
        "split", "tiny", "--kind", "grouped", "--seed", "3", "--labels", "Cytoplasm,Nucleus"
    )
    assert made.exit_code == 0 and "grouped-3.csv" in made.stdout
    assert set(dataset.split("grouped-3")) == {"train", "validation", "test"}
    trained = call("train", "tiny", "--split", "random-0", "--config", config, "--seed", "4")
    assert trained.exit_code == 0, trained.output
    run = data_root / "runs" / "tiny" / "single-2-paper" / "random-0" / "4"
    assert str(run) in trained.stdout
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["model"]["sequence_dim"] == DIM
    again = call("train", "tiny", "--config", run / "config.yaml")  # reproduces it exactly
    assert again.exit_code == 0 and again.stdout == trained.stdout
    scored = call("evaluate", run)
    assert scored.exit_code == 0, scored.output
    images = pd.read_csv(run / "evaluation-test" / "images.csv")
    assert "deepGPS" in set(images["prediction"])
    listed = call("datasets")
    assert "tiny: 12 proteins, 48 crops, simulated images" in listed.stdout
    assert "grouped-3, random-0" in listed.stdout


def test_embed_and_predict(
    dataset: Dataset, config: Path, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vectors are written where training finds them, and a run predicts from files."""

    class Lengths:
        name, dim = "lengths", DIM

        def embed(self, sequences: dict[str, str]) -> dict[str, np.ndarray]:
            return {k: np.full(DIM, len(s) % 3, np.float32) for k, s in sequences.items()}

    monkeypatch.setattr("deepgps_core.encoders.load_encoder", lambda name: Lengths())
    monkeypatch.setattr("deepgps_core.backends.cached_encoder", lambda name: Lengths())
    embedded = call("embed", "tiny", "--encoder", "lengths")
    assert embedded.exit_code == 0 and f"12 vectors of {DIM} numbers" in embedded.stdout
    assert set(dataset.features("lengths")) == set(dataset.proteins["protein_id"])
    run = tmp_path / "run"
    assert call("train", "tiny", "--config", config, "--run", run).exit_code == 0
    (tmp_path / "one.fasta").write_text(">A\nMKV\n")
    nucleus = np.random.default_rng(0).integers(0, 999, (SIZE_PX, SIZE_PX)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "n.tif", nucleus)
    files = ("--fasta", tmp_path / "one.fasta", "--nucleus", tmp_path / "n.tif")
    asked = ("predict", "--model", run, *files)
    done = call(*asked, "--mutate", "K2A,del3", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "predictions.csv", "mutations.csv", "images", "nuclei.tif", "report.html",
    }  # fmt: skip
    assert len(list((tmp_path / "out" / "images").glob("*.tif"))) == 3
    refused(call(*asked, "--out", tmp_path / "out"), "exists already")
    refused(call(*asked, "--mutate", "R2A", "--out", tmp_path / "b"), "residue 2", "K, not R")
    refused(call(*asked, "--samples", "3", "--out", tmp_path / "b"), "model that generates")
    assert not (tmp_path / "b").exists()


def test_errors_are_one_line(dataset: Dataset, config: Path, tmp_path: Path) -> None:
    """What the user got wrong is named in one line, with exit code 2."""
    refused(call("train", "nothing"), "nothing/dataset.yaml", "deepgps simulate")
    refused(call("simulate", "embedded-moon"), "embedded-moon")
    refused(call("split", "tiny", "--kind", "odd"), "random, grouped, paper")
    refused(call("split", "tiny", "--labels", "Vesicles"), "Vesicles")
    refused(call("train", "tiny", "--split", "no", "--config", config), "no.csv")
    refused(call("train", "tiny", "--config", config, "--fusion", "glue"), "paper, film, concat")
    refused(call("evaluate", tmp_path), "no finished run")
    (tmp_path / "bad.yaml").write_text("model: {widthh: 3}\ntraining: {encoder: drawn}\n")
    refused(call("train", "tiny", "--config", tmp_path / "bad.yaml"), "bad.yaml", "widthh")
    (tmp_path / "bad.yaml").write_text("just words")
    refused(call("train", "tiny", "--config", tmp_path / "bad.yaml"), "bad.yaml")


def test_a_missing_table_is_named(dataset: Dataset, config: Path) -> None:
    """A dataset folder without a table ends in its name and the remedy; no run is begun."""
    (dataset.path / "crops.csv").unlink()
    refused(call("train", "tiny", "--config", config), "crops.csv", "deepgps prepare")
    assert not (dataset.path.parent / "runs").exists()
    (dataset.path / "proteins.csv").unlink()
    refused(call("train", "tiny", "--config", config), "proteins.csv")
