"""Decodes images. Bytes are decodable, here and in a bundle, if `decode_image` decodes them."""

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from core.image_header import MAX_PIXELS, ImageError, ImageHeader, check_image

__all__ = [
    "MAX_PIXELS",
    "ImageError",
    "ImageHeader",
    "check_image",
    "decode_bytes",
    "decode_crop",
    "decode_image",
    "load_image",
]

_JPEG_MAGIC = b"\xff\xd8\xff"


def decode_image(encoded: tf.Tensor) -> tf.Tensor:
    """The image as stored: RGB, no resizing, no EXIF rotation.

    Supports JPEG (including CMYK), PNG, BMP, and the first frame of a GIF. Gray becomes three equal
    channels, alpha is dropped without blending, and 16-bit PNG keeps its high byte.

    Args:
      encoded: () string.

    Returns:
      (H, W, 3) uint8 in [0, 255].

    Raises:
      tf.errors.InvalidArgumentError: at run time, if the bytes are not such an image.
    """
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    image.set_shape((None, None, 3))
    return image


def decode_crop(
    encoded: tf.Tensor,
    choose: Callable[[tf.Tensor], tf.Tensor],
    *,
    shrink_for: tuple[int, int] | None,
) -> tf.Tensor:
    """A box of the image for training; only the box of a JPEG is decoded.

    With `shrink_for`, a box of a JPEG whose sides are at least 2, 4 or 8 times this size is decoded
    at 1/2, 1/4 or 1/8 of its size. This is faster, but the pixels differ from those of evaluation
    (by up to 44 levels at edges after an antialiased resize of both). Otherwise the result equals
    the box of `decode_image` except in its outermost columns, where colors may differ by up to 4
    levels. Damage to a JPEG below the box is not detected.

    Args:
      encoded: () string.
      choose: function from the image's size, (2,) int32 height, width, to the box, (4,) int32 top,
        left, height, width.
      shrink_for: (height, width) in pixels to which the box will be resized, or None.

    Returns:
      (h, w, 3) uint8.

    Raises:
      tf.errors.InvalidArgumentError: at run time, if the bytes cannot be decoded.
    """

    def jpeg() -> tf.Tensor:
        box = choose(tf.image.extract_jpeg_shape(encoded)[:2])
        if shrink_for is None:
            return crop(box, 1)
        times = tf.reduce_min(box[2:] // tf.constant(shrink_for))
        return tf.cond(times >= 2, lambda: shrunk(box, times), lambda: crop(box, 1))

    def shrunk(box: tf.Tensor, times: tf.Tensor) -> tf.Tensor:
        level = tf.cast(times >= 4, tf.int32) + tf.cast(times >= 8, tf.int32)
        branches = [functools.partial(crop, box // ratio, ratio) for ratio in (2, 4, 8)]
        return tf.switch_case(level, branches)

    def crop(box: tf.Tensor, ratio: int) -> tf.Tensor:
        return tf.image.decode_and_crop_jpeg(encoded, box, channels=3, ratio=ratio)

    def other() -> tf.Tensor:
        image = decode_image(encoded)
        box = choose(tf.shape(image)[:2])
        return tf.slice(image, [box[0], box[1], 0], [box[2], box[3], 3])

    return tf.cond(tf.strings.substr(encoded, 0, 3) == _JPEG_MAGIC, jpeg, other)


def load_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The pixels that the exported graph decodes, after a check of the header.

    Args:
      data: the encoded bytes.
      max_pixels: maximum of height times width, checked before decoding.

    Returns:
      (H, W, 3) uint8 RGB in [0, 255].

    Raises:
      ImageError: the header is rejected (see `check_image`) or the image cannot be decoded.
    """
    header = check_image(data, max_pixels=max_pixels)
    try:
        return decode_bytes(data)
    except ImageError as error:
        raise ImageError(f"damaged {header.format} of {len(data)} bytes: {error}") from error


def decode_bytes(data: bytes) -> np.ndarray:
    """The pixels that the graph decodes, without a check of the header.

    Returns:
      (H, W, 3) uint8 RGB in [0, 255].

    Raises:
      ImageError: the image cannot be decoded; contains the decoder's reason.
    """
    try:
        with tf.device("CPU"):
            return decode_image(tf.constant(data)).numpy()
    except tf.errors.OpError as error:
        reason = error.message.split("}}")[-1].split(" [Op:")[0].strip()
        raise ImageError(reason) from error
    except UnicodeDecodeError as error:  # TensorFlow's message quotes the bytes.
        raise ImageError("the decoder rejects it") from error
