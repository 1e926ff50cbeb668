"""Threads, refusals and the grace period of gRPC calls, over real channels; no TensorFlow."""

import asyncio
import contextlib
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import grpc
import pytest

from serving.protocol import wire
from serving.server.errors import OverloadedError, ServingError
from serving.server.grpc.methods import CallThreads, reporting_errors, time_left, unary_service
from serving.server.lifecycle.listeners import start_grpc

WAIT = 20
REQUEST, RESPONSE = wire.message("HealthCheckRequest"), wire.message("HealthCheckResponse")


@contextlib.contextmanager
def serving(threads, **methods):
    """`(method, text) -> future` of a server with these behaviors, and its front."""
    handler = unary_service(
        "t.T", {name: (call, REQUEST) for name, call in methods.items()}, threads
    )
    front = start_grpc("127.0.0.1", 0, [handler], threads=threads, max_request_bytes=10_000)
    with grpc.insecure_channel(front.url.removeprefix("grpc://")) as channel:

        def call(method, text="", timeout=WAIT):
            stub = channel.unary_unary(f"/t.T/{method}", response_deserializer=RESPONSE.FromString)
            return stub.future(REQUEST(service=text).SerializeToString(), timeout=timeout)

        yield call, front
        asyncio.run(front.stop())


def code(future):
    return future.exception(WAIT).code().name


def test_a_refusal_reaches_the_client_and_logs_nothing(caplog):
    def refuse(request, context):
        if request.service == "busy":
            raise OverloadedError("RESOURCE_EXHAUSTED", "too many", 3)
        raise ServingError("NOT_FOUND", "x" * 2000)

    with (
        caplog.at_level(logging.DEBUG),
        serving(CallThreads(1), Do=reporting_errors(refuse)) as (call, _),
    ):
        busy, absent = call("Do", "busy").exception(WAIT), call("Do").exception(WAIT)
    assert (busy.code().name, busy.details()) == ("RESOURCE_EXHAUSTED", "too many")
    assert dict(busy.trailing_metadata())["grpc-retry-pushback-ms"] == "3000"
    assert absent.code().name == "NOT_FOUND"
    assert absent.details() == "x" * 1024 + "...TRUNCATED"
    assert "grpc-retry-pushback-ms" not in dict(absent.trailing_metadata())
    assert [record for record in caplog.records if record.name.startswith("grpc")] == []


def test_a_waiting_call_is_not_run_after_its_client_disconnects():
    """Five threads are taken; behind them one call is cancelled, one is late, one is patient."""
    gate, ran = threading.Event(), []

    def slow(request, context):
        ran.append(request.service)
        assert gate.wait(WAIT)
        return RESPONSE(status=1)

    threads = CallThreads(1)
    quick = threads.quick(lambda request, context: RESPONSE(status=1))
    with serving(threads, Do=slow, Quick=quick) as (call, _):
        held = [call("Do", f"held {number}") for number in range(5)]
        while len(ran) < 5:
            threading.Event().wait(0.001)
        gone, late = call("Do", "gone"), call("Do", "late", timeout=0.05)
        gone.cancel()
        assert code(late) == "DEADLINE_EXCEEDED"
        # Events of one connection are in order: after this call the server knows that both ended.
        assert call("Quick").result(WAIT).status == 1
        patient = call("Do", "patient")
        gate.set()
        assert [future.result(WAIT).status for future in (*held, patient)] == [1] * 6
        assert gone.cancelled()
    assert sorted(ran) == [*(f"held {number}" for number in range(5)), "patient"]


def test_waiting_calls_do_not_delay_quick_methods():
    gate, entered = threading.Event(), threading.Semaphore(0)

    def slow(request, context):
        entered.release()
        assert gate.wait(WAIT)
        return RESPONSE(status=1)

    def quick(request, context):
        return RESPONSE(status=2)

    threads = CallThreads(0)
    methods = {
        "Do": slow,
        "Reload": threads.reloading(slow),
        "Ask": threads.quick(quick),
    }
    with serving(threads, **methods) as (call, _):
        held = [call("Do") for _ in range(8)] + [call("Reload"), call("Reload")]
        # Four calls and one reload have begun, the others wait.
        assert all(entered.acquire(timeout=WAIT) for _ in range(5))
        assert call("Ask").result(WAIT).status == 2
        assert not entered.acquire(blocking=False)
        gate.set()
        assert [future.result(WAIT).status for future in held] == [1] * 10


def test_stopping_completes_running_calls_and_accepts_no_more():
    gate, entered = threading.Event(), threading.Event()

    def slow(request, context):
        entered.set()
        assert gate.wait(WAIT)
        return RESPONSE(status=1)

    with serving(CallThreads(1), Do=slow) as (call, front), ThreadPoolExecutor(1) as aside:
        held = call("Do")
        assert entered.wait(WAIT)
        stopping = aside.submit(asyncio.run, front.stop())
        while (refused := call("Do", timeout=0.2)).code() is None:
            refused.exception(WAIT)
        assert not held.done()
        gate.set()
        assert held.result(WAIT).status == 1
        stopping.result(WAIT)
        assert code(call("Do")) == "UNAVAILABLE"


def test_a_system_that_gives_no_further_thread(monkeypatch):
    threads = CallThreads(8)
    assert threads.calls.submit(int, "1").result(WAIT) == 1
    busy, gate = threading.Event(), threading.Event()
    threads.calls.submit(lambda: (busy.set(), gate.wait(WAIT)))
    assert busy.wait(WAIT)

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    done = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        threads.calls.submit(done.set)
    gate.set()
    assert done.wait(WAIT)
    threads.close()
    with pytest.raises(RuntimeError, match="after shutdown"):
        threads.calls.submit(int)


@pytest.mark.parametrize(
    ("told", "left"), [(None, None), (9.2e9, None), (2.5, 2.5), (0.0, 0.001), (-3.0, 0.001)]
)
def test_the_time_that_is_left(told, left):
    """The forms of Python's gRPC: no deadline, a distant one, and one that has passed."""
    assert time_left(SimpleNamespace(time_remaining=lambda: told)) == left
