"""Errors, confusions, suspect labels and weak slices, on data whose faults are known."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from trainers.evaluation.error_analysis import (
    confident_errors,
    confusions,
    suspect_labels,
    weak_slices,
)


def sample(seed=0, count=600, classes=4, sharpness=4.0):
    """A good model: (scores, true labels)."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    logits = random.normal(0, 1, (count, classes))
    logits[np.arange(count), labels] += sharpness
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), labels


def test_errors_are_ranked_by_the_score_of_the_wrong_class():
    scores, labels = sample(sharpness=1.0)
    found = confident_errors(scores, labels)
    wrong = scores.argmax(1) != labels
    assert set(found.tolist()) == set(np.flatnonzero(wrong).tolist())
    assert (np.diff(scores[found].max(1)) <= 0).all()
    assert confident_errors(np.eye(3), [0, 1, 2]).shape == (0,)


def test_confusions_are_the_matrix():
    scores, labels = sample(sharpness=1.0)
    matrix = metrics.confusion_matrix(labels, scores.argmax(1))
    found = confusions(scores, labels)
    assert [len(one.images) for one in found] == sorted(
        (matrix[i, j] for i in range(4) for j in range(4) if i != j and matrix[i, j]), reverse=True
    )
    for one in found:
        assert len(one.images) == matrix[one.label, one.predicted]
        assert one.share.value == matrix[one.label, one.predicted] / matrix[one.label].sum()
        assert (labels[one.images] == one.label).all()
        assert (np.diff(scores[one.images, one.predicted]) <= 0).all()


def confident_joint(scores, labels):
    """Images off the diagonal of the confident joint, image by image (arXiv 1911.00068, eq. 1)."""
    classes = range(scores.shape[1])
    mean = {j: scores[labels == j, j].mean() for j in classes if (labels == j).any()}
    found = set()
    for image, (row, label) in enumerate(zip(scores, labels, strict=True)):
        confident = [j for j in mean if row[j] >= mean[j]]
        if confident and max(confident, key=lambda j: row[j]) != label:
            found.add(image)
    return found


@pytest.mark.parametrize("sharpness", [0.5, 2.0, 4.0])
def test_suspect_labels_are_off_the_diagonal_of_the_confident_joint(sharpness):
    scores, labels = sample(3, sharpness=sharpness)
    found = suspect_labels(scores, labels)
    assert {one.image for one in found} == confident_joint(scores, labels)
    margins = [one.margin for one in found]
    assert margins == sorted(margins)


def test_wrong_labels_are_found():
    scores, labels = sample(1)
    random = np.random.default_rng(2)
    turned = random.choice(len(labels), 40, replace=False)
    given = labels.copy()
    given[turned] = (labels[turned] + random.integers(1, 4, 40)) % 4
    found = suspect_labels(scores, given)
    hits = {one.image for one in found} & set(turned.tolist())
    assert len(hits) >= 0.8 * len(found), "precision"
    assert len(hits) >= 0.6 * len(turned), "recall"
    for one in found[:20]:
        assert one.label == given[one.image]
        assert one.suggested == scores[one.image].argmax()


def test_equal_scores_reach_their_own_mean():
    scores = np.tile(np.array([[0.9, 0.1]], np.float32), (14, 1))
    assert len(suspect_labels(scores, [0] * 7 + [1] * 7)) == 7


def test_a_class_without_images_is_never_suggested():
    scores, labels = sample(5, classes=3)
    labels = np.where(labels == 2, 1, labels)
    assert {one.suggested for one in suspect_labels(scores, labels)} <= {0, 1}


def test_a_weak_cross_is_found_before_its_parts():
    random = np.random.default_rng(0)
    light = random.choice(["dark", "bright"], 2000)
    size = random.choice(["small", "large"], 2000)
    weak = (light == "dark") & (size == "small")
    right = random.random(2000) < np.where(weak, 0.5, 0.95)
    found, tried = weak_slices(right, {"light": light, "size": size})
    assert tried == 8
    assert found[0].values == {"light": "dark", "size": "small"}
    assert found[0].accuracy.value == right[weak].mean()
    assert found[0].outside == right[~weak].mean()
    table = [[right[weak].sum(), (~right[weak]).sum()], [right[~weak].sum(), (~right[~weak]).sum()]]
    assert found[0].p_adjusted == pytest.approx(8 * stats.fisher_exact(table).pvalue)


def test_equal_slices_are_rarely_called_weak():
    claims = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        slices = {key: random.choice(list("abc"), 600) for key in ("x", "y")}
        found, tried = weak_slices(random.random(600) < 0.9, slices)
        assert tried == 6 + 9
        claims += any(one.p_adjusted < 0.05 for one in found)
    assert claims <= 10


def test_small_slices_and_repetitions_are_not_tried():
    slices = {
        "rare": np.array(["x"] * 10 + ["y"] * 190),
        "twin": np.array(["u"] * 10 + ["v"] * 190),
    }
    assert weak_slices(np.ones(200), slices) == ([], 0)
    halves = np.array(["a", "b"] * 100)
    found, tried = weak_slices(np.ones(200), {"one": halves, "same": halves})
    assert (found, tried) == ([], 4)


def test_arrays_that_do_not_fit():
    for function in (confident_errors, confusions, suspect_labels):
        with pytest.raises(ValueError, match=r"got \(2, 2\) and \(1,\)"):
            function(np.zeros((2, 2)), [0])
        with pytest.raises(ValueError, match="no examples"):
            function(np.zeros((0, 2)), [])
