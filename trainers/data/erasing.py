"""`random_erasing(p=0.5, area=(0.02, 0.4), aspect=(0.3, 3.333), fill='noise')`."""

from typing import Annotated, Literal

import tensorflow as tf

from trainers.data.augment import augmentations, sides
from trainers.data.entries import Between, Fraction

# Zhong et al. 2017 (Random Erasing), section 4.1: the values of the experiments.
_P, _AREA, _ASPECT = 0.5, (0.02, 0.4), (0.3, 1 / 0.3)
# Number of draws of a shape that fits; all fail once in 10,000 images.
_TRIES = 10


@augmentations.register("random_erasing")
def random_erasing(
    image: tf.Tensor,
    seed: tf.Tensor,
    *,
    p: Fraction = _P,
    area: Annotated[tuple[float, float], Between(0.0, 1.0)] = _AREA,
    aspect: Annotated[tuple[float, float], Between(0.01, 100.0)] = _ASPECT,
    fill: Literal["noise", "black", "mean"] = "noise",
) -> tf.Tensor:
    """The image with one box filled, with probability `p` (Zhong et al. 2017, section 3).

    Args:
      image: (H, W, 3) uint8 with a static shape.
      seed: (2,) int32.
      p: probability, from 0 (never) to 1 (always, unless no drawn shape fits).
      area: minimum and maximum fraction of the image's area.
      aspect: minimum and maximum height / width.
      fill: random values for every pixel and channel, as in the paper; 0; or the channel means.
    """
    height, width = sides(image)
    draws = tf.random.stateless_uniform((2 * _TRIES + 3,), tf.random.fold_in(seed, 0))
    pixels = (area[0] + draws[:_TRIES] * (area[1] - area[0])) * (height * width)
    ratio = aspect[0] + draws[_TRIES : 2 * _TRIES] * (aspect[1] - aspect[0])
    tall = tf.cast(tf.round(tf.sqrt(pixels * ratio)), tf.int32)
    wide = tf.cast(tf.round(tf.sqrt(pixels / ratio)), tf.int32)
    fits = (tall < height) & (wide < width)
    first = tf.argmax(fits)
    size = tf.stack([tall[first], wide[first]])
    free = tf.cast([height, width] - size + 1, tf.float32)
    start = tf.cast(tf.floor(draws[2 * _TRIES + 1 :] * free), tf.int32)
    erase = (draws[2 * _TRIES] < p) & fits[first] & tf.reduce_all(size > 0)
    return tf.cond(erase, lambda: _painted(image, seed, start, size, fill=fill), lambda: image)


def _painted(
    image: tf.Tensor, seed: tf.Tensor, start: tf.Tensor, size: tf.Tensor, *, fill: str
) -> tf.Tensor:
    height, width = sides(image)
    after = [height, width] - start - size
    margins = tf.concat([tf.stack([start, after], 1), [[0, 0]]], 0)
    box = tf.concat([size, [3]], 0)
    # Bitwise operations, because `tf.where` takes several times as long.
    outside = tf.bitwise.invert(tf.pad(tf.fill(box, tf.constant(255, tf.uint8)), margins))
    kept = tf.bitwise.bitwise_and(image, outside)
    if fill == "black":
        return kept
    if fill == "mean":
        mean = tf.round(tf.reduce_mean(tf.cast(image, tf.float32), [0, 1]))
        paint = tf.broadcast_to(tf.cast(mean, tf.uint8), box)
    else:
        noise = tf.random.stateless_uniform(box, tf.random.fold_in(seed, 1), 0, 256, tf.int32)
        paint = tf.cast(noise, tf.uint8)
    return tf.ensure_shape(tf.bitwise.bitwise_or(kept, tf.pad(paint, margins)), image.shape)
