"""What brings int8 files closer to float: biases and normalization, against NumPy's integers."""

import subprocess
import sys

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from trainers.compression.convert import ConversionJob, convert_all, save_for_conversion
from trainers.compression.qat import quantization_aware
from trainers.compression.rewrites.bias_correction import MOST_IMAGES, correct_biases
from trainers.compression.tflite_graph import builtin, constant, kernel_operators, pack, unpack
from trainers.config import CompressConfig
from trainers.keras import keras
from trainers.models.layers import Normalize

pytestmark = pytest.mark.onednn

MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
# Without metadata, which every file gets.
GRAPH = tuple(one for one in CompressConfig().rewrites if one != "metadata")
CONV, DEPTHWISE, DENSE = 3, 4, 9  # in TFLite's schema


@pytest.fixture(scope="module")
def images(digits):
    """Colorful digits: the channels of the real ones differ."""
    return (digits[0][:MOST_IMAGES] * np.array([1.0, 0.8, 0.6])).astype(np.uint8)


@pytest.fixture(scope="module")
def model():
    """Every kind of layer with a kernel: with a norm, with ReLU6, with a bias, with neither."""
    layers = keras.layers
    keras.utils.set_random_seed(3)
    inputs = keras.Input((8, 8, 3), name="images")
    x = Normalize(MEAN, STD, name="normalize")(inputs)
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(x)
    x = layers.ReLU(6.0, name="conv_relu6")(layers.BatchNormalization(name="conv_bn")(x))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization(name="depthwise_bn")(x))
    x = layers.Conv2D(12, 1, name="alone")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(6, use_bias=False, name="no_bias")(x)
    made = keras.Model(inputs, layers.Dense(4, name="logits")(x))
    for norm in ("conv_bn", "depthwise_bn"):
        layer = made.get_layer(norm)
        layer.gamma.assign(np.linspace(0.5, 3.0, 8))
        layer.beta.assign(np.linspace(-1.0, 2.0, 8))
        layer.moving_variance.assign(np.linspace(0.3, 5.0, 8))
    return made


@pytest.fixture(scope="module")
def files(model, images, tmp_path_factory):
    """dtype -> path of the converted `model`."""
    folder = tmp_path_factory.mktemp("files")
    np.save(folder / "calibration.npy", images)
    saved = save_for_conversion(model, folder / "saved")
    jobs = [
        ConversionJob(dtype, saved, dtype, folder / f"{dtype}.tflite", (), ranges, rewrites=GRAPH)
        for dtype, ranges in (
            ("fp32", None),
            ("dynamic", None),
            ("int8", folder / "calibration.npy"),
        )
    ]
    results = convert_all(jobs)
    assert [result.error for result in results] == ["", "", ""]
    return {job.name: job.output for job in jobs}


def values_of(path, images, tensors):
    """[tensor -> what LiteRT computes in it] of each image, by the kernels that users run."""
    model = unpack(path.read_bytes())
    model.subgraphs[0].outputs = tensors
    interpreter = Interpreter(model_content=pack(model))
    interpreter.allocate_tensors()
    slots = [output["index"] for output in interpreter.get_output_details()]
    found = []
    for image in images:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
        interpreter.invoke()
        rows = [interpreter.get_tensor(slot) for slot in slots]
        found.append(dict(zip(tensors, rows, strict=True)))
    return found


def integer_sums(code, inputs, zero, kernel):
    """(..., C) int64 sums of products of one layer; SAME padding, stride 1."""
    centered = inputs[0].astype(np.int64) - zero
    kernel = kernel.astype(np.int64)
    if code == DENSE:
        return centered @ kernel.T
    side = kernel.shape[1]
    padded = np.pad(centered, ((side // 2, side // 2), (side // 2, side // 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(0, 1))
    if code == CONV:
        return np.einsum("hwcij,oijc->hwo", windows, kernel)
    return np.einsum("hwcij,ijc->hwc", windows, kernel[0])


def float_means(model, images):
    """(C,) means of each layer's output before its activation, in float64 as Keras has them."""
    found = []
    for name in ("conv_bn", "depthwise_bn", "alone", "no_bias", "logits"):
        part = keras.Model(model.input, model.get_layer(name).output)
        value = part(images.astype(np.float32), training=False).numpy().astype(np.float64)
        found.append(value.reshape(-1, value.shape[-1]).mean(axis=0))
    return found


def layer_means(path, images):
    """(mean, mean without its bias, bias scale) of each int8 layer, by NumPy's integers."""
    content = unpack(path.read_bytes())
    tensors = content.subgraphs[0].tensors
    layers = kernel_operators(content)
    values = values_of(path, images, [int(layer.inputs[0]) for layer in layers])
    found = []
    for layer in layers:
        inputs, kernel, bias = (tensors[int(t)].quantization for t in layer.inputs)
        rows = [
            integer_sums(
                builtin(content, layer),
                value[int(layer.inputs[0])],
                int(inputs.zeroPoint[0]),
                constant(content, layer.inputs[1]),
            )
            for value in values
        ]
        channels = rows[0].shape[-1]
        sums = np.concatenate([row.reshape(-1, channels) for row in rows]).mean(axis=0)
        scale = inputs.scale[0].astype(np.float64) * kernel.scale
        np.testing.assert_allclose(bias.scale, scale, rtol=1e-5)
        with_bias = (sums + constant(content, layer.inputs[2])) * scale
        found.append((with_bias, sums * scale, np.broadcast_to(scale, channels)))
    return found


def folded_biases(model):
    """(C,) float biases of each layer, with its batch normalization folded in."""
    found = []
    for norm in ("conv_bn", "depthwise_bn"):
        layer = model.get_layer(norm)
        gamma, beta, mean, variance = (part.astype(np.float64) for part in layer.get_weights())
        found.append(beta - mean * gamma / np.sqrt(variance + layer.epsilon))
    alone, logits = (model.get_layer(name).bias.numpy() for name in ("alone", "logits"))
    return [*found, alone, np.zeros(6), logits]


def test_int8_layers_have_the_float_means(model, files, images):
    wanted = float_means(model, images)
    found = layer_means(files["int8"], images)
    assert len(found) == len(wanted) == 5
    pairs = zip(wanted, found, folded_biases(model), strict=True)
    for number, (aim, (mean, sums, step), bias) in enumerate(pairs):
        uncorrected = np.abs(sums + np.round(bias / step) * step - aim).max()
        left = np.abs(mean - aim)
        # Biases are whole steps.
        assert (left <= 0.51 * step + 0.001).all(), (number, left.max(), uncorrected)
        assert uncorrected > 5 * left.max(), (number, left.max(), uncorrected)


def test_pixels_are_normalized_in_float(files):
    content = unpack(files["int8"].read_bytes())
    first = kernel_operators(content)[0]
    gray = np.arange(256, dtype=np.uint8)
    images = np.repeat(np.resize(gray, (4, 8, 8))[..., None], 3, axis=-1)
    tensor = int(first.inputs[0])
    found = np.concatenate([row[tensor] for row in values_of(files["int8"], images, [tensor])])
    quantization = content.subgraphs[0].tensors[tensor].quantization
    exact = (images - MEAN) / STD / quantization.scale[0] + quantization.zeroPoint[0]
    np.testing.assert_array_less(np.abs(found - np.clip(exact, -128, 127)), 0.501)


def test_the_correction_depends_on_kernels_and_images_only(files, images):
    content, floats = (files[name].read_bytes() for name in ("int8", "fp32"))
    assert correct_biases(content, floats, images) == content
    assert correct_biases(content, floats, np.tile(images, (2, 1, 1, 1))) == content
    assert correct_biases(content, floats, images[:8]) != content


def test_another_float_model_is_refused(model, files, images, tmp_path):
    other = keras.models.clone_model(model)
    other.set_weights([1.5 * weight + 0.1 for weight in model.get_weights()])
    job = ConversionJob(
        "other", save_for_conversion(other, tmp_path / "saved"), "fp32", tmp_path / "other.tflite"
    )
    convert_all([job])
    with pytest.raises(ValueError, match="no float layer has the kernel of the int8"):
        correct_biases(files["int8"].read_bytes(), job.output.read_bytes(), images)


_PLAIN = """
import sys
import tensorflow as tf
from pathlib import Path
from trainers.compression.tflite_file import append_softmax
for saved, dtype, out in zip(*[iter(sys.argv[1:])] * 3):
    converter = tf.lite.TFLiteConverter.from_saved_model(saved, signature_keys=["predict_tensor"])
    if dtype != "fp32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    Path(out).write_bytes(append_softmax(converter.convert()))
"""


def test_other_variants_are_the_converters_own(model, files, images, tmp_path):
    aware = quantization_aware(model.__class__(model.input, model.get_layer("alone").output))
    aware(images.astype(np.float32), training=True)  # Finds the ranges.
    outputs = keras.layers.GlobalAveragePooling2D()(aware.output)
    saved = save_for_conversion(keras.Model(aware.input, outputs), tmp_path / "qat")
    job = ConversionJob("qat", saved, "int8", tmp_path / "qat.tflite", rewrites=GRAPH)
    (result,) = convert_all([job])
    assert result.ok, result.error
    plain = files["fp32"].parent / "saved"
    wanted = {"fp32": plain, "dynamic": plain, "qat": saved}
    arguments = [
        text
        for dtype, path in wanted.items()
        for text in (path, dtype, tmp_path / f"{dtype}.plain")
    ]
    subprocess.run([sys.executable, "-c", _PLAIN, *map(str, arguments)], check=True)
    for name, path in {**files, "qat": job.output}.items():
        if name != "int8":
            assert path.read_bytes() == (tmp_path / f"{name}.plain").read_bytes(), name
