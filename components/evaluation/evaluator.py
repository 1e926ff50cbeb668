"""TFMA over the predictions table: metrics, slices and thresholds of every variant at once.

TFX's own Evaluator runs at most two models itself. This one reads what the Predictor wrote, so that
each example is predicted once, by TFLite variants as well as the SavedModel. Its result is an
ordinary ModelEvaluation: `tfma.load_eval_result(uri, model_name="ptq_int8")` opens it.
"""

import json
from pathlib import Path

import apache_beam as beam
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2
from tfx.types.standard_artifacts import Examples, ModelEvaluation
from tfx.v1.dsl.components import (
    BeamComponentParameter,
    InputArtifact,
    OutputArtifact,
    Parameter,
    component,
)
from tfx_bsl.tfxio import tf_example_record

from components import files
from components.evaluation.eval_config import EvalSettings, make_eval_config
from components.evaluation.predict_variants import REFERENCES
from trainers.evaluation.predictions import read_table


def analyze(
    pipeline: beam.Pipeline, table: Path, output: str, eval_config: config_pb2.EvalConfig
) -> None:
    """Adds to `pipeline` the steps that read `table` and write a TFMA result folder.

    Args:
      pipeline: the caller runs it.
      table: a predictions table.
      output: the folder.
      eval_config: its model specs name columns of the table.
    """
    source = tf_example_record.TFExampleRecord(
        file_pattern=str(table),
        raw_record_column_name=tfma.ARROW_INPUT_COLUMN,
        telemetry_descriptors=["sightline"],
    )
    _ = (
        pipeline
        | "ReadPredictions" >> source.BeamSource()
        | "Analyze"
        >> tfma.ExtractEvaluateAndWriteResults(
            eval_config=eval_config,
            extractors=tfma.default_extractors(eval_config=eval_config),
            output_path=output,
        )
    )


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
