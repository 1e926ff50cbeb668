"""The request log: sampled, bounded, rotated whole, and read as TFX reads it."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from serving.server.errors import ServerError
from serving.server.extras.hooks import Exchange
from serving.server.extras.log_file import LogFile
from serving.server.extras.request_log import LogConfig, RequestLog, read_request_logs
from serving.server.observability.metrics import Metrics

WAIT = 20


def servable(name="m", version=7):
    return SimpleNamespace(name=name, version=version)


def predicted(image=b"\xff\xd8jpeg", name="m"):
    inputs = {"image_bytes": np.array([image], object)}
    outputs = {
        "scores": np.array([[0.75, 0.25]], np.float32),
        "labels": np.array([[b"cat", b"dog"]], object),
    }
    return Exchange("Predict", servable(name), "", inputs, outputs, ("scores", "labels"))


def classified():
    from tensorflow_serving.apis import classification_pb2, input_pb2

    request, result = input_pb2.Input(), classification_pb2.ClassificationResult()
    example = request.example_list.examples.add()
    example.features.feature["image/encoded"].bytes_list.value.append(b"raw")
    result.classifications.add().classes.add(label="cat", score=0.5)
    return Exchange("Classify", servable(), "by_example", request, result)


def records(folder, pattern="*.tfrecord"):
    """Every log of the files, read with tf.data."""
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    files = [str(path) for path in sorted(folder.glob(pattern))]
    dataset = tf.data.TFRecordDataset(files)
    return [
        prediction_log_pb2.PredictionLog.FromString(record)
        for record in dataset.as_numpy_iterator()
    ]


def made(folder, *, rate=1.0, model="m", **keywords):
    fields = {name: keywords.pop(name) for name in list(keywords) if name.startswith("max_b")}
    config = LogConfig(str(folder / "logs" / "requests"), rate, **fields)
    metrics = Metrics()
    return RequestLog({model: config}, metrics, **keywords), metrics, folder / "logs"


def test_predict_is_read_back(tmp_path):
    import tensorflow as tf

    log, metrics, folder = made(tmp_path, rate=0.5, draw=lambda: 0.4)
    before = int(time.time())
    log(predicted())
    log.close()
    (entry,) = records(folder)
    metadata = entry.log_metadata
    assert (metadata.model_spec.name, metadata.model_spec.version.value) == ("m", 7)
    assert metadata.model_spec.signature_name == "serving_default"
    assert metadata.sampling_config.sampling_rate == 0.5
    assert before <= metadata.timestamp_secs <= time.time()
    request, response = entry.predict_log.request, entry.predict_log.response
    # What TFX's and TFMA's readers of inference results look at: the raw input.
    assert tf.make_ndarray(request.inputs["image_bytes"]).tolist() == [b"\xff\xd8jpeg"]
    assert list(request.output_filter) == ["scores", "labels"]
    np.testing.assert_array_equal(
        tf.make_ndarray(response.outputs["scores"]), np.array([[0.75, 0.25]], np.float32)
    )
    assert tf.make_ndarray(response.outputs["labels"]).tolist() == [[b"cat", b"dog"]]
    assert 'request_log_count{model_name="m",status_code="OK"} 1' in metrics.text()


def test_classify_keeps_its_examples(tmp_path):
    log, _, folder = made(tmp_path)
    log(classified())
    log.close()
    (entry,) = records(folder)
    example = entry.classify_log.request.input.example_list.examples[0]
    assert example.features.feature["image/encoded"].bytes_list.value[:] == [b"raw"]
    assert entry.classify_log.response.result.classifications[0].classes[0].label == "cat"
    assert entry.log_metadata.model_spec.signature_name == "by_example"


def test_a_log_can_warm_up_a_model(tmp_path):
    """The same records are what `tf_serving_warmup_requests` holds."""
    log, _, folder = made(tmp_path)
    log(predicted())
    log.close()
    assert records(folder)[0].WhichOneof("log_type") == "predict_log"


def test_the_share_of_the_sample(tmp_path):
    draws = iter(np.linspace(0, 1, 100, endpoint=False))
    log, _, folder = made(tmp_path, rate=0.1, draw=lambda: next(draws))
    for _ in range(100):
        log(predicted())
    log.close()
    assert len(records(folder)) == 10


def test_only_the_configured_models(tmp_path):
    log, _, folder = made(tmp_path)
    log(predicted(name="other"))
    log.close()
    assert not list(folder.iterdir())
    log, _, folder = made(tmp_path, model="")
    log(predicted(name="a/b"))
    log.close()
    assert [r.log_metadata.model_spec.name for r in records(folder, "*a%2Fb*.tfrecord")] == ["a/b"]


def test_files_are_rotated_by_size_and_only_whole_ones_have_the_name(tmp_path):
    log, _, folder = made(tmp_path, max_bytes=2000)
    for index in range(10):
        log(predicted(bytes([index]) * 900))
    log.close()
    files = list(folder.glob("*"))
    assert {path.suffix for path in files} == {".tfrecord"}
    assert len(files) in (4, 5)
    seen = [r.predict_log.request.inputs["image_bytes"].string_val[0][0] for r in records(folder)]
    assert sorted(seen) == list(range(10))


def test_files_are_rotated_by_time_without_a_request(tmp_path):
    now = [0.0]
    log, _, folder = made(tmp_path, clock=lambda: now[0])
    log(predicted())
    deadline = time.monotonic() + WAIT
    while not list(folder.glob("*.open")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not list(folder.glob("*.tfrecord"))
    now[0] = 301.0
    while not list(folder.glob("*.tfrecord")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(records(folder)) == 1
    log.close()


def test_a_full_queue_drops_counts_and_never_waits(tmp_path, monkeypatch):
    entered, gate = threading.Event(), threading.Event()

    def slow(*arguments):
        entered.set()
        assert gate.wait(WAIT)
        raise OSError("disk full")

    monkeypatch.setattr("serving.server.extras.request_log.prediction_log", slow)
    log, metrics, _ = made(tmp_path, max_waiting=2)
    log(predicted())
    assert entered.wait(WAIT)
    for _ in range(5):
        log(predicted())
    assert 'status_code="RESOURCE_EXHAUSTED"} 3' in metrics.text()
    gate.set()
    log.close()
    # A record that cannot be written is counted, and the thread continues.
    assert 'status_code="UNKNOWN"} 3' in metrics.text()


CRASH = """
import sys, time
from test_request_log import made, predicted
from pathlib import Path
log, _, folder = made(Path(sys.argv[1]), max_bytes=2000)
for index in range(5):
    log(predicted(bytes([index]) * 900))
while len(list(folder.glob("*.tfrecord"))) < 1 or not list(folder.glob("*.open")):
    time.sleep(0.01)
print("written", flush=True)
time.sleep(60)
"""


def test_a_crash_loses_the_open_file_only(tmp_path):
    here = str(Path(__file__).parent)
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([here, *filter(None, sys.path)]),
    }
    child = subprocess.Popen(
        [sys.executable, "-c", CRASH, str(tmp_path)], stdout=subprocess.PIPE, env=environ
    )
    assert child.stdout.readline() == b"written\n"
    child.send_signal(signal.SIGKILL)
    child.wait(WAIT)
    child.stdout.close()
    folder = tmp_path / "logs"
    assert list(folder.glob("*.open"))
    whole = records(folder)
    assert whole
    assert all(len(r.predict_log.request.inputs["image_bytes"].string_val[0]) == 900 for r in whole)


LOGGING = (
    'logging_config { log_collector_config { type: "%s" filename_prefix: "%s" } '
    "sampling_config { sampling_rate: %s } }"
)


def test_logs_of_the_model_config_file(tmp_path):
    file = tmp_path / "models.config"
    file.write_text(
        'model_config_list { config { name: "a" base_path: "/a" '
        + LOGGING % ("", "/l/a", 0.25)
        + ' } config { name: "b" base_path: "/b" } }'
    )
    assert read_request_logs(file) == {"a": LogConfig("/l/a", 0.25)}


@pytest.mark.parametrize(
    ("kind", "prefix", "rate", "words"),
    [
        ("kafka", "/l/a", 1, "not known"),
        ("", "", 1, "file's name"),
        ("", "/l/", 1, "file's name"),
        ("", "/l/a", 1.5, r"\[0, 1\]"),
    ],
)
def test_invalid_logging_config(kind, prefix, rate, words, tmp_path):
    text = 'model_config_list { config { name: "a" base_path: "/a" %s } }'
    file = tmp_path / "models.config"
    file.write_text(text % (LOGGING % (kind, prefix, rate)))
    with pytest.raises(ServerError, match=words):
        read_request_logs(file)


def test_one_prefix_a_model(tmp_path):
    config = LogConfig(str(tmp_path / "r"))
    with pytest.raises(ServerError, match="Duplicate"):
        RequestLog({"a": config, "b": config}, Metrics())


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ServerError, match="cannot be written"):
        RequestLog({"": LogConfig(str(tmp_path / "file" / "r"))}, Metrics())


@contextlib.contextmanager
def no_space_beyond(size):
    """Files cannot grow beyond it, as on a full disk: the system fails the write half-way."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk(tmp_path, caplog):
    """Whole records only, one message, no file for each request, and on again after a while."""
    now = [0.0]
    log, metrics, folder = made(tmp_path, clock=lambda: now[0])
    size, image = 3000, b"\xff\xd8\xff" + bytes(900)
    with no_space_beyond(size):
        for _ in range(50):
            log(predicted(image))
        until(lambda: counted(metrics) == 50)
    (whole,) = folder.iterdir()
    assert whole.suffix == ".tfrecord"
    entries = records(folder)
    assert 0 < len(entries) == size // (whole.stat().st_size // len(entries))
    assert [r.levelname for r in caplog.records] == ["ERROR"]
    assert "File too large; requests continue without it" in caplog.text
    now[0] = 31.0
    log(predicted(image))
    log.close()
    assert len(records(folder)) == len(entries) + 1
    assert "is written again" in caplog.text
    assert len(list(folder.iterdir())) == 2


def counted(metrics):
    lines = metrics.text().splitlines()
    return sum(int(line.split()[-1]) for line in lines if "request_log_count{" in line)


def until(condition):
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_disk_without_any_space(tmp_path, caplog):
    log, metrics, folder = made(tmp_path)
    with no_space_beyond(100):
        for _ in range(20):
            log(predicted(bytes(900)))
        until(lambda: counted(metrics) == 20)
    log.close()
    assert not list(folder.iterdir())
    assert len(caplog.records) == 1


def test_what_a_killed_server_left(tmp_path, caplog):
    """Whole records are kept, half of one is not, an empty file goes, and a live one's stays."""
    log, _, folder = made(tmp_path)
    log(predicted())
    log.close()
    (first,) = folder.iterdir()
    data = first.read_bytes()
    prefix = str(folder / "requests")
    for name, content in (("m-cut", data + data[:-5]), ("m-head", data[:7]), ("m-none", b"")):
        Path(f"{prefix}-{name}.open").write_bytes(content)
    (folder / "other-m.open").write_bytes(data)
    live = LogFile(prefix, "live", 0.0)
    live.write(b"mine")
    second, _, _ = made(tmp_path)
    assert sorted(path.name for path in folder.glob("*.open")) == [
        "other-m.open",
        Path(live.path.with_suffix(".open")).name,
    ]
    assert (folder / "requests-m-cut.tfrecord").read_bytes() == data
    assert "requests-m-cut.tfrecord was left by a server that was killed" in caplog.text
    second.close()
    live.end()
    assert live.path.exists()
    assert len(list(folder.glob("*.tfrecord"))) == 3
