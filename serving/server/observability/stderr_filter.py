"""Copies lines from stdin to stderr, with times and a rate limit; see `observability.logs`.

It runs by its path and imports nothing of Sightline, as it must start in milliseconds.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable

#: Lines per that many seconds; the last of the dropped ones are written at the end.
MOST_LINES = 20
SECONDS = 10.0


def copy(
    lines: Iterable[bytes],
    write: Callable[[str], object],
    *,
    clock: Callable[[], float] = time.time,
) -> None:
    """Copies the lines until there are no more.

    Args:
      lines: from C libraries.
      write: receives a line with its end.
      clock: returns seconds since 1970.
    """
    began, count = clock(), 0
    left_out = 0
    last: deque[str] = deque(maxlen=MOST_LINES)
    for line in lines:
        now = clock()
        if now - began >= SECONDS:
            if left_out:
                write(_stamped(now, f"{left_out} lines of C libraries were left out"))
            began, count, left_out = now, 0, 0
            last.clear()
        count += 1
        text = _stamped(now, line.decode("utf-8", "backslashreplace").rstrip()[:2000])
        if count <= MOST_LINES:
            write(text)
        else:
            left_out += 1
            last.append(text)
    # The last lines of a process that aborted.
    for text in last:
        write(text)


def _stamped(seconds: float, text: str) -> str:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{stamp}.{int(seconds % 1 * 1000):03d}Z WARNING native: {text}\n"


def main() -> None:
    """Copies stdin to stderr."""

    def write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()

    copy(iter(sys.stdin.buffer.readline, b""), write)


if __name__ == "__main__":
    main()
