"""Color operations of the augmentation policies, with the arithmetic of Pillow.

The policies were published with Pillow, which is therefore the reference: blends are truncated,
gray is ITU-R 601 in 16-bit fixed point. Each operation takes (H, W, 3) uint8 with a static shape
and a () amount, which some ignore, and returns (H, W, 3) uint8.

Float arithmetic is used instead of lookup tables, because `tf.gather` of single bytes takes five
times as long as cast, multiply, clip and cast. Only `equalize` needs a table.
"""

from typing import Any

import tensorflow as tf

# ITU-R 601-2 luma in units of 1/65536.
_LUMA = (19595, 38470, 7471)
# Pillow's ImageFilter.SMOOTH: a kernel of ones around a 5, normalized.
_SMOOTH_CENTRE, _SMOOTH_SUM = 5, 13


def gray(image: tf.Tensor) -> tf.Tensor:
    """(H, W) int32 luma in [0, 255]: `Image.convert("L")`."""
    red, green, blue = tf.unstack(tf.cast(image, tf.int32), axis=-1)
    total = red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2] + 2**15
    return tf.bitwise.right_shift(total, 16)


def brightness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """`ImageEnhance.Brightness`: factor 0 is black, 1 the image."""
    return _to_uint8(tf.cast(image, tf.float32) * factor)


def contrast(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """`ImageEnhance.Contrast`: factor 0 is the mean luma, 1 the image."""
    mean = tf.floor(tf.reduce_mean(tf.cast(gray(image), tf.float64)) + 0.5)
    return _blend(tf.cast(mean, tf.float32), image, factor)


def color(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """`ImageEnhance.Color`: factor 0 is gray, 1 the image, higher factors saturate."""
    return _blend(tf.cast(gray(image), tf.float32)[..., None], image, factor)


def sharpness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """`ImageEnhance.Sharpness`: factor 0 is smooth, 1 the image, higher factors sharpen.

    The outermost pixels and images with a side under 3 px do not change.
    """
    shape: Any = image.shape
    if min(shape[0], shape[1]) < 3:
        return image
    values = tf.cast(image, tf.int16)
    rows = values[:-2] + values[1:-1] + values[2:]
    box = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    center = values[1:-1, 1:-1]
    weighted = tf.cast(box + (_SMOOTH_CENTRE - 1) * center, tf.float32)
    smooth = tf.floor(weighted / _SMOOTH_SUM + 0.5)
    change = tf.pad(smooth - tf.cast(center, tf.float32), [[1, 1], [1, 1], [0, 0]])
    return _blend(tf.cast(image, tf.float32) + change, image, factor)


def invert(image: tf.Tensor, _: tf.Tensor | None = None) -> tf.Tensor:
    """`ImageOps.invert`: 255 minus each value."""
    return tf.bitwise.invert(image)


def posterize(image: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """`ImageOps.posterize`: the highest `bits` (0 to 8, rounded) of each value."""
    dropped = 8 - tf.cast(tf.round(bits), tf.int32)
    mask = 256 - tf.bitwise.left_shift(tf.ones_like(dropped), dropped)
    return tf.bitwise.bitwise_and(image, tf.cast(mask, tf.uint8))


def solarize(image: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    """`ImageOps.solarize`: inverts values from `threshold`, 0 (all) to 256 (none)."""
    start = tf.cast(tf.math.ceil(threshold), tf.int32)
    above = image >= tf.cast(tf.clip_by_value(start, 0, 255), tf.uint8)
    # 256 does not fit into uint8: use 255 and invert nothing.
    flip = tf.cast(255 * tf.cast(start < 256, tf.int32), tf.uint8)
    return tf.bitwise.bitwise_xor(image, tf.cast(above, tf.uint8) * flip)


def autocontrast(image: tf.Tensor, _: tf.Tensor | None = None) -> tf.Tensor:
    """`ImageOps.autocontrast`: stretches each channel to 0..255, except for constant ones.

    Differs from Pillow by at most 1, because of Pillow's rounding errors.
    """
    low = tf.cast(tf.reduce_min(image, [0, 1]), tf.float32)
    high = tf.cast(tf.reduce_max(image, [0, 1]), tf.float32)
    flat = high <= low
    scale = tf.where(flat, 1.0, tf.math.divide_no_nan(255.0, high - low))
    # A quotient of two integers up to 255 is an integer or at least 1/255 away from one.
    start = tf.where(flat, 0.0, low)
    return _to_uint8((tf.cast(image, tf.float32) - start) * scale + 1e-3)


def equalize(image: tf.Tensor, _: tf.Tensor | None = None) -> tf.Tensor:
    """`ImageOps.equalize`: equalizes the histogram of each channel."""
    values = tf.cast(image, tf.int32)
    counts = tf.raw_ops.DenseBincount(
        input=tf.transpose(tf.reshape(values, [-1, 3])), size=256, weights=tf.zeros((0,), tf.int32)
    )
    highest = tf.reduce_max(tf.where(counts > 0, tf.range(256), 0), axis=1)
    last = tf.gather(counts, highest, batch_dims=1)
    step = (tf.reduce_sum(counts, axis=1) - last) // 255
    below = tf.cumsum(counts, axis=1, exclusive=True)
    spread = (below + step[:, None] // 2) // tf.maximum(step, 1)[:, None]
    table = tf.where(step[:, None] > 0, tf.minimum(spread, 255), tf.range(256))
    flat = tf.reshape(tf.cast(table, tf.uint8), [-1])
    return tf.gather(flat, values + tf.constant([0, 256, 512]))


def _blend(low: tf.Tensor, image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """`Image.blend`: `low` at factor 0, `image` at 1, extrapolated outside of [0, 1]."""
    return _to_uint8(low + factor * (tf.cast(image, tf.float32) - low))


def _to_uint8(values: tf.Tensor) -> tf.Tensor:
    """Values truncated to uint8 as in Pillow; `preprocess.to_uint8` rounds."""
    return tf.cast(tf.clip_by_value(values, 0.0, 255.0), tf.uint8)
