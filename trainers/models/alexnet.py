"""AlexNet with a single tower (Krizhevsky 2014, arXiv 1404.5997), as in torchvision.

The network of Krizhevsky et al. 2012 without local response normalization and without groups; it
has no batch normalization. 89 % of its parameters are in the two dense layers.
"""

import tensorflow as tf

from trainers.config import ConfigError
from trainers.keras import keras
from trainers.registry import models

# Channels in units of `width`, and side in pixels, of the five convolutions.
_CONVOLUTIONS = ((1, 11), (3, 5), (6, 3), (4, 3), (4, 3))
_POOLED = (1, 2, 5)  # numbers of the convolutions that a pooling follows
_STRIDED = 63  # pixels: below, the map after the 11x11 convolution is too small for the poolings
_SMALLEST = 15  # pixels: three poolings leave one
_POOLED_SIDE = 6  # of the map before the dense layers, at 224 pixels


@models.register("alexnet")
def alexnet(
    images: tf.Tensor, *, width: int = 64, hidden: int = 0, dropout: float = 0.5
) -> tf.Tensor:
    """The activations of the second dense layer of AlexNet.

    The first convolution is 11x11 with stride 4; below 63 pixels, it is 5x5 with stride 1, as in
    the network for CIFAR-10 in Krizhevsky's cuda-convnet. Dense layers need a map of fixed size: a
    larger map than the 6x6 of 224 pixels is averaged to 6x6, and a smaller one gives them fewer
    weights.

    Args:
      images: (B, H, W, 3) float32, normalized; at least 15 pixels.
      width: channels of the first convolution; the others have 3, 6, 4 and 4 times as many.
      hidden: F, units of each dense layer; 0 for 64 x `width`.
      dropout: rate before each dense layer, in [0, 1); `model.dropout` applies to the classifier,
        and is 0 as published.

    Returns:
      (B, F) float32 features.

    Raises:
      ConfigError: an option is out of range, or the images are too small.
    """
    side = min(images.shape[1], images.shape[2])
    if width < 1 or hidden < 0 or not 0 <= dropout < 1:
        raise ConfigError(
            "alexnet needs width >= 1, hidden >= 0 (0 for 64 x width) and dropout in [0, 1), got "
            f"width={width}, hidden={hidden}, dropout={dropout}"
        )
    if side < _SMALLEST:
        raise ConfigError(
            f"alexnet needs images of at least {_SMALLEST} pixels, got {images.shape[1]}x"
            f"{images.shape[2]}; set data.image_size"
        )
    x = images
    for number, (multiple, kernel) in enumerate(_CONVOLUTIONS, start=1):
        if number > 1:
            x = _conv(x, multiple * width, kernel, number=number)
        elif side < _STRIDED:
            x = _conv(x, width, 5, number=number)
        else:
            padded = keras.layers.ZeroPadding2D(2, name="conv1_pad")(x)
            x = _conv(padded, width, kernel, number=number, stride=4)
        if number in _POOLED:
            x = keras.layers.MaxPooling2D(3, 2, name=f"pool{number}")(x)
    x = keras.layers.Flatten(name="flatten")(_averaged(x))
    for number in (6, 7):
        if dropout:
            x = keras.layers.Dropout(dropout, name=f"dropout{number}")(x)
        x = keras.layers.Dense(
            hidden or 64 * width, kernel_initializer="he_normal", name=f"dense{number}"
        )(x)
        x = keras.layers.ReLU(name=f"dense{number}_relu")(x)
    return x


def _conv(x: tf.Tensor, filters: int, kernel: int, *, number: int, stride: int = 1) -> tf.Tensor:
    x = keras.layers.Conv2D(
        filters,
        kernel,
        strides=stride,
        padding="same" if stride == 1 else "valid",
        kernel_initializer="he_normal",
        name=f"conv{number}",
    )(x)
    return keras.layers.ReLU(name=f"conv{number}_relu")(x)


def _averaged(x: tf.Tensor) -> tf.Tensor:
    """A map of at most 6x6, by averages of equal windows.

    Equal to torchvision's adaptive pooling where that has equal windows: 6x6, 7x7 and multiples of
    6, but not 8x8.
    """
    windows = [(side, max(side // _POOLED_SIDE, 1)) for side in x.shape[1:3]]
    pool = [max(side - (_POOLED_SIDE - 1) * stride, 1) for side, stride in windows]
    if pool == [1, 1]:
        return x
    strides = [stride for _, stride in windows]
    return keras.layers.AveragePooling2D(pool, strides, name="average")(x)
