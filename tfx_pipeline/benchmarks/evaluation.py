"""Times `sightline evaluate` and `sightline compare` on synthetic predictions.

    figures = measure(images=50_000, classes=1_000, slices=12)
    Console().print(view(figures))

Each command runs in a separate process, so its memory is that of a user's run.
"""

import resource
import runpy
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.table import Table

from core import processes
from core.bundle import SAVED_MODEL
from serving.benchmark.variants import environment
from trainers.evaluation.predictions import Predictions, write_table

#: The targets for 50,000 images of 1,000 classes with 12 slice keys on two cores.
TARGET_SECONDS, TARGET_GB = 180.0, 4.0
_SKILL = 5.5


def measure(
    *,
    images: int = 50_000,
    classes: int = 1_000,
    slices: int = 12,
    on_progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Seconds and memory of the two commands.

    Args:
      images: rows of each table, at least 100.
      classes: at least 2.
      slices: keys, of 3 to 6 values each.
      on_progress: receives what is measured next.

    Returns:
      JSON-able: `machine`, `images`, `classes`, `slices`, and `commands`, name -> `seconds`,
      `cpu_seconds` and `peak_gb` of the command's process.

    Raises:
      ChildError: a command failed.
      ValueError: an argument is too small.
    """
    if images < 100 or classes < 2 or slices < 0:
        raise ValueError(
            "expected at least 100 images, 2 classes and 0 slices, got "
            f"{images}, {classes} and {slices}"
        )
    found: dict[str, Any] = {
        "machine": environment(),
        "images": images,
        "classes": classes,
        "slices": slices,
        "commands": {},
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tables = []
        for seed in (0, 1):
            on_progress(f"writing table {seed + 1} of 2")
            path = folder / f"model{seed}.tfrecord"
            _write(path, (images, classes, slices), seed)
            tables.append(str(path))
        out = str(folder / "out")
        for name, arguments in (
            ("evaluate", (tables[0], "--out", out)),
            ("compare", (*tables, "--out", f"{out}/compare.json")),
        ):
            on_progress(name)
            found["commands"][name] = _timed(name, *arguments)
    return found


def view(found: dict[str, Any]) -> RenderableType:
    """A table of the commands, with the targets for the full size."""
    machine = found["machine"]
    title = (
        f"{machine['cpu']}, {machine['cores']} cores; {found['images']:,} images, "
        f"{found['classes']:,} classes, {found['slices']} slice keys, 1,000 resamples"
    )
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("command", "seconds", "CPU seconds", "peak GB"):
        table.add_column(name, justify="left" if name == "command" else "right")
    for name, row in found["commands"].items():
        numbers = (row["seconds"], row["cpu_seconds"])
        table.add_row(name, *(f"{one:.1f}" for one in numbers), f"{row['peak_gb']:.2f}")
    table.add_row(
        "target (50,000 x 1,000, 12 keys)", f"< {TARGET_SECONDS:.0f}", "", f"< {TARGET_GB:.0f}"
    )
    return table


def _write(path: Path, sizes: tuple[int, int, int], seed: int) -> None:
    """A table of a classifier that is right on about two images of three."""
    images, classes, slices = sizes
    shared = np.random.default_rng(0)  # Labels and slices are those of both tables.
    labels = shared.integers(0, classes, images).astype(np.int32)
    columns = {}
    for key in range(slices):
        values = np.array([f"value{v}" for v in range(3 + key % 4)], dtype=object)
        columns[f"slice/key{key:02d}"] = values[shared.integers(0, len(values), images)]
    random = np.random.default_rng(seed + 1)
    scores = random.standard_normal((images, classes), dtype=np.float32) * 1.5
    scores[np.arange(images), labels] += _SKILL
    scores -= scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=1, keepdims=True)
    ids = np.array([f"{i:064x}" for i in range(images)], dtype=object)
    names = tuple(f"class {i}" for i in range(classes))
    write_table(path, {SAVED_MODEL: Predictions(ids, labels, scores, columns)}, names)


def _timed(*arguments: str) -> dict[str, float]:
    command = processes.module_command("tfx_pipeline.benchmarks.evaluation", *arguments)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    printed = processes.output_of(command, changes={})
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": seconds,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_gb": int(printed.splitlines()[-1]) / 1e9,
    }


def _run(arguments: list[str]) -> None:
    """Runs one command in this process, and prints its peak memory in bytes."""
    sys.argv[1:] = arguments
    try:
        runpy.run_module("tfx_pipeline.cli", run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
    print(processes.peak_memory_bytes())


if __name__ == "__main__":
    _run(sys.argv[1:])
