"""The predictions table: the scores of every variant for each evaluation example.

One TFRecord of tf.Examples without pixels, which TFMA, the statistics, the gates and the report all
read. Columns: `id` bytes, `label` int64 in [0, N), `image/class/text` bytes, the `slice/*` strings,
and `scores/<variant>` float32 (N,) for every variant. TensorFlow loads inside the functions that
need it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.files import replacing
from trainers.data import features

if TYPE_CHECKING:
    import tensorflow as tf

    from trainers.data.pipeline import EvalBatch

ID, LABEL, SCORES = "id", "label", "scores/"


@dataclass(frozen=True)
class Predictions:
    """One model's predictions: parallel arrays over M examples in the table's order.

    Attributes:
      ids: (M,) str, sha256 of the encoded image.
      labels: (M,) int32 in [0, N).
      scores: (M,N) float32 softmax.
      slices: key -> (M,) str.
    """

    ids: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    slices: dict[str, np.ndarray]


def predict(
    forward: Callable[[np.ndarray], np.ndarray], batches: "Iterable[EvalBatch]"
) -> Predictions:
    """The predictions of a model, each example exactly once.

    Args:
      forward: any engine or model: uint8 (B,H,W,3) -> float32 (B,N).
      batches: of `trainers.data.pipeline.eval_batches`; their mask excludes padding.

    Raises:
      ValueError: there are no examples.
    """
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]] = []
    for batch in batches:
        real = np.asarray(batch.mask) > 0
        scores = np.asarray(forward(np.asarray(batch.images)), np.float32)[real]
        slices = {k: _text(np.asarray(v)[real]) for k, v in batch.slices.items()}
        ids = _text(np.asarray(batch.ids)[real])
        parts.append((ids, np.asarray(batch.labels)[real], scores, slices))
    if not parts:
        raise ValueError("nothing to predict: the split has no examples")
    ids, labels, scores, slices = zip(*parts, strict=True)
    keys = slices[0]
    return Predictions(
        ids=np.concatenate(ids),
        labels=np.concatenate(labels).astype(np.int32),
        scores=np.concatenate(scores),
        slices={key: np.concatenate([part[key] for part in slices]) for key in keys},
    )


def with_labels_of(predictions: Predictions, positions: Sequence[int] | None) -> Predictions:
    """`predictions` with labels that index the model's classes instead of the data set's.

    Args:
      predictions: with labels of the data set.
      positions: the index of each of its classes among the model's, see
        `DatasetInfo.class_positions`; None if both are the same.
    """
    if positions is None:
        return predictions
    labels = np.asarray(positions, np.int32)[predictions.labels]
    return replace(predictions, labels=labels)


def _text(values: np.ndarray) -> np.ndarray:
    return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in values], dtype=object)


def write_table(path: Path, predictions: dict[str, Predictions], classes: tuple[str, ...]) -> None:
    """Writes the table of several variants under a temporary name, then renames it to `path`.

    Raises:
      ValueError: the variants have predictions of different examples, or in another order.
    """
    first = next(iter(predictions.values()))
    for variant, other in predictions.items():
        if not np.array_equal(first.ids, other.ids):
            raise ValueError(
                f"variant {variant!r} has predictions of other examples than the first variant; "
                "predict the same split, in the same order"
            )
    import tensorflow as tf

    with replacing(path) as temporary, tf.io.TFRecordWriter(str(temporary)) as writer:
        for i in range(len(first.ids)):
            columns: dict[str, Any] = {
                ID: _bytes(first.ids[i]),
                LABEL: tf.train.Feature(
                    int64_list=tf.train.Int64List(value=[int(first.labels[i])])
                ),
                features.TEXT: _bytes(classes[int(first.labels[i])]),
            }
            for key, values in first.slices.items():
                columns[key] = _bytes(values[i])
            for variant, found in predictions.items():
                columns[SCORES + variant] = tf.train.Feature(
                    float_list=tf.train.FloatList(value=found.scores[i])
                )
            example = tf.train.Example(features=tf.train.Features(feature=columns))
            writer.write(example.SerializeToString(deterministic=True))


def _bytes(value: str) -> "tf.train.Feature":
    import tensorflow as tf

    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[str(value).encode()]))


def read_table(path: Path) -> dict[str, Predictions]:
    """Variant -> its predictions, as `write_table` wrote them."""
    import tensorflow as tf

    rows = []
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        rows.append(tf.train.Example.FromString(record).features.feature)
    if not rows:
        raise ValueError(f"{path} holds no predictions")
    ids = np.array([row[ID].bytes_list.value[0].decode() for row in rows], dtype=object)
    labels = np.array([row[LABEL].int64_list.value[0] for row in rows], np.int32)
    keys = [key for key in rows[0] if key.startswith("slice/")]
    slices = {
        key: np.array([row[key].bytes_list.value[0].decode() for row in rows], dtype=object)
        for key in sorted(keys)
    }
    found = {}
    for column in sorted(key for key in rows[0] if key.startswith(SCORES)):
        scores = np.array([row[column].float_list.value for row in rows], np.float32)
        found[column.removeprefix(SCORES)] = Predictions(ids, labels, scores, slices)
    return found


def class_names(path: Path, count: int) -> tuple[str, ...]:
    """`count` class names in label order, as a table has them; empty for classes without examples.

    Args:
      path: as `write_table` wrote it.
      count: classes of its scores.
    """
    import tensorflow as tf

    names = [""] * count
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        row = tf.train.Example.FromString(record).features.feature
        names[row[LABEL].int64_list.value[0]] = row[features.TEXT].bytes_list.value[0].decode()
    return tuple(names)
