"""Float passes, which variants are compared with, and how often variants differ; no TFX.

A method that trains new weights, such as `qat`, has a Keras model. The Compressor stores its
predictions next to the draft, because the bundle does not contain it. Variants with the trained
weights are compared with the float TFLite file on every split, since this needs no labels.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from components import files
from components.evaluation.columns import FLOAT, Table, compressed, differing
from components.evaluation.predict_variants import OWN_FLOAT, predict_variant
from core.bundle import Bundle
from trainers.compression import keeps_weights
from trainers.config import Config, from_dict
from trainers.data.features import DatasetInfo
from trainers.evaluation.predictions import read_table, write_table
from trainers.keras import keras
from trainers.training.forward import Forward, predict_split

#: Total number of images that are compared at most, filled up from `train`.
MOST_IMAGES = 5000


def splits_to_predict(info: DatasetInfo, split: str) -> list[str]:
    """`split`, and `validation` if the data set has one: the variant is chosen on it."""
    splits = [split]
    if split != files.VALIDATION and _examples(info, files.VALIDATION):
        splits.append(files.VALIDATION)
    return splits


class FloatPasses:
    """The predictions of Keras models, such as those that `build_bundle` passes to `on_model`."""

    def __init__(self, config: Config, data_dir: Path, split: str = "test") -> None:
        """Prepares for `splits_to_predict` of the records in `data_dir`."""
        self._config = replace(config, data=replace(config.data, dir=str(data_dir)))
        self._info = DatasetInfo.load(data_dir)
        self._found: dict[str, Table] = {name: {} for name in splits_to_predict(self._info, split)}

    def __call__(self, method: str, model: keras.Model) -> None:
        """Predicts every split with the model of a method; raises what `add` raises."""
        self.add(OWN_FLOAT + method, model)

    def add(self, column: str, model: keras.Model) -> None:
        """Predicts every split with `model`.

        Raises:
          DataError: a record that cannot be used; names the file and the record.
        """
        forward = Forward(model, self._config)
        for split, table in self._found.items():
            table[column] = predict_split(forward, self._config, self._info, split)

    def write(self, folder: Path) -> None:
        """Writes one table per split into `folder`; none without a model."""
        for split, table in self._found.items():
            if table:
                write_table(files.predictions_file(str(folder), split), table, self._info.classes)


def read_float_passes(folder: Path, split: str) -> Table:
    """The columns that `FloatPasses.write` wrote for one split; empty if there are none."""
    path = files.predictions_file(str(folder), split)
    return read_table(path) if path.is_file() else {}


def count_differing(
    bundle: Bundle, data_dir: Path, tables: dict[str, Table], *, most: int = MOST_IMAGES
) -> dict[str, Any]:
    """How often variants with the trained weights differ from the float file, on all splits.

    Args:
      bundle: the candidate.
      data_dir: the records.
      tables: split -> its table; all of their images count.
      most: the first batches of `train` are added until there are so many images.

    Returns:
      What `components.gates.agreement.AllImages.from_json` reads: `images`, `total`, `differing`
      by variant, and `splits`, the images of each.
    """
    info = DatasetInfo.load(data_dir)
    names = [name for name in compressed(next(iter(tables.values()))) if keeps_weights(name)]
    splits = {split: len(table[FLOAT].labels) for split, table in tables.items()}
    parts = list(tables.values())
    batch = from_dict(bundle.manifest.config).eval.batch
    batches = -(-max(0, most - sum(splits.values())) // batch)
    if names and batches and "train" not in tables and _examples(info, "train"):
        train = {
            name: predict_variant(bundle, name, data_dir, "train", batches=batches)
            for name in (FLOAT, *names)
        }
        parts.append(train)
        splits["train"] = len(train[FLOAT].labels)
    return {
        "images": sum(splits.values()) if names else 0,
        "total": sum(split.examples for split in info.splits.values()),
        "splits": splits,
        "differing": {
            name: sum(differing(part[name], part[FLOAT])[0] for part in parts) for name in names
        },
    }


def _examples(info: DatasetInfo, split: str) -> int:
    return info.splits[split].examples if split in info.splits else 0
