"""Pixel labels: converts panoptic and semantic PNGs to the features of a record."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from core.image_header import check_image
from tfx_pipeline.ingest.masks import encode_gray_png
from tfx_pipeline.ingest.source import Values
from trainers.data import features

_VOID = 255


class PixelLabelError(ValueError):
    """A PNG of labels that cannot be used; `kind` is the kind of the finding."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def panoptic_features(
    data: bytes,
    segments: Sequence[Mapping[str, Any]],
    *,
    labels: Mapping[int, int],
    size: tuple[int, int] | None,
) -> dict[str, Values]:
    """The semantic, category and instance masks of a panoptic PNG.

    Args:
      data: the PNG; the segment of a pixel is R + 256 G + 65536 B, and 0 means no segment (defined
        at cocodataset.org).
      segments: `segments_info`: the `id` and `category_id` of each.
      labels: category id -> label in [1, 255].
      size: (height, width) of the image in pixels, if known.

    Returns:
      `features.SEMANTIC` and `PANOPTIC_CATEGORY`, the label of each pixel with 0 for none, and
      `PANOPTIC_INSTANCE`, the index of the segment in `segments` from 1.

    Raises:
      PixelLabelError: the PNG is invalid or has another size, a segment is not listed, or a
        category does not exist.
    """
    colors = _pixels(data, ("RGB", "RGBA"), size)[..., :3].astype(np.uint32)
    found, where = np.unique(colors @ np.array([1, 256, 65536], np.uint32), return_inverse=True)
    numbers = {one.get("id"): number for number, one in enumerate(segments, start=1)}
    category, instance = np.zeros(len(found), np.uint8), np.zeros(len(found), np.uint16)
    for index, segment in enumerate(found.tolist()):
        if not segment:
            continue
        if segment not in numbers:
            raise PixelLabelError("mask_invalid", f"panoptic: segment {segment} is not listed")
        number = numbers[segment]
        label = labels.get(segments[number - 1].get("category_id", -1))
        if label is None:
            what = f"panoptic: segment {segment} has a category that does not exist"
            raise PixelLabelError("category_unknown", what)
        category[index], instance[index] = label, number
    shape = colors.shape[:2]
    by_category = encode_gray_png(category[where].reshape(shape))
    return {
        features.SEMANTIC: [by_category],
        features.SEMANTIC_FORMAT: ["PNG"],
        features.PANOPTIC_CATEGORY: [by_category],
        features.PANOPTIC_INSTANCE: [encode_gray_png(instance[where].reshape(shape))],
    }


def semantic_features(
    data: bytes, *, size: tuple[int, int] | None, from_zero: bool
) -> dict[str, Values]:
    """The semantic mask of a PNG of labels, gray or with a palette.

    Args:
      data: the PNG.
      size: (height, width) of the image in pixels, if known.
      from_zero: labels start at 0, as in COCO's stuffthingmaps, and are increased by 1. Otherwise 0
        is void, as in Pascal VOC. In both, 255 is void and becomes 0.

    Raises:
      PixelLabelError: the PNG is invalid or has another size.
    """
    stored = _pixels(data, ("L", "P"), size)
    # 255 + 1 is 0 in uint8.
    shifted = stored + np.uint8(1) if from_zero else np.where(stored == _VOID, 0, stored)
    encoded = encode_gray_png(shifted.astype(np.uint8))
    return {features.SEMANTIC: [encoded], features.SEMANTIC_FORMAT: ["PNG"]}


def _pixels(data: bytes, modes: tuple[str, ...], size: tuple[int, int] | None) -> np.ndarray:
    from PIL import Image

    try:
        header = check_image(data)
        with Image.open(io.BytesIO(data)) as image:
            mode, pixels = image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise PixelLabelError("mask_invalid", f"PNG of labels: {error}") from error
    if mode not in modes:
        allowed = " or ".join(modes)
        raise PixelLabelError("mask_invalid", f"PNG of labels has mode {mode}, expected {allowed}")
    if size is not None and (header.height, header.width) != size:
        what = f"PNG of labels is {header.height} x {header.width}, the image {size[0]} x {size[1]}"
        raise PixelLabelError("mask_size", what)
    return pixels
