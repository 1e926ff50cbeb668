"""Rates of groups and the gaps between them, with intervals that hold for small groups.

| gap | of | source |
|---|---|---|
| accuracy | share of right predictions | overall accuracy equality (Verma and Rubin 2018) |
| equal opportunity | true positive rate | Hardt et al. 2016, arXiv 1610.02413 |
| equalized odds | the larger gap of true and false positive rate | Hardt et al. 2016 |
| demographic parity | share called positive | Dwork et al. 2012, arXiv 1104.3913 |
| calibration | overconfidence: highest score minus accuracy | Guo et al. 2017, 1706.04599 |

Accuracy and overconfidence exist for every model. The other rates are of one class against the
others. The expected calibration error is not compared: it is biased upwards in small groups.
NumPy and SciPy only.
"""

import math
from collections.abc import Callable, Collection, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats as _scipy

from trainers.evaluation.groups import is_recorded, natural
from trainers.evaluation.stats import LEAST_IMAGES, Interval, proportion_interval

Array = NDArray[Any]

ACCURACY = "accuracy"
TRUE_POSITIVE_RATE = "true_positive_rate"
FALSE_POSITIVE_RATE = "false_positive_rate"
FALSE_NEGATIVE_RATE = "false_negative_rate"
POSITIVE_RATE = "positive_rate"
OVERCONFIDENCE = "overconfidence"
EQUALIZED_ODDS = "equalized_odds"
RATES = (ACCURACY, TRUE_POSITIVE_RATE, FALSE_POSITIVE_RATE, FALSE_NEGATIVE_RATE, POSITIVE_RATE)
# More images than this are not suggested, and suggestions are within this ratio.
_MOST_IMAGES = 1e9
_NEAR = 1.01
# Rates that differ by less are equal except for rounding.
_EQUAL = 1e-9

#: What no figure of groups can show; for reports and model cards.
LIMITS = (
    "Groups are as annotated. People may belong to another group than the annotator assumed, to "
    "several or to none, and groups without annotation are not examined.",
    "The labels are taken as true. If they are less accurate for one group, its rates are those of "
    "the labels, not of the model.",
    "The images are a sample. If they were collected differently for each group, a gap may be one "
    "of camera, light or pose; the gap on other images can be larger or smaller.",
    "Equal rates here do not show that decisions based on the scores are fair.",
    "Each interval holds for one gap. Of many gaps between groups that are alike, up to one in 20 "
    "excludes zero by chance, and the largest of several differences is too large on average.",
)


@dataclass(frozen=True)
class Group:
    """The rates of one group.

    Attributes:
      name: the group's value.
      images: all images of the group.
      rates: name -> share with its 95 % interval, and `overconfidence` in [-1, 1]; above 0 is too
        confident. A rate without images behind it is left out.
      counts: name -> the number of images behind the rate.
      spread: standard deviation over the images of highest score minus correctness (0 or 1).
    """

    name: str
    images: int
    rates: dict[str, Interval]
    counts: dict[str, int]
    spread: float

    @property
    def recorded(self) -> bool:
        """Whether the images have a value of each key."""
        return is_recorded(self.name)

    @property
    def compared(self) -> bool:
        """Whether the group has enough images to take part in gaps."""
        return self.recorded and self.images >= LEAST_IMAGES

    @property
    def overconfidence(self) -> float:
        """Mean of the highest score minus accuracy."""
        return self.rates[OVERCONFIDENCE].value

    @property
    def note(self) -> str:
        """Why the group is not compared; empty if it is."""
        return size_note(self.images) if self.recorded else "no value: shown, not compared"

    def estimate(self, rate: str, *, level: float = 0.95, scale: float = 1.0) -> Interval:
        """A rate of `rates` with an interval of another level, or of `scale` times as many images.

        Args:
          rate: of `rates`.
          level: confidence level in (0, 1).
          scale: factor of the number of images, which keeps the rate; above 0.
        """
        value, images = self.rates[rate].value, scale * self.counts[rate]
        if rate != OVERCONFIDENCE:
            return proportion_interval(value * images, images, level=level)
        accuracy = self.rates[ACCURACY].value
        right = proportion_interval(accuracy * images, images, level=level)
        confidence = value + accuracy
        return _overconfidence(confidence, right, self.spread, images, level)


@dataclass(frozen=True)
class Gap:
    """The greatest difference of a rate between groups.

    Attributes:
      rate: one of `RATES`, `overconfidence`, or `equalized_odds`.
      size: highest minus lowest rate, with an interval of at least 95 %; in [0, 1], or in [0, 2]
        for `overconfidence`.
      highest: group with the highest rate.
      lowest: group with the lowest rate.
      compared: number of groups that were compared.
      left_out: names of the other groups, which have too few images or no value.
    """

    rate: str
    size: Interval
    highest: str
    lowest: str
    compared: int = 0
    left_out: tuple[str, ...] = ()

    @property
    def differs(self) -> bool:
        """Whether the groups' rates are not all equal, so that one is highest."""
        return self.size.value > _EQUAL


def group_rates(
    scores: ArrayLike, labels: ArrayLike, groups: ArrayLike, *, positive: int | None = None
) -> list[Group]:
    """The rates of each group, in the order of the groups' names (see `natural`).

    Args:
      scores: (M, N) softmax.
      labels: (M,) int in [0, N).
      groups: (M,) str.
      positive: the class that counts as positive, in [0, N); None leaves out all rates but
        accuracy and overconfidence.

    Raises:
      ValueError: no images, other lengths, a label out of range, or no such class.
    """
    values, truth, names = np.asarray(scores), np.asarray(labels), np.asarray(groups, str)
    if values.ndim != 2 or not len(values) or not (truth.shape == names.shape == (len(values),)):
        raise ValueError(
            "`scores` (M, N), `labels` (M,) and `groups` (M,) must have the same M above 0, got "
            f"{values.shape}, {truth.shape} and {names.shape}"
        )
    classes = values.shape[1]
    if positive is not None and not 0 <= positive < classes:
        raise ValueError(f"`positive` must be in [0, {classes}), got {positive}")
    unlabeled = np.flatnonzero((truth < 0) | (truth >= classes))
    if len(unlabeled):
        raise ValueError(
            f"`labels` must be in [0, {classes}), got {truth[unlabeled[0]]} at index "
            f"{unlabeled[0]}; leave out the {len(unlabeled):,} images without a label"
        )
    guess, excess = values.argmax(axis=1), values.max(axis=1).astype(np.float64)
    excess -= guess == truth
    found = []
    for name in sorted(set(names.tolist()), key=natural):
        inside = names == name
        counted = _counts(guess[inside], truth[inside], positive)
        rates = {key: proportion_interval(k, n) for key, (k, n) in counted.items() if n}
        counts = {key: n for key, (_, n) in counted.items()}
        size = counts[OVERCONFIDENCE] = counts[ACCURACY]
        spread = float(excess[inside].std(ddof=1)) if size > 1 else 0.0
        confidence = float(excess[inside].mean()) + rates[ACCURACY].value
        rates[OVERCONFIDENCE] = _overconfidence(confidence, rates[ACCURACY], spread, size, 0.95)
        found.append(Group(name, size, rates, counts, spread))
    return found


def gaps(groups: Sequence[Group], *, level: float = 0.95, least: int = LEAST_IMAGES) -> list[Gap]:
    """The gap of each rate between the groups that have enough images.

    The interval is simultaneous: each of G groups' rates has its interval at level
    1 - (1 - level) / G, and the gap lies between the distance of the extreme intervals and their
    hull. It holds whichever groups turn out highest and lowest. Conservative, more so with more
    groups. For equalized odds, 1 - level is also divided between the two rates.

    Args:
      groups: of `group_rates`.
      level: of the interval, in (0, 1).
      least: images behind a rate of a group that is compared.

    Returns:
      One gap for each rate that two or more groups have, in the order of `RATES`, then
      `overconfidence` and `equalized_odds`.
    """
    found = [
        _gap(rate, groups, level=level, least=least)
        for rate in (*RATES, OVERCONFIDENCE)
        if len(comparable(groups, rate, least=least)) > 1
    ]
    odds = _equalized_odds(groups, level=level, least=least)
    return [*found, odds] if odds else found


def gap_of(groups: Sequence[Group], rate: str, *, level: float = 0.95) -> Gap | None:
    """The gap of one rate of `gaps`; None if fewer than two groups have enough images."""
    if rate == EQUALIZED_ODDS:
        return _equalized_odds(groups, level=level, least=LEAST_IMAGES)
    if len(comparable(groups, rate)) < 2:
        return None
    return _gap(rate, groups, level=level, least=LEAST_IMAGES)


def comparable(
    groups: Sequence[Group], rate: str, *, least: int = LEAST_IMAGES
) -> dict[str, Group]:
    """Name -> group of those with at least `least` images behind a rate of `RATES`."""
    return {g.name: g for g in groups if g.recorded and g.counts.get(rate, 0) >= least}


def images_needed(groups: Sequence[Group], rate: str, margin: float) -> int:
    """About how many images, with the same groups and rates, would decide whether a gap is small.

    Decided means that the interval of the gap lies on one side of `margin`. With fewer than two
    groups of enough images, the two largest are assumed to grow until they have enough.

    Args:
      groups: of `group_rates`.
      rate: of a gap, except `overconfidence`.
      margin: the largest accepted gap, in (0, 1].

    Returns:
      The number of images of all groups together; 0 if it is not known: there is one group, a rate
      has no image behind it, or the estimate is the margin itself.
    """
    rates = (TRUE_POSITIVE_RATE, FALSE_POSITIVE_RATE) if rate == EQUALIZED_ODDS else (rate,)
    compared: list[list[Group]] = []
    scale = 1.0
    for one in rates:
        chosen = list(comparable(groups, one).values())
        if len(chosen) < 2:
            some = [group for group in groups if group.recorded and group.counts.get(one)]
            chosen = sorted(some, key=lambda group: -group.counts[one])[:2]
            if len(chosen) < 2:
                return 0
            scale = max(scale, LEAST_IMAGES / chosen[1].counts[one])
        compared.append(chosen)

    def decided(scale: float) -> bool:
        level = 1 - 0.05 / len(rates)
        ends = [
            _size([g.estimate(one, level=_each(level, chosen), scale=scale) for g in chosen])
            for one, chosen in zip(rates, compared, strict=True)
        ]
        return max(e.high for e in ends) <= margin or max(e.low for e in ends) > margin

    images = sum(group.images for group in groups)
    return _smallest(decided, images, scale)


def size_note(images: int) -> str:
    """Why a group of that many images is not compared; empty for `LEAST_IMAGES` or more."""
    if images >= LEAST_IMAGES:
        return ""
    return (
        f"fewer than {LEAST_IMAGES} images: shown, not compared; with {images} images an interval "
        f"is about \N{PLUS-MINUS SIGN}{_reach(images)} points"
    )


def minimum_note() -> str:
    """Why groups need `LEAST_IMAGES` images to be compared, as a sentence for tables."""
    return (
        f"groups with fewer than {LEAST_IMAGES} images are shown, not compared: with "
        f"{LEAST_IMAGES} images, an interval is about "
        f"\N{PLUS-MINUS SIGN}{_reach(LEAST_IMAGES)} points"
    )


def _counts(guess: Array, truth: Array, positive: int | None) -> dict[str, tuple[int, int]]:
    """Rate -> images that count for it, and all images behind it."""
    right = {ACCURACY: (int((guess == truth).sum()), len(truth))}
    if positive is None:
        return right
    called, ours = guess == positive, truth == positive
    hits, alarms = int((called & ours).sum()), int((called & ~ours).sum())
    return {
        **right,
        TRUE_POSITIVE_RATE: (hits, int(ours.sum())),
        FALSE_POSITIVE_RATE: (alarms, int((~ours).sum())),
        FALSE_NEGATIVE_RATE: (int(ours.sum()) - hits, int(ours.sum())),
        POSITIVE_RATE: (int(called.sum()), len(truth)),
    }


def _overconfidence(
    confidence: float, accuracy: Interval, spread: float, images: float, level: float
) -> Interval:
    """Mean confidence minus accuracy, with an interval; conservative for small groups.

    The interval of the accuracy, which sees errors that the sample does not contain, widened to
    Student's of the differences, which sees the variation of the confidence.
    """
    value = confidence - accuracy.value
    reach = 0.0
    if images > 1:
        quantile = float(_scipy.t.ppf(0.5 + level / 2, images - 1))
        reach = quantile * spread / images**0.5
    low = min(confidence - accuracy.high, value - reach)
    high = max(confidence - accuracy.low, value + reach)
    return Interval(value, max(-1.0, low), min(1.0, high))


def _each(level: float, groups: Sized) -> float:
    """The level of each group's interval at which all hold together at `level` (Bonferroni)."""
    return 1 - (1 - level) / len(groups)


def _gap(rate: str, groups: Sequence[Group], *, level: float, least: int) -> Gap:
    chosen = comparable(groups, rate, least=least)
    each = {name: one.estimate(rate, level=_each(level, chosen)) for name, one in chosen.items()}
    highest = max(each, key=lambda name: each[name].value)
    lowest = min(each, key=lambda name: each[name].value)
    left_out = tuple(one.name for one in groups if one.name not in chosen)
    return Gap(rate, _size(each.values()), highest, lowest, len(chosen), left_out)


def _size(ends: Collection[Interval]) -> Interval:
    """The greatest difference of values whose intervals hold together."""
    values = [one.value for one in ends]
    least = max(one.low for one in ends) - min(one.high for one in ends)
    most = max(one.high for one in ends) - min(one.low for one in ends)
    return Interval(max(values) - min(values), max(0.0, least), most)


def _equalized_odds(groups: Sequence[Group], *, level: float, least: int) -> Gap | None:
    rates = (TRUE_POSITIVE_RATE, FALSE_POSITIVE_RATE)
    if any(len(comparable(groups, rate, least=least)) < 2 for rate in rates):
        return None
    both = [_gap(rate, groups, level=_each(level, rates), least=least) for rate in rates]
    worst = max(both, key=lambda one: one.size.value)
    size = Interval(
        worst.size.value, max(one.size.low for one in both), max(one.size.high for one in both)
    )
    left_out = dict.fromkeys(name for one in both for name in one.left_out)
    compared = min(one.compared for one in both)
    return Gap(EQUALIZED_ODDS, size, worst.highest, worst.lowest, compared, tuple(left_out))


def _smallest(decided: Callable[[float], bool], images: int, scale: float) -> int:
    """The smallest number of images, in steps of 1 %, that `decided` accepts; 0 above 1e9."""
    low = high = scale
    while not decided(high):
        low, high = high, 2 * high
        if images * high > _MOST_IMAGES:
            return 0
    while high / low > _NEAR:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if decided(middle) else (middle, high)
    return math.ceil(images * high)


def _reach(images: int) -> int:
    """Half the width of the interval of a share of one half, in points."""
    found = proportion_interval(images / 2, images)
    return round(50 * (found.high - found.low))
