"""The linear probe against scikit-learn's logistic regression, on scanned digits."""

import warnings

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from trainers.training.linear_probe import STRENGTHS, Held, fit_probe, fold_numbers, refitted


@pytest.fixture(scope="module")
def digits():
    found = load_digits()
    return found.data + 3.0, found.target


def reference(features, labels, strength):
    """Scikit-learn's probabilities, of features centered and scaled as the docstring says."""
    center = features.mean(axis=0)
    scale = np.sqrt(((features - center) ** 2).sum(axis=1).mean())
    model = LogisticRegression(C=strength, tol=1e-8, max_iter=5000)
    with warnings.catch_warnings():
        # It gives SciPy an option that newer versions of SciPy do not know.
        warnings.filterwarnings("ignore", "Unknown solver options: iprint")
        model.fit((features - center) / scale, labels)
    return lambda other: model.predict_proba((other - center) / scale)


@pytest.mark.parametrize("images", [40, 300])  # fewer than the 64 features, and more
def test_scores_are_those_of_scikit_learn(digits, images):
    features, labels = digits[0][:images], digits[1][:images]
    found = fit_probe(features, labels, classes=10)
    scores = softmax(digits[0][800:] @ found.kernel + found.bias, axis=1)
    expected = reference(features, labels, found.strength)(digits[0][800:])
    np.testing.assert_allclose(scores, expected, atol=2e-3)
    assert found.strength in STRENGTHS


def test_the_penalty_is_the_one_with_the_lowest_held_out_loss(digits):
    features, labels = digits[0][:120], digits[1][:120]
    out = Held(digits[0][120:400], digits[1][120:400])
    found = fit_probe(features, labels, classes=10, held=out)
    losses, top1 = {}, {}
    for strength in STRENGTHS:
        scores = reference(features, labels, strength)(out.features)
        losses[strength] = -np.log(scores[np.arange(280), out.labels]).mean()
        top1[strength] = (scores.argmax(axis=1) == out.labels).mean()
    assert found.strength == min(losses, key=losses.get)
    assert found.top1 == pytest.approx(top1[found.strength], abs=0.005)
    assert found.how == "280 validation images"


def test_a_probe_on_more_images_keeps_its_penalty(digits):
    found = fit_probe(digits[0][:40], digits[1][:40], classes=10)
    kernel, bias = refitted(found, digits[0][:100], digits[1][:100], classes=10)
    scores = softmax(digits[0][800:] @ kernel + bias, axis=1)
    expected = reference(digits[0][:100], digits[1][:100], found.strength)(digits[0][800:])
    np.testing.assert_allclose(scores, expected, atol=2e-3)


def test_images_of_one_group_are_in_one_fold():
    labels = np.repeat([0, 1, 2], 20)
    groups = [f"{label}-{number // 4}" for label, number in zip(labels, range(60), strict=True)]
    folds = fold_numbers(labels, groups)
    for group in set(groups):
        assert len({fold for fold, name in zip(folds, groups, strict=True) if name == group}) == 1
    # Five groups a class, five folds: one of each class in each fold.
    for fold in range(5):
        assert sorted(set(labels[folds == fold])) == [0, 1, 2]
        assert (folds == fold).sum() == 12


def test_without_groups_every_fold_has_its_share_of_each_class():
    labels = np.array([0] * 50 + [1] * 10)
    folds = fold_numbers(labels)
    for label, share in ((0, 10), (1, 2)):
        assert [((folds == k) & (labels == label)).sum() for k in range(5)] == [share] * 5


def test_copies_of_an_image_do_not_flatter_a_grouped_probe():
    rng = np.random.default_rng(0)
    # Noise that says nothing of the class; each image three times.
    features = np.repeat(rng.normal(size=(60, 200)), 3, axis=0)
    labels = np.repeat(rng.integers(0, 2, 60), 3)
    groups = [str(number // 3) for number in range(180)]
    flattered = fit_probe(features, labels, classes=2)
    honest = fit_probe(features, labels, classes=2, groups=groups)
    assert flattered.top1 > 0.9
    assert honest.top1 < 0.7


def test_a_class_without_images_is_never_the_guess(digits):
    few = digits[1] < 3
    features, labels = digits[0][few][:60], digits[1][few][:60]
    found = fit_probe(features, labels, classes=5)
    guess = (digits[0][few] @ found.kernel + found.bias).argmax(axis=1)
    assert found.kernel.shape == (64, 5)
    assert (guess < 3).all()


def test_one_image_has_nothing_to_be_held_out():
    found = fit_probe(np.ones((1, 4)), np.array([1]), classes=2)
    assert found.top1 is None
    assert (np.ones(4) @ found.kernel + found.bias).argmax() == 1


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), "M > 0"),
        (np.zeros((2, 3)), np.zeros(3, int), "labels"),
        (np.full((2, 3), np.nan), np.zeros(2, int), "finite"),
    ],
)
def test_what_cannot_be_fitted_is_refused(features, labels, message):
    with pytest.raises(ValueError, match=message):
        fit_probe(features, labels, classes=2)
