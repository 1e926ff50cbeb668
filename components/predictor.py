"""Has every variant of a bundle answer each evaluation example once.

The answers become one table (see `trainers.predictions`) that TFMA, the gates, the statistics and
the report all read. The model pushed last, where there is one, answers the same examples under the
name `baseline`, so that comparisons with it are paired. A second table holds the validation split,
which the recommended variant is chosen on.
"""

from pathlib import Path

from tfx.types import artifact_utils
from tfx.types.standard_artifacts import Examples, Model, ModelBlessing
from tfx.v1.dsl.components import InputArtifact, OutputArtifact, Parameter, component

from components import files
from components.answers import answers
from components.float_passes import count_differing, read_float_passes, splits_to_predict
from serving.bundle import open_bundle
from trainers.data.features import DatasetInfo
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
    """Writes the predictions tables, and how often variants differ from the float file.

    Args:
      bundle: a draft of the Compressor, with its float passes.
      examples: the records.
      predictions: a table under the name of each split, and `agreement.json`.
      code_digest: part of the cache key.
      split: which split to answer; validation, where there is one, is answered as well.
      baseline: the draft that was pushed last, if any.
      baseline_blessing: its gate's verdict, which names the variant that was recommended.
    """
    candidate = open_bundle(Path(bundle.uri) / files.SERVING_MODEL)
    before = None
    if baseline and baseline_blessing:
        recommended = files.read_json(Path(baseline_blessing.uri) / files.VERDICT)["recommended"]
        before = (open_bundle(Path(baseline.uri) / files.SERVING_MODEL), recommended)
    data_dir = Path(examples.uri)
    splits = splits_to_predict(DatasetInfo.load(data_dir), split)
    tables = {}
    for name in splits:
        # Another model's column belongs to the split that gates compare on.
        found = answers(candidate, data_dir, name, before if name == split else None)
        found |= read_float_passes(Path(bundle.uri) / files.FLOAT_PASSES, name)
        write_table(files.predictions_file(predictions.uri, name), found, candidate.labels)
        tables[name] = found
    counts = count_differing(candidate, data_dir, tables)
    files.write_json(Path(predictions.uri) / files.AGREEMENT, counts)
    predictions.split_names = artifact_utils.encode_split_names(splits)
