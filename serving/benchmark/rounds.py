"""Statistics over the few rounds of a benchmark, for every benchmark of the project.

A ratio or difference is of two measurements of the same round, so that a machine that slows down
affects both. There are few rounds, 2 to 10, where resampling is far too narrow (BCa of 4 rounds
covers 76 %) and order statistics are coarse. Ratios therefore have Student's t interval on their
logarithms, and other figures have the minimum and maximum of the rounds.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class RatioOverRounds(NamedTuple):
    """A ratio with its 95 % interval.

    Attributes:
      value: geometric mean over the rounds, so that a/b and b/a are each other's inverse.
      low: of the interval.
      high: likewise.
    """

    value: float
    low: float
    high: float


class RangeOverRounds(NamedTuple):
    """The median of the rounds, with their minimum and maximum: a range, not an interval."""

    value: float
    low: float
    high: float


def ratio_over_rounds(
    values: Iterable[float], base: Iterable[float], *, level: float = 0.95
) -> RatioOverRounds:
    """The ratio of `values` to `base` with Student's t interval on its logarithm.

    Covers 95 % of normal log-ratios of any number of rounds, and at least 94 % where one round in
    ten has a measurement that takes up to three times as long (conservative then, up to 98 %):
    delays that affect both measurements alike keep the log-ratio symmetric, and t is too wide for
    long tails.

    Args:
      values: above 0, one per round.
      base: of the same rounds.
      level: confidence level in (0, 1).

    Raises:
      ValueError: fewer than two rounds, different numbers of them, or a value not above 0.
    """
    from scipy import stats  # Processes that only call a server do not need SciPy.

    above, below = (np.array(list(part), np.float64) for part in (values, base))
    rounds = len(above)
    if rounds < 2 or rounds != len(below):
        raise ValueError(
            f"a ratio needs the same rounds of both, at least 2, got {rounds} and {len(below)}"
        )
    if not (np.isfinite([above, below]).all() and min(above.min(), below.min()) > 0):
        raise ValueError(f"a ratio needs values above 0, got {above.tolist()} and {below.tolist()}")
    logs = np.log(above / below)
    middle = float(logs.mean())
    error = float(logs.std(ddof=1)) / np.sqrt(rounds)
    reach = float(stats.t.ppf(0.5 + level / 2, rounds - 1)) * error
    return RatioOverRounds(*(float(np.exp(middle + part)) for part in (0.0, -reach, reach)))


def range_over_rounds(values: Iterable[float]) -> RangeOverRounds:
    """The median of `values`, one per round, with their minimum and maximum.

    Raises:
      ValueError: no values.
    """
    given = np.array(list(values), np.float64)
    if not len(given):
        raise ValueError("a range needs at least one round, got none")
    return RangeOverRounds(float(np.median(given)), float(given.min()), float(given.max()))
