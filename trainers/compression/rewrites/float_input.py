"""Pixel normalization in float before an int8 graph.

The converter quantizes pixels first and normalizes in int8: each of three steps rounds, to a scale
that need not be a multiple of a pixel's step. On EfficientNet-Lite0 the first one alone kept two of
three gray levels, as the converter's calibrator reads a tensor that the next operator overwrote.
"""

from typing import Any

from ai_edge_litert import schema_py_generated as schema

from trainers.compression.rewrites import Conversion, Facts, Rewrite
from trainers.compression.tflite_graph import (
    builtin,
    constant,
    is_constant,
    operator_code,
    pack,
    store,
    unpack,
)
from trainers.registry import rewrites

_BUILTIN = schema.BuiltinOperator
_ELEMENTWISE = {_BUILTIN.CAST, _BUILTIN.SUB, _BUILTIN.MUL, _BUILTIN.ADD, _BUILTIN.DIV}


def normalize_in_float(content: bytes, floats: bytes) -> bytes:
    """The int8 model with its normalization computed in float32 before the first QUANTIZE.

    Args:
      content: an int8 .tflite file with a uint8 input.
      floats: the same network before quantization: its first operators replace those of `content`,
        with their float constants.

    Returns:
      The new file's bytes: same input, and the same scale and zero point of the normalized pixels.
      `content` itself if the float model does not start with a normalization, or the int8 model has
      no int8 tensor for its result.
    """
    model, source = unpack(content), unpack(floats)
    prefix = _prefix(source)
    if not prefix:
        return content
    graph = model.subgraphs[0]
    name = source.subgraphs[0].tensors[prefix[-1].outputs[0]].name
    targets = [
        index
        for index, tensor in enumerate(graph.tensors)
        if tensor.name == name and tensor.type == schema.TensorType.INT8
    ]
    replaced = _producers(model, targets[0]) if len(targets) == 1 else []
    if not replaced:
        return content
    gone = {id(operator) for operator in replaced}
    kept = [operator for operator in graph.operators if id(operator) not in gone]
    normalized = _copied(model, source, prefix)
    quantize = schema.OperatorT()
    quantize.opcodeIndex = operator_code(model, _BUILTIN.QUANTIZE)
    quantize.inputs, quantize.outputs = [normalized[-1].outputs[0]], [targets[0]]
    graph.operators = [*normalized, quantize, *kept]
    return pack(model)


def _prefix(model: Any) -> list[Any]:
    """The operators between the input and the first one that is not elementwise with a constant."""
    graph = model.subgraphs[0]
    (tensor,) = graph.inputs
    found: list[Any] = []
    while True:
        readers = [operator for operator in graph.operators if tensor in operator.inputs]
        if len(readers) != 1 or builtin(model, readers[0]) not in _ELEMENTWISE:
            return found
        others = [one for one in readers[0].inputs if one != tensor]
        if not all(is_constant(model, one) for one in others):
            return found
        found.append(readers[0])
        tensor = readers[0].outputs[0]


def _producers(model: Any, tensor: int) -> list[Any]:
    """The chain of operators from the graph's input to `tensor`; empty if it is not a chain."""
    graph = model.subgraphs[0]
    found: list[Any] = []
    while tensor != graph.inputs[0]:
        makers = [operator for operator in graph.operators if tensor in operator.outputs]
        if len(makers) != 1:
            return []
        sources = [one for one in makers[0].inputs if not is_constant(model, one)]
        if len(sources) != 1:
            return []
        if found and sum(tensor in one.inputs for one in graph.operators) != 1:
            return []  # Another operator reads an intermediate result.
        found.append(makers[0])
        (tensor,) = sources
    return found


def _copied(model: Any, source: Any, prefix: list[Any]) -> list[Any]:
    """Copies operators of `source` to `model`, starting from the input of `model`."""
    tensors, others = model.subgraphs[0].tensors, source.subgraphs[0].tensors
    number = {int(source.subgraphs[0].inputs[0]): int(model.subgraphs[0].inputs[0])}
    copies = []
    for operator in prefix:
        code = source.operatorCodes[operator.opcodeIndex]
        copy = schema.OperatorT()
        copy.opcodeIndex = operator_code(model, builtin(source, operator), code.version)
        copy.builtinOptionsType = operator.builtinOptionsType
        copy.builtinOptions = operator.builtinOptions
        for tensor in (*operator.inputs, *operator.outputs):
            if int(tensor) in number:
                continue
            own = schema.TensorT()
            own.shape, own.type = others[tensor].shape, others[tensor].type
            own.name, own.buffer = others[tensor].name + b"/float", 0
            tensors.append(own)
            number[int(tensor)] = len(tensors) - 1
            if is_constant(source, tensor):
                store(model, len(tensors) - 1, constant(source, tensor))
        copy.inputs = [number[int(tensor)] for tensor in operator.inputs]
        copy.outputs = [number[int(tensor)] for tensor in operator.outputs]
        copies.append(copy)
    return copies


def _run(content: bytes, conversion: Conversion) -> tuple[bytes, Facts]:
    changed = normalize_in_float(content, conversion.floats())
    why = "the network does not start with a normalization"
    return changed, {} if changed != content else {"why": why}


rewrites.register("normalize_in_float")(
    Rewrite(
        "normalize_in_float",
        _run,
        stage="graph",
        dtypes=("int8",),
        needs_calibration=True,
        title="pixels normalized in float",
    )
)
