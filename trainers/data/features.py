"""What a record holds: keys, dtypes and the label offset. The single truth for writer and reader.

The keys are those of the Inception / Model Garden ImageNet records. Ingest writes them, the input
pipeline, TFDV and TFMA read them. Standard library only, so that anything may import this.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

IMAGE = "image/encoded"  # bytes: an encoded picture that the exported graph decodes
FORMAT = "image/format"  # bytes: JPEG, PNG, BMP or GIF, from the content
FILENAME = "image/filename"  # bytes: path relative to the source folder
HEIGHT = "image/height"  # int64, pixels as stored
WIDTH = "image/width"  # int64, pixels as stored
CHANNELS = "image/channels"  # int64, as stored: 1, 3 or 4
LABEL = "image/class/label"  # int64, in [label_offset, label_offset + num_classes)
TEXT = "image/class/text"  # bytes: the class name
ID = "image/key/sha256"  # bytes: hex digest of image/encoded; the example's identity
SLICES = ("slice/brightness", "slice/contrast", "slice/aspect", "slice/size")

BYTES_KEYS = (IMAGE, FORMAT, FILENAME, TEXT, ID, *SLICES)
INT_KEYS = (HEIGHT, WIDTH, CHANNELS, LABEL)

SPLITS = ("train", "validation", "test")
DATASET_FILE = "dataset.json"
REJECTED_FILE = "rejected.jsonl"


class DatasetError(ValueError):
    """A data set that cannot be used; the message names the file and the remedy."""


@dataclass(frozen=True)
class SplitInfo:
    """Counts of one split; `per_class` maps a class name to its number of examples."""

    examples: int
    shards: int
    per_class: dict[str, int]


@dataclass(frozen=True)
class DatasetInfo:
    """What `dataset.json` says of the records beside it.

    Attributes:
      name: the data set's name, used in reports.
      task: `classification`.
      classes: class names; index = label - label_offset.
      label_offset: 1 for ImageNet-convention records (0 is background), 0 for TFDS / Keras ones.
      splits: one entry for each of train, validation, test that exists.
      fingerprint: sha256 hex of the records' bytes, in shard order.
      rejected: how many source files were refused; each is named in `rejected.jsonl`.
      source: where the pictures came from, in words.
    """

    name: str
    task: str
    classes: tuple[str, ...]
    label_offset: int
    splits: dict[str, SplitInfo]
    fingerprint: str
    rejected: int = 0
    source: str = ""
    format_version: int = field(default=1)

    @property
    def num_classes(self) -> int:
        """How many classes the labels index."""
        return len(self.classes)

    def to_json(self) -> str:
        """The text of `dataset.json`."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def load(cls, directory: Path) -> "DatasetInfo":
        """Reads `directory/dataset.json`.

        Raises:
          DatasetError: the file is missing, is not JSON, or lacks a field.
        """
        path = Path(directory) / DATASET_FILE
        if not path.is_file():
            raise DatasetError(
                f"{path} does not exist; make records with `sightline ingest folder DIR --out "
                f"{directory}` or `sightline ingest digits --out {directory}`"
            )
        try:
            raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            raw["classes"] = tuple(raw["classes"])
            raw["splits"] = {name: SplitInfo(**split) for name, split in raw["splits"].items()}
            return cls(**raw)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f"{path} is not a data set description: {error}") from error


def shard_pattern(directory: Path | str, split: str) -> str:
    """The glob of one split's shards, in TFX's `Split-*` layout."""
    return f"{directory}/Split-{split}/data_tfrecord-*"
