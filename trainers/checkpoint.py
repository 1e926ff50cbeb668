"""Training state that survives kill -9: weights, optimiser, epoch and history, saved together."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import tensorflow as tf

from trainers.keras import keras

Row = dict[str, float]


def write_atomically(path: Path, text: str) -> None:
    """Writes `text` under a temporary name and renames it onto `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_history(path: Path, history: list[Row]) -> None:
    """Writes the epochs as CSV, one row each; nothing for an empty history."""
    if not history:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(history[0]))
        writer.writeheader()
        writer.writerows(history)
    os.replace(temporary, path)


class Checkpoints:
    """The last and the best state of one training run, in `directory`.

    The epoch is a variable inside the checkpoint, so that weights and epoch can never disagree;
    `history.json` is written first and cut back to that epoch on restore.
    """

    def __init__(
        self, directory: Path, model: keras.Model, optimizer: keras.optimizers.Optimizer
    ) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(model=model, optimizer=optimizer, epoch=self._epoch),
            str(self.directory / "last"),
            max_to_keep=2,
        )
        self._best = tf.train.Checkpoint(model=model)

    def restore(self) -> list[Row]:
        """Loads the last state, if there is one, and returns the history up to it."""
        if not self._manager.latest_checkpoint:
            return []
        # The optimiser's slots come into being at the first step: not all match yet.
        self._manager.checkpoint.restore(self._manager.latest_checkpoint).expect_partial()
        rows: list[Row] = json.loads((self.directory / "history.json").read_text())
        return rows[: int(self._epoch.numpy())]

    def save(self, history: list[Row], *, best: bool) -> None:
        """Saves the state after the epoch that is `history[-1]`."""
        if best:
            self._best.write(str(self.directory / f"best-{len(history)}"))
        write_atomically(self.directory / "history.json", json.dumps(history))
        self._epoch.assign(len(history))
        self._manager.save()

    def restore_best(self, history: list[Row]) -> int:
        """Loads the weights of the best epoch so far and returns its number, counted from 1."""
        epoch = best_epoch(history)
        self._best.read(str(self.directory / f"best-{epoch}")).expect_partial()
        for stale in self.directory.glob("best-*"):
            if stale.name.split(".")[0] != f"best-{epoch}":
                stale.unlink()
        return epoch


def best_epoch(history: list[Row]) -> int:
    """The epoch, counted from 1, of the highest validation top-1; ties go to the lower loss."""
    ranked = max(
        range(len(history)), key=lambda i: (history[i]["val_top1"], -history[i]["val_loss"])
    )
    return ranked + 1


def weights_path(directory: Path) -> str:
    """The checkpoint prefix of a trained model's weights."""
    return str(Path(directory) / "weights" / "best")


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically."""
    write_atomically(path, json.dumps(value, indent=2) + "\n")
