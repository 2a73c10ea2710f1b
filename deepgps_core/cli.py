"""
The command line: each step from proteins to predictions, one command a step.

Heavy libraries are imported inside the commands, so that ``deepgps --help`` answers at once.
What the user got wrong ends in one line on standard error and exit code 2.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from typer.core import TyperGroup

from deepgps_core import __version__, cli_fetch_more
from deepgps_core.cli_import import import_images
from deepgps_core.cli_predict import predict
from deepgps_core.cli_serve import export_submissions, serve
from deepgps_core.dataset import Dataset, InputError, data_root
from deepgps_core.new_analysis import new_analysis_command


class _Group(TyperGroup):
    """Turn errors in the input into one line and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            message = str(error)
        except OSError as error:  # a full disk, a folder that may not be written
            message = f"{error.filename or 'system'}: {error.strerror or error}"
        typer.echo(f"error: {message}", err=True)
        raise typer.Exit(2)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Data and runs lie under DEEPGPS_DATA (default ./data). Start with: "
    "deepgps simulate, prepare, embed, split, train, evaluate, predict.",
)
app.add_typer(cli_fetch_more.app, name="fetch")
DatasetArgument = Annotated[
    str, typer.Argument(help="A dataset's name under the data root, or the path of its folder.")
]
RunArgument = Annotated[Path, typer.Argument(help="A run folder, as `deepgps train` makes it.")]
EncoderOption = Annotated[str, typer.Option(help="embedded, composition, or a weights file.")]
SeedOption = Annotated[int, typer.Option(help="The same seed gives the same result.")]


def _open(name: str) -> Dataset:
    path = Path(name)
    return Dataset(path if (path / "dataset.yaml").exists() else data_root() / name)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"deepgps {__version__}")
        raise typer.Exit


@app.callback()
def deepgps(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print and leave."),
    ] = False,
) -> None:
    """Predict where in a cell a protein goes, as a label and as an image, from its sequence."""


@app.command()
def datasets() -> None:
    """List the datasets under the data root, with what each holds and what it still lacks."""
    folders = sorted(path.parent for path in data_root().glob("*/dataset.yaml"))
    if not folders:
        typer.echo(f"no dataset under {data_root()}; make one with `deepgps simulate`.")
    for folder in folders:
        dataset = Dataset(folder)
        info = dataset.info
        encoders = sorted(path.stem for path in (folder / "features").glob("*.npz"))
        splits = sorted(path.stem for path in (folder / "splits").glob("*.csv"))
        crops = len(dataset.crops) if (folder / "crops.csv").exists() else "no"
        typer.echo(
            f"{folder.name}: {len(dataset.proteins)} proteins, {crops} crops, {info.images} images "
            f"({info.cell_line}); vectors: {', '.join(encoders) or 'none'}; "
            f"splits: {', '.join(splits) or 'none'}"
        )


@app.command()
def simulate(
    name: Annotated[str, typer.Argument(help="embedded-demo, -mid or -full.")] = "embedded-demo",
    seed: SeedOption = 0,
    workers: Annotated[int | None, typer.Option(help="Processes; by default all cores.")] = None,
) -> None:
    """Draw simulated microscope fields for the real proteins that come with the package."""
    from deepgps_core.sources.embedded import ensure_dataset

    dataset = ensure_dataset(name, seed=seed, workers=workers)
    typer.echo(f"{dataset.path}: {len(dataset.fields)} fields ({dataset.info.images} images)")


app.command()(import_images)
app.command("new-analysis")(new_analysis_command)
app.command()(serve)
app.command("export-submissions")(export_submissions)


@app.command()
def prepare(
    dataset: DatasetArgument,
    percentile_low: Annotated[float, typer.Option(help="This percentile becomes 0.")] = 1.0,
    percentile_high: Annotated[float, typer.Option(help="This percentile becomes 1.")] = 99.8,
    minimum_area_px: Annotated[int, typer.Option(help="Remove smaller objects.")] = 1000,
    border_rule: Annotated[str, typer.Option(help="Near borders: drop, shift or pad.")] = "drop",
    model: Annotated[
        str, typer.Option(help="StarDist model: embedded, 2D_versatile_fluo, or a folder.")
    ] = "embedded",
    scale: Annotated[float, typer.Option(help="Zoom of the nucleus channel for StarDist.")] = 1.0,
    workers: Annotated[int | None, typer.Option(help="Processes; by default all cores.")] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Prepare on a Dask cluster: its address, or local to start one here."),
    ] = None,
) -> None:
    """Normalize the fields, find the nuclei with StarDist, and cut crops around them."""
    from deepgps_core.preprocessing import NucleusSegmenter, PreprocessingConfig
    from deepgps_core.preprocessing import prepare as prepare_dataset

    config = PreprocessingConfig(
        percentile_low=percentile_low, percentile_high=percentile_high,
        minimum_area_px=minimum_area_px, border_rule=border_rule, scale=scale,  # type: ignore[arg-type]
    )  # fmt: skip
    if scheduler:
        from deepgps_core.prepare_cluster import cluster_client, prepare_on_cluster

        with cluster_client(scheduler, workers) as client:
            prepared = prepare_on_cluster(_open(dataset), client, config, model)
    else:
        segmenter = None if model == "embedded" else NucleusSegmenter(model)
        prepared = prepare_dataset(_open(dataset), config, segmenter, workers)
    typer.echo(f"{prepared.path}: {len(prepared.nuclei)} nuclei, {len(prepared.crops)} crops")


@app.command()
def embed(
    dataset: DatasetArgument,
    encoder: EncoderOption = "embedded",
    residues: Annotated[
        bool, typer.Option("--residues", help="Also keep a vector of each residue, in 16 bits.")
    ] = False,
    limit: Annotated[
        int, typer.Option(min=2, help="Residues kept of a protein, half from each end.")
    ] = 512,
    half: Annotated[
        bool, typer.Option("--half", help="Compute in bfloat16: faster, equal to 1e-2.")
    ] = False,
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens in a batch; bounds the memory it takes.")
    ] = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="Fuse small steps: pays off for many, on a GPU.")
    ] = False,
) -> None:
    """
    Turn each protein's sequence into a vector with a protein language model.

    Encoders: embedded (the small ESM-2 that comes with the package), composition (counts of
    amino acids), or the path of ESM-2 weights. What is there already is not computed again;
    killed in the middle, the same command goes on.

    \b
    Several GPUs split the proteins (several machines, Slurm: as for training):
    torchrun --standalone --nproc-per-node 4 --no-python -- deepgps embed DATASET
    """
    from deepgps_core.encoders import embed_dataset, load_encoder
    from deepgps_core.shares import Share

    asked = {
        "half_precision": half or None, "batch_tokens": batch_tokens, "compile": compile or None
    }  # fmt: skip
    options = {name: value for name, value in asked.items() if value is not None}
    opened, named = _open(dataset), load_encoder(encoder, **options)
    vectors = embed_dataset(opened, named)
    first = Share.here().rank == 0  # the others have nothing to add
    if first:
        typer.echo(f"{opened.path}: {len(vectors)} vectors of {named.dim} numbers ({named.name})")
    if residues:
        from deepgps_core.residues import embed_residues

        path = embed_residues(opened, named, max_residues=limit)
        if first:
            typer.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


@app.command()
def split(
    dataset: DatasetArgument,
    kind: Annotated[
        str, typer.Option(help="random (the paper's 4:1), grouped (by homology), or paper.")
    ] = "random",
    labels: Annotated[
        str, typer.Option(help="Only proteins of these labels, with commas; by default all.")
    ] = "",
    name: Annotated[str, typer.Option(help="By default the kind and the seed.")] = "",
    seed: SeedOption = 0,
) -> None:
    """Divide the proteins into training, validation and test; crops follow their protein."""
    from deepgps_core.splits import make_split, split_name

    opened = _open(dataset)
    proteins = opened.proteins
    wanted = [label.strip() for label in labels.split(",") if label.strip()]
    unknown = sorted(set(wanted) - set(opened.info.labels))
    if unknown:
        raise InputError(
            f"{opened.path / 'dataset.yaml'}: no label {unknown[0]!r}; "
            f"choose from {', '.join(opened.info.labels)}."
        )
    if wanted:
        proteins = proteins[proteins["label"].isin(wanted)]
    parts = make_split(proteins, kind, seed)
    name = name or split_name(kind, seed)
    opened.write_split(name, parts)
    counts = ", ".join(f"{n} {part}" for part, n in parts.value_counts().items())
    typer.echo(f"{opened.path / 'splits' / name}.csv: {counts}")


def _read_configuration(path: Path | None) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Return the settings of model and training, and the split."""
    if path is None:
        return {}, {}, "random-0"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        model, training = dict(content.get("model") or {}), dict(content.get("training") or {})
        split = str(content.get("split_name") or "random-0")
    except (OSError, AttributeError, TypeError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"{path}: no configuration ({reason}); give YAML with sections model and training."
        ) from None
    return model, training, split


def _configured(kind: type, settings: dict[str, Any], source: Path | None) -> Any:
    known = {field.name for field in dataclasses.fields(kind)}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise InputError(
            f"{source}: setting {unknown[0]!r} is unknown; choose from {', '.join(sorted(known))}."
        )
    if "labels" in settings:
        settings["labels"] = tuple(settings["labels"])
    try:
        return kind(**settings)
    except TypeError as error:
        raise InputError(f"{source}: a setting has the wrong type ({error}); correct it.") from None


@app.command()
def train(
    dataset: DatasetArgument,
    split: Annotated[
        str | None, typer.Option(help="A split's name; by default that of --config, or random-0.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML with sections model and training; a run's config.yaml will do."),
    ] = None,
    fusion: Annotated[
        str | None, typer.Option(help="paper, film, concat or residue_attention.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="By default 50, as published.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="By default 32, as published.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same model.")] = None,
    run: Annotated[Path | None, typer.Option(help="Folder of the run.")] = None,
    replace: Annotated[bool, typer.Option(help="Replace a run made with other settings.")] = False,
) -> None:
    """
    Train deepGPS; without options, the network and the settings that were published.

    Killed in the middle, the same command goes on where it was; finished, it does nothing.

    \b
    Several GPUs (the batch size is that of each), several machines, Slurm:
    torchrun --standalone --nproc-per-node 4 --no-python -- deepgps train DATASET
    torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500
    --no-python -- deepgps train DATASET      (the same on each machine)
    srun --nodes 2 --ntasks-per-node 1 torchrun ...      (the line above, in a batch script)
    """
    from deepgps_core.families import config_class
    from deepgps_core.runs import TrainingConfig
    from deepgps_core.training import fit

    opened = _open(dataset)
    model, training, configured_split = _read_configuration(config)
    model |= {"fusion": fusion} if fusion else {}
    asked = {"epochs": epochs, "batch_size": batch_size, "seed": seed}
    training |= {name: value for name, value in asked.items() if value is not None}
    if "sequence_dim" not in model:  # follows from the encoder that is named
        vectors = opened.features(training.get("encoder", "embedded"))
        model["sequence_dim"] = len(next(iter(vectors.values())))
    finished = fit(
        opened, split or configured_split, _configured(config_class(model), model, config),
        _configured(TrainingConfig, training, config), run, replace=replace,
    )  # fmt: skip
    best = finished.history["validation_image_loss"].min()
    typer.echo(f"{finished.path}: {len(finished.history)} epochs, best image loss {best:.4f}")


@app.command()
def evaluate(
    run: RunArgument,
    dataset: Annotated[
        str | None, typer.Option(help="By default the one it was trained on.")
    ] = None,
    part: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    out: Annotated[
        Path | None, typer.Option(help="Folder for the tables; by default evaluation-<part>.")
    ] = None,
) -> None:
    """Score labels and images of held-out proteins: per protein with intervals, and per crop."""
    from deepgps_core.evaluation import evaluate as evaluate_run
    from deepgps_core.runs import load_run

    opened = load_run(run)
    evaluation = evaluate_run(opened, _open(dataset or opened.dataset_name), part)
    folder = out or run / f"evaluation-{part}"
    evaluation.write(folder)
    typer.echo(evaluation.labels.to_string(index=False, float_format="%.3f"))
    typer.echo(evaluation.images.to_string(index=False, float_format="%.3f"))
    typer.echo(f"{folder}: proteins.csv, crops.csv, labels.csv, images.csv")


app.command()(predict)


def main() -> None:
    """Run the command line; the entry point of the package."""
    app(prog_name="deepgps")
