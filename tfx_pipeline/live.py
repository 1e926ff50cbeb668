"""One line a component: a spinner with time while it runs, then what became of it."""

from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

_MARKS = {"done": ("green", "done"), "cached": ("cyan", "cached"), "failed": ("red", "failed")}


class LiveView:
    """Shows the runner's events; on a pipe or a file it prints only what is finished."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._running = ""
        self._detail = ""
        self._spinner = Spinner("dots")
        self._live = Live(get_renderable=self._render, console=console, transient=True)

    def __enter__(self) -> "LiveView":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def show(self, event: dict[str, Any]) -> None:
        """Takes one event of `trainers.progress`."""
        kind = event["event"]
        if kind == "component" and event["state"] == "running":
            self._running, self._detail = event["name"], ""
            self._spinner = Spinner("dots")
        elif kind == "component":
            self._running = ""
            colour, word = _MARKS[event["state"]]
            self._console.print(
                f"  [{colour}]{word:<7}[/] {event['name']:<36} {event['seconds']:7.1f} s",
                highlight=False,
            )
        elif kind == "announcement":
            self._console.print(f"  {event['line']}", highlight=False, markup=False, soft_wrap=True)
        elif kind == "step":
            self._detail = event["step"]
        elif kind == "progress":
            self._detail = progress_line(event)

    def _render(self) -> RenderableType:
        if not self._running:
            return Group()
        self._spinner.update(text=Text(f" {self._running}  {self._detail}", style="bold"))
        return self._spinner


def progress_line(event: dict[str, Any]) -> str:
    """A training step in words."""
    busy = f"waits {event['input_stall']:.0%}"
    if event.get("mfu") is not None:
        busy += f" MFU {event['mfu']:.0%}"
    return (
        f"epoch {event['epoch']}/{event['epochs']} step {event['step']}/{event['steps']} "
        f"loss {event['loss']:.3f} top-1 {event['top1']:.1%} lr {event['learning_rate']:.2g} "
        f"{event['images_per_second']:.0f} images/s {busy} ETA {_time(event['eta_seconds'])}"
    )


def _time(seconds: float) -> str:
    """90 as `1:30`, 7200 as `2:00:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
