"""Retries and deadlines, for both transports and both clients.

Every request of this API is idempotent. An attempt is repeated when the server was not reached or
is busy (`errors.Failure.again`), after a random wait of up to 0.1 s, 0.2 s, 0.4 s ... (exponential
back-off with full jitter), and never after the deadline of the whole call. A server's `Retry-After`
is the minimum wait.
"""

import math
import random
import time
from collections.abc import Callable
from typing import TypeVar

from serving.client.errors import DEADLINE_EXCEEDED, ClientError, Failure

T = TypeVar("T")

#: Timeout for connecting in one attempt, in seconds; the deadline may be earlier.
CONNECT_TIMEOUT_S = 10.0

_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 5.0


class Deadline:
    """The moment at which a call times out."""

    def __init__(self, timeout_s: float) -> None:
        """Starts now.

        Args:
          timeout_s: seconds; `math.inf` is no deadline.

        Raises:
          ValueError: `timeout_s` is not above 0.
        """
        if not timeout_s > 0:
            raise ValueError(f"`timeout_s` must be above 0, got {timeout_s}")
        self.timeout_s = timeout_s
        self._end = time.monotonic() + timeout_s

    def left_s(self) -> float:
        """Seconds left; 0 or less after the deadline, `math.inf` without one."""
        return self._end - time.monotonic()

    def check(self) -> float:
        """Seconds left, above 0.

        Raises:
          ClientError: the deadline has passed.
        """
        left = self.left_s()
        if left <= 0:
            raise self.error()
        return left

    def error(self) -> ClientError:
        """The error of a call that timed out."""
        message = f"timed out after {self.timeout_s:g} s; raise `timeout_s`"
        return ClientError(message, DEADLINE_EXCEEDED)


class Tries:
    """Counts the attempts of one request and decides whether to retry."""

    def __init__(self, deadline: Deadline, retries: int) -> None:
        """Starts now.

        Args:
          deadline: of the call that the request belongs to.
          retries: maximum number of further attempts.

        Raises:
          ValueError: `retries` is below 0.
        """
        if retries < 0:
            raise ValueError(f"`retries` must be 0 or more, got {retries}")
        self.deadline = deadline
        self._retries = retries
        self._count = 0
        self._began = time.monotonic()

    def begin(self) -> float:
        """Counts an attempt; returns the seconds it may take, above 0.

        Raises:
          ClientError: the deadline has passed.
        """
        left = self.deadline.check()
        self._count += 1
        return left

    def wait_s(self, failure: Failure) -> float:
        """Seconds to wait before the next attempt.

        Raises:
          ClientError: the failure is final, no retries are left, or there is no time for one.
        """
        if failure.status == DEADLINE_EXCEEDED or not failure.again or self._count > self._retries:
            raise self._error(failure) from failure
        ceiling = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** (self._count - 1))
        # Jitter on top of the server's wait, which is the same for all clients.
        wait = random.uniform(0.0, ceiling) + (failure.wait_s or 0.0)
        left = self.deadline.left_s()
        if wait >= left:
            detail = f"; the next attempt in {wait:.1f} s would be after the deadline"
            raise self._error(failure, detail) from failure
        return wait

    def _error(self, failure: Failure, detail: str = "") -> ClientError:
        seconds = time.monotonic() - self._began
        message = f"{failure}{detail}"
        if self._count > 1 or failure.again or failure.status == DEADLINE_EXCEEDED:
            times = "once" if self._count == 1 else f"{self._count} times"
            message += f" (tried {times} in {seconds:.1f} s)"
        return ClientError(message, failure.status, tries=self._count, seconds=seconds)


def call(attempt: Callable[[float], T], tries: Tries) -> T:
    """The result of `attempt`, retried as `tries` decides.

    Args:
      attempt: takes the seconds that are left, raises `Failure`.
      tries: not yet used.

    Raises:
      ClientError: the last failure, or the deadline has passed.
    """
    while True:
        left = tries.begin()
        try:
            return attempt(left)
        except Failure as failure:
            wait = tries.wait_s(failure)
        time.sleep(wait)


def finite(seconds: float) -> float | None:
    """The timeout for requests, gRPC and asyncio: None for `math.inf`."""
    return None if math.isinf(seconds) else seconds
