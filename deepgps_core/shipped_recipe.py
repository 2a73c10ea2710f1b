"""
The whole training of the shipped models: labels, calibration, images, scores, files.

``python -m deepgps_core.shipped_recipe --dataset embedded-demo --out FOLDER`` makes single-2,
single-4 and all in minutes on a CPU, after the proteins have been embedded once. One split by
homology cluster serves all three: a protein on which one model is tested trained none of them.

Label heads: five, each trained on four fifths of the training proteins (whole clusters left out),
on sequence vectors alone. Their temperature is fitted on validation proteins. Image branch, one for
all three: on a training protein it is told the opinion of the one head that never saw that
protein, so that it meets the doubt it will meet later.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.model_selection import StratifiedGroupKFold
from torch.nn import functional as F
from tqdm import tqdm

from deepgps_core.calibration import fit_temperature
from deepgps_core.cropping import PreprocessingConfig
from deepgps_core.dataset import Dataset, InputError, data_root, write_table
from deepgps_core.encoders import load_encoder
from deepgps_core.evaluation import evaluate
from deepgps_core.model import DeepGPSConfig
from deepgps_core.nucleus_images import DEFAULT_NUCLEUS
from deepgps_core.preprocessing import prepare
from deepgps_core.shipped import (
    MODELS_PATH,
    HeadConfig,
    LabelEnsemble,
    Painter,
    ShippedModel,
    opinion,
    save_painter,
    save_shipped,
)
from deepgps_core.shipped_scores import image_card, label_card
from deepgps_core.sources.embedded import LABELS, SINGLE_2, embedded_proteins, ensure_dataset
from deepgps_core.splits import grouped_split
from deepgps_core.targets import location_targets
from deepgps_core.training import TrainingConfig, fit


@dataclasses.dataclass(frozen=True)
class Recipe:
    """
    How the shipped models are made.

    Parameters
    ----------
    dataset : str
        Embedded dataset that gives the simulated crops.
    encoder, hidden_dim, n_members, label_epochs, label_learning_rate, weight_decay, dropout
        Of the label heads.
    width, depth, crop_size_px, painter_hidden_dim, fusion
        Of the image branch.
    epochs, batch_size, learning_rate, lr_gamma, crops_per_protein
        Of its training.
    """

    dataset: str = "embedded-demo"
    encoder: str = "embedded"
    hidden_dim: int = 96
    n_members: int = 5
    label_epochs: int = 12
    label_learning_rate: float = 5e-4
    weight_decay: float = 0.01
    dropout: float = 0.2
    width: int = 12
    depth: int = 3
    crop_size_px: int = 104
    painter_hidden_dim: int = 32
    fusion: str = "paper"
    epochs: int = 10
    batch_size: int = 16
    learning_rate: float = 4e-3
    lr_gamma: float = 0.8
    crops_per_protein: int | None = 4
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Kind:
    """Which proteins and labels one of the shipped models is about."""

    name: str
    title: str
    labels: tuple[str, ...]
    multi_label: bool = False

    def of(self, proteins: pd.DataFrame) -> pd.DataFrame:
        """Return the proteins whose places this model knows."""
        places = proteins["locations"].map(lambda text: set(text.split(";")))
        known = places.map(lambda found: found <= set(self.labels)) & (proteins["locations"] != "")
        single = proteins["label"] != ""
        return proteins[known if self.multi_label else known & single].reset_index(drop=True)


KINDS = (
    Kind("single-2", "deepGPS-single-2: cytoplasm or nucleus", SINGLE_2),
    Kind("single-4", "deepGPS-single-4: one of four places", LABELS),
    Kind("all", "deepGPS-all: four places, several at once", LABELS, multi_label=True),
)


def shipped_split(seed: int = 0) -> pd.Series:
    """Split the packaged proteins by homology cluster, for all shipped models (index: ids)."""
    return grouped_split(embedded_proteins(), test_fraction=0.2, validation_fraction=0.125,
                         seed=seed)  # fmt: skip


def _loss(logits: torch.Tensor, targets: torch.Tensor, multi_label: bool) -> torch.Tensor:
    if multi_label:
        return F.binary_cross_entropy_with_logits(logits, targets)
    return F.cross_entropy(logits, targets)  # targets are one-hot


def train_heads(
    vectors: np.ndarray,
    targets: np.ndarray,
    folds: Sequence[np.ndarray],
    config: HeadConfig,
    recipe: Recipe,
) -> LabelEnsemble:
    """
    Train the label heads, each on all proteins but those of its fold.

    Parameters
    ----------
    vectors : ndarray, shape (N, D), dtype float32
    targets : ndarray, shape (N, K), dtype float32
        1 for each place of a protein.
    folds : sequence of ndarray
        Rows that each member never sees.
    """
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        ensemble = LabelEnsemble(config)
        for number, (head, left_out) in enumerate(zip(ensemble.members, folds, strict=True)):
            rows = np.setdiff1d(np.arange(len(vectors)), left_out)
            _train_head(head, vectors[rows], targets[rows], config, recipe, number)
    return ensemble.eval()


def _train_head(
    head: Any, vectors: np.ndarray, targets: np.ndarray, config: HeadConfig, recipe: Recipe,
    number: int,
) -> None:  # fmt: skip
    features, truth = torch.from_numpy(vectors), torch.from_numpy(targets)
    head.feature_mean.copy_(features.mean(dim=0))
    head.feature_scale.copy_(features.std(dim=0).clamp(min=1e-6))
    optimizer = torch.optim.AdamW(
        head.parameters(), recipe.label_learning_rate, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.label_epochs)
    rng = np.random.default_rng([recipe.seed, number])
    for _ in range(recipe.label_epochs):
        for rows in torch.from_numpy(rng.permutation(len(features))).split(32):
            # a feature in five is hidden at random: the ensemble is small and the classes thin
            noisy = F.dropout(features[rows] - head.feature_mean, recipe.dropout)
            loss = _loss(head(noisy + head.feature_mean)[1], truth[rows], config.multi_label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()


def cluster_folds(proteins: pd.DataFrame, n_folds: int, seed: int) -> list[np.ndarray]:
    """Cut proteins into folds of whole homology clusters, classes shared out evenly."""
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    found = folds.split(proteins, proteins["locations"], proteins["cluster_30"])
    return [left_out for _, left_out in found]


def out_of_fold(members: np.ndarray, folds: Sequence[np.ndarray]) -> np.ndarray:
    """Return each protein's probabilities (N, K) from the member that never saw it."""
    chosen = np.empty_like(members[0])
    for member, left_out in zip(members, folds, strict=True):
        chosen[left_out] = member[left_out]
    return chosen


def train_labels(
    kind: Kind, proteins: pd.DataFrame, vectors: np.ndarray, split: pd.Series, recipe: Recipe
) -> tuple[LabelEnsemble, pd.DataFrame]:
    """
    Train and calibrate the label heads of a model.

    Returns
    -------
    ensemble : LabelEnsemble
    said : DataFrame
        One row a protein: protein_id, split, locations, ``p_<label>``, spread; of training
        proteins what the member says that never saw them.
    """
    part = split.loc[proteins["protein_id"]].to_numpy()
    targets = location_targets(proteins, kind.labels).numpy()
    train = np.flatnonzero(part == "train")
    config = HeadConfig(
        recipe.encoder, vectors.shape[1], recipe.hidden_dim, len(kind.labels), recipe.n_members,
        kind.multi_label,
    )  # fmt: skip
    folds = cluster_folds(proteins.iloc[train], recipe.n_members, recipe.seed)
    ensemble = train_heads(vectors[train], targets[train], folds, config, recipe)
    validation = part == "validation"
    temperature = fit_temperature(
        ensemble.logits(vectors[validation]), targets[validation], multi_label=kind.multi_label
    )
    ensemble.config = dataclasses.replace(config, temperature=round(temperature, 4))
    members = ensemble.probabilities(vectors)  # (members, N, K)
    mean = members.mean(axis=0)
    mean[train] = out_of_fold(members[:, train], folds)
    top = mean.argmax(axis=1)
    said = pd.DataFrame(
        {"protein_id": proteins["protein_id"], "split": part, "locations": proteins["locations"]}
        | {f"p_{name}": mean[:, k].round(5) for k, name in enumerate(kind.labels)}
        | {"spread": members[:, np.arange(len(top)), top].std(axis=0).round(5)}
    )
    return ensemble, said


def train_painter(kind: Kind, dataset: Dataset, said: pd.DataFrame, recipe: Recipe) -> Painter:
    """Train and score the image branch on the opinions of a model's label heads."""
    known = said[said["protein_id"].isin(dataset.proteins["protein_id"])]
    columns = [f"p_{name}" for name in kind.labels]
    told = opinion(known[columns].to_numpy(), kind.labels, LABELS)
    dataset.write_features("opinion", dict(zip(known["protein_id"], told, strict=True)))
    dataset.write_split("shipped", known.set_index("protein_id")["split"])
    config = DeepGPSConfig(
        sequence_dim=len(LABELS), hidden_dim=recipe.painter_hidden_dim, width=recipe.width,
        depth=recipe.depth, crop_size_px=recipe.crop_size_px, n_classes=len(LABELS),
        fusion=recipe.fusion, label_loss="multi_label",
    )  # fmt: skip
    training = TrainingConfig(
        name="shipped", labels=LABELS, encoder="opinion", epochs=recipe.epochs,
        batch_size=recipe.batch_size, learning_rate=recipe.learning_rate,
        lr_gamma=recipe.lr_gamma, weight_decay=0.01, label_weight=0.1, select_by="image_loss",
        seed=recipe.seed, crops_per_protein=recipe.crops_per_protein, augment=True,
        precision="auto",
    )  # fmt: skip
    run = fit(dataset, "shipped", config, training, replace=True)
    card = {
        "recipe": dataclasses.asdict(recipe), "dataset": dataset.info.name,
        "proteins": _counts(known["split"]), **image_card(evaluate(run, dataset, seed=recipe.seed)),
    }  # fmt: skip
    return Painter(
        LABELS, dataset.info.images, run.field_pixel_size_um, run.pixel_size_um, run.model.cpu(),
        card,
    )  # fmt: skip


def _counts(split: pd.Series) -> dict[str, int]:
    return {str(part): int(n) for part, n in split.value_counts().items()}


def recipe_proteins() -> pd.DataFrame:
    """
    Return the packaged proteins the recipe uses.

    All nuclear, cytoplasmic and mitochondrial ones, and of membrane proteins and those in two
    places every second: they are the longest, embedding takes most of the recipe's time, and
    there are enough of them.
    """
    proteins = KINDS[-1].of(embedded_proteins())
    others = proteins.index[~proteins["label"].isin(SINGLE_2)]
    left_out = [row for row in others[1::2] if proteins["label"][row] != "Mitochondrion"]
    return proteins.drop(index=left_out).reset_index(drop=True)


def embedded_vectors(recipe: Recipe, cache: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """Embed the packaged proteins in the four places, or read the vectors made before."""
    proteins = recipe_proteins()
    if cache.exists():
        with np.load(cache, allow_pickle=False) as stored:
            vectors = {name: stored[name] for name in stored.files}
    else:
        sequences = dict(zip(proteins["protein_id"], proteins["sequence"], strict=True))
        vectors = load_encoder(recipe.encoder).embed(sequences)
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(cache, **vectors)  # type: ignore[arg-type]
    missing = set(proteins["protein_id"]) - set(vectors)
    if missing:
        raise InputError(f"{cache}: no vector of protein {min(missing)!r}; delete the file.")
    return proteins, np.stack([vectors[name] for name in proteins["protein_id"]])


def write_default_nucleus(dataset: Dataset, split: pd.Series, path: Path) -> None:
    """Write the crop of a simulated nucleus, beside no protein any model was trained on."""
    crops = dataset.crops
    test = crops.index[crops["protein_id"].map(split) == "test"]
    areas = [int(np.asarray(dataset.nuclear_masks[row]).sum()) for row in test[:200]]
    row = test[int(np.argsort(areas)[len(areas) // 2])]  # of middle size
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(dataset.crop_images[row])[0]).save(path, optimize=True)


def make_shipped(recipe: Recipe, out: Path = MODELS_PATH) -> None:
    """Train, score and write the three models."""
    dataset = prepare(ensure_dataset(recipe.dataset), PreprocessingConfig())
    proteins, vectors = embedded_vectors(
        recipe, data_root() / "vectors" / f"shipped-{recipe.encoder}.npz"
    )
    split = shipped_split(recipe.seed)
    write_default_nucleus(dataset, split, out / DEFAULT_NUCLEUS.name)
    row_of = {name: row for row, name in enumerate(proteins["protein_id"])}
    for kind in tqdm(KINDS, desc="label heads", disable=None):
        chosen = kind.of(proteins)
        rows = [row_of[name] for name in chosen["protein_id"]]
        heads, said = train_labels(kind, chosen, vectors[rows], split, recipe)
        card = {
            "recipe": dataclasses.asdict(recipe), "proteins": _counts(said["split"]),
            "labels": label_card(said, kind.labels, kind.multi_label),
        }  # fmt: skip
        save_shipped(ShippedModel(kind.name, kind.title, kind.labels, heads, card), out)
        write_table(said[said["split"] != "train"], out / f"{kind.name}.csv")
    save_painter(train_painter(KINDS[-1], dataset, said, recipe), out)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--out", type=Path, default=MODELS_PATH)
    for field in dataclasses.fields(Recipe):
        if field.name not in ("crops_per_protein", "seed"):
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default),
                                default=field.default)  # fmt: skip
    asked = vars(parser.parse_args())
    out = asked.pop("out")
    make_shipped(Recipe(**asked), out)


if __name__ == "__main__":
    main()
