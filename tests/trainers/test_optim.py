"""Schedules and single steps against hand computation."""

import math

import numpy as np
import pytest
import tensorflow as tf

from trainers.config import Config, DataConfig, ModelConfig, OptimConfig
from trainers.keras import keras
from trainers.models import build_model
from trainers.optim import WarmUp, build_optimizer, decayed


def rates(config, total, steps):
    schedule = WarmUp(config, total)
    return [float(schedule(step)) for step in steps]


def test_cosine_falls_from_the_peak_to_zero():
    config = OptimConfig(learning_rate=0.4, schedule="cosine")
    by_hand = [0.2 * (1 + math.cos(math.pi * step / 100)) for step in (0, 25, 50, 99, 100)]
    assert rates(config, 100, (0, 25, 50, 99, 100)) == pytest.approx(by_hand, abs=1e-7)
    assert rates(config, 100, (150,)) == pytest.approx([0.0], abs=1e-7)


def test_warm_up_is_linear_then_cosine_takes_what_is_left():
    config = OptimConfig(learning_rate=1.0, schedule="cosine", warmup_steps=4)
    found = rates(config, 24, (0, 1, 2, 3, 4, 14, 24))
    assert found == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 0.5, 0.0], abs=1e-6)


def test_step_divides_by_ten_at_each_fraction():
    config = OptimConfig(learning_rate=0.1, schedule="step", step_fractions=(0.3, 0.6, 0.9))
    found = rates(config, 100, (0, 29, 30, 59, 60, 89, 90, 99))
    assert found == pytest.approx([0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3, 1e-4, 1e-4], rel=1e-5)
    assert rates(OptimConfig(schedule="step", step_fractions=()), 10, (9,)) == pytest.approx([0.1])


def test_constant_is_constant_after_warm_up():
    config = OptimConfig(learning_rate=0.3, schedule="constant", warmup_steps=2)
    assert rates(config, 10, (0, 1, 5, 20)) == pytest.approx([0.15, 0.3, 0.3, 0.3])


def test_a_schedule_survives_serialisation():
    config = OptimConfig(learning_rate=0.4, schedule="step", warmup_steps=3)
    serialize = keras.optimizers.schedules.serialize
    again = keras.optimizers.schedules.deserialize(serialize(WarmUp(config, 20)))
    steps = range(0, 20, 3)
    assert [float(again(step)) for step in steps] == pytest.approx(rates(config, 20, steps))


@pytest.mark.parametrize(
    ("name", "options", "kept"),
    [
        ("cnn", {"width": 4}, set()),
        ("resnet8", {}, set()),
        ("vit", {"patch": 4, "width": 8, "depth": 1, "heads": 2}, {"token", "table"}),
    ],
)
def test_only_kernels_are_decayed(name, options, kept):
    data, network = DataConfig(image_size=(8, 8)), ModelConfig(name, options=options)
    model = build_model(Config("t", data=data, model=network), 3)
    parts = {
        wanted: {v.name.split("/")[-1].split(":")[0] for v in variables}
        for wanted, variables in (
            (True, [v for v in model.trainable_variables if decayed(v)]),
            (False, [v for v in model.trainable_variables if not decayed(v)]),
        )
    }
    assert parts[True] == {"kernel"}
    assert parts[False] == {"bias", "gamma", "beta"} | kept
    adamw = build_optimizer(OptimConfig("adamw"), 10)
    assert [adamw._use_weight_decay(v) for v in model.trainable_variables] == [
        decayed(v) for v in model.trainable_variables
    ]


KERNEL = np.array([[1.0, -2.0], [3.0, 0.5]], np.float32)
BIAS = np.array([0.5, -1.0], np.float32)
GRADIENTS = [
    (np.array([[0.1, 0.2], [-0.3, 0.4]], np.float32), np.array([0.2, -0.1], np.float32)),
    (np.array([[-0.2, 0.1], [0.1, 0.3]], np.float32), np.array([0.1, 0.3], np.float32)),
    (np.array([[0.3, -0.1], [0.2, -0.2]], np.float32), np.array([-0.2, 0.1], np.float32)),
]


def steps_of(config):
    """Kernel and bias after a step with each of `GRADIENTS`."""
    variables = tf.Variable(KERNEL, name="dense/kernel"), tf.Variable(BIAS, name="dense/bias")
    optimizer = build_optimizer(config, 10)
    for gradients in GRADIENTS:
        optimizer.apply_gradients(zip(map(tf.constant, gradients), variables, strict=True))
    return [variable.numpy() for variable in variables]


def test_sgd_is_l2_in_the_gradient_before_momentum():
    config = OptimConfig("sgd", 0.1, 0.9, schedule="constant", weight_decay=0.05)
    kernel, bias = KERNEL.astype(np.float64), BIAS.astype(np.float64)
    fast_kernel, fast_bias = np.zeros((2, 2)), np.zeros(2)
    for for_kernel, for_bias in GRADIENTS:
        fast_kernel = 0.9 * fast_kernel - 0.1 * (for_kernel + 0.05 * kernel)
        fast_bias = 0.9 * fast_bias - 0.1 * for_bias
        kernel, bias = kernel + fast_kernel, bias + fast_bias
    found = steps_of(config)
    np.testing.assert_allclose(found[0], kernel, rtol=1e-5)
    np.testing.assert_allclose(found[1], bias, rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_takes_l2_and_adamw_decouples(name):
    config = OptimConfig(name, 0.1, schedule="constant", weight_decay=0.05)
    first, decoupled = KERNEL.astype(np.float64), name == "adamw"
    values = [first, BIAS.astype(np.float64)]
    means, squares = [0.0, 0.0], [0.0, 0.0]
    for step, gradients in enumerate(GRADIENTS, start=1):
        for i, gradient in enumerate(gradients):
            decay = 0.05 if i == 0 else 0.0
            g = gradient + (0.0 if decoupled else decay * values[i])
            means[i] = 0.9 * means[i] + 0.1 * g
            squares[i] = 0.999 * squares[i] + 0.001 * g * g
            update = (means[i] / (1 - 0.9**step)) / (np.sqrt(squares[i] / (1 - 0.999**step)) + 1e-7)
            shrunk = values[i] * (1 - 0.1 * decay) if decoupled else values[i]
            values[i] = shrunk - 0.1 * update
    for found, expected in zip(steps_of(config), values, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_clipping_limits_the_norm_over_all_gradients():
    config = OptimConfig("sgd", 1.0, 0.0, schedule="constant", weight_decay=0.0, clip_norm=0.1)
    kernel, bias = steps_of(config)
    moved_kernel, moved_bias = np.zeros((2, 2)), np.zeros(2)
    for for_kernel, for_bias in GRADIENTS:
        norm = np.sqrt((for_kernel**2).sum() + (for_bias**2).sum())
        moved_kernel += for_kernel * 0.1 / norm
        moved_bias += for_bias * 0.1 / norm
    np.testing.assert_allclose(kernel, KERNEL - moved_kernel, rtol=1e-5)
    np.testing.assert_allclose(bias, BIAS - moved_bias, rtol=1e-5)
