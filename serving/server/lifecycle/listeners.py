"""The listeners: uvicorn for REST in the caller's event loop, and gRPC in its threads."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from serving.limits import DEFAULT_LIMITS, Limits
from serving.server.errors import ServerError
from serving.server.lifecycle.tls import GrpcTls, RestTls
from serving.server.lifecycle.worker_processes import share_port

if TYPE_CHECKING:
    from serving.server.grpc.methods import CallThreads

_BACKLOG = 128
_PING_TIMEOUT_MS = 20_000
#: Seconds that running requests may take at shutdown.
GRACE_S = 5.0


def bracketed(host: str) -> str:
    """A host as a URL writes it."""
    return f"[{host}]" if ":" in host else host


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket.

    Args:
      host: to bind.
      port: 0 takes a free port.
      shared: whether other processes share the port, see `worker_processes`.

    Raises:
      ServerError: the port is in use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Without the protocol asyncio does not set TCP_NODELAY, which costs 40 ms per response.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    # A port in TIME_WAIT is free; a port that another server listens on is not.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        share_port(listener)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise ServerError(
            f"cannot listen on {host} port {port}: {error.strerror}; stop what uses it, or choose "
            "another with --port (gRPC) or --rest_api_port (REST)"
        ) from error
    listener.setblocking(False)
    return listener


@dataclass
class RestListener:
    """A running REST server.

    Attributes:
      url: e.g. `http://127.0.0.1:8501`.
      task: ends with the server.
    """

    url: str
    task: "asyncio.Task[None]"
    _server: Any

    async def stop(self) -> None:
        """Stops after the running requests."""
        self._server.should_exit = True
        await asyncio.gather(self.task, return_exceptions=True)


def start_rest(
    app: Any,
    listener: socket.socket,
    *,
    host: str,
    tls: RestTls | None,
    limits: Limits = DEFAULT_LIMITS,
) -> RestListener:
    """Serves an ASGI application.

    Args:
      app: the application.
      listener: listening.
      host: for the URL.
      tls: None serves without TLS.
      limits: of its connections.
    """
    import uvicorn

    from serving.server.http.rest_protocol import protocol_class

    class Uvicorn(uvicorn.Server):
        """Ignores signals: uvicorn would end the process before gRPC has finished."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    config = uvicorn.Config(
        app,
        http=protocol_class(limits),
        ws="none",
        # At the limit of descriptors asyncio tries to accept this many at once, and logs each.
        backlog=_BACKLOG,
        lifespan="off",
        # Uvicorn's handlers would log every bad request, without a time.
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(GRACE_S),
        ssl_certfile=tls and str(tls.certificate),
        ssl_keyfile=tls and str(tls.key),
    )
    server = Uvicorn(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    scheme = "https" if tls else "http"
    return RestListener(f"{scheme}://{bracketed(host)}:{listener.getsockname()[1]}", task, server)


@dataclass
class GrpcListener:
    """A running gRPC server.

    Attributes:
      url: e.g. `grpc://127.0.0.1:8500`.
    """

    url: str
    _server: Any
    _threads: "CallThreads"

    async def stop(self) -> None:
        """Stops after the running calls; cancels those that exceed the grace period."""
        ended = self._server.stop(GRACE_S)
        # A call that cannot be stopped must not delay this further.
        wait = partial(ended.wait, GRACE_S + 1)
        await asyncio.get_running_loop().run_in_executor(None, wait)
        self._threads.close()


def start_grpc(
    host: str,
    port: int,
    handlers: Sequence[Any],
    *,
    threads: "CallThreads",
    max_request_bytes: int,
    tls: GrpcTls | None = None,
    shared: bool = False,
    arguments: Sequence[tuple[str, int | str]] = (),
    socket_path: str = "",
    limits: Limits = DEFAULT_LIMITS,
) -> GrpcListener:
    """Starts a server for some services.

    Args:
      host: to bind.
      port: 0 takes a free port.
      handlers: generic handlers, the most used first.
      threads: run the calls.
      max_request_bytes: of one message.
      tls: None serves without TLS.
      shared: whether other processes share the port, see `worker_processes`.
      arguments: further options of gRPC, which override the defaults here.
      socket_path: of a Unix socket that also serves, without TLS; empty for none.
      limits: of its connections.

    Raises:
      ServerError: the port or the socket cannot be bound.
    """
    import grpc

    options = {
        "grpc.max_receive_message_length": max_request_bytes,
        "grpc.max_send_message_length": -1,
        # Otherwise a second server would share the port without an error.
        "grpc.so_reuseport": int(shared),
        # Connections are closed when they have no calls (clients reconnect at their next call), or
        # when the client sends nothing or does not respond to a ping.
        "grpc.max_connection_idle_ms": int(1000 * limits.idle_timeout_s),
        "grpc.server_handshake_timeout_ms": int(1000 * limits.idle_timeout_s),
        "grpc.keepalive_time_ms": int(1000 * limits.idle_timeout_s),
        "grpc.keepalive_timeout_ms": _PING_TIMEOUT_MS,
        "grpc.max_metadata_size": limits.max_header_bytes,
        "grpc.absolute_max_metadata_size": limits.max_header_bytes,
        **dict(arguments),
    }
    server = grpc.server(threads.calls, handlers=list(handlers), options=list(options.items()))
    address = f"{bracketed(host)}:{port}"
    try:
        if socket_path:
            server.add_insecure_port(f"unix:{socket_path}")
        if tls is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, tls.credentials())
    except RuntimeError as error:
        raise ServerError(f"gRPC cannot listen on {address}: {error}") from error
    server.start()
    return GrpcListener(f"grpc://{bracketed(host)}:{port}", server, threads)
