"""Losses on logits."""

import tensorflow as tf

from trainers.keras import keras


@keras.saving.register_keras_serializable(package="sightline")
class CrossEntropy(keras.losses.Loss):
    """Softmax cross-entropy of integer labels, with label smoothing (Szegedy et al. 2016, s7).

    Labels are (B,) int in [0, N), predictions (B,N) float32 logits; the result is one value an
    image, in nats.
    """

    def __init__(self, label_smoothing: float = 0.0, **kwargs) -> None:
        super().__init__(**{"name": "cross_entropy", **kwargs})
        self.label_smoothing = label_smoothing

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """(B,) float32 cross-entropy."""
        y_pred = tf.cast(y_pred, tf.float32)
        labels = tf.cast(tf.reshape(y_true, [-1]), tf.int32)
        hard = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=y_pred)
        if not self.label_smoothing:
            return hard
        uniform = -tf.reduce_mean(tf.nn.log_softmax(y_pred), axis=-1)
        return (1.0 - self.label_smoothing) * hard + self.label_smoothing * uniform

    def get_config(self) -> dict:
        """Constructor arguments."""
        return {**super().get_config(), "label_smoothing": self.label_smoothing}
