"""`qat` and `pqat`: quantization-aware training (Jacob et al. 2018, arXiv 1712.05877).

TFMOT's default 8-bit scheme: int8 kernels, per channel for convolutions, int8 activations. Its
whole-model call refuses custom layers, so layers are annotated one by one, by two rules:

- Conv2D, DepthwiseConv2D, Dense, and a batch normalization that is the only consumer of a
  convolution, into which the converter folds it: always.
- Any other layer if all of its consumers compute in int8: layers that TFMOT supports (ReLU, Add,
  pooling, padding) by TFMOT's configuration, the others (LayerNormalization, GELU, attention) by
  quantizing their output only.

So a convolutional network is int8 from the first convolution to the logits, and a transformer has
int8 matrix products around a float residual stream, normalization and attention.
"""

from typing import Any

import tensorflow as tf
import tensorflow_model_optimization as tfmot

from trainers.compression import FineTune, Method
from trainers.config import CompressConfig
from trainers.keras import keras
from trainers.registry import compressors

_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
_KERNEL_LAYERS = (*_CONVOLUTIONS, keras.layers.Dense)
_INT8_ACTIVATIONS = ("linear", "relu", "softmax")  # supported by the Activation config of TFMOT


class QuantizeOutput(tfmot.quantization.keras.QuantizeConfig):
    """Quantizes only the output of a layer, by a moving average of its range."""

    def get_weights_and_quantizers(self, layer: keras.layers.Layer) -> list:
        """None: weights stay float."""
        return []

    def get_activations_and_quantizers(self, layer: keras.layers.Layer) -> list:
        """None: the output is quantized instead."""
        return []

    def set_quantize_weights(self, layer: keras.layers.Layer, quantize_weights: list) -> None:
        """Nothing to set."""
        del layer, quantize_weights  # AutoGraph cannot compile a body with only a docstring.

    def set_quantize_activations(
        self, layer: keras.layers.Layer, quantize_activations: list
    ) -> None:
        """Nothing to set."""
        del layer, quantize_activations

    def get_output_quantizers(self, layer: keras.layers.Layer) -> list:
        """One, asymmetric over the whole tensor."""
        return [
            tfmot.quantization.keras.quantizers.MovingAverageQuantizer(
                num_bits=8, per_axis=False, symmetric=False, narrow_range=False
            )
        ]

    def get_config(self) -> dict[str, Any]:
        """Empty: nothing to configure."""
        return {}


@keras.utils.register_keras_serializable(package="sightline")
class Join(keras.layers.Concatenate):
    """A concatenation that TFMOT does not recognize, so that every input keeps its range.

    TFMOT removes the ranges of the inputs of a concatenation. An average pooling then has different
    ranges before and after it, which the TFLite converter refuses.
    """


def quantization_aware(model: keras.Model, *, keep_zeros: bool = False) -> keras.Model:
    """A copy of `model` that simulates int8 in float arithmetic; its ranges are unset.

    Args:
      model: functional, as `build_model` or pruning returns it.
      keep_zeros: zero weights stay zero in training (prune-preserving).

    Returns:
      The copy, with float32 input and output; fine-tune it before use.
    """
    annotated = annotate(model)
    if keep_zeros:
        scheme = tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme()
    else:
        scheme = tfmot.quantization.keras.default_8bit.Default8BitQuantizeScheme()
    with tfmot.quantization.keras.quantize_scope({"QuantizeOutput": QuantizeOutput}):
        return tfmot.quantization.keras.quantize_apply(annotated, scheme)


def annotate(model: keras.Model) -> keras.Model:
    """A copy of `model` with TFMOT's annotations on its layers, by the two rules of this module."""
    readers = _readers(model)
    joins = {
        reader.name
        for layer in model.layers
        if isinstance(layer, keras.layers.AveragePooling2D)
        for reader in readers[layer.name]
        if isinstance(reader, keras.layers.Concatenate)
    }
    int8 = _native_names(model, readers)
    native = int8 - joins - _read_by_average(model, readers)
    folded = _folded_names(model, readers)

    def computes_in_int8(layer: keras.layers.Layer) -> bool:
        if isinstance(layer, keras.layers.Dropout):
            return all(computes_in_int8(reader) for reader in readers[layer.name])
        return layer.name in int8

    def wrap(layer: keras.layers.Layer) -> keras.layers.Layer:
        kind = Join if layer.name in joins else type(layer)
        copy = kind.from_config(layer.get_config())
        reading = readers[layer.name]
        always = isinstance(layer, _KERNEL_LAYERS) or layer.name in folded
        wanted = always or (reading and all(computes_in_int8(reader) for reader in reading))
        if not wanted:
            return copy
        config = None if layer.name in native else QuantizeOutput()
        return tfmot.quantization.keras.quantize_annotate_layer(copy, config)

    annotated = keras.models.clone_model(model, clone_function=wrap)
    annotated.set_weights(model.get_weights())
    return annotated


def _readers(model: keras.Model) -> dict[str, list[keras.layers.Layer]]:
    """Layer name -> the layers of `model` that consume its output."""
    readers: dict[str, list[keras.layers.Layer]] = {layer.name: [] for layer in model.layers}
    for layer in model.layers:
        for node in layer.inbound_nodes:
            for source in tf.nest.flatten(node.inbound_layers):
                readers[source.name].append(layer)
    return readers


def _read_by_average(model: keras.Model, readers: dict[str, list[keras.layers.Layer]]) -> set[str]:
    """Names of the max poolings whose output an average pooling consumes.

    TFMOT gives a max pooling no range. The converter then uses the range of the average pooling and
    leaves other convolutions that consume the max pooling in float.
    """
    average = keras.layers.AveragePooling2D
    return {
        layer.name
        for layer in model.layers
        if isinstance(layer, keras.layers.MaxPooling2D)
        and any(isinstance(reader, average) for reader in readers[layer.name])
    }


def _native_names(
    model: keras.Model, readers: dict[str, list[keras.layers.Layer]]
) -> frozenset[str]:
    """Names of the layers that TFMOT's default scheme computes in int8."""
    registry = tfmot.quantization.keras.default_8bit.Default8BitQuantizeRegistry()
    native = set()
    for layer in model.layers:
        if isinstance(layer, keras.layers.Activation):
            known = keras.activations.serialize(layer.activation) in _INT8_ACTIVATIONS
        else:
            known = registry.supports(layer)
        if known:
            native.add(layer.name)
    return frozenset(native) | _folded_names(model, readers)


def _folded_names(
    model: keras.Model, readers: dict[str, list[keras.layers.Layer]]
) -> frozenset[str]:
    """Names of the batch normalizations that are folded into the convolution before them."""
    only = [readers[layer.name] for layer in model.layers if isinstance(layer, _CONVOLUTIONS)]
    return frozenset(
        reading[0].name
        for reading in only
        if len(reading) == 1 and isinstance(reading[0], keras.layers.BatchNormalization)
    )


def _qat(model: keras.Model, fine_tune: FineTune, settings: CompressConfig) -> keras.Model:
    aware = quantization_aware(model)
    fine_tune(aware, epochs=settings.qat_epochs, learning_rate=settings.learning_rate)
    return aware


def _pqat(model: keras.Model, fine_tune: FineTune, settings: CompressConfig) -> keras.Model:
    aware = quantization_aware(model, keep_zeros=True)
    fine_tune(aware, epochs=settings.qat_epochs, learning_rate=settings.learning_rate)
    return aware


compressors.register("qat")(Method("qat", run=_qat, title="trained for quantization"))
compressors.register("pqat")(
    Method("pqat", start="prune", run=_pqat, title="pruned, then trained for quantization")
)
