"""
Half precision, compilation and lean training: are results those of single precision?

Run as ``python -m benchmarks.half_precision [--quick]``. The same network is trained on simulated
crops by the project's own ``fit``, with several seeds for each way of computing. A way is as good
as another if held-out proteins' losses differ between the ways no more than between the seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.common import DEVICE, machine, result_path, write_results
from deepgps_core.encoders import embed_dataset, load_encoder
from deepgps_core.metrics import auroc
from deepgps_core.model import DeepGPSConfig
from deepgps_core.preprocessing import prepare
from deepgps_core.runs import Run, TrainingConfig
from deepgps_core.sources.embedded import SINGLE_2, ensure_dataset
from deepgps_core.splits import make_split
from deepgps_core.training import fit

#: What differs; the first is what the others are measured by. Single precision is really single:
#: without the rounding of factors (TF32) that graphics processors are otherwise free to do.
WAYS: Mapping[str, Mapping[str, Any]] = {
    "single precision": {"precision": "32-true"},
    "bf16": {"precision": "bf16-mixed"},
    "bf16, compiled, lean": {"precision": "bf16-mixed", "compile": True, "lean": True},
}


def scores(run: Run) -> dict[str, float]:
    """Return what a run says of its held-out proteins, each counted once."""
    crops = run.crops[run.crops["split"] == "test"]
    proteins = run.proteins[run.proteins["split"] == "test"]
    by_protein = crops.groupby("protein_id")[["image_loss", "label_loss"]].mean()
    truth = (proteins["label"] == run.labels[0]).to_numpy()
    return {
        "image_loss": float(by_protein["image_loss"].mean()),
        "label_loss": float(by_protein["label_loss"].mean()),
        "auroc": float(auroc(truth, proteins[f"p_{run.labels[0]}"].to_numpy())),
        "seconds": float(run.history["seconds"].sum()),
    }


def compared(rows: Sequence[Mapping[str, Any]], score: str) -> pd.DataFrame:
    """
    Compare the ways by one score.

    Returns
    -------
    table : DataFrame
        A row a way: mean, sd between its seeds, and the difference from the first way, paired by
        seed, with the half width of its 95 % interval (Student's t).
    """
    from scipy.stats import t

    wide = pd.DataFrame(rows).pivot(index="seed", columns="way", values=score)
    wide = wide[[way for way in WAYS if way in wide]]
    apart = wide.sub(wide.iloc[:, 0], axis=0)
    n = len(wide)
    half_width = t.ppf(0.975, n - 1) * apart.std() / np.sqrt(n)
    return pd.DataFrame(
        {"mean": wide.mean(), "sd of seeds": wide.std(), "difference": apart.mean(),
         "half_width": half_width}
    )  # fmt: skip


def earlier_rows(
    result: Mapping[str, Any], ways: Sequence[str], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """Return the kept rows of the same benchmark and machine that are not to be measured anew."""
    path = result_path(result)
    if not path.exists():
        return []
    kept = json.loads(path.read_text(encoding="utf-8"))
    if any(kept.get(name) != result[name] for name in ("images", "epochs", "held_out_proteins")):
        return []
    return [r for r in kept["rows"] if r["way"] not in ways or r["seed"] not in seeds]


def main() -> None:
    """Train and write after every run, so that a stop loses one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny network, to try the script")
    parser.add_argument("--dataset", default="embedded-demo")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS, metavar="WAY")
    arguments = parser.parse_args()
    on_gpu = DEVICE == "cuda" and not arguments.quick
    size = {} if on_gpu else {"hidden_dim": 32, "width": 8, "depth": 3, "crop_size_px": 104}
    dataset = prepare(ensure_dataset(arguments.dataset, seed=0))
    encoder = load_encoder("embedded")
    embed_dataset(dataset, encoder)
    proteins = dataset.proteins[dataset.proteins["label"].isin(SINGLE_2)].reset_index(drop=True)
    split = make_split(proteins, "grouped", 0)
    dataset.write_split("precision", split)
    model = DeepGPSConfig(sequence_dim=encoder.dim, n_classes=2, **size)
    result: dict[str, Any] = machine() | {
        "benchmark": "half precision", "images": dataset.info.images, "epochs": arguments.epochs,
        "held_out_proteins": int((split == "test").sum()),
    }  # fmt: skip
    result["rows"] = earlier_rows(result, arguments.ways, arguments.seeds)
    for way in arguments.ways:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        for seed in arguments.seeds:
            training = TrainingConfig(
                name=f"precision-{list(WAYS).index(way)}", labels=SINGLE_2, seed=seed,
                epochs=arguments.epochs, learning_rate=1e-3, lr_gamma=0.7,
                sequence_learning_rate=2e-5, weight_decay=0.01, select_by="image_loss",
                standardize_features=True, augment=True, **WAYS[way],
            )  # fmt: skip
            torch._dynamo.reset()
            run = fit(dataset, "precision", model, training, replace=True)
            result["rows"].append({"way": way, "seed": seed} | scores(run))
            print(result["rows"][-1], flush=True)
            write_results(result)
    for score in ("image_loss", "label_loss", "auroc"):
        print(f"\n{score}\n{compared(result['rows'], score).round(5)}")


if __name__ == "__main__":
    main()
