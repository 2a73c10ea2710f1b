"""
Training on several GPUs: images a second and the curve of losses, beside one GPU.

Run as ``python -m benchmarks.training_scaling [--quick]``. The project's own loop, compiled and
lean, is started through torchrun with one process a GPU, for 1, 2, 4 ... of the machine's GPUs
with the same batch each. Then one GPU takes as many crops a step as several together, once with
another seed: several GPUs should follow its curve no worse than another seed does.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import DEVICE, machine, write_results
from benchmarks.training_speed import PUBLISHED, synthetic_crops, whole_path
from deepgps_core.crops import CropDataset
from deepgps_core.dataset import usable_cores
from deepgps_core.model import DeepGPSConfig
from deepgps_core.runs import TrainingConfig

ROOT = Path(__file__).resolve().parent.parent
SMALL = DeepGPSConfig(sequence_dim=32, hidden_dim=32, width=8, depth=2, crop_size_px=56)


def learnable_crops(n_crops: int, config: DeepGPSConfig) -> CropDataset:
    """Return crops whose protein fills the nucleus or leaves it, as the label says."""
    crops = synthetic_crops(n_crops, 321, config.crop_size_px, config.sequence_dim)
    generator = torch.Generator().manual_seed(1)
    images = torch.empty_like(crops.images)
    side = (config.crop_size_px, config.crop_size_px)
    for rows in torch.arange(n_crops).split(512):
        coarse = torch.rand(len(rows), 1, 9, 9, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, side, mode="bicubic")
        nucleus = (12 * (smooth - 0.6)).sigmoid()
        inside = crops.labels[crops.protein_index[rows], None, None, None] == 1
        both = torch.cat([nucleus, torch.where(inside, nucleus, 1 - nucleus)], dim=1)
        images[rows] = (255 * both).round().to(torch.uint8)
    return dataclasses.replace(crops, images=images)


def work(arguments: argparse.Namespace) -> None:
    """Train as one of the processes; the first one writes what it measured."""
    config = SMALL if arguments.quick else PUBLISHED
    training = TrainingConfig(
        batch_size=arguments.batch, precision="auto", compile=DEVICE == "cuda", lean=True,
        augment=True, seed=arguments.seed,
    )  # fmt: skip
    crops = learnable_crops(arguments.crops, config)
    row = whole_path(config, crops, arguments.epochs, training)
    if int(os.environ["RANK"]) == 0:
        Path(arguments.worker).write_text(json.dumps(row), encoding="utf-8")


def measure(n_devices: int, batch: int, seed: int, given: Iterable[str]) -> dict[str, Any]:
    """Train with so many processes through torchrun; return what the first one measured."""
    threads = str(max(1, usable_cores() // n_devices))
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "row.json"
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            "--nproc-per-node", str(n_devices), "-m", "benchmarks.training_scaling",
            "--worker", str(written), "--batch", str(batch), "--seed", str(seed), *given,
        ]  # fmt: skip
        environment = os.environ | {"OMP_NUM_THREADS": threads}
        subprocess.run(command, cwd=ROOT, check=True, env=environment)
        row = json.loads(written.read_text(encoding="utf-8"))
    whole = "GPU" if DEVICE == "cuda" else "process"
    plural = whole + ("es" if whole == "process" else "s") * (n_devices > 1)
    return row | {
        "setting": f"{n_devices} {plural}, batch {batch} each" + f", seed {seed}" * (seed > 0),
        "devices": n_devices, "seed": seed,
    }  # fmt: skip


def scaled(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of one batch a device and seed 0, one device first."""
    batch = result["rows"][0]["batch_size"]
    return [r for r in result["rows"] if r["batch_size"] == batch and r["seed"] == 0]


def table(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the one table: several devices beside one."""
    one, *several = scaled(result)
    return [
        {"what": f"training, batch {row['batch_size']} on each device", "ours": row["setting"],
         "beside": one["setting"], "value": row["images_per_s"], "peer": one["images_per_s"],
         "unit": "images/s", "ratio": row["images_per_s"] / one["images_per_s"]}
        for row in several
    ]  # fmt: skip


def curves(result: Mapping[str, Any]) -> dict[str, list[float]]:
    """
    Return how far several devices' losses are from those of one with the same crops a step.

    Returns
    -------
    apart : dict
        Relative difference of the training loss in each epoch that both have: "2 devices" and so
        on, where one device was trained with as many crops a step; and, as a measure of what is
        usual, "another seed" of one device.
    """
    rows = result["rows"]
    alone = {(r["batch_size"], r["seed"]): r["losses"] for r in rows if r["devices"] == 1}

    def differences(losses: list[float], beside: list[float]) -> list[float]:
        return [a / b - 1 for a, b in zip(losses, beside, strict=False)]

    apart = {
        f"{r['devices']} devices": differences(
            r["losses"], alone[r["devices"] * r["batch_size"], 0]
        )
        for r in rows
        if r["devices"] > 1 and (r["devices"] * r["batch_size"], 0) in alone
    }
    (other,) = [key for key in alone if key[1]]  # one other seed is trained
    return apart | {"another seed": differences(alone[other], alone[other[0], 0])}


def main() -> None:
    """Measure and write after every row, so that a stop loses one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--crops", type=int, default=16_384)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=128, help="on each device")
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments)
        return
    given = ["--crops", str(arguments.crops), "--epochs", str(arguments.epochs)]
    given += ["--quick"] if arguments.quick else []
    there = torch.cuda.device_count() if DEVICE == "cuda" else 2
    plan = [(n, arguments.batch, 0) for n in (1, 2, 4, 8) if n <= there]
    plan += [(1, n * arguments.batch, 0) for n, _, _ in plan[1:]] + [(1, 2 * arguments.batch, 1)]
    result: dict[str, Any] = machine() | {
        "benchmark": "training on several", "crops": arguments.crops, "rows": [],
    }  # fmt: skip
    for n_devices, batch, seed in plan:
        result["rows"].append(measure(n_devices, batch, seed, given))
        print(result["rows"][-1], flush=True)
        write_results(result)
    one, *several = scaled(result)
    for row in several:
        share = row["images_per_s"] / one["images_per_s"] / row["devices"]
        print(f"{row['setting']}: {row['images_per_s']:,.0f} images/s, {share:.1%} of linear")
    if several:
        print("losses apart, epoch by epoch:", curves(result))


if __name__ == "__main__":
    main()
