"""Callers against a server of the standard library and the engine in this process."""

import base64
import json
import socket
import threading
import time
from concurrent import futures

import grpc
import pytest

from core.image_header import check_image
from serving.benchmark.closed_loop import (
    BenchmarkError,
    closed_loop,
    engine_turn,
    sample_jpeg,
    server_turn,
)
from serving.benchmark.loadtest.plan import Target
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

    turn = closed_loop([caller(0), caller(1)], 0.0, rows=4)
    # Three more of each are its warm-up.
    assert seen == [6, 6]
    # Six calls of 4 images, each of 1 ms at least, two at a time.
    assert 0 < turn.images_per_second <= 6 * 4 / 0.003
    assert turn.p50_ms >= 1
    assert 0 <= turn.caller_cores < 2


def test_callers_call_at_the_same_time():
    together = threading.Barrier(3, timeout=20)
    closed_loop([together.wait] * 3, 0.0)
    assert not together.broken


def test_a_call_that_fails_ends_the_turn():
    def call():
        raise BenchmarkError("no answer")

    with pytest.raises(BenchmarkError, match="no answer"):
        closed_loop([call, call], 0.0)


@pytest.mark.parametrize("variant", ["saved_model", "none_fp32"])
def test_an_engine_is_called_through_serving_default(tiny_draft, make_png, variant):
    images = [make_png((255, 0, 0)), make_png((0, 255, 0), (9, 7))]
    turn = engine_turn(tiny_draft, variant, images, callers=2, rows=3, seconds=0.0)
    assert turn.images_per_second > 0
    with pytest.raises(EngineError, match="not an image"):
        engine_turn(tiny_draft, variant, [b"no image"], callers=1, seconds=0.0)


def test_the_sample_is_a_jpeg_and_always_the_same():
    data = sample_jpeg(48, 64)
    header = check_image(data)
    assert (header.height, header.width) == (48, 64)
    assert data == sample_jpeg(48, 64)
    assert data.startswith(b"\xff\xd8\xff")


class RestStub(threading.Thread):
    """Answers each request of one connection after the other with the same bytes, in pieces."""

    def __init__(self, answer):
        super().__init__(daemon=True)
        self.answer = answer
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
                if not self.answer:
                    return
                for start in range(0, len(self.answer), 20):
                    connection.sendall(self.answer[start : start + 20])


@pytest.fixture
def rest():
    stubs = []

    def start(answer):
        stub = RestStub(answer)
        stub.start()
        stubs.append(stub)
        return stub

    yield start
    for stub in stubs:
        stub.join(timeout=20)
        assert not stub.is_alive()


def http_answer(status, body):
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def test_rest_goes_round_in_the_images(rest):
    stub = rest(http_answer("200 OK", b'{"predictions": []}' * 5))
    turn = server_turn(Target(stub.url, "m"), [b"one", b"two"], lean=True, callers=1, seconds=0.0)
    assert turn.images_per_second > 0
    assert len(stub.requests) == 6
    heads, bodies = zip(*stub.requests, strict=True)
    assert all(head.startswith(b"POST /v1/models/m:predict HTTP/1.1\r\n") for head in heads)
    sent = [base64.b64decode(json.loads(body)["instances"][0]["b64"]) for body in bodies]
    assert sent == [b"one", b"two"] * 3


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (http_answer("404 Not Found", b'{"error": "no m"}'), 'answers 404: {"error": "no m"}'),
        (b"HTTP/1.1 200 OK\r\n\r\n", "without a Content-Length"),
        (b"", "closed the connection"),
    ],
)
def test_rest_answers_that_are_not_good(rest, answer, words):
    target = Target(rest(answer).url, "m")
    with pytest.raises(BenchmarkError, match=words):
        server_turn(target, [b"one"], lean=True, callers=1, seconds=0.0)


def test_no_server():
    with pytest.raises(BenchmarkError, match=r"no server at http://127\.0\.0\.1:1: "):
        server_turn(Target("http://127.0.0.1:1", "m"), [b"x"], lean=True, callers=1, seconds=0.0)


@pytest.fixture
def over_grpc():
    """`(model, bytes) pairs that Predict was asked`, and the address; model `m` is served."""
    asked = []

    def predict(data, context):
        request = wire.message("PredictRequest").FromString(data)
        asked.append((request.model_spec.name, request.inputs[0].value.string_val[0]))
        if request.model_spec.name != "m":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        return b""

    server = grpc.server(futures.ThreadPoolExecutor(4))
    handlers = {"Predict": grpc.unary_unary_rpc_method_handler(predict)}
    service = "tensorflow.serving.PredictionService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield asked, f"grpc://127.0.0.1:{port}"
    server.stop(None).wait()


def test_grpc_sends_prepared_requests(over_grpc):
    asked, url = over_grpc
    turn = server_turn(Target(url, "m"), [b"one"], lean=True, callers=2, seconds=0.0)
    assert turn.images_per_second > 0
    assert asked == [("m", b"one")] * 12


def test_grpc_refusals_are_told(over_grpc):
    target = Target(over_grpc[1], "other")
    with pytest.raises(BenchmarkError, match="answers NOT_FOUND: no such model"):
        server_turn(target, [b"one"], lean=True, callers=1, seconds=0.0)
    with pytest.raises(ClientError, match="no such model"):
        server_turn(target, [b"one"], lean=False, callers=1, seconds=0.0)
