"""Optimizers and learning-rate schedules from an `OptimConfig`.

    optimizer = build_optimizer(config.optim, steps, global_batch=128, model=model)
    optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)

`rules` has the update rules, `schedule` the learning rate, `parameters` the settings of each
variable.
"""

from trainers.optim.parameters import decayed, layer_factors
from trainers.optim.rules import build_optimizer
from trainers.optim.schedule import (
    WarmUp,
    compression_rate,
    scaled,
    schedule_of,
    warmup_note,
)

__all__ = [
    "WarmUp",
    "build_optimizer",
    "compression_rate",
    "decayed",
    "layer_factors",
    "scaled",
    "schedule_of",
    "warmup_note",
]
