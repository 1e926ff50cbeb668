"""What earlier versions wrote is still loaded, evaluated, served and resumed."""

import json
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

from core.bundle import open_bundle
from serving.client import connect
from serving.server.lifecycle.server_process import ServerProcess
from tfx_pipeline.cli.views.evaluate import evaluate_model
from trainers.config import from_dict, override
from trainers.data import features
from trainers.data.features import DatasetInfo
from trainers.data.pipeline import raw_examples
from trainers.data.preprocess import Preprocessing, eval_images
from trainers.identity.file_index import FileIndex
from trainers.loop import fit
from trainers.optim import compression_rate, schedule_of
from trainers.training.run_folder import find_resumable, identify
from trainers.training.trained import load_trained

VERSION = "b54914a"
EPOCHS = 40
# `stopped` was killed after this epoch, in step 4 of 12 of the next one.
DONE = 34


@pytest.fixture(scope="module")
def old(earlier):
    """The unpacked archive."""
    return earlier(VERSION)


@pytest.fixture(scope="module")
def expected(old):
    """Labels from 0, classes and scores of the test images, by the version that made them."""
    raw = json.loads((old / "expected.json").read_text())
    return np.array(raw["labels"]) - 1, np.array(raw["classes"]), np.array(raw["scores"])


@pytest.fixture(scope="module")
def images(old):
    """Encoded test images."""
    examples = (tf.train.Example.FromString(one) for one in raw_examples(old / "data", "test"))
    return [one.features.feature[features.IMAGE].bytes_list.value[0] for one in examples]


@pytest.fixture(scope="module")
def signatures(old):
    """The SavedModel's own."""
    return tf.saved_model.load(str(old / "bundles/tiny/1")).signatures


@pytest.fixture(scope="module")
def config(old):
    """The configuration of both runs."""
    config = from_dict(json.loads((old / "trained/config.json").read_text()))
    return override(config, [f"data.dir={old / 'data'}"])


def test_the_bundle_is_whole_and_computes_what_it_did(old, signatures, images, expected):
    bundle = open_bundle(old / "bundles/tiny/1")
    assert bundle.manifest.recommended == "ptq_int8"
    assert {one.name for one in bundle.manifest.variants} >= {"none_fp32", "ptq_int8", "qat_int8"}
    found = signatures["serving_default"](image_bytes=tf.constant(images))
    _, classes, scores = expected
    np.testing.assert_allclose(found["scores"].numpy(), scores, atol=1e-4)
    # Where two scores are closer than machines differ, either class may come first.
    clear = scores[:, 0] - scores[:, 1] > 1e-3
    assert clear.sum() > 20
    np.testing.assert_array_equal(found["classes"].numpy()[clear, 0], classes[clear, 0])


def test_the_bundle_is_served(old, images, expected):
    with ServerProcess(old / "bundles") as server, connect(server.rest_url, retries=0) as client:
        results = client.predict(images, model="tiny")
    scores = [one.top[0][2] for one in results]
    np.testing.assert_allclose(scores, expected[2][:, 0], atol=1e-4)


def test_every_variant_is_evaluated(old, expected):
    labels, classes, _ = expected
    top1 = float((classes[:, 0] == labels).mean())
    found = evaluate_model(old / "bundles/tiny/1", old / "data", "test")
    assert set(found) >= {"saved_model", "none_fp32", "ptq_dynamic", "ptq_int8", "qat_int8"}
    # One or two of thirty images may tip with int8; retraining for it moves a few more.
    for variant, metrics in found.items():
        assert metrics["top1"][0] == pytest.approx(top1, abs=0.21 if "qat" in variant else 0.07)


def test_the_trained_folder_is_the_network_of_its_bundle(old, signatures, images, expected):
    trained = load_trained(old / "trained")
    assert trained.info == DatasetInfo.load(old / "data")
    assert len(trained.history) == EPOCHS
    pixels = signatures["preprocess"](image_bytes=tf.constant(images))["images"]
    logits = trained.model(tf.cast(pixels, tf.float32), training=False)
    scores = tf.sort(tf.nn.softmax(logits), direction="DESCENDING").numpy()
    np.testing.assert_allclose(scores[:, :5], expected[2], atol=1e-4)


def test_images_are_cropped_and_resized_as_then(signatures, config):
    """By this version's code and the graph that was exported then, bit for bit."""
    assert (config.data.resize, config.data.fit) == ("bilinear", "stretch")
    noise = np.random.default_rng(0)
    encoded = []
    for shape in ((64, 64, 3), (200, 90, 3), (7, 50, 3), (333, 500, 3)):
        pixels = noise.integers(0, 256, shape, dtype=np.uint8)
        encoded += [tf.io.encode_png(pixels).numpy(), tf.io.encode_jpeg(pixels).numpy()]
    then = signatures["preprocess"](image_bytes=tf.constant(encoded))["images"]
    now = eval_images(tf.constant(encoded), Preprocessing.of(config.data))
    np.testing.assert_array_equal(now, then)
    newer = override(config, ["data.resize=antialias"])
    assert (eval_images(tf.constant(encoded), Preprocessing.of(newer.data)) != then).numpy().any()


def test_a_newer_resize_is_another_run(old, config):
    (folder,) = (old / "stopped/checkpoints").iterdir()
    newer = override(config, ["data.resize=antialias"])
    identity = identify(newer, DatasetInfo.load(old / "data"), None, FileIndex())
    assert identity.old_name(EPOCHS) == ""
    assert find_resumable(folder.parent, identity, steps_per_epoch=12) is None


def test_checkpoints_keep_their_name(old, config):
    (folder,) = (old / "stopped/checkpoints").iterdir()
    identity = identify(config, DatasetInfo.load(old / "data"), None, FileIndex())
    assert identity.old_name(EPOCHS) == folder.name, (
        "a configuration key that decides the weights is new: state in trainers/config.py what "
        "runs without it did, as `before=...`"
    )


def test_configurations_of_then_mean_what_they_meant(old):
    for file in ("trained/config.json", "bundles/tiny/1/manifest.json"):
        raw = json.loads((old / file).read_text())
        raw = raw.get("config", raw)
        config = from_dict(raw)
        assert compression_rate(config) == raw["compress"]["learning_rate"] == 0.015
        # Five steps, however short the run.
        assert raw["optim"]["warmup_steps"] == 5
        schedule = schedule_of(config.optim, 10)
        rates = [float(schedule(step)) for step in range(5)]
        np.testing.assert_allclose(rates, 0.02 * np.arange(1, 6), rtol=1e-6)


def test_a_stopped_run_is_resumed_when_the_user_says_so(old, config, tmp_path):
    checkpoints = shutil.copytree(old / "stopped/checkpoints", tmp_path / "c")
    (folder,) = checkpoints.iterdir()
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    said = []
    resumed = fit(config, checkpoints, announce=said.append, resume_anyway=True)
    assert re.fullmatch(
        rf"resumes from {folder} \(epoch 34 of 40 and 4 steps, commit unknown\), as "
        "--resume-anyway demands, although it was made by unknown code",
        said[0],
    )
    assert said[1:] == ["resumes at epoch 35, step 5"]
    assert before == {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    # The run that was not stopped, by the version of then; seconds differ, figures hardly.
    whole = json.loads((old / "trained/history.json").read_text())
    for name, tolerance in (("loss", 0.05), ("val_loss", 0.05), ("learning_rate", 1e-6)):
        ours, theirs = ([row[name] for row in one] for one in (resumed.history, whole))
        assert ours[:DONE] == theirs[:DONE]
        np.testing.assert_allclose(ours[DONE:], theirs[DONE:], atol=tolerance)
    (ours,) = (one for one in checkpoints.iterdir() if one.is_dir() and one != folder)
    assert len(list((ours / "last").glob("ckpt-*.index"))) == 2, "copies count as kept ones"
    # And now the state is ours.
    said.clear()
    assert fit(config, checkpoints, announce=said.append).history == resumed.history
    assert said == []


def test_a_finished_run_of_unknown_code_is_not_shipped_silently(old, config, tmp_path, monkeypatch):
    checkpoints = shutil.copytree(old / "trained/checkpoints", tmp_path / "c")
    (folder,) = checkpoints.iterdir()

    class TrainsError(Exception):
        pass

    def trains(step, batches, job):
        assert job.epoch == 0
        raise TrainsError

    monkeypatch.setattr("trainers.loop.run_epoch", trains)
    said: list[str] = []
    with pytest.raises(TrainsError):
        fit(config, checkpoints, announce=said.append)
    assert said == [
        f"starts over and keeps {folder} (epoch 40 of 40, commit unknown): it was made by unknown "
        "code; --resume-anyway resumes from it"
    ]
    assert (folder / "last/checkpoint").is_file()
