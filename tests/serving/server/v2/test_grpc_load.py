"""200 calls at a time to a model that is held back: each ends with the code that it must."""

import re
import struct
import threading
import time

import grpc
import numpy as np
import pytest

from serving.server.grpc.methods import CallThreads
from serving.server.lifecycle.listeners import start_grpc
from serving.server.scheduling.batching import BatchingOptions
from serving.server.scheduling.dispatch import Dispatcher
from serving.server.scheduling.scheduler import BatchScheduler
from serving.server.v2.grpc_service import message, open_inference_handler
from serving.server.v2.service import OpenInference

WAIT = 30
THREADS, MAX_QUEUE = 2, 100
ADAPTIVE = BatchingOptions(max_batch_size=8, adaptive=True)


@pytest.fixture
def gate(models):
    """Holds the model back while it is clear; `rows` are those that ran."""
    gate, engine = threading.Event(), models.servables["half"][2].engine
    gate.rows, plain = [], engine.function

    def held(x):
        gate.rows.extend(x.tolist())
        assert gate.wait(WAIT)
        return plain(x)

    engine.function = held
    return gate


@pytest.fixture(params=[None, ADAPTIVE], ids=["alone", "adaptive"])
def call(request, service, models, metrics):
    """`(value, timeout) -> future` of a server with so many threads and so long a queue."""
    scheduler = request.param and BatchScheduler(1, metrics=metrics)
    models.servables["half"][2].batching = request.param
    dispatcher = Dispatcher(THREADS, metrics=metrics, scheduler=scheduler, max_queue=MAX_QUEUE)
    limited = OpenInference(models, metrics, dispatcher, hooks=service._hooks)
    threads = CallThreads(dispatcher.max_requests)
    handler = open_inference_handler(limited, threads)
    front = start_grpc("127.0.0.1", 0, [handler], threads=threads, max_request_bytes=10_000)
    with grpc.insecure_channel(front.url.removeprefix("grpc://")) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

        def send(value, timeout=WAIT):
            asked = message("ModelInferRequest")(model_name="half")
            asked.inputs.add(name="x", datatype="FP32", shape=[1])
            asked.raw_input_contents.append(struct.pack("<f", value))
            return infer.future(asked.SerializeToString(), timeout=timeout)

        yield send
        front._server.stop(1).wait()
    threads.close()
    dispatcher.close()


def waiting(metrics):
    return int(re.search(r"^:sightline:serving:waiting_requests (\d+)$", metrics.text(), re.M)[1])


def until(condition):
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def code(future):
    error = future.exception(WAIT)
    return "OK" if error is None else error.code().name


def test_every_call_ends_as_it_must(call, gate, metrics):
    held = [call(1000 + number) for number in range(THREADS)]
    until(lambda: len(gate.rows) + waiting(metrics) == THREADS)
    began = len(gate.rows)
    patient = [call(number) for number in range(MAX_QUEUE - 60)]
    leaving = [call(2000 + number) for number in range(30)]
    late = [call(3000 + number, timeout=1.5) for number in range(30)]
    until(lambda: waiting(metrics) == MAX_QUEUE + THREADS - began)
    refused = [call(4000 + number) for number in range(98)]
    assert {code(future) for future in refused} == {"RESOURCE_EXHAUSTED"}
    for future in refused:
        assert "--max_queue lets 100 wait" in future.details()
        assert int(dict(future.trailing_metadata())["grpc-retry-pushback-ms"]) >= 1000
    for future in leaving:
        assert future.cancel()
    assert {code(future) for future in late} == {"DEADLINE_EXCEEDED"}
    until(lambda: waiting(metrics) == MAX_QUEUE - 60 + THREADS - began)
    gate.set()
    answers = [message("ModelInferResponse").FromString(f.result(WAIT)) for f in patient]
    got = [struct.unpack("<f", *answer.raw_output_contents)[0] for answer in answers]
    np.testing.assert_array_equal(got, np.arange(MAX_QUEUE - 60) / 2 + 2)
    assert [code(future) for future in held] == ["OK"] * THREADS
    # No run was for a client that had left, was late, or was refused.
    assert sorted(gate.rows) == [*range(MAX_QUEUE - 60), *(1000 + n for n in range(THREADS))]
    counts = {"OK": 42, "RESOURCE_EXHAUSTED": 98, "CANCELLED": 30, "DEADLINE_EXCEEDED": 30}
    for status, count in counts.items():
        line = f'request_count{{model_name="half",status="{status}"}} {count}'
        until(lambda line=line: line in metrics.text())
