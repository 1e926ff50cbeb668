"""Augmentation policies: random color and geometric operations for each image.

| entry with its defaults | effect |
|---|---|
| rand_augment(layers=2, magnitude=9) | the given number of 14 operations at one magnitude |
| auto_augment(policy='imagenet') | one of 25 learned pairs; also 'cifar10' |
| trivial_augment | one of 14 operations at a random magnitude, over a wider range |

The layers of the same names in keras-cv use a stateful generator, so the pixels of an image depend
on earlier draws; they cannot be used here.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import tensorflow as tf

from trainers.data import color, geometry
from trainers.data.augment import augmentations, sides
from trainers.data.entries import Between


def _identity(image: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
    return image


_OPS = {
    "identity": _identity,
    "autocontrast": color.autocontrast,
    "equalize": color.equalize,
    "rotate": geometry.rotate,
    "solarize": color.solarize,
    "color": color.color,
    "posterize": color.posterize,
    "contrast": color.contrast,
    "brightness": color.brightness,
    "sharpness": color.sharpness,
    "shear_x": geometry.shear_x,
    "shear_y": geometry.shear_y,
    "translate_x": geometry.translate_x,
    "translate_y": geometry.translate_y,
    "invert": color.invert,
}
_NAMES = tuple(_OPS)
# Cubuk et al. 2019 (RandAugment), section 3: 14 operations, AutoAugment's minus invert plus
# identity.
_RANDOM_OPS = tuple(name for name in _NAMES if name != "invert")
_ENHANCE = ("color", "contrast", "brightness", "sharpness")

# Cubuk et al. 2018 (AutoAugment), table 6: ranges of magnitudes, translations for 331 px.
_SHEAR, _ROTATE_DEGREES, _TRANSLATE = 0.3, 30.0, 150 / 331
_STRONGEST = 10
# Mueller & Hutter 2021 (TrivialAugment), table 2: the wide space with 31 magnitudes.
_WIDE_SHEAR, _WIDE_ROTATE_DEGREES, _WIDE_TRANSLATE_PX, _WIDE_STEPS = 0.99, 135.0, 32.0, 30


class _Range(NamedTuple):
    """The amount at magnitude s: `start + slope s`, with a random sign if `signed`."""

    start: float = 0.0
    slope: float = 0.0
    signed: bool = False
    least: float = -1e9


# Table 7 of the AutoAugment paper: operation, probability and, if any, magnitude.
_CIFAR10 = """
invert 0.1, contrast 0.2 6; rotate 0.7 2, translate_x 0.3 9; sharpness 0.8 1, sharpness 0.9 3;
shear_y 0.5 8, translate_y 0.7 9; autocontrast 0.5, equalize 0.9; shear_y 0.2 7, posterize 0.3 7;
color 0.4 3, brightness 0.6 7; sharpness 0.3 9, brightness 0.7 9; equalize 0.6, equalize 0.5;
contrast 0.6 7, sharpness 0.6 5; color 0.7 7, translate_x 0.5 8; equalize 0.3, autocontrast 0.4;
translate_y 0.4 3, sharpness 0.2 6; brightness 0.9 6, color 0.2 8; solarize 0.5 2, invert 0.0;
equalize 0.2, autocontrast 0.6; equalize 0.2, equalize 0.6; color 0.9 9, equalize 0.6;
autocontrast 0.8, solarize 0.2 8; brightness 0.1 3, color 0.7 0; solarize 0.4 5, autocontrast 0.9;
translate_y 0.9 9, translate_y 0.7 9; autocontrast 0.9, solarize 0.8 3; equalize 0.8, invert 0.1;
translate_y 0.7 9, autocontrast 0.9
"""
# Table 9; some pairs appear more than once.
_IMAGENET = """
posterize 0.4 8, rotate 0.6 9; solarize 0.6 5, autocontrast 0.6; equalize 0.8, equalize 0.6;
posterize 0.6 7, posterize 0.6 6; equalize 0.4, solarize 0.2 4; equalize 0.4, rotate 0.8 8;
solarize 0.6 3, equalize 0.6; posterize 0.8 5, equalize 1.0; rotate 0.2 3, solarize 0.6 8;
equalize 0.6, posterize 0.4 6; rotate 0.8 8, color 0.4 0; rotate 0.4 9, equalize 0.6;
equalize 0.0, equalize 0.8; invert 0.6, equalize 1.0; color 0.6 4, contrast 1.0 8;
rotate 0.8 8, color 1.0 2; color 0.8 8, solarize 0.8 7; sharpness 0.4 7, invert 0.6;
shear_x 0.6 5, equalize 1.0; color 0.4 0, equalize 0.6; equalize 0.4, solarize 0.2 4;
solarize 0.6 5, autocontrast 0.6; invert 0.6, equalize 1.0; color 0.6 4, contrast 1.0 8;
equalize 0.8, equalize 0.6
"""


@augmentations.register("rand_augment")
def rand_augment(
    image: tf.Tensor,
    seed: tf.Tensor,
    *,
    layers: Annotated[int, Between(1, 10)] = 2,
    magnitude: Annotated[float, Between(0.0, 30.0)] = 9.0,
) -> tf.Tensor:
    """The image after `layers` random operations of 14 (Cubuk et al. 2019, section 3).

    Args:
      image: (H, W, 3) uint8 with a static shape.
      seed: (2,) int32.
      layers: number of operations.
      magnitude: magnitude of all operations: 0 has no effect except for autocontrast and equalize,
        10 is the maximum of AutoAugment; the paper uses up to 30 for large networks. Directions
        (left or right, brighter or darker) are random.
    """
    ranges = _ranges(image, wide=False)
    draws = tf.random.stateless_uniform((layers, 2), seed)
    ops = tf.cast(draws[:, 0] * len(_RANDOM_OPS), tf.int32)
    for layer in range(layers):
        strength = tf.constant(magnitude / _STRONGEST)
        amount = _amount(ranges, ops[layer], strength, draws[layer, 1])
        image = _apply(image, ops[layer], amount, names=_RANDOM_OPS)
    return image


@augmentations.register("trivial_augment")
def trivial_augment(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """The image after one operation of RandAugment at one of 31 magnitudes of the wide space.

    Args:
      image: (H, W, 3) uint8 with a static shape.
      seed: (2,) int32.
    """
    draws = tf.random.stateless_uniform((3,), seed)
    op = tf.cast(draws[0] * len(_RANDOM_OPS), tf.int32)
    strength = tf.floor(draws[1] * (_WIDE_STEPS + 1)) / _WIDE_STEPS
    amount = _amount(_ranges(image, wide=True), op, strength, draws[2])
    return _apply(image, op, amount, names=_RANDOM_OPS)


@augmentations.register("auto_augment")
def auto_augment(
    image: tf.Tensor, seed: tf.Tensor, *, policy: Literal["imagenet", "cifar10"] = "imagenet"
) -> tf.Tensor:
    """The image after one of the 25 pairs of a learned policy (Cubuk et al. 2018, appendix).

    Magnitudes are tenths of the ranges in table 6; higher ones make posterize and solarize
    stronger, as in the published code for CIFAR-10.

    Args:
      image: (H, W, 3) uint8 with a static shape.
      seed: (2,) int32.
      policy: the data set on which the policy was learned.
    """
    pairs = _parse(_IMAGENET if policy == "imagenet" else _CIFAR10)
    draws = tf.random.stateless_uniform((5,), seed)
    chosen = tf.gather(tf.constant(pairs), tf.cast(draws[0] * len(pairs), tf.int32))
    ranges = {**_ranges(image, wide=False), **dict.fromkeys(_ENHANCE, _Range(0.1, 1.8))}
    for step in range(2):
        op = tf.cast(chosen[step, 0], tf.int32)
        amount = _amount(ranges, op, chosen[step, 2] / _STRONGEST, draws[3 + step])
        # Operation 0 is the identity, for operations that are not applied.
        op = tf.where(draws[1 + step] < chosen[step, 1], op, 0)
        image = _apply(image, op, amount, names=_NAMES)
    return image


def _parse(table: str) -> list[list[tuple[float, float, float]]]:
    """For each pair, two of (index in `_NAMES`, probability, magnitude)."""
    pairs = [[step.split() for step in pair.split(",")] for pair in table.split(";")]
    return [
        [(_NAMES.index(name), float(p), float(*magnitude)) for name, p, *magnitude in pair]
        for pair in pairs
    ]


def _ranges(image: tf.Tensor, *, wide: bool) -> dict[str, _Range]:
    """Operation -> its amounts at magnitudes from 0 (no effect) to 1."""
    height, width = sides(image)
    shear, degrees = (_WIDE_SHEAR, _WIDE_ROTATE_DEGREES) if wide else (_SHEAR, _ROTATE_DEGREES)
    across = _WIDE_TRANSLATE_PX if wide else _TRANSLATE * width
    down = _WIDE_TRANSLATE_PX if wide else _TRANSLATE * height
    enhance = _Range(1.0, 0.99 if wide else 0.9, signed=True, least=0.0)
    return {
        "rotate": _Range(0.0, degrees, signed=True),
        "solarize": _Range(256.0, -256.0, least=0.0),
        "posterize": _Range(8.0, -6.0 if wide else -4.0, least=1.0),
        "shear_x": _Range(0.0, shear, signed=True),
        "shear_y": _Range(0.0, shear, signed=True),
        "translate_x": _Range(0.0, across, signed=True),
        "translate_y": _Range(0.0, down, signed=True),
        **dict.fromkeys(_ENHANCE, enhance),
    }


def _amount(
    ranges: dict[str, _Range], op: tf.Tensor, strength: tf.Tensor, draw: tf.Tensor
) -> tf.Tensor:
    """() float32 amount of the `op`-th of `_NAMES`; negative if `draw` is below 0.5."""
    rows = tf.constant([tuple(map(float, ranges.get(name, _Range()))) for name in _NAMES])
    start, slope, signed, least = tf.unstack(rows[op])
    sign = tf.where(draw < 0.5, 1.0 - 2.0 * signed, 1.0)
    return tf.maximum(start + sign * slope * strength, least)


def _apply(
    image: tf.Tensor, op: tf.Tensor, amount: tf.Tensor, *, names: Sequence[str]
) -> tf.Tensor:
    """`image` after the `op`-th of `names`; in a graph, only this operation runs."""

    def branch(name: str) -> Any:
        return lambda: tf.ensure_shape(_OPS[name](image, amount), image.shape)

    return tf.switch_case(op, [branch(name) for name in names])
