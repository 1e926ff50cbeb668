"""Work besides responses: one thread with a queue that is bounded in number and in bytes.

`offer` never waits. Items that do not fit are refused, so that requests need no more time or memory
when this work is slow.
"""

import contextlib
import logging
import os
import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_LOG = logging.getLogger(__name__)
_IDLE_S = 0.5

Item = TypeVar("Item")


class SideThread(Generic[Item]):
    """Runs `work` on one item at a time."""

    def __init__(
        self,
        name: str,
        work: Callable[[Item], None],
        *,
        idle: Callable[[], None] | None = None,
        max_waiting: int = 1024,
        max_bytes: int = 64 * 2**20,
        niceness: int = 0,
    ) -> None:
        """Starts the thread.

        Args:
          name: of the thread.
          work: its exceptions are logged.
          idle: called after every item, and a few times a second.
          max_waiting: items that may wait.
          max_bytes: memory of the waiting items.
          niceness: of this thread alone, 0 to 19, where the system supports it.
        """
        self._name = name
        self._work = work
        self._idle = idle
        self._niceness = niceness
        self._max_bytes = max_bytes
        self._bytes = 0
        self._lock = threading.Lock()
        self._stopping = False
        self._queue: queue.Queue[tuple[Item, int] | None] = queue.Queue(max_waiting)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def offer(self, item: Item, size: int) -> bool:
        """Queues an item of that many bytes; False when it does not fit."""
        with self._lock:
            if self._stopping or self._bytes + size > self._max_bytes:
                return False
            try:
                self._queue.put_nowait((item, size))
            except queue.Full:
                return False
            self._bytes += size
        return True

    def close(self, *, drain: bool) -> None:
        """Ends the thread after its current item; with `drain`, after all waiting items."""
        with self._lock:
            self._stopping = True
        if not drain:
            with contextlib.suppress(queue.Empty):
                while True:
                    self._queue.get_nowait()
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        if self._niceness and hasattr(os, "setpriority"):
            # On Linux the id stands for this thread alone.
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._niceness)
        while True:
            try:
                entry = self._queue.get(timeout=_IDLE_S)
            except queue.Empty:
                self._guard(self._idle)
                continue
            if entry is None:
                return
            item, size = entry
            self._guard(self._work, item)
            with self._lock:
                self._bytes -= size
            # Otherwise the item would stay in memory until the next one.
            del entry, item
            self._guard(self._idle)

    def _guard(self, work: Callable[..., None] | None, *arguments: Item) -> None:
        try:
            if work is not None:
                work(*arguments)
        except Exception:
            _LOG.exception("%s", self._name)
