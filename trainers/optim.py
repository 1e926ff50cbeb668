"""Optimisers and learning-rate schedules from an `OptimConfig`."""

import dataclasses
import math
from typing import Any

import tensorflow as tf

from trainers.config import OptimConfig
from trainers.keras import keras

# Biases, norm scales and learned positions are not decayed (Goyal et al. 2017, s5.3).
NO_DECAY = ("bias", "gamma", "beta", "position", "token")


@keras.saving.register_keras_serializable(package="sightline")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Linear from 0 over `warmup_steps`, then `step`, `cosine` or `constant` to `total_steps`."""

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
        """The schedule whose `get_config` this is."""
        return cls(OptimConfig(**config["config"]), config["total_steps"])


def decayed(variable: tf.Variable) -> bool:
    """Whether weight decay applies: matrices and kernels, not biases, norms or positions."""
    return len(variable.shape) > 1 and not any(name in variable.name for name in NO_DECAY)


class _L2:
    """Adds the gradient of `weight_decay / 2 * |w|^2`, before momentum, to a Keras optimiser."""

    l2 = 0.0

    def apply_gradients(self, grads_and_vars: Any, **kwargs) -> Any:
        # Gradients are summed over replicas after this, so each adds its share.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        pairs = [
            (g + (self.l2 / replicas) * tf.cast(v, g.dtype), v)
            if g is not None and decayed(v)
            else (g, v)
            for g, v in grads_and_vars
        ]
        return super().apply_gradients(pairs, **kwargs)  # type: ignore[misc]


class _SGD(_L2, keras.optimizers.SGD):
    pass


class _Adam(_L2, keras.optimizers.Adam):
    pass


def build_optimizer(config: OptimConfig, total_steps: int) -> keras.optimizers.Optimizer:
    """The optimiser of `config` for a run of `total_steps` steps.

    `sgd` and `adam` take weight decay as L2 in the gradient, as the study does; `adamw` decouples
    it (Loshchilov & Hutter 2019, algorithm 2).
    """
    common: dict[str, Any] = {"learning_rate": WarmUp(config, total_steps)}
    if config.clip_norm:
        common["global_clipnorm"] = config.clip_norm
    if config.name == "adamw":
        adamw = keras.optimizers.AdamW(weight_decay=config.weight_decay, **common)
        adamw.exclude_from_weight_decay(var_names=list(NO_DECAY))
        return adamw
    if config.name == "adam":
        optimizer = _Adam(**common)
    else:
        optimizer = _SGD(**common, **{"momentum": config.momentum})
    optimizer.l2 = config.weight_decay
    return optimizer
