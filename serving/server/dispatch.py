"""From the event loop to the worker threads and back: admission, deadlines, cancellation.

    answer = await dispatcher.run(steps, timeout=1.5)

A request is decoded in a worker thread. There its engine call runs too, unless it joins a batch:
then the thread goes on to other requests, and a worker ends the request once the batch has run.
"""

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeAlias

from serving.server.calls import EngineCall, Outputs, Steps, T
from serving.server.errors import OverloadedError, ServingError
from serving.server.metrics import Metrics
from serving.server.scheduler import BatchScheduler, Task

#: Weight of the newest request in the mean from which Retry-After is told.
_NEWEST = 0.1

_Step: TypeAlias = Callable[[], EngineCall]


class Dispatcher:
    """Runs requests; `run` is called in an event loop, the rest happens in threads."""

    def __init__(
        self,
        threads: int,
        *,
        metrics: Metrics,
        scheduler: BatchScheduler | None = None,
        max_queue: int | None = None,
    ) -> None:
        """Starts no thread before the first request.

        Args:
          threads: that decode, run what is not batched, and encode.
          metrics: get the time in the queues and in the engine.
          scheduler: of the batches; None runs every call by itself.
          max_queue: requests that may wait beyond those that have a thread; None sets no bound.
        """
        self._threads = threads
        self._metrics = metrics
        self._scheduler = scheduler
        self._max_queue = max_queue
        self._pool = ThreadPoolExecutor(threads, "request")
        # Answers of batches must not wait behind requests that have not begun.
        self._finishers = ThreadPoolExecutor(threads, "answer")
        self._lock = threading.Lock()
        self._waiting = 0
        self._busy = 0
        self._mean_s = 0.0
        metrics.gauge("waiting_requests", lambda: self.waiting)

    @property
    def waiting(self) -> int:
        """Requests that wait for a thread or for a batch."""
        return self._waiting + (self._scheduler.waiting if self._scheduler else 0)

    async def run(self, steps: Steps[T], *, timeout: float | None = None) -> T:
        """What the steps return.

        Cancelling the task takes the request out of its queue.

        Args:
          steps: not begun yet; closed in any case.
          timeout: seconds; what waits beyond them does not run. None or 0 sets no bound.

        Raises:
          OverloadedError: too many requests wait.
          ServingError: DEADLINE_EXCEEDED, or what the steps raise.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        deadline = time.monotonic() + timeout if timeout else math.inf
        request = _Request(steps, deadline, loop, future)
        try:
            self._admit()
        except OverloadedError:
            steps.close()
            raise
        request.work = self._pool.submit(self._begin, request)
        timer = loop.call_later(timeout, _expire, future) if timeout else None
        try:
            return await future
        except ServingError as error:
            if error.code == "UNAVAILABLE":
                raise OverloadedError(error.code, error.message, self._retry_after()) from error
            raise
        finally:
            if timer is not None:
                timer.cancel()
            self._drop(request)

    def close(self) -> None:
        """Ends the threads; requests under way go on to their end."""
        self._pool.shutdown(wait=False)
        if self._scheduler is not None:
            self._scheduler.close()
        self._finishers.shutdown(wait=False)

    def _admit(self) -> None:
        with self._lock:
            taken = self.waiting + self._busy
            if self._max_queue is not None and taken >= self._max_queue + self._threads:
                self._metrics.count("refused_count", reason="max_queue")
                raise OverloadedError(
                    "RESOURCE_EXHAUSTED",
                    f"{taken} requests are under way or wait, and --max_queue lets "
                    f"{self._max_queue} wait for {self._threads} threads; try again later",
                    self._retry_after(),
                )
            self._waiting += 1

    def _retry_after(self) -> int:
        """Seconds until what waits now is likely to be done."""
        return max(1, math.ceil(self.waiting * self._mean_s / self._threads))

    def _drop(self, request: "_Request") -> None:
        """Takes a request that is over, or whose client is gone, out of wherever it waits."""
        with request.lock:
            request.over = True
            work, task = request.work, request.task
        if work is not None and work.cancel():
            with self._lock:
                self._waiting -= 1
            request.steps.close()
        elif task is not None and self._scheduler is not None and self._scheduler.withdraw(task):
            # Letting go of a model may free it, which is no work for the event loop.
            with contextlib.suppress(RuntimeError):
                self._finishers.submit(request.steps.close)

    def _begin(self, request: "_Request") -> None:
        began = time.monotonic()
        with self._lock:
            self._waiting -= 1
            self._busy += 1
        try:
            if request.deadline <= began:
                request.steps.close()
            else:
                self._advance(request, partial(next, request.steps))
        finally:
            with self._lock:
                self._busy -= 1
                self._mean_s += _NEWEST * (time.monotonic() - began - self._mean_s)

    def _advance(self, request: "_Request", step: "_Step") -> None:
        """Runs the steps until they end or wait for a batch."""
        following: _Step | None = step
        while following is not None:
            if request.over:
                request.steps.close()
                return
            try:
                call = following()
            except StopIteration as stop:
                request.finish(stop.value, None)
                return
            except BaseException as error:
                # It is raised again where the request is awaited.
                request.finish(None, error)
                return
            try:
                following = self._call(request, call)
            except Exception as error:
                following = partial(request.steps.throw, error)

    def _call(self, request: "_Request", call: EngineCall) -> "_Step | None":
        """The step after a call; None when the call waits for a batch."""
        scheduler, options = self._scheduler, call.servable.batching
        if scheduler is None or options is None or not scheduler.can_batch(call, options):
            return partial(request.steps.send, self._run_here(call))
        if options.adaptive and scheduler.try_start():
            try:
                return partial(request.steps.send, self._run_here(call))
            finally:
                scheduler.end()
        self._submit(scheduler, request, call)
        return None

    def _run_here(self, call: EngineCall) -> Outputs:
        began = time.monotonic()
        outputs = call.run()
        seconds = time.monotonic() - began
        self._metrics.computed(call.servable.name, seconds)
        self._record(call, seconds)
        return outputs

    def _submit(self, scheduler: BatchScheduler, request: "_Request", call: EngineCall) -> None:
        began = time.monotonic()

        def done(outputs: Outputs | None, error: BaseException | None) -> None:
            if error is None:
                self._record(call, time.monotonic() - began)
            step = request.steps.send if error is None else request.steps.throw
            self._finishers.submit(self._advance, request, partial(step, error or outputs))

        task = Task(call, done, deadline=request.deadline)
        with request.lock:
            if request.over:
                request.steps.close()
                return
            scheduler.submit(task, call.servable.batching)
            request.task = task

    def _record(self, call: EngineCall, seconds: float) -> None:
        servable = call.servable
        self._metrics.engine_call(servable.name, call.api, servable.engine.runtime, seconds)
        if call.examples:
            self._metrics.examples(servable.name, call.examples)


class _Request:
    """One call of `Dispatcher.run`."""

    def __init__(
        self,
        steps: Steps[Any],
        deadline: float,
        loop: asyncio.AbstractEventLoop,
        future: "asyncio.Future[Any]",
    ) -> None:
        self.steps = steps
        self.deadline = deadline
        self.lock = threading.Lock()
        self.work: Future[None] | None = None
        self.task: Task | None = None
        self.over = False
        self._loop = loop
        self._future = future

    def finish(self, value: Any, error: BaseException | None) -> None:
        """Hands the outcome to the event loop, which may be gone."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_resolve, self._future, value, error)


def _resolve(future: "asyncio.Future[Any]", value: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


def _expire(future: "asyncio.Future[Any]") -> None:
    words = "Timed out waiting for notification"
    _resolve(future, None, ServingError("DEADLINE_EXCEEDED", words))
