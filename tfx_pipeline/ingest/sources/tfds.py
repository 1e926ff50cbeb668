"""Image classification and detection data sets of TensorFlow Datasets, by name.

    sightline ingest tfds oxford_flowers102 data_dir=~/tensorflow_datasets --out data/flowers

Nothing is downloaded unless `download=true`. The encoded images are used unchanged and read from
the TFRecord shards of the data set.
"""

import itertools
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfx_pipeline.ingest.findings import IngestFinding
from tfx_pipeline.ingest.frames import STORED
from tfx_pipeline.ingest.source import IngestError, Item, Objects, Request, Source, jobs
from tfx_pipeline.ingest.split_words import split_of_word
from tfx_pipeline.ingest.splits import DEFAULT_FRACTIONS
from trainers.data.features import CLASSIFICATION, DETECTION, SPLITS

_VALIDATION, _TEST = "validation", "test"
# The layout of a TFRecord in bytes: length (8), its checksum (4), the data, its checksum (4).
_HEADER_BYTES, _FOOTER_BYTES = 12, 4
_PROBED = 1000
_VALIDATION_SHARE, _MOST_VALIDATION = 0.25, 10_000
# TFDS stores other pixel types as the bits of a PNG of another type.
_STORED = (np.uint8, np.uint16)


@jobs.register("tfds")
def source(
    request: Request,
    *,
    data_dir: str = "",
    download: bool = False,
    image: str = "",
    label: str = "",
    splits: str = "",
    validation: float = 0.0,
) -> Source:
    """The images of a TFDS data set.

    Its `test` split becomes the test split; without a labeled one, the split `validation` does,
    because published figures are measured on it, and a part of `train` is held out for validation.
    `val`, `dev` and the like become the validation split.

    Args:
      request: the name of the data set, e.g. `mnist` or `coco/2017`.
      data_dir: the folder of prepared data sets; empty for the default of TFDS.
      download: let TFDS download and prepare a missing data set.
      image: the feature to use if there are several images.
      label: the feature to use if there are several labels.
      splits: comma-separated splits to read, each a name, or `name:train` to assign it to a split.
      validation: the share of train to hold out if the data set has no validation split; 0 for a
        quarter, at most 10,000 images.

    Raises:
      IngestError: an unknown name, a data set that is not prepared or has no images or labels, an
        unsupported pixel type, or a split with an unknown name.
    """
    if request.where is None:
        raise IngestError("`tfds` needs the name of a data set, e.g. oxford_flowers102")
    builder = _builder(request.where, data_dir)
    if not builder.is_prepared():
        if not download:
            raise IngestError(
                f"{request.where} is not prepared in {builder.data_path}; add download=true to let "
                "TensorFlow Datasets download it, or set data_dir=DIR"
            )
        builder.download_and_prepare()
    keys = _keys(builder, image, label)
    chosen = _splits(builder, splits)
    if not 0 <= validation < 1:
        raise IngestError(
            f"tfds option validation must be in [0, 1), got {validation}; e.g. 0.01, or 0 for a "
            "quarter, at most 10,000 images"
        )
    return Source(
        name=builder.name,
        classes=tuple(keys.names),
        items=_items(builder, keys, chosen),
        description=f"TensorFlow Datasets {builder.info.full_name}",
        task=DETECTION if keys.box else CLASSIFICATION,
        keep_duplicates=True,
        fractions=_fractions(builder, chosen, validation),
        total=sum(builder.info.splits[name].num_examples for name in chosen),
        # Other prepared versions are beside this one.
        inputs=(os.path.dirname(str(builder.data_path)),),
    )


@dataclass(frozen=True)
class _Keys:
    """Keys of the stored examples for the image, the label and, for detection, the boxes."""

    image: str
    label: str
    names: tuple[str, ...]
    box: str = ""
    prefix: str = ""


def _builder(name: str, data_dir: str) -> Any:
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=data_dir or None, try_gcs=False)
    except (tfds.core.DatasetNotFoundError, ValueError, AssertionError) as error:
        first = str(error).strip().splitlines()[0]
        raise IngestError(
            f"TensorFlow Datasets has no {name!r} that can be built here: {first}"
        ) from error


def _keys(builder: Any, image: str, label: str) -> _Keys:
    import tensorflow_datasets as tfds

    features: Any = builder.info.features
    images = [
        key
        for key, one in features.items()
        if isinstance(one, tfds.features.Image) and not isinstance(one, tfds.features.LabeledImage)
    ]
    labels = [key for key, one in features.items() if isinstance(one, tfds.features.ClassLabel)]
    found = _choose(builder.name, "image", images, image)
    stored = np.dtype(features[found].np_dtype)
    if stored not in _STORED:
        raise IngestError(
            f"the feature {found!r} of {builder.name} has {stored} pixels, which TensorFlow "
            "Datasets stores in another format; supported are uint8 and uint16: prepare the data "
            "set again with tfds.features.Image(dtype=np.uint8)"
        )
    for key, one in features.items():
        inner: Any = getattr(one, "feature", None)
        if isinstance(inner, tfds.features.FeaturesDict):
            boxes = [k for k, v in inner.items() if isinstance(v, tfds.features.BBoxFeature)]
            kinds = [k for k, v in inner.items() if isinstance(v, tfds.features.ClassLabel)]
            if boxes and kinds and not (label and label in labels):
                name = _choose(builder.name, "label", kinds, label)
                names = _names(builder.name, inner[name])
                return _Keys(found, f"{key}/{name}", names, f"{key}/{boxes[0]}", f"{key}/")
    chosen = _choose(builder.name, "label", labels, label)
    return _Keys(found, chosen, _names(builder.name, features[chosen]))


def _choose(name: str, what: str, have: list[str], wanted: str) -> str:
    if wanted in have or (len(have) == 1 and not wanted):
        return wanted or have[0]
    if not have:
        raise IngestError(f"{name} has no {what} among its features; it cannot be ingested")
    option = "image" if what == "image" else "label"
    raise IngestError(f"{name} has several {what}s: set {option}= to one of {', '.join(have)}")


def _names(name: str, feature: Any) -> tuple[str, ...]:
    found = feature.names or [str(number) for number in range(feature.num_classes or 0)]
    if len(found) < 1:
        raise IngestError(f"{name} does not declare its number of classes; it cannot be ingested")
    return tuple(found)


def _splits(builder: Any, requested: str) -> dict[str, str]:
    """TFDS split -> our split; empty to decide by content.

    Raises:
      IngestError: a split that does not exist, or has an unknown name.
    """
    have = list(builder.info.splits)
    if requested:
        return dict(
            _assigned_split(builder.name, have, one) for one in requested.split(",") if one.strip()
        )
    found = {name: split_of_word(name) for name in have}
    unknown = [name for name, ours in found.items() if ours is None]
    if len(unknown) == len(have):
        return dict.fromkeys(have, "")
    if unknown:
        known = ",".join(name for name, ours in found.items() if ours)
        raise IngestError(
            f"{builder.name} has the split {', '.join(map(repr, unknown))}, which is not one of "
            f"{', '.join(SPLITS)}; set splits={known} to skip it, or "
            f"splits={known},{unknown[0]}:train to train on it"
        )
    return {name: ours for name, ours in found.items() if ours}


def _fractions(
    builder: Any, splits: dict[str, str], validation: float
) -> tuple[float, float, float]:
    """Fractions of train, validation and test; only missing splits are filled from train."""
    train = sum(
        builder.info.splits[theirs].num_examples
        for theirs, ours in splits.items()
        if ours == "train"
    )
    share = validation or min(_VALIDATION_SHARE, _MOST_VALIDATION / max(train, 1))
    test = DEFAULT_FRACTIONS[2]
    return (1 - share) * (1 - test), share * (1 - test), test


def _assigned_split(name: str, have: list[str], text: str) -> tuple[str, str]:
    theirs, _, ours = (one.strip() for one in text.partition(":"))
    split = split_of_word(ours or theirs)
    if theirs not in have:
        raise IngestError(f"{name} has no split {theirs!r}; it has {', '.join(have)}")
    if split is None:
        raise IngestError(
            f"splits: {text!r} does not assign {theirs!r} to a split; set {theirs}:train, or "
            f"another of {', '.join(SPLITS)}"
        )
    return theirs, split


def _items(builder: Any, keys: _Keys, splits: dict[str, str]) -> Iterator[Item | IngestFinding]:
    tests = [name for name, ours in splits.items() if ours == _TEST]
    unlabelled = {name for name in tests if not _has_labels(builder, name, keys)}
    for theirs, ours in splits.items():
        if theirs in unlabelled:
            count = builder.info.splits[theirs].num_examples
            yield IngestFinding(
                "label_missing", theirs, f"{count:,} images of a split without labels"
            )
            continue
        if theirs == _VALIDATION and set(tests) <= unlabelled:
            ours = _TEST
        for number, (location, features) in enumerate(_examples(builder, theirs, keys)):
            yield _item(f"{theirs}/{number:07d}", ours, location, features, keys)


def _has_labels(builder: Any, split: str, keys: _Keys) -> bool:
    """Whether any of the first examples has a label; images without objects have none."""
    for _, features in itertools.islice(_examples(builder, split, keys), _PROBED):
        if keys.label in features and any(v >= 0 for v in features[keys.label].int64_list.value):
            return True
    return False


def _examples(builder: Any, split: str, keys: _Keys) -> Iterator[tuple[dict[str, Any], Any]]:
    """(byte range of the image, features of the stored example) in stored order."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
        raise IngestError(
            f"{builder.name} is stored as {builder.info.file_format.value}; prepare it as TFRecords"
        )
    for path in builder.info.splits[split].filepaths:
        for offset, record in _records(str(path)):
            features = tf.train.Example.FromString(record).features.feature
            values = features[keys.image].bytes_list.value
            encoded = values[0] if values else b""
            start = record.find(encoded) if encoded else -1
            if start < 0:
                yield {"data": encoded}, features
            else:
                location = {"path": str(path), "offset": offset + start, "length": len(encoded)}
                yield location, features


def _records(path: str) -> Iterator[tuple[int, bytes]]:
    """(offset of the data, the data) of each record; TensorFlow's readers do not return offsets.

    Raises:
      IngestError: the file ends within a record.
    """
    with open(path, "rb") as file:
        while header := file.read(_HEADER_BYTES):
            (length,) = struct.unpack_from("<Q", header.ljust(8, b"\0"))
            offset = file.tell()
            record = file.read(length)
            if len(header) < _HEADER_BYTES or len(file.read(_FOOTER_BYTES)) < _FOOTER_BYTES:
                raise IngestError(f"{path} is truncated at byte {offset:,}; prepare it again")
            yield offset, record


def _item(
    name: str, split: str, location: dict[str, Any], features: Any, keys: _Keys
) -> Item | IngestFinding:
    if keys.box:
        return Item(name, split=split, objects=_objects(features, keys), **location)
    values = features[keys.label].int64_list.value
    if not values or not 0 <= values[0] < len(keys.names):
        return IngestFinding("label_missing", name, f"{keys.label} is {list(values)}")
    return Item(name, keys.names[values[0]], split=split, **location)


def _objects(features: Any, keys: _Keys) -> Objects:
    """The objects; TFDS stores boxes as fractions ymin, xmin, ymax, xmax."""
    flat = list(features[keys.box].float_list.value)
    boxes = [tuple(flat[at : at + 4]) for at in range(0, len(flat), 4)]
    count = len(boxes)

    def values(key: str, default: list[Any]) -> tuple[Any, ...]:
        if keys.prefix + key not in features:
            return tuple(default)
        feature = features[keys.prefix + key]
        found = list(feature.int64_list.value) or list(feature.float_list.value)
        return tuple(found) if len(found) == count else tuple(default)

    return Objects(
        boxes=tuple((xmin, ymin, xmax, ymax) for ymin, xmin, ymax, xmax in boxes),
        classes=tuple(features[keys.label].int64_list.value),
        ids=values("id", list(range(count))),
        areas=tuple(float(one) for one in values("area", [-1.0] * count)),
        is_crowd=tuple(int(one) for one in values("is_crowd", [0] * count)),
        segmentations=(None,) * count,
        normalized=True,
        frame=STORED,
    )
