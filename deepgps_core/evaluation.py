"""
What a run is worth on proteins it was not trained on: per protein, and per crop beside it.

The protein is the unit: crops of a protein are averaged first, and intervals come from drawing
proteins anew. The per-crop figures are what the paper prints; they have no interval here,
because crops of one protein are no independent trials. Images are compared with predictions
that need no network (`deepgps_core.trivial`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from deepgps_core.crops import CropDataset, load_crops
from deepgps_core.dataset import Dataset, InputError, data_root, write_table
from deepgps_core.metrics import classification_metrics, multiclass_metrics
from deepgps_core.metrics import psnr as psnr_of
from deepgps_core.metrics import ssim as ssim_of
from deepgps_core.runs import Run, load_run
from deepgps_core.statistics import bootstrap_interval, bootstrap_intervals
from deepgps_core.training import predict_crops, predict_labels
from deepgps_core.trivial import mean_images, trivial_images

#: Name of the model's own images in tables of predictions.
OURS = "deepGPS"
IMAGE_METRICS = ("psnr_db", "ssim")


@dataclass(frozen=True)
class Evaluation:
    """
    A run, scored.

    Parameters
    ----------
    proteins : DataFrame
        One row a protein: protein_id, label, predicted_label, ``p_<label>``, n_crops, and the
        means of psnr_db and ssim over its crops.
    crops : DataFrame
        One row a crop and prediction: crop_id, protein_id, prediction ("deepGPS" or a trivial
        one), psnr_db, ssim.
    labels : DataFrame
        One row a label metric: metric, estimate, low, high, n_proteins, per_crop, n_crops.
    images : DataFrame
        One row a prediction and image metric: prediction, metric, estimate, low, high,
        n_proteins, per_crop, n_crops, and gain, gain_low, gain_high: by how much deepGPS is
        better, protein by protein.
    """

    proteins: pd.DataFrame
    crops: pd.DataFrame
    labels: pd.DataFrame
    images: pd.DataFrame

    def write(self, folder: Path | str) -> None:
        """Write the four tables as CSV into `folder`."""
        for name in ("proteins", "crops", "labels", "images"):
            write_table(getattr(self, name), Path(folder) / f"{name}.csv")


def _trained_on(run: Run) -> set[str]:
    """Return the proteins that a run, and those it went on from, were trained on."""
    seen = set(run.proteins.loc[run.proteins["split"] == "train", "protein_id"])
    first = run.training_config.initial_run
    return seen | _trained_on(load_run(data_root() / first)) if first else seen


def held_out_proteins(run: Run, dataset: Dataset, part: str) -> list[str]:
    """
    Return the proteins of a part of the run's split.

    Raises
    ------
    InputError
        If there are none, or the run was trained on one of them.
    """
    split = dataset.split(run.split_name)
    chosen = list(split.index[split == part])
    source = dataset.path / "splits" / f"{run.split_name}.csv"
    if not chosen:
        raise InputError(f"{source}: no {part} proteins; split again or name another part.")
    if dataset.info.name == run.dataset_name and part != "train":
        leaked = sorted(_trained_on(run) & set(chosen))
        if leaked:
            raise InputError(
                f"{source}: {run.path} was trained on {part} protein {leaked[0]!r}, so the split "
                "has changed since; train again."
            )
    return chosen


def _score_crops(
    run: Run, crops: CropDataset, training: CropDataset, shuffled: np.ndarray
) -> pd.DataFrame:
    """Score deepGPS and the trivial predictions; `shuffled` holds a label for each protein."""
    means = mean_images(training, len(run.labels))
    done, tables = 0, []
    bar = tqdm(total=len(crops), desc="scoring", unit="crop", disable=None)
    for batch, prediction in predict_crops(run.model, crops):
        target, nuclear, image = (
            tensor[:, 0].cpu().numpy()
            for tensor in (batch.protein_image, batch.nuclear_image, prediction.image)
        )
        rows = slice(done, done + len(target))
        proteins = crops.protein_index[rows].numpy()
        predicted_label = prediction.logits.argmax(dim=1).cpu().numpy()
        images = {OURS: image} | trivial_images(
            means, nuclear, batch.label.cpu().numpy(), predicted_label, shuffled[proteins]
        )
        names = {
            "crop_id": crops.crop_ids[rows],
            "protein_id": [crops.protein_ids[p] for p in proteins],
        }
        for name, drawn in images.items():
            scores = {
                "psnr_db": psnr_of(drawn, target, data_range=1.0),
                "ssim": ssim_of(drawn, target, data_range=1.0),
            }
            tables.append(pd.DataFrame(names | {"prediction": name} | scores))
        done += len(target)
        bar.update(len(target))
    bar.close()
    return pd.concat(tables, ignore_index=True)


def _label_scores(proteins: pd.DataFrame, labels: tuple[str, ...]) -> dict[str, float]:
    truth = proteins["label"].to_numpy(str)
    if len(labels) == 2:
        return classification_metrics(
            truth, proteins[f"p_{labels[0]}"].to_numpy(), positive=labels[0]
        )
    return multiclass_metrics(truth, proteins[[f"p_{x}" for x in labels]].to_numpy(), labels)


def label_table(
    proteins: pd.DataFrame, labels: tuple[str, ...], *, n_resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """
    Score labels per protein with 95 % intervals, and per crop beside it.

    Parameters
    ----------
    proteins : DataFrame
        Columns label, ``p_<label>`` and n_crops; proteins without a single label are left out.
    labels : tuple of str
        With two, the first is the positive class.

    Returns
    -------
    table : DataFrame
        Columns metric, estimate, low, high, n_proteins, per_crop, n_crops. As the head gives
        every crop of a protein the same label, per crop means that a protein counts as often
        as it has crops.
    """
    single = proteins[proteins["label"] != ""].reset_index(drop=True)
    names = list(_label_scores(single, labels))
    intervals = bootstrap_intervals(
        lambda rows: np.array(list(_label_scores(single.iloc[rows], labels).values())),
        np.arange(len(single)),
        n_resamples=n_resamples,
        seed=seed,
    )
    by_crop = single.loc[single.index.repeat(single["n_crops"])]
    per_crop = _label_scores(by_crop, labels) if len(by_crop) else dict.fromkeys(names, np.nan)
    columns = ["metric", "estimate", "low", "high", "n_proteins", "per_crop", "n_crops"]
    rows = [
        (name, *interval, len(single), per_crop[name], len(by_crop))
        for name, interval in zip(names, intervals, strict=True)
    ]
    return pd.DataFrame(rows, columns=columns)


def image_table(crops: pd.DataFrame, *, n_resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """
    Score images of each prediction per protein with 95 % intervals, and per crop beside it.

    Parameters
    ----------
    crops : DataFrame
        Columns protein_id, prediction, psnr_db, ssim; "deepGPS" is one of the predictions.

    Returns
    -------
    table : DataFrame
        Columns as in `Evaluation.images`; the gain is paired within proteins.
    """
    by_protein = crops.groupby(["prediction", "protein_id"], sort=False)[list(IMAGE_METRICS)].mean()
    per_crop = crops.groupby("prediction", sort=False)[list(IMAGE_METRICS)].mean()
    rows = []
    for name in crops["prediction"].unique():
        n_crops = int((crops["prediction"] == name).sum())
        for metric in IMAGE_METRICS:
            scores = by_protein.loc[name, metric]
            gain = by_protein.loc[OURS, metric] - scores
            interval = bootstrap_interval(scores.to_numpy(), n_resamples=n_resamples, seed=seed)
            gained = (0.0, 0.0, 0.0)
            if name != OURS:
                gained = bootstrap_interval(gain.to_numpy(), n_resamples=n_resamples, seed=seed)
            of_crops = per_crop.loc[name, metric]
            rows.append((name, metric, *interval, len(scores), of_crops, n_crops, *gained))
    columns = ["prediction", "metric", "estimate", "low", "high", "n_proteins", "per_crop",
               "n_crops", "gain", "gain_low", "gain_high"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def evaluate(
    run: Run, dataset: Dataset, part: str = "test", *, crops_per_protein: int | None = None,
    n_resamples: int = 2000, seed: int = 0,
) -> Evaluation:  # fmt: skip
    """
    Score a run's labels and images on the held-out proteins of its split.

    Parameters
    ----------
    run : Run
    dataset : Dataset
        The one it was trained on, or another with a split of the same name.
    part : str
        "test" or "validation" ("train" to see how well it was learned by heart).
    crops_per_protein : int, optional
        Score the first so many crops of each protein; by default all.
    n_resamples, seed : int
        Of the bootstrap, and of who gets whose sequence in the shuffled prediction.

    Raises
    ------
    InputError
        If the part is empty, or holds a label unknown to the model or a protein of its training.
    """
    chosen = held_out_proteins(run, dataset, part)
    split = dataset.split(run.split_name)
    load = partial(
        load_crops, dataset, encoder=run.training_config.encoder, labels=run.labels,
        crop_size_px=run.model_config.crop_size_px, structures=run.training_config.structures,
        residues=run.model_config.needs_residues, max_residues=run.model_config.max_residues,
    )  # fmt: skip
    crops = load(chosen)
    if not len(crops):
        raise InputError(f"{dataset.path / 'crops.csv'}: no crop of a {part} protein; prepare.")
    if crops_per_protein:
        crops = crops.first_of_each(crops_per_protein)
    training = load(list(split.index[split == "train"]))
    proteins = predict_labels(run.model, crops, run.labels)
    number = {label: k for k, label in enumerate(run.labels)}
    predicted = proteins["predicted_label"].map(number).to_numpy()
    order = np.random.default_rng(seed).permutation(len(chosen))
    shuffled = np.empty_like(predicted)
    shuffled[order] = predicted[np.roll(order, 1)]  # nobody keeps its own sequence
    scores = _score_crops(run, crops, training, shuffled)
    ours = scores[scores["prediction"] == OURS]
    means = ours.groupby("protein_id")[list(IMAGE_METRICS)].mean()
    return Evaluation(
        proteins=proteins.join(means, on="protein_id"),
        crops=scores,
        labels=label_table(proteins, run.labels, n_resamples=n_resamples, seed=seed),
        images=image_table(scores, n_resamples=n_resamples, seed=seed),
    )
