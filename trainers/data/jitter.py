"""Augmentations that change colors at random.

| entry with its defaults | effect |
|---|---|
| color_jitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0) | all four, in this order |
| grayscale(p=0.2) | three equal gray channels, with probability p |
"""

from typing import Annotated

import tensorflow as tf

from trainers.data import color
from trainers.data.augment import augmentations
from trainers.data.entries import Between, Fraction


@augmentations.register("color_jitter")
def color_jitter(
    image: tf.Tensor,
    seed: tf.Tensor,
    *,
    brightness: Fraction = 0.4,
    contrast: Fraction = 0.4,
    saturation: Fraction = 0.4,
    hue: Annotated[float, Between(0.0, 0.5)] = 0.0,
) -> tf.Tensor:
    """The image with random brightness, contrast, saturation (times 1 - x to 1 + x) and hue.

    Args:
      image: (H, W, 3) uint8.
      seed: (2,) int32.
      brightness: maximum change; 0 for no change, as for the others.
      contrast: maximum change, relative to the mean luma.
      saturation: maximum change, relative to the luma of each pixel.
      hue: maximum rotation, as a fraction of the color circle.
    """
    draws = tf.random.stateless_uniform((4,), seed, -1.0, 1.0)
    steps = ((color.brightness, brightness), (color.contrast, contrast))
    for position, (op, amount) in enumerate((*steps, (color.color, saturation))):
        if amount:
            image = op(image, 1.0 + amount * draws[position])
    if hue:
        image = tf.image.adjust_hue(image, hue * draws[3])
    return image


@augmentations.register("grayscale")
def grayscale(image: tf.Tensor, seed: tf.Tensor, *, p: Fraction = 0.2) -> tf.Tensor:
    """The image, converted to three equal luma channels with probability `p`.

    Args:
      image: (H, W, 3) uint8.
      seed: (2,) int32.
      p: probability.
    """
    return tf.cond(
        tf.random.stateless_uniform((), seed) < p,
        lambda: tf.repeat(tf.cast(color.gray(image), tf.uint8)[..., None], 3, axis=-1),
        lambda: image,
    )
