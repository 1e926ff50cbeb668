"""Copies of a model that compute otherwise: in float32, or with synchronized batch norms."""

import tensorflow as tf

from trainers.config import Config
from trainers.data.features import DatasetInfo
from trainers.keras import keras
from trainers.registry import tasks


def in_float32(
    model: keras.Model, config: Config, info: DatasetInfo, strategy: tf.distribute.Strategy
) -> keras.Model:
    """A model with the same weights that computes in float32, as `load_trained` gives."""
    with strategy.scope():
        exact = tasks.get(config.task).build(config, info)
    exact.set_weights(model.get_weights())
    return exact


def synchronized(model: keras.Model) -> keras.Model:
    """`model` with batch norms that take their statistics over all replicas."""

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        options = layer.get_config()
        if isinstance(layer, keras.layers.BatchNormalization):
            options["synchronized"] = True
        return type(layer).from_config(options)

    copied = keras.models.clone_model(model, clone_function=copy)
    copied.set_weights(model.get_weights())
    return copied
