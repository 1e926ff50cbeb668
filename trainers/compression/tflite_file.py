"""Adds a float softmax and labels to a .tflite file, and lists the dtypes of its kernels.

The converter quantizes a softmax to steps of 1/256, so that small scores are equal and the log-loss
is infinite. Graphs are therefore converted up to their logits, and the softmax is added in float.
"""

import io
import zipfile
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from trainers.compression.tflite_graph import KERNEL_OPS, builtin, pack, unpack

LABELS_MEMBER = "labels.txt"
SCORES = "scores"

_TYPE_NAMES = {value: name.lower() for name, value in vars(schema.TensorType).items()}


def append_softmax(content: bytes) -> bytes:
    """The model with a float32 SOFTMAX after its only output; the new output is called `scores`.

    Args:
      content: a .tflite file whose one output is float32 logits (1, N).

    Returns:
      The bytes of the new file; signatures return the new output.
    """
    model = unpack(content)
    graph = model.subgraphs[0]
    (logits,) = graph.outputs
    scores = schema.TensorT()
    scores.shape = graph.tensors[logits].shape
    scores.type = schema.TensorType.FLOAT32
    scores.buffer = 0  # Buffer 0 is empty by definition: the tensor is computed, not stored.
    scores.name = SCORES
    graph.tensors.append(scores)
    output = len(graph.tensors) - 1
    operator = schema.OperatorT()
    operator.opcodeIndex = _softmax_code(model)
    operator.inputs, operator.outputs = [logits], [output]
    operator.builtinOptionsType = schema.BuiltinOptions.SoftmaxOptions
    operator.builtinOptions = schema.SoftmaxOptionsT()
    operator.builtinOptions.beta = 1.0
    graph.operators.append(operator)
    graph.outputs = [output]
    for signature in model.signatureDefs or ():
        for entry in signature.outputs:
            entry.name, entry.tensorIndex = SCORES, output
    return pack(model)


def _softmax_code(model: Any) -> int:
    """Index of SOFTMAX in the operator codes of the model, added if missing."""
    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == schema.BuiltinOperator.SOFTMAX:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.SOFTMAX
    code.version = 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def attach_labels(content: bytes, labels: Sequence[str]) -> bytes:
    """`content` with `labels.txt`, one label per line, as a zip member after the flatbuffer."""
    file = io.BytesIO(content)
    # A fixed date makes the bytes of equal models equal.
    member = zipfile.ZipInfo(LABELS_MEMBER, date_time=(1980, 1, 1, 0, 0, 0))
    # MediaPipe reads the member in place and refuses a compressed one.
    member.compress_type = zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(member, "".join(f"{label}\n" for label in labels))
    return file.getvalue()


def kernel_dtypes(content: bytes) -> dict[str, int]:
    """Number of convolutions and fully connected layers with kernels of each dtype.

    Returns:
      E.g. `{"int8": 20}`. A layer counts as `int8` only if its input is int8 too; int8 kernels with
      float activations (dynamic range) count as `int8/float32`.
    """
    model = unpack(content)
    counts: Counter[str] = Counter()
    for graph in model.subgraphs:
        for operator in graph.operators:
            if builtin(model, operator) not in KERNEL_OPS:
                continue
            activation, kernel = (
                _TYPE_NAMES[graph.tensors[index].type] for index in operator.inputs[:2]
            )
            counts[kernel if activation == kernel else f"{kernel}/{activation}"] += 1
    return dict(counts)
