"""TF Serving's JSON for arrays and results, with its layout, number format and errors."""

import base64
import json
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod

import numpy as np

from serving.server.errors import invalid

_NUMPY_TEXT = {"float16": "half", "float32": "float", "float64": "double"}
#: Size of a float type in bytes -> function that packs a number.
_PACKS = {4: struct.Struct("=f").pack, 8: struct.Struct("=d").pack}
#: Up to this number of values a loop is faster than NumPy; most responses hold a few scores.
_FEW_VALUES = 64

#: `json.dumps` with an argument creates an encoder for every call.
_json_text = json.JSONEncoder(ensure_ascii=False).encode


def encode_predict(outputs: Mapping[str, np.ndarray], *, row: bool) -> bytes:
    """The body of a predict response: `predictions` in row format, `outputs` in columnar format.

    Args:
      outputs: output name -> array; strings are object arrays of bytes, which are written as base64
        if the name ends in `_bytes`.
      row: whether to split along the first dimension, which all outputs must share.

    Raises:
      ServingError: a type without a JSON form, or outputs that do not split into rows.
    """
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")
    key, text = ("predictions", _rows_text(outputs)) if row else ("outputs", _columns_text(outputs))
    return f'{{\n    "{key}": {text}\n}}'.encode("utf-8", "surrogateescape")


def _rows_text(outputs: Mapping[str, np.ndarray]) -> str:
    batch = -1
    for name, array in outputs.items():
        if array.ndim == 0:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if batch not in (-1, array.shape[0]):
            raise invalid(
                f"Tensor name: {name} has inconsistent batch size: {array.shape[0]} "
                f"expecting: {batch}"
            )
        batch = array.shape[0]
    columns = {
        name: _nested(_texts(name, array), array.shape, 1) for name, array in outputs.items()
    }
    if len(columns) == 1:
        return f"[{', '.join(next(iter(columns.values())))}]"
    keys = [json.dumps(name) for name in columns]
    rows = zip(*columns.values(), strict=True)
    objects = (
        ", ".join(f"{key}: {value}" for key, value in zip(keys, row, strict=True)) for row in rows
    )
    return f"[{', '.join(f'{{{members}}}' for members in objects)}]"


def _columns_text(outputs: Mapping[str, np.ndarray]) -> str:
    texts = {name: _nested(_texts(name, a), a.shape, 0)[0] for name, a in outputs.items()}
    if len(texts) == 1:
        return next(iter(texts.values()))
    return f"{{{', '.join(f'{json.dumps(name)}: {text}' for name, text in texts.items())}}}"


def _nested(texts: list[str], shape: tuple[int, ...], outer: int) -> list[str]:
    """Joins flat texts into lists of all dimensions except the first `outer`."""
    for level in range(len(shape) - 1, outer - 1, -1):
        size, groups = shape[level], prod(shape[:level])
        texts = [f"[{', '.join(texts[g * size : (g + 1) * size])}]" for g in range(groups)]
    return texts


def _texts(name: str, array: np.ndarray) -> list[str]:
    kind = array.dtype.kind
    if kind == "f" and array.dtype.itemsize in _PACKS:
        return decimals(array)
    if kind in "iu":
        return list(map(str, array.ravel().tolist()))
    if kind == "b":
        return ["true" if value else "false" for value in array.ravel().tolist()]
    if kind in "OS":
        write = _base64_text if name.endswith("_bytes") else string_text
        return [write(value) for value in array.ravel().tolist()]
    text = _NUMPY_TEXT.get(array.dtype.name, array.dtype.name)
    raise invalid(f"Failed to write JSON value for tensor type: {text}")


def decimals(values: np.ndarray) -> list[str]:
    """The text of each value: six digits if they are exact in its type, otherwise all digits.

    Args:
      values: float32 or float64, any shape.
    """
    size = values.dtype.itemsize
    numbers = values.ravel().tolist()
    texts = ["%.6g" % number for number in numbers]  # noqa: UP031 - TF Serving uses printf's %g
    full: Callable[[float], str] = "%.9g".__mod__ if size == 4 else "%.17g".__mod__
    for index in _inexact(values, numbers, texts):
        texts[index] = full(numbers[index])
    return [_finish(text) for text in texts]


def _inexact(values: np.ndarray, numbers: list[float], texts: list[str]) -> Iterable[int]:
    """The positions of values that differ from their texts."""
    if len(texts) > _FEW_VALUES:
        with np.errstate(over="ignore"):
            read = np.array(list(map(float, texts)), np.float64).astype(values.dtype)
        return np.flatnonzero(read != values.ravel())
    pack = _PACKS[values.dtype.itemsize]
    pairs = enumerate(zip(numbers, texts, strict=True))
    # Six digits never round up beyond the largest float32, which `pack` would refuse.
    return [index for index, (number, text) in pairs if pack(float(text)) != pack(number)]


def _finish(text: str) -> str:
    if "." in text or "e" in text:
        return text
    if text[-1].isdigit():
        return text + ".0"
    return {"nan": "NaN", "-nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[text]


def string_text(value: bytes | str) -> str:
    """A JSON string of UTF-8 bytes; as in TF Serving, other bytes are not changed."""
    text = value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")
    return _json_text(text)


def _base64_text(value: bytes) -> str:
    return f'{{"b64": "{base64.b64encode(value).decode()}"}}'


def encode_error(message: str) -> bytes:
    """The body of an error response."""
    text = _json_text(message)
    return f'{{\n    "error": {text}\n}}'.encode("utf-8", "surrogateescape")


def encode_classifications(results: Sequence[Sequence[tuple[str, float]]]) -> bytes:
    """The body of a classify response: a list of [label, score] for each example.

    Raises:
      ServingError: there are no examples.
    """
    if not results:
        raise invalid("Cannot convert empty ClassificationResults to JSON")
    lists = []
    for classes in results:
        scores = decimals(np.array([score for _, score in classes], np.float32))
        pairs = zip(classes, scores, strict=True)
        lists.append(f"[{', '.join(f'[{string_text(c[0])}, {score}]' for c, score in pairs)}]")
    return _results(lists)


def encode_regressions(values: Sequence[float]) -> bytes:
    """The body of a regress response: one float32 number for each example.

    Raises:
      ServingError: there are no examples.
    """
    if not values:
        raise invalid("Cannot convert empty RegressionResults to JSON")
    return _results(decimals(np.array(values, np.float32)))


def _results(texts: list[str]) -> bytes:
    return f'{{\n    "results": [{", ".join(texts)}]\n}}'.encode("utf-8", "surrogateescape")
