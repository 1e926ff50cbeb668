"""How much of the input runs at a time: said by us, never tuned while it runs.

tf.data's autotuner has a thread whose naps double, up to a minute. Dropping an iterator wakes it
before it is told to stop, so it may sleep again, and the iterator's end waits for it: half of the
training epochs took up to twice their time (TensorFlow 2.16, `Model::OptimizeLoop`).
"""

import tensorflow as tf

from core.processes import available_cores

# A batch is being used, one is ready, one is on its way.
_READY = 2


def parallel_calls() -> int:
    """How many calls run at a time: one for each core that this process may use."""
    return available_cores()


def ready(batches: tf.data.Dataset) -> tf.data.Dataset:
    """`batches` in a fixed order, made ahead of their use, as the last step of an input.

    Shares of hosts and replicas are the input's own, so `tf.distribute` does not shard it again.
    """
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.with_options(options).prefetch(_READY)
