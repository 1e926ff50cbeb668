"""The only import of Keras: `tf_keras` (Keras 2), which TFMOT, TFMA and multi-worker training need.

Every other file says `from trainers.keras import keras`. The first variable below also turns
`tf.keras` inside third-party code into `tf_keras`, so it has to be set before TensorFlow loads.

Importing this module also replaces the gradient of strided 1x1 convolutions. On CPUs with AVX-512,
TensorFlow 2.16 and 2.21 compute the filter gradient of a 1x1 convolution whose strides divide the
image with oneDNN's `jit_1x1:avx512_core`. With fewer than 16 input channels it writes past the end
of its buffers: the process aborts, or the gradient is wrong. Which sizes it hits depends on batch,
filters and the number of threads. So no strided 1x1 convolution uses that kernel, whatever its
channels; the cost is lost in the noise of a training step.

A strided 1x1 convolution reads only every `stride`-th pixel. Its filter gradient is therefore the
gradient of the same convolution with stride 1 on those pixels, for any size, with padding "SAME" or
"VALID". The forward pass, the exported graph and checkpoints do not change.
"""

import os
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
import tf_keras as keras
from tensorflow.python.autograph.core import config as autograph
from tensorflow.python.framework import ops

__all__ = ["keras"]

# TensorFlow 2.16 excludes `keras` from AutoGraph but not `tf_keras`, as later versions do:
# rewriting the optimizers' sources takes a process's first step 35 s of CPU. `trainers` branches on
# tensors by `tf.cond` and the like alone, so it needs no rewriting either.
autograph.CONVERSION_RULES = (
    *(autograph.DoNotConvert(package) for package in ("tf_keras", "trainers")),
    *autograph.CONVERSION_RULES,
)

_TRANSPOSED = "Conv2DBackpropInput"


#: TensorFlow's own gradients, by operation.
_ORIGINALS: dict[str, Any] = {}


def _replace_gradients() -> None:
    """Replaces TensorFlow's gradients of `Conv2D` and of its transpose in this process.

    Every gradient that Python computes uses them: of Keras layers, TFMOT's wrappers,
    `tf.nn.conv2d` and loaded SavedModels. A second call does nothing.
    """
    for name, gradient in (("Conv2D", _conv_gradient), (_TRANSPOSED, _transposed_gradient)):
        original = ops.gradient_registry.lookup(name)
        if original is not gradient:
            _ORIGINALS[name] = original
            # A name can be registered once; the registry has no public way to replace it.
            ops.gradient_registry._registry[name]["type"] = gradient


def _conv_gradient(op: Any, grad: tf.Tensor) -> list[tf.Tensor | None]:
    """The gradients of the two inputs of `Conv2D`: images and filters."""
    images, filters = op.inputs
    if not _is_strided_1x1(op, filters.shape):
        return _ORIGINALS["Conv2D"](op, grad)
    images_gradient = tf.raw_ops.Conv2DBackpropInput(
        input_sizes=tf.shape(images), filter=filters, out_backprop=grad, **_attributes(op)
    )
    return [images_gradient, _filter_gradient(op, images, tf.shape(filters), grad)]


def _transposed_gradient(op: Any, grad: tf.Tensor) -> list[tf.Tensor | None]:
    """The gradients of the three inputs of `Conv2DBackpropInput`: sizes, filters and images."""
    _, filters, images = op.inputs
    if not _is_strided_1x1(op, filters.shape):
        return _ORIGINALS[_TRANSPOSED](op, grad)
    images_gradient = tf.raw_ops.Conv2D(input=grad, filter=filters, **_attributes(op))
    return [None, _filter_gradient(op, grad, tf.shape(filters), images), images_gradient]


def _is_strided_1x1(op: Any, filters: tf.TensorShape) -> bool:
    return filters[:2].as_list() == [1, 1] and max(op.get_attr("strides")) > 1


def _filter_gradient(op: Any, large: tf.Tensor, shape: tf.Tensor, small: tf.Tensor) -> tf.Tensor:
    """The filter gradient from the tensor before (`large`) and after (`small`) the strides."""
    attributes = _attributes(op)
    padding, layout = attributes["explicit_paddings"], attributes["data_format"]
    if attributes["padding"] == "EXPLICIT":
        large = tf.pad(large, [padding[i : i + 2] for i in range(0, 8, 2)])
    # The mean of one pixel is that pixel. A strided slice gives the same and takes ten times as
    # long, as it runs on one thread and copies element by element.
    pool = {"ksize": [1, 1, 1, 1], "strides": attributes["strides"], "padding": "VALID"}
    read = tf.raw_ops.AvgPool(value=large, data_format=layout, **pool)
    unstrided = {"strides": [1, 1, 1, 1], "padding": "VALID", "explicit_paddings": []}
    return tf.raw_ops.Conv2DBackpropFilter(
        input=read, filter_sizes=shape, out_backprop=small, **(attributes | unstrided)
    )


def _attributes(op: Any) -> dict[str, Any]:
    names = ("strides", "padding", "explicit_paddings", "use_cudnn_on_gpu", "data_format")
    found = {name: op.get_attr(name) for name in (*names, "dilations")}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in found.items()}


_replace_gradients()
