"""Checks of one record, decoded once, and the few values that are kept of it."""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from components.data_validation.anomaly import ValidatorSettings
from components.data_validation.near_duplicates import SIDE, perceptual_hash
from core.image_header import ImageError, ImageTooLargeError, check_image
from trainers.data import features
from trainers.data.decode import decode_bytes, decode_image
from trainers.data.features import DatasetInfo

#: (kind, detail) of one anomaly.
Found = tuple[str, str]

# Rounding error in float32 of a box that ends at the edge, as a fraction of the side.
_TOLERANCE = 1e-5
_BOX_KEYS = (features.YMIN, features.XMIN, features.YMAX, features.XMAX)
_PIXEL_LABELS = (features.SEMANTIC, features.PANOPTIC_CATEGORY, features.PANOPTIC_INSTANCE)
_LISTS = {
    **dict.fromkeys(_BOX_KEYS, "float_list"),
    features.OBJECT_LABEL: "int64_list",
    features.OBJECT_TEXT: "bytes_list",
    features.IS_CROWD: "int64_list",
    features.AREA: "float_list",
    features.OBJECT_ID: "int64_list",
    features.MASK: "bytes_list",
}
# Records of other tools may lack the other lists.
_REQUIRED = (*_BOX_KEYS, features.OBJECT_LABEL)
# ITU-R BT.601 luma.
_LUMA = (0.299, 0.587, 0.114)
_SAME_FORMAT = {"JPG": "JPEG"}


@dataclass
class RecordFacts:
    """The values that are kept of a record.

    Attributes:
      found: (kind, detail) of each anomaly of this record.
      filename: name of the image in its source.
      digest: first 16 bytes of the sha256 of the encoded image; empty without an image.
      labels: the label, or the labels of the objects, as recorded.
      thumbnail: (32, 32) uint8 gray; None when the image does not decode.
      hash: perceptual hash of the thumbnail.
    """

    found: list[Found] = field(default_factory=list)
    filename: str = ""
    digest: bytes = b""
    labels: tuple[int, ...] = ()
    thumbnail: np.ndarray | None = None
    hash: int = 0


def check_record(serialized: bytes, info: DatasetInfo, settings: ValidatorSettings) -> RecordFacts:
    """Checks one serialized `tf.train.Example`; decodes its image and masks.

    Args:
      serialized: the record.
      info: the data set.
      settings: of the validator.
    """
    try:
        feature: Any = tf.train.Example.FromString(serialized).features.feature
    except DecodeError:
        return RecordFacts(
            [("broken_record", f"{len(serialized)} bytes that are not a tf.Example")]
        )
    facts = RecordFacts(filename=filename_of(feature))
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
    """The name of the image, or its id in the source, or empty; invalid UTF-8 is escaped."""
    for key in (features.FILENAME, features.SOURCE_ID):
        for name in values(feature, key, "bytes_list"):
            return name.decode("utf-8", "backslashreplace")
    return ""


def label_text(labels: tuple[int, ...], info: DatasetInfo) -> str:
    """Labels as text: a class name, or `2 person, car` for objects."""

    def name(label: int) -> str:
        index = label - info.label_offset
        return info.classes[index] if 0 <= index < info.num_classes else f"label {label}"

    counted = Counter(name(label) for label in labels)
    return ", ".join(one if n == 1 else f"{n} {one}" for one, n in counted.most_common(8))


def labels_of(feature: Any, info: DatasetInfo) -> tuple[int, ...]:
    """The label of the record, or the sorted labels of its objects."""
    if info.task == features.DETECTION:
        return tuple(sorted(values(feature, features.OBJECT_LABEL, "int64_list")))
    return tuple(values(feature, features.LABEL, "int64_list"))


def _labels(feature: Any, info: DatasetInfo) -> tuple[tuple[int, ...], list[Found]]:
    labels = labels_of(feature, info)
    if info.task == features.DETECTION:  # `check_objects` checks their range.
        return labels, []
    if len(labels) != 1:
        return labels, [("broken_record", f"{len(labels)} values in {features.LABEL!r}, not one")]
    low, high = info.label_offset, info.label_offset + info.num_classes - 1
    if not low <= labels[0] <= high:
        return labels, [("label_range", f"label {labels[0]}, allowed is {low} to {high}")]
    return labels, []


def _check_image(
    encoded: bytes, feature: Any, facts: RecordFacts, settings: ValidatorSettings
) -> tuple[int, int] | None:
    """Checks header, format and pixels; returns the size if the image decodes."""
    try:
        # First, because a decoder would allocate the memory that a malicious header declares.
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
            facts.found.append(("format_mismatch", f"stated {stated}, actual {header.format}"))
    for stated_digest in values(feature, features.ID, "bytes_list"):
        digest = hashlib.sha256(encoded).hexdigest()
        if stated_digest != digest.encode():
            facts.found.append(("identity_mismatch", f"stated {stated_digest!r}, actual {digest}"))
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
    """Why an image does not decode: eagerly, TensorFlow's message has no stack of nodes."""
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
                found.append(("size_mismatch", f"{key} is {stated}, the image has {real}"))
    short, long = min(height, width), max(height, width)
    if short < settings.min_side:
        found.append(
            ("tiny", f"{height} x {width} pixels, at least {settings.min_side} are required")
        )
    if long > settings.max_aspect * short:
        found.append(("extreme_aspect", f"{height} x {width} pixels, 1 to {long / short:.1f}"))
    return found


@tf.function(input_signature=[tf.TensorSpec((), tf.string)], autograph=False)
def _measure(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """(2,) size, () whether all pixels are equal, and the thumbnail of an encoded image."""
    image = decode_image(encoded)
    constant = tf.reduce_all(tf.reduce_max(image, axis=(0, 1)) == tf.reduce_min(image, axis=(0, 1)))
    # Averages whole areas, which uses all pixels of a large image.
    small = tf.image.resize(image, (SIDE, SIDE), method=tf.image.ResizeMethod.AREA)
    gray = tf.tensordot(small, tf.constant(_LUMA), axes=1)
    return tf.shape(image)[:2], constant, tf.cast(tf.round(gray), tf.uint8)


def values(feature: Any, key: str, kind: str) -> Sequence[Any]:
    """The values of one feature of a `tf.train.Example`; empty when it is missing."""
    return getattr(feature[key], kind).value if key in feature else ()


def check_objects(
    feature: Any, size: tuple[int, int], info: DatasetInfo, settings: ValidatorSettings
) -> list[Found]:
    """The anomalies of a detection record's objects.

    Args:
      feature: `example.features.feature`.
      size: (height, width) of the decoded image in pixels.
      info: the data set.
      settings: for `box_mask_px`.

    Returns:
      (kind, detail) of each anomaly; only `object_lists` when the lists have different lengths,
      since boxes and masks cannot be matched then.
    """
    lists = {key: values(feature, key, kind) for key, kind in _LISTS.items()}
    unequal = _unequal(lists)
    if unequal:
        return [("object_lists", unequal)]
    found: list[Found] = []
    boxes = list(zip(*(lists[key] for key in _BOX_KEYS), strict=True))
    for index, box in enumerate(boxes):
        found += [(kind, f"object {index}: {detail}") for kind, detail in _check_box(box)]
    found += _check_labels(lists[features.OBJECT_LABEL], info)
    for index, mask in enumerate(lists[features.MASK]):
        found += [
            (kind, f"object {index}: {detail}")
            for kind, detail in _check_mask(mask, boxes[index], size, settings.box_mask_px)
        ]
    return found


def check_pixel_labels(feature: Any, size: tuple[int, int]) -> list[Found]:
    """Semantic and panoptic maps that do not decode or have another size than the image."""
    found: list[Found] = []
    for key in _PIXEL_LABELS:
        for encoded in values(feature, key, "bytes_list"):
            mask, reason = _decode_mask(encoded)
            if mask is None:
                found.append(("mask_invalid", f"{key}: {reason}"))
            elif mask.shape != size:
                found.append(("mask_size", f"{key}: {_sizes(mask.shape, size)}"))
    return found


def _unequal(lists: dict[str, Sequence[Any]]) -> str:
    """The lengths of the lists as text when they differ, otherwise empty."""
    lengths = {key: len(lists[key]) for key in lists if len(lists[key]) or key in _REQUIRED}
    if len(set(lengths.values())) <= 1:
        return ""
    return ", ".join(f"{key.removeprefix('image/object/')} {n}" for key, n in lengths.items())


def _check_box(box: tuple[float, ...]) -> list[Found]:
    ymin, xmin, ymax, xmax = box
    text = f"box ymin {ymin:.6g}, xmin {xmin:.6g}, ymax {ymax:.6g}, xmax {xmax:.6g}"
    if not all(math.isfinite(side) for side in box):
        return [("box_outside", f"{text}: not a number")]
    found: list[Found] = []
    if min(box) < -_TOLERANCE or max(box) > 1 + _TOLERANCE:
        found.append(("box_outside", f"{text}: allowed is 0 to 1"))
    if ymax < ymin or xmax < xmin:
        found.append(("box_inverted", text))
    elif ymax == ymin or xmax == xmin:
        found.append(("box_empty", text))
    return found


def _check_labels(labels: Sequence[int], info: DatasetInfo) -> list[Found]:
    low, high = info.label_offset, info.label_offset + info.num_classes - 1
    return [
        ("label_range", f"object {index}: label {label}, allowed is {low} to {high}")
        for index, label in enumerate(labels)
        if not low <= label <= high
    ]


def _check_mask(
    encoded: bytes, box: tuple[float, ...], size: tuple[int, int], allowed_px: float
) -> list[Found]:
    mask, reason = _decode_mask(encoded)
    if mask is None:
        return [("mask_invalid", reason)]
    if mask.shape != size:
        return [("mask_size", _sizes(mask.shape, size))]
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return [("mask_empty", "no pixel is set")]
    # A pixel's far edge is one beyond its index.
    extent = np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1])
    edges = np.array(box) * np.array([*size, *size])
    apart = np.abs(extent - edges)
    if apart.max() <= allowed_px:  # False for NaN, which is a `box_outside`.
        return []
    side = ("ymin", "xmin", "ymax", "xmax")[int(apart.argmax())]
    return [
        (
            "mask_box",
            f"the mask's {side} is {apart.max():.1f} px from the box's, allowed is {allowed_px:g}",
        )
    ]


def _decode_mask(encoded: bytes) -> tuple[np.ndarray | None, str]:
    try:
        with tf.device("CPU"):
            decoded = tf.io.decode_png(encoded, channels=1, dtype=tf.uint16)
        return decoded.numpy()[..., 0], ""
    except (tf.errors.OpError, UnicodeDecodeError):
        return None, f"{len(encoded)} bytes that do not decode as PNG, starting {encoded[:8]!r}"


def _sizes(got: tuple[int, ...], wanted: tuple[int, int]) -> str:
    return f"the mask is {got[0]} x {got[1]}, its image {wanted[0]} x {wanted[1]} pixels"
