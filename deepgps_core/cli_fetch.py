"""
`deepgps fetch`: the real data, one command a source.

Each command ends in the same way: files and bytes, the licence, what failed and why; the exit
code is 1 if a file did not come. Sources are imported inside the commands.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepgps_core.dataset import InputError, data_root

if TYPE_CHECKING:
    from deepgps_core.sources.transfer import FetchReport

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Fetch real data from its public sources: images, structures, sequences, weights.",
    epilog="A file is either whole and checked, or absent: stop any command and start it again. "
    "sources.lock.yaml in each folder pins what was fetched (size, sha256, date). Without a "
    "network, `deepgps simulate embedded-demo` makes a dataset to work on.",
)
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say which files, how many bytes, which licence; stop.")
]
WorkersOption = Annotated[int, typer.Option(min=1, max=64, help="Transfers at a time.")]


def finish(report: FetchReport, *remarks: str) -> None:
    """Print a report and leave with code 1 if a file failed."""
    for remark in remarks:
        typer.echo(f"note: {remark}")
    typer.echo(report.describe())
    if report.failed:
        raise typer.Exit(1)


@app.command()
def opencell(
    name: Annotated[
        str, typer.Argument(help="The dataset's name under the data root; by default opencell.")
    ] = "",
    mini: Annotated[
        bool,
        typer.Option("--mini", help="60 single-2 proteins, 2 fields each (175 MB): opencell-mini."),
    ] = False,
    proteins: Annotated[
        str, typer.Option(help="Only these, with commas: genes, Ensembl ids or accessions.")
    ] = "",
    fields_per_protein: Annotated[
        int | None, typer.Option(min=1, help="At most so many of each; by default all.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many fields in all.")] = None,
    dry_run: DryRunOption = False,
    workers: WorkersOption = 8,
    annotations: Annotated[
        Path | None, typer.Option(help="Your copy of opencell-localization-annotations.csv.")
    ] = None,
    library: Annotated[
        Path | None, typer.Option(help="Your copy of opencell-library-metadata.csv.")
    ] = None,
    sequences: Annotated[
        Path | None, typer.Option(help="Your FASTA file, named by accession; UniProt isn't asked.")
    ] = None,
    tables_only: Annotated[
        bool, typer.Option("--tables-only", help="No images: what chapter 01 counts (3 MB).")
    ] = False,
    s3_endpoint: Annotated[
        str | None, typer.Option(envvar="DEEPGPS_S3_ENDPOINT", help="Another S3 server than AWS.")
    ] = None,
) -> None:
    """
    Fetch OpenCell: 6,301 two-channel fields of 1,310 tagged proteins in HEK293T (9 GB).

    Tables come from OpenCell's site, sequences from UniProt, images from the public bucket
    s3://czb-opencell. The labels follow the paper: locations of grade 3, else of grade 2; one
    location makes a label; at most 2,700 residues. A dry run asks for the tables, the list of
    images and the sequences (about 3 MB). Next: deepgps prepare, embed, split, train.
    """
    from dataclasses import replace

    from deepgps_core.sources.opencell import (
        MINI,
        OpenCellPlan,
        fetch_opencell,
        fetch_tables_only,
    )  # fmt: skip

    if mini and proteins:
        raise InputError("fetch opencell: --mini draws its own proteins; leave out --proteins.")
    names = tuple(word.strip() for word in proteins.split(",") if word.strip())
    plan = OpenCellPlan(proteins=names, fields_per_protein=fields_per_protein)
    if mini:
        plan = replace(MINI, fields_per_protein=fields_per_protein or MINI.fields_per_protein)
    path = data_root() / (name or ("opencell-mini" if mini else "opencell"))
    own: dict[str, Any] = {"annotations": annotations, "library": library, "sequences": sequences}
    if tables_only:
        tables, report, notes = fetch_tables_only(path, **own, s3_endpoint=s3_endpoint)
        typer.echo(f"{tables.folder}: {len(tables.targets)} targets")
        return finish(report, *notes)
    fetched = fetch_opencell(
        path, plan, limit=limit, dry_run=dry_run, workers=workers, s3_endpoint=s3_endpoint, **own
    )
    if fetched.dataset is not None:
        held = fetched.dataset
        typer.echo(f"{path}: {len(held.proteins)} proteins, {len(held.fields)} fields (measured)")
    return finish(fetched.report, *fetched.notes)
