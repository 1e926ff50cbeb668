"""One REST connection: uvicorn's, with limits on headers and time, and room for those that ask.

uvicorn reads headers without end and keeps a connection that sends nothing for ever.
"""

import asyncio
import time
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.limits import Limits

#: A connection that was made this long ago may give way to a new one while it is idle.
_MIN_IDLE_S = 1.0
#: What chunked framing may take beside the body: for each byte of it, and at most.
_FRAMING_FACTOR = 8
_MOST_FRAMING = 4 * 2**20

_STATUS = {
    408: b"408 Request Timeout",
    400: b"400 Bad Request",
    431: b"431 Request Header Fields Too Large",
    503: b"503 Service Unavailable",
}


class _TooLargeError(Exception):
    """Headers beyond the limit; httptools stops at any exception."""


class BoundedProtocol(HttpToolsProtocol):
    """A connection; made by `protocol_class`, which sets the limits."""

    limits: Limits

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes a new connection, at the cost of an idle one where there are too many."""
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
        """Lets go of the timers."""
        self._stop_waiting()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Reads on, and counts what is not a body."""
        if self._refused:
            return
        in_head, body, requests = self._in_head, self._body, self._requests
        super().data_received(data)
        if requests != self._requests:
            pass  # It holds whole headers, which were counted one by one.
        elif self._in_head:
            # The piece in which headers begin is not counted: it may end another request.
            self._unfinished += len(data) if in_head else 0
        else:
            self._beside += len(data) - (self._body - body)
        framing = min(_FRAMING_FACTOR * self._body, _MOST_FRAMING)
        limit = self.limits.max_header_bytes
        if self._unfinished > limit or self._beside > limit + framing:
            self.send_431()

    def on_message_begin(self) -> None:
        """Starts to count."""
        super().on_message_begin()
        self._in_head, self._head, self._body = True, 0, 0

    def on_url(self, url: bytes) -> None:
        """Counts the request's line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Counts a header, or a trailer."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > self.limits.max_header_bytes:
            self._too_large = True
            raise _TooLargeError

    def on_headers_complete(self) -> None:
        """The request begins; from here on its own deadline holds."""
        self._in_head = False
        self._requests += 1
        self._unfinished = self._beside = 0
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Counts the body's bytes."""
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The next bytes are of another request."""
        super().on_message_complete()
        self._in_head = True
        self._unfinished = 0

    def on_response_complete(self) -> None:
        """Waits for the next request."""
        super().on_response_complete()
        # One timer is enough: uvicorn's own would end at any byte.
        self._unset_keepalive_if_required()
        if not self.pipeline and self._in_head and not self.transport.is_closing():
            self._wait_for_request()

    def pause_writing(self) -> None:
        """The client does not read: it has so long for the next part of its response."""
        super().pause_writing()
        if self._stall is None:
            wait = self.limits.idle_timeout_s
            self._stall = self.loop.call_later(wait, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        if self.flow is not None:
            super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuses what is no HTTP, or has too long headers."""
        if self._too_large:
            self.send_431()
        elif not self._refused:
            self._refuse(400, msg.encode("ascii", "replace"))

    def send_431(self) -> None:
        """Refuses too long headers."""
        limit = self.limits.max_header_bytes
        self._refuse(431, b"the headers have more than %d bytes (--max_header_bytes)" % limit)

    def _should_upgrade(self) -> bool:
        return False

    def _unsupported_upgrade_warning(self) -> None:
        """The response says it; a line in the log for every such request would not help."""

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
    """The protocol with these limits, as `uvicorn.Config(http=...)` takes it."""
    return type("LimitedProtocol", (BoundedProtocol,), {"limits": limits})
