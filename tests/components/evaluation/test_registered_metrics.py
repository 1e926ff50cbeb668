"""The combiner of registered metrics: parts of a slice, in any division, against scikit-learn."""

import math
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support
from tensorflow_model_analysis.metrics import metric_types

from components.evaluation.registered_metrics import RegisteredMetrics
from trainers.evaluation.metrics import MetricError, registered_metrics

NAMES = ["macro_precision", "macro_recall", "macro_f1"]


@pytest.fixture
def combiner():
    (computation,) = RegisteredMetrics(NAMES).computations(model_names=["m"])
    assert [key.name for key in computation.keys] == NAMES
    return computation.combiner


def inputs(label, scores):
    return metric_types.StandardMetricInputs(
        labels={"m": np.array([label])},
        predictions={"m": scores},
        example_weights={"m": np.array([1.0])},
    )


@pytest.mark.parametrize("sizes", [(150,), (70, 0, 64, 16), (1,) * 150], ids=str)
def test_every_part_of_a_slice_counts(combiner, sizes):
    generator = np.random.default_rng(0)
    scores = generator.random((150, 5)).astype(np.float32)
    labels = generator.integers(0, 5, 150)
    parts, at = [], 0
    for size in sizes:
        state = combiner.create_accumulator()
        for row in range(at, at + size):
            state = combiner.add_input(state, inputs(labels[row], scores[row]))
        parts.append(state)
        at += size
    found = combiner.extract_output(combiner.merge_accumulators(parts))
    expected = precision_recall_fscore_support(
        labels, scores.argmax(axis=1), average="macro", zero_division=0
    )
    assert [key.name for key in found] == NAMES
    assert list(found.values()) == pytest.approx(expected[:3])


def test_a_state_without_a_merge_has_all_its_examples(combiner):
    state = combiner.create_accumulator()
    for label in (0, 1, 1):
        state = combiner.add_input(state, inputs(label, np.array([0.7, 0.3], np.float32)))
    found = {key.name: value for key, value in combiner.extract_output(state).items()}
    assert found["macro_recall"] == pytest.approx(0.5)
    assert found["macro_precision"] == pytest.approx(1 / 6)


def test_a_metric_that_is_not_finite_on_a_slice_is_named(combiner, monkeypatch):
    broken = replace(registered_metrics()["macro_f1"], figure=lambda *columns: float("nan"))
    monkeypatch.setattr(type(combiner), "_metrics", lambda self: {"macro_f1": broken})
    state = combiner.add_input(
        combiner.create_accumulator(), inputs(0, np.array([0.7, 0.3], np.float32))
    )
    with pytest.raises(MetricError, match=r"metric 'macro_f1' \(.*macro_f1\.py.*must be finite"):
        combiner.extract_output(state)


def test_no_example_has_no_value(combiner):
    found = combiner.extract_output(combiner.create_accumulator())
    assert all(map(math.isnan, found.values()))
