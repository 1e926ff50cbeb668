"""A progress line for pictures that are checked inside this process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

# None outside `showing`, and always in the worker processes of other runners.
_advance: Callable[[], None] | None = None


def tick() -> None:
    """Counts one picture, where a line is shown."""
    if _advance:
        _advance()


@contextmanager
def showing(total: int) -> Iterator[None]:
    """Shows count, rate and time on a terminal while the block runs; elsewhere nothing."""
    global _advance
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task
    from rich.progress import TimeRemainingColumn as Remaining
    from rich.text import Text

    class Rate(ProgressColumn):
        """Images a second, once known."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.0f} images/s" if task.speed else "")

    console = Console(stderr=True)
    bar = Progress(
        "checking pictures",
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        Remaining(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task("", total=total)

    def advance() -> None:
        bar.advance(task)

    _advance = advance
    try:
        with bar:
            yield
    finally:
        _advance = None
