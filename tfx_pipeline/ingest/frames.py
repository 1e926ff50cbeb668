"""Converts boxes and masks between stored pixels and displayed pixels, which EXIF may rotate.

YOLO labels refer to the displayed image, TensorFlow Datasets labels to the stored one. COCO and VOC
labels may refer to either; for images rotated by 90 degrees, the size in the labels decides. The
pixels of a record are the stored ones, or with `--exif upright` the displayed ones.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from tfx_pipeline.ingest.findings import IngestFinding
from tfx_pipeline.ingest.images import ImageFacts
from tfx_pipeline.ingest.masks import encode_gray_png, encode_rle, render
from tfx_pipeline.ingest.objects import clean
from tfx_pipeline.ingest.source import IngestError, Item, Objects, Values
from trainers.data import features

STORED, SHOWN = "stored", "shown"

_UPRIGHT = 1
# EXIF orientation -> its inverse.
_INVERSE = {6: 8, 8: 6}
_PIXEL_LABELS = (features.SEMANTIC, features.PANOPTIC_CATEGORY, features.PANOPTIC_INSTANCE)


class FrameError(ValueError):
    """It is unknown whether labels refer to the stored or to the displayed pixels."""


def frame_of(item: Item, facts: ImageFacts) -> str:
    """`stored` or `shown`: the pixels that the labels of an item refer to.

    Args:
      item: with its labels.
      facts: of its image.

    Raises:
      FrameError: the image is rotated, and the source and the declared size do not decide it.
    """
    frame = item.objects.frame if item.objects is not None else STORED
    if item.objects is not None and not item.objects.boxes and not _has_pixel_labels(item):
        return STORED  # A negative has no labels to rotate.
    if facts.source_orientation == _UPRIGHT or frame:
        return frame or STORED
    declared, stored = declared_size(item), _stored_size(facts)
    if declared and stored[0] != stored[1] and facts.source_orientation >= 5:
        if declared == stored:
            return STORED
        if declared == stored[::-1]:
            return SHOWN
    if facts.orientation == _UPRIGHT:
        return SHOWN  # With `--exif upright`, labels are for the displayed image.
    raise FrameError(
        f"EXIF orientation {facts.source_orientation}: the labels may be for the image as stored "
        "or as displayed by viewers; ingest with `--exif upright` if they are for the displayed "
        "image, or with boxes=stored"
    )


def checked_frame(boxes: str) -> str:
    """The checked value of the option `boxes`.

    Raises:
      IngestError: it is not empty, `stored` or `shown`.
    """
    if boxes not in ("", STORED, SHOWN):
        raise IngestError(f"boxes must be {STORED} or {SHOWN}, got {boxes!r}")
    return boxes


def frame_size(facts: ImageFacts, frame: str) -> tuple[int, int]:
    """(height, width) of the pixels that labels refer to."""
    height, width = _stored_size(facts)
    quarter = facts.source_orientation >= 5 and frame == SHOWN
    return (width, height) if quarter else (height, width)


def declared_size(item: Item) -> tuple[int, int] | None:
    """(height, width) that the labels declare; None if they declare none."""
    height, width = (item.attributes.get(key) for key in (features.HEIGHT, features.WIDTH))
    return (int(height[0]), int(width[0])) if height and width else None


def turned_objects(objects: Objects, facts: ImageFacts, frame: str) -> Objects:
    """Objects in the coordinates of the record's pixels.

    Args:
      objects: cleaned, in pixels of `frame`.
      facts: of the image.
      frame: the pixels that they refer to.
    """
    orientation = _between(facts, frame)
    if orientation == _UPRIGHT:
        return objects
    size = frame_size(facts, frame)
    boxes = (_turned_polygon(box, size, orientation) for box in objects.boxes)
    return replace(
        objects,
        boxes=tuple(
            (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)) for x0, y0, x1, y1 in boxes
        ),
        segmentations=tuple(_turned_mask(one, size, orientation) for one in objects.segmentations),
    )


def turned_attributes(
    attributes: Mapping[str, Values], facts: ImageFacts, frame: str
) -> dict[str, Values]:
    """Pixel labels and normalized boxes, rotated to the record's pixels."""
    orientation, made = _between(facts, frame), dict(attributes)
    if orientation == _UPRIGHT:
        return made
    for key in _PIXEL_LABELS:
        made |= {key: [_turned_png(one, orientation) for one in made[key]]} if key in made else {}
    sides = (features.XMIN, features.YMIN, features.XMAX, features.YMAX)
    if all(key in made for key in sides):
        boxes = zip(*(made[key] for key in sides), strict=True)
        turned = [_turned_polygon(box, (1, 1), orientation) for box in boxes]
        for at, key in enumerate(sides):
            pick = min if at < 2 else max
            made[key] = [float(pick(box[at % 2], box[at % 2 + 2])) for box in turned]
    return made


def _has_pixel_labels(item: Item) -> bool:
    return any(key in item.attributes for key in _PIXEL_LABELS)


def _between(facts: ImageFacts, frame: str) -> int:
    """The orientation that maps labels from their frame to the record's pixels; 1 for identity."""
    orientation = facts.source_orientation
    record = STORED if facts.orientation == orientation else SHOWN
    if record == frame:
        return _UPRIGHT
    return orientation if frame == STORED else _INVERSE.get(orientation, orientation)


def _stored_size(facts: ImageFacts) -> tuple[int, int]:
    turned = facts.orientation != facts.source_orientation and facts.source_orientation >= 5
    return (facts.width, facts.height) if turned else (facts.height, facts.width)


def _turned_polygon(values: Any, size: tuple[int, int], orientation: int) -> tuple[float, ...]:
    """x0, y0, x1, y1, ... after an image of `size` is rotated by an orientation."""
    height, width = size
    turned: list[float] = []
    for x, y in zip(values[::2], values[1::2], strict=True):
        left, top = width - x, height - y
        turned += {
            1: (x, y),
            2: (left, y),
            3: (left, top),
            4: (x, top),
            5: (y, x),
            6: (top, x),
            7: (top, left),
            8: (y, left),
        }[orientation]
    return tuple(turned)


def _turned_mask(segmentation: Any, size: tuple[int, int], orientation: int) -> Any:
    if not segmentation:
        return segmentation
    if isinstance(segmentation, dict):
        mask = render(segmentation, height=size[0], width=size[1])
        return encode_rle(turned_pixels(mask, orientation))
    return [list(_turned_polygon(one, size, orientation)) for one in segmentation]


def _turned_png(value: Any, orientation: int) -> bytes:
    with Image.open(io.BytesIO(value)) as image:
        pixels = np.asarray(image)
    deep = np.uint16 if pixels.dtype != np.uint8 else np.uint8
    return encode_gray_png(turned_pixels(pixels.astype(deep), orientation))


def turned_pixels(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, ...) pixels, rotated by an EXIF orientation."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


@dataclass(frozen=True)
class RecordLabels:
    """The labels of an item in the coordinates of its record's pixels.

    Attributes:
      objects: the valid objects; None for classification.
      attributes: of the item; pixel labels are rotated.
      findings: the reasons why other objects were dropped or changed.
    """

    objects: Objects | None
    attributes: dict[str, Values]
    findings: tuple[IngestFinding, ...] = ()


def record_labels(item: Item, facts: ImageFacts, *, num_classes: int) -> RecordLabels:
    """Cleans the labels of an item and converts them to the record's pixels.

    Args:
      item: with its labels.
      facts: of its image.
      num_classes: of the source.

    Raises:
      FrameError: see `frame_of`.
    """
    frame = frame_of(item, facts)
    attributes = turned_attributes(item.attributes, facts, frame)
    if item.objects is None:
        return RecordLabels(None, attributes)
    height, width = frame_size(facts, frame)
    kept, findings = clean(
        item.objects, height=height, width=width, name=item.name, num_classes=num_classes
    )
    return RecordLabels(turned_objects(kept, facts, frame), attributes, findings)
