"""In which order examples come, and which of them a host gets: decided by (seed, epoch) alone.

An example's place in the epoch is its *position*. Positions decide augmentation too, so that
neither batches nor replicas nor a resumed run change a pixel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from trainers.config import Config, ConfigError
from trainers.data.parallel import parallel_calls

# Shards open at once while shuffling: mixes neighbors without one thread a shard.
_OPEN_SHARDS = 8


@dataclass(frozen=True)
class Share:
    """What one host reads of every global batch: one contiguous slice, so that pairs stay together.

    Attributes:
      hosts: how many input pipelines there are.
      host: which one this is, from 0.
      replica_batch: images a replica and step.
      host_batch: images a step on all replicas of this host.
      global_batch: images a step on all hosts.
    """

    hosts: int
    host: int
    replica_batch: int
    host_batch: int
    global_batch: int


def make_share(config: Config, context: tf.distribute.InputContext, *, pairs: bool) -> Share:
    """The share of the host that `context` tells of.

    Args:
      config: `train.global_batch` is used.
      context: from `strategy.distribute_datasets_from_function`.
      pairs: a replica's batch must be even, since neighbors are mixed.

    Raises:
      ConfigError: the batch does not divide by replicas or hosts, or is odd and has pairs.
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
    """What `leaf` gives for each shard: one after the other, or shuffled when there is a seed.

    With a seed, shards are permuted, up to 8 are read in turns, and a buffer is drawn from. Leaves
    of equal lengths come in the same order whatever they hold.

    Args:
      leaf: shard number, () int64, to its elements.
      shards: (S,) the shards to read.
      seed: two integers that decide the order.
      buffer: elements that are shuffled at a time.
      examples: how many there must be in all; reading fails where there are not. None: unknown.
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
    """This host's (position, element) of an epoch that all hosts read, from `start_step` on.

    Args:
      dataset: the whole epoch in order, the same on every host.
      share: this host's.
      steps: whole global batches in an epoch.
      start_step: elements of the steps before it are read and dropped.
    """
    total = share.global_batch
    placed = dataset.take(steps * total).enumerate().skip(start_step * total)
    if share.hosts == 1:
        return placed
    return placed.filter(lambda position, _: position % total // share.host_batch == share.host)


def own_positions(
    dataset: tf.data.Dataset, share: Share, *, steps: int, start_step: int
) -> tf.data.Dataset:
    """(position, element) of an epoch whose elements are this host's alone.

    Where they are too few for `steps` they start again, where they are too many the rest is left
    out: every host takes exactly `steps` steps.

    Args:
      dataset: this host's elements in order.
      share: this host's.
      steps: global batches in an epoch.
      start_step: elements of the steps before it are read and dropped.
    """
    own = share.host_batch
    placed = dataset.repeat().take(steps * own).enumerate().skip(start_step * own)

    def globally(position: Any, element: Any) -> tuple[tf.Tensor, Any]:
        step, place = position // own, position % own
        return step * share.global_batch + share.host * own + place, element

    return placed.map(globally)


def _words(seed: tuple[int, int]) -> list[int]:
    return [part & 0xFFFFFFFF for part in seed]
