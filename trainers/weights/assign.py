"""Assigns translated weights to a model, or reports why they do not fit."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from trainers.config import Config
from trainers.keras import keras
from trainers.models import HEADS
from trainers.weights.folding import fold_normalization
from trainers.weights.report import WeightsError, WeightsReport, WeightsRow, listing, shape_text
from trainers.weights.rules import TensorPiece, Translation, WeightsFacts
from trainers.weights.slots import Slot, slot_name, slots
from trainers.weights.vit_names import grid_of

#: Optional parts of networks: text, part of the layer name, weight, and the settings for a file
#: with and without the part.
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
        ("model.name=deit_... of the same size", "model.name=vit_... of the same size"),
    ),
)


def assign(
    model: keras.Model, translation: Translation, config: Config, *, source: str
) -> WeightsReport:
    """Assigns all weights of `model`, or none on an error.

    Args:
      model: the model to fill.
      translation: the translated file.
      config: configuration of the run; `data.mean` and `data.std` decide the folding.
      source: the file, for messages.

    Raises:
      WeightsError: weights do not fit; lists all unmatched tensors and weights, and settings to
        use.
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
    return WeightsReport(
        f"{source} holds {facts.architecture}, {facts.naming} names", rows, tuple(notes)
    )


def _without_other_heads(
    pieces: Mapping[Slot, TensorPiece], variables: Mapping[Slot, Any], *, every: bool
) -> tuple[dict[Slot, TensorPiece], dict[Slot, TensorPiece]]:
    """(pieces to assign, pieces of classifiers for other classes).

    Args:
      pieces: slot -> piece.
      variables: slot -> variable of the model.
      every: whether the classes differ; otherwise their number decides.
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
                # The width may also differ, as for VGG, whose hidden layers are not built here.
                pieces[slot].value.shape[0] != variables[slot].shape[0]
            )
        ):
            replaced.update({key: value for key, value in pieces.items() if key[0] == head})
    kept = {slot: piece for slot, piece in pieces.items() if slot not in replaced}
    return kept, replaced


def _fitted(
    piece: TensorPiece, slot: Slot, model: keras.Model, variables: Mapping[Slot, Any]
) -> TensorPiece:
    """A table of positions, resized to the grid of the model; other pieces are unchanged."""
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
    """A table of positions, resized to another grid, bicubic with antialiasing, as in timm.

    Args:
      table: (1, h*w, D) in row-major order, without positions of tokens.
      old: (h, w).
      new: (height, width).

    Returns:
      (1, height*width, D) float32.
    """
    image = table.reshape(1, *old, table.shape[-1]).astype(np.float32)
    resized = tf.image.resize(image, new, method="bicubic", antialias=True)
    return resized.numpy().reshape(1, new[0] * new[1], -1)


def _same_variance(piece: TensorPiece, model: keras.Model, facts: WeightsFacts) -> TensorPiece:
    """The moving variance, adjusted for a different epsilon of the normalization."""
    if piece.weight != "moving_variance" or facts.epsilon is None:
        return piece
    more = facts.epsilon - model.get_layer(piece.layer).epsilon
    if abs(more) < 1e-12:
        return piece
    return replace(piece, value=piece.value + np.float32(more), action=f"{more:+.0e} for epsilon")


def _check(
    model: keras.Model,
    translation: Translation,
    pieces: Mapping[Slot, TensorPiece],
    replaced: Mapping[Slot, TensorPiece],
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
                *listing("tensors of the file that the model lacks", left),
                *listing("weights of the model that the file lacks", missing),
                *listing("tensors with a different shape", other),
            ]
        )
    )


def _named(piece: TensorPiece) -> str:
    return f"{piece.source} {shape_text(piece.value.shape)}"


def _contradictions(model: keras.Model, facts: WeightsFacts, *, fits: bool) -> list[str]:
    """Contradictions that shapes do not show: attention heads, and strides of bottlenecks."""
    found = []
    heads = {layer.heads for layer in model.layers if hasattr(layer, "heads")}
    if facts.heads and heads and heads != {facts.heads}:
        found.append(
            f"its attention has {facts.heads} heads, but the model {max(heads)}: set "
            f"model.options.heads={facts.heads}"
        )
    ours = _variant(model)
    if fits and facts.variant and ours and ours != facts.variant:
        found.append(
            f"its bottlenecks have the strides of variant {facts.variant}, the model those of "
            f"{ours}: set model.options.variant={facts.variant}"
        )
    return found


def _variant(model: keras.Model) -> str:
    """The variant of a network with bottlenecks: `v1`, `v1.5` or `d`; empty for others."""
    layers = {layer.name: layer for layer in model.layers}
    if "stage2_block1_3_conv" not in layers:
        return ""
    if "stem_1_conv" in layers:
        return "d"
    return "v1" if max(layers["stage2_block1_1_conv"].strides) > 1 else "v1.5"


def _hints(given: Iterable[Slot], absent: list[Slot], variables: Mapping[Slot, Any]) -> list[str]:
    """Options with which more weights would fit."""
    extra = [slot for slot in given if slot not in variables]
    found = []
    for what, part, weight, (with_it, without) in _OPTIONAL:
        if any(part in slot[0] and slot[1] == weight for slot in extra):
            found.append(f"the file has {what}, the model does not: set {with_it}")
        if any(part in slot[0] and slot[1] == weight for slot in absent):
            found.append(f"the model has {what}, the file does not: set {without}")
    return found


def _head_notes(
    variables: Mapping[Slot, Any],
    pieces: Mapping[Slot, TensorPiece],
    replaced: Mapping[Slot, TensorPiece],
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
                f"{slot[0]} has random weights: {theirs}{other} classes in the file, {ours} here"
            )
        else:
            notes.append(f"{slot[0]} has random weights: the file has no classifier for it")
    return notes


def _rows(
    variables: Mapping[Slot, Any],
    pieces: Mapping[Slot, TensorPiece],
    replaced: Mapping[Slot, TensorPiece],
    translation: Translation,
) -> tuple[WeightsRow, ...]:
    rows = []
    for slot, variable in variables.items():
        shape = tuple(variable.shape)
        if slot in pieces:
            row = WeightsRow(pieces[slot].source, slot_name(slot), shape, pieces[slot].action)
        elif slot in replaced:
            was = shape_text(replaced[slot].value.shape)
            action = f"head replaced, {was} in the file"
            row = WeightsRow(replaced[slot].source, slot_name(slot), shape, action)
        else:
            row = WeightsRow("", slot_name(slot), shape, "fresh")
        rows.append(row)
    unused = [
        WeightsRow(name, "", (), f"not used: {why}") for name, why in translation.ignored.items()
    ]
    return (*rows, *unused)
