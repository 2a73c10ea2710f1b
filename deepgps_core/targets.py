"""Labels of proteins as numbers for the losses, and a multi-label head's answers as words."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from deepgps_core.dataset import InputError


def label_numbers(proteins: pd.DataFrame, labels: Sequence[str], source: str) -> Tensor:
    """
    Return the class number of each protein, -1 where its label is empty.

    Raises
    ------
    InputError
        If a protein's label is none of `labels`.
    """
    number = {label: i for i, label in enumerate(labels)} | {"": -1}
    for protein_id, label in zip(proteins["protein_id"], proteins["label"], strict=True):
        if label not in number:
            raise InputError(
                f"{source}: protein {protein_id!r} has label {label!r}, which the model "
                f"({', '.join(labels)}) does not know; leave it out or name the label."
            )
    return torch.tensor([number[label] for label in proteins["label"]], dtype=torch.int64)


def location_targets(proteins: pd.DataFrame, labels: Sequence[str]) -> Tensor:
    """
    Return (proteins, K) with 1 for each of `labels` among a protein's locations, float32.

    Examples
    --------
    >>> table = pd.DataFrame({"locations": ["Cytoplasm;Nucleus", "Nucleus", "Membrane"]})
    >>> location_targets(table, ["Cytoplasm", "Nucleus"]).tolist()
    [[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]
    """
    places = [set(text.split(";")) for text in proteins["locations"]]
    return torch.tensor([[float(label in of_one) for label in labels] for of_one in places])


def called_places(probabilities: Tensor, labels: Sequence[str]) -> list[str]:
    """
    Name the places that a multi-label head calls: those of probability 1/2 or more.

    Parameters
    ----------
    probabilities : Tensor, shape (N, K)

    Returns
    -------
    places : list of str
        With semicolons, as a dataset's locations; the most probable place alone if none
        reaches 1/2.

    Examples
    --------
    >>> called_places(torch.tensor([[0.9, 0.6], [0.2, 0.4]]), ["Cytoplasm", "Nucleus"])
    ['Cytoplasm;Nucleus', 'Nucleus']
    """
    called = probabilities >= probabilities.amax(dim=1, keepdim=True).clamp(max=0.5)
    return [
        ";".join(label for label, yes in zip(labels, row, strict=True) if yes)
        for row in called.tolist()
    ]
