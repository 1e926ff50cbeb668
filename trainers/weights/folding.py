"""Folds a different normalization of images exactly into the first kernel.

A kernel for (x - m) / s that gets (x - m') / s' is multiplied by s' / s per channel; the difference
of the means, (m' - m) / s, is added to the bias as a constant. With zero padding, the constant
differs at the border, so the bias of a padded layer is unchanged and the report shows the setting
to use.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from trainers.config import Config
from trainers.keras import keras
from trainers.weights.report import number_list
from trainers.weights.rules import TensorPiece, WeightsFacts
from trainers.weights.slots import Slot

# Differences below 0.05 of 255 are negligible.
_CLOSE = 0.05


def fold_normalization(
    model: keras.Model, pieces: Mapping[Slot, TensorPiece], facts: WeightsFacts, config: Config
) -> tuple[dict[Slot, TensorPiece], list[str]]:
    """The pieces with the first kernel adapted to the normalization of the model, and notes.

    Args:
      model: the model, whose first convolution follows the normalization.
      pieces: slot -> piece, in the shapes of the model.
      facts: the expected normalization; if unknown, nothing is folded and a note is added.
      config: `data.mean` and `data.std` are the normalization of the model.
    """
    folded = dict(pieces)
    layer = _first_convolution(model)
    slot = (layer.name, "kernel") if layer is not None else ("", "")
    if layer is None or slot not in pieces:
        return folded, []
    if facts.mean is None or facts.std is None:
        return folded, [_unknown(config)]
    kernel, actions, notes = pieces[slot], [], []
    value = kernel.value
    if facts.bgr:
        value, actions = value[:, :, ::-1], ["blue, green, red reversed"]
    std, shift = np.array(config.data.std), np.array(config.data.mean) - np.array(facts.mean)
    if np.abs(shift).max() > _CLOSE:
        bias = (layer.name, "bias")
        if layer.padding == "valid" and layer.name == "patches" and bias in pieces:
            folded[bias] = _shifted(pieces[bias], value, shift / np.array(facts.std))
            notes.append(
                f"data.mean differs from the file's {number_list(facts.mean)}: folded into "
                "patches/bias"
            )
        else:
            notes.append(_padded(facts, shift))
    if np.abs(std / np.array(facts.std) - 1.0).max() > 1e-6:
        scale = (std / np.array(facts.std))[:, None]
        value, actions = value * scale.astype(np.float32), [*actions, "scaled"]
        notes.append(
            f"data.std differs from the file's {number_list(facts.std)}: folded into the first "
            "kernel"
        )
    action = ", ".join([kernel.action, *actions])
    folded[slot] = replace(kernel, value=np.ascontiguousarray(value), action=action)
    return folded, notes


def _first_convolution(model: keras.Model) -> keras.layers.Conv2D | None:
    for layer in model.layers:
        if type(layer) is keras.layers.Conv2D:
            return layer if layer.kernel.shape[2] == 3 else None
    return None


def _shifted(bias: TensorPiece, kernel: np.ndarray, shift: np.ndarray) -> TensorPiece:
    more = np.einsum("hwio,i->o", kernel.astype(np.float64), shift)
    return replace(bias, value=(bias.value + more).astype(np.float32), action="mean folded in")


def _padded(facts: WeightsFacts, shift: np.ndarray) -> str:
    return (
        f"data.mean differs from the file's by up to {np.abs(shift).max():.3g} of 255, which a "
        f"padded convolution cannot compensate exactly: set "
        f"data.mean={number_list(facts.mean or ())}"
    )


def _unknown(config: Config) -> str:
    mean, std = number_list(config.data.mean), number_list(config.data.std)
    return (
        "the file does not declare the normalization of images, and there is no config.json "
        f"beside it; the model uses data.mean={mean} data.std={std}. ImageNet (DeiT) has "
        "123.675,116.28,103.53 and 58.395,57.12,57.375; AugReg and BEiT have 127.5,127.5,127.5 for "
        "both"
    )
