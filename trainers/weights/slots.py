"""Slots: the weights of a model by layer and name."""

from typing import Any

import numpy as np

from trainers.keras import keras

#: (layer, weight), e.g. `("stem_conv", "kernel")`.
Slot = tuple[str, str]


def weight_name(variable: Any) -> str:
    """The last word of the name of a variable: `kernel` for `block1_query/kernel:0`."""
    return variable.name.split("/")[-1].split(":")[0]


def slots(model: keras.Model) -> dict[Slot, Any]:
    """(layer, weight) -> variable, in the order of the model.

    Args:
      model: a flat model, from `trainers.models.build_model`.
    """
    return {
        (layer.name, weight_name(variable)): variable
        for layer in model.layers
        for variable in layer.weights
    }


def values(model: keras.Model) -> dict[Slot, np.ndarray]:
    """(layer, weight) -> value."""
    return {slot: variable.numpy() for slot, variable in slots(model).items()}


def slot_name(slot: Slot) -> str:
    """`layer/weight`, for reports and errors."""
    return "/".join(slot)
