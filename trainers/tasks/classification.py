"""Image classification: one label per image, softmax scores."""

from typing import Any

import numpy as np
import tensorflow as tf

from trainers.config import Config
from trainers.data.features import DatasetInfo
from trainers.evaluation.predictions import Predictions
from trainers.evaluation.scores import cross_entropy, top_k_correct
from trainers.keras import keras
from trainers.models import build_model
from trainers.registry import tasks
from trainers.training.losses import Top1, make_loss


class Classification:
    """The `classification` task."""

    def build(self, config: Config, info: DatasetInfo) -> keras.Model:
        """A network of `info.num_classes` logits."""
        return build_model(config, info.num_classes)

    def loss(self, config: Config) -> keras.losses.Loss:
        """The recipe's loss on logits, with its label smoothing."""
        return make_loss(config.train)

    def metrics(self) -> list[Any]:
        """Top-1 accuracy, named `top1`, for hard or mixed labels."""
        return [Top1()]

    def scores(self, outputs: Any) -> np.ndarray:
        """(B,N) float32 softmax of the logits."""
        return tf.nn.softmax(tf.cast(outputs, tf.float32)).numpy()

    def evaluate(self, predictions: Predictions) -> dict[str, float]:
        """`top1`, and `loss`, the mean cross-entropy."""
        scores, labels = predictions.scores, predictions.labels
        return {
            "top1": float(top_k_correct(scores, labels, 1).mean()),
            "loss": float(cross_entropy(scores, labels).mean()),
        }


tasks.register("classification")(Classification())
