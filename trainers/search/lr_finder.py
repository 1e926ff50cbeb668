"""A learning-rate range test (Smith 2017, arXiv 1506.01186, s3.3): `sightline lr RECIPE`.

    curve = find_learning_rate(config)
    print(curve.to_text())

The network is trained by the steps of the loop while the rate grows exponentially. The rate at
which the loss falls fastest is a good peak; the rate at which it explodes is ten times too large.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainers.config import Config, ConfigError
from trainers.config_rules import validate
from trainers.data import pipeline
from trainers.data.features import DatasetInfo
from trainers.distillation.teacher import Teacher
from trainers.distributed.strategy import make_strategy
from trainers.keras import keras
from trainers.optim import build_optimizer
from trainers.registry import tasks
from trainers.training.arithmetic import precision
from trainers.training.epoch import TrainingError
from trainers.training.step import TrainStep
from trainers.weights.start import prepared

# Smoothing of the loss over about ten steps, bias-corrected as the moments of Adam.
_SMOOTHING = 0.9
# The loss has exploded if it is this many times its minimum.
_EXPLODED = 4.0
_ROWS, _BAR = 20, 40


@dataclass(frozen=True)
class Curve:
    """Loss by learning rate.

    Attributes:
      rates: (K,) float64, ascending; K is less than the number of steps if the loss exploded.
      losses: (K,) float64, of each step's batch before its update.
      smoothed: (K,) float64, their moving average.
      steepest: the rate at which `losses` fall fastest, by lines fitted to a quarter of them.
      exploded: the rate at which the loss exceeded 4 times its minimum; None if it never did.
      suggested: `steepest`, but at most a tenth of `exploded`.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    steepest: float
    exploded: float | None
    suggested: float

    def to_text(self) -> str:
        """A table of at most 20 rates with a bar for each loss, and what to set."""
        shown = np.unique(np.linspace(0, len(self.rates) - 1, _ROWS).round().astype(int))
        least, first = self.smoothed.min(), self.smoothed[0]
        # From the minimum to a little above the first loss: an explosion would flatten the rest.
        whole = max(1.25 * (first - least), 1e-9)
        lines = ["learning rate      loss"]
        for at in shown:
            part = min((self.smoothed[at] - least) / whole, 1.0)
            bar = "#" * max(1, round(_BAR * part))
            lines.append(f"{self.rates[at]:13.2e}  {self.smoothed[at]:8.4f}  {bar}")
        end = f"explodes at {self.exploded:.2g}" if self.exploded else "never explodes"
        lines.append(f"falls fastest at {self.steepest:.2g}, {end}")
        lines.append(f"optim.learning_rate={self.suggested:.2g} optim.reference_batch=0")
        return "\n".join(lines)


def find_learning_rate(
    config: Config, *, low: float = 1e-6, high: float = 10.0, steps: int = 100
) -> Curve:
    """The loss while the learning rate grows from `low` to `high`.

    Args:
      config: of the run: its data, model (from `model.init`, if set), optimizer and strategy are
        used, its schedule and rate are not.
      low: rate of the first step.
      high: rate of the last step.
      steps: maximum number of steps; the test ends when the loss explodes.

    Raises:
      ConfigError: `low`, `high` or `steps` make no range, or a value of `config` does not fit.
      TrainingError: the loss fell at no rate.
    """
    if not 0 < low < high or steps < 10:
        raise ConfigError(
            f"a range test needs 0 < low < high and at least 10 steps, got low={low}, high={high}, "
            f"steps={steps}"
        )
    config = prepared(validate(config))
    rates = np.geomspace(low, high, steps)
    info = DatasetInfo.load(Path(config.data.dir))
    step = _make_step(config, info, rates)
    losses: list[float] = []
    taken: list[float] = []
    batches = _batches(config, info, step.strategy)
    with pipeline.named_errors(config, info, "train"):
        for batch in (next(batches) for _ in rates):
            step.reset()
            step(batch)
            losses.append(step.loss)
            # A step that half precision skipped repeats its rate.
            taken.append(step.learning_rate)
            if has_exploded(losses):
                break
    return make_curve(np.array(taken), np.array(losses))


def smooth(losses: np.ndarray) -> np.ndarray:
    """(K,) losses as a bias-corrected exponential moving average, (K,)."""
    mean, found = 0.0, []
    for count, loss in enumerate(losses, start=1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        found.append(mean / (1 - _SMOOTHING**count))
    return np.array(found, np.float64)


def has_exploded(losses: list[float]) -> bool:
    """Whether the last loss is not finite, or the average exceeds 4 times its minimum."""
    if not math.isfinite(losses[-1]):
        return True
    smoothed = smooth(np.array(losses))
    return bool(smoothed[-1] > _EXPLODED * smoothed.min())


def make_curve(rates: np.ndarray, losses: np.ndarray) -> Curve:
    """The curve of (K,) losses at (K,) rates.

    Raises:
      TrainingError: the loss never falls, or there are fewer than 3 finite losses.
    """
    exploded = float(rates[-1]) if has_exploded(list(losses)) else None
    finite = np.isfinite(losses)
    rates, losses = rates[finite], losses[finite]
    if len(losses) < 3:
        raise TrainingError("the loss is not finite from the first steps on; lower `low`")
    smoothed, slopes = smooth(losses), _slopes(rates, losses)
    steepest = float(rates[slopes.argmin()])
    if slopes.min() >= 0:
        raise TrainingError(
            f"the loss fell at no rate from {rates[0]:.2g} to {rates[-1]:.2g}; lower `low`, raise "
            "`high`, or take more steps"
        )
    suggested = steepest if exploded is None else min(steepest, exploded / 10)
    return Curve(rates, losses, smoothed, steepest, exploded, suggested)


def _slopes(rates: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """(K,) slopes of lines fitted to a quarter of all points each; 0 at both ends.

    `smooth` does not help here: its beginning is as noisy as single batches.
    """
    half = max(len(losses) // 8, 1)
    offsets = np.arange(-half, half + 1)
    growth = np.log(rates[1] / rates[0])
    inner = np.correlate(losses, offsets, "valid") / (growth * (offsets**2).sum())
    return np.pad(inner, half)


class _Exponential(keras.optimizers.schedules.LearningRateSchedule):
    """Exponential growth from the first rate."""

    def __init__(self, rates: np.ndarray) -> None:
        super().__init__()
        self._low, self._growth = float(rates[0]), float(rates[1] / rates[0])

    def __call__(self, step: Any) -> Any:
        return self._low * self._growth ** keras.backend.cast(step, "float32")


def _make_step(config: Config, info: DatasetInfo, rates: np.ndarray) -> TrainStep:
    task = tasks.get(config.task)
    strategy = make_strategy(config.train)
    teacher = Teacher.load(config, info) if config.distill.teacher else None
    keras.utils.set_random_seed(config.train.seed)
    with precision(config.train), strategy.scope():
        model = task.build(config, info)
        batch = config.train.global_batch
        optimizer = build_optimizer(config.optim, len(rates), global_batch=batch, model=model)
        # Keras does not allow to set the rate of an optimizer with a schedule.
        optimizer._learning_rate = _Exponential(rates)
    if config.model.init:
        from trainers.weights import (  # Readers of weight files: few runs need them.
            init_path,
            initialize,
        )

        initialize(model, init_path(config), config)
    return TrainStep(model, optimizer, task.loss(config), config, strategy, teacher=teacher)


def _batches(config: Config, info: DatasetInfo, strategy: Any) -> Iterator[Any]:
    """Training batches, epoch after epoch."""
    epoch = 0
    while True:
        if config.train.strategy == "one":
            yield from pipeline.train_batches(config, info, epoch=epoch)
        else:
            yield from strategy.distribute_datasets_from_function(
                lambda context, at=epoch: pipeline.train_batches(
                    config, info, epoch=at, input_context=context
                )
            )
        epoch += 1
