"""Messages that gRPC calls bring: their bytes in memory, and which calls give way to others.

Python's gRPC gives a call its thread before its message has arrived, and shows nothing of the
message until it is whole. So whole messages are counted exactly; a call whose message is late gives
way when others wait for its thread, or when the process grows while messages arrive.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from serving.limits import DEFAULT_LIMITS
from serving.server.errors import OverloadedError
from serving.server.lifecycle.background import trim_memory

_LOG = logging.getLogger(__name__)

#: Between two looks at the messages that are arriving.
_TICK_S = 0.1
#: A message that has been arriving for longer may give way.
SLOW_S = 1.0
#: The same where as many calls wait as there are threads: what small messages need is here by then.
_CROWDED_S = 0.1
#: A message must be there in that time, as a REST body must.
MESSAGE_TIMEOUT_S = 60.0


@dataclass(frozen=True, eq=False)
class _Arrival:
    """A call whose message has not arrived: its context, its threads, and since when."""

    context: Any
    threads: Any
    began: float


def resident_bytes() -> int:
    """Memory of this process; 0 where the system has no `/proc`."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


class Messages:
    """The messages of all calls of a server; every method may be called from any thread."""

    def __init__(
        self,
        limit: int = DEFAULT_LIMITS.max_body_bytes_in_flight,
        *,
        resident: Callable[[], int] = resident_bytes,
    ) -> None:
        """Takes the limit in bytes, and what measures the process's memory in bytes."""
        self._limit = limit
        self._resident = resident
        self._lock = threading.Lock()
        self._used = 0
        self._arriving: set[_Arrival] = set()
        # Resident bytes before messages arrived slowly.
        self._before = 0
        self._has_grown = False
        self._closed = threading.Event()
        self._watcher: threading.Thread | None = None

    def receive(self, requests: Iterator[bytes], context: Any, threads: Any) -> bytes | None:
        """The message of a call, which is to be given back; None when the client sent none.

        Args:
          requests: of gRPC, which waits for them in this thread.
          context: the call's.
          threads: the pool that this thread is of; `waiting` calls have none of its `most`.

        Raises:
          OverloadedError: the messages of all calls take all memory for them.
          grpc.RpcError: the call is over.
        """
        arrival = _Arrival(context, threads, time.monotonic())
        self._arriving.add(arrival)
        if self._watcher is None:
            self._start()
        try:
            data = next(requests, None)
        finally:
            self._arriving.discard(arrival)
        if data is not None:
            self._take(len(data))
        return data

    def _take(self, size: int) -> None:
        with self._lock:
            if self._used + size <= self._limit:
                self._used += size
                return
        raise OverloadedError(
            "RESOURCE_EXHAUSTED",
            f"a message of {size} bytes: those of the calls under way may take {self._limit} bytes "
            "together (--max_body_bytes_in_flight); try again later",
            1,
        )

    def give_back(self, size: int) -> None:
        """Ends a call whose message had so many bytes."""
        with self._lock:
            self._used -= size

    def close(self) -> None:
        """Ends the thread that watches."""
        self._closed.set()

    def _start(self) -> None:
        with self._lock:
            if self._watcher is not None:
                return
            self._watcher = threading.Thread(target=self._watch, name="grpc-messages", daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        while not self._closed.wait(_TICK_S):
            self._look()

    def _look(self) -> None:
        """Cancels the calls that have to give way."""
        now = time.monotonic()
        arriving = sorted(self._arriving.copy(), key=lambda arrival: arrival.began)
        for threads in {arrival.threads for arrival in arriving}:
            waiting = threads.waiting
            patience = SLOW_S if waiting < threads.most else _CROWDED_S
            held = [a for a in arriving if a.threads is threads and now - a.began > patience]
            _cancel(held[:waiting], "kept other calls waiting for a thread")
        late = [a for a in arriving if now - a.began > MESSAGE_TIMEOUT_S]
        _cancel(late, f"did not arrive within {MESSAGE_TIMEOUT_S:g} s")
        slow = [a for a in arriving if now - a.began > SLOW_S]
        if not slow:
            if self._has_grown:
                trim_memory()
                self._has_grown = False
            self._before = self._resident()
        elif self._resident() - self._before > self._limit:
            self._has_grown = True
            _cancel(
                slow[: (len(slow) + 1) // 2],
                "were arriving while the process grew by more than "
                f"{self._limit} bytes (--max_body_bytes_in_flight)",
            )


def _cancel(arrivals: list[_Arrival], why: str) -> None:
    if arrivals:
        _LOG.warning("gRPC calls are cancelled, as their messages %s: %d", why, len(arrivals))
    for arrival in arrivals:
        arrival.context.cancel()
