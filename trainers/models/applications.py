"""The architectures of `keras.applications`: `vgg16`, `inception_v3`, `convnext_tiny`, ...

Names are in lower case with underscores: `EfficientNetV2B0` is `efficientnetv2_b0`. If Sightline
has a family with the same name, the prefix is `keras_`. They start with random weights.

Their graphs are rebuilt layer by layer with the same names, except for structures that compression
does not support: nested models are flattened, separable convolutions are divided into two, swish
after a convolution becomes a separate layer, and custom layers and operations become layers that
TFMOT can copy. The order of weights is the same. Preprocessing layers are removed, because
`build_model` adds the normalization.
"""

import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import tensorflow as tf

from trainers.config import ConfigError
from trainers.keras import keras
from trainers.models.blocks import stochastic_depth
from trainers.models.layers import LayerScale
from trainers.registry import models

# Activations that TFMOT quantizes inside a convolution.
_WITHIN_KERNELS = ("linear", "relu", "sigmoid", "softmax", "tanh")

# Families that Sightline implements.
_OURS = re.compile(r"resnet\d+|mobilenet_v[23].*")


def application(name: str, images: tf.Tensor) -> tf.Tensor:
    """The pooled features of an architecture of `keras.applications`.

    Args:
      name: name of the function, e.g. `InceptionV3`.
      images: (B, H, W, 3) float32, normalized.

    Returns:
      (B, F) float32 features.

    Raises:
      ConfigError: the architecture does not support this image size.
    """
    build = getattr(keras.applications, name)
    options: dict[str, Any] = {"include_top": False, "weights": None, "pooling": "avg"}
    if "include_preprocessing" in inspect.signature(build).parameters:
        options["include_preprocessing"] = False
    height, width = images.shape[1:3]
    try:
        network = build(input_shape=(height, width, 3), **options)
    except ValueError as error:
        raise ConfigError(
            f"keras.applications.{name} does not support {height}x{width} images: {error}; set "
            "data.image_size"
        ) from error
    return _rebuilt(network, images)


def registered_name(name: str) -> str:
    """The name of an architecture in the registry, e.g. `densenet121` for `DenseNet121`."""
    joined = re.sub(r"(ConvNeXt|NASNet|[A-Z][a-z]+Net)", lambda found: found[0].capitalize(), name)
    # The variants of EfficientNetV2 are letters, which are separated from the version.
    joined = re.sub(r"V2(?=[BSML]\d?$)", "v2", joined)
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=\d)(?=[A-Z])", "_", joined).lower()
    return f"keras_{words}" if _OURS.fullmatch(words) else words


def _rebuilt(network: keras.Model, images: tf.Tensor) -> tf.Tensor:
    """The output of a copy of `network` whose input is `images`."""
    tensors = {id(network.input): images}
    for layer in network.layers:
        (node,) = layer.inbound_nodes
        if node.is_input:
            continue
        args, kwargs = tf.nest.map_structure(
            lambda value: tensors.get(id(value), value), (node.call_args, node.call_kwargs)
        )
        made = _replaced(layer, [tensors[id(tensor)] for tensor in node.keras_inputs])
        tensors[id(node.outputs)] = _copy(layer)(*args, **kwargs) if made is None else made
    return tensors[id(network.output)]


def _replaced(layer: keras.layers.Layer, inputs: list[tf.Tensor]) -> tf.Tensor | None:
    """The output of the replacement of a layer; None if it is copied."""
    replace = _REPLACED.get(type(layer).__name__)
    return None if replace is None else replace(layer, inputs)


def _copy(layer: keras.layers.Layer) -> keras.layers.Layer:
    return type(layer).from_config(layer.get_config())


def _nothing(layer: keras.layers.Layer, inputs: list[tf.Tensor]) -> tf.Tensor:
    return inputs[0]


def _flat(layer: keras.Sequential, inputs: list[tf.Tensor]) -> tf.Tensor:
    x = inputs[0]
    for inner in layer.layers:
        made = _replaced(inner, [x])
        x = _copy(inner)(x) if made is None else made
    return x


def _activated(layer: Any, inputs: list[tf.Tensor]) -> tf.Tensor | None:
    """A convolution with its activation as a separate layer `NAME_activation`, if int8 needs it.

    TFMOT does not record a range before such an activation, so the kernel would remain float.
    """
    if keras.activations.serialize(layer.activation) in _WITHIN_KERNELS:
        return None
    linear = type(layer).from_config({**layer.get_config(), "activation": None})(inputs[0])
    return keras.layers.Activation(layer.activation, name=f"{layer.name}_activation")(linear)


def _layer_scale(layer: Any, inputs: list[tf.Tensor]) -> tf.Tensor:
    return LayerScale(layer.init_values, name=layer.name)(inputs[0])


def _stochastic_depth(layer: Any, inputs: list[tf.Tensor]) -> tf.Tensor:
    return stochastic_depth(inputs[0], layer.drop_path_rate, name=layer.name)


def _scaled_sum(layer: Any, inputs: list[tf.Tensor]) -> tf.Tensor:
    scaled = keras.layers.Rescaling(layer.scale, name=f"{layer.name}_scale")(inputs[1])
    return keras.layers.Add(name=layer.name)([inputs[0], scaled])


def _operation(layer: keras.layers.Layer, inputs: list[tf.Tensor]) -> tf.Tensor | None:
    """A sum or product of two tensors, or of a tensor and a number; None for other operations."""
    (node,) = layer.inbound_nodes
    values = tf.nest.flatten((node.call_args, node.call_kwargs))
    numbers = [value for value in values if isinstance(value, (int, float))]
    kind = re.split(r"\W+", layer.get_config()["function"])[-1]
    name = re.sub(r"\W+", "_", layer.name)
    if kind == "add" and len(inputs) == 2:
        return keras.layers.Add(name=name)(inputs)
    if kind == "multiply" and len(inputs) == 2:
        return keras.layers.Multiply(name=name)(inputs)
    if kind == "add" and len(inputs) == len(numbers) == 1:
        return keras.layers.Rescaling(1.0, offset=numbers[0], name=name)(inputs[0])
    if kind == "multiply" and len(inputs) == len(numbers) == 1:
        return keras.layers.Rescaling(numbers[0], name=name)(inputs[0])
    return None


def _separated(layer: Any, inputs: list[tf.Tensor]) -> tf.Tensor:
    """A depthwise convolution with the name of the layer, followed by `NAME_pointwise`."""
    x = keras.layers.DepthwiseConv2D(
        layer.kernel_size,
        strides=layer.strides,
        padding=layer.padding,
        dilation_rate=layer.dilation_rate,
        use_bias=False,
        depthwise_initializer=_fresh(layer.depthwise_initializer),
        name=layer.name,
    )(inputs[0])
    return keras.layers.Conv2D(
        layer.filters,
        1,
        use_bias=layer.use_bias,
        kernel_initializer=_fresh(layer.pointwise_initializer),
        activation=layer.activation,
        name=f"{layer.name}_pointwise",
    )(x)


def _fresh(initializer: Any) -> Any:
    """A copy of an initializer, as Keras warns about reusing an unseeded one."""
    return type(initializer).from_config(initializer.get_config())


#: Layer class -> function (layer, inputs) -> output of the replacement, or None to copy the layer.
_REPLACED: dict[str, Callable[[Any, list[tf.Tensor]], tf.Tensor | None]] = {
    "Conv2D": _activated,
    "CustomScaleLayer": _scaled_sum,
    "LayerScale": _layer_scale,
    "Normalization": _nothing,
    "Rescaling": _nothing,
    "SeparableConv2D": _separated,
    "Sequential": _flat,
    "StochasticDepth": _stochastic_depth,
    "TFOpLambda": _operation,
}


def _register_all() -> None:
    for name, entry in vars(keras.applications).items():
        if name[0].isupper() and inspect.isfunction(entry):
            models.register(registered_name(name))(partial(application, name))


_register_all()
