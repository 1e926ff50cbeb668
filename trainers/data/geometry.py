"""Geometric operations of the augmentation policies: nearest neighbor, filled with gray.

They follow the published code of AutoAugment and Pillow's convention of pixel centers at + 0.5.
Each takes (H, W, 3) uint8 with a static shape and a () float32 amount, and returns the same shape.
"""

import math
from typing import Any

import tensorflow as tf

_FILL = 128


def shear_x(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Shears along x: a row at height y is sampled from `level` * y further right."""
    return _warp(image, [1.0, level, 0.5 * level, 0.0, 1.0, 0.0])


def shear_y(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Shears along y: a column at x is sampled from `level` * x further down."""
    return _warp(image, [1.0, 0.0, 0.0, level, 1.0, 0.5 * level])


def translate_x(image: tf.Tensor, pixels: tf.Tensor) -> tf.Tensor:
    """Translates to the left by `pixels`, to the right if negative."""
    return _warp(image, [1.0, 0.0, pixels, 0.0, 1.0, 0.0])


def translate_y(image: tf.Tensor, pixels: tf.Tensor) -> tf.Tensor:
    """Translates up by `pixels`, down if negative."""
    return _warp(image, [1.0, 0.0, 0.0, 0.0, 1.0, pixels])


def rotate(image: tf.Tensor, degrees: tf.Tensor) -> tf.Tensor:
    """Rotates counterclockwise around the center."""
    shape: Any = image.shape
    middle_y, middle_x = (shape[0] - 1) / 2, (shape[1] - 1) / 2
    angle = degrees * (math.pi / 180)
    cos, sin = tf.cos(angle), tf.sin(angle)
    across = middle_x - cos * middle_x + sin * middle_y
    down = middle_y - sin * middle_x - cos * middle_y
    return _warp(image, [cos, -sin, across, sin, cos, down])


def _warp(image: tf.Tensor, matrix: list[Any]) -> tf.Tensor:
    """The image with pixel (x, y) sampled from (ax + by + c, dx + ey + f), centers at integers.

    A gather of pixels takes a third of the time of TensorFlow's ImageProjectiveTransformV3.
    """
    shape: Any = image.shape
    height, width = shape[0], shape[1]
    rows = tf.range(height, dtype=tf.float32)[:, None]
    columns = tf.range(width, dtype=tf.float32)[None]
    a, b, c, d, e, f = matrix
    across = tf.floor(a * columns + (b * rows + (c + 0.5)))
    down = tf.floor(d * columns + (e * rows + (f + 0.5)))
    # A border of one gray pixel represents all pixels outside.
    padded = tf.pad(image, [[1, 1], [1, 1], [0, 0]], constant_values=_FILL)
    across = tf.clip_by_value(across, -1.0, width) + 1.0
    down = tf.clip_by_value(down, -1.0, height) + 1.0
    at = tf.cast(down, tf.int32) * (width + 2) + tf.cast(across, tf.int32)
    return tf.gather(tf.reshape(padded, [-1, 3]), at)
