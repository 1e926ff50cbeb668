"""Encoded bytes to pixels. "Decodable" means what `decode_image` decodes, here and in a bundle."""

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

    JPEG (also CMYK), PNG, BMP, and the first frame of a GIF. Gray becomes three equal channels,
    alpha is dropped without blending, 16-bit PNG keeps its high byte.

    Args:
      encoded: () string.

    Returns:
      (H, W, 3) uint8 in [0, 255].

    Raises:
      tf.errors.InvalidArgumentError: when run on bytes that are not such an image.
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
    """A box of the image for training: of a JPEG, only that box is decoded.

    With `shrink_for`, a JPEG's box with both sides at least 2, 4 or 8 times this size comes at 1/2,
    1/4 or 1/8 of its own, averaged by the decoder, which is faster and leaves other pixels than
    evaluation resizes (up to 44 levels apart at edges after an antialiased resize of both).
    Otherwise it equals the box of `decode_image` except in its outermost columns, where colors may
    be up to 4 levels away. Damage to a JPEG below the box is not seen.

    Args:
      encoded: () string.
      choose: from the image's size, (2,) int32 height, width, to the box, (4,) int32 top, left,
        height, width.
      shrink_for: (height, width) in pixels that the box will be resized to, or None.

    Returns:
      (h, w, 3) uint8.

    Raises:
      tf.errors.InvalidArgumentError: when run on bytes that do not decode.
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
    """The pixels that the exported graph sees, after the header was found acceptable.

    Args:
      data: the encoded bytes.
      max_pixels: largest height times width, checked before anything is decoded.

    Returns:
      (H, W, 3) uint8 RGB in [0, 255].

    Raises:
      ImageError: the header is refused (see `check_image`) or the body does not decode.
    """
    header = check_image(data, max_pixels=max_pixels)
    try:
        return decode_bytes(data)
    except ImageError as error:
        raise ImageError(f"damaged {header.format} of {len(data)} bytes: {error}") from error


def decode_bytes(data: bytes) -> np.ndarray:
    """What the graph makes of `data`, whatever the header says.

    Returns:
      (H, W, 3) uint8 RGB in [0, 255].

    Raises:
      ImageError: the decoder's reason.
    """
    try:
        with tf.device("CPU"):
            return decode_image(tf.constant(data)).numpy()
    except tf.errors.OpError as error:
        reason = error.message.split("}}")[-1].split(" [Op:")[0].strip()
        raise ImageError(reason) from error
    except UnicodeDecodeError as error:  # TensorFlow quoted the bytes in its message.
        raise ImageError("the decoder refuses it") from error
