"""Scores: against scikit-image and scikit-learn, and against answers known by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_dilation
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn import metrics as reference

from deepgps_core.metrics import (
    auprc,
    auroc,
    average_by,
    classification_metrics,
    multiclass_metrics,
    nuclear_ratio,
    pooled_psnr,
    psnr,
    ssim,
)


@pytest.fixture
def images() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    target = rng.uniform(size=(4, 16, 20))
    noise = rng.normal(scale=[[[0.02]], [[0.1]], [[0.2]], [[0.5]]], size=target.shape)
    return target + noise, target


def test_image_scores_equal_scikit_image(images: tuple[np.ndarray, np.ndarray]) -> None:
    """Each image scores as scikit-image scores it alone, at the declared range."""
    predicted, target = images
    for data_range in (1.0, 255.0):
        by_hand = [peak_signal_noise_ratio(t, p, data_range=data_range)
                   for p, t in zip(predicted, target, strict=True)]  # fmt: skip
        assert psnr(predicted, target, data_range) == pytest.approx(by_hand)
        by_hand = [structural_similarity(t, p, data_range=data_range)
                   for p, t in zip(predicted, target, strict=True)]  # fmt: skip
        assert ssim(predicted, target, data_range) == pytest.approx(by_hand)


def test_each_image_may_have_its_own_range(images: tuple[np.ndarray, np.ndarray]) -> None:
    """A range for each image is used for that image only."""
    predicted, target = images
    ranges = np.array([1.0, 2.0, 1.0, 4.0])
    assert psnr(predicted, target, ranges)[3] == pytest.approx(psnr(predicted, target, 4.0)[3])
    assert ssim(predicted, target, ranges)[1] == pytest.approx(ssim(predicted, target, 2.0)[1])
    assert ssim(predicted, target, ranges)[0] == pytest.approx(ssim(predicted, target, 1.0)[0])


def test_known_answers() -> None:
    """An error of 0.1 is 20 dB; equal images are infinite dB and SSIM 1; 14.5 dB is RMSE .188."""
    target = np.linspace(0, 0.9, 128).reshape(2, 8, 8)
    assert psnr(target + 0.1, target, 1.0) == pytest.approx([20, 20])
    assert np.isinf(psnr(target, target, 1.0)).all()
    assert ssim(target, target, 1.0) == pytest.approx([1, 1])
    assert psnr(target + 0.188, target, 1.0) == pytest.approx([14.5, 14.5], abs=0.05)


def test_images_do_not_influence_each_other(images: tuple[np.ndarray, np.ndarray]) -> None:
    """Scores move with their images when these change places."""
    predicted, target = images
    order = [2, 0, 3, 1]
    for score in (psnr, ssim):
        assert score(predicted[order], target[order], 1.0) == pytest.approx(
            score(predicted, target, 1.0)[order]
        )


def test_pooled_score_is_the_published_one(images: tuple[np.ndarray, np.ndarray]) -> None:
    """Pooling equals scikit-image on the whole stack, and lies below the mean (Jensen)."""
    predicted, target = images
    pooled = pooled_psnr(predicted, target)
    assert pooled == pytest.approx(peak_signal_noise_ratio(target, predicted, data_range=1))
    assert pooled < psnr(predicted, target, 1.0).mean() - 1


@pytest.mark.parametrize("score", [psnr, ssim, pooled_psnr])
def test_wrong_shapes_and_ranges_are_refused(score) -> None:  # type: ignore[no-untyped-def]
    """Unequal shapes, a single image and a range of zero are errors, not broadcasts."""
    stack = np.zeros((2, 8, 8))
    for predicted, target, data_range in (
        (stack, stack[:1], 1.0), (stack[0], stack[0], 1.0), (stack, stack, 0.0)
    ):  # fmt: skip
        with pytest.raises(ValueError, match="need equal shapes|data_range"):
            score(predicted, target, data_range)


scored = st.integers(2, 40).flatmap(
    lambda n: st.tuples(arrays(bool, n), arrays(np.int8, n, elements=st.integers(0, 6)))
)


@given(scored)
def test_areas_equal_scikit_learn(case: tuple[np.ndarray, np.ndarray]) -> None:
    """AUROC and AUPRC agree with scikit-learn, ties included; undefined ones are nan."""
    is_positive, score = case
    if 0 < is_positive.sum() < len(is_positive):
        assert auroc(is_positive, score) == pytest.approx(
            reference.roc_auc_score(is_positive, score)
        )
    else:
        assert np.isnan(auroc(is_positive, score))
    if is_positive.any():
        expected = reference.average_precision_score(is_positive, score)
        assert auprc(is_positive, score) == pytest.approx(expected)
    else:
        assert np.isnan(auprc(is_positive, score))


def test_table_metrics_equal_scikit_learn() -> None:
    """All six agree with scikit-learn, the positive class being the one that is named."""
    rng = np.random.default_rng(0)
    truth = np.array(["Cytoplasm", "Nucleus"])[rng.integers(2, size=80)]
    p_cytoplasm = np.clip((truth == "Cytoplasm") * 0.3 + rng.uniform(size=80) * 0.7, 0, 1)
    found = classification_metrics(truth, p_cytoplasm)
    called = np.where(p_cytoplasm >= 0.5, "Cytoplasm", "Nucleus")
    assert found == pytest.approx(
        {
            "accuracy": reference.accuracy_score(truth, called),
            "specificity": reference.recall_score(truth, called, pos_label="Nucleus"),
            "sensitivity": reference.recall_score(truth, called, pos_label="Cytoplasm"),
            "f1": reference.f1_score(truth, called, pos_label="Cytoplasm"),
            "auroc": reference.roc_auc_score(truth == "Cytoplasm", p_cytoplasm),
            "auprc": reference.average_precision_score(truth == "Cytoplasm", p_cytoplasm),
        }
    )
    other = classification_metrics(truth, 1 - p_cytoplasm, positive="Nucleus")
    assert other["sensitivity"] == pytest.approx(found["specificity"])
    assert other["auroc"] == pytest.approx(found["auroc"])


def test_published_row() -> None:
    """MULocDeep's row of Table 1 follows from 33 of 40 and 17 of 23 proteins."""
    truth = np.array(["Cytoplasm"] * 40 + ["Nucleus"] * 23)
    called = np.r_[np.ones(33), np.zeros(7), np.ones(6), np.zeros(17)]
    found = classification_metrics(truth, called)
    assert [round(found[k], 3) for k in ("accuracy", "specificity", "sensitivity", "f1")] == [
        0.794, 0.739, 0.825, 0.835,
    ]  # fmt: skip


def test_threshold_and_undefined_rates() -> None:
    """One class only: its own rate is known, the other's is nan; empty input is an error."""
    found = classification_metrics(["Cytoplasm"] * 2, np.array([0.5, 0.49]))
    assert found["sensitivity"] == 0.5 and np.isnan(found["specificity"])
    assert np.isnan(found["auroc"]) and found["auprc"] == 1
    with pytest.raises(ValueError, match="equal lengths above 0"):
        classification_metrics([], np.array([]))


def test_crops_are_averaged_by_protein() -> None:
    """A protein with many crops weighs as much as one with a single crop."""
    means = average_by(["b", "a", "b", "b"], np.array([[1.0, 0], [0.5, 0], [0, 0], [0.5, 3]]))
    assert list(means.index) == ["a", "b"]
    assert means.to_numpy() == pytest.approx(np.array([[0.5, 0], [0.5, 1]]))
    assert average_by(["b", "a", "b"], np.array([1.0, 4, 2]))[0].tolist() == [4, 1.5]


def test_several_classes() -> None:
    """The paper's Fig. 4d: 66 of 105 exactly right is 0.629, and 0.81 one against the rest."""
    labels = ["Cytoplasm", "Vesicles", "ER", "Nucleoplasm"]
    counts = np.array([[26, 3, 1, 10], [8, 14, 3, 3], [1, 2, 11, 0], [6, 2, 0, 15]])
    truth = np.repeat(labels, counts.sum(axis=1))
    called = np.concatenate([np.repeat(np.arange(4), row) for row in counts])
    found = multiclass_metrics(truth, np.eye(4)[called], labels)
    predicted = np.array(labels)[called]
    assert found["exact_accuracy"] == pytest.approx(66 / 105)
    assert found["one_vs_rest_accuracy"] == pytest.approx(1 - 2 * (1 - 66 / 105) / 4)
    assert found["macro_f1"] == pytest.approx(reference.f1_score(truth, predicted, average="macro"))
    assert found["balanced_accuracy"] == pytest.approx(
        reference.balanced_accuracy_score(truth, predicted)
    )


def test_one_vs_rest_area_equals_scikit_learn() -> None:
    """The mean one-vs-rest AUROC is scikit-learn's macro average; bad input is refused."""
    rng = np.random.default_rng(1)
    labels = ["a", "b", "c"]
    truth = np.array(labels)[rng.integers(3, size=60)]
    p = rng.dirichlet(np.ones(3), size=60)
    expected = reference.roc_auc_score(truth, p, multi_class="ovr", labels=labels)
    assert multiclass_metrics(truth, p, labels)["one_vs_rest_auroc"] == pytest.approx(expected)
    with pytest.raises(ValueError, match="label 'c' is none of"):
        multiclass_metrics(truth, p[:, :2], ["a", "b"])
    with pytest.raises(ValueError, match="probabilities"):
        multiclass_metrics(truth, p[:10], labels)


@given(arrays(float, (2, 24, 24), elements=st.floats(0.01, 1)), st.floats(0.1, 10))
def test_nuclear_ratio_follows_the_definition(images: np.ndarray, factor: float) -> None:
    """A ring is what lies within `ring_px` of the mask; scaling an image changes nothing."""
    masks = np.zeros(images.shape, bool)
    masks[0, 9:15, 8:13], masks[1, 4:9, 10:20] = True, True
    ratio = nuclear_ratio(images, masks, ring_px=3)
    disk = np.hypot(*np.mgrid[-3:4, -3:4]) <= 3
    for image, mask, value in zip(images, masks, ratio, strict=True):
        ring = binary_dilation(mask, disk) & ~mask
        assert value == pytest.approx(image[mask].mean() / image[ring].mean())
    np.testing.assert_allclose(nuclear_ratio(factor * images, masks, ring_px=3), ratio)


def test_nuclear_ratio_of_no_nucleus_is_unknown() -> None:
    """An empty mask gives NaN, and shapes that differ are refused."""
    assert np.isnan(nuclear_ratio(np.ones((1, 8, 8)), np.zeros((1, 8, 8), bool))).all()
    with pytest.raises(ValueError, match="masks"):
        nuclear_ratio(np.ones((1, 8, 8)), np.zeros((1, 8, 9), bool))
