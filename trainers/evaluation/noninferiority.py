"""Non-inferiority: whether a classifier is worse than another by more than a margin.

The interval is Tango's score interval for the difference of paired proportions (Tango 1998,
"Equivalence test and confidence interval for the difference in proportions for the paired-sample
design", Statistics in Medicine 17:891-908). Its low end as a test, `low >= -margin`, has a
one-sided level of 2.5 %. Computed exactly for 50 to 700 images, margins of 0.5 to 5 points and
churns of 0.5 to 95 %, a classifier exactly `margin` worse passes with a probability of at most
2.96 %; a plain bootstrap interval passes up to 10 % of them. NumPy and SciPy only.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats as _scipy

from trainers.evaluation.stats import Interval

Array = NDArray[Any]

# Halvings of an interval at most 2 wide: down to the spacing of float64.
_HALVINGS = 60
# Below this many expected changes the normal approximation of a power is not trusted.
_FEW_CHANGES = 200


@dataclass(frozen=True)
class Paired:
    """Two classifiers on the same images.

    Attributes:
      gained: images that only the first classifies correctly.
      lost: images that only the second classifies correctly.
      total: all images.
    """

    gained: int
    lost: int
    total: int

    @property
    def difference(self) -> float:
        """Top-1 of the first minus top-1 of the second."""
        return (self.gained - self.lost) / self.total

    @property
    def churn(self) -> float:
        """Share of the images that exactly one of the two classifies correctly."""
        return (self.gained + self.lost) / self.total

    @property
    def mcnemar_p(self) -> float:
        """Exact two-sided McNemar p-value; 1 where no image changed."""
        discordant = self.gained + self.lost
        return float(_scipy.binomtest(self.gained, discordant).pvalue) if discordant else 1.0

    def interval(self, level: float = 0.95) -> Interval:
        """The difference with Tango's score interval."""
        low, high = score_interval(self.gained, self.lost, self.total, level=level)
        return Interval(self.difference, float(low), float(high))


def pair(first: ArrayLike, second: ArrayLike) -> Paired:
    """The counts of two columns of correct and wrong.

    Args:
      first: (N,) bool, whether the first classifier is correct.
      second: (N,) bool of the second, on the same images in the same order.

    Raises:
      ValueError: no images, or columns of different lengths.
    """
    ours, theirs = np.asarray(first, bool), np.asarray(second, bool)
    if ours.shape != theirs.shape or ours.ndim != 1 or not len(ours):
        raise ValueError(
            "a paired comparison needs the same images in the same order, and at least one; got "
            f"shapes {ours.shape} and {theirs.shape}"
        )
    return Paired(int((ours & ~theirs).sum()), int((theirs & ~ours).sum()), len(ours))


def score_interval(
    gained: ArrayLike, lost: ArrayLike, total: ArrayLike, *, level: float = 0.95
) -> tuple[Array, Array]:
    """Low and high end of Tango's score interval of `(gained - lost) / total`, elementwise.

    Args:
      gained: images that only the first classifies correctly; at least 0.
      lost: images that only the second classifies correctly; at least 0.
      total: all images, at least `gained + lost` and at least 1.
      level: two-sided confidence level in (0, 1).

    Returns:
      Two float64 arrays of the broadcast shape, in [-1, 1].

    Raises:
      ValueError: counts or a level out of range.
    """
    b, c, n = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (gained, lost, total)))
    if (b < 0).any() or (c < 0).any() or (b + c > n).any() or (n < 1).any():
        raise ValueError(
            "`gained` and `lost` must be at least 0 and at most `total` together, and `total` at "
            f"least 1; got {gained}, {lost} and {total}"
        )
    if not 0 < level < 1:
        raise ValueError(f"`level` must be in (0, 1), got {level}; 95 % is written 0.95")
    z = float(_scipy.norm.ppf((1 + level) / 2))
    point = (b - c) / n
    # The statistic falls as the assumed difference grows: the ends are where it is z and -z.
    low = _where_statistic_is(z, b, c, n, between=(np.full_like(point, -1.0), point))
    high = _where_statistic_is(-z, b, c, n, between=(point, np.full_like(point, 1.0)))
    return low, high


def score_statistic(gained: Array, lost: Array, total: Array, difference: Array) -> Array:
    """Tango's statistic for a true difference of `difference` (his equation 4), elementwise.

    Standard normal, approximately, where the true difference is that. The variance is that of the
    constrained maximum likelihood estimate (his equations 5 and 6).
    """
    n, d = total, difference
    linear = -gained - lost + (2 * n - gained + lost) * d
    constant = -lost * d * (1 - d)
    root = np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0))
    # Of two equal forms of the larger root, the one without cancellation.
    with np.errstate(divide="ignore", invalid="ignore"):
        direct = (root - linear) / (4 * n)
        inverse = np.where(linear + root > 0, -2 * constant / (linear + root), 0.0)
    only_second = np.where(linear > 0, inverse, direct)
    variance = n * (2 * only_second + d * (1 - d))
    numerator = gained - lost - n * d
    with np.errstate(divide="ignore", invalid="ignore"):
        found = numerator / np.sqrt(np.maximum(variance, 0))
    return np.where(numerator == 0, 0.0, found)


def _where_statistic_is(
    z: float, b: Array, c: Array, n: Array, *, between: tuple[Array, Array]
) -> Array:
    below, above = between
    for _ in range(_HALVINGS):
        middle = (below + above) / 2
        more = score_statistic(b, c, n, middle) > z
        below, above = np.where(more, middle, below), np.where(more, above, middle)
    return (below + above) / 2


def excludable_drop(total: int, *, level: float = 0.95) -> float:
    """The smallest drop that `total` images can exclude: when no image changes.

    In closed form `z^2 / (total + z^2)`: 7.1 points for 50 images, 2 points for 189.
    """
    z = float(_scipy.norm.ppf((1 + level) / 2))
    return z * z / (total + z * z)


def images_needed(found: Paired, margin: float, *, level: float = 0.95, power: float = 0.8) -> int:
    """How many images would decide an undecided comparison with a probability of `power` or more.

    Assumes that the observed shares are true, with half an image added to both counts so that no
    change does not mean certainty. A comparison is decided when the interval's low end is
    at least `-margin` or its high end is below 0. The first guess is the normal approximation
    (Connor 1987, Biometrics 43:207-211): with churn v, difference d and s = sqrt(v - d^2), the
    smallest n with

        Phi(sqrt(n) (d + margin) / s - z) + Phi(sqrt(n) (-d) / s - z) >= power.

    Where few changes are expected, it then grows by 10 % until the exact probability is reached. It
    is at least one more than there are, and at least what can exclude the margin at all
    (`excludable_drop`).

    Args:
      found: the comparison so far.
      margin: the drop to exclude, in [0, 1); 0 is for a lead, which must differ from 0.
      level: of the interval.
      power: chance of a decision, in (0.5, 1).

    Raises:
      ValueError: a margin out of range, or no difference without a margin, which no number of
        images decides.
    """
    if not 0 <= margin < 1 or (margin == 0 and found.gained == found.lost):
        raise ValueError(
            f"`margin` must be in (0, 1), or 0 for a lead that is not 0; got {margin} for {found}; "
            "2 points are written 0.02"
        )
    z = float(_scipy.norm.ppf((1 + level) / 2))
    gained, lost = (found.gained + 0.5) / (found.total + 1), (found.lost + 0.5) / (found.total + 1)
    difference = gained - lost
    spread = math.sqrt(gained + lost - difference**2)
    least = math.ceil(z * z * (1 - margin) / margin) if margin else 0
    total = max(found.total + 1, least)

    def approximate_power(count: int) -> float:
        scale = math.sqrt(count) / spread
        return float(
            _scipy.norm.cdf(scale * (difference + margin) - z)
            + _scipy.norm.cdf(-scale * difference - z)
        )

    while approximate_power(total) < power:
        total = math.ceil(total * 1.02)
    while (
        total * (gained + lost) < _FEW_CHANGES
        and _decision_power(gained, lost, total, margin=margin, level=level) < power
    ):
        total = math.ceil(total * 1.1)
    return total


def _decision_power(
    gained: float, lost: float, total: int, *, margin: float, level: float
) -> float:
    """Exact probability that the interval of `total` images decides, for true shares of changes."""
    ranges = [_scipy.binom.ppf([1e-6, 1 - 1e-6], total, share) for share in (gained, lost)]
    b, c = np.meshgrid(*(np.arange(low, high + 1) for low, high in ranges), indexing="ij")
    inside = b + c <= total
    b, c = b[inside], c[inside]
    chances = _scipy.binom.pmf(b, total, gained) * _scipy.binom.pmf(
        c, total - b, lost / (1 - gained)
    )
    low, high = score_interval(b, c, total, level=level)
    return float(chances[(low >= -margin) | (high < 0)].sum())


def disagreement_bound(differing: int, total: int, *, level: float = 0.95) -> float:
    """An upper bound of the share of images on which two models differ (Clopper & Pearson 1934).

    It also bounds any drop in accuracy, without labels: an image that both models assign to one
    class is correct for both or wrong for both. Exact, one-sided at `(1 + level) / 2`, the level
    of one end of a `level` interval; conservative.

    Raises:
      ValueError: counts out of range.
    """
    if not 0 <= differing <= total or total < 1:
        raise ValueError(f"`differing` must be in [0, {total}] of at least 1, got {differing}")
    if differing == total:
        return 1.0
    return float(_scipy.beta.ppf((1 + level) / 2, differing + 1, total - differing))
