import contextlib
import socket
import threading
import time

import grpc
import numpy as np
import pytest

from serving.client import Client, ClientError, Tls
from serving.client.errors import DEADLINE_EXCEEDED
from serving.protocol import wire


def predictions(count, label=b"four"):
    """A classifier's gRPC response for that many images."""
    answer = wire.message("PredictResponse")()
    columns = {
        "labels": np.array([[label, b"one"]] * count, object),
        "classes": np.array([[4, 1]] * count, np.int32),
        "scores": np.array([[0.75, 0.25]] * count, np.float32),
    }
    for name, array in columns.items():
        wire.fill_tensor(answer.outputs.add(key=name).value, array)
    return answer.SerializeToString()


def read(kind, body):
    return wire.message(kind).FromString(body)


def refusing(times, code, details, trailers=(), then=b""):
    """A reply that fails that often."""
    left = [times]

    def reply(method, body, context):
        if left[0] > 0:
            left[0] -= 1
            context.set_trailing_metadata(tuple(trailers))
            context.abort(code, details)
        return then

    return reply


@pytest.fixture
def client(grpc_stub):
    with Client(grpc_stub.url, retries=2) as opened:
        yield opened


def test_requests_and_results(client, grpc_stub):
    grpc_stub.reply = lambda method, body, context: predictions(2)
    first, second = client.predict([b"a\x00", b"b"], model="m", label="stable", timeout_s=20)
    assert first == second
    assert first.top == (("four", 4, 0.75), ("one", 1, 0.25))
    ((method, body, left),) = grpc_stub.requests
    assert method == "Predict"
    request = read("PredictRequest", body)
    spec = request.model_spec
    assert (spec.name, spec.version_label, spec.signature_name) == (
        "m",
        "stable",
        "serving_default",
    )
    assert not spec.HasField("version")
    assert request.inputs[0].key == "image_bytes"
    assert wire.to_array(request.inputs[0].value).tolist() == [b"a\x00", b"b"]
    # The deadline is the server's to see.
    assert 10 < left <= 20.1


def test_a_version(client, grpc_stub):
    grpc_stub.reply = lambda method, body, context: predictions(1)
    client.predict([b"a"], model="m", version=0)
    spec = read("PredictRequest", grpc_stub.requests[0][1]).model_spec
    assert spec.HasField("version")
    assert spec.version.value == 0


def test_unavailable_is_retried(client, grpc_stub, no_jitter):
    reply = refusing(2, grpc.StatusCode.UNAVAILABLE, "loading", then=predictions(1))
    grpc_stub.reply = reply
    assert client.predict([b"a"], model="m")[0].label == "four"
    assert no_jitter == [0.1, 0.2]
    assert len({body for _, body, _ in grpc_stub.requests}) == 1
    assert len(grpc_stub.requests) == 3


def retry_info(seconds):
    info = wire.message("RetryInfo")()
    info.retry_delay.seconds = int(seconds)
    info.retry_delay.nanos = round(seconds % 1 * 1e9)
    status = wire.message("RpcStatus")()
    status.details.add(type_url="type.googleapis.com/other", value=b"x")
    status.details.add(
        type_url="type.googleapis.com/google.rpc.RetryInfo", value=info.SerializeToString()
    )
    return status.SerializeToString()


@pytest.mark.parametrize(
    ("trailer", "waits"),
    [
        (("retry-after", "2"), [2.1]),
        (("grpc-retry-pushback-ms", "1500"), [1.6]),
        (("grpc-status-details-bin", retry_info(2.5)), [2.6]),
    ],
    ids=lambda value: str(value[0]),
)
def test_a_full_queue_with_a_wait(client, grpc_stub, no_jitter, trailer, waits):
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    grpc_stub.reply = refusing(1, code, "queue is full", [trailer], predictions(1))
    client.predict([b"a"], model="m")
    assert no_jitter == pytest.approx(waits)


@pytest.mark.parametrize(
    ("code", "trailers"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, []),
        (grpc.StatusCode.UNAVAILABLE, [("grpc-retry-pushback-ms", "-1")]),
        (grpc.StatusCode.INVALID_ARGUMENT, [("retry-after", "1")]),
        (grpc.StatusCode.NOT_FOUND, []),
        (grpc.StatusCode.INTERNAL, []),
    ],
    ids=str,
)
def test_rejections_are_not_retried(client, grpc_stub, code, trailers):
    grpc_stub.reply = refusing(9, code, "the reason", trailers)
    with pytest.raises(ClientError, match=r"grpc://127.*: the reason") as caught:
        client.status("m")
    assert (caught.value.status, len(grpc_stub.requests)) == (code.name, 1)


def test_a_server_that_does_not_respond_in_time(client, grpc_stub):
    done = threading.Event()
    grpc_stub.reply = lambda method, body, context: done.wait(30) and b""
    with pytest.raises(ClientError, match=r"no response from grpc.* within 0\.\d+ s") as caught:
        client.status("m", timeout_s=0.3)
    done.set()
    assert (caught.value.status, caught.value.tries) == (DEADLINE_EXCEEDED, 1)


def test_no_server(no_jitter):
    client = Client("grpc://127.0.0.1:9", retries=1)
    with client, pytest.raises(ClientError, match=r"127\.0\.0\.1:9.*tried 2 times") as caught:
        client.status("m")
    assert (caught.value.status, caught.value.tries) == ("UNAVAILABLE", 2)


def test_a_server_that_starts_later(make_grpc_stub):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with Client(f"grpc://127.0.0.1:{port}", retries=0) as client:
        assert not client.is_ready("m")
        ready = wire.message("GetModelStatusResponse")()
        ready.model_version_status.add(version=1, state=30)
        handler = grpc.method_handlers_generic_handler(
            "tensorflow.serving.ModelService",
            {
                "GetModelStatus": grpc.unary_unary_rpc_method_handler(
                    lambda body, context: ready.SerializeToString()
                )
            },
        )
        from concurrent.futures import ThreadPoolExecutor

        server = grpc.server(ThreadPoolExecutor(1), handlers=[handler])
        assert server.add_insecure_port(f"127.0.0.1:{port}") == port
        server.start()
        try:
            client.wait_until_ready("m", timeout_s=30)
        finally:
            server.stop(0).wait()


def test_a_slow_handshake(grpc_stub, listen):
    """Longer than the waits between connection attempts."""
    grpc_stub.reply = lambda method, body, context: predictions(1)

    def relay(connection):
        time.sleep(1.5)
        port = int(grpc_stub.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as server:
            back = threading.Thread(target=pump, args=(server, connection))
            back.start()
            pump(connection, server)
            back.join()

    with Client(f"grpc://127.0.0.1:{listen(relay)}", retries=0) as client:
        assert client.predict([b"x"], model="m", timeout_s=20)[0].label == "four"


def pump(source, target):
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)


def test_a_client_that_is_closed(grpc_stub):
    client = Client(grpc_stub.url)
    client.close()
    with pytest.raises(ClientError, match="this client is closed"):
        client.status("m")


def test_headers_are_metadata(grpc_stub):
    seen = {}

    def reply(method, body, context):
        seen.update(dict(context.invocation_metadata()))
        return b""

    grpc_stub.reply = reply
    with Client(grpc_stub.url, headers={"Authorization": "Bearer 7"}) as client:
        assert client.status("m") == []
    assert seen["authorization"] == "Bearer 7"


def test_run(client, grpc_stub):
    """The server echoes its inputs under the same names."""

    def echo(method, body, context):
        answer = wire.message("PredictResponse")()
        for entry in read("PredictRequest", body).inputs:
            answer.outputs.add(key=entry.key).value.CopyFrom(entry.value)
        return answer.SerializeToString()

    grpc_stub.reply = echo
    inputs = {
        "half": np.array([1.5], np.float16),
        "empty": np.zeros((0, 3), np.int64),
        "text": np.array([[b"\x00", "é"]], object),
    }
    found = client.run(inputs, model="m", signature="s")
    assert list(found) == list(inputs)
    assert (found["half"].dtype, found["half"].tolist()) == (np.float16, [1.5])
    assert (found["empty"].dtype, found["empty"].shape) == (np.int64, (0, 3))
    assert found["text"].tolist() == [[b"\x00", "é".encode()]]
    with pytest.raises(ValueError, match="input 'x': cannot send an array of datetime64"):
        client.run({"x": np.zeros(1, "datetime64[s]")}, model="m")


def test_a_response_that_is_not_a_tensor(client, grpc_stub):
    answer = wire.message("PredictResponse")()
    answer.outputs.add(key="y").value.dtype = 20
    grpc_stub.reply = lambda method, body, context: answer.SerializeToString()
    with pytest.raises(ClientError, match="m: cannot read a tensor of DataType 20"):
        client.run({"x": np.zeros(1)}, model="m")
    with pytest.raises(ClientError, match="m: cannot read a tensor"):
        client.predict([b"x"], model="m")
    grpc_stub.reply = lambda method, body, context: b""
    with pytest.raises(ClientError, match="is not a classifier"):
        client.predict([b"x"], model="m")


def test_serialized_examples(client, grpc_stub):
    grpc_stub.reply = lambda method, body, context: b""
    example = wire.to_example({"x": 1.0})
    assert client.classify([example, {"x": 1.0}], model="m", signature="c") == []
    assert client.regress([example], model="m").shape == (0,)
    request = read("ExamplesRequest", grpc_stub.requests[0][1])
    assert list(request.input.example_list.examples) == [example, example]
    assert request.model_spec.signature_name == "c"
    assert [method for method, _, _ in grpc_stub.requests] == ["Classify", "Regress"]


def test_threads_share_a_client(client, grpc_stub):
    def reply(method, body, context):
        (image,) = wire.to_array(read("PredictRequest", body).inputs[0].value)
        return predictions(1, image)

    grpc_stub.reply = reply
    wrong = []

    def work(number):
        for turn in range(20):
            name = f"{number}-{turn}"
            try:
                found = client.predict([name.encode()], model="m")[0].label
            except Exception as error:
                found = repr(error)
            if found != name:
                wrong.append((name, found))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(grpc_stub.requests) == 160


@pytest.mark.parametrize("mutual", [False, True])
def test_grpcs(make_grpc_stub, certificate, mutual):
    cert, key = certificate
    pair = (key.read_bytes(), cert.read_bytes())
    credentials = grpc.ssl_server_credentials(
        [pair],
        root_certificates=cert.read_bytes() if mutual else None,
        require_client_auth=mutual,
    )
    stub = make_grpc_stub(credentials)
    stub.reply = lambda method, body, context: predictions(1)
    trusting = Tls(roots=cert, certificate=cert, key=key) if mutual else Tls(roots=cert)
    with Client(stub.url, tls=trusting) as client:
        assert client.predict([b"x"], model="m")[0].label == "four"
    strangers = Tls(roots=cert) if mutual else None
    with Client(stub.url, tls=strangers, retries=0) as client, pytest.raises(ClientError):
        client.predict([b"x"], model="m", timeout_s=10)


def test_https(rest, rows, certificate, monkeypatch):
    import ssl

    cert, key = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    rest.server.socket = context.wrap_socket(rest.server.socket, server_side=True)
    rest.reply = rows(1)
    url = rest.url.replace("http:", "https:")
    # What a company's environment says of other hosts must not undo the caller's roots.
    import certifi

    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
    with Client(url, tls=Tls(roots=cert)) as client:
        assert client.predict([b"x"], model="m")[0].label == "four"
    with (
        Client(url) as client,
        pytest.raises(ClientError, match=r"no secure connection .*`Tls\(roots=...\)`") as caught,
    ):
        client.predict([b"x"], model="m")
    assert caught.value.tries == 1


@pytest.mark.parametrize("url", ["grpc://127.0.0.1", "grpc://127.0.0.1/", "grpcs://127.0.0.1"])
def test_the_default_port(url):
    with Client(url) as client:
        assert client.url.endswith("127.0.0.1:8500")
