"""Exponential moving average of a model's weights, which is often better than the last ones."""

from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

from trainers.keras import keras


class MovingAverage(tf.Module):
    """`average = decay * average + (1 - decay) * weights` after every step.

    Over all float weights, moving statistics too. The decay grows to its value as
    `(1 + step) / (10 + step)`, so that the first, random weights are soon forgotten (as
    `tf.train.ExponentialMovingAverage` does with `num_updates`).

    Args:
      model: its weights are followed; make this inside the strategy's scope.
      decay: in [0, 1).
    """

    def __init__(self, model: keras.Model, decay: float) -> None:
        super().__init__()
        self._decay = decay
        self._weights = [weight for weight in model.weights if weight.dtype.is_floating]
        self.shadows = [tf.Variable(w.read_value(), trainable=False) for w in self._weights]

    def update(self, step: tf.Tensor) -> None:
        """Adds the weights after `step` steps; call it in cross-replica context."""
        done = tf.cast(step, tf.float32)
        decay = tf.minimum(self._decay, (1.0 + done) / (10.0 + done))
        for weight, shadow in zip(self._weights, self.shadows, strict=True):
            value = tf.cast(weight.read_value(), shadow.dtype)
            shadow.assign_add(tf.cast(1.0 - decay, shadow.dtype) * (value - shadow))

    def restart(self) -> None:
        """Sets the average to the weights as they are now."""
        for weight, shadow in zip(self._weights, self.shadows, strict=True):
            shadow.assign(weight.read_value())

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Gives the model the average as its weights within the context."""
        own = [weight.numpy() for weight in self._weights]
        for weight, shadow in zip(self._weights, self.shadows, strict=True):
            weight.assign(shadow.read_value())
        try:
            yield
        finally:
            for weight, value in zip(self._weights, own, strict=True):
                weight.assign(value)
