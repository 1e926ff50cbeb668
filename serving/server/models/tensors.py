"""TensorProtos to arrays and back, as TF Serving sends them: values in the typed fields."""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2

from serving.limits import DEFAULT_LIMITS, MAX_ELEMENTS, MAX_RANK
from serving.server.errors import invalid
from serving.server.models.repeated import Expansion

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
#: Of a string beside its characters, in Python and in TensorFlow.
_STRING_BYTES = 64
_FIELDS_BY_NUMBER = {dtype.as_datatype_enum: field for dtype, field in _FIELDS.items()}
#: Types with values, those that only TensorFlow reads among them; a resource has none.
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
#: NumPy's type -> number of TensorFlow's, field of a TensorProto; looked up for every answer.
_BY_DTYPE = {
    np.dtype(dtype.as_numpy_dtype): (dtype.as_datatype_enum, field)
    for dtype, field in _FIELDS.items()
    if dtype != tf.string
}


def to_arrays(protos: Mapping[str, Any], max_repeated_bytes: int) -> dict[str, np.ndarray]:
    """Name -> array of the inputs of one request; see `to_array`.

    Raises:
      ServingError: a shape or type that no tensor has, or more repeated values than the limit.
    """
    expansion = Expansion(max_repeated_bytes)
    return {name: to_array(name, proto, expansion) for name, proto in protos.items()}


def to_array(name: str, proto: Any, expansion: Expansion | None = None) -> np.ndarray:
    """The array of a `TensorProto`; of too few values the last repeats.

    Args:
      name: the input's, for errors.
      expansion: what the values may be repeated to; None is the flag's default.
      proto: strings become object arrays of bytes; `tensor_content` is not copied, and so the array
        cannot be written to.

    Raises:
      ServingError: a shape or type that no tensor has.
    """
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank or min(shape, default=0) < 0 or len(shape) > MAX_RANK:
        raise invalid(f"input {name!r}: the shape {shape} is not that of a tensor")
    # NumPy refuses sizes beyond its own even where another one is 0.
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
        # As below, at a tenth of its cost: images come this way.
        return np.array([*proto.string_val], object).reshape(shape)
    try:
        return tf.make_ndarray(proto)
    except (TypeError, ValueError, IndexError) as error:
        raise invalid(f"input {name!r} is not a valid TensorProto: {error}") from error


def _given(proto: Any) -> int:
    """Values in the field of a type that NumPy has; 0 for other types, which TensorFlow reads."""
    field = _FIELDS_BY_NUMBER.get(proto.dtype)
    return len(getattr(proto, field)) if field else 0


def _repeated_bytes(proto: Any, dtype: np.dtype[Any] | None, count: int) -> int:
    """Bytes that the last value of too few takes in the places of those that are missing."""
    if proto.dtype == _STRING:
        values = proto.string_val
        size = len(values[-1]) if values else 0
        return (count - len(values)) * (_STRING_BYTES + size) if count > len(values) else 0
    # Content of the wrong length, or a type that is read as TensorFlow does it: a guess from above.
    size = 16 if dtype is None else dtype.itemsize
    return max(0, count - _given(proto)) * size


def _type_text(number: int) -> str:
    known = types_pb2.DataType.values()
    return types_pb2.DataType.Name(number) if number in known else f"the type {number}"


def _view(name: str, content: bytes, dtype: np.dtype[Any], shape: list[int]) -> np.ndarray:
    """The array over the message's own bytes: read-only, and nothing is copied."""
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
      proto: of an answer.
      array: of any type that has a TensorProto.
      content: as raw `tensor_content`. Otherwise in `float_val` and its like: many clients read
        those fields directly.
    """
    strings = array.dtype.kind in "OS"
    found = (_STRING, "string_val") if strings else _BY_DTYPE.get(array.dtype)
    if found is None:
        proto.CopyFrom(tf.make_tensor_proto(array))
        return
    proto.dtype, field = found
    shape = proto.tensor_shape
    # An answer of no dimensions must still carry the shape.
    shape.SetInParent()
    for size in array.shape:
        shape.dim.add(size=size)
    if content and not strings:
        proto.tensor_content = array.tobytes()
    else:
        getattr(proto, field).extend(array.ravel().tolist())
