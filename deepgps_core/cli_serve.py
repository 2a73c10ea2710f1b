"""The command line's door to openGPS: `serve`, and `export-submissions`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from deepgps_core.dataset import InputError

#: Packages of the extra ``web``.
_WEB = ("flask", "sqlalchemy", "waitress")
DataOption = Annotated[
    Path | None,
    typer.Option(help="Folder of database and files; by default opengps/ under DEEPGPS_DATA."),
]


def _check_installed() -> None:
    from importlib.util import find_spec

    missing = [name for name in _WEB if find_spec(name) is None]
    if missing:
        raise InputError(
            f"openGPS needs {', '.join(missing)}; install it with: "
            "pip install 'deepgps-core[web,segment]'."
        )


def _config(data: Path | None, models: list[str]) -> dict[str, Any]:
    config: dict[str, Any] = {} if data is None else {"DATA": data}
    return config | ({"MODELS": tuple(models)} if models else {})


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8000,
    workers: Annotated[
        int, typer.Option(min=0, max=64, help="Processes that predict; each holds the models.")
    ] = 1,
    data: DataOption = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model to offer: single-2, single-4, all, or a run folder. Repeat."),
    ] = None,
    url_prefix: Annotated[
        str, typer.Option(help="Where a proxy in front mounts it, such as /opengps.")
    ] = "",
) -> None:
    """
    Start openGPS: the website that predicts, takes submissions, and answers programs.

    \b
    deepgps serve                                    then open http://127.0.0.1:8000/
    deepgps serve --port 9000 --workers 2 --data /srv/opengps
    deepgps serve --model single-2 --model data/runs/mine/deepGPS-film/random-0

    Behind a proxy that speaks HTTPS, set OPENGPS_PROXIES=1, OPENGPS_HOSTS=your.name and
    OPENGPS_SESSION_COOKIE_SECURE=1. OPENGPS_SECRET is the key that signs cookies (by default a
    private file in the data folder), OPENGPS_DATABASE any database by its SQLAlchemy URL; limits
    are OPENGPS_MAX_SEQUENCES, OPENGPS_MAX_QUEUE, OPENGPS_POSTS_PER_MINUTE, OPENGPS_KEEP_DAYS.
    Accepted jobs survive a stop and a crash. Stop it with Ctrl-C.
    """
    _check_installed()
    from opengps.serve import serve as run_server

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # its depth is no news under load
    run_server(host, port, workers, url_prefix, _config(data, model or []), typer.echo)


def export_submissions(
    out: Annotated[Path, typer.Argument(help="A new dataset folder.")],
    data: DataOption = None,
) -> None:
    """Write all images submitted to openGPS as a dataset folder, to prepare and to train on."""
    _check_installed()
    from opengps.database import open_database
    from opengps.export import export_dataset
    from opengps.settings import load_settings

    settings = load_settings(_config(data, []))
    dataset = export_dataset(open_database(settings["DATABASE"]), settings, out)
    typer.echo(f"{dataset.path}: {len(dataset.proteins)} proteins, {len(dataset.fields)} fields")
