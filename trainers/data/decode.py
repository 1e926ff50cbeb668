"""Encoded bytes to pixels. "Decodable" means what `decode_image` decodes, here and in a bundle."""

import numpy as np
import tensorflow as tf

from trainers.data.image_header import MAX_PIXELS, ImageError, ImageHeader, check_image

__all__ = [
    "MAX_PIXELS",
    "ImageError",
    "ImageHeader",
    "check_image",
    "decode_bytes",
    "decode_image",
    "load_image",
]


def decode_image(encoded: tf.Tensor) -> tf.Tensor:
    """The picture as stored: RGB, no resizing, no EXIF rotation.

    JPEG (also CMYK), PNG, BMP, and the first frame of a GIF. Grey becomes three equal channels,
    alpha is dropped without blending, 16-bit PNG keeps its high byte.

    Args:
      encoded: () string.

    Returns:
      (H, W, 3) uint8 in [0, 255].

    Raises:
      tf.errors.InvalidArgumentError: when run on bytes that are not such a picture.
    """
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    image.set_shape((None, None, 3))
    return image


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
