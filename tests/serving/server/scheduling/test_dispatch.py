"""Admission, deadlines and cancellation, over an engine that the test holds back; no TensorFlow."""

import asyncio
import threading
import time

import numpy as np
import pytest

from serving.engines.saved_model import EngineError
from serving.server.errors import OverloadedError, ServingError
from serving.server.observability.metrics import Metrics
from serving.server.scheduling.batching import BatchingOptions
from serving.server.scheduling.calls import EngineCall, run_now
from serving.server.scheduling.dispatch import Dispatcher
from serving.server.scheduling.scheduler import BatchScheduler

WAIT = 20
LONG = 60_000_000


class Gated:
    """y = 2 x, in the order of arrival, whenever the gate is open."""

    runtime = "stub"

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.runs = []
        self.threads = []

    def run_tensors(self, feeds, fetches):
        self.runs.append(feeds["x"].tolist())
        self.threads.append(threading.current_thread().name)
        assert self.gate.wait(WAIT)
        if (feeds["x"] < 0).any():
            raise EngineError("negative")
        return {"y": feeds["x"] * 2}


class Servable:
    def __init__(self, batching=None):
        self.name, self.version = "m", 1
        self.engine, self.batching = Gated(), batching


class Harness:
    """A dispatcher and one model; `closed` counts the requests that let go of it."""

    def __init__(self, threads=1, *, batching=None, batch_threads=1, max_queue=None):
        self.servable = Servable(batching)
        self.engine = self.servable.engine
        self.metrics = Metrics()
        self.scheduler = batching and BatchScheduler(batch_threads, metrics=self.metrics)
        self.dispatcher = Dispatcher(
            threads, metrics=self.metrics, scheduler=self.scheduler, max_queue=max_queue
        )
        self.begun = self.closed = 0

    def steps(self, *values):
        self.begun += 1
        try:
            outputs = yield EngineCall(self.servable, {"x": np.array(values)}, ("y",))
            return outputs["y"].tolist()
        finally:
            self.closed += 1

    def start(self, *values, timeout=None):
        return asyncio.ensure_future(self.dispatcher.run(self.steps(*values), timeout=timeout))

    async def until(self, condition):
        """Lets the event loop turn until something has happened in the threads."""

        async def poll():
            while not condition():
                await asyncio.sleep(0.001)

        await asyncio.wait_for(poll(), WAIT)


def play(scenario, **options):
    """Runs `scenario(harness)` in an event loop and lets every thread end."""
    harness = Harness(**options)

    async def main():
        try:
            return await scenario(harness)
        finally:
            harness.engine.gate.set()

    try:
        return asyncio.run(main())
    finally:
        harness.dispatcher.close()


ADAPTIVE = BatchingOptions(max_batch_size=8, adaptive=True)
MODES = [None, BatchingOptions(), ADAPTIVE]


@pytest.mark.parametrize("batching", MODES)
def test_results_and_errors(batching):
    async def scenario(h):
        assert await h.start(1, 2) == [2, 4]
        with pytest.raises(ServingError, match="negative") as caught:
            await h.start(-1)
        assert caught.value.code == "INVALID_ARGUMENT"
        assert h.closed == 2
        text = h.metrics.text()
        labels = 'model_name="m",API="Predict",runtime="stub"'
        assert f":tensorflow:serving:runtime_latency_count{{{labels}}} 1" in text
        assert ":sightline:serving:waiting_requests 0" in text

    play(scenario, batching=batching)


def test_a_fault_of_our_own_is_raised_where_it_is_awaited():
    def steps():
        raise ZeroDivisionError
        yield

    async def scenario(h):
        with pytest.raises(ZeroDivisionError):
            await h.dispatcher.run(steps())
        assert await h.start(1) == [2]

    play(scenario)


def test_steps_run_without_a_dispatcher():
    h = Harness()
    assert run_now(h.steps(3)) == [6]
    with pytest.raises(ServingError, match="negative"):
        run_now(h.steps(-3))
    h.dispatcher.close()


def test_no_thread_is_held_while_a_request_waits_for_its_batch():
    async def scenario(h):
        waiting = [h.start(value) for value in range(3)]
        await h.until(lambda: h.scheduler.waiting == 3)
        assert h.engine.runs == []
        assert await asyncio.gather(*waiting, h.start(3)) == [[0], [2], [4], [6]]
        assert h.engine.runs == [[0, 1, 2, 3]]

    play(scenario, batching=BatchingOptions(max_batch_size=4, batch_timeout_micros=LONG))


def test_adaptive_runs_at_once_and_gathers_what_waits():
    async def scenario(h):
        h.engine.gate.clear()
        first = h.start(0)
        await h.until(lambda: h.engine.runs)
        others = [h.start(value) for value in (1, 2, 3)]
        await h.until(lambda: h.scheduler.waiting == 3)
        h.engine.gate.set()
        assert await asyncio.gather(first, *others) == [[0], [2], [4], [6]]
        assert h.engine.runs == [[0], [1, 2, 3]]
        # The first did not change threads.
        assert h.engine.threads[0].startswith("request")
        assert h.engine.threads[1].startswith("batch")

    play(scenario, threads=2, batching=ADAPTIVE)


@pytest.mark.parametrize("batching", [None, ADAPTIVE])
def test_a_bounded_queue(batching):
    async def scenario(h):
        h.engine.gate.clear()
        running = h.start(0)
        await h.until(lambda: h.engine.runs)
        waiting = h.start(1)
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="--max_queue lets 1 wait") as caught:
            await h.start(2)
        assert caught.value.code == "RESOURCE_EXHAUSTED"
        assert caught.value.retry_after_s >= 1
        h.engine.gate.set()
        assert await asyncio.gather(running, waiting) == [[0], [2]]
        assert await h.start(2) == [4]
        assert h.begun == h.closed == 3
        assert 'refused_count{reason="max_queue"} 1' in h.metrics.text()

    play(scenario, batching=batching, max_queue=1)


def test_a_batch_of_one_runs_in_its_slot_while_another_is_free():
    async def scenario(h):
        h.engine.gate.clear()
        requests = [h.start(value) for value in range(3)]
        await h.until(lambda: len(h.engine.runs) == 2)
        await h.until(lambda: h.scheduler.waiting == 1)
        h.engine.gate.set()
        assert await asyncio.gather(*requests) == [[0], [2], [4]]
        assert [name.partition("_")[0].partition("-")[0] for name in h.engine.threads] == [
            "request",
            "request",
            "batch",
        ]

    play(scenario, threads=3, batching=BatchingOptions(), batch_threads=2)


def test_a_full_batch_queue_reports_when_to_retry():
    async def scenario(h):
        h.engine.gate.clear()
        first = h.start(0)
        await h.until(lambda: h.engine.runs)
        second = h.start(1)
        await h.until(lambda: h.scheduler.waiting == 1)
        with pytest.raises(OverloadedError, match="submitted is full") as caught:
            await h.start(2)
        assert caught.value.code == "UNAVAILABLE"
        h.engine.gate.set()
        assert await asyncio.gather(first, second) == [[0], [2]]

    play(scenario, batching=BatchingOptions(max_batch_size=1, max_enqueued_batches=1))


def test_what_waits_beyond_its_deadline_is_not_run():
    async def scenario(h):
        h.engine.gate.clear()
        running = h.start(0)
        await h.until(lambda: h.engine.runs)
        late = h.start(1, timeout=0.01)
        with pytest.raises(ServingError) as caught:
            await late
        assert caught.value.code == "DEADLINE_EXCEEDED"
        h.engine.gate.set()
        assert await running == [0]
        assert await h.start(2) == [4]
        assert h.engine.runs == [[0], [2]]
        assert h.begun == 2

    play(scenario)


def test_a_busy_event_loop_does_not_run_what_is_late():
    async def scenario(h):
        h.engine.gate.clear()
        running = h.start(0)
        await h.until(lambda: h.engine.runs)
        late = h.start(1, timeout=0.01)
        await asyncio.sleep(0)
        # From here on the loop runs late, as under load.
        time.sleep(0.05)
        h.engine.gate.set()
        while h.dispatcher.waiting:
            time.sleep(0.001)
        with pytest.raises(ServingError, match="Timed out"):
            await late
        assert await running == [0]
        assert h.engine.runs == [[0]]

    play(scenario)


def test_a_deadline_ends_the_wait_for_a_batch():
    async def scenario(h):
        with pytest.raises(ServingError) as caught:
            await h.start(1, timeout=0.01)
        assert caught.value.code == "DEADLINE_EXCEEDED"
        await h.until(lambda: h.closed == 1)
        assert h.scheduler.waiting == 0
        assert h.engine.runs == []

    play(scenario, batching=BatchingOptions(batch_timeout_micros=LONG))


def test_a_deadline_ends_the_wait_for_a_slow_engine():
    async def scenario(h):
        h.engine.gate.clear()
        with pytest.raises(ServingError, match="Timed out"):
            await h.start(1, timeout=0.5)
        h.engine.gate.set()
        # On a machine so slow that it had not begun there is nothing to let go of.
        await h.until(lambda: h.closed == h.begun)

    play(scenario)


def test_cancelling_in_the_queue_for_a_thread():
    async def scenario(h):
        h.engine.gate.clear()
        running = h.start(0)
        await h.until(lambda: h.engine.runs)
        gone = h.start(1)
        await asyncio.sleep(0)
        assert h.dispatcher.waiting == 1
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert h.dispatcher.waiting == 0
        h.engine.gate.set()
        assert await running == [0]
        assert await h.start(2) == [4]
        assert h.engine.runs == [[0], [2]]

    play(scenario, max_queue=1)


def test_cancelling_in_the_queue_for_a_batch():
    async def scenario(h):
        gone, other = h.start(1), h.start(2)
        await h.until(lambda: h.scheduler.waiting == 2)
        gone.cancel()
        await h.until(lambda: h.closed == 1)
        assert h.scheduler.waiting == 1
        assert await asyncio.gather(other, h.start(3), h.start(4)) == [[4], [6], [8]]
        assert [sorted(run) for run in h.engine.runs] == [[2, 3, 4]]

    play(scenario, batching=BatchingOptions(max_batch_size=3, batch_timeout_micros=LONG))


def test_cancelling_while_it_runs_lets_go_afterwards():
    async def scenario(h):
        h.engine.gate.clear()
        running = h.start(0)
        await h.until(lambda: h.engine.runs)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert h.closed == 0
        h.engine.gate.set()
        await h.until(lambda: h.closed == 1)

    for batching in MODES:
        play(scenario, batching=batching)


def test_closing_the_dispatcher_ends_what_waits():
    async def scenario(h):
        waiting = h.start(1)
        await h.until(lambda: h.scheduler.waiting == 1)
        await asyncio.get_running_loop().run_in_executor(None, h.scheduler.close)
        with pytest.raises(OverloadedError, match="shutting down"):
            await waiting

    play(scenario, batching=BatchingOptions(batch_timeout_micros=LONG))
