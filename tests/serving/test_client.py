import http.server
import io
import json
import threading

import numpy as np
import pytest
from PIL import Image

from serving.client import Client, ClientError, connect, predict_local
from serving.images import encode_png, encoded_image
from serving.types import predictions_from_scores


class Flaky(http.server.BaseHTTPRequestHandler):
    """Answers with what the test queued."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.server.requests.append(
            (self.path, self.rfile.read(int(self.headers["Content-Length"])))
        )
        status, body = self.server.answers.pop(0)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


@pytest.fixture
def flaky():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Flaky) as server:
        server.answers, server.requests = [], []
        server.daemon_threads = True
        worker = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        worker.start()
        yield server
        server.shutdown()
        worker.join()


GOOD = json.dumps(
    {"predictions": [{"scores": [0.75, 0.25], "classes": [4, 1], "labels": ["four", "one"]}]}
).encode()


@pytest.fixture
def client(flaky):
    with Client(f"http://127.0.0.1:{flaky.server_port}/", retries=2) as opened:
        yield opened


def test_busy_answers_are_tried_again(client, flaky):
    flaky.answers += [(503, b""), (429, b"{}"), (200, GOOD)]
    (prediction,) = client.predict([b"image"], model="a/b", version=3)
    assert (prediction.label, prediction.score) == ("four", 0.75)
    assert prediction.top == (("four", 4, 0.75), ("one", 1, 0.25))
    assert [path for path, _ in flaky.requests] == ["/v1/models/a%2Fb/versions/3:predict"] * 3
    sent = json.loads(flaky.requests[0][1])
    assert sent == {"signature_name": "serving_default", "instances": [{"b64": "aW1hZ2U="}]}


def test_refusals_are_not_tried_again(client, flaky):
    flaky.answers += [(400, b'{"error": "no image"}')]
    with pytest.raises(ClientError, match="no image") as caught:
        client.predict([b"x"], model="m")
    assert caught.value.status == "400"
    assert len(flaky.requests) == 1


def test_it_gives_up(client, flaky):
    flaky.answers += [(503, b"<html>")] * 3
    with pytest.raises(ClientError, match="HTTP 503"):
        client.predict([b"x"], model="m")
    assert len(flaky.requests) == 3


def test_a_model_that_is_no_classifier(client, flaky):
    flaky.answers += [(200, b'{"predictions": [1.0]}')]
    with pytest.raises(ClientError, match="does not answer as a classifier"):
        client.predict([b"x"], model="m")


def test_no_server():
    rest = connect("http://127.0.0.1:9", retries=0)
    with rest, pytest.raises(ClientError, match="is `sightline serve` running"):
        rest.status("m")
    grpc = connect("grpc://127.0.0.1:9", retries=0, timeout_s=5)
    with grpc, pytest.raises(ClientError, match=r"127\.0\.0\.1:9"):
        grpc.status("m")


@pytest.mark.parametrize("url", ["localhost:8501", "ftp://x", "", "http:/x"])
def test_addresses(url):
    with pytest.raises(ClientError, match="is no address; write http://host:8501 or grpc://"):
        connect(url)


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 5, 3), (64, 48, 3)])
def test_png_holds_the_pixels(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with Image.open(io.BytesIO(encode_png(pixels))) as image:
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), pixels)
    assert encode_png(pixels[::-1]) == encode_png(np.ascontiguousarray(pixels[::-1]))


def test_what_is_an_image(tmp_path):
    (tmp_path / "a.png").write_bytes(b"content")
    assert encoded_image(tmp_path / "a.png") == encoded_image(str(tmp_path / "a.png")) == b"content"
    assert encoded_image(bytearray(b"x")) == b"x"
    with pytest.raises(FileNotFoundError):
        encoded_image(tmp_path / "b.png")
    with pytest.raises(TypeError, match="got int"):
        encoded_image(3)
    for bad in (np.zeros((2, 2)), np.zeros((0, 2, 3), np.uint8), np.zeros((2, 2, 4), np.uint8)):
        with pytest.raises(ValueError, match=r"pixels must be uint8 \(H, W, 3\)"):
            encode_png(bad)


def test_scores_become_predictions():
    scores = np.array([[0.1, 0.6, 0.3], [0.4, 0.4, 0.2]], np.float32)
    first, second = predictions_from_scores(scores, ("a", "b", "c"), 2)
    assert [entry[:2] for entry in first.top] == [("b", 1), ("c", 2)]
    assert first.score == pytest.approx(0.6)
    assert [entry[0] for entry in second.top] == ["a", "b"]
    assert len(predictions_from_scores(scores, ("a", "b", "c"), 9)[0].top) == 3


def test_predict_local(tiny_draft, make_png):
    for variant in ("saved_model", "none_fp32"):
        predictions = predict_local(tiny_draft, [make_png((0, 0, 250))], variant=variant)
        assert predictions[0].label == "blue"
        assert len(predictions[0].top) == 2
    assert predict_local(tiny_draft, [], variant="none_fp32") == []
