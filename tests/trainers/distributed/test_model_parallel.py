"""Split networks give the results of whole ones, on two virtual devices in a child process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trainers.config import Config, DataConfig, ModelConfig
from trainers.distributed.model_parallel import Pipeline, SplitError, split
from trainers.keras import keras
from trainers.models import build_model
from trainers.profiling.model_graph import activations

pytestmark = pytest.mark.onednn

ROOT = Path(__file__).resolve().parents[3]
layers = keras.layers

# TensorFlow's devices are fixed once it has started.
CHILD = """
import json, sys
import numpy as np
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
from trainers.config import Config, DataConfig, ModelConfig
from trainers.keras import keras
from trainers.distributed.model_parallel import Pipeline
from trainers.models import build_model

layers = keras.layers

def branches(images):
    x = layers.Conv2D(8, 3, activation="relu")(images)
    for width in (8, 12):
        parts = [layers.Conv2D(width, side, padding="same")(x) for side in (1, 3, 5)]
        x = layers.Concatenate()([*parts, layers.AveragePooling2D(3, 1, "same")(x)])
    return layers.GlobalAveragePooling2D()(x)

def make(name, **options):
    if name == "inception":
        images = keras.Input((32, 32, 3))
        scaled = layers.Rescaling(1 / 255)(images)
        return keras.Model(images, layers.Dense(5)(branches(scaled)))
    data, model = DataConfig(image_size=(32, 32)), ModelConfig(name, options=options)
    return build_model(Config("test", data=data, model=model), 5)

options = {
    "resnet8": dict(zero_init=False),
    "vit": dict(width=32, depth=3, heads=2),
    "coatnet": dict(stem=8, blocks=(1, 1), widths=(16, 32), head_width=16),
    "mobilenet_v3_small": dict(depth=4),
}
images = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3)).astype(np.float32)
found = {}
for name in json.loads(sys.argv[1]):
    model = make(name, **options.get(name, {}))
    for layer in model.layers:  # Statistics that would show if weights were put in another order.
        if isinstance(layer, layers.BatchNormalization):
            noise = np.random.default_rng(len(layer.name))
            layer.set_weights([noise.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    pipeline = Pipeline(model, ["CPU:0", "CPU:1"], micro_batch=3)
    whole, got = model(images, training=False).numpy(), pipeline(images)
    memory = pipeline.memory()
    found[name] = {
        "difference": float(np.abs(whole - got).max() / np.abs(whole).max()),
        "spread": float(whole.std()),
        "shape": got.shape,
        "devices": [sorted({w.device[-5:] for w in s.weights}) for s in pipeline.stages],
        "multiply_adds": [stage.multiply_adds for stage in memory],
        "weights": sum(stage.weights_bytes for stage in memory) - 4 * model.count_params(),
        "uint8": float(np.abs(pipeline(images.astype(np.uint8)) - got).max()),
    }
print(json.dumps(found))
"""
SLOW = ("vit", "mobilenet_v3_small")  # Their parts are in a CoAtNet.
NAMES = (
    "resnet8",
    "coatnet",
    "inception",
    *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW),
)


@pytest.fixture(scope="module")
def two_devices(request):
    """What the child printed of each network that is not skipped."""
    chosen = {
        item.callspec.params["name"]
        for item in request.session.items
        if item.path == request.path
        and "two_devices" in item.fixturenames
        and not item.get_closest_marker("skip")
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD, json.dumps(sorted(chosen))],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", NAMES)
def test_two_devices_answer_as_one(two_devices, name):
    found = two_devices[name]
    assert found["shape"] == [7, 5]
    # Float additions of a stage may come in another order: some 10 roundings of 1.2e-7.
    assert found["difference"] < 2e-6
    assert found["uint8"] == 0.0
    assert found["spread"] > 1e-3  # Outputs that hardly vary would agree with anything.


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_divided_and_lie_on_their_devices(two_devices, name):
    found = two_devices[name]
    assert found["devices"] == [["CPU:0"], ["CPU:1"]]
    assert found["weights"] == 0
    first, second = found["multiply_adds"]
    assert max(first, second) < 0.65 * (first + second)


def chain(costs, sent):
    """A chain of 1x1 convolutions on one pixel: layer n has widths `sent[n]` to `sent[n + 1]`."""
    x = images = keras.Input((1, 1, sent[0]))
    for number, width in enumerate(sent[1:]):
        x = layers.Conv2D(width, 1, use_bias=False, name=f"conv{number}")(x)
    model = keras.Model(images, x)
    assert [layer.count_params() for layer in model.layers[1:]] == costs
    return model


def names(stages):
    return [
        [layer.name for layer in stage.layers if not isinstance(layer, layers.InputLayer)]
        for stage in stages
    ]


def test_cuts_balance_work():
    model = chain([16, 16, 16, 16], [4, 4, 4, 4, 4])
    assert names(split(model, 2)) == [["conv0", "conv1"], ["conv2", "conv3"]]
    assert [len(stage) for stage in names(split(model, 4))] == [1, 1, 1, 1]


def test_of_even_cuts_the_smallest_is_taken():
    # The most even cut is before conv2, where 30 numbers cross; one layer on it is 2.
    model = chain([600, 900, 60, 40, 400, 600], [20, 30, 30, 2, 20, 20, 30])
    assert names(split(model, 2))[0] == ["conv0", "conv1", "conv2"]
    model = chain([900, 60, 60, 900], [30, 30, 2, 30, 30])
    assert names(split(model, 2)) == [["conv0", "conv1"], ["conv2", "conv3"]]


@pytest.fixture(scope="module")
def ladder():
    """A network whose first map is needed again at its end, with two outputs."""
    images = keras.Input((8, 8, 3), dtype="uint8")
    first = x = layers.Rescaling(1 / 255)(images)
    for _ in range(4):
        x = layers.Conv2D(3, 3, padding="same")(x)
    middle = layers.Dense(2, name="middle")(layers.Flatten()(x))
    for _ in range(2):
        x = layers.Conv2D(3, 3, padding="same")(x)
    last = layers.Dense(4, name="last")(layers.Flatten()(layers.Multiply()([first, x])))
    return keras.Model(images, [middle, last])


def test_tensors_cross_stages_that_do_not_use_them(ladder):
    stages = split(ladder, 4)
    assert max(len(stage.inputs) for stage in stages) > 1
    images = np.random.default_rng(1).integers(0, 256, (5, 8, 8, 3), np.uint8)
    answers = Pipeline(ladder, ["CPU:0"] * 4, micro_batch=2)(images)
    for whole, got in zip(ladder(images), answers, strict=True):
        np.testing.assert_allclose(got, whole, rtol=0, atol=1e-6)


def test_splitting_leaves_the_model_as_it_was(ladder):
    before = [weight.copy() for weight in ladder.get_weights()]
    outputs = [layer.output for layer in ladder.layers]  # Raises for a layer with two calls.
    split(ladder, 3)
    assert [id(layer.output) for layer in ladder.layers] == [id(one) for one in outputs]
    for weight, kept in zip(ladder.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, kept)


def test_memory_and_bubble():
    model = build_model(
        Config("test", data=DataConfig(image_size=(16, 16)), model=ModelConfig("resnet8")), 10
    )
    pipeline = Pipeline(model, ["CPU:0"], micro_batch=4)
    (only,) = pipeline.memory()
    assert only.weights_bytes == 4 * model.count_params()
    assert only.activation_bytes == 4 * activations(model).peak
    assert only.sent_bytes == 4 * 4 * 10
    assert pipeline.bubble(8) == 0.0
    two = Pipeline(model, ["CPU:0", "CPU:0"], micro_batch=4)
    # Huang et al. 2019, section 2.3: (K - 1) / (M + K - 1).
    assert two.bubble(8) == pytest.approx(1 / 3)
    assert two.bubble(9) == pytest.approx(1 / 4)


@pytest.mark.parametrize("broken", [0, 1])
def test_an_error_in_a_stage_reaches_the_caller(ladder, monkeypatch, broken):
    pipeline = Pipeline(ladder, ["CPU:0", "CPU:0"], micro_batch=2)
    images = np.zeros((9, 8, 8, 3), np.uint8)

    def fail(tensors):
        raise MemoryError("out of memory")

    runs = [fail if number == broken else run for number, run in enumerate(pipeline._run)]
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_run", runs)
        with pytest.raises(MemoryError, match="out of memory"):
            pipeline(images)
    assert pipeline(images)[1].shape == (9, 4)


def test_models_that_cannot_be_split_are_an_error(ladder):
    with pytest.raises(SplitError, match=r"can be split into 1 to \d+ stages, got 99"):
        split(ladder, 99)
    with pytest.raises(SplitError, match="got 0"):
        split(ladder, 0)
    with pytest.raises(SplitError, match="2 stages need as many devices, got 1"):
        split(ladder, 2, devices=["CPU:0"])
    with pytest.raises(SplitError, match=r"no device named 'GPU:7' \(known: CPU:0"):
        Pipeline(ladder, ["GPU:7"], micro_batch=2)
    with pytest.raises(SplitError, match="at least one device"):
        Pipeline(ladder, [], micro_batch=2)
    with pytest.raises(SplitError, match="micro_batch must be at least 1, got 0"):
        Pipeline(ladder, ["CPU:0"], micro_batch=0)
    whole = Pipeline(ladder, ["CPU:0"], micro_batch=1)
    for shape in ((0, 8, 8, 3), (2, 9, 8, 3)):
        with pytest.raises(ValueError, match=r"of shape \(8, 8, 3\), got"):
            whole(np.zeros(shape, np.uint8))
