"""What a metric is: a function of scores and labels, its interval, and how tables show it.

    from trainers.evaluation.metric import Metric, guesses
    from trainers.registry import metrics

    metrics.register("balanced_accuracy")(Metric(balanced_accuracy, "balanced accuracy", guesses))

`trainers.evaluation.metrics` holds one file per metric; a plugin adds others. NumPy and SciPy only.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.figures import FRACTION
from trainers.evaluation.stats import (
    Interval,
    bootstrap_interval,
    bootstrap_statistics,
    proportion_interval,
)

Array = NDArray[Any]
#: Arrays whose first axis is the N examples.
Columns = tuple[Array, ...]


@dataclass(frozen=True)
class Sampling:
    """How intervals are computed.

    Attributes:
      resamples: bootstrap resamples, at least 100.
      level: confidence level in (0, 1).
      seed: of the resampling; the same seed gives the same interval.
    """

    resamples: int = 1000
    level: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class Tfma:
    """A metric class of TFMA or Keras, and its configuration without `name`."""

    class_name: str
    config: Mapping[str, int] = field(default_factory=dict)


def scores_and_labels(scores: Array, labels: Array) -> Columns:
    """(N, C) scores and (N,) labels, unchanged."""
    return scores, labels


def guesses(scores: Array, labels: Array) -> Columns:
    """(N,) labels and (N,) classes with the highest score."""
    return labels, scores.argmax(axis=1)


def mean(values: Array) -> float:
    """The mean of (N,) per-example values."""
    return float(np.mean(values))


@dataclass(frozen=True)
class Metric:
    """One figure of a classifier over labeled examples.

    Attributes:
      figure: takes the columns as arguments and returns a finite number. It is also called on
        resamples and on slices of the examples, where classes may be missing; N is at least 1.
      title: heading in tables.
      columns: takes scores (N, C) float in [0, 1] and labels (N,) int64, and returns what `figure`
        needs of each example. Scores and labels themselves unless given: a few numbers per example,
        such as `guesses`, keep bootstrapping fast and TFMA's state small where C is large.
      unit: `FRACTION`, or the name of the unit, such as `nats`.
      higher_is_better: whether a greater value means a better model.
      interval: takes the columns and the settings, and returns the interval; `resampled` unless
        given.
      tfma: takes C and returns the class with which TFMA computes the metric; unless given, TFMA
        computes `figure` as well.
      min_classes: tables omit the metric where there are fewer classes.
      same_as: the metric that this one always equals, if any; tables show only that one.
      note: what a reader has to know, after the title: `is ECE over 15 bins`.
      order: position in tables, ascending, then by name.
    """

    figure: Callable[..., float]
    title: str
    columns: Callable[[Array, Array], Columns] = scores_and_labels
    unit: str = FRACTION
    higher_is_better: bool = True
    interval: Callable[[Columns, Sampling], Interval] | None = None
    tfma: Callable[[int], Tfma] | None = None
    min_classes: int = 1
    same_as: str = ""
    note: str = ""
    order: int = 100

    def value(self, scores: Array, labels: Array) -> float:
        """The metric over all examples."""
        return self.of(self.columns(scores, labels))

    def of(self, columns: Columns) -> float:
        """The metric of the columns of all examples; ValueError if it is not finite."""
        return _finite(self.figure, columns)

    def estimate(self, scores: Array, labels: Array, sampling: Sampling) -> Interval:
        """The metric with its interval."""
        return self.estimate_of(self.columns(scores, labels), sampling)

    def estimate_of(self, columns: Columns, sampling: Sampling) -> Interval:
        """The metric of the columns of all examples, with its interval."""
        if self.interval is not None:
            return self.interval(columns, sampling)
        return resampled(self.figure, columns, sampling, fraction=self.unit == FRACTION)

    def facts(self) -> dict[str, Any]:
        """`title`, `unit`, `higher_is_better` and `note`: what a table needs, as JSON."""
        return {
            "title": self.title,
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
            "note": self.note or ("" if self.unit == FRACTION else f"is in {self.unit}"),
        }


def mean_of(values: Callable[[Array, Array], Array], title: str, **attributes: Any) -> Metric:
    """The metric that is the mean of a value per example.

    Args:
      values: takes scores (N, C) and labels (N,) and returns (N,) numbers or booleans.
      title: heading in tables.
      **attributes: of the `Metric`.
    """
    return Metric(mean, title, lambda scores, labels: (values(scores, labels),), **attributes)


def resampled(
    figure: Callable[..., float], columns: Columns, sampling: Sampling, *, fraction: bool = True
) -> Interval:
    """A bootstrap interval of `figure`, which holds for most figures of a hundred examples or more.

    A mean gets `bootstrap_interval`, which is exact for 0/1 values. Any other figure gets BCa; a
    fraction is widened to the interval of a share of N examples, because a bootstrap does not
    see errors that the sample does not contain: its interval of a perfect score has no width. Where
    few examples decide the figure, such as the only ones of a class, it is still too narrow.

    Args:
      figure: of the columns.
      columns: (N, ...) arrays, N at least 1.
      sampling: resamples, level and seed.
      fraction: whether the figure is in [0, 1].
    """
    settings: dict[str, Any] = vars(sampling)
    if figure is mean:
        return bootstrap_interval(columns[0], **settings)
    (found,) = bootstrap_statistics(lambda *parts: [_finite(figure, parts)], *columns, **settings)
    if not fraction:
        return found
    size = len(columns[0])
    share = proportion_interval(min(max(found.value, 0.0), 1.0) * size, size, level=sampling.level)
    return found.reaching(share.low, share.high)


def _finite(figure: Callable[..., float], columns: Columns) -> float:
    value = float(figure(*columns))
    if not math.isfinite(value):
        raise ValueError(
            f"the value must be finite, got {value} for {len(columns[0])} examples; it is also "
            "computed on resamples, where classes may be missing: define it there"
        )
    return value
