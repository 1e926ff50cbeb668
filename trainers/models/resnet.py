"""Residual networks (He et al. 2016, arXiv 1512.03385): ImageNet and CIFAR depths, one builder.

`resnet18/34/50/101/152` follow table 1: a 7x7 stem, max pooling, four stages. `resnet8/14/20/32/44/
56` follow section 4.2 (6n + 2 layers): a 3x3 stem, three stages, for images of 16 to 64 pixels.
The paper's parameter-free shortcuts (option A) pad channels, which does not quantise, so ours
project (option B). Blocks are post-activation.
"""

from dataclasses import dataclass
from functools import partial

import tensorflow as tf

from trainers.config import ConfigError
from trainers.keras import keras
from trainers.models.blocks import conv_bn, drop_rates, stochastic_depth
from trainers.registry import models


@dataclass(frozen=True)
class Plan:
    """What a depth means.

    Attributes:
      blocks: residual blocks in each stage; every stage doubles the channels.
      width: channels of the first stage, before a bottleneck's expansion by 4.
      bottleneck: blocks are 1x1, 3x3, 1x1 instead of two 3x3.
      imagenet: the 7x7 stride 2 stem with max pooling instead of one 3x3.
    """

    blocks: tuple[int, ...]
    width: int
    bottleneck: bool
    imagenet: bool


PLANS = {
    **{
        6 * n + 2: Plan((n, n, n), 16, bottleneck=False, imagenet=False) for n in (1, 2, 3, 5, 7, 9)
    },
    18: Plan((2, 2, 2, 2), 64, bottleneck=False, imagenet=True),
    34: Plan((3, 4, 6, 3), 64, bottleneck=False, imagenet=True),
    50: Plan((3, 4, 6, 3), 64, bottleneck=True, imagenet=True),
    101: Plan((3, 4, 23, 3), 64, bottleneck=True, imagenet=True),
    152: Plan((3, 8, 36, 3), 64, bottleneck=True, imagenet=True),
}


@dataclass(frozen=True)
class _Style:
    """The options every block shares."""

    bottleneck: bool
    stride_first: bool
    zero_init: bool
    bias: bool
    average: bool


def resnet(
    plan: Plan,
    images: tf.Tensor,
    *,
    width: int = 0,
    variant: str = "v1.5",
    zero_init: bool = True,
    bias: bool = False,
    stem_pool: bool = False,
    drop_path: float = 0.0,
) -> tf.Tensor:
    """A residual network up to its pooled features.

    Args:
      plan: which depth.
      images: (B, H, W, 3) float32, normalized.
      width: channels of the first stage; 0 takes the plan's.
      variant: where a bottleneck halves the map: `v1` in its first 1x1 (the paper), `v1.5` in its
        3x3 (half a point better, 5 % slower); basic blocks know no difference. `d` is v1.5 with
        three 3x3 in place of the 7x7, and shortcuts that average before they project (He et al.
        2019, arXiv 1812.01187, figure 2); the names `resnet50d` and alike set it.
      zero_init: the last gamma of each block starts at 0, so that blocks start as identities
        (Goyal et al. 2017, section 5.1).
      bias: convolutions have one, as in `keras.applications`; the normalization makes it idle.
      stem_pool: small-image depths halve the map by pooling after the stem. With twice the width
        that is the same arithmetic, and learns faster in a short run; others pool anyway.
      drop_path: stochastic depth of the last block, rising from 0 at the first, in [0, 1).

    Returns:
      (B, F) float32 features.

    Raises:
      ConfigError: `variant`, `width` or `drop_path` is not one of those.
    """
    options = {"variant": variant, "zero_init": zero_init, "bias": bias, "drop_path": drop_path}
    x = trunk(plan, images, width=width, stem_pool=stem_pool, **options)
    return keras.layers.GlobalAveragePooling2D(name="pool")(x)


def trunk(
    plan: Plan,
    images: tf.Tensor,
    *,
    width: int,
    variant: str,
    zero_init: bool,
    bias: bool,
    drop_path: float,
    stem_pool: bool = False,
) -> tf.Tensor:
    """The last map of `resnet`, whose arguments these are: (B, H', W', F)."""
    if variant not in ("v1", "v1.5", "d") or width < 0:
        raise ConfigError(
            "resnet takes variant v1, v1.5 or d and width >= 0 (0 is the plan's), got "
            f"variant={variant!r}, width={width}"
        )
    style = _Style(plan.bottleneck, variant == "v1", zero_init, bias, variant == "d")
    width = width or plan.width
    rates = iter(drop_rates(drop_path, sum(plan.blocks), model="resnet"))
    x = _stem(images, width, plan=plan, deep=variant == "d", bias=bias)
    if stem_pool and not plan.imagenet:
        x = keras.layers.MaxPooling2D(2, name="stem_pool")(x)
    for stage, blocks in enumerate(plan.blocks):
        for index in range(blocks):
            name = f"stage{stage + 1}_block{index + 1}"
            block = _Block(name, width * 2**stage, 2 if stage and not index else 1, next(rates))
            x = _residual(x, block, style)
    return x


for _depth, _plan in PLANS.items():
    models.register(f"resnet{_depth}")(partial(resnet, _plan))
    if _plan.imagenet:
        models.register(f"resnet{_depth}d")(partial(resnet, _plan, variant="d"))


@dataclass(frozen=True)
class _Block:
    """One block: its name, channels before expansion, stride and rate of stochastic depth."""

    name: str
    width: int
    stride: int
    drop: float


def _stem(images: tf.Tensor, width: int, *, plan: Plan, deep: bool, bias: bool) -> tf.Tensor:
    if not plan.imagenet:
        return conv_bn(images, width, 3, bias=bias, activation="relu", name="stem")
    if deep:
        half = max(width // 2, 1)
        x = conv_bn(images, half, 3, stride=2, bias=bias, activation="relu", name="stem_1")
        x = conv_bn(x, half, 3, bias=bias, activation="relu", name="stem_2")
        x = conv_bn(x, width, 3, bias=bias, activation="relu", name="stem")
    else:
        x = conv_bn(images, width, 7, stride=2, bias=bias, activation="relu", name="stem")
    # After ReLU nothing is negative, so zero padding cannot win a maximum.
    x = keras.layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
    return keras.layers.MaxPooling2D(3, 2, name="stem_pool")(x)


def _residual(x: tf.Tensor, block: _Block, style: _Style) -> tf.Tensor:
    """One residual block; the shortcut is projected where the shape changes (option B)."""
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
