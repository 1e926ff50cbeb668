"""A tf.data service: images prepared on other machines.

    dispatcher:  tf.data.experimental.service.DispatchServer(DispatcherConfig(port=5050))
    workers:     tf.data.experimental.service.WorkerServer(WorkerConfig("host:5050"))
    trainer:     data.service=grpc://host:5050

Workers read the records by the trainer's paths: they need the same folder mounted.
"""

import tensorflow as tf

from trainers.config import ConfigError


def through_service(dataset: tf.data.Dataset, address: str) -> tf.data.Dataset:
    """`dataset` as the workers of a service prepare it: each element once, in no fixed order.

    Files are handed out to workers one by one. The batches of elements that a worker makes end
    where its file does.

    Args:
      dataset: reads files and captures no large tensor, as its graph is sent to the workers.
      address: of the dispatcher, `grpc://host:port`.

    Raises:
      ConfigError: `address` is not of that form.
    """
    protocol, _, place = address.partition("://")
    if protocol != "grpc" or not place.rpartition(":")[2].isdigit():
        raise ConfigError(f"data.service must be `grpc://host:port`, got {address!r}")
    return dataset.apply(
        tf.data.experimental.service.distribute(
            processing_mode=tf.data.experimental.service.ShardingPolicy.DYNAMIC, service=address
        )
    )
