"""OpenCell from servers that behave as the real ones, and the counts of the real tables."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_server import contents_of
from opencell_world import Target, World, field_bytes, key_of, opencell_world
from typer.testing import CliRunner, Result

from deepgps_core.cli import app
from deepgps_core.dataset import Dataset, InputError
from deepgps_core.sources import opencell_choice
from deepgps_core.sources.opencell import (
    MINI,
    OpenCellPlan,
    count_targets,
    fetch_opencell,
    opencell_tables,
)
from deepgps_core.sources.opencell_images import list_projections
from deepgps_core.sources.opencell_tables import (
    ANNOTATIONS_NAME,
    LIBRARY_NAME,
    SEQUENCES_NAME,
    OpenCellTables,
)


@pytest.fixture(autouse=True)
def no_relatives(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random sequences have no relatives; MMseqs2 needs seconds to find that out."""
    if not request.node.get_closest_marker("slow"):
        monkeypatch.setattr(opencell_choice, "cluster_proteins", lambda s: {x: x for x in s})


@pytest.fixture(scope="module")
def shared_world() -> Iterator[World]:
    with opencell_world() as world:
        yield world


@pytest.fixture()
def world(shared_world: World) -> Iterator[World]:
    """Return the servers as they were at first, whatever a test did to them."""
    files, faults = dict(shared_world.web.files), dict(shared_world.web.faults)
    yield shared_world
    shared_world.web.files = files
    shared_world.web.faults.clear()
    shared_world.web.faults.update(faults)
    for key, content in list(shared_world.images.items()):
        shared_world.replace(key, content)


def test_dataset_from_servers(world: World, tmp_path: Path) -> None:
    """All admitted targets and their projections arrive, byte for byte, labelled by the rule."""
    dataset, report, notes = fetch_opencell(tmp_path / "opencell", **world.servers)
    assert dataset is not None and not report.failed
    proteins = dataset.proteins.set_index("gene")
    # LONG1 is too long, V1E1 cannot be joined
    assert len(proteins) == len(world.targets) - 2 and "LONG1" not in proteins.index
    assert any("V1E1" in note for note in notes)
    sequences = {target.uniprot: target.sequence for target in world.targets}
    assert all(sequences[row.protein_id] == row.sequence for row in proteins.itertuples())
    assert proteins["label"].to_dict() == {
        **{f"CYT{i}": "Cytoplasm" for i in range(4)}, **{f"NUC{i}": "Nucleus" for i in range(4)},
        "BOTH1": "", "FALL1": "Vesicles", "MOVED1": "ER", "DNAJA9": "Membrane",
    }  # fmt: skip
    assert proteins.loc["BOTH1", "locations"] == "Cytoplasm;Nucleus"
    assert len(dataset.fields) == 2 * len(proteins)
    for row in dataset.fields.itertuples():
        key = next(k for k in world.images if k.endswith(Path(row.path).name))
        assert (dataset.path / row.path).read_bytes() == world.images[key]
        assert dataset.read_field(row.field_id).shape == (2, 64, 64)
    assert dataset.info.images == "measured" and "CC BY-SA 4.0" in dataset.info.licence
    assert "UniProt 2026_04" in dataset.info.release and "sha256" in dataset.info.release
    assert dataset.info.labels[:2] == ("Cytoplasm", "Nucleus")
    assert not any("_stack" in name for name in contents_of(dataset.path))


def test_same_call_again_changes_nothing(world: World, tmp_path: Path) -> None:
    """A second call asks no server for an image or a table, and every byte stays."""
    path = tmp_path / "opencell"
    fetch_opencell(path, **world.servers)
    before, asked = contents_of(path), sum(world.web.asked.values())
    again = fetch_opencell(path, **world.servers)
    assert not again.report.fetched and again.report.bytes == 0
    assert contents_of(path) == before and sum(world.web.asked.values()) == asked


def test_bad_images_are_listed_and_come_later(world: World, tmp_path: Path) -> None:
    """HTML, a truncated image and a missing one are listed; the next run equals an undisturbed."""
    keys = [key_of(target, number, 0) for number, target in enumerate(world.targets)]
    good = world.images
    path, undisturbed = tmp_path / "opencell", tmp_path / "other" / "opencell"
    fetch_opencell(undisturbed, **world.servers)
    list_projections(path / "tables" / "projections.csv", s3_endpoint=world.s3_endpoint)
    world.replace(keys[0], b"<!doctype html><p>login")
    world.replace(keys[1], good[keys[1]][:5000])
    world.remove(keys[2])
    report = fetch_opencell(path, **world.servers).report
    assert len(report.failed) == 3 and len(report.fetched) > 10
    causes = {Path(name).name: cause for name, cause in report.failed.items()}
    assert "404" in causes[Path(keys[2]).name] and "bytes, not" in causes[Path(keys[1]).name]
    assert len(Dataset(path).fields) == len(Dataset(undisturbed).fields) - 3
    for key in keys[:3]:
        world.replace(key, good[key])
    assert len(fetch_opencell(path, **world.servers).report.fetched) == 3
    assert contents_of(path) == contents_of(undisturbed)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"<html>proxy</html>", "HTML page"), (b"II*\0" + bytes(500), "the image"),
     (field_bytes(1)[:-4000], "the image")],
)  # fmt: skip
def test_what_is_in_the_bucket_must_be_a_field(
    world: World, tmp_path: Path, content: bytes, said: str
) -> None:
    """A file whose size and MD5 are the bucket's but which is no field is refused."""
    key = key_of(world.targets[0], 0, 0)
    world.replace(key, content)
    plan = OpenCellPlan(proteins=("CYT0",))
    report = fetch_opencell(tmp_path / "x", plan, **world.servers).report
    assert list(report.failed) == [f"fields/{Path(key).name}"]
    assert said in report.failed[f"fields/{Path(key).name}"]
    assert len(Dataset(tmp_path / "x").fields) == 1


def test_choice_of_proteins(world: World, tmp_path: Path) -> None:
    """Names of all kinds find their protein; limits limit; an unknown name is an error."""
    plan = OpenCellPlan(proteins=("dnaja9", "ENSG00000000304", "P20001"), fields_per_protein=1)
    dataset = fetch_opencell(tmp_path / "a", plan, **world.servers).dataset
    assert dataset is not None and set(dataset.proteins["gene"]) == {"DNAJA9", "MOVED1", "NUC1"}
    assert len(dataset.fields) == 3
    limited = fetch_opencell(tmp_path / "b", limit=3, **world.servers).dataset
    assert limited is not None and len(limited.fields) == 3 and len(limited.proteins) == 2
    with pytest.raises(InputError, match="no target 'NOBODY'"):
        fetch_opencell(tmp_path / "c", OpenCellPlan(proteins=("NOBODY",)), **world.servers)
    with pytest.raises(InputError, match="no protein is left"):
        fetch_opencell(tmp_path / "d", OpenCellPlan(proteins=("LONG1",)), **world.servers)


def test_draw_by_label(world: World, tmp_path: Path) -> None:
    """The same seed draws the same proteins, as many of each label as asked for."""
    plan = OpenCellPlan(n_per_label={"Cytoplasm": 3, "Nucleus": 2}, fields_per_protein=2)
    drawn = [fetch_opencell(tmp_path / n, plan, **world.servers).dataset for n in "ab"]
    assert drawn[0] and drawn[1] and drawn[0].proteins.equals(drawn[1].proteins)
    assert drawn[0].proteins["label"].value_counts().to_dict() == {"Cytoplasm": 3, "Nucleus": 2}
    assert len(drawn[0].fields) == 10 and drawn[0].info.labels == ("Cytoplasm", "Nucleus")
    with pytest.raises(InputError, match="4 proteins with label Cytoplasm"):
        fetch_opencell(tmp_path / "c", OpenCellPlan(n_per_label={"Cytoplasm": 9}), **world.servers)


def test_dry_run_counts_and_brings_no_image(world: World, tmp_path: Path) -> None:
    """A dry run states files, bytes and licence, and leaves tables only."""
    fetched = fetch_opencell(tmp_path / "x", dry_run=True, **world.servers)
    sizes = {Path(k).name: len(v) for k, v in world.images.items()}
    assert fetched.dataset is None and len(fetched.report.planned) == 24
    assert fetched.report.bytes == sum(sizes[Path(p).name] for p in fetched.report.planned)
    assert "CC BY-SA" in fetched.report.describe()
    assert all(name.startswith("tables") for name in contents_of(tmp_path / "x"))


def test_own_copies_of_the_tables(world: World, tmp_path: Path) -> None:
    """Tables at hand are used without asking a host; a wrong one is refused."""
    files = {name: tmp_path / name for name in (ANNOTATIONS_NAME, LIBRARY_NAME)}
    for name, path in files.items():
        path.write_bytes(world.web.files[f"/data/datasets/{name}"])
    servers = world.servers | {"hosts": ["http://127.0.0.1:9"]}
    with pytest.raises(InputError, match="deepgps simulate embedded-demo"):
        fetch_opencell(tmp_path / "x", limit=1, **servers)
    own = {"annotations": files[ANNOTATIONS_NAME], "library": files[LIBRARY_NAME]}
    assert fetch_opencell(tmp_path / "x", limit=1, **servers, **own).dataset
    wrong = {"annotations": files[LIBRARY_NAME], "library": files[LIBRARY_NAME]}
    with pytest.raises(InputError, match="target_name"):
        fetch_opencell(tmp_path / "y", limit=1, **servers, **wrong)


def test_tables_that_no_host_gives(world: World, tmp_path: Path) -> None:
    """When hosts answer but do not give a table, the error says how to get it by hand."""
    world.web.files[f"/data/datasets/{LIBRARY_NAME}"] = b"<html>moved</html>"
    with pytest.raises(InputError, match="--library") as caught:
        fetch_opencell(tmp_path / "x", **world.servers)
    assert "404" in str(caught.value) and "HTML" in str(caught.value)
    assert "opencell.sf.czbiohub.org/download" in str(caught.value)


def call(world: World, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    monkeypatch.setenv("DEEPGPS_OPENCELL_URL", f"{world.web.url}/data/datasets")
    monkeypatch.setenv("DEEPGPS_UNIPROT_URL", f"{world.web.url}/uniprotkb")
    monkeypatch.setenv("DEEPGPS_S3_ENDPOINT", world.s3_endpoint)
    return CliRunner().invoke(app, ["fetch", "opencell", *arguments])


def test_command(world: World, monkeypatch: pytest.MonkeyPatch, data_root: Path) -> None:
    """The command fetches, reports, and leaves with 1 when a file failed; help teaches."""
    result = call(world, monkeypatch, "small", "--proteins", "CYT0,NUC0", "--dry-run")
    assert result.exit_code == 0 and "would fetch 4 files" in result.output
    result = call(world, monkeypatch, "small", "--proteins", "CYT0,NUC0")
    assert result.exit_code == 0, result.output
    assert "2 proteins, 4 fields (measured)" in result.output and "CC BY-SA" in result.output
    bad = key_of(world.targets[1], 1, 1)
    world.replace(bad, b"<html>")
    result = call(world, monkeypatch, "small", "--proteins", "CYT0,CYT1", "--limit", "4")
    assert result.exit_code == 1 and f"failed: fields/{Path(bad).name}" in result.output
    assert "3 fields" in result.output
    text = call(world, monkeypatch, "--help").output
    assert "--limit" in text and "2,700 residues" in text and "deepgps prepare" in text
    refused = call(world, monkeypatch, "--mini", "--proteins", "CYT0")
    assert refused.exit_code == 2 and refused.stderr.startswith("error: fetch opencell: --mini")


def test_tables_only(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_root: Path
) -> None:
    """Counting needs no image; with copies of all files it needs no network either."""
    result = call(world, monkeypatch, "--tables-only")
    assert result.exit_code == 0 and "14 targets" in result.output, result.output
    online = opencell_tables()
    assert online is not None and online.projections is not None and len(online.projections) == 28
    assert count_targets(online.targets).loc["cytoplasmic", ["all", "admitted"]].tolist() == [5, 4]
    folder = online.folder
    for name in ("DEEPGPS_OPENCELL_URL", "DEEPGPS_UNIPROT_URL", "DEEPGPS_S3_ENDPOINT"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    copies = {"--annotations": ANNOTATIONS_NAME, "--library": LIBRARY_NAME,
              "--sequences": SEQUENCES_NAME}  # fmt: skip
    options = [part for key, name in copies.items() for part in (key, str(folder / name))]
    result = CliRunner().invoke(app, ["fetch", "opencell", "own", "--tables-only", *options])
    assert result.exit_code == 0, result.output
    own = OpenCellTables(data_root / "own" / "tables")
    assert own.targets.equals(online.targets) and own.projections is None
    assert not (folder / "fields").exists() and not (folder.parent / "dataset.yaml").exists()


def test_join_never_trusts_a_name_first(world: World, tmp_path: Path) -> None:
    """Ids join first, names only what is left; two different proteins stay apart."""
    fetch_opencell(tmp_path / "x", limit=1, **world.servers)
    targets = OpenCellTables(tmp_path / "x" / "tables").targets.set_index("target_name")
    assert targets["joined_by"].drop(["MOVED1", "V1E1"]).eq("ensg_id").all()
    assert targets.loc["MOVED1", "joined_by"] == "gene_name"
    assert targets.loc["V1E1", ["joined_by", "uniprot_id"]].eq("").all()
    assert targets.loc["DNAJA9", "uniprot_id"] == "P30005"


@pytest.mark.slow
def test_a_laptops_worth(monkeypatch: pytest.MonkeyPatch, data_root: Path) -> None:
    """`--mini` brings 30 proteins of each class, two fields of each, under 200 MB in all."""
    assert MINI.fields_per_protein == 2
    n_fields = sum(MINI.n_per_label.values()) * MINI.fields_per_protein
    assert n_fields == 120 and n_fields * 2 * 600 * 600 * 2 < 200e6  # two uint16 channels each
    kinds = ("cytoplasmic", "nucleoplasm", "er")
    targets = [
        Target(f"G{i}", f"ENSG{i:011d}", f"P{i:05d}", kinds[i % 3], fields=1 + (i > 8))
        for i in range(105)
    ]
    with opencell_world(targets) as world:
        result = call(world, monkeypatch, "--mini")
    assert result.exit_code == 0, result.output
    dataset = Dataset(data_root / "opencell-mini")
    assert dataset.proteins["label"].value_counts().to_dict() == {"Cytoplasm": 30, "Nucleus": 30}
    assert (dataset.fields["protein_id"].value_counts() == 2).all() and len(dataset.fields) == 120
    # sequences of two classes do not tell the length of all: no tables to count from
    assert opencell_tables() is None and opencell_tables(coverage=0.5) is not None


KILLED = """
import sys
from deepgps_core.sources.opencell import fetch_opencell
path, host, uniprot_url, endpoint = sys.argv[1:]
fetch_opencell(path, hosts=[host], uniprot_url=uniprot_url, s3_endpoint=endpoint, workers=1)
"""


@pytest.mark.slow
def test_kill_in_the_middle(world: World, tmp_path: Path) -> None:
    """After kill -9 among the images, the next run's dataset equals the undisturbed one's."""
    killed, undisturbed = tmp_path / "a" / "opencell", tmp_path / "b" / "opencell"
    servers = world.servers
    arguments = [servers["hosts"][1], servers["uniprot_url"], servers["s3_endpoint"]]
    process = subprocess.Popen([sys.executable, "-c", KILLED, killed, *arguments])
    deadline = time.monotonic() + 60
    while not list(killed.glob("fields/*.tif")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not (killed / "dataset.yaml").exists() and len(list(killed.glob("fields/*.tif"))) < 24
    assert fetch_opencell(killed, **servers).report.present
    fetch_opencell(undisturbed, **servers)
    assert contents_of(killed) == contents_of(undisturbed)


@pytest.mark.slow
def test_from_bucket_to_trained_model(tmp_path: Path, data_root: Path) -> None:
    """Simulated fields under OpenCell's keys become crops, vectors and a trained tiny model."""
    import io

    import tifffile
    from opencell_world import small_targets

    from deepgps_core.encoders import embed_dataset, load_encoder
    from deepgps_core.model import DeepGPSConfig
    from deepgps_core.preprocessing import prepare
    from deepgps_core.runs import TrainingConfig
    from deepgps_core.sources.simulated import SimulationConfig, simulate_field
    from deepgps_core.splits import make_split
    from deepgps_core.training import fit

    with opencell_world(small_targets()[:8]) as world:
        for number, target in enumerate(world.targets):
            config = SimulationConfig(seed=number)
            field = simulate_field([target.grade_3], target.uniprot, 0, config).field
            stream = io.BytesIO()
            tifffile.imwrite(stream, field)
            world.put(key_of(target, number, 0), stream.getvalue())
        plan = OpenCellPlan(n_per_label={"Cytoplasm": 4, "Nucleus": 4}, fields_per_protein=1)
        fetched = fetch_opencell(data_root / "opencell-mini", plan, **world.servers)
    assert fetched.dataset is not None and not fetched.report.failed
    dataset = prepare(fetched.dataset, workers=1)
    assert dataset.crops["protein_id"].nunique() == 8 and dataset.crop_images.shape[1:] == (
        2, 208, 208,
    )  # fmt: skip
    embed_dataset(dataset, load_encoder("composition"))
    parts = make_split(dataset.proteins, "random", 0)
    parts.iloc[:] = ["train", "train", "validation", "test"] * 2
    dataset.write_split("random-0", parts)
    dim = len(next(iter(dataset.features("composition").values())))
    run = fit(
        dataset, "random-0",
        DeepGPSConfig(sequence_dim=dim, hidden_dim=16, width=4, depth=2, crop_size_px=52),
        TrainingConfig(
            encoder="composition", labels=("Cytoplasm", "Nucleus"), epochs=1, batch_size=16
        ),
        tmp_path / "run",
    )  # fmt: skip
    assert (run.path / "model.safetensors").exists()
    assert run.history["validation_image_loss"].notna().all()
