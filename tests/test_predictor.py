"""Models by name or folder, nuclei from any image, and what an ensemble disagrees about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import DIM, SIZE_PX, Letters, drawn_crop, make_tiny

from deepgps_core.backends import Described
from deepgps_core.dataset import InputError
from deepgps_core.flow import FlowConfig
from deepgps_core.generative import Sampling, sample
from deepgps_core.model import DeepGPSConfig
from deepgps_core.nucleus_images import NetworkScale, default_crops, nuclei_of
from deepgps_core.outputs import predict_files
from deepgps_core.predict import read_nuclear_image
from deepgps_core.predictor import (
    SHIPPED,
    ModelInfo,
    Predictor,
    available_models,
    label_table,
    load_predictor,
)
from deepgps_core.runs import TrainingConfig, load_run
from deepgps_core.shipped import MODELS_PATH, load_shipped, opinion
from deepgps_core.sources.uniprot import read_fasta
from deepgps_core.training import fit

SCALE = NetworkScale(0.206, 0.412, 104)
FLAT = "MSTEELLKKAAEEAGVDPSELLALLEKAGVSPEELLA"


def field_of_cells(side: int = 600, centers: tuple[tuple[int, int], ...] = ()) -> np.ndarray:
    """Draw bright round nuclei of 55 px radius's worth on a dark noisy field, uint16."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    image = rng.normal(300, 15, (side, side))
    for cy, cx in centers:
        image += 4000 / (1 + np.exp((np.hypot(y - cy, x - cx) - 40) / 2))
    return image.astype(np.uint16)


def test_a_small_image_is_one_cell() -> None:
    """Up to one and a half crops, an image is used whole and only averaged down."""
    image = field_of_cells(300, ((150, 150),))
    nuclei = nuclei_of(image, SCALE)
    assert nuclei.images.shape == (1, 150, 150) and "single cell" in nuclei.source
    assert 0 <= nuclei.images.min() and nuclei.images.max() <= 1


def test_a_field_is_cut_into_its_nuclei() -> None:
    """Each nucleus away from the border gives one crop, with the nucleus in the middle."""
    image = field_of_cells(600, ((150, 160), (420, 430), (10, 580)))
    nuclei = nuclei_of(image, SCALE)
    assert nuclei.images.shape == (2, 104, 104) and nuclei.n_found == 2
    assert all(crop[42:62, 42:62].mean() > 0.7 for crop in nuclei.images)
    assert all(crop[:10].mean() < 0.2 for crop in nuclei.images)
    first = nuclei_of(image, SCALE, max_nuclei=1)
    assert first.images.shape[0] == 1 and first.n_found == 2


def test_a_nucleus_at_the_border_is_better_than_none() -> None:
    """Only where no whole cell is there, one that the border cuts is used, filled with 0."""
    nuclei = nuclei_of(field_of_cells(600, ((300, 45),)), SCALE)
    assert nuclei.images.shape == (1, 104, 104)
    assert nuclei.images[0][:, :20].max() == 0


def test_no_nucleus_and_no_scale_are_named() -> None:
    """An empty field and an impossible pixel size are one line with what to do."""
    with pytest.raises(InputError, match="no nucleus found"):
        nuclei_of(field_of_cells(600), SCALE)
    with pytest.raises(InputError, match="pixel size"):
        nuclei_of(field_of_cells(600), SCALE, pixel_size_um=-1)


def test_default_nucleus_is_at_the_networks_scale() -> None:
    """The nucleus that ships comes at the pixel size that is asked for."""
    assert default_crops(SCALE).images.shape == (1, 104, 104)
    assert default_crops(NetworkScale(0.206, 0.206, 208)).images.shape == (1, 208, 208)


MEMBERS = np.array(
    [[[0.9, 0.1], [0.6, 0.4], [0.8, 0.2]], [[0.8, 0.2], [0.4, 0.6], [0.7, 0.3]]]
)  # two members, three proteins


def test_table_by_hand() -> None:
    """Means, extremes and flags of three proteins, worked out by hand."""
    table = label_table({"A": "MK", "B": "MKK", "C": "M"}, MEMBERS, ("Cytoplasm", "Nucleus"))
    assert list(table["n_residues"]) == [2, 3, 1]
    assert list(table["predicted_label"]) == ["Cytoplasm"] * 3
    assert table["p_Cytoplasm"].to_numpy() == pytest.approx([0.85, 0.5, 0.75])
    assert table["confidence_low"].to_numpy() == pytest.approx([0.8, 0.4, 0.7])
    assert table["confidence_high"].to_numpy() == pytest.approx([0.9, 0.6, 0.8])
    assert table["spread"].to_numpy() == pytest.approx([0.05, 0.1, 0.05])
    assert list(table["unsure"]) == [False, True, False]


def test_a_dissenting_member_makes_unsure() -> None:
    """A mean of .72 is sure only if all members prefer that label."""
    members = np.array([[[1.0, 0.0]], [[0.44, 0.56]]])
    table = label_table({"A": "MK"}, members, ("a", "b"))
    assert table["confidence"][0] == pytest.approx(0.72) and table["unsure"][0]


def test_several_places_at_once() -> None:
    """With a probability each, every label of at least one half is named; else the likeliest."""
    members = np.array([[[0.8, 0.6], [0.3, 0.4]]])
    table = label_table({"A": "M", "B": "M"}, members, ("a", "b"), multi_label=True)
    assert list(table["predicted_label"]) == ["a;b", "b"]


class Flat:
    """A backend whose image of a protein is the nucleus times its number of residues / 100."""

    def describe(self, sequences: Mapping[str, str]) -> Described:
        lengths = np.array([[len(s) / 100] for s in sequences.values()], np.float32)
        return Described(np.full((1, len(lengths), 2), 0.5), lengths)

    def draw(self, described: Described, nucleus: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        for start in range(0, len(described.condition), 2):
            rows = slice(start, start + 2)
            yield rows, described.condition[rows, :, None] * nucleus

    def check_samples(self, name: str) -> None:
        raise InputError("no samples")


def test_every_protein_beside_every_nucleus() -> None:
    """Images stand where protein and nucleus say, and progress counts each of them once."""
    info = ModelInfo("flat", "flat", ("a", "b"), "simulated", 1, "n", False, False, SCALE, {})
    seen: list[tuple[int, int]] = []
    image = field_of_cells(600, ((150, 160), (420, 430)))
    sequences = {"A": "M" * 10, "B": "M" * 20, "C": "M" * 30}
    predicted = Predictor(info, Flat()).predict(
        sequences, image, progress=lambda done, total: seen.append((done, total))
    )
    images, nuclei = predicted.images_by_nucleus, predicted.nuclear_images
    assert images is not None and nuclei is not None
    assert images.shape == (3, 2, 104, 104)
    for row, share in enumerate((0.1, 0.2, 0.3)):
        assert images[row] == pytest.approx(share * nuclei, abs=1e-6)
    assert np.array_equal(predicted.images, images[:, 0])
    assert seen == [(2, 6), (3, 6), (5, 6), (6, 6)]


def test_a_folder_of_seeds_is_an_ensemble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs side by side: the mean of their probabilities and images, and their extremes."""
    dataset = make_tiny(tmp_path / "tiny")
    model = DeepGPSConfig(sequence_dim=DIM, hidden_dim=8, width=4, depth=2, crop_size_px=24)
    for seed in (0, 1):
        training = TrainingConfig(encoder="drawn", epochs=1, batch_size=8, seed=seed)
        fit(dataset, "random-0", model, training, tmp_path / "runs" / str(seed))

    class Ones:
        def embed(self, sequences: Mapping[str, str]) -> dict[str, np.ndarray]:
            return {name: np.ones(DIM, np.float32) for name in sequences}

    monkeypatch.setattr("deepgps_core.backends.cached_encoder", lambda name: Ones())
    crop = drawn_crop("Nucleus", np.random.default_rng(0))[0]
    alone = [
        load_predictor(tmp_path / "runs" / str(seed)).predict({"A": "MK"}, crop) for seed in (0, 1)
    ]
    both = load_predictor(tmp_path / "runs").predict({"A": "MK"}, crop)
    p = [one.table["p_Nucleus"][0] for one in alone]
    assert both.table["p_Nucleus"][0] == pytest.approx(np.mean(p))
    assert both.images[0] == pytest.approx((alone[0].images[0] + alone[1].images[0]) / 2, abs=1e-6)
    assert both.images.shape == (1, SIZE_PX // 2, SIZE_PX // 2)
    with pytest.raises(InputError, match="model that generates"):
        load_predictor(tmp_path / "runs").predict({"A": "MK"}, crop, samples=3)


@pytest.fixture(scope="module")
def flow_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two runs of a model that generates."""
    folder = tmp_path_factory.mktemp("flow")
    dataset = make_tiny(folder / "tiny")
    model = FlowConfig(
        sequence_dim=DIM, hidden_dim=8, width=4, depth=2, crop_size_px=24, time_dim=8, steps=2
    )
    for seed in (0, 1):
        training = TrainingConfig(encoder="drawn", epochs=1, batch_size=8, seed=seed)
        fit(dataset, "random-0", model, training, folder / "runs" / str(seed))
    return folder / "runs"


def test_samples_of_a_run_that_generates(flow_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are those of `generative.sample`, image and spread their mean and deviation."""
    monkeypatch.setattr("deepgps_core.backends.cached_encoder", lambda name: Letters())
    crop = drawn_crop("Nucleus", np.random.default_rng(0))[0]
    opened, sequences = load_predictor(flow_runs / "0"), {"A": "MKKKK", "B": "MRRRRRR"}
    seen: list[tuple[int, int]] = []
    predicted = opened.predict(
        sequences, crop, samples=3, progress=lambda done, total: seen.append((done, total))
    )
    assert predicted.samples is not None and predicted.spread is not None and seen == [(2, 2)]
    expected = sample(
        load_run(flow_runs / "0"), sequences, predicted.nuclear_image[None], Sampling(3),
        encoder=Letters(),
    )  # fmt: skip
    assert predicted.samples == pytest.approx(expected, abs=1e-6)
    assert predicted.images == pytest.approx(expected[:, 0].mean(axis=1), abs=1e-6)
    assert predicted.spread == pytest.approx(expected.std(axis=2), abs=1e-6)
    assert predicted.table["image_spread"].to_numpy() == pytest.approx(
        expected.std(axis=2).mean(axis=(1, 2, 3)), abs=1e-6
    )
    again = opened.predict({"B": "MRRRRRR"}, crop, samples=2)
    assert again.samples is not None
    assert again.samples[0] == pytest.approx(predicted.samples[1, :, :2], abs=1e-5)
    assert opened.predict(sequences, crop).samples is None


def test_a_run_is_named_by_more_than_its_seed(flow_runs: Path) -> None:
    """Folders of runs are numbers; what is shown to people says which model it is."""
    info = load_predictor(flow_runs / "0").info
    assert info.name == "single-2-flow-0" and info.generates and not info.calibrated
    assert load_predictor(flow_runs).info.name == "runs"


def test_runs_share_the_samples_out(flow_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs, three samples: two of the first and one of the second, which differ."""
    monkeypatch.setattr("deepgps_core.backends.cached_encoder", lambda name: Letters())
    crop = drawn_crop("Nucleus", np.random.default_rng(0))[0]
    both = load_predictor(flow_runs).predict({"A": "MKKKK"}, crop, samples=3).samples
    first = load_predictor(flow_runs / "0").predict({"A": "MKKKK"}, crop, samples=3).samples
    assert both is not None and first is not None and both.shape == first.shape
    assert both[0, 0, :2] == pytest.approx(first[0, 0, :2], abs=1e-6)
    assert not np.allclose(both[0, 0, 2], first[0, 0, 2], atol=1e-3)


def test_sampled_files(flow_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder holds all samples, their mean and their deviation, in 16 bits."""
    monkeypatch.setattr("deepgps_core.backends.cached_encoder", lambda name: Letters())
    (tmp_path / "a.fasta").write_text(">A\nMKKKK\n")
    nucleus = field_of_cells(600, ((150, 160), (420, 430)))
    tifffile.imwrite(tmp_path / "n.tif", nucleus)
    predicted = predict_files(
        flow_runs / "0", tmp_path / "a.fasta", tmp_path / "n.tif", tmp_path / "out", samples=3
    )
    assert predicted.samples is not None and predicted.spread is not None
    n_nuclei = predicted.samples.shape[1]
    assert n_nuclei == 2
    stem = tmp_path / "out" / "images" / "0000_A"
    found = tifffile.imread(f"{stem}_samples.tif")
    assert found.shape == (3, n_nuclei, *predicted.nuclear_image.shape) and found.dtype == np.uint16
    assert found / 65535 == pytest.approx(predicted.samples[0].swapaxes(0, 1), abs=1e-5)
    assert tifffile.imread(f"{stem}_spread.tif") / 65535 == pytest.approx(
        predicted.spread[0], abs=1e-5
    )
    assert tifffile.imread(f"{stem}.tif") / 65535 == pytest.approx(
        predicted.samples[0].mean(axis=1), abs=1e-5
    )
    report = (tmp_path / "out" / "report.html").read_text()
    assert "mean of 3 samples" in report and report.count('alt="sample ') == 3


def test_too_many_samples_are_refused(flow_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is drawn, with the options to change."""
    monkeypatch.setattr("deepgps_core.backends.cached_encoder", lambda name: Letters())
    crop = drawn_crop("Nucleus", np.random.default_rng(0))[0]
    with pytest.raises(InputError, match="--samples.*--max-nuclei"):
        load_predictor(flow_runs / "0").predict({"A": "MKKKK"}, crop, samples=10**7)


def test_shipped_models_say_what_they_are() -> None:
    """Three models, each with labels, members, scores, and a notice that names simulation."""
    found = available_models()
    assert tuple(info.name for info in found) == SHIPPED
    for info in found:
        assert info.images == "simulated" and "simulated cells" in info.notice
        assert info.n_members == 5 and info.calibrated
        estimate, low, high = info.card["labels"]["auroc"]
        assert 0.5 < low < estimate < high < 1
    assert sum(path.stat().st_size for path in MODELS_PATH.iterdir()) < 3_200_000


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models_predict(name: str) -> None:
    """Each ships ready: probabilities that add up where they should, an image in [0, 1]."""
    model = load_predictor(name)
    assert load_predictor(name) is model
    predicted = model.predict({"A": FLAT, "B": "M" + "KRKR" * 9})
    p = predicted.table[[f"p_{label}" for label in model.labels]].to_numpy()
    assert ((p >= 0) & (p <= 1)).all()
    if not model.info.multi_label:
        assert p.sum(axis=1) == pytest.approx(1)
    assert predicted.images.shape == (2, 104, 104)
    assert 0 <= predicted.images.min() and predicted.images.max() <= 1
    together = predicted.table["p_Nucleus"][1]
    alone = model.label({"B": "M" + "KRKR" * 9})["p_Nucleus"][0]
    assert alone == pytest.approx(together, abs=1e-5)


def test_image_follows_the_label() -> None:
    """Told that a protein is nuclear, the image branch puts more light into the nucleus."""
    from deepgps_core.backends import ShippedBackend
    from deepgps_core.shipped import load_painter

    painter = load_painter()
    backend = ShippedBackend(load_shipped("single-2"), painter)
    p = np.array([[1.0, 0.0], [0.0, 1.0]])
    told = opinion(p, ("Cytoplasm", "Nucleus"), painter.places)
    nucleus = default_crops(SCALE).images[0]
    images = np.concatenate([d for _, d in backend.draw(Described(p[None], told), nucleus)])
    inside = nucleus > 0.5
    share = [image[inside].mean() / image.mean() for image in images]
    assert share[1] > 1.3 * share[0]


def test_unknown_models_are_named(tmp_path: Path) -> None:
    """A name that ships not, a folder without a run: one line that says what there is."""
    for name in ("single-3", tmp_path):
        with pytest.raises(InputError, match="single-2, single-4, all"):
            load_predictor(name)
    with pytest.raises(InputError, match="damaged"):
        (tmp_path / "single-2.yaml").write_text((MODELS_PATH / "single-2.yaml").read_text())
        (tmp_path / "single-2.safetensors").write_bytes(b"\x80\x04K\x01.")  # a pickle
        load_shipped("single-2", tmp_path)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_a_fasta_or_refused(text: str) -> None:
    """Whatever is pasted as FASTA gives sequences or an InputError of one line."""
    try:
        found = read_fasta(">" + text)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert found and all(found.values())


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"II*\x00", b"MM\x00*", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"]),
    st.sampled_from(["a.tif", "a.png", "a.jpg", "a"]),
)  # fmt: skip
def test_any_bytes_are_an_image_or_refused(
    tmp_path: Path, content: bytes, magic: bytes, name: str
) -> None:
    """Whatever lies in an image file gives a plane or an InputError of one line."""
    path = tmp_path / name
    path.write_bytes(magic + content)
    try:
        assert read_nuclear_image(path).ndim == 2
    except InputError as error:
        assert "\n" not in str(error) and str(path) in str(error)
