"""Rules that map tensor names of other libraries to our layers."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class TensorPiece:
    """A value for one of our weights, in our layout.

    Attributes:
      source: name of the tensor in the file.
      layer: name of our layer.
      weight: `kernel`, `bias`, `gamma`, `beta`, `moving_mean`, `moving_variance`, `token`, `table`.
      value: the array.
      action: conversion of the value, for the report.
    """

    source: str
    layer: str
    weight: str
    value: np.ndarray
    action: str = "copied"


@dataclass(frozen=True)
class WeightsFacts:
    """Facts about the weights in a file.

    Attributes:
      family: `vit`, `resnet` or a name of `keras.applications`.
      naming: the library with these names.
      architecture: text, with the matching `model.name`.
      mean: mean of the training images in [0, 255], RGB; None if unknown.
      std: standard deviation in [0, 255], RGB; None if unknown.
      bgr: whether the first kernel expects blue, green, red.
      epsilon: epsilon of batch normalization; None without batch normalization.
      heads: number of attention heads; 0 if unknown.
      variant: variant of a residual network's bottlenecks; empty if unknown.
      notes: notes for the report.
      other_classes: whether the classifier is for other classes, even if their number is equal.
    """

    family: str
    naming: str
    architecture: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    bgr: bool = False
    epsilon: float | None = None
    heads: int = 0
    variant: str = ""
    notes: tuple[str, ...] = ()
    other_classes: bool = False


@dataclass(frozen=True)
class Translation:
    """The content of a file in terms of our layers.

    Attributes:
      facts: facts about the weights.
      pieces: values for our weights.
      ignored: unused tensor -> reason.
      left: tensors without a rule.
      problems: reasons why it does not fit, besides names and shapes.
    """

    facts: WeightsFacts
    pieces: list[TensorPiece]
    ignored: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """A mapping of tensors with the prefix `base` to `layer`.

    Attributes:
      base: a pattern for the name before the last separator, or for the whole name (kinds `token`
        and `table`).
      layer: name of our layer, with `{0}`, `{1}` for groups of the pattern.
      kind: a key of `_LEAVES`, or `qkv`.
      shifts: values added to the numbers in groups: 1 if the library counts from 0.
    """

    base: str
    layer: str
    kind: str
    shifts: tuple[int, ...] = ()


Leaf = tuple[str, Callable[[np.ndarray], np.ndarray], str]


def _same(value: np.ndarray) -> np.ndarray:
    return value


_COPIED = "copied"
_BIAS: Leaf = ("bias", lambda value: value.reshape(-1), _COPIED)
#: Kind of layer -> last word of the tensor name -> (our weight, conversion, name of the
#: conversion).
_LEAVES: dict[str, dict[str, Leaf]] = {
    "conv": {
        "weight": ("kernel", lambda value: value.transpose(2, 3, 1, 0), "transposed OIHW to HWIO"),
        "kernel": ("kernel", _same, _COPIED),
        "bias": _BIAS,
    },
    "depthwise": {
        "weight": (
            "depthwise_kernel",
            lambda value: value.transpose(2, 3, 0, 1),
            "transposed CIHW to HWCI",
        ),
    },
    "dense": {
        "weight": ("kernel", np.transpose, "transposed"),
        "kernel": ("kernel", _same, _COPIED),
        "bias": _BIAS,
    },
    # (D, heads, D / heads) in the file, and (heads, D / heads, D) after attention.
    "into_heads": {
        "kernel": ("kernel", lambda value: value.reshape(len(value), -1), "heads joined"),
        "bias": _BIAS,
    },
    "from_heads": {
        "kernel": ("kernel", lambda value: value.reshape(-1, value.shape[-1]), "heads joined"),
        "bias": _BIAS,
    },
    "norm": {
        "weight": ("gamma", _same, _COPIED),
        "scale": ("gamma", _same, _COPIED),
        "bias": ("beta", _same, _COPIED),
        "running_mean": ("moving_mean", _same, _COPIED),
        "running_var": ("moving_variance", _same, _COPIED),
    },
    "scale": {"gamma": ("gamma", _same, _COPIED), "lambda1": ("gamma", _same, _COPIED)},
}
_WHOLE = {"token": "token", "table": "table", "gamma": "gamma"}


def apply_rules(
    tensors: Mapping[str, np.ndarray], rules: Iterable[Rule], *, short: Callable[[str], str]
) -> tuple[list[TensorPiece], list[str]]:
    """Values for our weights, and the names of tensors without a rule.

    Args:
      tensors: name -> tensor of the file.
      rules: the rules; the first match decides.
      short: tensor name -> name without a common prefix such as `module.`.
    """
    compiled = [(re.compile(rule.base), rule) for rule in rules]
    pieces: list[TensorPiece] = []
    left: list[str] = []
    for name, value in tensors.items():
        found = _pieces_of(name, short(name), value, compiled)
        pieces += found
        left += [] if found else [name]
    return pieces, left


def _pieces_of(
    name: str, short: str, value: np.ndarray, rules: list[tuple[re.Pattern[str], Rule]]
) -> list[TensorPiece]:
    base, leaf = re.fullmatch(r"(?:(.*)[./])?([^./]*)", short).groups()  # type: ignore[union-attr]
    for pattern, rule in rules:
        whole = rule.kind in _WHOLE
        match = pattern.fullmatch(short if whole else base or "")
        if match is None:
            continue
        shifts = (*rule.shifts, *[0] * len(match.groups()))
        numbers = [int(group) + by for group, by in zip(match.groups(), shifts, strict=False)]
        layer = rule.layer.format(*numbers)
        if whole:
            return [TensorPiece(name, layer, _WHOLE[rule.kind], value)]
        if rule.kind == "qkv":
            return _split(name, layer, leaf, value)
        if leaf in _LEAVES[rule.kind]:
            weight, change, action = _LEAVES[rule.kind][leaf]
            return [TensorPiece(name, layer, weight, np.ascontiguousarray(change(value)), action)]
    return []


def _split(name: str, layer: str, leaf: str, value: np.ndarray) -> list[TensorPiece]:
    """Query, key and value from one stacked tensor."""
    if len(value) % 3:
        return []
    weight = "kernel" if leaf in ("weight", "in_proj_weight") else "bias"
    thirds = np.split(value, 3)
    parts = zip(("query", "key", "value"), thirds, strict=True)
    return [
        TensorPiece(
            name, f"{layer}_{part}", weight, np.ascontiguousarray(third.T), f"split: {part}"
        )
        for part, third in parts
    ]
