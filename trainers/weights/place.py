"""Puts translated weights into a model, or says what is in the way."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from trainers.config import Config
from trainers.keras import keras
from trainers.models import HEADS
from trainers.weights.folding import fold_normalization
from trainers.weights.report import Report, Row, WeightsError, listing, shape_text
from trainers.weights.rules import Facts, Piece, Translation
from trainers.weights.slots import Slot, slot_name, slots
from trainers.weights.vit_names import grid_of

#: What a network may have or not: in words, part of the layer's name, the weight, and what to set
#: for a file with it and for one without.
_OPTIONAL = (
    (
        "convolution biases",
        "_conv",
        "bias",
        ("model.options.bias=true", "model.options.bias=false"),
    ),
    (
        "a scale in each branch",
        "_scale",
        "gamma",
        ("model.options.layer_scale=1e-5", "model.options.layer_scale=0"),
    ),
    (
        "a class token",
        "class_token",
        "token",
        ("model.options.pool=token", "model.options.pool=mean"),
    ),
    (
        "a distillation token",
        "distill_token",
        "token",
        ("model.name=deit_... of that size", "model.name=vit_... of that size"),
    ),
)


def place(model: keras.Model, translation: Translation, config: Config, *, source: str) -> Report:
    """Assigns every weight of `model`, or none.

    Args:
      model: gets the values.
      translation: of the file.
      config: of the run; `data.mean` and `data.std` decide what is folded into the first kernel.
      source: the file, for messages.

    Raises:
      WeightsError: names every tensor and weight left over, and what to set.
    """
    variables, facts = slots(model), translation.facts
    pieces = {(piece.layer, piece.weight): piece for piece in translation.pieces}
    pieces, replaced = _without_other_heads(pieces, variables, every=facts.other_classes)
    pieces = {slot: _fitted(piece, slot, model, variables) for slot, piece in pieces.items()}
    _check(model, translation, pieces, replaced, source=source, name=config.model.name)
    pieces = {slot: _same_variance(piece, model, facts) for slot, piece in pieces.items()}
    pieces, notes = fold_normalization(model, pieces, facts, config)
    for slot, piece in pieces.items():
        variables[slot].assign(piece.value)
    rows = _rows(variables, pieces, replaced, translation)
    notes = [*_head_notes(variables, pieces, replaced), *facts.notes, *notes]
    return Report(f"{source} holds {facts.architecture}, {facts.naming} names", rows, tuple(notes))


def _without_other_heads(
    pieces: Mapping[Slot, Piece], variables: Mapping[Slot, Any], *, every: bool
) -> tuple[dict[Slot, Piece], dict[Slot, Piece]]:
    """The pieces to place, and those of classifiers for other classes.

    Args:
      pieces: by slot.
      variables: of the model.
      every: the classes are known to be others; else their number shows it.
    """
    replaced = {}
    for head in HEADS:
        slot = (head, "kernel")
        if slot not in pieces or slot not in variables:
            continue
        if (
            every
            or pieces[slot].value.shape[-1] != variables[slot].shape[-1]
            or (
                # Another width too, as VGG's, whose hidden layers we do not build.
                pieces[slot].value.shape[0] != variables[slot].shape[0]
            )
        ):
            replaced.update({key: value for key, value in pieces.items() if key[0] == head})
    kept = {slot: piece for slot, piece in pieces.items() if slot not in replaced}
    return kept, replaced


def _fitted(piece: Piece, slot: Slot, model: keras.Model, variables: Mapping[Slot, Any]) -> Piece:
    """A table of positions resized to the model's grid, another piece as it is."""
    if slot != ("positions", "table") or slot not in variables:
        return piece
    value = piece.value.reshape(1, *piece.value.shape[-2:])
    height, width = model.get_layer("patches").output_shape[1:3]
    tokens = int(variables[slot].shape[1]) - height * width
    try:
        side, leading = grid_of(value.shape[1], tokens)
    except ValueError:
        return piece
    action = piece.action
    own, grid = value[:, :leading], value[:, leading:]
    if (side, side) != (height, width):
        grid = resample(grid, (side, side), (height, width))
        action = f"interpolated {side}x{side} to {height}x{width}"
    if leading < tokens:
        own = np.zeros((1, tokens, value.shape[-1]), np.float32)
        action += ", zero for the class token"
    return replace(piece, value=np.concatenate([own, grid], axis=1), action=action)


def resample(table: np.ndarray, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """Positions of a grid on another one, bicubic with antialiasing, as timm does.

    Args:
      table: (1, h*w, D) row by row, without the tokens'.
      old: (h, w).
      new: (height, width).

    Returns:
      (1, height*width, D) float32.
    """
    image = table.reshape(1, *old, table.shape[-1]).astype(np.float32)
    resized = tf.image.resize(image, new, method="bicubic", antialias=True)
    return resized.numpy().reshape(1, new[0] * new[1], -1)


def _same_variance(piece: Piece, model: keras.Model, facts: Facts) -> Piece:
    """The moving variance changed by what their normalization adds more than ours."""
    if piece.weight != "moving_variance" or facts.epsilon is None:
        return piece
    more = facts.epsilon - model.get_layer(piece.layer).epsilon
    if abs(more) < 1e-12:
        return piece
    return replace(piece, value=piece.value + np.float32(more), action=f"{more:+.0e} for epsilon")


def _check(
    model: keras.Model,
    translation: Translation,
    pieces: Mapping[Slot, Piece],
    replaced: Mapping[Slot, Piece],
    *,
    source: str,
    name: str,
) -> None:
    variables, facts = slots(model), translation.facts
    left = [_named(piece) for slot, piece in pieces.items() if slot not in variables]
    left = sorted({*left, *translation.left})
    heads = {slot for slot in variables if slot[0] in HEADS}
    absent = [slot for slot in variables if slot not in pieces and slot not in replaced]
    missing = [
        f"{slot_name(slot)} {shape_text(variables[slot].shape)}"
        for slot in absent
        if slot not in heads
    ]
    other = [
        f"{_named(piece)} for {slot_name(slot)} {shape_text(variables[slot].shape)}"
        for slot, piece in pieces.items()
        if slot in variables and piece.value.shape != tuple(variables[slot].shape)
    ]
    problems = [*translation.problems, *_contradictions(model, facts, fits=not other)]
    if not (left or missing or other or problems):
        return
    raise WeightsError(
        "\n".join(
            [
                f"{source} holds {facts.architecture}, {facts.naming} names; "
                f"it does not fit model.name={name}",
                *problems,
                *_hints(pieces, absent, variables),
                *listing("tensors of the file without a place in the model", left),
                *listing("weights of the model that the file does not have", missing),
                *listing("tensors of another shape", other),
            ]
        )
    )


def _named(piece: Piece) -> str:
    return f"{piece.source} {shape_text(piece.value.shape)}"


def _contradictions(model: keras.Model, facts: Facts, *, fits: bool) -> list[str]:
    """What shapes do not show: attention heads, and where a bottleneck strides."""
    found = []
    heads = {layer.heads for layer in model.layers if hasattr(layer, "heads")}
    if facts.heads and heads and heads != {facts.heads}:
        found.append(
            f"its attention has {facts.heads} heads, the model {max(heads)}: set "
            f"model.options.heads={facts.heads}"
        )
    ours = _variant(model)
    if fits and facts.variant and ours and ours != facts.variant:
        found.append(
            f"its bottlenecks stride as variant {facts.variant}, the model's as {ours}: set "
            f"model.options.variant={facts.variant}"
        )
    return found


def _variant(model: keras.Model) -> str:
    """`v1`, `v1.5` or `d` of a residual network of bottlenecks, else empty."""
    layers = {layer.name: layer for layer in model.layers}
    if "stage2_block1_3_conv" not in layers:
        return ""
    if "stem_1_conv" in layers:
        return "d"
    return "v1" if max(layers["stage2_block1_1_conv"].strides) > 1 else "v1.5"


def _hints(given: Iterable[Slot], absent: list[Slot], variables: Mapping[Slot, Any]) -> list[str]:
    """Options that would make some of it fit."""
    extra = [slot for slot in given if slot not in variables]
    found = []
    for what, part, weight, (with_it, without) in _OPTIONAL:
        if any(part in slot[0] and slot[1] == weight for slot in extra):
            found.append(f"the file has {what}, the model has not: set {with_it}")
        if any(part in slot[0] and slot[1] == weight for slot in absent):
            found.append(f"the model has {what}, the file has not: set {without}")
    return found


def _head_notes(
    variables: Mapping[Slot, Any], pieces: Mapping[Slot, Piece], replaced: Mapping[Slot, Piece]
) -> list[str]:
    notes = []
    for slot in variables:
        if slot[0] not in HEADS or slot[1] != "kernel" or slot in pieces:
            continue
        ours = variables[slot].shape[-1]
        if slot in replaced:
            theirs = replaced[slot].value.shape[-1]
            other = " other" if theirs == ours else ""
            notes.append(
                f"{slot[0]} starts fresh: {theirs}{other} classes in the file, {ours} here"
            )
        else:
            notes.append(f"{slot[0]} starts fresh: the file has no classifier for it")
    return notes


def _rows(
    variables: Mapping[Slot, Any],
    pieces: Mapping[Slot, Piece],
    replaced: Mapping[Slot, Piece],
    translation: Translation,
) -> tuple[Row, ...]:
    rows = []
    for slot, variable in variables.items():
        shape = tuple(variable.shape)
        if slot in pieces:
            row = Row(pieces[slot].source, slot_name(slot), shape, pieces[slot].action)
        elif slot in replaced:
            was = shape_text(replaced[slot].value.shape)
            action = f"head replaced, {was} in the file"
            row = Row(replaced[slot].source, slot_name(slot), shape, action)
        else:
            row = Row("", slot_name(slot), shape, "fresh")
        rows.append(row)
    unused = [Row(name, "", (), f"not used: {why}") for name, why in translation.ignored.items()]
    return (*rows, *unused)
