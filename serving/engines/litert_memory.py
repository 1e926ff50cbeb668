"""How much memory a `.tflite` with open sizes takes for an input, before LiteRT allocates any.

LiteRT says what shapes a graph has inside only once it has allocated them, and an interpreter whose
allocation failed crashes later. So small inputs are tried, and larger ones extrapolated.
"""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

#: Of the largest tensor of one run; a run takes about twice as much.
MAX_TENSOR_BYTES = 2**30
#: What open sizes are tried with; of a graph that refuses those, the second pair.
_SIZES = ((64, 128), (256, 512))
_ROWS = (1, 2)


class Estimate:
    """Bytes of a graph's largest tensor as a function of the values in its inputs."""

    def __init__(self, linear: float, quadratic: float) -> None:
        """Takes the bytes for each value, and for each pair of values, as in attention."""
        self._linear = linear
        self._quadratic = quadratic

    def bytes_of(self, values: int) -> float:
        """The largest tensor's bytes for inputs of so many values together."""
        return self._linear * values + self._quadratic * values**2


def estimate(file: Path) -> Estimate | None:
    """The estimate of a file; None where no size is open, or none of the tried ones is taken."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    # A delegate would hide the tensors inside its part of the graph.
    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_path=str(file), experimental_op_resolver_type=plain)
    details = interpreter.get_input_details()
    shapes = {d["index"]: d["shape_signature"] for d in details if -1 in d["shape_signature"]}
    if not shapes:
        return None
    fixed = sum(prod(map(int, d["shape"])) for d in details if d["index"] not in shapes)
    for small, large in _SIZES:
        try:
            points = [
                _largest(interpreter, shapes, rows=rows, size=size, fixed=fixed)
                for rows, size in zip(_ROWS, (small, large), strict=True)
            ]
        except (RuntimeError, ValueError):
            continue
        return _through(*points)
    return None


def _largest(
    interpreter: Any, shapes: Mapping[int, Any], *, rows: int, size: int, fixed: int
) -> tuple[int, int]:
    """(Values of the inputs, bytes of the largest tensor) with open sizes of `rows` and `size`."""
    values = fixed
    for index, signature in shapes.items():
        shape = [
            int(wanted) if wanted >= 0 else rows if axis == 0 else size
            for axis, wanted in enumerate(signature)
        ]
        values += prod(shape)
        interpreter.resize_tensor_input(index, shape)
    interpreter.allocate_tensors()
    tensors = interpreter.get_tensor_details()
    return values, max(prod(map(int, t["shape"])) * _item_bytes(t["dtype"]) for t in tensors)


def _item_bytes(dtype: Any) -> int:
    return max(1, np.dtype(dtype).itemsize)


def _through(small: tuple[int, int], large: tuple[int, int]) -> Estimate:
    """The curve through two points and zero; constants count as if they grew too, so from above."""
    (x, y), (more_x, more_y) = small, large
    quadratic = max(0.0, (more_y / more_x - y / x) / (more_x - x))
    return Estimate(more_y / more_x - quadratic * more_x, quadratic)
