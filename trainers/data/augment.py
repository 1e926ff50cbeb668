"""Training augmentations, selected by the entries of `config.data.augment`.

There are three kinds. A *crop* selects the box of the stored image that is resized to the network's
size, instead of the central crop; it does not depend on pixels, so that only the box of a JPEG is
decoded. An *augmentation* changes the resized image. *Mixes* change pairs of images
(`trainers.data.mix`). Each has a separate seed per example and epoch, so that runs are repeatable.
To add one, decorate a function in any file of this package; its options are parameters with
defaults.

| entry with its defaults | kind | effect |
|---|---|---|
| random_resized_crop(area=(0.08, 1), aspect=(0.75, 1.333)) | crop | a box in these ranges |
| flip | augmentation | left-right, with probability 0.5 |
| shift(fraction=0.125) | augmentation | by up to this fraction of each side, filled with black |
| pad_crop(px=4) | augmentation | by up to this number of pixels, filled with black |
| rotate(degrees=10) | augmentation | by up to this angle, filled with edge pixels |
| brightness(amount=0.2) | augmentation | times 1 - amount to 1 + amount |
| contrast(amount=0.2) | augmentation | the same, relative to the mean of the image |

See also `jitter` (color_jitter, grayscale), `policies` (rand_augment, auto_augment,
trivial_augment), `erasing` (random_erasing).
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import tensorflow as tf

from trainers.config import ConfigError, DataConfig
from trainers.data.decode import decode_image
from trainers.data.entries import Between, Fraction, bind, parse_entries
from trainers.data.mix import mixes
from trainers.data.preprocess import Preprocessing, central_crop, resize_image, to_uint8
from trainers.registry import Registry

#: `(size, seed) -> box`: size (2,) int32 height, width; box (4,) int32 top, left, height, width.
Crop = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
#: `(image, seed) -> image`, both (H, W, 3) uint8 of the same size.
Augmentation = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

crops: Registry[Crop] = Registry("crop", "trainers.data")
augmentations: Registry[Augmentation] = Registry("augmentation", "trainers.data")

# Training crops of Szegedy et al. 2015 (Going deeper with convolutions), section 6. The number of
# draws and the fallback are those of torchvision's `RandomResizedCrop`.
_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
_DRAWS = 10
# He et al. 2015 (Deep residual learning), section 4.2: CIFAR-10 padding.
_PAD_PX = 4
_SHIFT_FRACTION = 1 / 8
_ROTATE_DEGREES = 10.0
_JITTER = 0.2


def split_names(names: Sequence[str]) -> tuple[Crop | None, list[Augmentation]]:
    """The crop and the augmentations among `names`, in order; mixes are ignored.

    Args:
      names: entries such as `flip` or `rotate(15)`.

    Raises:
      ConfigError: a malformed entry, an unknown name (names the nearest ones), invalid options, or
        two crops.
    """
    known = {kind: kind.names() for kind in (crops, augmentations, mixes)}
    parsed = parse_entries(names, list(known))
    bound = {
        kind: [bind(entry, kind.get(entry.name)) for entry in parsed if entry.name in known[kind]]
        for kind in known
    }
    if len(bound[crops]) > 1:
        chosen = [entry.text for entry in parsed if entry.name in known[crops]]
        raise ConfigError(f"data.augment takes one crop, got {', '.join(chosen)}")
    return next(iter(bound[crops]), None), bound[augmentations]


def train_image(encoded: tf.Tensor, seed: tf.Tensor, *, data: DataConfig) -> tf.Tensor:
    """An augmented training image from encoded bytes.

    Args:
      encoded: () string.
      seed: (2,) int32, different for every example and epoch.
      data: `image_size`, `crop_fraction`, `resize`, `fit` and `augment` are used.

    Returns:
      (height, width, 3) uint8.
    """
    crop, _ = split_names(data.augment)
    image = decode_image(encoded)
    if crop is None:
        image = central_crop(image, Preprocessing.of(data))
    else:
        box = crop(tf.shape(image)[:2], _fold(seed, 0))
        image = tf.slice(image, [box[0], box[1], 0], [box[2], box[3], 3])
    image = resize_image(image, image_size=data.image_size, resize=data.resize)
    return augment_image(image, seed, names=data.augment)


def augment_image(image: tf.Tensor, seed: tf.Tensor, *, names: Sequence[str]) -> tf.Tensor:
    """`image` after the augmentations in `names`, without crops.

    Args:
      image: (H, W, 3) uint8 with a static shape.
      seed: (2,) int32.
      names: entries of `data.augment`, applied in order.

    Returns:
      (H, W, 3) uint8.
    """
    for position, augmentation in enumerate(split_names(names)[1], start=1):
        image = augmentation(image, _fold(seed, position))
    return image


@crops.register("random_resized_crop")
def random_resized_crop(
    size: tf.Tensor,
    seed: tf.Tensor,
    *,
    area: Annotated[tuple[float, float], Between(0.0001, 1.0)] = _AREA,
    aspect: Annotated[tuple[float, float], Between(0.01, 100.0)] = _ASPECT,
) -> tf.Tensor:
    """A box with random area and aspect: the first of ten draws that fits into the image.

    If none fits, the largest central box with the nearest allowed aspect.

    Args:
      size: (2,) int32 height, width.
      seed: (2,) int32.
      area: minimum and maximum fraction of the image's area.
      aspect: minimum and maximum width / height; the logarithm is drawn uniformly.

    Returns:
      (4,) int32 top, left, height, width; never empty.
    """
    draws = tf.random.stateless_uniform((_DRAWS, 4), seed)
    sides = tf.cast(size, tf.float32)
    pixels = (area[0] + draws[:, 0] * (area[1] - area[0])) * sides[0] * sides[1]
    low, high = math.log(aspect[0]), math.log(aspect[1])
    ratio = tf.exp(low + draws[:, 1] * (high - low))
    boxes = tf.round(tf.stack([tf.sqrt(pixels / ratio), tf.sqrt(pixels * ratio)], 1))
    fits = tf.reduce_all((boxes >= 1.0) & (boxes <= sides), axis=1)
    first = tf.argmax(fits)
    kept = tf.where(fits[first], boxes[first], _largest(sides, aspect))
    free = sides - kept
    # A draw that rounds up to 1 must stay inside the image.
    drawn = tf.minimum(tf.floor(draws[first, 2:] * (free + 1.0)), free)
    start = tf.where(fits[first], drawn, free // 2)
    return tf.cast(tf.concat([start, kept], 0), tf.int32)


def _largest(sides: tf.Tensor, aspect: tuple[float, float]) -> tf.Tensor:
    """(2,) float32 height, width of the largest box in `sides` with an allowed aspect."""
    width = tf.minimum(sides[1], tf.round(sides[0] * aspect[1]))
    height = tf.minimum(sides[0], tf.round(sides[1] / aspect[0]))
    return tf.maximum(tf.stack([height, width]), 1.0)


@augmentations.register("flip")
def flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """The image, mirrored left to right with probability 0.5."""
    return tf.image.stateless_random_flip_left_right(image, seed)


@augmentations.register("shift")
def shift(image: tf.Tensor, seed: tf.Tensor, *, fraction: Fraction = _SHIFT_FRACTION) -> tf.Tensor:
    """The image, shifted by up to `fraction` of each side (at least 1 px), filled with black."""
    height, width = sides(image)
    return _translate(
        image, seed, max(1, round(height * fraction)), max(1, round(width * fraction))
    )


@augmentations.register("pad_crop")
def pad_crop(
    image: tf.Tensor, seed: tf.Tensor, *, px: Annotated[int, Between(1, 1024)] = _PAD_PX
) -> tf.Tensor:
    """The image, padded by `px` black pixels and cropped to its size; 4 is the CIFAR-10 recipe."""
    return _translate(image, seed, px, px)


@augmentations.register("rotate")
def rotate(
    image: tf.Tensor,
    seed: tf.Tensor,
    *,
    degrees: Annotated[float, Between(0.0, 180.0)] = _ROTATE_DEGREES,
) -> tf.Tensor:
    """The image, rotated by up to `degrees` around its center, filled with edge pixels."""
    limit = math.radians(degrees)
    angle = tf.random.stateless_uniform((), seed, -limit, limit)
    cos, sin = tf.cos(angle), tf.sin(angle)
    height, width = sides(image)
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    across = middle_x - cos * middle_x + sin * middle_y
    down = middle_y - sin * middle_x - cos * middle_y
    transform = tf.stack([cos, -sin, across, sin, cos, down, 0.0, 0.0])
    turned = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(image, tf.float32)[None],
        transforms=transform[None],
        output_shape=(height, width),
        interpolation="BILINEAR",
        fill_mode="NEAREST",
        fill_value=0.0,
    )
    return tf.ensure_shape(to_uint8(turned[0]), image.shape)


@augmentations.register("brightness")
def brightness(image: tf.Tensor, seed: tf.Tensor, *, amount: Fraction = _JITTER) -> tf.Tensor:
    """The image times a factor in [1 - `amount`, 1 + `amount`]."""
    factor = tf.random.stateless_uniform((), seed, 1 - amount, 1 + amount)
    return to_uint8(tf.cast(image, tf.float32) * factor)


@augmentations.register("contrast")
def contrast(image: tf.Tensor, seed: tf.Tensor, *, amount: Fraction = _JITTER) -> tf.Tensor:
    """The image with differences from its mean times a factor in [1 - `amount`, 1 + `amount`]."""
    factor = tf.random.stateless_uniform((), seed, 1 - amount, 1 + amount)
    values = tf.cast(image, tf.float32)
    mean = tf.reduce_mean(values)
    return to_uint8(mean + (values - mean) * factor)


def sides(image: tf.Tensor) -> tuple[int, int]:
    """(height, width) of an image with a static shape."""
    shape: Any = image.shape
    return shape[0], shape[1]


def _fold(seed: tf.Tensor, step: int) -> Any:
    """A separate seed for each step of one example."""
    return tf.random.fold_in(seed, step)


def _translate(image: tf.Tensor, seed: tf.Tensor, down_px: int, across_px: int) -> tf.Tensor:
    padded = tf.pad(image, [[down_px, down_px], [across_px, across_px], [0, 0]])
    seeds = tf.random.split(seed, 2)
    down = tf.random.stateless_uniform((), seeds[0], 0, 2 * down_px + 1, tf.int32)
    across = tf.random.stateless_uniform((), seeds[1], 0, 2 * across_px + 1, tf.int32)
    return tf.slice(padded, [down, across, 0], image.shape)
