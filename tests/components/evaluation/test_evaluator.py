"""TFMA over a predictions table, against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from components.evaluation.eval_config import EvalSettings, make_eval_config
from components.evaluation.evaluator import analyze
from components.gates import Verdict
from components.gates.significance_gate import tfma_gates
from trainers.evaluation.predictions import Predictions, write_table

CLASSES = tuple(str(digit) for digit in range(10))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    folder = tmp_path_factory.mktemp("evaluation")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 101).astype(np.int32)
    table = {}
    for name, noise in (("none_fp32", 0.3), ("ptq_int8", 0.6)):
        scores = rng.random((101, 10)) * noise
        scores[np.arange(101), labels] += 0.3
        scores /= scores.sum(axis=1, keepdims=True)
        bright = np.where(labels < 5, "dark", "bright").astype(object)
        ids = np.array([str(i) for i in range(101)], dtype=object)
        table[name] = Predictions(
            ids, labels, scores.astype(np.float32), {"slice/brightness": bright}
        )
    path = folder / "Split-test" / "data_tfrecord-00000-of-00001"
    write_table(path, table, CLASSES)
    config = make_eval_config(list(table), EvalSettings(("slice/brightness",), min_top1=0.5), 10)
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        analyze(pipeline, path, str(folder / "tfma"), config)
    return folder / "tfma", table


@pytest.mark.parametrize("variant", ["none_fp32", "ptq_int8"])
def test_tfma_agrees_with_scikit_learn(evaluated, variant):
    import tensorflow_model_analysis as tfma

    folder, table = evaluated
    predictions = table[variant]
    guess = predictions.scores.argmax(axis=1)
    result = tfma.load_eval_result(str(folder), model_name=variant)
    metrics = {k: v["doubleValue"] for k, v in result.get_metrics_for_slice().items()}
    expected = precision_recall_fscore_support(
        predictions.labels, guess, average="macro", zero_division=0
    )
    assert metrics["example_count"] == 101
    assert metrics["top1"] == pytest.approx((guess == predictions.labels).mean())
    assert metrics["macro_precision"] == pytest.approx(expected[0])
    assert metrics["macro_recall"] == pytest.approx(expected[1])
    assert metrics["macro_f1"] == pytest.approx(expected[2])
    truth = predictions.scores[np.arange(101), predictions.labels]
    assert metrics["cross_entropy"] == pytest.approx(-np.log(truth).mean(), rel=1e-5)


def test_slices_contain_their_own_examples(evaluated):
    import tensorflow_model_analysis as tfma

    folder, table = evaluated
    predictions = table["ptq_int8"]
    result = tfma.load_eval_result(str(folder), model_name="ptq_int8")
    found = dict(result.slicing_metrics)
    dark = found[(("slice/brightness", "dark"),)][""][""]
    chosen = predictions.slices["slice/brightness"] == "dark"
    assert dark["example_count"]["doubleValue"] == chosen.sum()
    correct = predictions.scores.argmax(axis=1) == predictions.labels
    assert dark["top1"]["doubleValue"] == pytest.approx(correct[chosen].mean())
    assert (("image/class/text", "3"),) in found


def test_the_gate_fails_if_tfma_and_the_table_disagree(evaluated):
    folder, table = evaluated
    agreed = tfma_gates(str(folder), table)
    assert [gate.name for gate in agreed].count("tfma/agrees") == 2
    assert all(gate.verdict is Verdict.HELD for gate in agreed)
    swapped = {"none_fp32": table["ptq_int8"], "ptq_int8": table["none_fp32"]}
    names = {gate.name for gate in tfma_gates(str(folder), swapped) if not gate.passed}
    assert names == {"tfma/agrees"}


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Columns that ship and that do not ship, most of them below the threshold of 0.95."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    folder = tmp_path_factory.mktemp("others")
    labels = (np.arange(300) % 10).astype(np.int32)
    ids = np.array([f"{i:064x}" for i in range(300)], dtype=object)

    def right_on(images, constant=False):
        guess = np.where(np.arange(300) < images, labels, (labels + 1) % 10)
        scores = np.full((300, 10), 0.05, np.float32)
        scores[np.arange(300), 3 if constant else guess] = 0.55
        return Predictions(ids, labels, scores, {})

    table = {
        "saved_model": right_on(294),
        "none_fp32": right_on(294),
        "ptq_int8": right_on(0, constant=True),
        "prune_fp32": right_on(270),
        "float/prune": right_on(270),
        "baseline": right_on(270),
        "best": right_on(273),
    }
    path = folder / "Split-test" / "data_tfrecord-00000-of-00001"
    write_table(path, table, CLASSES)
    config = make_eval_config(list(table), EvalSettings((), min_top1=0.95), 10)
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        analyze(pipeline, path, str(folder / "tfma"), config)
    return str(folder / "tfma"), table


def thresholds_gate(uri, table):
    (gate,) = [gate for gate in tfma_gates(uri, table) if gate.name == "tfma/thresholds"]
    return gate


def test_the_threshold_of_tfma_applies_to_shipped_variants_only(others):
    uri, table = others
    gate = thresholds_gate(uri, table)
    # Without the live model, the best one ever pushed and the collapsed variant.
    assert (gate.verdict, gate.detail) == (Verdict.FAILED, "prune_fp32")
    # Without prune, the candidate is better than all other models and is not refused.
    shipping = {name: found for name, found in table.items() if "prune" not in name}
    assert thresholds_gate(uri, shipping).verdict is Verdict.HELD


def test_other_models_are_evaluated_without_a_threshold_and_float_passes_not_at_all(others):
    import tensorflow_model_analysis as tfma

    uri, _ = others
    for name, top1 in (("baseline", 0.9), ("best", 0.91), ("none_fp32", 0.98)):
        metrics = tfma.load_eval_result(uri, model_name=name).get_metrics_for_slice()
        assert metrics["top1"]["doubleValue"] == pytest.approx(top1)
    validation = tfma.load_validation_result(uri)
    refused = {
        failure.metric_key.model_name
        for of_slice in validation.metric_validations_per_slice
        for failure in of_slice.failures
    }
    assert refused == {"ptq_int8", "prune_fp32"}
