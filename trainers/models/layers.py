"""Custom layers: serializable, and without kernels that compression would change."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainers.keras import keras


@keras.utils.register_keras_serializable(package="sightline")
class Normalize(keras.layers.Layer):
    """Normalizes images in [0, 255] to zero mean and unit standard deviation per channel.

    Args:
      mean: one value per channel, in [0, 255].
      std: one positive value per channel, on the same scale.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """(B, H, W, C) of any real dtype -> the same shape in the layer's compute dtype."""
        images = tf.cast(inputs, self.compute_dtype)
        scale = tf.constant([1.0 / value for value in self.std], self.compute_dtype)
        return (images - tf.constant(self.mean, self.compute_dtype)) * scale

    def get_config(self) -> dict[str, Any]:
        """The arguments that rebuild this layer."""
        return {**super().get_config(), "mean": self.mean, "std": self.std}


@keras.utils.register_keras_serializable(package="sightline")
class ClassToken(keras.layers.Layer):
    """Prepends a learned vector, initially zero: (B, T, D) -> (B, T + 1, D)."""

    def build(self, input_shape: Any) -> None:
        """Creates the (1, 1, D) vector."""
        self.token = self.add_weight(
            name="token", shape=(1, 1, int(input_shape[-1])), initializer="zeros"
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """(B, T, D) -> (B, T + 1, D)."""
        # A sum, because TFLite concatenates only what has the batch in its shape.
        token = tf.cast(self.token, inputs.dtype)
        rest = [[0, 0], [0, inputs.shape[1]], [0, 0]]
        return tf.pad(inputs, [[0, 0], [1, 0], [0, 0]]) + tf.pad(token, rest)


@keras.utils.register_keras_serializable(package="sightline")
class PositionEmbedding(keras.layers.Layer):
    """Adds a learned vector to each position, with initial deviation 0.02: (B, T, D)."""

    def build(self, input_shape: Any) -> None:
        """Creates the (1, T, D) table; T must be static."""
        self.table = self.add_weight(
            name="table",
            shape=(1, int(input_shape[1]), int(input_shape[2])),
            initializer=keras.initializers.TruncatedNormal(stddev=0.02),
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """(B, T, D) -> (B, T, D)."""
        return inputs + tf.cast(self.table, inputs.dtype)


@keras.utils.register_keras_serializable(package="sightline")
class AttentionWeights(keras.layers.Layer):
    """Softmax of scaled dot products: [query, key] of (B, T, D) -> (B, heads, T, T).

    Section 3.2.1 of Vaswani et al. 2017. It has no weights, so that all kernels of a transformer
    are in Dense layers, which TFMOT prunes and quantizes; TFMOT does not support
    MultiHeadAttention.

    Args:
      heads: H, divides D.
    """

    def __init__(self, heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = heads

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Two (B, T, D) tensors, query then key -> (B, H, T, T)."""
        query, key = (_split_heads(tensor, self.heads) for tensor in inputs)
        return tf.nn.softmax(self.scores(query, key))

    def scores(self, query: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        """Two (B, H, T, D / H) tensors -> (B, H, T, T) scaled dot products."""
        return tf.matmul(query * query.shape[-1] ** -0.5, key, transpose_b=True)

    def multiply_adds(self) -> int:
        """Multiply-adds of one image: T x T dot products of length D over all heads."""
        _, length, width = self.input_shape[0]
        return length * length * width

    def get_config(self) -> dict[str, Any]:
        """The arguments that rebuild this layer."""
        return {**super().get_config(), "heads": self.heads}


@keras.utils.register_keras_serializable(package="sightline")
class RelativeAttentionWeights(AttentionWeights):
    """`AttentionWeights` over a map, with a learned bias per head and offset of positions.

    Equation 3 of Dai et al. 2021 (CoAtNet, arXiv 2106.04803), with initial deviation 0.02.

    Args:
      heads: H, divides D.
      map_size: (height, width) of the map, whose T = height x width tokens are in row-major order.
    """

    def __init__(self, heads: int, map_size: Sequence[int], **kwargs: Any) -> None:
        super().__init__(heads, **kwargs)
        self.map_size = tuple(map_size)

    def build(self, input_shape: Any) -> None:
        """Creates the (H, (2 height - 1) (2 width - 1)) table."""
        height, width = self.map_size
        self.table = self.add_weight(
            name="position_bias",
            shape=(self.heads, (2 * height - 1) * (2 * width - 1)),
            initializer=keras.initializers.TruncatedNormal(stddev=0.02),
        )
        super().build(input_shape)

    def bias(self) -> tf.Tensor:
        """(H, T, T): the bias of the score of each query (rows) and key."""
        height, width = self.map_size
        rows, columns = np.divmod(np.arange(height * width), width)
        down = rows[:, None] - rows[None, :] + height - 1
        right = columns[:, None] - columns[None, :] + width - 1
        return tf.gather(self.table, down * (2 * width - 1) + right, axis=1)

    def scores(self, query: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        """(B, H, T, T): scaled dot products plus the bias, before the softmax."""
        return super().scores(query, key) + tf.cast(self.bias(), query.dtype)

    def get_config(self) -> dict[str, Any]:
        """The arguments that rebuild this layer."""
        return {**super().get_config(), "map_size": self.map_size}


@keras.utils.register_keras_serializable(package="sightline")
class AttentionValues(keras.layers.Layer):
    """Weighted sums of values: [weights (B, H, T, T), value (B, T, D)] -> (B, T, D)."""

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Attention weights and values -> (B, T, D), with concatenated heads."""
        weights, value = inputs
        mixed = tf.matmul(weights, _split_heads(value, weights.shape[1]))
        mixed = tf.transpose(mixed, (0, 2, 1, 3))
        return tf.reshape(mixed, (-1, value.shape[1], value.shape[2]))

    def multiply_adds(self) -> int:
        """Multiply-adds of one image: T x T weights, each for D values."""
        _, length, width = self.output_shape
        return length * length * width


@keras.utils.register_keras_serializable(package="sightline")
class TakeToken(keras.layers.Layer):
    """Selects one token, by default the first (class) token: (B, T, D) -> (B, D).

    Args:
      index: index of the token, from 0.
    """

    def __init__(self, index: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.index = index

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """(B, T, D) -> (B, D)."""
        return inputs[:, self.index]

    def get_config(self) -> dict[str, Any]:
        """The arguments that rebuild this layer."""
        return {**super().get_config(), "index": self.index}


@keras.utils.register_keras_serializable(package="sightline")
class LayerScale(keras.layers.Layer):
    """A learned factor per feature of a residual branch (Touvron et al. 2021, arXiv 2103.17239).

    Args:
      value: initial factor, e.g. 1e-4 for deep networks.
    """

    def __init__(self, value: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.value = value

    def build(self, input_shape: Any) -> None:
        """Creates the (D,) factors."""
        self.gamma = self.add_weight(
            name="gamma",
            shape=(int(input_shape[-1]),),
            initializer=keras.initializers.Constant(self.value),
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """(..., D) -> (..., D)."""
        return inputs * tf.cast(self.gamma, inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        """The arguments that rebuild this layer."""
        return {**super().get_config(), "value": self.value}


@keras.utils.register_keras_serializable(package="sightline")
class HardSigmoid(keras.layers.Layer):
    """min(max(x + 3, 0), 6) / 6 (Howard et al. 2019, section 5.2); Keras has another slope."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Values of any shape -> [0, 1]."""
        return tf.nn.relu6(inputs + 3.0) * (1.0 / 6.0)


@keras.utils.register_keras_serializable(package="sightline")
class HardSwish(keras.layers.Layer):
    """x times its `HardSigmoid` (Howard et al. 2019, section 5.2); one operation in TFLite."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Values of any shape -> the same shape."""
        return inputs * tf.nn.relu6(inputs + 3.0) * (1.0 / 6.0)


def _split_heads(tensor: tf.Tensor, heads: int) -> tf.Tensor:
    """(B, T, D) -> (B, heads, T, D / heads)."""
    _, length, width = tensor.shape
    split = tf.reshape(tensor, (-1, length, heads, width // heads))
    return tf.transpose(split, (0, 2, 1, 3))
