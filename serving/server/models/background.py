"""Loading and unloading of models at low priority, so that requests keep the cores.

Only C++ code runs in threads of low priority. Python code in such a thread would hold the
interpreter's lock while the thread gets no time, and requests would wait for it. Threads that it
starts inherit its priority, so the first load, which starts TensorFlow's pools, runs normally.
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

#: Added to the server's niceness: a tenth of the time of a busy core, so that a load ends.
_NICENESS = 10


class Background:
    """Runs the loading and freeing of models; until `settle` in the calling thread."""

    def __init__(self, threads: int = 1) -> None:
        """Takes the number of models that load at a time."""
        self._pool = ThreadPoolExecutor(max(1, threads), "background", initializer=_lower_priority)
        self._settled = False
        self._here = threading.local()

    def settle(self) -> None:
        """Ends the first load; called before requests arrive.

        Objects that exist by now are permanent. The garbage collector skips them: a pass over all
        of TensorFlow would stop all threads for its duration.
        """
        gc.collect()
        gc.freeze()
        self._settled = True

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """Lets `build` calls of this thread run in the background, unlike those of requests."""
        self._here.loads = True
        try:
            yield
        finally:
            self._here.loads = False

    def build(self, work: Callable[[], Result], /) -> Result:
        """The result of `work`, which must be C++ code that releases the interpreter's lock."""
        if self._settled and getattr(self._here, "loads", False):
            return self._pool.submit(work).result()
        return work()

    def free(self, close: Callable[[], None], *, wait: bool) -> None:
        """Frees a model and returns its memory to the system.

        Args:
          close: frees the model.
          wait: whether to return only after that; a request does not.
        """
        if not self._settled:
            close()
            return
        done = self._pool.submit(_free, close)
        if wait:
            done.result()

    def close(self) -> None:
        """Ends the threads after their current work; later work runs in the calling thread."""
        self._settled = False
        self._pool.shutdown()


def _free(close: Callable[[], None]) -> None:
    close()
    del close
    # Python graphs are reference cycles.
    gc.collect()
    trim_memory()


def trim_memory() -> None:
    """Returns memory to the system that the C library keeps in its arenas."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _lower_priority() -> None:
    """Lowers the priority of this thread; on Linux its id stands for the thread alone."""
    if hasattr(os, "setpriority"):
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):
            niceness = os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS
            os.setpriority(os.PRIO_PROCESS, thread, niceness)
