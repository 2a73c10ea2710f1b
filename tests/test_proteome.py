"""Labels of many proteins: in blocks, gone on with, and the same as in one call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from deepgps_core import outputs, predictor
from deepgps_core.backends import Described
from deepgps_core.cli import app
from deepgps_core.dataset import InputError
from deepgps_core.nucleus_images import NetworkScale
from deepgps_core.outputs import label_files
from deepgps_core.predictor import ModelInfo, Predictor
from deepgps_core.report import SHOWN_PROTEINS


class Counting:
    """A backend whose p(b) is the share of K, and that keeps the sizes of its calls."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.fail_at = -1

    def describe(self, sequences: Mapping[str, str]) -> Described:
        if len(self.calls) == self.fail_at:
            raise KeyboardInterrupt
        self.calls.append(len(sequences))
        p = np.array([text.count("K") / len(text) for text in sequences.values()])
        return Described(np.stack([1 - p, p], axis=1)[None], p[:, None].astype(np.float32))

    def draw(self, described: Described, nucleus: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        yield slice(None), described.condition[:, :, None] * nucleus

    def check_samples(self, name: str) -> None:
        raise InputError("no samples")


@pytest.fixture()
def backend(monkeypatch: pytest.MonkeyPatch) -> Counting:
    """Put the counting model behind every name."""
    info = ModelInfo(
        "m", "m", ("a", "b"), "simulated", 1, "n", False, False, NetworkScale(0.2, 0.4, 24), {}
    )
    counting = Counting()
    monkeypatch.setattr(outputs, "load_predictor", lambda model: Predictor(info, counting))
    return counting


def fasta_of(folder: Path, count: int) -> Path:
    """Write proteins whose share of K is their number / 100."""
    path = folder / f"{count}.fasta"
    path.write_text("".join(f">p{i}\n{'K' * i}{'M' * (100 - i)}\n" for i in range(count)))
    return path


def test_blocks_give_every_label(backend: Counting, tmp_path: Path) -> None:
    """Seven proteins in blocks of three: one table in the order of the file, known by hand."""
    path = label_files("m", fasta_of(tmp_path, 7), tmp_path / "out", block=3)
    table = pd.read_csv(path)
    assert backend.calls == [3, 3, 1]
    assert list(table["protein_id"]) == [f"p{i}" for i in range(7)]
    assert table["p_b"].to_numpy() == pytest.approx(np.arange(7) / 100, abs=1e-5)
    assert set(table["model"]) == {"m"} and set(table["notice"]) == {"n"}
    assert sorted(item.name for item in path.parent.iterdir()) == ["labels.yaml", path.name]


@pytest.mark.parametrize("fail_at", [0, 1, 2])
def test_a_stopped_call_goes_on(backend: Counting, tmp_path: Path, fail_at: int) -> None:
    """Whole blocks stay, half-written rows go, and the end is byte for byte the undisturbed."""
    fasta = fasta_of(tmp_path, 8)
    expected = label_files("m", fasta, tmp_path / "whole", block=3).read_bytes()
    backend.calls, backend.fail_at = [], fail_at
    with pytest.raises(KeyboardInterrupt):
        label_files("m", fasta, tmp_path / "out", block=3)
    with open(tmp_path / "out" / "predictions.csv", "ab") as stream:
        stream.write(b"p6,100,half a ro")  # as a kill in the middle of a block leaves it
    backend.fail_at = -1
    assert label_files("m", fasta, tmp_path / "out", block=3).read_bytes() == expected
    assert sum(backend.calls) == 8
    label_files("m", fasta, tmp_path / "out", block=3)
    assert sum(backend.calls) == 8, "all was done"


def test_labels_of_something_else_are_kept(backend: Counting, tmp_path: Path) -> None:
    """Another FASTA, another model, another folder's content: one line, nothing is written."""
    fasta, out = fasta_of(tmp_path, 2), tmp_path / "out"
    path = label_files("m", fasta, out)
    before = path.read_bytes()
    for model, other in (("m", fasta_of(tmp_path, 3)), ("single-2", fasta)):
        with pytest.raises(InputError, match="another FASTA or model"):
            label_files(model, other, out)
    assert path.read_bytes() == before
    (out / "labels.yaml").write_text("done: many\n")
    with pytest.raises(InputError, match="labels.yaml: damaged"):
        label_files("m", fasta, out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="exists already"):
        label_files("m", fasta, tmp_path / "mine")


def test_images_of_a_proteome_are_refused_with_the_way_out(
    backend: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is computed, the line names the option that draws nothing."""
    monkeypatch.setattr(predictor, "MAX_IMAGES_BYTES", 10_000)
    with pytest.raises(InputError, match="5 proteins beside 1 nuclei.*--labels-only"):
        outputs.predict_files("m", fasta_of(tmp_path, 5), None, tmp_path / "out")
    assert not backend.calls and not (tmp_path / "out").exists()


def test_the_report_shows_the_first_only(backend: Counting, tmp_path: Path) -> None:
    """Of many proteins so many have a card, and the page says so; the table has all."""
    lines = [f">p{i}\nMK{'M' * (i % 9)}" for i in range(SHOWN_PROTEINS + 5)]
    (tmp_path / "many.fasta").write_text("\n".join(lines))
    outputs.predict_files("m", tmp_path / "many.fasta", None, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('<section class="card">') == SHOWN_PROTEINS
    assert f"first {SHOWN_PROTEINS} of {SHOWN_PROTEINS + 5} proteins" in page
    assert len(pd.read_csv(tmp_path / "out" / "predictions.csv")) == SHOWN_PROTEINS + 5


def test_command_labels_a_protein_as_long_as_titin(tmp_path: Path) -> None:
    """One protein over 2,700 residues does not refuse the file; with images options, one line."""
    fasta = tmp_path / "long.fasta"
    fasta.write_text(f">short\nMKKRK\n>long\n{'MKLAVSERTI' * 300}\n")
    asked = ["predict", "--fasta", str(fasta), "--labels-only", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "out" / "predictions.csv").set_index("protein_id")
    assert table.loc["long", "n_residues"] == 3000
    alone = predictor.load_predictor("single-2").label({"long": "MKLAVSERTI" * 300})
    assert table.loc["long", "p_Nucleus"] == pytest.approx(alone["p_Nucleus"][0], abs=1e-4)
    refused = CliRunner().invoke(app, [*asked, "--mutate", "R2A"])
    assert refused.exit_code == 2 and "leave --nucleus, --mutate" in refused.stderr
