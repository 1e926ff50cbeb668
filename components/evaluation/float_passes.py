"""The float passes that variants are judged by, and how often variants differ from them; no TFX.

A method that trains weights of its own, such as `qat`, has a Keras model. Its answers are taken
when it is made and kept beside the draft: the bundle ships without it. Variants with the trained
weights have the float TFLite file, and are compared with it on every split: labels are not needed.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from components import files
from components.evaluation.predict_variants import OWN_FLOAT, answer
from components.gates.columns import FLOAT, Table, compressed, differing
from core.bundle import Bundle
from trainers.compression import keeps_weights
from trainers.config import Config, from_dict
from trainers.data.features import DatasetInfo
from trainers.evaluation.predictions import read_table, write_table
from trainers.keras import keras
from trainers.training.forward import Forward, predict_split

#: Images beyond the predicted splits are taken from `train` up to this many in all.
MOST_IMAGES = 5000


def splits_to_predict(info: DatasetInfo, split: str) -> list[str]:
    """`split`, and `validation` where the data set has one: the variant is chosen on it."""
    splits = [split]
    if split != files.VALIDATION and _examples(info, files.VALIDATION):
        splits.append(files.VALIDATION)
    return splits


class FloatPasses:
    """The answers of Keras models: of every method's, as `build_bundle`'s `on_model`, for one."""

    def __init__(self, config: Config, data_dir: Path, split: str = "test") -> None:
        """Prepares for `splits_to_predict` of the records in `data_dir`."""
        self._config = replace(config, data=replace(config.data, dir=str(data_dir)))
        self._info = DatasetInfo.load(data_dir)
        self._found: dict[str, Table] = {name: {} for name in splits_to_predict(self._info, split)}

    def __call__(self, method: str, model: keras.Model) -> None:
        """Predicts every split with the model of a method; raises as `add`."""
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
        """Writes one table a split into `folder`; none where there is no model."""
        for split, table in self._found.items():
            if table:
                write_table(files.predictions_file(str(folder), split), table, self._info.classes)


def read_float_passes(folder: Path, split: str) -> Table:
    """The columns that `FloatPasses.write` left for one split; empty where there are none."""
    path = files.predictions_file(str(folder), split)
    return read_table(path) if path.is_file() else {}


def count_differing(
    bundle: Bundle, data_dir: Path, tables: dict[str, Table], *, most: int = MOST_IMAGES
) -> dict[str, Any]:
    """How often the variants with the trained weights differ from the float file, on every split.

    Args:
      bundle: the candidate.
      data_dir: the records.
      tables: split -> its table; these count whole.
      most: batches of `train` are added from the first on until there are so many images.

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
            name: answer(bundle, name, data_dir, "train", batches=batches)
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
