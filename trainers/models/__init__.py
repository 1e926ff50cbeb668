"""Classification networks, one module per family; `build_model` builds them.

To add a model, write one file, `trainers/models/mynet.py`:

    @models.register("mynet")
    def mynet(images: tf.Tensor, *, width: int = 32) -> tf.Tensor:
        ...
        return features

A builder takes normalized images (B, H, W, 3) float32 with static H and W, and returns pooled
features (B, F); normalization, dropout and the `logits` layer are added here. A builder that
returns two tensors has a second head, for the logits of a teacher (see `distillation_heads`). Its
keyword-only arguments are the keys of `model.options`, each annotated with a plain type (`int`,
`float`, `bool`, `str` or `tuple`), which is checked. `functools.partial` registers one builder
under several names. Use layers that TFMOT can quantize (Conv2D, Dense, BatchNormalization, ReLU,
Add, pooling), and register custom layers without kernels as serializable; see
`trainers.compression.qat`. `tests/trainers/models` finds new names through the registry.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from trainers.config import Config, ConfigError
from trainers.keras import keras
from trainers.registry import models, nearest

__all__ = ["HEADS", "build_model", "distillation_heads", "embedding_model"]

#: Names of the classifier layers, which are replaced if the number of classes differs.
HEADS = ("logits", "logits_class", "logits_distill")


def build_model(config: Config, num_classes: int) -> keras.Model:
    """The network of `config.model`, with random weights.

    Args:
      config: `model` decides the network; `data.image_size`, `data.mean` and `data.std` its input.
      num_classes: N, the number of logits.

    Returns:
      A functional model from `images` (B, H, W, 3) float32 RGB in [0, 255] (uint8 is cast) to
      `logits` (B, N) float32, without softmax.

    Raises:
      ConfigError: an unknown option (names the nearest one), or one of a wrong type or size.
      UnknownNameError: no such model; names the nearest three.
    """
    from trainers.models.layers import (
        Normalize,  # Imported here, because the registry imports this package first.
    )

    if num_classes < 2:
        raise ConfigError(f"a classifier needs at least 2 classes, got {num_classes}")
    builder = models.get(config.model.name)
    options = _checked(builder, config.model.options, config.model.name)
    images = keras.Input((*config.data.image_size, 3), name="images", dtype="float32")
    x = Normalize(config.data.mean, config.data.std, name="normalize")(images)
    x = builder(x, **options)
    if isinstance(x, tuple):
        heads = [
            _head(part, config, num_classes, suffix)
            for part, suffix in zip(x, ("_class", "_distill"), strict=True)
        ]
        logits = keras.layers.Average(dtype="float32", name="logits")(heads)
    else:
        logits = _head(x, config, num_classes, "")
    return keras.Model(images, logits, name=config.model.name)


def distillation_heads(model: keras.Model) -> keras.Model | None:
    """`model` with its two heads as outputs; None if it has one head.

    Args:
      model: from `build_model`; the result shares its layers.

    Returns:
      A model from `images` to [`logits_class`, `logits_distill`], each (B, N) float32: the first is
      trained on labels, the second on a teacher; `logits` of `model` is their mean.
    """
    names = {layer.name for layer in model.layers}
    if "logits_distill" not in names:
        return None
    heads = [model.get_layer(name).output for name in ("logits_class", "logits_distill")]
    return keras.Model(model.input, heads, name=f"{model.name}_heads")


def embedding_model(model: keras.Model) -> keras.Model | None:
    """`model` with the features that its classifier takes as output; None without a classifier.

    Args:
      model: from `build_model`, or another with a layer of `HEADS`; the result shares its layers.

    Returns:
      A model from `images` to features (B, D); those of two heads are concatenated.
    """
    # Without the mean of two heads, which has no weights.
    heads = [layer for layer in model.layers if layer.name in HEADS and layer.weights]
    if not heads:
        return None
    features = [layer.input for layer in heads]
    joined = features[0] if len(features) == 1 else keras.layers.Concatenate()(features)
    return keras.Model(model.input, joined, name=f"{model.name}_embeddings")


def _head(features: Any, config: Config, num_classes: int, suffix: str) -> Any:
    """(B, N) logits of (B, F) features, by layers `dropout` and `logits` with `suffix`."""
    if config.model.dropout:
        features = keras.layers.Dropout(config.model.dropout, name=f"dropout{suffix}")(features)
    # The loss needs float32 also with mixed precision.
    return keras.layers.Dense(num_classes, dtype="float32", name=f"logits{suffix}")(features)


def _checked(builder: Callable[..., Any], options: Mapping[str, Any], model: str) -> dict[str, Any]:
    """`options` for `builder`, with JSON lists converted to tuples."""
    allowed = {
        name: parameter
        for name, parameter in inspect.signature(builder).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    checked: dict[str, Any] = {}
    for name, value in options.items():
        if name not in allowed:
            raise ConfigError(
                f"model {model!r} has no option {name!r}; {nearest(name, list(allowed))}"
            )
        kind = allowed[name].annotation
        if kind is tuple and isinstance(value, list):
            value = tuple(value)
        if kind is float and type(value) is int:
            value = float(value)
        if isinstance(kind, type) and type(value) is not kind:
            raise ConfigError(f"model.options.{name} takes {kind.__name__}, got {value!r}")
        checked[name] = value
    return checked
