"""SGD, Adam, AdamW and LAMB with weight decay and layer-wise learning rates.

The optimizers of Keras have one learning rate for all variables, no L2 in gradients and no LAMB.
Here a gradient is first summed over replicas (by the caller, or by Keras in `model.fit`), then
clipped by the global norm, and only then combined with L2 and slots.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from trainers.config import OptimConfig
from trainers.keras import keras
from trainers.optim.parameters import decayed, layer_factors
from trainers.optim.schedule import WarmUp, schedule_of


@dataclasses.dataclass(frozen=True)
class _VariableSettings:
    """The settings of one variable."""

    index: int
    rate: tf.Tensor
    decay: float
    adapts: bool


class _Rule(keras.optimizers.Optimizer):
    """Schedule, clipping and settings of variables; a subclass has the slots and the update."""

    slots: tuple[str, ...] = ()
    coupled = False  # Whether weight decay is L2 in the gradient.

    def __init__(
        self, config: OptimConfig, learning_rate: WarmUp, *, name: str = "", **kwargs: Any
    ) -> None:
        # `train.xla` compiles the whole step; Keras would compile each variable's update alone.
        kwargs = {"jit_compile": False, "global_clipnorm": config.clip_norm or None, **kwargs}
        super().__init__(name=name or config.name, **kwargs)
        self.config = config
        self._learning_rate = self._build_learning_rate(learning_rate)

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        """Creates the slots of `var_list`, once; later calls may list some or all of them."""
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        # Decided here, as a replica's copy of a variable has another name.
        self._decays = tuple(self.config.decay_all or decayed(v) for v in var_list)
        self._factors = layer_factors([v.name for v in var_list], self.config.layer_decay)
        for slot in self.slots:
            made = [self.add_variable_from_reference(v, slot) for v in var_list]
            setattr(self, f"{slot}_slots", made)
        self._built = True

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """Updates `variable` with `gradient`, which is summed and clipped."""
        index = self._index_dict[self._var_key(variable)]
        decays = self._decays[index]
        settings = _VariableSettings(
            index,
            rate=tf.cast(self.learning_rate, variable.dtype) * self._factors[index],
            decay=self.config.weight_decay if decays else 0.0,
            adapts=decays,
        )
        gradient = tf.convert_to_tensor(gradient)
        if self.coupled and settings.decay:
            gradient += settings.decay * variable
        self.move(gradient, variable, settings)

    def move(self, gradient: tf.Tensor, variable: tf.Variable, settings: _VariableSettings) -> None:
        """Applies the rule."""
        raise NotImplementedError

    def powers(self, dtype: tf.DType) -> tuple[tf.Tensor, tf.Tensor]:
        """Both betas to the power of the step, counted from 1."""
        step = tf.cast(self.iterations + 1, dtype)
        return tf.pow(self.config.momentum, step), tf.pow(self.config.beta_2, step)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, for Keras."""
        rate = keras.optimizers.schedules.serialize(self._learning_rate)
        return {
            "config": dataclasses.asdict(self.config),
            "learning_rate": rate,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "_Rule":
        """The optimizer of a `get_config`, without slots."""
        rate = config["learning_rate"]
        if not isinstance(rate, WarmUp):
            rate = keras.optimizers.schedules.deserialize(rate, custom_objects)
        return cls(OptimConfig(**config["config"]), rate, name=config["name"])


@keras.saving.register_keras_serializable(package="sightline")
class SGD(_Rule):
    """Momentum m <- mu m - rate g; the weights move by m, or with Nesterov by mu m - rate g."""

    slots = ("momentum",)
    coupled = True

    def move(self, gradient: tf.Tensor, variable: tf.Variable, settings: _VariableSettings) -> None:
        """One fused kernel: an update of its parts would read the weights four times."""
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=self.momentum_slots[settings.index].handle,
            lr=settings.rate,
            grad=gradient,
            momentum=tf.constant(self.config.momentum, variable.dtype),
            use_nesterov=self.config.nesterov,
        )


@keras.saving.register_keras_serializable(package="sightline")
class Adam(_Rule):
    """Adam (Kingma & Ba 2015, algorithm 1), with L2 in the gradient."""

    slots = ("first", "second")
    coupled = True

    def move(self, gradient: tf.Tensor, variable: tf.Variable, settings: _VariableSettings) -> None:
        """One fused kernel."""
        if not self.coupled and settings.decay:
            variable.assign_sub(settings.rate * settings.decay * variable)
        power_1, power_2 = self.powers(variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self.first_slots[settings.index].handle,
            v=self.second_slots[settings.index].handle,
            beta1_power=power_1,
            beta2_power=power_2,
            lr=settings.rate,
            beta1=tf.constant(self.config.momentum, variable.dtype),
            beta2=tf.constant(self.config.beta_2, variable.dtype),
            # The kernel adds it to the root before the bias correction, the paper after.
            epsilon=self.config.epsilon * tf.sqrt(1.0 - power_2),
            grad=gradient,
        )


@keras.saving.register_keras_serializable(package="sightline")
class AdamW(Adam):
    """Adam with decoupled decay (Loshchilov & Hutter 2019, algorithm 2)."""

    coupled = False


@keras.saving.register_keras_serializable(package="sightline")
class Lamb(_Rule):
    """LAMB (You et al. 2020, algorithm 2) with phi the identity, as in its experiments.

    Variables without weight decay have no trust ratio: their step is that of Adam.
    """

    slots = ("first", "second")

    def move(self, gradient: tf.Tensor, variable: tf.Variable, settings: _VariableSettings) -> None:
        """Adam's direction plus decay, scaled to the norm of the weights."""
        first, second = self.first_slots[settings.index], self.second_slots[settings.index]
        first.assign_add((gradient - first) * (1.0 - self.config.momentum))
        second.assign_add((tf.square(gradient) - second) * (1.0 - self.config.beta_2))
        power_1, power_2 = self.powers(variable.dtype)
        root = tf.sqrt(second / (1.0 - power_2)) + self.config.epsilon
        update = first / (1.0 - power_1) / root
        if settings.decay:
            update += settings.decay * variable
        ratio = _trust(variable, update) if settings.adapts else 1.0
        variable.assign_sub(settings.rate * ratio * update)


def _trust(weights: tf.Variable, update: tf.Tensor) -> tf.Tensor:
    """|weights| / |update|, and 1 if either is 0, so that zero weights can change."""
    length, step = tf.norm(weights), tf.norm(update)
    return tf.where((length > 0) & (step > 0), tf.math.divide_no_nan(length, step), 1.0)


_RULES: dict[str, type[_Rule]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "lamb": Lamb}


def build_optimizer(
    config: OptimConfig,
    total_steps: int,
    *,
    global_batch: int = 0,
    model: keras.Model | None = None,
) -> keras.optimizers.Optimizer:
    """The optimizer of `config` for a run of `total_steps` steps; call it in the strategy's scope.

    `sgd` and `adam` take weight decay as L2 in the gradient (after clipping), as the study does;
    `adamw` and `lamb` decouple it. See `decayed` for the variables that have it.

    Args:
      config: the recipe's section.
      total_steps: optimizer steps of the whole run.
      global_batch: images a step over all replicas and micro-batches, for `reference_batch`; 0
        takes the figures as they are.
      model: its slots are created now, so that a first phase can train a part of it. Without it,
        they are created by `build` or at the first gradients.

    Returns:
      A Keras optimizer. Gradients passed with `skip_gradients_aggregation=True` are sums over all
      replicas; in `fit` of Keras, the optimizer sums them.

    Raises:
      ValueError: `layer_decay` for a model without named blocks.
    """
    rate = schedule_of(config, total_steps, global_batch=global_batch)
    optimizer = _RULES[config.name](config, rate)
    if model is not None:
        optimizer.build(model.trainable_variables)
    return optimizer
