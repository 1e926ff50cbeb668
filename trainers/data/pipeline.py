"""Batches of uint8 images from records: training, exact-count evaluation, calibration.

Split and network sizes that fit are decoded once a process and kept as uint8; bigger ones, and
those with a random crop, are decoded as they stream. Either way an epoch is decided by
(`train.seed`, epoch) alone.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trainers.config import Config, DataConfig
from trainers.data import features
from trainers.data.augment import augment_image, split_names, train_image
from trainers.data.features import DatasetInfo
from trainers.data.preprocess import eval_image
from trainers.data.reader import (
    Record,
    Usable,
    named_errors,
    raw_examples,
    read_records,
    signature,
    usable,
)
from trainers.data.records_check import BadRecord, DataError

__all__ = [
    "DataError",
    "EvalBatch",
    "calibration_images",
    "eval_batches",
    "named_errors",
    "raw_examples",
    "skipped_records",
    "steps_per_epoch",
    "train_batches",
]

# A decoded split up to this size is kept: CIFAR-10's 50,000 take 147 MB.
_CACHE_BYTES = 256 * 2**20
_LOAD_BATCH = 256


class EvalBatch(NamedTuple):
    """One evaluation batch, always full.

    Attributes:
      images: (B, H, W, 3) uint8; zeros where `mask` is 0.
      labels: (B,) int32 in [0, num_classes); 0 where `mask` is 0.
      mask: (B,) float32: 1 for an example, 0 for padding.
      ids: (B,) string, sha256 hex; empty where `mask` is 0.
      slices: `slice/*` key -> (B,) string; empty where `mask` is 0.
    """

    images: tf.Tensor
    labels: tf.Tensor
    mask: tf.Tensor
    ids: tf.Tensor
    slices: dict[str, tf.Tensor]


class _Decoded(NamedTuple):
    """A whole split in memory: images (N, H, W, 3) uint8, labels (N,) int32, ids, slices."""

    images: tf.Tensor
    labels: tf.Tensor
    ids: tf.Tensor
    slices: dict[str, tf.Tensor]


def train_batches(
    config: Config,
    info: DatasetInfo,
    *,
    epoch: int,
    input_context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """One epoch of shuffled, augmented training batches.

    Every example comes at most once; the last incomplete global batch is left out. With several
    input pipelines each gets its own part. Iterate inside `named_errors(config, info, "train")`.

    Args:
      config: `data` and `train.seed`, `train.global_batch` are used.
      info: of the data in `config.data.dir`.
      epoch: from 0; with the seed it decides order and augmentation.
      input_context: from `strategy.distribute_datasets_from_function`.

    Returns:
      `steps_per_epoch` batches a replica of (images (B, H, W, 3) uint8, labels (B,) int32), where
      B is the global batch divided by the number of replicas.

    Raises:
      DataError: less than one batch of examples, or bad records.
      ConfigError: an unknown augmentation.
    """
    context = input_context or tf.distribute.InputContext()
    steps = steps_per_epoch(config, info)
    records = usable(config, info, "train")
    if _fits(config, records) and split_names(config.data.augment)[0] is None:
        examples = _cached_examples(config, info, records, epoch)
    else:
        examples = _streamed_examples(config, info, records, epoch)
    # Shards are cut from whole global batches, so that every worker has the same number of steps.
    examples = examples.take(steps * config.train.global_batch)
    examples = examples.shard(context.num_input_pipelines, context.input_pipeline_id)
    prepare = _trainer(config.data)
    run_seed = [config.train.seed & 0x7FFFFFFF, epoch]

    @tf.autograph.experimental.do_not_convert
    def train_example(
        position: Any, example: tuple[tf.Tensor, tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        return prepare(example[0], tf.random.fold_in(run_seed, position)), example[1]

    batches = examples.map(train_example, tf.data.AUTOTUNE).batch(
        _replica_batch(config, context), drop_remainder=True
    )
    return _finish(batches)


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
    if _fits(config, records):
        whole = _decoded(config, info, split, records)
        indices = tf.data.Dataset.range(records.examples).batch(size)
        batches = indices.map(lambda at: tf.nest.map_structure(lambda x: tf.gather(x, at), whole))
    else:
        decode = functools.partial(_eval_example, config=config)
        batches = read_records(records, info).map(decode, tf.data.AUTOTUNE).batch(size)
    return _finish(batches.map(functools.partial(_padded, size=size), tf.data.AUTOTUNE))


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
    if _fits(config, records):
        order = _permutation(config, 0, records.examples)[:n]
        return _decoded(config, info, "train", records).images.numpy()[order]
    decode = functools.partial(_eval_example, config=config)
    dataset = read_records(records, info, seed=(config.train.seed, 0)).take(n)
    with named_errors(config, info, "train"):
        chosen = [one.images.numpy() for one in dataset.map(decode, tf.data.AUTOTUNE)]
    return np.stack(chosen)


def skipped_records(config: Config, info: DatasetInfo, split: str) -> tuple[BadRecord, ...]:
    """The records that `data.on_error: skip` leaves out of a split; none with `raise`."""
    return usable(config, info, split).bad


def _replica_batch(config: Config, context: tf.distribute.InputContext) -> int:
    replicas = context.num_replicas_in_sync
    if config.train.global_batch % replicas:
        raise DataError(
            f"train.global_batch {config.train.global_batch} is not divisible by {replicas} "
            f"replicas; use a multiple of {replicas}"
        )
    return config.train.global_batch // replicas


def _permutation(config: Config, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([config.train.seed & 0xFFFFFFFF, epoch]).permutation(count)


def _cached_examples(
    config: Config, info: DatasetInfo, records: Usable, epoch: int
) -> tf.data.Dataset:
    """(position in the epoch, (image, label)) with the image decoded, resized, not augmented."""
    whole = _decoded(config, info, "train", records)
    order = tf.data.Dataset.from_tensor_slices(_permutation(config, epoch, records.examples))
    return order.map(lambda at: (whole.images[at], whole.labels[at])).enumerate()


def _streamed_examples(
    config: Config, info: DatasetInfo, records: Usable, epoch: int
) -> tf.data.Dataset:
    """(position in the epoch, (encoded bytes, label))."""
    ordered = read_records(records, info, seed=(config.train.seed, epoch))
    return ordered.map(lambda record: (record.encoded, record.label)).enumerate()


@functools.lru_cache(maxsize=8)
def _trainer(data: DataConfig) -> Callable[..., Any]:
    """`(picture, seed) -> image`, traced once: a dataset made each epoch would trace it again."""

    @tf.function(autograph=False)
    def prepare(picture: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        if picture.dtype == tf.string:
            return train_image(picture, seed, data=data)
        return augment_image(picture, seed, names=data.augment)

    return prepare


@tf.autograph.experimental.do_not_convert
def _eval_example(record: Record, *, config: Config) -> _Decoded:
    image = eval_image(
        record.encoded,
        image_size=config.data.image_size,
        crop_fraction=config.data.crop_fraction,
    )
    return _Decoded(image, record.label, record.id, record.slices)


@tf.autograph.experimental.do_not_convert
def _padded(part: _Decoded, *, size: int) -> EvalBatch:
    count = tf.shape(part.labels)[0]

    def fill(values: tf.Tensor) -> tf.Tensor:
        missing = tf.concat([[size - count], tf.shape(values)[1:]], 0)
        full = tf.concat([values, tf.zeros(missing, values.dtype)], 0)
        return tf.ensure_shape(full, (size, *values.shape[1:]))

    mask = tf.cast(tf.range(size) < count, tf.float32)
    slices = {key: fill(value) for key, value in part.slices.items()}
    return EvalBatch(fill(part.images), fill(part.labels), mask, fill(part.ids), slices)


def _finish(batches: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # Our own shard() has split the data; tf.distribute must not do so again.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.with_options(options).prefetch(tf.data.AUTOTUNE)


def _fits(config: Config, records: Usable) -> bool:
    height, width = config.data.image_size
    return records.examples * height * width * 3 <= _CACHE_BYTES


def _decoded(config: Config, info: DatasetInfo, split: str, records: Usable) -> _Decoded:
    """The whole split, from memory when the same files were decoded the same way before."""
    data = config.data
    key = (signature(records.files), data.image_size, data.crop_fraction, info.to_json(), records)
    if key not in _kept:
        while len(_kept) >= len(features.SPLITS):
            _kept.pop(next(iter(_kept)))
        with named_errors(config, info, split):
            _kept[key] = _decode_all(config, info, records)
    return _kept[key]


_kept: dict[object, _Decoded] = {}


def _decode_all(config: Config, info: DatasetInfo, records: Usable) -> _Decoded:
    decode = functools.partial(_eval_example, config=config)
    dataset = read_records(records, info).map(decode, tf.data.AUTOTUNE).batch(_LOAD_BATCH)
    with tf.device("CPU"):
        parts = list(dataset)
        return tf.nest.map_structure(lambda *values: tf.concat(values, 0), *parts)
