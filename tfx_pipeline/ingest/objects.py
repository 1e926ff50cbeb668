"""Labeled objects: validation against the image, and their features in a record.

Masks remain polygons or run lengths until a record is written; `tfx_pipeline.ingest.masks`
validates and renders them.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from tfx_pipeline.ingest.findings import IngestFinding
from tfx_pipeline.ingest.masks import (
    encode_gray_png,
    mask_area,
    mask_finding,
    polygon_fault,
    render,
)
from tfx_pipeline.ingest.source import Objects, Values
from trainers.data import features

# Tolerance in pixels for rounding: a box that exceeds the edge by less is not clipped.
_ROUNDING_PX = 0.01
# Normalized coordinates above this are probably pixels; a box half outside reaches 1.5.
_MAX_FRACTION = 2.0
# A box within the first pixel is plausible only in images that are hardly larger.
_FRACTION_SIDE = 8
_BANDS = ((1, "none"), (2, "one"), (5, "few"), (10, "some"))


@dataclass(frozen=True)
class _One:
    """One object; `box` in pixels."""

    box: tuple[float, float, float, float]
    label: int
    id: int
    area: float
    crowd: int
    segmentation: Any
    flags: dict[str, int]


def clean(
    objects: Objects, *, height: int, width: int, name: str, num_classes: int
) -> tuple[Objects, tuple[IngestFinding, ...]]:
    """The valid objects, in pixels, and findings about the others.

    Boxes are clipped to the image. An object is dropped if its box is outside, empty (also after
    rounding to float32 fractions) or invalid, if its class does not exist, or if its mask cannot be
    read or has another size. No mask is rendered.

    Args:
      objects: from the source. `ids`, `areas`, `is_crowd` and `segmentations` may be empty.
      height: of the image, in pixels as stored.
      width: likewise.
      name: of the image, for findings.
      num_classes: valid classes are in [0, num_classes); -1 is an undeclared class.

    Returns:
      The valid objects in order, with `normalized` False, and findings of the kinds `box_clipped`,
      `box_outside`, `box_empty`, `box_invalid`, `mask_size`, `mask_invalid` and `category_unknown`,
      or `no_objects` if `objects` is empty.

    Raises:
      ValueError: the tuples of `objects` differ in length.
    """
    if not objects.boxes:
        return Objects(), (IngestFinding("no_objects", name),)
    kept: list[_One] = []
    findings: list[IngestFinding] = []
    for one in _each(objects, height, width):
        found = _label_finding(one, num_classes)
        found = found or _unit_finding(one, height, width, normalized=objects.normalized)
        found = found or _box_finding(one, height, width)
        found = found or mask_finding(one.segmentation, height=height, width=width)
        if found is None:
            one, found = _clipped(one, height, width)
            kept.append(one)
        if found is not None:
            findings.append(IngestFinding(found[0], name, f"annotation {one.id}: {found[1]}"))
    return _as_objects(kept, tuple(objects.flags)), tuple(findings)


def object_features(
    objects: Objects, *, height: int, width: int, classes: Sequence[str], label_offset: int
) -> dict[str, Values]:
    """The features of cleaned objects.

    Args:
      objects: from `clean`, in pixels.
      height: of the image, in pixels as stored.
      width: likewise.
      classes: names by class.
      label_offset: label of class 0.

    Returns:
      Every key of `features.OBJECT_KEYS` and `objects.flags`, with one value per object. Also
      `features.MASK` if there are objects and all have a segmentation; with gaps, masks would be
      assigned to the wrong objects. A missing area is computed from the mask, otherwise from the
      box.

    Raises:
      ValueError: the boxes are fractions.
    """
    if objects.normalized:
        raise ValueError("object_features takes boxes in pixels; pass the objects of `clean`")
    every = list(_each(objects, height, width))
    made: dict[str, Values] = {
        features.XMIN: [one.box[0] / width for one in every],
        features.XMAX: [one.box[2] / width for one in every],
        features.YMIN: [one.box[1] / height for one in every],
        features.YMAX: [one.box[3] / height for one in every],
        features.OBJECT_LABEL: [one.label + label_offset for one in every],
        features.OBJECT_TEXT: [classes[one.label] for one in every],
        features.IS_CROWD: [one.crowd for one in every],
        features.AREA: [_area(one, height, width) for one in every],
        features.OBJECT_ID: [one.id for one in every],
    }
    for key in objects.flags:
        made[key] = [one.flags[key] for one in every]
    if every and all(one.segmentation for one in every):
        masks = (render(one.segmentation, height=height, width=width) for one in every)
        made[features.MASK] = [encode_gray_png(mask) for mask in masks]
    return made


def count_band(count: int) -> str:
    """The value of `slice/objects`: none, one, few, some or many."""
    return next((name for limit, name in _BANDS if count < limit), "many")


def objects_to_json(objects: Objects) -> str:
    """`objects` as one line of JSON for `objects_from_json`; NumPy values become plain numbers."""
    return json.dumps(asdict(objects), default=_plain, separators=(",", ":"))


def objects_from_json(text: str) -> Objects:
    """The inverse of `objects_to_json`."""
    raw = json.loads(text)
    raw["boxes"] = tuple(tuple(box) for box in raw["boxes"])
    for key in ("classes", "ids", "areas", "is_crowd", "segmentations"):
        raw[key] = tuple(raw[key])
    raw["flags"] = {key: tuple(values) for key, values in raw["flags"].items()}
    return Objects(**raw)


def _each(objects: Objects, height: int, width: int) -> Iterator[_One]:
    count = len(objects.boxes)
    columns = (
        _column("classes", objects.classes, count, -1),
        _column("ids", objects.ids or range(count), count, 0),
        _column("areas", objects.areas, count, -1.0),
        _column("is_crowd", objects.is_crowd, count, 0),
        _column("segmentations", objects.segmentations, count, None),
    )
    for key, values in objects.flags.items():
        _column(key, values, count, 0)
    scale = (width, height) if objects.normalized else (1, 1)
    for index, (box, *rest) in enumerate(zip(objects.boxes, *columns, strict=True)):
        label, ident, area, crowd, segmentation = rest
        if objects.normalized:
            box = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
            segmentation = _scaled(segmentation, scale)
        flags = {key: values[index] for key, values in objects.flags.items()}
        yield _One(box, label, ident, area, crowd, segmentation, flags)


def _column(what: str, values: Sequence[Any], count: int, default: Any) -> Sequence[Any]:
    if values and len(values) != count:
        raise ValueError(
            f"{count} boxes and {len(values)} {what}; pass one per box, or none at all"
        )
    return values or [default] * count


def _scaled(segmentation: Any, scale: tuple[int, int]) -> Any:
    """Normalized polygons in pixels; other values are unchanged and validated later."""
    if not isinstance(segmentation, (list, tuple)):
        return segmentation
    if any(polygon_fault(polygon) for polygon in segmentation):
        return segmentation
    return [[value * scale[i % 2] for i, value in enumerate(one)] for one in segmentation]


def _as_objects(every: list[_One], flags: tuple[str, ...]) -> Objects:
    return Objects(
        boxes=tuple(one.box for one in every),
        classes=tuple(one.label for one in every),
        ids=tuple(one.id for one in every),
        areas=tuple(one.area for one in every),
        is_crowd=tuple(one.crowd for one in every),
        segmentations=tuple(one.segmentation for one in every),
        flags={key: tuple(one.flags[key] for one in every) for key in flags},
    )


def without_repeats(objects: Objects, name: str) -> tuple[Objects, tuple[IngestFinding, ...]]:
    """The distinct objects, and a finding for each repetition of an earlier object.

    Args:
      objects: from the source, with `ids`.
      name: of the image, for findings.
    """
    first: dict[str, int] = {}
    kept, findings = [], []
    shapes = objects.segmentations or (None,) * len(objects.boxes)
    every = zip(objects.classes, objects.boxes, shapes, strict=True)
    for index, one in enumerate(every):
        earlier = first.setdefault(json.dumps(one, default=_plain), index)
        if earlier == index:
            kept.append(index)
        else:
            detail = f"annotation {objects.ids[index]} is equal to {objects.ids[earlier]}"
            findings.append(IngestFinding("object_repeated", name, detail))
    return _chosen(objects, kept), tuple(findings)


def without_unknown(objects: Objects, name: str) -> tuple[Objects, tuple[IngestFinding, ...]]:
    """The objects of the selected classes, and a finding for each other object.

    Args:
      objects: with `ids`; the class is -1 if it is not selected.
      name: of the image, for findings.
    """
    kept = [index for index, one in enumerate(objects.classes) if one >= 0]
    findings = [
        IngestFinding("class_left_out", name, f"annotation {objects.ids[index]}")
        for index, one in enumerate(objects.classes)
        if one < 0
    ]
    return _chosen(objects, kept), tuple(findings)


def _chosen(objects: Objects, kept: Sequence[int]) -> Objects:
    """The objects at the indices `kept`."""

    def chosen(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(values[index] for index in kept) if values else ()

    return replace(
        objects,
        boxes=chosen(objects.boxes),
        classes=chosen(objects.classes),
        ids=chosen(objects.ids),
        areas=chosen(objects.areas),
        is_crowd=chosen(objects.is_crowd),
        segmentations=chosen(objects.segmentations),
        flags={key: chosen(values) for key, values in objects.flags.items()},
    )


def _label_finding(one: _One, num_classes: int) -> tuple[str, str] | None:
    if 0 <= one.label < num_classes:
        return None
    return "category_unknown", f"its category is not among the {num_classes} declared ones"


def _box_finding(one: _One, height: int, width: int) -> tuple[str, str] | None:
    """Kind and detail of the reason to drop a box; None if it is valid."""
    xmin, ymin, xmax, ymax = one.box
    what = f"box {_box_text(one.box)}"
    if not all(math.isfinite(value) for value in one.box):
        return "box_invalid", f"{what} has a value that is not a finite number"
    if xmax < xmin or ymax < ymin:
        return "box_invalid", f"{what} has a negative side"
    if xmax == xmin or ymax == ymin:
        return "box_empty", f"{what} has no area"
    if xmax <= 0 or ymax <= 0 or xmin >= width or ymin >= height:
        return "box_outside", f"{what} in an image {width} wide and {height} high"
    inside = _clip(one.box, height, width)
    if _same(inside[0] / width, inside[2] / width) or _same(inside[1] / height, inside[3] / height):
        return "box_empty", f"{what} has no area as float32"
    return None


def _unit_finding(
    one: _One, height: int, width: int, *, normalized: bool
) -> tuple[str, str] | None:
    """Kind and detail for a box in the wrong unit: pixels instead of fractions, or vice versa."""
    scale = (width, height) * 2 if normalized else (1, 1, 1, 1)
    box = tuple(value / unit for value, unit in zip(one.box, scale, strict=True))
    if normalized and max(map(abs, box)) > _MAX_FRACTION:
        return "box_outside", f"box {_box_text(box)} looks like pixels; expected fractions in 0..1"
    if not normalized and max(map(abs, box)) <= 1 and min(height, width) >= _FRACTION_SIDE:
        return "box_invalid", f"box {_box_text(box)} looks like fractions; expected pixels"
    return None


def _same(a: float, b: float) -> bool:
    return bool(np.float32(a) == np.float32(b))


def _clip(
    box: tuple[float, float, float, float], height: int, width: int
) -> tuple[float, float, float, float]:
    xmin, ymin, xmax, ymax = box
    return max(xmin, 0.0), max(ymin, 0.0), min(xmax, float(width)), min(ymax, float(height))


def _clipped(one: _One, height: int, width: int) -> tuple[_One, tuple[str, str] | None]:
    inside = _clip(one.box, height, width)
    made = _One(
        box=inside,
        label=one.label,
        id=one.id,
        area=one.area if math.isfinite(one.area) and one.area >= 0 else -1.0,
        crowd=one.crowd,
        segmentation=one.segmentation or None,
        flags=one.flags,
    )
    if max(abs(a - b) for a, b in zip(one.box, inside, strict=True)) < _ROUNDING_PX:
        return made, None
    detail = f"box {_box_text(one.box)} to {_box_text(inside)}"
    return made, ("box_clipped", detail)


def _box_text(box: tuple[float, ...]) -> str:
    return "xmin {:g}, ymin {:g}, xmax {:g}, ymax {:g}".format(*box)


def _area(one: _One, height: int, width: int) -> float:
    if one.area >= 0:
        return float(one.area)
    if one.segmentation:
        return mask_area(one.segmentation, height=height, width=width)
    return (one.box[2] - one.box[0]) * (one.box[3] - one.box[1])


def _plain(value: Any) -> Any:
    """NumPy values and bytes as JSON values."""
    return value.decode("ascii") if isinstance(value, bytes) else value.tolist()
