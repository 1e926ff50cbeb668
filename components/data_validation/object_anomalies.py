"""What can be wrong with the boxes and masks of one detection record."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from components.data_validation.anomaly import ValidatorSettings
from trainers.data import features
from trainers.data.features import DatasetInfo

#: (kind, detail) of one anomaly.
Found = tuple[str, str]

# In fractions of a side: what float32 rounding of a box that ends at the edge may exceed it by.
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
# Foreign records may lack these lists altogether.
_REQUIRED = (*_BOX_KEYS, features.OBJECT_LABEL)


def values(feature: Any, key: str, kind: str) -> Sequence[Any]:
    """The values of one feature of a `tf.train.Example`; empty where it is absent."""
    return getattr(feature[key], kind).value if key in feature else ()


def check_objects(
    feature: Any, size: tuple[int, int], info: DatasetInfo, settings: ValidatorSettings
) -> list[Found]:
    """Everything wrong with a detection record's objects.

    Args:
      feature: `example.features.feature`.
      size: (height, width) of the decoded image in pixels.
      info: the data set.
      settings: for `box_mask_px`.

    Returns:
      (kind, detail) of each anomaly; with lists of unequal length that alone, since nothing tells
      which box belongs to which mask.
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
    """What is wrong with semantic and panoptic maps: they do not decode, or have another size."""
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
    """Names the lengths where lists that are there differ; empty when they agree."""
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
    if apart.max() <= allowed_px:  # A comparison with NaN is false, and `box_outside` tells of it.
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
