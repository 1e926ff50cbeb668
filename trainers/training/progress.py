"""Progress of a child process: one JSON line per event on a pipe.

The command line starts training in a child process and passes the descriptor of the pipe in an
environment variable. Without it, nothing is reported.
"""

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainers.training.epoch import Progress, Report

#: Holds the number of an open, writable file descriptor.
EVENTS_FD = "SIGHTLINE_EVENTS_FD"
#: Set for training within a pipeline that resumes a state of other code, as with
#: `--resume-anyway`. Not part of a node's configuration, which decides what is cached.
RESUME_ANYWAY = "SIGHTLINE_RESUME_ANYWAY"

# A line on a pipe is written at once up to 4 KiB.
_MESSAGE_CHARACTERS = 1500


def emit(kind: str, **values: Any) -> None:
    """Writes one event if there is a pipe.

    Events for a closed pipe are dropped: training continues without its observer.
    """
    descriptor = os.environ.get(EVENTS_FD)
    if not descriptor:
        return
    line = json.dumps({"event": kind, **values}, default=str) + "\n"
    try:
        os.write(int(descriptor), line.encode())
    except (BrokenPipeError, OSError):
        os.environ.pop(EVENTS_FD, None)


def announce(line: str) -> None:
    """Prints a line, and emits it for the console that shows the run."""
    print(line, flush=True)
    emit("announcement", line=line[:_MESSAGE_CHARACTERS])


def reporter() -> "Report | None":
    """A `report` for `trainers.loop.fit` that emits `progress` events; None without a pipe."""
    if EVENTS_FD not in os.environ:
        return None

    def report(progress: "Progress") -> None:
        emit("progress", **asdict(progress))

    return report
