"""Macro averages with intervals: figures of each class, averaged over the classes that occur.

A class occurs in the labels or among the guesses. A class without guesses has precision 0, one
without labels recall 0 (scikit-learn with `zero_division=0`; Sokolova & Lapalme 2009, table 3). A
bootstrap is too narrow where a class has few images; the intervals here allow for errors that the
sample does not contain, in closed form. They are conservative (above 97 %) for few examples;
`tests/trainers/evaluation/test_coverage.py` simulates them. NumPy and SciPy only.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats as _scipy

from trainers.evaluation.bootstrap import Resamples, resample
from trainers.evaluation.metric import Columns, Metric, Sampling, guesses
from trainers.evaluation.stats import Interval, bca_intervals, proportion_interval

Array = NDArray[Any]


def macro_average(
    title: str,
    of_classes: Callable[[Array, Array, Array], Array],
    closed_form: Callable[[Array, Array, Array, float], Interval],
    *,
    order: int,
) -> Metric:
    """A metric that averages a figure over the classes.

    Its interval is the BCa bootstrap's, widened to the closed form.

    Args:
      title: heading in tables.
      of_classes: takes the hits, labels and guesses of each class, (K,) counts, and returns the
        (K,) figures.
      closed_form: takes the same counts and the level and returns an interval.
      order: position in tables.
    """

    def figure(labels: Array, guess: Array) -> float:
        return float(np.mean(of_classes(*class_counts(labels, guess))))

    def interval(columns: Columns, sampling: Sampling) -> Interval:
        labels, guess = columns
        wide = closed_form(*class_counts(labels, guess), sampling.level)
        counts = resampled_counts(labels, guess, sampling)
        estimates, replicates, left_out = (
            means_of_classes(of_classes, part)
            for part in (counts.estimates, counts.replicates, counts.left_out)
        )
        (narrow,) = bca_intervals(Resamples(estimates[0], replicates, left_out), sampling.level)
        return wide.reaching(narrow.low, narrow.high)

    return Metric(figure, title, guesses, interval=interval, order=order)


def resampled_counts(labels: Array, guess: Array, sampling: Sampling) -> Resamples:
    """Hits, labels and guesses of the K classes that occur: (3, K) of all examples and resamples.

    All macro averages of the same examples share them: the last result is kept.

    Args:
      labels: (N,) int.
      guess: (N,) int.
      sampling: resamples and seed.
    """
    kept = (labels.astype(np.int64).tobytes(), guess.astype(np.int64).tobytes())
    return _resampled_counts(*kept, sampling.resamples, sampling.seed)


@functools.lru_cache(maxsize=1)
def _resampled_counts(labels: bytes, guess: bytes, resamples: int, seed: int) -> Resamples:
    actual, predicted = (np.frombuffer(part, np.int64) for part in (labels, guess))
    seen, codes = np.unique(np.concatenate([actual, predicted]), return_inverse=True)
    actual, predicted = np.split(codes, 2)
    size = len(seen)
    hits = np.where(actual == predicted, actual, size)  # A miss counts for a class that is dropped.

    def count(*parts: Array) -> Array:
        return np.stack([np.bincount(part, minlength=size + 1)[:size] for part in parts]).astype(
            np.int32
        )

    return resample(count, hits, actual, predicted, resamples=resamples, seed=seed)


def means_of_classes(of_classes: Callable[[Array, Array, Array], Array], counts: Array) -> Array:
    """(R, 1): the mean figure of the classes that occur in each of R (3, K) counts."""
    found = []
    for hits, actual, predicted in counts.reshape(-1, *counts.shape[-2:]):
        seen = (actual + predicted) > 0
        found.append([np.mean(of_classes(hits[seen], actual[seen], predicted[seen]))])
    return np.array(found, np.float64)


def class_counts(labels: Array, guess: Array) -> tuple[Array, Array, Array]:
    """Hits, labels and guesses of each class that occurs: (K,) counts."""
    size = int(max(labels.max(), guess.max())) + 1
    actual, predicted = (np.bincount(part, minlength=size) for part in (labels, guess))
    hits = np.bincount(labels[labels == guess], minlength=size)
    seen = (actual + predicted) > 0
    return hits[seen], actual[seen], predicted[seen]


def mean_share_interval(hits: Array, totals: Array, level: float) -> Interval:
    """The mean over classes of `hits / totals`, with the interval of a share of equal variance.

    Variances come from rates shrunk to those of all classes (`shrunk_rates`), since one class may
    have a single image (Korn & Graubard 1998). A class with a total of 0 has a share of 0, and adds
    all of [0, 1] to the interval.

    Args:
      hits: (K,) counts.
      totals: (K,) counts, at least `hits`.
      level: confidence level in (0, 1).
    """
    known = totals > 0
    counted, unknown = int(known.sum()), int((~known).sum())
    if not counted:
        return Interval(0.0, 0.0, 1.0)
    hits, totals = hits[known], totals[known]
    rates = shrunk_rates(hits, totals, level)
    variance = float(np.sum(rates * (1 - rates) / totals)) / counted**2
    found = share_like_interval(float(np.mean(hits / totals)), float(rates.mean()), variance, level)
    share = counted / (counted + unknown)
    return Interval(found.value * share, found.low * share, found.high * share + 1 - share)


def shrunk_rates(hits: Array, totals: Array, level: float) -> Array:
    """(K,) rates `hits / totals` with z^2 examples added to each class; above 0 and below 1.

    The added examples are wrong as often as those of all classes, or so often that a class has as
    many errors as any other, whichever is more (and at most half): a rare class that is often
    confused with others may show no error in a few examples.
    """
    z2 = float(_scipy.norm.ppf((1 + level) / 2)) ** 2
    errors = float(np.sum(totals - hits)) + z2 / 2
    shares = np.maximum(errors / (totals.sum() + z2), errors / len(totals) / totals)
    return (hits + z2 * (1 - np.minimum(shares, 0.5))) / (totals + z2)


def share_like_interval(value: float, middle: float, variance: float, level: float) -> Interval:
    """`value` with the interval of a share of as many examples as give `variance` at `middle`."""
    size = middle * (1 - middle) / variance
    return proportion_interval(min(value, 1.0) * size, size, level=level)
