"""What is wrapped around REST: CORS, gzip, health URLs, and Vertex AI's routes."""

import asyncio
import gzip
import json
import threading

import pytest

from serving.server.errors import ServerError, ServingError
from serving.server.http.pages import health_page
from serving.server.http.vertex import (
    VertexOptions,
    model_base_path,
    read_vertex_options,
    vertex_page,
)
from serving.server.http.web import (
    Response,
    accepts_gzip,
    first_of,
    inflate,
    preflight,
    with_cors,
    with_gzip,
)
from serving.server.observability.health import Readiness

CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "*",
}


class Rest:
    """Responds with a body of that size, and records its requests."""

    def __init__(self, body=b"x" * 1000, headers=None):
        self.asked = []
        self.response = Response(200, body, headers or {})

    async def __call__(self, *request):
        self.asked.append(request)
        return self.response


class Models:
    def __init__(self, **versions):
        self.versions = versions

    def available(self):
        return self.versions


def ask(handler, method="GET", path="/v1/models/m", headers=None, body=b""):
    return asyncio.run(handler(method, path, headers or {}, body))


def test_preflight_wants_a_web_origin():
    assert preflight({"origin": "https://example.org"}) == Response(200)
    assert preflight({"origin": "null"}) == Response(400)
    assert preflight({}) == Response(400)


@pytest.mark.parametrize("path", ["/v1/models/m:predict", "/v2/models/m/infer", "/v2"])
def test_cors_headers_on_every_response_of_the_api(path):
    handler = with_cors(Rest(headers={"Content-Type": "a/b"}))
    assert ask(handler, "POST", path).headers == {"Content-Type": "a/b", **CORS}
    origin = {"origin": "http://a"}
    assert ask(handler, "OPTIONS", path, origin) == Response(200, headers=CORS)
    assert ask(handler, "OPTIONS", path).status == 400


def test_cors_does_not_open_the_metrics():
    assert not ask(with_cors(Rest()), path="/monitoring/prometheus/metrics").headers


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("gzip", True),
        ("deflate, GZip;q=0.5", True),
        ("*", True),
        ("x-gzip", True),
        ("", False),
        ("br", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000, *", False),
        ("gzip;q=x", False),
    ],
)
def test_accept_encoding(header, wanted):
    assert accepts_gzip(header) is wanted


@pytest.mark.parametrize("size", [1000, 100_000])
def test_large_responses_are_compressed_where_accepted(size):
    rest = Rest(b"y" * size)
    packed = ask(with_gzip(rest, 1000), headers={"accept-encoding": "gzip"})
    assert packed.headers == {"Vary": "Accept-Encoding", "Content-Encoding": "gzip"}
    assert gzip.decompress(packed.body) == rest.response.body
    plain = ask(with_gzip(rest, 1000))
    assert plain.body == rest.response.body
    assert plain.headers == {"Vary": "Accept-Encoding"}


def test_small_and_encoded_responses_are_unchanged():
    asked = {"accept-encoding": "gzip"}
    assert ask(with_gzip(Rest(), 1001), headers=asked) == Response(200, b"x" * 1000)
    encoded = Rest(headers={"Content-Encoding": "br"})
    assert ask(with_gzip(encoded, 1), headers=asked) == encoded.response


def test_inflate_reads_every_member():
    """One body may be several gzip files in a row, as `pigz` and `cat` make them."""
    headers = {"content-encoding": "gzip"}
    body = gzip.compress(b'{"instances":') + gzip.compress(b"") + gzip.compress(b" [1.0]}")
    for packed in (body, body + bytes(512)):
        assert inflate(headers, packed, 100) == gzip.decompress(packed) == b'{"instances": [1.0]}'
    for damaged in (body + b"x", body[:-1]):
        assert inflate(headers, damaged, 100) is None
    with pytest.raises(ServingError, match="more than 19 bytes"):
        inflate(headers, body, 19)
    with pytest.raises(ServingError, match="more than 16 members; send one"):
        inflate(headers, gzip.compress(b"") * 17, 100)
    assert inflate(headers, gzip.compress(b"a") * 16, 100) == b"a" * 16


def test_inflate():
    packed = gzip.compress(b"z" * 100)
    headers = {"content-encoding": "GZIP"}
    assert inflate(headers, packed, 100) == b"z" * 100
    assert inflate({}, packed, 1) == packed
    for body in (packed[:-5], b"no"):
        assert inflate(headers, body, 100) is None
    with pytest.raises(ServingError, match="inflates to more than 99 bytes"):
        inflate(headers, packed, 99)


def test_the_first_page_that_serves_a_path_is_used():
    async def page(method, path, headers, body):
        return Response(201) if path == "/mine" else None

    rest = Rest()
    handler = first_of([page], rest)
    assert ask(handler, path="/mine").status == 201
    assert ask(handler, path="/other").status == 200
    assert [request[1] for request in rest.asked] == ["/other"]


def test_health_urls():
    models = Models(a=[], b=[])
    readiness = Readiness(models)
    page = health_page(readiness)
    assert ask(page, path="/healthz/live").status == 200
    assert ask(page, path="/healthz/ready").status == 503
    models.versions["a"].append(1)
    partly = ask(page, path="/healthz/ready")
    assert partly.status == 503
    assert json.loads(partly.body) == {"ready": False, "not_served": ["b"]}
    models.versions["b"].append(1)
    ready = ask(page, path="/healthz/ready")
    assert ready.status == 200
    assert json.loads(ready.body) == {"ready": True, "not_served": []}
    seen = []
    assert readiness.watch(seen.append, most=1)
    assert not readiness.watch(print, most=1)
    readiness.drain()
    assert seen == [True, False]
    draining = ask(page, path="/healthz/ready")
    assert draining.status == 503
    assert json.loads(draining.body) == {"ready": False, "not_served": [], "draining": True}
    assert ask(page, path="/healthz/live").status == 200
    assert not Readiness(Models()).is_ready()
    assert ask(page, "POST", "/healthz/live").status == 405
    assert ask(page, path="/healthz") is None


def vertex(rest=None, **versions):
    options = VertexOptions(8080, "/health", "/predict")
    return vertex_page(options, Readiness(Models(**versions)), rest or Rest(), model_of=lambda: "m")


def test_vertex_health():
    assert ask(vertex(m=[]), path="/health").status == 503
    assert ask(vertex(m=[1]), path="/health").status == 200


def test_vertex_predict_is_tf_servings():
    rest = Rest()
    body = b'{"instances": [{"b64": "AA=="}]}'
    assert ask(vertex(rest, m=[1]), "POST", "/predict", body=body) == rest.response
    assert rest.asked == [("POST", "/v1/models/m:predict", {}, body)]
    body = b'{"instances": [1], "parameters": {"signature_name": "s"}}'
    ask(vertex(rest, m=[1]), "POST", "/predict", body=body)
    assert json.loads(rest.asked[1][3]) == {"instances": [1], "signature_name": "s"}
    body = b'{"instances": ["\xff\xc3\xa9"], "parameters": {"signature_name": "s"}}'
    ask(vertex(rest, m=[1]), "POST", "/predict", body=body)
    assert b'["\xff\xc3\xa9"]' in rest.asked[2][3]


def test_vertex_takes_gzip():
    rest = Rest()
    body = b'{"instances": [1]}'
    headers = {"content-encoding": "gzip", "x-request-id": "7"}
    assert ask(vertex(rest, m=[1]), "POST", "/predict", headers, gzip.compress(body)).status == 200
    assert rest.asked == [("POST", "/v1/models/m:predict", {"x-request-id": "7"}, body)]
    damaged = gzip.compress(body)[:-9]
    response = ask(vertex(rest, m=[1]), "POST", "/predict", headers, damaged)
    assert response.status == 400
    assert "damaged" in json.loads(response.body)["error"]
    assert len(rest.asked) == 1


@pytest.mark.parametrize(
    ("size", "headers", "elsewhere"),
    [
        (1000, {}, False),
        (100_000, {}, True),
        (1000, {"content-encoding": "gzip"}, True),
    ],
)
def test_vertex_leaves_large_bodies_to_a_thread(monkeypatch, size, headers, elsewhere):
    threads = []

    def parse(body):
        threads.append(threading.current_thread())
        return json.loads(body)

    monkeypatch.setattr("serving.server.http.vertex.parse", parse)
    body = json.dumps({"instances": ["x" * size]}).encode()
    data = gzip.compress(body) if headers else body
    rest = Rest()
    assert ask(vertex(rest, m=[1]), "POST", "/predict", headers, data).status == 200
    assert rest.asked[0][3] == body
    assert [thread is not threading.main_thread() for thread in threads] == [elsewhere]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{}", "instances"),
        (b"[]", "instances"),
        (b'{"instances": 1}', "instances"),
        (b'{"instances": [], "parameters": {"top": 3}}', "unknown parameters ['top']"),
        (b'{"instances": [], "parameters": [1]}', "object"),
        (b"{", "JSON"),
        pytest.param(
            b'{"parameters": {"signature_name": "s"}, "instances": %b}'
            % (b"[" * 30_000 + b"]" * 30_000),
            "nested too deeply",
            id="deep",
        ),
    ],
)
def test_vertex_refuses_with_the_reason(body, words):
    rest = Rest()
    response = ask(vertex(rest, m=[1]), "POST", "/predict", body=body)
    assert response.status == 400
    assert words in json.loads(response.body)["error"]
    assert not rest.asked


def test_vertex_leaves_other_paths():
    assert ask(vertex(m=[1]), "GET", "/predict") is None
    assert ask(vertex(m=[1]), "POST", "/v1/models/m:predict") is None


def test_vertex_variables(tmp_path):
    assert read_vertex_options({}) == VertexOptions(8080, "/health", "/predict", None)
    environ = {
        "AIP_HTTP_PORT": "9000",
        "AIP_HEALTH_ROUTE": "/h",
        "AIP_PREDICT_ROUTE": "/p",
        "AIP_STORAGE_URI": str(tmp_path),
        "AIP_MODE": "PREDICTION",
    }
    assert read_vertex_options(environ) == VertexOptions(9000, "/h", "/p", tmp_path)
    options = read_vertex_options({"AIP_STORAGE_URI": f"file://{tmp_path}"})
    assert options.model_dir == tmp_path


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("AIP_HTTP_PORT", "0", "1 to 65535"),
        ("AIP_HTTP_PORT", "x", "1 to 65535"),
        ("AIP_HEALTH_ROUTE", "health", "begin with /"),
        ("AIP_HEALTH_ROUTE", "/predict", "both"),
        ("AIP_STORAGE_URI", "gs://bucket/model", "mount"),
        ("AIP_STORAGE_URI", "/nowhere", "no folder"),
        ("AIP_MODE", "TRAINING", "predictions only"),
    ],
)
def test_vertex_variables_that_make_no_sense(name, value, words):
    with pytest.raises(ServerError, match=words):
        read_vertex_options({name: value})


def test_a_bare_saved_model_becomes_version_one(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = tmp_path / "model"
    model.mkdir()
    with model_base_path(model) as base:
        assert base == model
    (model / "saved_model.pb").write_bytes(b"pb")
    with model_base_path(model) as base:
        assert (base / "1" / "saved_model.pb").read_bytes() == b"pb"
    # The model itself is not of what is removed.
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (model / "saved_model.pb").read_bytes() == b"pb"
