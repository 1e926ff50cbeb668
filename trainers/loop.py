"""The one training loop.

    config = override(recipes.get("digits_cnn")(), ["data.dir=data/digits"])
    result = fit(config, Path("work/digits_cnn"))

An epoch trains on the train split, evaluates every validation example exactly once, and saves;
a run that was killed goes on from its last whole epoch and sees the data it would have seen.
The best epoch is chosen by validation, never by test.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from trainers.checkpoint import (
    Checkpoints,
    Row,
    best_epoch,
    weights_path,
    write_history,
    write_json,
)
from trainers.complexity import complexity
from trainers.config import Config, config_hash, from_dict, to_dict, validate
from trainers.data import pipeline
from trainers.data.features import DatasetInfo
from trainers.keras import keras
from trainers.optim import build_optimizer
from trainers.predictions import Predictions, predict
from trainers.registry import models, tasks
from trainers.strategy import is_chief, make_strategy


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the epoch and the remedy."""


@dataclass(frozen=True)
class Progress:
    """Where training is: `epoch` and `step` count from 1, `loss` and `top1` are of this epoch."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    top1: float
    images_per_second: float
    eta_seconds: float


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Trained:
    """A trained model: the best epoch's weights, and one row of figures an epoch."""

    model: keras.Model
    config: Config
    info: DatasetInfo
    history: list[Row]
    best_epoch: int


def fit(config: Config, work_dir: Path, *, report: Report | None = None) -> Trained:
    """Trains `config`, or goes on where `work_dir` was left, and returns the best epoch.

    Args:
      config: `data.dir` holds records.
      work_dir: checkpoints live here, under the configuration's and the data's fingerprint.
      report: called about twice a second with the progress.

    Raises:
      ConfigError: a value is out of range.
      DatasetError: no data set in `data.dir`.
      DataError: a record that cannot be used; names the file and the record.
      TrainingError: the loss is not finite.
    """
    validate(config)
    task = tasks.get(config.task)
    models.get(config.model.name)  # A mistyped name is told before any data is read.
    info = DatasetInfo.load(Path(config.data.dir))
    strategy = make_strategy(config.train)
    keras.utils.set_random_seed(config.train.seed)
    steps = pipeline.steps_per_epoch(config, info)
    with strategy.scope():
        model = task.build(config, info)
        optimizer = build_optimizer(config.optim, steps * config.train.epochs)
        model.compile(optimizer=optimizer, loss=task.loss(config), metrics=task.metrics())
        where = work_dir / f"{config_hash(config)}-{info.fingerprint[:8]}"
        if not is_chief(strategy):
            # Every worker must take part in saving; only the chief's files are kept.
            where = where / f"worker-{strategy.cluster_resolver.task_id}"
        checkpoints = Checkpoints(where, model, optimizer)
        history = checkpoints.restore()
    forward = Forward(model, config, strategy)
    for epoch in range(len(history), config.train.epochs):
        row = _train_epoch(config, info, model, strategy, epoch=epoch, report=report)
        answers = predict_split(forward, config, info, "validation")
        if not np.isfinite(answers.scores).all():
            raise _diverged(config, epoch, "the validation scores are not finite")
        found = task.evaluate(answers)
        row.update(val_loss=found["loss"], val_top1=found["top1"])
        history.append(row)
        checkpoints.save(history, best=best_epoch(history) == len(history))
    best = checkpoints.restore_best(history)
    return Trained(model, config, info, history, best)


def _train_epoch(
    config: Config,
    info: DatasetInfo,
    model: keras.Model,
    strategy: tf.distribute.Strategy,
    *,
    epoch: int,
    report: Report | None,
) -> Row:
    steps = pipeline.steps_per_epoch(config, info)
    if any(isinstance(layer, keras.layers.Dropout) for layer in model.layers):
        # Starts dropout's random state anew, which no checkpoint holds: a resumed run draws the
        # masks that an uninterrupted one draws.
        keras.utils.set_random_seed(config.train.seed)
    started = time.perf_counter()
    callbacks: list[Any] = [keras.callbacks.TerminateOnNaN()]
    if report is not None:
        callbacks.append(_Reporter(report, config, epoch, steps))
    with pipeline.named_errors(config, info, "train"):
        result = model.fit(
            _batches(config, info, strategy, epoch),
            epochs=1,
            steps_per_epoch=steps,
            verbose=0,
            callbacks=callbacks,
        )
    loss = float(result.history["loss"][-1])
    if not np.isfinite(loss):
        raise _diverged(config, epoch, f"the loss became {loss}")
    return {
        "epoch": epoch + 1,
        "loss": loss,
        "top1": float(result.history["top1"][-1]),
        # Under a strategy it is a distributed variable, which `float` does not take.
        "learning_rate": float(tf.convert_to_tensor(model.optimizer.learning_rate)),
        "images_per_second": steps * config.train.global_batch / (time.perf_counter() - started),
    }


def _diverged(config: Config, epoch: int, what: str) -> TrainingError:
    return TrainingError(
        f"{what} in epoch {epoch + 1}; lower optim.learning_rate "
        f"(now {config.optim.learning_rate}) or set optim.clip_norm=1"
    )


def _batches(
    config: Config, info: DatasetInfo, strategy: tf.distribute.Strategy, epoch: int
) -> Any:
    if config.train.strategy == "one":
        return pipeline.train_batches(config, info, epoch=epoch)
    return strategy.distribute_datasets_from_function(
        lambda context: pipeline.train_batches(config, info, epoch=epoch, input_context=context)
    )


class _Reporter(keras.callbacks.Callback):
    """Turns Keras batch ends into `Progress`, at most twice a second."""

    def __init__(self, report: Report, config: Config, epoch: int, steps: int) -> None:
        super().__init__()
        self._report, self._config, self._epoch, self._steps = report, config, epoch, steps
        self._started = self._last = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        now = time.perf_counter()
        if now - self._last < 0.5 and batch + 1 < self._steps:
            return
        self._last, logs = now, logs or {}
        rate = (batch + 1) / (now - self._started)
        left = self._steps * (self._config.train.epochs - self._epoch) - batch - 1
        self._report(
            Progress(
                epoch=self._epoch + 1,
                epochs=self._config.train.epochs,
                step=batch + 1,
                steps=self._steps,
                loss=float(logs.get("loss", np.nan)),
                top1=float(logs.get("top1", np.nan)),
                images_per_second=rate * self._config.train.global_batch,
                eta_seconds=left / rate,
            )
        )


class Forward:
    """What a model answers, on all replicas of this worker; traced once, however often called."""

    def __init__(
        self, model: keras.Model, config: Config, strategy: tf.distribute.Strategy | None = None
    ) -> None:
        self._task = tasks.get(config.task)
        self._on: Any = strategy or tf.distribute.get_strategy()
        self._local = max(self._on.num_replicas_in_sync // max(_workers(self._on), 1), 1)
        self._run = tf.function(lambda images: model(images, training=False))
        #: Images a call: `eval.batch`, rounded up to a multiple of the replicas.
        self.batch = -(-config.eval.batch // self._local) * self._local

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 (B,H,W,3), B = `batch`, to float32 scores (B,N)."""
        if self._local == 1:
            return self._task.scores(self._run(tf.constant(images)))
        shares = np.split(images, self._local)
        values = self._on.experimental_distribute_values_from_function(
            lambda context: tf.constant(shares[context.replica_id_in_sync_group % self._local])
        )
        outputs = self._on.experimental_local_results(self._on.run(self._run, args=(values,)))
        return np.concatenate([self._task.scores(part) for part in outputs])


def predict_split(forward: Forward, config: Config, info: DatasetInfo, split: str) -> Predictions:
    """What a model answers to every example of `split`, each counted once on any batch size.

    Raises:
      DataError: a record that cannot be used; names the file and the record.
    """
    with pipeline.named_errors(config, info, split):
        return predict(forward, pipeline.eval_batches(config, info, split, batch=forward.batch))


def _workers(strategy: tf.distribute.Strategy) -> int:
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.cluster_spec():
        return 1
    return len(resolver.cluster_spec().as_dict().get("worker", [0]))


@dataclass(frozen=True)
class FineTuner:
    """`trainers.compress.FineTune`: trains a given model in place on the same data."""

    config: Config
    info: DatasetInfo
    report: Report | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps an epoch."""
        return pipeline.steps_per_epoch(self.config, self.info)

    def __call__(
        self,
        model: keras.Model,
        *,
        epochs: int,
        learning_rate: float,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> None:
        """Trains for `epochs` with a cosine schedule from `learning_rate`, the last epoch kept."""
        config = replace(
            self.config,
            optim=replace(
                self.config.optim, learning_rate=learning_rate, schedule="cosine", warmup_steps=0
            ),
            train=replace(self.config.train, epochs=epochs, strategy="one"),
        )
        task = tasks.get(config.task)
        optimizer = build_optimizer(config.optim, self.steps_per_epoch * epochs)
        model.compile(optimizer=optimizer, loss=task.loss(config), metrics=task.metrics())
        for epoch in range(epochs):
            extra = list(callbacks)
            if self.report is not None:
                extra.append(_Reporter(self.report, config, epoch, self.steps_per_epoch))
            with pipeline.named_errors(config, self.info, "train"):
                # Epochs after the recipe's own, so that the order of images is a new one.
                batches = pipeline.train_batches(
                    config, self.info, epoch=self.config.train.epochs + epoch
                )
                model.fit(
                    batches,
                    epochs=epoch + 1,
                    initial_epoch=epoch,
                    steps_per_epoch=self.steps_per_epoch,
                    verbose=0,
                    callbacks=extra,
                )


def save_trained(trained: Trained, directory: Path) -> None:
    """Writes what `load_trained` reads: weights, configuration, history, the chosen epoch."""
    directory.mkdir(parents=True, exist_ok=True)
    tf.train.Checkpoint(model=trained.model).write(weights_path(directory))
    write_json(directory / "config.json", to_dict(trained.config))
    write_history(directory / "history.csv", trained.history)
    write_json(directory / "history.json", trained.history)
    (directory / "dataset.json").write_text(trained.info.to_json(), encoding="utf-8")
    chosen = trained.history[trained.best_epoch - 1]
    # Written last: its presence says that the folder is whole.
    cost = {
        "parameters": trained.model.count_params(),
        "multiply_adds": complexity(trained.model).multiply_adds,
    }
    write_json(directory / "trained.json", {"best_epoch": trained.best_epoch, **cost, **chosen})


def load_trained(directory: Path) -> Trained:
    """Reads what `save_trained` wrote.

    Raises:
      FileNotFoundError: the folder is not a trained model; names the verb that makes one.
    """
    if not (directory / "trained.json").is_file():
        raise FileNotFoundError(
            f"{directory} holds no trained model; make one with `sightline train RECIPE --out "
            f"{directory}`"
        )
    config = from_dict(json.loads((directory / "config.json").read_text(encoding="utf-8")))
    info = DatasetInfo.load(directory)
    model = tasks.get(config.task).build(config, info)
    tf.train.Checkpoint(model=model).read(weights_path(directory)).expect_partial()
    history = json.loads((directory / "history.json").read_text(encoding="utf-8"))
    return Trained(model, config, info, history, best_epoch(history))
