"""
Crops for training: all of them in memory as 8-bit images, handed out in batches on the device.

A few thousand to sixty thousand crops fit in memory (5.4 GB for the paper's 62,108 at full
size), so no worker processes are needed: a batch is one indexing operation on the machine that
trains, and the host never waits for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from deepgps_core.dataset import Dataset, InputError
from deepgps_core.fusions import MAX_RESIDUES, ResidueBatch
from deepgps_core.losses import Batch
from deepgps_core.point_clouds import read_point_clouds
from deepgps_core.residues import read_residues
from deepgps_core.targets import label_numbers, location_targets

#: Crops read from disk at a time.
_BLOCK = 256


@dataclass(frozen=True)
class CropDataset:
    """
    Crops with the protein of each.

    Parameters
    ----------
    images : Tensor, shape (N, 2, H, W), dtype uint8
        Channel 0 nucleus, 1 protein.
    protein_index : Tensor, shape (N,), dtype int64
        Row of each crop's protein in `features`, `labels` and `protein_ids`.
    features : Tensor, shape (proteins, D), dtype float32
    labels : Tensor, shape (proteins,), dtype int64
        Class numbers, -1 for proteins without a single label.
    protein_ids, crop_ids : tuple of str
    point_clouds : Tensor, shape (proteins, P, 6), dtype float32, optional
    targets : Tensor, shape (proteins, K), dtype float32, optional
        1 for each class that the protein is in, multi-localized ones included.
    residues : Tensor, shape (residues of all proteins, D), dtype float16, optional
    residue_lengths : Tensor, shape (proteins,), dtype int64, optional
    longest : int
        The largest of them, known to the host.
    """

    images: Tensor
    protein_index: Tensor
    features: Tensor
    labels: Tensor
    protein_ids: tuple[str, ...]
    crop_ids: tuple[str, ...]
    point_clouds: Tensor | None = None
    targets: Tensor | None = None
    residues: Tensor | None = None
    residue_lengths: Tensor | None = None
    longest: int = 0

    def __len__(self) -> int:
        return len(self.images)

    def of_proteins(self, protein_ids: Sequence[str]) -> CropDataset:
        """Keep the crops of some proteins; features and labels stay as they are."""
        wanted = set(protein_ids)
        known = torch.tensor([name in wanted for name in self.protein_ids], dtype=torch.bool)
        return self.take(known[self.protein_index].nonzero().flatten())

    def take(self, rows: Tensor) -> CropDataset:
        """Keep the crops at `rows`, in that order."""
        return replace(
            self,
            images=self.images[rows],
            protein_index=self.protein_index[rows],
            crop_ids=tuple(self.crop_ids[row] for row in rows.tolist()),
        )

    def first_of_each(self, limit: int) -> CropDataset:
        """Keep the first so many crops of each protein."""
        owners = pd.Series(self.protein_index.cpu().numpy())
        rows = np.flatnonzero(owners.groupby(owners).cumcount() < limit)
        return self.take(torch.from_numpy(rows))

    def to(self, device: torch.device | str) -> CropDataset:
        """Move the tensors to a device."""
        names = (
            "images", "protein_index", "features", "labels", "point_clouds", "targets",
            "residues", "residue_lengths",
        )  # fmt: skip
        tensors = {name: getattr(self, name) for name in names}
        moved = {name: t.to(device) for name, t in tensors.items() if t is not None}
        return replace(self, **moved)

    def crop_counts(self) -> Tensor:
        """Count the crops of each protein, (proteins,)."""
        return torch.bincount(self.protein_index, minlength=len(self.protein_ids))

    def batch(
        self,
        rows: Tensor,
        weight: Tensor,
        draws: Tensor | None = None,
        tones: Tensor | None = None,
        *,
        compiled: bool = False,
    ) -> Batch:
        """
        Return the crops at `rows` as floats in [0, 1]; `weight` has one value a protein.

        `draws` (B, 3) turn the crops, see `flip_and_rotate`; `tones` (B, 2) change the brightness
        of their nuclei, see `retone`; `compiled` does so in one pass.
        """
        make = _compiled_planes() if compiled else planes
        nuclear, protein = make(self.images, rows, draws, tones)
        proteins = self.protein_index[rows]
        return Batch(
            nuclear, protein, self.features[proteins], self.labels[proteins],
            weight[proteins], None if self.point_clouds is None else self.point_clouds[proteins],
            self.residues_of(proteins), None if self.targets is None else self.targets[proteins],
        )  # fmt: skip

    def residues_of(self, proteins: Tensor) -> ResidueBatch | None:
        """
        Return the residues of some proteins (rows of `protein_ids`), if there are any.

        All are filled up to the longest of the dataset, not of the batch: shapes stay the same,
        and the host need not wait to learn them.
        """
        if self.residues is None or self.residue_lengths is None:
            return None
        begins = self.residue_lengths.cumsum(0) - self.residue_lengths
        columns = torch.arange(self.longest, device=self.residues.device)
        mask = columns < self.residue_lengths[proteins, None]
        rows = (begins[proteins, None] + columns).clamp(max=len(self.residues) - 1)
        return ResidueBatch(self.residues[rows].float(), mask)


def average_down(images: np.ndarray, factor: int) -> np.ndarray:
    """
    Shrink images by averaging squares of `factor` x `factor` pixels.

    Examples
    --------
    >>> average_down(np.array([[[0, 2], [4, 6]]], dtype=np.uint8), 2)
    array([[[3]]], dtype=uint8)
    """
    if factor == 1:
        return images
    *leading, height, width = images.shape
    squares = images.reshape(*leading, height // factor, factor, width // factor, factor)
    return np.rint(squares.mean(axis=(-3, -1), dtype=np.float32)).astype(images.dtype)


def _read_images(dataset: Dataset, rows: np.ndarray, crop_size_px: int) -> np.ndarray:
    """Read the crops at `rows` (ascending) block by block, at the size the network takes."""
    array = dataset.crop_images
    factor, remainder = divmod(array.shape[-1], crop_size_px)
    if remainder or not factor:
        raise InputError(
            f"{dataset.path / 'crops.zarr'}: crops of {array.shape[-1]} px cannot be averaged "
            f"down to {crop_size_px} px; choose a divisor as crop_size_px."
        )
    images = np.empty((len(rows), 2, crop_size_px, crop_size_px), dtype=np.uint8)
    for start in range(0, array.shape[0], _BLOCK):
        first, last = np.searchsorted(rows, [start, start + _BLOCK])
        if last > first:
            block = np.asarray(array[start : start + _BLOCK])
            images[first:last] = average_down(block[rows[first:last] - start], factor)
    return images


def _read_clouds(dataset: Dataset, structures: str, protein_ids: Sequence[str]) -> Tensor | None:
    """Read the point clouds of some proteins, if a name of them is given."""
    if not structures:
        return None
    return torch.from_numpy(read_point_clouds(dataset, structures, protein_ids))


def load_crops(
    dataset: Dataset,
    protein_ids: Sequence[str],
    *,
    encoder: str,
    labels: Sequence[str],
    crop_size_px: int = 208,
    structures: str = "",
    residues: bool = False,
    max_residues: int = MAX_RESIDUES,
) -> CropDataset:
    """
    Load the crops of some proteins, with their sequence vectors and labels.

    Parameters
    ----------
    dataset : Dataset
        Prepared and embedded.
    protein_ids : sequence of str
        Whose crops to load.
    encoder : str
        Name under which the dataset keeps the sequence vectors.
    labels : sequence of str
        The classes, in the order of the model's outputs.
    crop_size_px : int
        Side to which the crops are averaged down; a divisor of theirs.
    structures : str
        Name under which the dataset keeps the proteins' point clouds, for a model of them.
    residues : bool
        Also load the encoder's per-residue vectors, for a fusion that reads them.
    max_residues : int
        Of each protein, half from each end.

    Raises
    ------
    InputError
        If a protein is unknown, has a label that is none of `labels` or no vector, or the
        crops cannot be averaged down to this size.
    """
    proteins = dataset.proteins.set_index("protein_id", drop=False)
    for missing in set(protein_ids) - set(proteins.index):
        raise InputError(
            f"{dataset.path / 'proteins.csv'}: protein {missing!r} of the split is not in it; "
            "make the split again."
        )
    chosen = proteins.loc[list(protein_ids)]
    vectors = dataset.features(encoder)
    for missing in set(protein_ids) - set(vectors):
        raise InputError(
            f"{dataset.path / 'features'}/{encoder}.npz: no vector of protein {missing!r}; "
            "run `deepgps embed` again."
        )
    row_of = {name: row for row, name in enumerate(protein_ids)}
    matrix = np.stack([vectors[name] for name in protein_ids])
    if not np.isfinite(matrix).all():
        broken = protein_ids[int(np.flatnonzero(~np.isfinite(matrix).all(axis=1))[0])]
        raise InputError(
            f"{dataset.path / 'features'}/{encoder}.npz: the vector of protein {broken!r} has "
            "numbers that are none (NaN); delete the file and run `deepgps embed` again."
        )
    crops = dataset.crops
    rows = np.flatnonzero(crops["protein_id"].isin(row_of))
    used = crops.iloc[rows]
    more: dict[str, Any] = {}
    if residues:
        values, lengths = read_residues(dataset, encoder, protein_ids, max_residues)
        more = {
            "residues": torch.from_numpy(values), "residue_lengths": torch.from_numpy(lengths),
            "longest": int(lengths.max(initial=0)),
        }  # fmt: skip
    return CropDataset(
        images=torch.from_numpy(_read_images(dataset, rows, crop_size_px)),
        protein_index=torch.tensor([row_of[p] for p in used["protein_id"]], dtype=torch.int64),
        features=torch.from_numpy(matrix).float(),
        labels=label_numbers(chosen, labels, str(dataset.path / "proteins.csv")),
        protein_ids=tuple(protein_ids),
        crop_ids=tuple(used["crop_id"]),
        point_clouds=_read_clouds(dataset, structures, protein_ids),
        targets=location_targets(chosen, labels),
        **more,
    )


def data_fingerprint(dataset: Dataset, split: pd.Series, encoder: str, structures: str = "") -> str:
    """
    Return 16 hexadecimal digits that change with what a model would be trained on.

    Covers the split, labels, locations, sequence vectors, point clouds (if any are named), crop
    table and a sample of the crops' pixels.
    """
    digest = hashlib.sha256(dataset.info.config_hash.encode())
    digest.update(split.sort_index().to_csv().encode())
    known = dataset.proteins[["protein_id", "label", "locations"]]
    digest.update(known.to_csv(index=False).encode())
    vectors = dataset.features(encoder)
    for name in sorted(set(split.index) & set(vectors)):
        digest.update(vectors[name].tobytes())
    if structures:
        digest.update(read_point_clouds(dataset, structures, sorted(split.index)).tobytes())
    digest.update(dataset.crops.to_csv(index=False).encode())
    for row in (0, -1) if len(dataset.crops) else ():
        digest.update(np.asarray(dataset.crop_images[row]).tobytes())
    return digest.hexdigest()[:16]


def flip_and_rotate(images: Tensor, draws: Tensor) -> Tensor:
    """
    Turn each image into one of its eight mirror images and rotations.

    Parameters
    ----------
    images : Tensor, shape (B, C, H, H)
    draws : Tensor, shape (B, 3), dtype bool
        Whether to mirror it left-right, up-down, and along the diagonal.
    """
    x, y, diagonal = draws[:, :, None, None, None].unbind(dim=1)
    images = torch.where(x, images.flip(-1), images)
    images = torch.where(y, images.flip(-2), images)
    return torch.where(diagonal, images.transpose(-1, -2), images)


def retone(images: Tensor, tones: Tensor) -> Tensor:
    """
    Change the brightness and the contrast of images in [0, 1], as stain and exposure vary.

    Parameters
    ----------
    images : Tensor, shape (B, C, H, W)
    tones : Tensor, shape (B, 2)
        Natural logarithms of the factor and of the exponent (gamma); 0 leaves an image as it is.

    Examples
    --------
    >>> retone(torch.tensor([[[[0.25, 0.5]]]]), torch.tensor([[0.0, np.log(2)]]).float()).flatten()
    tensor([0.0625, 0.2500])
    """
    factor, gamma = tones.exp()[:, :, None, None, None].unbind(dim=1)
    return (factor * images**gamma).clamp(0, 1)


def planes(
    images: Tensor, rows: Tensor, draws: Tensor | None = None, tones: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """
    Return the channels of the crops at `rows`, each (B, 1, H, W) in [0, 1], turned by `draws`.

    They are turned while they are bytes: a quarter of the memory traffic of floats. The protein's
    brightness is what is predicted, so `tones` change the nucleus alone.
    """
    chosen = images[rows]
    if draws is not None:
        chosen = flip_and_rotate(chosen, draws)
    nuclear, protein = chosen[:, :1].float() / 255, chosen[:, 1:].float() / 255
    return nuclear if tones is None else retone(nuclear, tones), protein


@lru_cache(maxsize=1)
def _compiled_planes() -> Callable[..., tuple[Tensor, Tensor]]:
    """Return `planes` in one pass over memory; compiled when first called."""
    return torch.compile(planes)


@dataclass
class CropLoader:
    """
    Hand out batches on the crops' own device, in an order that seed and epoch decide.

    Parameters
    ----------
    crops : CropDataset
    batch_size : int
    seed : int
    shuffle : bool
        A new order each epoch (training); otherwise the crops in their order, once.
    crops_per_protein : int, optional
        At most so many crops of a protein: new ones each epoch when shuffling.
    augment : bool
        Flip and rotate each crop at random.
    intensity : float
        Change the brightness and the contrast of each nucleus at random, by at most so much in
        natural logarithm, see `retone`.
    compile : bool
        Make batches with a compiled function: the same numbers, in one pass over memory.
    rank, world_size : int
        This process takes every `world_size`-th crop, beginning at `rank`.
    """

    crops: CropDataset
    batch_size: int = 32
    seed: int = 0
    shuffle: bool = False
    crops_per_protein: int | None = None
    augment: bool = False
    rank: int = 0
    world_size: int = 1
    epoch: int = 0
    compile: bool = False
    intensity: float = 0.0

    def __post_init__(self) -> None:
        limit = self.crops_per_protein or len(self.crops)
        counts = self.crops.crop_counts().clamp(max=limit)
        #: crops of one epoch, all processes together; computed once, so that nothing waits later
        self.total = int(counts.sum())
        #: a protein counts as one, however many crops it has
        self.weight = 1 / counts.clamp(min=1).float()
        self._protein_index = self.crops.protein_index.cpu().numpy()

    def __len__(self) -> int:
        return -(-self._share() // self.batch_size)

    def _share(self) -> int:
        if self.shuffle:  # equal shares: processes that train must take as many steps
            return self.total // self.world_size
        return -(-(self.total - self.rank) // self.world_size)

    def order(self) -> Tensor:
        """Return the rows of this epoch, all processes together, on the host."""
        epoch = self.epoch if self.shuffle else 0
        rng = np.random.default_rng([self.seed, epoch])
        rows = rng.permutation(len(self.crops))
        if self.crops_per_protein:
            grouped = pd.Series(rows).groupby(self._protein_index[rows])
            rows = rows[(grouped.cumcount() < self.crops_per_protein).to_numpy()]
        return torch.from_numpy(rows if self.shuffle else np.sort(rows))

    def __iter__(self) -> Iterator[Batch]:
        device = self.crops.images.device
        rows = self.order()[self.rank :: self.world_size][: self._share()].to(device)
        rng = np.random.default_rng([self.seed, self.epoch, self.rank, 1])
        draws = torch.from_numpy(rng.random((len(rows), 3)) < 0.5).to(device)
        spread = rng.uniform(-self.intensity, self.intensity, (len(rows), 2))
        tones = torch.from_numpy(spread).float().to(device)
        for start in range(0, len(rows), self.batch_size):
            part = slice(start, start + self.batch_size)
            turned = draws[part] if self.augment else None
            toned = tones[part] if self.intensity else None
            yield self.crops.batch(rows[part], self.weight, turned, toned, compiled=self.compile)
