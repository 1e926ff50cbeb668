"""Reads and parses records from shards, skips bad ones if allowed, and names them in errors."""

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
from trainers.data.order import arranged
from trainers.data.records_check import (
    BadRecord,
    DataError,
    count_records,
    find_bad_record,
    shard_files,
    validate_records,
)

logger = logging.getLogger("sightline.data")

_RECORD_ERRORS = (
    tf.errors.InvalidArgumentError,  # schema, label, image; also too many records
    tf.errors.FailedPreconditionError,  # too few records
    tf.errors.DataLossError,  # truncated, checksum
    UnicodeDecodeError,  # TensorFlow quotes the record in its message and cannot decode it
)


class ParsedRecords(NamedTuple):
    """The columns of parsed records.

    Attributes:
      encoded: (k,) string, the bytes of the images.
      label: (k,) int32 in [0, num_classes): the label offset is already subtracted.
      id: (k,) string, sha256 hex; for foreign records without it, 16 hex digits of a fingerprint.
      slices: key -> (k,) string for each of `info.slices`; may be empty in foreign records.
    """

    encoded: tf.Tensor
    label: tf.Tensor
    id: tf.Tensor
    slices: dict[str, tf.Tensor]


@dataclass(frozen=True)
class Usable:
    """The records of a split to read: `examples` records of `files`, without those in `bad`."""

    files: tuple[str, ...]
    examples: int
    bad: tuple[BadRecord, ...]


def usable(config: Config, info: DatasetInfo, split: str) -> Usable:
    """The usable records of a split, by `data.on_error`.

    With `raise`, nothing is read and all records are assumed to be usable. With `skip`, every
    record is read and decoded once per process; bad ones are logged and counted.

    Raises:
      DataError: the split or a shard is missing, or more than `data.max_skipped` records are bad.
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
    """(name, size, modification time) of each file, which changes with the files."""
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


def read_serialized(
    records: Usable,
    *,
    seed: tuple[int, int] | None = None,
    part: tuple[int, int] = (0, 1),
    tagged: bool = False,
    total: bool = True,
) -> tf.data.Dataset:
    """A dataset of serialized tf.Examples, in file order, or shuffled if a seed is given.

    With a seed, shards are permuted and interleaved, and records are shuffled in a buffer of
    `shuffle_buffer` records. Iteration raises tf.errors.OpError at a bad record; see
    `named_errors`.

    Args:
      records: the files, and the records to skip.
      seed: two integers that decide the order.
      part: (i, n) reads every n-th file starting at file i; (0, 1) reads all.
      tagged: whether elements are (index of the file in `records.files`, () int64, example).
      total: whether iteration fails if the number of records differs from the declared one.
    """
    files = tf.constant(records.files)
    readable = np.full(len(records.files), -1, np.int64)
    for bad in records.bad:
        if bad.ends_shard:
            readable[records.files.index(bad.file)] = bad.index
    bad_keys = [_key(records.files.index(bad.file), bad.index) for bad in records.bad]

    def leaf(shard: tf.Tensor) -> tf.data.Dataset:
        dataset = _one_shard(files[shard], shard, readable=readable, bad_keys=bad_keys)
        if tagged:
            dataset = tf.data.Dataset.zip((tf.data.Dataset.from_tensors(shard).repeat(), dataset))
        return dataset

    first, step = part
    return arranged(
        leaf,
        np.arange(len(records.files))[first::step],
        seed=seed,
        buffer=shuffle_buffer(records),
        examples=records.examples if total and step == 1 else None,
    )


def read_indices(
    records: Usable,
    counts: np.ndarray,
    *,
    seed: tuple[int, int] | None = None,
    part: tuple[int, int] = (0, 1),
) -> tf.data.Dataset:
    """The indices in file order of the examples, in the order of `read_serialized`.

    Args:
      records: the files.
      counts: (S,) number of usable examples in each file.
      seed: as for `read_serialized`.
      part: as for `read_serialized`.

    Returns:
      A dataset of () int64.
    """
    ends = tf.constant(np.cumsum(counts), tf.int64)
    starts = ends - tf.constant(counts, tf.int64)
    first, step = part
    return arranged(
        lambda shard: tf.data.Dataset.range(starts[shard], ends[shard]),
        np.arange(len(records.files))[first::step],
        seed=seed,
        buffer=shuffle_buffer(records),
        examples=records.examples if step == 1 else None,
    )


def shuffle_buffer(records: Usable, *, memory_mb: int = 256) -> int:
    """Number of encoded records that fit in `memory_mb`; at least 1,000, at most all."""
    total = sum(os.stat(file).st_size for file in records.files)
    fit = int(records.examples * memory_mb * 2**20 / max(1, total))
    return max(1, min(records.examples, max(1000, fit)))


@tf.autograph.experimental.do_not_convert
def parse_records(serialized: tf.Tensor, *, info: DatasetInfo) -> ParsedRecords:
    """The columns of serialized tf.Examples.

    Foreign records (`info.foreign`) may lack an id, which is then computed, and slices, which are
    then empty; see `trainers.data.prepare`.

    Args:
      serialized: (k,) string.
      info: decides the label offset and range, and the slice keys.

    Raises:
      tf.errors.InvalidArgumentError: at run time, if a record lacks a required key, or its label is
        outside [label_offset, label_offset + num_classes).
    """
    text = tf.io.FixedLenFeature((), tf.string)
    lenient = tf.io.FixedLenFeature((), tf.string, "") if info.foreign else text
    spec = {features.IMAGE: text, features.ID: lenient, **dict.fromkeys(info.slices, lenient)}
    spec[features.LABEL] = tf.io.FixedLenFeature((), tf.int64)
    parsed = tf.io.parse_example(serialized, spec)
    label = parsed[features.LABEL] - info.label_offset
    in_range = tf.debugging.Assert(
        tf.reduce_all((label >= 0) & (label < info.num_classes)), ["label out of range", label]
    )
    with tf.control_dependencies([in_range] if in_range is not None else []):
        label = tf.cast(label, tf.int32)
    encoded, identity = parsed[features.IMAGE], parsed[features.ID]
    if info.foreign:
        identity = tf.where(identity == "", fingerprint(encoded), identity)
    return ParsedRecords(encoded, label, identity, {key: parsed[key] for key in info.slices})


def fingerprint(encoded: tf.Tensor) -> tf.Tensor:
    """Ids for foreign images: 16 hex digits of FarmHash64.

    Args:
      encoded: (k,) string.

    Returns:
      (k,) string.
    """
    digest = tf.raw_ops.Fingerprint(data=encoded, method="farmhash64")
    digits = tf.constant([f"{byte:02x}" for byte in range(256)])
    return tf.strings.reduce_join(tf.gather(digits, tf.cast(digest, tf.int32)), -1)


@contextmanager
def named_errors(config: Config, info: DatasetInfo, split: str) -> Iterator[None]:
    """Converts TensorFlow's errors in the block to a `DataError` that names the record.

    Use it around loops over `train_batches` or `eval_batches`. It has no cost without an error;
    after one, the split is read from the start to find the record.

    Raises:
      DataError: a record is bad; names shard, record index, reason and remedy.
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
                f"{config.data.dir} split {split!r} has {count} records, but "
                f"{features.DATASET_FILE} says {declared}; ingest the data again"
            ) from error
        raise


def raw_examples(directory: Path | str, split: str) -> Iterator[bytes]:
    """Serialized tf.Examples of a split, in file order.

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
    file: tf.Tensor, shard: tf.Tensor, *, readable: np.ndarray, bad_keys: list[int]
) -> tf.data.Dataset:
    dataset = tf.data.TFRecordDataset(file)
    if not bad_keys:
        return dataset
    keys = tf.constant(bad_keys, tf.int64)
    kept = (
        dataset.take(tf.constant(readable)[shard])
        .enumerate()
        .filter(lambda index, _: tf.logical_not(tf.reduce_any(keys == _key(shard, index))))
    )
    return kept.map(lambda _, serialized: serialized)


def _key(shard: Any, index: Any) -> Any:
    """One number for (shard, index); a shard has fewer than 2**40 records."""
    return shard * 2**40 + index
