"""Converts detection records to COCO's dictionary, and computes COCO's twelve figures.

    truth = records_to_coco("data/coco", "test")
    evaluate_boxes(truth, results)["ap"]

pycocotools computes the figures, so they are comparable with published ones.
"""

import contextlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from core.image_header import check_image
from trainers.data import features
from trainers.data.features import DatasetInfo
from trainers.data.reader import raw_examples

#: COCO's figures in the order of pycocotools (cocodataset.org, "Detection Evaluation"): precision,
#: then recall at 1, 10 and 100 detections per image; small is under 32 x 32 pixels, large over
#: 96 x 96.
FIGURES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"),
)
_IOU_TYPES = {"bbox": "bbox", "segm": "segmentation"}


def records_to_coco(directory: Path | str, split: str | None = None) -> dict[str, Any]:
    """The images and objects of a detection data set in COCO's JSON format.

    Args:
      directory: the folder of `dataset.json` and the records.
      split: a split of the data set; None for all.

    Returns:
      A dictionary of `images`, `annotations` and `categories` with JSON values. Boxes are x, y,
      width, height in pixels, rounded to the precision of float32 fractions: four decimals up to
      838 pixels, three up to 8,388. Objects with masks have a `segmentation` in compressed RLE. Ids
      are the source's if they are unique and, for objects, not 0; otherwise all are numbered from
      1. A class without a category id has its index, from 0.

    Raises:
      DatasetError: the folder is not a data set or lacks the split.
      DataError: a shard is damaged.
      ValueError: it is not a detection data set, the lists of a record differ in length, or a label
        is out of range.
    """
    info = DatasetInfo.load(Path(directory))
    if info.task != features.DETECTION:
        raise ValueError(f"{directory} is a {info.task} data set; COCO's format is for detection")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    filled = [name for name, about in info.splits.items() if about.examples]
    for one in [split] if split else filled:
        for serialized in raw_examples(directory, one):
            values = tf.train.Example.FromString(serialized).features.feature
            made = _image(values)
            # Indices of images for now, because ids are assigned at the end.
            found = _annotations(values, made, info)
            annotations += ({**annotation, "image_id": len(images)} for annotation in found)
            images.append(made)
    _number(images)
    _number(annotations, forbidden=0)
    for annotation in annotations:
        annotation["image_id"] = images[annotation["image_id"]]["id"]
    names = zip(_category_ids(info), info.classes, strict=True)
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": ident, "name": name} for ident, name in names],
    }


def evaluate_boxes(
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    iou_type: str = "bbox",
) -> dict[str, float]:
    """COCO's twelve figures for detections.

    Args:
      ground_truth: COCO's dictionary, from `records_to_coco`; it is not modified.
      results: COCO's result format: `image_id`, `category_id`, `score`, and `bbox` (x, y, width,
        height in pixels) or `segmentation` (RLE); may be empty.
      iou_type: `bbox` compares boxes, `segm` masks.

    Returns:
      Each of `FIGURES` in [0, 1], or -1 without objects for it.

    Raises:
      ValueError: an unknown `iou_type`, a missing field, or a result for an unknown image.
    """
    if iou_type not in _IOU_TYPES:
        raise ValueError(f"`iou_type` must be one of {', '.join(_IOU_TYPES)}, got {iou_type!r}")
    _check(ground_truth["annotations"], _IOU_TYPES[iou_type], "annotation")
    _check(results, _IOU_TYPES[iou_type], "result")
    known = {one["id"] for one in ground_truth["images"]}
    foreign = sorted({one["image_id"] for one in results} - known)
    if foreign:
        raise ValueError(
            f"{len(foreign)} images of `results` are not in `ground_truth`, the first is "
            f"{foreign[0]}; evaluate on the images that were predicted"
        )
    from pycocotools import cocoeval

    coco_eval: Any = cocoeval.COCOeval
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _coco(ground_truth, ground_truth["annotations"])
        found = _coco(ground_truth, [])
        if results:
            found = truth.loadRes([dict(one) for one in results])
        evaluation = coco_eval(truth, found, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: float(value) for name, value in zip(FIGURES, evaluation.stats, strict=True)}


def _coco(ground_truth: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]) -> Any:
    from pycocotools.coco import COCO

    made: Any = COCO()
    made.dataset = {
        "images": list(ground_truth["images"]),
        "categories": list(ground_truth["categories"]),
        # COCOeval modifies annotations, and treats id 0 as a detection without a match.
        "annotations": [{**one, "id": number} for number, one in enumerate(annotations, start=1)],
    }
    made.createIndex()
    return made


def _check(entries: Sequence[Mapping[str, Any]], field: str, what: str) -> None:
    for one in entries:
        if field not in one:
            raise ValueError(
                f"{what} of image {one.get('image_id')} has no {field!r}, only "
                f"{', '.join(map(str, one))}; add it, or choose another `iou_type`"
            )


def _image(values: Any) -> dict[str, Any]:
    name = _texts(values, features.FILENAME)
    source = _texts(values, features.SOURCE_ID)
    height, width = (values[key].int64_list.value for key in (features.HEIGHT, features.WIDTH))
    if not (height and width):
        header = check_image(values[features.IMAGE].bytes_list.value[0])
        height, width = [header.height], [header.width]
    return {
        "id": int(source[0]) if source and source[0].isdecimal() else None,
        "file_name": name[0] if name else "",
        "height": int(height[0]),
        "width": int(width[0]),
    }


def _category_ids(info: DatasetInfo) -> Sequence[int]:
    return info.category_ids or range(info.num_classes)


def _annotations(
    values: Any, image: Mapping[str, Any], info: DatasetInfo
) -> Iterator[dict[str, Any]]:
    """The objects of a record, without the image id."""
    ids = _category_ids(info)
    keys = (features.XMIN, features.YMIN, features.XMAX, features.YMAX)
    sides = np.array([values[key].float_list.value for key in keys], np.float64)
    width, height = image["width"], image["height"]
    boxes = sides.T * np.array([width, height, width, height])
    labels = values[features.OBJECT_LABEL].int64_list.value
    if len(labels) != len(boxes):
        raise ValueError(f"{image['file_name']} has {len(boxes)} boxes and {len(labels)} labels")
    columns = zip(
        _ints(values, features.OBJECT_ID, len(boxes), None),
        _ints(values, features.IS_CROWD, len(boxes), 0),
        values[features.AREA].float_list.value or (boxes[:, 2:] - boxes[:, :2]).prod(1).tolist(),
        values[features.MASK].bytes_list.value or [None] * len(boxes),
        strict=True,
    )
    for label, box, (ident, crowd, area, mask) in zip(labels, boxes, columns, strict=True):
        index = label - info.label_offset
        if not 0 <= index < len(ids):
            raise ValueError(
                f"{image['file_name']} has label {label}, which is not one of the {len(ids)} "
                "classes"
            )
        made = {
            "id": ident,
            "category_id": ids[index],
            "bbox": _xywh(box.tolist(), image),
            "area": area,
            "iscrowd": crowd,
        }
        if mask is not None:
            made["segmentation"] = _encode(mask)
        yield made


def _xywh(box: list[float], image: Mapping[str, Any]) -> list[float]:
    """A box in pixels, rounded to the precision of float32 fractions.

    Otherwise rounding errors decide if an overlap equals one of COCO's thresholds, which is common
    for boxes with two decimals: 0.05 points of AP on COCO's evaluation example.
    """
    xmin, ymin, xmax, ymax = box
    across, down = _decimals(image["width"]), _decimals(image["height"])
    return [
        round(xmin, across),
        round(ymin, down),
        round(xmax - xmin, across),
        round(ymax - ymin, down),
    ]


def _decimals(side: int) -> int:
    """Number of exact decimals of a difference of two fractions of a side in pixels."""
    # The error of each is up to 2**-25; half of the last digit must exceed both errors.
    return int(-math.log10(side * 2**-23))


def _encode(png: bytes) -> dict[str, Any]:
    from pycocotools import mask as coco_mask

    pixels = tf.io.decode_png(png, channels=1).numpy()[..., 0]
    rle: Any = coco_mask.encode(np.asfortranarray(pixels != 0, np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}


def _texts(values: Any, key: str) -> list[str]:
    return [one.decode("utf-8", "surrogateescape") for one in values[key].bytes_list.value]


def _ints(values: Any, key: str, count: int, default: int | None) -> Sequence[int | None]:
    return values[key].int64_list.value or [default] * count


def _number(entries: list[dict[str, Any]], *, forbidden: int | None = None) -> None:
    """Numbers all entries from 1, unless each has a unique id."""
    found = {one["id"] for one in entries}
    if len(found) < len(entries) or None in found or forbidden in found:
        for number, one in enumerate(entries, start=1):
            one["id"] = number
