"""Percentiles of latencies with intervals, and the number of queries that a claim needs.

The methods are distribution-free: the number of values below the true quantile is binomial for any
distribution. They assume independent observations. Latencies close to saturation are not
independent: there the intervals are too narrow, and only several runs give the variation.
"""

import math
from typing import NamedTuple

import numpy as np

#: MLPerf's inference_rules.adoc, appendix "Early Stopping Criterion": c = .99, d = 0.
CLAIM_CONFIDENCE = 0.99


class PercentileInterval(NamedTuple):
    """A percentile and the order statistics around it.

    Attributes:
      value: infinite when the percentile is a failed request.
      low: lower end of the confidence interval; None with too few values.
      high: upper end; None with too few values.
    """

    value: float
    low: float | None
    high: float | None


def percentile(ordered: np.ndarray, percent: float) -> float:
    """The smallest value that at least `percent` of the values do not exceed; NaN without values.

    Args:
      ordered: (N,) float, ascending.
      percent: in (0, 100].
    """
    if len(ordered) == 0:
        return math.nan
    return float(ordered[_rank(percent, len(ordered)) - 1])


def interval(
    ordered: np.ndarray, percent: float, *, confidence: float = 0.95
) -> PercentileInterval:
    """A percentile with its confidence interval by order statistics, for independent values.

    The ends are the l-th and u-th smallest values with at most half of 1 - `confidence` of the
    binomial distribution B(N, p) outside on either side (Hahn and Meeker, Statistical Intervals,
    1991, section 5.2; Le Boudec, Performance Evaluation of Computer and Communication Systems,
    theorem 2.1). It covers at least `confidence` at every N, and is conservative, up to 98 %,
    where few values lie beyond the percentile. An end that no value bounds is None: p99 has an
    upper one from 368 values on.

    Args:
      ordered: (N,) float, ascending.
      percent: in (0, 100).
      confidence: in (0, 1).
    """
    from scipy import stats  # Generator processes import this module and do not need SciPy.

    count, share, outside = len(ordered), percent / 100, (1 - confidence) / 2
    if count == 0:
        return PercentileInterval(math.nan, None, None)
    low = int(stats.binom.ppf(outside, count, share))
    high = int(stats.binom.ppf(1 - outside, count, share)) + 1
    return PercentileInterval(
        percentile(ordered, percent),
        float(ordered[low - 1]) if low >= 1 else None,
        float(ordered[high - 1]) if high <= count else None,
    )


def meets_bound(queries: int, over: int, percent: float) -> bool:
    """Whether a run proves, at 99 % confidence, that `percent` of queries stay under a bound.

    MLPerf Inference's early stopping criterion: with a share of exactly 1 - p over the bound, a
    run as good as this one would occur at most once in a hundred.

    Args:
      queries: sent in the run.
      over: queries later than the bound or failed.
      percent: in (0, 100), e.g. 99.
    """
    from scipy import stats

    share = 1 - percent / 100
    return queries > 0 and bool(stats.binom.cdf(over, queries, share) <= 1 - CLAIM_CONFIDENCE)


def queries_for_claim(percent: float, *, over: int = 0) -> int:
    """The smallest number of queries with which `meets_bound` is true despite `over` late ones.

    459 for p99 with none late, 662 with one, 1307 with five.
    """
    low, high = over + 1, 2 * (over + 1)
    while not meets_bound(high, over, percent):
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        if meets_bound(middle, over, percent):
            high = middle
        else:
            low = middle + 1
    return low


def queries_for_margin(percent: float) -> int:
    """Queries that determine a percentile's share to a twentieth of its tail at 99 % confidence.

    The fixed counts of MLPerf Inference 0.5 to 2.0: 23 886 for p90 and 262 742 for p99, from the
    normal approximation z^2 p (1 - p) / margin^2 with margin (1 - p) / 20.
    """
    from scipy import stats

    share = percent / 100
    z = stats.norm.ppf(0.5 + CLAIM_CONFIDENCE / 2)
    return math.ceil(z**2 * share * (1 - share) / ((1 - share) / 20) ** 2)


def _rank(percent: float, count: int) -> int:
    # 99 / 100 * 100 is 99.00000000000001 in floating point, which is not the hundredth value.
    return min(max(math.ceil(percent * count / 100 - 1e-9), 1), count)
