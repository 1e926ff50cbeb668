"""A small data set from a large one: the first images of each class, as they are stored."""

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from core.files import replacing_folder
from trainers.data import features
from trainers.data.features import CLASSIFICATION, DatasetError, DatasetInfo, SplitInfo


def sample_of(records: Path, cache: Path, *, limits: Mapping[str, int], classes: int = 0) -> Path:
    """The folder of a sample of a classification data set; made once while the records stay.

    Each class gives as many images as any other, as far as it has them, in stored order. Shards
    are read until there are enough.

    Args:
      records: folder of the data set.
      cache: the sample becomes a folder in it.
      limits: split -> about how many images of it, at least one a class; others are taken whole.
      classes: only the first so many classes, where they have the images; 0 takes all.

    Returns:
      `records` itself where the sample would be all of it.

    Raises:
      DatasetError: `records` holds no data set, or one of objects.
    """
    info = DatasetInfo.load(records)
    if info.task != CLASSIFICATION:
        raise DatasetError(
            f"--smoke takes a sample of images with one class each; {records} is for {info.task}"
        )
    kept = _classes(info, limits, classes)
    if kept == info.num_classes and all(
        info.splits[split].examples <= limit
        for split, limit in limits.items()
        if split in info.splits
    ):
        return records
    out = cache / f"{records.resolve().name}-sample-{_key(records, info, limits, kept)}"
    if not (out / features.DATASET_FILE).is_file():
        with replacing_folder(out) as work:
            _write(records, work, info, limits, kept)
    return out


def _classes(info: DatasetInfo, limits: Mapping[str, int], wanted: int) -> int:
    """How many classes, from the first, to keep: `wanted` where they fill every limited split."""
    if not 0 < wanted < info.num_classes:
        return info.num_classes
    for split, limit in limits.items():
        per_class = info.splits[split].per_class if split in info.splits else {}
        if sum(per_class.get(name, 0) for name in info.classes[:wanted]) < limit:
            return info.num_classes
    return wanted


def _key(records: Path, info: DatasetInfo, limits: Mapping[str, int], classes: int) -> str:
    """Hex digits that change with the records and with what is taken of them."""
    found = [
        (str(file), os.stat(file)) for split in info.splits for file in _shards(records, split)
    ]
    shards = [(name, one.st_size, one.st_mtime_ns, one.st_ino) for name, one in found]
    text = json.dumps([asdict(info), dict(limits), classes, shards], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _shards(records: Path, split: str) -> list[Path]:
    pattern = Path(features.shard_pattern(records, split))
    return sorted(pattern.parent.glob(pattern.name))


def _write(
    records: Path, out: Path, info: DatasetInfo, limits: Mapping[str, int], classes: int
) -> None:
    import tensorflow as tf

    digest = hashlib.sha256()
    splits = {}
    for split in info.splits:
        counts: Counter[int] = Counter()
        file = Path(features.shard_pattern(out, split).replace("*", "00000-of-00001"))
        file.parent.mkdir(parents=True)
        quota = _quota(info.splits[split], limits.get(split, 0), classes)
        with tf.io.TFRecordWriter(str(file)) as writer:
            for serialized, index in _taken(records, split, info, quota, classes):
                writer.write(serialized)
                digest.update(hashlib.sha256(serialized).digest())
                counts[index] += 1
        per_class = {name: counts[at] for at, name in enumerate(info.classes[:classes])}
        splits[split] = SplitInfo(counts.total(), 1, per_class)
    text = replace(
        info,
        name=f"{info.name}_sample",
        classes=info.classes[:classes],
        category_ids=info.category_ids[:classes],
        splits=splits,
        fingerprint=digest.hexdigest(),
        source=f"the first images of each class of: {info.source}",
    ).to_json()
    (out / features.DATASET_FILE).write_text(text, encoding="utf-8")


def _quota(split: SplitInfo, limit: int, classes: int) -> int:
    """Images a class; so many that nothing is left out where there is no limit."""
    return max(1, math.ceil(limit / classes)) if limit else max(1, split.examples)


def _taken(
    records: Path, split: str, info: DatasetInfo, quota: int, classes: int
) -> Iterator[tuple[bytes, int]]:
    """(the serialized example, its class) of the first `quota` images of each class."""
    import tensorflow as tf

    from trainers.data.reader import raw_examples

    per_class = info.splits[split].per_class
    open_ = {
        at: min(quota, per_class.get(name, quota)) for at, name in enumerate(info.classes[:classes])
    }
    left = sum(open_.values())
    for serialized in raw_examples(records, split):
        if not left:
            return
        feature = tf.train.Example.FromString(serialized).features.feature
        index = feature[features.LABEL].int64_list.value[0] - info.label_offset
        if open_.get(index, 0):
            open_[index] -= 1
            left -= 1
            yield serialized, index
