"""One step against the same arithmetic written out by hand."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from trainers.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig
from trainers.keras import keras
from trainers.models import build_model
from trainers.optim import build_optimizer
from trainers.training.ema import MovingAverage
from trainers.training.losses import CrossEntropy
from trainers.training.step import TrainStep

pytestmark = pytest.mark.onednn

CLASSES, SIZE, BATCH = 5, 8, 8


@pytest.fixture(scope="module")
def batch():
    """Images (8,8,8,3) uint8 and labels (8,)."""
    random = np.random.default_rng(3)
    images = random.integers(0, 256, (BATCH, SIZE, SIZE, 3), dtype=np.uint8)
    return tf.constant(images), tf.constant(random.integers(0, CLASSES, BATCH), tf.int32)


@pytest.fixture(scope="module")
def plain():
    """For `two_layers`, without batch norm: parts of a batch do not see each other."""
    return Config(
        name="plain",
        data=DataConfig(image_size=(SIZE, SIZE)),
        optim=OptimConfig("sgd", learning_rate=0.05, momentum=0.0, schedule="constant"),
        train=TrainConfig(global_batch=BATCH, seed=1),
    )


def two_layers(config: Config) -> keras.Model:
    """So small that tracing a step of it takes no time to speak of."""
    layers = keras.layers
    images = keras.Input((SIZE, SIZE, 3), name="images", dtype="float32")
    x = layers.Flatten()(layers.Rescaling(1 / 127.5, -1)(images))
    x = layers.Dense(16, "tanh")(x)
    x = layers.Dropout(config.model.dropout, name="dropout")(x)
    return keras.Model(images, layers.Dense(CLASSES, dtype="float32", name="logits")(x))


def make_step(config: Config, build: Callable[[Config], keras.Model] = two_layers) -> TrainStep:
    keras.utils.set_random_seed(config.train.seed)
    model = build(config)
    optimizer = build_optimizer(config.optim, 10, global_batch=BATCH, model=model)
    on = tf.distribute.get_strategy()
    return TrainStep(model, optimizer, CrossEntropy(), config, on)


def with_train(config: Config, **changes) -> Config:
    return replace(config, train=replace(config.train, **changes))


@pytest.fixture(scope="module")
def whole(plain, batch):
    """Two steps of `plain` on one batch, to compare others with; tests do not change it."""
    step = make_step(plain)
    for _ in range(2):
        step(batch)
    return step


def test_a_step_is_plain_gradient_descent_on_the_mean_loss(plain, batch):
    config = replace(plain, optim=replace(plain.optim, weight_decay=0.0))
    step = make_step(config)
    before = [value.copy() for value in step.model.get_weights()]
    images, labels = batch
    with tf.GradientTape() as tape:
        logits = step.model(images, training=True)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
        mean = tf.reduce_mean(losses)
    gradients = [g.numpy() for g in tape.gradient(mean, step.model.trainable_variables)]
    step(batch)
    for now, then, gradient in zip(step.model.get_weights(), before, gradients, strict=True):
        np.testing.assert_allclose(now, then - 0.05 * gradient, atol=1e-6)
    assert step.loss == pytest.approx(float(mean), rel=1e-5)
    hits = np.mean(np.argmax(logits.numpy(), 1) == labels.numpy())
    assert step.top1 == pytest.approx(hits)


def test_micro_batches_change_nothing(plain, batch, whole):
    parts = make_step(with_train(plain, accumulate=4))
    for _ in range(2):
        parts(batch)
    for one, other in zip(whole.model.get_weights(), parts.model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    assert parts.top1 == whole.top1


@pytest.mark.parametrize("setting", [{"xla": True}, {"precision": "float16"}])
def test_other_arithmetic_takes_almost_the_same_step(plain, batch, whole, setting):
    config = with_train(plain, **setting)
    keras.mixed_precision.set_global_policy(
        "mixed_float16" if "precision" in setting else "float32"
    )
    try:
        other = make_step(config)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    if "precision" in setting:
        other.optimizer._loss_scale._current_loss_scale.assign(64.0)
    for _ in range(2):
        other(batch)
    assert other.loss == pytest.approx(whole.loss, rel=1e-2)
    for one, two in zip(whole.model.get_weights(), other.model.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, atol=2e-2)


def test_an_overflowing_half_precision_step_is_left_out(plain, batch):
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        step = make_step(with_train(plain, precision="float16"))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    step.optimizer.inner_optimizer.build(step.model.trainable_variables)
    before = [value.copy() for value in step.model.get_weights()]
    scale = step.optimizer._loss_scale
    scale._current_loss_scale.assign(3e38)
    step(batch)
    for now, then in zip(step.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert float(step.optimizer.loss_scale) == pytest.approx(1.5e38)


def test_dropout_is_decided_by_seed_and_step(plain, batch):
    config = replace(plain, model=replace(plain.model, dropout=0.5))
    one = make_step(config)
    one(batch)
    after_first = [value.copy() for value in one.model.get_weights()]
    one(batch)
    # A step that was restored has the same number, and no generator's state to restore.
    fresh = make_step(config)
    fresh.model.set_weights(after_first)
    fresh.optimizer.iterations.assign(1)
    fresh.reset()
    fresh(batch)
    for a, b in zip(one.model.get_weights(), fresh.model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    reseeded = make_step(with_train(config, seed=1))
    reseeded._dropout._seed = 2
    reseeded(batch)
    pairs = zip(reseeded.model.get_weights(), after_first, strict=True)
    assert any(np.abs(a - b).max() > 1e-4 for a, b in pairs)


def test_different_steps_drop_different_units(plain, batch):
    config = replace(
        plain,
        model=replace(plain.model, dropout=0.5),
        optim=replace(plain.optim, learning_rate=1e-12, weight_decay=0.0),
    )
    step = make_step(config)
    losses = []
    for _ in range(3):
        step.reset()
        step(batch)
        losses.append(step.loss)
    assert len({round(loss, 6) for loss in losses}) == 3


def test_frozen_layers_stay_and_their_statistics_too(plain, batch):
    network = ModelConfig("cnn", options={"width": 4, "depth": 1, "stages": 1})
    config = replace(plain, model=network, optim=OptimConfig("adam"))
    step = make_step(config, lambda config: build_model(config, CLASSES))
    before = {v.name: v.numpy() for v in step.model.variables}
    step.freeze(True)
    step(batch)
    changed = {v.name for v in step.model.variables if (v.numpy() != before[v.name]).any()}
    assert changed == {"logits/kernel:0", "logits/bias:0"}
    step.freeze(False)
    step(batch)
    changed = {v.name for v in step.model.variables if (v.numpy() != before[v.name]).any()}
    assert len(changed) == len(before)


def test_the_average_follows_the_weights(plain, batch):
    step = make_step(with_train(plain, ema=0.6))
    wanted = [value.copy() for value in step.model.get_weights()]
    for done in (1, 2, 3):
        step(batch)
        decay = min(0.6, (1 + done) / (10 + done))
        wanted = [
            decay * w + (1 - decay) * v
            for w, v in zip(wanted, step.model.get_weights(), strict=True)
        ]
    own = step.model.get_weights()
    with step.evaluated():
        inside = step.model.get_weights()
    for found, value in zip(inside, wanted, strict=True):
        np.testing.assert_allclose(found, value, atol=1e-6)
    for found, value in zip(step.model.get_weights(), own, strict=True):
        np.testing.assert_array_equal(found, value)


def test_the_average_starts_anew_where_asked(plain):
    model = two_layers(plain)
    average = MovingAverage(model, 0.9)
    for weight in model.weights:
        weight.assign_add(tf.ones_like(weight))
    average.restart()
    for shadow, weight in zip(average.shadows, model.weights, strict=True):
        np.testing.assert_array_equal(shadow.numpy(), weight.numpy())


def test_the_first_step_without_a_finite_loss_is_remembered(plain, batch):
    step = make_step(plain)
    step(batch)
    assert int(step.diverged) == 0
    bias = step.model.get_layer("logits").bias
    bias.assign(tf.fill(bias.shape, np.nan))
    step(batch)
    bias.assign(tf.zeros(bias.shape))
    step(batch)
    assert int(step.diverged) == 2
