"""The layers that explanations need, for each family."""

import numpy as np
import pytest

from trainers.config import Config, DataConfig, ModelConfig
from trainers.keras import keras
from trainers.models import build_model
from trainers.models.intermediates import intermediates

pytestmark = pytest.mark.onednn


def make(name, size=32, dropout=0.1, **options):
    config = Config(
        name="test",
        data=DataConfig(image_size=(size, size)),
        model=ModelConfig(name=name, dropout=dropout, options=options),
    )
    return build_model(config, 5)


VIT = {"patch": 8, "width": 8, "depth": 2, "heads": 2}


@pytest.mark.parametrize(
    ("name", "options", "last", "map_size"),
    [
        ("cnn", {"width": 4}, "stage4_2_relu", (4, 4)),
        ("resnet8", {}, "stage3_block1_relu", (8, 8)),
        ("coatnet", {}, "norm", (8, 8)),
        ("mobilenet_v3_small", {"width": 0.25}, "last_hard_swish", (1, 1)),
        ("vgg16", {}, "block5_pool", (1, 1)),
        ("alexnet", {"width": 4}, "pool5", (3, 3)),
        ("googlenet", {"width": 0.25}, "inception5b_concat", (2, 2)),
    ],
)
def test_networks_that_end_in_a_map(name, options, last, map_size):
    found = intermediates(make(name, **options))
    assert (found.last_map, found.last_tokens, found.map_size) == (last, "", map_size)
    assert found.logits == "logits"
    assert len(found.attention) == (2 if name == "coatnet" else 0)


@pytest.mark.parametrize(
    ("name", "options", "map_size"),
    [
        ("vit", VIT, (4, 4)),
        ("vit", {**VIT, "pool": "mean"}, (4, 4)),
        ("deit", VIT, (4, 4)),
        ("resnet_vit", {"width": 8, "depth": 2, "heads": 2}, (16, 16)),
    ],
)
def test_networks_that_end_in_tokens(name, options, map_size):
    model = make(name, **options)
    found = intermediates(model)
    assert (found.last_map, found.last_tokens, found.features) == ("", "norm", "pool")
    assert found.map_size == map_size
    assert found.attention == ("block1_weights", "block2_weights")
    outputs = [model.get_layer(layer).output for layer in found.attention]
    for weights in keras.Model(model.input, outputs)(np.zeros((1, 32, 32, 3), np.float32)):
        tokens = model.get_layer(found.last_tokens).output_shape[1]
        assert weights.shape == (1, 2, tokens, tokens)
        np.testing.assert_allclose(weights.numpy().sum(-1), 1.0, rtol=1e-5)


def test_a_model_of_another_kind_is_refused():
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="no layer `logits`"):
        intermediates(other)
    flat = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="logits")])
    with pytest.raises(ValueError, match="no map and no tokens"):
        intermediates(flat)
