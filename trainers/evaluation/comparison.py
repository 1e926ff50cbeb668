"""Comparison of classifiers on the same images: paired differences, tests and slices.

Every model is compared with the first one. Differences in top-1 have Tango's score interval and
McNemar's exact test; those in cross-entropy have a bootstrap interval. P-values are adjusted with
Holm's step-down method (Holm 1979, Scandinavian Journal of Statistics 6:65-70), which bounds the
chance of any false claim in a family by 5 %: one family over the models, and one over the slices of
each comparison. NumPy and SciPy only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats as _scipy

from trainers.evaluation.noninferiority import Array, Paired, pair
from trainers.evaluation.predictions import Predictions
from trainers.evaluation.scores import cross_entropy
from trainers.evaluation.stats import LEAST_IMAGES, Interval, paired_difference

#: The chance of any false claim in a family of tests.
ALPHA = 0.05


class ComparisonError(ValueError):
    """Predictions that cannot be compared; the message says why and what to do."""


@dataclass(frozen=True)
class ModelPredictions(Predictions):
    """Predictions with the model's name; an id may repeat where images do.

    What is derived from the scores is computed once: do not change the arrays.

    Attributes:
      name: of the model, for tables.
      classes: N names in label order, each empty where it is not known; or none at all.
    """

    name: str = ""
    classes: tuple[str, ...] = ()

    @cached_property
    def predicted(self) -> Array:
        """(M,) int: the class with the highest score, the first of equals."""
        return self.scores.argmax(axis=1)

    @cached_property
    def correct(self) -> Array:
        """(M,) bool: the predicted class is the label."""
        return self.predicted == self.labels

    @cached_property
    def losses(self) -> Array:
        """(M,) float64: cross-entropy of each image, in nats."""
        return cross_entropy(self.scores, self.labels)


@dataclass(frozen=True)
class SliceChange:
    """The images of one slice value in a comparison.

    Attributes:
      key: e.g. `slice/brightness`.
      value: e.g. `dark`.
      paired: counts within the slice.
      interval: top-1 of the candidate minus top-1 of the reference, with Tango's 95 % interval.
      p_adjusted: McNemar's, after Holm over all slices of the comparison.
    """

    key: str
    value: str
    paired: Paired
    interval: Interval
    p_adjusted: float


@dataclass(frozen=True)
class Comparison:
    """A candidate against the reference on the same images.

    Attributes:
      reference: name of the first model.
      candidate: name of the other.
      paired: images that only the candidate (`gained`) or only the reference (`lost`) got right.
      top1: difference of top-1, candidate minus reference, with Tango's 95 % interval.
      cross_entropy: difference in nats, with its bootstrap interval; below 0 is better.
      p_value: of McNemar's exact test.
      p_adjusted: after Holm over all candidates.
      differing: images that the two put into different classes.
      needed: images that would show a difference of one point in 80 % of samples.
      slices: values with `LEAST_IMAGES` or more, the greatest loss first.
      small_slices: (key, value, images) of those with fewer.
      changed: positions of the images on which exactly one is right, losses first.
    """

    reference: str
    candidate: str
    paired: Paired
    top1: Interval
    cross_entropy: Interval
    p_value: float
    p_adjusted: float
    differing: int
    needed: int
    slices: tuple[SliceChange, ...]
    small_slices: tuple[tuple[str, str, int], ...]
    changed: Array

    @property
    def decided(self) -> bool:
        """Whether top-1 differs, at 5 % over all candidates."""
        return self.p_adjusted < ALPHA

    @property
    def sentence(self) -> str:
        """What the comparison shows, and what it cannot show."""
        points = f"{100 * abs(self.top1.value):.1f} points"
        low, high = 100 * self.top1.low, 100 * self.top1.high
        if self.decided:
            better = "better" if self.top1.value > 0 else "worse"
            return (
                f"{self.candidate} is {better} than {self.reference} by {points} of top-1 "
                f"(95 % interval {low:+.1f} to {high:+.1f})."
            )
        text = (
            f"No difference in top-1 between {self.candidate} and {self.reference} is shown: "
            f"{100 * self.top1.value:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}."
        )
        if self.needed > self.paired.total:
            text += (
                f" {self.paired.total:,} images are not enough to detect a difference of 1 point; "
                f"about {self.needed:,} are needed."
            )
        return text


def holm(p_values: ArrayLike) -> Array:
    """P-values adjusted for the number of tests by Holm's step-down method.

    A hypothesis is rejected at level a, with a chance of any false rejection of at most a whatever
    the dependence between the tests, when its adjusted value is at most a.

    Args:
      p_values: (K,) in [0, 1]; may be empty.

    Returns:
      (K,) float64 in [0, 1], in the order given.

    Raises:
      ValueError: a value outside [0, 1].
    """
    values = np.asarray(p_values, np.float64)
    if values.ndim != 1 or ((values < 0) | (values > 1) | np.isnan(values)).any():
        raise ValueError(f"`p_values` must be a list of values in [0, 1], got {p_values}")
    order = np.argsort(values, kind="stable")
    scaled = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


def images_to_detect(
    found: Paired, difference: float = 0.01, *, level: float = 0.95, power: float = 0.8
) -> int:
    """How many images show a true difference of `difference` in top-1 with a chance of `power`.

    The share of images on which exactly one model is right is taken from `found`, with half an
    image added to both counts; it is at least `difference`. Normal approximation of McNemar's test
    (Connor 1987, Biometrics 43:207-211): with churn v and difference d,
    n = ((z_level sqrt(v) + z_power sqrt(v - d^2)) / d)^2.

    Args:
      found: the counts of a comparison.
      difference: in (0, 1); 0.01 is one point.
      level: of the two-sided test, in (0, 1).
      power: in (0, 1).

    Raises:
      ValueError: a setting out of range.
    """
    for name, value in (("difference", difference), ("level", level), ("power", power)):
        if not 0 < value < 1:
            raise ValueError(f"`{name}` must be in (0, 1), got {value}; 1 point is written 0.01")
    churn = max((found.gained + found.lost + 1) / (found.total + 1), difference)
    z_level, z_power = (float(_scipy.norm.ppf(q)) for q in ((1 + level) / 2, power))
    spread = z_level * math.sqrt(churn) + z_power * math.sqrt(churn - difference**2)
    return math.ceil((spread / difference) ** 2)


def compare(models: Sequence[ModelPredictions]) -> list[Comparison]:
    """Each model after the first, compared with the first.

    Args:
      models: predictions of two or more models on the same images, in any order of images.

    Raises:
      ComparisonError: fewer than two models, other images, labels or classes.
    """
    if len(models) < 2:
        given = "".join(f": {one.name}" for one in models)
        raise ComparisonError(
            f"a comparison needs at least two models, got {len(models)}{given}; give another, or "
            "RUN to compare all its models"
        )
    reference, *others = models
    others = [aligned(other, reference) for other in others]
    pairs = [pair(other.correct, reference.correct) for other in others]
    adjusted = holm([found.mcnemar_p for found in pairs])
    return [
        _comparison(reference, other, found, float(p))
        for other, found, p in zip(others, pairs, adjusted, strict=True)
    ]


def _comparison(
    reference: ModelPredictions, other: ModelPredictions, found: Paired, adjusted: float
) -> Comparison:
    slices, small = _slices(reference, other)
    ours, theirs = other.correct, reference.correct
    changed = [np.flatnonzero(theirs & ~ours), np.flatnonzero(ours & ~theirs)]
    return Comparison(
        reference=reference.name,
        candidate=other.name,
        paired=found,
        top1=found.interval(),
        cross_entropy=paired_difference(other.losses, reference.losses),
        p_value=found.mcnemar_p,
        p_adjusted=adjusted,
        differing=int((other.predicted != reference.predicted).sum()),
        needed=images_to_detect(found),
        slices=slices,
        small_slices=small,
        changed=np.concatenate(changed),
    )


def _slices(
    reference: ModelPredictions, other: ModelPredictions
) -> tuple[tuple[SliceChange, ...], tuple[tuple[str, str, int], ...]]:
    """The slice values that are large enough, the greatest loss first, and those that are not."""
    large: list[tuple[str, str, Paired]] = []
    small: list[tuple[str, str, int]] = []
    ours, theirs = other.correct, reference.correct
    for key in sorted(reference.slices):
        values = np.asarray(reference.slices[key])
        for value in sorted(set(values.tolist())):
            inside = values == value
            if (count := int(inside.sum())) < LEAST_IMAGES:
                small.append((key, value, count))
            elif count < len(values):  # A slice of all images repeats the comparison.
                large.append((key, value, pair(ours[inside], theirs[inside])))
    adjusted = holm([found.mcnemar_p for _, _, found in large])
    changes = [
        SliceChange(key, value, found, found.interval(), float(p))
        for (key, value, found), p in zip(large, adjusted, strict=True)
    ]
    return tuple(sorted(changes, key=lambda one: one.interval.value)), tuple(small)


def aligned(other: ModelPredictions, reference: ModelPredictions) -> ModelPredictions:
    """`other` in the reference's order of images and classes; as it is if it is aligned already.

    Raises:
      ComparisonError: other images, labels or classes.
    """
    if other.labels is reference.labels and other.ids is reference.ids:
        return other  # Of an earlier call: it has the reference's own arrays.
    other = _with_classes(other, reference)
    rows = _rows(other, reference)
    labels = other.labels[rows]
    wrong = np.flatnonzero(labels != reference.labels)
    if len(wrong):
        at = int(wrong[0])
        raise ComparisonError(
            f"{other.name} and {reference.name} have other labels for {len(wrong):,} images, first "
            f"{reference.ids[at]}: {_name(other, labels[at])} and "
            f"{_name(reference, reference.labels[at])}; predict both on the same records"
        )
    slices = {key: values[rows] for key, values in other.slices.items()}
    return replace(
        other,
        ids=reference.ids,
        labels=reference.labels,
        scores=other.scores[rows],
        slices=slices,
        classes=reference.classes,
    )


def _rows(other: ModelPredictions, reference: ModelPredictions) -> Array:
    """Rows of `other` in the reference's order; copies of an image pair by label, then order."""
    ours, theirs = np.asarray(other.ids, str), np.asarray(reference.ids, str)
    first, second = np.lexsort((other.labels, ours)), np.lexsort((reference.labels, theirs))
    if len(ours) == len(theirs) and np.array_equal(ours[first], theirs[second]):
        rows = np.empty(len(ours), np.int64)
        rows[second] = first
        return rows
    common = len(set(ours.tolist()) & set(theirs.tolist()))
    raise ComparisonError(
        f"{other.name} was evaluated on {len(ours):,} images and {reference.name} on "
        f"{len(theirs):,}, of which {common:,} are the same; a paired comparison needs the same "
        "images: give both models the same --data and --split"
    )


def _with_classes(other: ModelPredictions, reference: ModelPredictions) -> ModelPredictions:
    """`other` with its classes in the reference's order, by name."""
    same_size = other.scores.shape[1] == reference.scores.shape[1]
    # A table has no names of classes without images. Their order is taken to be the same.
    pairs = zip(other.classes, reference.classes, strict=False)
    if same_size and all(ours == theirs or not ours or not theirs for ours, theirs in pairs):
        return other
    missing = set(reference.classes) ^ set(other.classes)
    if missing or not all(other.classes):
        shown = ", ".join(sorted(filter(None, missing))[:3]) or "names that are not known"
        raise ComparisonError(
            f"{other.name} has {other.scores.shape[1]} classes and {reference.name} has "
            f"{reference.scores.shape[1]}; they differ in: {shown}. Compare models of the same "
            "classes"
        )
    order = [other.classes.index(name) for name in reference.classes]
    position = np.argsort(order)
    return replace(
        other,
        labels=position[other.labels],
        scores=other.scores[:, order],
        classes=reference.classes,
    )


def _name(model: ModelPredictions, label: int) -> str:
    return (model.classes[label] if model.classes else "") or str(label)
