"""Which layers of a model an explanation looks at, found in its graph.

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
      logits: (B, N), the answer.
      features: (B, F), what the classifier reads; of two heads, what the first reads.
      last_map: (B, H, W, C), the last map in front of the features, for Grad-CAM; empty where the
        network ends in tokens.
      last_tokens: (B, T, D), the last tokens in front of the features; empty where it ends in a
        map.
      map_size: (height, width) of `last_map`, or of the patches among `last_tokens`; the tokens in
        front of the patches are `T - height * width`.
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
    """The layers of `model`, as `build_model` returns it, that explanations read.

    Raises:
      ValueError: the model has no `logits`, or neither map nor tokens in front of them.
    """
    layers = {layer.name: layer for layer in model.layers}
    if "logits" not in layers:
        raise ValueError(
            f"model {model.name!r} has no layer `logits`; explain what `build_model` returns"
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
    """The map that became `tokens`: the way of first inputs is that of the shortcuts."""
    layer = tokens
    while len(layer.output_shape) != 4:
        layer = _source(layer)
    return layer


def _source(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The first layer that `layer` reads.

    Raises:
      ValueError: it reads none.
    """
    sources = tf.nest.flatten(layer.inbound_nodes[0].inbound_layers)
    if not sources:
        raise ValueError(f"found neither a map nor tokens in front of layer {layer.name!r}")
    return sources[0]
