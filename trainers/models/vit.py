"""Vision transformers (Dosovitskiy et al. 2021, arXiv 2010.11929), any size from one builder.

Attention is four Dense layers round two layers without weights, because TFMOT quantises Dense and
leaves the fused MultiHeadAttention in float.
"""

from functools import partial

import tensorflow as tf

from trainers.config import ConfigError
from trainers.keras import keras
from trainers.models.layers import (
    AttentionValues,
    AttentionWeights,
    ClassToken,
    PositionEmbedding,
    TakeToken,
)
from trainers.registry import models

_LN_EPSILON = 1e-6

# (width, depth, heads): B and L are table 1 of the paper; Ti and S are DeiT's (Touvron et al.
# 2021, table 1); M lies between S and B as in big_vision.
_SIZES = {
    "ti": (192, 12, 3),
    "s": (384, 12, 6),
    "m": (512, 12, 8),
    "b": (768, 12, 12),
    "l": (1024, 24, 16),
}


@models.register("vit")
def vit(
    images: tf.Tensor,
    *,
    patch: int = 4,
    width: int = 96,
    depth: int = 4,
    heads: int = 4,
    mlp: int = 0,
    pool: str = "token",
    dropout: float = 0.0,
) -> tf.Tensor:
    """A pre-norm transformer over square patches, up to its pooled features.

    Args:
      images: (B, H, W, 3) float32, normalised; H and W are multiples of `patch`.
      patch: side of a patch in pixels.
      width: D, features of a token.
      depth: transformer blocks.
      heads: attention heads, divides `width`.
      mlp: hidden units of a block's perceptron; 0 is 4 x `width`.
      pool: `token` takes a class token, `mean` averages all patches (no class token).
      dropout: rate after the embedding and inside each perceptron, in [0, 1).

    Returns:
      (B, D) float32 features, after the last normalisation.

    Raises:
      ConfigError: sizes that do not divide, or an option out of range.
    """
    _check_tiling(images, patch)
    if heads < 1 or width < 1 or width % heads:
        raise ConfigError(f"vit heads must divide width, got heads={heads}, width={width}")
    if depth < 1 or mlp < 0:
        raise ConfigError(
            f"vit takes depth >= 1 and mlp >= 0 (0 is 4 x width), got depth={depth}, mlp={mlp}"
        )
    if pool not in ("token", "mean"):
        raise ConfigError(f"vit pool is token or mean, got {pool!r}")
    if not 0 <= dropout < 1:
        raise ConfigError(f"vit dropout must be in [0, 1), got {dropout}")
    x = keras.layers.Conv2D(width, patch, strides=patch, padding="valid", name="patches")(images)
    x = keras.layers.Reshape((-1, width), name="tokens")(x)
    if pool == "token":
        x = ClassToken(name="class_token")(x)
    x = PositionEmbedding(name="positions")(x)
    x = _dropout(x, dropout, "positions_dropout")
    for index in range(depth):
        name = f"block{index + 1}"
        x = _attention(x, heads, name=name)
        x = _perceptron(x, mlp or 4 * width, dropout=dropout, name=name)
    x = keras.layers.LayerNormalization(epsilon=_LN_EPSILON, name="norm")(x)
    if pool == "token":
        return TakeToken(name="pool")(x)
    return keras.layers.GlobalAveragePooling1D(name="pool")(x)


for _size, (_width, _depth, _heads) in _SIZES.items():
    for _patch in (16, 32):
        models.register(f"vit_{_size}{_patch}")(
            partial(vit, patch=_patch, width=_width, depth=_depth, heads=_heads)
        )


def _check_tiling(images: tf.Tensor, patch: int) -> None:
    height, width = images.shape[1:3]
    if patch < 1 or height % patch or width % patch:
        raise ConfigError(
            f"vit patches of {patch} pixels do not tile a {height}x{width} image; set "
            "model.options.patch or data.image_size"
        )


def _attention(x: tf.Tensor, heads: int, *, name: str) -> tf.Tensor:
    """The residual attention half of a block: (B, T, D) -> (B, T, D)."""
    width = x.shape[-1]
    y = keras.layers.LayerNormalization(epsilon=_LN_EPSILON, name=f"{name}_norm1")(x)
    query, key, value = (_dense(y, width, f"{name}_{part}") for part in ("query", "key", "value"))
    weights = AttentionWeights(heads, name=f"{name}_weights")([query, key])
    y = AttentionValues(name=f"{name}_values")([weights, value])
    y = _dense(y, width, f"{name}_out")
    return keras.layers.Add(name=f"{name}_add1")([x, y])


def _perceptron(x: tf.Tensor, hidden: int, *, dropout: float, name: str) -> tf.Tensor:
    """The residual perceptron half of a block: (B, T, D) -> (B, T, D)."""
    width = x.shape[-1]
    y = keras.layers.LayerNormalization(epsilon=_LN_EPSILON, name=f"{name}_norm2")(x)
    y = _dense(y, hidden, f"{name}_up")
    y = keras.layers.Activation("gelu", name=f"{name}_gelu")(y)
    y = _dropout(y, dropout, f"{name}_dropout1")
    y = _dense(y, width, f"{name}_down")
    y = _dropout(y, dropout, f"{name}_dropout2")
    return keras.layers.Add(name=f"{name}_add2")([x, y])


def _dense(x: tf.Tensor, units: int, name: str) -> tf.Tensor:
    # Glorot's variance, but normal: uniform weights fill int8's range evenly, and gzip finds
    # nothing to save.
    initializer = keras.initializers.VarianceScaling(1.0, "fan_avg", "untruncated_normal")
    return keras.layers.Dense(units, kernel_initializer=initializer, name=name)(x)


def _dropout(x: tf.Tensor, rate: float, name: str) -> tf.Tensor:
    return keras.layers.Dropout(rate, name=name)(x) if rate else x
