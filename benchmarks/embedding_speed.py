"""
Embedding speed: ours against fair-esm's own loop, the same weights and proteins, in one run.

Run as ``python -m benchmarks.embedding_speed [--quick]``. On a GPU the network has the shape of
ESM-2 650M, the paper's, with random weights (speed does not depend on them); on a CPU it is the
embedded one. The proteins are as many as OpenCell's 1,301, drawn from the embedded table. The peer
reads them in their order, eight at a time, padded, in single precision, as a first script would.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.common import machine, write_results
from deepgps_core.encoders import EMBEDDED_WEIGHTS, ESM2Encoder
from deepgps_core.sources.embedded import embedded_proteins

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LARGE = (33, 1280, 20)  # layers, width, heads of ESM-2 650M
#: fair-esm learned no longer ones; its own script cuts them off.
LIMIT = 1022


def proteins(count: int) -> dict[str, str]:
    """Return as many proteins of the embedded table, in random order."""
    table = embedded_proteins().sample(count, random_state=0)
    return dict(zip(table["protein_id"], table["sequence"], strict=True))


def fair_esm(shape: tuple[int, int, int]) -> tuple[Any, Any]:
    """Return fair-esm's network of a shape, random weights, and its alphabet."""
    import esm

    torch.manual_seed(0)
    n_layers, width, heads = shape
    alphabet = esm.data.Alphabet.from_architecture("ESM-1b")
    network = esm.model.esm2.ESM2(n_layers, width, heads, alphabet, token_dropout=True)
    return network.eval(), alphabet


@torch.no_grad()
def peer_embed(network: Any, alphabet: Any, sequences: Mapping[str, str], batch: int) -> np.ndarray:
    """Embed as fair-esm's documentation shows: converter, network, mean over residues."""
    convert = alphabet.get_batch_converter()
    items = [(name, text[:LIMIT]) for name, text in sequences.items()]
    layer, vectors = network.num_layers, []
    for start in range(0, len(items), batch):
        part = items[start : start + batch]
        _, _, tokens = convert(part)
        hidden = network(tokens.to(DEVICE), repr_layers=[layer])["representations"][layer]
        vectors += [hidden[i, 1 : len(text) + 1].mean(0) for i, (_, text) in enumerate(part)]
    return torch.stack(vectors).float().cpu().numpy()


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return what `work` returns, its seconds, and the peak of device memory in GiB."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    result = work()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() / 2**30 if DEVICE == "cuda" else float("nan")
    return result, time.perf_counter() - start, peak


def main() -> None:
    """Measure both, compare their vectors, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few proteins, to try the script")
    parser.add_argument("--proteins", type=int, default=1301 if DEVICE == "cuda" else 40)
    arguments = parser.parse_args()
    sequences = proteins(12 if arguments.quick else arguments.proteins)
    residues = sum(map(len, sequences.values()))
    shape = LARGE if DEVICE == "cuda" else (6, 320, 20)
    network, alphabet = fair_esm(shape)
    result = machine() | {"benchmark": "embedding", "proteins": len(sequences),
                          "residues": residues, "shape": shape, "rows": []}  # fmt: skip

    def add(name: str, seconds: float, peak: float, vectors: np.ndarray | None) -> None:
        rows = result["rows"]
        row = {"setting": name, "seconds": seconds, "residues_per_s": residues / seconds,
               "peak_memory_gib": peak}  # fmt: skip
        if vectors is not None and rows:
            whole = np.array([len(text) <= LIMIT for text in sequences.values()])
            row["largest_difference"] = float(np.abs(vectors - reference)[whole].max())
            scale = float(np.abs(reference).max())
            row["relative_difference"] = row["largest_difference"] / scale
        rows.append(row)
        print(row, flush=True)
        write_results(result)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        if DEVICE == "cuda":
            state = {k: v.clone() for k, v in network.state_dict().items() if "inv_freq" not in k}
            state.pop("lm_head.weight", None)
            save_file(state, path, metadata={"n_heads": str(shape[2])})
        else:
            path = EMBEDDED_WEIGHTS
            from deepgps_core.esm2 import load_network

            network.load_state_dict(load_network(path).state_dict(), strict=False)
        network.to(DEVICE)
        few = dict(list(sequences.items())[:8])
        peer_embed(network, alphabet, few, 8)
        reference, seconds, peak = timed(lambda: peer_embed(network, alphabet, sequences, 8))
        add("fair-esm, padded batches of 8, fp32", seconds, peak, reference)
        for half in (False, True):
            encoder = ESM2Encoder(path, half_precision=half, progress=False)
            encoder.embed(few)
            vectors, seconds, peak = timed(lambda e=encoder: e.embed(sequences))
            stacked = np.stack([vectors[name] for name in sequences])
            add(f"ours, {'bf16' if half else 'fp32'}", seconds, peak, stacked)
            del encoder


if __name__ == "__main__":
    main()
