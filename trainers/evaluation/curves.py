"""ROC, precision-recall and calibration curves, thresholds and temperature, with intervals.

Each curve is of one class against the others: `scores` are that class's, `positive` says which
images belong to it. NumPy and SciPy only.

| figure | interval |
|---|---|
| area under the ROC curve | DeLong et al. 1988 (Biometrics 44:837-845), widened; see `_area` |
| average precision | Boyd, Eng and Page 2013 (ECML PKDD, section 3), logit; conservative |
| rates at a threshold | Clopper and Pearson's, exact and conservative |
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special
from scipy import stats as _scipy

from trainers.evaluation.scores import LEAST_PROBABILITY
from trainers.evaluation.stats import Interval, proportion_interval, proportion_intervals

Array = NDArray[Any]

#: Limits of a temperature: networks in use need about 0.5 to 5 (Guo et al. 2017, arXiv 1706.04599).
TEMPERATURES = (0.05, 20.0)
#: Points of a curve in files; the figures are of all of them.
MOST_POINTS = 1000
# Newton's steps converge in some 10; halving the bracket alone takes 40.
_MOST_STEPS, _CLOSE = 60, 1e-9
# Scores at a time: 8 MB of float64, which stays in a cache.
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Roc:
    """A receiver operating characteristic, from the highest threshold down.

    Attributes:
      thresholds: (K,) descending; an image is positive from there on. The first is infinite.
      false_positive_rate: (K,) in [0, 1], from 0 to 1.
      true_positive_rate: (K,) in [0, 1], from 0 to 1.
      area: under the curve, with its 95 % interval.
    """

    thresholds: Array
    false_positive_rate: Array
    true_positive_rate: Array
    area: Interval


@dataclass(frozen=True)
class PrecisionRecall:
    """A precision-recall curve, from the highest threshold down.

    Attributes:
      thresholds: (K,) descending.
      precision: (K,) in [0, 1].
      recall: (K,) in [0, 1], up to 1.
      average_precision: the sum of precision over steps of recall, with its 95 % interval.
    """

    thresholds: Array
    precision: Array
    recall: Array
    average_precision: Interval


@dataclass(frozen=True)
class Rates:
    """A class against the others at one threshold; each rate has its 95 % interval or is None.

    Attributes:
      threshold: images with this score or more are positive.
      precision: None where nothing is positive.
      recall: also called sensitivity or true positive rate; None without an image of the class.
      false_positive_rate: 1 minus specificity; None without an image of another class.
      false_negative_rate: 1 minus recall.
    """

    threshold: float
    precision: Interval | None
    recall: Interval | None
    false_positive_rate: Interval | None
    false_negative_rate: Interval | None


@dataclass(frozen=True)
class CalibrationBin:
    """Images whose highest score lies in `(low, high]`, and 0 in the first, as in the ECE.

    Attributes:
      low: end of the bin.
      high: end of the bin.
      images: in the bin, at least 1.
      confidence: mean of their highest score.
      accuracy: share that is right, with its 95 % interval.
    """

    low: float
    high: float
    images: int
    confidence: float
    accuracy: Interval


def roc(scores: ArrayLike, positive: ArrayLike) -> Roc:
    """The ROC curve and the area under it.

    Args:
      scores: (M,) finite.
      positive: (M,) bool, with both values present.

    Raises:
      ValueError: one class only, other lengths, or a score that is not finite.
    """
    values, right = _checked(scores, positive)
    thresholds, hits, alarms = _cumulative(values, right)
    true, false = hits / right.sum(), alarms / (~right).sum()
    return Roc(
        np.concatenate([[np.inf], thresholds]),
        np.concatenate([[0.0], false]),
        np.concatenate([[0.0], true]),
        _area(values[right], values[~right]),
    )


def precision_recall(scores: ArrayLike, positive: ArrayLike) -> PrecisionRecall:
    """The precision-recall curve and the average precision.

    Args:
      scores: (M,) finite.
      positive: (M,) bool, with both values present.

    Raises:
      ValueError: one class only, other lengths, or a score that is not finite.
    """
    values, right = _checked(scores, positive)
    thresholds, hits, alarms = _cumulative(values, right)
    precision, recall = hits / (hits + alarms), hits / right.sum()
    average = float((np.diff(recall, prepend=0.0) * precision).sum())
    return PrecisionRecall(thresholds, precision, recall, _average(average, int(right.sum())))


def rates_at(scores: ArrayLike, positive: ArrayLike, threshold: float) -> Rates:
    """Precision, recall and error rates when scores of `threshold` or more are positive.

    The threshold must not have been chosen on the same images.

    Args:
      scores: (M,).
      positive: (M,) bool.
      threshold: any number.
    """
    return rates_table(scores, positive, [threshold])[0]


def rates_table(scores: ArrayLike, positive: ArrayLike, thresholds: Sequence[float]) -> list[Rates]:
    """`rates_at` of each threshold.

    Args:
      scores: (M,) finite.
      positive: (M,) bool.
      thresholds: any numbers.
    """
    values, right = np.asarray(scores, np.float64), np.asarray(positive, bool)
    sides = [np.sort(values[side]) for side in (right, ~right)]
    ours, others = (len(side) for side in sides)
    true, false = (len(side) - np.searchsorted(side, thresholds) for side in sides)
    shares = (
        proportion_intervals(part, np.broadcast_to(whole, part.shape))
        for part, whole in (
            (true, true + false),
            (true, ours),
            (false, others),
            (ours - true, ours),
        )
    )
    return [Rates(*row) for row in zip(map(float, thresholds), *shares, strict=True)]


def thinned(*axes: Array, most: int = MOST_POINTS) -> tuple[Array, ...]:
    """The axes of a curve at `most` points at most, evenly spaced by rank, both ends included.

    Args:
      *axes: (K,) each.
      most: at least 2.
    """
    if len(axes[0]) <= most:
        return axes
    kept = np.linspace(0, len(axes[0]) - 1, most).round().astype(int)
    return tuple(axis[kept] for axis in axes)


def threshold_for_specificity(scores: ArrayLike, positive: ArrayLike, specificity: float) -> float:
    """The lowest threshold at which at least `specificity` of the other classes' images stay below.

    Choose it on the validation split, and apply `rates_at` to the test split.

    Args:
      scores: (M,) finite.
      positive: (M,) bool, with both values present.
      specificity: in (0, 1).

    Raises:
      ValueError: a specificity out of range, or one class only.
    """
    if not 0 < specificity < 1:
        raise ValueError(f"`specificity` must be in (0, 1), got {specificity}; 95 % is 0.95")
    values, right = _checked(scores, positive)
    others = np.sort(values[~right])
    allowed = int(np.floor((1 - specificity) * len(others) + 1e-9))
    highest = others[len(others) - allowed - 1]
    above = values[values > highest]
    return float(above.min()) if len(above) else float(np.nextafter(highest, np.inf))


def calibration_curve(
    scores: ArrayLike, labels: ArrayLike, *, bins: int = 15
) -> list[CalibrationBin]:
    """Accuracy by confidence in bins of equal width, without empty bins.

    Args:
      scores: (M, N) softmax.
      labels: (M,) int in [0, N).
      bins: at least 1.

    Raises:
      ValueError: no bins.
    """
    if bins < 1:
        raise ValueError(f"`bins` must be at least 1, got {bins}")
    values, truth = np.asarray(scores), np.asarray(labels)
    confidence, right = values.max(axis=1).astype(np.float64), values.argmax(axis=1) == truth
    number = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    found = []
    for one in np.unique(number):
        inside = number == one
        share = proportion_interval(int(right[inside].sum()), int(inside.sum()))
        low, high = one / bins, (one + 1) / bins
        found.append(
            CalibrationBin(low, high, int(inside.sum()), float(confidence[inside].mean()), share)
        )
    return found


def temperature(scores: ArrayLike, labels: ArrayLike) -> float:
    """The temperature T that minimizes cross-entropy of softmax(log(scores) / T).

    Above 1, the model is too confident (Guo et al. 2017, arXiv 1706.04599, section 4.2). Fit it on
    the validation split. Scores below 1e-7 count as 1e-7. In [0.05, 20].

    Args:
      scores: (M, N) softmax.
      labels: (M,) int in [0, N).

    Raises:
      ValueError: no images.
    """
    values, truth = np.asarray(scores), np.asarray(labels)
    if not len(truth):
        raise ValueError("a temperature needs at least one image")
    low, high = (1 / limit for limit in reversed(TEMPERATURES))
    inverse, tried = 1.0, set[float]()
    for _ in range(_MOST_STEPS):
        tried.add(inverse)
        slope, curvature = _slope(values, truth, inverse)
        if slope == 0:
            break
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        step = float(np.clip(inverse - slope / curvature if curvature > 0 else 0, low, high))
        # The loss is convex in 1 / T: where Newton's step ends at a value already tried, the
        # minimum is between the two nearest ones.
        following = float(np.sqrt(low * high)) if step in tried else step
        if abs(following - inverse) <= _CLOSE * inverse:
            break
        inverse = following
    return 1 / inverse


def _slope(scores: Array, labels: Array, inverse: float) -> tuple[float, float]:
    """First and second derivative of the cross-entropy by 1 / T, at that value of it."""
    slope = curvature = 0.0
    for start in range(0, len(labels), rows := max(1, _CHUNK // scores.shape[1])):
        part, truth = scores[start : start + rows], labels[start : start + rows]
        logits = np.log(np.maximum(part, LEAST_PROBABILITY, dtype=np.float64))
        logits -= logits.max(axis=1, keepdims=True)
        own = logits[np.arange(len(truth)), truth]
        shares = np.exp(inverse * logits)
        total = shares.sum(axis=1)
        mean = np.einsum("ij,ij->i", shares, logits) / total
        square = np.einsum("ij,ij,ij->i", shares, logits, logits) / total
        slope += float((mean - own).sum())
        curvature += float((square - mean**2).sum())
    return slope / len(labels), curvature / len(labels)


def _checked(scores: ArrayLike, positive: ArrayLike) -> tuple[Array, Array]:
    values, right = np.asarray(scores, np.float64), np.asarray(positive, bool)
    if values.ndim != 1 or values.shape != right.shape:
        raise ValueError(
            f"`scores` and `positive` must be (M,) both, got {values.shape} and {right.shape}"
        )
    if not np.isfinite(values).all():
        raise ValueError("`scores` must be finite")
    if right.all() or not right.any():
        raise ValueError(
            f"a curve needs images of the class and of others, got {int(right.sum())} of "
            f"{len(right)}; leave out classes that the split lacks"
        )
    return values, right


def _cumulative(values: Array, right: Array) -> tuple[Array, Array, Array]:
    """Descending distinct thresholds, and the hits and false alarms from each on."""
    order = np.argsort(-values, kind="stable")
    ordered, hit = values[order], right[order]
    last = np.flatnonzero(np.append(np.diff(ordered) != 0, True))
    return ordered[last], np.cumsum(hit)[last], np.cumsum(~hit)[last]


def _area(ours: Array, others: Array) -> Interval:
    """Mann-Whitney's share of ordered pairs, with the wider end of two intervals.

    DeLong's variance alone covers 83 % where one side has 20 images. A placement of 1/2 is added to
    either side, as Agresti and Coull do for shares, with Student's t for the smaller side. Near 1
    Newcombe's interval (2006, Statistics in Medicine 25:559-573, method 5) is the wider one; at 0
    and 1, where no placement varies, it is used alone.
    """
    sizes = len(ours), len(others)
    ranks = _scipy.rankdata(np.concatenate([ours, others]))
    first = (ranks[: sizes[0]] - _scipy.rankdata(ours)) / sizes[1]
    second = 1 - (ranks[sizes[0] :] - _scipy.rankdata(others)) / sizes[0]
    padded = [np.append(part, 0.5) for part in (first, second)]
    center = float(np.mean([part.mean() for part in padded]))
    variance = sum(part.var(ddof=1) / (len(part) - 1) for part in padded)
    quantile = float(_scipy.t(min(sizes)).ppf(0.975))
    delong = _logit_interval(center, variance, quantile)
    value = float(first.mean())
    newcombe = _newcombe(value, *sizes)
    if value in (0.0, 1.0):
        return Interval(value, *newcombe)
    return Interval(value, delong.low, delong.high).reaching(*newcombe)


def _average(value: float, images: int) -> Interval:
    """An average precision over `images` of the class, kept off 0 and 1 by half an image."""
    edge = 0.5 / (images + 1)
    inside = min(max(value, edge), 1 - edge)
    found = _logit_interval(inside, inside * (1 - inside) / images, _scipy.norm.ppf(0.975))
    return Interval(value, found.low, found.high).reaching()


def _newcombe(value: float, ours: int, others: int) -> tuple[float, float]:
    """Where `value` is 1.96 standard errors away, by Hanley and McNeil's variance there."""
    size, z = (ours + others) / 2 - 1, _scipy.norm.ppf(0.975)

    def excess(area: float) -> float:
        spread = 1 + size * (1 - area) / (2 - area) + size * area / (1 + area)
        return (value - area) ** 2 - z * z * area * (1 - area) / (ours * others) * spread

    step = 1e-12
    low = optimize.brentq(excess, 0.0, value - step) if excess(value - step) < 0 else value
    high = optimize.brentq(excess, value + step, 1.0) if excess(value + step) < 0 else value
    return float(low), float(high)


def _logit_interval(value: float, variance: float, quantile: float) -> Interval:
    """`value` in (0, 1) with a normal interval of its logit."""
    center = np.log(value / (1 - value))
    reach = quantile * np.sqrt(variance) / (value * (1 - value))
    return Interval(
        value, float(special.expit(center - reach)), float(special.expit(center + reach))
    )
