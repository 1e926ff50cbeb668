"""Tries and deadlines, for both transports and both clients.

Every request of this API may be repeated: none changes what the server holds. A try is repeated
when the server was not reached or says that it is busy (`errors.Failure.again`), after a random
wait of up to 0.1 s, 0.2 s, 0.4 s ... (exponential back-off with full jitter), and never beyond the
deadline of the whole call. What a server asks for (`Retry-After`) is the least that is waited.
"""

import math
import random
import time
from collections.abc import Callable
from typing import TypeVar

from serving.client.errors import DEADLINE_EXCEEDED, ClientError, Failure

T = TypeVar("T")

#: Seconds that one try may take to connect, where the deadline allows as much.
CONNECT_TIMEOUT_S = 10.0

_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 5.0


class Deadline:
    """A moment at which a call is over, whatever it consists of."""

    def __init__(self, timeout_s: float) -> None:
        """Starts now.

        Args:
          timeout_s: seconds; `math.inf` is no deadline.

        Raises:
          ValueError: not above 0.
        """
        if not timeout_s > 0:
            raise ValueError(f"`timeout_s` must be above 0, got {timeout_s}")
        self.timeout_s = timeout_s
        self._end = time.monotonic() + timeout_s

    def left_s(self) -> float:
        """Seconds; 0 or less when it is over, `math.inf` when there is no deadline."""
        return self._end - time.monotonic()

    def check(self) -> float:
        """Seconds left, above 0.

        Raises:
          ClientError: none is left.
        """
        left = self.left_s()
        if left <= 0:
            raise self.error()
        return left

    def error(self) -> ClientError:
        """What a call ends with that was not done in time."""
        words = f"not done within {self.timeout_s:g} s; raise `timeout_s`"
        return ClientError(words, DEADLINE_EXCEEDED)


class Tries:
    """The tries of one request: counts them, and decides whether there is another."""

    def __init__(self, deadline: Deadline, retries: int) -> None:
        """Nothing was tried yet.

        Args:
          deadline: of the call that the request belongs to.
          retries: how often a request that failed is sent again.

        Raises:
          ValueError: `retries` below 0.
        """
        if retries < 0:
            raise ValueError(f"`retries` must be 0 or more, got {retries}")
        self.deadline = deadline
        self._retries = retries
        self._count = 0
        self._began = time.monotonic()

    def begin(self) -> float:
        """Counts a try; the seconds it may take, above 0.

        Raises:
          ClientError: the deadline has passed.
        """
        left = self.deadline.check()
        self._count += 1
        return left

    def wait_s(self, failure: Failure) -> float:
        """How long to wait before the next try.

        Raises:
          ClientError: there is none: a refusal, too many tries, or no time for it.
        """
        if failure.status == DEADLINE_EXCEEDED or not failure.again or self._count > self._retries:
            raise self._error(failure) from failure
        ceiling = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** (self._count - 1))
        # Jitter on top of what the server asks for: it asks everyone for the same.
        wait = random.uniform(0.0, ceiling) + (failure.wait_s or 0.0)
        left = self.deadline.left_s()
        if wait >= left:
            detail = f"; the next try in {wait:.1f} s would be past the deadline"
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
    """What `attempt` returns, tried again while that may help.

    Args:
      attempt: one try; takes the seconds that are left, raises `Failure`.
      tries: fresh.

    Raises:
      ClientError: the last failure, or no time left.
    """
    while True:
        left = tries.begin()
        try:
            return attempt(left)
        except Failure as failure:
            wait = tries.wait_s(failure)
        time.sleep(wait)


def finite(seconds: float) -> float | None:
    """As requests, gRPC and asyncio take a timeout: None for `math.inf`."""
    return None if math.isinf(seconds) else seconds
