"""Bias correction: the mean outputs of int8 layers become those of the float layers.

Rounding a kernel to int8 shifts the mean of each output channel, most in depthwise layers, whose
channels have few weights; clipped and rounded activations shift it too, and the shifts accumulate
over layers. They are measured on calibration images and subtracted from the int32 biases, layer by
layer (Nagel et al. 2019, arXiv 1906.04721, section 4.2, with measured means).

The int8 file itself is run and changed: batch normalizations are folded, and every layer is a
convolution, a depthwise convolution or a fully connected layer. Means are taken before the
activation function, where a bias shifts them by exactly its value. As both layers are linear there,
the mean output is the output for the mean input, so each layer runs only once.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from trainers.compression.rewrites import Conversion, Facts, Rewrite
from trainers.compression.tflite_graph import (
    Part,
    builtin,
    constant,
    dequantized,
    is_constant,
    kernel_operators,
    means_of,
    pack,
    store,
    unpack,
)
from trainers.registry import rewrites

#: Number of images for the means; more do not improve agreement and need memory.
MOST_IMAGES = 64

_NAME = "correct_biases"
# A bias is added to an int32 sum of products, which needs the rest of the range.
_LARGEST_BIAS = 2**30


#: Tensor of a float file -> its mean over images, float32.
Means = Mapping[int, np.ndarray]


def correct_biases(
    content: bytes, floats: bytes, images: np.ndarray, *, means: Means | None = None
) -> bytes:
    """The int8 model with corrected biases; kernels, scales and operators do not change.

    Args:
      content: an int8 .tflite file with one uint8 input (1, H, W, 3).
      floats: the same network before quantization.
      images: (M, H, W, 3) uint8 calibration images, at least one; the first `MOST_IMAGES` are used.
      means: what `float_means` returns for `floats` and `images`, if it is known.

    Returns:
      The new file's bytes, the same for the same arguments.

    Raises:
      ValueError: an int8 layer has no float layer with the same kernel.
    """
    model, source = unpack(content), unpack(floats)
    images = images[:MOST_IMAGES]
    pairs = _pairs(model, source)
    wanted = float_means(floats, images) if means is None else means
    partners = {id(layer): exact for layer, exact in pairs}
    run = _Runs(model, images)
    for layer in run.layers([layer for layer, _ in pairs]):
        exact = partners[id(layer)]
        aim = _kernel_sums(source, exact, wanted[int(exact.inputs[0])])
        mean = dequantized(model, layer.inputs[0], run.mean(int(layer.inputs[0])))
        kernel = dequantized(model, layer.inputs[1])
        shift = _kernel_sums(source, exact, mean, kernel) - aim
        _set_bias(model, layer, _bias(source, exact) - shift)
    return pack(model)


def float_means(floats: bytes, images: np.ndarray) -> Means:
    """The mean inputs of a float network's layers over the first `MOST_IMAGES` of `images`."""
    inputs = dict.fromkeys(int(layer.inputs[0]) for layer in kernel_operators(unpack(floats)))
    found = means_of(floats, images[:MOST_IMAGES], list(inputs))
    return {tensor: mean.astype(np.float32) for tensor, mean in found.items()}


def _pairs(model: Any, source: Any) -> list[tuple[Any, Any]]:
    """(int8 layer, float layer) of equal kernels, in the order that the int8 layers run."""
    tensors = model.subgraphs[0].tensors
    left = kernel_operators(source)
    found = []
    for layer in kernel_operators(model):
        if any(tensors[t].type != schema.TensorType.INT8 for t in layer.inputs[:2]):
            continue  # Layers that compute in float need no correction.
        exact = next((one for one in left if _is_rounded(model, layer, source, one)), None)
        if exact is None:
            name = tensors[layer.outputs[0]].name.decode("utf-8", "replace")
            raise ValueError(f"no float layer has the kernel of the int8 layer {name!r}")
        left.remove(exact)
        found.append((layer, exact))
    return found


def _is_rounded(model: Any, layer: Any, source: Any, exact: Any) -> bool:
    """Whether `layer` is `exact` with every weight rounded to the nearest int8 step."""
    if builtin(model, layer) != builtin(source, exact):
        return False
    kernel, weights = dequantized(model, layer.inputs[1]), constant(source, exact.inputs[1])
    if kernel.shape != weights.shape:
        return False
    found = model.subgraphs[0].tensors[layer.inputs[1]].quantization
    shape = [1] * kernel.ndim
    if len(found.scale) > 1:
        shape[found.quantizedDimension] = len(found.scale)
    # Half a step, plus the rounding of float32 scales.
    return bool((np.abs(kernel - weights) <= 0.51 * np.reshape(found.scale, shape)).all())


def _bias(model: Any, layer: Any) -> Any:
    """(C,) float32 bias of a float layer; 0 if it has none."""
    return constant(model, layer.inputs[2]) if _has_bias(layer) else np.float32(0)


def _has_bias(layer: Any) -> bool:
    return len(layer.inputs) > 2 and layer.inputs[2] >= 0


def _kernel_sums(
    source: Any, exact: Any, mean: np.ndarray, kernel: np.ndarray | None = None
) -> np.ndarray:
    """(C,) mean over positions of a float layer's output before its activation, less its bias.

    Args:
      source: the float model.
      exact: its layer.
      mean: the layer's input, in float32.
      kernel: another kernel for the layer; None for its own.
    """
    bare, graph = copy.copy(source), copy.copy(source.subgraphs[0])
    graph.tensors = [copy.copy(tensor) for tensor in graph.tensors]
    bare.subgraphs, bare.buffers = [graph], list(source.buffers)
    layer = copy.copy(exact)
    layer.builtinOptions = copy.copy(exact.builtinOptions)
    layer.builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.NONE
    if kernel is not None:
        bare.buffers.append(schema.BufferT())
        graph.tensors[layer.inputs[1]].buffer = len(bare.buffers) - 1
        store(bare, layer.inputs[1], kernel)
    (sums,) = Part(bare, [layer], [int(layer.outputs[0])]).run([mean])
    rows = sums.reshape(-1, sums.shape[-1]).astype(np.float64)
    return rows.mean(axis=0) - _bias(source, exact)


def _set_bias(model: Any, layer: Any, bias: np.ndarray) -> None:
    """Stores a (C,) float bias as int32, in a tensor that no other layer reads.

    A channel whose kernel is (almost) zero has no scale for it and keeps the converter's bias.
    """
    graph = model.subgraphs[0]
    if not _has_bias(layer):
        layer.inputs = [*layer.inputs[:2], _new_bias(model, layer, len(bias))]
    index = int(layer.inputs[2])
    if sum(index in operator.inputs for operator in graph.operators) > 1:
        graph.tensors.append(copy.copy(graph.tensors[index]))
        index = len(graph.tensors) - 1
        layer.inputs = [*layer.inputs[:2], index]
    scale = graph.tensors[index].quantization.scale.astype(np.float64)
    scale = np.broadcast_to(scale, bias.shape)
    stored = constant(model, index) if is_constant(model, index) else np.zeros(bias.shape, np.int32)
    steps = np.round(np.divide(bias, scale, out=np.zeros(bias.shape), where=scale > 0))
    fits = (scale > 0) & (np.abs(steps) <= _LARGEST_BIAS)
    store(model, index, np.where(fits, steps, stored).astype(np.int32))


def _new_bias(model: Any, layer: Any, channels: int) -> int:
    """Index of a new bias tensor with the scale of the layer's sums of products."""
    tensors = model.subgraphs[0].tensors
    inputs, kernel = (tensors[tensor].quantization for tensor in layer.inputs[:2])
    bias = schema.TensorT()
    bias.name = tensors[layer.outputs[0]].name + b"/bias"
    bias.shape, bias.type, bias.buffer = [channels], schema.TensorType.INT32, 0
    bias.quantization = schema.QuantizationParametersT()
    bias.quantization.scale = (inputs.scale * kernel.scale).astype(np.float32)
    bias.quantization.zeroPoint = np.zeros(len(kernel.scale), np.int64)
    tensors.append(bias)
    return len(tensors) - 1


class _Runs:
    """Runs an int8 model on images part by part, so that a layer can change before it runs."""

    def __init__(self, model: Any, images: np.ndarray) -> None:
        graph = model.subgraphs[0]
        (first,) = graph.inputs
        self._model, self._images = model, len(images)
        self._values = {int(first): [image[None] for image in images]}

    def layers(self, layers: list[Any]) -> Iterator[Any]:
        """Yields each of `layers` after its inputs are computed and before it runs."""
        operators = list(self._model.subgraphs[0].operators)
        number = {id(operator): index for index, operator in enumerate(operators)}
        starts = [number[id(layer)] for layer in layers]
        for begin, end in zip([0, *starts], starts, strict=False):
            self._run(operators[begin:end], operators[end:])
            yield operators[end]

    def mean(self, tensor: int) -> np.ndarray:
        """Mean over images of the int8 values of an input of the current layer."""
        values = self._values[tensor]
        total = np.zeros(values[0].shape, np.int64)
        for value in values:
            total += value
        return total / len(values)

    def _run(self, operators: list[Any], later: list[Any]) -> None:
        """Runs `operators`, and keeps only the tensors that `later` ones read."""
        needed = {int(tensor) for operator in later for tensor in operator.inputs}
        made = [int(tensor) for operator in operators for tensor in operator.outputs]
        outputs = [tensor for tensor in made if tensor in needed]
        if outputs:
            part = Part(self._model, operators, outputs)
            columns = [self._values[tensor] for tensor in part.inputs]
            rows = [part.run([column[at] for column in columns]) for at in range(self._images)]
            for tensor, column in zip(outputs, zip(*rows, strict=True), strict=True):
                self._values[tensor] = list(column)
        self._values = {t: column for t, column in self._values.items() if t in needed}


def _run(content: bytes, conversion: Conversion) -> tuple[bytes, Facts]:
    assert conversion.calibration is not None  # `needs_calibration`
    floats, images = conversion.floats(), conversion.calibration
    assert images is not None  # `needs_calibration`
    if _NAME not in conversion.cache:
        conversion.cache[_NAME] = float_means(floats, images)
    return correct_biases(content, floats, images, means=conversion.cache[_NAME]), {}


rewrites.register(_NAME)(
    Rewrite(
        _NAME,
        _run,
        stage="values",
        dtypes=("int8",),
        needs_calibration=True,
        title="biases corrected on calibration images",
    )
)
