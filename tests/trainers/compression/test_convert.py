"""The converter's worker, on real files that LiteRT loads; and a worker that really dies."""

import io
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from trainers.compression.convert import (
    ConversionError,
    ConversionJob,
    convert_all,
    require,
    save_for_conversion,
)
from trainers.compression.qat import quantization_aware
from trainers.compression.tflite_file import LABELS_MEMBER, attach_labels
from trainers.keras import keras

pytestmark = pytest.mark.onednn

LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "acht", "neuf é")


@pytest.fixture(scope="module")
def aware(trained, digits):
    model = quantization_aware(trained)
    for start in range(0, 1000, 50):  # Finds the ranges.
        model(digits[0][start : start + 50].astype(np.float32), training=True)
    return model


@pytest.fixture(scope="module")
def joined(digits):
    """As in DenseNet: average pooling, whose output and a convolution's are put side by side."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(layers.Rescaling(1 / 255)(images))
    x = layers.AveragePooling2D(2)(x)
    for _ in range(2):
        y = layers.Activation("relu")(layers.BatchNormalization()(x))
        x = layers.Concatenate()([x, layers.Conv2D(8, 3, padding="same")(y)])
    x = layers.Activation("relu")(layers.BatchNormalization()(x))
    model = keras.Model(images, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))
    aware = quantization_aware(model)
    for _ in range(2):  # Finds the ranges.
        aware(digits[0][:50].astype(np.float32), training=True)
    return aware


@pytest.fixture(scope="module")
def results(trained, aware, joined, digits, tmp_path_factory):
    """Job name -> result: every dtype, and three jobs that cannot work."""
    folder = tmp_path_factory.mktemp("convert")
    np.save(folder / "calibration.npy", digits[0][:100])
    np.save(folder / "floats.npy", digits[0][:10].astype(np.float32))
    model = save_for_conversion(trained, folder / "float")
    qat = save_for_conversion(aware, folder / "qat")

    def job(name, saved, dtype, calibration=None):
        path = folder / calibration if calibration else None
        return ConversionJob(name, saved, dtype, folder / f"{name}.tflite", LABELS, path)

    jobs = [
        job("fp32", model, "fp32"),
        job("no_calibration", model, "int8"),
        job("dynamic", model, "dynamic"),
        job("bad_calibration", model, "int8", "floats.npy"),
        job("missing", folder / "nowhere", "fp32"),
        job("ptq", model, "int8", "calibration.npy"),
        job("qat", qat, "int8"),
        job("joined", save_for_conversion(joined, folder / "joined"), "int8"),
        job("qat_calibrated", qat, "int8", "calibration.npy"),
    ]
    return {result.job.name: result for result in convert_all(jobs)}


def run(result, images: np.ndarray) -> np.ndarray:
    interpreter = Interpreter(model_path=str(result.job.output), num_threads=1)
    runner = interpreter.get_signature_runner("predict_tensor")
    return np.concatenate([runner(images=image[None])["scores"] for image in images])


def keras_scores(model, images: np.ndarray) -> np.ndarray:
    logits = model(images.astype(np.float32), training=False).numpy()
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def labels_of(content):
    """What a reader of metadata, such as MediaPipe's, finds in the file's zip member."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return tuple(archive.read(LABELS_MEMBER).decode("utf-8").splitlines())


@pytest.mark.parametrize("name", ["fp32", "dynamic", "ptq", "qat"])
def test_files_keep_the_contract(name, results):
    result = results[name]
    assert result.ok, result.error
    interpreter = Interpreter(model_path=str(result.job.output), num_threads=1)
    (input_,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (input_["dtype"], tuple(input_["shape"])) == (np.uint8, (1, 8, 8, 3))
    assert (output["dtype"], tuple(output["shape"])) == (np.float32, (1, 10))
    assert interpreter.get_signature_list() == {
        "predict_tensor": {"inputs": ["images"], "outputs": ["scores"]}
    }
    assert result.size_bytes == result.job.output.stat().st_size > result.gzip_bytes > 0
    assert labels_of(result.job.output.read_bytes()) == LABELS
    assert zipfile.is_zipfile(result.job.output)


@pytest.mark.parametrize(("name", "tolerance"), [("fp32", 2e-5), ("dynamic", 0.05), ("ptq", 0.1)])
def test_scores_are_the_softmax_of_the_float_model(name, tolerance, results, trained, digits):
    images = digits[0][-100:]
    scores = run(results[name], images)
    expected = keras_scores(trained, images)
    assert np.abs(scores - expected).mean() < tolerance / 10
    if name == "fp32":
        np.testing.assert_allclose(scores, expected, atol=tolerance)
    assert (scores.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.98


def test_qat_file_computes_what_keras_emulated(results, aware, digits):
    images = digits[0][-100:]
    scores, expected = run(results["qat"], images), keras_scores(aware, images)
    np.testing.assert_allclose(scores, expected, atol=0.05)


@pytest.mark.xfail(
    not tf.__version__.startswith("2.16."),
    reason="the converter of TensorFlow 2.21 does not requantize the output of a pooling",
    strict=True,
)
def test_a_concatenation_of_average_pooling_is_int8(results, joined, digits):
    assert results["joined"].ok, results["joined"].error
    assert results["joined"].kernels == {"int8": 4}
    images = digits[0][-20:]
    scores, expected = run(results["joined"], images), keras_scores(joined, images)
    np.testing.assert_allclose(scores, expected, atol=0.02)


@pytest.mark.parametrize("name", ["ptq", "qat"])
def test_int8_scores_are_not_in_steps_of_1_256(name, results, digits):
    scores = run(results[name], digits[0][-50:])
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)
    steps = scores * 256
    assert np.abs(steps - np.round(steps)).max() > 0.1


def test_kernels_have_the_dtype_asked_for(results):
    assert results["fp32"].kernels == {"float32": 5}
    assert set(results["dynamic"].kernels) <= {"int8/float32", "float32"}
    assert results["ptq"].kernels == {"int8": 5}
    assert results["qat"].kernels == {"int8": 5}


@pytest.mark.parametrize("name", ["ptq", "qat"])
def test_int8_convolutions_have_a_scale_per_channel(name, results):
    details = Interpreter(model_path=str(results[name].job.output)).get_tensor_details()
    stored = [t for t in details if t["dtype"] == np.int8 and len(t["shape"]) == 4]
    scales = [
        len(t["quantization_parameters"]["scales"])
        for t in stored
        if t["shape"][1:3].tolist() == [3, 3]
    ]
    assert sorted(scales) == [16, 16, 32, 32]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_calibration", "needs `calibration`"),
        ("bad_calibration", "must hold uint8"),
        ("missing", "nowhere"),
        ("qat_calibrated", "leave `calibration` out"),
    ],
)
def test_a_job_that_raises_is_reported_and_writes_nothing(name, reason, results):
    assert reason in results[name].error
    assert not results[name].job.output.exists()
    assert not list(results[name].job.output.parent.glob(".*"))


def test_require_names_each_failure_with_its_reason(results):
    require([results["fp32"]])
    others = [result for name, result in results.items() if name != "joined"]
    with pytest.raises(ConversionError, match="4 of 8 conversions failed") as raised:
        require(others)
    for name in ("no_calibration", "bad_calibration", "missing", "qat_calibrated"):
        assert name in str(raised.value)


def test_a_dying_converter_costs_only_its_own_job(trained, tmp_path, monkeypatch):
    hook = tmp_path / "hook"
    hook.mkdir()
    # Python imports `sitecustomize` at start: the worker aborts as LLVM does, in mid-job.
    (hook / "sitecustomize.py").write_text(
        "import os, pathlib, sys\n"
        "read = pathlib.Path.read_bytes\n"
        "def read_bytes(self):\n"
        "    if 'fatal' in str(self):\n"
        "        print('LLVM ERROR: cannot lower the op', file=sys.stderr, flush=True)\n"
        "        os.abort()\n"
        "    return read(self)\n"
        "pathlib.Path.read_bytes = read_bytes\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(hook))
    good = save_for_conversion(trained, tmp_path / "good")
    fatal = save_for_conversion(trained, tmp_path / "fatal")
    jobs = [
        ConversionJob("before", good, "fp32", tmp_path / "before.tflite"),
        ConversionJob("dies", fatal, "int8", tmp_path / "dies.tflite"),
        ConversionJob("after", good, "dynamic", tmp_path / "after.tflite"),
    ]
    before, dies, after = convert_all(jobs)
    assert before.ok
    assert after.ok, after.error
    assert "SIGABRT" in dies.error
    assert "LLVM ERROR: cannot lower the op" in dies.error
    assert not (tmp_path / "dies.tflite").exists()


def test_no_jobs_start_no_worker(monkeypatch):
    monkeypatch.setattr("subprocess.run", None)
    assert convert_all([]) == []


def test_jobs_are_checked_before_anything_runs(tmp_path):
    one = ConversionJob("a", tmp_path, "fp16", tmp_path / "a.tflite")
    with pytest.raises(ValueError, match=r"fp32, dynamic, int8.*'fp16'"):
        convert_all([one])
    two = [ConversionJob(name, tmp_path, "fp32", tmp_path / "same.tflite") for name in "ab"]
    with pytest.raises(ValueError, match="another job writes"):
        convert_all(two)


def test_labels_are_a_zip_member_behind_any_bytes():
    content = b"\x1c\x00\x00\x00TFL3" + bytes(range(256))
    labeled = attach_labels(content, LABELS)
    assert labeled.startswith(content)
    assert labels_of(labeled) == LABELS
    assert not zipfile.is_zipfile(io.BytesIO(content))
    assert labeled == attach_labels(content, LABELS), "equal models must be equal in bytes"
    with zipfile.ZipFile(io.BytesIO(labeled)) as archive:
        assert archive.namelist() == ["labels.txt"]
        assert archive.testzip() is None
