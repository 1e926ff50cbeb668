"""The loss against NumPy."""

import numpy as np
import pytest
from scipy.special import log_softmax

from trainers.keras import keras
from trainers.losses import CrossEntropy

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


def test_survives_serialisation():
    loss = keras.losses.deserialize(keras.losses.serialize(CrossEntropy(0.2)))
    assert isinstance(loss, CrossEntropy)
    assert loss.label_smoothing == 0.2
