"""Servers that answer at once, asked by the callers of the benchmark."""

import base64
import json

import pytest

from serving.benchmark import baseline
from serving.benchmark.closed_loop import BenchmarkError, answer_of, server_turn
from serving.benchmark.loadtest.plan import Target


@pytest.fixture(scope="module")
def addresses():
    return baseline.start(b"\x00over gRPC", json.dumps({"predictions": [1]}).encode())


def test_both_say_what_they_were_told(addresses):
    image = bytes(range(256)) * 1000
    assert answer_of(Target(addresses.grpc_url, "any"), image) == b"\x00over gRPC"
    assert answer_of(Target(addresses.rest_url, "any"), image) == b'{"predictions": [1]}'
    assert len(base64.b64encode(image)) > 2**16, "more than one piece of a body"


@pytest.mark.parametrize("transport", ["grpc_url", "rest_url"])
def test_they_are_called_like_any_server(addresses, transport):
    target = Target(getattr(addresses, transport), "any")
    turn = server_turn(target, [b"one", b"two"], lean=True, callers=2, seconds=0.0)
    assert turn.images_per_second > 0


def test_no_server_is_told():
    with pytest.raises(BenchmarkError, match="no server at"):
        answer_of(Target("http://127.0.0.1:1", "m"), b"x")
