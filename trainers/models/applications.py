"""Every architecture of `keras.applications` by its name: `vgg16`, `inception_v3`, `convnext_tiny`.

Names are the classes' in lower case with underscores, so `EfficientNetV2B0` is `efficientnetv2_b0`;
where a family of ours has the name, theirs starts with `keras_`. They start without weights.

Their graphs are built anew, layer by layer under the same names, with what compression cannot see
into put differently: nested models are laid flat, separable convolutions become their two halves,
a convolution's swish becomes a layer of its own, custom layers and bare operations become layers
that TFMOT can copy. Weights keep their order. Their own preprocessing goes, because the
normalization is `build_model`'s.
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

# Activations that TFMOT quantises inside a convolution.
_WITHIN_KERNELS = ("linear", "relu", "sigmoid", "softmax", "tanh")

# Families that Sightline builds itself.
_OURS = re.compile(r"resnet\d+|mobilenet_v[23].*")


def application(name: str, images: tf.Tensor) -> tf.Tensor:
    """An architecture of `keras.applications`, up to its pooled features.

    Args:
      name: of the function there, e.g. `InceptionV3`.
      images: (B, H, W, 3) float32, normalized.

    Returns:
      (B, F) float32 features.

    Raises:
      ConfigError: the architecture refuses images of this size.
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
            f"keras.applications.{name} does not take {height}x{width} images: {error}; set "
            "data.image_size"
        ) from error
    return _rebuilt(network, images)


def registered_name(name: str) -> str:
    """What the registry calls the architecture `name`, e.g. `densenet121` for `DenseNet121`."""
    joined = re.sub(r"(ConvNeXt|NASNet|[A-Z][a-z]+Net)", lambda found: found[0].capitalize(), name)
    # EfficientNetV2's variants are letters, which stay apart from the version.
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
    """What stands in the layer's place; None where a plain copy does."""
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
    """A convolution, then its activation as `NAME_activation`, where int8 cannot have them as one.

    TFMOT gives a kernel's output no range before such an activation, so the kernel stays float.
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
    """A sum or product of two tensors, or with a number; None leaves anything else as it is."""
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
    """A depthwise convolution under the layer's name, then `NAME_pointwise`."""
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
    """A copy: Keras warns of an unseeded one that is used twice."""
    return type(initializer).from_config(initializer.get_config())


#: Class of a layer -> (layer, its inputs) -> what stands in its place, or None for a plain copy.
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
