"""A dataset of a few drawn cells, made in a second, for the tests of training and prediction."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import zarr

from deepgps_core.dataset import Dataset, DatasetInfo, write_table

SIZE_PX = 48
N_PROTEINS = 12
CROPS_PER_PROTEIN = 4
DIM = 6


class Letters:
    """An encoder that counts letters: fast, and known by hand."""

    name, dim = "letters", DIM

    def embed(
        self, sequences: Mapping[str, str], per_residue: bool = False
    ) -> dict[str, np.ndarray]:
        return {
            name: np.array([text.count(a) for a in "MKRACD"], np.float32)
            for name, text in sequences.items()
        }


def drawn_crop(label: str, rng: np.random.Generator) -> np.ndarray:
    """Draw a round nucleus, and a protein inside it (Nucleus) or around it; uint8 (2, H, W)."""
    y, x = np.mgrid[:SIZE_PX, :SIZE_PX] - SIZE_PX / 2 + rng.uniform(-3, 3, size=(2, 1, 1))
    radius = np.hypot(y, x * rng.uniform(0.8, 1.2))
    nucleus = 1 / (1 + np.exp(radius - 10))
    cell = 1 / (1 + np.exp(radius - 19))
    protein = nucleus if label == "Nucleus" else cell * (1 - 0.9 * nucleus)
    image = np.stack([nucleus, 0.8 * protein]) + rng.normal(0, 0.02, (2, SIZE_PX, SIZE_PX))
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def make_tiny(path: Path, *, seed: int = 0) -> Dataset:
    """Write 12 proteins of two classes with crops, vectors and the split "random-0"."""
    rng = np.random.default_rng(seed)
    ids = [f"P{i:02d}" for i in range(N_PROTEINS)]
    labels = [("Cytoplasm", "Nucleus")[i % 2] for i in range(N_PROTEINS)]
    proteins = pd.DataFrame(
        {
            "protein_id": ids, "gene": ids, "uniprot": ids,
            "sequence": ["M" + "KR"[i % 2] * (5 + i) for i in range(N_PROTEINS)],
            "locations": labels, "label": labels, "cluster_30": ids,
        }
    )  # fmt: skip
    info = DatasetInfo(
        "tiny", "drawn", "1", "CC0", "simulated", "none", 0.5, ("Cytoplasm", "Nucleus"), str(seed)
    )
    dataset = Dataset.create(path, info, proteins)
    images, rows = [], []
    for protein_id, label in zip(ids, labels, strict=True):
        for nucleus in range(CROPS_PER_PROTEIN):
            images.append(drawn_crop(label, rng))
            rows.append((f"{protein_id}-{nucleus}", f"{protein_id}-f", nucleus, protein_id, 0, 0))
    columns = ["crop_id", "field_id", "nucleus_id", "protein_id", "y0_px", "x0_px"]
    write_table(pd.DataFrame(rows, columns=columns), path / "crops.csv")
    group = zarr.create_group(path / "crops.zarr")
    group.create_array("image", data=np.stack(images), chunks=(16, 2, SIZE_PX, SIZE_PX))
    masks = np.stack([image[0] > 127 for image in images])
    group.create_array("nuclear_mask", data=masks, chunks=(16, SIZE_PX, SIZE_PX))
    sign = {"Cytoplasm": 1.0, "Nucleus": -1.0}
    vectors = {p: sign[k] + rng.normal(0, 0.5, DIM) for p, k in zip(ids, labels, strict=True)}
    dataset.write_features("drawn", vectors)
    parts = ["train"] * 6 + ["validation"] * 2 + ["test"] * 4
    dataset.write_split("random-0", pd.Series(parts, index=ids))
    return dataset
