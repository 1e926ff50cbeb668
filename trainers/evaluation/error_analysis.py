"""Where a classifier is wrong: confident errors, confused pairs, suspect labels and weak slices.

Each function takes predictions on images that the model was not trained on. NumPy and SciPy only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats as _scipy

from trainers.evaluation.comparison import holm
from trainers.evaluation.scores import checked
from trainers.evaluation.stats import LEAST_IMAGES, Interval, proportion_interval

Array = NDArray[Any]


@dataclass(frozen=True)
class Confusion:
    """Images of one class that were predicted as another.

    Attributes:
      label: the true class.
      predicted: the other class.
      images: positions, the most confident first.
      share: of the images of the true class, with its 95 % interval.
    """

    label: int
    predicted: int
    images: Array
    share: Interval


@dataclass(frozen=True)
class SuspectLabel:
    """An image whose label is likely to be wrong.

    Attributes:
      image: position.
      label: as given.
      suggested: the class that the model is confident of.
      margin: score of the given label minus that of the suggested one, in [-1, 0]; the lower, the
        more suspect.
    """

    image: int
    label: int
    suggested: int
    margin: float


@dataclass(frozen=True)
class WeakSlice:
    """Images with common slice values on which the model is less accurate than on the others.

    Attributes:
      values: key -> value, one or two.
      images: in the slice.
      accuracy: in the slice, with its 95 % interval.
      outside: accuracy on all other images.
      p_adjusted: of Fisher's exact test, after Holm over all slices that were tried.
    """

    values: dict[str, str]
    images: int
    accuracy: Interval
    outside: float
    p_adjusted: float


def confident_errors(scores: ArrayLike, labels: ArrayLike) -> Array:
    """Positions of the images that are wrong, the highest score of a wrong class first.

    Args:
      scores: (M, N) softmax.
      labels: (M,) int in [0, N).
    """
    values, truth = checked(scores, labels, some=True)
    wrong = np.flatnonzero(values.argmax(axis=1) != truth)
    return wrong[np.argsort(-values[wrong].max(axis=1), kind="stable")]


def confusions(scores: ArrayLike, labels: ArrayLike) -> list[Confusion]:
    """Every pair of classes that was confused, the one with most images first.

    Args:
      scores: (M, N) softmax.
      labels: (M,) int in [0, N).
    """
    values, truth = checked(scores, labels, some=True)
    errors = confident_errors(values, truth)
    pairs: dict[tuple[int, int], list[int]] = {}
    for image in errors.tolist():
        pairs.setdefault((int(truth[image]), int(values[image].argmax())), []).append(image)
    totals = np.bincount(truth, minlength=values.shape[1])
    found = [
        Confusion(
            label, predicted, np.array(images), proportion_interval(len(images), int(totals[label]))
        )
        for (label, predicted), images in pairs.items()
    ]
    return sorted(found, key=lambda one: (-len(one.images), one.label, one.predicted))


def suspect_labels(scores: ArrayLike, labels: ArrayLike) -> list[SuspectLabel]:
    """Images whose labels are likely to be wrong, the most suspect first.

    Confident learning (Northcutt, Jiang and Chuang 2021, arXiv 1911.00068, section 3): an image
    belongs to the class with the highest score among those whose score reaches the mean score of
    the images with that label. It is suspect where that is not the given label, which also
    allows for models that are too confident, and for classes of different difficulty.

    Args:
      scores: (M, N) softmax of images that the model was not trained on.
      labels: (M,) int in [0, N).
    """
    values, truth = checked(scores, labels, some=True)
    values = values.astype(np.float64)  # A mean of equal float32 scores may exceed them.
    present = np.bincount(truth, minlength=values.shape[1]) > 0
    threshold = np.array(
        [values[truth == j, j].mean() if present[j] else np.inf for j in range(values.shape[1])]
    )
    reached = np.where(values >= threshold, values, -1.0)
    suggested = reached.argmax(axis=1)
    suspect = np.flatnonzero((reached.max(axis=1) >= 0) & (suggested != truth))
    margin = values[suspect, truth[suspect]] - values[suspect, suggested[suspect]]
    order = np.argsort(margin, kind="stable")
    return [
        SuspectLabel(int(image), int(truth[image]), int(suggested[image]), float(gap))
        for image, gap in zip(suspect[order], margin[order], strict=True)
    ]


def weak_slices(correct: ArrayLike, slices: dict[str, Array]) -> tuple[list[WeakSlice], int]:
    """The slices with one or two values on which accuracy is lower, by significance.

    Every value of every key, and every pair of values of two keys, with 30 images or more inside
    and outside, is compared with all other images.

    Args:
      correct: (M,) bool.
      slices: key -> (M,) str.

    Returns:
      The slices that are less accurate than the rest, the most significant first, and the number
      of slices that were tried, over which p-values are adjusted.
    """
    right = np.asarray(correct, bool)
    tried, chances = [], []
    for values, inside in _candidates(slices, len(right)):
        count, hits = int(inside.sum()), int(right[inside].sum())
        others, other_hits = len(right) - count, int(right.sum()) - hits
        table = [[hits, count - hits], [other_hits, others - other_hits]]
        chances.append(float(_scipy.fisher_exact(table).pvalue))
        tried.append((values, count, hits, other_hits / others))
    adjusted = holm(chances)
    found = [
        WeakSlice(values, count, proportion_interval(hits, count), outside, float(p))
        for (values, count, hits, outside), p in zip(tried, adjusted, strict=True)
        if hits / count < outside
    ]
    found.sort(key=lambda one: (one.p_adjusted, one.accuracy.value, len(one.values)))
    return found, len(tried)


def _candidates(slices: dict[str, Array], total: int) -> Iterator[tuple[dict[str, str], Array]]:
    """Slices that are large enough, inside and outside; a pair only where it narrows both parts."""
    columns = {key: np.asarray(slices[key], str) for key in sorted(slices)}
    single = []
    for key, column in columns.items():
        for value in sorted(set(column.tolist())):
            inside = column == value
            if LEAST_IMAGES <= inside.sum() <= total - LEAST_IMAGES:
                single.append((key, value, inside))
                yield {key: value}, inside
    for (key, value, first), (other, another, second) in combinations(single, 2):
        both = first & second
        narrower = both.sum() < min(first.sum(), second.sum())
        if key != other and narrower and both.sum() >= LEAST_IMAGES:
            yield {key: value, other: another}, both
