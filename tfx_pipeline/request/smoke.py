"""`sightline run PIPELINE --smoke`: the whole graph of a pipeline at a size for two cores.

A smoke run trains on a sample of the records: the first images of each class, as they are stored.
Its pipeline and models have separate names, `<pipeline>_smoke` and `<model>_smoke`, so that it
cannot replace a model in production.
"""

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from core.files import replacing_folder
from tfx_pipeline.config import PipelineConfig, pipelines
from trainers.config import ConfigError
from trainers.data import features
from trainers.data.features import CLASSIFICATION, DatasetError, DatasetInfo, SplitInfo
from trainers.registry import recipes

_SUFFIX = "_smoke"


def smoke_size(pipeline: PipelineConfig) -> tuple[PipelineConfig, tuple[str, ...]]:
    """`pipeline` at its smoke size, and the overrides of its experiments.

    Raises:
      ConfigError: it has no smoke size; names the pipelines that have one.
    """
    size = pipeline.smoke
    if size is None:
        have = [name for name in pipelines.names() if pipelines.get(name)().smoke is not None]
        raise ConfigError(
            f"the pipeline {pipeline.name} has no smoke size; these have: {', '.join(have)}"
        )
    smaller = replace(
        pipeline,
        name=pipeline.name + _SUFFIX,
        gates=size.gates,
        model_gates={},
        images=size.validator,
        statistics=size.statistics,
        best=size.best,
        others=size.others,
        benchmark_runs=size.benchmark_runs,
        serving_requests=size.serving_requests,
        tune={},
    )
    names = {one: recipes.get(one)().name for one in pipeline.experiments}
    renamed = [f"{one}:name={name}{_SUFFIX}" for one, name in names.items()]
    return smaller, (*size.overrides, *renamed)


def smoke_records(pipeline: PipelineConfig, records: Path, cache: Path) -> Path:
    """The folder of the sample that a smoke run of `pipeline` trains on.

    Args:
      pipeline: at its smoke size.
      records: the folder of the whole data set.
      cache: the folder in which the sample is created.

    Raises:
      DatasetError: `records` holds no data set.
    """
    size = pipeline.smoke
    if size is None:
        return records
    return sample_of(records, cache, limits=size.images, classes=size.classes)


def sample_of(records: Path, cache: Path, *, limits: Mapping[str, int], classes: int = 0) -> Path:
    """The folder of a sample of a classification data set, cached until the records change.

    All classes have the same number of images if possible, in stored order. Shards are read until
    there are enough images.

    Args:
      records: folder of the data set.
      cache: the folder in which the sample is created.
      limits: split -> approximate number of images, at least one per class; other splits are copied
        whole.
      classes: number of classes, the first ones, if they have enough images; 0 for all.

    Returns:
      `records` if the sample would include everything.

    Raises:
      DatasetError: `records` holds no data set, or one that is not for classification.
    """
    info = DatasetInfo.load(records)
    if info.task != CLASSIFICATION:
        raise DatasetError(
            f"--smoke needs images with one class each; {records} is for {info.task}"
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
    """Number of classes to keep: `wanted` if they fill every limited split, otherwise all."""
    if not 0 < wanted < info.num_classes:
        return info.num_classes
    for split, limit in limits.items():
        per_class = info.splits[split].per_class if split in info.splits else {}
        if sum(per_class.get(name, 0) for name in info.classes[:wanted]) < limit:
            return info.num_classes
    return wanted


def _key(records: Path, info: DatasetInfo, limits: Mapping[str, int], classes: int) -> str:
    """Hex digits that depend on the records and the sample's size."""
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
    """Images per class; large enough for all images without a limit."""
    return max(1, math.ceil(limit / classes)) if limit else max(1, split.examples)


def _taken(
    records: Path, split: str, info: DatasetInfo, quota: int, classes: int
) -> Iterator[tuple[bytes, int]]:
    """(serialized example, class) of the first `quota` images of each class."""
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
