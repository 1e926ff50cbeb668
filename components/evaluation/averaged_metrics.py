"""TFMA metrics of the argmax class: macro and micro precision, recall and F1 from one matrix.

TFMA's own macro averages threshold each class's score, which is another question than "was the
class with the highest score right". These derive from TFMA's multi-class confusion matrix, so an
example counts once and slices come for free. Named in an EvalConfig by `module` and class name.

Definitions: Sokolova & Lapalme 2009, table 3; a class nobody predicted has precision 0, as in
scikit-learn with `zero_division=0`; classes absent from both labels and predictions do not count.
"""

from collections.abc import Callable
from typing import Any

from tensorflow_model_analysis.metrics import metric_types, multi_class_confusion_matrix_metrics

_MATRIX = "_argmax_confusion_matrix"

Counts = dict[int, tuple[float, float, float]]


def class_counts(matrix: dict[tuple[int, int], float]) -> Counts:
    """Class -> (true positives, predicted, actual) from (actual, predicted) -> count."""
    counts: Counts = {}
    for (actual, predicted), count in matrix.items():
        hits, times_predicted, times_actual = counts.get(actual, (0.0, 0.0, 0.0))
        hit = count if actual == predicted else 0.0
        counts[actual] = (hits + hit, times_predicted, times_actual + count)
        hits, times_predicted, times_actual = counts.get(predicted, (0.0, 0.0, 0.0))
        counts[predicted] = (hits, times_predicted + count, times_actual)
    return counts


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _mean(counts: Counts, figure: Callable[[float, float, float], float]) -> float:
    return _ratio(sum(figure(*c) for c in counts.values()), len(counts))


def macro_precision(counts: Counts) -> float:
    """Unweighted mean over classes of hits / predicted."""
    return _mean(counts, lambda hits, predicted, actual: _ratio(hits, predicted))


def macro_recall(counts: Counts) -> float:
    """Unweighted mean over classes of hits / actual."""
    return _mean(counts, lambda hits, predicted, actual: _ratio(hits, actual))


def macro_f1(counts: Counts) -> float:
    """Unweighted mean over classes of 2 hits / (predicted + actual)."""
    return _mean(counts, lambda hits, predicted, actual: _ratio(2 * hits, predicted + actual))


def micro_f1(counts: Counts) -> float:
    """Hits / examples: with one label and one guess an example, micro P, R and F1 are all this."""
    hits = sum(c[0] for c in counts.values())
    return _ratio(hits, sum(c[2] for c in counts.values()))


class _OfCounts(metric_types.Metric):
    """A metric that is one figure of the argmax confusion matrix."""

    def __init__(self, figure: Callable[[Counts], float], name: str) -> None:
        # TFMA inspects the argument names of this function to decide what to pass.
        def computations(
            name: str = name,
            eval_config: Any = None,
            model_names: list[str] | None = None,
            output_names: list[str] | None = None,
        ) -> metric_types.MetricComputations:
            found: metric_types.MetricComputations = []
            for model_name in model_names or [""]:
                for output_name in output_names or [""]:
                    found += _computations(name, figure, eval_config, model_name, output_name)
            return found

        super().__init__(computations, name=name)


def _computations(
    name: str,
    figure: Callable[[Counts], float],
    eval_config: Any,
    model_name: str,
    output_name: str,
) -> metric_types.MetricComputations:
    key = metric_types.MetricKey(name=name, model_name=model_name, output_name=output_name)
    matrices = multi_class_confusion_matrix_metrics.multi_class_confusion_matrices(
        thresholds=[0.0],
        name=_MATRIX,
        eval_config=eval_config,
        model_name=model_name,
        output_name=output_name,
    )

    def result(metrics: dict) -> dict:
        (matrix,) = metrics[matrices[-1].keys[-1]].values()
        return {key: figure(class_counts(matrix))}

    return [*matrices, metric_types.DerivedMetricComputation(keys=[key], result=result)]


class MacroPrecision(_OfCounts):
    """Unweighted mean of the classes' precision, in [0, 1]."""

    def __init__(self, name: str = "macro_precision") -> None:
        super().__init__(macro_precision, name)


class MacroRecall(_OfCounts):
    """Unweighted mean of the classes' recall, in [0, 1]."""

    def __init__(self, name: str = "macro_recall") -> None:
        super().__init__(macro_recall, name)


class MacroF1(_OfCounts):
    """Unweighted mean of the classes' F1, in [0, 1]."""

    def __init__(self, name: str = "macro_f1") -> None:
        super().__init__(macro_f1, name)


class MicroF1(_OfCounts):
    """Micro precision, recall and F1 at once, in [0, 1]."""

    def __init__(self, name: str = "micro_f1") -> None:
        super().__init__(micro_f1, name)


for _metric in (MacroPrecision, MacroRecall, MacroF1, MicroF1):
    metric_types.register_metric(_metric)
