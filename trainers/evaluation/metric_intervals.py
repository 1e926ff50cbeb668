"""Intervals of metrics that are not a mean of 0/1 values: macro averages, loss, calibration.

A bootstrap knows no errors but those in the sample: it is too narrow where a class has few images
or a split few errors, and it is biased where the figure itself is, as the calibration error. What
is here makes up for both in closed form. All of it is conservative (it covers more than 97 %) for
few examples; `tests/trainers/evaluation/test_coverage.py` simulates it. NumPy and SciPy only.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats as _scipy

from trainers.evaluation.stats import Interval, bootstrap_interval, proportion_interval

Array = NDArray[Any]

#: Losses of fewer examples than this show too little of their distribution to be resampled.
_FEW = 10


def macro_intervals(labels: Array, guess: Array, classes: int, *, level: float) -> list[Interval]:
    """Macro precision, recall and F1 with intervals that reckon with errors not seen.

    The estimand is the mean over the classes that occur (in labels or guesses) of the true figure
    of each. A class's figure is of binomial counts: precision of its guesses, recall of its labels,
    and F1 is 2J / (1 + J) with J the share of hits among the examples that are of the class or were
    taken for it. Variances come from rates shrunk to those of all classes by z^2 examples, as
    one class may have a single image; an error counts in two classes' F1. The interval is that of
    a share with the same variance (Korn & Graubard 1998). It grows by what F1's curvature hides
    in few examples, and by all of [0, 1] for a class without guesses (precision) or without labels
    (recall), which scikit-learn counts as 0.

    Args:
      labels: (N,) int in [0, C), N at least 1.
      guess: (N,) int in [0, C).
      classes: C.
      level: confidence level in (0, 1).
    """
    actual, predicted = (np.bincount(part, minlength=classes) for part in (labels, guess))
    hits = np.bincount(labels[labels == guess], minlength=classes)
    seen = (actual + predicted) > 0
    hits, actual, predicted = hits[seen], actual[seen], predicted[seen]
    return [
        _macro_share(hits, predicted, level),
        _macro_share(hits, actual, level),
        _macro_f1(hits, actual + predicted - hits, level),
    ]


def _macro_share(hits: Array, totals: Array, level: float) -> Interval:
    known = totals > 0
    counted, unknown = int(known.sum()), int((~known).sum())
    if not counted:
        return Interval(0.0, 0.0, 1.0)
    hits, totals = hits[known], totals[known]
    rates = _shrunk(hits, totals, level)
    variance = float(np.sum(rates * (1 - rates) / totals)) / counted**2
    found = _share_like(float(np.mean(hits / totals)), float(rates.mean()), variance, level)
    share = counted / (counted + unknown)
    return Interval(found.value * share, found.low * share, found.high * share + 1 - share)


def _macro_f1(hits: Array, totals: Array, level: float) -> Interval:
    """`totals`: of each class, the examples with its label, or taken for it."""
    rates = _shrunk(hits, totals, level)
    spread = rates * (1 - rates) / totals
    # The delta method for 2J / (1 + J), errors doubled: by Cauchy's inequality the covariance of
    # the two classes that share an error is at most that.
    variance = float(np.sum(4 * spread / (1 + rates) ** 3)) / len(hits) ** 2
    value, middle = float(np.mean(2 * hits / (totals + hits))), 2 * rates / (1 + rates)
    found = _share_like(value, float(middle.mean()), variance, level)
    # Jensen's gap: exact for one example (the first factor), to second order for many (the other).
    bias = float(np.mean(spread / (1 + rates) * np.maximum(1.0, 2 / (1 + rates) ** 2)))
    return Interval(value, found.low, min(1.0, found.high + bias))


def cross_entropy_interval(
    losses: Array,
    correct: Array,
    *,
    most: float,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The mean loss with an interval that reckons with wrong answers not seen.

    A good classifier's mean loss hangs on its few wrong answers. To the bootstrap interval comes
    the loss with as many wrong answers as Clopper & Pearson allow, at the mean loss of those
    seen, or at `most` where none was. At `most` each, they bound it from above.

    Args:
      losses: (N,) float in [0, `most`], N at least 1.
      correct: (N,) bool, whether the answer was right.
      most: the greatest loss that an example can have.
      resamples: bootstrap resamples, at least 100.
      level: confidence level in (0, 1).
      seed: of the resampling.
    """
    size, wrong = len(losses), losses[~correct]
    share = proportion_interval(len(wrong), size, level=level)
    found = bootstrap_interval(losses, resamples=resamples, level=level, seed=seed)
    right = float(losses[correct].mean()) if len(wrong) < size else 0.0
    each = float(wrong.mean()) if len(wrong) else most
    bound = max(found.value, right + share.high * most)
    found = found.reaching((1 - share.high) * right + share.high * each)
    if size < _FEW:
        found = found.reaching(share.low * each, bound)
    return Interval(found.value, max(0.0, found.low), min(found.high, bound, most))


def calibration_interval(
    confidence: Array, correct: Array, bin_of: Array, *, level: float
) -> Interval:
    """The binned calibration error with an interval that allows for its bias.

    The estimand is the error of these bins over the population, the sum over bins of
    |E[confidence - accuracy; in the bin]|. The estimate exceeds it by up to the noise's mean
    absolute value, most of all where the model is calibrated (Kumar, Liang & Ma 2019, section 5;
    Roelofs et al. 2022), so that resampling it moves further up and misses its own value.
    Here the upper end adds the bins' Wilson intervals in squares (Zou & Donner 2008) to the
    estimate, which is no less than the truth on average; the lower end also takes off the greatest
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


def _shrunk(hits: Array, totals: Array, level: float) -> Array:
    """Rates with z^2 examples added; above 0 and below 1.

    Those are as often wrong as the examples of all classes, or so often that a class has as many
    errors as another, whichever is more (and at most half): a rare class that is often taken for
    others shows no error in a few examples.
    """
    z2 = float(_scipy.norm.ppf((1 + level) / 2)) ** 2
    errors = float(np.sum(totals - hits)) + z2 / 2
    shares = np.maximum(errors / (totals.sum() + z2), errors / len(totals) / totals)
    return (hits + z2 * (1 - np.minimum(shares, 0.5))) / (totals + z2)


def _share_like(value: float, middle: float, variance: float, level: float) -> Interval:
    """`value` with the interval of a share of as many examples as give `variance` at `middle`."""
    size = middle * (1 - middle) / variance
    return proportion_interval(min(value, 1.0) * size, size, level=level)
