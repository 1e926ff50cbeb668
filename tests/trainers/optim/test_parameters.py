"""Which variables are decayed and how fast each layer learns, on models of every family."""

from dataclasses import replace

import pytest
import tensorflow as tf

from trainers.config import Config, DataConfig, ModelConfig, OptimConfig
from trainers.models import build_model
from trainers.optim import build_optimizer, decayed, layer_factors


def built(name, options, size=32):
    data, network = DataConfig(image_size=(size, size)), ModelConfig(name, options=options)
    return build_model(Config("t", data=data, model=network), 3)


def last(variable):
    return variable.name.split("/")[-1].split(":")[0]


@pytest.mark.parametrize(
    ("name", "options", "kernels", "kept"),
    [
        ("cnn", {"width": 4}, set(), set()),
        ("resnet8", {"width": 4}, set(), set()),
        (
            "deit",
            {"patch": 8, "width": 8, "depth": 1, "heads": 2, "layer_scale": 0.1},
            set(),
            {"token", "table"},
        ),
        (
            "coatnet",
            {"stem": 4, "layout": "MT", "blocks": (1, 1), "widths": (4, 8), "head_width": 4},
            {"depthwise_kernel"},
            {"position_bias"},
        ),
    ],
)
def test_only_kernels_are_decayed(name, options, kernels, kept):
    variables = built(name, options).trainable_variables
    assert {last(v) for v in variables if decayed(v)} == {"kernel"} | kernels
    others = {last(v) for v in variables if not decayed(v)}
    assert others - {"bias", "gamma", "beta"} == kept
    optimizer = build_optimizer(OptimConfig("adamw"), 10)
    optimizer.build(variables)
    assert list(optimizer._decays) == [decayed(v) for v in variables]
    everything = build_optimizer(OptimConfig("adamw", decay_all=True), 10)
    everything.build(variables)
    assert all(everything._decays)


def test_layers_of_a_transformer_slow_down_towards_the_input():
    names = [
        "patches/kernel:0",
        "class_token/token:0",
        "positions/table:0",
        "block1_query/kernel:0",
        "block1_up/bias:0",
        "block2_query/kernel:0",
        "block12_query/kernel:0",  # twelve, not one and a two
        "norm/gamma:0",
        "logits/kernel:0",
    ]
    by_hand = [0.5**4] * 3 + [0.5**3] * 2 + [0.5**2] + [0.5] + [1.0] * 2
    assert layer_factors(names, 0.5) == pytest.approx(tuple(by_hand))
    assert layer_factors(names, 1.0) == (1.0,) * 9


@pytest.mark.parametrize(
    ("names", "depths"),
    [
        ("stem stage1_block1_1 stage1_block2_1 stage2_block1_1 logits", [4, 3, 2, 1, 0]),
        ("conv1_conv conv2_block1_1_conv conv3_block1_1_conv logits", [3, 2, 1, 0]),
        ("stem_conv block1a_x block2a_x block2b_x top_conv", [4, 3, 2, 1, 0]),
        ("Conv1 expanded_conv_x block_1_expand block_10_x", [3, 3, 2, 1]),
        ("quant_patches quant_block1_up quant_logits", [2, 1, 0]),
        ("stage1_block1_1 patches block1_up logits", [2, 2, 1, 0]),
    ],
)
def test_blocks_are_read_from_the_names_of_every_family(names, depths):
    names = [f"{name}/kernel:0" for name in names.split()]
    assert layer_factors(names, 0.1) == pytest.approx(tuple(0.1**depth for depth in depths))


def test_layer_decay_without_blocks_says_what_names_it_needs():
    model = built("cnn", {"width": 4})
    with pytest.raises(
        ValueError, match=r"layer_decay=0.5 needs .*block3_query.*got stage1_1_conv"
    ):
        build_optimizer(OptimConfig(layer_decay=0.5), 10, model=model)


def test_layer_decay_scales_the_step_of_each_layer():
    model = built("vit", {"patch": 8, "width": 8, "depth": 2, "heads": 2})
    config = OptimConfig("sgd", 0.1, momentum=0.0, schedule="constant", weight_decay=0.0)
    optimizer = build_optimizer(replace(config, layer_decay=0.5), 10, model=model)
    variables = model.trainable_variables
    before = [v.numpy() for v in variables]
    optimizer.apply_gradients([(tf.ones_like(v), v) for v in variables])
    moved = {v.name: (b - v.numpy()).mean() / 0.1 for b, v in zip(before, variables, strict=True)}
    assert moved["patches/kernel:0"] == pytest.approx(0.125, rel=1e-4)
    assert moved["positions/table:0"] == pytest.approx(0.125, rel=1e-4)
    assert moved["block1_query/kernel:0"] == pytest.approx(0.25, rel=1e-4)
    assert moved["block2_down/bias:0"] == pytest.approx(0.5, rel=1e-4)
    assert moved["logits/kernel:0"] == pytest.approx(1.0, rel=1e-4)
