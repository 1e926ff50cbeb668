"""Starts the child processes of a study, reads their progress, and ends them at the deadline."""

import json
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeAlias

from core import processes
from core.files import write_json
from tfx_pipeline.study.sets import StudyError

_GRACE_S = 5.0
_TICK_S = 0.5

Event = dict[str, Any]
#: Lines of a child's output, then None.
Lines: TypeAlias = queue.SimpleQueue[bytes | None]


class OutOfTimeError(StudyError):
    """A step was ended at its deadline; what it saved is kept."""


def run_step(
    kind: str,
    arguments: dict[str, Any],
    folder: Path,
    *,
    name: str,
    seconds: float,
    on_event: Callable[[Event], None],
) -> float:
    """Runs one job of `tfx_pipeline.study.worker` in a child process.

    Args:
      kind: of the job.
      arguments: of the job.
      folder: of the study; the job and its log are written to `steps` in it.
      name: of the step, for its files and messages.
      seconds: after which the child is ended.
      on_event: called with each line of progress, and with an event `tick` twice a second.

    Returns:
      The seconds it took.

    Raises:
      OutOfTimeError: it was ended after `seconds`.
      StudyError: it failed; has the last lines of its log.
    """
    steps = folder / "steps"
    steps.mkdir(parents=True, exist_ok=True)
    job, log = steps / f"{name}.json", steps / f"{name}.log"
    write_json(job, {"kind": kind, **arguments})
    command = processes.module_command(
        "tfx_pipeline.study.worker",
        str(job),
        options=("-W", "ignore"),
        end_with_parent=signal.SIGTERM,
    )
    began = time.monotonic()
    with log.open("wb") as errors:
        child = processes.start(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            changes={"TF_CPP_MIN_LOG_LEVEL": "3", "TF_USE_LEGACY_KERAS": "1"},
        )
        lines: Lines = queue.SimpleQueue()
        reader = threading.Thread(target=_read, args=(_output(child), lines), daemon=True)
        reader.start()
        try:
            in_time = _followed(lines, began + seconds, on_event)
            if in_time:
                child.wait()
        finally:
            processes.stop(child, grace_s=_GRACE_S)
            reader.join(_GRACE_S)
    if not in_time:
        raise OutOfTimeError(f"{name} was ended after {seconds:.0f} s, at the end of its time")
    if child.returncode:
        reason = processes.exit_reason(child.returncode)
        end = "\n".join(processes.tail(log))
        raise StudyError(
            f"the step {name} {reason}; the same command resumes the study. The end of {log}:\n"
            f"{end}"
        )
    return time.monotonic() - began


def _output(child: "subprocess.Popen[bytes]") -> IO[bytes]:
    if child.stdout is None:
        raise StudyError("the output of a child process is not connected")
    return child.stdout


def _followed(lines: Lines, deadline: float, on_event: Callable[[Event], None]) -> bool:
    """Passes on the child's events until it ends; False at the deadline."""
    while True:
        if time.monotonic() > deadline:
            return False
        try:
            line = lines.get(timeout=_TICK_S)
        except queue.Empty:
            on_event({"event": "tick"})
            continue
        if line is None:
            return True
        if event := _parsed(line):
            on_event(event)


def _read(source: IO[bytes], lines: Lines) -> None:
    with source:
        for line in source:
            lines.put(line)
    lines.put(None)


def _parsed(line: bytes) -> Event | None:
    """The event of a line; None for other output of a library."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "event" in found else None
