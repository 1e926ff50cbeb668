"""Finds the layers of a model that explanations need.

found = intermediates(model)
maps = keras.Model(model.input, model.get_layer(found.last_map).output)
"""

from dataclasses import dataclass

import tensorflow as tf

from trainers.keras import keras
from trainers.models.layers import AttentionWeights


@dataclass(frozen=True)
class Intermediates:
    """Names of layers, for `model.get_layer(name).output`.

    Attributes:
      logits: (B, N), the output.
      features: (B, F), the input of the classifier, or of the first of two heads.
      last_map: (B, H, W, C), the last map before the features, for Grad-CAM; empty if the network
        ends with tokens.
      last_tokens: (B, T, D), the last tokens before the features; empty if the network ends with a
        map.
      map_size: (height, width) of `last_map`, or of the patches in `last_tokens`; there are
        `T - height * width` tokens before the patches.
      attention: (B, heads, T, T) each, the attention weights from the first block to the last, for
        attention rollout; all rows sum to 1.
    """

    logits: str
    features: str
    last_map: str
    last_tokens: str
    map_size: tuple[int, int]
    attention: tuple[str, ...]


def intermediates(model: keras.Model) -> Intermediates:
    """The layers of a model from `build_model` that explanations need.

    Raises:
      ValueError: the model has no `logits`, or no map and no tokens before them.
    """
    layers = {layer.name: layer for layer in model.layers}
    if "logits" not in layers:
        raise ValueError(
            f"model {model.name!r} has no layer `logits`; use a model from `build_model`"
        )
    head = layers.get("logits_class", layers["logits"])
    features = _source(head)
    while isinstance(features, keras.layers.Dropout):
        features = _source(features)
    last = features
    while len(last.output_shape) < 3:
        last = _source(last)
    attention = [layer.name for layer in model.layers if isinstance(layer, AttentionWeights)]
    is_map = len(last.output_shape) == 4
    return Intermediates(
        logits="logits",
        features=features.name,
        last_map=last.name if is_map else "",
        last_tokens="" if is_map else last.name,
        map_size=tuple((last if is_map else _last_map(last)).output_shape[1:3]),
        attention=tuple(attention),
    )


def _last_map(tokens: keras.layers.Layer) -> keras.layers.Layer:
    """The map from which `tokens` were made; first inputs of layers are the shortcuts."""
    layer = tokens
    while len(layer.output_shape) != 4:
        layer = _source(layer)
    return layer


def _source(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer of the first input of `layer`.

    Raises:
      ValueError: it has no input layer.
    """
    sources = tf.nest.flatten(layer.inbound_nodes[0].inbound_layers)
    if not sources:
        raise ValueError(f"found no map and no tokens before layer {layer.name!r}")
    return sources[0]
