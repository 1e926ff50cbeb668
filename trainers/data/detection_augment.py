"""Training augmentations of images with objects, selected by the entries of `data.augment`.

As in `trainers.data.augment`, a *crop* converts the stored image to the network's size, instead of
`resize_and_pad`, and *augmentations* change the result.

| entry with its defaults | kind | effect |
|---|---|---|
| random_scale_crop(low=0.1, high=2) | crop | large-scale jitter: shrinks and pads, or crops |
| random_crop(area=(0.1, 1), aspect=(0.5, 2)) | crop | a patch that overlaps some object enough |
| flip | augmentation | left-right, with probability 0.5 |
| brightness, contrast, color_jitter, grayscale | augmentation | colors, as in classification |
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import tensorflow as tf

from trainers.config import ConfigError
from trainers.data import detection
from trainers.data.augment import brightness, contrast
from trainers.data.detection import Sample, crop, iou, keep, resize_and_pad, size_of
from trainers.data.entries import Between, bind, parse_entries
from trainers.data.jitter import color_jitter, grayscale
from trainers.data.preprocess import Preprocessing
from trainers.registry import Registry

#: `(sample, seed, how) -> sample` with an image of `how.image_size`.
SampleCrop = Callable[[Sample, tf.Tensor, Preprocessing], Sample]
#: `(sample, seed) -> sample` of the same size.
SampleAugmentation = Callable[[Sample, tf.Tensor], Sample]

detection_crops: Registry[SampleCrop] = Registry("detection crop", "trainers.data")
detection_augmentations: Registry[SampleAugmentation] = Registry(
    "detection augmentation", "trainers.data"
)

# Liu et al. 2016 (SSD), section 2.2: minimum IoU of a patch with some object. The first two options
# are the whole image and any patch.
_LEAST_IOU = (-1.0, 0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
# Number of patches to draw; if none is suitable, the whole image is used.
_PATCHES = 50


def split_entries(entries: Sequence[str]) -> tuple[SampleCrop | None, list[SampleAugmentation]]:
    """The crop and the augmentations in `entries`, in order.

    Raises:
      ConfigError: a malformed entry, an unknown name (names the nearest ones), invalid options, or
        two crops.
    """
    known, known_crops = detection_augmentations.names(), detection_crops.names()
    parsed = parse_entries(entries, [detection_crops, detection_augmentations])
    chosen = [entry for entry in parsed if entry.name in known_crops]
    if len(chosen) > 1:
        raise ConfigError(f"data.augment takes one crop, got {', '.join(e.text for e in chosen)}")
    rest = [
        bind(entry, detection_augmentations.get(entry.name))
        for entry in parsed
        if entry.name in known
    ]
    first = bind(chosen[0], detection_crops.get(chosen[0].name)) if chosen else None
    return first, rest


def train_sample(
    sample: Sample, seed: tf.Tensor, *, how: Preprocessing, entries: Sequence[str]
) -> Sample:
    """An augmented training sample with the network's image size.

    Args:
      sample: a stored image with its objects.
      seed: (2,) int32, different for every example and epoch.
      how: `image_size` and `resize` are used.
      entries: `data.augment`.

    Raises:
      ConfigError: see `split_entries`.
    """
    chosen, rest = split_entries(entries)
    if chosen is None:
        sample, _ = resize_and_pad(sample, how.image_size, resize=how.resize)
    else:
        sample = chosen(sample, _fold(seed, 0), how)
    for position, augmentation in enumerate(rest, start=1):
        sample = augmentation(sample, _fold(seed, position))
    return sample


@detection_crops.register("random_scale_crop")
def random_scale_crop(
    sample: Sample,
    seed: tf.Tensor,
    how: Preprocessing,
    *,
    low: Annotated[float, Between(0.01, 10.0)] = 0.1,
    high: Annotated[float, Between(0.01, 10.0)] = 2.0,
) -> Sample:
    """Large-scale jitter (Ghiasi et al. 2021, section 3).

    The image is scaled to `low` to `high` times the size that fits, then padded, or cropped at a
    random position. Only the remaining part is resized. Objects whose masks vanish are removed.

    Args:
      sample: a stored image with its objects.
      seed: (2,) int32.
      how: `image_size` and `resize` are used.
      low: minimum scale; 0.8 with 1.25 is the standard jitter of the paper.
      high: maximum scale.

    Raises:
      ConfigError: `low` exceeds `high`.
    """
    if low > high:
        raise ConfigError(
            f"data.augment: random_scale_crop needs low <= high, got {low:g} and {high:g}"
        )
    draws = tf.random.stateless_uniform((3,), seed)
    size, target = size_of(sample), tf.cast(how.image_size, tf.float32)
    scale = (low + draws[0] * (high - low)) * tf.reduce_min(target / size)
    window = tf.clip_by_value(tf.round(target / scale), 1.0, size)
    start = tf.minimum(tf.floor(draws[1:] * (size - window + 1.0)), size - window)
    part = crop(sample, tf.cast(tf.concat([start, window], 0), tf.int32))
    fitted = tf.clip_by_value(tf.round(window * scale), 1.0, target)
    # A crop of a larger image fills the network's image exactly.
    fitted = tf.where(window < size, target, fitted)
    resized = detection.stretch(part, tf.cast(fitted, tf.int32), resize=how.resize)
    if detection.has_masks(resized):
        resized = keep(resized, tf.reduce_max(resized.masks, axis=[1, 2]) > 0)
    return detection.pad(resized, how.image_size)


@detection_crops.register("random_crop")
def random_crop(
    sample: Sample,
    seed: tf.Tensor,
    how: Preprocessing,
    *,
    area: Annotated[tuple[float, float], Between(0.001, 1.0)] = (0.1, 1.0),
    aspect: Annotated[tuple[float, float], Between(0.01, 100.0)] = (0.5, 2.0),
) -> Sample:
    """The whole image, or a patch that overlaps an object enough (Liu et al. 2016, section 2.2).

    The minimum overlap is random. Objects whose center is in the patch are kept. The patch is
    resized and padded to `how.image_size`.

    Args:
      sample: a stored image with its objects.
      seed: (2,) int32.
      how: `image_size` and `resize` are used.
      area: minimum and maximum fraction of the image's area.
      aspect: minimum and maximum width / height, relative to the image.
    """
    draws = tf.random.stateless_uniform((_PATCHES, 4), _fold(seed, 0))
    pick = tf.random.stateless_uniform((), _fold(seed, 1), 0, len(_LEAST_IOU), tf.int32)
    least = tf.constant(_LEAST_IOU)[pick]
    part = area[0] + draws[:, 0] * (area[1] - area[0])
    bottom, top = math.log(aspect[0]), math.log(aspect[1])
    ratio = tf.exp(bottom + draws[:, 1] * (top - bottom))
    sides = tf.stack([tf.sqrt(part / ratio), tf.sqrt(part * ratio)], 1)
    start = draws[:, 2:] * (1.0 - sides)
    patches = tf.concat([start, start + sides], 1)
    best = tf.reduce_max(tf.pad(iou(patches, sample.boxes), [[0, 0], [0, 1]]), axis=1)
    fine = tf.reduce_all(sides <= 1.0, axis=1) & (best >= least)
    at = tf.argmax(fine)
    patch = tf.where(fine[at] & (least >= 0.0), patches[at], tf.constant([0.0, 0.0, 1.0, 1.0]))
    return resize_and_pad(_centered(sample, patch), how.image_size, resize=how.resize)[0]


def _centered(sample: Sample, patch: tf.Tensor) -> Sample:
    """`sample` cropped to `patch`, (4,) fractions, with the objects whose center is in it."""
    size = size_of(sample)
    start = tf.floor(patch[:2] * size)
    window = tf.clip_by_value(tf.round((patch[2:] - patch[:2]) * size), 1.0, size - start)
    centers = (sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2 * size
    inside = tf.reduce_all((centers >= start) & (centers <= start + window), axis=1)
    return crop(keep(sample, inside), tf.cast(tf.concat([start, window], 0), tf.int32))


@detection_augmentations.register("flip")
def flip(sample: Sample, seed: tf.Tensor) -> Sample:
    """The sample, mirrored left to right with probability 0.5.

    Args:
      sample: an image with its objects.
      seed: (2,) int32.
    """
    turned = tf.random.stateless_uniform((), seed) < 0.5
    return Sample(*tf.cond(turned, lambda: tuple(detection.flip(sample)), lambda: tuple(sample)))


def _on_the_image(image_op: Callable[..., tf.Tensor]) -> SampleAugmentation:
    """An augmentation that applies `image_op` with its options to the image only."""

    @functools.wraps(image_op)
    def augment(sample: Any, seed: tf.Tensor, **options: Any) -> Any:
        return sample._replace(image=image_op(sample.image, seed, **options))

    return augment


for _op in (brightness, contrast, color_jitter, grayscale):
    detection_augmentations.register(_op.__name__)(_on_the_image(_op))


def _fold(seed: tf.Tensor, step: int) -> Any:
    return tf.random.fold_in(seed, step)
