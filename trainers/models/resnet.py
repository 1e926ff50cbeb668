"""Residual networks (He et al. 2016, arXiv 1512.03385) with ImageNet and CIFAR depths.

`resnet18/34/50/101/152` follow table 1: a 7x7 stem, max pooling, and four stages.
`resnet8/14/20/32/44/56` follow section 4.2 (6n + 2 layers): a 3x3 stem and three stages, for
images of 16 to 64 pixels. Shortcuts are projections (option B), because the padded channels of
option A cannot be quantized. Blocks are post-activation.
"""

from dataclasses import dataclass
from functools import partial

import tensorflow as tf

from trainers.config import ConfigError
from trainers.keras import keras
from trainers.models.blocks import conv_bn, drop_rates, stochastic_depth
from trainers.registry import models


@dataclass(frozen=True)
class ResNetLayout:
    """The layout of a depth.

    Attributes:
      blocks: number of residual blocks of each stage; each stage doubles the channels.
      width: channels of the first stage, before the expansion of bottlenecks by 4.
      bottleneck: whether blocks are 1x1, 3x3, 1x1 instead of two 3x3.
      imagenet: whether the stem is 7x7 with stride 2 and max pooling instead of one 3x3.
    """

    blocks: tuple[int, ...]
    width: int
    bottleneck: bool
    imagenet: bool


LAYOUTS = {
    **{
        6 * n + 2: ResNetLayout((n, n, n), 16, bottleneck=False, imagenet=False)
        for n in (1, 2, 3, 5, 7, 9)
    },
    18: ResNetLayout((2, 2, 2, 2), 64, bottleneck=False, imagenet=True),
    34: ResNetLayout((3, 4, 6, 3), 64, bottleneck=False, imagenet=True),
    50: ResNetLayout((3, 4, 6, 3), 64, bottleneck=True, imagenet=True),
    101: ResNetLayout((3, 4, 23, 3), 64, bottleneck=True, imagenet=True),
    152: ResNetLayout((3, 8, 36, 3), 64, bottleneck=True, imagenet=True),
}


@dataclass(frozen=True)
class _Style:
    """The common options of blocks."""

    bottleneck: bool
    stride_first: bool
    zero_init: bool
    bias: bool
    average: bool


def resnet(
    layout: ResNetLayout,
    images: tf.Tensor,
    *,
    width: int = 0,
    variant: str = "v1.5",
    zero_init: bool = True,
    bias: bool = False,
    stem_pool: bool = False,
    drop_path: float = 0.0,
) -> tf.Tensor:
    """The pooled features of a residual network.

    Args:
      layout: layout of the depth.
      images: (B, H, W, 3) float32, normalized.
      width: channels of the first stage; 0 for the layout's width.
      variant: the position of the stride in a bottleneck: `v1` for the first 1x1 (the paper),
        `v1.5` for the 3x3 (half a point better, 5 % slower); no difference for basic blocks. `d` is
        v1.5 with three 3x3 instead of the 7x7, and average pooling before the projection of
        shortcuts (He et al. 2019, arXiv 1812.01187, figure 2), as in `resnet50d`.
      zero_init: initialize the last gamma of each block with 0, so that blocks are initially
        identities (Goyal et al. 2017, section 5.1).
      bias: whether convolutions have a bias, as in `keras.applications`; the normalization cancels
        it.
      stem_pool: whether small-image depths halve the map by pooling after the stem. With twice the
        width, this has the same cost and learns faster in short runs; other depths always pool.
      drop_path: stochastic depth of the last block, rising from 0 at the first, in [0, 1).

    Returns:
      (B, F) float32 features.

    Raises:
      ConfigError: `variant`, `width` or `drop_path` is out of range.
    """
    options = {"variant": variant, "zero_init": zero_init, "bias": bias, "drop_path": drop_path}
    x = trunk(layout, images, width=width, stem_pool=stem_pool, **options)
    return keras.layers.GlobalAveragePooling2D(name="pool")(x)


def trunk(
    layout: ResNetLayout,
    images: tf.Tensor,
    *,
    width: int,
    variant: str,
    zero_init: bool,
    bias: bool,
    drop_path: float,
    stem_pool: bool = False,
) -> tf.Tensor:
    """The last map of `resnet`, with the same arguments: (B, H', W', F)."""
    if variant not in ("v1", "v1.5", "d") or width < 0:
        raise ConfigError(
            "resnet needs variant v1, v1.5 or d and width >= 0 (0 for the default), got "
            f"variant={variant!r}, width={width}"
        )
    style = _Style(layout.bottleneck, variant == "v1", zero_init, bias, variant == "d")
    width = width or layout.width
    rates = iter(drop_rates(drop_path, sum(layout.blocks), model="resnet"))
    x = _stem(images, width, layout=layout, deep=variant == "d", bias=bias)
    if stem_pool and not layout.imagenet:
        x = keras.layers.MaxPooling2D(2, name="stem_pool")(x)
    for stage, blocks in enumerate(layout.blocks):
        for index in range(blocks):
            name = f"stage{stage + 1}_block{index + 1}"
            block = _Block(name, width * 2**stage, 2 if stage and not index else 1, next(rates))
            x = _residual(x, block, style)
    return x


for _depth, _layout in LAYOUTS.items():
    models.register(f"resnet{_depth}")(partial(resnet, _layout))
    if _layout.imagenet:
        models.register(f"resnet{_depth}d")(partial(resnet, _layout, variant="d"))


@dataclass(frozen=True)
class _Block:
    """One block: its name, channels before expansion, stride and rate of stochastic depth."""

    name: str
    width: int
    stride: int
    drop: float


def _stem(
    images: tf.Tensor, width: int, *, layout: ResNetLayout, deep: bool, bias: bool
) -> tf.Tensor:
    if not layout.imagenet:
        return conv_bn(images, width, 3, bias=bias, activation="relu", name="stem")
    if deep:
        half = max(width // 2, 1)
        x = conv_bn(images, half, 3, stride=2, bias=bias, activation="relu", name="stem_1")
        x = conv_bn(x, half, 3, bias=bias, activation="relu", name="stem_2")
        x = conv_bn(x, width, 3, bias=bias, activation="relu", name="stem")
    else:
        x = conv_bn(images, width, 7, stride=2, bias=bias, activation="relu", name="stem")
    # Values after ReLU are not negative, so zero padding does not affect the maximum.
    x = keras.layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
    return keras.layers.MaxPooling2D(3, 2, name="stem_pool")(x)


def _residual(x: tf.Tensor, block: _Block, style: _Style) -> tf.Tensor:
    """One residual block; the shortcut is projected if the shape changes (option B)."""
    name = block.name
    out = block.width * 4 if style.bottleneck else block.width
    shortcut = _shortcut(x, out, block, style)
    kernels = (1, 3, 1) if style.bottleneck else (3, 3)
    strided = 0 if style.stride_first or not style.bottleneck else 1
    for index, kernel in enumerate(kernels):
        last = index == len(kernels) - 1
        x = conv_bn(
            x,
            out if last else block.width,
            kernel,
            stride=block.stride if index == strided else 1,
            bias=style.bias,
            gamma="zeros" if last and style.zero_init else "ones",
            activation="" if last else "relu",
            name=f"{name}_{index + 1}",
        )
    x = stochastic_depth(x, block.drop, name=name)
    x = keras.layers.Add(name=f"{name}_add")([shortcut, x])
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def _shortcut(x: tf.Tensor, out: int, block: _Block, style: _Style) -> tf.Tensor:
    stride, name = block.stride, f"{block.name}_shortcut"
    if stride == 1 and x.shape[-1] == out:
        return x
    if style.average and stride > 1:
        x, stride = keras.layers.AveragePooling2D(2, padding="same", name=f"{name}_pool")(x), 1
    return conv_bn(x, out, 1, stride=stride, bias=style.bias, name=name)
