"""The JSON of classify and regress requests to TF Serving's `Input` proto of tf.Examples."""

from collections.abc import Mapping
from typing import Any

from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow_serving.apis import input_pb2

from serving.server.errors import invalid
from serving.server.json_decode import decode_base64, is_base64
from serving.server.json_parse import debug_text, type_name

_EXAMPLES = "examples"
_CONTEXT = "context"


def decode_examples(document: Mapping[str, Any]) -> input_pb2.Input:
    """The examples, with their shared context if the request has one.

    Args:
      document: from `serving.server.json_decode.read_document`.

    Raises:
      ServingError: as TF Serving words it.
    """
    result = input_pb2.Input()
    has_context = _CONTEXT in document
    if has_context:
        context = _example(document[_CONTEXT])
        result.example_list_with_context.context.CopyFrom(context)
    # TF Serving says "classify" for :regress too.
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
        feature = feature_pb2.Feature()
        for item in values:
            _add(feature, name, item)
        try:
            example.features.feature[name].CopyFrom(feature)
        except UnicodeEncodeError as error:
            raise invalid(f"feature names must be UTF-8, got {name!a}") from error
    return example


def _add(feature: feature_pb2.Feature, name: str, item: Any) -> None:
    kind, value = _typed(name, item)
    held = feature.WhichOneof("kind")
    if held not in (None, f"{kind}_list"):
        raise invalid(
            f"Unexpected element type in feature: {name} expecting type: "
            f"{held.removesuffix('_list')}"
        )
    getattr(feature, f"{kind}_list").value.append(value)


def _typed(name: str, item: Any) -> tuple[str, Any]:
    """(bytes, float or int64; the value)."""
    if isinstance(item, bool):
        return "int64", int(item)
    if isinstance(item, float):
        # A double beyond float32 is infinite in float32.
        return "float", item if abs(item) < _FLOAT_LIMIT or item != item else _infinity(item)
    if isinstance(item, int):
        if not -(2**63) <= item < 2**63:
            raise invalid(f"Feature: {name} has uint64 element. Only int64 is supported.")
        return "int64", item
    if isinstance(item, str):
        return "bytes", item.encode("utf-8", "surrogateescape")
    if is_base64(item):
        return "bytes", decode_base64(item["b64"])
    raise invalid(f"Feature: {name} has element with unexpected JSON type: {type_name(item)}")


#: The largest double that rounds to a finite float32.
_FLOAT_LIMIT = 3.4028235677973366e38


def _infinity(value: float) -> float:
    return float("inf") if value > 0 else float("-inf")


def _format_error(value: Any, words: str) -> Exception:
    return invalid(f"JSON Value: {debug_text(value)} {words}")
