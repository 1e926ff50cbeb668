"""Shutdown: from a signal to the end of the process.

SIGTERM makes the server not ready at once. It keeps serving for a delay, so that load balancers
notice, and then stops after the running requests. SIGINT, a second signal and the end of the parent
skip the delay.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from typing import NoReturn

from serving.server.observability import logs
from serving.server.observability.health import Readiness

_LOG = logging.getLogger(__name__)

#: Seconds for writing logs and freeing models, after the requests have ended.
CLOSE_S = 10.0
#: Seconds for threads that cannot be interrupted, such as those in a decoder.
_LAST_S = 1.0


class StopSignals:
    """The server's signal handlers, which set `event` when it must stop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, readiness: Readiness, lame_duck_s: float
    ) -> None:
        """Installs the handlers.

        Args:
          loop: runs the handlers.
          readiness: ends with the first signal.
          lame_duck_s: between SIGTERM and `event`.
        """
        self.event = asyncio.Event()
        self._loop = loop
        self._readiness = readiness
        self._lame_duck_s = lame_duck_s
        loop.add_signal_handler(signal.SIGTERM, self._terminate)
        loop.add_signal_handler(signal.SIGINT, self.now)

    def _terminate(self) -> None:
        if self._readiness.draining or self._lame_duck_s <= 0:
            self.now()
            return
        _LOG.info("SIGTERM: not ready from now on, stopping in %g s", self._lame_duck_s)
        self._readiness.drain()
        self._loop.call_later(self._lame_duck_s, self.event.set)

    def now(self) -> None:
        """Stops without the delay."""
        self._readiness.drain()
        self.event.set()


def leave(status: int) -> NoReturn:
    """Ends the process with `status`, even if threads are still running.

    Python would wait for every thread of a pool. A thread that decodes an image, or runs a model
    without a time limit, would delay the end of the server.
    """
    waiting = [
        thread
        for thread in threading.enumerate()
        if thread is not threading.main_thread() and not thread.daemon
    ]
    for thread in waiting:
        thread.join(_LAST_S / len(waiting))
    left = sum(thread.is_alive() for thread in waiting)
    if not left:
        sys.exit(status)
    with logs.configured("warning"):
        _LOG.warning("%d threads had not ended and were stopped", left)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
