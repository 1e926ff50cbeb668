"""Runs a plan in generator processes and collects their results."""

import contextlib
import pickle
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from core.processes import exit_reason, module_command, start, stop, tail
from serving.benchmark.loadtest.bodies import Requests
from serving.benchmark.loadtest.generator import Job, LoadProgress, Samples
from serving.benchmark.loadtest.plan import (
    LoadError,
    LoadPlan,
    LoadTarget,
    draw_requests,
    poisson_arrivals,
)
from serving.benchmark.loadtest.result import LoadResult
from serving.benchmark.loadtest.worker import PROBE_S, PROGRESS, READY, REFUSED, RESULT

#: Time for all processes to read the start time before it passes.
_HEAD_START_S = 0.1
#: Time after the last deadline for a process to return its samples.
_GRACE_S = 60.0
#: Interval of checks whether to stop the run.
_POLL_S = 0.25
#: Requests drawn for a closed loop, which cycles through them.
_CLOSED_DRAWS = 10_000


def run_load(
    target: LoadTarget,
    requests: Requests,
    plan: LoadPlan,
    *,
    on_progress: Callable[[LoadProgress], None] | None = None,
    stop: threading.Event | None = None,
) -> LoadResult:
    """Sends the load and waits for the last response.

    Args:
      target: the server and the model.
      requests: made for this target.
      plan: of the load; its seed determines arrivals and requests before anything is sent.
      on_progress: called a few times per second in the caller's thread.
      stop: ends the run without a result when another thread sets it.

    Raises:
      LoadError: there is no server, the model is unknown, the first request is refused, a generator
        process failed, or `stop` was set.
    """
    stop = stop or threading.Event()
    jobs = _split(target, requests, plan)
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(_Worker(job)) for job in jobs]
        inbox: queue.Queue[tuple[int, str, Any]] = queue.Queue()
        for number, worker in enumerate(workers):
            worker.listen(number, inbox)
        _collect(workers, inbox, READY, None, timeout_s=PROBE_S + _GRACE_S, stop=stop)
        start = time.monotonic() + _HEAD_START_S
        for worker in workers:
            worker.send(start)
        limit = plan.total_s + plan.timeout_s + _GRACE_S
        samples = _collect(workers, inbox, RESULT, on_progress, timeout_s=limit, stop=stop)
    return _merge(target, requests, plan, start, samples)


def _split(target: LoadTarget, requests: Requests, plan: LoadPlan) -> list[Job]:
    """One job per process. Each gets every n-th arrival, so that the sum is the Poisson process."""
    arrivals = np.zeros(0)
    if plan.rate is not None:
        arrivals = poisson_arrivals(plan.rate, plan.total_s, plan.seed)
    count = len(arrivals) if plan.rate is not None else _CLOSED_DRAWS
    numbers = draw_requests(max(count, 1), len(requests.bodies), plan.seed)
    n = plan.processes
    return [
        Job(
            target=target,
            bodies=requests.bodies,
            plan=plan,
            arrivals=arrivals[k::n],
            # One number is drawn even without arrivals.
            numbers=numbers[k::n] if plan.clients or count > k else numbers[:0],
            clients=len(range(k, plan.clients, n)) if plan.clients else 0,
            max_in_flight=len(range(k, plan.max_in_flight, n)),
        )
        for k in range(n)
    ]


def _collect(
    workers: Sequence["_Worker"],
    inbox: "queue.Queue[tuple[int, str, Any]]",
    wanted: str,
    on_progress: Callable[[LoadProgress], None] | None,
    *,
    timeout_s: float,
    stop: threading.Event,
) -> list[Any]:
    """One message of the wanted kind from each worker, in their order."""
    found: dict[int, Any] = {}
    progress: dict[int, LoadProgress] = {}
    deadline = time.monotonic() + timeout_s
    while len(found) < len(workers):
        if stop.is_set():
            raise LoadError("the load was stopped before its end")
        if time.monotonic() > deadline:
            raise LoadError("a generator process does not respond; is the machine out of memory?")
        try:
            number, kind, value = inbox.get(timeout=_POLL_S)
        except queue.Empty:
            continue
        if kind == wanted:
            found[number] = value
        elif kind == PROGRESS:
            progress[number] = value
            if on_progress is not None:
                on_progress(_sum(list(progress.values())))
        elif kind == REFUSED:
            raise LoadError(value)
        else:
            raise LoadError(f"a generator process ended: {workers[number].log()}")
    return [found[number] for number in range(len(workers))]


def _sum(parts: Sequence[LoadProgress]) -> LoadProgress:
    return LoadProgress(
        max(part.elapsed_s for part in parts),
        parts[0].total_s,
        sum(part.sent for part in parts),
        sum(part.succeeded for part in parts),
        sum(part.failed for part in parts),
    )


def _merge(
    target: LoadTarget, requests: Requests, plan: LoadPlan, start: float, samples: Sequence[Samples]
) -> LoadResult:
    scheduled = np.concatenate([part.scheduled_s for part in samples])
    order = np.argsort(scheduled, kind="stable")
    reasons: dict[str, str] = {}
    for part in samples:
        reasons = {**part.reasons, **reasons}
    return LoadResult(
        target=target,
        plan=plan,
        source=requests.source,
        scheduled_s=scheduled[order],
        lag_ms=np.concatenate([part.lag_ms for part in samples])[order],
        latency_ms=np.concatenate([part.latency_ms for part in samples])[order],
        codes=np.array([code for part in samples for code in part.codes], dtype=str)[order],
        reasons=reasons,
        started=start,
        resends=sum(part.resends for part in samples),
        cpu_share=max(part.cpu_s / max(part.elapsed_s, 1e-9) for part in samples),
    )


class _Worker:
    """A generator process that ends with its context."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __enter__(self) -> "_Worker":
        # Its output must not reach the terminal, which shows a progress bar.
        self._log = tempfile.TemporaryFile("w+b")
        self._process = start(
            module_command("serving.benchmark.loadtest.worker", end_with_parent=signal.SIGKILL),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        return self

    def __exit__(self, *exception: object) -> None:
        stop(self._process, grace_s=0, by=signal.SIGKILL)
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        self._log.close()

    def listen(self, number: int, inbox: "queue.Queue[tuple[int, str, Any]]") -> None:
        """Sends the job and forwards all messages of the process to the inbox."""
        pipe: Any = self._process.stdout

        def read() -> None:
            try:
                while True:
                    kind, value = pickle.load(pipe)
                    inbox.put((number, kind, value))
                    if kind in (RESULT, REFUSED):
                        return
            except (EOFError, OSError, ValueError, pickle.UnpicklingError):
                inbox.put((number, "ended", None))

        threading.Thread(target=read, daemon=True).start()
        self.send(self._job)

    def send(self, value: Any) -> None:
        """Sends one message."""
        pipe: Any = self._process.stdin
        # The reader thread reports a process that has ended, with the end of its log.
        with contextlib.suppress(BrokenPipeError):
            pickle.dump(value, pipe)
            pipe.flush()

    def log(self) -> str:
        """The end of its stderr."""
        self._process.wait(timeout=5)
        return "\n".join(tail(self._log)) or exit_reason(self._process.returncode)
