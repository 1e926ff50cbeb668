"""One page of metrics for several processes, whichever of them is asked.

Every process keeps a file of its numbers in a folder that all share, and the page adds up the files
and the asked process's own numbers. A file outlives its process: a counter that fell back when a
process died would look like a restart of the whole server.
"""

import contextlib
import json
import os
import threading
from pathlib import Path

from serving.server.observability.metrics import Metrics, Snapshot

_PERIOD_S = 1.0


class SharedMetrics:
    """This process's metrics in the shared folder."""

    def __init__(self, metrics: Metrics, folder: Path, *, period_s: float = _PERIOD_S) -> None:
        """Starts the thread that writes.

        Args:
          metrics: of this process.
          folder: all processes', and nothing else's.
          period_s: between two writes: the others' numbers are that old at most.
        """
        self._metrics = metrics
        self._folder = folder
        self._file = folder / f"{os.getpid()}.metrics"
        self._period_s = period_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._write_on, name="metrics", daemon=True)
        self._thread.start()

    def text(self) -> str:
        """All processes' metrics, as `Metrics.text`."""
        others = [path for path in self._folder.glob("*.metrics") if path != self._file]
        return self._metrics.text(filter(None, map(_read, sorted(others))))

    def close(self) -> None:
        """Writes the last numbers."""
        self._stopping.set()
        self._thread.join()

    def _write_on(self) -> None:
        while not self._stopping.wait(self._period_s):
            self._write()
        self._write()

    def _write(self) -> None:
        temporary = self._file.with_suffix(".new")
        # The folder goes away with the parent, and the disk may be full: neither stops a server.
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(self._metrics.snapshot()), encoding="utf-8")
            temporary.replace(self._file)


def _read(path: Path) -> Snapshot | None:
    try:
        snapshot: Snapshot = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not _is_alive(int(path.stem)):
        # Counts stay true for ever; what a dead process had waiting does not.
        snapshot["gauges"] = {}
    return snapshot


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
