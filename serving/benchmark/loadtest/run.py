"""Runs a plan in generator processes and gathers what they saw."""

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
from serving.benchmark.loadtest.generator import Job, Progress, Samples
from serving.benchmark.loadtest.plan import LoadError, Plan, Target, draw_requests, poisson_arrivals
from serving.benchmark.loadtest.result import LoadResult
from serving.benchmark.loadtest.worker import PROBE_S, PROGRESS, READY, REFUSED, RESULT

#: Until the processes have read the start time, which must lie ahead of them all.
_HEAD_START_S = 0.1
#: Beyond the last deadline, for a process to hand over its samples.
_GRACE_S = 60.0
#: Between two looks at whether the run is to be stopped.
_LOOK_S = 0.25
#: Of a closed loop, whose number of requests nobody knows beforehand.
_CLOSED_DRAWS = 10_000


def run_load(
    target: Target,
    requests: Requests,
    plan: Plan,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
) -> LoadResult:
    """Sends the load and waits for its last answer.

    Args:
      target: the server and the model.
      requests: made for this target.
      plan: see there; arrivals and requests are drawn from its seed before anything is sent.
      on_progress: called a few times a second, from the caller's thread.
      stop: when another thread sets it, the run ends without a result.

    Raises:
      LoadError: no server, an unknown model, a first request that is refused, a generator process
        that broke, or `stop`; the message says which.
    """
    stop = stop or threading.Event()
    jobs = _split(target, requests, plan)
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(_Worker(job)) for job in jobs]
        inbox: queue.Queue[tuple[int, str, Any]] = queue.Queue()
        for number, worker in enumerate(workers):
            worker.listen(number, inbox)
        _gather(workers, inbox, READY, None, timeout_s=PROBE_S + _GRACE_S, stop=stop)
        start = time.monotonic() + _HEAD_START_S
        for worker in workers:
            worker.send(start)
        limit = plan.total_s + plan.timeout_s + _GRACE_S
        samples = _gather(workers, inbox, RESULT, on_progress, timeout_s=limit, stop=stop)
    return _merge(target, requests, plan, start, samples)


def _split(target: Target, requests: Requests, plan: Plan) -> list[Job]:
    """One job a process. Every n-th arrival to each keeps their sum exactly the Poisson process."""
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
            # One number is drawn even when nothing is due.
            numbers=numbers[k::n] if plan.clients or count > k else numbers[:0],
            clients=len(range(k, plan.clients, n)) if plan.clients else 0,
            max_in_flight=len(range(k, plan.max_in_flight, n)),
        )
        for k in range(n)
    ]


def _gather(
    workers: Sequence["_Worker"],
    inbox: "queue.Queue[tuple[int, str, Any]]",
    wanted: str,
    on_progress: Callable[[Progress], None] | None,
    *,
    timeout_s: float,
    stop: threading.Event,
) -> list[Any]:
    """One message of the wanted kind from each worker, in their order."""
    found: dict[int, Any] = {}
    progress: dict[int, Progress] = {}
    deadline = time.monotonic() + timeout_s
    while len(found) < len(workers):
        if stop.is_set():
            raise LoadError("the load was stopped before its end")
        if time.monotonic() > deadline:
            raise LoadError("a generator process does not answer; is the machine out of memory?")
        try:
            number, kind, value = inbox.get(timeout=_LOOK_S)
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


def _sum(parts: Sequence[Progress]) -> Progress:
    return Progress(
        max(part.elapsed_s for part in parts),
        parts[0].total_s,
        sum(part.sent for part in parts),
        sum(part.answered for part in parts),
        sum(part.failed for part in parts),
    )


def _merge(
    target: Target, requests: Requests, plan: Plan, start: float, samples: Sequence[Samples]
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
    """A generator process, ended with the `with`."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __enter__(self) -> "_Worker":
        # What it prints must not reach the terminal, where a progress bar is drawn.
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
        """Hands over the job; its messages go to the inbox from then on."""
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
        """Writes one message."""
        pipe: Any = self._process.stdin
        # A process that ended is told by its reader, with the end of its log.
        with contextlib.suppress(BrokenPipeError):
            pickle.dump(value, pipe)
            pipe.flush()

    def log(self) -> str:
        """The end of what it wrote to stderr."""
        self._process.wait(timeout=5)
        return "\n".join(tail(self._log)) or exit_reason(self._process.returncode)
