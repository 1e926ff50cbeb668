"""Estimates the memory of a `.tflite` with dynamic sizes before LiteRT allocates it.

LiteRT reports the shapes of inner tensors only after their allocation, and an interpreter whose
allocation failed crashes later. The estimate extrapolates from small inputs.
"""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

#: Bytes of the largest tensor of one run; a run needs about twice as much.
MAX_TENSOR_BYTES = 2**30
#: Pairs of values for dynamic sizes; the second is for graphs that reject the first.
_SIZES = ((64, 128), (256, 512))
_ROWS = (1, 2)


class Estimate:
    """Bytes of a graph's largest tensor as a function of the number of input values."""

    def __init__(self, linear: float, quadratic: float) -> None:
        """Coefficients: bytes per value, and per pair of values, as in attention."""
        self._linear = linear
        self._quadratic = quadratic

    def bytes_of(self, values: int) -> float:
        """Bytes of the largest tensor for inputs with that many values in total."""
        return self._linear * values + self._quadratic * values**2


def estimate(file: Path) -> Estimate | None:
    """The estimate of a file; None if no size is dynamic, or the graph rejects the tried ones."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    # A delegate would hide the inner tensors of its part of the graph.
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
    """(number of input values, bytes of the largest tensor) for sizes `rows` and `size`."""
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
    """The curve through zero and two points; an upper bound, because constants grow with it."""
    (x, y), (more_x, more_y) = small, large
    quadratic = max(0.0, (more_y / more_x - y / x) / (more_x - x))
    return Estimate(more_y / more_x - quadratic * more_x, quadratic)
