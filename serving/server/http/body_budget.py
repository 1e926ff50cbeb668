"""How many bytes of REST bodies are in memory at a time, over all connections; event loop only.

When the budget is used up, the body that has made no progress for longest gives way: clients that
send a part and stop cannot keep others out.
"""

import time
from collections.abc import Callable

#: Seconds without a byte after which an unfinished body may give way to another.
STALLED_S = 1.0


class BodyBudget:
    """The bytes that all bodies may have together."""

    def __init__(self, limit: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Takes the limit in bytes, and what measures seconds."""
        self._limit = limit
        self._clock = clock
        self._used = 0
        self._unfinished: dict[BodyShare, float] = {}

    @property
    def used(self) -> int:
        """Bytes of all bodies now."""
        return self._used

    def open(self, drop: Callable[[], None]) -> "BodyShare":
        """The share of one body; `drop` is called when it has to give way."""
        share = BodyShare(self, drop)
        self._unfinished[share] = self._clock()
        return share

    def _take(self, share: "BodyShare", size: int) -> bool:
        now = self._clock()
        if share in self._unfinished:
            self._unfinished[share] = now
        while self._used + size > self._limit:
            stalled = min(
                (other for other in self._unfinished if other is not share and other.size),
                key=self._unfinished.__getitem__,
                default=None,
            )
            if stalled is None or now - self._unfinished[stalled] < STALLED_S:
                return False
            stalled.close()
            stalled.drop()
        self._used += size
        return True

    def _give(self, share: "BodyShare", size: int) -> None:
        self._used -= size
        self._unfinished.pop(share, None)


class BodyShare:
    """What one body takes of the budget.

    Attributes:
      size: its bytes so far.
      drop: see `BodyBudget.open`.
    """

    def __init__(self, budget: BodyBudget, drop: Callable[[], None]) -> None:
        self.size = 0
        self.drop = drop
        self._budget = budget

    def take(self, size: int) -> bool:
        """Counts further bytes; False when there is no memory left for them."""
        taken = self._budget._take(self, size)
        self.size += size if taken else 0
        return taken

    def finish(self) -> None:
        """The whole body is there: it no longer gives way."""
        self._budget._unfinished.pop(self, None)

    def close(self) -> None:
        """Gives everything back; the second call does nothing."""
        size, self.size = self.size, 0
        self._budget._give(self, size)
