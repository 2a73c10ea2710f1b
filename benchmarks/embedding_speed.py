"""
Embedding speed: ours against fair-esm's own loops, the same weights and proteins, in one run.

Run as ``python -m benchmarks.embedding_speed [--quick]``. On a GPU the network has the shape of
ESM-2 650M, the paper's, with random weights (speed does not depend on them); on a CPU it is the
embedded one. The proteins are drawn from the embedded table: 1,301, as many as OpenCell's, on a
GPU. Two peers: proteins in their order, eight at a time, padded, as a first script would; and the
loop of fair-esm's ``scripts/extract.py``, sorted by length, 4,096 tokens at a time. Both cut a
protein off after 1,022 residues; ours reads all of it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import esm
import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.common import (
    DEVICE,
    fast_half,
    growth,
    machine,
    memory_mib,
    timed,
    write_results,
)
from deepgps_core.encoders import EMBEDDED_WEIGHTS, ESM2Encoder
from deepgps_core.esm2 import load_network
from deepgps_core.sources.embedded import embedded_proteins

LARGE, SMALL = (33, 1280, 20), (6, 320, 20)  # layers, width, heads of ESM-2 650M and 8M
#: fair-esm learned no longer ones; its own script cuts them off.
LIMIT = 1022
LENGTHS = (128, 256, 512, 1022)
Vectors = dict[str, np.ndarray]
Embed = Callable[[Mapping[str, str]], Vectors]


def proteins(count: int) -> dict[str, str]:
    """Return as many proteins of the embedded table, in random order."""
    table = embedded_proteins().sample(count, random_state=0)
    return dict(zip(table["protein_id"], table["sequence"], strict=True))


def fair_esm(shape: tuple[int, int, int]) -> tuple[Any, Any]:
    """Return fair-esm's network of a shape, random weights, and its alphabet."""
    torch.manual_seed(0)
    n_layers, width, heads = shape
    alphabet = esm.data.Alphabet.from_architecture("ESM-1b")
    network = esm.model.esm2.ESM2(n_layers, width, heads, alphabet, token_dropout=True)
    return network.eval(), alphabet


@torch.no_grad()
def padded_batches(
    network: Any, alphabet: Any, sequences: Mapping[str, str], batch: int = 8
) -> Vectors:
    """Embed as fair-esm's documentation shows: converter, network, mean over residues."""
    convert, layer = alphabet.get_batch_converter(), network.num_layers
    items = [(name, text[:LIMIT]) for name, text in sequences.items()]
    vectors: Vectors = {}
    for start in range(0, len(items), batch):
        part = items[start : start + batch]
        _, _, tokens = convert(part)
        hidden = network(tokens.to(DEVICE), repr_layers=[layer])["representations"][layer]
        for row, (name, text) in zip(hidden, part, strict=True):
            vectors[name] = row[1 : len(text) + 1].mean(0).cpu().numpy()
    return vectors


@torch.no_grad()
def extract_script(network: Any, alphabet: Any, sequences: Mapping[str, str]) -> Vectors:
    """Embed as fair-esm's ``scripts/extract.py`` does, ``--include mean``, its defaults."""
    data = esm.data.FastaBatchedDataset(list(sequences), list(sequences.values()))
    batches = data.get_batch_indices(4096, extra_toks_per_seq=1)
    loader = torch.utils.data.DataLoader(
        data, collate_fn=alphabet.get_batch_converter(LIMIT), batch_sampler=batches
    )
    layer, vectors = network.num_layers, {}
    for names, texts, tokens in loader:
        hidden = network(tokens.to(DEVICE), repr_layers=[layer], return_contacts=False)
        hidden = hidden["representations"][layer].to("cpu")
        for row, name, text in zip(hidden, names, texts, strict=True):
            vectors[name] = row[1 : min(LIMIT, len(text)) + 1].float().mean(0).numpy()
    return vectors


def in_half(network: Any, alphabet: Any, sequences: Mapping[str, str]) -> Vectors:
    """Embed with fair-esm's loop under autocast: what bfloat16 costs them, as a yardstick."""
    with torch.autocast(DEVICE, torch.bfloat16):
        return extract_script(network, alphabet, sequences)


def settings(path: Path, network: Any, alphabet: Any) -> dict[str, Callable[[], Embed]]:
    """Return what makes each of the things compared, the peers first."""

    def ours(**options: Any) -> Callable[[], Embed]:
        return lambda: ESM2Encoder(path, progress=False, **options).embed

    found: dict[str, Callable[[], Embed]] = {
        "fair-esm, padded batches of 8, fp32": lambda: partial(padded_batches, network, alphabet),
        "fair-esm, extract.py, fp32": lambda: partial(extract_script, network, alphabet),
        "ours, fp32": ours(),
    }
    if fast_half():
        found["fair-esm, extract.py, bf16 autocast"] = lambda: partial(in_half, network, alphabet)
        found["ours, bf16"] = ours(half_precision=True, packed=DEVICE == "cpu")
    if DEVICE == "cuda":
        found |= {
            "ours, bf16, compiled": ours(half_precision=True, compile=True),
            "ours, bf16, packed": ours(half_precision=True, packed=True),
        }  # not packed and compiled: lengths differ in every batch, and each would be compiled anew
    return found


def differences(found: Vectors, reference: Vectors, sequences: Mapping[str, str]) -> dict[str, Any]:
    """Compare vectors of proteins that none of both cut off."""
    names = [name for name, text in sequences.items() if len(text) <= LIMIT]
    theirs = np.stack([reference[name] for name in names])
    difference = np.stack([found[name] for name in names]) - theirs
    largest, scale = float(np.abs(difference).max()), float(np.abs(theirs).max())
    squares = float((difference**2).mean() / (theirs**2).mean())
    return {"largest_difference": largest, "relative_difference": largest / scale,
            "rms_relative_difference": squares**0.5}  # fmt: skip


def by_length(work: Embed) -> list[float]:
    """Return the seconds that one protein of each of `LENGTHS` takes, the best of three."""
    text = "MKLAVSERTIDPGNQFYHWC" * 60
    one = [{"a": text[:n]} for n in LENGTHS]
    return [min(timed(partial(work, sequence))[1] for _ in range(3)) for sequence in one]


def table(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the one table: ours against each peer."""
    by_name = {row["setting"]: row for row in result["rows"]}
    mine = [row for name, row in by_name.items() if name.startswith("ours")]
    best = max(mine, key=lambda row: row["residues_per_s"])
    rows = []
    for name, peer in by_name.items():
        if name.startswith("ours"):
            continue
        for row in [by_name["ours, fp32"], *([best] if best["setting"] != "ours, fp32" else [])]:
            rows.append(
                {"what": f"embedding, {result['shape'][0]} layers of {result['shape'][1]}",
                 "ours": row["setting"].removeprefix("ours, "), "beside": name,
                 "value": row["residues_per_s"], "peer": peer["residues_per_s"],
                 "unit": "residues/s", "ratio": row["residues_per_s"] / peer["residues_per_s"],
                 "memory_mib": memory_mib(row), "peer_memory_mib": memory_mib(peer),
                 "growth": row.get("growth"), "peer_growth": peer.get("growth"),
                 "grows_with": "residues of a protein"}
            )  # fmt: skip
    return rows


def main() -> None:
    """Measure all, compare their vectors, and write after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few proteins, to try the script")
    parser.add_argument("--proteins", type=int, default=1301 if DEVICE == "cuda" else 40)
    arguments = parser.parse_args()
    sequences = proteins(12 if arguments.quick else arguments.proteins)
    residues = sum(map(len, sequences.values()))
    shape = LARGE if DEVICE == "cuda" else SMALL
    network, alphabet = fair_esm(shape)
    result = machine() | {"benchmark": "embedding", "proteins": len(sequences),
                          "residues": residues, "shape": shape, "lengths": LENGTHS,
                          "rows": []}  # fmt: skip
    reference: Vectors = {}
    with tempfile.TemporaryDirectory() as folder:
        path = EMBEDDED_WEIGHTS
        if DEVICE == "cuda":
            path = Path(folder) / "weights.safetensors"
            state = {k: v.clone() for k, v in network.state_dict().items() if "inv_freq" not in k}
            state.pop("lm_head.weight", None)
            save_file(state, path, metadata={"n_heads": str(shape[2])})
        else:
            network.load_state_dict(load_network(path).state_dict(), strict=False)
        network.to(DEVICE)
        few = dict(list(sequences.items())[:8])
        for name, make in settings(path, network, alphabet).items():
            work = make()
            work(few)
            vectors, seconds, peak = timed(partial(work, sequences))
            row = {"setting": name, "seconds": seconds, "residues_per_s": residues / seconds,
                   "peak_memory_mib": peak}  # fmt: skip
            if reference:
                row |= differences(vectors, reference, sequences)
            reference = reference or vectors
            times = by_length(work)
            row |= {"seconds_by_length": times, "growth": growth(LENGTHS, times)}
            result["rows"].append(row)
            print(row, flush=True)
            write_results(result)


if __name__ == "__main__":
    main()
