"""Batch threads over an engine that the test holds back and lets go; no TensorFlow, no sleeps."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.engines.saved_model import EngineError
from serving.server.errors import ServingError
from serving.server.observability.metrics import Metrics
from serving.server.scheduling.batching import BatchingOptions
from serving.server.scheduling.calls import EngineCall
from serving.server.scheduling.scheduler import BatchScheduler, BatchTask

LONG = 60_000_000
WAIT = 20


class Doubler:
    """y = 2 x; remembers the batch it saw, refuses negative numbers, and waits for the gate.

    More than `limit` rows take it too long.
    """

    runtime = "stub"

    def __init__(self):
        self.batches = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.limit = 1000

    def run_tensors(self, feeds, fetches):
        x = feeds["x"]
        self.batches.append(len(x))
        self.entered.release()
        assert self.gate.wait(WAIT)
        if (x < 0).any():
            raise EngineError("negative")
        if len(x) > self.limit:
            raise EngineError("too long", "DEADLINE_EXCEEDED")
        return dict.fromkeys(fetches, x * 2)


class Outcome:
    """What a task ended with."""

    def __init__(self):
        self.done = threading.Event()
        self.outputs = self.error = None
        self.calls = 0

    def __call__(self, outputs, error):
        self.outputs, self.error, self.calls = outputs, error, self.calls + 1
        self.done.set()

    def value(self):
        assert self.done.wait(WAIT)
        assert self.calls == 1
        if self.error is not None:
            raise self.error
        return self.outputs["y"]


class Harness:
    def __init__(self, threads=1, **options):
        self.engine = Doubler()
        self.servable = Servable(self.engine)
        self.options = BatchingOptions(**options)
        self.metrics = Metrics()
        self.scheduler = BatchScheduler(threads, metrics=self.metrics, name="pool")

    def submit(self, x, *, fetch="y", **keywords):
        outcome = Outcome()
        call = EngineCall(self.servable, {"x": np.asarray(x)}, (fetch,))
        task = BatchTask(call, outcome, **keywords)
        self.scheduler.submit(task, self.options)
        return task, outcome

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.engine.gate.set()
        self.scheduler.close()


class Servable:
    """A class, so that instances can be weak keys."""

    def __init__(self, engine):
        self.name, self.version, self.engine = "m", 1, engine


def code_of(outcome):
    with pytest.raises(ServingError) as caught:
        outcome.value()
    return caught.value.code


@settings(deadline=None, max_examples=40)
@given(
    requests=st.lists(
        st.tuples(st.integers(1, 6), st.sampled_from([1, 2])), min_size=1, max_size=12
    ),
    splits=st.booleans(),
    threads=st.integers(1, 3),
)
def test_every_example_gets_its_own_result(requests, splits, threads):
    options = {"max_batch_size": 6, "max_enqueued_batches": 1000}
    if splits:
        options |= {"enable_large_batch_splitting": True, "max_execution_batch_size": 4}
    with Harness(threads, **options) as harness:
        harness.engine.gate.clear()
        waiting = []
        for index, (rows, width) in enumerate(requests):
            x = np.arange(rows * width).reshape(rows, width) + 1000 * index
            waiting.append((x, harness.submit(x)[1]))
        harness.engine.gate.set()
        for x, outcome in waiting:
            np.testing.assert_array_equal(outcome.value(), x * 2)
        limit = 4 if splits else 6
        assert max(harness.engine.batches) <= limit
        assert sum(harness.engine.batches) == sum(rows for rows, _ in requests)


def test_a_full_batch_runs_before_its_timeout():
    with Harness(max_batch_size=4, batch_timeout_micros=LONG) as harness:
        outcomes = [harness.submit([index])[1] for index in range(4)]
        assert [outcome.value().tolist() for outcome in outcomes] == [[0], [2], [4], [6]]
        assert harness.engine.batches == [4]


def test_a_batch_that_the_next_request_does_not_fit_runs_too():
    with Harness(max_batch_size=4, batch_timeout_micros=LONG) as harness:
        _, first = harness.submit([1, 2, 3])
        _, second = harness.submit([4, 5])
        assert first.value().tolist() == [2, 4, 6]
        assert not second.done.is_set()
        harness.submit([6, 7])
        assert second.value().tolist() == [8, 10]


def test_a_lone_request_runs_after_the_timeout():
    with Harness(max_batch_size=4, batch_timeout_micros=1000) as harness:
        assert harness.submit([1])[1].value().tolist() == [2]


def test_signatures_and_shapes_do_not_mix():
    with Harness(max_batch_size=2, batch_timeout_micros=LONG) as harness:
        _, narrow = harness.submit([[1]])
        _, wide = harness.submit([[1, 2]])
        _, other = harness.submit([[1]], fetch="z")
        assert harness.scheduler.waiting == 3
        harness.submit([[3]])
        assert narrow.value().tolist() == [[2]]
        assert not wide.done.is_set()
        assert not other.done.is_set()
        harness.submit([[5, 6]])
        assert wide.value().tolist() == [[2, 4]]


def test_padding_to_allowed_sizes():
    with Harness(max_batch_size=4, allowed_batch_sizes=(4,)) as harness:
        assert harness.submit([1, 2, 3])[1].value().tolist() == [2, 4, 6]
        assert harness.engine.batches == [4]


def test_a_full_queue_is_unavailable():
    with Harness(max_batch_size=1, max_enqueued_batches=2) as harness:
        harness.engine.gate.clear()
        harness.submit([0])
        assert harness.engine.entered.acquire(timeout=WAIT)
        harness.submit([1])
        harness.submit([2])
        words = "submitted is full; currently 2 batches enqueued and max_enqueued_batches is 2"
        with pytest.raises(ServingError, match=words) as caught:
            harness.submit([3])
        assert caught.value.code == "UNAVAILABLE"
        with pytest.raises(ServingError, match="Task size 2 is larger than maximum input"):
            harness.submit([1, 2])


def test_splitting_fills_the_open_batch_first():
    options = {"enable_large_batch_splitting": True, "max_execution_batch_size": 4}
    with Harness(
        max_batch_size=10, max_enqueued_batches=3, batch_timeout_micros=1000, **options
    ) as harness:
        harness.engine.gate.clear()
        harness.submit([0])
        assert harness.engine.entered.acquire(timeout=WAIT)
        _, small = harness.submit([1])
        _, large = harness.submit(list(range(9)))
        words = "task size is 3 but scheduling capacity is only 2"
        with pytest.raises(ServingError, match=words):
            harness.submit([1, 2, 3])
        harness.engine.gate.set()
        assert large.value().tolist() == [2 * n for n in range(9)]
        assert small.value().tolist() == [2]
        assert harness.engine.batches == [1, 4, 4, 2]


def test_parts_with_inconsistent_outputs_fail_their_request_only():
    options = {"enable_large_batch_splitting": True, "max_execution_batch_size": 2}
    with Harness(max_batch_size=10, max_enqueued_batches=9, **options) as harness:
        # The longer a part's largest number, the wider its result.
        harness.engine.run_tensors = lambda feeds, fetches: dict.fromkeys(
            fetches, np.zeros((len(feeds["x"]), int(feeds["x"].max())))
        )
        _, uneven = harness.submit([1, 1, 2, 2])
        assert code_of(uneven) == "FAILED_PRECONDITION"
        _, even = harness.submit([3, 3, 3, 3])
        assert even.value().shape == (4, 3)


def test_one_bad_request_does_not_fail_its_mates():
    with Harness(max_batch_size=3, batch_timeout_micros=LONG) as harness:
        outcomes = [harness.submit([value])[1] for value in (1, -1, 3)]
        assert outcomes[0].value().tolist() == [2]
        assert code_of(outcomes[1]) == "INVALID_ARGUMENT"
        assert outcomes[2].value().tolist() == [6]
        assert harness.engine.batches == [3, 1, 1, 1]


def test_a_batch_that_took_too_long_is_not_run_again():
    with Harness(max_batch_size=8, adaptive=True) as harness:
        harness.engine.gate.clear()
        _, first = harness.submit([0])
        harness.engine.entered.acquire()
        others = [harness.submit([value])[1] for value in (1, 2)]
        harness.engine.limit = 1
        harness.engine.gate.set()
        assert first.value().tolist() == [0]
        assert [code_of(outcome) for outcome in others] == ["DEADLINE_EXCEEDED"] * 2
        assert harness.engine.batches == [1, 2]


def test_expired_work_is_not_run():
    with Harness(max_batch_size=1) as harness:
        harness.engine.gate.clear()
        harness.submit([0])
        assert harness.engine.entered.acquire(timeout=WAIT)
        _, late = harness.submit([1], deadline=0.0)
        _, good = harness.submit([2])
        harness.engine.gate.set()
        assert code_of(late) == "RESOURCE_EXHAUSTED"
        assert good.value().tolist() == [4]
        assert harness.engine.batches == [1, 1]


def test_withdrawn_work_is_not_run_and_makes_room():
    with Harness(max_batch_size=1, max_enqueued_batches=1) as harness:
        harness.engine.gate.clear()
        running, first = harness.submit([0])
        assert harness.engine.entered.acquire(timeout=WAIT)
        task, gone = harness.submit([1])
        with pytest.raises(ServingError, match="is full"):
            harness.submit([2])
        assert harness.scheduler.withdraw(task)
        assert not harness.scheduler.withdraw(task)
        assert not harness.scheduler.withdraw(running)
        _, last = harness.submit([3])
        harness.engine.gate.set()
        assert last.value().tolist() == [6]
        assert first.value().tolist() == [0]
        assert not gone.calls
        assert harness.engine.batches == [1, 1]


def test_part_of_a_withdrawn_request_ends_it():
    options = {"enable_large_batch_splitting": True, "max_execution_batch_size": 1}
    with Harness(max_batch_size=3, **options) as harness:
        harness.engine.gate.clear()
        task, outcome = harness.submit([1, 2, 3])
        assert harness.engine.entered.acquire(timeout=WAIT)
        assert not harness.scheduler.withdraw(task)
        harness.engine.gate.set()
        assert code_of(outcome) == "CANCELLED"
        assert harness.engine.batches == [1]


def test_adaptive_takes_a_free_slot_and_releases_it():
    with Harness(threads=1, max_batch_size=8, adaptive=True) as harness:
        assert harness.scheduler.try_start()
        assert not harness.scheduler.try_start()
        outcomes = [harness.submit([value])[1] for value in range(3)]
        assert harness.engine.batches == []
        harness.scheduler.end()
        assert [outcome.value().tolist() for outcome in outcomes] == [[0], [2], [4]]
        assert harness.engine.batches == [3]


class Mean(Doubler):
    """An output without the batch's dimension."""

    def run_tensors(self, feeds, fetches):
        outputs = super().run_tensors(feeds, fetches)
        return {name: array.mean(keepdims=True) for name, array in outputs.items()}


def test_a_batch_that_would_not_wait_runs_in_its_callers_thread():
    with Harness(max_batch_size=4, allowed_batch_sizes=(2, 4)) as h:

        def at_once(*x, options=h.options):
            call = EngineCall(h.servable, {"x": np.array(x)}, ("y",))
            outputs = h.scheduler.run_at_once(call, options)
            return None if outputs is None else outputs["y"].tolist()

        assert at_once(1, 2, 3) == [2, 4, 6]
        assert h.engine.batches == [4]
        with pytest.raises(ServingError, match="negative"):
            at_once(-1)
        assert at_once(*range(5)) is None
        assert at_once(1, options=BatchingOptions(batch_timeout_micros=1)) is None
        assert h.scheduler.try_start()
        assert at_once(1) is None
        h.scheduler.end()
        assert at_once(1) == [2]
        text = h.metrics.text()
    assert ":tensorflow:serving:batching_session:wrapped_run_count 3" in text
    assert 'batching_session:queuing_latency_count{thread_pool_name="pool"} 3' in text


def test_outputs_without_a_batch_dimension():
    with Harness(max_batch_size=4, batch_timeout_micros=LONG) as harness:
        harness.servable.engine = Mean()
        outcomes = [harness.submit([value, value])[1] for value in (1, 3)]
        assert [code_of(outcome) for outcome in outcomes] == ["FAILED_PRECONDITION"] * 2
    with Harness(max_batch_size=4, adaptive=True) as harness:
        harness.servable.engine = Mean()
        assert harness.scheduler.try_start()
        waiting = [harness.submit([value, value]) for value in (1, 3)]
        call = waiting[0][0].call
        assert harness.scheduler.can_batch(call, harness.options)
        harness.scheduler.end()
        assert [outcome.value().tolist() for _, outcome in waiting] == [[2], [6]]
        assert not harness.scheduler.can_batch(call, harness.options)


def test_adaptive_leaves_alone_what_has_no_batch():
    with Harness(max_batch_size=2, adaptive=True) as harness:
        for x in (np.float32(1), np.zeros(0), np.zeros(3)):
            call = EngineCall(harness.servable, {"x": np.asarray(x)}, ("y",))
            assert not harness.scheduler.can_batch(call, harness.options)
        scalar = EngineCall(harness.servable, {"x": np.zeros(())}, ("y",))
        with pytest.raises(ServingError, match="at least one dimension"):
            harness.scheduler.can_batch(scalar, BatchingOptions())


def test_a_fault_of_the_engine_reaches_everyone_and_the_threads_live(caplog):
    with Harness(max_batch_size=2, batch_timeout_micros=LONG) as harness:
        good = harness.servable.engine
        harness.servable.engine = SimpleNamespace(run_tensors=None)
        outcomes = [harness.submit([value])[1] for value in (1, 2)]
        for outcome in outcomes:
            with pytest.raises(TypeError):
                outcome.value()
        assert "a batch of 2 requests" in caplog.text
        harness.servable.engine = good
        assert [harness.submit([v])[1] for v in (1, 2)][1].value().tolist() == [4]


def test_closing_ends_what_waits():
    harness = Harness(max_batch_size=4, batch_timeout_micros=LONG)
    _, outcome = harness.submit([1])
    harness.scheduler.close()
    assert code_of(outcome) == "UNAVAILABLE"
    with pytest.raises(ServingError, match="shutting down"):
        harness.submit([1])


def test_metrics_of_a_batch():
    with Harness(max_batch_size=4, batch_timeout_micros=LONG, allowed_batch_sizes=(4,)) as harness:
        harness.submit([1])
        harness.submit([1, 2])
        harness.submit([1])[1].value()
        text = harness.metrics.text()
    assert ":tensorflow:serving:batching_session:wrapped_run_count 1\n" in text
    latency = ":tensorflow:serving:batching_session:queuing_latency"
    assert f'{latency}_count{{thread_pool_name="pool"}} 3' in text
    assert f'{latency}_bucket{{thread_pool_name="pool",le="120"}}' in text
    assert ':sightline:serving:batch_rows_sum{model_name="m"} 4' in text
