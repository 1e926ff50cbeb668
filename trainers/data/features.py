"""The format of records: keys, dtypes and the label offset, for writers and readers.

The keys are those of public TFRecords: Inception / Model Garden for ImageNet, the TF Object
Detection API for COCO, and DeepLab for segmentation. Ingest writes them; the input pipeline, TFDV
and TFMA read them. Standard library only.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# In every record.
IMAGE = "image/encoded"  # bytes: an encoded image that the exported graph decodes
FORMAT = "image/format"  # bytes: JPEG, PNG, BMP or GIF, from the content
FILENAME = "image/filename"  # bytes: path relative to the source folder
HEIGHT = "image/height"  # int64, pixels as stored
WIDTH = "image/width"  # int64, pixels as stored
CHANNELS = "image/channels"  # int64, as stored: 1, 3 or 4
COLORSPACE = "image/colorspace"  # bytes: RGB, Grayscale or CMYK, as stored
ORIENTATION = "image/exif_orientation"  # int64: EXIF 1 to 8 as stored; 1 is upright or unknown
ID = "image/key/sha256"  # bytes: hex digest of image/encoded; the example's identity
GROUP = "image/group"  # bytes: images of one group are in one split; optional
SLICES = ("slice/brightness", "slice/contrast", "slice/aspect", "slice/size")

# Classification: the class of the whole image.
LABEL = "image/class/label"  # int64, in [label_offset, label_offset + num_classes)
TEXT = "image/class/text"  # bytes: the class name
SYNSET = "image/class/synset"  # bytes: WordNet id, ImageNet only

# Detection: lists of equal length with one value per object; empty for an image without objects.
SOURCE_ID = "image/source_id"  # bytes: the image id of the source, a decimal number in COCO
XMIN = "image/object/bbox/xmin"  # float32 in [0, 1], a fraction of the width
XMAX = "image/object/bbox/xmax"
YMIN = "image/object/bbox/ymin"  # float32 in [0, 1], a fraction of the height
YMAX = "image/object/bbox/ymax"
OBJECT_LABEL = "image/object/class/label"  # int64, in [label_offset, label_offset + num_classes)
OBJECT_TEXT = "image/object/class/text"  # bytes: the class name
IS_CROWD = "image/object/is_crowd"  # int64: 1 for a group of objects with one annotation
AREA = "image/object/area"  # float32, square pixels: of the mask, if any
OBJECT_ID = "image/object/id"  # int64: the annotation id of the source
MASK = "image/object/mask"  # bytes: PNG with the size of the image, 1 inside the object; optional
DIFFICULT = "image/object/difficult"  # int64: Pascal VOC's flag; optional
TRUNCATED = "image/object/truncated"  # int64: Pascal VOC's flag; optional
CAPTION = "image/caption"  # bytes: any number of sentences; optional
SLICE_OBJECTS = "slice/objects"  # bytes: none, one, few (2-4), some (5-9) or many (10 or more)

# Segmentation: encoded PNGs with the size of the image; optional.
SEMANTIC = "image/segmentation/class/encoded"  # uint8: label of each pixel, 0 void
SEMANTIC_FORMAT = "image/segmentation/class/format"  # bytes: PNG
PANOPTIC_CATEGORY = "image/panoptic/category_mask"  # uint8: label of each pixel, 0 void
PANOPTIC_INSTANCE = "image/panoptic/instance_mask"  # uint16: number of the segment, from 1

BYTES_KEYS = (IMAGE, FORMAT, FILENAME, TEXT, ID, *SLICES)
INT_KEYS = (HEIGHT, WIDTH, CHANNELS, LABEL)
#: The keys of every detection record, besides those of the image.
OBJECT_KEYS = (XMIN, XMAX, YMIN, YMAX, OBJECT_LABEL, OBJECT_TEXT, IS_CROWD, AREA, OBJECT_ID)

SPLITS = ("train", "validation", "test")
DATASET_FILE = "dataset.json"
REPORT_FILE = "ingest_report.json"
# Bytes of a report to read: its start has the arguments of the job; findings may have any size.
_REPORT_HEAD_BYTES = 64 * 1024
_REPORTED_EXIF = re.compile(r'"exif": "(as_stored|upright)"')

CLASSIFICATION, DETECTION = "classification", "detection"
_HOLDS = {CLASSIFICATION: "images with one class each", DETECTION: "images with objects"}
_JOBS = {CLASSIFICATION: "e.g. `folder` or `csv`", DETECTION: "e.g. `coco`, `voc` or `yolo`"}


class DatasetError(ValueError):
    """A data set that cannot be used; the message contains the file and the remedy."""


@dataclass(frozen=True)
class SplitInfo:
    """Counts of one split.

    Attributes:
      examples: number of records.
      shards: number of files.
      per_class: class name -> number of images, or of objects for detection.
      objects: number of objects; 0 for classification.
    """

    examples: int
    shards: int
    per_class: dict[str, int]
    objects: int = 0


@dataclass(frozen=True)
class DatasetInfo:
    """The content of `dataset.json`, which describes the records beside it.

    Attributes:
      name: name of the data set in reports.
      task: `classification` or `detection`.
      classes: class names; index = label - label_offset.
      label_offset: label of the first class: 1 in the convention of ImageNet and COCO (0 is
        background), 0 in the convention of TFDS and Keras.
      splits: one entry for each existing split of train, validation, test.
      fingerprint: sha256 hex of the records, in shard order.
      rejected: number of rejected source files, which `ingest_report.json` lists.
      repaired: number of repaired source files, which `ingest_report.json` lists.
      source: text about the origin of the images.
      category_ids: the category id of each class in the source, if they are not 0, 1, 2, ...: the
        80 classes of COCO have ids up to 90.
      slices: the `slice/*` keys in every record.
      masks: whether every object has a mask.
      foreign: whether other tools wrote the records, which may lack an identity and slices; readers
        compute these.
      exif: `as_stored`, or `upright` if images were rotated by their EXIF orientation; then a graph
        exported from these records also rotates its input.
      turned: number of source images with an EXIF orientation other than 1.
      group: the value of `--group` that kept images of one group in one split; empty for none.
      held_out: share of the source's training images that became the validation split; 0 if none
        were held out.
    """

    name: str
    task: str
    classes: tuple[str, ...]
    label_offset: int
    splits: dict[str, SplitInfo]
    fingerprint: str
    rejected: int = 0
    repaired: int = 0
    source: str = ""
    category_ids: tuple[int, ...] = ()
    slices: tuple[str, ...] = SLICES
    masks: bool = False
    foreign: bool = False
    exif: str = "as_stored"
    turned: int = 0
    group: str = ""
    held_out: float = 0.0
    format_version: int = field(default=1)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def check_task(self, task: str, what: str) -> None:
        """Checks that the records are for `task`.

        Args:
          task: the required task.
          what: the recipe or bundle that requires it, for the message.

        Raises:
          DatasetError: the records are for another task.
        """
        if self.task != task:
            raise DatasetError(
                f"{what} is for {task}, but the data set {self.name!r} holds "
                f"{_HOLDS.get(self.task, self.task)}; "
                f"use data ingested for {task} ({_JOBS.get(task, 'see --jobs')})"
            )

    def class_positions(self, classes: Sequence[str], what: str) -> tuple[int, ...]:
        """The index of each class of this data set among the classes of a model, by name.

        Args:
          classes: classes of the model, in label order.
          what: name of the model, for the message.

        Raises:
          DatasetError: the model lacks a class.
        """
        known = {_composed(name): index for index, name in enumerate(classes)}
        unknown = [name for name in self.classes if _composed(name) not in known]
        if unknown:
            more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
            raise DatasetError(
                f"{what} lacks {len(unknown)} of the {self.num_classes} classes of the data set "
                f"{self.name!r}: {', '.join(map(repr, unknown[:3]))}{more}; it has "
                f"{', '.join(map(repr, classes[:3]))}{', ...' if len(classes) > 3 else ''}. "
                "Classes are matched by name: ingest the data with the model's class names"
            )
        return tuple(known[_composed(name)] for name in self.classes)

    def to_json(self) -> str:
        """The text of `dataset.json`."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def load(cls, directory: Path) -> "DatasetInfo":
        """Reads `directory/dataset.json`.

        Raises:
          DatasetError: the file is missing, not JSON, or lacks a field.
        """
        path = Path(directory) / DATASET_FILE
        if not path.is_file():
            raise DatasetError(
                f"{path} does not exist; create records with `sightline ingest folder DIR --out "
                f"{directory}` or `sightline ingest digits --out {directory}`"
            )
        try:
            raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            for key in ("classes", "category_ids", "slices"):
                if key in raw:
                    raw[key] = tuple(raw[key])
            if "exif" not in raw:
                raw["exif"] = _reported_exif(Path(directory))
                # Upright images imply that some images were rotated.
                raw["turned"] = int(raw["exif"] == "upright")
            raw["splits"] = {name: SplitInfo(**split) for name, split in raw["splits"].items()}
            return cls(**raw)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f"{path} is not a data set description: {error}") from error


def _composed(name: str) -> str:
    """A name in Unicode's composed form; macOS archives store accents separately."""
    return unicodedata.normalize("NFC", name)


def _reported_exif(directory: Path) -> str:
    """The EXIF policy of records that were ingested before `dataset.json` had this field."""
    path = directory / REPORT_FILE
    if not path.is_file():
        return "as_stored"
    with path.open(encoding="utf-8", errors="replace") as file:
        found = _REPORTED_EXIF.search(file.read(_REPORT_HEAD_BYTES))
    return found.group(1) if found else "as_stored"


def shard_pattern(directory: Path | str, split: str) -> str:
    """The glob pattern of the shards of one split, in TFX's `Split-*` layout."""
    return f"{directory}/Split-{split}/data_tfrecord-*"
