"""The distance between the distributions of two samples, corrected for sampling noise.

The distance is Le Cam's, sqrt(1/2 sum (x - y)^2 / (x + y)) over the shares x and y of each value
(Le Cam 1986, "Asymptotic Methods in Statistical Decision Theory", section 4.2), a symmetric
chi-squared distance in [0, 1], between the total variation and its square root. The largest
difference of a share misses missing classes when there are many classes; the sum over all values
does not, after its expectation under sampling noise is subtracted.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2
from tensorflow_metadata.proto.v0 import statistics_pb2

_DRAWS = 400
_LEVEL = 0.999
# Number of values in a description.
_NAMED = 3


@dataclass(frozen=True)
class ValueCounts:
    """The counts of a feature's values in a sample.

    Attributes:
      counts: value -> number of occurrences.
      examples: number of examples. Several values of one example (objects) are dependent: the noise
        is that of as many values as there are examples.
    """

    counts: dict[str, int]
    examples: int

    @property
    def dependence(self) -> float:
        """Values per example, at least 1."""
        return max(1.0, sum(self.counts.values()) / max(self.examples, 1))


@dataclass(frozen=True)
class Distance:
    """The distance between two samples.

    Attributes:
      value: without the expectation under sampling noise, in [0, 1].
      threshold: allowed distance plus sampling noise.
      exceeded: whether the distance is above the threshold.
      changed: the values whose shares changed most, as text.
    """

    value: float
    threshold: float
    exceeded: bool
    changed: str


def categorical_sample(
    statistics: statistics_pb2.DatasetFeatureStatisticsList,
    feature: str,
    names: Mapping[str, str] | None = None,
) -> ValueCounts | None:
    """The counts of a feature's values; None when TFDV has none.

    Args:
      statistics: of one data set.
      feature: a column with string statistics; integers have them where the schema given to TFDV
        marks them as categorical.
      names: value -> name; values that are missing keep their text.
    """
    for found in statistics.datasets[0].features:
        if list(found.path.step) != [feature] or not found.HasField("string_stats"):
            continue
        counts: Counter[str] = Counter()
        for bucket in found.string_stats.rank_histogram.buckets:
            name = names.get(bucket.label, bucket.label) if names else bucket.label
            counts[name] += round(bucket.sample_count)
        examples = int(found.string_stats.common_stats.num_non_missing)
        return ValueCounts(dict(counts), examples) if counts.total() else None
    return None


def restricted(sample: ValueCounts, values: set[str]) -> ValueCounts | None:
    """The sample with only these values; None when none is left."""
    kept = {value: count for value, count in sample.counts.items() if value in values}
    total = sum(kept.values())
    if not total:
        return None
    return ValueCounts(kept, max(1, round(total / sample.dependence)))


def distance(before: ValueCounts, after: ValueCounts, allowed: float) -> Distance:
    """Whether `after` differs from `before` by more than `allowed` and sampling noise.

    The noise is estimated by 400 random reassignments of the values to both samples: the mean of
    their squared distances is subtracted, and the 99.9th percentile of a scaled chi-squared
    distribution with their mean and variance is allowed in addition. Samples of one distribution
    exceed `allowed=0` in about 1 of 1,000 pairs, regardless of the number of rare values.

    Args:
      before: reference sample.
      after: sample to check.
      allowed: distance in [0, 1]; 1 allows any difference.
    """
    values = sorted({*before.counts, *after.counts})
    first, second = (np.array([s.counts.get(v, 0) for v in values]) for s in (before, after))
    x, y = first / first.sum(), second / second.sum()
    squared = float(_squared(x, y))
    mean, quantile = _noise(first, second)
    dependence = max(before.dependence, after.dependence)
    mean, quantile = dependence * mean, dependence * quantile
    order = np.argsort(-_terms(x, y), kind="stable")[:_NAMED]
    changed = [f"{values[i]} {x[i]:.2%} -> {y[i]:.2%}" for i in order if x[i] != y[i]]
    return Distance(
        value=max(0.0, squared - mean) ** 0.5,
        threshold=min(1.0, (allowed**2 + quantile - mean) ** 0.5),
        exceeded=squared > allowed**2 + quantile,
        changed=", ".join(changed),
    )


def _terms(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    both = x + y
    return np.divide((x - y) ** 2, both, out=np.zeros_like(both), where=both > 0)


def _squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return 0.5 * _terms(x, y).sum(axis=-1)


def _noise(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Mean and 99.9th percentile of the squared distance under random reassignment of values."""
    pooled, size = first + second, int(first.sum())
    rng = np.random.default_rng(0)
    drawn = rng.multivariate_hypergeometric(pooled, size, _DRAWS)
    squared = _squared(drawn / size, (pooled - drawn) / (pooled.sum() - size))
    mean, variance = float(squared.mean()), float(squared.var())
    if not variance:
        return mean, mean
    # Satterthwaite 1946: a scaled chi-squared with the same two moments.
    freedom = 2 * mean**2 / variance
    return mean, float(chi2.ppf(_LEVEL, freedom)) * mean / freedom
