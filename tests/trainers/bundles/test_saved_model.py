"""The SavedModel of a bundle: its signatures over one graph, on real images."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy.special import softmax
from tensorflow_serving.apis import prediction_log_pb2

from core import bundle
from trainers.bundles.saved_model import (
    embedding_size,
    git_commit,
    write_saved_model,
    write_warmup,
)
from trainers.config import override
from trainers.data.pipeline import eval_batches
from trainers.identity.stack import stack
from trainers.keras import keras

pytestmark = pytest.mark.onednn

_TRIANGLE = Image.Resampling.BILINEAR


@pytest.fixture(scope="module")
def signatures(built):
    """The loaded SavedModel's signatures."""
    return tf.saved_model.load(str(built[0])).signatures


@pytest.fixture(scope="module")
def pixels(config, trained):
    """(53,16,16,3) uint8: what evaluation sees of the test split, JPEG photographs among it."""
    batches = eval_batches(config, trained.info, "test", batch=10)
    parts = [batch.images.numpy()[batch.mask.numpy() > 0] for batch in batches]
    return np.concatenate(parts)


@pytest.fixture(scope="module")
def scores(signatures, pixels):
    """(53,10) softmax of the exported network."""
    return signatures["predict_tensor"](images=tf.constant(pixels))["scores"].numpy()


def test_bytes_in_are_evaluations_pixels_bit_for_bit(signatures, encoded, pixels):
    images = signatures["preprocess"](image_bytes=tf.constant(encoded["test"]))["images"]
    assert images.dtype == tf.uint8
    np.testing.assert_array_equal(images.numpy(), pixels)
    assert len(np.unique(pixels[-2:])) > 100, "the photographs are not blank"


@pytest.mark.parametrize("resize", ["antialias", "bilinear"])
def test_the_graph_resizes_as_the_configuration_says(trained, tmp_path, resize):
    """Large images of several sizes in one batch, against Pillow and TensorFlow's own resize."""
    config = override(trained.config, [f"data.resize={resize}", "data.crop_fraction=1"])
    write_saved_model(trained.model, config, trained.info, tmp_path)
    noise = np.random.default_rng(0)
    images = [noise.integers(0, 256, (*size, 3), np.uint8) for size in ((90, 90), (60, 200))]
    encoded = tf.constant([tf.io.encode_png(one).numpy() for one in images])
    loaded = tf.saved_model.load(str(tmp_path))
    found = loaded.signatures["preprocess"](image_bytes=encoded)["images"].numpy().astype(int)
    for image, got in zip((images[0], images[1][:, 70:130]), found, strict=True):
        expected = {
            "antialias": np.asarray(
                Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR)
            ),
            "bilinear": tf.image.resize(image, (16, 16)).numpy().round(),
        }
        for name, pixels in expected.items():
            apart = np.abs(got - pixels).max()
            assert apart <= 1 if name == resize else apart > 20


def test_the_network_inside_is_the_trained_one(trained, pixels, scores):
    logits = trained.model(pixels.astype(np.float32), training=False).numpy()
    np.testing.assert_allclose(scores, softmax(logits, axis=1), atol=1e-5)


def assert_is_top_3(answer, scores):
    order = np.argsort(-scores, axis=1, kind="stable")[:, :3]
    np.testing.assert_array_equal(answer["classes"].numpy(), order)
    expected = np.take_along_axis(scores, order, axis=1)
    np.testing.assert_allclose(answer["scores"].numpy(), expected, atol=1e-6)
    names = [[name.decode() for name in row] for row in answer["labels"].numpy()]
    assert names == [[f"digit {number}" for number in row] for row in order]
    assert (answer["classes"].dtype, answer["scores"].dtype) == (tf.int32, tf.float32)


def test_bytes_give_the_top_k_of_all_scores(signatures, encoded, scores):
    answer = signatures["serving_default"](image_bytes=tf.constant(encoded["test"]))
    assert_is_top_3(answer, scores)


def test_raw_records_give_the_same(signatures, records, scores):
    answer = signatures["predict_examples"](examples=tf.constant(records[1]["test"]))
    assert_is_top_3(answer, scores)


def test_embeddings_are_what_the_classifier_takes(signatures, trained, built, encoded, scores):
    found = signatures["predict_embeddings"](image_bytes=tf.constant(encoded["test"]))
    embeddings = found["embeddings"].numpy()
    kernel, bias = trained.model.get_layer("logits").get_weights()
    assert embeddings.dtype == np.float32
    assert embeddings.shape == (53, len(kernel)) == (53, built[1].embedding_size)
    np.testing.assert_allclose(softmax(embeddings @ kernel + bias, axis=1), scores, atol=1e-5)


def test_a_network_without_a_classifier_layer_has_no_embeddings(trained, tmp_path):
    images = keras.Input((16, 16, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(images)
    model = keras.Model(images, keras.layers.Dense(10, name="other")(pooled))
    write_saved_model(model, trained.config, trained.info, tmp_path)
    assert "predict_embeddings" not in tf.saved_model.load(str(tmp_path)).signatures
    assert embedding_size(model) == 0


def test_no_images_give_no_answers(signatures):
    none = tf.constant([], tf.string)
    images = signatures["preprocess"](image_bytes=none)["images"]
    assert (images.shape, images.dtype) == ((0, 16, 16, 3), tf.uint8)
    assert signatures["predict_tensor"](images=images)["scores"].shape == (0, 10)
    size = signatures["predict_embeddings"].structured_outputs["embeddings"].shape[-1]
    embeddings = signatures["predict_embeddings"](image_bytes=none)["embeddings"]
    assert (embeddings.shape, embeddings.dtype) == ((0, size), tf.float32)
    for answer in (
        signatures["serving_default"](image_bytes=none),
        signatures["predict_examples"](examples=none),
    ):
        assert {name: (value.shape, value.dtype) for name, value in answer.items()} == {
            "scores": ((0, 3), tf.float32),
            "classes": ((0, 3), tf.int32),
            "labels": ((0, 3), tf.string),
        }


def test_an_empty_batch_leaves_convolutions_outside_branches(built):
    # In a branch they would not be fused with what follows them, which costs time in every call.
    function = tf.saved_model.load(str(built[0])).signatures["predict_tensor"]
    called = function.graph.as_graph_def().library.function
    inside = {node.op for definition in called for node in definition.node_def}
    assert "Conv2D" in inside
    assert inside.isdisjoint({"If", "StatelessIf", "Case", "StatelessCase"})


def test_bytes_that_are_no_image_are_refused(signatures, encoded):
    both = tf.constant([encoded["test"][0], b"<html>no</html>"])
    with pytest.raises(tf.errors.InvalidArgumentError):
        signatures["serving_default"](image_bytes=both)


def test_labels_are_in_order(built):
    text = (built[0] / "assets" / "labels.txt").read_text()
    assert text.splitlines() == [f"digit {number}" for number in range(10)]
    assert not (built[0] / "labels.txt").exists()


def test_warm_up_requests_are_ones_the_model_answers(built, signatures, encoded):
    dataset = tf.data.TFRecordDataset(str(built[0] / bundle.WARMUP_FILE))
    logs = [prediction_log_pb2.PredictionLog.FromString(one) for one in dataset.as_numpy_iterator()]
    assert len(logs) == 2
    for log, image in zip(logs, encoded["validation"], strict=False):
        request = log.predict_log.request
        assert (request.model_spec.name, request.model_spec.signature_name) == (
            "tiny",
            "serving_default",
        )
        image_bytes = tf.constant(tf.make_ndarray(request.inputs["image_bytes"]))
        assert image_bytes.numpy().tolist() == [image]
        assert signatures["serving_default"](image_bytes=image_bytes)["scores"].shape == (1, 3)


def test_without_warm_up_there_is_an_empty_file(tmp_path):
    write_warmup([], "tiny", tmp_path)
    assert (tmp_path / bundle.WARMUP_FILE).stat().st_size == 0


def test_top_k_is_capped_at_the_number_of_classes(trained, config, tmp_path, encoded):
    more = override(config, ["export.top_k=99"])
    write_saved_model(trained.model, more, trained.info, tmp_path / "m")
    answer = tf.saved_model.load(str(tmp_path / "m")).signatures["serving_default"](
        image_bytes=tf.constant(encoded["test"][:2])
    )
    assert sorted(answer["classes"].numpy()[0]) == list(range(10))
    np.testing.assert_allclose(answer["scores"].numpy().sum(axis=1), 1, atol=1e-5)


def test_the_commit_is_git_s_or_nothing(monkeypatch, tmp_path):
    commit = git_commit()
    assert commit == "" or int(commit.removesuffix("+"), 16) > 0
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit() == ""


def test_the_stack_is_what_is_installed():
    found = stack()
    assert found["tensorflow"] == tf.__version__
    assert {"python", "tf_keras", "tensorflow-model-optimization", "ai-edge-litert"} <= set(found)
