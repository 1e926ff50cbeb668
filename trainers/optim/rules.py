"""SGD, Adam, AdamW and LAMB on one base that knows decay and layer-wise rates.

Keras' own optimizers multiply every variable by one learning rate, put no L2 into gradients and
have no LAMB. Here a gradient is first summed over replicas (by the caller, or by Keras in
`model.fit`), then clipped by the global norm, and only then meets its variable, L2 and slots.
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
class _Share:
    """What one variable takes of the configuration."""

    index: int
    rate: tf.Tensor
    decay: float
    adapts: bool


class _Rule(keras.optimizers.Optimizer):
    """Schedule, clipping and each variable's share; a subclass has the slots and the update."""

    slots: tuple[str, ...] = ()
    coupled = False  # L2 in the gradient, rather than decay apart from it.

    def __init__(
        self, config: OptimConfig, learning_rate: WarmUp, *, name: str = "", **kwargs: Any
    ) -> None:
        # `train.xla` compiles the whole step; Keras would compile each variable's update alone.
        kwargs = {"jit_compile": False, "global_clipnorm": config.clip_norm or None, **kwargs}
        super().__init__(name=name or config.name, **kwargs)
        self.config = config
        self._learning_rate = self._build_learning_rate(learning_rate)

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        """Creates the slots of `var_list`, once; later calls may name a part of it, or all."""
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        # Decided here, since a replica's copy of a variable has a name of its own.
        self._decays = tuple(self.config.decay_all or decayed(v) for v in var_list)
        self._factors = layer_factors([v.name for v in var_list], self.config.layer_decay)
        for slot in self.slots:
            made = [self.add_variable_from_reference(v, slot) for v in var_list]
            setattr(self, f"{slot}_slots", made)
        self._built = True

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """Moves `variable` against `gradient`, which is summed and clipped."""
        index = self._index_dict[self._var_key(variable)]
        decays = self._decays[index]
        share = _Share(
            index,
            rate=tf.cast(self.learning_rate, variable.dtype) * self._factors[index],
            decay=self.config.weight_decay if decays else 0.0,
            adapts=decays,
        )
        gradient = tf.convert_to_tensor(gradient)
        if self.coupled and share.decay:
            gradient += share.decay * variable
        self.move(gradient, variable, share)

    def move(self, gradient: tf.Tensor, variable: tf.Variable, share: _Share) -> None:
        """The rule itself."""
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
        """The optimizer whose `get_config` this is, without slots."""
        rate = config["learning_rate"]
        if not isinstance(rate, WarmUp):
            rate = keras.optimizers.schedules.deserialize(rate, custom_objects)
        return cls(OptimConfig(**config["config"]), rate, name=config["name"])


@keras.saving.register_keras_serializable(package="sightline")
class SGD(_Rule):
    """Momentum m <- mu m - rate g; the weights move by m, or with Nesterov by mu m - rate g."""

    slots = ("momentum",)
    coupled = True

    def move(self, gradient: tf.Tensor, variable: tf.Variable, share: _Share) -> None:
        """One fused kernel: an update of its parts would read the weights four times."""
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=self.momentum_slots[share.index].handle,
            lr=share.rate,
            grad=gradient,
            momentum=tf.constant(self.config.momentum, variable.dtype),
            use_nesterov=self.config.nesterov,
        )


@keras.saving.register_keras_serializable(package="sightline")
class Adam(_Rule):
    """Adam (Kingma & Ba 2015, algorithm 1), with L2 in the gradient."""

    slots = ("first", "second")
    coupled = True

    def move(self, gradient: tf.Tensor, variable: tf.Variable, share: _Share) -> None:
        """One fused kernel."""
        if not self.coupled and share.decay:
            variable.assign_sub(share.rate * share.decay * variable)
        power_1, power_2 = self.powers(variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self.first_slots[share.index].handle,
            v=self.second_slots[share.index].handle,
            beta1_power=power_1,
            beta2_power=power_2,
            lr=share.rate,
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

    What is not decayed is not adapted either: it takes Adam's step, without a trust ratio.
    """

    slots = ("first", "second")

    def move(self, gradient: tf.Tensor, variable: tf.Variable, share: _Share) -> None:
        """Adam's direction and the decay, at the length of the weights."""
        first, second = self.first_slots[share.index], self.second_slots[share.index]
        first.assign_add((gradient - first) * (1.0 - self.config.momentum))
        second.assign_add((tf.square(gradient) - second) * (1.0 - self.config.beta_2))
        power_1, power_2 = self.powers(variable.dtype)
        root = tf.sqrt(second / (1.0 - power_2)) + self.config.epsilon
        update = first / (1.0 - power_1) / root
        if share.decay:
            update += share.decay * variable
        ratio = _trust(variable, update) if share.adapts else 1.0
        variable.assign_sub(share.rate * ratio * update)


def _trust(weights: tf.Variable, update: tf.Tensor) -> tf.Tensor:
    """|weights| / |update|, and 1 where either is 0: weights that start there have to leave it."""
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
    `adamw` and `lamb` decouple it. `decayed` says which variables have it.

    Args:
      config: the recipe's section.
      total_steps: optimizer steps of the whole run.
      global_batch: images a step over all replicas and micro-batches, for `reference_batch`; 0
        takes the figures as they are.
      model: gets its slots now, so that a first phase may train a part of it. Without it, the
        first gradients say what is trained, or `build` does.

    Returns:
      A Keras optimizer. Gradients it is given with `skip_gradients_aggregation=True` are taken as
      sums over all replicas; Keras' own `fit` has it sum them first.

    Raises:
      ValueError: `layer_decay` for a model without named blocks.
    """
    rate = schedule_of(config, total_steps, global_batch=global_batch)
    optimizer = _RULES[config.name](config, rate)
    if model is not None:
        optimizer.build(model.trainable_variables)
    return optimizer
