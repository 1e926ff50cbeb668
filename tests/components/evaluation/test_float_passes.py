"""Compressor and Predictor with a real network: float passes, validation, agreement everywhere."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax
from sklearn.datasets import load_digits
from tfx.types import standard_artifacts

from components import compressor, files
from components.artifacts import LiveModel, Selection
from components.compressor import Compressor
from components.evaluation import float_passes
from components.evaluation.columns import own_float
from components.gates.significance_gate import MissingColumnError, read_tables
from components.live import find_live, write_live
from components.predictor import Predictor
from core.bundle import open_bundle
from trainers.config import (
    CompressConfig,
    Config,
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from trainers.evaluation.predictions import write_table
from trainers.loop import fit
from trainers.training.trained import save_trained

CLASSES = tuple(str(digit) for digit in range(10))
SPLITS = {"train": slice(0, 160), "validation": slice(160, 200), "test": slice(200, 260)}


def pixels(split):
    """(N, 8, 8, 3) uint8, from scikit-learn and not from the records."""
    images = np.round(load_digits().images[SPLITS[split]] * (255 / 16)).astype(np.uint8)
    return np.repeat(images[..., None], 3, axis=3)


def record(image, label):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    encoded = buffer.getvalue()
    return {
        "image/encoded": encoded,
        "image/key/sha256": hashlib.sha256(encoded).hexdigest(),
        "image/class/label": int(label),
    }


def artifact(kind, folder):
    made = kind()
    made.uri = str(folder)
    Path(folder).mkdir(parents=True, exist_ok=True)
    return made


def call(component, **arguments):
    component.EXECUTOR_SPEC.executor_class._FUNCTION(code_digest="", **arguments)


@pytest.fixture(scope="module")
def compressed(tmp_path_factory, write_dataset):
    """The Compressor's artifact, the records' folder, and the Keras model of each method."""
    home = tmp_path_factory.mktemp("compressed")
    targets = load_digits().target
    splits = {
        name: [
            record(image, label) for image, label in zip(pixels(name), targets[part], strict=True)
        ]
        for name, part in SPLITS.items()
    }
    data = write_dataset(home / "data", splits, classes=CLASSES, slices=())
    config = Config(
        name="tiny",
        data=DataConfig(dir=str(data), image_size=(8, 8), crop_fraction=1.0),
        model=ModelConfig("cnn", options={"width": 8, "depth": 1, "stages": 2}),
        optim=OptimConfig("sgd", learning_rate=0.05, warmup_steps=2),
        train=TrainConfig(epochs=2, global_batch=32),
        compress=CompressConfig(qat_epochs=1, learning_rate=0.01, calibration_images=32),
        eval=EvalConfig(batch=32),
    )
    model = artifact(standard_artifacts.Model, home / "model")
    save_trained(fit(config, home / "work"), home / "model" / files.SERVING_MODEL)
    selection = artifact(Selection, home / "selection")
    files.write_json(home / "selection" / files.SELECTION, [{"name": "tiny"}])
    bundle = artifact(standard_artifacts.Model, home / "bundle")
    models = {}

    class Remembering(float_passes.FloatPasses):
        def __call__(self, method, model):
            models[method] = model
            super().__call__(method, model)

    plan = {"best": {"methods": ["qat"], "ptq": ["dynamic", "int8"]}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compressor, "FloatPasses", Remembering)
        call(
            Compressor,
            model=model,
            examples=artifact(standard_artifacts.Examples, data),
            selection=selection,
            bundle=bundle,
            plan=json.dumps(plan),
        )
    return bundle, data, models


@pytest.fixture(scope="module")
def predicted(compressed, tmp_path_factory):
    """The Predictor's artifact."""
    bundle, data, _ = compressed
    predictions = artifact(standard_artifacts.Examples, tmp_path_factory.mktemp("predictions"))
    examples = artifact(standard_artifacts.Examples, data)
    store = tmp_path_factory.mktemp("bundles") / "tiny"
    live = artifact(LiveModel, tmp_path_factory.mktemp("live"))
    write_live(find_live(store, CLASSES), store, Path(live.uri))
    call(Predictor, bundle=bundle, examples=examples, live=live, predictions=predictions)
    return predictions


def litert(bundle, variant, images):
    """(N,) classes by the interpreter itself, image by image."""
    from ai_edge_litert.interpreter import Interpreter

    draft = open_bundle(Path(bundle.uri) / files.SERVING_MODEL)
    interpreter = Interpreter(str(draft.tflite_path(variant)))
    interpreter.allocate_tensors()
    (given,), (scores,) = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for image in images:
        interpreter.set_tensor(given["index"], image[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(scores["index"])[0].argmax())
    return np.array(found)


def test_the_validation_split_is_predicted_as_well(compressed, predicted):
    test, validation, _ = read_tables(predicted.uri)
    assert (len(test["none_fp32"].labels), len(validation["none_fp32"].labels)) == (60, 40)
    assert json.loads(predicted.split_names) == ["test", "validation"]
    assert set(test) == set(validation)
    found = validation["ptq_int8"].scores.argmax(axis=1)
    np.testing.assert_array_equal(found, litert(compressed[0], "ptq_int8", pixels("validation")))


@pytest.mark.parametrize(("split", "at"), [("test", 0), ("validation", 1)])
def test_a_methods_float_pass_is_its_own_keras_model_in_float(compressed, predicted, split, at):
    bundle, _, models = compressed
    assert set(models) == {"qat"}
    table = read_tables(predicted.uri)[at]
    expected = softmax(models["qat"](pixels(split).astype(np.float32)).numpy(), axis=1)
    np.testing.assert_allclose(table["float/qat"].scores, expected, atol=1e-5)
    assert own_float("qat_int8", table) == "float/qat"
    assert own_float("ptq_int8", table) == "none_fp32"
    # Next to the draft and not in it, so that it cannot be pushed.
    draft = open_bundle(Path(bundle.uri) / files.SERVING_MODEL)
    assert not [path for path in draft.path.rglob("*") if files.FLOAT_PASSES in str(path.name)]
    assert not [variant.name for variant in draft.manifest.variants if "float/" in variant.name]


def test_disagreement_is_counted_over_every_split(compressed, predicted):
    everything = read_tables(predicted.uri)[2]
    assert (everything.images, everything.total) == (260, 260)
    images = np.concatenate([pixels(split) for split in SPLITS])
    reference = litert(compressed[0], "none_fp32", images)
    expected = {
        variant: int((litert(compressed[0], variant, images) != reference).sum())
        for variant in ("ptq_dynamic", "ptq_int8")
    }
    assert everything.differing == expected
    raw = json.loads((Path(predicted.uri) / files.AGREEMENT).read_text())
    assert raw["splits"] == {"test": 60, "validation": 40, "train": 160}


def test_a_limit_cuts_the_training_split_and_is_reported(compressed, predicted):
    bundle, data, _ = compressed
    test, validation, _ = read_tables(predicted.uri)
    draft = open_bundle(Path(bundle.uri) / files.SERVING_MODEL)
    tables = {"test": test, "validation": validation}
    cut = float_passes.count_differing(draft, data, tables, most=150)
    # 50 images are missing: two batches of 32.
    assert cut["splits"]["train"] == 64
    assert (cut["images"], cut["total"]) == (164, 260)
    assert "164 of all 260 images" in float_passes_detail(cut)
    assert "train" not in float_passes.count_differing(draft, data, tables, most=100)["splits"]


def float_passes_detail(raw):
    from components.gates.agreement import AllImages

    return AllImages.from_json(raw).describe("ptq_int8")


def test_a_table_without_a_float_pass_is_an_error_with_advice(predicted, tmp_path):
    test, _, _ = read_tables(predicted.uri)
    del test["float/qat"]
    write_table(files.predictions_file(str(tmp_path)), test, CLASSES)
    with pytest.raises(MissingColumnError, match=r"'qat_int8'.*--from Compressor"):
        read_tables(str(tmp_path))
