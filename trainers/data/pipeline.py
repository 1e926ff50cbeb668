"""Batches of uint8 images for training, exact evaluation and calibration.

A training epoch depends only on (`train.seed`, epoch): the order and augmentation of examples do
not depend on a cache, the number of hosts and replicas, or the step at which a run resumes.
`data.host_sharding=files` and `data.service` trade this for speed; see `train_batches`.

`data.cache` keeps decoded images between epochs. Random crops need whole images: `memory` and
`disk` then store them at 8/7 of the network's size, so that crops are softer than crops of the
original, and `auto` does not cache.
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
    """One evaluation batch, padded to full size.

    Attributes:
      images: (B, H, W, 3) uint8; zeros where `mask` is 0.
      labels: (B,) int32 in [0, num_classes); 0 where `mask` is 0.
      mask: (B,) float32: 1 for an example, 0 for padding.
      ids: (B,) string, see `trainers.data.reader.ParsedRecords`; empty where `mask` is 0.
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

    Every example is used at most once; an incomplete last global batch is dropped. Each host gets
    one contiguous slice of every global batch, and each of its replicas a slice of that. Iterate
    inside `named_errors(config, info, "train")`.

    With `data.host_sharding=files`, each host reads only its shards: the examples of a batch depend
    on the number of hosts, and hosts repeat or drop examples so that all have the same number. With
    `data.service`, remote workers prepare images: every example is used once, in an order that
    depends on their speed, and augmented by (seed, epoch, identity); `start_step` drops the given
    number of batches, but not the same examples. Several hosts then read as with `files`.

    Args:
      config: `data` and `train.seed`, `train.global_batch` are used.
      info: description of the data in `config.data.dir`.
      epoch: number of the epoch, from 0; decides order and augmentation together with the seed.
      input_context: from `strategy.distribute_datasets_from_function`.
      start_step: first global step to return; examples of earlier steps are read, but not decoded.

    Returns:
      `steps_per_epoch - start_step` batches per replica of images (B, H, W, 3) uint8 and labels,
      (B,) int32, or (B, num_classes) float32 if `data.augment` lists a mix. B is the global batch
      divided by the number of replicas.

    Raises:
      DataError: less than one batch of examples, bad records, or fewer shards than hosts.
      ConfigError: an unknown augmentation, or a batch that is not divisible.
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
        # One seed per pair, from its index in the epoch.
        pairs = tf.cast(positions[::2] // 2, tf.int32)
        seeds = tf.stack([tf.fill(tf.shape(pairs), epoch_of.head(tf.int32)), pairs], 1)
        soft = tf.one_hot(labels, info.num_classes)
        return apply_mixes(images, soft, seeds, config.data.augment)

    batches = preprocess.batch(chunks, drop_remainder=True)
    return ready(batches.map(train_batch, parallel_calls(), deterministic=True))


def eval_batches(
    config: Config, info: DatasetInfo, split: str, *, batch: int | None = None
) -> tf.data.Dataset:
    """The `EvalBatch`es of a split in file order, each example exactly once, the last one padded.

    Args:
      config: `data` decides the preprocessing, and `eval.batch` the default of `batch`.
      info: description of the data in `config.data.dir`.
      split: `train`, `validation` or `test`.
      batch: images per batch; does not affect metrics.

    Raises:
      DataError: the split is missing or has bad records.
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
    """A sample of training images, drawn by `train.seed` and preprocessed as for evaluation.

    Args:
      config: `data` decides the preprocessing.
      info: description of the data in `config.data.dir`.
      images: number of images; fewer if the split is smaller.
      batch: images per batch.

    Returns:
      `EvalBatch`es, each image once.

    Raises:
      DataError: the split is missing or has bad records.
    """
    records = usable(config, info, "train")
    tagged = read_serialized(records, seed=(config.train.seed, 0), tagged=True).take(images)
    chunk = chunk_size(batch)
    parts = decode_examples(tagged, info, config.data, chunk=chunk, whole=False)
    parts = parts.batch(batch // chunk).map(lambda part: tf.nest.map_structure(_flat, part))
    return ready(parts.map(functools.partial(_padded, size=batch), parallel_calls()))


def steps_per_epoch(config: Config, info: DatasetInfo) -> int:
    """Number of global batches in one training epoch.

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
    """Training images for the calibration of int8 ranges, preprocessed as for evaluation.

    Args:
      config: as for `train_batches`; `train.seed` selects the images.
      info: description of the data in `config.data.dir`.
      n: number of images; fewer if the split is smaller.

    Returns:
      (n, H, W, 3) uint8.

    Raises:
      DataError: the split is missing or has bad records.
    """
    records = usable(config, info, "train")
    tagged = read_serialized(records, seed=(config.train.seed, 0), tagged=True).take(n)
    parts = decode_examples(tagged, info, config.data, chunk=chunk_size(8), whole=False)
    with named_errors(config, info, "train"):
        chosen = [part.images[part.mask > 0].numpy() for part in parts]
    return np.concatenate(chosen)


def batch_ids(config: Config, info: DatasetInfo, epoch: int, *, step: int) -> list[str]:
    """The ids of the examples in one global training batch, for error messages.

    Args:
      config: as for `train_batches`.
      info: description of the data in `config.data.dir`.
      epoch: number of the epoch, from 0.
      step: number of the step, from 0.

    Returns:
      `train.global_batch` ids in order, see `trainers.data.reader.ParsedRecords`; empty if hosts
      read separate files or a service decides the order.
    """
    if config.data.service or config.data.host_sharding == "files":
        return []
    size = config.train.global_batch
    records = usable(config, info, "train")
    serialized = read_serialized(records, seed=(config.train.seed, epoch), total=False)
    batch = serialized.skip(step * size).take(size).batch(size)
    return [one.decode() for data in batch for one in parse_records(data, info=info).id.numpy()]


def skipped_records(config: Config, info: DatasetInfo, split: str) -> tuple[BadRecord, ...]:
    """The records of a split that `data.on_error: skip` skips; none with `raise`."""
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
        """Whether this host reads only its files."""
        by_files = self.config.data.host_sharding == "files" or self.config.data.service
        return self.share.hosts > 1 and bool(by_files)

    def head(self, dtype: Any) -> tf.Tensor:
        """The first half of every seed; `tf.random.fold_in` returns (head, data)."""
        run_seed = [self.config.train.seed & 0x7FFFFFFF, self.epoch]
        return tf.random.fold_in(run_seed, tf.constant(0, dtype))[0]

    def seeds(self, positions: tf.Tensor) -> tf.Tensor:
        """(k, 2) int64: `fold_in(seed of run and epoch, position)` for (k,) positions."""
        return tf.stack([tf.fill(tf.shape(positions), self.head(tf.int64)), positions], 1)


def _prepared(epoch: _Epoch) -> tf.data.Dataset:
    """(images (k, H, W, 3), labels (k,), positions (k,)) of this host, in chunks of k."""
    records = usable(epoch.config, epoch.info, "train")
    part = (0, 1)
    if epoch.own_files:
        part = (epoch.share.host, epoch.share.hosts)
        if len(records.files) < epoch.share.hosts:
            raise DataError(
                f"{epoch.config.data.dir} has {len(records.files)} training shards, but "
                f"{epoch.share.hosts} hosts read separate files; ingest with at least "
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
    """(positions (k,), elements (k,)) of this host from the start step."""
    positions_of = own_positions if epoch.own_files else with_positions
    placed = positions_of(dataset, epoch.share, steps=epoch.steps, start_step=epoch.start_step)
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

    # Single images, because chunks would be incomplete at the end of a worker's part.
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
    """Values (c, k, ...) as (c * k, ...)."""
    chunks, chunk, *rest = values.shape
    count = None if chunks is None or chunk is None else chunks * chunk
    return tf.ensure_shape(
        tf.reshape(values, tf.concat([[-1], tf.shape(values)[2:]], 0)), (count, *rest)
    )
