"""The custom layers compared with NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from trainers.keras import keras
from trainers.models.layers import (
    AttentionValues,
    AttentionWeights,
    ClassToken,
    Normalize,
    PositionEmbedding,
    TakeToken,
)

pytestmark = pytest.mark.onednn

RNG = np.random.default_rng(0)


def test_normalize_is_mean_and_deviation_of_each_channel():
    mean, std = (10.0, 20.0, 30.0), (2.0, 4.0, 8.0)
    images = RNG.integers(0, 256, (2, 3, 5, 3), dtype=np.uint8)
    expected = (images.astype(np.float64) - mean) / std
    np.testing.assert_allclose(Normalize(mean, std)(images), expected, rtol=1e-5)
    np.testing.assert_allclose(Normalize(mean, std)(images.astype(np.float32)), expected, rtol=1e-5)


def test_attention_matches_keras():
    batch, length, width, heads = 2, 5, 12, 3
    query, key, value = RNG.normal(size=(3, batch, length, width)).astype(np.float32)
    # An oracle that shares no code: Keras' own attention with projections that are identities.
    oracle = keras.layers.MultiHeadAttention(heads, width // heads, output_shape=width)
    oracle(query, value, key)
    eye = np.eye(width, dtype=np.float32)
    bias = np.zeros((heads, width // heads), np.float32)
    split = eye.reshape(width, heads, width // heads)
    joined = eye.reshape(heads, width // heads, width)
    oracle.set_weights([split, bias, split, bias, split, bias, joined, np.zeros(width, np.float32)])
    weights = AttentionWeights(heads)([tf.constant(query), tf.constant(key)])
    assert weights.shape == (batch, heads, length, length)
    np.testing.assert_allclose(tf.reduce_sum(weights, -1), 1.0, rtol=1e-5)
    ours = AttentionValues()([weights, tf.constant(value)])
    np.testing.assert_allclose(ours, oracle(query, value, key), rtol=1e-4, atol=1e-5)


def test_class_token_goes_first_and_is_taken_first():
    layer = ClassToken()
    tokens = RNG.normal(size=(2, 4, 3)).astype(np.float32)
    layer(tokens)
    layer.set_weights([np.full((1, 1, 3), 7.0, np.float32)])
    longer = layer(tokens).numpy()
    np.testing.assert_array_equal(longer[:, 0], np.full((2, 3), 7.0))
    np.testing.assert_array_equal(longer[:, 1:], tokens)
    np.testing.assert_array_equal(TakeToken()(longer), np.full((2, 3), 7.0))


def test_position_embedding_adds_its_table():
    layer = PositionEmbedding()
    tokens = RNG.normal(size=(2, 4, 3)).astype(np.float32)
    layer(tokens)
    table = RNG.normal(size=(1, 4, 3)).astype(np.float32)
    layer.set_weights([table])
    np.testing.assert_allclose(layer(tokens), tokens + table, rtol=1e-6)


@pytest.mark.parametrize(
    "layer", [Normalize((1.0, 2.0, 3.0), (4.0, 5.0, 6.0)), AttentionWeights(4), ClassToken()]
)
def test_configs_rebuild_the_layer(layer):
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert copy.get_config() == layer.get_config()
