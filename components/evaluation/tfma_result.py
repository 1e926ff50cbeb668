"""TFMA over a predictions table; needs TFMA and Beam, but not TFX.

`tfma.load_eval_result(folder)` opens what is written.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import apache_beam as beam
import tensorflow_model_analysis as tfma
from apache_beam.options.pipeline_options import PipelineOptions
from tensorflow_model_analysis.proto import config_pb2
from tfx_bsl.tfxio import tf_example_record

from components.evaluation.eval_config import EvalSettings, make_eval_config
from trainers.evaluation.predictions import Predictions, write_table


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


def write_tfma_result(
    predictions: Predictions, classes: Sequence[str], slices: Sequence[str], folder: Path
) -> None:
    """Evaluates one model's predictions with TFMA in this process, on the direct runner.

    Args:
      predictions: of the model.
      classes: names in label order.
      slices: feature keys, and crosses whose keys `*` joins; the class is always a slice.
      folder: is created.
    """
    name = "model"
    config = make_eval_config([name], EvalSettings(slices), len(classes))
    with tempfile.TemporaryDirectory() as temporary:
        table = Path(temporary) / "predictions"
        write_table(table, {name: predictions}, tuple(classes))
        with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
            analyze(pipeline, table, str(folder), config)
