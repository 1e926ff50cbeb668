"""Has every variant of a bundle answer each evaluation example once.

The answers become one table (see `trainers.predictions`) that TFMA, the gates, the statistics and
the report all read. The live model answers the same examples in the column `baseline`, and the best
one that was ever pushed, where that is another, in the column `best`: comparisons are paired.
"""

from pathlib import Path

from tfx.types import artifact_utils
from tfx.types.standard_artifacts import Examples, Model
from tfx.v1.dsl.components import InputArtifact, OutputArtifact, Parameter, component

from components import artifacts, files
from components.answers import answers
from components.live import Live
from components.references import references
from serving.bundle import SAVED_MODEL, open_bundle
from trainers.predictions import write_table


@component
def Predictor(
    bundle: InputArtifact[Model],
    examples: InputArtifact[Examples],
    live: InputArtifact[artifacts.LiveModel],
    predictions: OutputArtifact[Examples],
    code_digest: Parameter[str],
    split: Parameter[str] = "test",
) -> None:
    """Writes the predictions table, and `compared.json`: what the references are.

    Args:
      bundle: a draft of the Compressor.
      examples: the records.
      live: what the bundle store serves.
      predictions: the table, under the split's name.
      code_digest: part of the cache key.
      split: which split to answer.
    """
    candidate = open_bundle(Path(bundle.uri) / files.SERVING_MODEL)
    data = Path(examples.uri)
    found = answers(candidate, data, split)
    others = references(Live.load(live.uri), found[SAVED_MODEL], candidate.labels, data, split)
    table = files.predictions_file(predictions.uri, split)
    write_table(table, {**found, **others.columns}, candidate.labels)
    files.write_json(
        Path(predictions.uri) / files.COMPARED, {"versions": others.versions, "how": others.how}
    )
    predictions.split_names = artifact_utils.encode_split_names([split])
