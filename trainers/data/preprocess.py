"""Crops and resizes images in training, evaluation and the exported graph.

Images are cropped first, then resized, so that only the remaining pixels are resized. `data.resize`
is the method for all three:

- `antialias`: a triangle filter that scales with the reduction, TensorFlow's
  `tf.image.resize(antialias=True)`. Pillow's `Image.resize(..., BILINEAR)` of the same crop differs
  by at most one level. Large photos do not get jagged edges.
- `bilinear`: the four nearest pixels, TensorFlow's `tf.image.resize`. This is the method of
versions
  before this key; training then decodes large JPEGs at 1/2 to 1/8, so the network is trained on
  smoother images than it is evaluated and served with.
"""

from dataclasses import dataclass

import tensorflow as tf

from trainers.config import DataConfig
from trainers.config_keys import keys_of
from trainers.data.decode import decode_image
from trainers.data.orientation import orientation_tensor, upright_tensor

ANTIALIAS, BILINEAR = "antialias", "bilinear"
CROP, STRETCH = "crop", "stretch"


@dataclass(frozen=True)
class Preprocessing:
    """The settings that decide the pixels of evaluation images; fields are as in `DataConfig`.

    Attributes:
      image_size: (height, width) of the result in pixels.
      crop_fraction: fraction of the central crop, see `central_crop`.
      resize: `antialias` or `bilinear`.
      fit: `crop` or `stretch`, see `central_crop`.
    """

    image_size: tuple[int, int]
    crop_fraction: float
    resize: str
    fit: str

    @classmethod
    def of(cls, data: DataConfig) -> "Preprocessing":
        """The preprocessing of a configuration."""
        return cls(**{k: getattr(data, k) for k, key in keys_of(type(data)).items() if key.pixels})


def eval_image(encoded: tf.Tensor, how: Preprocessing, *, upright: bool = False) -> tf.Tensor:
    """The network's uint8 input for encoded bytes.

    Args:
      encoded: () string, see `decode_image`.
      how: size, crop and resize.
      upright: whether to rotate the image by its EXIF orientation first.

    Returns:
      (height, width, 3) uint8 RGB in [0, 255].

    Raises:
      tf.errors.InvalidArgumentError: at run time, if the bytes cannot be decoded.
    """
    image = decode_image(encoded)
    if upright:
        image = upright_tensor(image, orientation_tensor(encoded))
        image.set_shape((None, None, 3))
    return eval_pixels(image, how)


def eval_pixels(image: tf.Tensor, how: Preprocessing) -> tf.Tensor:
    """`eval_image` for a decoded image.

    Args:
      image: (H, W, 3) uint8.
      how: size, crop and resize.

    Returns:
      (height, width, 3) uint8 RGB in [0, 255].
    """
    return resize_image(central_crop(image, how), image_size=how.image_size, resize=how.resize)


def eval_images(encoded: tf.Tensor, how: Preprocessing, *, upright: bool = False) -> tf.Tensor:
    """`eval_image` for a batch, for signatures with bytes.

    Args:
      encoded: (B,) string; B may be 0.
      how: size, crop and resize.
      upright: see `eval_image`.

    Returns:
      (B, height, width, 3) uint8.
    """
    return tf.map_fn(
        lambda one: eval_image(one, how, upright=upright),
        encoded,
        fn_output_signature=tf.TensorSpec((*how.image_size, 3), tf.uint8),
    )


def central_crop(image: tf.Tensor, how: Preprocessing) -> tf.Tensor:
    """The central part of the image, at least one pixel, rounded half to even.

    It has `crop_fraction` of each side of the image with `fit=stretch`, or of the largest box with
    the aspect of `image_size` with `fit=crop`.

    Args:
      image: (H, W, 3).
      how: `image_size`, `crop_fraction` and `fit` are used.

    Returns:
      (h, w, 3) of the same dtype; an odd remainder is removed at the bottom and right.
    """
    if how.crop_fraction == 1.0 and how.fit == STRETCH:
        return image
    size = tf.shape(image)[:2]
    sides = tf.cast(size, tf.float32)
    if how.fit == CROP:
        wanted = tf.constant(how.image_size, tf.float32)
        sides = wanted * tf.reduce_min(sides / wanted)
    kept = tf.cast(tf.round(sides * how.crop_fraction), tf.int32)
    kept = tf.clip_by_value(kept, 1, size)
    start = (size - kept) // 2
    return tf.slice(image, tf.concat([start, [0]], 0), tf.concat([kept, [3]], 0))


def resize_image(
    image: tf.Tensor, *, image_size: tuple[int, int] | tf.Tensor, resize: str
) -> tf.Tensor:
    """The resized image, with half-pixel centers, rounded half to even.

    Args:
      image: (H, W, 3) uint8.
      image_size: (height, width) in pixels.
      resize: `antialias` or `bilinear`.

    Returns:
      (height, width, 3) uint8; equal to `image` if it already has this size.
    """
    if resize == BILINEAR:
        resized = tf.raw_ops.ResizeBilinear(
            images=image[None], size=image_size, half_pixel_centers=True
        )[0]
    else:
        # Called directly, because `tf.image.resize` would convert the whole image to floats first.
        wanted = tf.cast(image_size, tf.float32)
        resized = tf.raw_ops.ScaleAndTranslate(
            images=image[None],
            size=image_size,
            scale=wanted / tf.cast(tf.shape(image)[:2], tf.float32),
            translation=tf.zeros(2),
            kernel_type="triangle",
            antialias=True,
        )[0]
    # Weighted means of values in [0, 255] do not need clipping.
    return tf.cast(tf.round(resized), tf.uint8)


def resize_crop(image: tf.Tensor, *, image_size: tuple[int, int], resize: str) -> tf.Tensor:
    """`resize_image` for training; `bilinear` may differ by one level, as halves are rounded up.

    TensorFlow's bilinear kernel takes a third less time on floats, which need four times the
    memory: suitable for a crop of `trainers.data.decode.decode_crop`, but not for whole images.

    Args:
      image: (H, W, 3) uint8.
      image_size: (height, width) in pixels.
      resize: `antialias` or `bilinear`.

    Returns:
      (height, width, 3) uint8.
    """
    if resize != BILINEAR:
        return resize_image(image, image_size=image_size, resize=resize)
    resized = tf.raw_ops.ResizeBilinear(
        images=tf.cast(image, tf.float32)[None], size=image_size, half_pixel_centers=True
    )[0]
    return tf.cast(resized + 0.5, tf.uint8)


def to_uint8(values: tf.Tensor) -> tf.Tensor:
    """Floats in [0, 255] as uint8, rounded half to even and clipped."""
    return tf.cast(tf.clip_by_value(tf.round(values), 0.0, 255.0), tf.uint8)
