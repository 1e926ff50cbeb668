"""Expected calibration error: the mean gap between confidence and accuracy, over bins.

Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2, equation 3: M = 15 bins of
equal width, (low, high], and 0 is in the first. The value is biased upwards where bins have few
examples (Kumar, Liang & Ma 2019, section 5): compare it between models on the same examples rather
than with 0, or use the interval, which allows for it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats as _scipy

from trainers.evaluation.metric import Columns, Metric, Sampling
from trainers.evaluation.stats import Interval
from trainers.registry import metrics

Array = NDArray[Any]

_BINS = 15


def calibration_interval(
    confidence: Array, correct: Array, bin_of: Array, *, level: float
) -> Interval:
    """The binned calibration error with an interval that allows for its bias.

    The estimand is the error of these bins over the population, the sum over bins of
    |E[confidence - accuracy; in the bin]|. The estimate exceeds it by up to the noise's mean
    absolute value, most of all where the model is calibrated (Kumar, Liang & Ma 2019, section 5;
    Roelofs et al. 2022), so that resampling it moves further up and misses its own value.
    Here the upper end adds the bins' Wilson intervals in squares (Zou & Donner 2008) to the
    estimate, which is no less than the truth on average; the lower end also subtracts the greatest
    possible bias. Conservative: 97 to 100 % for calibrated models.

    Args:
      confidence: (N,) float in [0, 1], N at least 1.
      correct: (N,) bool.
      bin_of: (N,) int, each example's bin.
      level: confidence level in (0, 1).
    """
    z2 = float(_scipy.norm.ppf((1 + level) / 2)) ** 2
    _, bin_of, counts = np.unique(bin_of, return_inverse=True, return_counts=True)
    right, sure = (np.bincount(bin_of, weights=part) for part in (correct, confidence))
    weights, accuracy, sure = counts / len(confidence), right / counts, sure / counts
    gaps = sure - accuracy
    middle = (right + z2 / 2) / (counts + z2)
    reach = np.sqrt(z2 * (right * (1 - accuracy) + z2 / 4)) / (counts + z2)
    ends = np.abs(sure - np.stack([middle - reach, middle + reach]))
    least = np.where(np.abs(sure - middle) <= reach, 0.0, ends.min(axis=0))
    # How many examples fall into which bin, and their confidence there, varies too.
    signed = np.where(gaps < 0, -1.0, 1.0)[bin_of] * (confidence - accuracy[bin_of])
    mixing = z2 * float(signed.var()) / len(confidence)
    value = float(np.sum(weights * np.abs(gaps)))
    up = np.sqrt(np.sum((weights * (ends.max(axis=0) - np.abs(gaps))) ** 2) + mixing)
    down = np.sqrt(np.sum((weights * (np.abs(gaps) - least)) ** 2) + mixing)
    bias = np.sqrt(2 / np.pi) * np.sum(weights * np.sqrt(middle * (1 - middle) / counts))
    return Interval(value, max(0.0, value - float(bias + down)), min(1.0, value + float(up)))


def _columns(scores: Array, labels: Array) -> Columns:
    """(N,) confidence and (N,) bool: whether the guess is the label."""
    guess = scores.argmax(axis=1)
    confidence = np.take_along_axis(scores, guess[:, None], axis=1)[:, 0].astype(np.float64)
    return confidence, guess == labels


def _bin_of(confidence: Array) -> Array:
    return np.clip(np.ceil(confidence * _BINS).astype(np.int64) - 1, 0, _BINS - 1)


def _error(confidence: Array, correct: Array) -> float:
    # The sum of confidence minus correctness in a bin is its size times its gap.
    gaps = np.bincount(_bin_of(confidence), weights=confidence - correct, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def _interval(columns: Columns, sampling: Sampling) -> Interval:
    confidence, correct = columns
    return calibration_interval(confidence, correct, _bin_of(confidence), level=sampling.level)


metrics.register("ece")(
    Metric(
        _error,
        "calibration error",
        _columns,
        higher_is_better=False,
        interval=_interval,
        note=f"is ECE over {_BINS} bins",
        order=10,
    )
)
