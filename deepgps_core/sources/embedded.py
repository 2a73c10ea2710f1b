"""
The embedded dataset: real human proteins that ship with the package, and simulated images.

The table of proteins is built by :mod:`deepgps_core.sources.embedded_table`; nothing here
needs a network. Images are drawn by :mod:`deepgps_core.sources.simulated`, which is told the
location of a protein and never its sequence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pandas as pd

from deepgps_core.dataset import (
    PROTEIN_COLUMNS,
    Dataset,
    DatasetInfo,
    InputError,
    data_root,
    read_table,
    sha256_of,
)
from deepgps_core.sources.embedded_table import TABLE_COLUMNS, TABLE_PATH

#: Class words are SCL2205's own; their order is the order of the model's outputs.
LABELS = ("Cytoplasm", "Nucleus", "Membrane", "Mitochondrion")
#: The two classes of deepGPS-single-2; the first is the positive one, as in the paper.
SINGLE_2 = LABELS[:2]


@dataclasses.dataclass(frozen=True)
class DatasetPlan:
    """
    How many proteins of which kind an embedded dataset holds, and how many fields of each.

    Parameters
    ----------
    n_per_label : mapping of str to int
    n_multi, fields_per_protein : int
    multi_locations : tuple of str
        Location sets of the multi-localized proteins.
    of : str
        Name of another plan from whose proteins these are drawn, for a second cell line.
    n_moved : int
        So many of them, half cytoplasmic and half nuclear, are drawn at the other's place: in
        this cell line they are elsewhere than the table says.
    stained : bool
        Fixed U-2 OS-like cells, stained with antibodies, instead of living HEK293T-like ones.
    """

    n_per_label: Mapping[str, int]
    n_multi: int
    fields_per_protein: int
    multi_locations: tuple[str, ...] = ("Cytoplasm;Nucleus",)
    of: str = ""
    n_moved: int = 0
    stained: bool = False


#: 240 proteins: small enough to simulate, segment and train on within minutes on two cores.
DEMO_PLAN = DatasetPlan(
    n_per_label=MappingProxyType(
        {"Cytoplasm": 90, "Nucleus": 90, "Membrane": 20, "Mitochondrion": 20}
    ),
    n_multi=20,
    fields_per_protein=1,
)
#: 1,300 proteins, as the paper has. 864 singly localized ones share out as its 222 cytoplasmic,
#: 132 nucleoplasmic, 140 vesicular and 78 ER proteins do (the last two have other names here:
#: SCL2205 has no vesicles, and 44 human ER proteins); 436 are multi-localized, as in the paper.
FULL_PLAN = DatasetPlan(
    n_per_label=MappingProxyType(
        {"Cytoplasm": 335, "Nucleus": 200, "Membrane": 211, "Mitochondrion": 118}
    ),
    n_multi=436,
    fields_per_protein=5,
    multi_locations=("Cytoplasm;Nucleus", "Cytoplasm;Membrane"),
)
#: 800 proteins in one field each: enough for networks of the published size, and simulated,
#: prepared and learned from within minutes on the machine of the edition of record.
MID_PLAN = DatasetPlan(
    n_per_label=MappingProxyType(
        {"Cytoplasm": 335, "Nucleus": 200, "Membrane": 105, "Mitochondrion": 60}
    ),
    n_multi=100,
    fields_per_protein=1,
    multi_locations=FULL_PLAN.multi_locations,
)
#: A second cell line for 56 of the demonstration's proteins: two antibodies, one field of each.
DEMO_U2OS_PLAN = DatasetPlan(
    n_per_label=MappingProxyType({"Cytoplasm": 28, "Nucleus": 28}), n_multi=0,
    fields_per_protein=2, of="embedded-demo", n_moved=6, stained=True,
)  # fmt: skip
FULL_U2OS_PLAN = DatasetPlan(
    n_per_label=MappingProxyType({"Cytoplasm": 180, "Nucleus": 180}), n_multi=0,
    fields_per_protein=4, of="embedded-full", n_moved=36, stained=True,
)  # fmt: skip
MID_U2OS_PLAN = dataclasses.replace(FULL_U2OS_PLAN, fields_per_protein=2, of="embedded-mid")
PLANS: Mapping[str, DatasetPlan] = MappingProxyType(
    {
        "embedded-demo": DEMO_PLAN,
        "embedded-mid": MID_PLAN,
        "embedded-full": FULL_PLAN,
        "embedded-u2os": DEMO_U2OS_PLAN,
        "embedded-u2os-mid": MID_U2OS_PLAN,
        "embedded-u2os-full": FULL_U2OS_PLAN,
    }
)


def embedded_proteins() -> pd.DataFrame:
    """
    Return the packaged table: human proteins of SCL2205, at most 2,700 residues long.

    Returns
    -------
    proteins : DataFrame
        Text columns protein_id, gene, uniprot, sequence, locations (``;`` between them), label
        (the location where there is one, else empty), cluster_30 (homology cluster),
        scl_split (train or test: SCL2205's own), single2_role (train, test_similar or
        test_distant for the proteins of a fixed nucleus / cytoplasm benchmark, else empty).
    """
    return read_table(TABLE_PATH, tuple(TABLE_COLUMNS), "reinstall deepgps-core")


def single2_proteins() -> pd.DataFrame:
    """Return the packaged proteins that are only cytoplasmic or only nuclear."""
    proteins = embedded_proteins()
    return proteins[proteins["label"].isin(SINGLE_2)].reset_index(drop=True)


def single2_dataset() -> Dataset:
    """
    Open, or write, the folder ``embedded-single2``: `single2_proteins`, and no images.

    It is where chapters that need no images share vectors and splits of these proteins.
    """
    path = data_root() / "embedded-single2"
    # a folder made from another release of the table is written anew; its vectors stay valid
    release = sha256_of(TABLE_PATH)[:16]
    if (path / "dataset.yaml").exists() and Dataset(path).info.config_hash == release:
        return Dataset(path)
    info = DatasetInfo(
        name="embedded-single2", source="SCL2205 (UniProt), human; no images", release="2025.6.0",
        licence="MIT; UniProt CC BY 4.0", images="simulated", cell_line="",
        pixel_size_um=0.206, labels=SINGLE_2, config_hash=release,
    )  # fmt: skip
    return Dataset.create(path, info, single2_proteins())


def _draw(
    candidates: pd.DataFrame, count: int, used: set[str], rng: np.random.Generator
) -> pd.DataFrame:
    """Draw rows, first those whose cluster nobody was taken from; adds to `used`."""
    shuffled = candidates.iloc[rng.permutation(len(candidates))]
    is_new = ~shuffled["cluster_30"].isin(used) & ~shuffled["cluster_30"].duplicated()
    drawn = pd.concat([shuffled[is_new], shuffled[~is_new]]).head(count)
    used |= set(drawn["cluster_30"])
    return drawn


def demo_proteins(
    n_per_label: Mapping[str, int],
    n_multi: int = 0,
    seed: int = 0,
    *,
    multi_locations: tuple[str, ...] = ("Cytoplasm;Nucleus",),
) -> pd.DataFrame:
    """
    Draw proteins from the packaged table, from distinct homology clusters where it can.

    Parameters
    ----------
    n_per_label : mapping of str to int
        How many singly localized proteins of each label.
    n_multi : int
        How many multi-localized proteins, drawn from those with `multi_locations`.
    seed : int
        The same seed draws the same proteins.
    multi_locations : tuple of str
        Location sets, as the table writes them.

    Returns
    -------
    proteins : DataFrame
        The columns of ``proteins.csv``, sorted by protein_id.

    Raises
    ------
    InputError
        If the table has fewer such proteins than asked for.
    """
    table = embedded_proteins()
    pools = [(name, table[table["label"] == name], n) for name, n in n_per_label.items()]
    pools.append(
        (" or ".join(multi_locations), table[table.locations.isin(multi_locations)], n_multi)
    )
    rng, used, drawn = np.random.default_rng(seed), set[str](), []
    for name, candidates, count in pools:
        if count > len(candidates):
            raise InputError(
                f"proteins.csv.gz: has {len(candidates)} proteins with location {name}, "
                f"not {count}; ask for fewer."
            )
        drawn.append(_draw(candidates, count, used, rng))
    return pd.concat(drawn)[list(PROTEIN_COLUMNS)].sort_values("protein_id", ignore_index=True)


def plan_proteins(plan: DatasetPlan, seed: int = 0) -> pd.DataFrame:
    """
    Return the proteins of an embedded dataset; see `demo_proteins`.

    Labels and locations are where this dataset's images show a protein: those of moved proteins
    differ from the packaged table's.
    """
    if not plan.of:
        return demo_proteins(
            plan.n_per_label, plan.n_multi, seed, multi_locations=plan.multi_locations
        )
    others = plan_proteins(PLANS[plan.of], seed)
    order = np.random.default_rng([seed, len(others)]).permutation(len(others))
    shuffled, chosen = others.iloc[order], []
    for label, count in plan.n_per_label.items():
        of_label = shuffled[shuffled["label"] == label].head(count).copy()
        if label in SINGLE_2:  # the first of each class change places
            elsewhere = SINGLE_2[1 - SINGLE_2.index(label)]
            moved = of_label.index[: plan.n_moved // 2]
            of_label.loc[moved, ["label", "locations"]] = elsewhere
        chosen.append(of_label)
    return pd.concat(chosen).sort_values("protein_id", ignore_index=True)


def ensure_dataset(name: str, *, seed: int = 0, workers: int | None = None) -> Dataset:
    """
    Open a dataset under the data root; simulate an embedded one that is not there yet.

    Only raw fields are made here; `preprocessing.prepare` goes on from them to crops.

    Parameters
    ----------
    name : str
        A key of `PLANS`, or any folder that exists under the data root.
    seed : int
        Of the draw of proteins and of the simulation.
    workers : int, optional
        Processes that draw fields; by default, all cores.

    Raises
    ------
    InputError
        If there is no such dataset and none of that name can be made.
    """
    path = data_root() / name
    if (path / "dataset.yaml").exists():
        return Dataset(path)
    if name not in PLANS:
        raise InputError(
            f"{path}: no such dataset, and only {', '.join(PLANS)} can be made on the spot; "
            "fetch it with `deepgps fetch` or set DEEPGPS_DATA."
        )
    # here and not above, so that reading the table stays quick
    from deepgps_core.sources.simulated import U2OS_STAINED, SimulationConfig, simulate_dataset

    plan = PLANS[name]
    microscope = U2OS_STAINED if plan.stained else SimulationConfig()
    config = dataclasses.replace(microscope, seed=seed, fields_per_protein=plan.fields_per_protein)
    return simulate_dataset(path, plan_proteins(plan, seed), config, workers=workers, labels=LABELS)
