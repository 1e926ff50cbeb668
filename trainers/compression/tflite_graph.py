"""TFLite flatbuffers as objects: constants, operators, parts of a graph and running them."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

KERNEL_OPS = frozenset(
    {
        schema.BuiltinOperator.CONV_2D,
        schema.BuiltinOperator.DEPTHWISE_CONV_2D,
        schema.BuiltinOperator.FULLY_CONNECTED,
    }
)

_IDENTIFIER = b"TFL3"
_DTYPES = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.INT8: np.int8,
    schema.TensorType.INT32: np.int32,
}


def unpack(content: bytes) -> Any:
    """The `ModelT` of a .tflite file's bytes."""
    return schema.ModelT.InitFromPackedBuf(content)


def pack(model: Any) -> bytes:
    """The bytes of a .tflite file; equal models give equal bytes."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def builtin(model: Any, operator: Any) -> int:
    """The `BuiltinOperator` of an operator of `model`."""
    code = model.operatorCodes[operator.opcodeIndex]
    # Codes above 127 do not fit the old field; the larger of both is the code.
    return max(code.builtinCode, code.deprecatedBuiltinCode)


def operator_code(model: Any, code: int, version: int = 1) -> int:
    """Index of a builtin operator of one version in `model.operatorCodes`, added if missing."""
    for index, known in enumerate(model.operatorCodes):
        found = max(known.builtinCode, known.deprecatedBuiltinCode)
        if (found, known.version) == (code, version):
            return index
    added = schema.OperatorCodeT()
    # The old field is a signed byte; its maximum means "see the new field".
    added.builtinCode, added.deprecatedBuiltinCode = code, min(code, 127)
    added.version = version
    model.operatorCodes.append(added)
    return len(model.operatorCodes) - 1


def kernel_operators(model: Any) -> list[Any]:
    """Convolutions and fully connected layers with a constant kernel, in the order they run."""
    return [
        operator
        for operator in model.subgraphs[0].operators
        if builtin(model, operator) in KERNEL_OPS and is_constant(model, operator.inputs[1])
    ]


def is_constant(model: Any, tensor: int) -> bool:
    """Whether a tensor of the first subgraph is stored in the file."""
    data = model.buffers[model.subgraphs[0].tensors[tensor].buffer].data
    return data is not None and len(data) > 0


def constant(model: Any, tensor: int) -> np.ndarray:
    """The stored value of a float32, int8 or int32 tensor."""
    found = model.subgraphs[0].tensors[tensor]
    data = bytes(model.buffers[found.buffer].data)
    return np.frombuffer(data, _DTYPES[found.type]).reshape(found.shape)


def store(model: Any, tensor: int, value: np.ndarray) -> None:
    """Stores `value` in a tensor, in a buffer that no other tensor uses."""
    tensors = model.subgraphs[0].tensors
    own = tensors[tensor]
    if own.buffer == 0 or sum(other.buffer == own.buffer for other in tensors) > 1:
        model.buffers.append(schema.BufferT())
        own.buffer = len(model.buffers) - 1
    model.buffers[own.buffer].data = np.frombuffer(value.tobytes(), np.uint8)


def dequantized(model: Any, tensor: int, values: np.ndarray | None = None) -> np.ndarray:
    """The real values of an int8 tensor, as float32.

    Args:
      model: of the tensor.
      tensor: its index.
      values: int8 values, or means of them, with the tensor's shape; None for the stored ones.
    """
    found = model.subgraphs[0].tensors[tensor]
    scale, zero = found.quantization.scale, found.quantization.zeroPoint
    shape = [1] * len(found.shape)
    if len(scale) > 1:
        shape[found.quantization.quantizedDimension] = len(scale)
    stored = constant(model, tensor) if values is None else values
    centered = stored.astype(np.float64) - np.reshape(zero, shape)
    return (centered * np.reshape(scale, shape)).astype(np.float32)


class Part:
    """Some operators of a graph as a separate model, run by LiteRT.

    Args:
      model: the whole model; the present values of its stored tensors are used.
      operators: of its first subgraph, in the order they run.
      outputs: tensors that `run` returns; they are computed by `operators`.

    Attributes:
      inputs: tensors that `run` takes, in order.
      outputs: tensors that it returns, in order.
    """

    def __init__(self, model: Any, operators: Sequence[Any], outputs: Sequence[int]) -> None:
        made = {int(tensor) for operator in operators for tensor in operator.outputs}
        read = dict.fromkeys(int(t) for operator in operators for t in operator.inputs if t >= 0)
        self.inputs = [t for t in read if t not in made and not is_constant(model, t)]
        self.outputs = list(outputs)
        whole = model.subgraphs[0]
        part, graph = schema.ModelT(), schema.SubGraphT()
        used = [*read, *sorted(made - set(read))]
        number = {-1: -1, **{tensor: index for index, tensor in enumerate(used)}}
        graph.tensors = [copy.copy(whole.tensors[tensor]) for tensor in used]
        part.buffers = [schema.BufferT()]
        for tensor, own in zip(used, graph.tensors, strict=True):
            own.buffer = 0
            if is_constant(model, tensor):
                part.buffers.append(model.buffers[whole.tensors[tensor].buffer])
                own.buffer = len(part.buffers) - 1
        graph.operators = [copy.copy(operator) for operator in operators]
        for operator in graph.operators:
            operator.inputs = [number[int(tensor)] for tensor in operator.inputs]
            operator.outputs = [number[int(tensor)] for tensor in operator.outputs]
        graph.inputs = [number[tensor] for tensor in self.inputs]
        graph.outputs = [number[tensor] for tensor in self.outputs]
        part.version, part.subgraphs = model.version, [graph]
        part.operatorCodes = model.operatorCodes
        self._interpreter = Interpreter(model_content=pack(part), num_threads=1)
        self._slots = graph.inputs, graph.outputs
        self._interpreter.allocate_tensors()

    def run(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs for one value of each of `inputs`."""
        for index, value in zip(self._slots[0], values, strict=True):
            self._interpreter.set_tensor(index, value)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._slots[1]]


def means_of(content: bytes, images: np.ndarray, tensors: Sequence[int]) -> dict[int, np.ndarray]:
    """Tensor -> mean over images of its value in a whole model.

    Args:
      content: a .tflite file with one uint8 input (1, H, W, 3).
      images: (M, H, W, 3) uint8, at least one.
      tensors: of its first subgraph; may be empty.

    Returns:
      Float64 arrays of the tensors' shapes.
    """
    interpreter = Interpreter(
        model_content=content,
        num_threads=1,
        experimental_preserve_all_tensors=True,
        # A delegate would not expose the tensors between its operators.
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    (slot,) = interpreter.get_input_details()

    def rows() -> Iterator[dict[int, np.ndarray]]:
        for image in images:
            interpreter.set_tensor(slot["index"], image[None])
            interpreter.invoke()
            yield {tensor: interpreter.get_tensor(tensor) for tensor in tensors}

    sums: dict[int, Any] = dict.fromkeys(tensors, 0.0)
    for row in rows():
        for tensor, value in row.items():
            sums[tensor] = sums[tensor] + value.astype(np.float64)
    return {tensor: total / len(images) for tensor, total in sums.items()}
