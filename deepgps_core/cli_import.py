"""``deepgps import-images``: your own images and a spreadsheet, made into a dataset folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepgps_core.dataset import data_root


def import_images(
    folder: Annotated[Path, typer.Argument(help="Folder of the images: TIFF, PNG or JPEG.")],
    table: Annotated[
        Path,
        typer.Argument(
            help="CSV, one row a field: image (or nucleus and protein), protein_id, and where "
            "known sequence, locations, gene, uniprot."
        ),
    ],
    name: Annotated[str, typer.Option(help="Of the dataset, under the data root.")],
    pixel_size_um: Annotated[float, typer.Option(help="Micrometers a pixel of your images.")],
    fasta: Annotated[
        Path | None, typer.Option(help="Sequences by protein_id, if the table has none.")
    ] = None,
    nucleus_channel: Annotated[int, typer.Option(help="Of a file with both, from 0.")] = 0,
    protein_channel: Annotated[int, typer.Option(help="Of a file with both, from 0.")] = 1,
    keep_scale: Annotated[
        bool, typer.Option(help="Do not bring fields to OpenCell's 0.206 µm a pixel.")
    ] = False,
    cell_line: Annotated[str, typer.Option(help="For the record.")] = "not stated",
    licence: Annotated[str, typer.Option(help="For the record.")] = "not stated",
) -> None:
    """
    Make a dataset of your own images: then prepare, embed, split, train as with any other.

    An example of a row: `image=a1.tif, protein_id=mine, sequence=MKV..., locations=Nucleus`.
    Locations called Cytoplasm and Nucleus are what chapter 06 compares. Images that cannot be
    read are listed at the end, and the exit code is 1.
    """
    from deepgps_core.sources._images import OPENCELL_PIXEL_SIZE_UM
    from deepgps_core.sources.own import ImportConfig
    from deepgps_core.sources.own import import_images as import_into_dataset

    config = ImportConfig(
        pixel_size_um, nucleus_channel, protein_channel,
        None if keep_scale else OPENCELL_PIXEL_SIZE_UM, cell_line, licence,
    )  # fmt: skip
    dataset, failed = import_into_dataset(folder, table, data_root() / name, config, fasta=fasta)
    typer.echo(
        f"{dataset.path}: {len(dataset.proteins)} proteins, {len(dataset.fields)} fields of "
        f"{config.final_pixel_size_um} µm a pixel; labels: {', '.join(dataset.info.labels)}"
    )
    for cause in failed:
        typer.echo(f"failed: {cause}", err=True)
    if failed:
        raise typer.Exit(1)
