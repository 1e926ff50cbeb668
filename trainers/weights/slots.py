"""A model's weights by layer and name, which is what values are put into."""

from typing import Any

import numpy as np

from trainers.keras import keras

#: (layer, weight), e.g. `("stem_conv", "kernel")`.
Slot = tuple[str, str]


def weight_name(variable: Any) -> str:
    """The last word of a variable's name: `kernel` of `block1_query/kernel:0`."""
    return variable.name.split("/")[-1].split(":")[0]


def slots(model: keras.Model) -> dict[Slot, Any]:
    """(layer, weight) -> variable, in the model's order.

    Args:
      model: flat, as `trainers.models.build_model` returns it.
    """
    return {
        (layer.name, weight_name(variable)): variable
        for layer in model.layers
        for variable in layer.weights
    }


def values(model: keras.Model) -> dict[Slot, np.ndarray]:
    """(layer, weight) -> its value."""
    return {slot: variable.numpy() for slot, variable in slots(model).items()}


def slot_name(slot: Slot) -> str:
    """`layer/weight`, as reports and errors write it."""
    return "/".join(slot)
