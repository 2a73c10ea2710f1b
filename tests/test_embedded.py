"""The packaged table of human proteins: its counts, its provenance, and draws from it."""

from __future__ import annotations

import dataclasses
import gzip
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from deepgps_core.dataset import PROTEIN_COLUMNS, Dataset, DatasetInfo, InputError, check_sequence
from deepgps_core.sources import embedded, embedded_table
from deepgps_core.sources.embedded import (
    DEMO_PLAN,
    FULL_PLAN,
    LABELS,
    demo_proteins,
    embedded_proteins,
    ensure_dataset,
    plan_proteins,
)

CENTROSOME = "Centrosome;Cytoplasm;Cytoskeleton;Microtubule organizing center"
#: Human entries at most 2,700 residues long, and how many longer ones were left out.
COUNTS = {
    "Membrane": (1232, 4), "Nucleus": (986, 11), "Cytoplasm;Nucleus": (610, 4),
    "Cytoplasm": (578, 3), "Secreted": (274, 4), "Mitochondrion": (231, 0), CENTROSOME: (156, 6),
    "Cytoplasm;Membrane": (100, 1), "Cytoplasm;Cytoskeleton": (49, 1), "ER": (43, 1),
    "Cell projection": (33, 1), "Peroxisome": (16, 0),
}  # fmt: skip


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return embedded_proteins()


def test_counts_by_location(table: pd.DataFrame) -> None:
    """Each location has as many proteins as SCL2205's human entries, less the long ones."""
    kept = {name: kept for name, (kept, _) in COUNTS.items()}
    assert table["locations"].value_counts().to_dict() == kept
    assert len(table) == 4308
    assert len(embedded_table.human_entries()) == 4308 + sum(d for _, d in COUNTS.values()) == 4344


def test_rows_are_sound(table: pd.DataFrame) -> None:
    """Identifiers are unique, sequences are proteins, a label is a sole location."""
    assert table["protein_id"].is_unique and (table["protein_id"] == table["uniprot"]).all()
    for protein_id, sequence in zip(table["protein_id"], table["sequence"], strict=True):
        assert check_sequence(protein_id, sequence) == sequence
    several = table["locations"].str.contains(";")
    assert (table.loc[several, "label"] == "").all()
    assert (table.loc[~several, "label"] == table.loc[~several, "locations"]).all()
    assert set(table["scl_split"]) == {"train", "test"}
    assert table["gene"].ne("").all()


def test_known_proteins_are_where_textbooks_put_them(table: pd.DataFrame) -> None:
    """Columns are joined row by row: a few proteins nobody disputes."""
    by_gene = table.set_index("gene")
    known = {"MYC": "Nucleus", "CD4": "Membrane", "CAT": "Peroxisome", "RPL4": "Cytoplasm"}
    assert by_gene.loc[list(known), "locations"].to_dict() == known
    starts = {"MYC": "MPLNVSFTNRNYDLDYDSVQ", "CD4": "MNRGVPFRHLLLVLQLALLP"}
    for gene, start in starts.items():
        assert by_gene.at[gene, "sequence"].startswith(start)


def test_clusters_hold_identical_sequences_together(table: pd.DataFrame) -> None:
    """Proteins of equal sequence share a cluster, which is named after its first member."""
    assert (table.groupby("sequence")["cluster_30"].nunique() == 1).all()
    first = table.groupby("cluster_30")["protein_id"].min()
    assert (first.index == first.to_numpy()).all()


def test_fixed_benchmark_follows_scl2205s_split(table: pd.DataFrame) -> None:
    """The fixed nucleus / cytoplasm roles: train on SCL2205's training part, test on its test."""
    fixed = table[table["single2_role"] != ""]
    assert set(fixed["label"]) == {"Cytoplasm", "Nucleus"}
    is_train = fixed["single2_role"] == "train"
    assert (is_train == (fixed["scl_split"] == "train")).all()


def test_packaged_bytes_carry_no_time() -> None:
    """The gzip headers hold neither time nor name, and writing again gives the same text."""
    for path in (embedded_table.TABLE_PATH, embedded_table.HUMAN_PATH):
        content = path.read_bytes()
        assert content[3] == 0 and content[4:8] == bytes(4)
        assert gzip.decompress(content).count(b"\r") == 0


def test_plans_are_met_without_relatives() -> None:
    """Both datasets have the planned numbers, and no two proteins share a cluster."""
    for plan in (DEMO_PLAN, FULL_PLAN):
        proteins = plan_proteins(plan)
        found = proteins["label"].value_counts().to_dict()
        assert found == dict(plan.n_per_label) | {"": plan.n_multi}
        assert set(proteins.loc[proteins["label"] == "", "locations"]) == set(plan.multi_locations)
        assert proteins["cluster_30"].is_unique
        assert list(proteins.columns) == list(PROTEIN_COLUMNS)
    assert sum(FULL_PLAN.n_per_label.values()) + FULL_PLAN.n_multi == 1300
    assert tuple(DEMO_PLAN.n_per_label) == LABELS


def test_draws_repeat_and_differ_by_seed() -> None:
    """The seed alone decides; relatives are drawn only when clusters run out."""
    first, again, other = (demo_proteins({"Nucleus": 30}, 5, seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert set(first["protein_id"]) != set(other["protein_id"])
    everyone = demo_proteins({"Nucleus": 986}, 0, 0)
    assert everyone["protein_id"].is_unique and len(everyone) == 986
    assert not everyone["cluster_30"].is_unique


def test_too_many_proteins_are_refused() -> None:
    """Asking for more than there are is an InputError that says how many there are."""
    with pytest.raises(InputError, match="has 16 proteins with location Peroxisome, not 17"):
        demo_proteins({"Peroxisome": 17})


def test_existing_datasets_are_opened_and_unknown_ones_refused(data_root: Path) -> None:
    """A folder under the data root is opened as it is; an unknown name gets a remedy."""
    info = DatasetInfo("mine", "", "", "", "measured", "HeLa", 0.2, LABELS)
    Dataset.create(data_root / "mine", info, demo_proteins({"ER": 0, "Nucleus": 2}))
    assert len(ensure_dataset("mine").proteins) == 2
    with pytest.raises(InputError, match="no such dataset.*deepgps fetch"):
        ensure_dataset("opencell")


def test_a_dataset_is_simulated_once(monkeypatch: pytest.MonkeyPatch, data_root: Path) -> None:
    """What is not there is made from its plan; the second call opens it."""
    pytest.importorskip("deepgps_core.sources.simulated")
    plan = embedded.DatasetPlan({"Cytoplasm": 1, "Nucleus": 1}, 1, 1)
    monkeypatch.setattr(embedded, "PLANS", {"embedded-demo": plan})
    dataset = ensure_dataset("embedded-demo", workers=1)
    assert dataset.info.images == "simulated" and len(dataset.fields) == 3
    stamp = (dataset.path / "proteins.csv").stat().st_mtime_ns
    assert ensure_dataset("embedded-demo").info == dataset.info
    assert (dataset.path / "proteins.csv").stat().st_mtime_ns == stamp


def test_another_wheel_is_refused(tmp_path: Path) -> None:
    """A wheel with other content than the pinned one does not become a table."""
    path = tmp_path / "p_scldata-2026.2.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("scldata/__init__.py", "")
    with pytest.raises(InputError, match="not the wheel of p-scldata==2025.6.0"):
        embedded_table.read_scl2205(path)


def test_building_joins_filters_and_clusters() -> None:
    """A small table: too long is dropped, relatives share a cluster, two locations no label."""
    sequence = embedded_proteins()["sequence"].iloc[0]
    entries = pd.DataFrame(
        {
            "uniprot": ["P3", "P1", "P2", "P4", "P5"],
            "sequence": [sequence, sequence[5:], "MKV" * 901, "ACDEFGHIKLMNPQRSTVWY" * 4, "MA"],
            "locations": ["Nucleus", "Cytoplasm;Nucleus", "Nucleus", "ER", "Membrane"],
            "scl_split": "train",
        }
    )
    names = ["P1", "P2", "P3", "P4"]
    human = pd.DataFrame({"uniprot": names, "gene": names, "hgnc_id": "", "single2_role": ""})
    table = embedded_table.build_table(entries, human)
    assert list(table["protein_id"]) == ["P1", "P3", "P4"]
    assert list(table["cluster_30"]) == ["P1", "P1", "P4"]
    assert list(table["label"]) == ["", "Nucleus", "ER"]


@pytest.mark.real_data
def test_table_agrees_with_the_list_it_came_from(real_data: Path, table: pd.DataFrame) -> None:
    """Label and split of each protein equal those in the list of human entries."""
    path = real_data / "scl2205" / "scl2205_human.csv"
    source = pd.read_csv(path, keep_default_na=False).set_index("uniprot")
    source = source.loc[table["uniprot"]]
    assert (source["label"].to_numpy() == table["locations"]).all()
    assert (source["scl_split"].to_numpy() == table["scl_split"]).all()
    assert (source["nucleus_vs_cytoplasm_2026_11"].to_numpy() == table["single2_role"]).all()


def test_single2_folder_keeps_vectors() -> None:
    """The image-free folder holds all nucleus / cytoplasm proteins and is made once."""
    dataset = embedded.single2_dataset()
    assert dataset.proteins["label"].value_counts().to_dict() == {"Nucleus": 986, "Cytoplasm": 578}
    dataset.write_features("ones", {"A": [1.0]})
    assert embedded.single2_dataset().features("ones")["A"].tolist() == [1.0]


def test_single2_folder_follows_the_table() -> None:
    """A folder of another release is written anew and keeps its vectors."""
    dataset = embedded.single2_dataset()
    dataset.write_features("ones", {"A": [1.0]})
    stale = dataclasses.replace(dataset.info, config_hash="older")
    Dataset.create(dataset.path, stale, dataset.proteins.assign(cluster_30="c"))
    renewed = embedded.single2_dataset()
    assert renewed.proteins["cluster_30"].nunique() > 1000
    assert renewed.features("ones")["A"].tolist() == [1.0]
