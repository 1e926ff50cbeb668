"""The output of `sightline lr` and `sightline tune`."""

import re
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from trainers.config import Config

_RANGE = re.compile(r"[^=]+=\s*(log|uniform|int|choice)\(")


def is_range(assignment: str) -> bool:
    """Whether `key=value` is a range to search rather than one value."""
    return _RANGE.match(assignment) is not None


def learning_rate_shown(
    config: Config, console: Console, *, low: float, high: float, steps: int
) -> None:
    """Prints the loss by learning rate and a suggested rate."""
    from trainers.search.lr_finder import find_learning_rate

    with console.status("lr"):
        curve = find_learning_rate(config, low=low, high=high, steps=steps)
    console.print(curve.to_text(), highlight=False, markup=False)


def tune_shown(
    config: Config,
    ranges: Sequence[str],
    out: Path,
    console: Console,
    *,
    trials: int,
    epochs: int,
    command: str,
    resume_anyway: bool = False,
) -> None:
    """Searches `ranges`, each `key=kind(...)`, and prints the trials, best first.

    `command` trains the same configuration; the best values are appended to it in the output.
    """
    from tfx_pipeline.cli.views.train import Bar, printer
    from trainers.search.tuner import tune

    space = {key.strip(): text.strip() for key, _, text in (one.partition("=") for one in ranges)}
    with Bar(console, config.name) as bar:
        found = tune(
            config,
            space,
            work_dir=out,
            trials=trials,
            epochs=epochs,
            report=bar.report,
            announce=printer(console),
            resume_anyway=resume_anyway,
        )
    shown = Table(box=None, pad_edge=False)
    shown.add_column("validation top-1", justify="right")
    for key in space:
        shown.add_column(key, justify="right")
    for trial in found:
        score = "failed" if trial.top1 is None else f"{trial.top1:.2%}"
        values = (trial.values[key] for key in space)
        shown.add_row(score, *(f"{v:.4g}" if isinstance(v, float) else str(v) for v in values))
    console.print(shown)
    best = " ".join(f"{key}={value}" for key, value in found[0].values.items())
    console.print(f"next: {command} {best}", soft_wrap=True, highlight=False, markup=False)
