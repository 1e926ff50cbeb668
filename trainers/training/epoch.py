"""One training epoch: steps, progress, check for divergence, time spent waiting for data."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trainers.config import Config
from trainers.data import pipeline
from trainers.data.features import DatasetInfo
from trainers.training.checkpoint import Row
from trainers.training.step import TrainStep

_REPORT_SECONDS = 0.5
# Reading the loss makes the host wait for the device, so it is read from time to time only.
_CHECK_SECONDS = 0.5


class TrainingError(RuntimeError):
    """Training cannot continue; the message names the epoch, the step and the remedy."""


@dataclass(frozen=True)
class Progress:
    """Progress of training.

    Attributes:
      epoch: from 1.
      epochs: number of epochs of the run.
      step: of this epoch, from 1.
      steps: of an epoch.
      loss: mean over this epoch so far.
      top1: share of correct training images in this epoch so far, in [0, 1].
      learning_rate: of this step.
      images_per_second: of this epoch, over all replicas.
      input_stall: share of the time that the loop waited for data, in [0, 1].
      eta_seconds: until training ends, at this rate.
      mfu: share of the device's peak arithmetic that the model's multiply-adds use, in [0, 1]; None
        if the peak is not known.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    top1: float
    learning_rate: float
    images_per_second: float
    input_stall: float
    eta_seconds: float
    mfu: float | None = None


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class EpochJob:
    """The inputs of an epoch.

    Attributes:
      config: of the run.
      info: of its data.
      epoch: from 0; decides the order of examples.
      start: number of its steps that are done already.
      shift: how many epochs later in the data's order than `epoch` its batches are.
      report: called about twice a second.
      save: called within the epoch after every `train.save_steps` steps, with the steps done.
      peak_flops: of all devices together, floating-point operations a second; None if unknown.
      step_flops: operations of one training step.
    """

    config: Config
    info: DatasetInfo
    epoch: int
    start: int = 0
    shift: int = 0
    report: Report | None = None
    save: Callable[[int], None] | None = None
    peak_flops: float | None = None
    step_flops: float = 0.0


def run_epoch(step: TrainStep, batches: Any, job: EpochJob) -> Row:
    """Runs the steps of one epoch and returns its figures.

    Args:
      step: the caller calls its `reset` before a new epoch.
      batches: of the epoch from step `job.start` on.
      job: the inputs of the epoch.

    Raises:
      DataError: a record that cannot be used; names the file and the record.
      TrainingError: the loss is not finite; names the step and the examples of its batch.
    """
    steps, every = pipeline.steps_per_epoch(job.config, job.info), job.config.train.save_steps
    clock, divergence = _Clock(job, steps), _DivergenceCheck(step, job)
    with pipeline.named_errors(job.config, job.info, "train"):
        iterator = iter(batches)
        for done in range(job.start + 1, steps + 1):
            with clock.waiting():
                batch = next(iterator)
            step(batch)
            saves = done == steps or (every and done % every == 0)
            divergence.check(done, now=bool(saves))
            if job.report is not None and clock.is_due(last=done == steps):
                job.report(clock.progress(done, step))
            if saves and done < steps and job.save is not None:
                job.save(done)
    return {
        "epoch": job.epoch + 1,
        "loss": step.loss,
        "top1": step.top1,
        "learning_rate": step.learning_rate,
        "images_per_second": clock.images_per_second(steps),
        "input_stall": clock.stall,
    }


class _Clock:
    """Time since the epoch began, and the part of it spent waiting for data."""

    def __init__(self, job: EpochJob, steps: int) -> None:
        self._job, self._steps = job, steps
        self._started = self._reported = time.perf_counter()
        self._waited = 0.0
        self._since = 0.0

    def waiting(self) -> "_Clock":
        return self

    def __enter__(self) -> None:
        self._since = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        self._waited += time.perf_counter() - self._since

    def is_due(self, *, last: bool) -> bool:
        now = time.perf_counter()
        due = last or now - self._reported >= _REPORT_SECONDS
        self._reported = now if due else self._reported
        return due

    @property
    def stall(self) -> float:
        return self._waited / max(time.perf_counter() - self._started, 1e-9)

    def steps_per_second(self, done: int) -> float:
        return (done - self._job.start) / max(time.perf_counter() - self._started, 1e-9)

    def images_per_second(self, done: int) -> float:
        return self.steps_per_second(done) * self._job.config.train.global_batch

    def progress(self, done: int, step: TrainStep) -> Progress:
        job, rate = self._job, self.steps_per_second(done)
        epochs = job.config.train.epochs
        peak = job.peak_flops
        return Progress(
            epoch=job.epoch + 1,
            epochs=epochs,
            step=done,
            steps=self._steps,
            loss=step.loss,
            top1=step.top1,
            learning_rate=step.learning_rate,
            images_per_second=self.images_per_second(done),
            input_stall=self.stall,
            eta_seconds=(self._steps * (epochs - job.epoch) - done) / rate,
            mfu=rate * job.step_flops / peak if peak else None,
        )


class _DivergenceCheck:
    """Stops a run whose loss is not finite, and finds the first such step."""

    def __init__(self, step: TrainStep, job: EpochJob) -> None:
        self._step, self._job = step, job
        self._checked = time.perf_counter()

    def check(self, done: int, *, now: bool) -> None:
        """Raises TrainingError if the loss of a step up to `done` was not finite."""
        if not now and time.perf_counter() - self._checked < _CHECK_SECONDS:
            return
        self._checked = time.perf_counter()
        since = int(self._step.diverged.numpy())
        if not since:
            return
        bad = done - since + 1
        job = self._job
        ids = pipeline.batch_ids(job.config, job.info, job.epoch + job.shift, step=bad - 1)
        shown = ", ".join(one[:12] for one in ids[:3]) + (", ..." if len(ids) > 3 else "")
        raise diverged(
            self._job.config,
            self._job.epoch,
            f"the loss was not finite at step {bad}, whose batch of {len(ids)} images begins "
            f"with {shown},",
        )


def diverged(config: Config, epoch: int, what: str) -> TrainingError:
    """The error for numbers that are not finite, with the usual remedies."""
    return TrainingError(
        f"{what} in epoch {epoch + 1}; lower optim.learning_rate "
        f"(now {config.optim.learning_rate}) or set optim.clip_norm=1"
    )
