"""`cnn`: a plain convolutional network, as a baseline."""

import math

import tensorflow as tf

from trainers.config import ConfigError
from trainers.keras import keras
from trainers.registry import models

_MAX_WIDTH = 8  # times `width`: as in VGG (Simonyan and Zisserman 2015, table 1), 64 to 512
_SMALLEST_MAP = 4  # pixels: on smaller maps, a 3x3 convolution covers mostly padding
_BIG_INPUT = 64  # pixels: from this size, the first stage also halves the image
_BN_MOMENTUM = 0.9  # Keras' 0.99 is too slow for the short training of compression


@models.register("cnn")
def cnn(images: tf.Tensor, *, width: int = 64, depth: int = 2, stages: int = 0) -> tf.Tensor:
    """Stages of 3x3 convolution, batch normalization and ReLU, then global average pooling.

    Each stage except the first halves the map and doubles the channels, up to 8 x `width`; from 64
    pixels, the first stage also halves the map. The defaults at 224 pixels are 5 stages, 9.4 M
    parameters and 2.8 GMAC; at 16 pixels, 3 stages and 1.1 M parameters.

    Args:
      images: (B, H, W, 3) float32, normalized.
      width: channels of the first stage.
      depth: convolutions per stage.
      stages: number of stages; 0 for as many, up to 5, as leave a map of at least 4 pixels.

    Returns:
      (B, F) float32 features.

    Raises:
      ConfigError: an option is out of range, or there are more stages than halvings.
    """
    side = min(images.shape[1], images.shape[2])
    if width < 1 or depth < 1 or stages < 0:
        raise ConfigError(
            "cnn takes width >= 1, depth >= 1 and stages >= 0 (0 is automatic), got "
            f"width={width}, depth={depth}, stages={stages}"
        )
    first_stride = 2 if side >= _BIG_INPUT else 1
    fitting = max(1, int(math.log2(side / _SMALLEST_MAP)) + 2 - first_stride)
    if 2 ** (stages - 2 + first_stride) > side:
        raise ConfigError(
            f"cnn with {stages} stages reduces a {side} pixel image to nothing; at most {fitting} "
            "fit"
        )
    x = images
    for stage in range(stages or min(5, fitting)):
        filters = width * min(2**stage, _MAX_WIDTH)
        for index in range(depth):
            stride = 1 if index else 2 if stage else first_stride
            x = _conv_bn_relu(x, filters, stride=stride, name=f"stage{stage + 1}_{index + 1}")
    return keras.layers.GlobalAveragePooling2D(name="pool")(x)


def _conv_bn_relu(x: tf.Tensor, filters: int, *, stride: int, name: str) -> tf.Tensor:
    x = keras.layers.Conv2D(
        filters,
        3,
        strides=stride,
        padding="same",
        use_bias=False,
        # He et al. 2015, equation 10, without Keras' truncation at two standard deviations.
        kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal"),
        name=f"{name}_conv",
    )(x)
    x = keras.layers.BatchNormalization(momentum=_BN_MOMENTUM, name=f"{name}_bn")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x)
