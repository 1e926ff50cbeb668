"""Predictions of the variants of a bundle for a split of a data set; no TFX."""

from dataclasses import replace
from pathlib import Path

from core.bundle import SAVED_MODEL, Bundle
from serving.engines.engine import open_engine
from trainers.config import from_dict
from trainers.data import pipeline
from trainers.data.features import DatasetInfo
from trainers.evaluation.predictions import Predictions, predict, with_labels_of

#: Column of the live model, the version that the bundle store serves.
BASELINE = "baseline"
#: Column of the best version ever pushed, if it is another one and better on this split.
BEST = "best"
#: Column of the linear probe on the features that the candidate's training started from.
PROBE = "probe"
#: Columns of reference models, which are not variants of the candidate.
REFERENCES = (BASELINE, BEST, PROBE)

#: Prefix of a method's name: the column of its Keras model run in float, which does not ship.
OWN_FLOAT = "float/"


def predict_variant(
    bundle: Bundle,
    variant: str,
    data_dir: Path,
    split: str,
    *,
    batches: int = -1,
    paired: bool = True,
) -> Predictions:
    """The predictions of one variant, preprocessed by its own bundle's configuration.

    Labels index the bundle's classes, which match the data set's by name.

    Args:
      bundle: holds the variant.
      variant: its name.
      data_dir: the records.
      split: the split to predict.
      batches: the first batches of `eval.batch` images only; -1 is all.
      paired: whether labels index the bundle's classes; False keeps those of the data set, for a
        bundle with other classes.

    Raises:
      DatasetError: a class of the data set that the bundle does not have, if `paired`.
      DataError: a record that cannot be used; names the file and the record.
      EngineError: the variant cannot be loaded or run.
    """
    config = from_dict(bundle.manifest.config)
    config = replace(config, data=replace(config.data, dir=str(data_dir)))
    info = DatasetInfo.load(data_dir)
    what = f"the bundle {bundle.manifest.name}"
    positions = info.class_positions(bundle.labels, what) if paired else None
    with open_engine(bundle, variant) as engine, pipeline.named_errors(config, info, split):
        chosen = pipeline.eval_batches(config, info, split).take(batches)
        found = predict(engine.predict_images, chosen)
    return with_labels_of(found, positions)


def predict_variants(bundle: Bundle, data_dir: Path, split: str) -> dict[str, Predictions]:
    """Column -> predictions, for the SavedModel and every TFLite variant.

    Args:
      bundle: the candidate.
      data_dir: the records.
      split: the split to predict.
    """
    names = [SAVED_MODEL, *(v.name for v in bundle.manifest.variants)]
    return {name: predict_variant(bundle, name, data_dir, split) for name in names}
