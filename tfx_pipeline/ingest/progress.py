"""A progress line on a terminal: count, images/s, time left."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

# None outside of `showing` and in the worker processes of other runners.
_advance: Callable[[int], None] | None = None


def tick(count: int = 1) -> None:
    """Advances the progress line, if any; thread-safe."""
    if _advance:
        _advance(count)


@contextmanager
def showing(doing: str, total: int | None) -> Iterator[None]:
    """Shows a progress line during the block if standard error is a terminal.

    Args:
      doing: the text of the line, e.g. `checking images`.
      total: number of images; None if unknown.
    """
    global _advance
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task
    from rich.progress import TimeRemainingColumn as Remaining
    from rich.text import Text

    class Rate(ProgressColumn):
        """Images per second, once known."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.0f} images/s" if task.speed else "")

    with _terminal() as file:
        console = Console(file=file)
        bar = Progress(
            doing,
            BarColumn(),
            MofNCompleteColumn(),
            Rate(),
            Remaining(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        task = bar.add_task("", total=total)

        def advance(count: int) -> None:
            bar.advance(task, count)

        _advance = advance
        try:
            with bar:
                yield
        finally:
            _advance = None


@contextmanager
def quiet_decoders(log: Path) -> Iterator[None]:
    """Redirects messages of C libraries about damaged images to a file.

    Those messages do not name the image; the ingest report does.
    """
    sys.stderr.flush()
    original = os.dup(2)
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(original, 2)
        os.close(original)


@contextmanager
def _terminal() -> Iterator[TextIO]:
    """A copy of standard error that `quiet_decoders` does not redirect."""
    with os.fdopen(os.dup(2), "w") as file:
        yield file
