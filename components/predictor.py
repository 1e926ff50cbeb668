"""Has every variant of a bundle answer each evaluation example once.

The answers become one table (see `trainers.evaluation.predictions`) that TFMA, the gates, the
statistics and
the report all read. The live model answers the same examples in the column `baseline`, and the best
one that was ever pushed, where that is another, in the column `best`: comparisons are paired. A
second table holds the validation split, which the recommended variant is chosen on.
"""

from pathlib import Path

from tfx.types import artifact_utils
from tfx.types.standard_artifacts import Examples, Model
from tfx.v1.dsl.components import InputArtifact, OutputArtifact, Parameter, component

from components import artifacts, files
from components.evaluation.float_passes import count_differing, read_float_passes, splits_to_predict
from components.evaluation.predict_variants import answers
from components.evaluation.references import references
from components.live import Live
from core.bundle import SAVED_MODEL, open_bundle
from trainers.data.features import DatasetInfo
from trainers.evaluation.predictions import write_table


@component
def Predictor(
    bundle: InputArtifact[Model],
    examples: InputArtifact[Examples],
    live: InputArtifact[artifacts.LiveModel],
    predictions: OutputArtifact[Examples],
    code_digest: Parameter[str],
    split: Parameter[str] = "test",
) -> None:
    """Writes the predictions tables, and how often variants differ from the float file.

    Args:
      bundle: a draft of the Compressor, with its float passes.
      examples: the records.
      live: what the bundle store serves.
      predictions: a table under the name of each split, `agreement.json`, and `compared.json`:
        what the references are.
      code_digest: part of the cache key.
      split: which split to answer; validation, where there is one, is answered as well.
    """
    candidate = open_bundle(Path(bundle.uri) / files.SERVING_MODEL)
    data_dir = Path(examples.uri)
    splits = splits_to_predict(DatasetInfo.load(data_dir), split)
    tables = {}
    for name in splits:
        found = answers(candidate, data_dir, name)
        found |= read_float_passes(Path(bundle.uri) / files.FLOAT_PASSES, name)
        tables[name] = found
    # Other models' columns belong to the split that gates compare on.
    current, answered = Live.load(live.uri), tables[split][SAVED_MODEL]
    others = references(current, answered, candidate.labels, data_dir, split)
    for name, found in tables.items():
        columns = others.columns if name == split else {}
        write_table(
            files.predictions_file(predictions.uri, name), {**found, **columns}, candidate.labels
        )
    counts = count_differing(candidate, data_dir, tables)
    files.write_json(Path(predictions.uri) / files.AGREEMENT, counts)
    files.write_json(
        Path(predictions.uri) / files.COMPARED, {"versions": others.versions, "how": others.how}
    )
    predictions.split_names = artifact_utils.encode_split_names(splits)
