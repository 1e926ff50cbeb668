"""A tf.data service: prepares images on other machines.

    dispatcher:  tf.data.experimental.service.DispatchServer(DispatcherConfig(port=5050))
    workers:     tf.data.experimental.service.WorkerServer(WorkerConfig("host:5050"))
    trainer:     data.service=grpc://host:5050

Workers read the records by the paths of the trainer, so they need the same folder mounted.
"""

import tensorflow as tf

from trainers.config import ConfigError


def through_service(dataset: tf.data.Dataset, address: str) -> tf.data.Dataset:
    """`dataset`, processed by the workers of a service: each element once, in any order.

    Files are assigned to workers one by one. A worker's batches of elements do not span files.

    Args:
      dataset: a dataset that reads files and does not capture large tensors, because its graph is
        sent to the workers.
      address: address of the dispatcher, `grpc://host:port`.

    Raises:
      ConfigError: `address` does not have this form.
    """
    protocol, _, host_port = address.partition("://")
    if protocol != "grpc" or not host_port.rpartition(":")[2].isdigit():
        raise ConfigError(f"data.service must be `grpc://host:port`, got {address!r}")
    return dataset.apply(
        tf.data.experimental.service.distribute(
            processing_mode=tf.data.experimental.service.ShardingPolicy.DYNAMIC, service=address
        )
    )
