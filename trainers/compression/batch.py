"""Makes the shapes inside a .tflite file hold for any number of images.

The converter gets a model of one image, because XNNPACK runs static shapes fast, and its file
depends on that: reshapes have constant shapes, and a reshape before a sum is dropped if
broadcasting makes it redundant. After `any_batch`, the input can be resized to another batch; with
one image, the file computes the same with the same operators.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from trainers.compression.tflite_graph import builtin, is_constant, operator_code, pack, unpack

_OPS = schema.BuiltinOperator
_SUMS = (_OPS.ADD, _OPS.SUB, _OPS.MUL, _OPS.DIV, _OPS.SQUARED_DIFFERENCE)
# One input apart from constants, and an output of its rank.
_ROW_WISE = (_OPS.FULLY_CONNECTED, _OPS.QUANTIZE, _OPS.DEQUANTIZE, _OPS.CAST, _OPS.GELU)
_KEEPS_DIMENSIONS = 5  # version of FULLY_CONNECTED with this option


def any_batch(content: bytes) -> bytes:
    """The model whose input can be resized to any batch.

    Args:
      content: a .tflite file whose input and output have a first size of 1, the number of images.

    Returns:
      The bytes of the new file. Its declared shapes have one image. Operations whose constants
      depend on the batch in another way than reshapes are unchanged.
    """
    model = unpack(content)
    graph = _Graph(model)
    for operator in graph.reshapes:
        shape = graph.shape(operator.outputs[0])
        graph.set_reshape(operator, [-1, *shape[1:]])
    for operator in graph.operators:
        if builtin(model, operator) in _SUMS:
            graph.restore_images(operator)
    return pack(model)


class _Graph:
    """The operators of the first subgraph that depend on its inputs."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._graph = model.subgraphs[0]
        self._dependent = {int(tensor) for tensor in self._graph.inputs}
        self._shapes: dict[tuple[int, ...], int] = {}
        self.operators = []
        for operator in self._graph.operators:
            if self._dependent.intersection(map(int, operator.inputs)):
                self._dependent.update(map(int, operator.outputs))
                self.operators.append(operator)
        self._makers = {int(t): operator for operator in self.operators for t in operator.outputs}

    @property
    def reshapes(self) -> list[Any]:
        """The reshapes to a constant shape."""
        return [operator for operator in self.operators if self._is_reshape(operator)]

    def shape(self, tensor: int) -> list[int]:
        """Of one image."""
        return [int(size) for size in self._graph.tensors[tensor].shape]

    def set_reshape(self, operator: Any, shape: Sequence[int]) -> None:
        """Gives a reshape another shape; its constant may belong to other reshapes too."""
        operator.inputs = [int(operator.inputs[0]), self._constant(shape)]
        operator.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
        operator.builtinOptions = schema.ReshapeOptionsT()
        operator.builtinOptions.newShape = list(shape)

    def restore_images(self, operator: Any) -> None:
        """Gives both operands of a sum an axis of images, if the converter dropped it in one."""
        operands = [int(t) for t in operator.inputs if int(t) in self._dependent]
        if len(operands) < 2:
            return
        low, high = sorted(operands, key=lambda tensor: len(self.shape(tensor)))
        if [1, *self.shape(low)] != self.shape(high):
            return
        chain = self._chain_to_reshape(low)
        for member in chain:
            (output,) = member.outputs
            shape = [1, *self.shape(output)]
            self._graph.tensors[output].shape = shape
            if self._is_reshape(member):
                self.set_reshape(member, [-1, *shape[1:]])
            elif builtin(self._model, member) == _OPS.FULLY_CONNECTED:
                member.builtinOptions.keepNumDims = True
                version = self._model.operatorCodes[member.opcodeIndex].version
                member.opcodeIndex = operator_code(
                    self._model, _OPS.FULLY_CONNECTED, max(version, _KEEPS_DIMENSIONS)
                )

    def _chain_to_reshape(self, tensor: int) -> list[Any]:
        """The operators from a reshape to `tensor`; empty if it is made in another way."""
        chain = []
        while len(self._readers(tensor)) == 1 and tensor in self._makers:
            maker = self._makers[tensor]
            chain.append(maker)
            if self._is_reshape(maker):
                return chain
            if builtin(self._model, maker) not in _ROW_WISE:
                break
            tensor = int(maker.inputs[0])
        return []

    def _readers(self, tensor: int) -> list[Any]:
        return [operator for operator in self.operators if tensor in map(int, operator.inputs)]

    def _is_reshape(self, operator: Any) -> bool:
        return (
            builtin(self._model, operator) == _OPS.RESHAPE
            and int(operator.inputs[0]) in self._dependent
            and (len(operator.inputs) == 1 or is_constant(self._model, operator.inputs[1]))
        )

    def _constant(self, shape: Sequence[int]) -> int:
        """The index of a constant int32 tensor."""
        key = tuple(shape)
        if key not in self._shapes:
            buffer, tensor = schema.BufferT(), schema.TensorT()
            buffer.data = np.frombuffer(np.array(shape, np.int32).tobytes(), np.uint8)
            self._model.buffers.append(buffer)
            tensor.buffer = len(self._model.buffers) - 1
            tensor.shape, tensor.type = [len(key)], schema.TensorType.INT32
            tensor.name = f"shape_{'x'.join(map(str, key))}"
            self._graph.tensors.append(tensor)
            self._shapes[key] = len(self._graph.tensors) - 1
        return self._shapes[key]
