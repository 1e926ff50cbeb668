"""GoogLeNet (Szegedy et al. 2015, arXiv 1409.4842, table 1) with batch normalization.

As in torchvision. The two auxiliary classifiers are omitted: only training uses them, and their
authors found later that with batch normalization they are regularizers without which the network
trains as well (Szegedy et al. 2016, arXiv 1512.00567, section 4). Local response normalization is
omitted too; batch normalization replaces it.
"""

from typing import NamedTuple

import tensorflow as tf

from trainers.config import ConfigError
from trainers.keras import keras
from trainers.models.blocks import conv_bn
from trainers.models.mobilenet import eights
from trainers.registry import models

_EPSILON = 1e-3  # as in torchvision
_BIG_INPUT = 64  # pixels: below, the first convolution has no stride


class Inception(NamedTuple):
    """Channels of the convolutions of a module, in the columns of table 1."""

    one: int
    three_reduce: int
    three: int
    five_reduce: int
    five: int
    pool: int


# Modules of the three stages; a pooling precedes each stage.
_STAGES = {
    3: {"a": Inception(64, 96, 128, 16, 32, 32), "b": Inception(128, 128, 192, 32, 96, 64)},
    4: {
        "a": Inception(192, 96, 208, 16, 48, 64),
        "b": Inception(160, 112, 224, 24, 64, 64),
        "c": Inception(128, 128, 256, 24, 64, 64),
        "d": Inception(112, 144, 288, 32, 64, 64),
        "e": Inception(256, 160, 320, 32, 128, 128),
    },
    5: {"a": Inception(256, 160, 320, 32, 128, 128), "b": Inception(384, 192, 384, 48, 128, 128)},
}


@models.register("googlenet")
def googlenet(images: tf.Tensor, *, width: float = 1.0, kernel: int = 3) -> tf.Tensor:
    """The pooled features of GoogLeNet.

    Below 64 pixels, the first convolution has stride 1, so that 32 pixels leave a map of 2x2; the
    weights are the same at every size. `model.dropout` is 0.4 in the paper and 0.2 in torchvision.

    Args:
      images: (B, H, W, 3) float32, normalized.
      width: multiplier of all channels, rounded to multiples of 8.
      kernel: side in pixels of the larger filters of a module: 5 in the paper (7.01 M parameters
        and 1.58 GMAC), 3 in torchvision (6.62 M and 1.50 GMAC) and its weights.

    Returns:
      (B, F) float32 features; F is 1,024 for width 1.

    Raises:
      ConfigError: an option is out of range.
    """
    if not width > 0 or kernel not in (3, 5):
        raise ConfigError(
            "googlenet needs width > 0 (1.0 in the paper) and kernel 3 (torchvision) or 5 (paper), "
            f"got width={width}, kernel={kernel}"
        )
    stride = 2 if min(images.shape[1], images.shape[2]) >= _BIG_INPUT else 1
    x = _conv(images, eights(64 * width), 7, stride=stride, name="conv1")
    x = _halved(x, 3, "pool1")
    x = _conv(x, eights(64 * width), 1, name="conv2_reduce")
    x = _conv(x, eights(192 * width), 3, name="conv2")
    for stage, modules in _STAGES.items():
        # The paper has 3x3 before the last stage too.
        x = _halved(x, 2 if stage == 5 else 3, f"pool{stage - 1}")
        for letter, channels in modules.items():
            scaled = Inception(*(eights(one * width) for one in channels))
            x = _inception(x, scaled, kernel, f"inception{stage}{letter}")
    return keras.layers.GlobalAveragePooling2D(name="pool")(x)


def _inception(x: tf.Tensor, channels: Inception, kernel: int, name: str) -> tf.Tensor:
    """Four branches, concatenated (figure 2b): (B, H, W, C) -> (B, H, W, sum of the outputs)."""
    pooled = keras.layers.MaxPooling2D(3, 1, padding="same", name=f"{name}_pool")(x)
    three = _conv(x, channels.three_reduce, 1, name=f"{name}_3x3_reduce")
    five = _conv(x, channels.five_reduce, 1, name=f"{name}_5x5_reduce")
    branches = [
        _conv(x, channels.one, 1, name=f"{name}_1x1"),
        _conv(three, channels.three, 3, name=f"{name}_3x3"),
        _conv(five, channels.five, kernel, name=f"{name}_5x5"),
        _conv(pooled, channels.pool, 1, name=f"{name}_pool_proj"),
    ]
    return keras.layers.Concatenate(name=f"{name}_concat")(branches)


def _conv(x: tf.Tensor, filters: int, kernel: int, *, name: str, stride: int = 1) -> tf.Tensor:
    return conv_bn(
        x, filters, kernel, stride=stride, activation="relu", epsilon=_EPSILON, name=name
    )


def _halved(x: tf.Tensor, kernel: int, name: str) -> tf.Tensor:
    """The map at half its size, rounded up; padded at the end, if even, as in torchvision."""
    return keras.layers.MaxPooling2D(kernel, 2, padding="same", name=name)(x)
