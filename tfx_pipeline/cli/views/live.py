"""Progress on the console: a spinner while a component runs, then one line with its result."""

import time
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

_MARKS = {"done": ("green", "done"), "cached": ("cyan", "cached"), "failed": ("red", "failed")}


#: Seconds between two lines of training progress where the output is not a terminal.
LOG_EVERY_S = 30.0


class ProgressLog:
    """Prints training progress as log lines: at the end of each epoch and at intervals.

    Args:
      console: to print on.
      every_s: seconds between lines within an epoch.
    """

    def __init__(self, console: Console, every_s: float = LOG_EVERY_S) -> None:
        self._console, self._every_s = console, every_s
        self.restart()

    def restart(self) -> None:
        """Restarts the interval."""
        self._logged = time.monotonic()

    def show(self, event: dict[str, Any], prefix: str = "") -> None:
        """Prints a `trainers.training.epoch.Progress` event if a line is due."""
        if event["step"] == event["steps"] or time.monotonic() - self._logged >= self._every_s:
            self.restart()
            line = f"{prefix}{progress_line(event)}"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)


class LiveView:
    """Shows the events of the runner; without a terminal, as log lines."""

    def __init__(self, console: Console, *, log_every_s: float = LOG_EVERY_S) -> None:
        self._console = console
        self._log = ProgressLog(console, log_every_s)
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
        """Shows one event of `trainers.training.progress`."""
        kind = event["event"]
        if kind == "component" and event["state"] == "running":
            self._running, self._detail = event["name"], ""
            self._log.restart()
            self._spinner = Spinner("dots")
        elif kind == "component":
            self._running = ""
            color, word = _MARKS[event["state"]]
            self._console.print(
                f"  [{color}]{word:<7}[/] {event['name']:<36} {event['seconds']:7.1f} s",
                highlight=False,
            )
        elif kind == "announcement":
            self._console.print(f"  {event['line']}", highlight=False, markup=False, soft_wrap=True)
        elif kind == "step":
            self._detail = event["step"]
        elif kind == "progress":
            self._detail = progress_line(event)
            if not self._console.is_terminal:
                self._log.show(event, f"  {self._running}  ")

    def _render(self) -> RenderableType:
        if not self._running:
            return Group()
        self._spinner.update(text=Text(f" {self._running}  {self._detail}", style="bold"))
        return self._spinner


def progress_line(event: dict[str, Any]) -> str:
    """One line of text for a training step."""
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
