"""Shards to parsed records: which of them can be used, and in which order they come."""

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
    UnicodeDecodeError,  # TensorFlow quotes the record in a message and can't make a str of it
)


class Record(NamedTuple):
    """Parsed records.

    Attributes:
      encoded: (k,) string, the images' bytes.
      label: (k,) int32 in [0, num_classes): the label offset is subtracted here and nowhere else.
      id: (k,) string, sha256 hex; of foreign records without one, 16 hex digits of a fingerprint.
      slices: key -> (k,) string for each of `info.slices`; foreign records may leave them empty.
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


def read_serialized(
    records: Usable,
    *,
    seed: tuple[int, int] | None = None,
    part: tuple[int, int] = (0, 1),
    tagged: bool = False,
    total: bool = True,
) -> tf.data.Dataset:
    """A dataset of serialized tf.Examples: in file order, or shuffled when a seed is given.

    With a seed, shards are permuted and interleaved, and so are the records within a buffer that
    `shuffle_buffer` sizes. Iterating raises tf.errors.OpError at a bad record; see `named_errors`.

    Args:
      records: which files, and which records of them are left out.
      seed: two integers that decide the order.
      part: (i, n) reads each n-th file from the i-th on; (0, 1) reads all.
      tagged: pairs of (index of the file in `records.files`, () int64, and the example).
      total: iterating fails where all files hold more or fewer records than declared.
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
    """The order in which `read_serialized` gives examples, as their numbers in file order.

    Args:
      records: which files.
      counts: (S,) how many usable examples each file holds.
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
    """How many encoded records `memory_mb` holds; at least 1,000, at most all."""
    total = sum(os.stat(file).st_size for file in records.files)
    fit = int(records.examples * memory_mb * 2**20 / max(1, total))
    return max(1, min(records.examples, max(1000, fit)))


@tf.autograph.experimental.do_not_convert
def parse_records(serialized: tf.Tensor, *, info: DatasetInfo) -> Record:
    """The `Record` columns in serialized tf.Examples.

    Records that others wrote (`info.foreign`) may lack an identity, which is then computed, and
    slices, which are then empty: see `trainers.data.prepare`.

    Args:
      serialized: (k,) string.
      info: for the label offset and range, and the slice keys.

    Raises:
      tf.errors.InvalidArgumentError: when run on a record without a required key, or whose label
        is outside [label_offset, label_offset + num_classes).
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
    return Record(encoded, label, identity, {key: parsed[key] for key in info.slices})


def fingerprint(encoded: tf.Tensor) -> tf.Tensor:
    """An identity for images of others: 16 hex digits of FarmHash64.

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
    """One number for (shard, index); no shard holds 2**40 records."""
    return shard * 2**40 + index
