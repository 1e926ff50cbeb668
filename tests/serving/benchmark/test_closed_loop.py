"""Callers against a server of the standard library and the engine in this process."""

import base64
import json
import socket
import threading
import time
from concurrent import futures

import grpc
import pytest

from serving.benchmark.closed_loop import (
    closed_loop,
    measure_engine,
    measure_server,
)
from serving.benchmark.errors import BenchmarkError
from serving.benchmark.loadtest.plan import LoadTarget
from serving.client import ClientError
from serving.engines.saved_model import EngineError
from serving.protocol import wire


def test_every_caller_calls_at_least_three_times():
    seen = [0, 0]

    def caller(number):
        def call():
            seen[number] += 1
            time.sleep(0.001)

        return call

    found = closed_loop([caller(0), caller(1)], 0.0, rows=4)
    # Three more of each are its warm-up.
    assert seen == [6, 6]
    # Six calls of 4 images, each of 1 ms at least, two at a time.
    assert 0 < found.images_per_second <= 6 * 4 / 0.003
    assert found.p50_ms >= 1
    assert 0 <= found.caller_cores < 2


def test_callers_call_at_the_same_time():
    together = threading.Barrier(3, timeout=20)
    closed_loop([together.wait] * 3, 0.0)
    assert not together.broken


def test_a_call_that_fails_ends_the_measurement():
    def call():
        raise BenchmarkError("no response")

    with pytest.raises(BenchmarkError, match="no response"):
        closed_loop([call, call], 0.0)


@pytest.mark.parametrize("variant", ["saved_model", "none_fp32"])
def test_an_engine_is_called_through_serving_default(tiny_draft, make_png, variant):
    images = [make_png((255, 0, 0)), make_png((0, 255, 0), (9, 7))]
    found = measure_engine(tiny_draft, variant, images, callers=2, rows=3, seconds=0.0)
    assert found.images_per_second > 0
    with pytest.raises(EngineError, match="not an image"):
        measure_engine(tiny_draft, variant, [b"no image"], callers=1, seconds=0.0)


class RestStub(threading.Thread):
    """Returns the same bytes to each request of one connection, in pieces."""

    def __init__(self, response):
        super().__init__(daemon=True)
        self.response = response
        self.requests = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def run(self):
        with self.listener, self.listener.accept()[0] as connection:
            data = b""
            while piece := connection.recv(65536):
                data += piece
                head, _, body = data.partition(b"\r\n\r\n")
                if len(body) < int(head.lower().partition(b"content-length: ")[2].split()[0]):
                    continue
                self.requests.append((head, body))
                data = b""
                if not self.response:
                    return
                for start in range(0, len(self.response), 20):
                    connection.sendall(self.response[start : start + 20])


@pytest.fixture
def rest():
    stubs = []

    def start(response):
        stub = RestStub(response)
        stub.start()
        stubs.append(stub)
        return stub

    yield start
    for stub in stubs:
        stub.join(timeout=20)
        assert not stub.is_alive()


def http_response(status, body):
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def test_rest_callers_cycle_through_the_images(rest):
    stub = rest(http_response("200 OK", b'{"predictions": []}' * 5))
    found = measure_server(
        LoadTarget(stub.url, "m"), [b"one", b"two"], prepared=True, callers=1, seconds=0.0
    )
    assert found.images_per_second > 0
    assert len(stub.requests) == 6
    heads, bodies = zip(*stub.requests, strict=True)
    assert all(head.startswith(b"POST /v1/models/m:predict HTTP/1.1\r\n") for head in heads)
    sent = [base64.b64decode(json.loads(body)["instances"][0]["b64"]) for body in bodies]
    assert sent == [b"one", b"two"] * 3


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (http_response("404 Not Found", b'{"error": "no m"}'), 'returned 404: {"error": "no m"}'),
        (b"HTTP/1.1 200 OK\r\n\r\n", "sent no Content-Length"),
        (b"", "closed the connection"),
    ],
)
def test_rest_responses_that_are_errors(rest, response, words):
    target = LoadTarget(rest(response).url, "m")
    with pytest.raises(BenchmarkError, match=words):
        measure_server(target, [b"one"], prepared=True, callers=1, seconds=0.0)


def test_no_server():
    with pytest.raises(BenchmarkError, match=r"no server at http://127\.0\.0\.1:1: "):
        measure_server(
            LoadTarget("http://127.0.0.1:1", "m"), [b"x"], prepared=True, callers=1, seconds=0.0
        )


@pytest.fixture
def over_grpc():
    """(model, bytes) of each Predict request, and the address of a server of the model `m`."""
    requested = []

    def predict(data, context):
        request = wire.message("PredictRequest").FromString(data)
        requested.append((request.model_spec.name, request.inputs[0].value.string_val[0]))
        if request.model_spec.name != "m":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        return b""

    server = grpc.server(futures.ThreadPoolExecutor(4))
    handlers = {"Predict": grpc.unary_unary_rpc_method_handler(predict)}
    service = "tensorflow.serving.PredictionService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield requested, f"grpc://127.0.0.1:{port}"
    server.stop(None).wait()


def test_grpc_sends_prepared_requests(over_grpc):
    requested, url = over_grpc
    found = measure_server(LoadTarget(url, "m"), [b"one"], prepared=True, callers=2, seconds=0.0)
    assert found.images_per_second > 0
    assert requested == [("m", b"one")] * 12


def test_grpc_errors_are_raised(over_grpc):
    target = LoadTarget(over_grpc[1], "other")
    with pytest.raises(BenchmarkError, match="returned NOT_FOUND: no such model"):
        measure_server(target, [b"one"], prepared=True, callers=1, seconds=0.0)
    with pytest.raises(ClientError, match="no such model"):
        measure_server(target, [b"one"], prepared=False, callers=1, seconds=0.0)
