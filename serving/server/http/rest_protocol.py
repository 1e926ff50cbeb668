"""uvicorn's HTTP connection with limits on headers, idle time and the number of connections.

uvicorn itself reads headers of any size and keeps idle connections forever.
"""

import asyncio
import time
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.limits import Limits

#: A connection that has been idle for longer may be closed for a new one.
_MIN_IDLE_S = 1.0
#: Maximum bytes of chunked framing: per byte of the body, and in total.
_FRAMING_FACTOR = 8
_MOST_FRAMING = 4 * 2**20

_STATUS = {
    408: b"408 Request Timeout",
    400: b"400 Bad Request",
    431: b"431 Request Header Fields Too Large",
    503: b"503 Service Unavailable",
}


class _TooLargeError(Exception):
    """Headers exceed the limit; any exception stops httptools."""


class BoundedProtocol(HttpToolsProtocol):
    """A connection; `protocol_class` creates the class with its limits."""

    limits: Limits

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accepts a new connection; closes an idle one where there are too many."""
        super().connection_made(transport)
        self._in_head, self._refused, self._too_large = True, False, False
        self._head = self._unfinished = self._body = self._beside = self._requests = 0
        self._stall: asyncio.TimerHandle | None = None
        self._idle_since = time.monotonic()
        self._idle: asyncio.TimerHandle | None = None
        self._wait_for_request()
        if len(self.connections) > self.limits.connections and not self._evict_another():
            self._refuse(503, b"too many connections; try again later")

    def _evict_another(self) -> bool:
        others = [c for c in self.connections if isinstance(c, BoundedProtocol) and c is not self]
        idle = [other for other in others if other._idle is not None]
        oldest = min(idle, key=lambda other: other._idle_since, default=None)
        if oldest is None or time.monotonic() - oldest._idle_since < _MIN_IDLE_S:
            return False
        oldest._close()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancels the timers."""
        self._stop_waiting()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parses bytes, and counts those outside a body."""
        if self._refused:
            return
        in_head, body, requests = self._in_head, self._body, self._requests
        super().data_received(data)
        if requests != self._requests:
            pass  # The data holds whole headers, which were counted one by one.
        elif self._in_head:
            # The data in which headers begin is not counted: it may end another request.
            self._unfinished += len(data) if in_head else 0
        else:
            self._beside += len(data) - (self._body - body)
        framing = min(_FRAMING_FACTOR * self._body, _MOST_FRAMING)
        limit = self.limits.max_header_bytes
        if self._unfinished > limit or self._beside > limit + framing:
            self.send_431()

    def on_message_begin(self) -> None:
        """Resets the counters."""
        super().on_message_begin()
        self._in_head, self._head, self._body = True, 0, 0

    def on_url(self, url: bytes) -> None:
        """Counts the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Counts a header or trailer."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > self.limits.max_header_bytes:
            self._too_large = True
            raise _TooLargeError

    def on_headers_complete(self) -> None:
        """Begins the request, which has its own deadline."""
        self._in_head = False
        self._requests += 1
        self._unfinished = self._beside = 0
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Counts the bytes of the body."""
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Ends the request; the next bytes belong to another one."""
        super().on_message_complete()
        self._in_head = True
        self._unfinished = 0

    def on_response_complete(self) -> None:
        """Waits for the next request."""
        super().on_response_complete()
        # Replaces uvicorn's timer, which any byte would stop.
        self._unset_keepalive_if_required()
        if not self.pipeline and self._in_head and not self.transport.is_closing():
            self._wait_for_request()

    def pause_writing(self) -> None:
        """Starts a timer, as the client does not read its response."""
        super().pause_writing()
        if self._stall is None:
            wait = self.limits.idle_timeout_s
            self._stall = self.loop.call_later(wait, self.transport.abort)

    def resume_writing(self) -> None:
        """Stops the timer, as the client reads again."""
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        if self.flow is not None:
            super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuses invalid HTTP, or headers beyond the limit."""
        if self._too_large:
            self.send_431()
        elif not self._refused:
            self._refuse(400, msg.encode("ascii", "replace"))

    def send_431(self) -> None:
        """Refuses headers beyond the limit."""
        limit = self.limits.max_header_bytes
        self._refuse(431, b"the headers have more than %d bytes (--max_header_bytes)" % limit)

    def _should_upgrade(self) -> bool:
        return False

    def _unsupported_upgrade_warning(self) -> None:
        """Logs nothing: the response holds the reason."""

    def _wait_for_request(self) -> None:
        self._stop_waiting()
        self._idle_since = time.monotonic()
        self._idle = self.loop.call_later(self.limits.idle_timeout_s, self._on_idle)

    def _stop_waiting(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _on_idle(self) -> None:
        self._idle = None
        if self._unfinished:
            self._refuse(408, b"the request's headers did not arrive in time")
        else:
            self._close()

    def _refuse(self, status: int, words: bytes) -> None:
        self._refused = True
        self._stop_waiting()
        cycle = self.cycle
        if cycle is None or not cycle.response_started or cycle.response_complete:
            head = b"HTTP/1.1 %s\r\ncontent-type: text/plain; charset=utf-8\r\n" % _STATUS[status]
            size = b"content-length: %d\r\nconnection: close\r\n\r\n" % len(words)
            self.transport.write(head + size + words)
        self.transport.close()

    def _close(self) -> None:
        self._stop_waiting()
        self.transport.close()


def protocol_class(limits: Limits) -> type[Any]:
    """The protocol with these limits, for `uvicorn.Config(http=...)`."""
    return type("LimitedProtocol", (BoundedProtocol,), {"limits": limits})
