import contextlib
import gzip
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

import numpy as np
import pytest

from core import bundle as bundles
from serving.client import Client, ClientError, connect, predict_local
from serving.server.app import serve
from serving.server.errors import ServerError
from serving.server.lifecycle.server_process import ServerProcess
from trainers.data.decode import ImageError, load_image

pytestmark = pytest.mark.onednn

RED, GREEN, BLUE = (250, 0, 0), (0, 250, 10), (3, 4, 250)


@pytest.fixture(scope="module")
def root(tiny_draft, tmp_path_factory):
    """A bundles folder that these tests push into."""
    folder = tmp_path_factory.mktemp("served")
    bundles.push(tiny_draft, folder / "colors")
    return folder


@pytest.fixture(scope="module")
def server(root):
    flags = ["--enable_grpc_healthcheck_service", "--max_request_bytes=1000000"]
    with ServerProcess(root, flags=flags) as process:
        yield process


@pytest.fixture(params=["rest", "grpc"])
def client(server, request):
    url = server.rest_url if request.param == "rest" else f"grpc://{server.grpc_target}"
    with connect(url, retries=0) as opened:
        yield opened


def test_predictions_equal_the_engines(client, root, make_png, tmp_path):
    file = tmp_path / "green.png"
    file.write_bytes(make_png(GREEN, (7, 9)))
    pixels = np.full((5, 6, 3), BLUE, np.uint8)
    images = [make_png(RED), file, pixels]
    served = client.predict(images, model="colors")
    local = predict_local(root / "colors", images)
    assert [p.label for p in served] == ["red", "green", "blue"]
    for one, other in zip(served, local, strict=True):
        assert [t[:2] for t in one.top] == [t[:2] for t in other.top]
        np.testing.assert_allclose([t[2] for t in one.top], [t[2] for t in other.top], rtol=1e-5)
        assert one.score == one.top[0][2]
    assert [len(p.top) for p in client.predict(images, model="colors", top_k=1)] == [1, 1, 1]
    assert client.predict([], model="colors") == []


def test_not_an_image_is_the_clients_fault_and_the_server_lives(client, make_png):
    for junk in (b"not an image", b"", make_png(RED)[:40], b"\xff\xd8\xff\xe0 broken jpeg"):
        with pytest.raises(ClientError) as caught:
            client.predict([make_png(RED), junk], model="colors")
        assert caught.value.status in ("400", "INVALID_ARGUMENT")
        assert len(str(caught.value)) > 20
    assert client.predict([make_png(RED)], model="colors")[0].label == "red"


@pytest.mark.shared_data
def test_every_odd_file_gets_a_result_or_a_reason(root, extract, make_png):
    """The server's verdict is ingest's and training's: `check_image`, then the graph's decoder."""
    answered = refused = 0
    # A separate server, as libjpeg writes about damaged files to the log.
    with ServerProcess(root) as process, connect(process.rest_url, retries=0) as client:
        for path in sorted(extract("odd_images_A").rglob("*")):
            if not path.is_file() or path.stat().st_size > 600_000:
                continue
            data = path.read_bytes()
            try:
                load_image(data)
                expected = ""
            except ImageError as error:
                expected = str(error)
            if not expected:
                client.predict([data], model="colors")
                answered += 1
                continue
            with pytest.raises(ClientError) as caught:
                client.predict([data], model="colors")
            assert caught.value.status == "400", path.name
            if not expected.startswith("damaged"):
                assert f"image_bytes[0]: {expected}" in str(caught.value)
            refused += 1
        assert client.predict([make_png(RED)], model="colors")[0].label == "red"
    assert answered > 450
    assert refused > 200


def test_unknown_model_and_version(client, make_png):
    with pytest.raises(ClientError, match=r"Servable not found for request: Latest\(nope\)"):
        client.predict([make_png(RED)], model="nope")
    with pytest.raises(ClientError, match=r"Specific\(colors, 99\)"):
        client.predict([make_png(RED)], model="colors", version=99)
    with pytest.raises(ClientError, match="Could not find any versions of model nope"):
        client.status("nope")


def test_status_and_metadata(client, server):
    newest = client.status("colors")[0]
    assert (newest.version >= 1, newest.state, newest.error) == (True, "AVAILABLE", "")
    with Client(server.rest_url) as rest:
        signatures = rest.metadata("colors")["metadata"]["signature_def"]["signature_def"]
    names = ("serving_default", "preprocess", "predict_tensor", "predict_examples")
    assert set(names) <= set(signatures)


def test_every_signature_over_grpc(server, make_png, expected_scores):
    encoded = np.array([make_png(RED), make_png(BLUE)], object)
    with Client(f"grpc://{server.grpc_target}") as client:
        pixels = client.run({"image_bytes": encoded}, model="colors", signature="preprocess")
        images = pixels["images"]
        assert (images.dtype, images.shape) == (np.uint8, (2, 4, 4, 3))
        scores = client.run({"images": images}, model="colors", signature="predict_tensor")
    np.testing.assert_allclose(scores["scores"], expected_scores(images), atol=1e-6)


def raw(server, method, path, body=b"", headers=None):
    connection = http.client.HTTPConnection(urlsplit(server.rest_url).netloc, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_gzip_request(server):
    images = np.zeros((1, 4, 4, 3), int).tolist()
    body = json.dumps({"signature_name": "predict_tensor", "instances": images}).encode()
    path = "/v1/models/colors:predict"
    status, plain = raw(server, "POST", path, body)
    assert status == 200
    zipped = gzip.compress(body)
    assert raw(server, "POST", path, zipped, {"Content-Encoding": "gzip"}) == (200, plain)
    np.testing.assert_allclose(json.loads(plain)["predictions"][0], [1 / 3] * 3, rtol=1e-6)


def test_paths_outside_the_api(server):
    assert raw(server, "GET", "/") == (404, b"")
    assert raw(server, "GET", "/etc/passwd") == (404, b"")
    assert raw(server, "GET", "/v1/../../etc/passwd")[0] == 400


def test_a_request_beyond_the_limit_is_refused(server, make_png):
    status, body = raw(server, "POST", "/v1/models/colors:predict", b"x" * 1_000_001)
    assert status == 413
    assert "larger than 1000000 bytes" in json.loads(body)["error"]
    with connect(f"grpc://{server.grpc_target}", retries=0) as client:
        with pytest.raises(ClientError) as caught:
            client.predict([b"x" * 1_000_001], model="colors")
        assert caught.value.status == "RESOURCE_EXHAUSTED"
        assert client.predict([make_png(RED)], model="colors")


def test_a_client_that_hangs_up_half_way(server, make_png):
    host, port = urlsplit(server.rest_url).netloc.split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = b"POST /v1/models/colors:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n"
        connection.sendall(head + b'{"instances": [')
    with Client(server.rest_url) as client:
        assert client.predict([make_png(RED)], model="colors")


def test_metrics_count_requests(server, make_png):
    with Client(server.rest_url) as client:
        client.predict([make_png(RED)], model="colors")
    _, body = raw(server, "GET", "/monitoring/prometheus/metrics")
    text = body.decode()
    assert ':tensorflow:serving:request_count{model_name="colors",status="OK"}' in text
    assert 'API="Predict",entrypoint="REST",le="+Inf"' in text
    assert ":tensorflow:serving:model_warmup_records_read" in text


def test_made_up_names_do_not_become_metrics(server):
    assert raw(server, "POST", "/v1/models/made%ffup:predict", b'{"instances": [1]}')[0] == 404
    status, body = raw(server, "GET", "/monitoring/prometheus/metrics")
    assert status == 200
    assert b"made" not in body
    assert b'model_name="",status="NOT_FOUND"' in body


def test_a_pushed_version_is_taken_up_without_a_failed_request(server, root, tiny_draft, make_png):
    failures, answers = [], []
    done = threading.Event()

    def hammer():
        with Client(server.rest_url, retries=0) as client:
            while not done.is_set():
                try:
                    answers.append(client.predict([make_png(BLUE)], model="colors")[0].label)
                except ClientError as error:
                    failures.append(error)

    worker = threading.Thread(target=hammer)
    worker.start()
    # Other bytes make another digest, and so another version.
    draft = shutil.copytree(tiny_draft, root.parent / "second")
    (draft / "assets.extra" / "note.txt").write_text("second")
    rewrite_digest(draft)
    pushed = bundles.push(draft, root / "colors")
    with Client(server.rest_url) as client:
        deadline = time.monotonic() + 60
        while client.status("colors")[-1].state != "END":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        states = {status.version: status.state for status in client.status("colors")}
    done.set()
    worker.join()
    assert states == {pushed.version: "AVAILABLE", pushed.version - 1: "END"}
    assert failures == []
    assert set(answers) == {"blue"}


def rewrite_digest(draft):
    text = (draft / "manifest.json").read_text()
    raw_manifest = json.loads(text)
    raw_manifest["content_digest"] = bundles.content_digest(draft)
    (draft / "manifest.json").write_text(json.dumps(raw_manifest))


def test_a_model_that_is_pushed_later_is_served_too(server, root, tiny_draft, make_png):
    bundles.push(tiny_draft, root / "later")
    with Client(server.rest_url) as client:
        deadline = time.monotonic() + 60
        while True:
            try:
                assert client.predict([make_png(GREEN)], model="later")[0].label == "green"
                break
            except ClientError:
                assert time.monotonic() < deadline
                time.sleep(0.1)


def test_health(server):
    import grpc

    from serving.protocol import wire

    answer_type = wire.message("HealthCheckResponse")
    with grpc.insecure_channel(server.grpc_target) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer_type.FromString,
        )
        request = wire.message("HealthCheckRequest")
        assert check(request(), timeout=10).status == 1
        with pytest.raises(grpc.RpcError) as caught:
            check(request(service="nope"), timeout=10)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def run_server(*flags):
    command = [sys.executable, "-m", "serving.server", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("flag", "other"), [("--port", "rest_api_port"), ("--rest_api_port", "port")]
)
def test_port_in_use(root, flag, other):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_server(f"--bundles_dir={root}", f"{flag}={port}", f"--{other}=auto")
    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert "--rest_api_port" in done.stderr
    assert "Traceback" not in done.stderr


def test_two_servers_never_share_a_port(server, root):
    port = server.grpc_target.rpartition(":")[2]
    done = run_server(f"--bundles_dir={root}", f"--port={port}", "--rest_api_port=auto")
    assert done.returncode == 1
    assert f"port {port}" in done.stderr


def test_nothing_to_serve(tmp_path):
    done = run_server(f"--bundles_dir={tmp_path}", "--port=auto", "--rest_api_port=auto")
    assert done.returncode == 1
    assert f"{tmp_path} holds no model" in done.stderr
    assert "sightline run" in done.stderr
    (tmp_path / "m").mkdir()
    done = run_server(f"--model_base_path={tmp_path / 'm'}", "--model_name=m", "--port=auto")
    assert done.returncode == 1
    assert "holds no version" in done.stderr
    assert "Traceback" not in done.stderr


def test_only_broken_models(tmp_path):
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "saved_model.pb").write_bytes(b"junk")
    with pytest.raises(ServerError, match=r"no model loads(.|\n)*model m version 1: cannot load"):
        serve(tmp_path, grpc_port=0, rest_port=0)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "give one of --bundles_dir"),
        (["--bundles_dir=x", "--port=99999"], "a port is 1 to 65535"),
        (["--bundles_dir=x", "--enable_model_warmup=maybe"], "true or false"),
        (["--model_config_file=/nonexistent"], "is not a ModelServerConfig"),
    ],
)
def test_wrong_flags(flags, words, capsys):
    from serving.server.__main__ import main

    try:
        code = main(flags)
    except SystemExit as error:
        code = error.code
    assert code != 0
    assert words in capsys.readouterr().err


def test_sigterm_under_load_ends_cleanly(server, make_png):
    """The last test of this server: whatever it was sent, it says what it loads and no more."""
    stop = threading.Event()

    def hammer():
        with Client(server.rest_url, retries=0) as client:
            while not stop.is_set():
                try:
                    client.predict([make_png(RED)], model="colors")
                except ClientError:
                    return

    worker = threading.Thread(target=hammer)
    worker.start()
    time.sleep(0.3)
    os.kill(server.pid, signal.SIGTERM)
    server._process.wait(timeout=30)
    stop.set()
    worker.join()
    log = server.log()
    assert server.stop() == 0
    # Native lines of libjpeg, and what TensorFlow 2.21 prints at any level while it is imported.
    others = (" WARNING native: ", " is available", " is unloaded", " is ignored: ")
    others += ("absl::InitializeLog", " port.cc:", " cudart_stub.cc:")
    lines = [line for line in log.splitlines() if not any(word in line for word in others)]
    assert len(lines) == 1, log
    assert lines[0].startswith("serving colors/")
