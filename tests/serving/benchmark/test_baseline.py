"""The minimal servers, called by the callers of the benchmark."""

import base64
import json

import pytest

from serving.benchmark import baseline
from serving.benchmark.closed_loop import measure_server, response_of
from serving.benchmark.errors import BenchmarkError
from serving.benchmark.loadtest.plan import LoadTarget


@pytest.fixture(scope="module")
def addresses():
    return baseline.start(b"\x00over gRPC", json.dumps({"predictions": [1]}).encode())


def test_both_return_the_given_response(addresses):
    image = bytes(range(256)) * 1000
    assert response_of(LoadTarget(addresses.grpc_url, "any"), image) == b"\x00over gRPC"
    assert response_of(LoadTarget(addresses.rest_url, "any"), image) == b'{"predictions": [1]}'
    assert len(base64.b64encode(image)) > 2**16, "more than one piece of a body"


@pytest.mark.parametrize("transport", ["grpc_url", "rest_url"])
def test_callers_can_measure_them(addresses, transport):
    target = LoadTarget(getattr(addresses, transport), "any")
    found = measure_server(target, [b"one", b"two"], prepared=True, callers=2, seconds=0.0)
    assert found.images_per_second > 0


def test_no_server_is_an_error():
    with pytest.raises(BenchmarkError, match="no server at"):
        response_of(LoadTarget("http://127.0.0.1:1", "m"), b"x")
