"""Has every variant of a bundle answer each evaluation example once.

The answers become one table (see `trainers.predictions`) that TFMA, the gates, the statistics and
the report all read. The model pushed last, where there is one, answers the same examples under the
name `baseline`, so that comparisons with it are paired.
"""

from pathlib import Path

from tfx.types import artifact_utils
from tfx.types.standard_artifacts import Examples, Model, ModelBlessing
from tfx.v1.dsl.components import InputArtifact, OutputArtifact, Parameter, component

from components import files
from components.answers import answers
from serving.bundle import open_bundle
from trainers.predictions import write_table


@component
def Predictor(
    bundle: InputArtifact[Model],
    examples: InputArtifact[Examples],
    predictions: OutputArtifact[Examples],
    code_digest: Parameter[str],
    split: Parameter[str] = "test",
    baseline: InputArtifact[Model] = None,  # TFX reads None as "may be absent"
    baseline_blessing: InputArtifact[ModelBlessing] = None,
) -> None:
    """Writes the predictions table.

    Args:
      bundle: a draft of the Compressor.
      examples: the records.
      predictions: the table, under the split's name.
      code_digest: part of the cache key.
      split: which split to answer.
      baseline: the draft that was pushed last, if any.
      baseline_blessing: its gate's verdict, which names the variant that was recommended.
    """
    candidate = open_bundle(Path(bundle.uri) / files.SERVING_MODEL)
    before = None
    if baseline and baseline_blessing:
        recommended = files.read_json(Path(baseline_blessing.uri) / files.VERDICT)["recommended"]
        before = (open_bundle(Path(baseline.uri) / files.SERVING_MODEL), recommended)
    table = files.predictions_file(predictions.uri, split)
    write_table(table, answers(candidate, Path(examples.uri), split, before), candidate.labels)
    predictions.split_names = artifact_utils.encode_split_names([split])
