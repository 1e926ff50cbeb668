"""From a front end to a place where requests run, and back: admission, deadlines, cancellation.

    answer = await dispatcher.run(steps, timeout=1.5)          # in an event loop
    answer = dispatcher.run_here(steps, timeout=1.5)           # in a thread that may wait

There are so many places, for both together, first come, first served. In its place a request is
decoded, and its engine call runs too, unless it joins a batch: then the place is free for others,
and the request ends once the batch has run. What an event loop asks for runs in worker threads;
`run_here` does everything in the caller's thread, so that nobody has to be woken for one request.
"""

import asyncio
import contextlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeAlias

from serving.server.errors import OverloadedError, ServingError
from serving.server.observability.metrics import Metrics
from serving.server.scheduling.calls import EngineCall, Outputs, Steps, T
from serving.server.scheduling.request import ON_THE_WAY_S, Request, Work, closing, late
from serving.server.scheduling.scheduler import BatchScheduler, Task

#: Weight of the newest request in the mean from which Retry-After is told.
_NEWEST = 0.1
#: Times the places: requests beyond their deadline whose work still runs, without a place.
_OVERDUE_FACTOR = 2

_Step: TypeAlias = Callable[[], EngineCall]
#: Is given what to call when the client goes away; False when it has gone already.
OnGone: TypeAlias = Callable[[Callable[[], None]], bool]


class Dispatcher:
    """Runs requests; `run` is called in an event loop, `run_here` in any other thread."""

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
          threads: places, in which requests are decoded, run unless they are batched, and encoded.
          metrics: get the time in the queues and in the engine.
          scheduler: of the batches; None runs every call by itself.
          max_queue: requests that may wait beyond those that have a place; None sets no bound.
        """
        self._threads = threads
        self._metrics = metrics
        self._scheduler = scheduler
        self._max_queue = max_queue
        # More threads than places: work that outlives its deadline keeps the one and not the other.
        self._most_overdue = _OVERDUE_FACTOR * threads
        self._pool = ThreadPoolExecutor(threads + self._most_overdue, "request")
        # Answers of batches must not wait behind requests that have not begun.
        self._finishers = ThreadPoolExecutor(threads, "answer")
        self._lock = threading.Lock()
        self._queue: OrderedDict[Request, None] = OrderedDict()
        self._running: set[Request] = set()
        self._busy = 0
        self._overdue = 0
        self._closed = False
        self._mean_s = 0.0
        metrics.gauge("waiting_requests", lambda: self.waiting)
        metrics.gauge("overdue_requests", lambda: self._overdue)

    @property
    def waiting(self) -> int:
        """Requests that wait for a place or for a batch."""
        return len(self._queue) + (self._scheduler.waiting if self._scheduler else 0)

    @property
    def most_requests(self) -> int | None:
        """Requests that may be here at a time, running or waiting; None without a bound."""
        return None if self._max_queue is None else self._threads + self._max_queue

    async def run(self, steps: Steps[T], *, timeout: float | None = None) -> T:
        """What the steps return.

        Cancelling the task takes the request out of its queue.

        Args:
          steps: not begun yet; closed in any case.
          timeout: seconds; what waits beyond them does not run. None or 0 sets no bound.

        Raises:
          OverloadedError: too many requests wait.
          ServingError: DEADLINE_EXCEEDED, UNAVAILABLE, or what the steps raise.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        request = Request(steps, timeout, partial(_to_loop, loop, future))
        if self._admit(request):
            self._pool.submit(self._begin, request)
        timer = loop.call_later(timeout, self._expire, request, future) if timeout else None
        try:
            return await future
        except ServingError as error:
            if error.code == "UNAVAILABLE":
                raise self._hinted(error) from error
            raise
        finally:
            if timer is not None:
                timer.cancel()
            self._drop(request)

    def run_here(
        self, steps: Steps[T], *, timeout: float | None = None, on_gone: OnGone | None = None
    ) -> T:
        """What the steps return; they run in this thread, which waits meanwhile.

        Args:
          steps: not begun yet; closed in any case.
          timeout: seconds; what waits beyond them does not run. None or 0 sets no bound.
          on_gone: tells when the client goes away: what waits then does not run.

        Raises:
          OverloadedError: too many requests wait.
          ServingError: DEADLINE_EXCEEDED, CANCELLED, UNAVAILABLE, or what the steps raise.
        """
        request = Request(steps, timeout)
        has_place = self._admit(request)
        try:
            if on_gone is not None and not on_gone(partial(self._gone, request)):
                request.leave()
            if has_place:
                self._begin(request)
            value, error = request.wait()
        finally:
            self._drop(request)
        if error is None:
            return value
        raise self._hinted(error) if isinstance(error, ServingError) else error

    def close(self) -> None:
        """Ends the threads; requests under way go on to their end, what waits fails."""
        with self._lock:
            self._closed = True
            left = list(self._queue)
            self._queue.clear()
        for request in left:
            self._go_on(request, partial(request.fail, closing()), self._finishers)
        self._pool.shutdown(wait=False)
        if self._scheduler is not None:
            self._scheduler.close()
        self._finishers.shutdown(wait=False)

    def _admit(self, request: Request) -> bool:
        """Whether the request has a place at once; otherwise it waits for one."""
        with self._lock:
            refusal = self._refusal()
            if refusal is None:
                if self._busy < self._threads:
                    self._busy += 1
                    return True
                self._queue[request] = None
                return False
        request.steps.close()
        raise refusal

    def _refusal(self) -> ServingError | None:
        if self._closed:
            return self._hinted(closing())
        taken = self.waiting + self._busy
        if self._max_queue is None or taken < self._max_queue + self._threads:
            return None
        self._metrics.count("refused_count", reason="max_queue")
        return OverloadedError(
            "RESOURCE_EXHAUSTED",
            f"{taken} requests are under way or wait, and --max_queue lets "
            f"{self._max_queue} wait for {self._threads} threads; try again later",
            self._retry_after(),
        )

    def _hinted(self, error: ServingError) -> ServingError:
        """The error; one that says to come again says when."""
        if error.code != "UNAVAILABLE":
            return error
        return OverloadedError(error.code, error.message, self._retry_after())

    def _retry_after(self) -> int:
        """Seconds until what waits now is likely to be done."""
        return max(1, math.ceil(self.waiting * self._mean_s / self._threads))

    def _go_on(self, request: Request, work: Work, threads: Executor) -> None:
        """Has the request's next piece of work done: in its own thread, or in one of `threads`."""
        if not request.take(work):
            threads.submit(work)

    def _drop(self, request: Request) -> None:
        """Takes a request that is over, or whose client is gone, out of wherever it waits."""
        task = request.end()
        with self._lock:
            waited = request in self._queue
            if waited:
                del self._queue[request]
        if waited:
            request.steps.close()
        elif task is not None and self._scheduler is not None and self._scheduler.withdraw(task):
            # Letting go of a model may free it, which is no work for the event loop.
            with contextlib.suppress(RuntimeError):
                self._finishers.submit(request.steps.close)

    def _begin(self, request: Request) -> None:
        """Runs the request in the place that it was given, which then is the next one's."""
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
                    self._pass_on()
                else:
                    self._overdue -= 1

    def _pass_on(self) -> None:
        """Gives a place that is free to the next request; under the lock."""
        if self._queue:
            following, _ = self._queue.popitem(last=False)
            # Under the lock: who leaves the queue finds its turn there, or is not in it.
            self._go_on(following, partial(self._begin, following), self._pool)
        else:
            self._busy -= 1

    def _gone(self, request: Request) -> None:
        """The client of `run_here` has gone, by its deadline or by itself."""
        request.leave()
        if time.monotonic() >= request.deadline - ON_THE_WAY_S:
            self._give_up(request)

    def _expire(self, request: Request, future: "asyncio.Future[Any]") -> None:
        _resolve(future, None, late())
        self._give_up(request)

    def _give_up(self, request: Request) -> None:
        """Takes the place from work that has outlived its deadline, which nothing can stop.

        Only from so many at a time, or a flood of such requests would start threads without end.
        """
        with self._lock:
            if request in self._running and self._overdue < self._most_overdue:
                self._running.discard(request)
                self._overdue += 1
                self._pass_on()

    def _advance(self, request: Request, step: _Step) -> None:
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

    def _call(self, request: Request, call: EngineCall) -> _Step | None:
        """The step after a call; None when the call waits for a batch."""
        scheduler, options = self._scheduler, call.servable.batching
        if scheduler is None or options is None or not scheduler.can_batch(call, options):
            return partial(request.steps.send, self._run_here(call))
        if options.adaptive and scheduler.try_start():
            try:
                return partial(request.steps.send, self._run_here(call))
            finally:
                scheduler.end()
        # The last place is left to what comes next, which may join a batch or be refused.
        if not options.adaptive and self._busy < self._threads:
            began = time.monotonic()
            outputs = scheduler.run_at_once(call, options)
            if outputs is not None:
                self._record(call, time.monotonic() - began)
                return partial(request.steps.send, outputs)
        self._submit(scheduler, request, call)
        return None

    def _run_here(self, call: EngineCall) -> Outputs:
        began = time.monotonic()
        outputs = call.run()
        seconds = time.monotonic() - began
        self._metrics.computed(call.servable.name, seconds)
        self._record(call, seconds)
        return outputs

    def _submit(self, scheduler: BatchScheduler, request: Request, call: EngineCall) -> None:
        began = time.monotonic()

        def done(outputs: Outputs | None, error: BaseException | None) -> None:
            if error is None:
                self._record(call, time.monotonic() - began)
            step = request.steps.send if error is None else request.steps.throw
            work = partial(self._advance, request, partial(step, error or outputs))
            self._go_on(request, work, self._finishers)

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


def _to_loop(
    loop: asyncio.AbstractEventLoop,
    future: "asyncio.Future[Any]",
    value: Any,
    error: BaseException | None,
) -> None:
    """Hands the outcome to the event loop, which may be gone."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(_resolve, future, value, error)


def _resolve(future: "asyncio.Future[Any]", value: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
