"""Update rules against NumPy and Keras, on one device and on two, in parts and in `fit`."""

import json
import math
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from trainers.config import OptimConfig
from trainers.keras import keras
from trainers.optim import build_optimizer

ROOT = Path(__file__).resolve().parents[3]
KERNEL = np.array([[1.0, -2.0], [3.0, 0.5]])
BIAS = np.array([0.5, -1.0])
DRAWS = np.random.default_rng(0)
GRADIENTS = [(DRAWS.normal(size=(2, 2)), DRAWS.normal(size=2)) for _ in range(5)]


def fresh():
    return [
        tf.Variable(KERNEL.astype(np.float32), name="dense/kernel"),
        tf.Variable(BIAS.astype(np.float32), name="dense/bias"),
    ]


def run(optimizer, variables, gradients=GRADIENTS):
    """Kernel and bias after a step with each of `gradients`."""
    for pair in gradients:
        given = [tf.constant(g, tf.float32) for g in pair]
        optimizer.apply_gradients(zip(given, variables, strict=True))
    return [variable.numpy() for variable in variables]


def clipped(pair, limit):
    norm = math.sqrt(sum((g**2).sum() for g in pair))
    return [g * min(1.0, limit / norm) for g in pair] if limit else list(pair)


def by_numpy(config):
    """What `run` should find, in double precision, written down from the papers."""
    values = [KERNEL.copy(), BIAS.copy()]
    first, second = [np.zeros((2, 2)), np.zeros(2)], [np.zeros((2, 2)), np.zeros(2)]
    for step, pair in enumerate(GRADIENTS, start=1):
        rate = config.learning_rate * min(step / max(config.warmup_steps, 1), 1)
        for i, g in enumerate(clipped(pair, config.clip_norm)):
            decay = config.weight_decay if i == 0 or config.decay_all else 0.0
            if config.name in ("sgd", "adam"):
                g = g + decay * values[i]
            if config.name == "sgd":
                first[i] = config.momentum * first[i] - rate * g
                ahead = config.momentum * first[i] - rate * g
                values[i] = values[i] + (ahead if config.nesterov else first[i])
                continue
            first[i] = config.momentum * first[i] + (1 - config.momentum) * g
            second[i] = config.beta_2 * second[i] + (1 - config.beta_2) * g**2
            mean = first[i] / (1 - config.momentum**step)
            square = second[i] / (1 - config.beta_2**step)
            update = mean / (np.sqrt(square) + config.epsilon)
            if config.name == "adamw":
                update = update + decay * values[i]
            if config.name == "lamb":
                update = update + decay * values[i]
                if i == 0 or config.decay_all:
                    update *= np.linalg.norm(values[i]) / np.linalg.norm(update)
            values[i] = values[i] - rate * update
    return values


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lamb"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"clip_norm": 0.5},
        {"decay_all": True, "epsilon": 0.1},
        {"nesterov": True, "momentum": 0.6, "beta_2": 0.7, "warmup_steps": 4, "warmup_limit": 1.0},
        {"weight_decay": 0.0},
    ],
)
def test_five_steps_are_those_of_the_papers(name, changes):
    config = OptimConfig(name, 0.1, schedule="constant", weight_decay=0.05)
    config = replace(config, **changes)
    found = run(build_optimizer(config, 10), fresh())
    for value, expected in zip(found, by_numpy(config), strict=True):
        np.testing.assert_allclose(value, expected, rtol=2e-5)


KERAS = {
    "sgd": lambda o: keras.optimizers.SGD(0.1, momentum=0.8, nesterov=o.nesterov),
    "adam": lambda o: keras.optimizers.Adam(0.1, beta_1=0.8, beta_2=0.99, epsilon=1e-9),
    "adamw": lambda o: keras.optimizers.AdamW(
        0.1, beta_1=0.8, beta_2=0.99, epsilon=1e-9, weight_decay=o.weight_decay
    ),
}


@pytest.mark.parametrize(
    ("name", "decay", "nesterov"),
    [("sgd", 0.0, False), ("sgd", 0.0, True), ("adam", 0.0, False), ("adamw", 0.1, False)],
)
def test_five_steps_are_those_of_keras(name, decay, nesterov):
    config = OptimConfig(
        name,
        0.1,
        momentum=0.8,
        beta_2=0.99,
        epsilon=1e-9,
        nesterov=nesterov,
        schedule="constant",
        weight_decay=decay,
        decay_all=True,
    )
    theirs = run(KERAS[name](config), fresh())
    for ours, other in zip(run(build_optimizer(config, 10), fresh()), theirs, strict=True):
        np.testing.assert_allclose(ours, other, rtol=2e-6)


def test_lamb_moves_weights_that_start_at_zero():
    weights = tf.Variable(tf.zeros((2, 2)), name="dense/kernel")
    optimizer = build_optimizer(OptimConfig("lamb", 0.1, schedule="constant"), 10)
    optimizer.apply_gradients([(tf.ones((2, 2)), weights)])
    np.testing.assert_allclose(weights, np.full((2, 2), -0.1), rtol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adam", "lamb"])
def test_a_part_of_the_variables_has_its_own_slots(name):
    config = OptimConfig(name, 0.1, schedule="constant")
    kernel, bias = fresh()
    optimizer = build_optimizer(config, 10)
    optimizer.build([kernel, bias])
    for _, gradient in GRADIENTS:
        optimizer.apply_gradients([(tf.constant(gradient, tf.float32), bias)])
    np.testing.assert_array_equal(kernel, KERNEL.astype(np.float32))
    np.testing.assert_allclose(bias, by_numpy(config)[1], rtol=2e-5)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb"])
def test_a_checkpoint_goes_on_as_if_nothing_had_been(name, tmp_path):
    config = OptimConfig(name, 0.1, warmup_steps=4)
    whole = run(build_optimizer(config, 10), fresh())
    variables, optimizer = fresh(), build_optimizer(config, 10)
    run(optimizer, variables, GRADIENTS[:2])
    saved = tf.train.Checkpoint(optimizer=optimizer, variables=variables).write(tmp_path / "x")
    variables, optimizer = fresh(), build_optimizer(config, 10)
    optimizer.build(variables)
    found = tf.train.Checkpoint(optimizer=optimizer, variables=variables).read(saved)
    found.assert_consumed()
    for ours, expected in zip(run(optimizer, variables, GRADIENTS[2:]), whole, strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lamb"])
def test_an_optimizer_survives_serialization(name):
    config = OptimConfig(name, 0.1, warmup_steps=4, clip_norm=0.5, nesterov=True, layer_decay=1.0)
    ours = build_optimizer(config, 10)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(ours))
    assert type(again) is type(ours)
    for one, other in zip(run(ours, fresh()), run(again, fresh()), strict=True):
        np.testing.assert_array_equal(one, other)


def test_sparse_gradients_count_like_dense_ones():
    table = tf.Variable(KERNEL.astype(np.float32), name="offsets/kernel")
    rows = tf.IndexedSlices(tf.constant([[1.0, 2.0], [3.0, 4.0]]), tf.constant([1, 1]), (2, 2))
    config = OptimConfig("sgd", 0.1, momentum=0.0, schedule="constant", weight_decay=0.0)
    build_optimizer(config, 10).apply_gradients([(rows, table)])
    np.testing.assert_allclose(table, KERNEL - 0.1 * np.array([[0, 0], [4, 6]]), rtol=1e-6)


# TensorFlow's devices are fixed once it has started.
CHILD = """
import json, sys
import tensorflow as tf
from trainers.config import OptimConfig
from trainers.keras import keras
from trainers.optim import build_optimizer

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
request = json.loads(sys.argv[1])


def train(config, summed, scaled):
    with strategy.scope():
        kernel = tf.Variable(request["kernel"], name="dense/kernel")
        bias = tf.Variable(request["bias"], name="dense/bias")
        optimizer = build_optimizer(config, 10)
        if scaled:
            optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
            optimizer.get_scaled_loss(tf.constant(0.0))  # Keras warns if it is never called.
        optimizer.build([kernel, bias])

    def replica(*gradients):
        given = list(gradients) if summed else [gradient / 2 for gradient in gradients]
        if scaled:
            by = optimizer.loss_scale
            given = optimizer.get_unscaled_gradients([gradient * by for gradient in given])
        pairs = list(zip(given, [kernel, bias], strict=True))
        optimizer.apply_gradients(pairs, skip_gradients_aggregation=summed)

    step = tf.function(lambda *pair: strategy.run(replica, args=pair))
    for pair in request["gradients"]:
        step(*map(tf.constant, pair))
    locals_of = strategy.experimental_local_results
    return [[copy.numpy().tolist() for copy in locals_of(variable)] for variable in (kernel, bias)]


runs = request["runs"]
print(json.dumps([train(OptimConfig(**c), summed, scaled) for c, summed, scaled in runs]))
"""
CLIPPED = OptimConfig(learning_rate=0.1, schedule="constant", weight_decay=0.05, clip_norm=0.5)
RULES = ("sgd", "adam", "adamw", "lamb")
# Name, whether gradients arrive summed, whether a loss-scaling optimizer is around it.
RUNS = [(name, summed, False) for name in RULES for summed in (True, False)]
RUNS += [("sgd", True, True), ("lamb", True, True)]


@pytest.fixture(scope="module")
def on_two_replicas():
    """For each of `RUNS`: the two copies of the kernel, then those of the bias."""
    runs = [(asdict(replace(CLIPPED, name=name)), *flags) for name, *flags in RUNS]
    gradients = [[part.tolist() for part in pair] for pair in GRADIENTS]
    request = {
        "runs": runs,
        "kernel": KERNEL.tolist(),
        "bias": BIAS.tolist(),
        "gradients": gradients,
    }
    command = [sys.executable, "-c", CHILD, json.dumps(request)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("name", "summed", "scaled"), RUNS)
def test_replicas_take_the_step_of_one_device(name, summed, scaled, on_two_replicas):
    found = on_two_replicas[RUNS.index((name, summed, scaled))]
    for copies, expected in zip(found, by_numpy(replace(CLIPPED, name=name)), strict=True):
        for copy in copies:
            np.testing.assert_allclose(copy, expected, rtol=2e-5)


def test_fit_gives_it_the_gradients_of_the_loss():
    config = OptimConfig("sgd", 0.1, momentum=0.0, schedule="constant", weight_decay=0.5)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.array([[1.0], [2.0]])])
    inputs, target = np.array([[3.0, 4.0]]), np.array([[10.0]])
    model.compile(optimizer=build_optimizer(config, 10), loss="mse")
    model.fit(inputs, target, verbose=0)
    # d/dw (3 w0 + 4 w1 - 10)^2 = 2 (11 - 10) (3, 4), and half of w.
    expected = [[1.0 - 0.1 * (6 + 0.5)], [2.0 - 0.1 * (8 + 1.0)]]
    np.testing.assert_allclose(model.get_weights()[0], expected, rtol=1e-6)
