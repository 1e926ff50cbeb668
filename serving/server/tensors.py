"""TensorProtos to arrays and back, as TF Serving sends them: values in the typed fields."""

from math import prod
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from serving.server.errors import invalid

#: A TensorProto may repeat one value over any shape: a few bytes must not claim the memory.
_MAX_ELEMENTS = 2**28
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


def to_array(name: str, proto: Any) -> np.ndarray:
    """The array of a `TensorProto`; of too few values the last repeats.

    Args:
      name: the input's, for errors.
      proto: strings become object arrays of bytes.

    Raises:
      ServingError: a shape or type that no tensor has.
    """
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank or min(shape, default=0) < 0 or len(shape) > 32:
        raise invalid(f"input {name!r}: the shape {shape} is not that of a tensor")
    if prod(shape) > _MAX_ELEMENTS:
        raise invalid(f"input {name!r}: shape {shape} has more than {_MAX_ELEMENTS} elements")
    try:
        return tf.make_ndarray(proto)
    except (TypeError, ValueError, IndexError) as error:
        raise invalid(f"input {name!r} is not a valid TensorProto: {error}") from error


def to_proto(array: np.ndarray) -> Any:
    """The `TensorProto` of an array, values in `float_val` and its like.

    Clients read those fields directly, so `tensor_content` would break them.
    """
    dtype = tf.string if array.dtype.kind in "OS" else tf.as_dtype(array.dtype)
    if dtype not in _FIELDS:
        return tf.make_tensor_proto(array)
    proto = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum)
    for size in array.shape:
        proto.tensor_shape.dim.add().size = size
    getattr(proto, _FIELDS[dtype]).extend(array.ravel().tolist())
    return proto
