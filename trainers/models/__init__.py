"""Classification networks, one file a family; `build_model` is the way in.

How to add a model in one file, `trainers/models/mynet.py`:

    @models.register("mynet")
    def mynet(images: tf.Tensor, *, width: int = 32) -> tf.Tensor:
        ...
        return features

A builder gets normalized images (B, H, W, 3) float32 with H and W static, and returns pooled
features (B, F); normalization, dropout and the `logits` layer are put around it here. A builder
that returns two of them has a second head, for a teacher's answers (see `distillation_heads`). Its
keyword-only arguments are what `model.options` takes, and each carries a plain type (`int`,
`float`, `bool`, `str` or `tuple`), which is checked. One builder may serve several names through
`functools.partial`. Use layers that TFMOT can quantise (Conv2D, Dense, BatchNormalization, ReLU,
Add, pooling) or, for a layer of your own without a kernel, register it as serialisable; see
`trainers.compression.qat`. `tests/trainers/models` finds the new names through the registry.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from trainers.config import Config, ConfigError
from trainers.keras import keras
from trainers.registry import models, nearest

__all__ = ["HEADS", "build_model", "distillation_heads"]

#: Classifier layers: what a model ends in, and is replaced where the class count differs.
HEADS = ("logits", "logits_class", "logits_distill")


def build_model(config: Config, num_classes: int) -> keras.Model:
    """The network that `config.model` names, with fresh weights.

    Args:
      config: `model` names the network; `data.image_size`, `data.mean` and `data.std` shape its
        input.
      num_classes: N, the number of logits.

    Returns:
      A functional model from `images` (B, H, W, 3) float32 RGB in [0, 255] (uint8 is cast) to
      `logits` (B, N) float32, without softmax.

    Raises:
      ConfigError: an option that the builder lacks (the nearest is named) or one of a wrong type
        or size.
      UnknownNameError: no such model; the message names the nearest three.
    """
    from trainers.models.layers import Normalize  # The registry imports this package first.

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
    """`model` with its two heads for outputs, or None where it has one.

    Args:
      model: as `build_model` returns it; the result shares its layers.

    Returns:
      From `images` to a list of `logits_class` and `logits_distill`, each (B, N) float32: the
      first learns from labels, the second from a teacher; `logits` of `model` is their mean.
    """
    names = {layer.name for layer in model.layers}
    if "logits_distill" not in names:
        return None
    heads = [model.get_layer(name).output for name in ("logits_class", "logits_distill")]
    return keras.Model(model.input, heads, name=f"{model.name}_heads")


def _head(features: Any, config: Config, num_classes: int, suffix: str) -> Any:
    """(B, F) to (B, N) logits, in layers `dropout` and `logits` with `suffix`."""
    if config.model.dropout:
        features = keras.layers.Dropout(config.model.dropout, name=f"dropout{suffix}")(features)
    # Under mixed precision the loss still needs float32.
    return keras.layers.Dense(num_classes, dtype="float32", name=f"logits{suffix}")(features)


def _checked(builder: Callable[..., Any], options: Mapping[str, Any], model: str) -> dict[str, Any]:
    """`options` for `builder`, with JSON lists made tuples."""
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
