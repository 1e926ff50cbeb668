"""One optimizer step over all replicas: loss, gradients, update, and what is counted.

    step = TrainStep(model, optimizer, loss, config, strategy)
    for batch in batches:
        step(batch)
    print(step.loss, step.top1)

A step depends on the state in `step.state` and on its batch alone: dropout draws from (seed, step,
layer, replica), not from a generator. So a run that resumes from a checkpoint of that state, at any
step, continues exactly.
"""

import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import tensorflow as tf

from trainers.config import Config
from trainers.distillation.teacher import distillation_loss, training_model
from trainers.keras import keras
from trainers.models import HEADS
from trainers.training.ema import MovingAverage
from trainers.training.losses import top1_hits

Teacher = Callable[[tf.Tensor], tf.Tensor]


class TrainStep:
    """Trains `model` by one global batch a call.

    Gradients of the mean loss over the global batch are summed over micro-batches
    (`train.accumulate`) and replicas before they are clipped and applied, so that neither number
    changes what a step does, but for batch norm's statistics, the masks of dropout, which every
    part draws for itself, and the order of float additions.

    Args:
      model: built in the scope of `strategy`.
      optimizer: of `trainers.optim.build_optimizer`, made in that scope too.
      loss: its `call(labels, logits)` gives one value an example.
      config: `train` and `distill` are used.
      strategy: where it runs.
      teacher: images (B,H,W,3) to logits (B,N); called if a batch has no teacher logits.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        loss: keras.losses.Loss,
        config: Config,
        strategy: tf.distribute.Strategy,
        *,
        teacher: Teacher | None = None,
    ) -> None:
        self.model, self.strategy = model, strategy
        self._config, self._loss, self._teacher = config, loss, teacher
        self._outputs = training_model(config.distill, model)
        self._dropout = _DropoutSeeds(config.train.seed, model)
        with strategy.scope():
            self.average = MovingAverage(model, config.train.ema) if config.train.ema else None
            if config.train.precision == "float16":
                optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
            # All slots exist before the first step, so that a checkpoint restores every one.
            optimizer.build(model.trainable_variables)
        self.optimizer = optimizer
        #: Sums since `reset`: loss, hits, examples.
        self.totals = tf.Variable(tf.zeros(3, tf.float64), trainable=False)
        #: Steps since the first one whose loss was not finite, counting it; 0 if none was.
        self.diverged = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.refresh()

    @property
    def state(self) -> dict[str, Any]:
        """Everything a checkpoint must contain, by name."""
        held = {"model": self.model, "optimizer": self.optimizer, "totals": self.totals}
        return held | ({"average": self.average} if self.average else {})

    @property
    def loss(self) -> float:
        """Mean training loss an example since `reset`; not finite once training diverged."""
        return self._mean(0)

    @property
    def top1(self) -> float:
        """Share of correct training images since `reset`, in [0, 1]."""
        return self._mean(1)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the last step."""
        # Under a strategy it is a distributed variable, which `float` does not take.
        return float(tf.convert_to_tensor(self.optimizer.learning_rate))

    @property
    def replicas(self) -> int:
        """The number of replicas that share a global batch."""
        return self.strategy.num_replicas_in_sync

    def reset(self) -> None:
        """Resets the sums to zero."""
        self.totals.assign(tf.zeros_like(self.totals))

    def refresh(self) -> None:
        """Traces the step again at the next call; needed after layers were frozen or unfrozen."""
        self._run = tf.function(self._global, autograph=False)

    def freeze(self, frozen: bool) -> None:
        """Trains only the classifier, or everything again."""
        for layer in self.model.layers:
            layer.trainable = not frozen or layer.name in HEADS
        self.refresh()

    def average_statistics(self) -> None:
        """Sets the moving statistics of every replica to their mean, which is what is saved."""
        if self.replicas == 1:
            return
        with self.strategy.scope():
            for weight in self.model.non_trainable_weights:
                weight.assign(tf.convert_to_tensor(weight.read_value()))

    def evaluated(self) -> AbstractContextManager[None]:
        """Gives the model the average, if there is one, as its weights within the context."""
        return self.average.applied() if self.average else nullcontext()

    def __call__(self, batch: tuple[Any, ...]) -> None:
        """Runs one step.

        Args:
          batch: this step's element of `trainers.data.pipeline.train_batches`: images (B,H,W,3)
            and labels (B,) or (B,N), optionally with teacher logits (B,N).
        """
        self._run(*batch)

    def _mean(self, index: int) -> float:
        totals = self.totals.numpy()
        return float(totals[index] / totals[2]) if totals[2] else float(np.nan)

    def _global(self, *batch: Any) -> None:
        with self._dropout.seeded():
            if self.replicas == 1:
                sums = self._replica(*batch)
            else:
                parts = self.strategy.run(self._replica, args=batch)
                sums = self.strategy.experimental_local_results(parts)[0]
        self.totals.assign_add(tf.cast(sums, tf.float64))
        begun = tf.logical_or(self.diverged > 0, tf.logical_not(tf.math.is_finite(sums[0])))
        self.diverged.assign_add(tf.cast(begun, tf.int64))
        if self.average:
            self.average.update(self.optimizer.iterations)

    def _replica(self, *batch: tf.Tensor) -> tf.Tensor:
        """One replica's part: (3,) sums of loss, hits and examples over all replicas."""
        variables = self.model.trainable_variables
        gradients, sums = self._accumulated(batch, variables)
        if self.replicas > 1:
            context = tf.distribute.get_replica_context()
            total = tf.distribute.ReduceOp.SUM
            *gradients, sums = context.all_reduce(total, [*gradients, sums])
        if self._config.train.precision == "float16":
            gradients = self.optimizer.get_unscaled_gradients(gradients)
        pairs = zip(gradients, variables, strict=True)
        self.optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)
        return sums

    def _accumulated(
        self, batch: tuple[tf.Tensor, ...], variables: list[tf.Variable]
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Gradients and sums over this replica's micro-batches, one after the other."""
        compute = self._gradients
        if self._config.train.xla:
            compute = tf.function(compute, jit_compile=True, autograph=False)
        parts = self._config.train.accumulate
        first = tf.cast(self.optimizer.iterations, tf.int32) * parts
        if parts == 1:
            return compute(first, variables, *batch)
        shares = [tf.reshape(x, (parts, x.shape[0] // parts, *x.shape[1:])) for x in batch]

        def add(part: tf.Tensor, sums: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
            gradients, found = compute(first + part, variables, *(share[part] for share in shares))
            news = [*gradients, found]
            return part + 1, [a + b for a, b in zip(sums, news, strict=True)]

        zeros = [*(tf.zeros(v.shape, v.dtype) for v in variables), tf.zeros(3)]
        _, sums = tf.while_loop(
            lambda part, _: part < parts, add, (tf.constant(0), zeros), parallel_iterations=1
        )
        return sums[:-1], sums[-1]

    def _gradients(
        self,
        draw: tf.Tensor,
        variables: list[tf.Variable],
        images: tf.Tensor,
        labels: tf.Tensor,
        teacher_logits: tf.Tensor | None = None,
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        with tf.GradientTape() as tape:
            self._dropout.set_draw(draw)
            outputs = self._outputs(images, training=True)
            each, logits = self._each(images, labels, outputs, teacher_logits)
            mean = tf.reduce_sum(each) / self._config.train.global_batch
            if self.model.losses:
                mean += tf.add_n(self.model.losses) / self.replicas
            if self._config.train.precision == "float16":
                mean = self.optimizer.get_scaled_loss(mean)
        gradients = tape.gradient(mean, variables, unconnected_gradients="zero")
        hits = tf.reduce_sum(top1_hits(labels, logits))
        sums = tf.stack([tf.reduce_sum(each), hits, tf.cast(tf.shape(images)[0], tf.float32)])
        return [tf.convert_to_tensor(gradient) for gradient in gradients], sums

    def _each(
        self, images: tf.Tensor, labels: tf.Tensor, outputs: Any, teacher_logits: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """((B,) losses, (B,N) logits that are counted)."""
        several = isinstance(outputs, (list, tuple))
        logits = tf.add_n(list(outputs)) / len(outputs) if several else outputs
        each = self._loss.call(labels, outputs[0] if several else outputs)
        if teacher_logits is None and self._teacher is not None:
            teacher_logits = self._teacher(images)
        if teacher_logits is not None:
            each = distillation_loss(self._config.distill, each, outputs, teacher_logits)
        return each, logits


class _DropoutSeeds:
    """Seeds of Dropout layers: (seed, number of the draw, layer, replica).

    The generators of Keras have a state inside their operations, which no checkpoint contains.

    Args:
      seed: of the run.
      model: its layers, including those inside wrappers, are seeded.
    """

    def __init__(self, seed: int, model: keras.Model) -> None:
        self._seed = seed & 0x7FFFFFFF
        layers = [one for one in model.submodules if isinstance(one, keras.layers.Dropout)]
        self._kept = [(layer, layer._random_generator) for layer in layers]
        # Replicas are traced in threads that alternate, so each has its own number.
        self._numbers: dict[int, tf.Tensor] = {}

    def set_draw(self, draw: tf.Tensor) -> None:
        """Sets the number of the draw for the rest of this replica's trace; () int32."""
        self._numbers[_key(_replica())] = draw

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """Makes the layers use these seeds within the context, and those of Keras afterwards."""
        for layer, _ in self._kept:
            number = zlib.crc32(layer.name.encode()) & 0x7FFFFFFF
            layer._random_generator = _SeededGenerator(self, number)
        try:
            yield
        finally:
            for layer, generator in self._kept:
                layer._random_generator = generator

    def seed(self, layer: int) -> tf.Tensor:
        """The seed of this draw for one layer on this replica, (2,) int32."""
        replica = _replica()
        seed = tf.random.fold_in([self._seed, layer], self._numbers[_key(replica)])
        return tf.random.fold_in(seed, replica)


class _SeededGenerator:
    """Replaces the generator of a Dropout layer."""

    def __init__(self, seeds: _DropoutSeeds, layer: int) -> None:
        self._seeds, self._layer = seeds, layer

    def dropout(self, inputs: tf.Tensor, rate: float, noise_shape: Any = None) -> tf.Tensor:
        seed = self._seeds.seed(self._layer)
        return tf.nn.experimental.stateless_dropout(
            inputs, rate=rate, seed=seed, noise_shape=noise_shape, rng_alg="philox"
        )


def _replica() -> Any:
    """The number of this replica: an int, or a tensor if one trace is used by several."""
    context = tf.distribute.get_replica_context()
    return context.replica_id_in_sync_group if context else 0


def _key(replica: Any) -> int:
    """`replica` if it is known while tracing, else -1."""
    known = tf.get_static_value(replica) if tf.is_tensor(replica) else replica
    return -1 if known is None else int(known)
