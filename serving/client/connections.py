"""`requests.Session`s that apply one deadline to every read and write of a request.

The timeout of requests applies to a single read, so a server that sends its response byte by byte
is never timed out, and a body must be sent within the connect timeout. Here, each read and each
write may take only the time that is left until the deadline.
"""

import http.client
import io
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit

import requests
import requests.adapters
import urllib3
import urllib3.connection

from serving.client.address import is_loopback
from serving.client.retry import Deadline, finite


class ActiveRequest:
    """A request in progress, with a deadline; another thread may cancel it.

    Attributes:
      deadline: of the whole request.
    """

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self._lock = threading.Lock()
        self._socket: Any = None
        self._is_canceled = False

    @contextmanager
    def activate(self) -> Iterator[None]:
        """Applies the deadline to the request that this block sends and reads."""
        token = _ACTIVE.set(self)
        try:
            yield
        finally:
            _ACTIVE.reset(token)
            with self._lock:
                # The connection may already serve another request.
                self._socket = None

    def limit(self, sock: Any) -> None:
        """Limits the next read or write of a socket to the time that is left.

        Raises:
          TimeoutError: no time is left, or the request was canceled.
        """
        with self._lock:
            left = self.deadline.left_s()
            if self._is_canceled or left <= 0:
                raise TimeoutError("the deadline has passed, or the request was canceled")
            self._socket = sock
        sock.settimeout(finite(left))

    def cancel(self) -> None:
        """Cancels the request, which then fails in its own thread; callable from any thread."""
        with self._lock:
            self._is_canceled = True
            if isinstance(self._socket, socket.socket):
                # The method of a TLS socket would discard the state that the other thread uses.
                with suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


# requests and urllib3 pass a timeout from a session to its connections, but no deadline.
_ACTIVE: ContextVar[ActiveRequest] = ContextVar("active")


class Session(requests.Session):
    """Bypasses the environment's proxies for the loopback address."""

    def send(self, request: requests.PreparedRequest, **keywords: Any) -> requests.Response:
        """As in requests, without proxies for this machine; also called for redirects."""
        if is_loopback(urlsplit(str(request.url)).netloc):
            keywords["proxies"] = {}
        return super().send(request, **keywords)


def new_session() -> requests.Session:
    """A session that applies the deadline of an `ActiveRequest`."""
    session = Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter())
    return session


class _Reader(io.RawIOBase):
    """Reads a socket until the deadline."""

    def __init__(self, raw: io.RawIOBase, sock: Any, active: ActiveRequest) -> None:
        self._raw = raw
        self._socket = sock
        self._active = active

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._active.limit(self._socket)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        active = _ACTIVE.get(None)
        if active is not None:
            raw: Any = self.fp.detach()
            self.fp = io.BufferedReader(_Reader(raw, sock, active))


class _DeadlineConnection:
    """Writes until the deadline; for both kinds of urllib3 connections."""

    response_class = _Response
    sock: Any

    def send(self, data: Any) -> None:
        active = _ACTIVE.get(None)
        if self.sock is not None and active is not None:
            active.limit(self.sock)
        super().send(data)  # type: ignore[misc]


class _Connection(_DeadlineConnection, urllib3.connection.HTTPConnection):
    pass


class _SecureConnection(_DeadlineConnection, urllib3.connection.HTTPSConnection):
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls: Any = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls: Any = _SecureConnection


_POOLS = {"http": _Pool, "https": _SecurePool}


class _Adapter(requests.adapters.HTTPAdapter):
    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **options)
        # A SOCKS proxy needs its own kind of connections.
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = _POOLS
        return manager
