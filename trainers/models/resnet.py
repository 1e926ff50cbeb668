"""Residual networks (He et al. 2016, arXiv 1512.03385): ImageNet and CIFAR depths, one builder.

`resnet18/34/50/101/152` follow table 1: a 7x7 stem, max pooling, four stages. `resnet8/14/20/32/44/
56` follow section 4.2 (6n + 2 layers): a 3x3 stem, three stages, for pictures of 16 to 64 pixels.
The paper's parameter-free shortcuts (option A) pad channels, which does not quantise, so ours
project (option B). Blocks are post-activation, and each convolution is followed directly by its
batch normalisation, so that TFMOT and the TFLite converter fold the pair.
"""

from dataclasses import dataclass
from functools import partial

import tensorflow as tf

from trainers.config import ConfigError
from trainers.keras import keras
from trainers.registry import models

_BN_MOMENTUM = 0.9
_BN_EPSILON = 1e-5


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


def resnet(
    plan: Plan,
    images: tf.Tensor,
    *,
    width: int = 0,
    variant: str = "v1.5",
    zero_init: bool = True,
    bias: bool = False,
) -> tf.Tensor:
    """A residual network up to its pooled features.

    Args:
      plan: which depth.
      images: (B, H, W, 3) float32, normalised.
      width: channels of the first stage; 0 takes the plan's.
      variant: where a bottleneck halves the map: `v1` in its first 1x1 (the paper), `v1.5` in its
        3x3 (half a point better, 5 % slower). Basic blocks know no difference.
      zero_init: the last gamma of each block starts at 0, so that blocks start as identities
        (Goyal et al. 2017, section 5.1).
      bias: convolutions have one, as in `keras.applications`; the normalisation makes it idle.

    Returns:
      (B, F) float32 features.

    Raises:
      ConfigError: `variant` or `width` is not one of those.
    """
    if variant not in ("v1", "v1.5") or width < 0:
        raise ConfigError(
            "resnet takes variant v1 or v1.5 and width >= 0 (0 is the plan's), got "
            f"variant={variant!r}, width={width}"
        )
    style = _Style(plan.bottleneck, variant == "v1", zero_init, bias)
    width = width or plan.width
    if plan.imagenet:
        x = _conv_bn(images, width, 7, stride=2, bias=bias, name="stem")
        x = keras.layers.ReLU(name="stem_relu")(x)
        # After ReLU nothing is negative, so zero padding cannot win a maximum.
        x = keras.layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
        x = keras.layers.MaxPooling2D(3, 2, name="stem_pool")(x)
    else:
        x = _conv_bn(images, width, 3, stride=1, bias=bias, name="stem")
        x = keras.layers.ReLU(name="stem_relu")(x)
    for stage, blocks in enumerate(plan.blocks):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            name = f"stage{stage + 1}_block{block + 1}"
            x = _block(x, width * 2**stage, stride=stride, style=style, name=name)
    return keras.layers.GlobalAveragePooling2D(name="pool")(x)


for _depth, _plan in PLANS.items():
    models.register(f"resnet{_depth}")(partial(resnet, _plan))


def _block(x: tf.Tensor, width: int, *, stride: int, style: _Style, name: str) -> tf.Tensor:
    """One residual block; the shortcut is projected where the shape changes (option B)."""
    out = width * 4 if style.bottleneck else width
    shortcut = x
    if stride != 1 or x.shape[-1] != out:
        shortcut = _conv_bn(x, out, 1, stride=stride, bias=style.bias, name=f"{name}_shortcut")
    kernels = (1, 3, 1) if style.bottleneck else (3, 3)
    strided = 0 if style.stride_first or not style.bottleneck else 1
    for index, kernel in enumerate(kernels):
        last = index == len(kernels) - 1
        x = _conv_bn(
            x,
            out if last else width,
            kernel,
            stride=stride if index == strided else 1,
            bias=style.bias,
            zero_gamma=last and style.zero_init,
            name=f"{name}_{index + 1}",
        )
        if not last:
            x = keras.layers.ReLU(name=f"{name}_{index + 1}_relu")(x)
    x = keras.layers.Add(name=f"{name}_add")([shortcut, x])
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def _conv_bn(
    x: tf.Tensor,
    filters: int,
    kernel: int,
    *,
    stride: int,
    bias: bool,
    name: str,
    zero_gamma: bool = False,
) -> tf.Tensor:
    """Convolution and batch normalisation; strided ones pad both sides alike, as the paper's."""
    padding = "same"
    if stride > 1 and kernel > 1:
        # TensorFlow's own "same" pads a strided convolution more at the end than at the start.
        x = keras.layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
        padding = "valid"
    x = keras.layers.Conv2D(
        filters,
        kernel,
        strides=stride,
        padding=padding,
        use_bias=bias,
        kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
        name=f"{name}_conv",
    )(x)
    return keras.layers.BatchNormalization(
        momentum=_BN_MOMENTUM,
        epsilon=_BN_EPSILON,
        gamma_initializer="zeros" if zero_gamma else "ones",
        name=f"{name}_bn",
    )(x)
