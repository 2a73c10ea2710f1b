"""Structures are read without guessing, and their points are PyUUL's."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deepgps_core.coarse_chain import RESIDUES, coarse_chain
from deepgps_core.dataset import Dataset, DatasetInfo, InputError
from deepgps_core.point_clouds import (
    ensure_point_clouds,
    read_point_clouds,
    shipped_path,
    shipped_structures,
)
from deepgps_core.structure import (
    PointCloudConfig,
    atom_radii,
    candidates_per_atom,
    element_columns,
    fibonacci_sphere,
    point_cloud,
    surface_points,
)
from deepgps_core.structure_io import (
    Structure,
    check_same_protein,
    heavy_atom_count,
    read_structure,
)

ALANINE = {"N": (0, 0, 0), "CA": (1.46, 0, 0), "C": (2, 1.4, 0), "O": (1.2, 2.3, 0),
           "CB": (2, -0.8, 1.2)}  # fmt: skip


def line(
    number: int, name: str, residue: str, place: int, xyz: tuple[float, ...], *,
    chain: str = "A", altloc: str = " ", occupancy: float = 1.0, record: str = "ATOM",
) -> str:  # fmt: skip
    x, y, z = xyz
    return (
        f"{record:6s}{number:5d}  {name:3s}{altloc}{residue:3s} {chain}{place:4d}    "
        f"{x:8.3f}{y:8.3f}{z:8.3f}{occupancy:6.2f}{0:6.2f}          {name[0]:>2s}"
    )


def alanines(n: int, *, chain: str = "A", drop: tuple[str, ...] = ()) -> list[str]:
    """Write n alanines in a row, 3.8 angstrom apart."""
    return [
        line(1, name, "ALA", i + 1, (x + 3.8 * i, y, z), chain=chain)
        for i in range(n)
        for name, (x, y, z) in ALANINE.items()
        if name not in drop
    ]


def written(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join([*lines, "END"]) + "\n")
    return path


def refused(path: Path, *words: str, **options: object) -> None:
    """Assert a one-line error that names the file and holds the words."""
    with pytest.raises(InputError) as caught:
        read_structure(path, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message and path.name in message
    assert all(word in message for word in words), message


def test_plain_chain_is_read_whole(tmp_path: Path) -> None:
    """Every atom, element, letter and coordinate is the file's; nothing has to be noted."""
    structure = read_structure(written(tmp_path / "a.pdb", alanines(3)))
    assert structure.sequence == "AAA"
    assert structure.notes == ()
    assert list(structure.elements[:5]) == ["N", "C", "C", "O", "C"]
    assert structure.coordinates[6] == pytest.approx((1.46 + 3.8, 0, 0))
    assert structure.residue_index.tolist() == [0] * 5 + [1] * 5 + [2] * 5


@pytest.mark.parametrize(
    ("entry", "chain", "residues", "note"),
    [("4CUP", None, 115, "alternative places"), ("1A8O", None, 70, "MSE as M"),
     ("1LCD", "A", 51, "model 1 of 3")],
)  # fmt: skip
def test_shipped_structures_say_what_was_left_out(
    entry: str, chain: str | None, residues: int, note: str
) -> None:
    """Experimental files: ligands, models, altlocs and modified residues are dealt with, noted."""
    structure = read_structure(shipped_path(entry), chain=chain)
    assert len(structure.sequence) == residues
    assert any(note in text for text in structure.notes)
    assert not set(structure.elements) & {"H", "D", "ZN"}
    assert set(shipped_structures()) == {"4CUP", "1A8O", "1LCD"}


def test_most_occupied_place_is_kept(tmp_path: Path) -> None:
    """Of alternative places the most occupied one is read, once."""
    lines = alanines(1)
    b = line(9, "CB", "ALA", 1, (9, 9, 9), altloc="B", occupancy=0.7)
    lines[-1] = line(5, "CB", "ALA", 1, (2, -0.8, 1.2), altloc="A", occupancy=0.3)
    structure = read_structure(written(tmp_path / "alt.pdb", [*lines, b]))
    assert len(structure) == 5
    assert structure.coordinates[-1] == pytest.approx((9, 9, 9))
    assert "1 alternative" in structure.notes[0]


def test_first_model_is_kept(tmp_path: Path) -> None:
    """Of several models the first is read, and their number noted."""
    models = [f"MODEL        {i}" for i in (1, 2)]
    lines = [models[0], *alanines(2), "ENDMDL", models[1], *alanines(2), "ENDMDL"]
    structure = read_structure(written(tmp_path / "nmr.pdb", lines))
    assert len(structure) == 10
    assert structure.notes == ("model 1 of 2",)


def test_missing_atoms_are_counted(tmp_path: Path) -> None:
    """A few missing atoms are noted; a trace of alpha carbons is refused."""
    structure = read_structure(written(tmp_path / "gap.pdb", alanines(4, drop=("CB",))))
    assert structure.notes == ("4 of 20 heavy atoms missing",)
    trace = written(tmp_path / "trace.pdb", alanines(4, drop=("N", "C", "O", "CB")))
    refused(trace, "4 of 20 heavy atoms", "side chains")


def test_unknown_residue_is_x(tmp_path: Path) -> None:
    """A residue without a known parent stays, as X; water and ligands go."""
    lines = [s.replace("ALA", "PH8") for s in alanines(1)] + alanines(2)[5:]
    water = line(99, "O", "HOH", 9, (30, 0, 0), record="HETATM")
    structure = read_structure(written(tmp_path / "x.pdb", [*lines, water]))
    assert structure.sequence == "XA"
    assert any("PH8 as X" in note for note in structure.notes)
    assert any("HOH" in note for note in structure.notes)


def test_files_without_a_protein_are_refused(tmp_path: Path) -> None:
    """No file, no atoms, no protein, no ending, garbage, NaN: one line with the remedy each."""
    refused(tmp_path / "none.pdb", "not found", "check")
    refused(written(tmp_path / "empty.pdb", []), "get it again")
    refused(written(tmp_path / "empty.cif", []), "get it again")
    water = line(1, "O", "HOH", 1, (0, 0, 0), record="HETATM")
    refused(written(tmp_path / "water.pdb", [water]), "no atoms of a protein")
    refused(written(tmp_path / "a.xyz", alanines(1)), "ending", ".cif")
    refused(written(tmp_path / "bad.pdb", [alanines(1)[0][:40]]), "get it again")
    nan = alanines(1)
    nan[0] = nan[0][:30] + "     nan" * 3 + nan[0][54:]
    refused(written(tmp_path / "nan.pdb", nan), "NaN")
    damaged = tmp_path / "cut.pdb.gz"
    damaged.write_bytes(gzip.compress(b"ATOM" * 100)[:-9])
    refused(damaged, "get it again")


def test_chain_and_size_have_to_be_clear(tmp_path: Path) -> None:
    """Several chains need a name that exists; chains over the limit are refused."""
    both = written(tmp_path / "two.pdb", alanines(2) + alanines(2, chain="B"))
    refused(both, "2 protein chains (A, B)", "chain=")
    refused(both, "no protein chain 'C'", chain="C")
    assert read_structure(both, chain="B").source == "two.pdb, chain B"
    refused(both, "2 residues, more than 1", chain="A", max_residues=1)


def test_file_over_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file that unpacks to a huge one is not unpacked to its end."""
    monkeypatch.setattr("deepgps_core.structure_io.MAX_FILE_BYTES", 10**6)
    bomb = tmp_path / "bomb.pdb.gz"
    bomb.write_bytes(gzip.compress(b" " * 10**7))
    refused(bomb, "over 1 MB")


def test_structure_of_another_protein_is_refused(tmp_path: Path) -> None:
    """Length, isoform, point mutation: each is refused in words; gaps can be allowed."""
    structure = read_structure(written(tmp_path / "a.pdb", alanines(3)))
    check_same_protein(structure, "AAA")
    with pytest.raises(InputError, match="3 residues, the protein has 4"):
        check_same_protein(structure, "AAAK")
    with pytest.raises(InputError, match="residue 2 is A, the protein's is K"):
        check_same_protein(structure, "AKA")
    check_same_protein(structure, "MAKAA", allow_gaps=True)
    with pytest.raises(InputError, match=r"a\.pdb, chain A: not the protein's"):
        check_same_protein(structure, "MKAA", allow_gaps=True)


@pytest.mark.parametrize(("entry", "n_points"), [("4CUP", 3000), ("1LCD", 700), ("4CUP", 200)])
def test_surface_is_pyuul_s(entry: str, n_points: int) -> None:
    """Same candidates in the same order as PyUUL, whose own draw picks the same points."""
    torch = pytest.importorskip("torch")
    maker = pytest.importorskip("pyuul.VolumeMaker")
    structure = read_structure(shipped_path(entry))
    coordinates = structure.coordinates - structure.coordinates.mean(axis=0)
    radii = atom_radii(structure)
    torch.manual_seed(5)
    theirs = maker.PointCloudSurface("cpu")(
        torch.tensor(coordinates)[None], torch.tensor(radii)[None], maxpoints=n_points
    )
    ours, atoms = surface_points(coordinates, radii, candidates_per_atom(len(structure), n_points))
    torch.manual_seed(5)
    drawn = torch.randint(0, len(ours), [n_points]).numpy()
    np.testing.assert_allclose(ours[drawn], theirs.numpy(), atol=2e-5)
    distance = np.linalg.norm(ours - coordinates[atoms], axis=1)
    np.testing.assert_allclose(distance, 1.4 * radii[atoms], rtol=1e-4)


def test_radii_are_pyuul_s() -> None:
    """The radii of all atoms of the 20 residues are those PyUUL looks up."""
    utils = pytest.importorskip("pyuul.utils")
    structure = coarse_chain("ACDEFGHIKLMNPQRSTVWY")
    names = [
        f"{r}_{i}_{a}_A"
        for r, i, a in zip(
            structure.residue_names, structure.residue_index, structure.atom_names, strict=True
        )
    ]
    theirs = utils.atomlistToRadius([names])[0].numpy()
    np.testing.assert_array_equal(atom_radii(structure), theirs)


def test_blocks_do_not_change_the_surface(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worked through in blocks of a few atoms, the surface is the same to the last bit."""
    structure = coarse_chain("MKVLAAGICEWY" * 3)
    radii = atom_radii(structure)
    whole = surface_points(structure.coordinates, radii, 6)
    monkeypatch.setattr("deepgps_core.structure._BLOCK", 200)
    parts = surface_points(structure.coordinates, radii, 6)
    np.testing.assert_array_equal(whole[0], parts[0])
    np.testing.assert_array_equal(whole[1], parts[1])


def test_lone_atom_is_all_surface() -> None:
    """Nothing buries a single atom: each of its points is kept, at 1.4 radii."""
    points, _ = surface_points(np.zeros((1, 3), np.float32), np.array([2.0], np.float32), 50)
    assert len(points) == 50
    assert np.linalg.norm(points, axis=1) == pytest.approx(2.8, rel=1e-5)
    assert np.linalg.norm(fibonacci_sphere(50).mean(axis=0)) < 0.02


def test_element_is_that_of_the_nearest_atom() -> None:
    """C, O, N in that order; sulphur is called carbon, or nothing, as asked."""
    atoms = np.array([[0, 0, 0], [10, 0, 0], [20, 0, 0], [30, 0, 0]], dtype=np.float32)
    elements = np.array(["C", "O", "N", "S"])
    points = atoms + np.float32(1)
    assert element_columns(points, atoms, elements, "none").tolist() == [
        [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0],
    ]  # fmt: skip
    assert element_columns(points, atoms, elements, "carbon")[3].tolist() == [1, 0, 0]


def test_point_cloud_is_centred_scaled_and_repeatable() -> None:
    """Mean zero, stated scale, asked number of points, same seed same points."""
    structure = read_structure(shipped_path("1A8O"))
    cloud = point_cloud(structure, PointCloudConfig(n_points=500))
    assert cloud.shape == (500, 6) and cloud.dtype == np.float32
    assert cloud[:, :3].mean(axis=0) == pytest.approx(0, abs=1e-6)
    assert (cloud[:, 3:].sum(axis=1) == 1).all()
    np.testing.assert_array_equal(cloud, point_cloud(structure, PointCloudConfig(n_points=500)))
    other = point_cloud(structure, PointCloudConfig(n_points=500, seed=1))
    assert not np.array_equal(cloud, other)
    unit = point_cloud(structure, PointCloudConfig(n_points=500, scale_angstrom=None))
    assert np.linalg.norm(unit[:, :3], axis=1).max() == pytest.approx(1)
    half = point_cloud(structure, PointCloudConfig(n_points=500, scale_angstrom=100))
    np.testing.assert_allclose(half[:, :3] * 2, cloud[:, :3], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("change", [{"n_points": 0}, {"sulphur": "x"}, {"scale_angstrom": -1}])
def test_settings_are_checked(change: dict[str, object]) -> None:
    """Impossible settings are refused by name."""
    with pytest.raises(InputError, match=next(iter(change))):
        PointCloudConfig(**change)  # type: ignore[arg-type]


def test_atoms_at_one_place_have_no_surface() -> None:
    """A structure whose atoms all lie at one place is refused, not drawn from nothing."""
    text = np.array(["C"] * 40)
    heap = Structure(np.zeros((40, 3), np.float32), text, np.array(["CA"] * 40),
                     np.array(["ALA"] * 40), np.arange(40), "A" * 40, "heap")  # fmt: skip
    with pytest.raises(InputError, match="heap: no point"):
        point_cloud(heap, PointCloudConfig(external_radius_factor=0.5))


def test_stand_in_has_the_right_atoms() -> None:
    """As many heavy atoms a residue as the chemical dictionary says, bonded neighbors in reach."""
    sequence = "".join(RESIDUES) * 2
    structure = coarse_chain(sequence)
    assert structure.simulated and structure.sequence == sequence
    counts = np.bincount(structure.residue_index)
    assert counts.tolist() == [heavy_atom_count(RESIDUES[letter]) for letter in sequence]
    assert counts[sequence.index("G")] == 4 and counts[sequence.index("W")] == 14
    alpha = structure.coordinates[structure.atom_names == "CA"]
    assert np.linalg.norm(np.diff(alpha, axis=0), axis=1) == pytest.approx(3.8, rel=1e-4)


def test_stand_in_is_seeded_and_compact() -> None:
    """Same sequence and seed, same chain; its size follows that of globular proteins."""
    sequence = "".join(np.random.default_rng(0).choice(list("ACDEFGHIKLMNPQRSTVWY"), 400))
    first = coarse_chain(sequence)
    np.testing.assert_array_equal(first.coordinates, coarse_chain(sequence).coordinates)
    assert not np.array_equal(first.coordinates, coarse_chain(sequence, seed=1).coordinates)
    assert not np.array_equal(first.coordinates[:4], coarse_chain(sequence[:-1]).coordinates[:4])
    spread = first.coordinates - first.coordinates.mean(axis=0)
    gyration = np.sqrt((spread**2).sum(axis=1).mean())
    assert gyration == pytest.approx(2.2 * 400**0.38, rel=0.25)


def test_largest_protein_fits() -> None:
    """2,700 residues, the paper's longest, take seconds and no square of the atoms."""
    import tracemalloc

    sequence = "".join(np.random.default_rng(1).choice(list("ACDEFGHIKLMNPQRSTVWY"), 2700))
    structure = coarse_chain(sequence)
    tracemalloc.start()
    cloud = point_cloud(structure, PointCloudConfig(n_points=5000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(structure) > 20_000 and cloud.shape == (5000, 6)
    # a matrix of all distances would be 1.9 GB in single precision
    assert peak < 300e6, f"{peak / 1e6:.0f} MB"


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    ids = ["P1", "P2"]
    proteins = pd.DataFrame(
        {"protein_id": ids, "gene": ids, "uniprot": ids, "sequence": ["AAA", "MKV"],
         "locations": "Cytoplasm", "label": "Cytoplasm", "cluster_30": ids}
    )  # fmt: skip
    info = DatasetInfo("d", "drawn", "1", "CC0", "simulated", "none", 1.0, ("Cytoplasm",), "0")
    return Dataset.create(tmp_path / "d", info, proteins)


def test_clouds_of_a_dataset_are_kept(dataset: Dataset) -> None:
    """They are made once, come back in the order asked for, and are named by their settings."""
    config = PointCloudConfig(n_points=16)
    name = ensure_point_clouds(dataset, "chain", config)
    file = dataset.path / "structures" / f"{name}.npz"
    before = file.stat().st_mtime_ns
    assert ensure_point_clouds(dataset, "chain", config) == name
    assert file.stat().st_mtime_ns == before
    clouds = read_point_clouds(dataset, name, ["P2", "P1"])
    np.testing.assert_array_equal(clouds[1], point_cloud(coarse_chain("AAA"), config))
    assert ensure_point_clouds(dataset, "chain", PointCloudConfig(n_points=8)) != name
    with pytest.raises(InputError, match="'P3'"):
        read_point_clouds(dataset, name, ["P3"])
    with pytest.raises(InputError, match="not found"):
        read_point_clouds(dataset, "none", ["P1"])
    with pytest.raises(InputError, match="choose chain or alphafold"):
        ensure_point_clouds(dataset, "guess")


def test_fetched_structures_have_to_be_the_proteins_own(dataset: Dataset) -> None:
    """Files of the database are read by its table; another sequence or a hole is refused."""
    folder = dataset.path / "structures"
    folder.mkdir()
    with pytest.raises(InputError, match="deepgps fetch"):
        ensure_point_clouds(dataset, "alphafold")
    written(folder / "P1.pdb", alanines(3))
    table = "protein_id,uniprot,entry_id,version,path,agreement\nP1,P1,AF,6,P1.pdb,same\n"
    (folder / "alphafold.csv").write_text(table + "P2,P2,,,,not in the database\n")
    with pytest.raises(InputError, match="no structure of protein 'P2'"):
        ensure_point_clouds(dataset, "alphafold")
    (folder / "alphafold.csv").write_text(table + "P2,P2,AF,6,P1.pdb,same\n")
    with pytest.raises(InputError, match="not the protein's structure"):
        ensure_point_clouds(dataset, "alphafold")
    dataset.proteins.loc[1, "sequence"] = "AAA"
    name = ensure_point_clouds(dataset, "alphafold", PointCloudConfig(n_points=8))
    assert read_point_clouds(dataset, name, ["P1", "P2"]).shape == (2, 8, 6)
