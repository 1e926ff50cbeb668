"""The metrics of classifiers, one file each: every registered one, over scores and labels.

    metrics_with_intervals(scores, labels)["macro_f1"]

Each example counts once. The metrics of a plugin appear everywhere that these appear.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from numpy.typing import ArrayLike

from trainers.evaluation.metric import Array, Columns, Metric, Sampling
from trainers.evaluation.scores import checked
from trainers.evaluation.stats import Interval
from trainers.registry import metrics

T = TypeVar("T", float, Interval)


class MetricError(ValueError):
    """A metric that fails, or has no finite value; the message names it and its file."""


def registered_metrics() -> dict[str, Metric]:
    """Name -> metric, in the order of tables.

    Raises:
      MetricError: something else is registered as a metric.
    """
    found = {name: metrics.get(name) for name in metrics.names()}
    for name, metric in found.items():
        if not isinstance(metric, Metric):
            raise MetricError(
                f"metric {name!r} ({metrics.origin(name)}) must be a Metric, got {metric!r}; write "
                f'metrics.register("{name}")(Metric(function, "title"))'
            )
    return dict(sorted(found.items(), key=lambda item: (item[1].order, item[0])))


def metric_facts(classes: int | None) -> dict[str, dict[str, Any]]:
    """Name -> `Metric.facts` of the metrics that tables show, in order.

    Args:
      classes: number of classes; None if unknown, which omits no metric.
    """
    return {
        name: metric.facts()
        for name, metric in registered_metrics().items()
        if not metric.same_as and (classes is None or classes >= metric.min_classes)
    }


def classification_metrics(scores: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Name -> value of every registered metric over one split.

    Args:
      scores: (N, C) float probabilities in [0, 1].
      labels: (N,) int in [0, C).

    Raises:
      MetricError: a metric fails, or is not a finite number.
      ValueError: no examples, shapes that do not fit, a label out of range, or scores outside
        [0, 1].
    """
    scores, labels = checked(scores, labels, some=True, probabilities=True)
    return _each(lambda _, metric: metric.value(scores, labels), len(labels))


def metrics_with_intervals(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """`classification_metrics` with an interval over the examples for each.

    At 95 %, each interval of Sightline's own metrics covers the figure of the population that the
    examples are a sample of at least 93 % of the time, for any number of examples, and more than
    97 % for few (conservative). The file of a metric describes its interval.

    Args:
      scores: (N, C) float probabilities in [0, 1].
      labels: (N,) int in [0, C).
      resamples: bootstrap resamples, at least 100.
      level: confidence level in (0, 1).
      seed: of the resampling.

    Raises:
      MetricError, ValueError: as `classification_metrics`, or a setting out of range.
    """
    sampling = Sampling(resamples, level, seed)
    return next(metrics_of_parts(scores, labels, [slice(None)], sampling))


def metrics_of_parts(
    scores: ArrayLike,
    labels: ArrayLike,
    parts: Iterable[Array | slice],
    sampling: Sampling | None = None,
) -> Iterator[dict[str, Interval]]:
    """`metrics_with_intervals` of parts of the examples, whose columns are computed once.

    Args:
      scores: (N, C) float probabilities in [0, 1].
      labels: (N,) int in [0, C).
      parts: (N,) bool each, with at least one example.
      sampling: of the intervals; 1,000 resamples at 95 % if not given.

    Raises:
      MetricError, ValueError: as `metrics_with_intervals`.
    """
    values, truth = checked(scores, labels, some=True, probabilities=True)
    settings, columns = sampling or Sampling(), dict[str, Columns]()

    def estimate(name: str, metric: Metric, part: Array | slice) -> Interval:
        if name not in columns:
            columns[name] = metric.columns(values, truth)
        return metric.estimate_of(tuple(column[part] for column in columns[name]), settings)

    for part in parts:
        yield _each(lambda name, metric, part=part: estimate(name, metric, part), len(truth[part]))


def computed(name: str, metric: Metric, compute: Callable[[Metric], T], examples: int) -> T:
    """`compute(metric)`, whose failure names the metric and its file.

    Raises:
      MetricError: it failed.
    """
    try:
        return compute(metric)
    except Exception as error:
        raise MetricError(
            f"metric {name!r} ({metrics.origin(name)}) fails on a split of {examples} "
            f"examples: {type(error).__name__}: {error}"
        ) from error


def _each(compute: Callable[[str, Metric], T], examples: int) -> dict[str, T]:
    """Name -> result for every metric; one that equals another takes that one's result."""
    known, found = registered_metrics(), {}
    for name, metric in sorted(known.items(), key=lambda item: bool(item[1].same_as)):
        if metric.same_as in found:
            found[name] = found[metric.same_as]
        else:
            one = functools.partial(compute, name)
            found[name] = computed(name, metric, one, examples)
    return {name: found[name] for name in known}
