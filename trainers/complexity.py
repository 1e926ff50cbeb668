"""What a model costs: parameters and multiply-adds, counted from its layers, not measured.

One multiply-add (MAC) is two FLOPs; papers that say "4.1 GFLOPs" for ResNet-50 mean MACs. Counted
are convolutions, dense layers and attention products; normalisation, activations, additions and
pooling are not, as in the literature.
"""

import math
from dataclasses import dataclass

from trainers.keras import keras


@dataclass(frozen=True)
class Complexity:
    """A model's size and work.

    Attributes:
      parameters: all of them; moving averages count.
      trainable_parameters: what papers give.
      multiply_adds: for one image; 1e9 of them is 1 GMAC.
    """

    parameters: int
    trainable_parameters: int
    multiply_adds: int


def complexity(model: keras.Model) -> Complexity:
    """The cost of `model`, for one image of its static input size.

    Args:
      model: functional. Of layers with kernels it may hold Conv2D, DepthwiseConv2D and Dense; a
        layer of another kind counts itself in a method `multiply_adds() -> int`.

    Raises:
      ValueError: a layer has a kernel, and nobody says how to count it.
    """
    return Complexity(
        parameters=_size(model.weights),
        trainable_parameters=_size(model.trainable_weights),
        multiply_adds=sum(_multiply_adds(layer) for layer in model.layers),
    )


def _multiply_adds(layer: keras.layers.Layer) -> int:
    if hasattr(layer, "multiply_adds"):
        return layer.multiply_adds()
    if isinstance(layer, keras.Model):
        return complexity(layer).multiply_adds
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return _size([layer.depthwise_kernel]) * math.prod(_map_size(layer))
    if type(layer) is keras.layers.Conv2D:
        return _size([layer.kernel]) * math.prod(_map_size(layer))
    if isinstance(layer, keras.layers.Dense):
        return _size([layer.kernel]) * math.prod(layer.output_shape[1:-1])
    if any("kernel" in weight.name for weight in layer.weights):
        raise ValueError(
            f"cannot count the multiply-adds of layer {layer.name!r} ({type(layer).__name__}); "
            "give the class a method `multiply_adds() -> int`"
        )
    return 0


def _map_size(layer: keras.layers.Layer) -> tuple[int, int]:
    """(height, width) of a convolution's output."""
    shape = layer.output_shape
    return shape[2:] if layer.data_format == "channels_first" else shape[1:3]


def _size(weights: list) -> int:
    return sum(math.prod(weight.shape) for weight in weights)
