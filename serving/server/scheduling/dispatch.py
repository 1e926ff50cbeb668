"""Admission, deadlines and cancellation of requests, and the threads that run them.

    response = await dispatcher.run(steps, timeout=1.5)        # in an event loop
    response = dispatcher.run_here(steps, timeout=1.5)         # in a thread that may block

A fixed number of slots serves both in order of arrival. A request with a slot is decoded, and its
engine call runs, unless the call joins a batch: then the slot is free for the next request, and the
request continues once the batch has run. Requests from an event loop run in worker threads;
`run_here` does all the work in the caller's thread, which saves waking another one.
"""

import asyncio
import contextlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeAlias

from serving.server.errors import OverloadedError, ServingError
from serving.server.observability.metrics import Metrics
from serving.server.scheduling.calls import (
    TRANSIT_S,
    BatchTask,
    EngineCall,
    Outputs,
    ServedRequest,
    Steps,
    T,
    late,
)
from serving.server.scheduling.scheduler import BatchScheduler

#: Weight of the newest request in the mean duration, from which Retry-After is computed.
_NEWEST = 0.1
#: Requests per slot that may run beyond their deadline, without a slot.
_OVERDUE_FACTOR = 2

_Step: TypeAlias = Callable[[], EngineCall]
#: Receives the function to call when the client disconnects; False when it already has.
OnDisconnect: TypeAlias = Callable[[Callable[[], None]], bool]


def _closing() -> ServingError:
    return ServingError("UNAVAILABLE", "the server is shutting down")


class Dispatcher:
    """Runs requests; `run` is called in an event loop, `run_here` in any other thread."""

    def __init__(
        self,
        slots: int,
        *,
        metrics: Metrics,
        scheduler: BatchScheduler | None = None,
        max_queue: int | None = None,
    ) -> None:
        """Creates a dispatcher, whose threads start with the first request.

        Args:
          slots: requests that are decoded, run without batching, or encoded at a time.
          metrics: record queue and engine times.
          scheduler: runs the batches; None runs every call by itself.
          max_queue: requests that may wait besides those with a slot; None sets no bound.
        """
        self._slots = slots
        self._metrics = metrics
        self._scheduler = scheduler
        self._max_queue = max_queue
        # More threads than slots: work that outlives its deadline keeps its thread, not its slot.
        self._most_overdue = _OVERDUE_FACTOR * slots
        self._pool = ThreadPoolExecutor(slots + self._most_overdue, "request")
        # Results of batches must not wait behind requests that have not begun.
        self._finishers = ThreadPoolExecutor(slots, "response")
        self._lock = threading.Lock()
        self._queue: OrderedDict[ServedRequest, None] = OrderedDict()
        self._running: set[ServedRequest] = set()
        self._busy = 0
        self._overdue = 0
        self._closed = False
        self._mean_s = 0.0
        metrics.gauge("waiting_requests", lambda: self.waiting)
        metrics.gauge("overdue_requests", lambda: self._overdue)

    @property
    def waiting(self) -> int:
        """The number of requests that wait for a slot or for a batch."""
        return len(self._queue) + (self._scheduler.waiting if self._scheduler else 0)

    @property
    def max_requests(self) -> int | None:
        """The number of requests that may run or wait at a time; None without a bound."""
        return None if self._max_queue is None else self._slots + self._max_queue

    async def run(self, steps: Steps[T], *, timeout: float | None = None) -> T:
        """The return value of the steps.

        Cancelling the task removes the request from its queue.

        Args:
          steps: not begun yet; closed in any case.
          timeout: seconds; a request that waits longer does not run. None or 0 sets no bound.

        Raises:
          OverloadedError: too many requests wait.
          ServingError: DEADLINE_EXCEEDED, UNAVAILABLE, or an error of the steps.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        request = ServedRequest(steps, timeout, partial(_to_loop, loop, future))
        if self._admit(request):
            self._pool.submit(self._begin, request)
        timer = loop.call_later(timeout, self._expire, request, future) if timeout else None
        try:
            return await future
        except ServingError as error:
            if error.code == "UNAVAILABLE":
                raise self._with_retry_after(error) from error
            raise
        finally:
            if timer is not None:
                timer.cancel()
            self._drop(request)

    def run_here(
        self,
        steps: Steps[T],
        *,
        timeout: float | None = None,
        on_disconnect: OnDisconnect | None = None,
    ) -> T:
        """The return value of the steps, which run in this thread.

        Args:
          steps: not begun yet; closed in any case.
          timeout: seconds; a request that waits longer does not run. None or 0 sets no bound.
          on_disconnect: registers what to call when the client disconnects; a request that waits
            then does not run.

        Raises:
          OverloadedError: too many requests wait.
          ServingError: DEADLINE_EXCEEDED, CANCELLED, UNAVAILABLE, or an error of the steps.
        """
        request = ServedRequest(steps, timeout)
        has_slot = self._admit(request)
        try:
            if on_disconnect is not None and not on_disconnect(partial(self._disconnect, request)):
                request.disconnect()
            if has_slot:
                self._begin(request)
            value, error = request.wait()
        finally:
            self._drop(request)
        if error is None:
            return value
        raise self._with_retry_after(error) if isinstance(error, ServingError) else error

    def close(self) -> None:
        """Ends the threads; running requests continue to their end, waiting ones fail."""
        with self._lock:
            self._closed = True
            left = list(self._queue)
            self._queue.clear()
        for request in left:
            request.do(partial(request.fail, _closing()), self._finishers)
        self._pool.shutdown(wait=False)
        if self._scheduler is not None:
            self._scheduler.close()
        self._finishers.shutdown(wait=False)

    def _admit(self, request: ServedRequest) -> bool:
        """Whether the request has a slot at once; otherwise it waits for one."""
        with self._lock:
            refusal = self._refusal()
            if refusal is None:
                if self._busy < self._slots:
                    self._busy += 1
                    return True
                self._queue[request] = None
                return False
        request.steps.close()
        raise refusal

    def _refusal(self) -> ServingError | None:
        if self._closed:
            return self._with_retry_after(_closing())
        taken = self.waiting + self._busy
        if self._max_queue is None or taken < self._max_queue + self._slots:
            return None
        self._metrics.count("refused_count", reason="max_queue")
        return OverloadedError(
            "RESOURCE_EXHAUSTED",
            f"{taken} requests are under way or wait, and --max_queue lets "
            f"{self._max_queue} wait for {self._slots} threads; try again later",
            self._retry_after(),
        )

    def _with_retry_after(self, error: ServingError) -> ServingError:
        """The error; an UNAVAILABLE one with the time after which to retry."""
        if error.code != "UNAVAILABLE":
            return error
        return OverloadedError(error.code, error.message, self._retry_after())

    def _retry_after(self) -> int:
        """Seconds until the requests that wait now have probably run."""
        return max(1, math.ceil(self.waiting * self._mean_s / self._slots))

    def _drop(self, request: ServedRequest) -> None:
        """Removes a request that is over, or whose client has left, from the queues."""
        task = request.end()
        with self._lock:
            waited = request in self._queue
            if waited:
                del self._queue[request]
        if waited:
            request.steps.close()
        elif task is not None and self._scheduler is not None and self._scheduler.withdraw(task):
            # Closing the steps may free a model, which would block the event loop.
            with contextlib.suppress(RuntimeError):
                self._finishers.submit(request.steps.close)

    def _begin(self, request: ServedRequest) -> None:
        """Runs the request in its slot, and assigns the slot to the next one."""
        began = time.monotonic()
        with self._lock:
            self._running.add(request)
        try:
            if request.deadline <= began:
                request.fail(late())
            else:
                self._advance(request, partial(next, request.steps))
        finally:
            with self._lock:
                self._mean_s += _NEWEST * (time.monotonic() - began - self._mean_s)
                if request in self._running:
                    self._running.discard(request)
                    self._assign_slot()
                else:
                    self._overdue -= 1

    def _assign_slot(self) -> None:
        """Assigns a free slot to the next request; the caller holds the lock."""
        if self._queue:
            following, _ = self._queue.popitem(last=False)
            # Under the lock, a request is either in the queue or has the work that begins it.
            following.do(partial(self._begin, following), self._pool)
        else:
            self._busy -= 1

    def _disconnect(self, request: ServedRequest) -> None:
        """The client of `run_here` has left, at its deadline or earlier."""
        request.disconnect()
        if time.monotonic() >= request.deadline - TRANSIT_S:
            self._release_slot(request)

    def _expire(self, request: ServedRequest, future: "asyncio.Future[Any]") -> None:
        _resolve(future, None, late())
        self._release_slot(request)

    def _release_slot(self, request: ServedRequest) -> None:
        """Releases the slot of a running request beyond its deadline, which cannot be stopped.

        The number of such requests is bounded, as each of them occupies a thread.
        """
        with self._lock:
            if request in self._running and self._overdue < self._most_overdue:
                self._running.discard(request)
                self._overdue += 1
                self._assign_slot()

    def _advance(self, request: ServedRequest, step: _Step) -> None:
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
                # Raised again by `run` or `run_here`.
                request.finish(None, error)
                return
            try:
                following = self._call(request, call)
            except Exception as error:
                following = partial(request.steps.throw, error)

    def _call(self, request: ServedRequest, call: EngineCall) -> _Step | None:
        """The step after a call; None when the call waits for a batch."""
        scheduler, options = self._scheduler, call.servable.batching
        if scheduler is None or options is None or not scheduler.can_batch(call, options):
            return partial(request.steps.send, self._run_call(call))
        if options.adaptive and scheduler.try_start():
            try:
                return partial(request.steps.send, self._run_call(call))
            finally:
                scheduler.end()
        # The last slot stays free for a request that may join a batch or be refused.
        if not options.adaptive and self._busy < self._slots:
            began = time.monotonic()
            outputs = scheduler.run_at_once(call, options)
            if outputs is not None:
                self._record(call, time.monotonic() - began)
                return partial(request.steps.send, outputs)
        self._submit(scheduler, request, call)
        return None

    def _run_call(self, call: EngineCall) -> Outputs:
        began = time.monotonic()
        outputs = call.run()
        seconds = time.monotonic() - began
        self._metrics.computed(call.servable.name, seconds)
        self._record(call, seconds)
        return outputs

    def _submit(self, scheduler: BatchScheduler, request: ServedRequest, call: EngineCall) -> None:
        began = time.monotonic()

        def done(outputs: Outputs | None, error: BaseException | None) -> None:
            if error is None:
                self._record(call, time.monotonic() - began)
            step = request.steps.send if error is None else request.steps.throw
            work = partial(self._advance, request, partial(step, error or outputs))
            request.do(work, self._finishers)

        task = BatchTask(call, done, deadline=request.deadline)
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


def _to_loop(
    loop: asyncio.AbstractEventLoop,
    future: "asyncio.Future[Any]",
    value: Any,
    error: BaseException | None,
) -> None:
    """Passes the outcome to the event loop, which may be closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(_resolve, future, value, error)


def _resolve(future: "asyncio.Future[Any]", value: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
