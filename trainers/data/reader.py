"""Shards to parsed records: which of them can be used, and in which order they come."""

import functools
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trainers.config import Config
from trainers.data import features
from trainers.data.features import DatasetInfo
from trainers.data.records_check import (
    BadRecord,
    DataError,
    count_records,
    find_bad_record,
    shard_files,
    validate_records,
)

logger = logging.getLogger("sightline.data")

# Shards open at once while shuffling: mixes neighbours without one thread a shard.
_OPEN_SHARDS = 8

_RECORD_ERRORS = (
    tf.errors.InvalidArgumentError,  # schema, label, picture; also too many records
    tf.errors.FailedPreconditionError,  # too few records
    tf.errors.DataLossError,  # truncated, checksum
    UnicodeDecodeError,  # TensorFlow quotes the record in a message and can't make a str of it
)


class Record(NamedTuple):
    """One parsed record.

    Attributes:
      encoded: () string, the picture's bytes.
      label: () int32 in [0, num_classes): the label offset is subtracted here and nowhere else.
      id: () string, sha256 hex.
      slices: key -> () string for each of `features.SLICES`.
    """

    encoded: tf.Tensor
    label: tf.Tensor
    id: tf.Tensor
    slices: dict[str, tf.Tensor]


@dataclass(frozen=True)
class Usable:
    """What of a split will be read: `examples` records of `files`, all but those in `bad`."""

    files: tuple[str, ...]
    examples: int
    bad: tuple[BadRecord, ...]


def usable(config: Config, info: DatasetInfo, split: str) -> Usable:
    """What of a split can be read, given `data.on_error`.

    With `raise`, everything is expected to be fine and nothing is read. With `skip`, every record
    is read and decoded once a process, bad ones are logged and counted.

    Raises:
      DataError: the split or a shard is missing, or more than `data.max_skipped` are bad.
    """
    files = tuple(shard_files(config.data.dir, split, info))
    declared = info.splits[split].examples
    if config.data.on_error != "skip":
        return Usable(files, declared, ())
    key = (signature(files), split, info.to_json())
    if key not in _validated:
        _validated[key] = _validate(config.data.dir, split, info, files)
    found = _validated[key]
    skipped = max(len(found.bad), declared - found.examples)
    if skipped > config.data.max_skipped:
        raise DataError(
            f"{skipped} of {declared} {split} records are bad, data.max_skipped is "
            f"{config.data.max_skipped}; the first is {found.bad[0] if found.bad else 'missing'}"
        )
    return found


def signature(files: tuple[str, ...]) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of change of each file: equal only while the files are the same."""
    return tuple((file, os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in files)


_validated: dict[object, Usable] = {}


def _validate(directory: str, split: str, info: DatasetInfo, files: tuple[str, ...]) -> Usable:
    bad = tuple(validate_records(directory, split, info))
    found = count_records(list(files)) - sum(not one.ends_shard for one in bad)
    declared = info.splits[split].examples
    if found < declared:
        first = f", the first is {bad[0]}" if bad else ""
        logger.warning("skipping %d of %d %s records%s", declared - found, declared, split, first)
    return Usable(files, found, bad)


def read_records(
    records: Usable, info: DatasetInfo, *, seed: tuple[int, int] | None = None
) -> tf.data.Dataset:
    """A dataset of `Record`: in file order, or shuffled when a seed is given.

    With a seed, shards are permuted and interleaved, and so are the records within a buffer that
    `shuffle_buffer` sizes. Iterating raises tf.errors.OpError at a bad record; see `named_errors`.

    Args:
      records: which files, and which records of them are left out.
      info: for the label offset and range.
      seed: two integers that decide the order.
    """
    files, order = list(records.files), np.arange(len(records.files))
    if seed is not None:
        order = np.random.default_rng([part & 0xFFFFFFFF for part in seed]).permutation(len(files))
    readable = np.full(len(files), -1, np.int64)
    for bad in records.bad:
        if bad.ends_shard:
            readable[files.index(bad.file)] = bad.index
    bad_keys = [_key(files.index(bad.file), bad.index) for bad in records.bad]
    dataset = tf.data.Dataset.from_tensor_slices(
        (np.array(files)[order], order.astype(np.int64), readable[order])
    ).interleave(
        functools.partial(_one_shard, bad_keys=bad_keys),
        cycle_length=1 if seed is None else min(_OPEN_SHARDS, len(files)),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(records.examples))
    if seed is not None:
        dataset = dataset.shuffle(
            shuffle_buffer(records), seed=_mix(seed), reshuffle_each_iteration=False
        )
    return dataset.map(functools.partial(parse_record, info=info), tf.data.AUTOTUNE)


def shuffle_buffer(records: Usable, *, memory_mb: int = 256) -> int:
    """How many encoded records `memory_mb` holds; at least 1,000, at most all."""
    total = sum(os.stat(file).st_size for file in records.files)
    fit = int(records.examples * memory_mb * 2**20 / max(1, total))
    return max(1, min(records.examples, max(1000, fit)))


@tf.autograph.experimental.do_not_convert
def parse_record(serialized: tf.Tensor, *, info: DatasetInfo) -> Record:
    """The `Record` in a serialised tf.Example.

    Raises:
      tf.errors.InvalidArgumentError: when run on a record without a required key, or whose label
        is outside [label_offset, label_offset + num_classes).
    """
    text = tf.io.FixedLenFeature((), tf.string)
    spec = {features.IMAGE: text, features.ID: text, **dict.fromkeys(features.SLICES, text)}
    spec[features.LABEL] = tf.io.FixedLenFeature((), tf.int64)
    parsed = tf.io.parse_single_example(serialized, spec)
    label = parsed[features.LABEL] - info.label_offset
    in_range = tf.debugging.Assert(
        (label >= 0) & (label < info.num_classes), ["label out of range", label]
    )
    with tf.control_dependencies([in_range] if in_range is not None else []):
        label = tf.cast(label, tf.int32)
    slices = {key: parsed[key] for key in features.SLICES}
    return Record(parsed[features.IMAGE], label, parsed[features.ID], slices)


@contextmanager
def named_errors(config: Config, info: DatasetInfo, split: str) -> Iterator[None]:
    """Turns TensorFlow's errors about records, raised inside, into a `DataError` with their name.

    Wrap the loop that iterates over `train_batches` or `eval_batches` in it. It costs nothing
    until an error comes; then the split is read from the start to find the record.

    Raises:
      DataError: names shard, record index, reason and remedy.
    """
    try:
        yield
    except _RECORD_ERRORS as error:
        bad = find_bad_record(config.data.dir, split, info)
        if bad is not None:
            raise DataError(f"{bad}; ingest the data again, or set data.on_error=skip") from error
        files = shard_files(config.data.dir, split, info)
        count, declared = count_records(files), info.splits[split].examples
        if count != declared:
            raise DataError(
                f"{config.data.dir} split {split!r} holds {count} records, "
                f"{features.DATASET_FILE} says {declared}; ingest the data again"
            ) from error
        raise


def raw_examples(directory: Path | str, split: str) -> Iterator[bytes]:
    """Serialised tf.Examples of a split, in file order.

    Raises:
      DatasetError: the folder is not a data set or lacks the split.
      DataError: a shard is truncated; names file and record.
    """
    info = DatasetInfo.load(Path(directory))
    for file in shard_files(directory, split, info):
        index = 0
        try:
            for record in tf.data.TFRecordDataset(file).as_numpy_iterator():
                yield bytes(record)
                index += 1
        except tf.errors.DataLossError as error:
            raise DataError(
                str(BadRecord(file, index, "truncated or corrupt shard; ingest the data again"))
            ) from error


def _one_shard(
    file: tf.Tensor, shard: tf.Tensor, readable: tf.Tensor, *, bad_keys: list[int]
) -> tf.data.Dataset:
    dataset = tf.data.TFRecordDataset(file).take(readable)
    if not bad_keys:
        return dataset
    keys = tf.constant(bad_keys, tf.int64)
    kept = dataset.enumerate().filter(
        lambda index, _: tf.logical_not(tf.reduce_any(keys == _key(shard, index)))
    )
    return kept.map(lambda _, serialized: serialized)


def _key(shard: Any, index: Any) -> Any:
    """One number for (shard, index); no shard holds 2**40 records."""
    return shard * 2**40 + index


def _mix(seed: tuple[int, int]) -> int:
    return int(np.random.default_rng([part & 0xFFFFFFFF for part in seed]).integers(2**31))
