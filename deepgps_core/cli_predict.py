"""``deepgps predict``: proteins of one's own to labels and images, or to labels alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepgps_core.dataset import InputError


def predict(
    fasta: Annotated[Path, typer.Option(help="Protein sequences, one or many.")],
    out: Annotated[Path, typer.Option(help="A new folder for labels, images and report.html.")],
    nucleus: Annotated[
        Path | None,
        typer.Option(
            help="Nucleus channel: TIFF, PNG or JPEG, one cell or a field, whose nuclei are found. "
            "By default a simulated nucleus that ships."
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="single-2, single-4, all, or a run folder (of several: ensemble).")
    ] = "single-2",
    mutate: Annotated[
        str, typer.Option(help="Mutants to predict beside the wild type, as in the second example.")
    ] = "",
    samples: Annotated[
        int,
        typer.Option(
            min=0, help="Draw so many images a nucleus, with a run that generates as --model."
        ),
    ] = 0,
    pixel_size_um: Annotated[
        float | None, typer.Option(help="Of the image; by default that of the training fields.")
    ] = None,
    max_nuclei: Annotated[int, typer.Option(min=1, help="Of a field, the surest first.")] = 8,
    labels_only: Annotated[
        bool,
        typer.Option(
            "--labels-only", help="No images: a whole proteome, in blocks; goes on when stopped."
        ),
    ] = False,
) -> None:
    """
    Predict labels and images of proteins from their sequences, with how sure the model is.

    \b
    deepgps predict --fasta my.fasta --out predicted
    deepgps predict --fasta p53.fasta --mutate "R306A,del305-322,ins0:PKKKRKV" --out mutants
    deepgps predict --fasta my.fasta --nucleus dapi.tif --pixel-size-um 0.1 --model all --out x
    deepgps predict --fasta my.fasta --model data/runs/.../0 --samples 16 --out sampled
    deepgps predict --fasta proteome.fasta --labels-only --out labels

    A mutation is R12A, del5-20, ins0:PKKKRKV (after residue 0) or graft:PKKKRKV (at the end);
    + joins several in one mutant, ID=R12A names the protein. Open report.html in the folder.
    """
    from deepgps_core.mutations import split_mutations
    from deepgps_core.outputs import label_files, predict_files

    if labels_only:
        if nucleus or mutate or samples:
            raise InputError("--labels-only: draws nothing; leave --nucleus, --mutate, --samples.")
        typer.echo(f"{label_files(model, fasta, out)}: labels of all proteins")
        return
    predicted = predict_files(
        model, fasta, nucleus, out, mutations=split_mutations(mutate) if mutate else (),
        pixel_size_um=pixel_size_um, samples=samples, max_nuclei=max_nuclei,
    )  # fmt: skip
    shown = predicted.table.drop(columns=["n_residues", "entropy", "spread"])
    typer.echo(shown.to_string(index=False, float_format="%.2f"))
    typer.echo(f"{out}: report.html, predictions.csv, images/, nuclei.tif")
