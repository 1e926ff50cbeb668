"""Random invalid requests and model folders, against a server in a child process.

After all of them it is alive, its memory is where it began, and good requests were always served.
"""

import contextlib
import gzip
import http.client
import json
import os
import random
import shutil
import socket
import threading
import time
from urllib.parse import urlsplit

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tensorflow_serving.apis import predict_pb2

from serving.server.lifecycle.server_process import ServerProcess

pytestmark = pytest.mark.onednn

MIB = 2**20
WAIT_S = 60
#: Rounds of requests, however slow the machine is.
LEAST = 20
PREDICT = "/tensorflow.serving.PredictionService/"
PATHS = (
    "/v1/models/hp2:predict",
    "/v1/models/hp2:classify",
    "/v1/models/hp2:regress",
    "/v1/models/colors:predict",
    "/v2/models/hp2/infer",
    "/v2/models/colors/infer",
    "/v1/models/hp2/versions/1:predict",
    "/v1/models/%ff/metadata",
    "/",
)
METHODS = ("Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata")


class FuzzedServer:
    """The server, the valid requests besides the fuzzing, and their results."""

    def __init__(self, root):
        flags = ["--open_inference", "--file_system_poll_wait_seconds=0.1", "--log_level=error"]
        self.root = root
        self.process = ServerProcess(root, flags=[*flags, "--load_retry_interval_micros=100000"])
        self.failed, self.answered = [], 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self):
        self.process.start()
        address = urlsplit(self.process.rest_url)
        self.host, self.port = address.hostname, address.port
        self.channel = grpc.insecure_channel(self.process.grpc_target)
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._stop.set()
        self._thread.join()
        self.channel.close()
        self.process.stop()

    def _ask(self):
        body = b'{"instances": [1.0]}'
        while not self._stop.is_set():
            try:
                status, data = self.send("POST", "/v1/models/hp2:predict", body)
                good = status == 200 and json.loads(data) == {"predictions": [2.5]}
            except (OSError, http.client.HTTPException) as error:
                good, status = False, repr(error)
            self.answered += good
            if not good:
                self.failed.append(status)
            time.sleep(0.05)

    def send(self, method, path, body=b"", headers=()):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=WAIT_S)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read()

    def raw(self, data):
        """Sends bytes on a new connection and returns what arrives at once."""
        address = self.host, self.port
        with contextlib.suppress(OSError), socket.create_connection(address, WAIT_S) as connection:
            connection.sendall(data)
            connection.settimeout(0.02)
            connection.recv(4096)

    def call(self, method, data):
        with contextlib.suppress(grpc.RpcError):
            self.channel.unary_unary(method)(data, timeout=WAIT_S)
        return self.process._process.poll() is None

    @property
    def memory(self):
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from([2**63, 2**64, -(2**63) - 1, 1e308, "\ud800", "AA=="]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(["x", "y", "b64", "image_bytes", "data", "shape"]), inner, max_size=3
        ),
    ),
    max_leaves=20,
)
documents = st.dictionaries(
    st.sampled_from(["instances", "inputs", "examples", "context", "signature_name", "outputs"]),
    values,
    max_size=3,
).map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass"))
bodies = st.one_of(
    documents,
    st.binary(max_size=200),
    # Made in the test: hypothesis writes down what it has drawn.
    st.tuples(
        st.sampled_from([b"[", b'{"a":', b"1,", b'"', b"[],", b"\\ud800", b" "]),
        st.integers(1, 300_000),
        st.sampled_from([b"", b"]", b"}", b"x"]),
    ),
)
LONG = {"digits": "9" * 5000, "letters": "v" * 70_000}
headers = st.dictionaries(
    st.sampled_from(
        ["Content-Encoding", "X", "Accept-Encoding", "Inference-Header-Content-Length", "Upgrade"]
    ),
    st.sampled_from(["gzip", "websocket", "digits", "", "gzip;q=x", "letters", "-1"]),
    max_size=2,
)
sizes = st.one_of(st.integers(-2, 5), st.sampled_from([2**20, 2**31, 2**62, -(2**63)]))


@st.composite
def requests(draw):
    """A PredictRequest of some shape and type, whole or damaged."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = draw(st.sampled_from(["hp2", "colors", "x", ""]))
    request.model_spec.signature_name = draw(
        st.sampled_from(["", "predict_tensor", "preprocess", "\x00"])
    )
    tensor = request.inputs[draw(st.sampled_from(["x", "images", "image_bytes"]))]
    tensor.dtype = draw(st.sampled_from([1, 3, 4, 7, 9, 14, 19, 20, 21, 22, 101, 9999]))
    for size in draw(st.lists(sizes, max_size=5)):
        tensor.tensor_shape.dim.add(size=size)
    tensor.float_val.extend(draw(st.lists(st.floats(width=32), max_size=3)))
    tensor.string_val.extend(draw(st.lists(st.binary(max_size=50), max_size=3)))
    tensor.tensor_content = draw(st.binary(max_size=200))
    data = request.SerializeToString()
    return data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data


def folder(target, number, content):
    """Puts a version folder of damaged files there, and takes it away again."""
    path = target.root / "hp2" / str(number)
    if path.exists():
        return
    path.mkdir()
    (path / "saved_model.pb").write_bytes(content)
    time.sleep(0.15)
    shutil.rmtree(path, ignore_errors=True)


def attack(target, seconds, *, repeatable):
    """Sends what hypothesis makes for so long; from the same beginning each time if repeatable."""
    end = time.monotonic() + seconds
    sent = [0]

    @settings(
        max_examples=10_000_000,
        derandomize=repeatable,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(bodies, headers, st.sampled_from(PATHS), requests(), st.binary(max_size=300), sizes)
    def one(body, sent_headers, path, request, noise, number):
        if sent[0] >= LEAST and time.monotonic() > end:
            raise TimeoutError
        if isinstance(body, tuple):
            piece, times, rest = body
            body = b'{"instances": [' + piece * times + rest
        sent_headers = {name: LONG.get(value, value) for name, value in sent_headers.items()}
        packed = gzip.compress(body) if "gzip" in sent_headers.values() else body
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            status, _ = target.send("POST", path, packed, sent_headers)
            assert status != 500, (path, sent_headers.keys(), body[:500])
        assert target.call(f"{PREDICT}{METHODS[sent[0] % 5]}", request), request
        target.raw(noise if sent[0] % 2 else b"POST / HTTP/1.1\r\n" + noise)
        if sent[0] % 20 == 0 and number > 0:
            folder(target, number, noise)
        sent[0] += 1

    with contextlib.suppress(TimeoutError):
        one()


def fuzz(bundles_dir, half_plus_two, tmp_path, seconds, *, repeatable):
    root = tmp_path / "models"
    shutil.copytree(bundles_dir, root)
    shutil.copytree(half_plus_two, root / "hp2")
    random.seed(0)
    np.random.seed(0)
    with FuzzedServer(root) as target:
        # What is made once, at the first requests, is no leak.
        attack(target, max(2.0, seconds / 10), repeatable=repeatable)
        before = target.memory
        attack(target, seconds, repeatable=repeatable)
        assert target.process._process.poll() is None, target.process.log()[-3000:]
        assert target.memory - before < 200 * MIB
        assert target.answered
        assert not target.failed, target.failed[:5]
        assert "Traceback" not in target.process.log(), target.process.log()[-5000:]


def test_a_little_of_everything(bundles_dir, half_plus_two, tmp_path):
    fuzz(bundles_dir, half_plus_two, tmp_path, 10, repeatable=True)


@pytest.mark.slow
def test_much_of_everything(bundles_dir, half_plus_two, tmp_path):
    fuzz(bundles_dir, half_plus_two, tmp_path, 90, repeatable=False)
