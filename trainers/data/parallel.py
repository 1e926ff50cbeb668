"""Parallelism of the input pipeline: fixed, without tf.data's autotuner.

The thread of the autotuner sleeps for up to a minute. Destroying an iterator wakes it before the
stop flag is set, so it may sleep again, and the destruction waits for it: half of the training
epochs took up to twice as long (TensorFlow 2.16, `Model::OptimizeLoop`).
"""

import tensorflow as tf

from core.processes import available_cores

# One batch is in use, one is ready, one is in preparation.
_READY = 2


def parallel_calls() -> int:
    """Number of parallel calls: one per core that this process may use."""
    return available_cores()


def ready(batches: tf.data.Dataset) -> tf.data.Dataset:
    """`batches` in a fixed order with prefetching; the last step of an input pipeline.

    Disables sharding by `tf.distribute`, because the input pipeline already divides the data.
    """
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.with_options(options).prefetch(_READY)
