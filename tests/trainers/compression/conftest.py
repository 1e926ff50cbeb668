"""One small network trained on real digits, shared by this folder's tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from trainers.config import CompressConfig, Config, DataConfig, ModelConfig
from trainers.keras import keras
from trainers.models import build_model

TRAIN = 1437


class Fit:
    """A FineTune: plain `fit` on digits, without augmentation."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, batch: int = 64) -> None:
        self._data = images.astype(np.float32), labels
        self._batch = batch
        self.steps_per_epoch = -(-len(labels) // batch)

    def __call__(
        self,
        model: keras.Model,
        *,
        epochs: int,
        learning_rate: float,
        callbacks: Sequence[Any] = (),
    ) -> None:
        steps = epochs * self.steps_per_epoch
        schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
        model.compile(
            keras.optimizers.Adam(schedule),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        model.fit(
            *self._data,
            batch_size=self._batch,
            epochs=epochs,
            callbacks=list(callbacks),
            verbose=0,
        )


@pytest.fixture(scope="session")
def digits():
    """(images uint8 (1797, 8, 8, 3), labels): the real scans, gray in three channels."""
    data = load_digits()
    gray = np.round(data.images * (255 / 16)).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=-1), data.target.astype(np.int64)


@pytest.fixture(scope="session")
def fine_tune(digits):
    images, labels = digits
    return Fit(images[:TRAIN], labels[:TRAIN])


@pytest.fixture(scope="session")
def settings():
    return CompressConfig(sparsity=0.7, prune_epochs=6, qat_epochs=2, learning_rate=2e-3)


@pytest.fixture(scope="session")
def trained(fine_tune, once):
    """A small convolutional network, about 95 % right."""
    config = Config(
        name="digits",
        data=DataConfig(image_size=(8, 8)),
        model=ModelConfig(name="cnn", options={"width": 16, "depth": 2}),
    )
    keras.utils.set_random_seed(0)
    model = build_model(config, 10)

    def train(folder: Path) -> None:
        fine_tune(model, epochs=8, learning_rate=5e-3)
        np.savez(folder / "weights.npz", *model.get_weights())

    folder = once("compress", train)
    with np.load(folder / "weights.npz") as file:
        model.set_weights([file[name] for name in file.files])
    return model


@pytest.fixture(scope="session")
def top1(digits):
    """model -> fraction right of the held-out digits."""
    images, labels = digits

    def measure(model) -> float:
        logits = model(tf.constant(images[TRAIN:], tf.float32), training=False).numpy()
        return float((logits.argmax(axis=1) == labels[TRAIN:]).mean())

    return measure
