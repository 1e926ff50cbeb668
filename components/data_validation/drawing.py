"""Draws the boxes, class names and masks of images, for contact sheets and galleries."""

from collections.abc import Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw, ImageFont

from components.data_validation.record_checks import label_text, values
from core.image_header import ImageError
from trainers.data import features
from trainers.data.decode import load_image
from trainers.data.features import DatasetInfo

#: Colors that distinguish classes on most images (Tableau 10 without gray).
PALETTE = (
    *((78, 121, 167), (242, 142, 43), (225, 87, 89), (118, 183, 178), (89, 161, 79)),
    *((237, 201, 72), (176, 122, 161), (255, 157, 167), (156, 117, 95)),
)

#: (left, top, right, bottom) in pixels.
Box: TypeAlias = tuple[float, float, float, float]

_MASK_OPACITY = 0.45
_NAME_PX = 11
_CROWD_STEP = 7
_INK, _PAPER = (255, 255, 255), (20, 24, 31)


def draw_record(
    example: tf.train.Example, info: DatasetInfo, *, side: int, names: bool = True
) -> Image.Image:
    """A record's image with its objects, at most `side` pixels high and wide.

    Small images are enlarged without smoothing, so that each pixel of a scan is visible. A crowd
    has a dashed box and a `*` after its name; masks are translucent. Where names would overlap,
    only the larger objects have one.

    Args:
      example: classification or detection.
      info: the data set.
      side: in pixels.
      names: write the class beside each box.

    Raises:
      ImageError: the image does not decode.
    """
    feature = example.features.feature
    encoded = values(feature, features.IMAGE, "bytes_list")
    if len(encoded) != 1:
        raise ImageError(f"the record has no {features.IMAGE!r}")
    image = Image.fromarray(load_image(encoded[0]))
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    how = Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST
    image = image.resize(size, how)
    if info.task == features.DETECTION:
        image = _draw_objects(image, feature, info, names)
    return image


def _draw_objects(image: Image.Image, feature: Any, info: DatasetInfo, names: bool) -> Image.Image:
    keys = (features.YMIN, features.XMIN, features.YMAX, features.XMAX)
    boxes = list(zip(*(values(feature, key, "float_list") for key in keys), strict=False))
    labels = values(feature, features.OBJECT_LABEL, "int64_list")
    crowd = values(feature, features.IS_CROWD, "int64_list")
    of_class = _colors(labels)
    colors = [of_class[label] for label in labels]
    image = _blend_masks(image, values(feature, features.MASK, "bytes_list"), colors)
    draw = ImageDraw.Draw(image)
    objects: list[tuple[Box, str, tuple[int, int, int]]] = []
    for index, (box, label) in enumerate(zip(boxes, labels, strict=False)):
        group = index < len(crowd) and bool(crowd[index])
        pixels, color = _pixels(box, image.size), colors[index]
        _outline(draw, pixels, color, dashed=group)
        objects.append((pixels, label_text((label,), info) + ("*" if group else ""), color))
    if names:
        # After all boxes, so that none crosses a name; the largest objects first.
        _write_names(draw, sorted(objects, key=lambda one: -_area(one[0])), image.size)
    return image


def _colors(labels: Sequence[int]) -> dict[int, tuple[int, int, int]]:
    """A color for each class, the same in all images unless two classes of an image collide."""
    found: dict[int, tuple[int, int, int]] = {}
    for label in sorted(set(labels)):
        preferred = [PALETTE[(label + step) % len(PALETTE)] for step in range(len(PALETTE))]
        found[label] = next((one for one in preferred if one not in found.values()), preferred[0])
    return found


def _write_names(
    draw: ImageDraw.ImageDraw,
    objects: Sequence[tuple[Box, str, tuple[int, int, int]]],
    canvas: tuple[int, int],
) -> None:
    taken: list[Box] = []
    for box, text, color in objects:
        plate = _plate(draw, box, text, canvas, taken)
        if plate is not None:
            taken.append(plate)
            _write(draw, plate, text, color)


def _area(box: Box) -> float:
    left, top, right, bottom = box
    return (right - left) * (bottom - top)


def _pixels(box: Sequence[float], size: tuple[int, int]) -> Box:
    """The box in pixels, clipped to the image."""
    ymin, xmin, ymax, xmax = np.clip(np.nan_to_num(np.array(box)), 0, 1)
    width, height = size[0] - 1, size[1] - 1
    left, right = sorted((float(xmin) * width, float(xmax) * width))
    top, bottom = sorted((float(ymin) * height, float(ymax) * height))
    return left, top, right, bottom


def _blend_masks(
    image: Image.Image, masks: Sequence[bytes], colors: Sequence[tuple[int, int, int]]
) -> Image.Image:
    for encoded, color in zip(masks, colors, strict=False):
        try:
            decoded = tf.io.decode_png(encoded, channels=1, dtype=tf.uint16).numpy()[..., 0]
        except (tf.errors.OpError, UnicodeDecodeError):
            continue
        opacity = (decoded > 0) * np.uint8(255 * _MASK_OPACITY)
        mask = Image.fromarray(opacity.astype(np.uint8)).resize(image.size)
        image.paste(Image.new("RGB", image.size, color), (0, 0), mask)
    return image


def _outline(
    draw: ImageDraw.ImageDraw,
    box: Box,
    color: tuple[int, int, int],
    *,
    dashed: bool,
) -> None:
    left, top, right, bottom = box
    if not dashed:
        draw.rectangle(box, outline=color, width=2)
        return
    for x in np.arange(left, right, 2 * _CROWD_STEP):
        for y in (top, bottom):
            draw.line([(x, y), (min(x + _CROWD_STEP, right), y)], fill=color, width=2)
    for y in np.arange(top, bottom, 2 * _CROWD_STEP):
        for x in (left, right):
            draw.line([(x, y), (x, min(y + _CROWD_STEP, bottom))], fill=color, width=2)


def _plate(
    draw: ImageDraw.ImageDraw, box: Box, text: str, canvas: tuple[int, int], taken: list[Box]
) -> Box | None:
    """A free position for a name above, inside or below its box; None if all are taken."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font(_NAME_PX))
    width, height = right - left + 6, bottom - top + 5
    x = min(max(box[0], 0), max(0, canvas[0] - width))
    for y in (box[1] - height, box[1], box[3] - height, box[3]):
        plate = (x, y, x + width, y + height)
        if 0 <= y <= canvas[1] - height and not any(_overlap(plate, other) for other in taken):
            return plate
    return None


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _write(draw: ImageDraw.ImageDraw, plate: Box, text: str, color: tuple[int, int, int]) -> None:
    left, top, _, _ = draw.textbbox((0, 0), text, font=font(_NAME_PX))
    bright = sum(c * w for c, w in zip(color, (0.299, 0.587, 0.114), strict=True)) > 140
    draw.rectangle(plate, fill=color)
    at = (plate[0] + 3 - left, plate[1] + 2 - top)
    draw.text(at, text, fill=_PAPER if bright else _INK, font=font(_NAME_PX))


@cache
def font(size: int) -> Any:
    """Pillow's built-in font at `size` pixels."""
    return ImageFont.load_default(size)
