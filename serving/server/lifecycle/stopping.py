"""From a signal to the end of the process: not ready, a lame-duck delay, drain, and out.

SIGTERM makes the server not ready at once; it serves on for the delay, so that load balancers see
it, and then lets requests under way end. SIGINT, a second signal and a parent that is gone leave
the delay out.
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

#: Seconds for writing logs and freeing models, after requests had theirs.
CLOSE_S = 10.0
#: Seconds for threads to end that no signal reaches, such as those in a decoder.
_LAST_S = 1.0


class StopSignals:
    """The server's signal handlers; `event` is set when it is to stop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, readiness: Readiness, lame_duck_s: float
    ) -> None:
        """Takes the signals over.

        Args:
          loop: that they are handled in.
          readiness: ends with the first of them.
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
    """Ends the process with `status`, whatever its threads are at.

    Python would wait for every thread of a pool: one that decodes an image, or runs a model without
    a time limit, keeps a server that was told to stop.
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
