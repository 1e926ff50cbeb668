"""TensorFlow's own count of a network's work: the profiler on the frozen inference graph.

It counts an operation by name and static shapes, and knows no figure for some of them; what it
passes over that multiplies matrices is named, so that a lower total does not look like a saving.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from trainers.keras import keras

#: Operations that do multiply-adds.
MULTIPLYING = (
    "BatchMatMul",
    "BatchMatMulV2",
    "BatchMatMulV3",
    "Conv2D",
    "Conv2DBackpropInput",
    "Conv3D",
    "DepthwiseConv2dNative",
    "Einsum",
    "MatMul",
)


@dataclass(frozen=True)
class FrozenProfile:
    """The result of the profiler for one image.

    Attributes:
      multiply_adds: half the FLOPs of the operations in `MULTIPLYING`.
      flops: of all operations, normalization and activations too.
      missed: operation -> number of operations that multiply matrices and were not counted,
        including those inside functions that remain calls after freezing.
    """

    multiply_adds: int
    flops: int
    missed: dict[str, int]


def frozen_profile(model: keras.Model) -> FrozenProfile:
    """Freezes `model` at batch 1 and counts its operations with TensorFlow's profiler.

    Args:
      model: with one input of static size.
    """
    inputs = model.inputs[0]
    spec = tf.TensorSpec((1, *inputs.shape[1:]), inputs.dtype)
    function = tf.function(lambda images: model(images, training=False))
    frozen = convert_variables_to_constants_v2(function.get_concrete_function(spec))
    graph_def = frozen.graph.as_graph_def()
    with tf.Graph().as_default() as graph, _quiet():
        tf.graph_util.import_graph_def(graph_def, name="")
        builder = tf.compat.v1.profiler.ProfileOptionBuilder
        options = builder(builder.float_operation()).with_empty_output().build()
        profile = tf.compat.v1.profiler.profile(graph, cmd="op", options=options)
    present = Counter(node.op for node in graph_def.node if node.op in MULTIPLYING)
    counted = {node.name: node.float_ops for node in _nodes(profile)}
    missed = Counter({kind: number for kind, number in present.items() if not counted.get(kind)})
    # Functions that XLA compiles remain calls, such as the grouped convolution of Keras on a CPU.
    for function in graph_def.library.function:
        missed.update(node.op for node in function.node_def if node.op in MULTIPLYING)
    flops = sum(counted.get(kind, 0) for kind in present)
    return FrozenProfile(flops // 2, profile.total_float_ops, dict(missed))


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    for child in node.children:
        yield from _nodes(child)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses the profiler's notices about deprecated functions of TensorFlow."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
