"""Confidence intervals and paired tests over per-example results.

A 95 % interval covers the true value in at least 93 % of samples of the sizes it is used for, which
`tests/trainers/evaluation/test_coverage.py` simulates; the docstring of an interval that covers
more than 97 % says "conservative". Shares have Clopper & Pearson's exact interval, because a
bootstrap does not see errors that the sample does not contain (BCa covers less than 90 % for 30
images). Means and other figures are resampled 1,000 times, N draws with replacement: studentized,
or BCa (bias-corrected and accelerated: Efron & Tibshirani 1993, section 14.3). NumPy and SciPy
only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats as _scipy

from trainers.evaluation.bootstrap import Resamples, bca, index_chunks, resample

Array = NDArray[Any]

#: Slices and groups with fewer images are counted but not compared. Even without any change, 30
#: images cannot exclude a drop of 11 points, and an interval of 90 % is wider than 20 points.
LEAST_IMAGES = 30
# A resample of values with few distinct levels is one multinomial draw over the levels: the same
# distribution as drawing N indices, without the N.
_MAX_LEVELS = 64


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval: `low <= high`, in the estimate's unit."""

    value: float
    low: float
    high: float

    def as_list(self) -> list[float]:
        """`[value, low, high]`, as summaries and manifests hold it."""
        return [self.value, self.low, self.high]

    def reaching(self, *ends: float) -> "Interval":
        """The same estimate with the interval widened to `ends` and to the value itself."""
        held = (self.value, *ends)
        return Interval(self.value, min(self.low, *held), max(self.high, *held))


@dataclass(frozen=True)
class SeedTest:
    """Paired t-test over seeds.

    Attributes:
      statistic: Student's t; infinite when every seed has the same non-zero difference.
      p_value: two-sided, in [0, 1].
      difference: mean of `a - b` with its t interval.
    """

    statistic: float
    p_value: float
    difference: Interval


def proportion_interval(successes: float, total: float, *, level: float = 0.95) -> Interval:
    """`successes / total` with Clopper & Pearson's exact interval (1934).

    Conservative: it covers at least 95 % at every share and size, more than 97 % where fewer than
    some 50 examples, or hardly any failures, are behind it. Both counts may be fractions: the
    effective sample size of a share that is not a plain mean (Korn & Graubard 1998, section 2).

    Args:
      successes: in [0, `total`].
      total: above 0.
      level: confidence level in (0, 1).

    Raises:
      ValueError: a count or the level is out of range.
    """
    _check_settings(100, level)
    if not (total > 0 and 0 <= successes <= total):
        raise ValueError(
            f"`successes` must be in [0, `total`] and `total` above 0, got {successes} and {total}"
        )
    (found,) = proportion_intervals([successes], [total], level=level)
    assert found is not None
    return found


def proportion_intervals(
    successes: ArrayLike, totals: ArrayLike, *, level: float = 0.95
) -> list[Interval | None]:
    """`proportion_interval` of each pair of counts; None where a total is 0.

    Args:
      successes: (K,) counts, each at most its total.
      totals: (K,) counts.
      level: confidence level in (0, 1).
    """
    hits, sizes = np.asarray(successes, np.float64), np.asarray(totals, np.float64)
    tail, failures = (1 - level) / 2, sizes - hits
    low, high = np.zeros(len(hits)), np.ones(len(hits))
    some, short = hits > 0, failures > 0
    low[some] = _scipy.beta.ppf(tail, hits[some], failures[some] + 1)
    high[short] = _scipy.beta.ppf(1 - tail, hits[short] + 1, failures[short])
    values = np.divide(hits, sizes, out=np.zeros(len(hits)), where=sizes > 0)
    return [
        Interval(value, *ends) if size else None
        for value, *ends, size in zip(
            *(part.tolist() for part in (values, low, high, sizes)), strict=True
        )
    ]


def bootstrap_interval(
    values: ArrayLike, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """The mean of per-example values with its bootstrap interval.

    0/1 values need no resampling: the bootstrap of a share is a binomial distribution, and the
    shares that its tails do not reject are `proportion_interval`, which is conservative. Other
    values get the studentized bootstrap (Efron & Tibshirani 1993, section 12.5), which follows a
    long tail, widened to the BCa interval where that is wider. No resampling covers 95 % for skewed
    values whose mean depends on a few of them, such as the losses of a good classifier: see
    `trainers.evaluation.metrics.cross_entropy`. A constant other than 0 and 1 has no width.

    Args:
      values: (N,) numbers or booleans, one per example.
      resamples: bootstrap resamples, at least 100.
      level: confidence level in (0, 1).
      seed: of the resampling; the same seed gives the same interval.

    Raises:
      ValueError: no values, a value that is not finite, another shape, or a setting out of range.
    """
    values = _values(values, "values")
    _check_settings(resamples, level)
    if np.isin(values, (0.0, 1.0)).all():
        return proportion_interval(float(values.sum()), len(values), level=level)
    mean = float(values.mean())
    if values.min() == values.max():
        return Interval(mean, mean, mean)
    means, deviations = _resampled_moments(values, resamples, seed)
    # Efron & Tibshirani 14.15 for a mean: the jackknife deviations are (x_i - mean) / (N - 1).
    found = Interval(mean, *bca(means, mean, values - mean, level))
    return found.reaching(*_studentized(means, deviations, values, level))


def bootstrap_statistics(
    statistics: Callable[..., Any],
    *arrays: ArrayLike,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Interval]:
    """BCa bootstrap intervals of figures that are not a mean, and share their resamples.

    A bootstrap does not see errors that the sample does not contain: the interval of a figure that
    never varies (macro F1 of a perfect classifier) has no width, and few examples give an interval
    that is too narrow. `trainers.evaluation.metric.resampled` widens it. For figures of a few
    rounds see `serving.benchmark.rounds`.

    Args:
      statistics: takes arrays like `arrays` and returns (K,) numbers.
      *arrays: (N, ...) each, resampled together along the first axis.
      resamples: bootstrap resamples, at least 100.
      level: confidence level in (0, 1).
      seed: of the resampling.

    Returns:
      K intervals, in the order of the statistics.

    Raises:
      ValueError: no examples, arrays of different lengths, or a setting out of range.
    """
    _check_settings(resamples, level)
    return bca_intervals(resample(statistics, *arrays, resamples=resamples, seed=seed), level)


def bca_intervals(found: Resamples, level: float = 0.95) -> list[Interval]:
    """K BCa intervals of resampled (K,) figures."""
    estimates = np.asarray(found.estimates, np.float64)
    replicates = np.asarray(found.replicates, np.float64)
    left_out = np.asarray(found.left_out, np.float64)
    influence = left_out.mean(axis=0) - left_out
    return [
        Interval(float(estimate), *bca(replicates[:, k], float(estimate), influence[:, k], level))
        for k, estimate in enumerate(estimates)
    ]


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """The mean of `a - b` over the same examples, with its bootstrap interval.

    0/1 columns (right or wrong) differ on a handful of examples, where plain resampling may
    cover as little as 83 %. One pair is added to each side's discordant count before resampling,
    and the interval reaches at least as far as the normal one from the same counts (Bonett & Price
    2012, equation 4). Conservative, above 97 %, below some eight expected discordant pairs. Columns
    that agree everywhere thus still get a width. Other values get `bootstrap_interval` of their
    differences.

    Args:
      a: (N,) per-example values, e.g. whether the candidate was right.
      b: (N,) of the other model, on the same examples in the same order.
      resamples: bootstrap resamples, at least 100.
      level: confidence level in (0, 1).
      seed: of the resampling.

    Raises:
      ValueError: no values, different lengths, or a setting out of range.
    """
    first, second = _pair(a, b, "a", "b")
    _check_settings(resamples, level)
    if not np.isin([first, second], (0.0, 1.0)).all():
        return bootstrap_interval(first - second, resamples=resamples, level=level, seed=seed)
    size = len(first)
    only_a, only_b = int(np.sum(first > second)), int(np.sum(second > first))
    cells = np.array([only_a + 1, only_b + 1, size - only_a - only_b]) / (size + 2)
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    drawn = np.random.default_rng(seed).multinomial(size, cells, size=resamples)
    low, high = np.quantile(drawn @ [1, -1, 0] / size, tails)
    center = cells[0] - cells[1]
    error = np.sqrt((cells[0] + cells[1] - center**2) / (size + 2))
    normal = np.clip(center + error * _scipy.norm.ppf(tails), -1.0, 1.0)
    value = (only_a - only_b) / size
    return Interval(value, float(low), float(high)).reaching(*normal.tolist())


def paired_t(seeds_a: ArrayLike, seeds_b: ArrayLike, *, level: float = 0.95) -> SeedTest:
    """Paired t-test of one figure over seeds, e.g. top-1 of two recipes trained on equal seeds.

    Args:
      seeds_a: (S,) one value a seed, S >= 2.
      seeds_b: (S,) of the other recipe, the same seeds in the same order.
      level: confidence level of the difference's interval, in (0, 1).

    Raises:
      ValueError: fewer than two seeds, different lengths, or a level out of range.
    """
    first, second = _pair(seeds_a, seeds_b, "seeds_a", "seeds_b")
    _check_settings(100, level)
    if len(first) < 2:
        raise ValueError("a t-test needs at least 2 seeds, got 1; train with another `train.seed`")
    differences = first - second
    mean = float(differences.mean())
    error = float(differences.std(ddof=1)) / np.sqrt(len(differences))
    if error <= np.spacing(np.abs(differences).max()):
        certain = mean != 0.0
        return SeedTest(
            float(np.copysign(np.inf, mean)) if certain else 0.0,
            0.0 if certain else 1.0,
            Interval(mean, mean, mean),
        )
    student = _scipy.t(df=len(differences) - 1)
    reach = float(student.ppf(0.5 + level / 2)) * error
    return SeedTest(
        float(mean / error),
        float(2 * student.sf(abs(mean) / error)),
        Interval(mean, mean - reach, mean + reach),
    )


def _resampled_moments(values: Array, resamples: int, seed: int) -> tuple[Array, Array]:
    """Mean and standard deviation of each resample."""
    levels, counts = np.unique(values, return_counts=True)
    size = len(values)
    if len(levels) <= _MAX_LEVELS:
        drawn = np.random.default_rng(seed).multinomial(size, counts / size, size=resamples)
        means = drawn @ levels / size
        squares = (drawn * (levels - means[:, None]) ** 2).sum(axis=1)
        return means, np.sqrt(squares / size)
    chunks = [values[chunk] for chunk in index_chunks(size, resamples, seed)]
    means = np.concatenate([chunk.mean(axis=1) for chunk in chunks])
    return means, np.concatenate([chunk.std(axis=1) for chunk in chunks])


def _studentized(means: Array, deviations: Array, values: Array, level: float) -> list[float]:
    """Efron & Tibshirani 1993, equation 12.22: the ends that are finite."""
    mean, deviation = float(values.mean()), float(values.std())
    # A resample of one value repeated says nothing of the other side: its end is left out.
    varied = deviations > 1e-12 * max(1.0, abs(mean))
    distances = np.where(means > mean, np.inf, -np.inf)
    np.divide(means - mean, deviations, out=distances, where=varied)
    tails = [(1 + level) / 2, (1 - level) / 2]
    ends = mean - np.quantile(distances, tails, method="inverted_cdf") * deviation
    return ends[np.isfinite(ends)].tolist()


def _values(values: ArrayLike, name: str) -> Array:
    array = np.asarray(values, np.float64)
    if array.ndim != 1:
        raise ValueError(f"`{name}` must be (N,), one value per example, got shape {array.shape}")
    _check_size(len(array), name)
    if not np.isfinite(array).all():
        at = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(f"`{name}` must be finite, got {array[at]} at index {at}")
    return array


def _pair(a: ArrayLike, b: ArrayLike, name_a: str, name_b: str) -> tuple[Array, Array]:
    first, second = _values(a, name_a), _values(b, name_b)
    if len(first) != len(second):
        raise ValueError(
            f"`{name_a}` has {len(first)} values and `{name_b}` {len(second)}: a paired comparison "
            "needs the same examples in the same order"
        )
    return first, second


def _check_size(size: int, name: str) -> None:
    if not size:
        raise ValueError(
            f"`{name}` is empty: an interval needs at least one example; check that the split "
            "or slice has any"
        )


def _check_settings(resamples: int, level: float) -> None:
    if resamples < 100:
        raise ValueError(f"`resamples` must be at least 100, got {resamples}; 1000 is usual")
    if not 0 < level < 1:
        raise ValueError(f"`level` must be in (0, 1), got {level}; 95 % is written 0.95")
