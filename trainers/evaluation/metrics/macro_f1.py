"""Macro F1: the unweighted mean over classes of 2 hits / (guesses + labels)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.evaluation.macro import macro_average, share_like_interval, shrunk_rates
from trainers.evaluation.stats import Interval
from trainers.registry import metrics


def interval(
    hits: NDArray[Any], actual: NDArray[Any], predicted: NDArray[Any], level: float
) -> Interval:
    """Macro F1 with the interval of a share of equal variance.

    F1 is 2J / (1 + J), where J is the share of hits among the examples that are of the class or
    were assigned to it. The upper end adds what the curvature hides in few examples.

    Args:
      hits: (K,) counts of each class that occurs.
      actual: (K,) labels.
      predicted: (K,) guesses.
      level: confidence level in (0, 1).
    """
    totals = actual + predicted - hits
    rates = shrunk_rates(hits, totals, level)
    spread = rates * (1 - rates) / totals
    # The delta method for 2J / (1 + J), errors doubled: by Cauchy's inequality the covariance of
    # the two classes that share an error is at most that.
    variance = float(np.sum(4 * spread / (1 + rates) ** 3)) / len(hits) ** 2
    value, middle = float(np.mean(2 * hits / (totals + hits))), 2 * rates / (1 + rates)
    found = share_like_interval(value, float(middle.mean()), variance, level)
    # Jensen's gap: exact for one example (the first factor), to second order for many (the other).
    bias = float(np.mean(spread / (1 + rates) * np.maximum(1.0, 2 / (1 + rates) ** 2)))
    return Interval(value, found.low, min(1.0, found.high + bias))


metrics.register("macro_f1")(
    macro_average(
        "macro F1",
        lambda hits, actual, predicted: 2 * hits / (predicted + actual),
        interval,
        order=5,
    )
)
