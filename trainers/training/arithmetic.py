"""Models that compute in another precision, or with synchronized batch norms."""

from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

from trainers.config import Config, TrainConfig
from trainers.data.features import DatasetInfo
from trainers.keras import keras
from trainers.registry import tasks


@contextmanager
def precision(config: TrainConfig) -> Iterator[None]:
    """Makes new layers compute in `config.precision`; their weights are float32."""
    before = keras.mixed_precision.global_policy()
    name = "float32" if config.precision == "float32" else f"mixed_{config.precision}"
    keras.mixed_precision.set_global_policy(name)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


def in_float32(
    model: keras.Model, config: Config, info: DatasetInfo, strategy: tf.distribute.Strategy
) -> keras.Model:
    """A model with the same weights that computes in float32, as `load_trained` returns it."""
    with strategy.scope():
        exact = tasks.get(config.task).build(config, info)
    exact.set_weights(model.get_weights())
    return exact


def synchronized(model: keras.Model) -> keras.Model:
    """`model` with batch norms that compute their statistics over all replicas."""

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        options = layer.get_config()
        if isinstance(layer, keras.layers.BatchNormalization):
            options["synchronized"] = True
        return type(layer).from_config(options)

    copied = keras.models.clone_model(model, clone_function=copy)
    copied.set_weights(model.get_weights())
    return copied
