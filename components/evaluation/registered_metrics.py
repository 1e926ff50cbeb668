"""The registered metrics as one TFMA metric, for those without a TFMA class.

TFMA keeps the columns that a metric needs of each example, and applies its figure to them in each
slice. So the values are those of `trainers.evaluation.metrics` over the slice's examples. An
EvalConfig refers to it by `module` and class name.
"""

from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import numpy as np
from tensorflow_model_analysis.metrics import metric_types, metric_util

from trainers.evaluation.metric import Columns, Metric
from trainers.evaluation.metrics import computed, registered_metrics

# Examples whose scores wait in memory until their columns are computed.
_WAITING = 16


class _State:
    """Examples of one slice: scores and labels that wait, and columns by metric."""

    def __init__(self) -> None:
        self.scores: list[np.ndarray] = []
        self.labels: list[int] = []
        self.parts: list[dict[str, Columns]] = []


class _Combiner(beam.CombineFn):
    """Computes metrics by name, so that a worker process finds them among its own plugins."""

    def __init__(self, keys: dict[str, metric_types.MetricKey], eval_config: Any) -> None:
        self._keys = keys
        self._eval_config = eval_config

    def _metrics(self) -> dict[str, Metric]:
        found = registered_metrics()
        return {name: found[name] for name in self._keys}

    def create_accumulator(self) -> _State:
        """A state without examples."""
        return _State()

    def add_input(self, state: _State, element: Any) -> _State:
        """Adds one example."""
        key = next(iter(self._keys.values()))
        for label, scores, _ in metric_util.to_label_prediction_example_weight(
            element,
            eval_config=self._eval_config,
            model_name=key.model_name,
            output_name=key.output_name,
            flatten=False,
        ):
            state.labels.append(int(label.item()))
            state.scores.append(scores)
        return self.compact(state) if len(state.labels) >= _WAITING else state

    def compact(self, state: _State) -> _State:
        """Replaces waiting scores by the columns of each metric."""
        if state.labels:
            scores, labels = np.stack(state.scores), np.array(state.labels, np.int64)
            state.parts.append(
                {name: metric.columns(scores, labels) for name, metric in self._metrics().items()}
            )
            state.scores, state.labels = [], []
        return state

    def merge_accumulators(self, accumulators: Iterable[_State]) -> _State:
        """The examples of all."""
        merged = _State()
        for state in accumulators:
            merged.parts += self.compact(state).parts
        return merged

    def extract_output(self, state: _State) -> dict[metric_types.MetricKey, float]:
        """Each metric over the examples of the slice; NaN where there is none."""
        parts, found = self.compact(state).parts, {}
        for name, metric in self._metrics().items():
            columns = zip(*(part[name] for part in parts), strict=True)
            whole = tuple(np.concatenate(column) for column in columns)
            key = self._keys[name]
            found[key] = float("nan")
            if whole:
                found[key] = computed(name, metric, lambda one, w=whole: one.of(w), len(whole[0]))
        return found


class RegisteredMetrics(metric_types.Metric):
    """Metrics of `trainers.evaluation.metrics`.

    Args:
      metrics: their names.
      name: of the TFMA metric; the results have the names of the metrics.
    """

    def __init__(self, metrics: list[str], name: str = "registered_metrics") -> None:
        # TFMA inspects the argument names of this function to decide what to pass.
        def computations(
            metrics: list[str],
            name: str = name,
            eval_config: Any = None,
            model_names: list[str] | None = None,
            output_names: list[str] | None = None,
        ) -> metric_types.MetricComputations:
            found = []
            for model_name in model_names or [""]:
                for output_name in output_names or [""]:
                    keys = {
                        one: metric_types.MetricKey(
                            name=one, model_name=model_name, output_name=output_name
                        )
                        for one in metrics
                    }
                    found.append(
                        metric_types.MetricComputation(
                            keys=list(keys.values()),
                            preprocessors=None,
                            combiner=_Combiner(keys, eval_config),
                        )
                    )
            return found

        super().__init__(computations, name=name, metrics=metrics)


metric_types.register_metric(RegisteredMetrics)
