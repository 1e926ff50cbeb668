"""The loss and the training metric against NumPy and Keras, on hard and mixed labels."""

import numpy as np
import pytest
from scipy.special import expit, log_softmax

from trainers.config import Config, TrainConfig
from trainers.keras import keras
from trainers.tasks.classification import Classification
from trainers.training.losses import BinaryCrossEntropy, CrossEntropy, make_loss, top1_hits

LOGITS = np.random.default_rng(0).normal(0, 5, (7, 4)).astype(np.float32)
LABELS = np.array([0, 3, 2, 1, 1, 0, 3])


def by_hand(smoothing: float) -> np.ndarray:
    targets = (1 - smoothing) * np.eye(4)[LABELS] + smoothing / 4
    return -(targets * log_softmax(LOGITS.astype(np.float64), axis=-1)).sum(axis=-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("shape", [(7,), (7, 1)])
def test_equals_cross_entropy_of_smoothed_targets(smoothing, shape):
    loss = CrossEntropy(smoothing)
    each = loss.call(LABELS.reshape(shape), LOGITS).numpy()
    np.testing.assert_allclose(each, by_hand(smoothing), rtol=1e-5)
    assert each.dtype == np.float32
    assert float(loss(LABELS, LOGITS)) == pytest.approx(by_hand(smoothing).mean(), rel=1e-5)


def test_large_logits_stay_finite():
    loss = CrossEntropy(0.1)
    value = float(loss(np.array([0]), np.array([[-1e4, 1e4]], np.float32)))
    assert value == pytest.approx(0.9 * 2e4 + 0.1 * 1e4)


def test_half_precision_logits_are_computed_in_full():
    half = LOGITS.astype(np.float16)
    full = CrossEntropy()(LABELS, half.astype(np.float32))
    assert float(CrossEntropy()(LABELS, half)) == float(full)


def test_survives_serialization():
    loss = keras.losses.deserialize(keras.losses.serialize(CrossEntropy(0.2)))
    assert isinstance(loss, CrossEntropy)
    assert loss.label_smoothing == 0.2


SOFT = np.random.default_rng(1).dirichlet(np.ones(4), 7).astype(np.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_equals_keras_on_hard_and_soft_labels(smoothing):
    ours = CrossEntropy(smoothing)
    soft = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    assert float(ours(SOFT, LOGITS)) == pytest.approx(float(soft(SOFT, LOGITS)), rel=1e-6)
    one_hot = np.eye(4, dtype=np.float32)[LABELS]
    assert float(ours(LABELS, LOGITS)) == pytest.approx(float(soft(one_hot, LOGITS)), rel=1e-6)
    np.testing.assert_allclose(ours.call(one_hot, LOGITS), ours.call(LABELS, LOGITS), rtol=1e-5)
    if not smoothing:
        hard = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        assert float(ours(LABELS, LOGITS)) == pytest.approx(float(hard(LABELS, LOGITS)), rel=1e-6)


def test_soft_labels_of_half_precision_are_computed_in_full():
    each = CrossEntropy(0.1).call(SOFT.astype(np.float16), LOGITS.astype(np.float16))
    targets = 0.9 * SOFT.astype(np.float16).astype(float) + 0.1 / 4
    expected = -(targets * log_softmax(LOGITS.astype(np.float16).astype(float), -1)).sum(-1)
    np.testing.assert_allclose(each, expected, rtol=1e-4)


def test_hits_are_at_the_label_or_its_greatest_weight():
    expected = LOGITS.argmax(1) == LABELS
    assert 0 < expected.sum() < 7
    for labels in (LABELS, LABELS[:, None], LABELS.astype(np.float32), np.eye(4)[LABELS]):
        np.testing.assert_array_equal(top1_hits(labels, LOGITS), expected)
    np.testing.assert_array_equal(top1_hits(SOFT, LOGITS), LOGITS.argmax(1) == SOFT.argmax(1))


@pytest.mark.parametrize("soft", [False, True])
def test_fit_counts_loss_and_top1_of_either_kind_of_label(soft):
    task, config = Classification(), Config(name="t", train=TrainConfig(label_smoothing=0.1))
    model = keras.Sequential([keras.Input((4,)), keras.layers.Activation("linear")])
    model.compile(loss=task.loss(config), metrics=task.metrics())
    labels = SOFT if soft else LABELS
    found = model.evaluate(LOGITS, labels, batch_size=3, verbose=0, return_dict=True)
    classes = SOFT.argmax(1) if soft else LABELS
    assert found["top1"] == pytest.approx((LOGITS.argmax(1) == classes).mean())
    weights = 0.9 * (SOFT if soft else np.eye(4)[LABELS]) + 0.1 / 4
    expected = -(weights * log_softmax(LOGITS.astype(float), -1)).sum(-1).mean()
    assert found["loss"] == pytest.approx(expected, rel=1e-5)


def test_the_metric_survives_serialization():
    (metric,) = Classification().metrics()
    again = keras.metrics.deserialize(keras.metrics.serialize(metric))
    again.update_state(LABELS, LOGITS)
    assert float(again.result()) == pytest.approx((LOGITS.argmax(1) == LABELS).mean())
    assert again.name == "top1"


def binary_by_hand(present: np.ndarray, smoothing: float = 0.0) -> np.ndarray:
    targets = present * (1 - smoothing) + smoothing / 4
    chance = expit(LOGITS.astype(np.float64))
    return -(targets * np.log(chance) + (1 - targets) * np.log1p(-chance)).mean(-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("shape", [(7,), (7, 1)])
def test_binary_is_one_sigmoid_a_class(smoothing, shape):
    each = BinaryCrossEntropy(smoothing).call(LABELS.reshape(shape), LOGITS).numpy()
    np.testing.assert_allclose(each, binary_by_hand(np.eye(4)[LABELS], smoothing), rtol=1e-4)
    assert each.dtype == np.float32
    one_hot = np.eye(4, dtype=np.float32)[LABELS]
    np.testing.assert_array_equal(BinaryCrossEntropy(smoothing).call(one_hot, LOGITS), each)
    theirs = keras.losses.BinaryCrossentropy(from_logits=True)
    if not smoothing:
        assert float(theirs(one_hot, LOGITS)) == pytest.approx(each.mean(), rel=1e-5)


def test_binary_has_every_class_of_a_mixed_image_present():
    mixed = np.zeros((7, 4), np.float32)
    rows = np.arange(7)
    mixed[rows, LABELS] = 0.97
    mixed[rows, (LABELS + 1) % 4] = 0.03
    each = BinaryCrossEntropy(0.1).call(mixed, LOGITS)
    np.testing.assert_allclose(each, binary_by_hand(mixed > 0, 0.1), rtol=1e-4)


def test_binary_survives_large_logits_half_precision_and_serialization():
    loss = keras.losses.deserialize(keras.losses.serialize(BinaryCrossEntropy(0.2)))
    assert isinstance(loss, BinaryCrossEntropy)
    assert loss.label_smoothing == 0.2
    huge = BinaryCrossEntropy()(np.array([0]), np.array([[-1e4, 1e4]], np.float32))
    assert float(huge) == pytest.approx(1e4)
    half = LOGITS.astype(np.float16)
    full = float(loss(LABELS, half.astype(np.float32)))
    assert float(loss(LABELS, half)) == full


@pytest.mark.parametrize(("name", "kind"), [("softmax", CrossEntropy), ("bce", BinaryCrossEntropy)])
def test_the_recipe_chooses_the_loss(name, kind):
    train = TrainConfig(loss=name, label_smoothing=0.1)
    loss = make_loss(train)
    assert type(loss) is kind
    assert type(Classification().loss(Config(name="t", train=train))) is kind
    assert loss.label_smoothing == 0.1
