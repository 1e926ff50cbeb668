"""`prune`: magnitude pruning while fine-tuning (Zhu and Gupta 2017, arXiv 1710.01878).

Zeros are scattered, so a pruned file is smaller after gzip and not faster.
"""

import tensorflow_model_optimization as tfmot

from trainers.compression import FineTune, Method, is_prunable
from trainers.config import CompressConfig
from trainers.keras import keras
from trainers.registry import compressors

# The rest of the run trains the network at its final sparsity.
_SCHEDULE_FRACTION = 0.6
# How many times the masks are chosen over the schedule.
_MASK_UPDATES = 40


def prune(model: keras.Model, fine_tune: FineTune, settings: CompressConfig) -> keras.Model:
    """A copy of `model` with the smallest `settings.sparsity` of each kernel at zero.

    Sparsity rises from 0 along the cubic of equation 1 of the paper over the first 60 % of
    `settings.prune_epochs`. See `trainers.compression.is_prunable` for the pruned kernels.

    Args:
      model: trained; it is not changed.
      fine_tune: trains the copy.
      settings: `sparsity`, `prune_epochs` and `learning_rate` are used.

    Returns:
      A float model of the same layers.
    """
    last = max(1, int(settings.prune_epochs * fine_tune.steps_per_epoch * _SCHEDULE_FRACTION))
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        initial_sparsity=0.0,
        final_sparsity=settings.sparsity,
        begin_step=0,
        end_step=last,
        frequency=max(1, last // _MASK_UPDATES),
    )

    def wrap(layer: keras.layers.Layer) -> keras.layers.Layer:
        copy = type(layer).from_config(layer.get_config())
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)) and is_prunable(
            layer.kernel
        ):
            return tfmot.sparsity.keras.prune_low_magnitude(copy, pruning_schedule=schedule)
        return copy

    pruned = keras.models.clone_model(model, clone_function=wrap)
    copy_weights(model, pruned)
    fine_tune(
        pruned,
        epochs=settings.prune_epochs,
        learning_rate=settings.learning_rate,
        callbacks=[tfmot.sparsity.keras.UpdatePruningStep()],
    )
    # A clone, because stripping keeps the layer objects and their graph with wrappers.
    result = keras.models.clone_model(model)
    result.set_weights(tfmot.sparsity.keras.strip_pruning(pruned).get_weights())
    return result


def copy_weights(source: keras.Model, wrapped: keras.Model) -> None:
    """Copies the weights of `source` to each layer of `wrapped`, or the layer in its wrapper."""
    for layer, target in zip(source.layers, wrapped.layers, strict=True):
        getattr(target, "layer", target).set_weights(layer.get_weights())


compressors.register("prune")(
    Method("prune", dtypes=("fp32", "int8"), run=prune, needs_calibration=True, title="pruned")
)
