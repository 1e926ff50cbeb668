"""Predictions and metrics of a trained model on a split of any records."""

from dataclasses import replace
from pathlib import Path

import tensorflow as tf

from trainers.data import pipeline
from trainers.data.features import DatasetInfo
from trainers.evaluation.embeddings import EmbeddingError, Embeddings
from trainers.evaluation.metrics import metrics_with_intervals
from trainers.evaluation.predictions import Predictions, predict, with_labels_of
from trainers.evaluation.stats import Interval
from trainers.models import embedding_model
from trainers.training.forward import Forward, predict_split
from trainers.training.trained import Trained


def predict_trained(trained: Trained, data: Path, split: str) -> Predictions:
    """The scores of a trained model for every example of a split of the records in `data`.

    Labels index the classes of the model, whatever their order in the records is.

    Raises:
      DataError: a record that cannot be used; names the file and the record.
      DatasetError: no data set in `data`, one of another task, or a class that the model does not
        know.
    """
    config = replace(trained.config, data=replace(trained.config.data, dir=str(data)))
    info = DatasetInfo.load(data)
    info.check_task(config.task, config.name)
    if split in info.splits and (count := info.splits[split].examples):
        # As many batches as before, but of equal size: the last one is padded, and a model of a
        # large batch would spend most of the time of a small split on padding.
        batch = -(-count // -(-count // config.eval.batch))
        config = replace(config, eval=replace(config.eval, batch=batch))
    forward = Forward(trained.model, config)
    return predict_split(forward, config, info, split, classes=trained.info.classes)


def embed_trained(trained: Trained, data: Path, split: str) -> Embeddings:
    """The features before the classifier for every example of a split of the records in `data`.

    Raises:
      EmbeddingError: the network has no classifier layer.
      DataError, DatasetError: as `predict_trained`.
    """
    network = embedding_model(trained.model)
    if network is None:
        raise EmbeddingError(
            f"the network of {trained.config.name} has no classifier layer named `logits`, so it "
            "has no embeddings"
        )
    config = replace(trained.config, data=replace(trained.config.data, dir=str(data)))
    info = DatasetInfo.load(data)
    info.check_task(config.task, config.name)
    positions = info.class_positions(trained.info.classes, "the model")
    forward = Forward(network, config, convert=lambda found: tf.cast(found, tf.float32).numpy())
    with pipeline.named_errors(config, info, split):
        batches = pipeline.eval_batches(config, info, split, batch=forward.batch)
        found = with_labels_of(predict(forward, batches), positions)
    return Embeddings(found.ids, found.labels, found.scores)


def evaluate(
    trained: Trained, split: str = "test", *, data: Path | None = None
) -> dict[str, Interval]:
    """Metric -> value with its 95 % interval, over every example of a split.

    Args:
      trained: what `trainers.fit` returned, or `trainers.training.trained.load_trained`.
      split: `train`, `validation` or `test`.
      data: folder of the records; those that the model was trained on if not given.

    Raises:
      DataError, DatasetError: as `predict_trained`.
    """
    where = Path(trained.config.data.dir) if data is None else data
    found = predict_trained(trained, where, split)
    return metrics_with_intervals(found.scores, found.labels)
