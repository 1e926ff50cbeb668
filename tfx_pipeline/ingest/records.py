"""Converts a checked item to a `tf.train.Example` with the keys of `trainers.data.features`.

TensorFlow is imported in the functions, because the registry imports this module to find jobs.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tfx_pipeline.ingest.frames import record_labels
from tfx_pipeline.ingest.images import ImageFacts
from tfx_pipeline.ingest.objects import count_band, object_features
from tfx_pipeline.ingest.source import Item, Values
from trainers.data import features

if TYPE_CHECKING:
    import tensorflow as tf

#: The convention of ImageNet and COCO: 0 is background, classes start at 1.
LABEL_OFFSET = 1

# The size that the labels declare; the record holds the size of the image.
_DECLARED = (features.HEIGHT, features.WIDTH)


def make_example(
    item: Item, facts: ImageFacts, encoded: bytes, *, classes: Sequence[str]
) -> "tf.train.Example":
    """The record of one image.

    Args:
      item: with its labels.
      facts: of the stored bytes.
      encoded: the stored bytes.
      classes: of the source, in label order.
    """
    import tensorflow as tf

    values: dict[str, Values] = {
        features.IMAGE: [encoded],
        features.FORMAT: [facts.format],
        # Linux file names are bytes and need not be UTF-8.
        features.FILENAME: [item.name.encode("utf-8", "surrogateescape")],
        features.HEIGHT: [facts.height],
        features.WIDTH: [facts.width],
        features.CHANNELS: [facts.channels],
        features.COLORSPACE: [facts.colorspace],
        features.ORIENTATION: [facts.orientation],
        features.ID: [facts.digest],
    }
    if item.class_name:
        values[features.LABEL] = [classes.index(item.class_name) + LABEL_OFFSET]
        values[features.TEXT] = [item.class_name]
    slices = {**facts.slices, **item.slices}
    labels = record_labels(item, facts, num_classes=len(classes))
    if labels.objects is not None:
        size = {"height": facts.height, "width": facts.width}
        made = object_features(labels.objects, classes=classes, label_offset=LABEL_OFFSET, **size)
        values |= made
        slices[features.SLICE_OBJECTS] = count_band(len(labels.objects.boxes))
    values |= {key: [value] for key, value in slices.items()}
    values |= {key: one for key, one in labels.attributes.items() if key not in _DECLARED}
    if item.group:
        values[features.GROUP] = [item.group.encode("utf-8", "surrogateescape")]
    return tf.train.Example(features=tf.train.Features(feature=_features(values)))


def serialize(example: "tf.train.Example") -> bytes:
    """The serialized example; deterministic, unlike protobuf's default for maps."""
    return example.SerializeToString(deterministic=True)


def _features(values: Mapping[str, Values]) -> dict[str, "tf.train.Feature"]:
    import tensorflow as tf

    made = {}
    for key, one in values.items():
        kind = _kind(key, one)
        if kind is bytes:
            data = [text.encode() if isinstance(text, str) else text for text in one]
            made[key] = tf.train.Feature(bytes_list=tf.train.BytesList(value=data))
        elif kind is float:
            made[key] = tf.train.Feature(float_list=tf.train.FloatList(value=one))
        else:
            made[key] = tf.train.Feature(int64_list=tf.train.Int64List(value=one))
    return made


# The type of lists that may be empty.
_FLOATS = (features.XMIN, features.XMAX, features.YMIN, features.YMAX, features.AREA)
_BYTES = (features.OBJECT_TEXT, features.MASK, features.CAPTION)


def _kind(key: str, values: Values) -> type:
    if key in _FLOATS:
        return float
    if key in _BYTES or (values and isinstance(values[0], (bytes, str))):
        return bytes
    return float if values and isinstance(values[0], float) else int
