"""One record, looked at once: what is wrong with it, and the few numbers that are kept of it."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from components.data_validation.anomaly import ValidatorSettings
from components.data_validation.near_duplicates import SIDE, perceptual_hash
from components.data_validation.object_anomalies import (
    Found,
    check_objects,
    check_pixel_labels,
    values,
)
from core.image_header import ImageError, ImageTooLargeError, check_image
from trainers.data import features
from trainers.data.decode import decode_bytes, decode_image
from trainers.data.features import DatasetInfo

# ITU-R BT.601 luma.
_LUMA = (0.299, 0.587, 0.114)
_SAME_FORMAT = {"JPG": "JPEG"}


@dataclass
class Facts:
    """What is kept of a record.

    Attributes:
      found: (kind, detail) of each anomaly of this record alone.
      filename: the image's name in its source.
      digest: first 16 bytes of the sha256 of the encoded image; empty where there is none.
      labels: one, or those of the objects, as the record holds them.
      thumbnail: (32, 32) uint8 gray; None where the image does not decode.
      hash: perceptual hash of the thumbnail.
    """

    found: list[Found] = field(default_factory=list)
    filename: str = ""
    digest: bytes = b""
    labels: tuple[int, ...] = ()
    thumbnail: np.ndarray | None = None
    hash: int = 0


def look(serialized: bytes, info: DatasetInfo, settings: ValidatorSettings) -> Facts:
    """Everything about one serialized `tf.train.Example`; decodes its image and masks.

    Args:
      serialized: the record.
      info: the data set.
      settings: of the validator.
    """
    try:
        feature: Any = tf.train.Example.FromString(serialized).features.feature
    except DecodeError:
        return Facts([("broken_record", f"{len(serialized)} bytes that are not a tf.Example")])
    facts = Facts(filename=filename_of(feature))
    encoded = values(feature, features.IMAGE, "bytes_list")
    if len(encoded) != 1:
        have = ", ".join(sorted(feature)) or "nothing"
        facts.found.append(("broken_record", f"no {features.IMAGE!r} bytes; it has {have}"))
        return facts
    facts.digest = hashlib.sha256(encoded[0]).digest()[:16]
    facts.labels, wrong = _labels(feature, info)
    facts.found += wrong
    size = _check_image(encoded[0], feature, facts, settings)
    if size is not None:
        if info.task == features.DETECTION:
            facts.found += check_objects(feature, size, info, settings)
        facts.found += check_pixel_labels(feature, size)
    return facts


def filename_of(feature: Any) -> str:
    """The image's name, or its id in the source, or nothing; what is no UTF-8 as hex."""
    for key in (features.FILENAME, features.SOURCE_ID):
        for name in values(feature, key, "bytes_list"):
            return name.decode("utf-8", "backslashreplace")
    return ""


def label_text(labels: tuple[int, ...], info: DatasetInfo) -> str:
    """Labels in words: a class name, or `2 person, car` for objects."""

    def name(label: int) -> str:
        index = label - info.label_offset
        return info.classes[index] if 0 <= index < info.num_classes else f"label {label}"

    counted = Counter(name(label) for label in labels)
    return ", ".join(one if n == 1 else f"{n} {one}" for one, n in counted.most_common(8))


def labels_of(feature: Any, info: DatasetInfo) -> tuple[int, ...]:
    """The record's label, or its objects' labels in order of size."""
    if info.task == features.DETECTION:
        return tuple(sorted(values(feature, features.OBJECT_LABEL, "int64_list")))
    return tuple(values(feature, features.LABEL, "int64_list"))


def _labels(feature: Any, info: DatasetInfo) -> tuple[tuple[int, ...], list[Found]]:
    labels = labels_of(feature, info)
    if info.task == features.DETECTION:  # `check_objects` tells of their range.
        return labels, []
    if len(labels) != 1:
        return labels, [("broken_record", f"{len(labels)} values in {features.LABEL!r}, not one")]
    low, high = info.label_offset, info.label_offset + info.num_classes - 1
    if not low <= labels[0] <= high:
        return labels, [("label_range", f"label {labels[0]}, allowed is {low} to {high}")]
    return labels, []


def _check_image(
    encoded: bytes, feature: Any, facts: Facts, settings: ValidatorSettings
) -> tuple[int, int] | None:
    """Adds to `facts` what the header, the decoder and the pixels say; the size if it decodes."""
    try:
        # First, because a decoder would allocate what the header of a bomb asks for.
        header = check_image(encoded, max_pixels=settings.max_pixels)
    except ImageTooLargeError as error:
        facts.found.append(("pixel_budget", str(error)))
        return None
    except ImageError as error:
        kind = "corrupt" if str(error).startswith(("broken", "empty")) else "format_refused"
        facts.found.append((kind, str(error)))
        return None
    for name in values(feature, features.FORMAT, "bytes_list"):
        stated = name.decode("utf-8", "backslashreplace").upper()
        if _SAME_FORMAT.get(stated, stated) != header.format:
            facts.found.append(("format_mismatch", f"says {stated}, is {header.format}"))
    for stated_digest in values(feature, features.ID, "bytes_list"):
        digest = hashlib.sha256(encoded).hexdigest()
        if stated_digest != digest.encode():
            facts.found.append(("identity_mismatch", f"says {stated_digest!r}, is {digest}"))
    try:
        with tf.device("CPU"):
            shape, constant, thumbnail = (x.numpy() for x in _measure(tf.constant(encoded)))
    except (tf.errors.OpError, UnicodeDecodeError):
        facts.found.append(("corrupt", f"damaged {header.format}: {_reason(encoded)}"))
        return None
    facts.thumbnail, facts.hash = thumbnail, perceptual_hash(thumbnail)
    height, width = int(shape[0]), int(shape[1])
    facts.found += _check_shape(feature, height, width, settings)
    if constant:
        facts.found.append(("constant", f"all {height} x {width} pixels have one color"))
    return height, width


def _reason(encoded: bytes) -> str:
    """Why an image does not decode: run op by op, TensorFlow says it without a stack of nodes."""
    try:
        decode_bytes(encoded)
    except ImageError as error:
        return str(error)
    return "the decoder refuses it"


def _check_shape(feature: Any, height: int, width: int, settings: ValidatorSettings) -> list[Found]:
    found: list[Found] = []
    for key, real in ((features.HEIGHT, height), (features.WIDTH, width)):
        for stated in values(feature, key, "int64_list"):
            if stated != real:
                found.append(("size_mismatch", f"{key} says {stated}, the image has {real}"))
    short, long = min(height, width), max(height, width)
    if short < settings.min_side:
        found.append(("tiny", f"{height} x {width} pixels, at least {settings.min_side} are asked"))
    if long > settings.max_aspect * short:
        found.append(("extreme_aspect", f"{height} x {width} pixels, 1 to {long / short:.1f}"))
    return found


@tf.function(input_signature=[tf.TensorSpec((), tf.string)], autograph=False)
def _measure(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """(2,) size, () whether all pixels are equal, and the thumbnail of an encoded image."""
    image = decode_image(encoded)
    constant = tf.reduce_all(tf.reduce_max(image, axis=(0, 1)) == tf.reduce_min(image, axis=(0, 1)))
    # Averages whole areas, so that no detail of a large image is skipped.
    small = tf.image.resize(image, (SIDE, SIDE), method=tf.image.ResizeMethod.AREA)
    gray = tf.tensordot(small, tf.constant(_LUMA), axes=1)
    return tf.shape(image)[:2], constant, tf.cast(tf.round(gray), tf.uint8)
