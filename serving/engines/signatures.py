"""Signatures of a SavedModel, and their outputs for an empty batch from the declared shapes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class GraphTensor:
    """An input or output of a signature.

    Attributes:
      tensor: name in the graph, e.g. `serving_default_x:0`.
      dtype: TensorFlow's enum name, e.g. `DT_FLOAT`.
      shape: -1 where unknown; None for unknown rank.
    """

    tensor: str
    dtype: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class GraphSignature:
    """A signature of a SavedModel; `proto` is its `SignatureDef`."""

    name: str
    method_name: str
    inputs: dict[str, GraphTensor]
    outputs: dict[str, GraphTensor]
    proto: Any


def read_signature(name: str, proto: Any) -> GraphSignature:
    """The `GraphSignature` of a `SignatureDef`."""
    return GraphSignature(
        name=name,
        method_name=proto.method_name,
        inputs={key: _tensor_info(proto.inputs[key]) for key in sorted(proto.inputs)},
        outputs={key: _tensor_info(proto.outputs[key]) for key in sorted(proto.outputs)},
        proto=proto,
    )


def _tensor_info(info: Any) -> GraphTensor:
    from tensorflow.core.framework.types_pb2 import DataType

    dims = info.tensor_shape
    shape = None if dims.unknown_rank else tuple(int(dim.size) for dim in dims.dim)
    return GraphTensor(tensor=info.name, dtype=DataType.Name(info.dtype), shape=shape)


def empty_outputs(
    signatures: Iterable[GraphSignature], feeds: Mapping[str, np.ndarray], fetches: Sequence[str]
) -> dict[str, np.ndarray] | None:
    """Graph tensor name -> array without rows; does not run the graph.

    Args:
      signatures: all signatures of the model.
      feeds: graph tensor name -> array.
      fetches: graph tensor names.

    Returns:
      None if the graph must run: a feed has rows or does not match the declared dtype and shape, a
      fetch is not an output of a signature, or it has unknown dimensions besides the first.
    """
    if any(value.size for value in feeds.values()):
        return None
    declared = {
        info.tensor: info
        for signature in signatures
        for info in (*signature.inputs.values(), *signature.outputs.values())
    }
    for name, value in feeds.items():
        if name not in declared or not _fits(value, declared[name]):
            return None
    outputs = {name: _no_rows(declared.get(name)) for name in fetches}
    known = {name: value for name, value in outputs.items() if value is not None}
    return known if len(known) == len(outputs) else None


def _fits(value: np.ndarray, info: GraphTensor) -> bool:
    """Whether an array has no rows and matches the declared dtype and shape."""
    shape = info.shape
    if not shape or len(shape) != value.ndim or value.dtype != _dtype(info):
        return False
    if shape[0] != -1 or len(value):
        return False
    return all(wanted in (-1, got) for wanted, got in zip(shape[1:], value.shape[1:], strict=True))


def _no_rows(info: GraphTensor | None) -> np.ndarray | None:
    if info is None or not info.shape or info.shape[0] != -1 or -1 in info.shape[1:]:
        return None
    return np.zeros((0, *info.shape[1:]), _dtype(info))


def _dtype(info: GraphTensor) -> np.dtype[Any]:
    import tensorflow as tf  # Only for an empty batch.
    from tensorflow.core.framework.types_pb2 import DataType

    return np.dtype(tf.as_dtype(DataType.Value(info.dtype)).as_numpy_dtype)
