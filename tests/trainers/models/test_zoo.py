"""Every registered model end to end, found through the registry.

One training step, pruning, quantisation-aware training, export, TFLite, reload. `make test-slow`
takes a small network of each family; `make test-zoo` every model of up to 100 million parameters,
one after the other, and writes a table; larger ones are built and counted.
"""

import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from trainers.bundles.saved_model import write_saved_model
from trainers.compression import sparsity
from trainers.compression.convert import ConversionJob, convert_all, save_for_conversion
from trainers.compression.prune import prune
from trainers.compression.qat import quantization_aware
from trainers.config import CompressConfig, Config, OptimConfig
from trainers.data.features import DatasetInfo, SplitInfo
from trainers.keras import keras
from trainers.models.intermediates import intermediates
from trainers.optim import build_optimizer
from trainers.profiling.complexity import complexity
from trainers.registry import models
from trainers.training.losses import CrossEntropy

pytestmark = pytest.mark.onednn

LARGE = 100_000_000  # parameters
_KERNELS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
NORM = keras.layers.BatchNormalization

# Unsupported steps: (model name, or a prefix and `*`, step) -> reason.
REFUSED: dict[tuple[str, str], str] = {}


def reason(name: str, step: str) -> str:
    """Why `name` does not support `step`; empty if it does."""
    for (which, what), why in REFUSED.items():
        same = name.startswith(which[:-1]) if which.endswith("*") else name == which
        if same and what == step:
            return why
    return ""


def random_images(model: keras.Model, count: int = 2) -> np.ndarray:
    """uint8 noise of the model's input size."""
    shape = (count, *model.input_shape[1:])
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def train_step(model: keras.Model) -> None:
    """Every weight gets a finite gradient, and the step changes the output."""
    images, labels = tf.constant(random_images(model), tf.float32), tf.constant([0, 1])
    optimizer = build_optimizer(OptimConfig("sgd", learning_rate=0.1, schedule="constant"), 2)
    before = model(images).numpy()

    # Eagerly: to trace a deep network and its gradients for one step takes longer than the step.
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(CrossEntropy()(labels, model(images, training=True)))
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    assert np.isfinite(loss.numpy())
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert np.isfinite(tf.convert_to_tensor(gradient).numpy()).all(), variable.name
    assert not np.allclose(before, model(images).numpy())


class TwoSteps:
    """A `FineTune` of two eager steps on noise."""

    steps_per_epoch = 2

    def __call__(self, model, *, epochs, learning_rate, callbacks=()):
        images = random_images(model).astype(np.float32)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(1e-4), loss, run_eagerly=True)
        model.fit(
            images, np.array([0, 1]), batch_size=1, epochs=1, verbose=0, callbacks=list(callbacks)
        )


def pruned(model: keras.Model) -> None:
    """Half of the prunable weights become zero; input and output stay."""
    result = prune(model, TwoSteps(), CompressConfig(sparsity=0.5, prune_epochs=1))
    assert sparsity(result) == pytest.approx(0.5, abs=0.02)
    assert [layer.name for layer in result.layers] == [layer.name for layer in model.layers]


def exported(model: keras.Model, config: Config, folder: Path) -> None:
    """The SavedModel has the outputs of the model."""
    info = DatasetInfo(
        "made",
        task="classification",
        label_offset=0,
        classes=tuple("abcde"),
        splits={"train": SplitInfo(1, 1, {})},
        fingerprint="0",
    )
    write_saved_model(model, config, info, folder)
    images = random_images(model)
    loaded = tf.saved_model.load(str(folder)).signatures["predict_tensor"]
    scores = loaded(images=tf.constant(images))["scores"].numpy()
    np.testing.assert_allclose(scores, softmax(model(images).numpy()), atol=1e-4)


def jobs_of(name: str, model: keras.Model, folder: Path) -> tuple[keras.Model, list[ConversionJob]]:
    """The quantisation-aware model, and conversions of the float one and of that."""
    aware = quantization_aware(model)
    # With a momentum of 0, the statistics of two images of noise are unstable.
    norms = [layer for layer in aware.submodules if isinstance(layer, NORM)]
    for norm in norms:
        norm.trainable = False
    for _ in range(2):  # finds the ranges
        aware(tf.constant(random_images(model), tf.float32), training=True)
    return aware, [
        ConversionJob(
            f"{name}_{dtype}",
            save_for_conversion(network, folder / f"{name}_{dtype}"),
            dtype,
            folder / f"{name}_{dtype}.tflite",
        )
        for network, dtype in ((model, "fp32"), (aware, "int8"))
    ]


def tflite_scores(path: Path, images: np.ndarray) -> np.ndarray:
    runner = Interpreter(model_path=str(path), num_threads=1).get_signature_runner("predict_tensor")
    return np.concatenate([runner(images=image[None])["scores"] for image in images])


def batch_scores(path: Path, images: np.ndarray) -> np.ndarray:
    """The scores of all images in one call."""
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    (slot,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(slot["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(slot["index"], images)
    interpreter.invoke()
    return interpreter.get_tensor(output["index"])


def check_tflite(model: keras.Model, aware: keras.Model, results) -> None:
    """fp32 has the outputs of the model, int8 those of the emulation, with int8 kernels only.

    Both have the same outputs for a batch as for one image at a time.
    """
    assert [result.error for result in results] == ["", ""]
    images = random_images(model)
    float_scores, int8_scores = (tflite_scores(one.job.output, images) for one in results)
    for one, alone in zip(results, (float_scores, int8_scores), strict=True):
        np.testing.assert_allclose(batch_scores(one.job.output, images), alone, atol=1e-6)
    scores = softmax(model(images).numpy())
    np.testing.assert_allclose(float_scores, scores, atol=1e-4)
    emulated = softmax(aware(images.astype(np.float32), training=False).numpy())
    # A rounding may fall the other way in Keras' emulation, so not bit for bit; in a deep network
    # of noise that adds up, but to no more than the effect of quantization on the output.
    error, noise = np.abs(int8_scores - emulated), np.abs(emulated - scores)
    assert error.max() < max(0.1, noise.max())
    assert error.mean() < max(0.03, noise.mean())
    wrapped = [getattr(layer, "layer", None) for layer in aware.layers]
    assert results[1].kernels == {"int8": sum(isinstance(layer, _KERNELS) for layer in wrapped)}


def settle(model: keras.Model) -> None:
    """Makes gammas that start at 0 small instead: a kernel of zeros has no int8 scale.

    And all gammas smaller where, without statistics of images, noise grows with every block: in
    ResNet-RS-200 to logits of 1,600, which a change of the input by 1e-5 moves by 12 %.
    """
    model.set_weights([np.where(w == 0, 0.1, w) for w in model.get_weights()])
    if np.abs(model(random_images(model)).numpy()).max() > 100:
        for norm in [layer for layer in model.submodules if isinstance(layer, NORM)]:
            norm.gamma.assign(0.7 * norm.gamma)


@pytest.fixture(scope="module")
def small(make, small_names, tmp_path_factory):
    """Family -> (model, config, its quantisation-aware copy, conversion results), one worker."""
    folder, made, jobs = tmp_path_factory.mktemp("zoo"), {}, []
    for name in small_names:
        keras.utils.set_random_seed(1)
        model, config = make(name, tiny=True)
        settle(model)
        aware, its_jobs = jobs_of(name, model, folder)
        made[name] = model, config, aware
        jobs += its_jobs
    results = convert_all(jobs)
    pairs = [results[index : index + 2] for index in range(0, len(results), 2)]
    return {name: (*made[name], pair) for name, pair in zip(made, pairs, strict=True)}


@pytest.mark.slow
def test_small_networks_convert_with_equal_outputs(family, small):
    model, _, aware, results = small[family]
    check_tflite(model, aware, results)


@pytest.mark.slow
def test_small_networks_export_prune_and_train(family, small, tmp_path):
    model, config, _, _ = small[family]
    exported(model, config, tmp_path / "saved")
    pruned(model)
    train_step(model)


@pytest.fixture(scope="session")
def table(request):
    """Appends a line to `zoo.tsv` in the folder that pytest was started in."""
    path = Path(request.config.invocation_params.dir) / "zoo.tsv"

    def write(*cells) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write("\t".join(str(cell) for cell in cells) + "\n")

    return write


@pytest.mark.zoo
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", models.names())
def test_whole_zoo(name, make, tmp_path, table):
    keras.backend.clear_session()
    keras.utils.set_random_seed(1)
    started = time.monotonic()
    model, config = make(name)
    parameters = model.count_params()
    assert intermediates(model).logits == "logits"
    found = {}
    if parameters <= LARGE:
        settle(model)
        steps = {
            "export": lambda: exported(model, config, tmp_path / "saved"),
            "tflite": lambda: convert_whole(name, model, tmp_path),
            "prune": lambda: pruned(model),
            "train": lambda: train_step(model),
        }
        for step, run in steps.items():
            why = reason(name, step)
            if why:
                found[step] = f"refused: {why}"
                continue
            run()
            found[step] = "ok"
    cost = complexity(model).multiply_adds
    seconds = round(time.monotonic() - started)
    size = config.data.image_size[0]
    table(name, size, parameters, cost, *(f"{k} {v}" for k, v in found.items()), f"{seconds} s")


def convert_whole(name: str, model: keras.Model, folder: Path) -> None:
    aware, jobs = jobs_of(name, model, folder)
    check_tflite(model, aware, convert_all(jobs))
