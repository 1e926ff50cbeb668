"""Loads and unloads that give way to requests.

What C++ computes for a load runs in a thread of low priority, so that it takes no core from a
request. Only that: such a thread must not hold the interpreter's lock for long, or requests would
wait for one that is given no time; nor may it start threads that compute requests later, for they
inherit its priority. So the first load, which starts TensorFlow's own pools, runs as it comes.
"""

import contextlib
import ctypes
import gc
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")

#: Below the server's own: a tenth of the time on a core that requests would fill, so that a load
#: comes to its end.
_NICENESS = 10


class Background:
    """Where models are loaded and freed; until `settle` that is the thread that asks."""

    def __init__(self, threads: int = 1) -> None:
        """Starts nothing yet.

        Args:
          threads: models that load at a time.
        """
        self._pool = ThreadPoolExecutor(max(1, threads), "background", initializer=_give_way)
        self._settled = False
        self._here = threading.local()

    def settle(self) -> None:
        """The first load is over, and requests are about to come.

        What is there by now stays: the garbage collector need not look at it again, which would
        stop all threads for as long as it takes to go through all of TensorFlow.
        """
        gc.collect()
        gc.freeze()
        self._settled = True

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """What this thread builds meanwhile may run in another; what a request builds may not."""
        self._here.loads = True
        try:
            yield
        finally:
            self._here.loads = False

    def build(self, work: Callable[[], Result], /) -> Result:
        """What `work` returns; C++ computes it and lets other threads run."""
        if self._settled and getattr(self._here, "loads", False):
            return self._pool.submit(work).result()
        return work()

    def free(self, close: Callable[[], None], *, wait: bool) -> None:
        """Gives a model's memory back to the system.

        Args:
          close: of the model.
          wait: until it is done; a request does not.
        """
        if not self._settled:
            close()
            return
        done = self._pool.submit(_free, close)
        if wait:
            done.result()

    def close(self) -> None:
        """Ends the threads after what they are at; from then on all is done where it is asked."""
        self._settled = False
        self._pool.shutdown()


def _free(close: Callable[[], None]) -> None:
    close()
    del close
    # A graph in Python refers to itself.
    gc.collect()
    trim_memory()


def trim_memory() -> None:
    """Returns freed memory to the system; the C library keeps it in arenas of each thread."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _give_way() -> None:
    """Lowers the priority of this thread below its process's; on Linux its id names it alone."""
    if hasattr(os, "setpriority"):
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):
            niceness = os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS
            os.setpriority(os.PRIO_PROCESS, thread, niceness)
