"""
Write the pictures behind the interactive page, the front page and the social preview.

They come from a run of chapter 06 and its dataset; the files are small and kept in
``book/_static``. Run again when chapter 06 was trained anew:

    .venv/bin/python book/make_assets.py
"""

from __future__ import annotations

import argparse
import base64
import io
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from deepgps_core.crops import average_down
from deepgps_core.dataset import Dataset, atomic_path, data_root
from deepgps_core.metrics import nuclear_ratio
from deepgps_core.runs import Run, default_run_path, load_run

STATIC = Path(__file__).resolve().parent / "_static"
#: Sequences and nuclei in the cross-assay, half of each label.
N_EACH = 4
#: Crops of the metric playground, at full size.
N_SAMPLES = 4
BLUE, ORANGE = np.array([0.2, 0.5, 1.0]), np.array([1.0, 0.65, 0.05])


def pick(run: Run, dataset: Dataset) -> tuple[list[str], list[int]]:
    """Return the surest right held-out proteins of each label, and a crop of each without glare."""
    table = run.proteins[run.proteins["split"] == "test"]
    right = table[table["label"] == table["predicted_label"]]
    chosen: list[str] = []
    for label in run.labels:
        rows = right[right["label"] == label].sort_values(f"p_{label}", ascending=False)
        chosen += list(rows["protein_id"][:N_EACH])
    rows = []
    for name in chosen:
        candidates = np.flatnonzero(dataset.crops["protein_id"] == name)
        glare = [(dataset.crop_images[int(row)][0] > 240).mean() for row in candidates]
        rows.append(int(candidates[np.argmin(glare)]))
    return chosen, rows


def cross(run: Run, dataset: Dataset, ids: list[str], rows: list[int]) -> tuple[np.ndarray, ...]:
    """Paint each sequence (first axis) into each nucleus; return pictures, nuclei, masks."""
    factor = dataset.crop_images.shape[-1] // run.model_config.crop_size_px
    nuclei = np.stack([dataset.crop_images[row][0] for row in rows])
    nuclei = average_down(nuclei, factor).astype(np.float32) / 255
    masks = np.stack([dataset.nuclear_masks[row] for row in rows])[:, ::factor, ::factor]
    vectors = dataset.features(run.training_config.encoder)
    features = torch.tensor(np.stack([vectors[name] for name in ids]))
    images = []
    with torch.inference_mode():
        for feature in features:
            batch = run.model(torch.tensor(nuclei)[:, None], feature.expand(len(rows), -1))
            images.append(batch.image[:, 0].float().numpy())
    return np.stack(images), nuclei, masks


def sheet(tiles: np.ndarray) -> Image.Image:
    """Lay (rows, columns, H, W) tiles in [0, 1] out as one gray picture."""
    rows, columns, height, width = tiles.shape
    joined = tiles.transpose(0, 2, 1, 3).reshape(rows * height, columns * width)
    return Image.fromarray((np.clip(joined, 0, 1) * 255).round().astype(np.uint8))


def save(image: Image.Image, path: Path, quality: int = 85) -> None:
    """Write a WebP or a PNG, atomically, and say how large it became."""
    with atomic_path(path) as temporary:
        image.save(temporary, quality=quality, method=6) if path.suffix == ".webp" else image.save(
            temporary, optimize=True
        )
    print(f"{path.relative_to(STATIC)}: {path.stat().st_size / 1000:.0f} kB")


def write_samples(image: Image.Image, path: Path) -> None:
    """Write a picture as a script: a page opened from disk may not read pixels of a file."""
    buffer = io.BytesIO()
    image.save(buffer, format="webp", quality=88, method=6)
    data = base64.b64encode(buffer.getvalue()).decode()
    with atomic_path(path) as temporary:
        temporary.write_text(
            "// Written by book/make_assets.py\n"
            f'window.deepgpsSamples = "data:image/webp;base64,{data}"; // codespell:ignore\n',
            encoding="utf-8",
        )
    print(f"{path.relative_to(STATIC)}: {path.stat().st_size / 1000:.0f} kB")


def colored(nuclei: np.ndarray, proteins: np.ndarray) -> np.ndarray:
    """Return blue nuclei under orange proteins, (..., H, W, 3) in [0, 1]."""
    return np.clip(nuclei[..., None] * BLUE * 0.8 + proteins[..., None] * ORANGE, 0, 1)


def mosaic(nuclei: np.ndarray, images: np.ndarray, *, gap: int = 4) -> Image.Image:
    """Return the front page's picture: one row a sequence, one column a nucleus."""
    top = float(np.quantile(images, 0.999))
    tiles = colored(np.broadcast_to(nuclei, images.shape), images / top)
    rows, columns, height, width, _ = tiles.shape
    canvas = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 3))
    for i in range(rows):
        for j in range(columns):
            y, x = i * (height + gap), j * (width + gap)
            canvas[y : y + height, x : x + width] = tiles[i, j]
    return Image.fromarray((canvas * 255).round().astype(np.uint8))


def preview(picture: Image.Image) -> Image.Image:
    """Return the picture that a link to the book is shown with, 1200 x 630."""
    card = Image.new("RGB", (1200, 630), "#0b1524")
    scale = 630 / picture.height
    wide = picture.resize((round(picture.width * scale), 630), Image.Resampling.LANCZOS)
    card.paste(wide.crop((0, 0, 560, 630)), (640, 0))
    draw = ImageDraw.Draw(card)
    big, small = (ImageFont.load_default(size=size) for size in (64, 30))
    draw.text((60, 170), "deepGPS,\nreproduced", font=big, fill="white", spacing=14)
    draw.text((60, 360), "Sequence and nucleus in,\nlabel and picture out.\nChecked by protein.",
              font=small, fill="#c9d6e6", spacing=10)  # fmt: skip
    return card


def main() -> None:
    """Write everything."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    default = default_run_path("embedded-demo", "single-2", "paper", "random-0-single-2", 0)
    parser.add_argument("--run", type=Path, default=default, help="a run of chapter 06")
    arguments = parser.parse_args()
    run = load_run(arguments.run)
    dataset = Dataset(data_root() / run.dataset_name)
    ids, rows = pick(run, dataset)
    images, nuclei, masks = cross(run, dataset, ids, rows)
    top = float(np.quantile(images, 0.999))
    play = STATIC / "play"
    save(sheet(images / top), play / "cross_images.webp")
    save(sheet(nuclei[None]), play / "cross_nuclei.webp")
    samples = np.stack([dataset.crop_images[row] for row in rows[:: len(rows) // N_SAMPLES]])
    write_samples(
        sheet(samples.transpose(1, 0, 2, 3).astype(np.float32) / 255), play / "samples.js"
    )
    table = run.proteins.set_index("protein_id")
    genes = dataset.proteins.set_index("protein_id")["gene"]
    flat = images.reshape(-1, *images.shape[2:])
    factor = dataset.crop_images.shape[-1] // run.model_config.crop_size_px
    ratios = nuclear_ratio(flat, np.tile(masks, (len(ids), 1, 1)), ring_px=10 // factor)
    content = {
        "size_px": images.shape[-1],
        "images": run.images,
        "run": f"chapter 06, {run.split_name}, seed {run.training_config.seed}",
        "proteins": [
            {"id": name, "gene": genes[name], "label": table.loc[name, "label"],
             "p_nucleus": round(float(table.loc[name, "p_Nucleus"]), 2)} for name in ids
        ],
        "nuclear_ratio": ratios.reshape(len(ids), len(rows)).round(2).tolist(),
    }  # fmt: skip
    script = "// Written by book/make_assets.py\nwindow.deepgpsCross = "
    with atomic_path(play / "cross.js") as temporary:
        temporary.write_text(
            script + json.dumps(content, ensure_ascii=False) + ";\n", encoding="utf-8"
        )
    order = [0, 4, 1, 5]
    picture = mosaic(nuclei[[0, 1, 2, 4, 5, 6]], images[order][:, [0, 1, 2, 4, 5, 6]])
    save(picture, STATIC / "cross_assay.webp", 88)
    save(preview(picture).quantize(128), STATIC / "social_preview.png")


if __name__ == "__main__":
    main()
