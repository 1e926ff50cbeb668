"""Blocks of several families: convolution with normalization, squeeze and excitation, drop path.

Each convolution is directly followed by its batch normalization, so that TFMOT and the TFLite
converter can fold them.
"""

import tensorflow as tf

from trainers.config import ConfigError
from trainers.keras import keras
from trainers.models.layers import HardSigmoid, HardSwish

_BN_MOMENTUM = 0.9
_BN_EPSILON = 1e-5

ACTIVATIONS = ("", "relu", "relu6", "gelu", "hard_swish")


def conv_bn(
    x: tf.Tensor,
    filters: int,
    kernel: int,
    *,
    name: str,
    stride: int = 1,
    bias: bool = False,
    groups: int = 1,
    activation: str = "",
    gamma: str = "ones",
    epsilon: float = _BN_EPSILON,
    same: bool = False,
) -> tf.Tensor:
    """Convolution, batch normalization and optionally an activation: layers `NAME_conv`, `NAME_bn`.

    Args:
      x: (B, H, W, C).
      filters: output channels.
      kernel: side in pixels; with a stride, both sides are padded equally, as in the code of the
        papers, unless `same` is set.
      name: prefix of the names of layers.
      stride: stride of both axes.
      bias: whether the convolution has a bias.
      groups: number of groups of channels.
      activation: one of `ACTIVATIONS`; a layer `NAME_ACTIVATION` follows.
      gamma: initial scale of the normalization, `ones` or `zeros`.
      epsilon: epsilon of the normalization.
      same: use TensorFlow's padding `same` with a stride, for weights that were trained with it.

    Returns:
      (B, H', W', filters), H' = ceil(H / stride).
    """
    y, padding = (x, "same") if same else _padded(x, kernel, stride, name)
    y = keras.layers.Conv2D(
        filters,
        kernel,
        strides=stride,
        padding=padding,
        use_bias=bias,
        groups=groups,
        kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
        name=f"{name}_conv",
    )(y)
    return activate(_norm(y, name, gamma=gamma, epsilon=epsilon), activation, name=name)


def depthwise_bn(
    x: tf.Tensor,
    kernel: int,
    *,
    name: str,
    stride: int = 1,
    activation: str = "",
    epsilon: float = _BN_EPSILON,
    same: bool = False,
) -> tf.Tensor:
    """Like `conv_bn`, depthwise: layers `NAME_conv`, `NAME_bn`."""
    y, padding = (x, "same") if same else _padded(x, kernel, stride, name)
    y = keras.layers.DepthwiseConv2D(
        kernel,
        strides=stride,
        padding=padding,
        use_bias=False,
        # One input channel per filter, so the fan is the area of the kernel.
        depthwise_initializer=keras.initializers.RandomNormal(stddev=(2.0 / kernel**2) ** 0.5),
        name=f"{name}_conv",
    )(y)
    return activate(_norm(y, name, epsilon=epsilon), activation, name=name)


def activate(x: tf.Tensor, activation: str, *, name: str) -> tf.Tensor:
    """The output of a layer `NAME_ACTIVATION`, or `x` if `activation` is empty."""
    made = {
        "relu": lambda full: keras.layers.ReLU(name=full),
        "relu6": lambda full: keras.layers.ReLU(6.0, name=full),
        "gelu": lambda full: keras.layers.Activation("gelu", name=full),
        "hard_swish": lambda full: HardSwish(name=full),
    }
    return made[activation](f"{name}_{activation}")(x) if activation else x


def squeeze_excite(
    x: tf.Tensor, hidden: int, *, name: str, activation: str = "relu", gate: str = "sigmoid"
) -> tf.Tensor:
    """The map with channels weighted by global features (Hu et al. 2018, section 3): (B, H, W, C).

    Args:
      x: (B, H, W, C).
      hidden: units between the two 1x1 convolutions.
      name: prefix of the names of layers.
      activation: activation between them, one of `ACTIVATIONS`.
      gate: `sigmoid`, or `hard_sigmoid` as in MobileNetV3.
    """
    channels = x.shape[-1]
    y = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(x)
    y = keras.layers.Conv2D(hidden, 1, name=f"{name}_reduce")(y)
    y = activate(y, activation, name=f"{name}_reduce")
    y = keras.layers.Conv2D(channels, 1, name=f"{name}_expand")(y)
    if gate == "hard_sigmoid":
        y = HardSigmoid(name=f"{name}_gate")(y)
    else:
        y = keras.layers.Activation("sigmoid", name=f"{name}_gate")(y)
    return keras.layers.Multiply(name=f"{name}_excite")([x, y])


def stochastic_depth(x: tf.Tensor, rate: float, *, name: str) -> tf.Tensor:
    """Stochastic depth (Huang et al. 2016): in training, the branch of random images is 0.

    Implemented as Dropout with one draw per image, which TFMOT and the seeding of the training loop
    support.
    """
    if not rate:
        return x
    noise_shape = (None, *(1 for _ in x.shape[1:]))
    return keras.layers.Dropout(rate, noise_shape=noise_shape, name=f"{name}_drop_path")(x)


def drop_rates(highest: float, depth: int, *, model: str) -> list[float]:
    """The rate of each of `depth` blocks, from 0 to `highest` (Huang et al. 2016, equation 4).

    Raises:
      ConfigError: `highest` is not in [0, 1).
    """
    if not 0 <= highest < 1:
        raise ConfigError(f"{model} drop_path must be in [0, 1), got {highest}")
    return [highest * index / max(depth - 1, 1) for index in range(depth)]


def _padded(x: tf.Tensor, kernel: int, stride: int, name: str) -> tuple[tf.Tensor, str]:
    if stride == 1 or kernel == 1:
        return x, "same"
    # TensorFlow's "same" pads a strided convolution more at the end than at the start.
    return keras.layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x), "valid"


def _norm(x: tf.Tensor, name: str, *, gamma: str = "ones", epsilon: float) -> tf.Tensor:
    # Keras' default momentum of 0.99 is too slow for the short training of compression.
    return keras.layers.BatchNormalization(
        momentum=_BN_MOMENTUM, epsilon=epsilon, gamma_initializer=gamma, name=f"{name}_bn"
    )(x)
