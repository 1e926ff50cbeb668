"""Images normalized otherwise than the weights expect: folded into the first kernel, exactly.

A kernel that expects (x - m) / s and gets (x - m') / s' is multiplied by s' / s, channel by
channel; the difference of the means, (m' - m) / s, is a constant that goes into the bias. With
zero padding the constant is not the same at the border, so a padded layer keeps its bias and the
report says what to set.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from trainers.config import Config
from trainers.keras import keras
from trainers.weights.rules import Facts, Piece
from trainers.weights.slots import Slot

# Two images' values 0.05 of 255 apart are the same to any network.
_CLOSE = 0.05


def fold_normalization(
    model: keras.Model, pieces: Mapping[Slot, Piece], facts: Facts, config: Config
) -> tuple[dict[Slot, Piece], list[str]]:
    """The pieces with the first kernel made for the model's own normalization, and notes.

    Args:
      model: whose first convolution follows its normalization.
      pieces: by slot, in the model's shapes.
      facts: what the weights expect; where it does not say, nothing is folded, and a note says so.
      config: `data.mean` and `data.std` are what the model's graph does.
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
                f"data.mean is not the file's {_list(facts.mean)}: folded into patches/bias"
            )
        else:
            notes.append(_padded(facts, shift))
    if np.abs(std / np.array(facts.std) - 1.0).max() > 1e-6:
        scale = (std / np.array(facts.std))[:, None]
        value, actions = value * scale.astype(np.float32), [*actions, "scaled"]
        notes.append(f"data.std is not the file's {_list(facts.std)}: folded into the first kernel")
    action = ", ".join([kernel.action, *actions])
    folded[slot] = replace(kernel, value=np.ascontiguousarray(value), action=action)
    return folded, notes


def _first_convolution(model: keras.Model) -> keras.layers.Conv2D | None:
    for layer in model.layers:
        if type(layer) is keras.layers.Conv2D:
            return layer if layer.kernel.shape[2] == 3 else None
    return None


def _shifted(bias: Piece, kernel: np.ndarray, shift: np.ndarray) -> Piece:
    more = np.einsum("hwio,i->o", kernel.astype(np.float64), shift)
    return replace(bias, value=(bias.value + more).astype(np.float32), action="mean folded in")


def _padded(facts: Facts, shift: np.ndarray) -> str:
    return (
        f"data.mean differs from the file's by up to {np.abs(shift).max():.3g} of 255, which a "
        f"padded convolution cannot take up exactly: set data.mean={_list(facts.mean or ())}"
    )


def _unknown(config: Config) -> str:
    mean, std = _list(config.data.mean), _list(config.data.std)
    return (
        "the file does not say how its images were normalized, and no config.json lies beside "
        f"it; the model uses data.mean={mean} data.std={std}. ImageNet's (DeiT) is "
        "123.675,116.28,103.53 and 58.395,57.12,57.375; AugReg and BEiT have 127.5,127.5,127.5 for "
        "both"
    )


def _list(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)
