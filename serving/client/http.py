"""One HTTP request within a time: sessions to send it with, its head, its body, its failures."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from queue import Empty, Full, LifoQueue

import requests
import urllib3.exceptions

from serving.client.errors import DEADLINE_EXCEEDED, ClientError, Failure
from serving.client.retry import CONNECT_TIMEOUT_S, Deadline, finite

#: Answers after which the same request may succeed a moment later.
BUSY = frozenset({429, 502, 503, 504})

_PIECE_BYTES = 65536
_IDLE_SESSIONS = 32


class Sessions:
    """`requests.Session`s to borrow, one a thread at a time, as requests promises no more.

    Each keeps its connections alive, so together they are the connection pool.
    """

    def __init__(self, make: Callable[[], requests.Session]) -> None:
        self._make = make
        self._idle: LifoQueue[requests.Session] = LifoQueue(_IDLE_SESSIONS)
        self._closed = False

    @contextmanager
    def borrow(self) -> Iterator[requests.Session]:
        """A session that nobody else uses.

        Raises:
          ClientError: `close` was called.
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
        """Closes the idle sessions now, and the others when they are given back."""
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
    """The head of the answer to one request, its body still to be read; close it.

    To be called, read and closed in a `connections.Hold.during`, which sees to the deadline.

    Args:
      session: the caller's alone, of `connections.new_session`.
      method: GET or POST.
      url: whole.
      deadline: the hold's.
      body: JSON.
      redirects: whether to follow them.

    Raises:
      Failure: there is no answer.
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
        raise _no_answer(url, error, deadline) from error


def read_body(
    answer: requests.Response, deadline: Deadline, *, max_bytes: int | None = None
) -> bytes | None:
    """The body, read within a time that no slow sender can stretch by its pieces.

    Args:
      answer: of `send`, not yet read.
      deadline: the one of `send`.
      max_bytes: of the content; None is no limit.

    Returns:
      None when there is more than `max_bytes`.

    Raises:
      Failure: it ended early or took too long.
    """
    # Returns what has arrived; urllib3 before 2.2 has only the read that waits for all it asks for.
    read = getattr(answer.raw, "read1", None) or answer.raw.read
    pieces: list[bytes] = []
    size = 0
    try:
        while piece := read(_PIECE_BYTES, decode_content=True):
            size += len(piece)
            if max_bytes is not None and size > max_bytes:
                return None
            pieces.append(piece)
            if deadline.left_s() <= 0:
                raise _too_slow(answer.url, deadline)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _no_answer(answer.url, error, deadline) from error
    return b"".join(pieces)


def retry_after_s(header: str | None) -> float | None:
    """Seconds of a `Retry-After` header, which holds a number or a date; None if it is neither."""
    if header is None:
        return None
    if header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _no_answer(url: str, error: Exception, deadline: Deadline) -> Failure:
    late = (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError, TimeoutError)
    if isinstance(error, late) or deadline.left_s() <= 0:
        return _too_slow(url, deadline)
    if isinstance(error, requests.exceptions.SSLError):
        return Failure(f"no secure connection to {url}: {error}; `Tls(roots=...)` names a CA file")
    lost = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)
    again = isinstance(error, (*lost, urllib3.exceptions.HTTPError, OSError))
    # requests' exceptions are all OSErrors; those about the request itself stay as they are.
    if isinstance(error, requests.RequestException) and not isinstance(error, lost):
        again = False
    return Failure(
        f"no answer from {url}: {error}; is `sightline serve` running there?", again=again
    )


def _too_slow(url: str, deadline: Deadline) -> Failure:
    return Failure(f"no answer from {url} within {deadline.timeout_s:.3g} s", DEADLINE_EXCEEDED)
