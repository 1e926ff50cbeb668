"""Reference columns of a predictions table: TFMA evaluates only those of the candidate."""

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from apache_beam.options.pipeline_options import PipelineOptions
from tfx.types import standard_artifacts

from components import files
from components.evaluation.evaluator import PredictionEvaluator
from components.evaluation.predict_variants import BASELINE, BEST
from components.evaluation.references import UNKNOWN
from components.gates.significance_gate import tfma_gates
from trainers.evaluation.predictions import read_table, write_table

CLASSES = tuple(str(digit) for digit in range(10))


def test_a_reference_of_other_classes_is_in_the_table_and_not_in_the_evaluation(
    predictions_of, tmp_path
):
    candidate, other = predictions_of(0.9), predictions_of(0.2)
    other.scores[:, 3] = UNKNOWN
    table = {"saved_model": candidate, "none_fp32": candidate, BASELINE: other, BEST: other}
    made = standard_artifacts.Examples(), standard_artifacts.ModelEvaluation()
    for artifact, folder in zip(made, ("predictions", "evaluation"), strict=True):
        artifact.uri = str(tmp_path / folder)
    path = files.predictions_file(made[0].uri)
    write_table(path, table, CLASSES)
    np.testing.assert_array_equal(read_table(path)[BEST].scores, other.scores)
    PredictionEvaluator.EXECUTOR_SPEC.executor_class._FUNCTION(
        predictions=made[0],
        evaluation=made[1],
        settings='{"slices": [], "min_top1": 0.8}',
        code_digest="",
        split="test",
        beam_pipeline=beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])),
    )
    evaluated = tfma.load_eval_result(made[1].uri, model_name="none_fp32")
    assert {spec.name for spec in evaluated.config.model_specs} == {"saved_model", "none_fp32"}
    # The candidate is above the threshold, the others are below it.
    gates = tfma_gates(made[1].uri, table)
    assert [gate.name for gate in gates] == ["tfma/agrees", "tfma/agrees", "tfma/thresholds"]
    assert all(gate.passed for gate in gates)
