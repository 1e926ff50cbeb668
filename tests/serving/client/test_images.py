import io
import threading

import numpy as np
import pytest
from PIL import Image

from serving.client import ClientError
from serving.client.images import ImageLoader
from serving.client.retry import Deadline
from serving.protocol.images import encode_png, encoded_image


@pytest.fixture
def load():
    loader = ImageLoader(max_download_bytes=1000, retries=1)
    yield lambda *images, timeout_s=20.0: loader.load(images, Deadline(timeout_s))
    loader.close()


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


def test_everything_in_one_list(load, rest, tmp_path):
    (tmp_path / "a.png").write_bytes(b"file")
    rest.answers += [(200, b"web", {"Content-Type": "image/png"})]
    pixels = np.zeros((2, 3, 3), np.uint8)
    found = load(
        b"bytes",
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        f"{rest.url}/a.png?size=3",
        "data:;base64,ZGF0YQ==",
        pixels,
    )
    assert found == [b"bytes", b"file", b"file", b"web", b"data", encode_png(pixels)]
    (seen,) = rest.requests
    assert (seen.method, seen.path) == ("GET", "/a.png?size=3")


def test_a_name_that_only_looks_like_a_url_is_a_path(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "https.png").write_bytes(b"file")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").write_bytes(b"other")
    assert load("https.png", "data/a.png") == [b"file", b"other"]
    for missing in ("ftp://x/a.png", "www.example.org/a.png", "file:a.png"):
        with pytest.raises(FileNotFoundError):
            load(missing)


@pytest.mark.parametrize(
    ("url", "content"),
    [
        ("data:image/png;base64,aGk=", b"hi"),
        ("DATA:image/png;BASE64,aG%6B%3D", b"hi"),
        ("data:image/png;charset=x;base64, aG\nk=", b"hi"),
        ("data:,a%00b", b"a\x00b"),
    ],
)
def test_data_urls(load, url, content):
    assert load(url) == [content]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("data:image/png;base64", "has no comma; write data:image/png;base64"),
        ("data:;base64,a!", "is not base64"),
        ("data:;base64," + "A" * 2000, "is larger than 1000 bytes; raise `max_download_bytes`"),
        ("data:," + "A" * 4000, "is larger than 1000 bytes"),
    ],
)
def test_invalid_data_urls(load, url, words):
    with pytest.raises(ClientError, match=words) as caught:
        load(url)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("length", [True, False])
def test_a_download_has_a_size_limit(load, rest, length):
    body = b"x" * 5000
    if length:
        rest.answers += [(200, body)]
    else:
        chunked = b"1388\r\n" + body + b"\r\n0\r\n\r\n"
        headers = {"Transfer-Encoding": "chunked", "Connection": "close"}
        rest.answers += [(200, chunked, headers)]
    with pytest.raises(ClientError, match=r"http://.*/big is larger than 1000 bytes"):
        load(f"{rest.url}/big")
    rest.answers += [(200, b"x" * 1000)]
    assert load(f"{rest.url}/fits") == [b"x" * 1000]


def test_a_compressed_bomb_stays_small(load, rest):
    import gzip

    rest.answers += [(200, gzip.compress(bytes(10**6)), {"Content-Encoding": "gzip"})]
    with pytest.raises(ClientError, match="is larger than 1000 bytes"):
        load(f"{rest.url}/bomb")


def test_a_download_has_a_time_limit(load, rest):
    done = threading.Event()
    rest.reply = lambda request: done.wait(30) and None
    with pytest.raises(ClientError, match=r"no response from .*/slow within 0\.\d+ s") as caught:
        load(f"{rest.url}/slow", timeout_s=0.3)
    done.set()
    assert caught.value.status == "DEADLINE_EXCEEDED"


def test_downloads_are_retried(load, rest, no_jitter):
    rest.answers += [(503, b""), (200, b"x")]
    assert load(f"{rest.url}/a") == [b"x"]
    assert no_jitter == [0.1]
    rest.answers += [(404, b"")]
    with pytest.raises(ClientError, match=r"/a: HTTP 404 Not Found") as caught:
        load(f"{rest.url}/a")
    assert (caught.value.status, caught.value.tries) == ("404", 1)


def test_a_web_page_is_not_an_image(load, rest):
    rest.answers += [(200, b"<html>", {"Content-Type": "text/html; charset=utf-8"})]
    with pytest.raises(ClientError, match=r"is text/html; charset=utf-8, not an image"):
        load(f"{rest.url}/page")


def test_redirects_are_followed(load, rest):
    rest.answers += [(302, b"", {"Location": f"{rest.url}/b.png"}), (200, b"x")]
    assert load(f"{rest.url}/a.png") == [b"x"]
    assert [request.path for request in rest.requests] == ["/a.png", "/b.png"]
    rest.answers += [(302, b"", {"Location": "ftp://127.0.0.1/x"})]
    with pytest.raises(ClientError, match="ftp://"):
        load(f"{rest.url}/a.png")


def test_an_invalid_url(load):
    with pytest.raises(ClientError, match="http:///"):
        load("http:///")
