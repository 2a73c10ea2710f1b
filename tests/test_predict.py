"""New proteins and a nucleus give labels and images; bad input gives one line and no file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from tiny import DIM, SIZE_PX, drawn_crop, make_tiny

from deepgps_core.crops import average_down
from deepgps_core.dataset import Dataset, InputError
from deepgps_core.model import DeepGPSConfig
from deepgps_core.outputs import predict_files
from deepgps_core.predict import (
    network_image,
    predict,
    read_nuclear_image,
)
from deepgps_core.runs import Run, TrainingConfig
from deepgps_core.training import fit


class SignEncoder:
    """Give K-rich sequences the vectors of the tiny dataset's cytoplasm, R-rich ones the other."""

    def embed(self, sequences: dict[str, str]) -> dict[str, np.ndarray]:
        return {
            name: np.full(DIM, 1.0 if text.count("K") > text.count("R") else -1.0, np.float32)
            for name, text in sequences.items()
        }


@pytest.fixture(autouse=True)
def encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the encoder of the name under which the tiny dataset keeps its vectors."""
    monkeypatch.setattr("deepgps_core.predict.load_encoder", lambda name: SignEncoder())
    monkeypatch.setattr("deepgps_core.backends.cached_encoder", lambda name: SignEncoder())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_tiny(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture(scope="module")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    model = DeepGPSConfig(sequence_dim=DIM, hidden_dim=24, width=8, depth=2, crop_size_px=24)
    training = TrainingConfig(encoder="drawn", epochs=15, batch_size=4, learning_rate=1e-2)
    return fit(dataset, "random-0", model, training, tmp_path_factory.mktemp("run") / "run")


@pytest.fixture()
def files(tmp_path: Path) -> dict[str, Path]:
    """Write a FASTA of two proteins and a nucleus as 16-bit TIFF."""
    nucleus = drawn_crop("Nucleus", np.random.default_rng(5))[0].astype(np.uint16) * 20 + 300
    tifffile.imwrite(tmp_path / "nucleus.tif", nucleus)
    (tmp_path / "two.fasta").write_text(">A\nMKKKKKK\n>B\nMRRRRRR\n")
    return {
        "fasta": tmp_path / "two.fasta", "nucleus": tmp_path / "nucleus.tif",
        "out": tmp_path / "predicted",
    }  # fmt: skip


def test_files_to_labels_and_images(run: Run, files: dict[str, Path]) -> None:
    """The cytoplasmic protein is drawn around the nucleus, the nuclear one inside it."""
    predicted = predict_files(run.path, **files)
    table = pd.read_csv(files["out"] / "predictions.csv")
    assert list(table["predicted_label"]) == ["Cytoplasm", "Nucleus"]
    nucleus = tifffile.imread(files["out"] / "nuclei.tif") / 65535
    share = []
    for row, stem in enumerate(table["files"]):
        image = tifffile.imread(files["out"] / "images" / f"{stem}.tif")
        assert image.dtype == np.uint16 and image.shape == (SIZE_PX // 2, SIZE_PX // 2)
        assert image / 65535 == pytest.approx(predicted.images[row], abs=1e-5)
        share.append(image[nucleus > 0.5].mean() / image.mean())
    assert 2 * share[0] < share[1]


def test_a_crop_is_predicted_as_in_training(run: Run, dataset: Dataset) -> None:
    """A crop of the dataset, taken as it is, gives the label and image recorded by training."""
    row = 40  # a test protein's
    crop = dataset.crop_images[row]
    protein_id = dataset.crops["protein_id"][row]

    class Stored:
        def embed(self, sequences: dict[str, str]) -> dict[str, np.ndarray]:
            return {name: dataset.features("drawn")[name] for name in sequences}

    predicted = predict(
        run, {protein_id: "MK"}, np.asarray(crop[0]) / 255, encoder=Stored(), normalize=False
    )
    target = average_down(np.asarray(crop[1]), 2) / 255
    recorded = run.crops.set_index("crop_id").loc[dataset.crops["crop_id"][row], "image_loss"]
    assert np.abs(predicted.images[0] - target).mean() == pytest.approx(recorded, abs=2e-3)
    p = run.proteins.set_index("protein_id").loc[protein_id, "p_Nucleus"]
    assert predicted.table["p_Nucleus"][0] == pytest.approx(p, abs=1e-6)


def test_predictions_do_not_depend_on_company(run: Run) -> None:
    """A protein's image is the same alone, in a batch, and in any order."""
    nucleus = drawn_crop("Nucleus", np.random.default_rng(1))[0]
    sequences = {"A": "MKKK", "B": "MRRR", "C": "MKKR"}
    together = predict(run, sequences, nucleus, batch_size=2)
    alone = predict(run, {"B": "MRRR"}, nucleus)
    assert np.allclose(together.images[1], alone.images[0], atol=1e-6)


def test_any_size_is_filled_up_and_cut_back(run: Run) -> None:
    """A nucleus image of odd size gives protein images of just that size."""
    nucleus = drawn_crop("Nucleus", np.random.default_rng(1))[0][:37, :46]
    predicted = predict(run, {"A": "MK"}, nucleus)
    assert predicted.images.shape == (1, 18, 23)
    assert predicted.nuclear_image.shape == (18, 23)


def test_pixel_size_is_matched(run: Run) -> None:
    """The same nucleus at half the pixel size comes to the same network input."""
    nucleus = drawn_crop("Nucleus", np.random.default_rng(1))[0] / 255
    fine = np.kron(nucleus, np.ones((2, 2)))
    coarse = network_image(nucleus, run, normalize=False)
    assert network_image(fine, run, pixel_size_um=0.25, normalize=False) == pytest.approx(
        coarse, abs=1e-6
    )


def test_normalization_forgets_the_camera(run: Run) -> None:
    """Gain and offset of the camera make no difference."""
    nucleus = drawn_crop("Nucleus", np.random.default_rng(1))[0].astype(np.float64)
    first, second = network_image(nucleus, run), network_image(300 + 20 * nucleus, run)
    assert first == pytest.approx(second, abs=1e-5)


def test_png_and_two_channel_tiff_are_read(tmp_path: Path) -> None:
    """PNG and TIFF give the same pixels; of a two-channel field, channel 0."""
    image = np.random.default_rng(0).integers(0, 255, (20, 30), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", np.stack([image, 0 * image]).astype(np.uint16))
    assert np.array_equal(read_nuclear_image(tmp_path / "a.png"), image)
    assert np.array_equal(read_nuclear_image(tmp_path / "a.tif"), image)


def spoil(kind: str, files: dict[str, Path]) -> Path:
    """Damage one input file in a named way and return it."""
    fasta, nucleus = files["fasta"], files["nucleus"]
    texts = {
        "illegal letters": ">A\nMK1?\n", "empty sequence": ">A\n>B\nMK\n",
        "duplicate ids": ">A\nMK\n>A\nMR\n", "empty file": "",
    }  # fmt: skip
    images = {
        "color": np.zeros((20, 20, 3), np.uint8), "flat": np.full((20, 20), 7, np.uint16),
        "not a number": np.full((20, 20), np.nan, np.float32), "tiny": np.eye(4, dtype=np.uint8),
    }  # fmt: skip
    if kind in texts:
        fasta.write_text(texts[kind])
        return fasta
    if kind in images:
        tifffile.imwrite(nucleus, images[kind])
    elif kind == "truncated":
        nucleus.write_bytes(nucleus.read_bytes()[:300])
    elif kind == "no image":
        nucleus.write_text("nucleus")
    elif kind == "missing":
        nucleus.unlink()
    return nucleus


@pytest.mark.parametrize(
    "kind",
    ["illegal letters", "empty sequence", "duplicate ids", "empty file", "color", "flat",
     "not a number", "tiny", "truncated", "no image", "missing"],
)  # fmt: skip
def test_bad_input_is_named_and_nothing_is_written(
    kind: str, run: Run, files: dict[str, Path]
) -> None:
    """Each kind of bad file is one line that names it, and leaves no output behind."""
    spoiled = spoil(kind, files)
    with pytest.raises(InputError) as error:
        predict_files(run.path, **files)
    message = str(error.value)
    assert str(spoiled) in message and "\n" not in message
    assert sorted(p.name for p in spoiled.parent.iterdir() if p != spoiled) == sorted(
        p.name for p in (files["fasta"], files["nucleus"]) if p != spoiled
    )


def test_results_are_never_overwritten(run: Run, files: dict[str, Path]) -> None:
    """An output folder that is there stays as it is."""
    files["out"].mkdir()
    with pytest.raises(InputError, match="exists already"):
        predict_files(run.path, **files)
    assert not list(files["out"].iterdir())


def test_no_run_no_prediction(tmp_path: Path, files: dict[str, Path]) -> None:
    """A folder that is no run is named, with what makes one."""
    with pytest.raises(InputError, match="deepgps train"):
        predict_files(tmp_path / "nowhere", **files)
