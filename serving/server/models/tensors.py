"""TensorProtos to arrays and back, as TF Serving sends them: values in the typed fields."""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2

from serving.limits import DEFAULT_LIMITS, MAX_ELEMENTS, MAX_RANK
from serving.server.errors import ServingError, invalid


class Expansion:
    """The budget of one request for repeated values."""

    def __init__(self, limit: int) -> None:
        """Takes the limit in bytes."""
        self._limit = self._left = limit

    def take(self, name: str, size: int) -> None:
        """Takes bytes from the budget.

        Raises:
          ServingError: the repeated values exceed the limit.
        """
        self._left -= size
        if self._left < 0:
            raise too_much(f"input {name!r}", self._limit)


def too_much(what: str, limit: int) -> ServingError:
    """The error of repeated values beyond the limit."""
    return invalid(
        f"{what} is too large to be filled from single values: more than {limit} bytes of one "
        "request (--max_repeated_bytes); send every value, numbers as tensor_content"
    )


def check_examples(examples: Any, limit: int) -> None:
    """Refuses an `Input` whose context would be copied into too many examples.

    Raises:
      ServingError: the copies take more than `limit` bytes.
    """
    if examples.WhichOneof("kind") == "example_list_with_context":
        listed = examples.example_list_with_context
        if prod((listed.context.ByteSize(), max(0, len(listed.examples) - 1))) > limit:
            raise too_much("the examples' context", limit)


_FIELDS = {
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.int8: "int_val",
    tf.uint8: "int_val",
    tf.int16: "int_val",
    tf.uint16: "int_val",
    tf.int32: "int_val",
    tf.uint32: "uint32_val",
    tf.int64: "int64_val",
    tf.uint64: "uint64_val",
    tf.bool: "bool_val",
    tf.string: "string_val",
}
#: Types whose `tensor_content` is NumPy's own memory layout.
_CONTENT_DTYPES = {
    dtype.as_datatype_enum: np.dtype(dtype.as_numpy_dtype)
    for dtype in _FIELDS
    if dtype != tf.string
}

_STRING = tf.string.as_datatype_enum
#: Memory of a string besides its characters, in Python and in TensorFlow.
_STRING_BYTES = 64
_FIELDS_BY_NUMBER = {dtype.as_datatype_enum: field for dtype, field in _FIELDS.items()}
#: Types with values, including those that only TensorFlow reads; a resource has none.
_READABLE = frozenset(
    dtype.as_datatype_enum
    for dtype in (
        *_FIELDS,
        tf.float16,
        tf.bfloat16,
        tf.complex64,
        tf.complex128,
        tf.qint8,
        tf.quint8,
        tf.qint16,
        tf.quint16,
        tf.qint32,
    )
)
#: NumPy's type -> TensorFlow's number, field of a TensorProto; used for every response.
_BY_DTYPE = {
    np.dtype(dtype.as_numpy_dtype): (dtype.as_datatype_enum, field)
    for dtype, field in _FIELDS.items()
    if dtype != tf.string
}


def to_arrays(protos: Mapping[str, Any], max_repeated_bytes: int) -> dict[str, np.ndarray]:
    """Name -> array, for the inputs of one request; see `to_array`.

    Raises:
      ServingError: a shape or type that no tensor has, or more repeated values than the limit.
    """
    expansion = Expansion(max_repeated_bytes)
    return {name: to_array(name, proto, expansion) for name, proto in protos.items()}


def to_array(name: str, proto: Any, expansion: Expansion | None = None) -> np.ndarray:
    """The array of a `TensorProto`; where values are missing, the last one is repeated.

    Args:
      name: of the input, for errors.
      proto: strings become object arrays of bytes; `tensor_content` is not copied, so the array is
        read-only.
      expansion: the request's budget for repeated values; None uses the flag's default.

    Raises:
      ServingError: a shape or type that no tensor has.
    """
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank or min(shape, default=0) < 0 or len(shape) > MAX_RANK:
        raise invalid(f"input {name!r}: the shape {shape} is not that of a tensor")
    # NumPy refuses sizes beyond its limit even where another one is 0.
    if prod(size or 1 for size in shape) > MAX_ELEMENTS:
        raise invalid(f"input {name!r}: shape {shape} has more than {MAX_ELEMENTS} elements")
    dtype = _CONTENT_DTYPES.get(proto.dtype)
    # Every access of a bytes field copies it.
    content = b"" if dtype is None else proto.tensor_content
    if dtype is not None and content:
        return _view(name, content, dtype, shape)
    if dtype is None and proto.dtype not in _READABLE:
        raise invalid(f"input {name!r}: values of {_type_text(proto.dtype)} cannot be sent")
    given = _given(proto)
    if given > prod(shape):
        raise invalid(
            f"input {name!r} has {given} values, and its shape {shape} takes {prod(shape)}"
        )
    expansion = expansion or Expansion(DEFAULT_LIMITS.max_repeated_bytes)
    expansion.take(name, _repeated_bytes(proto, dtype, prod(shape)))
    if proto.dtype == _STRING and len(proto.string_val) == prod(shape):
        # The same as below at a tenth of its cost, for images.
        return np.array([*proto.string_val], object).reshape(shape)
    try:
        return tf.make_ndarray(proto)
    except (TypeError, ValueError, IndexError) as error:
        raise invalid(f"input {name!r} is not a valid TensorProto: {error}") from error


def _given(proto: Any) -> int:
    """The number of values of a type that NumPy has; 0 for types that TensorFlow reads."""
    field = _FIELDS_BY_NUMBER.get(proto.dtype)
    return len(getattr(proto, field)) if field else 0


def _repeated_bytes(proto: Any, dtype: np.dtype[Any] | None, count: int) -> int:
    """The memory of the copies of the last value that replace missing values."""
    if proto.dtype == _STRING:
        values = proto.string_val
        size = len(values[-1]) if values else 0
        return (count - len(values)) * (_STRING_BYTES + size) if count > len(values) else 0
    # An upper bound for content of the wrong length, and for types that TensorFlow reads.
    size = 16 if dtype is None else dtype.itemsize
    return max(0, count - _given(proto)) * size


def _type_text(number: int) -> str:
    known = types_pb2.DataType.values()
    return types_pb2.DataType.Name(number) if number in known else f"the type {number}"


def _view(name: str, content: bytes, dtype: np.dtype[Any], shape: list[int]) -> np.ndarray:
    """A read-only array of the bytes of the message, without a copy."""
    wanted = prod(shape) * dtype.itemsize
    if len(content) != wanted:
        raise invalid(
            f"input {name!r} is not a valid TensorProto: {len(content)} bytes of tensor_content, "
            f"{wanted} fill the shape {shape} of {dtype}"
        )
    return np.frombuffer(content, dtype).reshape(shape)


def fill_proto(proto: Any, array: np.ndarray, *, content: bool = False) -> None:
    """Writes an array into an empty `TensorProto`.

    Args:
      proto: of a response.
      array: of any type that has a TensorProto.
      content: write raw `tensor_content`, not typed fields such as `float_val`, which many clients
        read directly.
    """
    strings = array.dtype.kind in "OS"
    found = (_STRING, "string_val") if strings else _BY_DTYPE.get(array.dtype)
    if found is None:
        proto.CopyFrom(tf.make_tensor_proto(array))
        return
    proto.dtype, field = found
    shape = proto.tensor_shape
    # A scalar must carry its empty shape too.
    shape.SetInParent()
    for size in array.shape:
        shape.dim.add(size=size)
    if content and not strings:
        proto.tensor_content = array.tobytes()
    else:
        getattr(proto, field).extend(array.ravel().tolist())
