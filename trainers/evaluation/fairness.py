"""Rates of groups and the gaps between them, with intervals that hold for small groups.

| gap | of | source |
|---|---|---|
| accuracy | share of right predictions | overall accuracy equality (Verma and Rubin 2018) |
| equal opportunity | true positive rate | Hardt et al. 2016, arXiv 1610.02413 |
| false positive rate | false positive rate | with the one above: equalized odds |
| demographic parity | share called positive | Dwork et al. 2012, arXiv 1104.3913 |

All rates except accuracy are of one class against the others. NumPy and SciPy only.

The figures have limits: labels may be biased themselves, groups are as they were annotated, and
a gap on these images need not be the gap elsewhere.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainers.evaluation.stats import LEAST_IMAGES, Interval, proportion_interval

Array = NDArray[Any]

ACCURACY = "accuracy"
TRUE_POSITIVE_RATE = "true_positive_rate"
FALSE_POSITIVE_RATE = "false_positive_rate"
FALSE_NEGATIVE_RATE = "false_negative_rate"
POSITIVE_RATE = "positive_rate"
_JOIN = ", "
RATES = (ACCURACY, TRUE_POSITIVE_RATE, FALSE_POSITIVE_RATE, FALSE_NEGATIVE_RATE, POSITIVE_RATE)


@dataclass(frozen=True)
class Group:
    """The rates of one group.

    Attributes:
      name: the group's value.
      images: all images of the group.
      rates: name -> share with its 95 % interval; a rate without images behind it is left out.
      counts: name -> the number of images behind the rate.
      overconfidence: mean of the highest score minus accuracy; above 0 is too confident.
      compared: whether the group has enough images to take part in gaps.
    """

    name: str
    images: int
    rates: dict[str, Interval]
    counts: dict[str, int]
    overconfidence: float
    compared: bool


@dataclass(frozen=True)
class Gap:
    """The greatest difference of a rate between groups.

    Attributes:
      rate: one of `RATES`.
      size: highest minus lowest rate, with an interval of at least 95 %, in [0, 1].
      highest: group with the highest rate.
      lowest: group with the lowest rate.
    """

    rate: str
    size: Interval
    highest: str
    lowest: str


def group_rates(
    scores: ArrayLike, labels: ArrayLike, groups: ArrayLike, *, positive: int
) -> list[Group]:
    """The rates of each group, in the order of the groups' names (see `natural`).

    Args:
      scores: (M, N) softmax.
      labels: (M,) int in [0, N).
      groups: (M,) str.
      positive: the class that counts as positive, in [0, N).

    Raises:
      ValueError: no images, other lengths, or no such class.
    """
    values, truth, names = np.asarray(scores), np.asarray(labels), np.asarray(groups, str)
    if values.ndim != 2 or not len(values) or not (truth.shape == names.shape == (len(values),)):
        raise ValueError(
            "`scores` (M, N), `labels` (M,) and `groups` (M,) must have the same M above 0, got "
            f"{values.shape}, {truth.shape} and {names.shape}"
        )
    if not 0 <= positive < values.shape[1]:
        raise ValueError(f"`positive` must be in [0, {values.shape[1]}), got {positive}")
    guess, confidence = values.argmax(axis=1), values.max(axis=1)
    found = []
    for name in sorted(set(names.tolist()), key=natural):
        inside = names == name
        counted = _counts(guess[inside], truth[inside], positive)
        rates = {key: proportion_interval(k, n) for key, (k, n) in counted.items() if n}
        size = int(inside.sum())
        over = float(confidence[inside].mean()) - rates[ACCURACY].value
        counts = {key: n for key, (_, n) in counted.items()}
        found.append(Group(name, size, rates, counts, over, size >= LEAST_IMAGES))
    return found


def gaps(groups: Sequence[Group], *, level: float = 0.95) -> list[Gap]:
    """The gap of each rate between the groups that have enough images.

    The interval is simultaneous: each of G groups' rates has Clopper and Pearson's interval at
    level 1 - (1 - level) / G, and the gap lies between the distance of the extreme intervals and
    their hull. It holds whichever groups turn out highest and lowest. Conservative, more so with
    more groups.

    Args:
      groups: of `group_rates`.
      level: of the interval, in (0, 1).

    Returns:
      One gap for each rate that two or more groups have, in the order of `RATES`.
    """
    found = []
    for rate in RATES:
        compared = [one for one in groups if one.compared and one.counts[rate] >= LEAST_IMAGES]
        if len(compared) < 2:
            continue
        each = {}
        for one in compared:
            size = one.counts[rate]
            hits = round(one.rates[rate].value * size)
            each[one.name] = proportion_interval(hits, size, level=1 - (1 - level) / len(compared))
        found.append(_gap(rate, each))
    return found


def crossed(slices: dict[str, Array], keys: tuple[str, ...]) -> Array:
    """(M,) str: the groups of several keys at once, as `Asian, Female`.

    Raises:
      KeyError: a key that `slices` lacks.
      ValueError: a value that contains the separator, which would merge different groups.
    """
    columns = [np.asarray(slices[key], str) for key in keys]
    for key, column in zip(keys, columns, strict=True):
        bad = [value for value in set(column.tolist()) if _JOIN in value] if len(keys) > 1 else []
        if bad:
            raise ValueError(
                f"the value {bad[0]!r} of {key} contains {_JOIN!r}, which separates the values of "
                "a cross; rename it in the data"
            )
    return np.array([_JOIN.join(row) for row in zip(*columns, strict=True)], dtype=object)


def natural(name: str) -> tuple[tuple[int, Any], ...]:
    """A key that sorts numbers within text as numbers: 3-9, 10-19, more than 70."""
    parts = re.split(r"(\d+)", name.casefold())
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in parts if part)


def _counts(guess: Array, truth: Array, positive: int) -> dict[str, tuple[int, int]]:
    """Rate -> images that count for it, and all images behind it."""
    called, ours = guess == positive, truth == positive
    hits, alarms = int((called & ours).sum()), int((called & ~ours).sum())
    return {
        ACCURACY: (int((guess == truth).sum()), len(truth)),
        TRUE_POSITIVE_RATE: (hits, int(ours.sum())),
        FALSE_POSITIVE_RATE: (alarms, int((~ours).sum())),
        FALSE_NEGATIVE_RATE: (int(ours.sum()) - hits, int(ours.sum())),
        POSITIVE_RATE: (int(called.sum()), len(truth)),
    }


def _gap(rate: str, each: dict[str, Interval]) -> Gap:
    highest = max(each, key=lambda name: each[name].value)
    lowest = min(each, key=lambda name: each[name].value)
    least = max(one.low for one in each.values()) - min(one.high for one in each.values())
    most = max(one.high for one in each.values()) - min(one.low for one in each.values())
    size = Interval(each[highest].value - each[lowest].value, max(0.0, least), min(1.0, most))
    return Gap(rate, size, highest, lowest)
