"""The learning rate as a function of the step."""

import dataclasses
import math
from typing import Any

import tensorflow as tf

from trainers.config import Config, OptimConfig
from trainers.keras import keras

# A longer warm-up is reported.
_LONG_WARMUP = 0.1


def scaled(config: OptimConfig, global_batch: int) -> OptimConfig:
    """`config` for steps of `global_batch` images instead of `reference_batch`.

    The rate grows with the batch (`linear`: Goyal et al. 2017, s2.1; `sqrt`: You et al. 2020,
    s4), and the warm-up lasts as many images as before.

    Args:
      config: its values are stated for `reference_batch`.
      global_batch: images a step over all replicas and micro-batches; 0 is unknown.

    Returns:
      The same values if either batch is 0; always with `reference_batch=0`, so that a second call
      changes nothing.
    """
    reference = config.reference_batch
    if not (reference and global_batch):
        return dataclasses.replace(config, reference_batch=0)
    ratio = global_batch / reference
    warmup = max(round(config.warmup_steps / ratio), 1) if config.warmup_steps else 0
    factor = math.sqrt(ratio) if config.scaling == "sqrt" else ratio
    return dataclasses.replace(
        config,
        learning_rate=config.learning_rate * factor,
        warmup_steps=warmup,
        reference_batch=0,
    )


def schedule_of(config: OptimConfig, total_steps: int, *, global_batch: int = 0) -> "WarmUp":
    """The learning rate of a run of `total_steps` steps of `global_batch` images.

    Args:
      config: peak, shape, warm-up and how they scale.
      total_steps: optimizer steps of the whole run.
      global_batch: as for `scaled`.
    """
    return WarmUp(limited(scaled(config, global_batch), total_steps), total_steps)


def limited(config: OptimConfig, total_steps: int) -> OptimConfig:
    """`config` with a warm-up of at most `warmup_limit` of `total_steps`; 1 is no limit.

    Args:
      config: for the batch of the run, see `scaled`.
      total_steps: optimizer steps of the whole run.
    """
    if config.warmup_limit == 1.0:
        return config
    # The small part keeps 0.29 of 100 steps from becoming 28.
    most = math.floor(config.warmup_limit * total_steps + 1e-6)
    return dataclasses.replace(config, warmup_steps=min(config.warmup_steps, most))


def warmup_note(config: OptimConfig, total_steps: int, *, global_batch: int = 0) -> str:
    """A note on a shortened or long warm-up; empty if there is nothing to report.

    Args:
      config: as for `schedule_of`.
      total_steps: optimizer steps of the whole run.
      global_batch: as for `scaled`.
    """
    wanted = scaled(config, global_batch).warmup_steps
    steps = limited(scaled(config, global_batch), total_steps).warmup_steps
    if steps < wanted:
        return (
            f"warm-up: {steps} instead of the recipe's {wanted} steps, {config.warmup_limit:.0%} "
            f"of the run's {total_steps}; optim.warmup_steps sets another number"
        )
    if steps > _LONG_WARMUP * total_steps:
        return (
            f"warm-up: {steps} of the run's {total_steps} steps, more than a tenth"
            if steps < total_steps
            else f"warm-up: {steps} steps, but the run has {total_steps}; it never reaches its "
            "full learning rate: set a smaller optim.warmup_steps"
        )
    return ""


def compression_rate(config: Config) -> float:
    """The peak learning rate of fine-tuning after compression.

    Returns:
      `compress.learning_rate`; if it is 0, `compress.rate_fraction` of the peak rate of training.
    """
    if config.compress.learning_rate:
        return config.compress.learning_rate
    peak = scaled(config.optim, config.train.global_batch).learning_rate
    return config.compress.rate_fraction * peak


@keras.saving.register_keras_serializable(package="sightline")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Linear from 0 over `warmup_steps`, then `step`, `cosine` or `constant` to `total_steps`.

    `config` is not scaled here: apply `scaled` first.
    """

    def __init__(self, config: OptimConfig, total_steps: int) -> None:
        super().__init__()
        self._config = config
        self._total = total_steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The float32 learning rate of `step`, counted from 0."""
        config, step = self._config, tf.cast(step, tf.float32)
        after = tf.maximum(step - config.warmup_steps, 0.0)
        left = max(self._total - config.warmup_steps, 1)
        if config.schedule == "cosine":
            factor = 0.5 * (1.0 + tf.cos(math.pi * tf.minimum(after / left, 1.0)))
            factor = config.final_fraction + (1.0 - config.final_fraction) * factor
        elif config.schedule == "step":
            drops = [tf.cast(step >= f * self._total, tf.float32) for f in config.step_fractions]
            factor = tf.pow(0.1, tf.add_n(drops)) if drops else tf.constant(1.0)
        else:
            factor = tf.constant(1.0)
        ramp = tf.minimum((step + 1.0) / max(config.warmup_steps, 1), 1.0)
        return config.learning_rate * factor * (ramp if config.warmup_steps else 1.0)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, for Keras."""
        return {"config": dataclasses.asdict(self._config), "total_steps": self._total}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "WarmUp":
        """The schedule of a `get_config`."""
        return cls(OptimConfig(**config["config"]), config["total_steps"])
