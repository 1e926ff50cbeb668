"""`sightline evaluate` and `compare` on a model of a real server."""

import http.server
import json
import shutil
import threading
import urllib.error
import urllib.request
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from sklearn import metrics as oracle
from typer.testing import CliRunner

from serving.client import ClientError
from serving.server.lifecycle.server_process import ServerProcess
from tfx_pipeline.cli import app
from tfx_pipeline.cli.views import served
from tfx_pipeline.cli.views.evaluate import evaluate_model
from tfx_pipeline.cli.views.served import predict_served
from trainers.data.features import DATASET_FILE, DatasetError, DatasetInfo, SplitInfo
from trainers.data.reader import raw_examples
from trainers.data.records_check import DataError
from trainers.evaluation.comparison import ComparisonError
from trainers.evaluation.metrics import metrics_with_intervals

pytestmark = pytest.mark.onednn

NAMES = tuple(str(i) for i in range(10))


class Brightness(tf.Module):
    """Ten classes by mean brightness, without preprocessing that Sightline knows."""

    def __init__(self, top_k, *, named):
        super().__init__()
        self.top_k, self.named = top_k, named

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def __call__(self, image_bytes):
        def mean(encoded):
            image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
            return tf.reduce_mean(tf.cast(image, tf.float32))

        level = tf.map_fn(mean, image_bytes, fn_output_signature=tf.float32) / 25.5
        scores = tf.nn.softmax(-tf.abs(level[:, None] - tf.range(10, dtype=tf.float32)))
        if not self.named:
            return {"scores": scores}
        best, classes = tf.math.top_k(scores, k=self.top_k)
        labels = tf.gather(tf.constant(NAMES), classes)
        return {"scores": best, "classes": classes, "labels": labels}


@pytest.fixture(scope="module")
def old(earlier):
    return earlier("b54914a")


@pytest.fixture(scope="module")
def server(old, tmp_path_factory):
    """The embedded server with a bundle, and with models that are none."""
    root = tmp_path_factory.mktemp("served")
    shutil.copytree(old / "bundles/tiny", root / "tiny")
    for name, module in (
        ("sorted", Brightness(10, named=True)),
        ("nameless", Brightness(10, named=False)),
        ("best3", Brightness(3, named=True)),
    ):
        tf.saved_model.save(module, str(root / name / "1"), signatures=module.__call__)
    with ServerProcess(root) as process:
        yield process


@pytest.fixture
def predict(old, server):
    def run(model="tiny", url="", data=None, lines=None, split="test"):
        return predict_served(
            url or server.rest_url,
            model=model,
            data=data or old / "data",
            split=split,
            notify=(lines if lines is not None else []).append,
        )

    return run


def with_classes(old, folder, classes, keep=NAMES, **changed):
    """The test split with classes in another order, and only the images of some of them."""
    info = DatasetInfo.load(old / "data")
    (folder / "Split-test").mkdir(parents=True)
    kept = 0
    path = folder / "Split-test" / "data_tfrecord-00000-of-00001"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in raw_examples(old / "data", "test"):
            example = tf.train.Example.FromString(record)
            label = example.features.feature["image/class/label"].int64_list.value
            name = info.classes[label[0] - info.label_offset]
            if name in keep:
                label[0] = classes.index(name) + info.label_offset
                writer.write(example.SerializeToString())
                kept += 1
    splits = {"test": SplitInfo(kept, 1, {})}
    info = replace(info, classes=tuple(classes), splits=splits, **changed)
    (folder / DATASET_FILE).write_text(info.to_json(), encoding="utf-8")
    return folder


@pytest.mark.parametrize("address", ["rest", "grpc", "version"])
def test_metrics_are_those_of_the_bundle(old, server, predict, address):
    url = {
        "rest": server.rest_url,
        "grpc": f"grpc://{server.grpc_target}",
        "version": f"{server.rest_url}/v1/models/tiny/versions/1",
    }[address]
    lines = []
    found = predict("" if address == "version" else "tiny", url, lines=lines)
    local = evaluate_model(old / "bundles/tiny/1", old / "data", "test", "saved_model")
    metrics = metrics_with_intervals(found.scores, found.labels)
    for name, expected in local["saved_model"].items():
        assert metrics[name].as_list() == pytest.approx(expected, abs=1e-6)
    count = DatasetInfo.load(old / "data").splits["test"].examples
    assert len(set(found.ids.tolist())) == len(found.ids) == count
    assert f"{count} of {count} images" in lines[-1]
    assert "images/s" in lines[-1]


def test_classes_are_paired_by_name(old, predict, tmp_path):
    straight = predict()
    back = predict(data=with_classes(old, tmp_path / "back", NAMES[::-1]))
    np.testing.assert_array_equal(back.labels, straight.labels)
    np.testing.assert_allclose(back.scores, straight.scores, atol=1e-7)
    some = predict(data=with_classes(old, tmp_path / "some", ["7", "2"], keep=("2", "7")))
    chosen = np.isin(straight.labels, [2, 7])
    np.testing.assert_array_equal(some.labels, straight.labels[chosen])
    np.testing.assert_allclose(some.scores, straight.scores[chosen], atol=1e-7)


def brightness_scores(old):
    rows = []
    for record in raw_examples(old / "data", "test"):
        encoded = tf.train.Example.FromString(record).features.feature["image/encoded"]
        level = tf.io.decode_image(encoded.bytes_list.value[0], channels=3).numpy().mean() / 25.5
        rows.append(np.exp(-np.abs(level - np.arange(10))))
    return np.array(rows) / np.sum(rows, axis=1, keepdims=True)


def test_an_image_signature_with_all_scores_is_enough(old, predict):
    found = predict("sorted")
    scores = brightness_scores(old)
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)
    loss = oracle.log_loss(found.labels, scores, labels=range(10))
    assert metrics_with_intervals(found.scores, found.labels)["cross_entropy"].value == (
        pytest.approx(loss, abs=1e-6)
    )


def test_the_order_of_classes_without_names_is_reported(old, predict):
    lines = []
    found = predict("nameless", lines=lines)
    np.testing.assert_allclose(found.scores, brightness_scores(old), atol=1e-6)
    assert "returned no names of 10 of 10 classes; they are assumed" in lines[-1]


def test_what_cannot_be_evaluated_is_explained(old, predict, server, tmp_path):
    with pytest.raises(ComparisonError, match=r"best 3 classes only.* Cross entropy, calibration"):
        predict("best3")
    with pytest.raises(ClientError, match=r"serves no tinny .*did you mean tiny\?"):
        predict("tinny")
    with pytest.raises(ClientError, match="serves no tinny"):
        predict("tinny", f"grpc://{server.grpc_target}")
    with pytest.raises(ClientError, match="serves no tiny version 9"):
        predict("", f"{server.rest_url}/v1/models/tiny/versions/9")
    with pytest.raises(ComparisonError, match="name one with --model NAME"):
        predict("")
    other = with_classes(old, tmp_path / "other", ["zero", *NAMES[1:]], keep=NAMES[1:])
    with pytest.raises(DatasetError, match=r"lacks 1 of the 10 classes of the data set.*'zero'"):
        predict("sorted", data=other)
    more = with_classes(old, tmp_path / "more", [*NAMES, "ten"])
    with pytest.raises(ComparisonError, match=r"has 10 classes, but the data set .* has 11"):
        predict(data=more)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("http://127.0.0.1:9", "--model", "tiny"), "is `sightline serve` running there?"),
        (("http://127.0.0.1:9", "--model", "tiny", "--variant", "x"), "serves one variant"),
    ],
)
def test_errors_of_the_command(old, arguments, words):
    result = CliRunner().invoke(app, ["evaluate", *arguments, "--data", str(old / "data")])
    assert result.exit_code == 1
    assert words in str(result.exception)


def test_no_data_is_an_error(server):
    result = CliRunner().invoke(app, ["evaluate", server.rest_url, "--model", "tiny"])
    assert "give --data" in str(result.exception)


@pytest.mark.parametrize("where", ["server", "bundle"])
def test_records_without_labels_are_named(old, server, tmp_path, where):
    data = with_classes(old, tmp_path / "data", NAMES)
    (file,) = (data / "Split-test").iterdir()
    records = list(tf.data.TFRecordDataset(str(file)).as_numpy_iterator())
    with tf.io.TFRecordWriter(str(file)) as writer:
        for number, record in enumerate(records):
            example = tf.train.Example.FromString(record)
            if number == 5:
                del example.features.feature["image/class/label"]
            writer.write(example.SerializeToString())
    subject = {"server": f"{server.rest_url}/v1/models/sorted", "bundle": str(old / "bundles/tiny")}
    options = ("--data", str(data), "--out", str(tmp_path / "out"))
    result = CliRunner().invoke(app, ["evaluate", subject[where], *options])
    assert result.exit_code == 1
    assert isinstance(result.exception, DataError)
    for words in (file.name, "record 5", "image/class/label"):
        assert words in str(result.exception)


class Flaky(http.server.BaseHTTPRequestHandler):
    """Forwards requests, and rejects every third one before the server sees it."""

    target, seen, rejected = "", 0, 0

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        Flaky.seen += 1
        if Flaky.seen % 3 == 0:
            Flaky.rejected += 1
            self.reply(503, b"{}")
            return
        request = urllib.request.Request(Flaky.target + self.path, body or None)
        request.method = self.command
        with urllib.request.urlopen(request) as found:
            self.reply(found.status, found.read())

    do_POST = do_GET

    def reply(self, status, content):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format, *args):
        pass


def test_requests_are_retried_and_each_image_counts_once(predict, server, monkeypatch):
    monkeypatch.setattr(served, "_IMAGES", 4)
    Flaky.target, Flaky.seen, Flaky.rejected = server.rest_url, 0, 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Flaky) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        found = predict("sorted", f"http://127.0.0.1:{proxy.server_port}")
        proxy.shutdown()
    straight = predict("sorted")
    assert Flaky.rejected > 2
    np.testing.assert_array_equal(found.ids, straight.ids)
    np.testing.assert_array_equal(found.scores, straight.scores)


def test_a_server_is_compared_with_the_bundle_that_it_serves(old, server, tmp_path):
    out = tmp_path / "found.json"
    models = (f"{server.rest_url}/v1/models/tiny", str(old / "bundles/tiny/1"))
    result = CliRunner().invoke(
        app, ["compare", *models, "--data", str(old / "data"), "--out", str(out)]
    )
    assert result.exit_code == 0, result.exception
    (one,) = json.loads(out.read_text())["comparisons"]
    assert (one["paired"]["gained"], one["paired"]["lost"], one["differing"]) == (0, 0, 0)


def test_a_served_model_is_analyzed(old, server, tmp_path):
    result = CliRunner().invoke(
        app,
        [
            *("evaluate", server.rest_url, "--model", "tiny", "--out", str(tmp_path / "out")),
            *("--data", str(old / "data"), "--slices", "brightness"),
        ],
    )
    assert result.exit_code == 0, result.exception
    found = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert {one["key"] for one in found["slices"]} == {"brightness"}
    assert (tmp_path / "out/errors.csv").read_text().count("\n") == found["errors"] + 1
