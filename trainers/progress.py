"""How progress leaves a process that has no console: one JSON line an event on a pipe.

The command line starts training in a child process and hands it the pipe's descriptor in an
environment variable. Without one, nothing is reported.
"""

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainers.epoch import Progress, Report

#: Holds the number of an open, writable file descriptor.
EVENTS_FD = "SIGHTLINE_EVENTS_FD"


def emit(kind: str, **values: Any) -> None:
    """Writes one event, if anybody listens.

    A listener that went away is no reason to stop: what is written to a closed pipe is dropped.
    """
    descriptor = os.environ.get(EVENTS_FD)
    if not descriptor:
        return
    line = json.dumps({"event": kind, **values}, default=str) + "\n"
    try:
        os.write(int(descriptor), line.encode())
    except (BrokenPipeError, OSError):
        os.environ.pop(EVENTS_FD, None)


def reporter() -> "Report | None":
    """A `report` for `trainers.loop.fit` that emits `progress` events; None if nobody listens."""
    if EVENTS_FD not in os.environ:
        return None

    def report(progress: "Progress") -> None:
        emit("progress", **asdict(progress))

    return report
