"""What a few rounds of a benchmark say, for every benchmark of the project.

A turn of one thing and a turn of another in the same round make a ratio or a difference, so that a
machine that slows down slows both. Rounds are few, 2 to 10, where resampling is far too narrow (BCa
of 4 rounds covers 76 %) and order statistics are coarse. So ratios have Student's t on their
logarithms, and everything else says how many rounds there were, with the least and the greatest.
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
    """The median of the rounds, with the least and the greatest: a range, not an interval."""

    value: float
    low: float
    high: float


def ratio_over_rounds(
    values: Iterable[float], base: Iterable[float], *, level: float = 0.95
) -> RatioOverRounds:
    """The ratio of `values` to `base` with Student's t interval on its logarithm.

    Covers 95 % of normal log-ratios of any number of rounds, and at least 94 % where a round in ten
    has one of its turns held up to three times as long (conservative then, up to 98 %): what
    happens to either turn alike makes the log-ratio symmetric, and t is too wide for long tails.

    Args:
      values: above 0, one a round.
      base: of the same rounds.
      level: confidence level in (0, 1).

    Raises:
      ValueError: fewer than two rounds, different numbers of them, or a value not above 0.
    """
    from scipy import stats  # Processes that only call a server have no need of SciPy.

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
    """The median of `values`, one a round, with the least and the greatest of them.

    Raises:
      ValueError: no values.
    """
    given = np.array(list(values), np.float64)
    if not len(given):
        raise ValueError("a range needs at least one round, got none")
    return RangeOverRounds(float(np.median(given)), float(given.min()), float(given.max()))
