"""EfficientNet-Lite: EfficientNet (Tan & Le 2019, arXiv 1905.11946) for integer inference.

The edge variant of the authors (tensorflow/tpu, `models/official/efficientnet/lite`): ReLU6 instead
of swish, no squeeze and excitation, and a stem and a head of constant width. The `weights` extra
contains ImageNet weights of 0, 1 and 2: `model.init=pretrained`.
"""

import math
from dataclasses import dataclass
from functools import partial

import tensorflow as tf

from trainers.config import ConfigError
from trainers.keras import keras
from trainers.models.blocks import conv_bn, drop_rates
from trainers.models.mobilenet import Bottleneck, bottleneck, eights
from trainers.registry import models

_EPSILON = 1e-3
_STEM, _HEAD = 32, 1280  # channels, the same for all variants


@dataclass(frozen=True)
class Variant:
    """A row of the table of the authors.

    Attributes:
      width: multiplier of the channels between stem and head.
      depth: multiplier of the blocks of a stage, rounded up, except for the first and the last
        stage.
      image_size: side in pixels of the published figures.
      dropout: `model.dropout` of the published weights.
    """

    width: float
    depth: float
    image_size: int
    dropout: float


VARIANTS = {
    "efficientnet_lite0": Variant(1.0, 1.0, 224, 0.2),
    "efficientnet_lite1": Variant(1.0, 1.1, 240, 0.2),
    "efficientnet_lite2": Variant(1.1, 1.2, 260, 0.3),
    "efficientnet_lite3": Variant(1.2, 1.4, 280, 0.3),
    "efficientnet_lite4": Variant(1.4, 1.8, 300, 0.3),
}

# EfficientNet-B0, table 1: (kernel, expansion, channels, blocks, stride of the first block).
_STAGES = (
    (3, 1, 16, 1, 1),
    (3, 6, 24, 2, 2),
    (5, 6, 40, 2, 2),
    (3, 6, 80, 3, 2),
    (5, 6, 112, 3, 1),
    (5, 6, 192, 4, 2),
    (3, 6, 320, 1, 1),
)


def efficientnet_lite(
    variant: Variant,
    images: tf.Tensor,
    *,
    width: float = 1.0,
    depth: int = 0,
    drop_path: float = 0.0,
) -> tf.Tensor:
    """The pooled features of EfficientNet-Lite.

    Args:
      variant: one of `VARIANTS`.
      images: (B, H, W, 3) float32, normalized.
      width: additional multiplier of all channels except the 1,280 of the head.
      depth: number of bottlenecks, the first ones of the variant; 0 for all.
      drop_path: stochastic depth of the last block, in [0, 1), lower in earlier blocks; the
        published weights were trained with 0.2.

    Returns:
      (B, 1280) float32 features.

    Raises:
      ConfigError: `width`, `depth` or `drop_path` is out of range.
    """
    rows = _rows(variant, width)
    if not width > 0 or not 0 <= depth <= len(rows):
        raise ConfigError(
            f"efficientnet_lite needs width > 0 (1.0 as published) and depth in [0, {len(rows)}] "
            f"(0 for all), got width={width}, depth={depth}"
        )
    rates = drop_rates(drop_path, len(rows), model="efficientnet_lite")
    style = {"activation": "relu6", "epsilon": _EPSILON}
    x = conv_bn(images, eights(_STEM * width), 3, stride=2, same=True, name="stem", **style)
    for number, (kernel, expansion, out, stride) in enumerate(rows[: depth or None], start=1):
        row = Bottleneck(
            kernel,
            x.shape[-1] * expansion,
            out,
            stride,
            epsilon=_EPSILON,
            same=True,
            drop_path=rates[number - 1],
        )
        x = bottleneck(x, row, f"block{number}")
    x = conv_bn(x, _HEAD, 1, name="last", **style)
    return keras.layers.GlobalAveragePooling2D(name="pool")(x)


def _rows(variant: Variant, width: float) -> list[tuple[int, int, int, int]]:
    """(kernel, expansion, channels, stride) of each bottleneck."""
    rows = []
    for kernel, expansion, out, count, stride in _STAGES:
        fixed = count == 1  # the first stage and the last
        blocks = count if fixed else math.ceil(count * variant.depth)
        channels = eights(out * variant.width * width)
        rows += [(kernel, expansion, channels, stride if not n else 1) for n in range(blocks)]
    return rows


for _name, _variant in VARIANTS.items():
    models.register(_name)(partial(efficientnet_lite, _variant))
