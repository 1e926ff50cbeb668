"""`resnet50_vit_b16`: a ViT over the map of a ResNet (Dosovitskiy et al. 2021, section 3.1).

As the paper's R50+ViT-B/16: the blocks of stage 4 are moved to stage 3, so that the map has a
sixteenth of the image's side, and each of its pixels is a token. The paper's group normalization
and standardized convolutions are batch normalization here, because that folds into int8
convolutions; the number of parameters is the same.
"""

from functools import partial

import tensorflow as tf

from trainers.models.layers import TakeToken
from trainers.models.resnet import Plan, trunk
from trainers.models.vit import SIZES, Shape, encode, patches
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
    """A residual trunk, then a transformer over its last map, up to the class token's features.

    Args:
      images: (B, H, W, 3) float32, normalized.
      blocks: bottlenecks in each stage of the trunk; each stage but the first halves the map.
      trunk_width: channels of the first stage, before the expansion by 4.
      imagenet: the trunk starts with 7x7 at stride 2 and pooling, instead of one 3x3.
      width: D, features of a token.
      depth: transformer blocks.
      heads: attention heads, divides `width`.
      dropout: as `vit`.
      layer_scale: as `vit`.
      drop_path: as `vit`, of the transformer's blocks.

    Returns:
      (B, D) float32 features.

    Raises:
      ConfigError: as `vit`.
    """
    shape = Shape(width, depth, heads, 0, dropout, layer_scale, drop_path)
    plan = Plan(tuple(blocks), trunk_width, bottleneck=True, imagenet=imagenet)
    x = trunk(plan, images, width=0, variant="v1.5", zero_init=True, bias=False, drop_path=0.0)
    x = encode(patches(x, 1, width), shape, tokens=("class_token",))
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
