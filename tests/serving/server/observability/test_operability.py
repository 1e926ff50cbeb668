"""What an operator sees: the log, the metrics, health while models come and go, and the end."""

import contextlib
import json
import logging
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import grpc
import numpy as np
import pytest

from serving.protocol import wire
from serving.server.extras.shadow import compare
from serving.server.lifecycle.server_process import ServerProcess
from serving.server.observability.logs import RateLimit, configured
from serving.server.observability.stderr_filter import MOST_LINES, SECONDS, copy

WAIT_S = 60
#: Of the end; two requests must fit in, however busy the machine is.
DELAY_S = 4
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
STAMP = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z "
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3


@pytest.fixture(scope="module")
def root(half_plus_two, tiny_draft, tmp_path_factory):
    """A bundle, and a model whose run takes for ever."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("operated")
    shutil.copytree(half_plus_two, folder / "hp2")
    shutil.copytree(tiny_draft, folder / "colors" / "1")

    def spin(x):
        return {"y": tf.while_loop(lambda v: v[0] >= 0, lambda v: [tf.abs(v) + 1], [x])[0]}

    module = tf.Module()
    spec = tf.TensorSpec([None], tf.float32, name="x")
    module.call = tf.function(spin, input_signature=[spec])
    tf.saved_model.save(module, str(folder / "spin" / "1"), module.call)
    return folder


@pytest.fixture(scope="module")
def server(root):
    flags = [
        "--file_system_poll_wait_seconds=0.1",
        "--health_urls",
        "--enable_grpc_healthcheck_service",
        "--run_timeout_ms=0",
        "--rest_api_timeout_in_ms=600000",
        "--load_retry_interval_micros=600000000",
        f"--lame_duck_seconds={DELAY_S}",
    ]
    with ServerProcess(root, flags=flags) as process:
        yield process


def get(server, path):
    try:
        with OPENER.open(server.rest_url + path, timeout=WAIT_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def predict(server, model, document):
    request = urllib.request.Request(
        f"{server.rest_url}/v1/models/{model}:predict", json.dumps(document).encode()
    )
    return OPENER.open(request, timeout=WAIT_S).status


def until(condition, words=lambda: ""):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, words()
        time.sleep(0.02)


class Watch:
    """What `grpc.health.v1.Health/Watch` has sent."""

    def __init__(self, server, service=""):
        self.channel = grpc.insecure_channel(server.grpc_target)
        method = self.channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=wire.message("HealthCheckResponse").FromString,
        )
        self.seen = []
        self.call = method(wire.message("HealthCheckRequest")(service=service))
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        with contextlib.suppress(grpc.RpcError):
            for answer in self.call:
                self.seen.append(answer.status)

    def close(self):
        self.call.cancel()
        self.channel.close()


def test_health_and_log_while_a_model_comes_and_goes(server, root):
    """A line and a metric for each load, failure and unload; ready means every model."""
    watch, unknown = Watch(server), Watch(server, "nope")
    until(lambda: watch.seen == [SERVING] and unknown.seen == [SERVICE_UNKNOWN])
    assert get(server, "/healthz/ready")[0] == 200
    broken = root / "broken"
    (broken / "7").mkdir(parents=True)
    (broken / "7" / "saved_model.pb").write_bytes(b"no model")
    until(lambda: watch.seen == [SERVING, NOT_SERVING], lambda: watch.seen)
    status, body = get(server, "/healthz/ready")
    assert (status, json.loads(body)["not_served"]) == (503, ["broken"])
    assert get(server, "/healthz/live")[0] == 200
    shutil.rmtree(broken)
    until(lambda: watch.seen == [SERVING, NOT_SERVING, SERVING], lambda: watch.seen)
    shutil.copytree(root / "hp2" / "123", root / "hp2" / "part")
    (root / "hp2" / "part").rename(root / "hp2" / "124")
    until(lambda: "model hp2 version 123 is unloaded" in server.log(), server.log)
    for words in (
        "INFO serving.server.models.manager: model hp2 version 123 is available",
        "INFO serving.server.models.manager: model hp2 version 124 is available",
        "INFO serving.server.models.manager: model hp2 version 123 is unloaded",
        "ERROR serving.server.models.manager: model broken version 7 does not load: ",
    ):
        assert re.search(STAMP + re.escape(words), server.log(), re.MULTILINE), server.log()
    metrics = get(server, "/monitoring/prometheus/metrics")[1]
    for name, event, count in (
        ("hp2", "loaded", 2),
        ("hp2", "unloaded", 1),
        ("broken", "failed", 1),
    ):
        line = (
            f':sightline:serving:model_event_count{{model_name="{name}",event="{event}"}} {count}'
        )
        assert line in metrics.splitlines()
    watch.close()
    unknown.close()


def test_the_log_can_be_read_while_it_is_written():
    """Reading moved the position that the server writes at, and lost lines."""
    process = ServerProcess()
    code = "import os\nfor line in range(200_000): os.write(1, b'%d\\n' % line)"
    with tempfile.TemporaryFile() as process._log:
        child = subprocess.Popen([sys.executable, "-c", code], stdout=process._log)
        while child.poll() is None:
            process.log()
        assert process.log().split() == [str(line) for line in range(200_000)]


def damaged_jpeg():
    import io

    from PIL import Image

    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    data = buffer.getvalue()
    return data[:-2] + bytes(50) + data[-2:]


def test_lines_of_libjpeg_are_in_the_log_and_not_without_end(server):
    import base64

    document = {"instances": [{"b64": base64.b64encode(damaged_jpeg()).decode()}]}
    start, began = len(server.log()), time.monotonic()
    for _ in range(3 * MOST_LINES):
        assert predict(server, "colors", document) == 200
    words = "WARNING native: Corrupt JPEG data: 49 extraneous bytes"
    until(lambda: words in server.log()[start:], server.log)
    lines = server.log()[start:].splitlines()
    assert all(re.match(STAMP, line) for line in lines), lines
    periods = 1 + int((time.monotonic() - began) / SECONDS)
    assert len(lines) <= (1 + periods) * (1 + MOST_LINES), lines


def test_sigterm_with_work_that_does_not_end(server):
    """Not ready at once, served for the delay, and ended although a run is under way."""
    stuck = threading.Thread(target=lambda: spin(server), daemon=True)
    stuck.start()
    watch = Watch(server)
    until(lambda: watch.seen == [SERVING])
    time.sleep(0.5)
    began = time.monotonic()
    server._process.send_signal(signal.SIGTERM)
    until(lambda: watch.seen == [SERVING, NOT_SERVING], lambda: watch.seen)
    assert get(server, "/healthz/ready")[0] == 503
    assert predict(server, "hp2", {"instances": [1.0]}) == 200
    assert server._process.wait(WAIT_S) == 0
    assert time.monotonic() - began >= DELAY_S
    assert f"SIGTERM: not ready from now on, stopping in {DELAY_S} s" in server.log()
    words = (
        STAMP
        + r"WARNING serving.server.lifecycle.stopping: \d+ threads had not ended and were stopped"
    )
    assert re.search(words, server.log(), re.MULTILINE), server.log()
    watch.close()


def spin(server):
    with contextlib.suppress(OSError):
        predict(server, "spin", {"instances": [1.0]})


def test_one_line_of_code_does_not_fill_the_log():
    now = [0.0]
    limit = RateLimit(clock=lambda: now[0])

    def passed(line, **extra):
        record = logging.LogRecord("n", logging.WARNING, "f.py", line, "%s", ("bad",), None)
        record.__dict__.update(extra)
        return record.getMessage() if limit.filter(record) else ""

    assert [passed(1) for _ in range(100)].count("bad") == 10
    assert passed(2) == "bad"
    assert all(passed(1, lifecycle=True) for _ in range(100))
    now[0] = 11
    assert passed(1) == "bad (and 90 more like it)"
    assert passed(1) == "bad"


def test_a_damaged_message_is_a_line_without_a_trace(capsys):
    before = logging.getLogger().handlers
    with configured("info"):
        try:
            raise ValueError("no message")
        except ValueError:
            logging.getLogger("grpc._common").exception("Exception deserializing request!")
            logging.getLogger("serving.x").exception("a fault of ours")
    assert logging.getLogger().handlers is before
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(STAMP + r"ERROR grpc._common: Exception deserializing request!", lines[0])
    assert re.fullmatch(STAMP + r"ERROR serving.x: a fault of ours", lines[1])
    assert lines[2].startswith("Traceback")


def test_the_filter_of_native_lines_keeps_the_last_words():
    now, written = [0.0], []
    lines = [b"line %d\n" % number for number in range(100)]
    copy(lines, written.append, clock=lambda: now[0])
    assert len(written) == 2 * MOST_LINES
    assert written[0] == "1970-01-01T00:00:00.000Z WARNING native: line 0\n"
    assert written[-1].endswith(" line 99\n")

    def slow():
        for line in lines:
            now[0] += 0.15
            yield line

    written.clear()
    copy(slow(), written.append, clock=lambda: now[0])
    assert any("lines of C libraries were left out" in line for line in written)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({"y": np.array([2.5, 3.0])}, True),
        ({"y": np.array([2.5, 3.0000001])}, True),
        ({"y": np.array([2.5, 3.1])}, False),
        ({"y": np.array([[2.5, 3.0]])}, False),
        ({"z": np.array([2.5, 3.0])}, False),
        ({}, False),
    ],
)
def test_a_shadow_agrees_when_the_values_do(other, same):
    """Numbers without classes were called agreed, whatever they were."""
    assert compare({"y": np.array([2.5, 3.0])}, other).values is not same
    words = {"label": np.array([b"cat"], object)}
    assert compare(words, {"label": np.array([b"dog"], object)}).values
    assert not compare(words, {"label": np.array([b"cat"], object)}).values


@pytest.mark.parametrize(("host", "warned"), [("0.0.0.0", True), ("127.0.0.1", False)])
def test_an_open_host_is_warned_of(tmp_path, capsys, host, warned):
    from serving.server.__main__ import main

    # The folder holds no model: it warns before it looks.
    assert main([f"--host={host}", f"--bundles_dir={tmp_path}"]) == 1
    assert ("opens the server to the network" in capsys.readouterr().err) is warned
