"""Losses on logits, and the training metric, for hard and for mixed labels."""

from typing import Any

import tensorflow as tf

from trainers.config import TrainConfig
from trainers.keras import keras


def make_loss(config: TrainConfig) -> keras.losses.Loss:
    """The loss of `train.loss`, with `train.label_smoothing`.

    Its `call(labels, logits)` returns (B,) float32, one value per image.
    """
    kind = BinaryCrossEntropy if config.loss == "bce" else CrossEntropy
    return kind(config.label_smoothing)


@keras.saving.register_keras_serializable(package="sightline")
class CrossEntropy(keras.losses.Loss):
    """Softmax cross-entropy with label smoothing (Szegedy et al. 2016, s7), in nats.

    Labels are (B,) int in [0, N), or (B,N) float32 rows of weights that sum to 1, as mixed images
    have; predictions are (B,N) float32 logits; the result is one value per image.
    """

    def __init__(self, label_smoothing: float = 0.0, **kwargs) -> None:
        super().__init__(**{"name": "cross_entropy", **kwargs})
        self.label_smoothing = label_smoothing

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """(B,) float32 cross-entropy."""
        y_pred = tf.cast(y_pred, tf.float32)
        if are_soft(y_true, y_pred):
            exact = tf.nn.softmax_cross_entropy_with_logits(
                labels=tf.cast(y_true, tf.float32), logits=y_pred
            )
        else:
            labels = tf.cast(tf.reshape(y_true, [-1]), tf.int32)
            exact = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=y_pred)
        if not self.label_smoothing:
            return exact
        uniform = -tf.reduce_mean(tf.nn.log_softmax(y_pred), axis=-1)
        return (1.0 - self.label_smoothing) * exact + self.label_smoothing * uniform

    def get_config(self) -> dict:
        """Constructor arguments."""
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


@keras.saving.register_keras_serializable(package="sightline")
class BinaryCrossEntropy(keras.losses.Loss):
    """One sigmoid per class against "is in the image" (Wightman et al. 2021, s3.1), in nats.

    A mixed image shows both of its classes: every class with some weight has the target 1, so the
    targets of one image do not sum to 1. Smoothing by s makes them
    1 - s + s / N and s / N, as in the authors' code. The result is the mean over classes, as
    there, so gradients are N times smaller than with a sum: learning rates for one do not suit the
    other, unless the optimizer is LAMB.

    Labels and predictions are as for `CrossEntropy`.
    """

    def __init__(self, label_smoothing: float = 0.0, **kwargs) -> None:
        super().__init__(**{"name": "binary_cross_entropy", **kwargs})
        self.label_smoothing = label_smoothing

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """(B,) float32 binary cross-entropy, averaged over classes."""
        y_pred = tf.cast(y_pred, tf.float32)
        classes = y_pred.shape[-1]
        if are_soft(y_true, y_pred):
            present = tf.cast(tf.convert_to_tensor(y_true) > 0, tf.float32)
        else:
            present = tf.one_hot(tf.cast(tf.reshape(y_true, [-1]), tf.int32), classes)
        targets = present * (1.0 - self.label_smoothing) + self.label_smoothing / classes
        each = tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=y_pred)
        return tf.reduce_mean(each, axis=-1)

    def get_config(self) -> dict:
        """Constructor arguments."""
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


def are_soft(y_true: tf.Tensor, y_pred: tf.Tensor) -> bool:
    """Whether labels are weights, one per class, rather than class numbers.

    Args:
      y_true: (B,), (B,1) or (B,N); Keras adds a second axis to (B,) labels.
      y_pred: (B,N).
    """
    labels, classes = tf.convert_to_tensor(y_true), y_pred.shape[-1]
    return labels.dtype.is_floating and labels.shape.rank == 2 and labels.shape[-1] == classes


def top1_hits(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
    """(B,) float32: 1 where the highest logit is at the label, or at the greatest of its weights.

    Args:
      y_true: labels as `CrossEntropy` takes them.
      y_pred: (B,N) logits.
    """
    if are_soft(y_true, y_pred):
        labels = tf.argmax(y_true, -1)
    else:
        labels = tf.cast(tf.reshape(y_true, [-1]), tf.int64)
    return tf.cast(tf.argmax(y_pred, -1) == labels, tf.float32)


@keras.saving.register_keras_serializable(package="sightline")
class Top1(keras.metrics.Mean):
    """The share of images that `top1_hits` counts, in [0, 1]."""

    def __init__(self, name: str = "top1", **kwargs) -> None:
        super().__init__(name=name, **kwargs)

    def update_state(self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: Any = None) -> Any:
        """Counts a batch; `sample_weight` is (B,) or None."""
        return super().update_state(top1_hits(y_true, y_pred), sample_weight)
