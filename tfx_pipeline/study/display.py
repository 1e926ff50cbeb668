"""The progress of a study on the console: a line with rate and ETA, or log lines."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from core import figures
from tfx_pipeline.study.state import State

#: Seconds between two lines of progress where the output is not a terminal.
LOG_EVERY_S = 30.0


class Display:
    """Shows the steps of a study.

    Args:
      console: to print on.
      log_every_s: seconds between lines within a step where the console is not a terminal.
    """

    def __init__(self, console: Console, *, log_every_s: float = LOG_EVERY_S) -> None:
        self._console, self._every_s = console, log_every_s
        self._status: Status | None = None
        self._name = self._step = ""
        self._logged = 0.0

    def line(self, text: str) -> None:
        """Prints a line."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def plan(self, rows: Sequence[tuple[str, int, int, int, float]], state: State) -> None:
        """Prints the trainings: title, runs, epochs, epochs of the recipe, seconds."""
        table = Table(box=None, pad_edge=False)
        for name in ("training", "runs", "epochs", "of the recipe's", "estimated"):
            table.add_column(name, justify="left" if name == "training" else "right")
        for title, runs, epochs, full, seconds in rows:
            took = figures.duration(seconds) if epochs else "left out"
            table.add_row(escape(title), str(runs), str(epochs), str(full), took)
        self._console.print(table)
        self.line(
            f"budget {figures.duration(state.values['budget_s'])}, used "
            f"{figures.duration(state.spent_s)}; the rest is for compression, timing and the report"
        )

    def begin(self, name: str) -> None:
        """Shows that a step starts."""
        self._name, self._step, self._logged = name, "", 0.0
        if self._console.is_terminal:
            self._status = self._console.status(escape(name))
            self._status.start()

    def end(self, name: str, seconds: float) -> None:
        """Prints that a step is done."""
        self.stop()
        self.line(f"  done    {name:<40} {figures.duration(seconds):>12}")

    def stop(self) -> None:
        """Removes the line of the present step."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def show(self, event: dict[str, Any], state: State) -> None:
        """Shows one event of a child process."""
        kind = event["event"]
        if kind == "note":
            self.line(f"  {self._name}: {event['line']}")
        elif kind == "step":
            self._step = event["step"]
        elif kind == "progress":
            self._step = _progress(event)
        text = f"{self._name}  {self._step}  {_clock(state)}"
        if self._status is not None:
            self._status.update(escape(text))
        elif not self._console.is_terminal:
            is_end = kind == "progress" and event["step"] == event["steps"]
            if is_end or state.spent_s - self._logged >= self._every_s:
                self._logged = state.spent_s
                self.line(f"  {text}")


def _progress(event: dict[str, Any]) -> str:
    return (
        f"epoch {event['epoch']}/{event['epochs']} step {event['step']}/{event['steps']} loss "
        f"{event['loss']:.3f} top-1 {event['top1']:.1%} {event['images_per_second']:.0f} images/s "
        f"ETA {figures.duration(event['eta_seconds'])}"
    )


def _clock(state: State) -> str:
    budget = state.values["budget_s"]
    return f"{figures.duration(state.spent_s)} of {figures.duration(budget)}"
