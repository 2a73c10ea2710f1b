"""
What other databases say of proteins unlike a given one, as features for a small classifier.

OpenCell has some hundred proteins a class; the Protein Atlas and UniProt place thousands more, in
other words and often in several places at once. Two simple learners turn those into numbers: a
ridge regression from sequence vectors to places, and the places of remote relatives, weighted by
the bits of their alignments. Neither ever uses a protein of the cluster it answers for, nor one of
a test protein's cluster. A classifier trained on OpenCell then learns what such evidence means in
OpenCell's own words (stacking; Wolpert 1992).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from deepgps_core.measured_labels import PLACES, SOURCES

#: Of the ridge regression, for standardized vectors; chosen on splits that are not reported.
PENALTY = 300.0
#: Bits of alignment that weigh as much as the places' shares do.
PRIOR_BITS = 50.0


def place_shares(cells: pd.Series) -> np.ndarray:
    """
    Return how much of each protein is in each of `PLACES`, (N, P): a set counts in equal parts.

    Examples
    --------
    >>> place_shares(pd.Series(["Cytoplasm;Nucleus", ""]))[:, :3]
    array([[0.5, 0.5, 0. ],
           [0. , 0. , 0. ]])
    """
    indicators = np.array([[place in cell.split(";") for place in PLACES] for cell in cells], float)
    return indicators / np.maximum(indicators.sum(axis=1, keepdims=True), 1)


class PlaceEvidence:
    """
    Features of proteins from the places of other proteins.

    Parameters
    ----------
    proteins : DataFrame, length N
        As `benchmark_proteins` returns them, with cluster_30.
    vectors : ndarray, shape (N, D)
        NaN where a protein has none: it then neither teaches nor gets a regression's answer.
    hits : DataFrame
        `homology.find_relatives` of all against all.
    n_folds : int
        Parts, of whole clusters, that the regression is learned and asked in turn.
    penalty : float
        Of the ridge regression.
    seed : int
        Deals clusters to parts.

    Notes
    -----
    The regression's normal equations are summed once a part; a split only takes the rows of its
    test clusters off, so that hundreds of splits cost seconds.
    """

    def __init__(
        self,
        proteins: pd.DataFrame,
        vectors: np.ndarray,
        hits: pd.DataFrame,
        *,
        n_folds: int = 5,
        penalty: float = PENALTY,
        seed: int = 0,
    ) -> None:
        self.cluster, _ = pd.factorize(proteins["cluster_30"])
        self.n_folds, self.penalty = n_folds, penalty
        rng = np.random.default_rng(seed)
        self.fold = rng.integers(n_folds, size=self.cluster.max() + 1)[self.cluster]
        shares = [place_shares(proteins[f"{source}_places"]) for source in SOURCES]
        opinions = np.stack([part.any(axis=1) for part in shares])  # (sources, N)
        #: a protein's places, averaged over the sources that know it
        self.places = sum(shares) / np.maximum(opinions.sum(axis=0), 1)[:, None]  # (N, P)
        self.weight = opinions.sum(axis=0).astype(float)
        self._prepare_vectors(vectors)
        self._prepare_votes(proteins["protein_id"], hits)
        self.sums = [self._sums(np.flatnonzero(self.fold == part)) for part in range(n_folds)]

    def _prepare_vectors(self, vectors: np.ndarray) -> None:
        self.known = np.isfinite(vectors[:, 0])
        center = vectors[self.known].mean(axis=0)
        scale = vectors[self.known].std(axis=0) + 1e-6
        standard = np.where(self.known[:, None], (vectors - center) / scale, 0.0)
        self.vectors = np.hstack([standard, np.ones((len(vectors), 1))])  # (N, D + 1)

    def _prepare_votes(self, protein_ids: pd.Series, hits: pd.DataFrame) -> None:
        number = pd.Series(np.arange(len(protein_ids)), index=protein_ids.to_numpy())
        known = hits["query"].isin(number.index) & hits["target"].isin(number.index)
        query, target = (number[hits.loc[known, end]].to_numpy() for end in ("query", "target"))
        bits = hits.loc[known, "bits"].to_numpy(float)
        other = self.cluster[query] != self.cluster[target]
        ends = (query[other], target[other])
        self.bits = csr_array((bits[other], ends), shape=(len(number), len(number)))

    def _sums(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the normal equations of some proteins, (D + 1, D + 1) and (D + 1, P)."""
        rows = rows[self.known[rows] & (self.weight[rows] > 0)]
        weighted = self.vectors[rows] * self.weight[rows, None]
        return weighted.T @ self.vectors[rows], weighted.T @ self.places[rows]

    def features(self, rows: np.ndarray, is_test: np.ndarray) -> np.ndarray:
        """
        Describe proteins without using anything related to the test proteins.

        Parameters
        ----------
        rows : ndarray, shape (M,), dtype int
            Proteins to describe.
        is_test : ndarray, shape (N,), dtype bool

        Returns
        -------
        features : ndarray, shape (M, 2 P + 1)
            The regression's answers, log ratios of the votes to the places' shares, and the log
            of all votes' bits.
        """
        hidden = np.isin(self.cluster, np.unique(self.cluster[is_test]))
        answers = self._regression(rows, hidden)
        teaching = (self.weight > 0) & ~hidden
        votes = self.bits[rows] @ (self.places * teaching[:, None])  # (M, P)
        total = votes.sum(axis=1, keepdims=True)
        share = self.places[teaching].mean(axis=0) + 1e-3
        ratio = (votes + PRIOR_BITS * share) / (total + PRIOR_BITS) / share
        return np.hstack([answers, np.log(ratio), np.log1p(total)])

    def _regression(self, rows: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        """Ask regressions that never saw the protein's part; of hidden ones, any part."""
        taken = [self._sums(np.flatnonzero(hidden & (self.fold == f))) for f in range(self.n_folds)]
        left = [(g - h, b - c) for (g, b), (h, c) in zip(self.sums, taken, strict=True)]
        gram, moments = (sum(part) for part in zip(*left, strict=True))
        ridge = self.penalty * np.eye(len(gram))
        answers = self.vectors[rows] @ np.linalg.solve(gram + ridge, moments)
        for part, (own_gram, own_moments) in enumerate(left):
            here = (self.fold[rows] == part) & ~hidden[rows]
            if here.any():
                weights = np.linalg.solve(gram - own_gram + ridge, moments - own_moments)
                answers[here] = self.vectors[rows[here]] @ weights
        return answers
