"""Cost of a model: parameters, multiply-adds and activations, counted rather than measured.

One multiply-add (MAC) is two FLOPs; papers that state "4.1 GFLOPs" for ResNet-50 mean MACs. Counted
are convolutions (2 * kh * kw * Cin * Cout * Hout * Wout FLOPs), dense layers and attention;
normalization, activations, additions and pooling are not, as in the literature. Attention over N
tokens of d features takes 4 * N^2 * d FLOPs for its scores and weighted sums, and the projections
round them on top.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from trainers.keras import keras
from trainers.profiling.model_graph import Call, model_calls


@dataclass(frozen=True)
class Complexity:
    """A model's size and work.

    Attributes:
      parameters: all of them, including moving averages.
      trainable_parameters: the number that papers state.
      multiply_adds: for one image; 1e9 of them is 1 GMAC.
    """

    parameters: int
    trainable_parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class LayerCost:
    """One call of a layer, for one image.

    Attributes:
      name: of the layer.
      kind: class of the layer.
      shape: of its first output without the batch; None for sizes that are not static.
      parameters: of the layer; 0 in a second call of a shared layer.
      trainable_parameters: likewise.
      multiply_adds: of this call.
      activation_bytes: of all its outputs, in their dtype.
    """

    name: str
    kind: str
    shape: tuple[int | None, ...]
    parameters: int
    trainable_parameters: int
    multiply_adds: int
    activation_bytes: int


@dataclass(frozen=True)
class Attention:
    """Cost of attention, for one image.

    Attributes:
      layers: number of times attention is applied.
      products: multiply-adds of scores and weighted sums, 2 * N^2 * d if queries and keys are the
        same N tokens of d features.
      projections: multiply-adds that make query, key and value and mix the heads' results.
    """

    layers: int
    products: int
    projections: int


def complexity(model: keras.Model) -> Complexity:
    """The cost of `model`, for one image of its static input size.

    Args:
      model: functional. Layers with kernels may be convolutions (1D to 3D, grouped, depthwise,
        separable, transposed), Dense and MultiHeadAttention; a layer of another kind counts itself
        in a method `multiply_adds() -> int`.

    Raises:
      ValueError: a layer has a kernel of an unknown kind, or the model is subclassed.
    """
    return Complexity(
        parameters=_size(model.weights),
        trainable_parameters=_size(model.trainable_weights),
        multiply_adds=sum(call_multiply_adds(call) for call in model_calls(model)),
    )


def layer_costs(model: keras.Model) -> list[LayerCost]:
    """The cost of every layer call, in the order in which Keras runs them.

    Raises:
      ValueError: as `complexity`.
    """
    costs, seen = [], set()
    for call in model_calls(model):
        layer = call.layer
        first = id(layer) not in seen
        seen.add(id(layer))
        costs.append(
            LayerCost(
                name=layer.name,
                kind=type(layer).__name__,
                shape=call.outputs[0].shape,
                parameters=_size(layer.weights) if first else 0,
                trainable_parameters=_size(layer.trainable_weights) if first else 0,
                multiply_adds=call_multiply_adds(call),
                activation_bytes=sum(tensor.bytes for tensor in call.outputs),
            )
        )
    return costs


def attention_cost(model: keras.Model) -> Attention:
    """Cost of the attention layers of `model`, whose class names contain `Attention`.

    Raises:
      ValueError: as `complexity`.
    """
    calls = model_calls(model)
    makers = {tensor.key: call for call in calls for tensor in call.outputs}
    takers: dict[str, list[Call]] = {}
    for call in calls:
        for tensor in call.inputs:
            takers.setdefault(tensor.key, []).append(call)
    applied, products, inner, around = 0, 0, 0, {}
    for call in [call for call in calls if _is_attention(call)]:
        if isinstance(call.layer, keras.layers.MultiHeadAttention):
            applied, inner = applied + 1, inner + _multi_head(call)[0]
            products += _multi_head(call)[1]
            continue
        products += call_multiply_adds(call)
        sources = [makers[tensor.key] for tensor in call.inputs]
        targets = [one for tensor in call.outputs for one in takers.get(tensor.key, [])]
        # A pair of layers, scores and sums, is one attention.
        applied += not any(_is_attention(target) for target in targets)
        found = [_past_views(one, makers, takers, up=True) for one in sources]
        found += [_past_views(one, makers, takers, up=False) for one in targets]
        around.update({id(one.layer): one for one in found if _kernels(one.layer)})
    projections = inner + sum(call_multiply_adds(call) for call in around.values())
    return Attention(applied, products, projections)


def call_multiply_adds(call: Call) -> int:
    """Multiply-adds of one layer call, for one image.

    Raises:
      ValueError: the layer has a kernel of an unknown kind.
    """
    layer, layers = call.layer, keras.layers
    if hasattr(layer, "multiply_adds"):
        return layer.multiply_adds()
    if isinstance(layer, keras.Model):
        return complexity(layer).multiply_adds
    if isinstance(layer, layers.MultiHeadAttention):
        return sum(_multi_head(call))
    if type(layer) in _TRANSPOSED:
        return _size([layer.kernel]) * _positions(layer, call.inputs[0].shape)
    if type(layer) in _CONVOLUTIONS:
        return _size(_kernels(layer)) * _positions(layer, call.outputs[0].shape)
    if isinstance(layer, layers.Dense):
        return _size([layer.kernel]) * math.prod(_static(layer, call.outputs[0].shape[:-1]))
    if any("kernel" in weight.name for weight in layer.weights):
        raise ValueError(
            f"cannot count the multiply-adds of layer {layer.name!r} ({type(layer).__name__}); "
            "give the class a method `multiply_adds() -> int`"
        )
    return 0


_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)
# Each input position is multiplied by the whole kernel.
_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)


def _kernels(layer: keras.layers.Layer) -> list[Any]:
    return [weight for weight in layer.weights if "kernel" in weight.name]


def _positions(layer: keras.layers.Layer, shape: tuple[int | None, ...]) -> int:
    """Number of positions of a feature map, for a shape without batch."""
    sizes = shape[1:] if layer.data_format == "channels_first" else shape[:-1]
    return math.prod(_static(layer, sizes))


def _static(layer: keras.layers.Layer, sizes: Iterable[int | None]) -> list[int]:
    known = [size for size in sizes if size is not None]
    if len(known) != len(list(sizes)):
        raise ValueError(
            f"layer {layer.name!r} has an output of unknown size {tuple(sizes)}; build the model "
            "with a fixed image size"
        )
    return known


def _multi_head(call: Call) -> tuple[int, int]:
    """(projections, products) of the attention layer of Keras."""
    layer, query = call.layer, call.inputs[0].shape
    # Value first, key last: the same tensor if only one is passed.
    key = call.inputs[-1].shape
    tokens, others = math.prod(_static(layer, query[:-1])), math.prod(_static(layer, key[:-1]))
    settings = layer.get_config()
    per_head = settings["key_dim"] + (settings["value_dim"] or settings["key_dim"])
    projections = 0
    for weight in _kernels(layer):
        of_query = "/query/" in weight.name or "/attention_output/" in weight.name
        projections += _size([weight]) * (tokens if of_query else others)
    return projections, tokens * others * settings["num_heads"] * per_head


def _is_attention(call: Call) -> bool:
    return "Attention" in type(call.layer).__name__


def _past_views(
    call: Call, makers: dict[str, Call], takers: dict[str, list[Call]], *, up: bool
) -> Call:
    """The next call with weights, past calls with one input that only reshape or drop out."""
    while not call.layer.weights and len(call.inputs) == 1 and not _is_attention(call):
        following = takers.get(call.outputs[0].key, [])
        if up:
            call = makers[call.inputs[0].key]
        elif len(following) == 1:
            call = following[0]
        else:
            break
    return call


def _size(weights: list) -> int:
    return sum(math.prod(weight.shape) for weight in weights)
