"""One request between its front end and its place: its deadline, its outcome, and who waits for it.

Whoever waits is a thread, which does the request's work itself as it is given it, or a coroutine,
which is told the outcome.
"""

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeAlias

from serving.server.errors import ServingError
from serving.server.scheduling.batch_queue import Task
from serving.server.scheduling.calls import Steps

Work: TypeAlias = Callable[[], None]
Outcome: TypeAlias = tuple[Any, BaseException | None]

#: A client leaves at its own deadline too, which here is later by the request's way.
ON_THE_WAY_S = 0.1


class Request:
    """One call of `run` or `run_here`."""

    def __init__(
        self,
        steps: Steps[Any],
        timeout: float | None,
        tell: Callable[[Any, BaseException | None], None] | None = None,
    ) -> None:
        """Takes what to do.

        Args:
          steps: not begun yet.
          timeout: seconds; None or 0 sets no bound.
          tell: takes the outcome to whoever awaits it; None when a thread calls `wait`.
        """
        self.steps = steps
        self.deadline = time.monotonic() + timeout if timeout else math.inf
        self.lock = threading.Lock()
        self.task: Task | None = None
        self.over = False
        self._tell = tell or self._keep
        self._outcome: Outcome | None = None
        self._waits = tell is None
        # For the thread that waits: work, or None when the client has gone.
        self._work: queue.SimpleQueue[Work | None] = queue.SimpleQueue()

    def finish(self, value: Any, error: BaseException | None) -> None:
        """Hands over the outcome."""
        self._tell(value, error)

    def fail(self, error: ServingError) -> None:
        """Ends a request that has not begun."""
        self.steps.close()
        self.finish(None, error)

    def take(self, work: Work) -> bool:
        """Leaves work to the thread that waits; False when none does."""
        with self.lock:
            if not self._waits or self.over:
                return False
            self._work.put(work)
            return True

    def leave(self) -> None:
        """Tells that the client has gone; from any thread, at any time."""
        with self.lock:
            self.over = True
        self._work.put(None)

    def end(self) -> Task | None:
        """Lets nothing more be done; returns the task that may still wait for a batch."""
        with self.lock:
            self.over = True
            task = self.task
        with contextlib.suppress(queue.Empty):
            # A place that was given too late has to be passed on.
            while True:
                work = self._work.get_nowait()
                if work is not None:
                    work()
        return task

    def wait(self) -> Outcome:
        """Does what it is given to do, until there is an outcome, the deadline, or no client."""
        while self._outcome is None:
            try:
                work = self._work.get(timeout=self._left())
            except queue.Empty:
                return None, late()
            if work is None:
                return None, late() if time.monotonic() > self.deadline - ON_THE_WAY_S else gone()
            work()
        value, error = self._outcome
        if error is None and time.monotonic() >= self.deadline:
            return None, late()
        return value, error

    def _left(self) -> float | None:
        return None if self.deadline == math.inf else max(0.0, self.deadline - time.monotonic())

    def _keep(self, value: Any, error: BaseException | None) -> None:
        self._outcome = value, error


def late() -> ServingError:
    """Of a request whose deadline has passed."""
    return ServingError("DEADLINE_EXCEEDED", "Timed out waiting for notification")


def gone() -> ServingError:
    """Of a request whose client has left."""
    return ServingError("CANCELLED", "the client has cancelled the request")


def closing() -> ServingError:
    """Of a request that a server which stops does not take on."""
    return ServingError("UNAVAILABLE", "the server is shutting down")
