"""Arrays from and to the protocol's tensors: JSON, typed fields, raw little-endian bytes."""

import base64
import binascii
import struct
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np

from serving.limits import MAX_ELEMENTS, MAX_RANK
from serving.protocol.types import DATA_TYPES
from serving.server.errors import ServingError, invalid
from serving.server.http.json_encode import decimals, string_text

#: The protocol's name -> TensorFlow's.
_TENSORFLOW_NAMES = {
    "BOOL": "DT_BOOL",
    "UINT8": "DT_UINT8",
    "UINT16": "DT_UINT16",
    "UINT32": "DT_UINT32",
    "UINT64": "DT_UINT64",
    "INT8": "DT_INT8",
    "INT16": "DT_INT16",
    "INT32": "DT_INT32",
    "INT64": "DT_INT64",
    "FP16": "DT_HALF",
    "FP32": "DT_FLOAT",
    "FP64": "DT_DOUBLE",
    "BYTES": "DT_STRING",
}
_NUMPY = {name: dtype for _, name, dtype in DATA_TYPES}
#: The protocol's name -> NumPy's type; BYTES are object arrays.
DATATYPES = {name: np.dtype(_NUMPY[own]) for name, own in _TENSORFLOW_NAMES.items()}
_OWN_NAMES = {own: name for name, own in _TENSORFLOW_NAMES.items()}

#: Datatype -> field of `InferTensorContents`; FP16 has none and is always raw.
CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}

_LENGTH = struct.Struct("<I")


def from_tensorflow(name: str) -> str:
    """The protocol's name of a TensorFlow type, or else TensorFlow's name."""
    return _OWN_NAMES.get(name, name)


def datatype_of(array: np.ndarray) -> str:
    """The protocol's name of an array's type.

    Raises:
      ServingError: UNIMPLEMENTED, such as for complex numbers.
    """
    if array.dtype.kind in "OSU":
        return "BYTES"
    for name, dtype in DATATYPES.items():
        if array.dtype == dtype:
            return name
    raise ServingError("UNIMPLEMENTED", f"the protocol has no datatype for {array.dtype}")


def check_tensor(name: str, datatype: str, shape: Sequence[Any]) -> tuple[int, ...]:
    """The shape of an input tensor, after checks.

    Raises:
      ServingError: an unknown datatype, or an invalid shape.
    """
    if datatype not in DATATYPES:
        raise invalid(f"input {name!r}: datatype {datatype!r} is none of {', '.join(DATATYPES)}")
    if len(shape) > MAX_RANK or not all(type(size) is int and size >= 0 for size in shape):
        raise invalid(f"input {name!r}: the shape {list(shape)} is not a list of whole numbers")
    if prod(shape) > MAX_ELEMENTS:
        raise invalid(f"input {name!r}: shape {list(shape)} has more than {MAX_ELEMENTS} elements")
    return tuple(shape)


def from_json(
    name: str, datatype: str, shape: Sequence[Any], data: Any, *, base64_strings: bool = False
) -> np.ndarray:
    """The array of an input's `data`, flat or nested.

    Args:
      name: of the input, for errors.
      datatype: the protocol's name.
      shape: of the array.
      data: from JSON. An element of BYTES is text, or `{"b64": "..."}` as in TF Serving.
      base64_strings: whether every text is base64, from the parameter `content_type: base64`.

    Raises:
      ServingError: values of another type, out of range, or not as many as the shape holds.
    """
    sizes = check_tensor(name, datatype, shape)
    if not isinstance(data, list):
        raise invalid(f"input {name!r} has no list of `data`")
    if datatype == "BYTES":
        values = [_bytes(name, value, base64_strings) for value in _flat(data)]
        return _object_array(name, values, sizes)
    array = _numbers(name, datatype, data)
    if array.size != prod(sizes) or (array.ndim > 1 and array.shape != sizes):
        raise invalid(
            f"input {name!r}: data of shape {list(array.shape)} does not fill {list(sizes)}"
        )
    return array.reshape(sizes)


def from_values(name: str, datatype: str, shape: Sequence[Any], values: Any) -> np.ndarray:
    """The array of a typed field of `InferTensorContents`.

    Raises:
      ServingError: values out of range, or not as many as the shape holds.
    """
    sizes = check_tensor(name, datatype, shape)
    if datatype == "BYTES":
        return _object_array(name, list(values), sizes)
    array = _numbers(name, datatype, list(values))
    if array.size != prod(sizes):
        raise invalid(f"input {name!r}: {array.size} values do not fill the shape {list(sizes)}")
    return array.reshape(sizes)


def from_raw(name: str, datatype: str, shape: Sequence[Any], data: bytes) -> np.ndarray:
    """The read-only array of raw bytes: little endian, row major, not copied.

    Raises:
      ServingError: not as many bytes as the shape holds.
    """
    sizes = check_tensor(name, datatype, shape)
    if datatype == "BYTES":
        return _object_array(name, list(_split(name, data)), sizes)
    dtype = DATATYPES[datatype].newbyteorder("<")
    if len(data) != prod(sizes) * dtype.itemsize:
        raise invalid(
            f"input {name!r}: {len(data)} bytes, {prod(sizes) * dtype.itemsize} fill the shape "
            f"{list(sizes)} of {datatype}"
        )
    if datatype == "BOOL" and data.strip(b"\0\1"):
        raise invalid(f"input {name!r}: a BOOL is a byte of 0 or 1")
    return np.frombuffer(data, dtype).reshape(sizes)


def to_raw(array: np.ndarray) -> bytes:
    """The raw bytes of an array; see `from_raw`."""
    if array.dtype.kind in "OSU":
        values = [_encoded(value) for value in array.ravel().tolist()]
        return b"".join(_LENGTH.pack(len(value)) + value for value in values)
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def to_values(array: np.ndarray) -> list[Any]:
    """The values of an array for its typed field."""
    values = array.ravel().tolist()
    return [_encoded(value) for value in values] if array.dtype.kind in "OSU" else values


def to_json_text(array: np.ndarray) -> tuple[str, bool]:
    """(flat JSON list, whether its strings are base64), as they are when one is not UTF-8."""
    kind = array.dtype.kind
    if kind in "OSU":
        values = [_encoded(value) for value in array.ravel().tolist()]
        packed = not all(_is_text(value) for value in values)
        texts = [string_text(base64.b64encode(v) if packed else v) for v in values]
        return f"[{', '.join(texts)}]", packed
    if kind == "f":
        # Every half is a float32, whose shortest text is used.
        texts = decimals(array if array.dtype.itemsize > 2 else array.astype(np.float32))
    elif kind == "b":
        texts = ["true" if value else "false" for value in array.ravel().tolist()]
    else:
        texts = list(map(str, array.ravel().tolist()))
    return f"[{', '.join(texts)}]", False


def _numbers(name: str, datatype: str, data: list[Any]) -> np.ndarray:
    dtype = DATATYPES[datatype]
    # NumPy would allocate the longest text for every element.
    if not {type(value) for value in _flat(data)} <= {bool, int, float}:
        raise invalid(f"input {name!r}: data holds values that are not {datatype}")
    try:
        # NumPy would turn a mix of large and small integers into floats.
        array = np.array(data, object if datatype == "UINT64" else None)
    except ValueError as error:
        raise invalid(f"input {name!r}: data is not a regular list of lists: {error}") from error
    if array.size == 0:
        return np.zeros(array.shape, dtype)
    if datatype == "UINT64":
        return _unsigned(name, array)
    allowed = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[dtype.kind]
    if array.dtype.kind not in allowed:
        raise invalid(f"input {name!r}: data holds values that are not {datatype}")
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise invalid(
                f"input {name!r}: {datatype} holds {limits.min} to {limits.max}, data holds "
                f"{array.min()} to {array.max()}"
            )
    with np.errstate(over="ignore"):  # beyond the largest float is infinity
        return array.astype(dtype)


def _unsigned(name: str, array: np.ndarray) -> np.ndarray:
    if not all(type(value) is int and 0 <= value < 2**64 for value in array.ravel().tolist()):
        raise invalid(f"input {name!r}: data holds values that are not UINT64")
    return array.astype(np.uint64)


def _object_array(name: str, values: list[bytes], shape: tuple[int, ...]) -> np.ndarray:
    if len(values) != prod(shape):
        raise invalid(f"input {name!r}: {len(values)} values do not fill the shape {list(shape)}")
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)


def _flat(data: list[Any]) -> Iterator[Any]:
    """Every element of nested lists of any depth."""
    stack = [iter(data)]
    while stack:
        for value in stack[-1]:
            if isinstance(value, list):
                stack.append(iter(value))
                break
            yield value
        else:
            stack.pop()


def _bytes(name: str, value: Any, base64_string: bool) -> bytes:
    if isinstance(value, dict) and list(value) == ["b64"]:
        value, base64_string = value["b64"], True
    if not isinstance(value, str):
        raise invalid(f'input {name!r}: an element of BYTES is text or {{"b64": text}}')
    data = value.encode("utf-8", "surrogateescape")
    if not base64_string:
        return data
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise invalid(f"input {name!r}: an element is not base64: {error}") from error


def _split(name: str, data: bytes) -> Iterator[bytes]:
    """The elements of BYTES, each after its length in four bytes."""
    start = 0
    while start < len(data):
        begin = start + _LENGTH.size
        end = begin + (_LENGTH.unpack_from(data, start)[0] if begin <= len(data) else 0)
        if begin > len(data) or end > len(data):
            raise invalid(f"input {name!r}: the bytes end within an element")
        yield data[begin:end]
        start = end


def _encoded(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
