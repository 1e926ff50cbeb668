"""The `slice/*` strings of an image, in NumPy for ingest and as a graph for readers.

| key | values |
|---|---|
| slice/brightness | mean luma in thirds of [0, 255]: dark < 85 <= medium < 170 <= bright |
| slice/contrast | standard deviation of luma: low < 32 <= medium < 64 <= high |
| slice/aspect | square if neither side exceeds 1.1 of the other, portrait, landscape |
| slice/size | shorter side in pixels: small < 32 <= medium < 256 <= large |

Luma is measured on every k-th row and every l-th column, with the smallest steps that leave at most
256 of each; images up to 256 x 256 are measured completely. Sums are integers, so that both
implementations agree exactly. TensorFlow is imported in the functions that need it.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

# ITU-R BT.601 luma, in thousandths.
_LUMA = (299, 587, 114)
_LUMA_UNIT = 1000
_MEASURED_PX = 256
_BRIGHTNESS = ((85, 170), ("dark", "medium", "bright"))
_CONTRAST = ((32, 64), ("low", "medium", "high"))
_SIZE = ((32, 256), ("small", "medium", "large"))


def slices(pixels: np.ndarray) -> dict[str, str]:
    """The `slice/*` strings of an image.

    Args:
      pixels: (H, W, 3) uint8 RGB, neither side 0.
    """
    height, width = pixels.shape[:2]
    measured = pixels[:: _step(height), :: _step(width)]
    luma = measured.astype(np.int64) @ np.array(_LUMA, np.int64)
    mean = float(luma.sum()) / luma.size
    # Rounding may yield a slightly negative variance for a constant image.
    variance = max(float((luma * luma).sum()) / luma.size - mean * mean, 0.0)
    aspect = "square"
    if 10 * width > 11 * height:
        aspect = "landscape"
    elif 10 * height > 11 * width:
        aspect = "portrait"
    return {
        "slice/brightness": _band(mean / _LUMA_UNIT, *_BRIGHTNESS),
        "slice/contrast": _band(variance**0.5 / _LUMA_UNIT, *_CONTRAST),
        "slice/aspect": aspect,
        "slice/size": _band(min(height, width), *_SIZE),
    }


def slice_tensors(image: "tf.Tensor") -> "dict[str, tf.Tensor]":
    """`slices` as a graph.

    Args:
      image: (H, W, 3) uint8 RGB, neither side 0.

    Returns:
      Key -> () string, equal to `slices` of the same pixels.
    """
    import tensorflow as tf

    shape = tf.shape(image)
    height, width = shape[0], shape[1]
    measured = image[:: _step(height), :: _step(width)]
    weights = tf.constant(_LUMA, tf.int32)
    luma = tf.cast(tf.reduce_sum(tf.cast(measured, tf.int32) * weights, -1), tf.int64)
    count = tf.cast(tf.size(luma), tf.float64)
    mean = tf.cast(tf.reduce_sum(luma), tf.float64) / count
    square = tf.cast(tf.reduce_sum(luma * luma), tf.float64) / count
    deviation = tf.sqrt(tf.maximum(square - mean * mean, 0.0))
    wide = tf.cast(10 * width > 11 * height, tf.int32)
    high = tf.cast(10 * height > 11 * width, tf.int32)
    return {
        "slice/brightness": _band_tensor(mean / _LUMA_UNIT, *_BRIGHTNESS),
        "slice/contrast": _band_tensor(deviation / _LUMA_UNIT, *_CONTRAST),
        "slice/aspect": tf.constant(["square", "landscape", "portrait"])[wide + 2 * high],
        "slice/size": _band_tensor(tf.minimum(height, width), *_SIZE),
    }


def _step(side: "int | tf.Tensor") -> "int | tf.Tensor":
    """The smallest step that selects at most 256 of `side` positions."""
    return (side + _MEASURED_PX - 1) // _MEASURED_PX


def _band(value: float, limits: tuple[int, int], names: tuple[str, str, str]) -> str:
    return names[sum(value >= limit for limit in limits)]


def _band_tensor(
    value: "tf.Tensor", limits: tuple[int, int], names: tuple[str, str, str]
) -> "tf.Tensor":
    import tensorflow as tf

    reached = tf.cast(value >= tf.constant(limits, value.dtype), tf.int32)
    return tf.constant(names)[tf.reduce_sum(reached)]
