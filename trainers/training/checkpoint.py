"""Training state that survives SIGKILL: weights, optimizer, step and history, saved together."""

import csv
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from core.files import write_json, write_text, writing
from core.locks import LockHeldError, file_lock
from trainers.keras import keras

Row = dict[str, float]

_KEPT = 2
_PROBE = "probe"


def write_history(path: Path, history: list[Row]) -> None:
    """Writes the epochs as CSV, one row each; nothing for an empty history."""
    if not history:
        return
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(history[0]))
    writer.writeheader()
    writer.writerows(history)
    write_text(path, text.getvalue())


class CheckpointError(RuntimeError):
    """A state that does not fit, or cannot be saved; the message names its folder."""


class Checkpoints:
    """The last and the best state of one training run, in `directory`.

    Epoch and step are variables inside the checkpoint, so that they and the weights can never
    disagree; `history.json` is written first and truncated to that epoch on restore.

    Args:
      directory: created if missing.
      model: whose weights `best-*` holds.
      state: everything that a resumed run needs, by name; trackable by `tf.train.Checkpoint`.
      source: the folder to read from if not `directory`: all workers read the chief's, as their own
        states may differ after a kill between the saves of two workers.
    """

    def __init__(
        self,
        directory: Path,
        model: keras.Model,
        state: Mapping[str, Any],
        *,
        source: Path | None = None,
    ) -> None:
        self.directory = Path(directory)
        self._source = source or self.directory
        self.directory.mkdir(parents=True, exist_ok=True)
        self._epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(epoch=self._epoch, step=self._step, **state),
            str(self.directory / "last"),
            max_to_keep=_KEPT,
        )
        self._best = tf.train.Checkpoint(model=model)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Locks `directory` for this process; the lock ends with the process.

        Raises:
          CheckpointError: another process trains into it.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(file_lock(self.directory / ".lock", wait_s=0))
            except LockHeldError as error:
                raise CheckpointError(
                    f"{error.holder} trains into {self.directory}; wait for it, or train into "
                    "another folder"
                ) from None
            yield

    @property
    def step(self) -> int:
        """Steps done of the epoch after the history that `restore` returned."""
        return int(self._step.numpy())

    def restore(self) -> list[Row] | None:
        """Loads the last state and returns the history up to it; None if there is no state.

        Raises:
          CheckpointError: it is of another network or optimizer.
        """
        latest = tf.train.latest_checkpoint(str(self._source / "last"))
        if not latest:
            return None
        try:
            self._manager.checkpoint.restore(latest).assert_consumed()
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            raise CheckpointError(
                f"{self._source} holds the state of another network or optimizer than this version "
                f"makes of the same configuration; delete the folder to train again, or use the "
                f"version that made it ({str(error).splitlines()[0][:200]})"
            ) from error
        rows: list[Row] = json.loads((self._source / "history.json").read_text())
        return rows[: int(self._epoch.numpy())]

    @property
    def is_started(self) -> bool:
        """Whether there is a state to restore."""
        return tf.train.latest_checkpoint(str(self._source / "last")) is not None

    def adopt(self, other: Path) -> None:
        """Copies the state in `other`, which does not change, into this empty folder.

        Raises:
          CheckpointError: the disk is full, or cannot be written.
        """
        with self._writing():
            (self.directory / "last").mkdir(exist_ok=True)
            files = [*other.glob("best-*.*"), *other.glob(f"{_PROBE}.*"), other / "history.json"]
            files += other.glob("last/ckpt-*")
            # Last: this file makes the others a state.
            for file in [*files, other / "last" / "checkpoint"]:
                if file.is_file():
                    shutil.copyfile(file, self.directory / file.relative_to(other))
        # A manager knows only the checkpoints that existed when it was created.
        self._manager = tf.train.CheckpointManager(
            self._manager.checkpoint, str(self.directory / "last"), max_to_keep=_KEPT
        )

    def save_within(self, history: list[Row], step: int) -> None:
        """Saves the state after `step` steps of the epoch that follows `history`.

        Raises:
          CheckpointError: the disk is full, or cannot be written; the previous state is kept.
        """
        self._write(history, step)

    def save(self, history: list[Row]) -> None:
        """Saves the state after the epoch that is `history[-1]`; raises as `save_within`."""
        self._write(history, 0)

    def save_best(self, epoch: int) -> None:
        """Saves the present weights of the model as those of `epoch`, counted from 1."""
        with self._writing():
            self._best.write(str(self.directory / f"best-{epoch}"))

    def save_probe(self, facts: Mapping[str, Any], whole: Sequence[np.ndarray] = ()) -> None:
        """Saves the present weights of the model as those of the linear probe, with `facts`.

        Args:
          facts: to be read by `read_probe`.
          whole: kernel and bias of the same probe on train and validation, for `whole_probe`.
        """
        with self._writing():
            self._best.write(str(self.directory / _PROBE))
            with writing(self.directory / f"{_PROBE}.npz") as file:
                np.savez(file, *whole)
        # Written last: a probe without this file is made again.
        self.keep_probe(facts)

    def keep_probe(self, facts: Mapping[str, Any]) -> None:
        """Replaces the `facts` of the linear probe."""
        with self._writing():
            write_json(self.directory / f"{_PROBE}.json", dict(facts))

    def read_probe(self) -> dict[str, Any] | None:
        """The facts that `save_probe` saved; None if there is no probe."""
        path = self._source / f"{_PROBE}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def whole_probe(self) -> list[np.ndarray]:
        """Kernel and bias of the probe on train and validation; empty if there is none."""
        path = self._source / f"{_PROBE}.npz"
        if not path.is_file():
            return []
        with np.load(path) as found:
            return [found[name] for name in found.files]

    def restore_probe(self) -> None:
        """Loads the weights that `save_probe` saved."""
        self._best.read(self.probe_prefix).expect_partial()

    @property
    def probe_prefix(self) -> str:
        """The checkpoint prefix of the linear probe's weights."""
        return str(self._source / _PROBE)

    def restore_best(self, history: list[Row]) -> int:
        """Loads the weights of the best epoch so far and returns its number, counted from 1."""
        epoch = best_epoch(history)
        self._best.read(str(self._source / f"best-{epoch}")).expect_partial()
        # TensorFlow's half-written files are in a folder with a similar name.
        for stale in self.directory.glob("best-*.*"):
            if stale.name.split(".")[0] != f"best-{epoch}" and stale.is_file():
                stale.unlink()
        return epoch

    def _write(self, history: list[Row], step: int) -> None:
        with self._writing():
            write_json(self.directory / "history.json", history, indent=None)
            self._epoch.assign(len(history))
            self._step.assign(step)
            self._manager.save()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            reason = str(error).splitlines()[0][:200]
            raise CheckpointError(
                f"the training state could not be saved in {self.directory} ({reason}); free space "
                "there and start again: the run resumes from the state that was saved before"
            ) from error


def saved_position(directory: Path) -> tuple[int, int] | None:
    """Epochs done and steps of the next one in a folder's last state; None without a state."""
    latest = tf.train.latest_checkpoint(str(directory / "last"))
    if not latest:
        return None
    try:
        reader = tf.train.load_checkpoint(latest)
        names = (f"{name}/.ATTRIBUTES/VARIABLE_VALUE" for name in ("epoch", "step"))
        epoch, step = (int(reader.get_tensor(name)) for name in names)
    except (ValueError, tf.errors.OpError):
        return None
    return epoch, step


def best_epoch(history: list[Row]) -> int:
    """The epoch, counted from 1, of the highest validation top-1; ties go to the lower loss."""
    ranked = max(
        range(len(history)), key=lambda i: (history[i]["val_top1"], -history[i]["val_loss"])
    )
    return ranked + 1
