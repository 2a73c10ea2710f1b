"""
Sampling: how soon one picture of the flow is there, beside the published network's one.

Run as ``python -m benchmarks.sampling_speed``. Networks have the sizes of chapter 19 under the
``gpu`` profile and weights as drawn at first, which cost the same as trained ones. Beside each
other: a guided sample and the published network's image; samples in batches and one at a time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from benchmarks.common import DEVICE, growth, machine, timed, write_results
from deepgps_core.flow import FlowConfig, FlowGPS
from deepgps_core.generative import Sampling, draw_samples
from deepgps_core.model import DeepGPS, DeepGPSConfig

SIDE_PX, FEATURES = 208, 320
STEPS, GUIDANCE = 16, 1.5
STEP_COUNTS = (4, 8, 16, 32)
#: Pictures drawn one at a time, whose median counts; and at once.
REPEATS = {"cuda": 30, "cpu": 3}
BATCH = {"cuda": 64, "cpu": 4}
#: One sample of 208 x 208 at the default steps: what is aimed at, on a GPU and on two cores.
AIMS_MS = {"cuda": 50.0, "cpu": 3000.0}


def median_ms(work: Callable[[], object]) -> float:
    """Return the median of some calls' milliseconds, after one that warms up."""
    work()
    taken = []
    for _ in range(REPEATS[DEVICE]):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return 1000 * float(np.median(taken))


def networks() -> tuple[FlowGPS, DeepGPS]:
    """Return the flow and the published network, in evaluation mode on the fastest device."""
    torch.manual_seed(0)
    shared: dict[str, Any] = {
        "sequence_dim": FEATURES, "hidden_dim": 1024, "depth": 4, "crop_size_px": SIDE_PX,
        "n_classes": 2,
    }  # fmt: skip
    flow = FlowConfig(
        **shared, width=32, time_dim=32, coarse_noise=0.2, steps=STEPS, condition="label",
        guidance=GUIDANCE,
    )  # fmt: skip
    published = DeepGPSConfig(**shared, width=64)
    layout: Any = {"device": DEVICE, "memory_format": torch.channels_last}  # as runs are loaded
    return FlowGPS(flow).to(**layout).eval(), DeepGPS(published).to(**layout).eval()


def table(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the one table: a sample beside the published image, batches beside one."""
    alone, batch = 1000 / result["one_ms"], result["batch"]
    what = f"{SIDE_PX}-px picture, generated"
    guided = f"{result['steps']} guided steps"
    return [
        {"what": what, "ours": guided, "beside": "published network", "value": alone,
         "peer": 1000 / result["published_ms"], "ratio": result["published_ms"] / result["one_ms"],
         "unit": "images/s", "grows_with": "steps",
         "growth": growth(result["step_counts"], result["by_steps_ms"])},
        {"what": what, "ours": f"{batch['samples']} at once", "beside": "one at a time",
         "value": batch["per_s"], "peer": alone, "ratio": batch["per_s"] / alone,
         "memory_mib": batch["peak_memory_mib"], "unit": "images/s"},
    ]  # fmt: skip


@torch.inference_mode()
def main() -> None:
    """Measure, print and keep."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    flow, published = networks()
    nuclei, vectors = torch.rand(BATCH[DEVICE], 1, SIDE_PX, SIDE_PX), torch.randn(1, FEATURES)
    names = [f"nucleus {number}" for number in range(len(nuclei))]

    def drawn(count: int = 1, **how: Any) -> np.ndarray:
        features = vectors.expand(count, -1)
        return draw_samples(flow, nuclei[:count], features, names[:count], Sampling(1, **how))

    def painted() -> torch.Tensor:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"):
            return published(nuclei[:1].to(DEVICE), vectors.to(DEVICE)).image.float().cpu()

    result: dict[str, Any] = machine() | {"benchmark": "sampling", "steps": STEPS}
    result |= {"one_ms": median_ms(drawn), "published_ms": median_ms(painted)}
    result["unguided_ms"] = median_ms(lambda: drawn(guidance=1.0))
    result["step_counts"] = STEP_COUNTS
    result["by_steps_ms"] = [median_ms(lambda n=n: drawn(steps=n)) for n in STEP_COUNTS]
    drawn(len(nuclei), batch_size=len(nuclei))
    _, seconds, peak = timed(lambda: drawn(len(nuclei), batch_size=len(nuclei)))
    result["batch"] = {
        "samples": len(nuclei), "per_s": len(nuclei) / seconds, "peak_memory_mib": peak
    }  # fmt: skip
    for name, value in result.items():
        print(f"{name}: {value}")
    said = "within" if result["one_ms"] <= AIMS_MS[DEVICE] else "ABOVE"
    print(f"one sample: {result['one_ms']:.0f} ms, {said} the aim of {AIMS_MS[DEVICE]:,.0f} ms")
    print(write_results(result))


if __name__ == "__main__":
    main()
