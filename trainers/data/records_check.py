"""Finds bad records and names them by file and index, which tf.data's errors lack.

The input pipeline calls it only after an error, or once before the first epoch if `data.on_error`
is `skip`.
"""

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError

from core.image_header import ImageError
from trainers.data import features
from trainers.data.decode import load_image
from trainers.data.features import DatasetError, DatasetInfo

_BOX_LISTS = dict.fromkeys(
    (features.XMIN, features.XMAX, features.YMIN, features.YMAX), "float_list"
)
# Lists that may be empty, because their values have defaults.
_OPTIONAL_LISTS = {
    features.IS_CROWD: "int64_list",
    features.AREA: "float_list",
    features.OBJECT_ID: "int64_list",
    features.MASK: "bytes_list",
}


class DataError(DatasetError):
    """Records that cannot be used; the message contains file, record and remedy."""


@dataclass(frozen=True)
class BadRecord:
    """One record that cannot be used.

    Attributes:
      file: path of the shard.
      index: position in the shard, from 0.
      reason: text about the fault.
      ends_shard: whether later records cannot be read (truncated file, wrong checksum).
    """

    file: str
    index: int
    reason: str
    ends_shard: bool = False

    def __str__(self) -> str:
        return f"{self.file} record {self.index}: {self.reason}"


def shard_files(directory: Path | str, split: str, info: DatasetInfo) -> list[str]:
    """The shards of one split, sorted.

    Raises:
      DataError: `info` has no such split, or the number of shards differs from `info`.
    """
    if split not in info.splits or info.splits[split].examples == 0:
        have = ", ".join(name for name, one in info.splits.items() if one.examples) or "none"
        raise DataError(f"data set {info.name!r} has no examples in split {split!r}; it has {have}")
    pattern = features.shard_pattern(glob.escape(str(directory)), split)
    files = sorted(glob.glob(pattern))
    if len(files) != info.splits[split].shards:
        raise DataError(
            f"{features.shard_pattern(directory, split)} matches {len(files)} files, "
            f"{features.DATASET_FILE} says {info.splits[split].shards}; ingest the data again"
        )
    return files


def validate_records(
    directory: Path | str, split: str, info: DatasetInfo, *, limit: int | None = None
) -> list[BadRecord]:
    """All bad records of a split, in file order; every record is read and decoded.

    Args:
      directory: the folder of the data set.
      split: `train`, `validation` or `test`.
      info: description of the data set.
      limit: maximum number of bad records to find.

    Raises:
      DataError: the split or a shard is missing.
    """
    found: list[BadRecord] = []
    for bad in _scan(directory, split, info):
        found.append(bad)
        if limit is not None and len(found) >= limit:
            break
    return found


def find_bad_record(directory: Path | str, split: str, info: DatasetInfo) -> BadRecord | None:
    """The first bad record of a split; None if there is none."""
    return next(iter(validate_records(directory, split, info, limit=1)), None)


def count_records(files: list[str]) -> int:
    """Number of records in the shards; a damaged shard counts up to the damage."""
    return sum(not isinstance(one, BadRecord) for file in files for one in _records(file))


def check_example(serialized: bytes, info: DatasetInfo) -> str:
    """The fault of a serialized tf.Example; empty if it is usable."""
    try:
        example = tf.train.Example.FromString(serialized)
    except DecodeError:
        return f"{len(serialized)} bytes that are not a tf.Example"
    feature = example.features.feature
    for key, kind in required_keys(info).items():
        if key not in feature:
            have = ", ".join(sorted(feature)) or "nothing"
            return f"no {key!r}, only {have}; write records with `sightline ingest`"
        if len(getattr(feature[key], kind).value) != 1:
            return f"{key!r} must be one value in {kind}, got {feature[key].WhichOneof('kind')}"
    detection = info.task == features.DETECTION
    if detection and (reason := _unequal_lists(feature)):
        return reason
    low, high = info.label_offset, info.label_offset + info.num_classes - 1
    for label in feature[features.OBJECT_LABEL if detection else features.LABEL].int64_list.value:
        if not low <= label <= high:
            return f"label {label} is outside {low}..{high} ({info.num_classes} classes)"
    try:
        load_image(feature[features.IMAGE].bytes_list.value[0])
    except ImageError as error:
        return f"the image cannot be decoded: {error}"
    return ""


def _unequal_lists(feature: Any) -> str:
    """The list of objects whose length differs from the labels, as text; empty if none does.

    Args:
      feature: the features of a tf.Example; crowds, areas, ids and masks may be absent.
    """
    count = len(feature[features.OBJECT_LABEL].int64_list.value)
    for key, kind in {**_BOX_LISTS, **_OPTIONAL_LISTS}.items():
        length = len(getattr(feature[key], kind).value)
        if length != count and (length or key in _BOX_LISTS):
            return f"{key!r} has {length} values in {kind}, {features.OBJECT_LABEL!r} has {count}"
    return ""


def required_keys(info: DatasetInfo) -> dict[str, str]:
    """Required key with exactly one value -> its kind of list in `tf.train.Feature`.

    Ids and slices are not required in foreign records (`info.foreign`).
    """
    keys = {features.IMAGE: "bytes_list"}
    if info.task != features.DETECTION:
        keys[features.LABEL] = "int64_list"
    if not info.foreign:
        keys |= {features.ID: "bytes_list", **dict.fromkeys(info.slices, "bytes_list")}
    return keys


def _scan(directory: Path | str, split: str, info: DatasetInfo) -> Iterator[BadRecord]:
    for file in shard_files(directory, split, info):
        for index, one in enumerate(_records(file)):
            if isinstance(one, BadRecord):
                yield one
                continue
            reason = check_example(one, info)
            if reason:
                yield BadRecord(file, index, reason)


def _records(file: str) -> Iterator[bytes | BadRecord]:
    """The records of a shard, followed by a `BadRecord` if reading fails."""
    iterator = iter(tf.data.TFRecordDataset(file))
    index = 0
    while True:
        try:
            record = bytes(next(iterator).numpy())
        except StopIteration:
            return
        except tf.errors.DataLossError as error:
            reason = error.message.split("}}")[-1].split(" [Op:")[0].strip()
            yield BadRecord(file, index, f"truncated or corrupt shard ({reason})", ends_shard=True)
            return
        yield record
        index += 1
