"""Fields to crops: each step on images whose answer is known, and the whole of it resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from skimage.measure import label as connected_components
from skimage.measure import regionprops

from deepgps_core.dataset import Dataset, DatasetInfo, InputError, sha256_of, write_table
from deepgps_core.preprocessing import (
    Nuclei,
    PreprocessingConfig,
    crop_origins,
    crop_table,
    cut_crops,
    normalize_field,
    prepare,
    read_nuclei,
    select_nuclei,
    to_uint8,
)
from deepgps_core.segmentation import N_RAYS, measured_nuclei

RADIUS_PX = 30


class DiscSegmenter:
    """In StarDist's place: bright connected components as discs. Counts its calls."""

    identity = "discs"
    probability_threshold = None
    nms_threshold = None
    scale = 1.0

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, nuclear_image: np.ndarray) -> Nuclei:
        self.calls += 1
        regions = regionprops(connected_components(nuclear_image > 0.5))
        points = np.array([region.centroid for region in regions]).reshape(-1, 2)
        radii = np.array([[np.sqrt(region.area / np.pi)] * N_RAYS for region in regions])
        likely = np.full(len(points), 0.9)
        return measured_nuclei(points, radii.reshape(-1, N_RAYS), likely, nuclear_image.shape[-2:])


def draw_field(centers: list[tuple[int, int]], size: int = 400, radius: int = RADIUS_PX):
    """Draw bright discs on a dim floor: uint16 (2, size, size)."""
    y, x = np.mgrid[:size, :size]
    field = np.full((2, size, size), 500, dtype=np.uint16)
    for i, (cy, cx) in enumerate(centers):
        field[0][(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = 2000
        field[1][(y - cy) ** 2 + (x - cx) ** 2 <= (radius / 2) ** 2] = 1000 + 100 * i
    return field


def make_dataset(path: Path, fields: dict[str, np.ndarray]) -> Dataset:
    """Write fields as a dataset of one protein."""
    proteins = pd.DataFrame(
        [["P1", "G1", "P1", "MKT", "Nucleus", "Nucleus", "c1"]],
        columns=["protein_id", "gene", "uniprot", "sequence", "locations", "label", "cluster_30"],
    )
    rows = []
    (path / "fields").mkdir(parents=True)
    for name, field in fields.items():
        file = path / "fields" / f"{name}.tif"
        tifffile.imwrite(file, field, photometric="minisblack")
        rows.append([name, "P1", f"fields/{name}.tif", sha256_of(file)])
    table = pd.DataFrame(rows, columns=["field_id", "protein_id", "path", "sha256"])
    info = DatasetInfo("t", "drawn", "1", "MIT", "simulated", "discs", 0.2, ("Nucleus",))
    return Dataset.create(path, info, proteins, table)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Three fields: two nuclei, one nucleus and one too near the border, one speck alone."""
    return make_dataset(
        tmp_path / "set",
        {
            "F1": draw_field([(150, 150), (240, 260)]),
            "F2": draw_field([(200, 200), (60, 330)]),
            "F3": draw_field([(200, 200)], radius=8),
        },
    )


def test_normalize_sets_percentiles_to_zero_and_one() -> None:
    """Each channel's own percentiles become 0 and 1; nothing is clipped."""
    rng = np.random.default_rng(0)
    field = rng.integers(100, 4000, (2, 80, 80)).astype(np.uint16)
    field[1] //= 4
    normalized = normalize_field(field)
    assert normalized.dtype == np.float32
    low, high = np.percentile(normalized, [1.0, 99.8], axis=(1, 2))
    assert low == pytest.approx([0, 0], abs=1e-6)
    assert high == pytest.approx([1, 1], abs=1e-6)
    assert normalized.max() > 1 and normalized.min() < 0


def test_normalize_by_field_keeps_the_ratio_of_channels() -> None:
    """Percentiles over both channels keep a dim channel dim."""
    field = np.random.default_rng(0).integers(0, 4000, (2, 80, 80)).astype(np.uint16)
    field[1] //= 4
    together = normalize_field(field, PreprocessingConfig(normalize_by="field"))
    assert together[1].max() < 0.3 * together[0].max()


def test_uint8_clips_and_rounds() -> None:
    """Values beyond [0, 1] saturate; 0.5 becomes the even neighbor 128."""
    assert to_uint8(np.array([-1, 0, 0.5, 1, 3.0])).tolist() == [0, 0, 128, 255, 255]


def test_size_filter_keeps_the_stated_minimum() -> None:
    """An object of exactly minimum_area_px stays, one pixel less goes."""
    area = np.array([999, 1000, 5000])
    zeros = np.zeros(3)
    nuclei = Nuclei(zeros, zeros, area, zeros, np.zeros((3, N_RAYS)))
    assert select_nuclei(nuclei, PreprocessingConfig()).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("rule", "kept", "origin"),
    [("drop", False, None), ("shift", True, [0, 96]), ("pad", True, [-54, 96])],
)
def test_border_rules(rule: str, kept: bool, origin: list[int] | None) -> None:
    """A nucleus at y = 50 loses its crop, moves off center, or hangs over the edge."""
    centroids = np.array([[50.2, 199.6], [200.0, 200.0]])
    origins, keep = crop_origins(centroids, (400, 400), PreprocessingConfig(border_rule=rule))
    assert keep.tolist() == [kept, True]
    assert origins[1].tolist() == [96, 96]
    if origin:
        assert origins[0].tolist() == origin


def test_crops_at_the_very_edge_are_kept() -> None:
    """The drop rule allows windows that just touch the border, and none beyond."""
    config = PreprocessingConfig()
    centroids = np.array([[104.0, 104.0], [103.0, 104.0], [296.0, 296.0], [296.0, 297.0]])
    assert crop_origins(centroids, (400, 400), config)[1].tolist() == [True, False, True, False]


def test_padding_is_zero_and_the_rest_is_the_image() -> None:
    """A window hanging over two borders holds the image's corner and zeros."""
    image = np.arange(1, 17, dtype=np.uint8).reshape(1, 4, 4)
    crop = cut_crops(image, np.array([[-1, 2]]), 3)[0, 0]
    assert crop.tolist() == [[0, 0, 0], [3, 4, 0], [7, 8, 0]]


def test_a_field_smaller_than_a_crop_is_refused() -> None:
    """The message gives both sizes and the way out."""
    with pytest.raises(InputError, match=r"100 x 400 .* 208; use border_rule='pad'"):
        crop_origins(np.zeros((1, 2)), (100, 400), PreprocessingConfig())


@pytest.mark.parametrize("change", [{"border_rule": "wrap"}, {"normalize_by": "image"},
                                    {"percentile_low": 99.9}])  # fmt: skip
def test_unknown_choices_are_refused(change: dict) -> None:
    """A typing error in a choice does not fall back to a default."""
    with pytest.raises(InputError, match="use|give"):
        PreprocessingConfig(**change)


def test_prepare_cuts_what_was_drawn(dataset: Dataset) -> None:
    """Three of five objects give crops; each shows its disc in the middle, its mask too."""
    prepared = prepare(dataset, segmenter=DiscSegmenter(), workers=1)
    assert prepared.nuclei["field_id"].tolist() == ["F1", "F1", "F2", "F2", "F3"]
    assert prepared.crops["crop_id"].tolist() == ["F1_n000", "F1_n001", "F2_n001"]
    images, masks = prepared.crop_images[:], prepared.nuclear_masks[:]
    assert images.shape == (3, 2, 208, 208) and images.dtype == np.uint8
    assert masks.shape == (3, 208, 208) and masks.dtype == bool
    y, x = np.mgrid[:208, :208] - 104
    disc = y**2 + x**2 <= RADIUS_PX**2
    for i in range(3):
        assert (masks[i] & disc).sum() / (masks[i] | disc).sum() > 0.97
        assert images[i, 0][disc].min() > 250 and images[i, 0, 104, 150] < 5
    field = to_uint8(normalize_field(dataset.read_field("F1")))
    assert np.array_equal(images[1], field[:, 136:344, 156:364])
    assert not (dataset.path / ".prepare").exists()


def test_masks_hold_only_the_centred_nucleus(dataset: Dataset) -> None:
    """The neighbor in the same crop is not in its mask."""
    prepared = prepare(dataset, segmenter=DiscSegmenter(), workers=1)
    mask = prepared.nuclear_masks[0]
    assert connected_components(mask).max() == 1
    assert (prepared.crop_images[0, 0] > 250).sum() > 1.3 * mask.sum()


def test_nuclei_travel(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the three nuclei files in place nothing is segmented and TensorFlow not needed."""
    segmenter = DiscSegmenter()
    first = prepare(dataset, segmenter=segmenter, workers=1)
    expected = first.crop_images[:]
    assert segmenter.calls == 3
    for name in ("crops.zarr", "crops.csv"):
        os.rename(dataset.path / name, dataset.path / f"old-{name}")
    monkeypatch.setattr("deepgps_core.nuclei.segmenter_identity", lambda: "discs")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setitem(sys.modules, "stardist.models", None)
    again = prepare(Dataset(dataset.path), workers=1)
    assert np.array_equal(again.crop_images[:], expected)
    restored = read_nuclei(again)
    assert restored["F1"].radii.shape == (2, N_RAYS)
    assert restored["F1"].area_px.tolist() == again.nuclei["area_px"].tolist()[:2]


def test_other_choices_redo_only_what_depends_on_them(dataset: Dataset) -> None:
    """A new border rule cuts anew from the same nuclei; new percentiles segment anew."""
    segmenter = DiscSegmenter()
    prepare(dataset, segmenter=segmenter, workers=1)
    shifted = prepare(
        Dataset(dataset.path), PreprocessingConfig(border_rule="shift"), segmenter, workers=1
    )
    assert segmenter.calls == 3 and len(shifted.crops) == shifted.crop_images.shape[0] == 4
    prepare(Dataset(dataset.path), PreprocessingConfig(percentile_low=3.0), segmenter, workers=1)
    assert segmenter.calls == 6


def test_nothing_is_redone(dataset: Dataset) -> None:
    """A second call with the same choices touches no file."""
    prepare(dataset, segmenter=DiscSegmenter(), workers=1)
    files = [p for p in dataset.path.rglob("*") if p.is_file()]
    before = {p: p.stat().st_mtime_ns for p in files}
    segmenter = DiscSegmenter()
    prepare(Dataset(dataset.path), segmenter=segmenter, workers=1)
    assert segmenter.calls == 0
    assert {p: p.stat().st_mtime_ns for p in dataset.path.rglob("*") if p.is_file()} == before


def test_workers_do_not_change_the_crops(tmp_path: Path) -> None:
    """Several processes write the same bytes as one."""
    centers = [(110 + 62 * i, 110 + 62 * j) for i in range(4) for j in range(4)]
    fields = {f"F{k:02d}": draw_field(centers, radius=20 + k % 3) for k in range(36)}
    alone = prepare(make_dataset(tmp_path / "a", fields), segmenter=DiscSegmenter(), workers=1)
    several = prepare(make_dataset(tmp_path / "b", fields), segmenter=DiscSegmenter(), workers=2)
    assert len(alone.crops) > 500  # nine chunks of 64
    assert np.array_equal(alone.crop_images[:], several.crop_images[:])
    assert np.array_equal(alone.nuclear_masks[:], several.nuclear_masks[:])


KILLED = """
    import sys, time
    sys.path.insert(0, {tests!r})
    import test_preprocessing as t
    from deepgps_core import preprocessing
    from deepgps_core.dataset import Dataset

    class Slow(t.DiscSegmenter):
        def __call__(self, image):
            found = super().__call__(image)
            time.sleep({nap_segment})
            return found

    cut = preprocessing._cut_chunk
    def slow_cut(chunk):
        number = cut(chunk)
        time.sleep({nap_cut})
        return number
    preprocessing._cut_chunk = slow_cut
    preprocessing.prepare(Dataset({path!r}), segmenter=Slow(), workers=1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["nuclei", "crops"])
def test_a_killed_run_resumes(tmp_path: Path, phase: str) -> None:
    """After kill -9 in either phase the rest is done, what was done is kept, results equal."""
    centers = [(110 + 62 * i, 110 + 62 * j) for i in range(4) for j in range(4)]
    fields = {f"F{k:02d}": draw_field(centers, radius=20 + k % 3) for k in range(16)}
    whole = prepare(make_dataset(tmp_path / "whole", fields), segmenter=DiscSegmenter(), workers=1)
    broken = make_dataset(tmp_path / "broken", fields)
    script = textwrap.dedent(KILLED).format(
        tests=str(Path(__file__).parent), path=str(broken.path),
        nap_segment=0.4 if phase == "nuclei" else 0, nap_cut=5 if phase == "crops" else 0,
    )  # fmt: skip
    pattern = "nuclei-*/*.npz" if phase == "nuclei" else "crops-*.zarr/.done-*"
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    hidden = broken.path / ".prepare"
    for _ in range(600):
        if len(done := [p for p in hidden.glob(pattern) if not p.name.startswith(".F")]) >= 1:
            break
        assert process.poll() is None, "finished before it could be killed"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (broken.path / "crops.csv").exists()
    kept = {p: p.stat().st_mtime_ns for p in done}
    segmenter = DiscSegmenter()
    resumed = prepare(Dataset(broken.path), segmenter=segmenter, workers=1)
    assert kept and segmenter.calls <= len(fields) - (len(kept) if phase == "nuclei" else 16)
    pd.testing.assert_frame_equal(resumed.crops, whole.crops)
    assert np.array_equal(resumed.crop_images[:], whole.crop_images[:])
    assert np.array_equal(resumed.nuclear_masks[:], whole.nuclear_masks[:])


def test_a_field_without_nuclei_is_reported_not_fatal(tmp_path: Path) -> None:
    """One line lists it; the others give their crops."""
    fields = {"F1": draw_field([(200, 200)]), "F2": draw_field([])}
    with pytest.warns(UserWarning, match="no nucleus in 1 of 2 fields.*: F2$"):
        prepared = prepare(make_dataset(tmp_path / "s", fields), segmenter=DiscSegmenter())
    assert prepared.crops["field_id"].tolist() == ["F1"]


def test_no_nucleus_anywhere_is_an_error(tmp_path: Path) -> None:
    """The message suggests the channel order; no crops are left behind."""
    dataset = make_dataset(tmp_path / "s", {"F1": draw_field([])})
    with pytest.raises(InputError, match="no nucleus in any of 1 fields; check that channel 0"):
        prepare(dataset, segmenter=DiscSegmenter())
    assert not (dataset.path / "crops.csv").exists()


def test_only_specks_is_an_error(tmp_path: Path) -> None:
    """Nuclei that all are too small name the choice that removes them."""
    dataset = make_dataset(tmp_path / "s", {"F1": draw_field([(200, 200)], radius=8)})
    with pytest.raises(InputError, match="at least 1000 pixels.*lower minimum_area_px"):
        prepare(dataset, segmenter=DiscSegmenter())


def broken_field(dataset: Dataset, kind: str) -> Path:
    """Damage field F2 in one of three ways, its checksum kept true."""
    path = dataset.path / "fields" / "F2.tif"
    if kind == "one channel":
        tifffile.imwrite(path, draw_field([(200, 200)])[0])
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:3000])
    else:
        path.unlink()
    fields = dataset.fields.copy()
    if path.exists():
        fields.loc[fields["field_id"] == "F2", "sha256"] = sha256_of(path)
    write_table(fields, dataset.path / "fields.csv")
    return path


@pytest.mark.parametrize("kind", ["one channel", "truncated", "missing"])
def test_unreadable_fields_are_named(dataset: Dataset, kind: str) -> None:
    """One line names the file and a remedy; no tables are left half-written."""
    path = broken_field(dataset, kind)
    with pytest.raises(InputError) as caught:
        prepare(Dataset(dataset.path), segmenter=DiscSegmenter(), workers=1)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and ";" in message
    assert not any((dataset.path / name).exists() for name in ("nuclei.csv", "crops.csv"))


def test_a_changed_field_is_refused(dataset: Dataset) -> None:
    """A file that is not the one in fields.csv is not segmented under its name."""
    tifffile.imwrite(dataset.path / "fields" / "F2.tif", draw_field([(180, 200)]))
    with pytest.raises(InputError, match="sha256 differs.*restore it"):
        prepare(dataset, segmenter=DiscSegmenter(), workers=1)


def test_a_missing_table_is_named(dataset: Dataset) -> None:
    """Without fields.csv the remedy is said in one line."""
    (dataset.path / "fields.csv").unlink()
    with pytest.raises(InputError, match=r"fields\.csv: table not found; "):
        prepare(Dataset(dataset.path), segmenter=DiscSegmenter())


def test_nuclei_that_disagree_are_refused(dataset: Dataset) -> None:
    """A nuclei.csv edited by hand no longer fits its radii, and says so."""
    segmenter = DiscSegmenter()
    prepare(dataset, segmenter=segmenter, workers=1)
    write_table(dataset.nuclei.iloc[1:], dataset.path / "nuclei.csv")
    with pytest.raises(InputError, match=r"nuclei\.npz: 2 nuclei of field 'F1', but .* has 1"):
        prepare(Dataset(dataset.path), segmenter=segmenter, workers=1)


def test_the_crop_table_needs_no_cutting(dataset: Dataset) -> None:
    """Counting crops under other choices reads no pixels and writes nothing."""
    prepared = prepare(dataset, segmenter=DiscSegmenter(), workers=1)
    counts = {
        rule: len(
            crop_table(prepared, read_nuclei(prepared), PreprocessingConfig(border_rule=rule))
        )
        for rule in ("drop", "shift", "pad")
    }
    assert counts == {"drop": 3, "shift": 4, "pad": 4}
    assert zarr.open_group(dataset.path / "crops.zarr", mode="r").attrs["preprocessing"]
