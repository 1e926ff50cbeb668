import base64
import email.utils
import json
import threading
import time

import pytest

from serving.client import Client, ClientError, Tls, connect
from serving.client.http import retry_after_s


@pytest.fixture
def client(rest):
    with Client(f"{rest.url}/", retries=2) as opened:
        yield opened


def test_requests_and_results(client, rest, rows):
    rest.answers += [rows(1)]
    (prediction,) = client.predict([b"image"], model="a/b", version=3)
    assert (prediction.label, prediction.score) == ("four", 0.75)
    assert prediction.top == (("four", 4, 0.75), ("one", 1, 0.25))
    (seen,) = rest.requests
    assert (seen.method, seen.path) == ("POST", "/v1/models/a%2Fb/versions/3:predict")
    assert json.loads(seen.body) == {
        "signature_name": "serving_default",
        "instances": [{"b64": "aW1hZ2U="}],
    }


@pytest.mark.parametrize(
    ("which", "path"),
    [
        ({}, "/v1/models/m:predict"),
        ({"version": 0}, "/v1/models/m/versions/0:predict"),
        ({"label": "can/ary"}, "/v1/models/m/labels/can%2Fary:predict"),
    ],
)
def test_versions_and_labels(client, rest, rows, which, path):
    rest.answers += [rows(1)]
    client.predict([b"x"], model="m", **which)
    assert rest.requests[0].path == path


def test_version_and_label_at_once(client, rest):
    with pytest.raises(ValueError, match="give `version` or `label`, not both: got 1 and 'x'"):
        client.predict([b"x"], model="m", version=1, label="x")
    assert rest.requests == []


def test_busy_responses_are_retried(client, rest, rows, no_jitter):
    rest.answers += [(503, b""), (429, {}, {"Retry-After": "7"}), rows(1)]
    assert client.predict([b"x"], model="m")[0].label == "four"
    assert no_jitter == [0.1, 7.2]
    assert len({(r.path, r.body) for r in rest.requests}) == 1
    assert len(rest.requests) == 3


@pytest.mark.parametrize("status", [502, 504])
def test_gateway_errors_are_retried(client, rest, rows, no_jitter, status):
    rest.answers += [(status, b"<html>"), rows(1)]
    client.predict([b"x"], model="m")
    assert no_jitter == [0.1]


def test_a_lost_connection_is_retried(client, rest, rows, no_jitter):
    cut = (200, b'{"predictions', {"Content-Length": "1000"})
    rest.answers += [None, lambda request: hang_up_after(rest, cut), rows(1)]
    assert client.predict([b"x"], model="m")[0].label == "four"
    assert len(no_jitter) == 2


def hang_up_after(rest, answer):
    status, content, headers = answer
    return status, content, {**headers, "Connection": "close"}


@pytest.mark.parametrize("status", [400, 404, 413, 500, 501])
def test_rejections_are_not_retried(client, rest, status):
    rest.answers += [(status, {"error": "no image"})]
    with pytest.raises(ClientError, match=r"^no image$") as caught:
        client.predict([b"x"], model="m")
    assert (caught.value.status, caught.value.tries) == (str(status), 1)
    assert len(rest.requests) == 1


def test_it_gives_up(client, rest, no_jitter):
    rest.reply = (503, b"<html>")
    with pytest.raises(ClientError, match=r"HTTP 503 .* \(tried 3 times in") as caught:
        client.predict([b"x"], model="m")
    assert (caught.value.tries, len(rest.requests)) == (3, 3)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"predictions": [1.0]}, "is not a classifier"),
        ({"predictions": [{"scores": [1.0]}]}, r"its outputs are \['scores'\]"),
        ({"predictions": [{"labels": [], "classes": [], "scores": []}]}, "is not a classifier"),
        (
            {"predictions": [{"boxes": [], "num_detections": 0}]},
            "it is a detector, use `detect`",
        ),
        (b"<html>hello", r"is not JSON: b'<html>hello'"),
        (b"[1]", "is not a JSON object"),
    ],
)
def test_malformed_responses(client, rest, answer, words):
    rest.answers += [(200, answer)]
    with pytest.raises(ClientError, match=words):
        client.predict([b"x"], model="m")


def test_a_redirect_is_reported_and_not_followed(client, rest):
    rest.answers += [(301, b"", {"Location": "https://elsewhere/"})]
    with pytest.raises(ClientError, match=r"HTTP 301 .*redirects to https://elsewhere/, use that"):
        client.predict([b"x"], model="m")
    assert len(rest.requests) == 1


def test_a_server_that_does_not_respond_in_time(client, rest):
    done = threading.Event()

    def hang(request):
        done.wait(30)

    rest.reply = hang
    with pytest.raises(ClientError, match=r"no response from .* within 0\.3 s") as caught:
        client.status("m", timeout_s=0.3)
    done.set()
    assert caught.value.status == "DEADLINE_EXCEEDED"
    assert 0.2 < caught.value.seconds < 10
    assert len(rest.requests) == 1


def test_a_slow_response_body(client, rest):
    """Bytes that keep arriving do not extend the deadline."""
    stop = threading.Event()

    class Dripping(bytes):
        pass

    def drip(request):
        return 200, Dripping(b'{"model_version_status": []}'), {"Content-Length": "1000"}

    def write(self, content):
        if not isinstance(content, Dripping):
            return write_all(self, content)
        while not stop.wait(0.02):
            try:
                write_all(self, b" ")
            except OSError:
                break
        return len(content)

    import socketserver

    write_all = socketserver._SocketWriter.write
    rest.reply = drip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socketserver._SocketWriter, "write", write)
        began = time.monotonic()
        with pytest.raises(ClientError) as caught:
            client.status("m", timeout_s=0.4)
        took = time.monotonic() - began
        stop.set()
    assert caught.value.status == "DEADLINE_EXCEEDED"
    # 1000 bytes at 0.02 s each would be 20 s.
    assert took < 10


def test_a_slow_response_head(listen):
    """Each byte is in time, but the complete head would take three seconds."""

    def drip(connection):
        connection.recv(65536)
        for byte in b"HTTP/1.1 200 OK\r\nX-Filler: " + b"x" * 40:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)

    url = f"http://127.0.0.1:{listen(drip)}"
    with Client(url, retries=0) as client, pytest.raises(ClientError, match="within") as caught:
        client.status("m", timeout_s=0.4)
    assert caught.value.status == "DEADLINE_EXCEEDED"
    image = f"{url}/a.png"
    with Client("http://127.0.0.1:9", retries=0) as client, pytest.raises(ClientError) as caught:
        client.predict([image], model="m", timeout_s=0.4)
    assert caught.value.status == "DEADLINE_EXCEEDED"


def test_a_body_may_take_longer_than_a_connection(listen, monkeypatch, rows):
    """The connect timeout does not apply to a server that reads slowly."""
    from serving.client import http

    monkeypatch.setattr(http, "CONNECT_TIMEOUT_S", 0.2)
    read = []

    def handle(connection):
        time.sleep(0.6)
        head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ") for line in head.split(b"\r\n")[1:])
        left = int(fields[b"content-length"]) - len(body)
        while left and (piece := connection.recv(min(left, 2**20))):
            left -= len(piece)
        read.append(int(fields[b"content-length"]))
        answer = json.dumps(rows(1)[1]).encode()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)

    with Client(f"http://127.0.0.1:{listen(handle)}", retries=0) as client:
        assert client.predict([bytes(8 * 2**20)], model="m")[0].label == "four"
    assert read[0] > 8 * 2**20


def test_no_server():
    client = connect("http://127.0.0.1:9", retries=0)
    with client, pytest.raises(ClientError, match="is `sightline serve` running") as caught:
        client.status("m")
    assert caught.value.status == ""


def test_no_server_is_retried(no_jitter):
    client = connect("http://127.0.0.1:9", retries=2)
    with client, pytest.raises(ClientError, match="tried 3 times"):
        client.status("m")
    assert no_jitter == [0.1, 0.2]


def test_long_lists_are_split_in_order(client, rest):
    def reply(request):
        coded = [
            base64.b64decode(row["b64"]).decode() for row in json.loads(request.body)["instances"]
        ]
        return 200, {
            "predictions": [{"scores": [1.0], "classes": [0], "labels": [c]} for c in coded]
        }

    rest.reply = reply
    images = [str(number).encode() for number in range(10)]
    found = client.predict(images, model="m", batch_size=4)
    assert [p.label for p in found] == [str(number) for number in range(10)]
    assert [len(json.loads(r.body)["instances"]) for r in rest.requests] == [4, 4, 2]
    assert client.predict([], model="m", batch_size=4) == []
    assert len(rest.requests) == 3
    with pytest.raises(ValueError, match="`batch_size` must be 1 or more, got 0"):
        client.predict(images, model="m", batch_size=0)


def test_an_error_names_the_part_of_the_list(client, rest, rows):
    rest.answers += [rows(2), (400, {"error": "image_bytes[1]: not an image"})]
    with pytest.raises(ClientError, match=r"^images\[2:4\]: image_bytes\[1\]: not an") as caught:
        client.predict([b"x"] * 5, model="m", batch_size=2)
    assert (caught.value.status, len(rest.requests)) == ("400", 2)


def test_too_few_results(client, rest, rows):
    rest.answers += [rows(1)]
    with pytest.raises(ClientError, match="returned 1 results for 2 images"):
        client.predict([b"x", b"y"], model="m")


def test_top_k(client, rest, rows):
    rest.reply = rows(1)
    assert [len(client.predict([b"x"], model="m", top_k=k)[0].top) for k in (1, 2, 9)] == [1, 2, 2]


def test_threads_share_a_client_and_connections_are_kept(client, rest):
    def reply(request):
        (row,) = json.loads(request.body)["instances"]
        label = base64.b64decode(row["b64"]).decode()
        return 200, {"predictions": [{"scores": [1.0], "classes": [0], "labels": [label]}]}

    rest.reply = reply
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
    assert len(rest.requests) == 160
    assert rest.connections <= 8


def test_a_client_that_is_closed(rest):
    client = Client(rest.url)
    client.close()
    with pytest.raises(ClientError, match="this client is closed"):
        client.status("m")


def test_headers(rest, rows, monkeypatch, tmp_path):
    # A netrc entry for the host must not replace what the caller gave.
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login alice password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    rest.answers += [rows(1)]
    with Client(rest.url, headers={"Authorization": "Bearer 7"}) as client:
        client.predict([b"x"], model="m")
    assert rest.requests[0].headers["Authorization"] == "Bearer 7"


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, None), ("3", 3.0), (" 0 ", 0.0), ("soon", None), ("-1", None)]
)
def test_retry_after(header, seconds):
    assert retry_after_s(header) == seconds


def test_retry_after_a_date():
    later = email.utils.formatdate(time.time() + 100, usegmt=True)
    assert 97 < retry_after_s(later) <= 100
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


@pytest.mark.parametrize(
    "url",
    ["localhost:8501", "ftp://x", "", "http:/x", "http://", "http://x:port", "grpc://x:99999"],
)
def test_addresses(url):
    with pytest.raises(
        ClientError, match="is not a server address; write http://host:8501 or grpc://"
    ):
        connect(url)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://me:secret@x", "write no password in the address; use `headers`"),
        ("http://x/?a=1", "without"),
        ("grpc://x:1/models", "a gRPC address has no path, got '/models'"),
    ],
)
def test_addresses_with_unsupported_parts(url, words):
    with pytest.raises(ClientError, match=words) as caught:
        Client(url)
    assert "secret" not in str(caught.value)


def test_wrong_numbers_are_errors_at_once():
    with pytest.raises(ValueError, match="timeout_s"):
        Client("http://x", timeout_s=0)
    with pytest.raises(ValueError, match="retries"):
        Client("grpc://x", retries=-1)
    with pytest.raises(ValueError, match="give both `certificate` and `key`, or neither"):
        Tls(certificate="client.pem")


def test_a_path_before_the_api(rest, rows):
    rest.answers += [rows(1)]
    with Client(f"{rest.url}/behind/a/gateway/") as client:
        client.predict([b"x"], model="m")
    assert rest.requests[0].path == "/behind/a/gateway/v1/models/m:predict"
