"""MobileNetV2 (arXiv 1801.04381) and MobileNetV3 (arXiv 1905.02244).

An inverted bottleneck expands, filters depthwise, and projects without an activation. V3 adds
squeeze and excitation and hard-swish, and expands again after pooling.
"""

from dataclasses import dataclass
from functools import partial

import tensorflow as tf

from trainers.config import ConfigError
from trainers.keras import keras
from trainers.models.blocks import (
    activate,
    conv_bn,
    depthwise_bn,
    squeeze_excite,
    stochastic_depth,
)
from trainers.registry import models

_V3_EPSILON = 1e-3  # as in torchvision; V2 has 1e-5


@dataclass(frozen=True)
class Bottleneck:
    """One row of the tables of the papers.

    Attributes:
      kernel: side of the depthwise filters in pixels.
      hidden: channels after the expansion, which is omitted if the input has as many.
      out: channels after the projection.
      stride: stride of the depthwise convolution.
      activation: activation of all convolutions except the last, one of
        `trainers.models.blocks.ACTIVATIONS`.
      squeeze: whether squeeze and excitation follows the depthwise convolution.
      epsilon: epsilon of the batch normalizations.
      same: use TensorFlow's padding `same` with a stride; see `trainers.models.blocks.conv_bn`.
      drop_path: rate of stochastic depth, in [0, 1).
    """

    kernel: int
    hidden: int
    out: int
    stride: int
    activation: str = "relu6"
    squeeze: bool = False
    epsilon: float = 1e-5
    same: bool = False
    drop_path: float = 0.0


@models.register("mobilenet_v2")
def mobilenet_v2(images: tf.Tensor, *, width: float = 1.0, depth: int = 0) -> tf.Tensor:
    """The pooled features of MobileNetV2 (Sandler et al. 2018, table 2).

    Args:
      images: (B, H, W, 3) float32, normalized.
      width: multiplier of all channels, rounded to multiples of 8; the last convolution has at
        least 1,280.
      depth: number of bottlenecks, the first ones of 17; 0 for all.

    Returns:
      (B, F) float32 features.

    Raises:
      ConfigError: `width` or `depth` is out of range.
    """
    rows = [
        (factor, out, 1 if index else stride)
        for factor, out, count, stride in _V2_STAGES
        for index in range(count)
    ]
    _check(width, depth, len(rows))
    x = conv_bn(images, eights(32 * width), 3, stride=2, activation="relu6", name="stem")
    for number, (factor, out, stride) in enumerate(rows[: depth or None], start=1):
        row = Bottleneck(3, x.shape[-1] * factor, eights(out * width), stride)
        x = bottleneck(x, row, f"block{number}")
    x = conv_bn(x, eights(1280 * max(width, 1.0)), 1, activation="relu6", name="last")
    return keras.layers.GlobalAveragePooling2D(name="pool")(x)


# (expansion, channels, blocks, stride of the first block)
_V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v3(size: str, images: tf.Tensor, *, width: float = 1.0, depth: int = 0) -> tf.Tensor:
    """The features of MobileNetV3 before the classifier (Howard et al. 2019, tables 1 and 2).

    Args:
      size: `large` or `small`.
      images: (B, H, W, 3) float32, normalized.
      width: multiplier of all channels except the last layer's, rounded to multiples of 8.
      depth: number of bottlenecks, the first ones of 15 (large) or 11 (small); 0 for all.

    Returns:
      (B, F) float32 features.

    Raises:
      ConfigError: `width` or `depth` is out of range.
    """
    rows = _V3_BLOCKS[size]
    _check(width, depth, len(rows))
    x = _v3_conv(images, eights(16 * width), 3, stride=2, name="stem")
    for number, (kernel, hidden, out, stride, extras) in enumerate(rows[: depth or None], start=1):
        row = Bottleneck(
            kernel,
            eights(hidden * width),
            eights(out * width),
            stride,
            activation="hard_swish" if "h" in extras else "relu",
            squeeze="s" in extras,
            epsilon=_V3_EPSILON,
        )
        x = bottleneck(x, row, f"block{number}")
    x = _v3_conv(x, 6 * x.shape[-1], 1, stride=1, name="last")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.Dense(1280 if size == "large" else 1024, name="features")(x)
    return activate(x, "hard_swish", name="features")


# (kernel, expanded channels, channels, stride, extras: h is hard-swish, s squeeze and excitation)
_V3_BLOCKS = {
    "large": (
        (3, 16, 16, 1, ""),
        (3, 64, 24, 2, ""),
        (3, 72, 24, 1, ""),
        (5, 72, 40, 2, "s"),
        (5, 120, 40, 1, "s"),
        (5, 120, 40, 1, "s"),
        (3, 240, 80, 2, "h"),
        (3, 200, 80, 1, "h"),
        (3, 184, 80, 1, "h"),
        (3, 184, 80, 1, "h"),
        (3, 480, 112, 1, "hs"),
        (3, 672, 112, 1, "hs"),
        (5, 672, 160, 2, "hs"),
        (5, 960, 160, 1, "hs"),
        (5, 960, 160, 1, "hs"),
    ),
    "small": (
        (3, 16, 16, 2, "s"),
        (3, 72, 24, 2, ""),
        (3, 88, 24, 1, ""),
        (5, 96, 40, 2, "hs"),
        (5, 240, 40, 1, "hs"),
        (5, 240, 40, 1, "hs"),
        (5, 120, 48, 1, "hs"),
        (5, 144, 48, 1, "hs"),
        (5, 288, 96, 2, "hs"),
        (5, 576, 96, 1, "hs"),
        (5, 576, 96, 1, "hs"),
    ),
}

for _size in _V3_BLOCKS:
    models.register(f"mobilenet_v3_{_size}")(partial(mobilenet_v3, _size))


def _check(width: float, depth: int, deepest: int) -> None:
    if not width > 0 or not 0 <= depth <= deepest:
        raise ConfigError(
            f"mobilenet needs width > 0 (1.0 in the paper) and depth in [0, {deepest}] (0 for "
            f"all), got width={width}, depth={depth}"
        )


def eights(channels: float) -> int:
    """The nearest multiple of 8, at least 8 and at least 90 % of `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def _v3_conv(x: tf.Tensor, filters: int, kernel: int, *, stride: int, name: str) -> tf.Tensor:
    return conv_bn(
        x,
        filters,
        kernel,
        stride=stride,
        activation="hard_swish",
        epsilon=_V3_EPSILON,
        name=name,
    )


def bottleneck(x: tf.Tensor, row: Bottleneck, name: str) -> tf.Tensor:
    """The output of an inverted bottleneck, added to its input if the shapes agree.

    Args:
      x: (B, H, W, C).
      row: the configuration of the bottleneck.
      name: prefix of the names of layers: `NAME_up`, `NAME_depthwise`, `NAME_down`.

    Returns:
      (B, ceil(H / stride), ceil(W / stride), row.out).
    """
    y, style = x, {"activation": row.activation, "epsilon": row.epsilon}
    if row.hidden != x.shape[-1]:
        y = conv_bn(y, row.hidden, 1, name=f"{name}_up", **style)
    y = depthwise_bn(
        y, row.kernel, stride=row.stride, same=row.same, name=f"{name}_depthwise", **style
    )
    if row.squeeze:
        hidden = eights(row.hidden / 4)
        y = squeeze_excite(y, hidden, gate="hard_sigmoid", name=f"{name}_se")
    y = conv_bn(y, row.out, 1, epsilon=row.epsilon, name=f"{name}_down")
    if row.stride == 1 and x.shape[-1] == row.out:
        y = stochastic_depth(y, row.drop_path, name=name)
        return keras.layers.Add(name=f"{name}_add")([x, y])
    return y
