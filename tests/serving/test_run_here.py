"""`Dispatcher.run_here`: in the caller's thread, next to requests of an event loop."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from serving.server.errors import OverloadedError, ServingError
from serving.server.observability.metrics import Metrics
from serving.server.scheduling.batching import BatchingOptions
from serving.server.scheduling.calls import EngineCall
from serving.server.scheduling.dispatch import Dispatcher, ServedRequest
from serving.server.scheduling.scheduler import BatchScheduler

WAIT = 20
LONG = 60_000_000
ADAPTIVE = BatchingOptions(max_batch_size=8, adaptive=True)
MODES = [None, BatchingOptions(), ADAPTIVE]


class Gated:
    """y = 2 x while the gate is open; `threads` are those that it ran in."""

    runtime = "stub"

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.runs = []
        self.threads = []

    def run_tensors(self, feeds, fetches):
        self.runs.append(feeds["x"].tolist())
        self.threads.append(threading.current_thread())
        assert self.gate.wait(WAIT)
        return {"y": feeds["x"] * 2}


class Servable:
    name, version = "m", 1

    def __init__(self, batching):
        self.engine, self.batching = Gated(), batching


class Caller:
    """One request in its own thread; `leave` disconnects its client."""

    def __init__(self, harness, value, timeout, *, is_gone):
        self.value, self.is_gone, self._leave = value, is_gone, None
        self._told = threading.Event()
        self.outcome = harness.callers.submit(self._run, harness, timeout)

    def _run(self, harness, timeout):
        steps = harness.steps(self.value)
        return harness.dispatcher.run_here(steps, timeout=timeout, on_disconnect=self._on_gone)

    def _on_gone(self, leave):
        self._leave = leave
        self._told.set()
        return not self.is_gone

    def leave(self):
        assert self._told.wait(WAIT)
        self._leave()

    def result(self):
        return self.outcome.result(WAIT)

    def code(self):
        error = self.outcome.exception(WAIT)
        assert isinstance(error, ServingError), error
        return error.code


class Harness:
    def __init__(self, threads, batching, max_queue):
        self.servable = Servable(batching)
        self.engine = self.servable.engine
        self.metrics = Metrics()
        self.scheduler = batching and BatchScheduler(1, metrics=self.metrics)
        self.dispatcher = Dispatcher(
            threads, metrics=self.metrics, scheduler=self.scheduler, max_queue=max_queue
        )
        self.callers = ThreadPoolExecutor(300)
        # Appended to: `+= 1` in several threads may lose one.
        self.begun, self.closed = [], []
        self.ended_in = []

    def steps(self, *values):
        self.begun.append(1)
        try:
            outputs = yield EngineCall(self.servable, {"x": np.array(values)}, ("y",))
            self.ended_in.append(threading.current_thread())
            return outputs["y"].tolist()
        finally:
            self.closed.append(1)

    def start(self, value, timeout=None, *, is_gone=False):
        return Caller(self, value, timeout, is_gone=is_gone)

    def hold(self):
        """A request in the engine, until the gate opens."""
        self.engine.gate.clear()
        ran = len(self.engine.runs)
        held = self.start(0)
        self.until(lambda: len(self.engine.runs) > ran)
        return held

    def until(self, condition):
        deadline = time.monotonic() + WAIT
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.001)


@pytest.fixture
def start():
    """`(threads, batching, max_queue) -> Harness`; all its slots are free again at the end."""
    made = []

    def build(threads=1, batching=None, max_queue=None):
        made.append(Harness(threads, batching, max_queue))
        return made[-1]

    yield build
    for harness in made:
        harness.engine.gate.set()
        harness.until(lambda h=harness: h.dispatcher._busy == 0)
        assert harness.dispatcher.waiting == 0
        # What waited for a batch is closed by another thread.
        harness.until(lambda h=harness: len(h.closed) == len(h.begun))
        harness.dispatcher.close()
        harness.callers.shutdown()


@pytest.mark.parametrize("batching", [None, ADAPTIVE])
def test_a_free_slot_needs_no_other_thread(start, batching):
    h = start(batching=batching)
    assert h.dispatcher.run_here(h.steps(1)) == [2]
    assert h.engine.threads == h.ended_in == [threading.current_thread()]
    assert 'compute_latency_count{model_name="m"} 1' in h.metrics.text()


def test_the_caller_continues_after_its_batch(start):
    h = start(batching=BatchingOptions(max_batch_size=2, batch_timeout_micros=LONG))
    first = h.start(1)
    h.until(lambda: h.scheduler.waiting == 1)
    assert h.dispatcher.run_here(h.steps(2)) == [4]
    assert first.result() == [2]
    assert h.engine.runs == [[1, 2]]
    assert threading.current_thread() in h.ended_in
    assert h.engine.threads[0] not in h.ended_in


def test_a_fault_is_raised(start):
    h = start()

    def steps():
        raise ZeroDivisionError
        yield

    with pytest.raises(ZeroDivisionError):
        h.dispatcher.run_here(steps())
    assert h.dispatcher.run_here(h.steps(1)) == [2]


def test_first_come_first_served_from_threads_and_from_a_loop(start):
    h = start()
    held = h.hold()

    async def three():
        first = asyncio.ensure_future(h.dispatcher.run(h.steps(1)))
        await asyncio.sleep(0)
        second = h.start(2)
        while h.dispatcher.waiting < 2:
            await asyncio.sleep(0.001)
        third = asyncio.ensure_future(h.dispatcher.run(h.steps(3)))
        await asyncio.sleep(0)
        assert h.dispatcher.waiting == 3
        h.engine.gate.set()
        return await first, second, await third

    first, second, third = asyncio.run(three())
    assert (held.result(), first, second.result(), third) == ([0], [2], [4], [6])
    assert h.engine.runs == [[0], [1], [2], [3]]


def test_a_bounded_queue(start):
    h = start(max_queue=1)
    assert h.dispatcher.max_requests == 2
    held = h.hold()
    waiting = h.start(1)
    h.until(lambda: h.dispatcher.waiting == 1)
    with pytest.raises(OverloadedError, match="--max_queue lets 1 wait") as caught:
        h.dispatcher.run_here(h.steps(2))
    assert caught.value.code == "RESOURCE_EXHAUSTED"
    h.engine.gate.set()
    assert (held.result(), waiting.result()) == ([0], [2])
    assert len(h.begun) == 2


def test_what_waits_beyond_its_deadline_is_not_run(start):
    h = start()
    h.hold()
    with pytest.raises(ServingError) as caught:
        h.dispatcher.run_here(h.steps(1), timeout=0.01)
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert h.dispatcher.waiting == 0
    h.engine.gate.set()
    assert h.dispatcher.run_here(h.steps(2)) == [4]
    assert h.engine.runs == [[0], [2]]
    assert len(h.begun) == 2


def test_a_late_result_is_an_error(start):
    h = start()
    h.engine.gate.clear()
    late = h.start(1, timeout=0.05)
    h.until(lambda: h.engine.runs)
    time.sleep(0.06)
    h.engine.gate.set()
    assert late.code() == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize("batching", MODES)
def test_a_client_that_disconnects_before_the_start(start, batching):
    h = start(batching=batching)
    assert h.start(1, is_gone=True).code() == "CANCELLED"
    assert h.engine.runs == []
    assert h.dispatcher.run_here(h.steps(2)) == [4]


def test_a_client_that_leaves_the_queue_of_slots(start):
    h = start()
    h.hold()
    gone, other = h.start(1), h.start(2)
    h.until(lambda: h.dispatcher.waiting == 2)
    gone.leave()
    assert gone.code() == "CANCELLED"
    assert h.dispatcher.waiting == 1
    h.engine.gate.set()
    assert other.result() == [4]
    assert h.engine.runs == [[0], [2]]


def test_a_client_that_leaves_the_queue_for_a_batch(start):
    h = start(batching=BatchingOptions(max_batch_size=2, batch_timeout_micros=LONG))
    gone = h.start(1)
    h.until(lambda: h.scheduler.waiting == 1)
    gone.leave()
    assert gone.code() == "CANCELLED"
    assert h.scheduler.waiting == 0
    h.until(lambda: len(h.closed) == 1)
    pair = [h.start(value) for value in (2, 3)]
    assert [caller.result() for caller in pair] == [[4], [6]]
    assert [sorted(run) for run in h.engine.runs] == [[2, 3]]


@pytest.mark.parametrize("batching", MODES)
def test_a_client_that_leaves_while_it_runs(start, batching):
    h = start(batching=batching)
    running = h.hold()
    running.leave()
    h.engine.gate.set()
    assert running.code() == "CANCELLED"
    h.until(lambda: len(h.closed) == 1)
    assert h.ended_in == []


def test_a_later_disconnect_affects_no_other_request(start):
    h = start()
    answered = h.start(1)
    assert answered.result() == [2]
    answered.leave()
    assert h.dispatcher.run_here(h.steps(2)) == [4]


def test_closing_fails_what_waits(start):
    h = start()
    held = h.hold()
    waiting = h.start(1)
    h.until(lambda: h.dispatcher.waiting == 1)
    h.dispatcher.close()
    with pytest.raises(OverloadedError, match="shutting down") as caught:
        waiting.result()
    assert caught.value.code == "UNAVAILABLE"
    with pytest.raises(OverloadedError, match="shutting down"):
        h.dispatcher.run_here(h.steps(2))
    h.engine.gate.set()
    assert held.result() == [0]
    assert h.engine.runs == [[0]]


@pytest.mark.parametrize("batching", MODES)
def test_many_at_once_each_get_what_they_must(start, batching):
    """Requests with time left run; expired and disconnected ones do not; none is lost."""
    h = start(threads=2, batching=batching, max_queue=200)
    held = [h.start(-1), h.start(-2)]
    h.engine.gate.clear()
    held += [h.start(-3), h.start(-4), h.start(-5)]
    h.until(lambda: h.engine.runs)
    patient = [h.start(value) for value in range(60)]
    late = [h.start(1000 + value, timeout=0.02) for value in range(60)]
    leaving = [h.start(2000 + value) for value in range(60)]
    for caller in leaving:
        caller.leave()
    codes = {caller.code() for caller in late} | {"-"}
    assert codes <= {"DEADLINE_EXCEEDED", "-"}
    assert {caller.code() for caller in leaving} == {"CANCELLED"}
    h.engine.gate.set()
    assert [caller.result() for caller in patient] == [[2 * value] for value in range(60)]
    assert [caller.result() for caller in held] == [[-2], [-4], [-6], [-8], [-10]]
    if batching is None:
        assert max(max(run) for run in h.engine.runs) < 1000


def test_a_slot_that_comes_too_late_goes_to_other_threads():
    request = ServedRequest(iter(()), None)
    done = []
    with ThreadPoolExecutor(1) as pool:
        request.do(lambda: done.append(threading.current_thread()), pool)
        assert request.end() is None
        assert done == [threading.main_thread()], "a slot in time goes to the next request"
        request.do(lambda: done.append(threading.current_thread()), pool)
    assert len(done) == 2
    assert done[1] is not threading.main_thread()


@pytest.mark.parametrize(
    ("timeout", "code"), [(0.05, "DEADLINE_EXCEEDED"), (WAIT, "CANCELLED"), (None, "CANCELLED")]
)
def test_why_a_client_has_left(timeout, code):
    """At its deadline it gives up before the server knows; until then it has changed its mind."""
    request = ServedRequest(iter(()), timeout)
    request.disconnect()
    assert request.wait()[1].code == code
