"""Color operations of the augmentation policies, computed as Pillow computes them.

The policies were found and published with Pillow, so its arithmetic is the definition: blends are
truncated, gray is ITU-R 601 in 16-bit fixed point. Each takes (H, W, 3) uint8 of a static
shape and a () amount, which some ignore, and returns (H, W, 3) uint8.

Arithmetic on floats serves where a table of 256 values might: `tf.gather` of single bytes takes
five times as long as cast, multiply, clip and cast together. Only `equalize` has no formula.
"""

from typing import Any

import tensorflow as tf

# ITU-R 601-2 luma in units of 1/65536.
_LUMA = (19595, 38470, 7471)
# Pillow's ImageFilter.SMOOTH: ones around a 5, divided by their sum.
_SMOOTH_CENTRE, _SMOOTH_SUM = 5, 13


def gray(image: tf.Tensor) -> tf.Tensor:
    """(H, W) int32 luma in [0, 255]: `Image.convert("L")`."""
    red, green, blue = tf.unstack(tf.cast(image, tf.int32), axis=-1)
    total = red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2] + 2**15
    return tf.bitwise.right_shift(total, 16)


def brightness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """`factor` 0 is black, 1 the image: `ImageEnhance.Brightness`."""
    return _to_uint8(tf.cast(image, tf.float32) * factor)


def contrast(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """`factor` 0 is the mean luma everywhere, 1 the image: `ImageEnhance.Contrast`."""
    mean = tf.floor(tf.reduce_mean(tf.cast(gray(image), tf.float64)) + 0.5)
    return _blend(tf.cast(mean, tf.float32), image, factor)


def color(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """`factor` 0 is gray, 1 the image, more is more saturated: `ImageEnhance.Color`."""
    return _blend(tf.cast(gray(image), tf.float32)[..., None], image, factor)


def sharpness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """`factor` 0 is smoothed, 1 the image, more is sharper: `ImageEnhance.Sharpness`.

    The outermost pixels stay, and so does an image with a side under 3 px.
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
    """255 minus each value: `ImageOps.invert`."""
    return tf.bitwise.invert(image)


def posterize(image: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """The highest `bits` of each value, 0 to 8 (rounded): `ImageOps.posterize`."""
    dropped = 8 - tf.cast(tf.round(bits), tf.int32)
    mask = 256 - tf.bitwise.left_shift(tf.ones_like(dropped), dropped)
    return tf.bitwise.bitwise_and(image, tf.cast(mask, tf.uint8))


def solarize(image: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    """Values from `threshold` on inverted, 0 (all) to 256 (none): `ImageOps.solarize`."""
    start = tf.cast(tf.math.ceil(threshold), tf.int32)
    above = image >= tf.cast(tf.clip_by_value(start, 0, 255), tf.uint8)
    # 256 is no uint8: it is taken for 255, and then nothing is turned over.
    flip = tf.cast(255 * tf.cast(start < 256, tf.int32), tf.uint8)
    return tf.bitwise.bitwise_xor(image, tf.cast(above, tf.uint8) * flip)


def autocontrast(image: tf.Tensor, _: tf.Tensor | None = None) -> tf.Tensor:
    """Each channel stretched to 0..255, a flat one as it is: `ImageOps.autocontrast`.

    Within 1 of Pillow, whose rounding errors take some whole results one down.
    """
    low = tf.cast(tf.reduce_min(image, [0, 1]), tf.float32)
    high = tf.cast(tf.reduce_max(image, [0, 1]), tf.float32)
    flat = high <= low
    scale = tf.where(flat, 1.0, tf.math.divide_no_nan(255.0, high - low))
    # The quotient of two whole numbers up to 255 is whole or at least 1/255 away from it.
    start = tf.where(flat, 0.0, low)
    return _to_uint8((tf.cast(image, tf.float32) - start) * scale + 1e-3)


def equalize(image: tf.Tensor, _: tf.Tensor | None = None) -> tf.Tensor:
    """Each channel's values spread to an even histogram: `ImageOps.equalize`."""
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
    """`Image.blend`: `low` at factor 0, `image` at 1, beyond either elsewhere."""
    return _to_uint8(low + factor * (tf.cast(image, tf.float32) - low))


def _to_uint8(values: tf.Tensor) -> tf.Tensor:
    """Truncated as Pillow does, where `preprocess.to_uint8` rounds."""
    return tf.cast(tf.clip_by_value(values, 0.0, 255.0), tf.uint8)
