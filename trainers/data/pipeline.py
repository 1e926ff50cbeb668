"""Batches of uint8 images from records: training, exact-count evaluation, calibration.

A training epoch is decided by (`train.seed`, epoch) alone: which examples come in which order and
how each is augmented depend neither on a cache, nor on the number of hosts and replicas, nor on
where a resumed run starts. What `data.host_sharding=files` and `data.service` give up for speed is
told at `train_batches`.

`data.cache` keeps images decoded between epochs. A random crop needs more than the network's
central crop: `memory` and `disk` then keep whole images at 8/7 of the network's size, and crops
of them are softer than those of a photograph; `auto` keeps nothing.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trainers.config import Config
from trainers.data import cache
from trainers.data.augment import split_names
from trainers.data.features import DatasetInfo
from trainers.data.mix import apply_mixes, split_mixes
from trainers.data.order import Share, make_share, own_positions, with_positions
from trainers.data.parallel import parallel_calls, ready
from trainers.data.prepare import (
    Examples,
    chunk_size,
    decode_examples,
    pad,
    train_cached,
    train_images,
)
from trainers.data.reader import (
    Usable,
    named_errors,
    parse_records,
    raw_examples,
    read_indices,
    read_serialized,
    usable,
)
from trainers.data.records_check import BadRecord, DataError
from trainers.data.service import through_service

__all__ = [
    "DataError",
    "EvalBatch",
    "batch_ids",
    "calibration_images",
    "drawn_batches",
    "eval_batches",
    "named_errors",
    "raw_examples",
    "skipped_records",
    "steps_per_epoch",
    "train_batches",
]


class EvalBatch(NamedTuple):
    """One evaluation batch, always full.

    Attributes:
      images: (B, H, W, 3) uint8; zeros where `mask` is 0.
      labels: (B,) int32 in [0, num_classes); 0 where `mask` is 0.
      mask: (B,) float32: 1 for an example, 0 for padding.
      ids: (B,) string, see `trainers.data.reader.Record`; empty where `mask` is 0.
      slices: key -> (B,) string for each of `info.slices`; empty where `mask` is 0.
    """

    images: tf.Tensor
    labels: tf.Tensor
    mask: tf.Tensor
    ids: tf.Tensor
    slices: dict[str, tf.Tensor]


def train_batches(
    config: Config,
    info: DatasetInfo,
    *,
    epoch: int,
    input_context: tf.distribute.InputContext | None = None,
    start_step: int = 0,
) -> tf.data.Dataset:
    """One epoch of shuffled, augmented training batches.

    Every example comes at most once; the last incomplete global batch is left out. Each host gets
    one contiguous slice of every global batch, and each of its replicas a slice of that. Iterate
    inside `named_errors(config, info, "train")`.

    With `data.host_sharding=files`, each host reads its own shards only: which examples meet in a
    batch depends on the number of hosts, and a host with fewer of them repeats some while one with
    more leaves some out. With `data.service`, workers elsewhere prepare images: every example
    comes once, in an order that depends on their speed, augmented by (seed, epoch, identity); so
    `start_step` drops as many batches as it says, but not the same examples. Several hosts then
    read as with `files`.

    Args:
      config: `data` and `train.seed`, `train.global_batch` are used.
      info: of the data in `config.data.dir`.
      epoch: from 0; with the seed it decides order and augmentation.
      input_context: from `strategy.distribute_datasets_from_function`.
      start_step: batches from this global step on are the tail of the whole epoch's; what comes
        before is read where it streams, but not decoded.

    Returns:
      `steps_per_epoch - start_step` batches a replica of images (B, H, W, 3) uint8 and labels, (B,)
      int32, or (B, num_classes) float32 where `data.augment` lists a mix. B is the global batch
      divided by the number of replicas.

    Raises:
      DataError: less than one batch of examples, bad records, or fewer shards than hosts.
      ConfigError: an unknown augmentation, or a batch that cannot be divided.
      ValueError: `start_step` is outside the epoch.
    """
    mixed = bool(split_mixes(config.data.augment))
    share = make_share(config, input_context or tf.distribute.InputContext(), pairs=mixed)
    steps = steps_per_epoch(config, info)
    if not 0 <= start_step <= steps:
        raise ValueError(
            f"start_step must be in 0..{steps}, the steps of an epoch, got {start_step}"
        )
    epoch_of = _Epoch(config, info, share, epoch, steps, start_step)
    preprocess = _prepared(epoch_of)
    chunks = share.replica_batch // chunk_size(share.replica_batch)

    @tf.autograph.experimental.do_not_convert
    def train_batch(
        images: tf.Tensor, labels: tf.Tensor, positions: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        images, labels, positions = (_flat(x) for x in (images, labels, positions))
        if not mixed:
            return images, labels
        # One seed for each pair, from its number in the epoch.
        pairs = tf.cast(positions[::2] // 2, tf.int32)
        seeds = tf.stack([tf.fill(tf.shape(pairs), epoch_of.head(tf.int32)), pairs], 1)
        soft = tf.one_hot(labels, info.num_classes)
        return apply_mixes(images, soft, seeds, config.data.augment)

    batches = preprocess.batch(chunks, drop_remainder=True)
    return ready(batches.map(train_batch, parallel_calls(), deterministic=True))


def eval_batches(
    config: Config, info: DatasetInfo, split: str, *, batch: int | None = None
) -> tf.data.Dataset:
    """A split in file order as `EvalBatch`, each example exactly once, the last batch padded.

    Args:
      config: `data` decides the preprocessing, `eval.batch` the batch where none is given.
      info: of the data in `config.data.dir`.
      split: `train`, `validation` or `test`.
      batch: images a batch; never changes a metric.

    Raises:
      DataError: the split is missing or holds bad records.
    """
    records = usable(config, info, split)
    size = batch or config.eval.batch
    if cache.is_cached(config, records, whole=False):
        kept = cache.decoded(config, info, split, records=records, whole=False).examples
        indices = tf.data.Dataset.range(records.examples).batch(size)
        parts = indices.map(lambda at: tf.nest.map_structure(lambda x: tf.gather(x, at), kept))
    else:
        chunk = chunk_size(size)
        tagged = read_serialized(records, tagged=True)
        parts = decode_examples(tagged, info, config.data, chunk=chunk, whole=False)
        parts = parts.batch(size // chunk).map(lambda part: tf.nest.map_structure(_flat, part))
    return ready(parts.map(functools.partial(_padded, size=size), parallel_calls()))


def drawn_batches(config: Config, info: DatasetInfo, images: int, *, batch: int) -> tf.data.Dataset:
    """So many training images, drawn by `train.seed` and preprocessed as for evaluation.

    Args:
      config: `data` decides the preprocessing.
      info: of the data in `config.data.dir`.
      images: how many; fewer come where the split is smaller.
      batch: images a batch.

    Returns:
      `EvalBatch`es, each image once.

    Raises:
      DataError: the split is missing or holds bad records.
    """
    records = usable(config, info, "train")
    tagged = read_serialized(records, seed=(config.train.seed, 0), tagged=True).take(images)
    chunk = chunk_size(batch)
    parts = decode_examples(tagged, info, config.data, chunk=chunk, whole=False)
    parts = parts.batch(batch // chunk).map(lambda part: tf.nest.map_structure(_flat, part))
    return ready(parts.map(functools.partial(_padded, size=batch), parallel_calls()))


def steps_per_epoch(config: Config, info: DatasetInfo) -> int:
    """How many global batches one training epoch has.

    Raises:
      DataError: fewer examples than one global batch.
    """
    examples = usable(config, info, "train").examples
    steps = examples // config.train.global_batch
    if steps == 0:
        raise DataError(
            f"{config.data.dir} has {examples} training examples, less than one batch of "
            f"{config.train.global_batch}; set train.global_batch to at most {examples}"
        )
    return steps


def calibration_images(config: Config, info: DatasetInfo, n: int) -> np.ndarray:
    """Training images, preprocessed as for evaluation, that calibrate int8 ranges.

    Args:
      config: as for `train_batches`; `train.seed` decides which images.
      info: of the data in `config.data.dir`.
      n: how many; fewer come where the split is smaller.

    Returns:
      (n, H, W, 3) uint8.

    Raises:
      DataError: the split is missing or holds bad records.
    """
    records = usable(config, info, "train")
    tagged = read_serialized(records, seed=(config.train.seed, 0), tagged=True).take(n)
    parts = decode_examples(tagged, info, config.data, chunk=chunk_size(8), whole=False)
    with named_errors(config, info, "train"):
        chosen = [part.images[part.mask > 0].numpy() for part in parts]
    return np.concatenate(chosen)


def batch_ids(config: Config, info: DatasetInfo, epoch: int, *, step: int) -> list[str]:
    """The identities of the examples in one global training batch, to name them in an error.

    Args:
      config: as for `train_batches`.
      info: of the data in `config.data.dir`.
      epoch: from 0.
      step: from 0.

    Returns:
      As many as `train.global_batch`, in order, see `trainers.data.reader.Record`; nothing where
      hosts read their own files or a service decides the order.
    """
    if config.data.service or config.data.host_sharding == "files":
        return []
    size = config.train.global_batch
    records = usable(config, info, "train")
    serialized = read_serialized(records, seed=(config.train.seed, epoch), total=False)
    batch = serialized.skip(step * size).take(size).batch(size)
    return [one.decode() for data in batch for one in parse_records(data, info=info).id.numpy()]


def skipped_records(config: Config, info: DatasetInfo, split: str) -> tuple[BadRecord, ...]:
    """The records that `data.on_error: skip` leaves out of a split; none with `raise`."""
    return usable(config, info, split).bad


class _Epoch(NamedTuple):
    """One epoch on one host."""

    config: Config
    info: DatasetInfo
    share: Share
    epoch: int
    steps: int
    start_step: int

    @property
    def chunk(self) -> int:
        return chunk_size(self.share.replica_batch)

    @property
    def order(self) -> tuple[int, int]:
        return self.config.train.seed, self.epoch

    @property
    def own_files(self) -> bool:
        """This host reads its own files only."""
        by_files = self.config.data.host_sharding == "files" or self.config.data.service
        return self.share.hosts > 1 and bool(by_files)

    def head(self, dtype: Any) -> tf.Tensor:
        """The first half of every seed: `tf.random.fold_in` makes (head, what is folded in)."""
        run_seed = [self.config.train.seed & 0x7FFFFFFF, self.epoch]
        return tf.random.fold_in(run_seed, tf.constant(0, dtype))[0]

    def seeds(self, positions: tf.Tensor) -> tf.Tensor:
        """(k, 2) int64: `fold_in(seed of run and epoch, position)` of each of (k,) positions."""
        return tf.stack([tf.fill(tf.shape(positions), self.head(tf.int64)), positions], 1)


def _prepared(epoch: _Epoch) -> tf.data.Dataset:
    """(images (k, H, W, 3), labels (k,), positions (k,)) of this host, k to a chunk."""
    records = usable(epoch.config, epoch.info, "train")
    part = (0, 1)
    if epoch.own_files:
        part = (epoch.share.host, epoch.share.hosts)
        if len(records.files) < epoch.share.hosts:
            raise DataError(
                f"{epoch.config.data.dir} has {len(records.files)} training shards for "
                f"{epoch.share.hosts} hosts that read their own; ingest with at least "
                f"{epoch.share.hosts} shards, or set data.host_sharding=examples"
            )
    if epoch.config.data.service:
        return _from_service(epoch, records, part)
    whole = split_names(epoch.config.data.augment)[0] is not None
    if cache.is_cached(epoch.config, records, whole=whole):
        return _from_cache(epoch, records, part, whole=whole)
    serialized = read_serialized(records, seed=epoch.order, part=part)
    return _chunked(epoch, serialized).map(_preparer(epoch), parallel_calls(), deterministic=True)


def _chunked(epoch: _Epoch, dataset: tf.data.Dataset) -> tf.data.Dataset:
    """(positions (k,), elements (k,)) of this host from the start step on."""
    place = own_positions if epoch.own_files else with_positions
    placed = place(dataset, epoch.share, steps=epoch.steps, start_step=epoch.start_step)
    return placed.batch(epoch.chunk, drop_remainder=True)


def _preparer(epoch: _Epoch) -> Any:
    preprocess = train_images(epoch.config.data)

    @tf.autograph.experimental.do_not_convert
    def prepare(positions: tf.Tensor, serialized: tf.Tensor) -> tuple[tf.Tensor, ...]:
        record = parse_records(serialized, info=epoch.info)
        return preprocess(record.encoded, epoch.seeds(positions)), record.label, positions

    return prepare


def _from_cache(
    epoch: _Epoch, records: Usable, part: tuple[int, int], *, whole: bool
) -> tf.data.Dataset:
    kept, counts = cache.decoded(epoch.config, epoch.info, "train", records=records, whole=whole)
    preprocess = train_cached(epoch.config.data, whole=whole)

    @tf.autograph.experimental.do_not_convert
    def prepare(positions: tf.Tensor, at: tf.Tensor) -> tuple[tf.Tensor, ...]:
        pixels, sizes = tf.gather(kept.images, at), tf.gather(kept.sizes, at)
        images = preprocess(pixels, sizes, epoch.seeds(positions))
        return images, tf.gather(kept.labels, at), positions

    order = read_indices(records, counts, seed=epoch.order, part=part)
    return _chunked(epoch, order).map(prepare, parallel_calls(), deterministic=True)


def _from_service(epoch: _Epoch, records: Usable, part: tuple[int, int]) -> tf.data.Dataset:
    preprocess = train_images(epoch.config.data)

    @tf.autograph.experimental.do_not_convert
    def prepare(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        record = parse_records(serialized, info=epoch.info)
        numbers = tf.strings.to_hash_bucket_fast(record.id, 2**62)
        return preprocess(record.encoded, epoch.seeds(numbers)), record.label

    # Each image by itself: a chunk would be cut off where a worker's part ends.
    serialized = read_serialized(records, seed=epoch.order, part=part, total=False).batch(1, True)
    prepared = serialized.map(prepare, parallel_calls())
    examples = through_service(prepared, epoch.config.data.service).unbatch()
    placed = _chunked(epoch, examples)
    return placed.map(lambda positions, example: (*example, positions))


@tf.autograph.experimental.do_not_convert
def _padded(part: Examples, *, size: int) -> EvalBatch:
    full = tf.nest.map_structure(functools.partial(pad, size=size), part)
    return EvalBatch(full.images, full.labels, full.mask, full.ids, full.slices)


def _flat(values: tf.Tensor) -> tf.Tensor:
    """(c, k, ...) as (c * k, ...)."""
    chunks, chunk, *rest = values.shape
    count = None if chunks is None or chunk is None else chunks * chunk
    return tf.ensure_shape(
        tf.reshape(values, tf.concat([[-1], tf.shape(values)[2:]], 0)), (count, *rest)
    )
