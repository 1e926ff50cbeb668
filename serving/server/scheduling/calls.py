"""Requests: their steps, their engine calls, and the tasks that wait for a batch.

Steps are a generator, which yields a call of the engine and receives its outputs:

    def double(servable, x):
        outputs = yield EngineCall(servable, {"x:0": x}, ("y:0",))
        return outputs["y:0"]

They occupy no thread while their call waits for a batch. Whatever they hold in a `with` statement,
such as the model version, is released when they return, raise or are closed.
"""

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np

from serving.engines.saved_model import EngineError
from serving.server.errors import ServingError

Outputs: TypeAlias = dict[str, np.ndarray]
T = TypeVar("T")
Work: TypeAlias = Callable[[], None]
Notify: TypeAlias = Callable[[Any, BaseException | None], None]

#: A client's own deadline ends earlier than the one here, by the time that the request travels.
TRANSIT_S = 0.1


@dataclass(frozen=True)
class EngineCall:
    """One run of a model for one request.

    Attributes:
      servable: the version, which the request keeps loaded.
      feeds: tensor name -> array.
      fetches: tensor names, each once.
      api: `Predict`, `Classify`, ..., for the metrics.
      examples: number of tf.Examples; 0 when the inputs are tensors.
    """

    servable: Any
    feeds: Mapping[str, np.ndarray]
    fetches: tuple[str, ...]
    api: str = "Predict"
    examples: int = 0

    def run(self, feeds: Mapping[str, np.ndarray] | None = None) -> Outputs:
        """Tensor name -> array, computed in the calling thread.

        Args:
          feeds: the inputs of a batch; None for those of this call.

        Raises:
          ServingError: the engine refuses the inputs.
        """
        feeds = self.feeds if feeds is None else feeds
        try:
            return self.servable.engine.run_tensors(feeds, self.fetches)
        except EngineError as error:
            raise ServingError(error.code, str(error)) from error


#: The work of a request, which returns a T.
Steps: TypeAlias = Generator[EngineCall, Outputs, T]


def run_now(steps: Steps[T]) -> T:
    """The return value of the steps, whose calls run at once in this thread.

    Raises:
      ServingError: a step or the engine refuses the request.
    """
    try:
        call = next(steps)
        while True:
            try:
                outputs = call.run()
            except ServingError as error:
                call = steps.throw(error)
            else:
                call = steps.send(outputs)
    except StopIteration as stop:
        return stop.value


class BatchTask:
    """A call that waits for its batch; `done(outputs, error)` is called once, in a batch thread."""

    def __init__(
        self,
        call: EngineCall,
        done: Callable[[Outputs | None, BaseException | None], None],
        *,
        deadline: float = math.inf,
    ) -> None:
        """Creates a task for `BatchScheduler.submit`.

        Args:
          call: runs alone or with others.
          done: must not block or raise.
          deadline: `time.monotonic()` after which the task does not run.
        """
        self.call = call
        self.deadline = deadline
        self.enqueued = 0.0
        self.waits = False
        self.withdrawn = False
        self._done = done
        self._lock = threading.Lock()
        self._outcomes: list[Outputs | BaseException | None] = []

    def split(self, sizes: Sequence[int]) -> list["TaskPart"]:
        """Parts of these numbers of rows, which may run in different batches."""
        self._outcomes = [None] * len(sizes)
        starts = [sum(sizes[:index]) for index in range(len(sizes))]
        return [TaskPart(self, i, start, sizes[i]) for i, start in enumerate(starts)]

    def settle(self, index: int, outcome: Outputs | BaseException) -> None:
        """Records the outcome of one part, once for each; the last one ends the task."""
        with self._lock:
            self._outcomes[index] = outcome
            ended = [outcome for outcome in self._outcomes if outcome is not None]
            if len(ended) < len(self._outcomes):
                return
        pieces = [outcome for outcome in ended if not isinstance(outcome, BaseException)]
        if len(pieces) < len(ended):
            self._done(None, next(o for o in ended if isinstance(o, BaseException)))
        elif len(pieces) == 1:
            self._done(pieces[0], None)
        else:
            self._done(*_joined(pieces))

    @property
    def has_failed(self) -> bool:
        """Whether a part has failed, so that the others need not run."""
        return any(isinstance(outcome, BaseException) for outcome in self._outcomes)


def _joined(pieces: Sequence[Outputs]) -> tuple[Outputs | None, BaseException | None]:
    """The outputs of the request from those of its parts, or an error if they do not fit."""
    try:
        return {name: np.concatenate([one[name] for one in pieces]) for name in pieces[0]}, None
    except ValueError as error:
        words = f"the parts of a large request gave outputs that do not fit together: {error}"
        return None, ServingError("FAILED_PRECONDITION", words)


@dataclass(eq=False)
class TaskPart:
    """Rows `start` to `start + rows` of a task."""

    task: BatchTask
    index: int
    start: int
    rows: int

    @property
    def feeds(self) -> dict[str, np.ndarray]:
        """Tensor name -> the part's rows."""
        stop = self.start + self.rows
        return {name: array[self.start : stop] for name, array in self.task.call.feeds.items()}


class ServedRequest:
    """One call of `run` or `run_here`, and the thread that waits for it, if one does."""

    def __init__(
        self, steps: Steps[Any], timeout: float | None, notify: Notify | None = None
    ) -> None:
        """Creates a request.

        Args:
          steps: not begun yet.
          timeout: seconds; None or 0 sets no bound.
          notify: receives the outcome; None when a thread calls `wait`.
        """
        self.steps = steps
        self.deadline = time.monotonic() + timeout if timeout else math.inf
        self.lock = threading.Lock()
        self.task: BatchTask | None = None
        self.over = False
        self.finish: Notify = notify or self._store
        self._outcome: tuple[Any, BaseException | None] | None = None
        self._waits = notify is None
        # For the thread that waits: work, or None when the client has disconnected.
        self._work: queue.SimpleQueue[Work | None] = queue.SimpleQueue()

    def fail(self, error: ServingError) -> None:
        """Ends a request that has not begun."""
        self.steps.close()
        self.finish(None, error)

    def do(self, work: Work, threads: Executor) -> None:
        """Runs work in the thread that waits for the request, or else in one of `threads`."""
        with self.lock:
            if self._waits and not self.over:
                self._work.put(work)
                return
        threads.submit(work)

    def disconnect(self) -> None:
        """Records that the client has disconnected; from any thread, at any time."""
        with self.lock:
            self.over = True
        self._work.put(None)

    def end(self) -> BatchTask | None:
        """Prevents all further work; returns the task that may still wait for a batch."""
        with self.lock:
            self.over = True
            task = self.task
        with contextlib.suppress(queue.Empty):
            # A slot that was assigned too late must go to the next request.
            while True:
                work = self._work.get_nowait()
                if work is not None:
                    work()
        return task

    def wait(self) -> tuple[Any, BaseException | None]:
        """Does the work of the request until its end, its deadline, or a disconnect."""
        while self._outcome is None:
            left = self.deadline - time.monotonic()
            try:
                work = self._work.get(timeout=None if left == math.inf else max(0.0, left))
            except queue.Empty:
                return None, late()
            if work is None:
                is_late = time.monotonic() > self.deadline - TRANSIT_S
                return None, late() if is_late else cancelled()
            work()
        value, error = self._outcome
        if error is None and time.monotonic() >= self.deadline:
            return None, late()
        return value, error

    def _store(self, value: Any, error: BaseException | None) -> None:
        self._outcome = value, error


def late() -> ServingError:
    """The error of a request whose deadline has passed."""
    return ServingError("DEADLINE_EXCEEDED", "Timed out waiting for notification")


def cancelled() -> ServingError:
    """The error of a request whose client has disconnected."""
    return ServingError("CANCELLED", "the client has cancelled the request")
