"""A functional network as a list of layer calls, and which tensors live between two of them.

Keras runs a functional model depth by depth; `model_calls` gives that order. From it follow the
memory of activations (`activations`) and the positions where a network can be cut
(`trainers.distributed.model_parallel`).
"""

import math
from dataclasses import dataclass
from typing import Any

from trainers.keras import keras


@dataclass(frozen=True)
class Tensor:
    """An output of a layer.

    Attributes:
      key: unique within its model.
      shape: without the batch; None for sizes that are not static.
      dtype: TensorFlow's name, e.g. `float32`.
      bytes: for one image.
    """

    key: str
    shape: tuple[int | None, ...]
    dtype: str
    bytes: int


@dataclass(frozen=True)
class Call:
    """One application of a layer.

    Attributes:
      layer: the same object in two calls if the layer is shared.
      inputs: empty for the inputs of the model.
      outputs: of the call.
      node: the record of the call in Keras, for `map_arguments`.
    """

    layer: keras.layers.Layer
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    node: Any


@dataclass(frozen=True)
class Activations:
    """Bytes of layer outputs for one image.

    Each output counts as a separate buffer: the runtime saves some by working in place, and needs
    others as scratch space of kernels.

    Attributes:
      total: of all layers, which training keeps for the gradients.
      peak: maximum at one time if each is freed after its last use, as in inference.
      widest: the layer whose call has the peak.
    """

    total: int
    peak: int
    widest: str


def model_calls(model: keras.Model) -> list[Call]:
    """The calls of `model` in the order in which Keras runs them, inputs first.

    Args:
      model: functional, or sequential with a known input.

    Raises:
      ValueError: a subclassed model, whose calls are unknown.
    """
    by_depth = getattr(model, "_nodes_by_depth", None)
    if not by_depth:
        raise ValueError(
            f"{model.name!r} ({type(model).__name__}) is not a functional model; build it with "
            "keras.Model(inputs, outputs)"
        )
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    inputs = [_call(node) for node in nodes if node.is_input]
    return inputs + [_call(node) for node in nodes if not node.is_input]


def output_keys(model: keras.Model) -> tuple[str, ...]:
    """The keys of the tensors that `model` returns, in order."""
    return tuple(str(id(tensor)) for tensor in model.outputs)


def live_tensors(model: keras.Model, calls: list[Call]) -> list[tuple[Tensor, ...]]:
    """After each call, the tensors that later calls or the caller of the model still need.

    Returns:
      As many tuples as there are calls, each in the order in which its tensors were made.
    """
    last: dict[str, int] = dict.fromkeys(output_keys(model), len(calls))
    for index, call in enumerate(calls):
        for tensor in call.inputs:
            last[tensor.key] = max(last.get(tensor.key, -1), index)
    live: dict[str, Tensor] = {}
    found: list[tuple[Tensor, ...]] = []
    for index, call in enumerate(calls):
        live.update((tensor.key, tensor) for tensor in call.outputs)
        live = {key: tensor for key, tensor in live.items() if last.get(key, -1) > index}
        found.append(tuple(live.values()))
    return found


def activations(model: keras.Model) -> Activations:
    """The memory of layer outputs, for one image.

    Raises:
      ValueError: not a functional model.
    """
    calls = model_calls(model)
    live = live_tensors(model, calls)
    total, peak, widest = 0, 0, ""
    before: tuple[Tensor, ...] = ()
    for call, after in zip(calls, live, strict=True):
        made = _bytes(call.outputs)
        total, within = total + made, made
        if isinstance(call.layer, keras.Model):
            inner = activations(call.layer)
            # Its inputs are the outer model's tensors.
            total += max(0, inner.total - made - _bytes(call.inputs))
            within = max(made, inner.peak - _bytes(call.inputs))
        if _bytes(before) + within > peak:
            peak, widest = _bytes(before) + within, call.layer.name
        before = after
    return Activations(total, peak, widest)


def _call(node: Any) -> Call:
    taken = [] if node.is_input else list(node.keras_inputs)
    return Call(
        layer=node.layer,
        inputs=_unique(taken),
        outputs=_unique(_flat(node.outputs)),
        node=node,
    )


def _flat(structure: Any) -> list[Any]:
    if isinstance(structure, dict):
        structure = [structure[key] for key in sorted(structure)]
    if isinstance(structure, (list, tuple)):
        return [tensor for part in structure for tensor in _flat(part)]
    return [structure]


def _unique(tensors: list[Any]) -> tuple[Tensor, ...]:
    """Each tensor once, as a call may use it twice: `Add()([x, x])`."""
    found = {}
    for tensor in tensors:
        shape = tuple(tensor.shape.as_list()[1:]) if tensor.shape.rank else ()
        size = tensor.dtype.size * math.prod(side or 1 for side in shape)
        found[str(id(tensor))] = Tensor(str(id(tensor)), shape, tensor.dtype.name, size)
    return tuple(found.values())


def _bytes(tensors: tuple[Tensor, ...]) -> int:
    return sum(tensor.bytes for tensor in tensors)
