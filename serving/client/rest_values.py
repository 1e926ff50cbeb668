"""Arrays and tf.Examples to TF Serving's JSON and back, in column form.

JSON carries no types: what comes back is read by the signature's metadata. It cannot carry half
precision, bfloat16, complex numbers, or an array with an empty dimension that is not its last.
"""

import base64
from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np

from serving.client.api import Example
from serving.types import DATA_TYPES, Signature, TensorInfo

_NUMPY_TYPES = {name: dtype for _, name, dtype in DATA_TYPES}
_NOT_IN_JSON = ("DT_HALF", "DT_BFLOAT16", "DT_COMPLEX64", "DT_COMPLEX128")


def json_input(name: str, array: np.ndarray) -> Any:
    """An array as nested lists; strings as `{"b64": ...}`.

    Raises:
      ValueError: an array that JSON cannot carry; gRPC can.
    """
    if 0 in array.shape[:-1]:
        raise ValueError(
            f"input {name!r}: an empty array of shape {array.shape} would lose its shape in JSON; "
            "use a grpc:// address"
        )
    if array.dtype.kind in "OSU":
        return _nested([_b64(name, value) for value in array.ravel().tolist()], array.shape)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8 or array.dtype == np.float16:
        raise ValueError(f"input {name!r}: JSON cannot carry {array.dtype}; use a grpc:// address")
    return array.tolist()


def json_example(example: Example) -> dict[str, Any]:
    """A tf.Example as TF Serving's REST API takes it.

    Raises:
      ValueError: a serialised one.
    """
    if not isinstance(example, Mapping):
        raise ValueError(
            "REST takes examples as {'feature': value}; serialised ones need a grpc:// address"
        )
    return {name: _json_feature(name, value) for name, value in example.items()}


def outputs_from_json(document: Any, signature: Signature) -> dict[str, np.ndarray]:
    """The arrays of a column answer.

    Args:
      document: `outputs` of the answer.
      signature: names, types and ranks of what is in it.

    Returns:
      Output name -> array; strings are object arrays of bytes.

    Raises:
      ValueError: the answer is not of this signature.
    """
    if len(signature.outputs) == 1:
        # TF Serving writes a single output without its name.
        document = {next(iter(signature.outputs)): document}
    if not isinstance(document, dict) or set(document) != set(signature.outputs):
        got = sorted(document) if isinstance(document, dict) else type(document).__name__
        raise ValueError(f"the answer holds {got}, the signature {sorted(signature.outputs)}")
    return {name: _array(name, document[name], info) for name, info in signature.outputs.items()}


def _array(name: str, value: Any, info: TensorInfo) -> np.ndarray:
    dtype = _NUMPY_TYPES.get(info.dtype)
    if dtype is None or info.dtype in _NOT_IN_JSON:
        raise ValueError(f"output {name!r} is {info.dtype}, which JSON cannot carry")
    try:
        array = _strings(value) if dtype is np.object_ else np.array(value, dtype)
    except (TypeError, OverflowError, AttributeError) as error:
        raise ValueError(f"output {name!r} is not {info.dtype}: {error}") from error
    if array.size == 0 and info.shape is not None:
        # Nothing says how long the dimensions inside an empty list are, but for the signature.
        inner = [0 if size is None else size for size in info.shape[array.ndim :]]
        return array.reshape(*array.shape, *inner)
    return array


def _strings(value: Any) -> np.ndarray:
    shape, leaves = [], [value]
    while leaves and isinstance(leaves[0], list):
        shape.append(len(leaves[0]))
        leaves = list(chain.from_iterable(leaves))
    array = np.empty(len(leaves), object)
    array[:] = [_bytes(leaf) for leaf in leaves]
    return array.reshape(shape)


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
