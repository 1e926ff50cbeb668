"""Files whose input is resized to several images; the oracle is the same file, one at a time."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from trainers.compression import apply_rewrites, convert_worker
from trainers.compression.batch import any_batch
from trainers.compression.convert import ConversionJob, convert_all, require, save_for_conversion
from trainers.compression.qat import quantization_aware
from trainers.config import Config, DataConfig, ModelConfig
from trainers.keras import keras
from trainers.models import HEADS, build_model
from trainers.registry import models

pytestmark = pytest.mark.onednn

SIZE, BATCH = 32, 4
VIT = {"width": 8, "depth": 1, "heads": 2, "patch": 8}
#: The smallest network of each family: a builder function with its options.
FAMILIES = {
    "alexnet": {"width": 4},
    "cnn": {"width": 4, "depth": 1},
    "coatnet": {"blocks": (1, 1), "widths": (8, 16), "layout": "CT", "head_width": 8, "stem": 8},
    "deit": VIT,
    "efficientnet_lite0": {"width": 0.25, "depth": 3},
    "googlenet": {"width": 0.125},
    "mobilenet_v2": {"width": 0.25, "depth": 3},
    "mobilenet_v3_small": {"width": 0.25, "depth": 3},
    "resnet8": {"width": 4},
    "resnet_vit": {"width": 8, "depth": 1, "heads": 2, "trunk_width": 4, "blocks": (1, 1)},
    "efficientnet_b0": {},  # of keras.applications: squeeze and excitation by reshapes
    "vit": {**VIT, "pool": "mean"},
}
#: Those that the default run converts, with the variants that differ most.
QUICK = [("vit", "fp32"), ("deit", "int8"), ("coatnet", "dynamic")]
DTYPES = ("fp32", "dynamic", "int8", "qat")
#: Families with operators that the delegate refuses in int8.
ISLANDS = ("coatnet", "deit", "mobilenet_v3_small", "resnet_vit", "vit")


def small(name: str) -> keras.Model:
    keras.utils.set_random_seed(1)
    config = Config(
        "test",
        data=DataConfig(image_size=(SIZE, SIZE)),
        model=ModelConfig(name, options=FAMILIES[name]),
    )
    model = build_model(config, 5)
    for weight in model.trainable_weights:
        if "gamma" in weight.name and not np.any(weight):
            weight.assign(weight + 0.1)  # a kernel of zeros has no int8 scale
    if name == "googlenet":  # Its activations grow with depth, beyond the first ranges of QAT.
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = 0.0
        model(tf.constant(noise(8), tf.float32), training=True)
    # Random networks of some depth have logits whose softmax is 0 and 1 for every image.
    largest = np.abs(model(noise(8)).numpy()).max()
    for layer in model.layers:
        if layer.name in HEADS and isinstance(layer, keras.layers.Dense):
            layer.kernel.assign(layer.kernel / largest)
    return model


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def jobs_of(name: str, dtypes, folder) -> list[ConversionJob]:
    model, calibration = small(name), folder / "calibration.npy"
    np.save(calibration, noise(8))
    jobs = []
    for dtype in dtypes:
        network = model
        if dtype == "qat":
            network = quantization_aware(model)
            for layer in network.submodules:
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.trainable = False  # as later, when the ranges must fit
            for _ in range(2):  # finds the ranges
                network(tf.constant(noise(8), tf.float32), training=True)
        saved = save_for_conversion(network, folder / f"{name}_{dtype}")
        jobs.append(
            ConversionJob(
                f"{name}_{dtype}",
                saved,
                "int8" if dtype == "qat" else dtype,
                folder / f"{name}_{dtype}.tflite",
                calibration=calibration if dtype == "int8" else None,
            )
        )
    return jobs


def scores(content: bytes, images: np.ndarray) -> np.ndarray:
    """The output of one call for all images."""
    interpreter = Interpreter(model_content=content, num_threads=1)
    (slot,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert slot["shape"].tolist() == [1, SIZE, SIZE, 3]
    interpreter.resize_tensor_input(slot["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(slot["index"], images)
    interpreter.invoke()
    return interpreter.get_tensor(output["index"])


def check(results) -> None:
    require(results)
    check_files([result.job for result in results])


def check_files(jobs) -> None:
    images = noise(BATCH)
    for job in jobs:
        content = job.output.read_bytes()
        together = scores(content, images)
        alone = np.concatenate([scores(content, image[None]) for image in images])
        assert together.shape == (BATCH, 5), job.name
        np.testing.assert_allclose(together, alone, atol=1e-6, err_msg=job.name)
        assert np.ptp(alone, axis=0).max() > 0, f"{job.name} ignores the image"


def test_a_batch_has_the_scores_of_its_images(tmp_path):
    check(convert_all([job for name, dtype in QUICK for job in jobs_of(name, [dtype], tmp_path)]))


@pytest.mark.slow
def test_every_variant_of_every_family_runs_in_batches(tmp_path):
    check(convert_all([job for name in FAMILIES for job in jobs_of(name, DTYPES, tmp_path)]))


@pytest.mark.parametrize(
    "name",
    ["vit", *(pytest.param(one, marks=pytest.mark.slow) for one in ISLANDS if one != "vit")],
)
def test_files_with_float_islands_run_in_batches(name, tmp_path, monkeypatch):
    # Whether they pay in such small networks would otherwise decide which file is checked.
    monkeypatch.setattr(apply_rewrites, "_objection", lambda *_: "")
    jobs = jobs_of(name, ["int8", "qat"], tmp_path)
    samples, request = tmp_path / "calibration.npy", tmp_path / "request.json"
    listed = [
        {**asdict(job), "samples": samples, "report": tmp_path / f"{job.name}.json"} for job in jobs
    ]
    request.write_text(json.dumps(listed, default=str))
    convert_worker.main([str(request)])
    for one in listed:
        report = json.loads(one["report"].read_text())
        assert report["error"] == ""
        (islands,) = (done for done in report["rewrites"] if done["name"] == "delegate_islands")
        assert islands["applied"], islands
    check_files(jobs)


def test_every_family_is_checked():
    builders = {name: models.get(name) for name in models.names()}
    functions = {name: getattr(made, "func", made) for name, made in builders.items()}
    ours = {made for made in functions.values() if made.__module__.startswith("trainers.models.")}
    assert {functions[name] for name in FAMILIES} == ours


def test_one_image_costs_and_scores_the_same(tmp_path):
    saved = save_for_conversion(small("vit"), tmp_path / "saved")
    plain = tf.lite.TFLiteConverter.from_saved_model(str(saved)).convert()
    freed = any_batch(plain)
    image = noise(1)
    np.testing.assert_array_equal(scores(freed, image), scores(plain, image))
    operators = [
        [detail["op_name"] for detail in Interpreter(model_content=one)._get_ops_details()]
        for one in (plain, freed)
    ]
    assert operators[0] == operators[1]
    with pytest.raises(RuntimeError):
        scores(plain, noise(BATCH))
