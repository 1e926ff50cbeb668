"""Connections that use much memory, time or descriptors, with a server of small limits."""

import asyncio
import contextlib
import gzip
import http.client
import os
import re
import resource
import socket
import time
from urllib.parse import urlsplit

import grpc
import pytest
from tensorflow_serving.apis import (
    classification_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.server.lifecycle.server_process import ServerProcess

MIB = 2**20
WAIT_S = 60
BODY = b'{"instances": [1.0]}'
PATH = "/v1/models/hp2:predict"
FLAGS = [
    "--idle_timeout_seconds=2",
    "--max_connections=40",
    "--max_body_bytes_in_flight=9000000",
    "--max_request_bytes=8000000",
    "--max_inflated_bytes=5000000",
    "--open_inference",
]


@pytest.fixture(scope="module")
def server(half_plus_two):
    flags = ["--model_name=hp2", f"--model_base_path={half_plus_two}", *FLAGS]
    with ServerProcess(flags=flags) as process:
        yield process


def connect(server):
    return socket.create_connection((urlsplit(server.rest_url).hostname, port(server)), WAIT_S)


def port(server):
    return urlsplit(server.rest_url).port


def send(server, method, path, body=b"", headers=()):
    connection = http.client.HTTPConnection("127.0.0.1", port(server), timeout=WAIT_S)
    with contextlib.closing(connection):
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read()


def good(server):
    status, data = send(server, "POST", PATH, BODY)
    return status == 200 and b"2.5" in data


def is_taken(server, body):
    """Whether the request is served; the connection of a rejected one may close early."""
    with contextlib.suppress(ConnectionError):
        return send(server, "POST", PATH, body)[0] == 200
    return False


def answer_to(connection):
    """All that the server sends until it closes."""
    pieces = []
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)


def flood(connection, data, most):
    """Bytes that the server took before it closed the connection."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < most:
            connection.sendall(data)
            sent += len(data)
    return sent


def rss(server):
    with open(f"/proc/{server.pid}/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"X: " + b"v" * 1000 + b"\r\n"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b"v" * 1000),
        (b"GET /", b"v" * 1000),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
            b"X: " + b"v" * 99 + b"\r\n",
        ),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"v" * 1000),
    ],
    ids=["headers", "header", "url", "trailers", "chunk"],
)
def test_endless_headers(server, start, more):
    with connect(server) as connection:
        connection.sendall(start)
        # Beside the limit there are the buffers of both ends.
        assert flood(connection, more, 64 * MIB) < 20 * MIB
    assert good(server)


def test_too_long_headers_are_named(server):
    status, data = send(server, "GET", "/v1/models/hp2", headers={"X": "v" * 70_000})
    assert (status, b"--max_header_bytes" in data) == (431, True)
    assert send(server, "GET", "/v1/models/hp2", headers={"X": "v" * 60_000})[0] == 200


def test_idle_half_sent_and_stalled_connections_are_closed(server):
    half = b"POST /v1/models/hp2:predict HTTP/1.1\r\nHost: x\r\nX: "
    used = b"GET /v1/models/hp2 HTTP/1.1\r\nHost: x\r\n\r\n"
    for start, words in ((b"", b""), (half, b" 408 "), (used, b" 200 ")):
        with connect(server) as connection:
            connection.sendall(start)
            if start == half:
                connection.sendall(b"more")
            assert words in answer_to(connection)
    with socket.create_connection(server.grpc_target.rsplit(":", 1), WAIT_S) as connection:
        answer_to(connection)
    assert good(server)


def test_a_client_that_does_not_read_is_dropped(server):
    """Its responses fill the buffers of both sides; then the connection is closed."""
    body = b'{"instances": [%s]}' % b", ".join([b"1.5"] * 60_000)
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    with connect(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deadline = time.monotonic() + WAIT_S
        connection.settimeout(0.5)
        closed = False
        while not closed and time.monotonic() < deadline:
            try:
                connection.sendall(head % (PATH.encode(), len(body)) + body)
            except TimeoutError:
                continue
            except ConnectionError:
                closed = True
        assert closed
    assert good(server)


def test_invalid_http_does_not_fill_the_log(server):
    logged, began = len(server.log()), time.monotonic()
    for _ in range(60):
        with connect(server) as connection:
            connection.sendall(b"\x16\x03\x01 is how TLS begins\r\n\r\n")
            answer_to(connection)
    periods = 1 + int((time.monotonic() - began) / 10)
    lines = [line for line in server.log()[logged:].splitlines() if "Invalid HTTP" in line]
    assert 0 < len(lines) <= 10 * periods + periods
    stamp = r"\d{4}-\d\d-\d\dT[\d:.]+Z WARNING uvicorn"
    assert all(re.match(stamp, line) for line in lines), lines


def test_idle_connections_are_closed_for_new_ones(monkeypatch):
    """The limit is four; the longest idle connection is closed for a new one."""
    from serving.limits import Limits
    from serving.server.http import rest_protocol
    from serving.server.http.asgi import RestApp
    from serving.server.http.web import Response
    from serving.server.lifecycle.listeners import listen, start_rest

    monkeypatch.setattr(rest_protocol, "_MIN_IDLE_S", 0.0)

    async def handle(method, path, headers, body):
        return Response(200, b"served")

    async def scenario():
        listener = listen("127.0.0.1", 0)
        limits = Limits(max_connections=4, idle_timeout_s=600)
        app = RestApp(handle, 1000)
        front = start_rest(app, listener, host="127.0.0.1", tls=None, limits=limits)
        number = listener.getsockname()[1]
        idle = [await asyncio.open_connection("127.0.0.1", number) for _ in range(4)]
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" in await asyncio.wait_for(reader.readline(), WAIT_S)
        assert await asyncio.wait_for(idle[0][0].read(), WAIT_S) == b""
        assert not idle[1][0].at_eof()
        for _, other in [*idle, (reader, writer)]:
            other.close()
        await front.stop()

    asyncio.run(scenario())


def test_the_limit_of_descriptors(server):
    """The server rejects connections, logs it briefly, and recovers."""
    before = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    logged = len(server.log())
    used = len(os.listdir(f"/proc/{server.pid}/fd"))
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (used + 8, before[1]))
    try:
        idle = [connect(server) for _ in range(30)]
        time.sleep(3.5)
        for connection in idle:
            connection.close()
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, before)
    assert good(server)
    log = server.log()[logged:]
    assert len(log) < 5000, log[:2000]
    assert "cannot accept connections: Too many open files" in log


def test_unfinished_bodies_share_a_budget(server):
    """Ten clients send 6 of 7 MB and stop; memory is limited, and other requests are served."""
    before = rss(server)
    stalled = []
    try:
        for _ in range(10):
            connection = connect(server)
            head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 7000000\r\n\r\n"
            connection.sendall(head % PATH.encode())
            flood(connection, b" " * MIB, 6 * MIB)
            stalled.append(connection)
        assert rss(server) - before < 30 * MIB
        deadline = time.monotonic() + WAIT_S
        big = BODY[:-1] + b" " * 5 * MIB + b"}"
        while not is_taken(server, big):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert is_taken(server, BODY)
    finally:
        for connection in stalled:
            connection.close()


@pytest.mark.parametrize("path", [PATH, "/v2/models/hp2/infer"])
def test_a_large_gzip_body_is_rejected(server, path):
    packed = gzip.compress(b" " * 6_000_000)
    status, data = send(server, "POST", path, packed, {"Content-Encoding": "gzip"})
    assert (status, b"inflates to more than 5000000 bytes" in data) == (400, True)
    nested = gzip.compress(b"[" * 4_900_000)
    before = rss(server)
    assert send(server, "POST", path, nested, {"Content-Encoding": "gzip"})[0] == 400
    assert rss(server) - before < 200 * MIB


def test_a_websocket_is_a_client_error(server):
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    for path in ("/", "/v1/models/hp2", "/v2/health/live"):
        status, data = send(server, "GET", path, headers=upgrade)
        assert (status, b"no WebSocket" in data) == (400, True)
    assert send(server, "GET", "/v1/models/hp2", headers={"Upgrade": "h2c"})[0] == 200


@pytest.fixture(scope="module")
def stub(server):
    with grpc.insecure_channel(server.grpc_target) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def refused(call, request):
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=WAIT_S)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, caught.value
    return caught.value.details()


def test_a_few_bytes_of_grpc_do_not_allocate_large_tensors(server, stub):
    """One value for 2^26 elements, alone or as many inputs of 2^21 each."""
    before = rss(server)
    for inputs, size in ((1, 2**26 - 1), (100, 2**21)):
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "hp2"
        for number in range(inputs):
            tensor = request.inputs[f"x{number}"]
            tensor.dtype = 1
            tensor.tensor_shape.dim.add(size=size)
            tensor.float_val.append(1.0)
        assert "--max_repeated_bytes" in refused(stub.Predict, request)
    strings = predict_pb2.PredictRequest()
    strings.model_spec.name = "hp2"
    strings.inputs["x"].dtype = 7
    strings.inputs["x"].tensor_shape.dim.add(size=60_000)
    strings.inputs["x"].string_val.append(b"x" * 100_000)
    assert "--max_repeated_bytes" in refused(stub.Predict, strings)
    assert rss(server) - before < 100 * MIB


def test_messages_of_grpc_share_a_budget(server):
    """Two messages of 7 MB at a time exceed the limit."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "hp2"
    request.inputs["x"].dtype = 1
    request.inputs["x"].tensor_shape.dim.add(size=1_750_000)
    request.inputs["x"].tensor_content = bytes(7_000_000)
    options = [("grpc.max_receive_message_length", -1)]
    refusals, deadline = [], time.monotonic() + WAIT_S
    with grpc.insecure_channel(server.grpc_target, options=options) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        while not refusals and time.monotonic() < deadline:
            calls = [stub.Predict.future(request, timeout=WAIT_S) for _ in range(6)]
            refusals = [error for error in (call.exception() for call in calls) if error]
        for error in refusals:
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "may take 9000000 bytes together" in error.details()
        assert refusals
        assert stub.Predict(request, timeout=WAIT_S).outputs["y"].float_val[0] == 2.0


def test_a_context_is_copied_a_limited_number_of_times(server, stub):
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = "hp2"
    request.model_spec.signature_name = "classify_x_to_y"
    listed = request.input.example_list_with_context
    listed.context.features.feature["x"].bytes_list.value.append(b"x" * 1_000_000)
    for _ in range(100):
        listed.examples.add()
    before = rss(server)
    assert "--max_repeated_bytes" in refused(stub.Classify, request)
    assert rss(server) - before < 50 * MIB


@pytest.mark.parametrize("dtype", [0, 20, 21, 101, 9999])
def test_types_without_values_are_client_errors(stub, dtype):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "hp2"
    request.inputs["x"].dtype = dtype
    request.inputs["x"].tensor_shape.dim.add(size=1)
    assert "cannot be sent" in refused(stub.Predict, request)


def test_numbers_of_thousands_of_digits(server):
    many = "9" * 4301
    assert send(server, "GET", f"/v1/models/hp2/versions/{many}")[0] == 400
    assert send(server, "POST", f"/v1/models/hp2/versions/{many}:predict", BODY)[0] == 400
    headers = {"Inference-Header-Content-Length": many}
    assert send(server, "POST", "/v2/models/hp2/infer", b"{}", headers)[0] == 400
    assert send(server, "POST", f"/v2/models/hp2/versions/{many}/infer", b"{}")[0] == 400
    number = b'{"instances": [%s]}' % many.encode()
    assert send(server, "POST", PATH, number)[0] == 400
    padded = "0" * 4301 + "123"
    assert send(server, "GET", f"/v1/models/hp2/versions/{padded}")[0] == 200
    assert send(server, "POST", f"/v1/models/hp2/versions/{padded}:predict", BODY)[0] == 200
    assert send(server, "GET", f"/v2/models/hp2/versions/{padded}/ready")[0] == 200


def test_large_requests_on_one_connection(server):
    """Headers count, bodies do not, regardless of their pieces."""
    connection = http.client.HTTPConnection("127.0.0.1", port(server), timeout=WAIT_S)
    body = BODY[:-1] + b" " * 100_000 + b"}"
    with contextlib.closing(connection):
        for _ in range(5):
            connection.request("POST", PATH, body)
            answer = connection.getresponse()
            assert (answer.status, b"2.5" in answer.read()) == (200, True)
        chunks = (body[start : start + 10] for start in range(0, len(body), 10))
        connection.request("POST", PATH, chunks, encode_chunked=True)
        assert connection.getresponse().status == 200
