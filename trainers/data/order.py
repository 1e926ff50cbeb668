"""The order of examples and each host's share of them, which depend on (seed, epoch) only.

The *position* of an example is its index in the epoch. Positions also decide augmentation, so that
pixels do not depend on batches, replicas or resuming.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from trainers.config import Config, ConfigError
from trainers.data.parallel import parallel_calls

# Number of shards that are open while shuffling: mixes shards without a thread for each.
_OPEN_SHARDS = 8


@dataclass(frozen=True)
class Share:
    """One host's contiguous slice of every global batch; pairs are not divided.

    Attributes:
      hosts: number of input pipelines.
      host: index of this input pipeline, from 0.
      replica_batch: images per replica and step.
      host_batch: images per step on all replicas of this host.
      global_batch: images per step on all hosts.
    """

    hosts: int
    host: int
    replica_batch: int
    host_batch: int
    global_batch: int


def make_share(config: Config, context: tf.distribute.InputContext, *, pairs: bool) -> Share:
    """The share of the host of `context`.

    Args:
      config: `train.global_batch` is used.
      context: from `strategy.distribute_datasets_from_function`.
      pairs: whether pairs are mixed, which requires an even batch per replica.

    Raises:
      ConfigError: the batch is not divisible by replicas or hosts, or not even with pairs.
    """
    replicas, hosts = context.num_replicas_in_sync, context.num_input_pipelines
    total = config.train.global_batch
    for count, name in ((replicas, "replicas"), (hosts, "hosts")):
        if total % count:
            raise ConfigError(
                f"train.global_batch {total} is not divisible by {count} {name}; "
                f"use a multiple of {count}"
            )
    if pairs and total // replicas % 2:
        raise ConfigError(
            f"data.augment mixes pairs of images, and train.global_batch {total} over {replicas} "
            f"replicas is {total // replicas} each, an odd number; use a multiple of {2 * replicas}"
        )
    return Share(hosts, context.input_pipeline_id, total // replicas, total // hosts, total)


def arranged(
    leaf: Callable[[tf.Tensor], tf.data.Dataset],
    shards: np.ndarray,
    *,
    seed: tuple[int, int] | None,
    buffer: int,
    examples: int | None,
) -> tf.data.Dataset:
    """The elements of all shards, sequentially or shuffled if there is a seed.

    With a seed, shards are permuted, up to 8 are interleaved, and elements are shuffled in a
    buffer. The order depends on the lengths of shards only, not on the elements.

    Args:
      leaf: function from the number of a shard, () int64, to its elements.
      shards: (S,) numbers of the shards to read.
      seed: two integers that decide the order.
      buffer: size of the shuffle buffer.
      examples: expected total number of elements, otherwise reading fails; None if unknown.
    """
    if seed is not None:
        shards = shards[np.random.default_rng(_words(seed)).permutation(len(shards))]
    turns = 1 if seed is None else min(_OPEN_SHARDS, len(shards))
    dataset = tf.data.Dataset.from_tensor_slices(shards.astype(np.int64)).interleave(
        leaf,
        cycle_length=turns,
        num_parallel_calls=min(turns, parallel_calls()),
        deterministic=True,
    )
    if examples is not None:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(examples))
    if seed is not None:
        drawn = int(np.random.default_rng(_words(seed)).integers(2**31))
        dataset = dataset.shuffle(buffer, seed=drawn, reshuffle_each_iteration=False)
    return dataset


def with_positions(
    dataset: tf.data.Dataset, share: Share, *, steps: int, start_step: int
) -> tf.data.Dataset:
    """(position, element) of this host in an epoch that all hosts read, from `start_step`.

    Args:
      dataset: the whole epoch in order, equal on all hosts.
      share: the share of this host.
      steps: number of complete global batches in an epoch.
      start_step: first step; elements of earlier steps are read and dropped.
    """
    total = share.global_batch
    placed = dataset.take(steps * total).enumerate().skip(start_step * total)
    if share.hosts == 1:
        return placed
    return placed.filter(lambda position, _: position % total // share.host_batch == share.host)


def own_positions(
    dataset: tf.data.Dataset, share: Share, *, steps: int, start_step: int
) -> tf.data.Dataset:
    """(position, element) of an epoch whose elements only this host reads.

    Every host runs exactly `steps` steps: too few elements are repeated, surplus ones are dropped.

    Args:
      dataset: the elements of this host in order.
      share: the share of this host.
      steps: number of global batches in an epoch.
      start_step: first step; elements of earlier steps are read and dropped.
    """
    own = share.host_batch
    placed = dataset.repeat().take(steps * own).enumerate().skip(start_step * own)

    def globally(position: Any, element: Any) -> tuple[tf.Tensor, Any]:
        step, offset = position // own, position % own
        return step * share.global_batch + share.host * own + offset, element

    return placed.map(globally)


def _words(seed: tuple[int, int]) -> list[int]:
    return [part & 0xFFFFFFFF for part in seed]
