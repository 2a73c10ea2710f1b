"""Light attention: finds a signal that a mean would lose, and ignores padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone

from deepgps_core.light_attention import LightAttention, LightAttentionClassifier, residue_array


def drawn_proteins(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Noise of 30 to 80 residues; half have a three-residue motif somewhere, sum unchanged."""
    rng = np.random.default_rng(seed)
    matrices, labels, places = [], [], []
    for i in range(n):
        matrix = rng.normal(size=(int(rng.integers(30, 80)), 8))
        place = int(rng.integers(5, len(matrix) - 8))
        if i % 2:
            matrix[place : place + 3, 0] += 4.0
            matrix[:, 0] -= 12.0 / len(matrix)  # the mean over residues does not tell
        matrices.append(matrix.astype(np.float32))
        labels.append(("none", "signal")[i % 2])
        places.append(place)
    return residue_array(matrices), np.array(labels), places


@pytest.fixture(scope="module")
def fitted() -> LightAttentionClassifier:
    """A classifier trained on 200 drawn proteins."""
    X, y, _ = drawn_proteins(200, seed=0)
    model = LightAttentionClassifier(filters=8, projection=0, epochs=15, learning_rate=1e-2)
    return model.fit(X, y)


def test_finds_a_motif_that_the_mean_does_not_show(fitted: LightAttentionClassifier) -> None:
    """Held-out proteins are told apart, though class means of mean vectors are equal."""
    X, y, _ = drawn_proteins(100, seed=1)
    means = np.stack([matrix.mean(axis=0) for matrix in X])
    gap = means[y == "signal"].mean(axis=0) - means[y == "none"].mean(axis=0)
    assert np.abs(gap).max() < 0.15
    p = fitted.predict_proba(X)
    assert p.sum(axis=1) == pytest.approx(1)
    assert (fitted.predict(X) == y).mean() > 0.85
    assert fitted.classes_.tolist() == ["none", "signal"]


def test_attention_lies_on_the_motif(fitted: LightAttentionClassifier) -> None:
    """Weights add to one, and the motif's neighborhood gets more than its share."""
    X, y, places = drawn_proteins(60, seed=2)
    gains = []
    for matrix, label, place in zip(X, y, places, strict=True):
        weights = fitted.attention(matrix)
        assert weights.shape == (len(matrix),) and weights.sum() == pytest.approx(1, abs=1e-4)
        if label == "signal":
            near = slice(max(0, place - 5), place + 8)
            gains.append(weights[near].sum() / (len(weights[near]) / len(weights)))
    assert np.mean(gains) > 1.3


def test_padding_changes_nothing(fitted: LightAttentionClassifier) -> None:
    """A protein gets the same probabilities alone and beside a longer one."""
    X, _, _ = drawn_proteins(20, seed=3)
    together = fitted.predict_proba(X)
    alone = np.concatenate([fitted.predict_proba(X[i : i + 1]) for i in range(len(X))])
    assert together == pytest.approx(alone, abs=1e-5)


def test_same_seed_same_classifier_and_clone() -> None:
    """Training is repeatable, does not disturb torch's generator, and clones keep settings."""
    X, y, _ = drawn_proteins(40, seed=4)
    model = LightAttentionClassifier(filters=4, epochs=2, projection=4, seed=7)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = model.fit(X, y).predict_proba(X)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(first, clone(model).fit(X, y).predict_proba(X))
    other = clone(model).set_params(seed=8).fit(X, y).predict_proba(X)
    assert not np.allclose(first, other)


def test_members_are_averaged() -> None:
    """Two members give the mean of what each gives alone."""
    X, y, _ = drawn_proteins(40, seed=5)
    model = LightAttentionClassifier(filters=4, epochs=2, projection=4)
    both = clone(model).set_params(members=2).fit(X, y)
    second = clone(model).set_params(seed=0).fit(X, y)
    second.networks_ = both.networks_[1:]
    first = clone(model).fit(X, y).predict_proba(X)
    mean = (first + second.predict_proba(X)) / 2
    assert both.predict_proba(X) == pytest.approx(mean, abs=1e-6)


def test_long_proteins_lose_their_middle(fitted: LightAttentionClassifier) -> None:
    """What stands between the first and the last half of the limit has no say."""
    model = clone(fitted).set_params(max_residues=20, epochs=1)
    X, y, _ = drawn_proteins(20, seed=6)
    model.fit(X, y)
    changed = residue_array([matrix.copy() for matrix in X])
    for matrix in changed:
        matrix[10:-10] = 99.0
    assert np.array_equal(model.predict_proba(X), model.predict_proba(changed))


def test_parameter_count_of_the_published_size() -> None:
    """Two convolutions of 1024 x 1024 x 9, and 2048 -> 32 -> K, as in the authors' description."""
    with torch.device("meta"):
        network = LightAttention(1024, 10, 1024)
    expected = 2 * (1024 * 1024 * 9 + 1024) + 2048 * 32 + 32 + 32 * 10 + 10
    assert sum(p.numel() for p in network.parameters()) == expected


def test_wrong_input_is_refused() -> None:
    """Vectors instead of matrices, one class, unequal lengths: refused with a message."""
    X, y, _ = drawn_proteins(10, seed=7)
    with pytest.raises(ValueError, match=r"shape \(L, D\)"):
        LightAttentionClassifier().fit(residue_array([np.zeros(3)] * 10), y)
    with pytest.raises(ValueError, match="two classes"):
        LightAttentionClassifier().fit(X, np.full(10, "none"))
    with pytest.raises(ValueError, match="as many labels"):
        LightAttentionClassifier().fit(X, y[:5])
