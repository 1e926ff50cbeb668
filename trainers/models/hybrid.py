"""CoAtNet (Dai et al. 2021, arXiv 2106.04803): convolutional stages, then attention.

`coatnet0|1` follow table 3: a stem of two 3x3 convolutions, two stages of inverted bottlenecks, and
two stages of transformer blocks with relative attention. They differ from the paper in two points,
for int8: batch normalization follows the last convolution of a bottleneck and the convolution of a
shortcut, so that both can be folded, and pooling is average pooling.

`coatnet` is the same architecture for small images on a CPU, with residual blocks as convolutional
blocks, because depthwise convolutions are slow there.
"""

from dataclasses import dataclass
from functools import partial

import tensorflow as tf

from trainers.config import ConfigError
from trainers.keras import keras
from trainers.models.blocks import (
    conv_bn,
    depthwise_bn,
    drop_rates,
    squeeze_excite,
    stochastic_depth,
)
from trainers.models.layers import (
    AttentionValues,
    AttentionWeights,
    PositionEmbedding,
    RelativeAttentionWeights,
)
from trainers.registry import models

_LN_EPSILON = 1e-6
_EXPANSION = 4  # expansion of bottlenecks and MLPs, section 4.1 of the paper
_SQUEEZE = 4  # the squeeze reduces the width of the block to a quarter


@dataclass(frozen=True)
class _Block:
    """One block of a stage."""

    name: str
    width: int
    stride: int
    drop: float


@dataclass(frozen=True)
class _Attention:
    """The common options of transformer blocks."""

    head_width: int
    relative: bool
    expansion: int


@models.register("coatnet")
def coatnet(
    images: tf.Tensor,
    *,
    stem: int = 32,
    stem_stride: int = 1,
    layout: str = "CT",
    blocks: tuple = (2, 2),
    widths: tuple = (48, 96),
    head_width: int = 32,
    expansion: int = 4,
    position: str = "relative",
    drop_path: float = 0.0,
) -> tf.Tensor:
    """The pooled features of a stem and stages that each halve the map.

    The defaults are for 32x32 images: convolutions at 32x32 and 16x16, attention at 8x8.

    Args:
      images: (B, H, W, 3) float32, normalized.
      stem: channels of the two 3x3 convolutions of the stem.
      stem_stride: stride of the first convolution, 1 or 2.
      layout: one letter per stage: `M` for inverted bottlenecks, `C` for residual blocks of two 3x3
        convolutions, `T` for transformer blocks.
      blocks: number of blocks of each stage.
      widths: channels of each stage; multiples of `head_width` for `T`.
      head_width: features of an attention head.
      expansion: hidden units of an MLP relative to its width.
      position: `relative` learns a bias per head and offset, `absolute` a vector per position at
        the start of each `T` stage.
      drop_path: stochastic depth of the last block, rising from 0 at the first, in [0, 1).

    Returns:
      (B, F) float32 features.

    Raises:
      ConfigError: an option is out of range, or tuples differ in length.
    """
    _check(layout, blocks, widths, head_width)
    if position not in ("relative", "absolute"):
        raise ConfigError(f"coatnet position must be relative or absolute, got {position!r}")
    if stem < 1 or stem_stride not in (1, 2) or expansion < 1:
        raise ConfigError(
            "coatnet needs stem >= 1, stem_stride 1 or 2 and expansion >= 1, got "
            f"stem={stem}, stem_stride={stem_stride}, expansion={expansion}"
        )
    attention = _Attention(head_width, position == "relative", expansion)
    activation = "gelu" if "M" in layout else "relu"
    x = conv_bn(images, stem, 3, stride=stem_stride, activation=activation, name="stem_1")
    x = conv_bn(x, stem, 3, activation=activation, name="stem_2")
    rates = iter(drop_rates(drop_path, sum(blocks), model="coatnet"))
    for stage, (kind, count, width) in enumerate(zip(layout, blocks, widths, strict=True)):
        for index in range(count):
            name = f"stage{stage + 1}_block{index + 1}"
            block = _Block(name, width, 1 if index else 2, next(rates))
            if kind == "T":
                x = _transformer(x, block, attention)
            else:
                x = _bottleneck(x, block) if kind == "M" else _plain(x, block)
    if layout.endswith("T"):
        x = keras.layers.LayerNormalization(epsilon=_LN_EPSILON, name="norm")(x)
    return keras.layers.GlobalAveragePooling2D(name="pool")(x)


for _name, _blocks in (("coatnet0", (2, 3, 5, 2)), ("coatnet1", (2, 6, 14, 2))):
    models.register(_name)(
        partial(
            coatnet,
            stem=64,
            stem_stride=2,
            layout="MMTT",
            blocks=_blocks,
            widths=(96, 192, 384, 768),
        )
    )


def _check(layout: str, blocks: tuple, widths: tuple, head_width: int) -> None:
    if not layout or set(layout) - set("CMT"):
        raise ConfigError(f"coatnet layout must be letters C, M and T, e.g. CCTT, got {layout!r}")
    for name, values in (("blocks", blocks), ("widths", widths)):
        whole = all(type(value) is int and value > 0 for value in values)
        if not whole or len(values) != len(layout):
            raise ConfigError(
                f"coatnet {name} needs a positive number for each of the {len(layout)} stages of "
                f"layout {layout!r}, got {values}"
            )
    for kind, width in zip(layout, widths, strict=True):
        if head_width < 1 or (kind == "T" and width % head_width):
            raise ConfigError(
                f"coatnet head_width must divide the widths of T stages, got head_width="
                f"{head_width}, widths={widths}"
            )


def _shortcut(x: tf.Tensor, block: _Block) -> tf.Tensor:
    """The shortcut of a block: pooled and projected if the shape changes."""
    if block.stride > 1:
        pool = keras.layers.AveragePooling2D(2, padding="same", name=f"{block.name}_shortcut_pool")
        x = pool(x)
    if x.shape[-1] == block.width:
        return x
    return conv_bn(x, block.width, 1, name=f"{block.name}_shortcut")


def _add(shortcut: tf.Tensor, branch: tf.Tensor, block: _Block, part: str = "") -> tf.Tensor:
    branch = stochastic_depth(branch, block.drop, name=f"{block.name}{part}")
    return keras.layers.Add(name=f"{block.name}_add{part[-1:]}")([shortcut, branch])


def _plain(x: tf.Tensor, block: _Block) -> tf.Tensor:
    """Two 3x3 convolutions, activation after the sum (He et al. 2016): (B, H, W, C)."""
    name, width = block.name, block.width
    y = conv_bn(x, width, 3, stride=block.stride, activation="relu", name=f"{name}_1")
    y = conv_bn(y, width, 3, gamma="zeros", name=f"{name}_2")
    y = _add(_shortcut(x, block), y, block)
    return keras.layers.ReLU(name=f"{name}_relu")(y)


def _bottleneck(x: tf.Tensor, block: _Block) -> tf.Tensor:
    """Normalize, widen, depthwise 3x3, squeeze and excite, narrow: (B, H, W, C)."""
    name, hidden = block.name, block.width * _EXPANSION
    y = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_norm")(x)
    # Equation 5 of the appendix; other networks have the stride in the depthwise convolution.
    y = conv_bn(y, hidden, 1, stride=block.stride, activation="gelu", name=f"{name}_up")
    y = depthwise_bn(y, 3, activation="gelu", name=f"{name}_depthwise")
    y = squeeze_excite(y, block.width // _SQUEEZE or 1, activation="gelu", name=f"{name}_se")
    y = conv_bn(y, block.width, 1, gamma="zeros", name=f"{name}_down")
    return _add(_shortcut(x, block), y, block)


def _transformer(x: tf.Tensor, block: _Block, attention: _Attention) -> tf.Tensor:
    """Pre-norm attention and MLP with residual connections: (B, H, W, C)."""
    name, width = block.name, block.width
    y = keras.layers.LayerNormalization(epsilon=_LN_EPSILON, name=f"{name}_norm1")(x)
    if block.stride > 1:
        y = keras.layers.AveragePooling2D(2, padding="same", name=f"{name}_pool")(y)
    x = _add(_shortcut(x, block), _attend(y, block, attention), block, "_1")
    y = keras.layers.LayerNormalization(epsilon=_LN_EPSILON, name=f"{name}_norm2")(x)
    y = _dense(y, width * attention.expansion, f"{name}_hidden")
    y = keras.layers.Activation("gelu", name=f"{name}_gelu")(y)
    y = _dense(y, width, f"{name}_output")
    return _add(x, y, block, "_2")


def _attend(x: tf.Tensor, block: _Block, attention: _Attention) -> tf.Tensor:
    """(B, H, W, C) -> (B, H, W, width)."""
    name, map_size = block.name, x.shape[1:3]
    x = keras.layers.Reshape((-1, x.shape[-1]), name=f"{name}_tokens")(x)
    if block.stride > 1 and not attention.relative:
        x = PositionEmbedding(name=f"{name}_positions")(x)
    query, key, value = (
        _dense(x, block.width, f"{name}_{part}") for part in ("query", "key", "value")
    )
    heads = block.width // attention.head_width
    if attention.relative:
        weigh: keras.layers.Layer = RelativeAttentionWeights(
            heads, map_size, name=f"{name}_weights"
        )
    else:
        weigh = AttentionWeights(heads, name=f"{name}_weights")
    x = AttentionValues(name=f"{name}_values")([weigh([query, key]), value])
    x = _dense(x, block.width, f"{name}_out")
    return keras.layers.Reshape((*map_size, block.width), name=f"{name}_map")(x)


def _dense(x: tf.Tensor, units: int, name: str) -> tf.Tensor:
    # Normal instead of uniform: uniform values fill the int8 range and do not compress.
    initializer = keras.initializers.VarianceScaling(1.0, "fan_avg", "untruncated_normal")
    return keras.layers.Dense(units, kernel_initializer=initializer, name=name)(x)
