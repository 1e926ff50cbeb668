"""Spans of requests through the real dispatcher, with the client's own as the parent."""

import asyncio
import subprocess
import sys
from types import SimpleNamespace

import pytest

from serving.server.errors import ServingError
from serving.server.observability.metrics import Metrics
from serving.server.scheduling.calls import EngineCall
from serving.server.scheduling.dispatch import Dispatcher

pytest.importorskip("opentelemetry.sdk")

PARENT = {"traceparent": "00-0123456789abcdef0123456789abcdef-00f067aa0ba902b7-01"}


class Engine:
    runtime = "stub"

    def run_tensors(self, feeds, fetches):
        if feeds["x"] is None:
            raise ServingError("INTERNAL", "no x")
        return {"y": feeds["x"] + 1}


def steps(x):
    servable = SimpleNamespace(name="m", version=3, engine=Engine(), batching=None)
    outputs = yield EngineCall(servable, {"x": x}, ("y",))
    return outputs["y"]


@pytest.fixture
def tracing():
    """(tracing, function that returns the finished spans by name)."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from serving.server.extras.tracing import OpenTelemetry

    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    def finished():
        spans = exporter.get_finished_spans()
        assert len({span.name for span in spans}) == len(spans)
        return {span.name: span for span in spans}

    made = OpenTelemetry(provider)
    yield made, finished
    made.close()


def run(work):
    async def main():
        dispatcher = Dispatcher(1, metrics=Metrics())
        try:
            return await dispatcher.run(work)
        finally:
            dispatcher.close()

    return asyncio.run(main())


def test_request_queue_and_compute(tracing):
    tracer, finished = tracing
    assert run(tracer.traced(steps(1), "Predict m", PARENT)) == 2
    spans = finished()
    assert set(spans) == {"Predict m", "queue", "compute"}
    request, queue, compute = (spans[name] for name in ("Predict m", "queue", "compute"))
    assert request.kind.name == "SERVER"
    assert format(request.context.trace_id, "032x") == PARENT["traceparent"].split("-")[1]
    assert format(request.parent.span_id, "016x") == PARENT["traceparent"].split("-")[2]
    assert request.start_time <= queue.start_time <= queue.end_time <= compute.start_time
    assert compute.end_time <= request.end_time
    for part in (queue, compute):
        assert part.parent.span_id == request.context.span_id
    assert dict(compute.attributes) == {
        "model.name": "m",
        "model.version": 3,
        "model.batched": False,
    }
    assert request.status.is_ok


def test_without_a_parent_a_trace_begins(tracing):
    tracer, finished = tracing
    run(tracer.traced(steps(1), "Predict m", {"traceparent": "nonsense"}))
    assert finished()["Predict m"].parent is None


def test_a_failure_is_on_the_spans(tracing):
    tracer, finished = tracing
    with pytest.raises(ServingError, match="no x"):
        run(tracer.traced(steps(None), "Predict m", {}))
    for name in ("Predict m", "compute"):
        span = finished()[name]
        assert span.status.status_code.name == "ERROR"
        assert span.attributes["error.type"] == "INTERNAL"


def test_a_request_that_never_ran_has_its_span_ended_once(tracing, caplog):
    tracer, finished = tracing
    traced = tracer.traced(steps(1), "Predict m", {})
    traced.close()
    traced.close()
    assert set(finished()) == {"Predict m", "queue"}
    assert not finished()["Predict m"].status.is_ok
    assert not caplog.records


def test_steps_that_are_over_can_be_closed(tracing, caplog):
    tracer, finished = tracing
    traced = tracer.traced(steps(1), "Predict m", {})
    next(traced)
    with pytest.raises(StopIteration):
        traced.send({"y": 5})
    traced.close()
    assert finished()["Predict m"].status.is_ok
    assert not caplog.records


def test_nothing_is_imported_when_it_is_off():
    code = (
        "import sys; import serving.server.app, serving.server.extras.tracing; "
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
