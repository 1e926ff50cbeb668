"""Arrays from the JSON of TF Serving's predict requests, with its strict types and errors."""

import binascii
import contextlib
import re
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from math import prod
from typing import Any

import numpy as np

from serving.limits import MAX_RANK
from serving.server.errors import ServingError, invalid
from serving.server.http.json_parse import debug_text, parse, type_name

_INSTANCES = "instances"
_INPUTS = "inputs"
#: Values that are checked together in the search for the first invalid one.
_CHUNK = 1024
_BASE64 = re.compile(r"([A-Za-z0-9+/]*)(={0,2})")

_FLOATS = {"DT_FLOAT": np.float32, "DT_DOUBLE": np.float64}
_INTS = {
    "DT_INT8": np.int8,
    "DT_UINT8": np.uint8,
    "DT_INT16": np.int16,
    "DT_UINT16": np.uint16,
    "DT_INT32": np.int32,
    "DT_UINT32": np.uint32,
    "DT_INT64": np.int64,
    "DT_UINT64": np.uint64,
}
#: Type names in errors that are not the enum's name in lower case.
_TYPE_TEXT = {"DT_HALF": "half", "DT_FLOAT": "float", "DT_DOUBLE": "double"}


def read_document(body: bytes) -> dict[str, Any]:
    """The request's JSON object, its `signature_name` checked to be a string.

    Raises:
      ServingError: not JSON, not an object, or a signature name that is no string.
    """
    document = parse(body)
    if not isinstance(document, dict):
        raise _format_error(document, "Is not object")
    if not isinstance(document.get("signature_name", ""), str):
        raise _format_error(
            document, "not formatted correctly. 'signature_name' key must be a string value."
        )
    return document


def decode_predict(
    document: Mapping[str, Any], dtypes: Mapping[str, str]
) -> tuple[bool, dict[str, np.ndarray]]:
    """(whether it is the row format, input name -> array) of a predict request.

    Args:
      document: from `read_document`.
      dtypes: input name -> TensorFlow's enum name, for every input of the signature. The graph
        checks the shapes.

    Raises:
      ServingError: in TF Serving's words.
    """
    if _INSTANCES in document and _INPUTS in document:
        raise _format_error(
            document,
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
        )
    if _INSTANCES in document:
        return True, _decode_rows(document, dtypes)
    if _INPUTS in document:
        return False, _decode_columns(document[_INPUTS], dtypes)
    raise invalid("Missing 'inputs' or 'instances' key")


def _decode_rows(document: Mapping[str, Any], dtypes: Mapping[str, str]) -> dict[str, np.ndarray]:
    rows = document[_INSTANCES]
    if not isinstance(rows, list):
        raise _format_error(document, "Expecting 'instances' to be an list/array")
    if not rows:
        raise _format_error(document, "No values in 'instances' array")
    if not isinstance(rows[0], dict) and len(dtypes) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    named = _is_object(rows[0])
    try:
        if not named:
            name = next(iter(dtypes))
            return {name: _to_array(rows, dtypes[name])}
        if all(_is_object(row) and row.keys() == dtypes.keys() for row in rows):
            return {name: _to_array([r[name] for r in rows], dtypes[name]) for name in dtypes}
    except ServingError as error:
        # Some row is invalid; check them in TF Serving's order to find the first.
        _explain_rows(rows, dtypes, named)
        raise error
    _explain_rows(rows, dtypes, named)
    raise invalid("'instances' do not fit the signature")


def _explain_rows(rows: list[Any], dtypes: Mapping[str, str], named: bool) -> None:
    """Raises the error of the first row that TF Serving refuses."""
    shapes: dict[str, tuple[int, ...]] = {}
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        if start == 0 or not _same_rows(chunk, dtypes, named, shapes):
            for index, row in enumerate(chunk, start):
                _explain_row(index, row, dtypes, shapes, named=named)


def _same_rows(
    rows: list[Any],
    dtypes: Mapping[str, str],
    named: bool,
    shapes: Mapping[str, tuple[int, ...]],
) -> bool:
    """Whether no row has an error, at a hundredth of the cost of checking each."""
    if named:
        if not all(_is_object(row) and row.keys() == dtypes.keys() for row in rows):
            return False
        columns = {name: [row[name] for row in rows] for name in dtypes}
    else:
        if any(_is_object(row) for row in rows):
            return False
        columns = {next(iter(dtypes)): rows}
    for name, values in columns.items():
        array = _tensor(values, dtypes[name])
        if array is None or array.shape[1:] != shapes[name]:
            return False
    return True


def _explain_row(
    index: int,
    row: Any,
    dtypes: Mapping[str, str],
    shapes: dict[str, tuple[int, ...]],
    *,
    named: bool,
) -> None:
    if _is_object(row) != named:
        if named:
            raise invalid(f"Expecting object but got list at item {index} of input list")
        raise invalid(f"Expecting value/list but got object at item {index} of input list")
    members = row.items() if named else [(next(iter(dtypes)), row)]
    for name, value in members:
        try:
            _explain_row_value(name, value, dtypes, shapes)
        except ServingError as error:
            key = f" key: {name}" if named else ""
            raise invalid(
                f"Failed to process element: {index}{key} of 'instances' list. Error: {error}"
            ) from None
    if named and row.keys() != dtypes.keys():
        raise invalid(
            f"Failed to process element: {index} of 'instances' list. JSON object: "
            f"{debug_text(row)} keys must be equal to: {','.join(sorted(dtypes))}"
        )


def _explain_row_value(
    name: str, value: Any, dtypes: Mapping[str, str], shapes: dict[str, tuple[int, ...]]
) -> None:
    if name not in dtypes:
        raise invalid(f"JSON object: does not have named input: {name}")
    shape = _to_array(value, dtypes[name]).shape
    first = shapes.setdefault(name, shape)
    if prod(first) != prod(shape):
        raise invalid(f"Expecting tensor size: {prod(first)} but got: {prod(shape)}")
    if first != shape:
        raise invalid(f"Expecting shape {_shape_text(first)} but got: {_shape_text(shape)}")


def _decode_columns(value: Any, dtypes: Mapping[str, str]) -> dict[str, np.ndarray]:
    if not _is_object(value):
        if len(dtypes) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map"
            )
        return {name: _to_array(value, dtype) for name, dtype in dtypes.items()}
    for name in dtypes:
        if name not in value:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
    return {name: _to_array(value[name], dtype) for name, dtype in dtypes.items()}


def _to_array(value: Any, dtype: str) -> np.ndarray:
    """The array of nested lists; checks whole levels, and single values only after an error."""
    array = _tensor(value, dtype)
    if array is None:
        raise _first_error(value, dtype)
    return array


def _tensor(value: Any, dtype: str) -> np.ndarray | None:
    """The array of nested lists; None where they do not form an array of the type."""
    shape: list[int] = []
    leaves = [value]
    while leaves and isinstance(leaves[0], list):
        if len(shape) > MAX_RANK:
            return None
        size = len(leaves[0])
        if set(map(type, leaves)) != {list} or set(map(len, leaves)) != {size}:
            return None
        shape.append(size)
        leaves = list(chain.from_iterable(leaves))
    if len(shape) > MAX_RANK:
        return None
    try:
        flat = _leaves_to_array(leaves, dtype)
    except ServingError:
        return None
    return None if flat is None else flat.reshape(shape)


def _leaves_to_array(leaves: list[Any], dtype: str) -> np.ndarray | None:
    """A flat array; None when a leaf has another type."""
    types = set(map(type, leaves))
    if dtype in _FLOATS and types <= {int, float}:
        # As in TF Serving, a number beyond float32 is infinite.
        with np.errstate(over="ignore", under="ignore"):
            try:
                return np.array(leaves, np.float64).astype(_FLOATS[dtype])
            except OverflowError:
                return None
    if dtype in _INTS and types <= {int}:
        limits = np.iinfo(_INTS[dtype])
        if not leaves or (limits.min <= min(leaves) and max(leaves) <= limits.max):
            return np.array(leaves, _INTS[dtype])
        return None
    if dtype == "DT_BOOL" and types <= {bool}:
        return np.array(leaves, np.bool_)
    if dtype == "DT_STRING" and types <= {str, dict}:
        strings = np.empty(len(leaves), object)
        strings[:] = [_string_leaf(leaf) for leaf in leaves]
        return strings
    return None


def _string_leaf(leaf: Any) -> bytes:
    if isinstance(leaf, str):
        return leaf.encode("utf-8", "surrogateescape")
    if not is_base64(leaf):
        raise _format_error(leaf, "not formatted correctly for base64 data")
    return decode_base64(leaf["b64"])


def decode_base64(text: str) -> bytes:
    """The bytes of base64 text in the standard alphabet; padding is optional, blanks are skipped.

    Raises:
      ServingError: any other text, including the web-safe alphabet.
    """
    padded = text[-2:].count("=")
    with contextlib.suppress(ValueError):
        # Invalid characters are skipped, so a result of full length proves that there are none.
        # A search in the text of an image would take longer.
        data = binascii.a2b_base64(text)
        if len(text) % 4 == 0 and len(data) == len(text) // 4 * 3 - padded:
            return data
    match = _BASE64.fullmatch(text) or _BASE64.fullmatch("".join(text.split()))
    digits, padding = match.groups() if match else ("x", "")
    missing = -len(digits) % 4
    if missing == 3 or (padding and len(padding) != missing):
        raise invalid("Unable to base64 decode")
    return binascii.a2b_base64(digits + "=" * missing)


def _first_error(value: Any, dtype: str) -> ServingError:
    """The error of the first invalid value, in document order.

    Descends one list at a time and skips valid values in chunks, so that the cost is linear in the
    size of the request.
    """
    sizes: list[int] = []
    inner = value
    while isinstance(inner, list):
        sizes.append(len(inner))
        if len(sizes) > MAX_RANK:
            return invalid(f"tensors may have at most {MAX_RANK} dimensions, got more")
        inner = inner[0] if inner else None
    item, level = value, 0
    while True:
        error = _direct_error(item, level, sizes, dtype)
        if error is not None:
            return error
        # A list, as the first invalid item may be None.
        found = list(islice(_invalid_items(item, level, sizes, dtype), 1))
        if not found:
            return invalid("the values do not form a tensor")
        item, level = found[0], level + 1


def _direct_error(item: Any, level: int, sizes: list[int], dtype: str) -> ServingError | None:
    """The error of a value itself, regardless of its content."""
    if isinstance(item, list):
        if level >= len(sizes):
            return invalid(f"Encountered list at unexpected level: {level} expected < {len(sizes)}")
        if len(item) != sizes[level]:
            return invalid(
                f"Encountered list at unexpected size: {len(item)} at level: {level} "
                f"expected size: {sizes[level]}"
            )
        return None
    if level != len(sizes):
        return invalid(
            f"JSON Value: {debug_text(item)} found at incorrect level: {level + 1} in the "
            f"JSON DOM. Expected at level: {len(sizes)}"
        )
    return _leaf_error(item, dtype)


def _invalid_items(items: Any, level: int, sizes: list[int], dtype: str) -> Iterator[Any]:
    """The values of a list that are invalid or contain invalid ones; none for a single value."""
    if not isinstance(items, list):
        return
    wanted = tuple(sizes[level + 1 :])
    for start in range(0, len(items), _CHUNK):
        chunk = items[start : start + _CHUNK]
        if _fits(chunk, (len(chunk), *wanted), dtype):
            continue
        for item in chunk:
            if not _fits(item, wanted, dtype):
                yield item


def _fits(value: Any, shape: tuple[int, ...], dtype: str) -> bool:
    array = _tensor(value, dtype)
    return array is not None and array.shape == shape


def _leaf_error(leaf: Any, dtype: str) -> ServingError | None:
    name = _TYPE_TEXT.get(dtype, dtype.removeprefix("DT_").lower())
    known = dtype in _FLOATS or dtype in _INTS or dtype in ("DT_BOOL", "DT_STRING")
    if not known and not isinstance(leaf, dict):
        text = f"Conversion of JSON Value: {debug_text(leaf)} to type: {name}"
        return ServingError("UNIMPLEMENTED", text)
    try:
        if known and _leaves_to_array([leaf], dtype) is not None:
            return None
    except ServingError as error:
        return error
    return invalid(
        f"JSON Value: {debug_text(leaf)} Type: {type_name(leaf)} is not of expected type: {name}"
    )


def is_base64(value: Any) -> bool:
    """Whether a JSON value is `{"b64": "<text>"}` and nothing else: a string, not an object."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def _format_error(value: Any, words: str) -> ServingError:
    return invalid(f"JSON Value: {debug_text(value)} {words}")


def _shape_text(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"
