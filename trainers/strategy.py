"""`tf.distribute` strategies by one option."""

import os

import tensorflow as tf

from trainers.config import ConfigError, TrainConfig


def make_strategy(config: TrainConfig) -> tf.distribute.Strategy:
    """The strategy that `config.strategy` names; call it before anything else touches a device.

    `multi_worker` reads TF_CONFIG, as Kubernetes and Vertex training jobs set it.

    Raises:
      ConfigError: the global batch does not divide by the replicas, or TF_CONFIG is missing.
    """
    if config.strategy == "one":
        strategy = tf.distribute.get_strategy()
    elif config.strategy == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        strategy = tf.distribute.MirroredStrategy([d.name for d in devices])
    elif config.strategy == "multi_worker":
        if "TF_CONFIG" not in os.environ:
            raise ConfigError(
                "train.strategy=multi_worker needs TF_CONFIG in the environment: "
                '{"cluster": {"worker": ["host:port"]}, "task": {"type": "worker", "index": 0}}'
            )
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    else:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=config.tpu)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        strategy = tf.distribute.TPUStrategy(resolver)
    replicas = strategy.num_replicas_in_sync
    if config.global_batch % replicas:
        raise ConfigError(
            f"train.global_batch={config.global_batch} does not divide by {replicas} replicas; "
            f"use {config.global_batch // replicas * replicas or replicas}"
        )
    return strategy


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes what all workers agree on; always so with one worker."""
    resolver = strategy.cluster_resolver
    if resolver is None or not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return True
    return resolver.task_type in (None, "chief") or (
        resolver.task_type == "worker" and resolver.task_id == 0
    )
