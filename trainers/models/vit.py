"""Vision transformers (Dosovitskiy et al. 2021, arXiv 2010.11929) and DeiT, any size.

DeiT (Touvron et al. 2021, arXiv 2012.12877, section 4) adds a second learned token, whose head
learns from a teacher; its answer is the mean of both heads.

Attention is four Dense layers round two layers without weights, because TFMOT quantises Dense and
leaves the fused MultiHeadAttention in float.
"""

from dataclasses import dataclass
from functools import partial

import tensorflow as tf

from trainers.config import ConfigError
from trainers.keras import keras
from trainers.models.blocks import drop_rates, stochastic_depth
from trainers.models.layers import (
    AttentionValues,
    AttentionWeights,
    ClassToken,
    LayerScale,
    PositionEmbedding,
    TakeToken,
)
from trainers.registry import models

_LN_EPSILON = 1e-6

# (width, depth, heads): B and L are table 1 of the paper; Ti and S are DeiT's (Touvron et al.
# 2021, table 1); M lies between S and B as in big_vision.
SIZES = {
    "ti": (192, 12, 3),
    "s": (384, 12, 6),
    "m": (512, 12, 8),
    "b": (768, 12, 12),
    "l": (1024, 24, 16),
}


@dataclass(frozen=True)
class Shape:
    """The options of a transformer over patches; see `vit` for what they mean."""

    width: int
    depth: int
    heads: int
    mlp: int = 0
    dropout: float = 0.0
    layer_scale: float = 0.0
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        """Checks the options.

        Raises:
          ConfigError: sizes that do not divide, or an option out of range.
        """
        if self.heads < 1 or self.width < 1 or self.width % self.heads:
            raise ConfigError(
                f"vit heads must divide width, got heads={self.heads}, width={self.width}"
            )
        if self.depth < 1 or self.mlp < 0:
            raise ConfigError(
                "vit takes depth >= 1 and mlp >= 0 (0 is 4 x width), got "
                f"depth={self.depth}, mlp={self.mlp}"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"vit dropout must be in [0, 1), got {self.dropout}")
        if self.layer_scale < 0:
            raise ConfigError(f"vit layer_scale must be 0 (off) or more, got {self.layer_scale}")


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
    layer_scale: float = 0.0,
    drop_path: float = 0.0,
) -> tf.Tensor:
    """A pre-norm transformer over square patches, up to its pooled features.

    Args:
      images: (B, H, W, 3) float32, normalized; H and W are multiples of `patch`.
      patch: side of a patch in pixels.
      width: D, features of a token.
      depth: transformer blocks.
      heads: attention heads, divides `width`.
      mlp: hidden units of a block's perceptron; 0 is 4 x `width`.
      pool: `token` takes a class token, `mean` averages all patches (no class token).
      dropout: rate after the embedding and inside each perceptron, in [0, 1).
      layer_scale: where the learned factors of each branch start, e.g. 1e-4; 0 has none (Touvron
        et al. 2021, arXiv 2103.17239, section 2).
      drop_path: stochastic depth of the last block, rising from 0 at the first, in [0, 1).

    Returns:
      (B, D) float32 features, after the last normalization.

    Raises:
      ConfigError: sizes that do not divide, or an option out of range.
    """
    if pool not in ("token", "mean"):
        raise ConfigError(f"vit pool is token or mean, got {pool!r}")
    shape = Shape(width, depth, heads, mlp, dropout, layer_scale, drop_path)
    x = patches(images, patch, width)
    x = encode(x, shape, tokens=("class_token",) if pool == "token" else ())
    if pool == "token":
        return TakeToken(name="pool")(x)
    return keras.layers.GlobalAveragePooling1D(name="pool")(x)


@models.register("deit")
def deit(
    images: tf.Tensor,
    *,
    patch: int = 4,
    width: int = 96,
    depth: int = 4,
    heads: int = 4,
    mlp: int = 0,
    dropout: float = 0.0,
    layer_scale: float = 0.0,
    drop_path: float = 0.0,
) -> tuple[tf.Tensor, tf.Tensor]:
    """A `vit` with a class token and a distillation token; the arguments are those of `vit`.

    Returns:
      (B, D) float32 features of the class token, then those of the distillation token.

    Raises:
      ConfigError: as `vit`.
    """
    shape = Shape(width, depth, heads, mlp, dropout, layer_scale, drop_path)
    x = encode(patches(images, patch, width), shape, tokens=("class_token", "distill_token"))
    return TakeToken(0, name="pool")(x), TakeToken(1, name="pool_distill")(x)


for _size, (_width, _depth, _heads) in SIZES.items():
    _sized = {"width": _width, "depth": _depth, "heads": _heads}
    for _patch in (16, 32):
        models.register(f"vit_{_size}{_patch}")(partial(vit, patch=_patch, **_sized))
    if _size in ("ti", "s", "b"):
        models.register(f"deit_{_size}16")(partial(deit, patch=16, **_sized))


def patches(images: tf.Tensor, patch: int, width: int) -> tf.Tensor:
    """Square patches, each projected to a token: (B, H, W, C) -> (B, T, D), row by row.

    Raises:
      ConfigError: they do not tile the image.
    """
    height, breadth = images.shape[1:3]
    if patch < 1 or height % patch or breadth % patch:
        raise ConfigError(
            f"vit patches of {patch} pixels do not tile a {height}x{breadth} image; set "
            "model.options.patch or data.image_size"
        )
    x = keras.layers.Conv2D(width, patch, strides=patch, padding="valid", name="patches")(images)
    return keras.layers.Reshape((-1, width), name="tokens")(x)


def encode(x: tf.Tensor, shape: Shape, *, tokens: tuple[str, ...]) -> tf.Tensor:
    """Tokens through all blocks and the last normalization.

    Args:
      x: (B, T, D) patches.
      shape: which blocks.
      tokens: names of the learned tokens that go before the patches, in order.

    Returns:
      (B, len(tokens) + T, D).

    Raises:
      ConfigError: `drop_path` is not in [0, 1).
    """
    for name in reversed(tokens):
        x = ClassToken(name=name)(x)
    x = PositionEmbedding(name="positions")(x)
    x = _dropout(x, shape.dropout, "positions_dropout")
    for index, rate in enumerate(drop_rates(shape.drop_path, shape.depth, model="vit")):
        x = _block(x, shape, rate, f"block{index + 1}")
    return keras.layers.LayerNormalization(epsilon=_LN_EPSILON, name="norm")(x)


def _block(x: tf.Tensor, shape: Shape, drop: float, name: str) -> tf.Tensor:
    """Attention, then the perceptron, each on a normalized copy and added: (B, T, D)."""
    for part, branch in enumerate((_attention, _perceptron), start=1):
        y = keras.layers.LayerNormalization(epsilon=_LN_EPSILON, name=f"{name}_norm{part}")(x)
        y = branch(y, shape, name)
        if shape.layer_scale:
            y = LayerScale(shape.layer_scale, name=f"{name}_scale{part}")(y)
        y = stochastic_depth(y, drop, name=f"{name}_{part}")
        x = keras.layers.Add(name=f"{name}_add{part}")([x, y])
    return x


def _attention(x: tf.Tensor, shape: Shape, name: str) -> tf.Tensor:
    query, key, value = (
        _dense(x, shape.width, f"{name}_{part}") for part in ("query", "key", "value")
    )
    weights = AttentionWeights(shape.heads, name=f"{name}_weights")([query, key])
    y = AttentionValues(name=f"{name}_values")([weights, value])
    return _dense(y, shape.width, f"{name}_out")


def _perceptron(x: tf.Tensor, shape: Shape, name: str) -> tf.Tensor:
    y = _dense(x, shape.mlp or 4 * shape.width, f"{name}_up")
    y = keras.layers.Activation("gelu", name=f"{name}_gelu")(y)
    y = _dropout(y, shape.dropout, f"{name}_dropout1")
    y = _dense(y, shape.width, f"{name}_down")
    return _dropout(y, shape.dropout, f"{name}_dropout2")


def _dense(x: tf.Tensor, units: int, name: str) -> tf.Tensor:
    # Glorot's variance, but normal: uniform weights fill int8's range evenly, and gzip finds
    # nothing to save.
    initializer = keras.initializers.VarianceScaling(1.0, "fan_avg", "untruncated_normal")
    return keras.layers.Dense(units, kernel_initializer=initializer, name=name)(x)


def _dropout(x: tf.Tensor, rate: float, name: str) -> tf.Tensor:
    return keras.layers.Dropout(rate, name=name)(x) if rate else x
