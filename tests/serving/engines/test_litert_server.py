"""`.tflite` files in the server's engines: signatures, rows, variants, engine selection."""

import shutil
import tarfile

import numpy as np
import pytest

from serving.engines.saved_model import EngineError
from serving.server.models.engines import EngineOptions, load_engine, version_dirs

pytestmark = pytest.mark.onednn


def write_tflite(path, *, rows, signature=True):
    """y = x / 2 + 2 of (rows, 2); None leaves the rows open."""
    import tensorflow as tf

    module = tf.Module()
    spec = tf.TensorSpec([rows, 2], tf.float32, name="x")
    module.call = tf.function(lambda x: {"y": x / 2 + 2}, input_signature=[spec])
    concrete = module.call.get_concrete_function()
    if signature:
        saved = path.parent / "saved"
        tf.saved_model.save(module, str(saved), signatures=concrete)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(saved))
    else:
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
    path.write_bytes(converter.convert())
    return path


@pytest.fixture(scope="module", params=[1, None], ids=["one_row", "any_rows"])
def engine(request, tmp_path_factory):
    from serving.engines.litert import LiteRtEngine

    folder = tmp_path_factory.mktemp("tflite")
    opened = LiteRtEngine(write_tflite(folder / "model.tflite", rows=request.param), size=2)
    yield opened
    opened.close()


def predict(engine, x, signature="serving_default"):
    feeds, tensors = engine.prepare(signature, {"x": np.asarray(x, np.float32)})
    return engine.run_tensors(feeds, list(tensors.values()))[tensors["y"]]


def test_any_number_of_rows(engine):
    spec = engine.signatures["serving_default"]
    assert (spec.inputs["x"].dtype, spec.method_name) == ("DT_FLOAT", "tensorflow/serving/predict")
    for rows in (1, 3, 2, 1):
        x = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
        np.testing.assert_array_equal(predict(engine, x), x / 2 + 2)


def test_wrong_inputs_do_not_affect_the_next_request(engine):
    with pytest.raises(EngineError, match="no signature 'nope'; it has serving_default"):
        engine.prepare("nope", {})
    with pytest.raises(EngineError, match="must be float32, got int32"):
        engine.prepare("serving_default", {"x": np.zeros((1, 2), np.int32)})
    spec = engine.signatures["serving_default"]
    with pytest.raises(EngineError, match="must be float32, got int32"):
        engine.run_tensors({spec.inputs["x"].tensor: np.zeros((1, 2), np.int32)}, [])
    np.testing.assert_array_equal(predict(engine, [[1, 2]]), [[2.5, 3]])


def test_a_closed_engine(tmp_path):
    from serving.engines.litert import LiteRtEngine

    engine = LiteRtEngine(write_tflite(tmp_path / "model.tflite", rows=1, signature=False))
    assert list(engine.signatures) == ["serving_default"]
    engine.close()
    with pytest.raises(EngineError, match="closed") as caught:
        engine.run_tensors({}, [])
    assert caught.value.code == "UNAVAILABLE"


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["tflite", "tflite_with_sigdef"])
def test_prefer_tflite_model(shared_data, tmp_path, name):
    """A version of TF Serving's own that is a `.tflite` alone, through the model manager."""
    from serving.server.models import inference
    from serving.server.models.config import ServedModel
    from serving.server.models.manager import ModelManager
    from serving.server.scheduling.calls import run_now

    folder = f"saved_model_half_plus_two_{name}"
    with tarfile.open(shared_data / "tfserving_testdata_A.tar") as archive:
        members = [m for m in archive.getmembers() if m.name.startswith(folder + "/")]
        archive.extractall(tmp_path, members=members, filter="data")
    models = [ServedModel("m", tmp_path / folder)]
    plain = ModelManager(lambda: models)
    plain.sync()
    assert plain.available() == {"m": []}
    manager = ModelManager(lambda: models, engines=EngineOptions(prefer_tflite=True))
    manager.sync()
    assert manager.available() == {"m": [123]}
    with manager.use("m") as servable:
        x = np.array([[2.0], [6.0]], np.float32)
        outputs = run_now(inference.predict(servable, "", {"x": x}))
        assert outputs["y"].tolist() == [[3.0], [5.0]]
        metadata = inference.metadata(servable, ["signature_def"])
        listed = inference.signature_map(metadata).signature_def
        assert list(listed["serving_default"].inputs) == ["x"]
    manager.close()


def test_which_engine_is_chosen(tiny_draft, half_plus_two, tmp_path):
    def runtime(path, **options):
        engine = load_engine("m", path, EngineOptions(tflite_pools=1, **options))
        try:
            return engine.runtime, len(engine.signatures)
        finally:
            engine.close()

    assert runtime(tiny_draft) == ("TF1", 4)
    assert runtime(tiny_draft, prefer_tflite=True) == ("TFLite", 1)
    assert runtime(tiny_draft, variants={"": "none_fp32"}) == ("TFLite", 4)
    assert runtime(tiny_draft, variants={"m": "saved_model", "": "none_fp32"}) == ("TF1", 4)
    # Without a `.tflite`, and without being a bundle.
    assert runtime(half_plus_two / "123", prefer_tflite=True, variants={"": "x"}) == ("TF1", 3)
    with pytest.raises(EngineError, match="no variant 'x'; it has saved_model, none_fp32"):
        runtime(tiny_draft, variants={"m": "x"})
    (tmp_path / "2").mkdir()
    shutil.copy(tiny_draft / "model.tflite", tmp_path / "2")
    assert version_dirs(tmp_path, EngineOptions()) == {}
    assert list(version_dirs(tmp_path, EngineOptions(prefer_tflite=True))) == [2]


def test_examples_without_an_image(tiny_draft):
    engine = load_engine("m", tiny_draft, EngineOptions(variants={"": "none_fp32"}))
    for junk, words in ((b"\xff", r"examples\[0\] is not"), (b"", "must have one image/encoded")):
        with pytest.raises(EngineError, match=words):
            engine.prepare("predict_examples", {"examples": np.array([junk], object)})
    engine.close()
