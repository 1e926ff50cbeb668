"""Classification metrics from scores and labels, each counted once an example, with intervals.

Oracle-checked against scikit-learn. The macro averages are those of
`components.evaluation.averaged_metrics`, so that the report's figures and TFMA's agree. NumPy only.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainers.evaluation.metric_intervals import (
    calibration_interval,
    cross_entropy_interval,
    macro_intervals,
)
from trainers.evaluation.stats import Interval, bootstrap_interval, bootstrap_statistics

Array = NDArray[Any]

# The least probability whose log is taken, as in Keras's crossentropies (its `epsilon`).
_LEAST = 1e-7
# Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2: M = 15 bins.
_ECE_BINS = 15
_COUNTED = ("macro_precision", "macro_recall", "macro_f1")


def top_k_correct(scores: ArrayLike, labels: ArrayLike, k: int) -> Array:
    """Whether each example's label is among its `k` highest scores.

    Ties go to the lower class index, as in `tf.math.top_k`; so `k=1` is `argmax`.

    Args:
      scores: (N, C) float, higher is more likely; need not sum to 1.
      labels: (N,) int in [0, C).
      k: how many classes count; C or more makes every example right.

    Returns:
      (N,) bool; empty for no examples.

    Raises:
      ValueError: shapes that do not fit, a label out of range, scores not finite, or `k` < 1.
    """
    scores, labels = _checked(scores, labels)
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
    scores, labels = _checked(scores, labels)
    own = np.take_along_axis(scores, labels[:, None], axis=1)[:, 0].astype(np.float64)
    return -np.log(np.clip(own, _LEAST, 1.0 - _LEAST))


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
    scores, labels = _checked(scores, labels)
    size = scores.shape[1]
    cells = labels * size + scores.argmax(axis=1)
    return np.bincount(cells, minlength=size * size).reshape(size, size)


def per_class_accuracy(confusion: ArrayLike) -> Array:
    """The share of each class's examples that were right (its recall).

    Args:
      confusion: (C, C) counts, rows are labels.

    Returns:
      (C,) float64 in [0, 1]; NaN for a class without examples.
    """
    confusion = np.asarray(confusion)
    totals = confusion.sum(axis=1)
    accuracy = np.full(len(totals), np.nan)
    return np.divide(np.diag(confusion), totals, out=accuracy, where=totals > 0)


def expected_calibration_error(
    scores: ArrayLike, labels: ArrayLike, *, bins: int = _ECE_BINS
) -> float:
    """Mean gap between confidence and accuracy over equal-width bins of confidence.

    Guo et al. 2017, section 2, equation 3; bins are (low, high], and 0 falls into the first. The
    estimate is biased upwards where bins hold few examples (Kumar, Liang & Ma 2019, section 5):
    compare it between models on the same examples rather than with 0, or look at the interval of
    `metrics_with_intervals`, which allows for it.

    Args:
      scores: (N, C) float probabilities in [0, 1].
      labels: (N,) int in [0, C).
      bins: number of bins, at least 1.

    Returns:
      A value in [0, 1].

    Raises:
      ValueError: no examples, shapes that do not fit, or scores outside [0, 1].
    """
    scores, labels = _checked(scores, labels, some=True, probabilities=True)
    if bins < 1:
        raise ValueError(f"`bins` must be at least 1, got {bins}; {_ECE_BINS} is usual")
    confidence, guess = _confidence(scores)
    return _ece(_bin(confidence, bins), confidence - (guess == labels), bins)


def classification_metrics(scores: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Every scalar metric of one split.

    Precision, recall and F1 compare the class with the highest score: a class that nobody
    predicted has precision 0, and classes absent from both labels and predictions do not count
    in the macro means (scikit-learn's rules with `zero_division=0`). With one label and one guess
    an example all three micro averages are top-1.

    Args:
      scores: (N, C) float probabilities in [0, 1].
      labels: (N,) int in [0, C).

    Returns:
      `top1`, `top5` (1.0 where C <= 5), `macro_precision`, `macro_recall`, `macro_f1`,
      `micro_precision`, `micro_recall`, `micro_f1` and `ece` in [0, 1]; `cross_entropy` in nats.

    Raises:
      ValueError: no examples, shapes that do not fit, a label out of range, or scores outside
        [0, 1].
    """
    scores, labels = _checked(scores, labels, some=True, probabilities=True)
    top1 = float(top_k_correct(scores, labels, 1).mean())
    macro = _macro_figures(labels, scores.argmax(axis=1), scores.shape[1])
    return {
        "top1": top1,
        "top5": float(top_k_correct(scores, labels, 5).mean()),
        **dict(zip(_COUNTED, macro, strict=True)),
        "micro_precision": top1,
        "micro_recall": top1,
        "micro_f1": top1,
        "cross_entropy": float(cross_entropy(scores, labels).mean()),
        "ece": expected_calibration_error(scores, labels),
    }


def metrics_with_intervals(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """`classification_metrics` with an interval over the examples for each.

    Each covers the figure of the population that the examples are a sample of at least 93 % of the
    time at 95 %, for any number of them, and more than 97 % for few (conservative): top-1, top-5
    and the micro averages by `proportion_interval`; the macro averages, over the classes that
    occur, by a BCa bootstrap widened to `macro_intervals`; `cross_entropy_interval`; and
    `calibration_interval`, whose estimand is the error of the same 15 bins without the upward bias.

    Args:
      scores: (N, C) float probabilities in [0, 1].
      labels: (N,) int in [0, C).
      resamples: bootstrap resamples, at least 100.
      level: confidence level in (0, 1).
      seed: of the resampling.

    Raises:
      ValueError: as `classification_metrics`, or a setting out of range.
    """
    scores, labels = _checked(scores, labels, some=True, probabilities=True)
    classes = scores.shape[1]
    settings: dict[str, Any] = {"resamples": resamples, "level": level, "seed": seed}
    confidence, guess = _confidence(scores)
    right = guess == labels
    macro = [
        wide.reaching(narrow.low, narrow.high)
        for wide, narrow in zip(
            macro_intervals(labels, guess, classes, level=level),
            bootstrap_statistics(
                lambda labels, guess: _macro_figures(labels, guess, classes),
                labels,
                guess,
                **settings,
            ),
            strict=True,
        )
    ]
    top1 = bootstrap_interval(top_k_correct(scores, labels, 1), **settings)
    return {
        "top1": top1,
        "top5": bootstrap_interval(top_k_correct(scores, labels, 5), **settings),
        **dict(zip(_COUNTED, macro, strict=True)),
        "micro_precision": top1,
        "micro_recall": top1,
        "micro_f1": top1,
        "cross_entropy": cross_entropy_interval(
            cross_entropy(scores, labels), right, most=-float(np.log(_LEAST)), **settings
        ),
        "ece": calibration_interval(confidence, right, _bin(confidence, _ECE_BINS), level=level),
    }


def _macro_figures(labels: Array, guess: Array, classes: int) -> list[float]:
    """Macro precision, recall and F1 (Sokolova & Lapalme 2009, table 3)."""
    actual = np.bincount(labels, minlength=classes)
    predicted = np.bincount(guess, minlength=classes)
    hits = np.bincount(labels[labels == guess], minlength=classes)
    seen = (actual + predicted) > 0
    hits, actual, predicted = hits[seen], actual[seen], predicted[seen]
    return [
        float(np.mean(hits / np.maximum(predicted, 1))),
        float(np.mean(hits / np.maximum(actual, 1))),
        float(np.mean(2 * hits / (predicted + actual))),
    ]


def _confidence(scores: Array) -> tuple[Array, Array]:
    guess = scores.argmax(axis=1)
    return np.take_along_axis(scores, guess[:, None], axis=1)[:, 0].astype(np.float64), guess


def _bin(confidence: Array, bins: int) -> Array:
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)


def _ece(bins: Array, gaps: Array, count: int) -> float:
    """`gaps` are confidence minus correctness: their sum in a bin is size x (conf - acc)."""
    return float(np.abs(np.bincount(bins, weights=gaps, minlength=count)).sum() / len(gaps))


def _checked(
    scores: ArrayLike, labels: ArrayLike, *, some: bool = False, probabilities: bool = False
) -> tuple[Array, Array]:
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
    # Softmax in float16 or int8 arithmetic may end a rounding step above 1.
    if probabilities and len(scores) and (scores.min() < 0 or scores.max() > 1 + 1e-3):
        raise ValueError(
            f"`scores` must be probabilities in [0, 1], got [{scores.min()}, {scores.max()}]; "
            "apply softmax to logits first"
        )
    return scores, labels
