"""Sends one process's share of the load and records the outcome of each request."""

import asyncio
import gc
import resource
import select
import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving.benchmark.loadtest.callers import OK, Caller, Outcome
from serving.benchmark.loadtest.plan import LoadPlan, LoadTarget

NOT_SENT = "not sent"

_REPORT_S = 0.25


@dataclass(frozen=True)
class Job:
    """The task of one generator process.

    Attributes:
      target: the server and the model.
      bodies: prepared requests.
      plan: of the whole run.
      arrivals: (N,) float64 seconds after the start, ascending; empty for a closed loop.
      numbers: (N,) int64 index of the body of each request; a closed loop cycles through them.
      clients: of a closed loop in this process, else 0.
      max_in_flight: of this process.
    """

    target: LoadTarget
    bodies: tuple[bytes, ...]
    plan: LoadPlan
    arrivals: np.ndarray
    numbers: np.ndarray
    clients: int
    max_in_flight: int


@dataclass(frozen=True)
class LoadProgress:
    """Progress of a run.

    Attributes:
      elapsed_s: since the start, warm-up included.
      total_s: of warm-up and measurement.
      sent: requests so far.
      succeeded: requests with a successful response.
      failed: requests that were refused, late, broken or not sent.
    """

    elapsed_s: float
    total_s: float
    sent: int = 0
    succeeded: int = 0
    failed: int = 0


@dataclass
class Samples:
    """All requests of a process, in order of arrival.

    Attributes:
      scheduled_s: (N,) float64 scheduled time after the start; in a closed loop, the time of the
        client's previous response.
      lag_ms: (N,) float64 delay of sending.
      latency_ms: (N,) float64, from the scheduled time to the response or failure.
      codes: N codes of `serving.benchmark.loadtest.callers.Outcome`, or `not sent`.
      reasons: code -> message of the first such failure.
      resends: number of requests that were sent twice, see
        `serving.benchmark.loadtest.callers.RestCaller`.
      cpu_s: of the process during the run.
      elapsed_s: of the run.
    """

    scheduled_s: Any
    lag_ms: Any
    latency_ms: Any
    codes: list[str]
    reasons: dict[str, str] = field(default_factory=dict)
    resends: int = 0
    cpu_s: float = 0.0
    elapsed_s: float = 0.0


class _PreciseSelector(selectors.DefaultSelector):
    """Waits with microsecond precision; epoll and so asyncio's timers round to milliseconds."""

    def select(self, timeout: float | None = None) -> Any:
        """See `selectors.BaseSelector.select`."""
        if timeout is not None and timeout > 0:
            select.select([self.fileno()], [], [], timeout)
            timeout = 0
        return super().select(timeout)


def precise_loop() -> asyncio.AbstractEventLoop:
    """An event loop whose timers are not rounded up to milliseconds."""
    if hasattr(selectors, "EpollSelector"):
        return asyncio.SelectorEventLoop(_PreciseSelector())
    return asyncio.new_event_loop()


class Generator:
    """Runs a job once."""

    def __init__(self, job: Job, caller: Caller, report: Callable[[LoadProgress], None]) -> None:
        self._job = job
        self._caller = caller
        self._report = report
        self._rows: list[tuple[float, float, float, str]] = []
        self._reasons: dict[str, str] = {}
        self._sent = 0
        self._good = 0
        self._resends = 0

    async def run(self, start: float) -> Samples:
        """Sends all requests and waits for each response or deadline.

        Args:
          start: of the run, in seconds of `time.monotonic`.
        """
        # Scanning the objects that exist so far again and again would delay requests.
        gc.collect()
        gc.freeze()
        cpu = _cpu_s()
        reporter = asyncio.create_task(self._report_repeatedly(start))
        try:
            if self._job.clients:
                await self._closed(start)
            else:
                await self._open(start)
        finally:
            reporter.cancel()
        self._report(self._progress(start))
        rows = sorted(self._rows)
        columns = np.array([row[:3] for row in rows], np.float64).reshape(-1, 3).T
        return Samples(
            *columns,
            codes=[row[3] for row in rows],
            reasons=self._reasons,
            resends=self._resends,
            cpu_s=_cpu_s() - cpu,
            elapsed_s=time.monotonic() - start,
        )

    async def _open(self, start: float) -> None:
        in_flight: set[asyncio.Task[None]] = set()
        for at, number in zip(self._job.arrivals.tolist(), self._job.numbers.tolist(), strict=True):
            # Sleeps even when late, so that responses are read.
            await asyncio.sleep(max(start + at - time.monotonic(), 0))
            if len(in_flight) >= self._job.max_in_flight:
                now = time.monotonic()
                reason = f"more than {self._job.max_in_flight} in flight"
                self._record(start, start + at, now, Outcome(NOT_SENT, reason, now))
                continue
            task = asyncio.create_task(self._send(start, start + at, number))
            in_flight.add(task)
            task.add_done_callback(in_flight.discard)
        if in_flight:
            await asyncio.gather(*in_flight)

    async def _closed(self, start: float) -> None:
        await asyncio.sleep(max(start - time.monotonic(), 0))
        end = start + self._job.plan.total_s
        turn = iter(range(2**62))
        numbers = self._job.numbers.tolist()

        async def client() -> None:
            while time.monotonic() < end:
                number = numbers[next(turn) % len(numbers)]
                await self._send(start, time.monotonic(), number)

        await asyncio.gather(*(client() for _ in range(self._job.clients)))

    async def _send(self, start: float, due: float, number: int) -> None:
        sent = time.monotonic()
        response = await self._caller.call(number, due + self._job.plan.timeout_s)
        self._record(start, due, sent, response)

    def _record(self, start: float, due: float, sent: float, response: Outcome) -> None:
        self._sent += 1
        self._good += response.code == OK
        self._resends += response.resent
        if response.code != OK:
            self._reasons.setdefault(response.code, response.reason)
        late_ms, took_ms = (sent - due) * 1000, (response.at - due) * 1000
        self._rows.append((due - start, late_ms, took_ms, response.code))

    async def _report_repeatedly(self, start: float) -> None:
        while True:
            await asyncio.sleep(_REPORT_S)
            self._report(self._progress(start))

    def _progress(self, start: float) -> LoadProgress:
        elapsed = max(time.monotonic() - start, 0.0)
        total = self._job.plan.total_s
        return LoadProgress(elapsed, total, self._sent, self._good, self._sent - self._good)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
