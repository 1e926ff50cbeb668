"""Conversion of arrays and tf.Examples to and from TF Serving's JSON, in column format.

JSON has no types: a response is read with the signature's metadata. JSON cannot represent half
precision, bfloat16, complex numbers, or an array with an empty dimension that is not its last.
"""

import base64
from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np

from serving.client.api import Example
from serving.protocol.types import DATA_TYPES, Signature, TensorInfo

_NUMPY_TYPES = {name: dtype for _, name, dtype in DATA_TYPES}
#: Kind of a type -> kinds of arrays (`dtype.kind`) that TF Serving's JSON accepts for it.
_INPUT_KINDS = {"f": "fiu", "i": "iu", "u": "iu", "b": "b", "O": "OSU"}
_NOT_IN_JSON = ("DT_HALF", "DT_BFLOAT16", "DT_COMPLEX64", "DT_COMPLEX128")


def json_input(name: str, array: np.ndarray) -> Any:
    """An array as nested lists; strings as `{"b64": ...}`.

    Raises:
      ValueError: JSON cannot represent the array; use gRPC.
    """
    if 0 in array.shape[:-1]:
        raise ValueError(
            f"input {name!r}: an empty array of shape {array.shape} would lose its shape in JSON; "
            "use a grpc:// address"
        )
    if array.dtype.kind in "OSU":
        return _nested([_b64(name, value) for value in array.ravel().tolist()], array.shape)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8 or array.dtype == np.float16:
        raise ValueError(
            f"input {name!r}: {array.dtype} is not possible in JSON; use a grpc:// address"
        )
    return array.tolist()


def json_example(example: Example) -> dict[str, Any]:
    """A tf.Example in the format of TF Serving's REST API.

    Raises:
      ValueError: a serialized example.
    """
    if not isinstance(example, Mapping):
        raise ValueError(
            "REST takes examples as {'feature': value}; serialized ones need a grpc:// address"
        )
    return {name: _json_feature(name, value) for name, value in example.items()}


def mismatch(inputs: Mapping[str, np.ndarray], signature: Signature) -> str:
    """The first input whose type is not the signature's, as a message; empty if all match.

    Inputs that the signature does not name are left to the server.
    """
    for name, array in inputs.items():
        info = signature.inputs.get(name)
        dtype = _NUMPY_TYPES.get(info.dtype) if info is not None else None
        if info is None or dtype is None or info.dtype in _NOT_IN_JSON:
            continue
        if array.dtype.kind not in _INPUT_KINDS[np.dtype(dtype).kind]:
            return f"input {name!r} is {array.dtype}, the model expects {info.dtype}; convert it"
    return ""


def outputs_from_json(
    document: Any, signature: Signature, *, exact: bool = False
) -> dict[str, np.ndarray]:
    """The arrays of a response in column format.

    Args:
      document: `outputs` of the response.
      signature: names, types and ranks of the outputs.
      exact: rejects integers where floats are expected. TF Serving does not write them, but a proxy
        may.

    Returns:
      Output name -> array; strings are object arrays of bytes.

    Raises:
      ValueError: the response does not match the signature.
    """
    if len(signature.outputs) == 1:
        # TF Serving writes a single output without its name.
        document = {next(iter(signature.outputs)): document}
    if not isinstance(document, dict) or set(document) != set(signature.outputs):
        got = sorted(document) if isinstance(document, dict) else type(document).__name__
        raise ValueError(f"the response has {got}, the signature {sorted(signature.outputs)}")
    return {
        name: _array(name, document[name], info, exact=exact)
        for name, info in signature.outputs.items()
    }


def _array(name: str, value: Any, info: TensorInfo, *, exact: bool) -> np.ndarray:
    dtype = _NUMPY_TYPES.get(info.dtype)
    if dtype is None or info.dtype in _NOT_IN_JSON:
        raise ValueError(f"output {name!r} is {info.dtype}, which JSON cannot represent")
    try:
        shape, leaves = _flat(value)
        _check_leaves(leaves, np.dtype(dtype), exact=exact)
        if dtype is np.object_:
            array = np.empty(len(leaves), object)
            array[:] = [_bytes(leaf) for leaf in leaves]
            array = array.reshape(shape)
        else:
            array = np.array(value, dtype)
    except (TypeError, ValueError, OverflowError, KeyError) as error:
        raise ValueError(f"output {name!r} is not {info.dtype}: {error}") from error
    if array.size == 0 and info.shape is not None:
        # Only the signature has the size of the dimensions within an empty list.
        inner = [0 if size is None else size for size in info.shape[array.ndim :]]
        return array.reshape(*array.shape, *inner)
    return array


def _flat(value: Any) -> tuple[list[int], list[Any]]:
    """The shape of nested lists, and their values."""
    shape, leaves = [], [value]
    while leaves and isinstance(leaves[0], list):
        shape.append(len(leaves[0]))
        leaves = list(chain.from_iterable(leaves))
    return shape, leaves


def _check_leaves(leaves: list[Any], dtype: np.dtype, *, exact: bool) -> None:
    """Rejects values that NumPy would convert: 1.5 to 1, "7" to 7, None to NaN, 300 to 44."""
    allowed = {"f": {float, int}, "b": {bool}, "O": {str, dict}}.get(dtype.kind, {int})
    found = set(map(type, leaves))
    if not found <= allowed or (exact and dtype.kind == "f" and found == {int}):
        raise ValueError(f"it holds {', '.join(sorted(kind.__name__ for kind in found))}")
    if dtype.kind in "iu" and leaves:
        limits = np.iinfo(dtype)
        for value in (min(leaves), max(leaves)):
            if not limits.min <= value <= limits.max:
                raise ValueError(f"it holds {value}")


def _bytes(leaf: Any) -> bytes:
    if isinstance(leaf, dict):
        return base64.b64decode(leaf["b64"])
    return leaf.encode("utf-8", "surrogateescape")


def _b64(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, (bytes, str)):
        kind = type(value).__name__
        raise ValueError(f"input {name!r}: an object array holds bytes or text, got {kind}")
    content = value.encode() if isinstance(value, str) else value
    return {"b64": base64.b64encode(content).decode()}


def _nested(leaves: list[Any], shape: tuple[int, ...]) -> Any:
    for size in reversed(shape):
        leaves = [leaves[start : start + size] for start in range(0, len(leaves), size or 1)]
    return leaves[0] if leaves else []


def _json_feature(name: str, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value.ravel().tolist()
    if isinstance(value, (list, tuple)):
        return [_json_feature(name, item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return _b64(name, value) if isinstance(value, (bytes, str)) else value
