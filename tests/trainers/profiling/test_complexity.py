"""Multiply-adds against the literature, against TensorFlow's profiler, and by hand."""

import numpy as np
import pytest

from trainers.config import Config, DataConfig, ModelConfig
from trainers.keras import keras
from trainers.models import build_model
from trainers.profiling.complexity import Attention, attention_cost, complexity, layer_costs
from trainers.profiling.frozen_profile import frozen_profile
from trainers.profiling.model_graph import activations, model_calls
from trainers.profiling.published import PUBLISHED

layers = keras.layers
LITE = [f"efficientnet_lite{number}" for number in range(5)]


def make(name, *, size, classes, **options):
    data, model = DataConfig(image_size=(size, size)), ModelConfig(name=name, options=options)
    return build_model(Config(name="test", data=data, model=model), classes)


# `make test-zoo` counts the rest.
@pytest.mark.parametrize("name", ["alexnet", "googlenet", "resnet18", "mobilenet_v2", *LITE])
def test_published_figures(name):
    known = PUBLISHED[name]
    cost = complexity(make(name, size=known.image_size, classes=1000))
    assert cost.multiply_adds / 1e9 == pytest.approx(known.giga_multiply_adds, abs=0.01)
    assert cost.trainable_parameters == round(known.parameters * 1e6)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PUBLISHED if PUBLISHED[name].parameters < 100])
def test_every_published_figure(name):
    known = PUBLISHED[name]
    cost = complexity(make(name, size=known.image_size, classes=1000))
    # Papers round, and CoAtNet's leave details to the reader.
    slack = 0.025 if "coatnet" in name else 0.015
    assert cost.multiply_adds / 1e9 == pytest.approx(known.giga_multiply_adds, rel=slack, abs=0.005)
    if known.whole:
        assert cost.trainable_parameters / 1e6 == pytest.approx(known.parameters, rel=slack)
    keras.backend.clear_session()


def test_default_cnn_keeps_its_budget():
    cost = complexity(make("cnn", size=224, classes=1000))
    assert 2.7e9 < cost.multiply_adds <= 2.85e9
    assert cost.parameters > cost.trainable_parameters  # moving averages


def test_resnet50_v1_is_the_papers():
    cost = complexity(make("resnet50", size=224, classes=1000, variant="v1"))
    assert cost.multiply_adds / 1e9 == pytest.approx(3.86, abs=0.01)  # table 1: 3.8e9


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cnn", {"width": 8}),
        ("resnet8", {}),
        ("vit", {"width": 16, "depth": 1, "heads": 2}),
        ("mobilenet_v3_small", {"depth": 4}),
    ],
)
def test_agrees_with_the_profiler(name, options):
    model = make(name, size=32, classes=7, **options)
    profile = frozen_profile(model)
    assert complexity(model).multiply_adds == profile.multiply_adds
    assert profile.missed == {}
    assert profile.flops > 2 * profile.multiply_adds


def test_the_profiler_misses_einsum():
    tokens = keras.Input((16, 32))
    model = keras.Model(tokens, layers.MultiHeadAttention(4, 8)(tokens, tokens))
    profile = frozen_profile(model)
    assert profile.multiply_adds == 0
    assert profile.missed == {"Einsum": 6}
    # Four projections of 32 features, and 4 N^2 d FLOPs.
    assert complexity(model).multiply_adds == 4 * 16 * 32 * 32 + 2 * 16 * 16 * 32


def test_the_profiler_misses_what_xla_compiles():
    images = keras.Input((8, 8, 4))
    model = keras.Model(images, layers.Conv2D(4, 3, groups=2)(layers.Conv2D(4, 1)(images)))
    profile = frozen_profile(model)
    assert profile.multiply_adds == 8 * 8 * 4 * 4
    assert profile.missed == {"Conv2D": 1}
    assert complexity(model).multiply_adds == 8 * 8 * 4 * 4 + 6 * 6 * 9 * 2 * 4


def test_each_kind_of_convolution_by_hand():
    inner = keras.Sequential([keras.Input((8, 8, 4)), layers.DepthwiseConv2D(3)])
    images = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 1)(images)
    x = layers.Conv2D(4, 3, groups=2, padding="same")(x)
    x = inner(x)
    x = layers.SeparableConv2D(5, 3, strides=2, padding="same", depth_multiplier=2)(x)
    x = layers.Conv2DTranspose(2, 3, strides=2)(x)
    model = keras.Model(images, layers.Dense(7)(x))
    expected = [64 * 3 * 4, 64 * 9 * 2 * 4, 36 * 9 * 4, 9 * (9 * 8 + 8 * 5), 9 * 9 * 5 * 2]
    expected.append(49 * 2 * 7)
    costs = layer_costs(model)
    assert [cost.multiply_adds for cost in costs if cost.multiply_adds] == expected
    assert complexity(model).multiply_adds == sum(expected)
    assert sum(cost.parameters for cost in costs) == model.count_params()


def test_a_shared_layer_works_twice_and_weighs_once():
    images = keras.Input((4, 4, 3))
    shared = layers.Conv2D(3, 1, name="shared")
    model = keras.Model(images, shared(shared(images)))
    costs = [cost for cost in layer_costs(model) if cost.name == "shared"]
    assert [cost.multiply_adds for cost in costs] == [16 * 9, 16 * 9]
    assert [cost.parameters for cost in costs] == [12, 0]


@pytest.mark.parametrize(
    ("name", "size", "options", "tokens", "width", "depth"),
    [
        ("vit", 32, {"width": 24, "depth": 2, "heads": 3}, 65, 24, 2),
        ("deit", 32, {"width": 24, "depth": 2, "heads": 3}, 66, 24, 2),
        ("vit", 32, {"width": 24, "depth": 1, "heads": 3, "layer_scale": 0.1}, 65, 24, 1),
    ],
)
def test_attention_by_the_study_and_with_projections(name, size, options, tokens, width, depth):
    found = attention_cost(make(name, size=size, classes=5, **options))
    assert found.layers == depth
    assert 2 * found.products == depth * 4 * tokens**2 * width
    assert found.projections == depth * 4 * tokens * width**2


def test_attention_of_a_hybrid():
    options = {"layout": "CT", "blocks": (1, 2), "widths": (8, 16), "head_width": 8, "stem": 8}
    found = attention_cost(make("coatnet", size=16, classes=5, **options))
    tokens = 16  # 16 pixels, halved twice, squared
    assert (found.layers, found.products) == (2, 2 * 2 * tokens**2 * 16)
    # The first block's query, key and value come from the narrower stage.
    assert found.projections == tokens * (3 * 8 * 16 + 16 * 16) + tokens * 4 * 16 * 16


def test_networks_without_attention_have_none():
    assert attention_cost(make("resnet8", size=32, classes=5)) == Attention(0, 0, 0)


def test_live_activations_by_hand():
    images = keras.Input((4, 4, 1), name="images")  # 64 bytes
    wide = layers.Conv2D(8, 1, name="wide")(images)  # 512
    narrow = layers.Conv2D(1, 1, name="narrow")(wide)  # 64
    total = layers.Add(name="sum")([narrow, images])  # 64
    model = keras.Model(images, layers.Flatten(name="flat")(total))  # 64
    found = activations(model)
    assert found.total == 64 + 512 + 64 + 64 + 64
    # `images` lives on for the sum, beside both sides of the second convolution.
    assert (found.peak, found.widest) == (64 + 512 + 64, "narrow")


def test_activations_count_bytes_of_their_dtype():
    images = keras.Input((4, 4, 3), dtype="uint8")
    model = keras.Model(images, layers.Rescaling(1 / 255)(images))
    assert activations(model).total == 48 + 4 * 48


def test_activations_of_a_nested_model_are_within_it():
    inner_in = keras.Input((4, 4, 1))
    inner = keras.Model(inner_in, layers.Conv2D(1, 1)(layers.Conv2D(8, 1)(inner_in)))
    images = keras.Input((4, 4, 1))
    flat = keras.Model(images, layers.Conv2D(1, 1)(layers.Conv2D(8, 1)(images)))
    nested = keras.Model(images, inner(images))
    assert activations(nested).total == activations(flat).total == 64 + 512 + 64
    assert activations(nested).peak == activations(flat).peak == 512 + 64


def test_training_keeps_what_numpy_counts():
    model = make("resnet8", size=32, classes=10)
    by_hand = sum(4 * np.prod(call.outputs[0].shape) for call in model_calls(model))
    assert activations(model).total == by_hand
    assert activations(model).peak < by_hand / 4


def test_an_unknown_kernel_is_refused():
    model = keras.Sequential([keras.Input((8, 4)), layers.LocallyConnected1D(2, 3)])
    with pytest.raises(ValueError, match="multiply_adds"):
        complexity(model)


def test_an_open_image_size_is_refused():
    model = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(2, 3, name="open")])
    with pytest.raises(ValueError, match="'open' has an output of unknown size"):
        complexity(model)


def test_a_subclassed_model_is_refused():
    class Opaque(keras.Model):
        pass

    with pytest.raises(ValueError, match="not a functional model"):
        complexity(Opaque())
