"""Per-example results and counts of a classifier's scores: what the metrics are computed from.

NumPy only.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]

#: The least probability whose logarithm is taken, as in Keras's cross-entropies (`epsilon`).
LEAST_PROBABILITY = 1e-7


def top_k_correct(scores: ArrayLike, labels: ArrayLike, k: int) -> Array:
    """Whether each example's label is among its `k` highest scores.

    Ties go to the lower class index, as in `tf.math.top_k`; so `k=1` is `argmax`.

    Args:
      scores: (N, C) float, higher is more likely; need not sum to 1.
      labels: (N,) int in [0, C).
      k: number of classes that count; C or more makes every example correct.

    Returns:
      (N,) bool; empty for no examples.

    Raises:
      ValueError: shapes that do not fit, a label out of range, scores not finite, or `k` < 1.
    """
    scores, labels = checked(scores, labels)
    if k < 1:
        raise ValueError(f"`k` must be at least 1, got {k}")
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    ahead = (scores == own) & (np.arange(scores.shape[1]) < labels[:, None])
    return ((scores > own) | ahead).sum(axis=1) < k


def cross_entropy(scores: ArrayLike, labels: ArrayLike) -> Array:
    """Natural-log loss of each example's label, its probability clipped to [1e-7, 1 - 1e-7].

    Args:
      scores: (N, C) float probabilities.
      labels: (N,) int in [0, C).

    Returns:
      (N,) float64, at least 0.

    Raises:
      ValueError: shapes that do not fit, a label out of range, or scores not finite.
    """
    scores, labels = checked(scores, labels)
    own = np.take_along_axis(scores, labels[:, None], axis=1)[:, 0].astype(np.float64)
    return -np.log(np.clip(own, LEAST_PROBABILITY, 1.0 - LEAST_PROBABILITY))


def confusion_matrix(scores: ArrayLike, labels: ArrayLike) -> Array:
    """Counts by label (row) and class with the highest score (column).

    Args:
      scores: (N, C) float.
      labels: (N,) int in [0, C).

    Returns:
      (C, C) int64 whose sum is N.

    Raises:
      ValueError: shapes that do not fit, a label out of range, or scores not finite.
    """
    scores, labels = checked(scores, labels)
    size = scores.shape[1]
    cells = labels * size + scores.argmax(axis=1)
    return np.bincount(cells, minlength=size * size).reshape(size, size)


def per_class_accuracy(confusion: ArrayLike) -> Array:
    """The share of each class's examples that are classified correctly (its recall).

    Args:
      confusion: (C, C) counts, rows are labels.

    Returns:
      (C,) float64 in [0, 1]; NaN for a class without examples.
    """
    confusion = np.asarray(confusion)
    totals = confusion.sum(axis=1)
    accuracy = np.full(len(totals), np.nan)
    return np.divide(np.diag(confusion), totals, out=accuracy, where=totals > 0)


def checked(
    scores: ArrayLike, labels: ArrayLike, *, some: bool = False, probabilities: bool = False
) -> tuple[Array, Array]:
    """`scores` and `labels` as arrays, the labels as int64.

    Args:
      scores: (N, C) float.
      labels: (N,) int in [0, C).
      some: refuse N = 0.
      probabilities: refuse scores outside [0, 1].

    Raises:
      ValueError: shapes that do not fit, a label out of range, scores not finite, or what `some`
        and `probabilities` refuse.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or labels.ndim != 1 or len(scores) != len(labels):
        raise ValueError(
            f"`scores` must be (N, C) and `labels` (N,), got {scores.shape} and {labels.shape}"
        )
    if some and not len(labels):
        raise ValueError("no examples: a metric needs at least one; check that the split has any")
    if len(labels) and labels.dtype.kind not in "iu":
        raise ValueError(f"`labels` must be integers, got {labels.dtype}")
    labels = labels.astype(np.int64)
    outside = np.flatnonzero((labels < 0) | (labels >= scores.shape[1]))
    if len(outside):
        raise ValueError(
            f"label {labels[outside[0]]} at index {outside[0]} is not in [0, {scores.shape[1]}); "
            "subtract the data set's `label_offset`"
        )
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores).all(axis=1))[0])
        raise ValueError(f"`scores` must be finite, row {row} holds {scores[row]}")
    # Softmax in float16 or int8 arithmetic may exceed 1 by a rounding step.
    if probabilities and len(scores) and (scores.min() < 0 or scores.max() > 1 + 1e-3):
        raise ValueError(
            f"`scores` must be probabilities in [0, 1], got [{scores.min()}, {scores.max()}]; "
            "apply softmax to logits first"
        )
    return scores, labels
