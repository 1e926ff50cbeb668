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
# Records that are parsed at a time.
_BATCH = 256


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


def joined(parts: Sequence[Predictions]) -> Predictions:
    """The predictions of several splits as one, with the slices that all of them have.

    Args:
      parts: of the same classes; at least one.
    """
    keys = set.intersection(*(set(part.slices) for part in parts))
    return replace(
        parts[0],
        ids=np.concatenate([part.ids for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        slices={key: np.concatenate([part.slices[key] for part in parts]) for key in sorted(keys)},
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


def table_columns(path: Path) -> list[str]:
    """The variants of a table, sorted.

    Raises:
      ValueError: the table has no records, or none of predictions.
    """
    return sorted(key.removeprefix(SCORES) for key in _spec(path) if key.startswith(SCORES))


def read_table(path: Path) -> dict[str, Predictions]:
    """Variant -> its predictions, as `write_table` wrote them.

    Raises:
      ValueError: the table has no records, or records of different columns.
    """
    variants = table_columns(path)
    found = _parsed(path, variants)
    return {variant: _predictions(found, variant) for variant in variants}


def read_column(path: Path, variant: str) -> tuple[Predictions, tuple[str, ...]]:
    """The predictions of one variant, and the class names in label order.

    The name of a class without examples is empty.

    Raises:
      KeyError: the table has no such variant.
      ValueError: as `read_table`, or a label that is not one of the classes.
    """
    found = _parsed(path, [variant])
    predictions = _predictions(found, variant)
    names = [""] * predictions.scores.shape[1]
    outside = np.flatnonzero((predictions.labels < 0) | (predictions.labels >= len(names)))
    if len(outside):
        raise ValueError(
            f"{path}: record {outside[0]} has the label {predictions.labels[outside[0]]}, but "
            f"scores of {len(names)} classes"
        )
    _, first = np.unique(predictions.labels, return_index=True)
    for row in first.tolist():
        names[int(predictions.labels[row])] = str(found[features.TEXT][row])
    return predictions, tuple(names)


def _spec(path: Path) -> "dict[str, tf.io.FixedLenFeature]":
    """Feature -> its type and shape, from the first record."""
    import tensorflow as tf

    first = next(iter(tf.data.TFRecordDataset(str(path)).take(1).as_numpy_iterator()), None)
    if first is None:
        raise ValueError(f"{path} holds no predictions")
    row = tf.train.Example.FromString(first).features.feature
    if ID not in row or LABEL not in row:
        raise ValueError(
            f"{path} has records of {', '.join(sorted(row)[:5])} instead of predictions"
        )
    found = {
        key: tf.io.FixedLenFeature([], tf.string)
        for key in row
        if key in (ID, features.TEXT) or key.startswith("slice/")
    }
    for key in row:
        if key.startswith(SCORES):
            size = len(row[key].float_list.value)
            found[key] = tf.io.FixedLenFeature([size], tf.float32)
    return {**found, LABEL: tf.io.FixedLenFeature([], tf.int64)}


def _parsed(path: Path, variants: Sequence[str]) -> dict[str, np.ndarray]:
    """Column -> its values; scores of the variants only."""
    import tensorflow as tf

    scores = [SCORES + variant for variant in variants]
    spec = {
        key: one for key, one in _spec(path).items() if not key.startswith(SCORES) or key in scores
    }
    if missing := set(scores) - set(spec):
        raise KeyError(f"{path} has no column {min(missing)}")
    parts: dict[str, list[np.ndarray]] = {key: [] for key in spec}
    for batch in tf.data.TFRecordDataset(str(path)).batch(_BATCH):
        try:
            parsed = tf.io.parse_example(batch, spec)
        except tf.errors.InvalidArgumentError as error:
            start = sum(map(len, parts[ID]))
            raise ValueError(
                f"{path}: a record from {start} on has other columns than the first: "
                f"{str(error.message).splitlines()[0]}"
            ) from error
        for key, values in parsed.items():
            found = values.numpy()
            parts[key].append(_text(found) if found.dtype == object else found)
    # Removes each list of parts before the next column is joined, to hold little twice.
    return {key: np.concatenate(parts.pop(key)) for key in spec}


def _predictions(found: dict[str, np.ndarray], variant: str) -> Predictions:
    return Predictions(
        found[ID],
        found[LABEL].astype(np.int32),
        found[SCORES + variant],
        {key: found[key] for key in sorted(found) if key.startswith("slice/")},
    )
