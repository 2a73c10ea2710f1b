"""
Training speed: one network, from the published settings to ours.

Run as ``python -m benchmarks.training_speed [--quick]``. Every setting trains the same network on
the same crops in the same process, one after the other: the published settings first, then one
change at a time. On a GPU the network is the published one; on a CPU that of the demo, because
the published one takes a second an image there. Beside images a second it says what share of the
measured bf16 matrix-product rate was reached, and where the time of the fastest setting goes. The
last rows are the project's own training path, Lightning, checkpoints and validation included.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import (
    DEVICE,
    fast_half,
    growth,
    machine,
    memory_mib,
    timed,
    write_results,
)
from deepgps_core.crops import CropDataset, CropLoader
from deepgps_core.model import DeepGPS, DeepGPSConfig
from deepgps_core.runs import TrainingConfig
from deepgps_core.training_loop import DeepGPSModule, Recorder, train_network
from deepgps_core.unet import make_lean

PUBLISHED = DeepGPSConfig()
#: The network of the book's demo.
DEMO = DeepGPSConfig(sequence_dim=320, hidden_dim=256, width=12, depth=3, crop_size_px=104)


@dataclasses.dataclass(frozen=True)
class Setting:
    """How to train: what each step of the ladder changes."""

    name: str
    batch_size: int
    tf32: bool = False
    half: bool = False
    channels_last: bool = False
    compile: str = ""
    autotune: bool = False
    lean: bool = False


LADDER = (
    Setting("published: fp32, batch 8", 8),
    Setting("batch 32", 32),
    Setting("+ TF32", 32, tf32=True),
    Setting("+ bf16 autocast", 32, True, True),
    Setting("+ channels last", 32, True, True, True),
    Setting("+ cuDNN autotuning", 32, True, True, True, autotune=True),
    Setting("+ compiled", 32, True, True, True, "default", True),
    Setting("batch 64, compiled", 64, True, True, True, "default", True),
    Setting("batch 128, compiled", 128, True, True, True, "default", True),
    Setting("batch 128, compiled, lean", 128, True, True, True, "default", True, True),
    Setting("batch 256, compiled", 256, True, True, True, "default", True),
    Setting("batch 256, compiled, lean", 256, True, True, True, "default", True, True),
    Setting("batch 128, compiled, kernels autotuned", 128, True, True, True,
            "max-autotune-no-cudagraphs", True),
    Setting("batch 32, compiled, CUDA graphs", 32, True, True, True, "reduce-overhead", True),
)  # fmt: skip


#: On a CPU; what it cannot do is left out.
CPU_LADDER = (
    Setting("published: fp32, batch 8", 8),
    Setting("batch 32", 32),
    Setting("+ channels last", 32, channels_last=True),
    Setting("+ bf16 autocast", 32, half=True, channels_last=True),
    Setting("+ compiled", 32, half=True, channels_last=True, compile="default"),
)


def ladder() -> list[Setting]:
    """Return the settings that this machine can run."""
    if DEVICE == "cuda":
        return list(LADDER)
    compiler = which("g++") or which("clang++")
    kept = [s for s in CPU_LADDER if fast_half() or not s.half]
    return [s for s in kept if compiler or not s.compile]


def synthetic_crops(n_crops: int, n_proteins: int, size_px: int, dim: int) -> CropDataset:
    """Return random crops: speed does not depend on what is in them."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        0, 256, (n_crops, 2, size_px, size_px), dtype=torch.uint8, generator=generator
    )
    return CropDataset(
        images=images,
        protein_index=torch.arange(n_crops) % n_proteins,
        features=torch.randn(n_proteins, dim, generator=generator),
        labels=torch.arange(n_proteins) % 2,
        protein_ids=tuple(f"P{i}" for i in range(n_proteins)),
        crop_ids=tuple(f"P{i % n_proteins}-{i}" for i in range(n_crops)),
        targets=torch.eye(2)[torch.arange(n_proteins) % 2],
    )


def _synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def matmul_tflops(size: int) -> float:
    """Measure the bf16 matrix-product rate, the ceiling of everything below."""
    a, b = torch.randn(2, size, size, device=DEVICE, dtype=torch.bfloat16)
    for _ in range(3):
        a @ b
    _synchronize()
    start, repeats = time.perf_counter(), 20
    for _ in range(repeats):
        a @ b
    _synchronize()
    return 2 * size**3 * repeats / (time.perf_counter() - start) / 1e12


def train_flops(config: DeepGPSConfig) -> float:
    """Count the floating-point operations of training on one image, forward and backward."""
    model = DeepGPS(config)
    size = config.crop_size_px
    crops = synthetic_crops(2, 2, size, config.sequence_dim)
    with FlopCounterMode(display=False) as counter:
        _, image_loss, label_loss = model.score(crops.batch(torch.arange(2), torch.ones(2)))
        (image_loss.mean() + label_loss.mean()).backward()
    return counter.get_total_flops() / 2


def _batches(crops: CropDataset, setting: Setting) -> Iterator[Any]:
    batch_size = setting.batch_size
    loader = CropLoader(
        crops, batch_size, seed=0, shuffle=True, augment=True, compile=bool(setting.compile)
    )
    while True:
        # whole batches alone: a last, smaller one would be compiled anew
        for _, batch in zip(range(len(crops) // batch_size), loader, strict=False):
            yield batch
        loader.epoch += 1


def images_per_second(
    setting: Setting, config: DeepGPSConfig, crops: CropDataset, seconds: float, profile: bool
) -> dict[str, Any]:
    """Train with a setting for some seconds, after warming up, and measure."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = setting.autotune
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = setting.tf32
    model = DeepGPS(config).to(DEVICE)
    if setting.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if setting.lean:
        make_lean(model)
    if setting.compile:
        model.compile(mode=setting.compile)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-4, fused=DEVICE == "cuda")
    batches = _batches(crops, setting)

    def step() -> None:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=setting.half):
            _, image_loss, label_loss = model.score(next(batches))
            loss = image_loss.mean() + label_loss.mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def train() -> int:
        n_steps, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            for _ in range(4):
                step()
            _synchronize()
            n_steps += 4
        return n_steps

    begun = time.perf_counter()
    for _ in range(4):
        step()
    _synchronize()
    warm_up_s = time.perf_counter() - begun
    n_steps, took_s, peak = timed(train)
    row = {
        "setting": setting.name, "images_per_s": n_steps * setting.batch_size / took_s,
        "warm_up_s": warm_up_s, "peak_memory_mib": peak, "batch_size": setting.batch_size,
    }  # fmt: skip
    if profile:
        row["kernels"] = _kernels(step)
    return row


def _kernels(step: Any, n_steps: int = 4) -> list[dict[str, Any]]:
    """Return the kernels that take most of the device's time."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as torch_profile

    activity = ProfilerActivity.CUDA if DEVICE == "cuda" else ProfilerActivity.CPU
    with torch_profile(activities=[activity]) as profiler:
        for _ in range(n_steps):
            step()
        _synchronize()
    name = "device" if DEVICE == "cuda" else "cpu"
    found = [(event.key, getattr(event, f"self_{name}_time_total")) for event in
             profiler.key_averages()]  # fmt: skip
    total = sum(time_us for _, time_us in found) or 1.0
    found.sort(key=lambda item: -item[1])
    return [{"kernel": key[:90], "share": us / total} for key, us in found[:16]]


def whole_path(
    config: DeepGPSConfig, crops: CropDataset, epochs: int, training: TrainingConfig
) -> dict[str, Any]:
    """Train through the project's own loop; the first epoch, which compiles, is told apart."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = DeepGPS(config)
    if training.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if training.lean:
        make_lean(model)
    if training.compile:
        model.compile()
    training = dataclasses.replace(training, epochs=epochs)
    held_out = crops.take(torch.arange(0, len(crops), 10, device=crops.images.device))
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(Path(folder))
        module = DeepGPSModule(model, training, crops, held_out)
        _, total_s, peak = timed(
            lambda: train_network(module, recorder, Path(folder) / "last.ckpt")
        )
    seconds = np.array([row["seconds"] for row in recorder.history])
    return {
        "setting": f"the project's loop, batch {training.batch_size}" + ", lean" * training.lean,
        "epochs": epochs, "batch_size": training.batch_size,
        "first_epoch_s": float(seconds[0]), "epoch_s": float(np.median(seconds[1:])),
        "images_per_s": len(crops) / float(np.median(seconds[1:])), "total_s": total_s,
        "peak_memory_mib": peak,
        "losses": [row["train_image_loss"] for row in recorder.history],
    }  # fmt: skip


def by_side(setting: Setting, config: DeepGPSConfig, seconds: float) -> dict[str, Any]:
    """Measure seconds an image for images of half, whole and twice the side, and their growth."""
    step = 2**config.depth
    half = config.crop_size_px // 2 // step * step
    sides = [half, config.crop_size_px, 2 * config.crop_size_px]
    times = []
    for side in sides:
        sized = dataclasses.replace(config, crop_size_px=side)
        crops = synthetic_crops(64, 16, side, config.sequence_dim).to(DEVICE)
        row = images_per_second(setting, sized, crops, seconds / 3, False)
        times.append(1 / row["images_per_s"])
    exponent = growth([side**2 for side in sides], times)
    return {"setting": setting.name, "sides_px": sides, "seconds": times, "growth": exponent}


def table(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the one table: the fastest setting, and the project's whole path."""
    rows = [row for row in result["rows"] if "images_per_s" in row]
    published = rows[0]
    steps = [row for row in rows[1:] if "epoch_s" not in row]
    whole = [row for row in rows if "epoch_s" in row]
    chosen = [max(part, key=lambda row: row["images_per_s"]) for part in (steps, whole) if part]
    grown = {row["setting"]: row["growth"] for row in result.get("growth", [])}
    return [
        {"what": f"training, {result['gflop_per_image']:.3g} GFLOP an image",
         "ours": row["setting"], "beside": published["setting"], "value": row["images_per_s"],
         "peer": published["images_per_s"], "unit": "images/s",
         "ratio": row["images_per_s"] / published["images_per_s"],
         "memory_mib": memory_mib(row), "peer_memory_mib": memory_mib(published),
         "growth": grown.get(row["setting"]), "peer_growth": grown.get(published["setting"]),
         "grows_with": "pixels of a crop"}
        for row in chosen
    ] + [
        {"what": "training, arithmetic of its steps", "ours": chosen[0]["setting"],
         "beside": "one matrix product in bf16", "value": rate, "unit": "TFLOP/s",
         "peer": result["matmul_bf16_tflops"], "ratio": rate / result["matmul_bf16_tflops"]}
        for rate in [chosen[0]["images_per_s"] * result["gflop_per_image"] / 1000]
    ]  # fmt: skip


def main() -> None:
    """Measure and write after every row, so that a stop loses one."""
    on_gpu = DEVICE == "cuda"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--seconds", type=float, default=6.0, help="per setting")
    parser.add_argument(
        "--crops", type=int, default=13_463 if on_gpu else 512, help="of the epoch at the end"
    )
    parser.add_argument("--epochs", type=int, default=4 if on_gpu else 2)
    parser.add_argument("--skip", default="", help="settings whose names this pattern matches")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[32, 128] if on_gpu else [32],
        help="batch sizes of the project's whole path",
    )  # fmt: skip
    arguments = parser.parse_args()
    config = PUBLISHED if on_gpu else DEMO
    n_crops, seconds, matrix = arguments.crops, arguments.seconds, 8192 if on_gpu else 2048
    if arguments.quick:
        config = DeepGPSConfig(sequence_dim=32, hidden_dim=32, width=8, depth=2, crop_size_px=56)
        n_crops, seconds, matrix = 200, 0.5, 512
    result: dict[str, Any] = machine() | {
        "benchmark": "training", "matmul_bf16_tflops": matmul_tflops(matrix),
        "gflop_per_image": train_flops(config) / 1e9, "crops": n_crops, "rows": [], "growth": [],
    }  # fmt: skip
    crops = synthetic_crops(n_crops, 321, config.crop_size_px, config.sequence_dim).to(DEVICE)
    settings = ladder()
    profiled = "batch 128, compiled" if on_gpu else settings[-1].name
    for setting in settings:
        if arguments.skip and re.search(arguments.skip, setting.name):
            continue
        try:
            row = images_per_second(setting, config, crops, seconds, setting.name == profiled)
        except torch.OutOfMemoryError as error:
            row = {"setting": setting.name, "error": str(error)[:100]}
        result["rows"].append(row)
        shown = {key: value for key, value in row.items() if key != "kernels"}
        print(shown, flush=True)
        write_results(result)
    for batch_size, lean in product(arguments.batches, (False, True)):
        training = TrainingConfig(
            batch_size=batch_size, precision="auto", compile=on_gpu, lean=lean, augment=True
        )
        result["rows"].append(whole_path(config, crops, arguments.epochs, training))
        print(result["rows"][-1], flush=True)
        write_results(result)
    for setting in settings[:2]:
        result["growth"].append(by_side(setting, config, seconds))
        print(result["growth"][-1], flush=True)
        write_results(result)


if __name__ == "__main__":
    main()
