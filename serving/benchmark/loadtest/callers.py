"""One request over REST or gRPC, as cheaply as it can be sent from Python.

REST is asyncio's own transports with httptools' parser: measured against a stub server in another
process, with 30 kB bodies and 8 in flight, it costs 57 to 80 us of CPU a request, where h11 costs
200 to 240, aiohttp 310 to 340 and httpx 1660 to 2350. gRPC is grpc.aio with bytes in and out.
"""

import asyncio
import contextlib
import ssl
import time
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from serving.benchmark.loadtest.plan import Plan, Target
from serving.client.address import grpc_proxy_options

OK = "OK"
DEADLINE = "deadline"
CONNECTION = "connection"

_MAX_REASON = 500
PREDICT_METHOD = "/tensorflow.serving.PredictionService/Predict"
#: A close that was under way when a request was sent arrives within this and a round trip. One that
#: comes later is the request's own doing.
_CLOSING_S = 0.005
_LONGEST_ROUND_TRIP_S = 0.25


class Answer(NamedTuple):
    """What became of a request.

    Attributes:
      code: `OK`, an HTTP status, a gRPC status name, `deadline` or `connection`.
      reason: what the server or the system said, of what is not `OK`.
      at: when it was known, in seconds of `time.monotonic`.
      resent: whether the request was sent twice, see `RestCaller`.
    """

    code: str
    reason: str
    at: float
    resent: bool = False


class Caller(Protocol):
    """Sends prepared requests; belongs to one event loop."""

    async def call(self, number: int, deadline: float) -> Answer:
        """Sends request `number` of the prepared ones.

        Args:
          number: its index.
          deadline: in seconds of `time.monotonic`.
        """
        ...

    async def close(self) -> None:
        """Closes the connections."""
        ...


def make_caller(target: Target, bodies: tuple[bytes, ...], plan: Plan) -> Caller:
    """The caller for a target."""
    if target.is_grpc:
        return GrpcCaller(target, bodies, channels=plan.channels)
    return RestCaller(target, bodies)


class RestCaller:
    """Keep-alive connections, one request at a time on each, as many as are in flight.

    A server may close an idle connection just as a request is sent over it. Every HTTP client sends
    such a request anew, and so does this one: once, over a new connection, and it says so. A server
    that drops requests looks the same in the first milliseconds, so resends are told.
    """

    def __init__(self, target: Target, bodies: tuple[bytes, ...]) -> None:
        self._target = target
        fields = {"host": target.authority, "content-type": "application/json"}
        fields.update((name.lower(), value) for name, value in target.headers)
        head = f"POST {target.path} HTTP/1.1\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._messages = [
            f"{head}content-length: {len(body)}\r\n\r\n".encode() + body for body in bodies
        ]
        self._idle: list[_Connection] = []
        self._tls = None
        if target.scheme == "https":
            self._tls = ssl.create_default_context(cafile=target.ca_file or None)

    async def call(self, number: int, deadline: float) -> Answer:
        """See `Caller`."""
        connection = self._take()
        if connection is None:
            return await self._ask_anew(number, deadline)
        answer = await self._ask(connection, number, deadline)
        if answer.code != CONNECTION or not connection.was_closing(answer.at):
            return answer
        return (await self._ask_anew(number, deadline))._replace(resent=True)

    async def close(self) -> None:
        """See `Caller`."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _take(self) -> "_Connection | None":
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return None

    async def _ask_anew(self, number: int, deadline: float) -> Answer:
        try:
            wait = max(deadline - time.monotonic(), 0.001)
            connection = await asyncio.wait_for(self._connect(), wait)
        except asyncio.TimeoutError:
            return Answer(DEADLINE, "no connection in time", time.monotonic())
        except OSError as error:
            return Answer(CONNECTION, str(error), time.monotonic())
        return await self._ask(connection, number, deadline)

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        began = time.monotonic()
        _, connection = await loop.create_connection(
            _Connection, self._target.host, self._target.port, ssl=self._tls
        )
        connection.connect_s = time.monotonic() - began
        return connection

    async def _ask(self, connection: "_Connection", number: int, deadline: float) -> Answer:
        answer = await connection.ask(self._messages[number], deadline)
        if connection.is_open:
            self._idle.append(connection)
        return answer


class _Connection(asyncio.Protocol):
    """One connection; `connect_s` is how long it took to make it, at least a round trip."""

    def __init__(self) -> None:
        # Here, so that plans and bodies can be made where httptools is not installed.
        import httptools

        self._parser = httptools.HttpResponseParser(self)
        self._parser_errors = httptools.HttpParserError
        self._transport: Any = None
        self._answer: asyncio.Future[Answer] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._body: list[bytes] = []
        self._heard = False
        self._asked = 0.0
        self.connect_s = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it can carry another request."""
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, message: bytes, deadline: float) -> "asyncio.Future[Answer]":
        """Sends a request; the future never raises."""
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        self._body = []
        self._heard = False
        self._asked = time.monotonic()
        wait = max(deadline - self._asked, 0)
        self._timer = loop.call_later(wait, self._expire)
        self._transport.write(message)
        return self._answer

    def was_closing(self, closed: float) -> bool:
        """Whether it was lost as one is that was being closed before the request came.

        Args:
          closed: when it was lost, in seconds of `time.monotonic`.
        """
        within_s = min(self.connect_s, _LONGEST_ROUND_TRIP_S) + _CLOSING_S
        return not self._heard and closed - self._asked <= within_s

    def close(self) -> None:
        """Closes it."""
        self._transport.close()

    def connection_made(self, transport: Any) -> None:
        """Of asyncio."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Of asyncio."""
        self._heard = True
        try:
            self._parser.feed_data(data)
        except self._parser_errors as error:
            self._finish(CONNECTION, f"not HTTP: {error}")
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio."""
        self._finish(CONNECTION, str(exc or "the server closed the connection"))

    def on_body(self, body: bytes) -> None:
        """Of httptools."""
        if self._parser.get_status_code() != 200:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """Of httptools."""
        status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self._transport.close()
        if status == 200:
            self._finish(OK, "")
        else:
            self._finish(str(status), b"".join(self._body)[:_MAX_REASON].decode("utf-8", "replace"))

    def _expire(self) -> None:
        self._finish(DEADLINE, "no answer in time")
        # The answer may still come, and would be taken for that of the next request.
        self._transport.abort()

    def _finish(self, code: str, reason: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(code, reason, time.monotonic()))


class GrpcCaller:
    """Calls Predict over several connections in turn."""

    def __init__(self, target: Target, bodies: tuple[bytes, ...], *, channels: int) -> None:
        import grpc

        self._bodies = bodies
        self._error = grpc.aio.AioRpcError
        options = [
            # Otherwise channels to one address share one connection.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            *grpc_proxy_options(target.authority),
        ]
        self._metadata = tuple((name.lower(), value) for name, value in target.headers)

        def connect() -> Any:
            if target.scheme == "grpc":
                return grpc.aio.insecure_channel(target.authority, options=options)
            roots = Path(target.ca_file).read_bytes() if target.ca_file else None
            trust = grpc.ssl_channel_credentials(roots)
            return grpc.aio.secure_channel(target.authority, trust, options=options)

        self._channels = [connect() for _ in range(channels)]
        self._methods = [channel.unary_unary(PREDICT_METHOD) for channel in self._channels]
        self._turn = 0

    async def call(self, number: int, deadline: float) -> Answer:
        """See `Caller`."""
        self._turn = (self._turn + 1) % len(self._methods)
        wait = max(deadline - time.monotonic(), 0.001)
        try:
            await self._methods[self._turn](
                self._bodies[number], timeout=wait, metadata=self._metadata
            )
        except self._error as error:
            code = error.code().name
            code = DEADLINE if code == "DEADLINE_EXCEEDED" else code
            return Answer(code, str(error.details())[:_MAX_REASON], time.monotonic())
        return Answer(OK, "", time.monotonic())

    async def close(self) -> None:
        """See `Caller`."""
        for channel in self._channels:
            with contextlib.suppress(Exception):
                await channel.close()
