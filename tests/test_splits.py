"""Splits by protein: nothing in two parts, shares kept, relatives kept together, repeatable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepgps_core import splits
from deepgps_core.dataset import Dataset, DatasetInfo, InputError
from deepgps_core.homology import find_relatives, nearest_relatives
from deepgps_core.sources.embedded import LABELS, embedded_proteins, single2_proteins
from deepgps_core.splits import (
    cluster_proteins,
    grouped_split,
    make_split,
    nearest_training_identity,
    paper_split,
    repeated_splits,
    stratified_split,
)

PARTS = {"train", "validation", "test"}


def table_of(labels: list[str], clusters: list[int]) -> pd.DataFrame:
    ids = [f"P{i}" for i in range(len(labels))]
    columns = {"protein_id": ids, "label": labels, "locations": labels}
    return pd.DataFrame(columns | {"cluster_30": [f"c{c}" for c in clusters]})


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame:
    n = draw(st.integers(12, 150))
    labels = draw(st.lists(st.sampled_from("ABC"), min_size=n, max_size=n))
    clusters = draw(st.lists(st.integers(0, n), min_size=n, max_size=n))
    return table_of(labels, clusters)


@given(tables(), st.sampled_from([0.1, 0.2, 0.25, 0.5]), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_stratified_shares_are_exact(table: pd.DataFrame, share: float, seed: int) -> None:
    """In total and in each class, the test part has its share to within one protein."""
    split = stratified_split(table, test_fraction=share, validation_fraction=0.2, seed=seed)
    assert list(split.index) == list(table["protein_id"]) and set(split) == PARTS
    is_test = (split == "test").to_numpy()
    assert abs(is_test.sum() - share * len(table)) < 1
    for label in set(table["label"]):
        of_class = (table["label"] == label).to_numpy()
        assert abs(is_test[of_class].sum() - share * of_class.sum()) < 1 + 1e-9
    n_rest = (~is_test).sum()
    assert abs((split == "validation").sum() - 0.2 * n_rest) < 1


@given(tables(), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_no_cluster_crosses(table: pd.DataFrame, seed: int) -> None:
    """Whatever the clusters, each lies in one part, and no part is empty."""
    if table["cluster_30"].nunique() < 6:
        return
    split = grouped_split(table, seed=seed)
    assert set(split) == PARTS
    parts = pd.Series(split.to_numpy()).groupby(table["cluster_30"].to_numpy()).nunique()
    assert (parts == 1).all()


@given(tables(), st.sampled_from(["random", "grouped", "paper"]))
@settings(max_examples=30, deadline=None)
def test_the_seed_decides(table: pd.DataFrame, kind: str) -> None:
    """The same seed gives the same split; of ten seeds, not all agree."""
    if table["cluster_30"].nunique() < 12:
        return
    several = [make_split(table, kind, seed) for seed in range(10)]
    pd.testing.assert_series_equal(several[0], make_split(table, kind, 0))
    assert any(not several[0].equals(other) for other in several[1:])


def test_every_protein_gets_tested() -> None:
    """Over many seeds each protein is in the test part about one time in five."""
    table = table_of(["A"] * 30 + ["B"] * 20, list(range(46)) + [0, 0, 0, 1])
    for make in (stratified_split, grouped_split):
        times = sum((make(table, seed=seed) == "test").astype(int) for seed in range(60))
        assert times.min() > 1 and times.max() < 27
        assert times.mean() == pytest.approx(12, abs=1)


def test_real_proteins_keep_shares_when_grouped() -> None:
    """Nucleus / cytoplasm proteins: the grouped test part is a fifth, class shares within 2 %."""
    proteins = single2_proteins()
    cytoplasmic = (proteins["label"] == "Cytoplasm").to_numpy()
    for seed in range(2):
        is_test = (grouped_split(proteins, seed=seed) == "test").to_numpy()
        assert is_test.mean() == pytest.approx(0.2, abs=0.01)
        assert cytoplasmic[is_test].mean() == pytest.approx(cytoplasmic.mean(), abs=0.02)


def test_multi_localized_are_classes_of_their_own() -> None:
    """Proteins without a label are shared out by their set of locations."""
    table = table_of(["A"] * 40 + [""] * 40, list(range(80)))
    table.loc[40:59, "locations"] = "A;B"
    table.loc[60:, "locations"] = "A;C"
    is_test = (stratified_split(table) == "test").to_numpy()
    assert (is_test[:40].sum(), is_test[40:60].sum(), is_test[60:].sum()) == (8, 4, 4)


def test_papers_rule() -> None:
    """Training shares go linearly by rank, from 75 % of the smallest to 90 % of the largest."""
    table = table_of(["A"] * 40 + ["B"] * 100 + ["C"] * 200, list(range(340)))
    is_test = (paper_split(table) == "test").to_numpy()
    found = [is_test[:40].sum(), is_test[40:140].sum(), is_test[140:].sum()]
    # 17.5 % of 100 is not a whole number: either neighbor will do
    assert found[0] == 10 and found[1] in (17, 18) and found[2] in (20, 19, 21)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.2, 1.5])
def test_impossible_fractions_are_refused(fraction: float) -> None:
    """A fraction outside (0, 1) is an InputError that names it."""
    with pytest.raises(InputError, match="test_fraction is"):
        stratified_split(table_of(["A"] * 9, list(range(9))), test_fraction=fraction)


def test_too_little_is_refused() -> None:
    """Too few proteins, one cluster, no clusters, an unknown kind: each says what to do."""
    with pytest.raises(InputError, match="at least three"):
        stratified_split(table_of(["A", "B"], [0, 1]))
    with pytest.raises(InputError, match="no protein is left for"):
        stratified_split(table_of(["A"] * 4, [0, 1, 2, 3]), 0.1, 0.1)
    with pytest.raises(InputError, match="one homology cluster"):
        grouped_split(table_of(["A"] * 9, [0] * 9))
    with pytest.raises(InputError, match="has no cluster_30"):
        grouped_split(table_of(["A"] * 9, list(range(9))).assign(cluster_30=""))
    with pytest.raises(InputError, match="no split of kind 'lucky'; choose one of random"):
        make_split(table_of(["A"] * 9, list(range(9))), "lucky")


def test_repeated_splits_are_named_and_stored(tmp_path: Path) -> None:
    """Names say kind and seed; a dataset gives back what was written."""
    table = table_of(["Cytoplasm"] * 20, list(range(20)))
    table = table.assign(gene="", uniprot="", sequence="MKV")
    info = DatasetInfo("d", "", "", "", "simulated", "", 0.2, LABELS)
    dataset = Dataset.create(tmp_path / "d", info, table)
    made = dict(repeated_splits(table, "grouped", n=3, first_seed=5))
    assert list(made) == ["grouped-5", "grouped-6", "grouped-7"]
    for name, split in made.items():
        dataset.write_split(name, split)
        assert dataset.split(name).equals(split)


@pytest.fixture(scope="module")
def relatives() -> dict[str, str]:
    """Six proteins: one, a copy with 40 % of residues replaced, a fragment; three unrelated."""
    rng = np.random.default_rng(0)
    letters = np.array(list("ACDEFGHIKLMNPQRSTVWY"))
    parent, *others = (letters[rng.integers(20, size=300)] for _ in range(4))
    child = parent.copy()
    replaced = rng.permutation(300)[:120]
    # one letter further round the alphabet: certain to differ
    child[replaced] = letters[(np.searchsorted(letters, parent[replaced]) + 1) % 20]
    sequences = {"sp|b 1": parent, "a": child, "fragment": parent[:100]}
    sequences |= {f"other{i}": other for i, other in enumerate(others)}
    return {name: "".join(sequence) for name, sequence in sequences.items()}


def test_relatives_are_clustered(relatives: dict[str, str]) -> None:
    """60 % identical proteins share a cluster at 30 %, not at 80 %; a third covers too little."""
    clusters = cluster_proteins(relatives)
    assert clusters["sp|b 1"] == clusters["a"] == "a"
    assert clusters["fragment"] == "fragment"
    assert len(set(clusters.values())) == 5
    other_terms = cluster_proteins(relatives, min_identity=0.8, coverage=0.2)
    assert other_terms["fragment"] == other_terms["sp|b 1"] != other_terms["a"]


def test_nearest_training_protein(relatives: dict[str, str]) -> None:
    """The known identity is found; a protein without relatives has none; nothing given, none."""
    names = ["a", "fragment", "other0"]
    train = {k: v for k, v in relatives.items() if k not in names}
    nearest = nearest_training_identity({k: relatives[k] for k in names}, train)
    assert list(nearest.index) == names
    assert list(nearest["nearest_id"]) == ["sp|b 1", "sp|b 1", ""]
    assert nearest["identity"].to_numpy() == pytest.approx([0.6, 1.0, 0.0], abs=0.02)
    assert nearest_training_identity({"a": relatives["a"]}, {})["identity"].tolist() == [0.0]


def test_packaged_clusters_leave_no_related_pair_apart() -> None:
    """Of 60 packaged proteins with relatives, each pair that MMseqs2 reports shares a cluster."""
    table = embedded_proteins().sort_values("cluster_30", kind="stable")
    sizes = table["cluster_30"].map(table["cluster_30"].value_counts())
    table = table[sizes > 2].head(60)
    sequences = dict(zip(table["protein_id"], table["sequence"], strict=True))
    clusters = dict(zip(table["protein_id"], table["cluster_30"], strict=True))
    hits = find_relatives(sequences, sequences, min_identity=0.3, coverage=0.8)
    apart = hits["query"].map(clusters) != hits["target"].map(clusters)
    assert not apart.any() and len(hits) > 120


def test_nearest_relative_is_the_most_identical_one() -> None:
    """Among hits, identity decides; then the score; a query without hits gets zero."""
    hits = pd.DataFrame(
        [["q", "x", 0.4, 90.0], ["q", "y", 0.5, 20.0], ["q", "z", 0.5, 30.0]],
        columns=["query", "target", "identity", "bits"],
    )
    nearest = nearest_relatives(hits, {"q": "", "r": ""})
    assert nearest.loc["q"].tolist() == ["z", 0.5] and nearest.loc["r"].tolist() == ["", 0.0]


def test_missing_mmseqs_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the binary, one line names the environment variable to set."""
    monkeypatch.setenv("MMSEQS2_PATH", "/nowhere/mmseqs")
    with pytest.raises(InputError, match="MMSEQS2_PATH"):
        splits.cluster_proteins({"a": "MKV" * 20, "b": "MKV" * 20})
