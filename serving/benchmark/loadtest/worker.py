"""A generator process: reads a job from stdin, writes progress and samples to stdout, all pickled.

A separate process shares no interpreter lock with a server in the caller's process, and one that is
started by module name does not import the caller's main module.
"""

import asyncio
import gc
import os
import pickle
import signal
import sys
import time
from typing import Any, BinaryIO

from serving.benchmark.loadtest.callers import CONNECTION, DEADLINE, OK, Outcome, make_caller
from serving.benchmark.loadtest.generator import Generator, Job, precise_loop
from serving.benchmark.loadtest.plan import LoadTarget

READY = "ready"
REFUSED = "refused"
PROGRESS = "progress"
RESULT = "result"

#: Time limit of all first requests together; `serving.benchmark.loadtest.run` waits longer.
PROBE_S = 30.0
#: A busy server may accept load later; any other error would fail every request.
_BUSY = ("429", "503", "RESOURCE_EXHAUSTED")


def main() -> int:
    """Runs the job that `serving.benchmark.loadtest.run` writes to stdin."""
    # Ctrl-C is sent to the whole process group; the parent process ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Output of libraries must not be mixed with the messages.
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
        # One connection after the other, so that a missing server is reported once.
        first = int(job.numbers[0]) if len(job.numbers) else 0
        deadline = time.monotonic() + PROBE_S
        for _ in range(job.plan.channels if job.target.is_grpc else 1):
            response = await caller.call(first, deadline)
            if response.code != OK and response.code not in _BUSY:
                _write(out, REFUSED, _refusal(job.target, response))
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


def _refusal(target: LoadTarget, response: Outcome) -> str:
    if response.code in (CONNECTION, "UNAVAILABLE"):
        return (
            f"no server at {target.url}: {response.reason}; is `sightline serve` running there? "
            f"(REST is http://host:8501, gRPC is grpc://host:8500)"
        )
    if response.code == DEADLINE:
        return f"{target.url} returned no response on each connection within {PROBE_S:.0f} s"
    if response.code in ("404", "NOT_FOUND"):
        return f"{target.url} does not serve the model {target.model!r}: {response.reason}"
    return f"{target.url} refuses the first request with {response.code}: {response.reason}"


if __name__ == "__main__":
    sys.exit(main())
