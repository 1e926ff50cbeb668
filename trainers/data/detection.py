"""An image with its objects, and transforms that keep boxes, masks and areas consistent.

Every function takes and returns a `Sample`, with or without objects and masks, and keeps the arrays
parallel: an object outside of the image is removed from all of them.
`trainers.data.detection_augment` applies these transforms at random.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from trainers.data.preprocess import resize_image

# Rounding error of float32 in pixels for a box that touches the edge.
_SLIVER_PX = 1e-2


class Sample(NamedTuple):
    """An image and its N objects; N may be 0.

    Attributes:
      image: (H, W, 3) uint8.
      boxes: (N, 4) float32 ymin,xmin,ymax,xmax, normalized.
      classes: (N,) int32 in [0, num_classes).
      is_crowd: (N,) bool, a group of objects with one annotation.
      area: (N,) float32, in square pixels of this image.
      ids: (N,) int64, annotation ids of the source.
      masks: (N, H, W) uint8, 1 inside the object; statically (N, 0, 0) without masks.
    """

    image: tf.Tensor
    boxes: tf.Tensor
    classes: tf.Tensor
    is_crowd: tf.Tensor
    area: tf.Tensor
    ids: tf.Tensor
    masks: tf.Tensor


def has_masks(sample: Sample) -> bool:
    """Whether the sample has masks, not a placeholder."""
    shape: Any = sample.masks.shape
    return shape[1] != 0


def size_of(sample: Sample) -> tf.Tensor:
    """(2,) float32 height, width of the image in pixels."""
    return tf.cast(tf.shape(sample.image)[:2], tf.float32)


def keep(sample: Sample, chosen: tf.Tensor) -> Sample:
    """The sample with the objects where `chosen`, (N,) bool, is true."""
    kept = {
        name: tf.boolean_mask(getattr(sample, name), chosen)
        for name in ("boxes", "classes", "is_crowd", "area", "ids", "masks")
    }
    return sample._replace(**kept)


def flip(sample: Sample) -> Sample:
    """The sample, mirrored left to right."""
    top, left, bottom, right = tf.unstack(sample.boxes, axis=1)
    return sample._replace(
        image=sample.image[:, ::-1],
        boxes=tf.stack([top, 1.0 - right, bottom, 1.0 - left], axis=1),
        masks=sample.masks[:, :, ::-1],
    )


def crop(sample: Sample, box: tf.Tensor) -> Sample:
    """The part of the image in `box`, with the objects that are visible in it.

    A clipped box is reduced to the visible part of its mask, if there are masks. Areas are reduced
    with the pixels of the mask, or with the box.

    Args:
      sample: an image with its objects.
      box: (4,) int32 top, left, height, width in pixels; inside the image and not empty.
    """
    size, start = size_of(sample), tf.cast(box[:2], tf.float32)
    window = tf.cast(box[2:], tf.float32)
    whole = sample.boxes * tf.tile(size, [2]) - tf.tile(start, [2])
    boxes = tf.clip_by_value(whole, 0.0, tf.tile(window, [2]))
    masks = sample.masks
    if has_masks(sample):
        masks = masks[:, box[0] : box[0] + box[2], box[1] : box[1] + box[3]]
        is_cut = tf.reduce_any(tf.abs(boxes - whole) > _SLIVER_PX, axis=1, keepdims=True)
        boxes = tf.where(is_cut, _intersection(boxes, mask_boxes(masks)), boxes)
        share = tf.math.divide_no_nan(_count(masks), _count(sample.masks))
    else:
        share = tf.math.divide_no_nan(_box_area(boxes), _box_area(whole))
    cropped = sample._replace(
        image=tf.slice(sample.image, [box[0], box[1], 0], [box[2], box[3], 3]),
        boxes=boxes / tf.tile(window, [2]),
        area=sample.area * tf.minimum(share, 1.0),
        masks=masks,
    )
    return keep(cropped, tf.reduce_all(boxes[:, 2:] - boxes[:, :2] > _SLIVER_PX, axis=1))


def stretch(sample: Sample, image_size: Any, *, resize: str) -> Sample:
    """The sample, stretched to `image_size`: the image by `data.resize`, masks by nearest neighbor.

    Every object is kept, even if no pixel of its mask remains.

    Args:
      sample: an image with its objects.
      image_size: (height, width) in pixels, two ints or (2,) int32.
      resize: see `trainers.data.preprocess`.
    """
    old = size_of(sample)
    masks = sample.masks
    if has_masks(sample):
        masks = tf.image.resize(masks[..., None], image_size, method="nearest")[..., 0]
    ratio = tf.cast(image_size, tf.float32) / old
    return sample._replace(
        image=resize_image(sample.image, image_size=image_size, resize=resize),
        area=sample.area * ratio[0] * ratio[1],
        masks=masks,
    )


def pad(sample: Sample, image_size: tuple[int, int]) -> Sample:
    """The sample, padded with black at the bottom and right to `image_size`."""
    size = tf.shape(sample.image)[:2]
    after = tf.convert_to_tensor(image_size) - size
    ratio = tf.cast(size, tf.float32) / tf.cast(image_size, tf.float32)
    margins = tf.stack([tf.zeros_like(after), after], 1)
    image = tf.pad(sample.image, tf.concat([margins, [[0, 0]]], 0))
    masks = sample.masks
    if has_masks(sample):
        masks = tf.pad(masks, tf.concat([[[0, 0]], margins], 0))
        masks = tf.ensure_shape(masks, (None, *image_size))
    return sample._replace(
        image=tf.ensure_shape(image, (*image_size, 3)),
        boxes=sample.boxes * tf.tile(ratio, [2]),
        masks=masks,
    )


def resize_and_pad(
    sample: Sample, image_size: tuple[int, int], *, resize: str, zoom: Any = 1.0
) -> tuple[Sample, tf.Tensor]:
    """The whole image in `image_size` with its aspect, at the top left, padded with black.

    Args:
      sample: an image with its objects.
      image_size: (height, width) in pixels.
      resize: see `trainers.data.preprocess`.
      zoom: () float in (0, 1]: scale relative to the size that fills the height or the width.

    Returns:
      The sample, and (2,) float32 ratios of new to old height and width: a box in pixels of the
      stored image is `box * image_size / ratio`.
    """
    size = size_of(sample)
    target = tf.cast(image_size, tf.float32)
    fitted = tf.round(size * tf.reduce_min(target / size) * zoom)
    fitted = tf.clip_by_value(fitted, 1.0, target)
    resized = stretch(sample, tf.cast(fitted, tf.int32), resize=resize)
    return pad(resized, image_size), fitted / size


def mask_boxes(masks: tf.Tensor) -> tf.Tensor:
    """The tight box of each mask.

    Args:
      masks: (N, H, W) uint8.

    Returns:
      (N, 4) float32 ymin,xmin,ymax,xmax in pixels, the maxima exclusive; zeros for an empty mask.
    """
    sides = []
    for axis in (2, 1):
        used = tf.reduce_max(masks, axis=axis)
        length = tf.shape(used)[1]
        first = tf.argmax(used, 1, output_type=tf.int32)
        last = length - tf.argmax(used[:, ::-1], 1, output_type=tf.int32)
        sides.append((first, tf.where(tf.reduce_max(used, axis=1) > 0, last, 0)))
    (top, bottom), (left, right) = sides
    return tf.cast(tf.stack([top, left, bottom, right], 1), tf.float32)


def iou(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Pairwise intersection over union.

    Args:
      a: (N, 4) float32 boxes, ymin,xmin,ymax,xmax, in any unit.
      b: (M, 4) boxes in the same unit.

    Returns:
      (N, M) float32 in [0, 1]; 0 if either box is empty.
    """
    overlap = _box_area(_intersection(a[:, None], b[None]))
    union = _box_area(a)[:, None] + _box_area(b)[None] - overlap
    return tf.math.divide_no_nan(overlap, union)


def _intersection(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """(..., 4) boxes; empty if two boxes are disjoint."""
    start = tf.maximum(a[..., :2], b[..., :2])
    return tf.concat([start, tf.maximum(start, tf.minimum(a[..., 2:], b[..., 2:]))], -1)


def _box_area(boxes: tf.Tensor) -> tf.Tensor:
    sides = tf.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    return sides[..., 0] * sides[..., 1]


def _count(masks: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.reduce_sum(tf.cast(masks, tf.int32), axis=[1, 2]), tf.float32)
