"""Vision transformers (Dosovitskiy et al. 2021, arXiv 2010.11929) and DeiT.

DeiT (Touvron et al. 2021, arXiv 2012.12877, section 4) adds a second learned token, whose head is
trained on a teacher; the output is the mean of both heads.

Attention consists of four Dense layers and two layers without weights, because TFMOT quantizes
Dense layers and leaves MultiHeadAttention in float.
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

# (width, depth, heads): B and L as in table 1 of the paper; Ti and S as in DeiT (Touvron et al.
# 2021, table 1); M as in big_vision.
SIZES = {
    "ti": (192, 12, 3),
    "s": (384, 12, 6),
    "m": (512, 12, 8),
    "b": (768, 12, 12),
    "l": (1024, 24, 16),
}


@dataclass(frozen=True)
class TransformerOptions:
    """The options of a transformer; see `vit`."""

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
          ConfigError: sizes are not divisible, or an option is out of range.
        """
        if self.heads < 1 or self.width < 1 or self.width % self.heads:
            raise ConfigError(
                f"vit heads must divide width, got heads={self.heads}, width={self.width}"
            )
        if self.depth < 1 or self.mlp < 0:
            raise ConfigError(
                "vit needs depth >= 1 and mlp >= 0 (0 for 4 x width), got "
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
    """The pooled features of a pre-norm transformer over square patches.

    Args:
      images: (B, H, W, 3) float32, normalized; H and W are multiples of `patch`.
      patch: side of a patch in pixels.
      width: D, features of a token.
      depth: transformer blocks.
      heads: number of attention heads, a divisor of `width`.
      mlp: hidden units of the MLP; 0 for 4 x `width`.
      pool: `token` for a class token, `mean` for the average of all patches without a class token.
      dropout: rate after the embedding and in each MLP, in [0, 1).
      layer_scale: initial value of the learned factors of each branch, e.g. 1e-4; 0 for none
        (Touvron et al. 2021, arXiv 2103.17239, section 2).
      drop_path: stochastic depth of the last block, rising from 0 at the first, in [0, 1).

    Returns:
      (B, D) float32 features after the last normalization.

    Raises:
      ConfigError: sizes are not divisible, or an option is out of range.
    """
    if pool not in ("token", "mean"):
        raise ConfigError(f"vit pool must be token or mean, got {pool!r}")
    options = TransformerOptions(width, depth, heads, mlp, dropout, layer_scale, drop_path)
    x = patches(images, patch, width)
    x = encode(x, options, tokens=("class_token",) if pool == "token" else ())
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
    """The features of a `vit` with a class token and a distillation token; same arguments.

    Returns:
      (B, D) float32 features of the class token and of the distillation token.

    Raises:
      ConfigError: as for `vit`.
    """
    options = TransformerOptions(width, depth, heads, mlp, dropout, layer_scale, drop_path)
    x = encode(patches(images, patch, width), options, tokens=("class_token", "distill_token"))
    return TakeToken(0, name="pool")(x), TakeToken(1, name="pool_distill")(x)


for _size, (_width, _depth, _heads) in SIZES.items():
    _sized = {"width": _width, "depth": _depth, "heads": _heads}
    for _patch in (16, 32):
        models.register(f"vit_{_size}{_patch}")(partial(vit, patch=_patch, **_sized))
    if _size in ("ti", "s", "b"):
        models.register(f"deit_{_size}16")(partial(deit, patch=16, **_sized))


def patches(images: tf.Tensor, patch: int, width: int) -> tf.Tensor:
    """Square patches, projected to tokens in row-major order: (B, H, W, C) -> (B, T, D).

    Raises:
      ConfigError: the patches do not tile the image.
    """
    height, breadth = images.shape[1:3]
    if patch < 1 or height % patch or breadth % patch:
        raise ConfigError(
            f"vit patches of {patch} pixels do not tile a {height}x{breadth} image; set "
            "model.options.patch or data.image_size"
        )
    x = keras.layers.Conv2D(width, patch, strides=patch, padding="valid", name="patches")(images)
    return keras.layers.Reshape((-1, width), name="tokens")(x)


def encode(x: tf.Tensor, options: TransformerOptions, *, tokens: tuple[str, ...]) -> tf.Tensor:
    """The tokens after all blocks and the last normalization.

    Args:
      x: (B, T, D) patches.
      options: options of the blocks.
      tokens: names of the learned tokens before the patches, in order.

    Returns:
      (B, len(tokens) + T, D).

    Raises:
      ConfigError: `drop_path` is not in [0, 1).
    """
    for name in reversed(tokens):
        x = ClassToken(name=name)(x)
    x = PositionEmbedding(name="positions")(x)
    x = _dropout(x, options.dropout, "positions_dropout")
    for index, rate in enumerate(drop_rates(options.drop_path, options.depth, model="vit")):
        x = _block(x, options, rate, f"block{index + 1}")
    return keras.layers.LayerNormalization(epsilon=_LN_EPSILON, name="norm")(x)


def _block(x: tf.Tensor, options: TransformerOptions, drop: float, name: str) -> tf.Tensor:
    """Pre-norm attention and MLP with residual connections: (B, T, D)."""
    for part, branch in enumerate((_attention, _perceptron), start=1):
        y = keras.layers.LayerNormalization(epsilon=_LN_EPSILON, name=f"{name}_norm{part}")(x)
        y = branch(y, options, name)
        if options.layer_scale:
            y = LayerScale(options.layer_scale, name=f"{name}_scale{part}")(y)
        y = stochastic_depth(y, drop, name=f"{name}_{part}")
        x = keras.layers.Add(name=f"{name}_add{part}")([x, y])
    return x


def _attention(x: tf.Tensor, options: TransformerOptions, name: str) -> tf.Tensor:
    query, key, value = (
        _dense(x, options.width, f"{name}_{part}") for part in ("query", "key", "value")
    )
    weights = AttentionWeights(options.heads, name=f"{name}_weights")([query, key])
    y = AttentionValues(name=f"{name}_values")([weights, value])
    return _dense(y, options.width, f"{name}_out")


def _perceptron(x: tf.Tensor, options: TransformerOptions, name: str) -> tf.Tensor:
    y = _dense(x, options.mlp or 4 * options.width, f"{name}_up")
    y = keras.layers.Activation("gelu", name=f"{name}_gelu")(y)
    y = _dropout(y, options.dropout, f"{name}_dropout1")
    y = _dense(y, options.width, f"{name}_down")
    return _dropout(y, options.dropout, f"{name}_dropout2")


def _dense(x: tf.Tensor, units: int, name: str) -> tf.Tensor:
    # Glorot's variance, but normal: uniform values fill the int8 range and do not compress.
    initializer = keras.initializers.VarianceScaling(1.0, "fan_avg", "untruncated_normal")
    return keras.layers.Dense(units, kernel_initializer=initializer, name=name)(x)


def _dropout(x: tf.Tensor, rate: float, name: str) -> tf.Tensor:
    return keras.layers.Dropout(rate, name=name)(x) if rate else x
