"""The batch threads, shared by all models as in TF Serving.

A free thread takes ripe batches from the queues in turn. With adaptive batching a request may take
a free thread's place and run in its own.
"""

import logging
import math
import threading
import time
from collections import deque
from typing import Any
from weakref import WeakKeyDictionary

from serving.server.errors import ServingError
from serving.server.observability.metrics import Metrics
from serving.server.scheduling.batch_queue import Batch, BatchQueue, Part, Task
from serving.server.scheduling.batching import BatchingOptions, batch_rows, merge, split
from serving.server.scheduling.calls import EngineCall, Outputs, run_engine

_LOG = logging.getLogger(__name__)

#: Faults of one request: its batch-mates are run again without it.
_OF_ONE_REQUEST = ("INVALID_ARGUMENT", "OUT_OF_RANGE")
#: Signatures of one model that are remembered not to have a batch dimension.
_MAX_ALONE = 64
_CLOSING = "the server is shutting down"


class BatchScheduler:
    """The threads that run batches; every method may be called from any thread."""

    def __init__(self, threads: int, *, metrics: Metrics, name: str = "batch") -> None:
        """Starts the threads.

        Args:
          threads: batches that run at a time.
          metrics: get the time in the queues, the runs and the rows.
          name: of the pool, in the metrics.
        """
        self._threads = threads
        self._metrics = metrics
        self._name = name
        self._busy = 0
        self._waiting = 0
        self._closed = False
        self._wake = threading.Condition()
        self._queues: WeakKeyDictionary[Any, dict[Any, BatchQueue]] = WeakKeyDictionary()
        self._turn: deque[BatchQueue] = deque()
        self._alone: WeakKeyDictionary[Any, set[Any]] = WeakKeyDictionary()
        self._workers = [
            threading.Thread(target=self._work, name=f"{name}-{index}", daemon=True)
            for index in range(threads)
        ]
        for worker in self._workers:
            worker.start()

    @property
    def waiting(self) -> int:
        """Tasks that wait for a thread."""
        return self._waiting

    def can_batch(self, call: EngineCall, options: BatchingOptions) -> bool:
        """Whether the call can share a run with others; if not it is to be run by itself.

        Raises:
          ServingError: with TF Serving's batching a call that could not share one is refused.
        """
        try:
            rows = batch_rows(call.feeds)
        except ServingError:
            if options.adaptive:
                return False
            raise
        if options.adaptive and (
            rows > options.max_batch_size or _key(call) in self._alone.get(call.servable, ())
        ):
            return False
        return rows > 0

    def try_start(self) -> bool:
        """Takes a free thread's place for the caller, who then calls `end`; False if none is free.

        A caller does not overtake what waits.
        """
        with self._wake:
            if self._busy >= self._threads or self._turn or self._closed:
                return False
            self._busy += 1
            return True

    def end(self) -> None:
        """Gives back the place that `try_start` took."""
        with self._wake:
            self._busy -= 1
            if self._turn:
                # Waking a thread for nothing would cost the caller a switch.
                self._wake.notify()

    def run_at_once(self, call: EngineCall, options: BatchingOptions) -> Outputs | None:
        """A batch of this call alone, in the caller's thread; None when it has to wait.

        Without `batch_timeout_micros` a free batch thread would take it at once, by itself: the
        caller's thread may as well, and no thread has to be woken.

        Raises:
          ServingError: what the engine refuses, or an output without the batch dimension.
        """
        rows = batch_rows(call.feeds)
        if options.batch_timeout_micros or rows > options.run_limit or not self.try_start():
            return None
        try:
            self._metrics.queued(self._name, call.servable.name, 0.0)
            total = options.padded(rows)
            feeds = merge([call.feeds], options)
            outputs = self._timed(call.servable, feeds, call.fetches, rows, total)
            return split(outputs, [rows], total)[0]
        finally:
            self.end()

    def submit(self, task: Task, options: BatchingOptions) -> None:
        """Lets a task wait for its batch.

        Raises:
          ServingError: it is too large, or the queue is full.
        """
        rows = batch_rows(task.call.feeds)
        servable, key = task.call.servable, _key(task.call)
        with self._wake:
            if self._closed:
                raise ServingError("UNAVAILABLE", _CLOSING)
            queues = self._queues.setdefault(servable, {})
            queue = queues.get(key)
            known = queue is not None
            if queue is None:
                queue = BatchQueue(options)
            task.enqueued = time.monotonic()
            queue.add(task, rows)
            if not known:
                queues[key] = queue
                self._turn.append(queue)
            task.waits = True
            self._waiting += 1
            self._wake.notify()

    def withdraw(self, task: Task) -> bool:
        """Takes back a task; True when it had not begun, and `done` will not be called."""
        with self._wake:
            task.withdrawn = True
            if not task.waits:
                return False
            task.waits = False
            self._waiting -= 1
            queue = self._queues[task.call.servable][_key(task.call)]
            queue.remove(task)
            if not len(queue):
                self._forget(queue, task.call)
        return True

    def _forget(self, queue: BatchQueue, call: EngineCall) -> None:
        del self._queues[call.servable][_key(call)]
        self._turn.remove(queue)

    def close(self) -> None:
        """Ends the threads once their batches have run; what waits fails."""
        with self._wake:
            self._closed = True
            left = [part for queue in self._turn for part in queue.parts()]
            for part in left:
                part.task.waits = False
            self._turn.clear()
            self._queues.clear()
            self._wake.notify_all()
        for part in left:
            part.task.settle(part.index, ServingError("UNAVAILABLE", _CLOSING))
        for worker in self._workers:
            worker.join()

    def _work(self) -> None:
        while True:
            taken = self._take()
            if taken is None:
                return
            try:
                self._process(*taken)
            finally:
                self.end()

    def _take(self) -> tuple[Batch, BatchingOptions] | None:
        """Waits for a ripe batch, and for a place to run it; None when the scheduler is closed."""
        with self._wake:
            while not self._closed:
                ripe_at = self._next_ripe()
                now = time.monotonic()
                if self._busy >= self._threads or ripe_at == math.inf:
                    self._wake.wait()
                elif ripe_at > now:
                    self._wake.wait(ripe_at - now)
                else:
                    return self._take_first(now)
        return None

    def _next_ripe(self) -> float:
        return min((queue.ripe_at() for queue in self._turn), default=math.inf)

    def _take_first(self, now: float) -> tuple[Batch, BatchingOptions]:
        while self._turn[0].ripe_at() > now:
            self._turn.rotate(-1)
        queue = self._turn[0]
        batch = queue.take()
        for part in batch.parts:
            if part.task.waits:
                part.task.waits = False
                self._waiting -= 1
        if len(queue):
            # The next batch is another signature's, if one is ripe.
            self._turn.rotate(-1)
        else:
            self._forget(queue, batch.parts[0].task.call)
        self._busy += 1
        if self._turn:
            self._wake.notify()
        return batch, queue.options

    def _process(self, batch: Batch, options: BatchingOptions) -> None:
        now = time.monotonic()
        live = []
        for part in batch.parts:
            task = part.task
            self._metrics.queued(self._name, task.call.servable.name, now - task.enqueued)
            if task.withdrawn or task.has_failed:
                part.task.settle(part.index, ServingError("CANCELLED", "the request is over"))
            elif task.deadline <= now:
                # TF Serving says this when all of a batch is late, and runs it otherwise.
                words = "Run() timeout exceeded while waiting in batching queue"
                task.settle(part.index, ServingError("RESOURCE_EXHAUSTED", words))
            else:
                live.append(part)
        if live:
            self._run(live, options)

    def _run(self, parts: list[Part], options: BatchingOptions) -> None:
        try:
            answers = self._compute(parts, options)
        except Exception as error:
            # A batch that took too long would take as long again, once for each request.
            one_by_one = isinstance(error, ServingError) and (
                error.code in _OF_ONE_REQUEST
                or (options.adaptive and error.code != "DEADLINE_EXCEEDED")
            )
            if one_by_one and len(parts) > 1:
                for part in parts:
                    self._run([part], options)
                return
            if not isinstance(error, ServingError):
                _LOG.exception("a batch of %d requests", len(parts))
            for part in parts:
                part.task.settle(part.index, error)
            return
        for part, outputs in zip(parts, answers, strict=True):
            part.task.settle(part.index, outputs)

    def _compute(self, parts: list[Part], options: BatchingOptions) -> list[Outputs]:
        call = parts[0].task.call
        rows = [part.rows for part in parts]
        if options.adaptive and len(parts) == 1:
            # Its outputs are its own, whatever their shapes.
            return [self._timed(call.servable, parts[0].feeds, call.fetches, rows[0], rows[0])]
        total = options.padded(sum(rows))
        feeds = merge([part.feeds for part in parts], options)
        outputs = self._timed(call.servable, feeds, call.fetches, sum(rows), total)
        try:
            return split(outputs, rows, total)
        except ServingError:
            alone = self._alone.setdefault(call.servable, set())
            if len(alone) < _MAX_ALONE:
                alone.add(_key(call))
            raise

    def _timed(
        self, servable: Any, feeds: Outputs, fetches: tuple[str, ...], rows: int, padded: int
    ) -> Outputs:
        self._metrics.batch(servable.name, rows, padded)
        began = time.monotonic()
        outputs = run_engine(servable.engine, feeds, fetches)
        self._metrics.computed(servable.name, time.monotonic() - began)
        return outputs


def _key(call: EngineCall) -> tuple[frozenset[str], frozenset[str]]:
    """Calls of one signature of one version have one key."""
    return frozenset(call.feeds), frozenset(call.fetches)
