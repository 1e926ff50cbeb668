"""The server's log: lines with a time on stderr, and not the same one without end."""

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

LEVELS = ("debug", "info", "warning", "error")
_FORM = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s"
_TIME = "%Y-%m-%dT%H:%M:%S"
#: Lines of one place in the code in that many seconds.
_MOST_LINES = 10
_SECONDS = 10.0
_GRPC_MESSAGES = "grpc._common"
_FILTER = Path(__file__).with_name("stderr_filter.py")


class RateLimit(logging.Filter):
    """Leaves out what one place in the code says too often, and says how often it did.

    A record with `lifecycle` set is never left out.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Takes what measures seconds."""
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written."""
        if getattr(record, "lifecycle", False):
            return True
        now, key = self._clock(), (record.pathname, record.lineno)
        with self._lock:
            began, count = self._seen.get(key, (now, 0))
            if now - began < _SECONDS:
                self._seen[key] = began, count + 1
                return count < _MOST_LINES
            self._seen[key] = now, 1
        if count > _MOST_LINES:
            record.msg = f"{record.getMessage()} (and {count - _MOST_LINES} more like it)"
            record.args = ()
        return True


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what is `sys.stderr` by then, as `captured_native_lines` replaces it."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        if record.name == _GRPC_MESSAGES:
            # A message that a client has damaged is no fault of ours: a line, and no trace.
            record.exc_info = record.exc_text = None
        super().emit(record)


@contextlib.contextmanager
def configured(level: str) -> Iterator[None]:
    """Writes the log to stderr in its block: the server's from `level` on, warnings of others.

    Args:
      level: one of `LEVELS`.
    """
    handler = _Stderr()
    formatter = logging.Formatter(_FORM, _TIME)
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    handler.addFilter(RateLimit())
    chosen = logging.getLevelName(level.upper())
    root, ours = logging.getLogger(), logging.getLogger("serving")
    handlers, levels = root.handlers, (root.level, ours.level)
    root.handlers = [handler]
    root.setLevel(max(chosen, logging.WARNING))
    ours.setLevel(chosen)
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(levels[0])
        ours.setLevel(levels[1])


@contextlib.contextmanager
def captured_native_lines() -> Iterator[None]:
    """Lets what C libraries write to stderr go through `stderr_filter.py`, a process of its own.

    libjpeg writes a line for each damaged image, whoever sends it. Another process also writes the
    last words of one that is aborted.
    """
    real = os.dup(2)
    command = [sys.executable, "-I", "-S", str(_FILTER)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=real, start_new_session=True)
    stderr, pipe = sys.stderr, child.stdin
    own = os.fdopen(os.dup(real), "w", buffering=1, errors="backslashreplace")
    sys.stderr = own
    if pipe is not None:
        os.dup2(pipe.fileno(), 2)
        pipe.close()
    try:
        yield
    finally:
        sys.stderr = stderr
        own.close()
        # The last descriptor of the pipe: the filter ends.
        os.dup2(real, 2)
        os.close(real)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(5)
