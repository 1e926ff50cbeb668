"""`resnet50_vit_b16`: a ViT over the map of a ResNet (Dosovitskiy et al. 2021, section 3.1).

This is R50+ViT-B/16 of the paper: the blocks of stage 4 are in stage 3, so that the side of the map
is a sixteenth of the image's, and each pixel of the map is a token. Batch normalization replaces
the group normalization and weight standardization of the paper, because it can be folded into int8
convolutions; the number of parameters is the same.
"""

from functools import partial

import tensorflow as tf

from trainers.models.layers import TakeToken
from trainers.models.resnet import ResNetLayout, trunk
from trainers.models.vit import SIZES, TransformerOptions, encode, patches
from trainers.registry import models


@models.register("resnet_vit")
def resnet_vit(
    images: tf.Tensor,
    *,
    blocks: tuple = (1, 1),
    trunk_width: int = 16,
    imagenet: bool = False,
    width: int = 96,
    depth: int = 4,
    heads: int = 4,
    dropout: float = 0.0,
    layer_scale: float = 0.0,
    drop_path: float = 0.0,
) -> tf.Tensor:
    """The class token's features of a transformer over the last map of a residual network.

    Args:
      images: (B, H, W, 3) float32, normalized.
      blocks: bottlenecks of each stage of the trunk; each stage except the first halves the map.
      trunk_width: channels of the first stage, before the expansion by 4.
      imagenet: whether the stem is 7x7 with stride 2 and pooling, instead of one 3x3.
      width: D, features of a token.
      depth: transformer blocks.
      heads: number of attention heads, a divisor of `width`.
      dropout: as for `vit`.
      layer_scale: as for `vit`.
      drop_path: as for `vit`, for the transformer blocks.

    Returns:
      (B, D) float32 features.

    Raises:
      ConfigError: as for `vit`.
    """
    options = TransformerOptions(width, depth, heads, 0, dropout, layer_scale, drop_path)
    layout = ResNetLayout(tuple(blocks), trunk_width, bottleneck=True, imagenet=imagenet)
    x = trunk(layout, images, width=0, variant="v1.5", zero_init=True, bias=False, drop_path=0.0)
    x = encode(patches(x, 1, width), options, tokens=("class_token",))
    return TakeToken(name="pool")(x)


_width, _depth, _heads = SIZES["b"]
models.register("resnet50_vit_b16")(
    partial(
        resnet_vit,
        blocks=(3, 4, 9),
        trunk_width=64,
        imagenet=True,
        width=_width,
        depth=_depth,
        heads=_heads,
    )
)
