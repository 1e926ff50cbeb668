"""TFMA over the predictions table: metrics, slices and thresholds of every variant at once.

TFX's own Evaluator runs at most two models itself. This one reads what the Predictor wrote, so that
each example is predicted once, by TFLite variants as well as the SavedModel. Its result is an
ordinary ModelEvaluation: `tfma.load_eval_result(uri, model_name="ptq_int8")` opens it.
"""

import json

import apache_beam as beam
from tfx.types.standard_artifacts import Examples, ModelEvaluation
from tfx.v1.dsl.components import (
    BeamComponentParameter,
    InputArtifact,
    OutputArtifact,
    Parameter,
    component,
)

from components import files
from components.evaluation.eval_config import EvalSettings, make_eval_config
from components.evaluation.predict_variants import REFERENCES
from components.evaluation.tfma_result import analyze
from trainers.evaluation.predictions import read_table


@component(use_beam=True)
def PredictionEvaluator(
    predictions: InputArtifact[Examples],
    evaluation: OutputArtifact[ModelEvaluation],
    settings: Parameter[str],
    code_digest: Parameter[str],
    split: Parameter[str] = "test",
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Writes a TFMA evaluation.

    Args:
      predictions: of the Predictor.
      evaluation: the result folder.
      settings: JSON of `components.evaluation.eval_config.EvalSettings`.
      code_digest: part of the cache key.
      split: the split of the table.
      beam_pipeline: from TFX.
    """
    table = files.predictions_file(predictions.uri, split)
    found = read_table(table)
    classes = next(iter(found.values())).scores.shape[1]
    # Other models are compared with, not evaluated: thresholds are for the candidate's variants.
    variants = [name for name in found if name not in REFERENCES]
    config = make_eval_config(variants, EvalSettings(**json.loads(settings)), classes)
    with beam_pipeline as pipeline:
        analyze(pipeline, table, evaluation.uri, config)
