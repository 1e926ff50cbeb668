"""Filter gradients of strided 1x1 convolutions: right, and never by oneDNN's faulty kernel."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import trainers.keras
from trainers.keras import keras

pytestmark = pytest.mark.onednn

ROOT = Path(__file__).resolve().parents[2]


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def gradients(images: np.ndarray, filters: np.ndarray, weight: np.ndarray, **options):
    """The gradients of sum(conv2d * weight) with respect to both inputs."""
    inputs = tf.constant(images), tf.constant(filters)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(tf.nn.conv2d(*inputs, **options) * weight)
    return [gradient.numpy() for gradient in tape.gradient(loss, inputs)]


@pytest.mark.parametrize("padding", ["SAME", "VALID", [[0, 0], [1, 2], [3, 0], [0, 0]]])
@pytest.mark.parametrize("strides", [(2, 2), (1, 2), (3, 1), (4, 3)])
@pytest.mark.parametrize("size", [(32, 32), (9, 7), (1, 1)])
def test_gradients_are_those_of_numpy(padding, strides, size):
    images, filters = values(3, *size, 8), values(1, 1, 8, 16)
    edges = padding if isinstance(padding, list) else [[0, 0]] * 4
    read = np.pad(images, edges)[:, :: strides[0], :: strides[1]]
    weight = values(*read.shape[:3], 16)
    found = gradients(images, filters, weight, strides=strides, padding=padding)
    np.testing.assert_allclose(
        found[1][0, 0], np.einsum("nhwc,nhwo->co", read, weight), rtol=1e-3, atol=1e-3
    )
    full = np.zeros_like(np.pad(images, edges))
    full[:, :: strides[0], :: strides[1]] = np.einsum("nhwo,co->nhwc", weight, filters[0, 0])
    (top, bottom), (left, right) = edges[1:3]
    inside = full[:, top : full.shape[1] - bottom, left : full.shape[2] - right]
    np.testing.assert_allclose(found[0], inside, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 3)])
def test_other_convolutions_have_tensorflows_gradient(kernel):
    strides = (1, 1) if kernel == (1, 1) else (2, 2)
    images, filters = values(2, 8, 8, 4), values(*kernel, 4, 5)
    weight = tf.nn.conv2d(images, filters, strides, "SAME").numpy()
    expected = tf.raw_ops.Conv2DBackpropFilter(
        input=images,
        filter_sizes=filters.shape,
        out_backprop=weight,
        strides=[1, *strides, 1],
        padding="SAME",
    )
    found = gradients(images, filters, weight, strides=strides, padding="SAME")
    np.testing.assert_allclose(found[1], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float64])
def test_every_precision_has_a_gradient(dtype):
    images, filters = (tf.cast(values(*s), dtype) for s in ((2, 8, 8, 4), (1, 1, 4, 4)))
    with tf.GradientTape() as tape:
        tape.watch(filters)
        loss = tf.reduce_sum(tf.nn.conv2d(images, filters, 2, "SAME"))
    found = tf.cast(tape.gradient(loss, filters), tf.float32)
    expected = tf.cast(images, tf.float32).numpy()[:, ::2, ::2].sum((0, 1, 2))
    np.testing.assert_allclose(found[0, 0, :, 0], expected, rtol=0.05, atol=0.1)


def strided_1x1_gradients(function: tf.types.experimental.ConcreteFunction) -> int:
    """How many `Conv2DBackpropFilter` with strides have a 1x1 filter."""
    return sum(
        op.type == "Conv2DBackpropFilter"
        and max(op.get_attr("strides")) > 1
        and op.outputs[0].shape[:2].as_list() == [1, 1]
        for op in function.graph.get_operations()
    )


def traced(
    layer: keras.layers.Layer, shape: tuple[int, ...]
) -> tf.types.experimental.ConcreteFunction:
    """The graph of the layer's forward and backward pass."""
    layer.build((None, *shape))

    @tf.function(autograph=False)
    def step(images: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(images) ** 2)
        return tape.gradient(loss, layer.trainable_weights)

    return step.get_concrete_function(tf.TensorSpec((None, *shape)))


LAYERS = {
    "conv2d": (lambda: keras.layers.Conv2D(16, 1, strides=2), (8, 8, 4)),
    "conv2d of unknown size": (lambda: keras.layers.Conv2D(16, 1, strides=2), (None, None, 4)),
    "conv1d": (lambda: keras.layers.Conv1D(16, 1, strides=2), (8, 4)),
    "transpose": (lambda: keras.layers.Conv2DTranspose(4, 1, strides=2), (8, 8, 16)),
    "separable": (lambda: keras.layers.SeparableConv2D(16, 1, strides=2), (8, 8, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_no_layer_reaches_the_kernel(name):
    make, shape = LAYERS[name]
    function = traced(make(), shape)
    assert "Conv2DBackpropFilter" in {op.type for op in function.graph.get_operations()}
    assert not strided_1x1_gradients(function)


def test_the_count_sees_what_tensorflow_does_itself():
    # Otherwise the test above proves nothing.
    with pytest.MonkeyPatch.context() as patched:
        registry = trainers.keras.ops.gradient_registry._registry
        patched.setitem(registry["Conv2D"], "type", trainers.keras._ORIGINALS["Conv2D"])
        assert strided_1x1_gradients(traced(LAYERS["conv2d"][0](), (8, 8, 4))) == 1


def test_layers_wrapped_by_tfmot_do_not_reach_the_kernel():
    import tensorflow_model_optimization as tfmot

    model = keras.Sequential([keras.layers.Conv2D(16, 1, strides=2, input_shape=(8, 8, 4))])
    for wrapped in (
        tfmot.quantization.keras.quantize_model(model),
        tfmot.sparsity.keras.prune_low_magnitude(model),
    ):
        assert not strided_1x1_gradients(traced(wrapped, (8, 8, 4)))


def test_the_graph_of_the_forward_pass_is_tensorflows_own():
    layer = keras.layers.Conv2D(16, 1, strides=2)
    layer.build((None, 8, 8, 4))
    function = tf.function(layer, autograph=False).get_concrete_function(
        tf.TensorSpec((None, 8, 8, 4))
    )
    (convolution,) = (op for op in function.graph.get_operations() if op.type == "Conv2D")
    assert list(convolution.get_attr("strides")) == [1, 2, 2, 1]
    assert {"AvgPool", "StridedSlice"}.isdisjoint(op.type for op in function.graph.get_operations())


def test_a_small_resnet_trains_under_malloc_checking():
    """The case that aborted: 8 channels to 16, in a process whose allocator finds overruns."""
    program = (
        "from trainers.keras import keras; import tensorflow as tf\n"
        "layer = keras.layers.Conv2D(16, 1, strides=2)\n"
        "for size in (16, 32, 64):\n"
        "  for batch in (1, 3, 8):\n"
        "    images = tf.random.normal((batch, size, size, 8))\n"
        "    with tf.GradientTape() as tape:\n"
        "      loss = tf.reduce_sum(layer(images) ** 2)\n"
        "    found = tape.gradient(loss, layer.kernel).numpy()\n"
        "    out = layer(images).numpy()\n"
        "    want = 2 * images.numpy()[:, ::2, ::2].reshape(-1, 8).T @ out.reshape(-1, 16)\n"
        "    assert abs(found - want).max() < 1e-3 * abs(want).max(), (size, batch)\n"
        "print('done')\n"
    )
    checked = {"LD_PRELOAD": "libc_malloc_debug.so.0", "GLIBC_TUNABLES": "glibc.malloc.check=3"}
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=ROOT,
        env=os.environ | (checked if sys.platform == "linux" else {}),
        capture_output=True,
        text=True,
    )
    assert child.stdout.endswith("done\n"), (child.returncode, child.stderr[-2000:])
