"""
The whole training of the shipped segmenter: its images, its run, its record.

``python -m deepgps_core.segmenter_recipe DSB2018_FOLDER OUT`` trains on a GPU for minutes and
writes a StarDist model folder. Nine tenths of DSB2018's training images and simulated fields
take part; the remaining tenth is for choosing thresholds; its test images are never touched.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import tifffile
import torch
from skimage.segmentation import relabel_sequential
from tqdm import tqdm

from deepgps_core.cropping import normalize_field
from deepgps_core.dataset import InputError, write_yaml
from deepgps_core.segmentation_training import (
    PatchStore,
    SegmentationTrainingConfig,
    train_segmenter,
)
from deepgps_core.sources.simulated import U2OS_LIKE, SimulationConfig, simulate_field
from deepgps_core.stardist_torch import StarDistNet, save_as_stardist

Images = tuple[list[np.ndarray], list[np.ndarray]]


def labelled_images(folder: Path | str) -> Images:
    """
    Read measured nuclei with their outlines.

    Parameters
    ----------
    folder : Path or str
        With ``images/*.tif`` and ``masks/*.tif`` of the same names, as DSB2018 is laid out.

    Returns
    -------
    images : list of ndarray, shape (H, W), dtype float32
        Normalized as for segmentation.
    labels : list of ndarray, shape (H, W), dtype int32

    Raises
    ------
    InputError
        If there are none, or an image has no mask.
    """
    paths = sorted((Path(folder) / "images").glob("*.tif"))
    if not paths:
        raise InputError(f"{folder}: no images/*.tif; give DSB2018's train or test folder.")
    images, labels = [], []
    for path in paths:
        mask = Path(folder) / "masks" / path.name
        if not mask.exists():
            raise InputError(f"{mask}: the mask of an image is missing; get the data again.")
        images.append(normalize_field(tifffile.imread(path)[None].astype(np.uint16))[0])
        labels.append(relabel_sequential(tifffile.imread(mask))[0].astype(np.int32))
    return images, labels


def varied_fields(count: int, seed: int = 0) -> Images:
    """
    Simulate fields under microscopes that differ: dim or bright, sharp or blurred, crowded.

    Returns
    -------
    images, labels : as `labelled_images`
        A fifth with the larger cells of the second simulated cell line.
    """
    images, labels = [], []
    for i in tqdm(range(count), desc="simulate", unit="field"):
        rng = np.random.default_rng([seed, i])
        base = U2OS_LIKE if rng.random() < 0.2 else SimulationConfig()
        crowded = base.geometry.nuclei_per_field * rng.uniform(0.6, 1.4)
        config = dataclasses.replace(
            base,
            seed=70_000 + seed,
            nuclear_signal=base.nuclear_signal * rng.uniform(0.4, 1.6),
            blur_px=rng.uniform(0.8, 2.4),
            haze_share=rng.uniform(0.05, 0.4),
            out_of_focus_share=0.1,
            debris_per_field=rng.uniform(0, 8),
            geometry=dataclasses.replace(base.geometry, nuclei_per_field=crowded),
        )
        drawn = simulate_field(["nucleoplasm"], f"TRAIN{i:05d}", 0, config)
        images.append(normalize_field(drawn.field)[0])
        labels.append(drawn.nucleus_labels)
    return images, labels


def training_store(dsb2018: Path | str, n_simulated: int, device: str) -> PatchStore:
    """Return both kinds of images; measured ones are drawn in 60 % of the patches."""
    images, labels, weights = [], [], []
    measured = labelled_images(dsb2018)
    kept = [i for i in range(len(measured[0])) if i % 10 != 5]  # the tenth is for thresholds
    chosen = ([measured[0][i] for i in kept], [measured[1][i] for i in kept])
    for share, (some, their_labels) in ((0.6, chosen), (0.4, varied_fields(n_simulated))):
        size = np.sqrt([image.size for image in some])
        weights += list(share * size / size.sum())
        images += some
        labels += their_labels
    return PatchStore(images, labels, weights, device)


def main() -> None:
    """Train, save, and record what was done."""
    parser = argparse.ArgumentParser(description="Train the StarDist model that ships.")
    parser.add_argument("dsb2018", help="DSB2018's train folder (images/ and masks/)")
    parser.add_argument("out", type=Path, help="model folder to write")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--fields", type=int, default=130, help="simulated fields")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = SegmentationTrainingConfig(steps=arguments.steps)
    store = training_store(arguments.dsb2018, arguments.fields, device)
    torch.manual_seed(config.seed)
    network = StarDistNet()
    losses = train_segmenter(network, store, config)
    save_as_stardist(network, arguments.out, {"prob": 0.5, "nms": 0.4})
    # the record beside the shipped weights has these entries too
    record = {
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "dsb2018_images": len(store.start) - arguments.fields,
        "simulated_fields": arguments.fields,
        "steps": len(losses),
        "stages": [len(losses)],
        "loss_history": [float(part.mean()) for part in np.array_split(losses, 60) if len(part)],
    }
    everything = dataclasses.asdict(config) | record
    write_yaml(json.loads(json.dumps(everything)), arguments.out / "training.yaml")


if __name__ == "__main__":
    main()
