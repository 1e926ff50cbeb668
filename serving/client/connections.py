"""`requests.Session`s in which one deadline holds for every read and write of a request.

What requests calls a timeout is for one read: a server that sends its answer byte by byte, head or
body, is listened to for as long as it likes. And a body has to be sent within the time for making
the connection. Here each read and each write has what is left of the deadline, and no more.
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


class Hold:
    """What one request may still do. Another thread may end it.

    Attributes:
      deadline: for all of it.
    """

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self._lock = threading.Lock()
        self._socket: Any = None
        self._is_given_up = False

    @contextmanager
    def during(self) -> Iterator[None]:
        """Holds the request that is sent and answered in this block."""
        token = _HOLD.set(self)
        try:
            yield
        finally:
            _HOLD.reset(token)
            with self._lock:
                # The connection may be another request's now.
                self._socket = None

    def allow(self, sock: Any) -> None:
        """Gives the next read or write of a socket the time that is left.

        Raises:
          TimeoutError: none is.
        """
        with self._lock:
            left = self.deadline.left_s()
            if self._is_given_up or left <= 0:
                raise TimeoutError("the deadline has passed, or nobody waits any more")
            self._socket = sock
        sock.settimeout(finite(left))

    def give_up(self) -> None:
        """Ends the request, which fails in its thread; from any thread."""
        with self._lock:
            self._is_given_up = True
            if isinstance(self._socket, socket.socket):
                # The method of a TLS socket would forget its state, which the other thread uses.
                with suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


# Between a session and its connections lie two libraries that pass on a timeout, but no deadline.
_HOLD: ContextVar[Hold] = ContextVar("hold")


class Session(requests.Session):
    """Goes straight to the loopback address, whatever the environment's proxies are."""

    def send(self, request: requests.PreparedRequest, **keywords: Any) -> requests.Response:
        """As requests does, without proxies for this machine; a redirect comes here too."""
        if is_loopback(urlsplit(str(request.url)).netloc):
            keywords["proxies"] = {}
        return super().send(request, **keywords)


def new_session() -> requests.Session:
    """A session that knows of `Hold`."""
    session = Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter())
    return session


class _Reader(io.RawIOBase):
    """A socket's bytes, as long as there is time."""

    def __init__(self, raw: io.RawIOBase, sock: Any, hold: Hold) -> None:
        self._raw = raw
        self._socket = sock
        self._hold = hold

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._hold.allow(self._socket)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    def __init__(self, sock: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        hold = _HOLD.get(None)
        if hold is not None:
            raw: Any = self.fp.detach()
            self.fp = io.BufferedReader(_Reader(raw, sock, hold))


class _Held:
    """What both kinds of connection do otherwise than urllib3's."""

    response_class = _Answer
    sock: Any

    def send(self, data: Any) -> None:
        hold = _HOLD.get(None)
        if self.sock is not None and hold is not None:
            hold.allow(self.sock)
        super().send(data)  # type: ignore[misc]


class _Connection(_Held, urllib3.connection.HTTPConnection):
    pass


class _SecureConnection(_Held, urllib3.connection.HTTPSConnection):
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
        # A SOCKS proxy is reached by connections of its own kind.
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = _POOLS
        return manager
