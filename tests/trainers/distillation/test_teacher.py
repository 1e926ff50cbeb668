"""Teachers that are bundles and folders, and the losses by NumPy and scipy."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, softmax

from trainers.config import ConfigError, DistillConfig, override
from trainers.data.pipeline import train_batches
from trainers.distillation.teacher import TOKEN_HEADS, Teacher, distillation_loss, training_model
from trainers.keras import keras
from trainers.models import build_model
from trainers.training.losses import CrossEntropy
from trainers.training.trained import save_trained

pytestmark = pytest.mark.onednn

ROOT = Path(__file__).resolve().parents[3]
RANDOM = np.random.default_rng(3)
STUDENT = RANDOM.normal(0, 2, (6, 10)).astype(np.float32)
OTHER = RANDOM.normal(0, 2, (6, 10)).astype(np.float32)
TEACHER = RANDOM.normal(0, 4, (6, 10)).astype(np.float32)
LABELS = np.array([0, 9, 3, 3, 7, 1])
MIXED = RANDOM.dirichlet(np.ones(10), 6).astype(np.float32)


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    """The tiny network as `sightline train` leaves it."""
    out = tmp_path_factory.mktemp("teacher")
    save_trained(trained, out)
    return out


@pytest.fixture(scope="module")
def sources(folder, built, tmp_path_factory):
    """Kind -> the folder of the same teacher."""
    pushed = tmp_path_factory.mktemp("bundles") / "tiny"
    shutil.copytree(built[0], pushed / "7")
    return {"folder": folder, "bundle": pushed / "7", "newest bundle": pushed}


@pytest.fixture(scope="module")
def images(config, trained):
    return next(iter(train_batches(config, trained.info, epoch=0)))[0]


def load(config, info, source):
    return Teacher.load(override(config, [f"distill.teacher={source}"]), info)


@pytest.mark.parametrize("kind", ["folder", "bundle", "newest bundle"])
def test_a_teacher_answers_what_the_trained_model_does(kind, sources, config, trained, images):
    teacher = load(config, trained.info, sources[kind])
    logits = teacher(images)
    assert (logits.dtype, logits.shape) == (tf.float32, (32, 10))
    own = trained.model(tf.cast(images, tf.float32), training=False).numpy()
    np.testing.assert_allclose(
        log_softmax(logits.numpy(), 1), log_softmax(own.astype(float), 1), atol=2e-5
    )
    assert teacher.classes == trained.info.classes


@pytest.mark.parametrize("kind", ["folder", "bundle"])
def test_images_of_another_size_are_resized_to_the_teachers(kind, sources, config, trained):
    teacher = load(config, trained.info, sources[kind])
    large = RANDOM.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    # A triangle as wide as four pixels.
    away = np.abs(np.arange(32) - (2 * np.arange(16)[:, None] + 0.5))
    weights = np.maximum(1 - away / 2, 0)
    weights /= weights.sum(1, keepdims=True)
    filtered = np.einsum("yh,nhwc,xw->nyxc", weights, large, weights)
    # Bilinear at half the size falls between four pixels: their mean.
    means = large.reshape(4, 16, 2, 16, 2, 3).mean((2, 4))
    assert teacher.resize == config.data.resize == "antialias"
    for kind, exact in (("antialias", filtered), ("bilinear", means)):
        teacher.resize = kind
        small = tf.constant(np.round(exact).astype(np.uint8))
        found = tf.function(teacher)(tf.constant(large))
        # Ties may be rounded to either level.
        np.testing.assert_allclose(found, teacher(small), atol=2e-3)
        assert np.abs(found - teacher(tf.constant(large[:, ::2, ::2]))).max() > 0.1


@pytest.mark.parametrize("kind", ["folder", "bundle"])
def test_no_gradient_reaches_a_teacher(kind, sources, config, trained):
    teacher = load(config, trained.info, sources[kind])
    with tf.GradientTape() as tape:
        images = tf.fill((2, 16, 16, 3), 100.0)
        tape.watch(images)
        loss = tf.reduce_sum(teacher(images))
        watched = tape.watched_variables()
    assert tape.gradient(loss, [images, *watched]) == [None] * (1 + len(watched))


def test_a_student_comes_nearer_to_its_teacher(sources, config, trained, images):
    teacher = load(config, trained.info, sources["bundle"])
    before = teacher(images).numpy()
    keras.utils.set_random_seed(1)
    student = build_model(override(config, ["model.dropout=0"]), 10)
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    asked = DistillConfig(teacher="given", weight=1.0, temperature=2.0)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            outputs = student(tf.cast(images, tf.float32), training=True)
            each = distillation_loss(asked, tf.zeros(32), outputs, teacher(images))
            loss = tf.reduce_mean(each)
        pairs = zip(
            tape.gradient(loss, student.trainable_variables),
            student.trainable_variables,
            strict=True,
        )
        optimizer.apply_gradients(pairs)
        return loss

    losses = [float(step()) for _ in range(30)]
    assert losses[-1] < losses[0] / 3
    np.testing.assert_array_equal(teacher(images), before)
    # Bit for bit the same teacher, and nothing of it is the student's.
    assert len(student.variables) == len(build_model(config, 10).variables)


def by_hand(logits, hard):
    picked = log_softmax(logits.astype(float), 1)[np.arange(len(hard)), hard]
    return -picked


@pytest.mark.parametrize("labels", [LABELS, MIXED], ids=["hard labels", "mixed labels"])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_is_scipys_divergence(labels, weight, temperature):
    label_loss = CrossEntropy(0.1).call(labels, STUDENT)
    config = DistillConfig("given", "soft", weight, temperature)
    found = distillation_loss(config, label_loss, STUDENT, TEACHER)
    p = softmax(TEACHER.astype(float) / temperature, 1)
    q = softmax(STUDENT.astype(float) / temperature, 1)
    divergence = (p * np.log(p / q)).sum(1) * temperature**2
    wanted = (1 - weight) * label_loss.numpy() + weight * divergence
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    assert found.shape == (6,)
    # Logits of a bundle are known up to a constant.
    shifted = distillation_loss(config, label_loss, STUDENT, TEACHER - 50)
    np.testing.assert_allclose(shifted, found, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("temperature", [10.0, 100.0])
def test_gradients_keep_their_size_at_high_temperatures(temperature):
    # Hinton et al. 2015, s2.1: for high T it is the difference of zero-mean logits over N.
    logits, zero_mean = tf.constant(STUDENT), TEACHER - TEACHER.mean(1, keepdims=True)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        config = DistillConfig("given", "soft", 1.0, temperature)
        loss = tf.reduce_sum(distillation_loss(config, tf.zeros(6), logits, TEACHER))
    wanted = (STUDENT - STUDENT.mean(1, keepdims=True) - zero_mean) / 10
    tolerance = 6 / temperature
    np.testing.assert_allclose(tape.gradient(loss, logits), wanted, atol=tolerance)


def test_hard_is_cross_entropy_with_the_teachers_decision():
    label_loss = CrossEntropy().call(MIXED, STUDENT)
    config = DistillConfig("given", "hard", 0.4)
    found = distillation_loss(config, label_loss, STUDENT, TEACHER)
    wanted = 0.6 * label_loss.numpy() + 0.4 * by_hand(STUDENT, TEACHER.argmax(1))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_token_teaches_the_second_head_only():
    label_loss = CrossEntropy().call(LABELS, STUDENT)
    config = DistillConfig("given", "token", 0.5)
    found = distillation_loss(config, label_loss, (STUDENT, OTHER), TEACHER)
    wanted = 0.5 * by_hand(STUDENT, LABELS) + 0.5 * by_hand(OTHER, TEACHER.argmax(1))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_two_heads_without_a_token_count_as_their_mean(mode):
    config = DistillConfig("given", mode, 1.0)
    pair = distillation_loss(config, tf.zeros(6), [STUDENT, OTHER], TEACHER)
    mean = distillation_loss(config, tf.zeros(6), (STUDENT + OTHER) / 2, TEACHER)
    np.testing.assert_allclose(pair, mean, rtol=1e-5)


def test_half_precision_logits_are_computed_in_full():
    config = DistillConfig("given", "soft", 1.0)
    half = STUDENT.astype(np.float16)
    full = distillation_loss(config, tf.zeros(6), half.astype(np.float32), TEACHER)
    np.testing.assert_array_equal(
        distillation_loss(config, tf.zeros(6, tf.float16), half, TEACHER), full
    )


def two_headed():
    images = keras.Input((4, 4, 3), name="images")
    x = keras.layers.Flatten()(images)
    heads = [keras.layers.Dense(10, name=name)(x) for name in TOKEN_HEADS]
    return keras.Model(images, keras.layers.Average(name="logits")(heads))


def test_token_trains_both_heads_of_the_same_weights():
    model = two_headed()
    token = DistillConfig("given", "token")
    first, second = training_model(token, model)(np.ones((2, 4, 4, 3), np.float32))
    np.testing.assert_allclose(
        model(np.ones((2, 4, 4, 3), np.float32)), (first + second) / 2, rtol=1e-6
    )
    assert training_model(DistillConfig("given", "hard"), model) is model
    assert training_model(replace(token, teacher=""), model) is model


def test_token_needs_a_distillation_head(config):
    with pytest.raises(ConfigError, match=r"distillation token, a deit_\*; 'cnn' has none"):
        training_model(DistillConfig("given", "token"), build_model(config, 10))
    with pytest.raises(ConfigError, match="as a deit_"):
        distillation_loss(DistillConfig("given", "token"), tf.zeros(6), STUDENT, TEACHER)


def test_a_teacher_of_other_classes_is_refused(folder, config, trained):
    nine = replace(trained.info, classes=trained.info.classes[:9])
    with pytest.raises(ConfigError, match=r"has 10 classes \('?digit 0.*data set 'digits' 9 \('?d"):
        load(config, nine, folder)
    renamed = replace(trained.info, classes=(*trained.info.classes[:8], "digit 9", "eight"))
    with pytest.raises(ConfigError, match=r"lacks 1 of the 10 classes .*: 'eight'"):
        load(config, renamed, folder)


def test_a_teacher_of_another_order_is_paired_by_name(folder, config, trained):
    images = np.random.default_rng(0).integers(0, 256, (4, *config.data.image_size, 3), np.uint8)
    straight = load(config, trained.info, folder)
    turned = load(config, replace(trained.info, classes=trained.info.classes[::-1]), folder)
    np.testing.assert_array_equal(turned(images).numpy(), straight(images).numpy()[:, ::-1])
    assert turned.digest != straight.digest


def test_what_is_no_teacher_is_refused(config, trained, tmp_path):
    with pytest.raises(ConfigError, match=r"must be a bundle .* or a folder of `sightline train`"):
        load(config, trained.info, tmp_path / "absent")
    other = override(config, [f"distill.teacher={tmp_path}"])
    with pytest.raises(ConfigError, match="works for classification, not for 'detection'"):
        Teacher.load(replace(other, task="detection"), trained.info)


def test_the_digest_is_of_the_weights(folder, config, trained, tmp_path):
    first = load(config, trained.info, folder).digest
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert load(config, trained.info, copy).digest == first
    changed = load(config, trained.info, copy)
    weights = next((copy / "weights").glob("best.data*"))
    data = bytearray(weights.read_bytes())
    data[100] ^= 1
    weights.write_bytes(data)
    assert changed.digest != first


# TensorFlow's devices are fixed once it has started.
CHILD = """
import json, sys
from pathlib import Path
import numpy as np
import tensorflow as tf
from trainers.config import Config, DistillConfig
from trainers.data.features import DatasetInfo
from trainers.distillation.teacher import Teacher

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
info = DatasetInfo.load(Path(sys.argv[1]))
images = np.load(sys.argv[2])
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
found = []
for source in sys.argv[3:]:
    with strategy.scope():
        teacher = Teacher.load(Config("s", distill=DistillConfig(source)), info)

    @tf.function
    def step(values):
        return strategy.run(teacher, args=(values,))

    shares = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(np.split(images, 2)[context.replica_id_in_sync_group])
    )
    parts = strategy.experimental_local_results(step(shares))
    found.append(np.concatenate(parts).tolist())
print(json.dumps(found))
"""


def test_a_teacher_answers_on_two_replicas(sources, folder, config, trained, images, tmp_path):
    np.save(tmp_path / "images.npy", images)
    kinds = [str(sources[kind]) for kind in ("folder", "bundle")]
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), str(tmp_path / "images.npy"), *kinds],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    for kind, found in zip(kinds, json.loads(ran.stdout.splitlines()[-1]), strict=True):
        alone = load(config, trained.info, kind)(images)
        np.testing.assert_allclose(found, alone, atol=1e-5)
