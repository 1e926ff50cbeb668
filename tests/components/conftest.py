"""Predictions tables without a model: labels and scores drawn from a seed."""

from collections.abc import Callable

import numpy as np
import pytest

from trainers.predictions import Predictions

CLASSES = tuple(str(digit) for digit in range(10))


@pytest.fixture
def answers() -> Callable[..., Predictions]:
    """`answers(accuracy)`: 400 examples of 10 classes, the same labels every time."""

    def make(accuracy: float, *, seed: int = 0) -> Predictions:
        labels = np.arange(400, dtype=np.int32) % 10
        rng = np.random.default_rng(seed)
        wrong = rng.permutation(400) >= round(400 * accuracy)
        guess = np.where(wrong, (labels + 1) % 10, labels)
        scores = np.full((400, 10), 0.01, np.float32)
        scores[np.arange(400), guess] = 0.91
        ids = np.array([f"{i:064x}" for i in range(400)], dtype=object)
        bright = np.where(np.arange(400) % 2, "dark", "bright").astype(object)
        return Predictions(ids, labels, scores, {"slice/brightness": bright})

    return make
