"""From a foreign library's tensor names to layers of ours, one rule a kind of layer."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Piece:
    """A value for one weight of ours, in our layout.

    Attributes:
      source: the tensor it comes from.
      layer: our layer's name.
      weight: `kernel`, `bias`, `gamma`, `beta`, `moving_mean`, `moving_variance`, `token`, `table`.
      value: the array.
      action: what was done to it, for the report.
    """

    source: str
    layer: str
    weight: str
    value: np.ndarray
    action: str = "copied"


@dataclass(frozen=True)
class Facts:
    """What is known of where a file's weights come from.

    Attributes:
      family: `vit`, `resnet` or a name of `keras.applications`.
      naming: the library whose names it has.
      architecture: in words, with the `model.name` that fits.
      mean: of the images it was trained with, on the [0, 255] scale, RGB; None where unknown.
      std: their deviation, likewise.
      bgr: its first kernel takes blue, green, red.
      epsilon: of its batch normalization; None where it has none.
      heads: of attention; 0 where unknown.
      variant: where a residual network's bottlenecks stride; empty where unknown.
      notes: for the report.
      other_classes: its classifier is for other classes than the run's, however many.
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
    """A file in our words.

    Attributes:
      facts: where it comes from.
      pieces: values for our weights.
      ignored: tensor -> why it is not needed.
      left: tensors that no rule knows.
      problems: why it does not fit, beyond names and shapes.
    """

    facts: Facts
    pieces: list[Piece]
    ignored: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """Tensors that start with `base` belong to `layer`.

    Attributes:
      base: a pattern for the whole name before the last separator, or for all of it (kinds `token`
        and `table`).
      layer: our layer, with `{0}`, `{1}` for the pattern's groups.
      kind: a key of `_LEAVES`, or `qkv`.
      shifts: added to the groups, which are numbers: 1 where they count from 0 there.
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
#: Kind of layer -> the tensor's last word -> (our weight, the change of layout, its name).
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
    # (D, heads, D / heads) there, and (heads, D / heads, D) after attention.
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
) -> tuple[list[Piece], list[str]]:
    """Values for our weights, and the names of tensors that no rule takes.

    Args:
      tensors: of the file.
      rules: the first that matches decides.
      short: a tensor's name without what wraps all of them, e.g. `module.`.
    """
    compiled = [(re.compile(rule.base), rule) for rule in rules]
    pieces: list[Piece] = []
    left: list[str] = []
    for name, value in tensors.items():
        found = _pieces_of(name, short(name), value, compiled)
        pieces += found
        left += [] if found else [name]
    return pieces, left


def _pieces_of(
    name: str, short: str, value: np.ndarray, rules: list[tuple[re.Pattern[str], Rule]]
) -> list[Piece]:
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
            return [Piece(name, layer, _WHOLE[rule.kind], value)]
        if rule.kind == "qkv":
            return _split(name, layer, leaf, value)
        if leaf in _LEAVES[rule.kind]:
            weight, change, action = _LEAVES[rule.kind][leaf]
            return [Piece(name, layer, weight, np.ascontiguousarray(change(value)), action)]
    return []


def _split(name: str, layer: str, leaf: str, value: np.ndarray) -> list[Piece]:
    """Query, key and value, which lie one above the other in one tensor."""
    if len(value) % 3:
        return []
    weight = "kernel" if leaf in ("weight", "in_proj_weight") else "bias"
    thirds = np.split(value, 3)
    parts = zip(("query", "key", "value"), thirds, strict=True)
    return [
        Piece(name, f"{layer}_{part}", weight, np.ascontiguousarray(third.T), f"split: {part}")
        for part, third in parts
    ]
