"""What the numbers of a server count."""

import asyncio
import contextlib

import pytest

from serving.server.errors import ServingError
from serving.server.metrics import Metrics


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "OK"),
        (ServingError("NOT_FOUND", "no such model"), "NOT_FOUND"),
        (asyncio.CancelledError(), "CANCELLED"),
        (ZeroDivisionError(), "INTERNAL"),
    ],
)
def test_a_request_is_counted_by_how_it_ends(error, status):
    metrics = Metrics()
    ends = contextlib.nullcontext() if error is None else pytest.raises(type(error))
    with ends, metrics.counting("m", "Predict", "GRPC"):
        if error is not None:
            raise error
    text = metrics.text()
    assert f':tensorflow:serving:request_count{{model_name="m",status="{status}"}} 1' in text
    # Of failures TF Serving keeps no latency.
    labels = 'model_name="m",API="Predict",entrypoint="GRPC"'
    count = f":tensorflow:serving:request_latency_count{{{labels}}} 1"
    assert (count in text) == (error is None)
