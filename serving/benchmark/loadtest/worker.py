"""A generator process: a job in by stdin, progress and samples out by stdout, both pickled.

A process of its own shares no interpreter lock with a server in the caller's, and one that is
started by name asks nothing of the caller's main module.
"""

import asyncio
import gc
import os
import pickle
import signal
import sys
import time
from typing import Any, BinaryIO

from serving.benchmark.loadtest.callers import CONNECTION, DEADLINE, OK, Answer, make_caller
from serving.benchmark.loadtest.generator import Generator, Job, precise_loop
from serving.benchmark.loadtest.plan import Target

READY = "ready"
REFUSED = "refused"
PROGRESS = "progress"
RESULT = "result"

#: For all first requests together; `serving.benchmark.loadtest.run` waits longer than this.
PROBE_S = 30.0
#: A server that is busy now may take load later; anything else would fail every request.
_BUSY = ("429", "503", "RESOURCE_EXHAUSTED")


def main() -> int:
    """Runs the job on stdin; the caller is `serving.benchmark.loadtest.run`."""
    # Ctrl-C reaches the whole group; the caller ends this process in its own time.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whatever a library prints must not come between the messages.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    gc.set_threshold(50_000, 20, 20)
    job: Job = pickle.load(sys.stdin.buffer)
    loop = precise_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(_work(job, sys.stdin.buffer, out))
    finally:
        loop.close()
    return 0


async def _work(job: Job, stdin: BinaryIO, out: BinaryIO) -> None:
    caller = make_caller(job.target, job.bodies, job.plan)
    try:
        # One connection is tried before the others: a server that is not there is told once.
        first = int(job.numbers[0]) if len(job.numbers) else 0
        deadline = time.monotonic() + PROBE_S
        for _ in range(job.plan.channels if job.target.is_grpc else 1):
            answer = await caller.call(first, deadline)
            if answer.code != OK and answer.code not in _BUSY:
                _write(out, REFUSED, _why(job.target, answer))
                return
        _write(out, READY, None)
        start: float = pickle.load(stdin)
        generator = Generator(job, caller, lambda progress: _write(out, PROGRESS, progress))
        _write(out, RESULT, await generator.run(start))
    finally:
        await caller.close()


def _write(out: BinaryIO, kind: str, value: Any) -> None:
    pickle.dump((kind, value), out)
    out.flush()


def _why(target: Target, answer: Answer) -> str:
    if answer.code in (CONNECTION, "UNAVAILABLE"):
        return (
            f"no server at {target.url}: {answer.reason}; is `sightline serve` running there? "
            f"(REST is http://host:8501, gRPC is grpc://host:8500)"
        )
    if answer.code == DEADLINE:
        return f"{target.url} did not answer a request on each connection within {PROBE_S:.0f} s"
    if answer.code in ("404", "NOT_FOUND"):
        return f"{target.url} does not serve the model {target.model!r}: {answer.reason}"
    return f"{target.url} refuses the first request with {answer.code}: {answer.reason}"


if __name__ == "__main__":
    sys.exit(main())
