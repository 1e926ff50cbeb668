"""TensorBoard event files of a run: `tensorboard --logdir WORK/<run>/events`.

Training and validation are two runs, `train` and `validation`, so that both curves of a figure are
in one chart. The x axis is the global step.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorflow as tf

if TYPE_CHECKING:
    from trainers.training.epoch import Progress

_VALIDATION = "val_"
# The attributes of a progress report that are figures rather than positions.
_FIGURES = ("loss", "top1", "learning_rate", "images_per_second", "input_stall", "mfu")


class EventLog:
    """Scalars in `directory/train` and `directory/validation`, on disk after every call.

    Args:
      directory: created at the first figure. A resumed run adds a file to it.
      every_seconds: minimum time between two writes of `progress`.
    """

    def __init__(self, directory: Path, *, every_seconds: float = 10.0) -> None:
        self._directory, self._every = Path(directory), every_seconds
        self._writers: dict[str, Any] = {}
        self._last = -float("inf")

    def write(self, row: Mapping[str, Any], step: int) -> None:
        """Writes an epoch's figures as `epoch/<name>`.

        Args:
          row: name -> value; a name that begins with `val_` goes to the validation run without it.
            Values that are not numbers are left out.
          step: the global step that the epoch ended with.
        """
        for name, value in row.items():
            is_validation = name.startswith(_VALIDATION)
            run = "validation" if is_validation else "train"
            self._scalar(run, f"epoch/{name.removeprefix(_VALIDATION)}", value, step)

    def progress(self, progress: "Progress") -> None:
        """Writes the figures within an epoch as `step/<name>`, or nothing if it is too soon.

        Can be the `report` of `trainers.loop.fit`.
        """
        now = time.monotonic()
        if now - self._last < self._every:
            return
        self._last = now
        step = (progress.epoch - 1) * progress.steps + progress.step
        for name in _FIGURES:
            self._scalar("train", f"step/{name}", getattr(progress, name), step)

    def close(self) -> None:
        """Closes the files; later figures are written to new ones."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _scalar(self, run: str, tag: str, value: Any, step: int) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return
        if run not in self._writers:
            self._writers[run] = tf.summary.create_file_writer(str(self._directory / run))
        with self._writers[run].as_default():  # Its end flushes.
            tf.summary.scalar(tag, float(value), step=step)
