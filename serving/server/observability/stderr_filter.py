"""Copies lines from stdin to stderr, with times and a limit; see `observability.logs`.

Run by its path, without anything else of Sightline: it must start in milliseconds.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable

#: Lines that are written in so many seconds; the last of those left out are written at the end.
MOST_LINES = 20
SECONDS = 10.0


def copy(
    lines: Iterable[bytes],
    write: Callable[[str], object],
    *,
    clock: Callable[[], float] = time.time,
) -> None:
    """Writes the lines until there are no more.

    Args:
      lines: as C libraries write them.
      write: takes a line with its end.
      clock: seconds since 1970.
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
    # What a process said before it was aborted.
    for text in last:
        write(text)


def _stamped(seconds: float, text: str) -> str:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{stamp}.{int(seconds % 1 * 1000):03d}Z WARNING native: {text}\n"


def main() -> None:
    """From stdin to stderr."""

    def write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()

    copy(iter(sys.stdin.buffer.readline, b""), write)


if __name__ == "__main__":
    main()
