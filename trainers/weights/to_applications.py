"""Converts our ResNets to `keras.applications`, for tools that support only these."""

import re

import numpy as np

from trainers.config import Config
from trainers.keras import keras
from trainers.weights.report import WeightsError
from trainers.weights.resnet_names import CAFFE_MEAN, KERAS_EPSILON, keras_to_ours
from trainers.weights.slots import slots, weight_name


def export_to_applications(model: keras.Model, config: Config) -> keras.Model:
    """A `keras.applications` ResNet with the same outputs as `model`.

    Args:
      model: `resnet50`, `resnet101` or `resnet152` with v1 strides and biases
        (`model.options.variant=v1 model.options.bias=true`).
      config: configuration of `model`; `data.mean` and `data.std` are folded into the first kernel.

    Returns:
      A model from (B, H, W, 3) images after `preprocess_input` to (B, N) logits.

    Raises:
      WeightsError: `model` is not such a network, or `data.mean` differs from `preprocess_input`,
        which cannot be folded because of zero padding.
    """
    depth = re.fullmatch(r"resnet(50|101|152)", config.model.name)
    options = config.model.options
    if depth is None or options.get("variant") != "v1" or not options.get("bias"):
        raise WeightsError(
            "only resnet50, resnet101 and resnet152 with model.options.variant=v1 and "
            f"model.options.bias=true are in keras.applications, got {config.model}"
        )
    if not np.allclose(config.data.mean, CAFFE_MEAN, atol=0.05):
        raise WeightsError(
            f"keras.applications subtracts {CAFFE_MEAN}, got data.mean={config.data.mean}; train "
            "with that mean"
        )
    variables = slots(model)
    theirs = getattr(keras.applications, f"ResNet{depth[1]}")(
        weights=None,
        input_shape=model.input_shape[1:],
        classes=variables["logits", "bias"].shape[0],
        classifier_activation=None,
    )
    for layer in theirs.layers:
        for variable in layer.weights:
            dense = isinstance(layer, keras.layers.Dense)
            slot = (keras_to_ours(layer.name, dense=dense), weight_name(variable))
            variable.assign(_for_theirs(variables[slot].numpy(), slot, model, config))
    return theirs


def _for_theirs(
    value: np.ndarray, slot: tuple[str, str], model: keras.Model, config: Config
) -> np.ndarray:
    if slot == ("stem_conv", "kernel"):
        scale = (1.0 / np.array(config.data.std))[:, None]
        return (value * scale)[:, :, ::-1].astype(np.float32)
    if slot[1] == "moving_variance":
        return value + np.float32(model.get_layer(slot[0]).epsilon - KERAS_EPSILON)
    return value
