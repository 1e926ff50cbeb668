"""Float islands: operators that LiteRT's CPU delegate refuses in int8 are computed in float.

XNNPACK computes int8 convolutions and matrix products, but not every int8 operator, e.g. attention
products, GELU and layer normalization. An int8 transformer thus runs in a hundred partitions with
slow kernels between them. Each refused operator is put between a DEQUANTIZE and a QUANTIZE, which
the delegate supports, as it does the operator in float. Neighboring islands exchange float tensors
without rounding.

LiteRT reports which operators are refused (`trainers.compression.delegate`); there is no list.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from trainers.compression.delegate import DelegateError, Partitions, partitions
from trainers.compression.rewrites import Conversion, Facts, Rewrite
from trainers.compression.tflite_graph import (
    KERNEL_OPS,
    builtin,
    dequantized,
    is_constant,
    operator_code,
    pack,
    store,
    unpack,
)
from trainers.registry import rewrites

_BUILTIN = schema.BuiltinOperator
_INT8, _FLOAT32 = schema.TensorType.INT8, schema.TensorType.FLOAT32
# These convert types; between two conversions they would read other values.
_CONVERSIONS = {_BUILTIN.QUANTIZE, _BUILTIN.DEQUANTIZE, _BUILTIN.CAST, _BUILTIN.BITCAST}
# A float operator may itself be refused; the next round would find what it left in int8.
_ROUNDS = 4

_NAMES = {value: name for name, value in vars(_BUILTIN).items() if isinstance(value, int)}


def delegate_islands(content: bytes, conversion: Conversion) -> tuple[bytes, Facts]:
    """The file with refused int8 operators in float; the same bytes if there are none.

    Returns:
      The bytes, and as facts `partitions` before and after and `islands` (operator -> number), or
      `why` nothing was changed.
    """
    del conversion
    try:
        first = found = partitions(content)
        changed, chosen = content, set[int]()
        origins: list[int | None] = list(range(_size(content)))
        for _ in range(_ROUNDS):
            refused = {origins[at] for at in found.outside} - {None}
            added = _eligible(content, {one for one in refused if one is not None}) - chosen
            if not added:
                break
            chosen |= added
            changed, origins = with_islands(content, chosen)
            found = partitions(changed)
    except DelegateError as error:
        return content, {"why": str(error)}
    return _result(content, changed, chosen, (first, found))


def _result(
    content: bytes, changed: bytes, chosen: set[int], found: tuple[Partitions, Partitions]
) -> tuple[bytes, Facts]:
    before, after = found
    if not chosen:
        return content, {
            "partitions": [before.count],
            "why": "the delegate refuses no int8 operator",
        }
    facts: Facts = {"partitions": [before.count, after.count], "islands": _kinds(content, chosen)}
    if after.count > before.count:
        return content, {**facts, "why": "float operators would not reduce the partitions"}
    return changed, facts


def _size(content: bytes) -> int:
    return len(unpack(content).subgraphs[0].operators)


def _kinds(content: bytes, chosen: Iterable[int]) -> dict[str, int]:
    """Operator name -> how many of `chosen` are of that kind."""
    model = unpack(content)
    operators = model.subgraphs[0].operators
    return dict(sorted(Counter(_NAMES[builtin(model, operators[at])] for at in chosen).items()))


def _eligible(content: bytes, positions: Iterable[int]) -> set[int]:
    """The operators at `positions` that read or write quantized int8 and can compute in float.

    Convolutions and fully connected layers stay int8, because their kernels would become float too.
    """
    model = unpack(content)
    graph = model.subgraphs[0]
    found = set()
    for at in positions:
        operator = graph.operators[at]
        tensors = [int(one) for one in (*operator.inputs, *operator.outputs) if one >= 0]
        int8 = [one for one in tensors if graph.tensors[one].type == _INT8]
        code = builtin(model, operator)
        convertible = all(_has_one_scale(graph.tensors[one]) for one in int8)
        if int8 and convertible and code not in KERNEL_OPS and code not in _CONVERSIONS:
            found.add(at)
    return found


def _has_one_scale(tensor: Any) -> bool:
    found = tensor.quantization
    return found is not None and found.scale is not None and len(found.scale) == 1


def with_islands(content: bytes, chosen: Iterable[int]) -> tuple[bytes, list[int | None]]:
    """The file with some operators computed in float between DEQUANTIZE and QUANTIZE.

    Args:
      content: a .tflite file.
      chosen: positions of operators in its first subgraph; their int8 tensors have one scale.

    Returns:
      The bytes of the new file, and for each of its operators the position of its original, or None
      for an added conversion.
    """
    islands = _Islands(unpack(content), set(chosen))
    return islands.build(), islands.origins


class _Islands:
    """Builds the operators of `with_islands` in the order that they run."""

    def __init__(self, model: Any, chosen: set[int]) -> None:
        self.origins: list[int | None] = []
        self._model, self._graph, self._chosen = model, model.subgraphs[0], chosen
        self._operators: list[Any] = []
        # int8 tensor -> the float tensor with its values
        self._floats: dict[int, int] = {}

    def build(self) -> bytes:
        """The bytes of the new file."""
        operators = list(self._graph.operators)
        inside = [one for at, one in enumerate(operators) if at not in self._chosen]
        needed = {int(tensor) for one in inside for tensor in one.inputs}
        needed |= {int(tensor) for tensor in self._graph.outputs}
        for at, operator in enumerate(operators):
            if at in self._chosen:
                self._add_island(at, operator, needed)
            else:
                self._add(operator, at)
        self._graph.operators = self._operators
        return pack(self._model)

    def _add(self, operator: Any, origin: int | None) -> None:
        self._operators.append(operator)
        self.origins.append(origin)

    def _add_island(self, at: int, operator: Any, needed: set[int]) -> None:
        operator.inputs = [self._as_float(int(tensor)) for tensor in operator.inputs]
        results = [int(tensor) for tensor in operator.outputs]
        own = [self._twin(one) if self._is_int8(one) else one for one in results]
        operator.outputs = own
        self._add(operator, at)
        for old, new in zip(results, own, strict=True):
            if new != old:
                self._floats[old] = new
                if old in needed:
                    self._convert(_BUILTIN.QUANTIZE, new, old)

    def _as_float(self, tensor: int) -> int:
        """The float tensor with the values of `tensor`; itself if it is not int8."""
        if tensor < 0 or not self._is_int8(tensor):
            return tensor
        if tensor not in self._floats:
            self._floats[tensor] = twin = self._twin(tensor)
            if is_constant(self._model, tensor):
                store(self._model, twin, dequantized(self._model, tensor))
            else:
                self._convert(_BUILTIN.DEQUANTIZE, tensor, twin)
        return self._floats[tensor]

    def _is_int8(self, tensor: int) -> bool:
        return self._graph.tensors[tensor].type == _INT8

    def _twin(self, tensor: int) -> int:
        """Index of a new float tensor with the shape of `tensor`."""
        old, twin = self._graph.tensors[tensor], schema.TensorT()
        twin.shape, twin.shapeSignature = old.shape, old.shapeSignature
        twin.type, twin.buffer = _FLOAT32, 0
        twin.name = (old.name or b"") + b"/float"
        self._graph.tensors.append(twin)
        return len(self._graph.tensors) - 1

    def _convert(self, code: int, source: int, target: int) -> None:
        operator = schema.OperatorT()
        operator.opcodeIndex = operator_code(self._model, code)
        operator.inputs, operator.outputs = [source], [target]
        self._add(operator, None)


rewrites.register("delegate_islands")(
    Rewrite(
        "delegate_islands",
        delegate_islands,
        stage="graph",
        dtypes=("int8",),
        trial=True,
        title="float where the CPU delegate refuses int8",
    )
)
