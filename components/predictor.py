"""Predicts each evaluation example once with every variant of a bundle.

The predictions form one table (see `trainers.evaluation.predictions`) that TFMA, the gates, the
statistics and the report read. For paired comparisons, the column `baseline` has the predictions of
the live model, and `best` those of the best one ever pushed, if it is another. A second table is of
the validation split, which the recommended variant is chosen on.
"""

from pathlib import Path

from tfx.types import artifact_utils
from tfx.types.standard_artifacts import Examples, Model
from tfx.v1.dsl.components import InputArtifact, OutputArtifact, Parameter, component

from components import artifacts, files
from components.evaluation.float_passes import count_differing, read_float_passes, splits_to_predict
from components.evaluation.predict_variants import predict_variants
from components.evaluation.references import predict_references
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
      live: the versions of the bundle store.
      predictions: a table for each split, `agreement.json`, and `compared.json`, which describes
        the reference models.
      code_digest: part of the cache key.
      split: the split to predict; validation is predicted as well, if there is one.
    """
    candidate = open_bundle(Path(bundle.uri) / files.SERVING_MODEL)
    data_dir = Path(examples.uri)
    splits = splits_to_predict(DatasetInfo.load(data_dir), split)
    tables = {}
    for name in splits:
        found = predict_variants(candidate, data_dir, name)
        found |= read_float_passes(Path(bundle.uri) / files.FLOAT_PASSES, name)
        tables[name] = found
    # The gates compare with other models on this split only.
    own = tables[split][SAVED_MODEL]
    others = predict_references(Live.load(live.uri), own, candidate.labels, data_dir, split)
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
