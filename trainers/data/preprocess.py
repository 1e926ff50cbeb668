"""Evaluation preprocessing: one function for training, evaluation and the exported graph.

Crop first, then resize (bilinear, half-pixel centres, no antialias: what TFLite's ResizeBilinear
also computes), so that pixels which are cropped away are never resized.
"""

import tensorflow as tf

from trainers.data.decode import decode_image
from trainers.data.orientation import orientation_tensor, upright_tensor


def eval_image(
    encoded: tf.Tensor,
    *,
    image_size: tuple[int, int],
    crop_fraction: float,
    upright: bool = False,
) -> tf.Tensor:
    """The uint8 image that the network sees for encoded bytes.

    Args:
      encoded: () string, see `decode_image`.
      image_size: (height, width) in pixels of the result.
      crop_fraction: the central part of each side that is kept, in (0, 1]; 1 keeps everything.
      upright: turn the image by its EXIF orientation first, as `ingest --exif upright` did.

    Returns:
      (height, width, 3) uint8 RGB in [0, 255].

    Raises:
      tf.errors.InvalidArgumentError: when run on bytes that do not decode.
    """
    image = decode_image(encoded)
    if upright:
        image = upright_tensor(image, orientation_tensor(encoded))
        image.set_shape((None, None, 3))
    return eval_pixels(image, image_size=image_size, crop_fraction=crop_fraction)


def eval_pixels(
    image: tf.Tensor, *, image_size: tuple[int, int], crop_fraction: float
) -> tf.Tensor:
    """`eval_image` of a picture that is decoded already.

    Args:
      image: (H, W, 3) uint8.
      image_size: (height, width) in pixels of the result.
      crop_fraction: see `eval_image`.

    Returns:
      (height, width, 3) uint8 RGB in [0, 255].
    """
    return resize_image(central_crop(image, crop_fraction=crop_fraction), image_size=image_size)


def eval_images(
    encoded: tf.Tensor,
    *,
    image_size: tuple[int, int],
    crop_fraction: float,
    upright: bool = False,
) -> tf.Tensor:
    """`eval_image` of a batch, for signatures that take bytes.

    Args:
      encoded: (B,) string; B may be 0.
      image_size: (height, width) in pixels of the result.
      crop_fraction: see `eval_image`.
      upright: see `eval_image`.

    Returns:
      (B, height, width, 3) uint8.
    """
    return tf.map_fn(
        lambda one: eval_image(
            one, image_size=image_size, crop_fraction=crop_fraction, upright=upright
        ),
        encoded,
        fn_output_signature=tf.TensorSpec((*image_size, 3), tf.uint8),
    )


def central_crop(image: tf.Tensor, *, crop_fraction: float) -> tf.Tensor:
    """The central `crop_fraction` of each side, at least one pixel, rounded half to even.

    Args:
      image: (H, W, 3).
      crop_fraction: in (0, 1].

    Returns:
      (h, w, 3) of the same dtype; an odd remainder is left at the bottom and right.
    """
    if crop_fraction == 1.0:
        return image
    size = tf.shape(image)[:2]
    kept = tf.cast(tf.round(tf.cast(size, tf.float32) * crop_fraction), tf.int32)
    kept = tf.maximum(kept, 1)
    start = (size - kept) // 2
    return tf.slice(image, tf.concat([start, [0]], 0), tf.concat([kept, [3]], 0))


def resize_image(image: tf.Tensor, *, image_size: tuple[int, int]) -> tf.Tensor:
    """Bilinear resizing without antialias, rounded half to even.

    Args:
      image: (H, W, 3) uint8.
      image_size: (height, width) in pixels.

    Returns:
      (height, width, 3) uint8; equal to `image` where that has this size.
    """
    resized = tf.raw_ops.ResizeBilinear(
        images=image[None], size=image_size, half_pixel_centers=True
    )[0]
    # Weighted means of values in [0, 255] need no clipping.
    return tf.cast(tf.round(resized), tf.uint8)


def resize_crop(image: tf.Tensor, *, image_size: tuple[int, int]) -> tf.Tensor:
    """`resize_image` for training: faster, at most one level apart, halves are rounded up.

    TensorFlow's kernel takes two thirds of the time on floats, which need four times the memory:
    right for the crop that `trainers.data.decode.decode_crop` returns, wrong for whole pictures.

    Args:
      image: (H, W, 3) uint8.
      image_size: (height, width) in pixels.

    Returns:
      (height, width, 3) uint8.
    """
    resized = tf.raw_ops.ResizeBilinear(
        images=tf.cast(image, tf.float32)[None], size=image_size, half_pixel_centers=True
    )[0]
    return tf.cast(resized + 0.5, tf.uint8)


def to_uint8(values: tf.Tensor) -> tf.Tensor:
    """Floats on the [0, 255] scale as uint8: rounded half to even, clipped."""
    return tf.cast(tf.clip_by_value(tf.round(values), 0.0, 255.0), tf.uint8)
