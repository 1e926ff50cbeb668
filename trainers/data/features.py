"""What a record holds: keys, dtypes and the label offset. The single truth for writer and reader.

The keys are those of public TFRecords: the Inception / Model Garden ones for ImageNet, the TF
Object Detection API's for COCO, DeepLab's for segmentation. Ingest writes them; the input pipeline,
TFDV and TFMA read them. Standard library only, so that anything may import this.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# Every record.
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

# Classification, and the class of the whole image.
LABEL = "image/class/label"  # int64, in [label_offset, label_offset + num_classes)
TEXT = "image/class/text"  # bytes: the class name
SYNSET = "image/class/synset"  # bytes: WordNet id, ImageNet only

# Detection: lists of equal length, one value an object; all empty for an image without objects.
SOURCE_ID = "image/source_id"  # bytes: the image's id in its source, a decimal number in COCO
XMIN = "image/object/bbox/xmin"  # float32 in [0, 1], a fraction of the width
XMAX = "image/object/bbox/xmax"
YMIN = "image/object/bbox/ymin"  # float32 in [0, 1], a fraction of the height
YMAX = "image/object/bbox/ymax"
OBJECT_LABEL = "image/object/class/label"  # int64, in [label_offset, label_offset + num_classes)
OBJECT_TEXT = "image/object/class/text"  # bytes: the class name
IS_CROWD = "image/object/is_crowd"  # int64: 1 for a group that is not told apart
AREA = "image/object/area"  # float32, square pixels: of the mask where there is one
OBJECT_ID = "image/object/id"  # int64: the annotation's id in its source
MASK = "image/object/mask"  # bytes: PNG of the image's size, 1 where the object is; optional
DIFFICULT = "image/object/difficult"  # int64: Pascal VOC's flag; optional
TRUNCATED = "image/object/truncated"  # int64: Pascal VOC's flag; optional
CAPTION = "image/caption"  # bytes: any number of sentences; optional
SLICE_OBJECTS = "slice/objects"  # bytes: none, one, few (2-4), some (5-9) or many (10 or more)

# Segmentation, each an encoded PNG of the image's size; optional.
SEMANTIC = "image/segmentation/class/encoded"  # uint8: label of each pixel, 0 void
SEMANTIC_FORMAT = "image/segmentation/class/format"  # bytes: PNG
PANOPTIC_CATEGORY = "image/panoptic/category_mask"  # uint8: label of each pixel, 0 void
PANOPTIC_INSTANCE = "image/panoptic/instance_mask"  # uint16: number of the segment, from 1

BYTES_KEYS = (IMAGE, FORMAT, FILENAME, TEXT, ID, *SLICES)
INT_KEYS = (HEIGHT, WIDTH, CHANNELS, LABEL)
#: What every detection record holds, besides the image.
OBJECT_KEYS = (XMIN, XMAX, YMIN, YMAX, OBJECT_LABEL, OBJECT_TEXT, IS_CROWD, AREA, OBJECT_ID)

SPLITS = ("train", "validation", "test")
DATASET_FILE = "dataset.json"
REPORT_FILE = "ingest_report.json"
# The head of a report is what the job was asked; its findings may be of any size.
_REPORT_HEAD_BYTES = 64 * 1024
_REPORTED_EXIF = re.compile(r'"exif": "(as_stored|upright)"')

CLASSIFICATION, DETECTION = "classification", "detection"
_HOLDS = {CLASSIFICATION: "images with one class each", DETECTION: "images with objects"}
_JOBS = {CLASSIFICATION: "e.g. `folder` or `csv`", DETECTION: "e.g. `coco`, `voc` or `yolo`"}


class DatasetError(ValueError):
    """A data set that cannot be used; the message names the file and the remedy."""


@dataclass(frozen=True)
class SplitInfo:
    """Counts of one split.

    Attributes:
      examples: how many records.
      shards: how many files.
      per_class: class name -> images of it, or for detection objects of it.
      objects: how many in all; 0 for classification.
    """

    examples: int
    shards: int
    per_class: dict[str, int]
    objects: int = 0


@dataclass(frozen=True)
class DatasetInfo:
    """What `dataset.json` says of the records beside it.

    Attributes:
      name: the data set's name, used in reports.
      task: `classification` or `detection`.
      classes: class names; index = label - label_offset.
      label_offset: 1 for ImageNet- and COCO-convention records (0 is background), 0 for TFDS /
        Keras ones.
      splits: one entry for each of train, validation, test that exists.
      fingerprint: sha256 hex of the records' bytes, in shard order.
      rejected: how many source files were refused; each is named in `ingest_report.json`.
      repaired: how many source files were changed to become records; named there too.
      source: where the images came from, in words.
      category_ids: the source's own id of each class, where they are not 0, 1, 2, ...: COCO's 80
        classes have ids up to 90.
      slices: the `slice/*` keys that every record holds.
      masks: every object has a mask.
      foreign: written by others: records may lack an identity and slices, which readers compute.
      exif: `as_stored`, or `upright` where images were turned by their EXIF orientation: the graph
        exported from these records then turns what it is sent.
      turned: how many source images had an EXIF orientation other than 1.
      group: what kept images of one group in one split, as `--group` gave it; empty for nothing.
      held_out: the share of the source's training images that became the validation split, because
        the source had none to choose by; 0 where nothing was held out.
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
        """How many classes the labels index."""
        return len(self.classes)

    def check_task(self, task: str, what: str) -> None:
        """Nothing, when the records are of `task`.

        Args:
          task: that is to be trained or evaluated.
          what: needs it, for the message: a recipe, a bundle.

        Raises:
          DatasetError: they are of another one.
        """
        if self.task != task:
            raise DatasetError(
                f"{what} is for {task}, the data set {self.name!r} holds "
                f"{_HOLDS.get(self.task, self.task)}; "
                f"give data that were ingested for {task} ({_JOBS.get(task, 'see --jobs')})"
            )

    def class_positions(self, classes: Sequence[str], what: str) -> tuple[int, ...]:
        """Where each of this data set's classes is among a model's, by name.

        Args:
          classes: of the model, in label order.
          what: the model, for the message.

        Raises:
          DatasetError: the model has no class of one of the names.
        """
        known = {_composed(name): place for place, name in enumerate(classes)}
        unknown = [name for name in self.classes if _composed(name) not in known]
        if unknown:
            more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
            raise DatasetError(
                f"{what} does not know {len(unknown)} of the {self.num_classes} classes of the "
                f"data set {self.name!r}: {', '.join(map(repr, unknown[:3]))}{more}; it knows "
                f"{', '.join(map(repr, classes[:3]))}{', ...' if len(classes) > 3 else ''}. "
                "Classes are paired by name: ingest the data with the model's names"
            )
        return tuple(known[_composed(name)] for name in self.classes)

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
            for key in ("classes", "category_ids", "slices"):
                if key in raw:
                    raw[key] = tuple(raw[key])
            if "exif" not in raw:
                raw["exif"] = _reported_exif(Path(directory))
                # Nobody asks for upright images who has none that are turned.
                raw["turned"] = int(raw["exif"] == "upright")
            raw["splits"] = {name: SplitInfo(**split) for name, split in raw["splits"].items()}
            return cls(**raw)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f"{path} is not a data set description: {error}") from error


def _composed(name: str) -> str:
    """A name in Unicode's composed form: archives of Macs write accents apart."""
    return unicodedata.normalize("NFC", name)


def _reported_exif(directory: Path) -> str:
    """The EXIF policy of records that were ingested before `dataset.json` stated it."""
    path = directory / REPORT_FILE
    if not path.is_file():
        return "as_stored"
    with path.open(encoding="utf-8", errors="replace") as file:
        found = _REPORTED_EXIF.search(file.read(_REPORT_HEAD_BYTES))
    return found.group(1) if found else "as_stored"


def shard_pattern(directory: Path | str, split: str) -> str:
    """The glob of one split's shards, in TFX's `Split-*` layout."""
    return f"{directory}/Split-{split}/data_tfrecord-*"
