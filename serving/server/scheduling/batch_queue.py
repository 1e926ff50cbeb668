"""What waits for a batch thread: tasks, their parts, batches, and one queue a signature.

A task waits in an open batch of its shapes. A batch is ripe when it is full, when the next task did
not fit, or when its first task has waited for `batch_timeout_micros`.
"""

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from serving.server.errors import ServingError, invalid
from serving.server.scheduling.batching import BatchingOptions, share_key
from serving.server.scheduling.calls import EngineCall, Outputs


class Task:
    """A call that waits for its batch; `done(outputs, error)` is called once, in a batch thread."""

    def __init__(
        self,
        call: EngineCall,
        done: Callable[[Outputs | None, BaseException | None], None],
        *,
        deadline: float = math.inf,
    ) -> None:
        """Nothing waits before `BatchScheduler.submit`.

        Args:
          call: to be run, alone or with others.
          done: must not block, and not raise.
          deadline: `time.monotonic()` after which it is not run.
        """
        self.call = call
        self.deadline = deadline
        self.enqueued = 0.0
        self.waits = False
        self.withdrawn = False
        self._done = done
        self._lock = threading.Lock()
        self._outcomes: list[Outputs | BaseException | None] = []

    def split(self, sizes: Sequence[int]) -> list["Part"]:
        """Parts of so many rows each, which may run in different batches."""
        self._outcomes = [None] * len(sizes)
        starts = [sum(sizes[:index]) for index in range(len(sizes))]
        return [
            Part(self, index, start, size)
            for index, (start, size) in enumerate(zip(starts, sizes, strict=True))
        ]

    def settle(self, index: int, outcome: Outputs | BaseException) -> None:
        """Says how one part ended, which each does once; the last one ends the task."""
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
        """Whether a part of it has failed, so that the others need not run."""
        return any(isinstance(outcome, BaseException) for outcome in self._outcomes)


def _joined(pieces: Sequence[Outputs]) -> tuple[Outputs | None, BaseException | None]:
    """The outputs of one request whose parts ran apart, or why they are not those of one."""
    try:
        return {name: np.concatenate([one[name] for one in pieces]) for name in pieces[0]}, None
    except ValueError as error:
        words = f"the parts of a large request gave outputs that do not fit together: {error}"
        return None, ServingError("FAILED_PRECONDITION", words)


@dataclass(eq=False)
class Part:
    """Rows `start` to `start + rows` of a task."""

    task: Task
    index: int
    start: int
    rows: int

    @property
    def feeds(self) -> dict[str, np.ndarray]:
        """Tensor name -> the part's rows."""
        whole = self.task.call.feeds
        stop = self.start + self.rows
        return {name: array[self.start : stop] for name, array in whole.items()}


@dataclass(eq=False)
class Batch:
    """Parts that will run together."""

    opened: float
    parts: list[Part] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Without padding."""
        return sum(part.rows for part in self.parts)


class BatchQueue:
    """The batches of one signature of one version. Guarded by the scheduler's lock."""

    def __init__(self, options: BatchingOptions) -> None:
        self.options = options
        self.closed: deque[Batch] = deque()
        self.open: dict[tuple[object, ...], Batch] = {}

    def __len__(self) -> int:
        """Batches that wait."""
        return len(self.closed) + len(self.open)

    def add(self, task: Task, rows: int) -> None:
        """Puts a task into the open batch of its shapes, and into further ones.

        Raises:
          ServingError: it is larger than a batch may be, or there is no room for it.
        """
        options = self.options
        if rows > options.max_batch_size and not options.adaptive:
            raise invalid(
                f"Task size {rows} is larger than maximum input batch size {options.max_batch_size}"
            )
        key = share_key(task.call.feeds, any_length=options.pad_variable_length_inputs)
        opened = self.open.get(key)
        sizes = self._sizes(rows, opened)
        for part in task.split(sizes):
            batch = self.open.get(key)
            if batch is not None and batch.rows + part.rows > options.run_limit:
                self.closed.append(self.open.pop(key))
                batch = None
            if batch is None:
                batch = self.open[key] = Batch(opened=task.enqueued)
            batch.parts.append(part)

    def _sizes(self, rows: int, opened: Batch | None) -> list[int]:
        """The parts of a task of `rows`; checks that there is room for them."""
        options, held = self.options, opened.rows if opened else 0
        if not options.splits:
            fits = opened is not None and held + rows <= options.run_limit
            if not fits and len(self) >= options.max_enqueued_batches and not options.adaptive:
                raise _full(
                    f"currently {len(self)} batches enqueued and max_enqueued_batches is "
                    f"{options.max_enqueued_batches}"
                )
            return [rows]
        limit = options.run_limit
        first = min(rows, limit - held) if held < limit else 0
        others = [min(limit, rows - done) for done in range(first, rows, limit)]
        free = options.max_enqueued_batches - len(self)
        # An open batch counts as waiting; without one a new one is opened, as TF Serving has.
        capacity = free * limit + (limit - held if opened else 0)
        if rows > capacity and not options.adaptive:
            raise _full(f"task size is {rows} but scheduling capacity is only {capacity}")
        return ([first] if first else []) + others

    def ripe_at(self) -> float:
        """`time.monotonic()` from which a batch may be taken; infinite when none waits."""
        if self.closed:
            return -math.inf
        return min((self._ripe_at(batch) for batch in self.open.values()), default=math.inf)

    def _ripe_at(self, batch: Batch) -> float:
        if batch.rows >= self.options.run_limit:
            return -math.inf
        return batch.opened + self.options.batch_timeout_micros / 1e6

    def parts(self) -> list[Part]:
        """All that waits."""
        return [part for batch in [*self.closed, *self.open.values()] for part in batch.parts]

    def take(self) -> Batch:
        """The batch that was ripe first."""
        if self.closed:
            return self.closed.popleft()
        key = min(self.open, key=lambda key: self._ripe_at(self.open[key]))
        return self.open.pop(key)

    def remove(self, task: Task) -> None:
        """Takes a task out of every batch that waits."""
        for batch in [*self.closed, *self.open.values()]:
            batch.parts = [part for part in batch.parts if part.task is not task]
        self.closed = deque(batch for batch in self.closed if batch.parts)
        self.open = {key: batch for key, batch in self.open.items() if batch.parts}


def _full(why: str) -> ServingError:
    words = "The batch scheduling queue to which this task was submitted is full; "
    return ServingError("UNAVAILABLE", words + why)
