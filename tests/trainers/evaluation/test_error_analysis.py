"""Errors, confusions and suspect labels, on data whose faults are known."""

import numpy as np
import pytest
from sklearn import metrics
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from trainers.evaluation.error_analysis import (
    confident_errors,
    confusions,
    suspect_labels,
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
    print(f"precision {len(hits) / len(found):.2f}, recall {len(hits) / len(turned):.2f}")
    for one in found[:20]:
        assert one.label == given[one.image]
        assert one.suggested == scores[one.image].argmax()


def test_suspects_are_those_of_cleanlab_in_its_order():
    """cleanlab 2.9.0: `find_label_issues`, `confident_learning` ranked by `normalized_margin`."""
    scores, labels = sample(1)
    random = np.random.default_rng(2)
    turned = random.choice(len(labels), 40, replace=False)
    labels[turned] = (labels[turned] + random.integers(1, 4, 40)) % 4
    # fmt: off
    expected = [
        255, 249, 398, 190, 516, 460, 61, 574, 381, 568, 556, 393, 116, 342, 129, 438, 327, 226,
        31, 158, 506, 416, 168, 107, 151, 374, 234, 87,
    ]
    # fmt: on
    assert [one.image for one in suspect_labels(scores, labels)] == expected


def test_wrong_labels_of_a_trained_classifier_are_found():
    """Scores out of five folds, on digits of which 9 % are labeled as the next one."""
    digits = load_digits()
    random = np.random.default_rng(0)
    turned = random.random(len(digits.target)) < 0.09
    given = np.where(turned, (digits.target + 1) % 10, digits.target)
    classifier = KNeighborsClassifier(15, weights="distance")
    scores = cross_val_predict(classifier, digits.data, given, method="predict_proba")
    found = np.array([one.image for one in suspect_labels(scores, given)])
    precision, recall = turned[found].mean(), turned[found].sum() / turned.sum()
    print(f"precision {precision:.2f}, recall {recall:.2f}")
    assert precision > 0.75
    assert recall > 0.75
    assert turned[found[:50]].mean() > precision, "the most suspect come first"


def test_a_label_with_the_higher_score_may_be_suspect():
    """All images are predicted as class 0; image 2 has a lower score for it than its class."""
    first = np.array([0.60, 0.60, 0.52, 0.54, 0.54, 0.54])
    scores = np.stack([first, 1 - first], axis=1)
    (found,) = suspect_labels(scores, [0, 0, 0, 1, 1, 1])
    assert (found.image, found.label, found.suggested) == (2, 0, 1)
    assert found.margin == pytest.approx(0.04)


def test_equal_scores_reach_their_own_mean():
    scores = np.tile(np.array([[0.9, 0.1]], np.float32), (14, 1))
    assert len(suspect_labels(scores, [0] * 7 + [1] * 7)) == 7


def test_a_class_without_images_is_never_suggested():
    scores, labels = sample(5, classes=3)
    labels = np.where(labels == 2, 1, labels)
    assert {one.suggested for one in suspect_labels(scores, labels)} <= {0, 1}


def test_arrays_that_do_not_fit():
    for function in (confident_errors, confusions, suspect_labels):
        with pytest.raises(ValueError, match=r"got \(2, 2\) and \(1,\)"):
            function(np.zeros((2, 2)), [0])
        with pytest.raises(ValueError, match="no examples"):
            function(np.zeros((0, 2)), [])
