"""A LiteRT interpreter with tensor names and declared shapes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from serving.engines.litert_memory import MAX_TENSOR_BYTES, Estimate
from serving.limits import MAX_ELEMENTS

#: Elements of a request after which an interpreter is replaced, because it never shrinks.
_LARGE_ELEMENTS = 2**20


@dataclass(frozen=True)
class TensorSpec:
    """A declared input or output.

    Attributes:
      shape: -1 for any size.
      dtype: of NumPy; `object` for strings.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def has_rows(self) -> bool:
        """Whether the first size is a variable number of rows."""
        return bool(self.shape) and self.shape[0] in (-1, 1)

    @property
    def text(self) -> str:
        """The accepted shapes, e.g. `[any, 32, 32, 3]`."""
        sizes = ["any" if size < 0 else str(size) for size in self.shape]
        return f"[{', '.join(['any', *sizes[1:]] if self.has_rows else sizes)}]"

    def takes(self, dtype: np.dtype[Any]) -> bool:
        """Whether values of that type are accepted."""
        return dtype.kind in "OSU" if self.dtype.kind == "O" else dtype == self.dtype

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether the graph accepts that shape; a leading row dimension may be missing."""
        if len(shape) != len(self.shape) or prod(shape) > MAX_ELEMENTS:
            return False
        rows = 1 if self.has_rows else 0
        pairs = zip(shape[rows:], self.shape[rows:], strict=True)
        return all(size == wanted if wanted >= 0 else size > 0 for size, wanted in pairs)


class NamedInterpreter:
    """Runs by tensor name, with any shape that the graph accepts."""

    def __init__(self, interpreter: Any, memory: Estimate | None = None) -> None:
        """Wraps an interpreter with allocated tensors; `memory` is the estimate of its file."""
        self._interpreter = interpreter
        self._memory = memory
        self._is_broken = False
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        self._inputs = {detail["name"]: detail["index"] for detail in inputs}
        self._outputs = {detail["name"]: detail["index"] for detail in outputs}
        self._shapes = {detail["name"]: tuple(detail["shape"]) for detail in inputs}
        self._declared = dict(self._shapes)
        self._limit = max(_LARGE_ELEMENTS, 2 * sum(map(prod, self._shapes.values())))

    @property
    def is_used_up(self) -> bool:
        """Whether it must be replaced: LiteRT never shrinks, and crashes after failures."""
        return self._is_broken or sum(prod(shape) for shape in self._shapes.values()) > self._limit

    def run(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]) -> dict[str, Any]:
        """Output tensor name -> array.

        Raises:
          ValueError: the graph does not accept a type or shape, or it needs too much memory.
          RuntimeError: likewise, from LiteRT.
          KeyError: the file has no tensor of a name.
        """
        if self._is_broken:
            raise RuntimeError(
                "LiteRT failed in an earlier request and could not be reloaded; try again later"
            )
        changed = {k: array.shape for k, array in feeds.items() if array.shape != self._shapes[k]}
        if changed:
            self._check_memory(feeds)
            # Until it succeeds, because an interpreter whose allocation failed ends the process.
            self._is_broken = True
            self._resize(changed)
            self._is_broken = False
        for name, array in feeds.items():
            self._interpreter.set_tensor(self._inputs[name], array)
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(self._outputs[name]) for name in fetches}

    def _check_memory(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Raises ValueError if the graph would need too much memory for the inputs."""
        values = sum(array.size for array in feeds.values())
        if self._memory is not None and self._memory.bytes_of(values) > MAX_TENSOR_BYTES:
            shapes = ", ".join(str(list(array.shape)) for array in feeds.values())
            raise ValueError(
                f"inputs of shape {shapes} make a tensor of more than {MAX_TENSOR_BYTES} bytes; "
                "send smaller images or fewer rows"
            )

    def _resize(self, changed: Mapping[str, tuple[int, ...]]) -> None:
        for name, shape in changed.items():
            self._interpreter.resize_tensor_input(self._inputs[name], shape)
        self._interpreter.allocate_tensors()
        if any(shape[1:] != self._declared[name][1:] for name, shape in changed.items()):
            self._check_sizes()
        self._shapes.update(changed)

    def _check_sizes(self) -> None:
        """Raises ValueError if the inputs are too small for the graph, whose kernels crash."""
        for detail in self._interpreter.get_tensor_details():
            if 0 in detail["shape"]:
                raise ValueError(f"the input is too small: {detail['name']} would be empty")


def tensor_specs(interpreter: Any) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
    """Inputs and outputs by tensor name."""
    inputs, outputs = (
        {
            d["name"]: TensorSpec(tuple(map(int, _declared_shape(d))), _numpy_type(d))
            for d in details
        }
        for details in (interpreter.get_input_details(), interpreter.get_output_details())
    )
    return inputs, outputs


def _declared_shape(detail: Mapping[str, Any]) -> Sequence[int]:
    signature = detail["shape_signature"]
    # Older files have no signature, and all sizes are fixed.
    return signature if len(signature) else detail["shape"]


def _numpy_type(detail: Mapping[str, Any]) -> np.dtype[Any]:
    dtype = np.dtype(detail["dtype"])
    return np.dtype(object) if dtype.kind in "SO" else dtype
