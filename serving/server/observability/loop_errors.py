"""What the event loop does with faults that belong to no request: a line, and not a traceback each.

At the limit of descriptors asyncio reports every connection that it cannot accept, thousands a
second.
"""

import asyncio
import errno
import logging
import time
from collections.abc import Callable
from typing import Any

_LOG = logging.getLogger(__name__)
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
#: Seconds between two lines that say the same.
_EVERY_S = 10.0


class AcceptErrors:
    """An exception handler for `loop.set_exception_handler`."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Takes what measures seconds."""
        self._clock = clock
        self._said_at = -_EVERY_S
        self._count = 0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Says once in a while that no connection can be accepted; leaves the rest to asyncio."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in _NO_DESCRIPTORS:
            loop.default_exception_handler(context)
            return
        self._count += 1
        if self._clock() - self._said_at >= _EVERY_S:
            _LOG.error(
                "cannot accept connections: %s (%d times); raise the limit of open files, or lower "
                "--max_connections",
                error.strerror,
                self._count,
            )
            self._said_at, self._count = self._clock(), 0
