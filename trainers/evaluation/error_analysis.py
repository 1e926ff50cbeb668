"""Where a classifier is wrong: confident errors, confused pairs, suspect labels and weak slices.

Each function takes predictions on images that the model was not trained on. NumPy and SciPy only.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainers.evaluation.scores import checked
from trainers.evaluation.stats import Interval, proportion_interval
from trainers.evaluation.weak_slices import WeakSlice, weak_slices

__all__ = [
    "Confusion",
    "SuspectLabel",
    "WeakSlice",
    "confident_errors",
    "confusions",
    "suspect_labels",
    "weak_slices",
]

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
      margin: score of the given label minus that of the suggested one, in [-1, 1]; the lower, the
        more suspect. Above 0, the given label has the higher score, but less than images with this
        label have on average, while the other score reaches its average.
    """

    image: int
    label: int
    suggested: int
    margin: float


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
    allows for models that are too confident, and for classes of different difficulty. The images
    and their order are those of cleanlab's `confident_learning`, ranked by `normalized_margin`;
    cleanlab itself is not used because of its license (AGPL).

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
