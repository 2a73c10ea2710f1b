"""The dataset folder opens only when it is whole, and says in one line what is wrong."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import filelock
import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st

from deepgps_core.dataset import (
    LEGAL_LETTERS,
    Dataset,
    DatasetInfo,
    InputError,
    atomic_path,
    check_sequence,
    config_hash,
    one_at_a_time,
    read_field_tiff,
    sha256_of,
)

INFO = DatasetInfo(
    "tiny", "made here", "1", "CC0", "simulated", "none", 0.206, ("Cytoplasm", "Nucleus")
)


def protein_table(**changes: list[str]) -> pd.DataFrame:
    columns = {
        "protein_id": ["P1", "P2"], "gene": ["NA", "B"], "uniprot": ["P1", "P2"],
        "sequence": ["MKV", "MAA"], "locations": ["Cytoplasm", "Cytoplasm;Nucleus"],
        "label": ["Cytoplasm", ""], "cluster_30": ["c1", "c2"],
    }  # fmt: skip
    return pd.DataFrame(columns | changes)


def make_dataset(path: Path) -> Dataset:
    field = np.arange(2 * 8 * 8, dtype=np.uint16).reshape(2, 8, 8)
    (path / "fields").mkdir(parents=True)
    tifffile.imwrite(path / "fields" / "f1.tif", field)
    fields = pd.DataFrame(
        {
            "field_id": ["f1"], "protein_id": ["P1"], "path": ["fields/f1.tif"],
            "sha256": [sha256_of(path / "fields" / "f1.tif")],
        }
    )  # fmt: skip
    return Dataset.create(path, INFO, protein_table(), fields)


def one_line(error: pytest.ExceptionInfo[InputError], *words: str) -> None:
    """Assert that a message is a single line that holds the given words."""
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_round_trip(tmp_path: Path) -> None:
    """What was written is what is read: text stays text, empty stays empty, info is equal."""
    dataset = Dataset(make_dataset(tmp_path / "d").path)
    pd.testing.assert_frame_equal(
        dataset.proteins, protein_table(), check_dtype=False, check_column_type=False
    )
    assert dataset.info == INFO
    assert dataset.proteins["gene"].iloc[0] == "NA"  # a gene's name, not a missing value
    assert dataset.sequences() == {"P1": "MKV", "P2": "MAA"}
    assert dataset.read_field("f1")[1, 7, 7] == 127


def test_features_and_splits_round_trip(tmp_path: Path) -> None:
    """Vectors come back in float32 under their protein; a split comes back part by part."""
    dataset = make_dataset(tmp_path / "d")
    dataset.write_features("e", {"P1": np.array([1.5, 2.0]), "P2": np.zeros(2)})
    assert dataset.features("e")["P1"].tolist() == [1.5, 2.0]
    assert dataset.features("e")["P1"].dtype == np.float32
    dataset.write_split("s", pd.Series({"P1": "train", "P2": "test"}))
    assert dataset.split("s").to_dict() == {"P1": "train", "P2": "test"}


@pytest.mark.parametrize("name", ["dataset.yaml", "proteins.csv"])
def test_missing_table_is_named(tmp_path: Path, name: str) -> None:
    """A folder that lacks a part is no dataset; the message names the part and a remedy."""
    path = make_dataset(tmp_path / "d").path
    (path / name).unlink()
    with pytest.raises(InputError) as error:
        Dataset(path)
    one_line(error, name, "make")


@pytest.mark.parametrize("table", ["nuclei", "crops", "crop_images"])
def test_what_prepare_makes_is_missed_when_asked_for(tmp_path: Path, table: str) -> None:
    """Tables of a later step are missed only when asked for, with the step that makes them."""
    dataset = make_dataset(tmp_path / "d")
    with pytest.raises(InputError) as error:
        getattr(dataset, table)
    one_line(error, "deepgps prepare")


def test_crop_array_must_match_its_table(tmp_path: Path) -> None:
    """More crops in the array than in the table is an error, not a silent shift."""
    dataset = make_dataset(tmp_path / "d")
    group = zarr.open_group(dataset.path / "crops.zarr", mode="w")
    group.create_array("image", shape=(2, 2, 4, 4), dtype="uint8")
    header = "crop_id,field_id,nucleus_id,protein_id,y0_px,x0_px\n"
    (dataset.path / "crops.csv").write_text(header + "c,f1,0,P1,0,0\n")
    with pytest.raises(InputError) as error:
        dataset.crop_images  # noqa: B018
    one_line(error, "2 crops", "1")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protein_id": ["P1", "P1"]}, ["P1", "more than once"]),
        ({"label": ["Golgi", ""]}, ["Golgi", "vocabulary", "Cytoplasm"]),
    ],
)
def test_bad_protein_tables(tmp_path: Path, change: dict, words: list[str]) -> None:
    """Duplicate ids and unknown labels are refused before anything is written."""
    with pytest.raises(InputError) as error:
        Dataset.create(tmp_path / "d", INFO, protein_table(**change))
    one_line(error, *words)
    assert not (tmp_path / "d").exists()


def test_a_field_cannot_leave_the_folder(tmp_path: Path) -> None:
    """A path in fields.csv that climbs out of the dataset is refused."""
    dataset = make_dataset(tmp_path / "d")
    table = dataset.path / "fields.csv"
    table.write_text(table.read_text().replace("fields/f1.tif", "../secret.tif"))
    with pytest.raises(InputError) as error:
        Dataset(dataset.path).read_field("f1")
    one_line(error, "leaves the dataset folder")


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8), np.uint16), np.zeros((3, 8, 8), np.uint16), np.zeros((2, 8, 8), np.uint8)],
)
def test_wrong_tiff_shape(tmp_path: Path, image: np.ndarray) -> None:
    """One channel, three channels or eight bits are not a field."""
    tifffile.imwrite(tmp_path / "f.tif", image, photometric="minisblack")
    with pytest.raises(InputError) as error:
        read_field_tiff(tmp_path / "f.tif")
    one_line(error, "f.tif", "two channels")


@pytest.mark.parametrize("keep", [0, 4, 100, 30_000])
def test_truncated_tiff(tmp_path: Path, keep: int) -> None:
    """A file cut anywhere gives the one-line error, never an array."""
    path = tmp_path / "f.tif"
    pixels = np.random.default_rng(0).integers(0, 65535, (2, 150, 150), dtype=np.uint16)
    tifffile.imwrite(path, pixels)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError) as error:
        read_field_tiff(path)
    one_line(error, "f.tif", "get it again")


def test_atomic_path_keeps_the_old_file_on_failure(tmp_path: Path) -> None:
    """An exception while writing leaves the old content and no temporary file."""
    path = tmp_path / "t.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


@given(st.text(alphabet=sorted(LEGAL_LETTERS), min_size=1, max_size=50))
def test_legal_sequences_pass_unchanged(sequence: str) -> None:
    """Any word over the legal letters is a sequence, in either case and with line breaks."""
    assert check_sequence("P", sequence) == sequence
    assert check_sequence("P", sequence.lower() + "\n*") == sequence


@pytest.mark.parametrize(
    ("sequence", "word"), [("", "empty"), ("MK1V", "1"), ("M" * 2701, "2701 residues")]
)
def test_illegal_sequences(sequence: str, word: str) -> None:
    """Empty, ill-spelt or over-long sequences are named with their protein and file."""
    with pytest.raises(InputError) as error:
        check_sequence("P99", sequence, source="my.fasta")
    one_line(error, "P99", "my.fasta", word)


def test_config_hash_depends_on_values_only() -> None:
    """Key order does not matter; a changed value does."""
    assert config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})
    assert config_hash(INFO) == config_hash(INFO)


POOL = """
import os, time
from deepgps_core.dataset import worker_pool

if __name__ == "__main__":
    with worker_pool(2) as pool:
        print(*{pool.submit(os.getpid).result() for _ in range(20)}, flush=True)
        time.sleep(60)
"""


def is_running(pid: int) -> bool:
    """Say whether there is such a process that is more than a name."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/status")
    return not status.exists() or "State:\tZ" not in status.read_text()


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    """After kill -9 of the process that made them, workers do not wait for ever."""
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert workers and all(map(is_running, workers))
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, workers))


def test_where_nothing_can_be_written_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a read-only disk what is finished is read without a lock; other errors are not hidden."""
    numbers = iter([errno.EROFS, errno.ENOSPC])

    def refuse(*_: object, **__: object) -> None:
        raise OSError(next(numbers), "refused")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with one_at_a_time(tmp_path / "made"):
        entered = True
    assert entered
    with pytest.raises(OSError, match="refused"), one_at_a_time(tmp_path / "made"):
        pass


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process")
def test_workers_are_as_many_as_the_cores_one_may_use() -> None:
    """Slurm gives a job some of a machine's cores; the machine's own number is not ours."""
    script = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
        "from deepgps_core.dataset import usable_cores; print(usable_cores())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr
