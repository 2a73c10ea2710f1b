"""
The server: waitress answers, worker processes predict, and both end together.

A worker that dies is started again, each time after a longer pause; what it was doing is taken up
by the next one. Workers end by themselves should the server be killed.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

from waitress.server import create_server

from deepgps_core.dataset import InputError, usable_cores
from opengps.application import create_app
from opengps.settings import load_settings

log = logging.getLogger("opengps.serve")
THREADS = 16
STOP_S = 10.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
#: A worker that lived so long is not taken for broken when it ends.
STEADY_S = 60.0


class Workers:
    """
    Worker processes, kept running until told to stop.

    Parameters
    ----------
    command : sequence of str
    count : int
    environment : mapping
    """

    def __init__(self, command: Sequence[str], count: int, environment: Mapping[str, str]) -> None:
        self._command, self._environment = list(command), dict(environment)
        self._stop = threading.Event()
        self._running: list[subprocess.Popen[bytes] | None] = [None] * count
        self._born, self._pause = [0.0] * count, [0.0] * count
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def pids(self) -> list[int]:
        """Process ids of those that run."""
        return [worker.pid for worker in self._running if worker and worker.poll() is None]

    def start(self) -> None:
        """Start them, and watch over them."""
        for k in range(len(self._running)):
            self._spawn(k)
        self._thread.start()

    def _spawn(self, k: int) -> None:
        self._running[k] = subprocess.Popen(
            self._command, env=self._environment, start_new_session=True
        )  # a Ctrl-C of the terminal is for the server, which tells them
        self._born[k] = time.monotonic()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            for k, worker in enumerate(self._running):
                if worker is None or worker.poll() is None:
                    continue
                lived = time.monotonic() - self._born[k]
                longer = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * self._pause[k]))
                self._pause[k] = FIRST_PAUSE_S if lived > STEADY_S else longer
                log.warning("worker ended (%s) and is started again", worker.returncode)
                if self._stop.wait(self._pause[k]):
                    return
                self._spawn(k)

    def stop(self) -> None:
        """Tell them to stop, wait, and end those that do not."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=LONGEST_PAUSE_S)
        running = [worker for worker in self._running if worker and worker.poll() is None]
        for worker in running:
            worker.terminate()
        limit = time.monotonic() + STOP_S
        for worker in running:
            try:
                worker.wait(timeout=max(0.1, limit - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()


def _worker_environment(settings: Mapping[str, Any], count: int) -> dict[str, str]:
    """Say to the workers what the server was told; cores are divided among them."""
    threads = str(max(1, usable_cores() // max(1, count)))
    return {
        "OMP_NUM_THREADS": threads, "TF_CPP_MIN_LOG_LEVEL": "2", **os.environ,
        "OPENGPS_DATA": str(settings["DATA"]),
        "OPENGPS_DATABASE": settings["DATABASE"], "OPENGPS_MODELS": ",".join(settings["MODELS"]),
        "OPENGPS_PARENT": str(os.getpid()),
    }  # fmt: skip


def _open_socket(app: Any, host: str, port: int, prefix: str) -> Any:
    try:
        return create_server(
            app, host=host, port=port, threads=THREADS, url_prefix=prefix, ident=None,
            max_request_body_size=2 * app.config["MAX_CONTENT_LENGTH"], connection_limit=500,
            channel_timeout=60,
            # the application itself takes them off, and only as many as it was told to trust
            clear_untrusted_proxy_headers=not app.config["PROXIES"],
        )  # fmt: skip
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{host}:{port}: cannot listen ({reason}); choose another --host or --port."
        ) from None


def serve(
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    url_prefix: str = "",
    config: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """
    Serve pages, interface and predictions until a signal comes.

    Parameters
    ----------
    port : int
        0: any that is free.
    workers : int
        Processes that predict; 0 leaves that to others that share the database.
    url_prefix : str
        Where a proxy in front mounts the application, such as ``/opengps``.
    config : mapping, optional
        Settings, as `create_app` takes them.

    Raises
    ------
    InputError
        If the address is taken, or a model cannot be opened.
    """
    app = create_app(load_settings(config))
    with app.app_context():
        from opengps.context import models

        models()  # a wrong run folder is told now, not to the first visitor
    server = _open_socket(app, host, port, url_prefix.rstrip("/"))
    crew = Workers(
        [sys.executable, "-m", "opengps.worker"], workers, _worker_environment(app.config, workers)
    )

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    shown = f"[{host}]" if ":" in host else host
    port = getattr(server, "effective_port", port)
    say(f"openGPS: http://{shown}:{port}{url_prefix.rstrip('/')}/")
    say(f"data in {app.config['DATA']}; {workers} worker(s); Ctrl-C stops it")
    try:
        crew.start()
        server.run()  # returns upon Ctrl-C and SystemExit
    finally:
        say("stopping; what is unfinished goes on at the next start")
        server.close()
        crew.stop()
