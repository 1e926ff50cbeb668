"""Batching: one queue of batches per signature, and the threads that run them.

A task waits in an open batch of its shapes. A batch is ripe when it is full, when the next task did
not fit, or when its first task has waited for `batch_timeout_micros`. All models share the batch
threads, as in TF Serving; a free thread takes ripe batches from the queues in rotation. With
adaptive batching a request may take the slot of a free thread and run in its own thread.
"""

import logging
import math
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from serving.server.errors import ServingError, invalid
from serving.server.observability.metrics import Metrics
from serving.server.scheduling.batching import BatchingOptions, batch_rows, merge, share_key, split
from serving.server.scheduling.calls import BatchTask, EngineCall, Outputs, TaskPart

_LOG = logging.getLogger(__name__)

#: Errors of a single request: the others of its batch run again without it.
_OF_ONE_REQUEST = ("INVALID_ARGUMENT", "OUT_OF_RANGE")
#: Signatures per version that are remembered to lack a batch dimension.
_MAX_ALONE = 64
_CLOSING = "the server is shutting down"


@dataclass(eq=False)
class Batch:
    """Parts that run together."""

    opened: float
    parts: list[TaskPart] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows without padding."""
        return sum(part.rows for part in self.parts)


class BatchQueue:
    """The batches of one signature of one version. The scheduler's lock guards it."""

    def __init__(self, options: BatchingOptions) -> None:
        self.options = options
        self.closed: deque[Batch] = deque()
        self.open: dict[tuple[object, ...], Batch] = {}

    def __len__(self) -> int:
        """The number of waiting batches."""
        return len(self.closed) + len(self.open)

    def _batches(self) -> list[Batch]:
        return [*self.closed, *self.open.values()]

    def add(self, task: BatchTask, rows: int) -> None:
        """Adds a task to the open batch of its shapes, and to further batches.

        Raises:
          ServingError: the task is larger than a batch may be, or the queue is full.
        """
        options = self.options
        if rows > options.max_batch_size and not options.adaptive:
            raise invalid(
                f"Task size {rows} is larger than maximum input batch size {options.max_batch_size}"
            )
        key = share_key(task.call.feeds, any_length=options.pad_variable_length_inputs)
        for part in task.split(self._sizes(rows, self.open.get(key))):
            batch = self.open.get(key)
            if batch is not None and batch.rows + part.rows > options.run_limit:
                self.closed.append(self.open.pop(key))
                batch = None
            if batch is None:
                batch = self.open[key] = Batch(opened=task.enqueued)
            batch.parts.append(part)

    def _sizes(self, rows: int, opened: Batch | None) -> list[int]:
        """The sizes of the parts of a task of `rows`; checks the capacity for them."""
        options, held = self.options, opened.rows if opened else 0
        if not options.splits:
            fits = opened is not None and held + rows <= options.run_limit
            if not fits and len(self) >= options.max_enqueued_batches and not options.adaptive:
                raise _full(
                    f"currently {len(self)} batches enqueued and max_enqueued_batches is "
                    f"{options.max_enqueued_batches}"
                )
            return [rows]
        limit = options.run_limit
        first = min(rows, limit - held) if held < limit else 0
        others = [min(limit, rows - done) for done in range(first, rows, limit)]
        free = options.max_enqueued_batches - len(self)
        # As in TF Serving, an open batch counts as waiting; without one a new one is opened.
        capacity = free * limit + (limit - held if opened else 0)
        if rows > capacity and not options.adaptive:
            raise _full(f"task size is {rows} but scheduling capacity is only {capacity}")
        return ([first] if first else []) + others

    def ripe_at(self) -> float:
        """The `time.monotonic()` at which a batch is ripe; infinite when none waits."""
        if self.closed:
            return -math.inf
        return min(map(self._ripe_at, self.open.values()), default=math.inf)

    def _ripe_at(self, batch: Batch) -> float:
        if batch.rows >= self.options.run_limit:
            return -math.inf
        return batch.opened + self.options.batch_timeout_micros / 1e6

    def parts(self) -> list[TaskPart]:
        """Everything that waits."""
        return [part for batch in self._batches() for part in batch.parts]

    def take(self) -> Batch:
        """Removes and returns the batch that was ripe first."""
        if self.closed:
            return self.closed.popleft()
        key = min(self.open, key=lambda key: self._ripe_at(self.open[key]))
        return self.open.pop(key)

    def remove(self, task: BatchTask) -> None:
        """Removes a task from every waiting batch."""
        for batch in self._batches():
            batch.parts = [part for part in batch.parts if part.task is not task]
        self.closed = deque(batch for batch in self.closed if batch.parts)
        self.open = {key: batch for key, batch in self.open.items() if batch.parts}


def _full(why: str) -> ServingError:
    words = "The batch scheduling queue to which this task was submitted is full; "
    return ServingError("UNAVAILABLE", words + why)


class BatchScheduler:
    """The threads that run batches; every method is thread-safe."""

    def __init__(self, threads: int, *, metrics: Metrics, name: str = "batch") -> None:
        """Starts the threads.

        Args:
          threads: batches that run at a time.
          metrics: record queue times, run times and rows.
          name: of the thread pool, in the metrics.
        """
        self._threads = threads
        self._metrics = metrics
        self._name = name
        self._busy = 0
        self._waiting = 0
        self._closed = False
        self._wake = threading.Condition()
        self._queues: WeakKeyDictionary[Any, dict[Any, BatchQueue]] = WeakKeyDictionary()
        # The queues that are not empty; the first is served next.
        self._rotation: deque[BatchQueue] = deque()
        self._alone: WeakKeyDictionary[Any, set[Any]] = WeakKeyDictionary()
        self._workers = [
            threading.Thread(target=self._work, name=f"{name}-{index}", daemon=True)
            for index in range(threads)
        ]
        for worker in self._workers:
            worker.start()

    @property
    def waiting(self) -> int:
        """The number of tasks that wait for a thread."""
        return self._waiting

    def can_batch(self, call: EngineCall, options: BatchingOptions) -> bool:
        """Whether the call can share a run with others; otherwise it must run by itself.

        Raises:
          ServingError: a call that cannot share a run, without adaptive batching.
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
        """Takes the slot of a free thread for the caller, who must then call `end`.

        Returns:
          False when no thread is free or tasks wait, which the caller must not overtake.
        """
        with self._wake:
            if self._busy >= self._threads or self._rotation or self._closed:
                return False
            self._busy += 1
            return True

    def end(self) -> None:
        """Releases the slot that `try_start` took."""
        with self._wake:
            self._busy -= 1
            if self._rotation:
                # An unneeded wake-up would cost the caller a thread switch.
                self._wake.notify()

    def run_at_once(self, call: EngineCall, options: BatchingOptions) -> Outputs | None:
        """Runs a batch of this call alone in the caller's thread; None when it has to wait.

        Without `batch_timeout_micros` a free batch thread would take the call at once, and alone.
        Running it in the caller's thread saves waking that thread.

        Raises:
          ServingError: the engine refuses the call, or an output lacks the batch dimension.
        """
        rows = batch_rows(call.feeds)
        if options.batch_timeout_micros or rows > options.run_limit or not self.try_start():
            return None
        try:
            self._metrics.queued(self._name, call.servable.name, 0.0)
            total = options.padded(rows)
            outputs = self._timed(call, merge([call.feeds], options), rows, total)
            return split(outputs, [rows], total)[0]
        finally:
            self.end()

    def submit(self, task: BatchTask, options: BatchingOptions) -> None:
        """Adds a task to the queue of its signature.

        Raises:
          ServingError: the task is too large, or the queue is full.
        """
        rows = batch_rows(task.call.feeds)
        key = _key(task.call)
        with self._wake:
            if self._closed:
                raise ServingError("UNAVAILABLE", _CLOSING)
            queues = self._queues.setdefault(task.call.servable, {})
            queue = queues.get(key)
            if queue is None:
                queue = BatchQueue(options)
            task.enqueued = time.monotonic()
            queue.add(task, rows)
            if key not in queues:
                queues[key] = queue
                self._rotation.append(queue)
            task.waits = True
            self._waiting += 1
            self._wake.notify()

    def withdraw(self, task: BatchTask) -> bool:
        """Removes a task; True when it had not begun, in which case `done` is not called."""
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
        self._rotation.remove(queue)

    def close(self) -> None:
        """Ends the threads after their current batches; waiting tasks fail."""
        with self._wake:
            self._closed = True
            left = [part for queue in self._rotation for part in queue.parts()]
            for part in left:
                part.task.waits = False
            self._rotation.clear()
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
        """Waits for a ripe batch and a free slot; None when the scheduler is closed."""
        with self._wake:
            while not self._closed:
                ripe_at = min((queue.ripe_at() for queue in self._rotation), default=math.inf)
                now = time.monotonic()
                if self._busy >= self._threads or ripe_at == math.inf:
                    self._wake.wait()
                elif ripe_at > now:
                    self._wake.wait(ripe_at - now)
                else:
                    return self._take_first(now)
        return None

    def _take_first(self, now: float) -> tuple[Batch, BatchingOptions]:
        while self._rotation[0].ripe_at() > now:
            self._rotation.rotate(-1)
        queue = self._rotation[0]
        batch = queue.take()
        for part in batch.parts:
            if part.task.waits:
                part.task.waits = False
                self._waiting -= 1
        if len(queue):
            # The next ripe batch comes from another signature, if there is one.
            self._rotation.rotate(-1)
        else:
            self._forget(queue, batch.parts[0].task.call)
        self._busy += 1
        if self._rotation:
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
                # TF Serving fails a batch with this text when all its tasks are late.
                words = "Run() timeout exceeded while waiting in batching queue"
                task.settle(part.index, ServingError("RESOURCE_EXHAUSTED", words))
            else:
                live.append(part)
        if live:
            self._run(live, options)

    def _run(self, parts: list[TaskPart], options: BatchingOptions) -> None:
        try:
            results = self._compute(parts, options)
        except Exception as error:
            # A batch that timed out would take as long again, once for each request.
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
        for part, outputs in zip(parts, results, strict=True):
            part.task.settle(part.index, outputs)

    def _compute(self, parts: list[TaskPart], options: BatchingOptions) -> list[Outputs]:
        call = parts[0].task.call
        rows = [part.rows for part in parts]
        if options.adaptive and len(parts) == 1:
            # Outputs of a single request need no batch dimension.
            return [self._timed(call, parts[0].feeds, rows[0], rows[0])]
        total = options.padded(sum(rows))
        outputs = self._timed(call, merge([p.feeds for p in parts], options), sum(rows), total)
        try:
            return split(outputs, rows, total)
        except ServingError:
            alone = self._alone.setdefault(call.servable, set())
            if len(alone) < _MAX_ALONE:
                alone.add(_key(call))
            raise

    def _timed(self, call: EngineCall, feeds: Outputs, rows: int, padded: int) -> Outputs:
        self._metrics.batch(call.servable.name, rows, padded)
        began = time.monotonic()
        outputs = call.run(feeds)
        self._metrics.computed(call.servable.name, time.monotonic() - began)
        return outputs


def _key(call: EngineCall) -> tuple[frozenset[str], frozenset[str]]:
    """Calls of one signature of one version have equal keys."""
    return frozenset(call.feeds), frozenset(call.fetches)
