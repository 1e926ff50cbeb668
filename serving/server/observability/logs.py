"""The server's log: lines with a time on stderr, with a rate limit."""

import asyncio
import contextlib
import errno
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

LEVELS = ("debug", "info", "warning", "error")
_FORM = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s"
_TIME = "%Y-%m-%dT%H:%M:%S"
#: Lines per line of code in that many seconds.
_MOST_LINES = 10
_SECONDS = 10.0
_GRPC_MESSAGES = "grpc._common"
_FILTER = Path(__file__).with_name("stderr_filter.py")


class RateLimit(logging.Filter):
    """Limits the lines per line of code, and reports how many were dropped.

    A record with `lifecycle` set is never dropped.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Takes a clock in seconds."""
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
    """Writes to the present `sys.stderr`, which `captured_native_lines` replaces."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        if record.name == _GRPC_MESSAGES:
            # Caused by a damaged message of a client: one line without a trace.
            record.exc_info = record.exc_text = None
        super().emit(record)


@contextlib.contextmanager
def configured(level: str) -> Iterator[None]:
    """Writes the log to stderr: the server's records from `level` on, warnings of other packages.

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
    """Filters what C libraries write to stderr with `stderr_filter.py`, in a child process.

    libjpeg writes a line for each damaged image. The child process also writes the last lines of a
    server that aborts.
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
        # This closes the last descriptor of the pipe, and the filter ends.
        os.dup2(real, 2)
        os.close(real)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(5)


_LOG = logging.getLogger(__name__)
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
#: Seconds between two lines about rejected connections.
_EVERY_S = 10.0


class AcceptErrors:
    """An exception handler for `loop.set_exception_handler`.

    At the limit of descriptors asyncio reports every connection that it cannot accept, thousands a
    second; this handler logs one line every ten seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Takes a clock in seconds."""
        self._clock = clock
        self._logged_at = -_EVERY_S
        self._count = 0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Reports connections that cannot be accepted; passes other errors to asyncio."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in _NO_DESCRIPTORS:
            loop.default_exception_handler(context)
            return
        self._count += 1
        if self._clock() - self._logged_at >= _EVERY_S:
            _LOG.error(
                "cannot accept connections: %s (%d times); raise the limit of open files, or lower "
                "--max_connections",
                error.strerror,
                self._count,
            )
            self._logged_at, self._count = self._clock(), 0
