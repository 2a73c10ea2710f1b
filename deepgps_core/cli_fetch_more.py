"""`deepgps fetch` beyond OpenCell: the Human Protein Atlas, structures, sequences, weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepgps_core.cli_fetch import DryRunOption, WorkersOption, app, finish
from deepgps_core.dataset import Dataset, data_root

__all__ = ["app"]


def _open(name: str) -> Dataset:
    path = Path(name)
    return Dataset(path if (path / "dataset.yaml").exists() else data_root() / name)


@app.command()
def hpa(
    name: Annotated[str, typer.Argument(help="The dataset's name under the data root.")] = "hpa",
    cell_line: Annotated[str, typer.Option(help="As the atlas spells it.")] = "U-2 OS",
    reliability: Annotated[
        str, typer.Option(help="Which of the atlas's grades count, with commas.")
    ] = "Enhanced,Supported,Approved",
    also_additional: Annotated[
        bool, typer.Option(help="Keep genes that have additional locations beside the main one.")
    ] = False,
    fields_per_gene: Annotated[
        int | None, typer.Option(min=1, help="At most so many of each; by default all.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many genes, the two places in turn.")
    ] = None,
    dry_run: DryRunOption = False,
    workers: WorkersOption = 4,
    table: Annotated[
        Path | None, typer.Option(help="Your copy of subcellular_location.tsv.")
    ] = None,
    kaggle: Annotated[
        Path | None,
        typer.Option(help="Your copy of kaggle_2021.tsv: only the fields it lists are used."),
    ] = None,
    site: Annotated[
        str, typer.Option(help="Of another release, such as https://v23.proteinatlas.org.")
    ] = "https://www.proteinatlas.org",
) -> None:
    """
    Fetch the Human Protein Atlas: proteins in cytosol or nucleoplasm alone, in one cell line.

    The gene table chooses the genes (2,545 by default), each gene's XML lists its images, blue
    and green JPEGs become two-channel fields at OpenCell's pixel size, and UniProt gives the
    sequences. About 15 GB in all; start with --limit 40. The dry run asks for the gene table
    only and estimates the rest. Next: deepgps prepare (with --scheduler on a cluster).
    """
    from deepgps_core.sources.hpa_images import HPAConfig, fetch_hpa

    grades = tuple(word.strip() for word in reliability.split(",") if word.strip())
    config = HPAConfig(cell_line, grades, not also_additional, fields_per_gene, site.rstrip("/"))
    dataset, report = fetch_hpa(
        data_root() / name, config, table=table, kaggle=kaggle, workers=workers, limit=limit,
        dry_run=dry_run,
    )  # fmt: skip
    if dataset:
        counts = dataset.proteins["label"].value_counts()
        of_label = ", ".join(f"{n} {str(label).lower()}" for label, n in counts.items())
        typer.echo(f"{dataset.path}: {len(dataset.fields)} fields (measured); {of_label}")
    finish(report)


@app.command()
def alphafold(
    dataset: Annotated[
        str, typer.Argument(help="A dataset's name under the data root, or its folder.")
    ],
    file_format: Annotated[str, typer.Option("--format", help="pdb or cif.")] = "pdb",
    allow_mismatch: Annotated[
        bool, typer.Option(help="Fetch structures also of a sequence that is not the protein's.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first proteins.")] = None,
    dry_run: DryRunOption = False,
    workers: WorkersOption = 4,
) -> None:
    """
    Fetch predicted structures of a dataset's proteins from the AlphaFold database.

    The database says which file version is current, and which sequence was folded. A structure
    of another sequence (an isoform, an older UniProt) is listed and not used. What came, and why
    not, is in structures/alphafold.csv. About 0.3 MB a protein.
    """
    from deepgps_core.dataset import InputError
    from deepgps_core.sources.alphafold import SAME, fetch_structures

    if file_format not in ("pdb", "cif"):
        raise InputError(f"--format {file_format}: use pdb or cif.")
    opened = _open(dataset)
    report, structures = fetch_structures(
        opened, file_format=file_format, allow_mismatch=allow_mismatch, workers=workers,  # type: ignore[arg-type]
        limit=limit, dry_run=dry_run,
    )  # fmt: skip
    differing = structures[structures["agreement"] != SAME]
    for row in differing.itertuples():
        typer.echo(f"note: {row.protein_id} ({row.uniprot}): {row.agreement}")
    typer.echo(
        f"{opened.path / 'structures'}: {len(structures) - len(differing)} of {len(structures)} "
        "proteins have the structure of their own sequence"
    )
    finish(report)


@app.command()
def swissprot(
    min_residues: Annotated[int, typer.Option(help="Shorter sequences are left out.")] = 30,
    max_residues: Annotated[int, typer.Option(help="Longer sequences are left out.")] = 1022,
    thin: Annotated[bool, typer.Option(help="Of near-duplicates, keep the first.")] = True,
    limit: Annotated[int | None, typer.Option(min=1, help="Keep only the first so many.")] = None,
    dry_run: DryRunOption = False,
) -> None:
    """
    Fetch Swiss-Prot (90 MB) and write the sequences that train a protein language model.

    Ends in swissprot/swissprot.txt.xz under the data root, one sequence a line: give its path to
    appendix A1 as SEQUENCES.
    """
    from deepgps_core.sources.swissprot import (
        LICENCE,
        SWISSPROT_URL,
        SwissProtFilter,
        fetch_swissprot,
    )
    from deepgps_core.sources.transfer import FetchReport

    folder = data_root() / "swissprot"
    if dry_run:
        planned = FetchReport(planned=["uniprot_sprot.fasta.gz"], bytes=90_000_000, licence=LICENCE)
        typer.echo(f"{SWISSPROT_URL} -> {folder}")
        finish(planned)
        return
    rule = SwissProtFilter(min_residues, max_residues, thin)
    typer.echo(f"{fetch_swissprot(folder, rule=rule, limit=limit)}: {LICENCE}")


@app.command()
def esm2(
    model: Annotated[
        str, typer.Option(help="esm2_t6_8M_UR50D (30 MB) to esm2_t48_15B_UR50D (30 GB).")
    ] = "esm2_t33_650M_UR50D",
    dry_run: DryRunOption = False,
) -> None:
    """
    Fetch an ESM-2 of any size; the paper's, by default, has 650M parameters (2.6 GB).

    fair-esm states no checksum: the sha256 of the first download is pinned beside the file. Then:
    deepgps embed DATASET --encoder esm2_t33_650M_UR50D.
    """
    from deepgps_core.esm2 import load_network
    from deepgps_core.sources.weights import fetch_esm2

    path, report = fetch_esm2(model, load=load_network, dry_run=dry_run)
    typer.echo(f"{path}: embed with --encoder {model}")
    finish(report)


@app.command()
def stardist(
    model: Annotated[
        str, typer.Option(help="2D_versatile_fluo or 2D_paper_dsb2018.")
    ] = "2D_versatile_fluo",
    dry_run: DryRunOption = False,
) -> None:
    """
    Fetch a published StarDist model; its archive is checked against StarDist's own registry.

    Then: deepgps prepare DATASET --model followed by the folder that is printed.
    """
    from deepgps_core.sources.weights import fetch_stardist

    path, report = fetch_stardist(model, dry_run=dry_run)
    typer.echo(f"{path}: segment with --model {path}")
    finish(report)
