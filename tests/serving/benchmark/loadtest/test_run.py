"""The generator against servers with scripted responses."""

import asyncio
import io
import json
import pickle
import sys
import threading
import time

import numpy as np
import pytest

from serving.benchmark.loadtest import (
    LoadError,
    LoadPlan,
    LoadTarget,
    Requests,
    from_images,
    run_load,
    worker,
)
from serving.benchmark.loadtest.callers import Outcome, RestCaller
from serving.benchmark.loadtest.generator import Job
from serving.benchmark.loadtest.plan import poisson_arrivals
from serving.protocol import wire

BODY = b'{"instances": [1]}'
OK = b"{}"


def plan(**options):
    return LoadPlan(**{"seconds": 1.0, "warm_up_s": 0.2, "max_lag_ms": 1000, **options})


def load(url, options, model="m"):
    return run_load(LoadTarget(url, model), Requests((BODY,)), options)


def test_every_scheduled_request_is_sent_and_recorded(rest_stub):
    stub, url = rest_stub()
    seen = []
    options = plan(rate=100)
    target = LoadTarget(url, "m")
    result = run_load(target, Requests((BODY,)), options, on_progress=seen.append)
    schedule = poisson_arrivals(100, 1.2, 0)
    np.testing.assert_allclose(result.scheduled_s, schedule, atol=1e-6)
    assert len(stub.requests) == len(schedule) + 1, "one more checks whether there is a server"
    assert set(stub.requests) == {("POST /v1/models/m:predict HTTP/1.1", BODY)}
    assert result.requests == (schedule >= 0.2).sum() == result.good
    assert result.errors == {}
    assert result.is_valid, result.problems
    assert (result.latency_ms >= result.lag_ms).all()
    assert seen[-1].sent == len(schedule)
    json.dumps(result.to_dict(), allow_nan=False)


def test_failures_are_counted_by_code_and_are_the_slowest(rest_stub):
    def response(number):
        if number == 0 or number % 4:
            return 0.0, 200, OK, ""
        return (0.0, 503, b'{"error": "full"}', "") if number % 8 else (0.0, None, b"", "")

    stub, url = rest_stub(response)
    result = load(url, plan(rate=150, warm_up_s=0.0))
    failed = sum(result.errors.values())
    # The results match what the server did with each request.
    busy = sum(number % 8 == 4 for number in range(len(stub.requests)))
    assert result.errors["503"] == busy
    assert set(result.errors) <= {"503", "connection"}
    assert result.resends > 0
    assert stub.dropped == result.resends + result.errors.get("connection", 0)
    assert len(stub.requests) == result.requests + 1 + result.resends
    assert result.reasons["503"] == '{"error": "full"}'
    assert result.good + failed == result.requests
    assert result.percentile(99).value == np.inf
    assert np.isfinite(result.percentile(50).value)
    assert result.over(1e9) == failed
    assert result.to_dict()["latency_ms"]["p99"]["value"] is None


def test_a_request_that_is_dropped_later_is_a_failure(rest_stub):
    """Closing an idle connection takes less time: the request is not sent again."""
    stub, url = rest_stub(
        lambda number: (0.6, None, b"", "") if number % 5 == 4 else (0, 200, OK, "")
    )
    result = load(url, plan(rate=40, warm_up_s=0.0))
    assert result.errors == {"connection": stub.dropped}
    assert stub.dropped > 0
    assert result.resends == 0
    assert len(stub.requests) == result.requests + 1


def test_a_request_is_sent_twice_at_most(rest_stub):
    """Three connections are idle when a server begins to drop all requests."""
    stub, url = rest_stub(lambda number: (0.2, 200, OK, ""))

    async def main():
        caller = RestCaller(LoadTarget(url, "m"), (BODY,))
        deadline = time.monotonic() + 20
        await asyncio.gather(*(caller.call(0, deadline) for _ in range(3)))
        stub.response = lambda number: (0.0, None, b"", "")
        response = await caller.call(0, deadline)
        await caller.close()
        return response

    response = asyncio.run(main())
    assert response.code == "connection"
    assert stub.dropped == len(stub.requests) - 3 == 1 + response.resent


def test_connections_are_kept(rest_stub):
    stub, url = rest_stub()
    load(url, plan(clients=2))
    assert len(stub.requests) > 20
    assert stub.connections <= 2


def test_a_closed_connection_is_replaced(rest_stub):
    stub, url = rest_stub(lambda number: (0.0, 200, OK, "Connection: close\r\n"))
    result = load(url, plan(rate=40))
    assert result.errors == {}
    assert stub.connections == len(stub.requests)


def test_late_responses_fail_and_are_not_taken_for_others(rest_stub):
    _, url = rest_stub(lambda number: (0.8 if number == 5 else 0.0, 200, OK, ""))
    result = load(url, plan(rate=30, timeout_s=0.4, warm_up_s=0.0))
    assert result.errors == {"deadline": 1}
    late = result.latency_ms[result.codes == "deadline"]
    assert (late >= 400).all()


def test_requests_above_the_limit_in_flight_fail(rest_stub):
    stub, url = rest_stub(lambda number: (0.5 if number else 0.0, 200, OK, ""))
    result = load(url, plan(rate=60, max_in_flight=4, warm_up_s=0.0))
    assert result.errors["not sent"] > 20
    assert result.good + result.errors["not sent"] == result.requests
    assert len(stub.requests) == result.good + 1
    assert "more than 4 in flight" in result.reasons["not sent"]


def test_waiting_times_are_those_of_a_single_server_queue(rest_stub):
    """M/M/1 at half load; the oracle is Lindley's recursion over the very same draws."""
    rate, mean_s = 20.0, 0.025
    services = np.random.default_rng(1).exponential(mean_s, 500)
    stub, url = rest_stub(lambda n: (services[n - 1] if n else 0.0, 200, OK, ""), queue=True)
    result = load(url, plan(rate=rate, seconds=5.0, warm_up_s=0.0))
    free, expected = 0.0, []
    for at, service in zip(result.scheduled_s, services, strict=False):
        free = max(at, free) + service
        expected.append((free - at) * 1000)
    extra = result.latency_ms - expected
    # No request is served before the time of the recursion ...
    assert extra.min() > -0.5
    # ... and none much later: at half load a delay of a busy machine counts twice.
    noise = np.median(result.lag_ms) + np.median(stub.late) * 1000
    assert np.median(extra) < 10 + 5 * noise


@pytest.mark.parametrize("open_loop", [True, False])
def test_only_an_open_loop_sees_a_stall(rest_stub, open_loop):
    stub, url = rest_stub()

    def response(number):
        if number == 40:
            stub.stalled_until = np.inf  # replaced below, by the loop's clock
        return 0.005, 200, OK, ""

    def due(loop, delay):
        if stub.stalled_until == np.inf:
            stub.stalled_until = loop.time() + 1.0
        return max(loop.time() + delay, stub.stalled_until)

    stub.response, stub.due = response, due
    options = {"rate": 80.0} if open_loop else {"clients": 1}
    result = load(url, plan(seconds=3.0, warm_up_s=0.0, **options))
    slow = result.over(200) / result.requests
    if open_loop:
        # All requests that arrived within four fifths of a second waited.
        assert slow > 0.15
        assert result.percentile(90).value > 500
    else:
        # The one client waited, and no request arrived meanwhile: coordinated omission.
        assert result.over(200) < 5
        assert result.percentile(90).value < 500


def test_a_closed_loop_waits_for_its_responses(rest_stub):
    _, url = rest_stub(lambda number: (0.05, 200, OK, ""))
    result = load(url, plan(clients=4, seconds=2.0))
    assert 10 < result.achieved_rate <= 4 / 0.05
    assert result.percentile(50).value >= 50


def test_several_processes_send_the_one_schedule(rest_stub):
    stub, url = rest_stub()
    result = load(url, plan(rate=60, processes=2))
    np.testing.assert_allclose(result.scheduled_s, poisson_arrivals(60, 1.2, 0), atol=1e-6)
    assert len(stub.requests) == len(result.scheduled_s) + 2


def test_a_run_that_is_stopped(rest_stub):
    stub, url = rest_stub()
    stop = threading.Event()
    target, requests = LoadTarget(url, "m"), Requests((BODY,))
    with pytest.raises(LoadError, match="stopped before its end"):
        # Most of the run is still ahead at the first report of progress.
        run_load(
            target, requests, plan(rate=20, seconds=20), on_progress=lambda _: stop.set(), stop=stop
        )
    assert len(stub.requests) < 300


def test_a_process_with_nothing_to_send_is_no_error(rest_stub):
    stub, url = rest_stub()
    few = plan(rate=2, processes=6)
    assert 1 <= len(poisson_arrivals(2, few.total_s, few.seed)) < 6
    result = load(url, few)
    assert len(stub.requests) == len(result.scheduled_s) + 6


def test_a_late_generator_is_reported(rest_stub):
    _, url = rest_stub()
    result = load(url, plan(rate=100, max_lag_ms=1e-6))
    # No request is punctual to a nanosecond, and no response takes ten times the delay here.
    assert not result.is_valid or result.lag(99) <= 0.1 * result.percentile(99).value
    late = type(result)(**{**vars_of(result), "lag_ms": result.latency_ms * 0.9})
    assert not late.is_valid
    assert "the generator was late" in late.problems[0]
    assert (
        "used 95% of a core" in type(result)(**{**vars_of(result), "cpu_share": 0.95}).problems[-1]
    )


def vars_of(result):
    return {name: getattr(result, name) for name in result.__dataclass_fields__}


def test_grpc(grpc_stub):
    calls = []

    async def predict(request, context):
        calls.append((request, context.peer(), context.time_remaining()))
        if len(calls) % 10 == 0:
            import grpc

            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "queue is full")
        return b""

    url = grpc_stub(predict)
    target = LoadTarget(url, "m")
    requests = from_images([b"image"], target)
    result = run_load(target, requests, plan(rate=60, channels=3, warm_up_s=0.0))
    assert {request for request, _, _ in calls} == {requests.bodies[0]}
    assert len({peer for _, peer, _ in calls}) == 3
    assert all(0 < left <= 30 for _, _, left in calls)
    assert set(result.errors) == {"RESOURCE_EXHAUSTED"}
    assert result.reasons["RESOURCE_EXHAUSTED"] == "queue is full"
    assert result.good == result.requests - result.errors["RESOURCE_EXHAUSTED"]


def test_grpcs_with_headers_and_a_label(grpc_stub, certificate):
    import grpc

    seen = []

    async def predict(request, context):
        seen.append((request, dict(context.invocation_metadata())))
        return b""

    file, key = certificate
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), file.read_bytes())])
    headers = (("Authorization", "Bearer 7"),)
    url = grpc_stub(predict, credentials)
    target = LoadTarget(url, "m", ca_file=str(file), label="canary", headers=headers)
    requests = from_images([b"image"], target)
    result = run_load(target, requests, plan(rate=20, seconds=0.5))
    assert result.errors == {}
    (request,) = {request for request, _ in seen}
    spec = wire.message("PredictRequest").FromString(request).model_spec
    assert (spec.name, spec.version_label) == ("m", "canary")
    assert {metadata["authorization"] for _, metadata in seen} == {"Bearer 7"}
    assert result.to_dict()["target"]["headers"] == ["Authorization"]


def test_headers_over_rest(rest_stub):
    stub, url = rest_stub()
    headers = (("Authorization", "Bearer 7"), ("Host", "models.example.com"))

    async def main():
        caller = RestCaller(LoadTarget(url, "m", label="can/ary", headers=headers), (BODY,))
        response = await caller.call(0, time.monotonic() + 20)
        await caller.close()
        return response

    assert asyncio.run(main()).code == "OK"
    assert stub.requests == [("POST /v1/models/m/labels/can%2Fary:predict HTTP/1.1", BODY)]
    assert stub.fields["authorization"] == "bearer 7"  # The stub converts it to lower case.
    assert stub.fields["host"] == "models.example.com"


def test_no_server():
    for url in ("http://127.0.0.1:9", "grpc://127.0.0.1:9"):
        with pytest.raises(LoadError, match=f"no server at {url}.*sightline serve"):
            load(url, plan(rate=1))


def test_a_model_that_is_not_there(rest_stub):
    _, url = rest_stub(lambda number: (0.0, 404, b'{"error": "Servable not found"}', ""))
    with pytest.raises(LoadError, match=r"does not serve the model 'cats'.*Servable not found"):
        load(url, plan(rate=1), model="cats")


def test_a_request_that_is_refused(rest_stub):
    _, url = rest_stub(lambda number: (0.0, 400, b'{"error": "no such input"}', ""))
    with pytest.raises(LoadError, match=r"refuses the first request with 400.*no such input"):
        load(url, plan(rate=1))


def test_a_generator_that_breaks_says_why(tmp_path, monkeypatch):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho the disk is full >&2; exit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(LoadError, match="a generator process ended: the disk is full"):
        load("http://127.0.0.1:9", plan(rate=1))


def test_the_first_requests_share_one_deadline(monkeypatch):
    """The time limit of the caller does not depend on the number of connections."""
    deadlines = []

    class Busy:
        async def call(self, number, deadline):
            deadlines.append(deadline)
            return Outcome("429" if len(deadlines) < 4 else "INTERNAL", "broken", 0.0)

        async def close(self):
            pass

    monkeypatch.setattr(worker, "make_caller", lambda *arguments: Busy())
    nothing = np.zeros(0, int)
    job = Job(LoadTarget("grpc://h", "m"), (b"",), plan(rate=1, channels=4), nothing, nothing, 0, 1)
    out = io.BytesIO()
    asyncio.run(worker._work(job, io.BytesIO(), out))
    kind, words = pickle.loads(out.getvalue())
    assert (kind, len(deadlines), len(set(deadlines))) == (worker.REFUSED, 4, 1)
    assert "refuses the first request with INTERNAL: broken" in words
