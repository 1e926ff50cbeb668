"""What the variants of a bundle answer to a split of a data set; no TFX."""

from dataclasses import replace
from pathlib import Path

from core.bundle import SAVED_MODEL, Bundle
from serving.engines.engine import open_engine
from trainers.config import from_dict
from trainers.data import pipeline
from trainers.data.features import DatasetInfo
from trainers.evaluation.predictions import Predictions, predict, with_labels_of

#: Column of the live model: the version that the bundle store serves.
BASELINE = "baseline"
#: Column of the best version ever pushed, where that is another one and better on this split.
BEST = "best"
#: Column of the linear probe on the features that the candidate started from.
PROBE = "probe"
#: Columns of models that are not the candidate's variants.
REFERENCES = (BASELINE, BEST, PROBE)

#: Before a method's name: the column of its Keras model run in float. No variant, nothing ships.
OWN_FLOAT = "float/"


def answer(
    bundle: Bundle,
    variant: str,
    data_dir: Path,
    split: str,
    *,
    batches: int = -1,
    paired: bool = True,
) -> Predictions:
    """What one variant answers to `split`, preprocessed by its own bundle's configuration.

    Labels index the bundle's classes, which are paired with the data set's by name.

    Args:
      bundle: holds the variant.
      variant: its name.
      data_dir: the records.
      split: which of them.
      batches: only that many batches of `eval.batch` images, from the first; -1 is all.
      paired: False leaves the data set's labels, for a bundle that need not know its classes.

    Raises:
      DatasetError: a class of the data set that the bundle does not know, if `paired`.
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


def answers(bundle: Bundle, data_dir: Path, split: str) -> dict[str, Predictions]:
    """Column -> answers, for the SavedModel and every TFLite variant.

    Args:
      bundle: the candidate.
      data_dir: the records.
      split: which of them to answer.
    """
    names = [SAVED_MODEL, *(v.name for v in bundle.manifest.variants)]
    return {name: answer(bundle, name, data_dir, split) for name in names}
