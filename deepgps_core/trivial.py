"""
Predictions of protein images that need no network: what any model of images has to beat.

The paper prints its PSNR without any of these. They know the training images and, two of them,
a label; none draws anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from deepgps_core.crops import CropDataset

#: Name in tables -> what it is, for captions.
TRIVIAL_PREDICTIONS: Mapping[str, str] = {
    "constant": "one gray: the mean intensity of the training images",
    "training mean": "the mean training image",
    "nucleus copied": "the nucleus image itself",
    "class mean, shuffled": "the mean image of the label predicted from another protein's sequence",
    "class mean, predicted": "the mean image of the label predicted from the sequence",
    "class mean, true": "the mean image of the true label",
}


@dataclass(frozen=True)
class MeanImages:
    """Mean protein images of the training proteins: of all (H, W), and of each class (K, H, W)."""

    overall: np.ndarray
    by_class: np.ndarray


def mean_images(crops: CropDataset, n_classes: int) -> MeanImages:
    """
    Average the protein images of training crops, each protein counting as one.

    Parameters
    ----------
    crops : CropDataset
        Of training proteins alone.
    n_classes : int

    Returns
    -------
    means : MeanImages
        Intensities in [0, 1]; a class without proteins gets the overall mean.
    """
    counts = crops.crop_counts()
    by_protein = torch.zeros(len(counts), *crops.images.shape[2:])
    for rows in torch.arange(len(crops)).split(256):  # never all crops as floats at once
        images = crops.images[rows, 1].float() / 255
        by_protein.index_add_(0, crops.protein_index[rows], images)
    seen = counts > 0
    means, labels = by_protein[seen] / counts[seen, None, None], crops.labels[seen]
    overall = means.mean(dim=0)
    by_class = [
        means[labels == k].mean(dim=0) if (labels == k).any() else overall for k in range(n_classes)
    ]
    return MeanImages(overall.numpy(), torch.stack(by_class).numpy())


def trivial_images(
    means: MeanImages,
    nuclear_image: np.ndarray,
    true_label: np.ndarray,
    predicted_label: np.ndarray,
    shuffled_label: np.ndarray,
) -> dict[str, np.ndarray]:
    """
    Make every trivial prediction for N crops.

    Parameters
    ----------
    means : MeanImages
        Of the training proteins.
    nuclear_image : ndarray, shape (N, H, W), dtype float
        Intensities in [0, 1].
    true_label, predicted_label, shuffled_label : ndarray, shape (N,), dtype int
        Class numbers: the protein's own (-1 for none: the overall mean is taken), the one
        predicted from its sequence, and the one predicted from another protein's.

    Returns
    -------
    images : dict of str to ndarray, shape (N, H, W)
        One entry for each of `TRIVIAL_PREDICTIONS`.
    """
    classes = np.concatenate([means.by_class, means.overall[None]])  # number -1 is the last one
    shape = nuclear_image.shape
    return {
        "constant": np.full(shape, means.overall.mean(), dtype=np.float32),
        "training mean": np.broadcast_to(means.overall, shape),
        "nucleus copied": nuclear_image,
        "class mean, shuffled": classes[shuffled_label],
        "class mean, predicted": classes[predicted_label],
        "class mean, true": classes[true_label],
    }


def flat_masks(
    training: CropDataset,
    training_masks: np.ndarray,
    masks: np.ndarray,
    labels: np.ndarray,
) -> np.ndarray:
    """
    Paint the nucleus and what is around it in the class's mean grays: PUPS's trivial prediction.

    Parameters
    ----------
    training : CropDataset
        Of training proteins alone.
    training_masks : ndarray, shape (T, H, W), dtype bool
        Nuclei of its crops.
    masks : ndarray, shape (N, H, W), dtype bool
        Nuclei to paint.
    labels : ndarray, shape (N,), dtype int
        Class number of each.

    Returns
    -------
    images : ndarray, shape (N, H, W), dtype float32
    """
    images = training.images[:, 1].numpy() / np.float32(255)
    classes = training.labels[training.protein_index].numpy()
    out = np.empty(masks.shape, dtype=np.float32)
    for k in np.unique(labels):
        of_class, nuclei = images[classes == k], training_masks[classes == k]
        grays = of_class[~nuclei].mean(), of_class[nuclei].mean()
        rows = labels == k
        out[rows] = np.where(masks[rows], grays[1], grays[0])
    return out


def rows_of_class(training: CropDataset, labels: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """
    Draw a random crop of the same class for each label.

    Parameters
    ----------
    training : CropDataset
        To draw from.
    labels : ndarray, shape (N,), dtype int
        Class numbers, each of which some crop has.

    Returns
    -------
    rows : ndarray, shape (N,), dtype int64
        Of `training`.
    """
    return _drawn_of_class(training, labels, np.random.default_rng(seed))


def _drawn_of_class(
    training: CropDataset, labels: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    classes = training.labels[training.protein_index].numpy()
    return np.array([generator.choice(np.flatnonzero(classes == k)) for k in labels])


def borrowed_images(
    crops: CropDataset, training: CropDataset, labels: np.ndarray, *, seed: int = 0
) -> dict[str, np.ndarray]:
    """
    Take images of other proteins for these crops, and the nucleus image blurred.

    Parameters
    ----------
    crops, training : CropDataset
        To be predicted; of training proteins alone.
    labels : ndarray, shape (N,), dtype int
        Predicted class of each crop.
    seed : int
        Of the crops drawn.

    Returns
    -------
    images : dict of str to ndarray, shape (N, H, W), dtype float32
        "nucleus blurred" (Gaussian, a twentieth of the side), "nearest protein" (a random crop
        of the training protein with the most similar sequence vector, by cosine) and "same
        class" (a random training crop of the predicted class).
    """
    generator = np.random.default_rng(seed)
    owner = training.protein_index.numpy()
    imaged = np.unique(owner)
    vectors = [x.features / x.features.norm(dim=1, keepdim=True) for x in (crops, training)]
    nearest = imaged[(vectors[0] @ vectors[1][imaged].T).argmax(dim=1).numpy()]
    proteins = crops.protein_index.numpy()
    near = [generator.choice(np.flatnonzero(owner == nearest[p])) for p in proteins]
    same = _drawn_of_class(training, labels, generator)
    pictures = training.images[:, 1].numpy()
    nuclei = crops.images[:, 0].numpy() / np.float32(255)
    sigma = nuclei.shape[-1] / 20
    return {
        "nucleus blurred": ndimage.gaussian_filter(nuclei, (0, sigma, sigma)),
        "nearest protein": pictures[near] / np.float32(255),
        "same class": pictures[same] / np.float32(255),
    }
