"""Predictions of a model, with every example counted exactly once."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainers.config import Config
from trainers.data import pipeline
from trainers.data.features import DatasetInfo
from trainers.distributed.strategy import worker_count
from trainers.evaluation.predictions import Predictions, predict, with_labels_of
from trainers.keras import keras
from trainers.registry import tasks


class Forward:
    """Predictions on all replicas of this worker; traced once, however often it is called.

    Args:
      model: from images to logits, or to whatever `convert` takes.
      config: `task` and `eval.batch` are used.
      strategy: where it runs.
      convert: the model's outputs to (B, N) float32; the scores of the task if not given.
    """

    def __init__(
        self,
        model: keras.Model,
        config: Config,
        strategy: tf.distribute.Strategy | None = None,
        *,
        convert: Callable[[Any], np.ndarray] | None = None,
    ) -> None:
        self._convert = convert or tasks.get(config.task).scores
        self._on: Any = strategy or tf.distribute.get_strategy()
        self._local = max(self._on.num_replicas_in_sync // worker_count(self._on), 1)
        self._run = tf.function(lambda images: model(images, training=False))
        #: Images a call: `eval.batch`, rounded up to a multiple of the replicas.
        self.batch = -(-config.eval.batch // self._local) * self._local

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 (B,H,W,3), B = `batch`, to float32 scores (B,N)."""
        if self._local == 1:
            return self._convert(self._run(tf.constant(images)))
        shares = np.split(images, self._local)
        values = self._on.experimental_distribute_values_from_function(
            lambda context: tf.constant(shares[context.replica_id_in_sync_group % self._local])
        )
        outputs = self._on.experimental_local_results(self._on.run(self._run, args=(values,)))
        return np.concatenate([self._convert(part) for part in outputs])


def predict_split(
    forward: Forward,
    config: Config,
    info: DatasetInfo,
    split: str,
    *,
    classes: Sequence[str] | None = None,
) -> Predictions:
    """A model's scores for every example of `split`, each counted once on any batch size.

    Args:
      forward: the model.
      config: `data.dir` holds the records.
      info: of those records.
      split: of them.
      classes: of the model, where the records may have others or another order: labels then index
        these. None where the model was built from `info`.

    Raises:
      DataError: a record that cannot be used; names the file and the record.
      DatasetError: a class that the model does not know.
    """
    positions = None if classes is None else info.class_positions(classes, "the model")
    with pipeline.named_errors(config, info, split):
        batches = pipeline.eval_batches(config, info, split, batch=forward.batch)
        return with_labels_of(predict(forward, batches), positions)
