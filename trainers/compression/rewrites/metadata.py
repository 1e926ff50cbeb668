"""TFLite metadata: MediaPipe and the TFLite Task Library then show class names for a file.

The metadata state that the input is an RGB image whose values 0 to 255 need no normalization, and
that `labels.txt`, a zip member at the end of the file, has a name for each score. They follow
`metadata_schema.fbs` of TensorFlow Lite Support 1.x; the numbers below are the positions of its
fields. No package with a generated writer is maintained.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from trainers.compression.rewrites import Conversion, Facts, Rewrite
from trainers.compression.tflite_file import LABELS_MEMBER
from trainers.compression.tflite_graph import builtin, pack, unpack
from trainers.registry import rewrites

#: Name of the model's metadata entry that readers look for.
ENTRY = "TFLITE_METADATA"

_IDENTIFIER = b"M001"
# The parser version in which all fields below exist.
_PARSER = "1.0.0"
_RGB = _NORMALIZATION = _FEATURE = 1
_IMAGE = _TENSOR_AXIS_LABELS = 2
_IMAGE_RANK, _CHANNELS = 4, 3
_BYTES_PER_OFFSET = 4

#: A table of the schema: position of a field -> its value. Integers are bytes, `np.uint32` are
#: 32-bit integers, lists have numbers or tables.
_Table = Mapping[int, "str | int | np.uint32 | Sequence[float] | Sequence[_Table] | _Table"]


def add_metadata(content: bytes, conversion: Conversion) -> tuple[bytes, Facts]:
    """The file with TFLite metadata; operators, tensors and signatures do not change.

    Args:
      content: a .tflite file; earlier metadata are replaced.
      conversion: has the labels; an output with one value per label refers to `labels.txt`.
    """
    model = unpack(content)
    graph = model.subgraphs[0]
    inputs = [_input(graph.tensors[tensor]) for tensor in graph.inputs]
    outputs = [_output(model, int(tensor), conversion.labels) for tensor in graph.outputs]
    table = {
        0: conversion.name,
        1: "Made by Sightline. Preprocessing beyond resizing is part of the model.",
        3: [{2: inputs, 3: outputs}],
        7: _PARSER,
    }
    entry, buffer = schema.MetadataT(), schema.BufferT()
    buffer.data = np.frombuffer(_packed(table), np.uint8)
    model.buffers.append(buffer)
    entry.name, entry.buffer = ENTRY, len(model.buffers) - 1
    others = [one for one in model.metadata or () if one.name != ENTRY.encode()]
    model.metadata = [*others, entry]
    labeled = any(6 in output for output in outputs)
    return pack(model), {"labels": len(conversion.labels) if labeled else 0}


def _input(tensor: Any) -> _Table:
    shape = [int(size) for size in tensor.shape]
    table: dict[int, Any] = {0: _name(tensor), 5: {0: [255.0], 1: [0.0]}}
    if len(shape) != _IMAGE_RANK or shape[-1] != _CHANNELS:
        return {**table, 3: {0: _FEATURE, 1: {}}}
    height, width = shape[1:3]
    return {
        **table,
        1: f"RGB image of {height} x {width} pixels, values 0 to 255",
        3: {0: _IMAGE, 1: {0: _RGB, 1: {0: np.uint32(width), 1: np.uint32(height)}}},
        4: [{0: _NORMALIZATION, 1: {0: [0.0], 1: [1.0]}}],
    }


def _output(model: Any, index: int, labels: Sequence[str]) -> _Table:
    graph = model.subgraphs[0]
    tensor = graph.tensors[index]
    table: dict[int, Any] = {0: _name(tensor), 3: {0: _FEATURE, 1: {}}}
    makers = [one for one in graph.operators if index in one.outputs]
    if any(builtin(model, one) == schema.BuiltinOperator.SOFTMAX for one in makers):
        table |= {1: "Probabilities of the classes", 5: {0: [1.0], 1: [0.0]}}
    if labels and len(tensor.shape) and tensor.shape[-1] == len(labels):
        table[6] = [{0: LABELS_MEMBER, 1: "Names of the classes", 2: _TENSOR_AXIS_LABELS}]
    return table


def _name(tensor: Any) -> str:
    return (tensor.name or b"").decode("utf-8", "replace")


def _packed(table: _Table) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(_write(builder, table), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _write(builder: flatbuffers.Builder, table: _Table) -> int:
    """Writes a table after everything that it refers to; returns its offset."""
    offsets = {
        slot: _write_value(builder, value)
        for slot, value in table.items()
        if not isinstance(value, (int, np.integer))
    }
    builder.StartObject(max(table, default=-1) + 1)
    for slot, value in table.items():
        if slot in offsets:
            builder.PrependUOffsetTRelativeSlot(slot, offsets[slot], 0)
        elif isinstance(value, np.integer):
            builder.PrependUint32Slot(slot, int(value), 0)
        else:
            builder.PrependUint8Slot(slot, value, 0)
    return builder.EndObject()


def _write_value(builder: flatbuffers.Builder, value: Any) -> int:
    """Writes a string, a table or a list; returns its offset."""
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, Mapping):
        return _write(builder, value)
    if isinstance(value[0], float):
        return builder.CreateNumpyVector(np.array(value, np.float32))
    offsets = [_write(builder, one) for one in value]
    builder.StartVector(_BYTES_PER_OFFSET, len(offsets), _BYTES_PER_OFFSET)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


rewrites.register("metadata")(
    Rewrite("metadata", add_metadata, stage="contents", title="metadata for MediaPipe")
)
