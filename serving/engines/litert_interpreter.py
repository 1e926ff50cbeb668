"""One LiteRT interpreter by tensor names, and the shapes that its file declares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from serving.engines.litert_memory import MAX_TENSOR_BYTES, Estimate
from serving.limits import MAX_ELEMENTS

#: Elements of a request after which an interpreter is replaced, as it keeps its memory.
_LARGE_ELEMENTS = 2**20


@dataclass(frozen=True)
class TensorSpec:
    """An input or output as the file declares it.

    Attributes:
      shape: -1 where any size is taken.
      dtype: NumPy's; `object` for strings.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def has_rows(self) -> bool:
        """Whether the first size is the number of rows, which a request may choose."""
        return bool(self.shape) and self.shape[0] in (-1, 1)

    @property
    def text(self) -> str:
        """The shapes that are taken, e.g. `[any, 32, 32, 3]`."""
        sizes = ["any" if size < 0 else str(size) for size in self.shape]
        return f"[{', '.join(['any', *sizes[1:]] if self.has_rows else sizes)}]"

    def takes(self, dtype: np.dtype[Any]) -> bool:
        """Whether values of that type can be set."""
        return dtype.kind in "OSU" if self.dtype.kind == "O" else dtype == self.dtype

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether the graph was made for that shape: rows may be missing, nothing else."""
        if len(shape) != len(self.shape) or prod(shape) > MAX_ELEMENTS:
            return False
        rows = 1 if self.has_rows else 0
        pairs = zip(shape[rows:], self.shape[rows:], strict=True)
        return all(size == wanted if wanted >= 0 else size > 0 for size, wanted in pairs)


class NamedInterpreter:
    """Runs by tensor names, and takes any shape that the graph does."""

    def __init__(self, interpreter: Any, memory: Estimate | None = None) -> None:
        """Takes LiteRT's, its tensors allocated, and what its file's inputs take in memory."""
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
        """Whether it is to be replaced: LiteRT never shrinks, and crashes after failures."""
        return self._is_broken or sum(prod(shape) for shape in self._shapes.values()) > self._limit

    def run(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]) -> dict[str, Any]:
        """Output tensor name -> array.

        Raises:
          ValueError: a type or shape that the graph does not take, or that takes too much memory.
          RuntimeError: likewise, found later.
          KeyError: a name that the file lacks.
        """
        if self._is_broken:
            raise RuntimeError("LiteRT failed before, and could not be loaded again; try later")
        changed = {k: array.shape for k, array in feeds.items() if array.shape != self._shapes[k]}
        if changed:
            self._check_memory(feeds)
            # Until it has succeeded: an interpreter that failed at it ends the process when used.
            self._is_broken = True
            self._resize(changed)
            self._is_broken = False
        for name, array in feeds.items():
            self._interpreter.set_tensor(self._inputs[name], array)
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(self._outputs[name]) for name in fetches}

    def _check_memory(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Raises ValueError where the graph would need too much memory for the inputs."""
        values = sum(array.size for array in feeds.values())
        if self._memory is not None and self._memory.bytes_of(values) > MAX_TENSOR_BYTES:
            shapes = ", ".join(str(list(array.shape)) for array in feeds.values())
            raise ValueError(
                f"inputs of shape {shapes} make a tensor of more than {MAX_TENSOR_BYTES} bytes; "
                "send smaller images, or fewer rows at a time"
            )

    def _resize(self, changed: Mapping[str, tuple[int, ...]]) -> None:
        for name, shape in changed.items():
            self._interpreter.resize_tensor_input(self._inputs[name], shape)
        self._interpreter.allocate_tensors()
        if any(shape[1:] != self._declared[name][1:] for name, shape in changed.items()):
            self._check_sizes()
        self._shapes.update(changed)

    def _check_sizes(self) -> None:
        """Raises ValueError where the inputs are too small for the graph: a kernel would crash."""
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
    # Older files have no signature, and then every size is fixed.
    return signature if len(signature) else detail["shape"]


def _numpy_type(detail: Mapping[str, Any]) -> np.dtype[Any]:
    dtype = np.dtype(detail["dtype"])
    return np.dtype(object) if dtype.kind in "SO" else dtype
