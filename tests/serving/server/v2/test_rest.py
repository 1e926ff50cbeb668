"""`/v2`: the JSON of the published specification, and binary tensors behind it."""

import gzip
import json
import struct

import numpy as np
import pytest

from serving.server.v2.rest import open_inference_page

GOOD = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1.0, 2.0]}


@pytest.fixture
def ask(service, run):
    """(method, path, body, headers) -> (status, JSON); the body may be bytes or a value."""
    page = open_inference_page(service)

    def send(method, path, body=b"", headers=None):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return run(page(method, path, headers or {}, data))

    return send


def answer(response):
    return json.loads(response.body)


def test_health_and_server(ask, models):
    assert answer(ask("GET", "/v2/health/live")) == {"live": True}
    assert ask("GET", "/v2/health/ready").status == 200
    about = answer(ask("GET", "/v2"))
    assert about["name"] == "sightline"
    assert about["extensions"] == ["binary_tensor_data"]
    models.servables["gone"] = {}
    assert ask("GET", "/v2/health/ready").status == 503
    models.servables.clear()
    assert ask("GET", "/v2/health/ready").status == 503


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("half", 200),
        ("half/versions/1", 200),
        ("half/versions/stable", 200),
        ("half/versions/9", 503),
        ("none", 404),
    ],
)
def test_model_ready(ask, path, status):
    assert ask("GET", f"/v2/models/{path}/ready").status == status


def test_model_metadata(ask):
    assert answer(ask("GET", "/v2/models/half")) == {
        "name": "half",
        "versions": ["1", "2"],
        "platform": "tensorflow_savedmodel",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}],
    }
    shapes = {t["name"]: t["shape"] for t in answer(ask("GET", "/v2/models/echo"))["inputs"]}
    assert shapes == {"words": [-1], "halves": [-1, 2], "big": [-1], "one": []}


@pytest.mark.parametrize(
    ("path", "version", "y"),
    [("half", "2", [2.5, 3.0]), ("half/versions/1", "1", [1.5, 2.0])],
)
def test_infer(ask, metrics, path, version, y):
    body = {"id": "42", "inputs": [GOOD], "outputs": [{"name": "y"}]}
    response = ask("POST", f"/v2/models/{path}/infer", body)
    assert response.headers["Content-Type"] == "application/json"
    assert answer(response) == {
        "model_name": "half",
        "model_version": version,
        "id": "42",
        "outputs": [{"name": "y", "shape": [2], "datatype": "FP32", "data": y}],
    }
    assert 'request_count{model_name="half",status="OK"} 1' in metrics.text()


def test_gzip_request(ask):
    body = gzip.compress(json.dumps({"inputs": [GOOD]}).encode())
    response = ask("POST", "/v2/models/half/infer", body, {"content-encoding": "gzip"})
    assert answer(response)["outputs"][0]["data"] == [2.5, 3.0]
    response = ask("POST", "/v2/models/half/infer", body[:-9], {"content-encoding": "gzip"})
    assert response.status == 400


def test_binary_in_and_out(ask):
    x = np.array([1, 2, 3], "<f4")
    tensor = {"name": "x", "shape": [3], "datatype": "FP32"}
    tensor["parameters"] = {"binary_data_size": 12}
    head = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    text = json.dumps(head).encode()
    headers = {"inference-header-content-length": str(len(text))}
    response = ask("POST", "/v2/models/half/infer", text + x.tobytes(), headers)
    size = int(response.headers["inference-header-content-length"])
    assert response.headers["Content-Type"] == "application/octet-stream"
    output = json.loads(response.body[:size])["outputs"][0]
    assert output == {
        "name": "y",
        "shape": [3],
        "datatype": "FP32",
        "parameters": {"binary_data_size": 12},
    }
    assert struct.unpack("<3f", response.body[size:]) == (2.5, 3.0, 3.5)


def test_two_binary_inputs_keep_their_order_and_one_output_stays_json(ask):
    words = b"".join(struct.pack("<I", len(word)) + word for word in (b"\xff", b"ab"))
    halves = np.array([[1, 2]], "<f2").tobytes()
    head = {
        "inputs": [
            {
                "name": name,
                "shape": shape,
                "datatype": datatype,
                "parameters": {"binary_data_size": size},
            }
            for name, shape, datatype, size in (
                ("words", [2], "BYTES", len(words)),
                ("halves", [1, 2], "FP16", len(halves)),
            )
        ],
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "words"}, {"name": "halves", "parameters": {"binary_data": False}}],
    }
    text = json.dumps(head).encode()
    headers = {"inference-header-content-length": str(len(text))}
    response = ask("POST", "/v2/models/echo/infer", text + words + halves, headers)
    size = int(response.headers["inference-header-content-length"])
    outputs = json.loads(response.body[:size])["outputs"]
    assert outputs[1] == {
        "name": "halves",
        "shape": [1, 2],
        "datatype": "FP16",
        "data": [1.0, 2.0],
    }
    assert response.body[size:] == words


def test_strings_that_are_not_text_are_base64_both_ways(ask):
    tensor = {"name": "words", "shape": [1], "datatype": "BYTES", "data": ["/w=="]}
    tensor["parameters"] = {"content_type": "base64"}
    body = {"inputs": [tensor], "outputs": [{"name": "words"}]}
    output = answer(ask("POST", "/v2/models/echo/infer", body))["outputs"][0]
    assert (output["data"], output["parameters"]) == (["/w=="], {"content_type": "base64"})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"[]", "not a JSON object"),
        ({"inputs": {}}, "list of objects"),
        ({"inputs": [GOOD, GOOD]}, "twice"),
        ({"inputs": [{**GOOD, "shape": 2}]}, "list of sizes"),
        ({"inputs": [{**GOOD, "datatype": "FP64"}]}, "FP64, the model takes FP32"),
        ({"inputs": [{**GOOD, "name": 1}]}, "no text as its name"),
        ({"inputs": [{**GOOD, "parameters": {"binary_data_size": 8}}]}, "0 bytes are left"),
        ({"inputs": [{**GOOD, "parameters": []}]}, "is an object"),
        ({"inputs": [GOOD], "outputs": [{"name": "z"}]}, "no tensor z"),
        ({"inputs": [GOOD], "id": 1}, "is text"),
    ],
)
def test_a_bad_request_is_a_400_with_the_reason(ask, body, words):
    response = ask("POST", "/v2/models/half/infer", body)
    assert response.status == 400
    assert words in answer(response)["error"]


def test_headers_that_lie(ask):
    for length in ("99999", "x", "-1"):
        headers = {"inference-header-content-length": length}
        assert ask("POST", "/v2/models/half/infer", {"inputs": [GOOD]}, headers).status == 400
    text = json.dumps({"inputs": [GOOD]}).encode()
    headers = {"inference-header-content-length": str(len(text))}
    assert ask("POST", "/v2/models/half/infer", text + b"left", headers).status == 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/half/infer", 405),
        ("POST", "/v2/models/half", 405),
        ("GET", "/v2/nothing", 404),
        ("GET", "/v2/models/none", 404),
        ("GET", "/v2/models/half/versions/99999999999999999999", 400),
    ],
)
def test_paths_and_verbs(ask, method, path, status):
    response = ask(method, path)
    assert response.status == status
    assert answer(response)["error"]


def test_the_rest_of_the_site_is_not_its_business(ask):
    assert ask("GET", "/v1/models/half") is None
    assert ask("GET", "/v22") is None
