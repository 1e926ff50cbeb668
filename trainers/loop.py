"""The one training loop.

    config = override(recipes.get("digits_cnn")(), ["data.dir=data/digits"])
    result = fit(config, Path("work/digits_cnn"))

An epoch trains on the train split, evaluates every validation example exactly once, and saves;
within long epochs the state is saved too. A run that was killed resumes at its last saved step, on
the same data and with the same result as without the interruption. The best epoch is chosen on the
validation split, never on the test split.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from trainers.config import Config
from trainers.config_rules import validate
from trainers.data import pipeline
from trainers.data.features import DatasetInfo
from trainers.distillation.teacher import Teacher
from trainers.distillation.teacher_cache import cached_logits, with_teacher
from trainers.distributed.strategy import from_chief, is_chief, make_strategy, own_folder
from trainers.evaluation.predictions import Predictions
from trainers.identity.file_index import INDEX_FILE, FileIndex
from trainers.keras import keras
from trainers.optim import build_optimizer, warmup_note
from trainers.profiling.complexity import complexity
from trainers.profiling.hardware import peak_flops
from trainers.registry import models, tasks
from trainers.training.arithmetic import in_float32, precision, synchronized
from trainers.training.checkpoint import Checkpoints, Row, best_epoch
from trainers.training.epoch import EpochJob, Progress, Report, TrainingError, diverged, run_epoch
from trainers.training.forward import Forward, predict_split
from trainers.training.probe_stage import ProbeStage
from trainers.training.run_folder import Identity, find_resumable, identify
from trainers.training.step import TrainStep
from trainers.training.trained import Trained
from trainers.weights.start import origin_of, prepared, start

__all__ = ["FineTuner", "Progress", "Report", "TrainingError", "fit"]

# A training step computes the forward pass and, in the backward pass, twice as much again.
_STEP_PASSES = 3


def fit(
    config: Config,
    work_dir: Path,
    *,
    report: Report | None = None,
    announce: Callable[[str], None] | None = None,
    resume_anyway: bool = False,
    index: Path | None = None,
    stop: Callable[[], bool] | None = None,
) -> Trained:
    """Trains `config`, or resumes where `work_dir` was left, and returns the best epoch.

    Args:
      config: `data.dir` holds records.
      work_dir: checkpoints live here, in a folder for each combination of configuration, data and
        code; see `trainers.training.run_folder`.
      report: called about twice a second with the progress.
      announce: called with lines for the user, e.g. which weights a run starts from.
      resume_anyway: resumes a state of the same configuration and data even if other code made it
        or its learning rates belong to another number of epochs; otherwise the run starts over and
        `announce` gets a line about it.
      index: file that keeps digests of data and code; `files.json` in `work_dir` if not given.
      stop: called after every epoch; True ends the run there, and a later call resumes it.

    Raises:
      ConfigError: a value is out of range, or does not fit the data, the model or the devices.
      DatasetError: no data set in `data.dir`.
      DataError: a record that cannot be used; names the file and the record.
      WeightsError: `model.init` does not fit the model.
      TrainingError: the loss is not finite.
      CheckpointError: another process trains into the same folder, the state in it is of another
        network, or the disk is full.
    """
    config = prepared(validate(config))
    task = tasks.get(config.task)
    models.get(config.model.name)  # Reports a mistyped name before any data is read.
    origin = origin_of(config)
    info = DatasetInfo.load(Path(config.data.dir))
    info.check_task(config.task, config.name)
    strategy = make_strategy(config.train)
    teacher = Teacher.load(config, info) if config.distill.teacher else None
    if config.train.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(config.train.seed)
    with precision(config.train), strategy.scope():
        model = task.build(config, info)
        if config.train.sync_batch_norm:
            model = synchronized(model)
        optimizer = _optimizer(config, info, model)
    step = TrainStep(model, optimizer, task.loss(config), config, strategy, teacher=teacher)
    with FileIndex(index or work_dir / INDEX_FILE).open() as files:
        identity = identify(config, info, teacher, files)
    run = _Run(identity, info, step, work_dir, report=report, teacher=teacher)
    with run.checkpoints.held():
        history = run.begin(announce or (lambda line: None), resume_anyway=resume_anyway)
        if not history and (not config.train.epochs or run.probing.ships_untrained):
            run.keep_initial_weights(history)
        while not run.is_over(history) and not (history and stop is not None and stop()):
            run.epoch(history)
        # Workers wait until the chief has written the best weights.
        from_chief(strategy, [0.0])
        best = run.restore_best(history, announce or (lambda line: None))
    step.freeze(False)
    if config.train.precision != "float32":
        model = in_float32(model, config, info, strategy)
    weights = run.checkpoints.probe_prefix if run.probing.probe else ""
    return Trained(model, config, info, history, best, origin, run.probing.probe, weights)


def _optimizer(config: Config, info: DatasetInfo, model: keras.Model) -> Any:
    total = pipeline.steps_per_epoch(config, info) * config.train.epochs
    batch = config.train.global_batch
    return build_optimizer(config.optim, total, global_batch=batch, model=model)


class _Run:
    """One training run, epoch by epoch."""

    def __init__(
        self,
        identity: Identity,
        info: DatasetInfo,
        step: TrainStep,
        work_dir: Path,
        *,
        report: Report | None,
        teacher: Teacher | None,
    ) -> None:
        config = identity.config
        self.config, self.info, self.step = config, info, step
        self._identity, self._work_dir = identity, work_dir
        self._report, self._teacher = report, teacher
        self._task = tasks.get(config.task)
        chief = work_dir / identity.name
        where = own_folder(step.strategy, chief)
        with step.strategy.scope():
            self.checkpoints = Checkpoints(where, step.model, step.state, source=chief)
        self.probing = ProbeStage(step.model, config, info, step.strategy, self.checkpoints)
        self._log = _event_log(where) if config.train.tensorboard else None
        self._forward = Forward(step.model, config, step.strategy)
        self._frozen = False
        self._job = EpochJob(
            config,
            info,
            epoch=0,
            report=self._on_progress if report or self._log else None,
            peak_flops=peak_flops(step.strategy, config.train.precision),
            step_flops=2.0
            * _STEP_PASSES
            * complexity(step.model).multiply_adds
            * config.train.global_batch,
        )

    def _on_progress(self, progress: Progress) -> None:
        if self._log is not None:
            self._log.progress(progress)
        if self._report is not None:
            self._report(progress)

    def begin(self, announce: Callable[[str], None], *, resume_anyway: bool) -> list[Row]:
        """Restores the last state, or loads `model.init`; returns the history so far."""
        if is_chief(self.step.strategy):
            self._adopt_other_state(announce, anyway=resume_anyway)
        # Workers wait until the chief's state is there.
        from_chief(self.step.strategy, [0.0])
        history = self.checkpoints.restore()
        self._check_same_position(history)
        if history is not None:
            self.probing.resume()
            if not self.is_over(history):
                announce(f"resumes at epoch {len(history) + 1}, step {self.checkpoints.step + 1}")
            return history
        if note := self._warmup_note():
            announce(note)
        if self.config.model.init:
            self.probing.begin(lambda: start(self.step.model, self.config), announce)
            if self.step.average:
                self.step.average.restart()
        return []

    def _warmup_note(self) -> str:
        train, steps = self.config.train, pipeline.steps_per_epoch(self.config, self.info)
        return warmup_note(self.config.optim, steps * train.epochs, global_batch=train.global_batch)

    def _adopt_other_state(self, announce: Callable[[str], None], *, anyway: bool) -> None:
        """Copies the state of another folder if it can be resumed, and announces what it does."""
        if self.checkpoints.is_started:
            return
        steps = pipeline.steps_per_epoch(self.config, self.info)
        found = find_resumable(self._work_dir, self._identity, steps_per_epoch=steps)
        source: dict[str, Any] = {}
        if found is not None:
            announce(found.line(anyway=anyway, epochs=self.config.train.epochs))
            if anyway or not found.reasons:
                source = {**asdict(found), "folder": found.folder.name}
                self.checkpoints.adopt(found.folder)
        self._identity.write(self.checkpoints.directory, resumed_from=source)

    def _check_same_position(self, history: list[Row] | None) -> None:
        """Checks that every worker resumes at the chief's position."""
        own = [float(len(history or ())), float(self.checkpoints.step)]
        chief = from_chief(self.step.strategy, own)
        if chief != own:
            raise TrainingError(
                f"this worker's checkpoints in {self.checkpoints.directory} end at epoch "
                f"{own[0]:.0f}, step {own[1]:.0f}, the chief's at {chief[0]:.0f}, {chief[1]:.0f}; "
                "all workers need the same folder, on a file system that they share"
            )

    def is_over(self, history: list[Row]) -> bool:
        """Whether all epochs are done, or too many in a row did not improve."""
        patience = self.config.train.early_stop
        waited = len(history) - best_epoch(history) if history else 0
        if history and self.probing.ships_untrained:
            return True
        return len(history) >= self.config.train.epochs or 0 < patience <= waited

    def epoch(self, history: list[Row]) -> None:
        """Trains, evaluates and saves the epoch after `history`, and adds its row."""
        number, start = len(history), self.checkpoints.step
        frozen = number < self.config.train.freeze_epochs
        if frozen != self._frozen:
            self.step.freeze(frozen)
            self._frozen = frozen
        if not start:
            self.step.reset()
        job = replace(
            self._job,
            epoch=number,
            start=start,
            save=lambda done: self.checkpoints.save_within(history, done),
        )
        row = run_epoch(self.step, self._batches(number, start), job)
        self.step.average_statistics()
        with self.step.evaluated():
            history.append(row | self._validation_row(number))
            if best_epoch(history) == len(history):
                self.checkpoints.save_best(len(history))
        self.checkpoints.save(history)
        if self._log is not None:
            self._log.write(
                history[-1], len(history) * pipeline.steps_per_epoch(self.config, self.info)
            )

    def keep_initial_weights(self, history: list[Row]) -> None:
        """Evaluates and saves the weights of a run without epochs, and adds a row."""
        with self.step.evaluated():
            history.append({"epoch": 0, **self._validation_row(0)})
            self.checkpoints.save_best(len(history))
        self.checkpoints.save(history)

    def restore_best(self, history: list[Row], announce: Callable[[str], None]) -> int:
        """Loads the weights of the best epoch or of the probe; returns that epoch."""
        best = self.checkpoints.restore_best(history)
        self.probing.decide(self._predict_validation, announce, epochs=len(history))
        return best

    def _validation_row(self, epoch: int) -> Row:
        predictions = self._predict_validation()
        if not np.isfinite(predictions.scores).all():
            raise diverged(self.config, epoch, "the validation scores are not finite")
        found = self._task.evaluate(predictions)
        loss, top1 = from_chief(self.step.strategy, [found["loss"], found["top1"]])
        return {"val_loss": loss, "val_top1": top1}

    def _predict_validation(self) -> Predictions:
        return predict_split(self._forward, self.config, self.info, "validation")

    def _batches(self, epoch: int, start: int) -> Any:
        logits = None
        if self._teacher is not None:
            logits = cached_logits(self.config, self.info, self._teacher, epoch)

        def batches(context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
            found = pipeline.train_batches(
                self.config, self.info, epoch=epoch, input_context=context, start_step=start
            )
            return found if logits is None else with_teacher(found, logits, start_step=start)

        if self.config.train.strategy == "one":
            return batches()
        return self.step.strategy.distribute_datasets_from_function(batches)


@dataclass(frozen=True)
class FineTuner:
    """`trainers.compression.FineTune`: trains a given model in place on the same data."""

    config: Config
    info: DatasetInfo
    report: Report | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps an epoch."""
        return pipeline.steps_per_epoch(self.config, self.info)

    def __call__(
        self,
        model: keras.Model,
        *,
        epochs: int,
        learning_rate: float,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> None:
        """Trains for `epochs` with a cosine schedule from `learning_rate`; keeps the last epoch."""
        config = self._fine_tuning_config(epochs, learning_rate)
        step = self._step(model, config)
        step.callbacks = hooks = keras.callbacks.CallbackList(list(callbacks), model=model)
        hooks.on_train_begin()
        for epoch in range(epochs):
            # Epochs after those of the recipe, so that the order of images is new.
            batches = pipeline.train_batches(
                config, self.info, epoch=self.config.train.epochs + epoch
            )
            hooks.on_epoch_begin(epoch)
            step.reset()
            shift = self.config.train.epochs
            job = EpochJob(config, self.info, epoch, shift=shift, report=self.report)
            run_epoch(step, batches, job)
            hooks.on_epoch_end(epoch)
        hooks.on_train_end()

    def _fine_tuning_config(self, epochs: int, learning_rate: float) -> Config:
        optim = replace(
            self.config.optim,
            learning_rate=learning_rate,
            reference_batch=0,
            schedule="cosine",
            warmup_steps=0,
            # Wrappers of TFMOT give the layers of one block different prefixes.
            layer_decay=1.0,
        )
        train = replace(
            self.config.train,
            epochs=epochs,
            strategy="one",
            ema=0.0,
            precision="float32",
            save_steps=0,
            freeze_epochs=0,
        )
        return replace(
            self.config, optim=optim, train=train, distill=replace(self.config.distill, teacher="")
        )

    def _step(self, model: keras.Model, config: Config) -> "_CallbackStep":
        task = tasks.get(config.task)
        optimizer = _optimizer(config, self.info, model)
        # Callbacks read the model's optimizer.
        model.compile(optimizer=optimizer)
        on = tf.distribute.get_strategy()
        return _CallbackStep(model, optimizer, task.loss(config), config, on)


class _CallbackStep(TrainStep):
    """A step that runs Keras callbacks before and after."""

    callbacks: keras.callbacks.CallbackList

    def __call__(self, batch: tuple[Any, ...]) -> None:
        number = int(self.optimizer.iterations.numpy())
        self.callbacks.on_train_batch_begin(number)
        super().__call__(batch)
        self.callbacks.on_train_batch_end(number)


def _event_log(directory: Path) -> Any:
    from trainers.training.event_log import EventLog  # TensorBoard's writer: few runs need it.

    return EventLog(directory / "events")
