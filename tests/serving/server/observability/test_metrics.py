"""What the numbers of a server count."""

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from serving.server.errors import ServingError
from serving.server.grpc.methods import CallThreads
from serving.server.lifecycle.listeners import start_grpc
from serving.server.observability.metrics import Metrics


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


def test_a_reload_reports_the_increase_of_counters():
    from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc

    from serving.server.grpc.api import ModelService

    metrics, threads = Metrics(), CallThreads()
    metrics.count("model_warmup_records_read", 5, model_path="old")

    def reload(configs):
        metrics.count("model_warmup_records_read", 2, model_path="old")
        metrics.count("model_warmup_records_read", 3, model_path="new")

    names = [
        "/tensorflow/serving/model_warmup_records_read",
        ":tensorflow:serving:model_warmup_records_read",
        "/tensorflow/serving/request_count",
        "warmup",
    ]
    request = model_management_pb2.ReloadConfigRequest(metric_names=names)
    request.config.model_config_list.SetInParent()
    with ThreadPoolExecutor(1) as workers:
        handler = ModelService(None, reload, workers, metrics).handler(threads)
        front = start_grpc("127.0.0.1", 0, [handler], threads=threads, max_request_bytes=10_000)
        with grpc.insecure_channel(front.url.removeprefix("grpc://")) as channel:
            stub = model_service_pb2_grpc.ModelServiceStub(channel)
            answer = stub.HandleReloadConfigRequest(request, timeout=20)
        asyncio.run(front.stop())
    told = [(metric.name, metric.int64_value_increase) for metric in answer.metric]
    assert told == list(zip(names, (5, 5, 0, 0), strict=True))
