"""How far two samples' shares of values are apart, and how far chance alone moves them.

The distance is Le Cam's, sqrt(1/2 sum (x - y)^2 / (x + y)) over the shares x and y of each value
(Le Cam 1986, "Asymptotic Methods in Statistical Decision Theory", section 4.2), a symmetric
chi-squared distance in [0, 1]: between the total variation and its square root. The largest
difference of a share misses classes that vanish where there are many; the sum over all of them
does not, once what chance alone gives is taken off.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2
from tensorflow_metadata.proto.v0 import statistics_pb2

_DRAWS = 400
_LEVEL = 0.999
# Values that a description names.
_NAMED = 3


@dataclass(frozen=True)
class Sample:
    """How often each value of a feature occurs in a sample.

    Attributes:
      counts: value -> how often it occurs.
      examples: how many examples they come from. Where one holds several values (objects), these
        are not independent: the noise is that of as many values as there are examples.
    """

    counts: dict[str, int]
    examples: int

    @property
    def dependence(self) -> float:
        """Values for each example, at least 1."""
        return max(1.0, sum(self.counts.values()) / max(self.examples, 1))


@dataclass(frozen=True)
class Distance:
    """The distance between two samples.

    Attributes:
      value: with what chance alone gives taken off, in [0, 1].
      threshold: the allowed distance with the sampling noise added.
      exceeded: whether the samples are further apart than that.
      changed: the values whose shares changed most, in words.
    """

    value: float
    threshold: float
    exceeded: bool
    changed: str


def categorical_sample(
    statistics: statistics_pb2.DatasetFeatureStatisticsList,
    feature: str,
    names: Mapping[str, str] | None = None,
) -> Sample | None:
    """How often a feature's values occur, or None where TFDV counted none.

    Args:
      statistics: of one data set.
      feature: a column with string statistics; integers have them where the schema given to TFDV
        marks them as categorical.
      names: value -> its name; values without one keep theirs. None names none.
    """
    for found in statistics.datasets[0].features:
        if list(found.path.step) != [feature] or not found.HasField("string_stats"):
            continue
        counts: Counter[str] = Counter()
        for bucket in found.string_stats.rank_histogram.buckets:
            name = names.get(bucket.label, bucket.label) if names else bucket.label
            counts[name] += round(bucket.sample_count)
        examples = int(found.string_stats.common_stats.num_non_missing)
        return Sample(dict(counts), examples) if counts.total() else None
    return None


def restricted(sample: Sample, values: set[str]) -> Sample | None:
    """The sample without all other values; None where nothing is left."""
    kept = {value: count for value, count in sample.counts.items() if value in values}
    total = sum(kept.values())
    if not total:
        return None
    return Sample(kept, max(1, round(total / sample.dependence)))


def distance(before: Sample, after: Sample, allowed: float) -> Distance:
    """Whether `after` differs from `before` by more than `allowed` and sampling noise.

    The noise is that of dealing the values of both samples out anew: the mean of 400 such squared
    distances is taken off, and the 99.9th percentile of a scaled chi-squared distribution with
    their mean and variance is allowed on top. Samples of one distribution exceed `allowed=0` for
    about 1 of 1,000 pairs, however many values are rare.

    Args:
      before: the sample that is compared with.
      after: the sample that is judged.
      allowed: distance that does not matter, in [0, 1]; 1 allows everything.
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
    """Mean and 99.9th percentile of the squared distance when the values are dealt out anew."""
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
