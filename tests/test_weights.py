"""Weights and sequences from outside: ESM-2, StarDist's archive, Swiss-Prot."""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.util
import io
import lzma
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_web import Web, serve

from deepgps_core.dataset import InputError
from deepgps_core.encoders import load_encoder
from deepgps_core.esm2 import ESM2, load_network
from deepgps_core.segmentation import EMBEDDED_MODEL, NucleusSegmenter, segmenter_identity
from deepgps_core.sources import weights
from deepgps_core.sources.swissprot import (
    SwissProtFilter,
    fetch_swissprot,
    filtered,
    read_records,
    sketch,
)

SMALL = "esm2_t6_8M_UR50D"
rng = np.random.default_rng(0)
RANDOM = ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), 300)) for _ in range(20)]


@pytest.fixture()
def web() -> Iterator[Web]:
    with serve() as running:
        yield running


def checkpoint(network: ESM2) -> bytes:
    """Write a checkpoint as fair-esm does: arguments in a namespace, prefixed names."""
    state = {f"encoder.sentence_encoder.{k}": v for k, v in network.state_dict().items()
             if not k.startswith("lm_head")}  # fmt: skip
    state |= {f"encoder.{k}": v for k, v in network.state_dict().items() if k.startswith("lm_head")}
    stream = io.BytesIO()
    torch.save({"args": argparse.Namespace(arch="x"), "model": state}, stream)
    return stream.getvalue()


def archive(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return stream.getvalue()


def model_archive() -> dict[str, bytes]:
    files = ("config.json", "thresholds.json", "weights_best.h5")
    return {name: (EMBEDDED_MODEL / name).read_bytes() for name in files}


def test_esm2_is_fetched_and_loaded_by_name(web: Web, data_root: Path) -> None:
    """Both files come, are pinned by sha256, load without unpickling, and embed."""
    network = ESM2(2, 40, 20)
    web.answers[f"/models/{SMALL}.pt"] = checkpoint(network)
    web.answers[f"/regression/{SMALL}-contact-regression.pt"] = checkpoint(ESM2(1, 20, 20))
    path, report = weights.fetch_esm2(SMALL, base=f"{web.address}/", load=load_network)
    assert path == data_root / "weights" / f"{SMALL}.pt" and not report.failed
    lock = (path.parent / "sources.lock.yaml").read_text()
    for content in web.answers.values():
        assert hashlib.sha256(content).hexdigest() in lock  # type: ignore[arg-type]
    loaded = load_network(path).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in network.state_dict().items())
    vector = load_encoder(SMALL).embed({"p": "MKVLA"})["p"]
    assert vector.shape == (40,) and np.isfinite(vector).all()


def test_esm2_refuses_code_and_other_names(web: Web, data_root: Path) -> None:
    """A pickle that would run code is refused by the loader; unknown names by the table."""

    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("executed",)

    web.answers[f"/models/{SMALL}.pt"] = pickle.dumps({"model": Attack()})
    web.answers[f"/regression/{SMALL}-contact-regression.pt"] = b"x"
    with pytest.raises(InputError, match="weights"):
        weights.fetch_esm2(SMALL, base=f"{web.address}/", load=load_network)
    with pytest.raises(InputError, match="no published ESM-2; choose of esm2_t6_8M_UR50D"):
        weights.fetch_esm2("esm3_open")


def test_esm2_changed_weights_are_refused(web: Web, data_root: Path) -> None:
    """What was pinned at the first download has to come again."""
    web.answers[f"/models/{SMALL}.pt"] = b"first"
    web.answers[f"/regression/{SMALL}-contact-regression.pt"] = b"r"
    path, _ = weights.fetch_esm2(SMALL, base=f"{web.address}/")
    path.unlink()
    web.answers[f"/models/{SMALL}.pt"] = b"second"
    _, report = weights.fetch_esm2(SMALL, base=f"{web.address}/")
    assert "not the file pinned on" in report.failed[f"{SMALL}.pt"] and not path.exists()


def test_esm2_dry_run_states_the_size(data_root: Path) -> None:
    """A dry run tells the size without asking anybody."""
    _, report = weights.fetch_esm2("esm2_t33_650M_UR50D", dry_run=True)
    assert report.bytes == 2_605_000_000 and "MIT" in report.describe()
    assert not (data_root / "weights").exists()


def test_stardist_hashes_are_those_registered() -> None:
    """The table agrees with what the installed StarDist registers, without importing it."""
    spec = importlib.util.find_spec("stardist")
    if spec is None or spec.origin is None:
        pytest.skip("stardist is not installed")
    source = (Path(spec.origin).parent / "models" / "__init__.py").read_text()
    found = dict(re.findall(r"StarDist2D,\s+'(\w+)',\s+'[^']+',\s+'([0-9a-f]{64})'", source))
    assert {name: found[name] for name in weights.STARDIST_MODELS} == weights.STARDIST_MODELS


def test_stardist_is_unpacked_for_the_segmenter(web: Web, data_root: Path) -> None:
    """The archive's model folder is one that the segmenter knows; a wrong hash is refused."""
    members = model_archive() | {"weights_last.h5": b"x", "TF_SavedModel.zip": b"y"}
    content = archive(members)
    web.answers["/python_2D_versatile_fluo.zip"] = content
    _, report = weights.fetch_stardist(base=f"{web.address}/")
    assert "its sha256 is" in next(iter(report.failed.values()))
    assert not (data_root / "weights" / "2D_versatile_fluo").exists()
    folder, report = weights.fetch_stardist(
        base=f"{web.address}/", sha256=hashlib.sha256(content).hexdigest()
    )
    assert not report.failed
    assert sorted(path.name for path in folder.iterdir()) == sorted(model_archive())
    assert segmenter_identity(folder).startswith("2D_versatile_fluo-")
    with pytest.raises(InputError, match="no model of StarDist"):
        weights.fetch_stardist("2D_demo_x")


@pytest.mark.slow
def test_unpacked_model_segments(data_root: Path) -> None:
    """A fetched folder finds the same nuclei as what was packed, by path and by its name."""
    packed = data_root / "m.zip"
    packed.parent.mkdir(parents=True, exist_ok=True)
    packed.write_bytes(archive(model_archive()))
    folder = weights.unpack_model(packed, data_root / "weights" / "2D_versatile_fluo")
    y, x = np.mgrid[:256, :256]
    image = (np.hypot(y - 128, x - 128) < 35).astype(np.float32)
    expected = NucleusSegmenter()(image)
    for model in (folder, "2D_versatile_fluo"):
        found = NucleusSegmenter(model)(image)
        assert len(found) == len(expected) == 1
        np.testing.assert_array_equal(found.radii, expected.radii)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"../config.json": b"{}"}, "leaves its folder"),
        ({"/etc/config.json": b"{}"}, "leaves its folder"),
        ({"..\\config.json": b"{}"}, "leaves its folder"),
        ({"config.json": b"{}"}, "thresholds.json is missing"),
        ({f"{i}.txt": b"" for i in range(200)}, "over 100 members"),
        (model_archive() | {"a/config.json": b"{}"}, "two files config.json"),
        (model_archive() | {"config.json": b"no json"}, "damaged"),
    ],
)
def test_hostile_archives(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    """Names that leave the folder and archives that are no model leave nothing behind."""
    packed = tmp_path / "in" / "m.zip"
    packed.parent.mkdir()
    packed.write_bytes(archive(members))
    with pytest.raises(InputError, match=message):
        weights.unpack_model(packed, tmp_path / "in" / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert [path.name for path in packed.parent.iterdir()] == ["m.zip"]


def test_zip_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpacking stops at the limit, whatever size the archive states, and cleans up."""
    monkeypatch.setattr(weights, "MAX_MODEL_BYTES", 5_000_000)
    packed = tmp_path / "m.zip"
    packed.write_bytes(archive(model_archive() | {"weights_best.h5": b"\0" * 50_000_000}))
    assert packed.stat().st_size < 1_000_000
    with pytest.raises(InputError, match="unpacks to over 5,000,000 bytes"):
        weights.unpack_model(packed, tmp_path / "model")
    packed.write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(InputError, match="damaged"):
        weights.unpack_model(packed, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["m.zip"]


def test_sketch_finds_near_duplicates() -> None:
    """Equal sequences and most with one change at an end share it; unrelated ones never do."""
    assert len({sketch(s) for s in RANDOM}) == len(RANDOM)
    changed = [sketch(s) == sketch(s[:-1] + "A") for s in RANDOM]
    assert np.mean(changed) > 0.7  # a word out of 293 is one of the least four in 1.4 % of cases
    assert sketch("MKV") == sketch("MKV") != sketch("MKA")


def test_filter_rules() -> None:
    """Short, long and odd sequences go, and repeats; order stays."""
    long, odd = "M" + "ACDEFGHIKL" * 103, "M" * 40 + "X"
    kept = list(filtered(["MKV", RANDOM[0], odd, long, RANDOM[1], RANDOM[0]], SwissProtFilter()))
    assert kept == RANDOM[:2]
    assert list(filtered(["MKV"], SwissProtFilter(min_residues=1))) == ["MKV"]


def test_swissprot_becomes_lines(web: Web, tmp_path: Path) -> None:
    """The compressed FASTA becomes one sequence a line, as appendix A1 reads it."""
    records = [f">sp|P{i:05d}|X\n{s[:60]}\n{s[60:]}\n" for i, s in enumerate(RANDOM)]
    web.answers["/s.fasta.gz"] = gzip.compress("".join([*records, records[0]]).encode())
    path = fetch_swissprot(tmp_path, url=f"{web.address}/s.fasta.gz")
    with lzma.open(path, "rt") as stream:
        assert [line.strip() for line in stream] == RANDOM
    assert "read: 21" in (tmp_path / "swissprot.yaml").read_text()
    assert "kept: 20" in (tmp_path / "swissprot.yaml").read_text()
    with lzma.open(fetch_swissprot(tmp_path, url=f"{web.address}/s.fasta.gz", limit=3)) as stream:
        assert len(stream.read().split()) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"no fasta\n", mtime=0), "does not begin as FASTA"),
        (gzip.compress(b">x\nMKV\n" * 9000)[:-30], "damaged"),
        (gzip.compress(b">x\n" + b"A" * 2_000_000), "no FASTA file of Swiss-Prot"),
    ],
)
def test_damaged_swissprot(tmp_path: Path, content: bytes, message: str) -> None:
    """Damaged, endless and other files end in one line."""
    path = tmp_path / "s.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(read_records(path))
