"""What the variants of a bundle answer to a split of a data set; no TFX."""

from dataclasses import replace
from pathlib import Path

from serving.bundle import SAVED_MODEL, Bundle
from serving.engine import open_engine
from trainers.config import from_dict
from trainers.data import pipeline
from trainers.data.features import DatasetInfo
from trainers.predictions import Predictions, predict, with_labels_of

#: The last pushed model's column in the table.
BASELINE = "baseline"


def answer(bundle: Bundle, variant: str, data_dir: Path, split: str) -> Predictions:
    """What one variant answers to `split`, preprocessed by its own bundle's configuration.

    Labels index the bundle's classes, which are paired with the data set's by name.

    Raises:
      DatasetError: a class of the data set that the bundle does not know.
      DataError: a record that cannot be used; names the file and the record.
      EngineError: the variant cannot be loaded or run.
    """
    config = from_dict(bundle.manifest.config)
    config = replace(config, data=replace(config.data, dir=str(data_dir)))
    info = DatasetInfo.load(data_dir)
    positions = info.class_positions(bundle.labels, f"the bundle {bundle.manifest.name}")
    with open_engine(bundle, variant) as engine, pipeline.named_errors(config, info, split):
        found = predict(engine.predict_images, pipeline.eval_batches(config, info, split))
    return with_labels_of(found, positions)


def answers(
    bundle: Bundle, data_dir: Path, split: str, baseline: tuple[Bundle, str] | None
) -> dict[str, Predictions]:
    """Column -> answers, for the SavedModel, every TFLite variant and the baseline.

    Args:
      bundle: the candidate.
      data_dir: the records.
      split: which of them to answer.
      baseline: the bundle pushed last and its recommended variant; one of other classes is left
        out, for there is nothing to compare.
    """
    names = [SAVED_MODEL, *(v.name for v in bundle.manifest.variants)]
    found = {name: answer(bundle, name, data_dir, split) for name in names}
    if baseline is not None and baseline[0].labels == bundle.labels:
        found[BASELINE] = answer(*baseline, data_dir, split)
    return found
