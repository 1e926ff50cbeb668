"""TF Serving's `Input` proto of tf.Examples from the JSON of classify and regress requests."""

from collections.abc import Mapping
from typing import Any

from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow_serving.apis import input_pb2

from serving.server.errors import invalid
from serving.server.http.json_decode import decode_base64, is_base64
from serving.server.http.json_parse import debug_text, type_name

_EXAMPLES = "examples"
_CONTEXT = "context"


def decode_examples(document: Mapping[str, Any]) -> input_pb2.Input:
    """The examples, with their shared context if the request has one.

    Args:
      document: from `serving.server.http.json_decode.read_document`.

    Raises:
      ServingError: in TF Serving's words.
    """
    result = input_pb2.Input()
    has_context = _CONTEXT in document
    if has_context:
        context = _example(document[_CONTEXT])
        result.example_list_with_context.context.CopyFrom(context)
    # TF Serving's text is the same for :regress.
    if _EXAMPLES not in document:
        raise _format_error(
            document, "When method is classify, key 'examples' is expected and was not found"
        )
    examples = document[_EXAMPLES]
    if not isinstance(examples, list):
        raise _format_error(document, "Expecting 'examples' value to be an list/array")
    if not examples:
        raise _format_error(document, "'examples' value is an empty array")
    target = result.example_list_with_context if has_context else result.example_list
    target.examples.extend(_example(value) for value in examples)
    return result


def _example(value: Any) -> example_pb2.Example:
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {type_name(value)}")
    example = example_pb2.Example()
    for name, content in value.items():
        values = content if isinstance(content, list) else [content]
        feature = _feature(name, values)
        try:
            example.features.feature[name].CopyFrom(feature)
        except UnicodeEncodeError as error:
            raise invalid(f"feature names must be UTF-8, got {name!a}") from error
    return example


def _feature(name: str, values: list[Any]) -> feature_pb2.Feature:
    """The values of one feature, all of the kind of the first.

    Raises:
      ServingError: the error of the first invalid value.
    """
    feature = feature_pb2.Feature()
    kinds = [_kind(value) for value in values]
    kind = kinds[0] if kinds else ""
    # Errors of the values before the first one of another kind come first.
    end = next((i for i, other in enumerate(kinds) if other != kind or not other), len(values))
    if kind == "bytes":
        feature.bytes_list.value.extend(map(_bytes, values[:end]))
    elif kind == "float":
        feature.float_list.value.extend(map(_float, values[:end]))
    elif kind:
        whole = list(map(int, values[:end]))
        if whole and max(whole) >= 2**63:
            raise invalid(f"Feature: {name} has uint64 element. Only int64 is supported.")
        feature.int64_list.value.extend(whole)
    if end < len(values):
        raise _mixed(name, kind, kinds[end], values[end])
    return feature


def _mixed(name: str, kind: str, other: str, value: Any) -> Exception:
    if not other:
        return invalid(f"Feature: {name} has element with unexpected JSON type: {type_name(value)}")
    return invalid(f"Unexpected element type in feature: {name} expecting type: {kind}")


def _kind(item: Any) -> str:
    """`bytes`, `float` or `int64`, as in RapidJSON; empty for a value that no feature holds."""
    found = _KINDS.get(type(item))
    if found is not None:
        # A whole number beyond 64 bits is a double.
        return "float" if found == "int64" and not -(2**63) <= item < 2**64 else found
    return "bytes" if is_base64(item) else ""


_KINDS = {bool: "int64", int: "int64", float: "float", str: "bytes"}


def _bytes(item: Any) -> bytes:
    if isinstance(item, str):
        return item.encode("utf-8", "surrogateescape")
    return decode_base64(item["b64"])


def _float(item: Any) -> float:
    # As float32, a larger double is infinite.
    return item if abs(item) < _FLOAT_LIMIT or item != item else _infinity(item)


#: The largest double that rounds to a finite float32.
_FLOAT_LIMIT = 3.4028235677973366e38


def _infinity(value: float) -> float:
    return float("inf") if value > 0 else float("-inf")


def _format_error(value: Any, words: str) -> Exception:
    return invalid(f"JSON Value: {debug_text(value)} {words}")
