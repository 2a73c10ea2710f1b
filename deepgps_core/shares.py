"""
Several processes that split a list of proteins, as ``torchrun`` or Slurm starts them.

They meet in files only: each writes its share beside the result, and the first joins them. Left
out: stealing work from a slower process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from deepgps_core.dataset import InputError


class Share(NamedTuple):
    """
    Which of several processes this one is; alone, 0 of 1.

    Examples
    --------
    >>> Share(1, 2).of({"a": "MKK", "b": "M", "c": "MK", "d": "MKKK"})
    ['c', 'd']
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def here(cls) -> Share:
        """Read RANK and WORLD_SIZE from the environment."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    def of(self, sequences: Mapping[str, str]) -> list[str]:
        """Return this process's proteins: every so-many-th by length, so that all work as long."""
        names = sorted(sequences, key=lambda name: (len(sequences[name]), name))
        return names[self.rank :: self.world]

    def wait(self, ready: Callable[[], bool], folder: Path, *, patience_s: float = 1800.0) -> None:
        """
        Wait for the other processes, as long as files in a folder still change.

        Raises
        ------
        InputError
            If none changed for `patience_s`.
        """
        changed, seen = time.monotonic(), 0
        while not ready():
            newest = _newest_ns(folder)
            if newest != seen:
                changed, seen = time.monotonic(), newest
            if time.monotonic() - changed > patience_s:
                raise InputError(
                    f"{folder}: one of {self.world} processes has written nothing for "
                    f"{patience_s:.0f} s; start all of them again, what is done is kept."
                )
            time.sleep(0.2)


def _newest_ns(folder: Path) -> int:
    """Return when a file of a folder changed last; files may come and go meanwhile."""
    newest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                newest = max(newest, os.stat(os.path.join(parent, name)).st_mtime_ns)
            except FileNotFoundError:
                continue
    return newest


def own_device() -> str:
    """Return the GPU of this process (LOCAL_RANK, under ``torchrun``), or the CPU."""
    if not torch.cuda.is_available():
        return "cpu"
    local = os.environ.get("LOCAL_RANK")
    return "cuda" if local is None else f"cuda:{int(local) % torch.cuda.device_count()}"
