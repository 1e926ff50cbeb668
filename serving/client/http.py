"""One HTTP request within a deadline: pooled sessions, sending, reading, failures."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from queue import Empty, Full, LifoQueue

import requests
import urllib3.exceptions

from serving.client.errors import DEADLINE_EXCEEDED, ClientError, Failure
from serving.client.retry import CONNECT_TIMEOUT_S, Deadline, finite

#: Statuses after which the same request may succeed a moment later.
BUSY = frozenset({429, 502, 503, 504})

_PIECE_BYTES = 65536
_IDLE_SESSIONS = 32


class Sessions:
    """A pool of `requests.Session`s, each used by one thread at a time.

    A session keeps its connections alive, so together they are the connection pool.
    """

    def __init__(self, make: Callable[[], requests.Session]) -> None:
        self._make = make
        self._idle: LifoQueue[requests.Session] = LifoQueue(_IDLE_SESSIONS)
        self._closed = False

    @contextmanager
    def borrow(self) -> Iterator[requests.Session]:
        """A session for exclusive use within the block.

        Raises:
          ClientError: the client is closed.
        """
        if self._closed:
            raise ClientError("this client is closed")
        try:
            session = self._idle.get_nowait()
        except Empty:
            session = self._make()
        try:
            yield session
        finally:
            try:
                self._idle.put_nowait(session)
            except Full:
                session.close()
            if self._closed:
                self.close()

    def close(self) -> None:
        """Closes idle sessions now, and borrowed ones when they are returned."""
        self._closed = True
        while True:
            try:
                self._idle.get_nowait().close()
            except Empty:
                return


def send(
    session: requests.Session,
    method: str,
    url: str,
    deadline: Deadline,
    *,
    body: bytes | None = None,
    redirects: bool = False,
) -> requests.Response:
    """The response to one request, whose body is still to be read; close it.

    Call, read and close it within `connections.ActiveRequest.activate`, which applies the deadline.

    Args:
      session: from `connections.new_session`, used by this thread only.
      method: GET or POST.
      url: complete.
      deadline: of the active request.
      body: JSON.
      redirects: whether to follow them.

    Raises:
      Failure: there is no response.
    """
    headers = {} if body is None else {"Content-Type": "application/json"}
    left = deadline.check()
    timeout = (min(left, CONNECT_TIMEOUT_S), finite(left))
    try:
        return session.request(
            method,
            url,
            data=body,
            headers=headers,
            timeout=timeout,
            stream=True,
            allow_redirects=redirects,
        )
    except requests.RequestException as error:
        raise _failure(url, error, deadline) from error


def read_body(
    response: requests.Response, deadline: Deadline, *, max_bytes: int | None = None
) -> bytes | None:
    """The body, read before the deadline even if the server sends it in small pieces.

    Args:
      response: from `send`, not yet read.
      deadline: as in `send`.
      max_bytes: of the content; None is no limit.

    Returns:
      None if the content is larger than `max_bytes`.

    Raises:
      Failure: the body ended early or took too long.
    """
    # `read1` returns what has arrived; urllib3 before 2.2 only has `read`, which waits for it all.
    read = getattr(response.raw, "read1", None) or response.raw.read
    pieces: list[bytes] = []
    size = 0
    try:
        while piece := read(_PIECE_BYTES, decode_content=True):
            size += len(piece)
            if max_bytes is not None and size > max_bytes:
                return None
            pieces.append(piece)
            if deadline.left_s() <= 0:
                raise _too_slow(response.url, deadline)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _failure(response.url, error, deadline) from error
    return b"".join(pieces)


def retry_after_s(header: str | None) -> float | None:
    """Seconds of a `Retry-After` header, a number or a date; None if it is neither."""
    if header is None:
        return None
    if header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _failure(url: str, error: Exception, deadline: Deadline) -> Failure:
    late = (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError, TimeoutError)
    if isinstance(error, late) or deadline.left_s() <= 0:
        return _too_slow(url, deadline)
    if isinstance(error, requests.exceptions.SSLError):
        remedy = "set the server's CA file with `Tls(roots=...)`"
        return Failure(f"no secure connection to {url}: {error}; {remedy}")
    lost = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)
    again = isinstance(error, (*lost, urllib3.exceptions.HTTPError, OSError))
    # All exceptions of requests are OSErrors; errors in the request itself are not retried.
    if isinstance(error, requests.RequestException) and not isinstance(error, lost):
        again = False
    return Failure(
        f"no response from {url}: {error}; is `sightline serve` running there?",
        again=again,
    )


def _too_slow(url: str, deadline: Deadline) -> Failure:
    return Failure(f"no response from {url} within {deadline.timeout_s:.3g} s", DEADLINE_EXCEEDED)
