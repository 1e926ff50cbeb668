"""The ASGI application around the REST API: limits on bodies, and clients that disconnect."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from serving.limits import DEFAULT_LIMITS
from serving.server.http import json_encode
from serving.server.http.web import JSON, Handler, Response

#: A body must arrive within this time, as it occupies memory.
_BODY_TIMEOUT_S = 60.0
#: Python itself refuses to parse thousands of digits.
_MOST_DIGITS = 20
#: A request of up to this many times the limit is read to its end before it is refused.
_DRAIN_FACTOR = 4
#: Before a request's client is watched: a task for each would cost more than a fast response.
_PATIENCE_S = 0.02
#: Seconds without a byte after which an unfinished body may be dropped for another.
STALLED_S = 1.0

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class BodyBudget:
    """The bytes of all REST bodies together; for the event loop only.

    When the budget is used up, the body that has made no progress for longest is dropped: clients
    that send a part and stop cannot block others.
    """

    def __init__(self, limit: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Takes the limit in bytes, and a clock in seconds."""
        self._limit = limit
        self._clock = clock
        self._used = 0
        self._unfinished: dict[BodyShare, float] = {}

    @property
    def used(self) -> int:
        """The bytes of all bodies now."""
        return self._used

    def open(self, drop: Callable[[], None]) -> "BodyShare":
        """The share of one body; `drop` is called when it is dropped for another."""
        share = BodyShare(self, drop)
        self._unfinished[share] = self._clock()
        return share

    def _take(self, share: "BodyShare", size: int) -> bool:
        now = self._clock()
        if share in self._unfinished:
            self._unfinished[share] = now
        while self._used + size > self._limit:
            stalled = min(
                (other for other in self._unfinished if other is not share and other.size),
                key=self._unfinished.__getitem__,
                default=None,
            )
            if stalled is None or now - self._unfinished[stalled] < STALLED_S:
                return False
            stalled.close()
            stalled.drop()
        self._used += size
        return True

    def _release(self, share: "BodyShare", size: int) -> None:
        self._used -= size
        self._unfinished.pop(share, None)


class BodyShare:
    """The bytes of one body.

    Attributes:
      size: bytes so far.
      drop: see `BodyBudget.open`.
    """

    def __init__(self, budget: BodyBudget, drop: Callable[[], None]) -> None:
        self.size = 0
        self.drop = drop
        self._budget = budget

    def take(self, size: int) -> bool:
        """Adds bytes; False when the budget has none left."""
        taken = self._budget._take(self, size)
        self.size += size if taken else 0
        return taken

    def finish(self) -> None:
        """Marks the body as complete, so that it is not dropped."""
        self._budget._unfinished.pop(self, None)

    def close(self) -> None:
        """Releases all bytes; a second call has no effect."""
        size, self.size = self.size, 0
        self._budget._release(self, size)


class RestApp:
    """The ASGI application: reads a request within its limits and stops when the client leaves."""

    def __init__(
        self,
        handle: Handler,
        max_request_bytes: int,
        *,
        body_timeout_s: float = _BODY_TIMEOUT_S,
        max_bytes_in_flight: int = DEFAULT_LIMITS.max_body_bytes_in_flight,
    ) -> None:
        """Creates the application.

        Args:
          handle: handles complete requests.
          max_request_bytes: of a body; larger ones are refused.
          body_timeout_s: from a request's headers to the end of its body.
          max_bytes_in_flight: of the bodies of all requests without a response.
        """
        self._handle = handle
        self._max_bytes = max_request_bytes
        self._body_timeout_s = body_timeout_s
        # One whole request must fit, even where its limit is higher.
        self._budget = BodyBudget(max(max_bytes_in_flight, max_request_bytes))

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): v.decode("latin-1") for name, v in scope["headers"]}
        path = scope["raw_path"].decode("latin-1").partition("?")[0]
        method = scope["method"]
        if headers.get("upgrade", "").lower() == "websocket":
            await _send(send, _final(400, "this server has no WebSocket; send a plain request"))
            return
        slow = _Interrupt(self._body_timeout_s)
        share = self._budget.open(slow.interrupt)
        try:
            try:
                with slow:
                    body = await self._read(headers, receive, share)
            except asyncio.CancelledError:
                if not slow.happened:
                    raise
                await _send(send, self._too_slow() if slow.timed_out else _too_many())
                return
            if isinstance(body, Response):
                await _send(send, body)
                return
            share.finish()
            # When the client has left, this raises CancelledError, as when the server stops.
            with contextlib.suppress(asyncio.CancelledError):
                with _Interrupt(_PATIENCE_S, receive if method == "POST" else None):
                    response = await self._handle(method, path, headers, body)
                await _send(send, response)
        finally:
            share.close()

    async def _read(
        self, headers: Mapping[str, str], receive: Receive, share: BodyShare
    ) -> bytes | Response:
        """The body, or the refusal of one beyond the limits.

        Bytes beyond the limit are read and dropped for a while: a client that is still sending when
        the connection closes would see a broken pipe and not the reason.
        """
        drained = _DRAIN_FACTOR * self._max_bytes
        length = headers.get("content-length", "0")
        if not length.isdigit() or len(length) > _MOST_DIGITS or int(length) > drained:
            return self._too_large()
        pieces: list[bytes] = []
        size = 0
        while size <= drained:
            message = await receive()
            if message["type"] == "http.disconnect":
                return b""
            piece = message.get("body", b"")
            size += len(piece)
            if size > self._max_bytes:
                pieces.clear()
                share.close()
            elif share.take(len(piece)):
                pieces.append(piece)
            else:
                return _too_many()
            if not message.get("more_body", False):
                return b"".join(pieces) if size <= self._max_bytes else self._too_large()
        return self._too_large()

    def _too_large(self) -> Response:
        return _final(
            413, f"the request is larger than {self._max_bytes} bytes; send fewer images at a time"
        )

    def _too_slow(self) -> Response:
        words = f"the request's body was not there within {self._body_timeout_s:g} s"
        return _final(408, f"{words}; send fewer images at a time")


def _too_many() -> Response:
    words = "the requests under way take all memory for bodies; try again later"
    return _final(503, words, {"Retry-After": "1"})


def _final(status: int, words: str, headers: Mapping[str, str] | None = None) -> Response:
    """The last response of a connection, whose body is not read to its end."""
    all_headers = {"Content-Type": JSON, "Connection": "close", **(headers or {})}
    return Response(status, json_encode.encode_error(words), all_headers)


class _Interrupt:
    """Cancels the current task after a time, or when its client disconnects after that time.

    `asyncio.wait_for` and a task that waits for the client would cost two tasks per request.
    """

    def __init__(self, seconds: float, receive: Receive | None = None) -> None:
        """Takes the time, and the ASGI channel that reports a disconnect.

        Args:
          seconds: from the beginning of the `with` block.
          receive: None cancels after the time.
        """
        self.happened = self.timed_out = False
        self._seconds = seconds
        self._receive = receive
        self._watch: asyncio.Future[None] | None = None

    def __enter__(self) -> "_Interrupt":
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._expire)
        return self

    def __exit__(self, *exception: object) -> None:
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()

    def _expire(self) -> None:
        self.timed_out = True
        if self._receive is None:
            self.interrupt()
        else:
            self._watch = asyncio.ensure_future(self._until_disconnected(self._receive))

    async def _until_disconnected(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.interrupt()

    def interrupt(self) -> None:
        """Cancels the task now."""
        self.happened = True
        if self._task is not None:
            self._task.cancel()


async def _send(send: Send, response: Response) -> None:
    headers = {"Content-Length": str(len(response.body)), **response.headers}
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": response.status, "headers": encoded})
    await send({"type": "http.response.body", "body": response.body})
