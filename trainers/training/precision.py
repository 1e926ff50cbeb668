"""The arithmetic of training, by one option."""

from collections.abc import Iterator
from contextlib import contextmanager

from trainers.config import TrainConfig
from trainers.keras import keras


@contextmanager
def precision(config: TrainConfig) -> Iterator[None]:
    """Layers made within it compute in `config.precision` and keep float32 weights."""
    before = keras.mixed_precision.global_policy()
    name = "float32" if config.precision == "float32" else f"mixed_{config.precision}"
    keras.mixed_precision.set_global_policy(name)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)
