"""The Beam pipeline: items -> checked pictures -> one of each content -> shards.

Only facts about pictures travel between workers. A shard's writer reads the files again, so memory
does not grow with the data.
"""

import hashlib
import json
import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tfx_pipeline.ingest import progress, splits
from tfx_pipeline.ingest.output import replacing
from tfx_pipeline.ingest.records import load_picture, make_example, serialize
from tfx_pipeline.ingest.source import IngestError, Item, Source
from trainers.data import features
from trainers.data.features import DatasetInfo, SplitInfo
from trainers.data.image_header import ImageError

# ImageNet's convention: 0 is background, classes count from 1.
LABEL_OFFSET = 1
# At ImageNet's 110 kB a picture, about 110 MB a shard.
_PICTURES_PER_SHARD = 1000
_MAX_FILE_BYTES = 256 * 2**20
_WORK = ".work"
# How many of the files with one content a message lists.
_NAMED = 4


@dataclass(frozen=True)
class Checked:
    """A picture that decodes: the item and the digest of what will be stored."""

    item: Item
    digest: str


@dataclass(frozen=True)
class Rejected:
    """A source file that does not become a record, and why."""

    file: str
    reason: str


def run(
    source: Source,
    out: Path,
    *,
    name: str | None,
    fractions: tuple[float, float, float],
    shards: int | None,
    beam_args: Sequence[str],
) -> DatasetInfo:
    """Writes `source` as a data set to `out`; see `tfx_pipeline.ingest.ingest`.

    Raises:
      IngestError: nothing usable in the source, or `out` is something else.
    """
    splits.check_fractions(fractions)
    shards = shards or max(1, round(len(source.items) / _PICTURES_PER_SHARD))
    if not 1 <= shards <= 99_999:
        raise IngestError(f"shards must be in 1..99999, got {shards}")
    with replacing(out) as folder:
        (folder / _WORK).mkdir()
        with progress.showing(len(source.items)):
            _run_beam(source, folder, fractions=fractions, shards=shards, beam_args=beam_args)
        info = _describe(source, folder, name=name, shards=shards)
        (folder / features.DATASET_FILE).write_text(info.to_json(), encoding="utf-8")
    return info


def _run_beam(
    source: Source,
    folder: Path,
    *,
    fractions: tuple[float, float, float],
    shards: int,
    beam_args: Sequence[str],
) -> None:
    # Beam takes seconds to load, and the job registry imports this module.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    present = {item.split for item in source.items if item.split}
    place = partial(_place, present=present, fractions=fractions, shards=shards)
    # Beam's default DirectRunner first tries to download one written in Go.
    options = PipelineOptions(["--runner=FnApiRunner", *beam_args])
    with beam.Pipeline(options=options) as pipeline:
        checked = (
            pipeline
            | "Items" >> beam.Create(source.items)
            | "Spread" >> beam.Reshuffle()
            | "Check" >> beam.Map(check_item)
        )
        resolved = (
            checked
            | "Good" >> beam.Filter(lambda one: isinstance(one, Checked))
            | "ByContent" >> beam.Map(lambda one: (one.digest, one))
            | "SameContent" >> beam.GroupByKey()
            | "OneOfEach" >> beam.FlatMap(lambda group: resolve_duplicates(group[1]))
        )
        _ = (
            resolved
            | "Kept" >> beam.Filter(lambda one: isinstance(one, Checked))
            | "Place" >> beam.Map(place)
            | "Shards" >> beam.GroupByKey()
            | "Write" >> beam.Map(_write_shard, str(folder), shards, source.classes)
        )
        _ = (
            (checked, resolved)
            | "Both" >> beam.Flatten()
            | "Bad" >> beam.Filter(lambda one: isinstance(one, Rejected))
            | "OneList" >> beam.Map(lambda one: (0, one))
            | "AllRejected" >> beam.GroupByKey()
            | "WriteRejected" >> beam.Map(_write_rejected, str(folder))
        )


def check_item(item: Item) -> Checked | Rejected:
    """The verdict on one item; a bad file is named, never an exception."""
    progress.tick()
    try:
        return Checked(item, load_picture(read_item(item)).digest)
    except (ImageError, OSError) as error:
        return Rejected(item.name, str(error))


def read_item(item: Item) -> bytes:
    """The bytes of an item.

    Raises:
      ImageError: not a regular file, or too large to be one picture.
      OSError: it cannot be read.
    """
    if not item.path:
        return item.data
    path = Path(item.path)
    if not path.is_file():  # Also keeps the job from waiting on a pipe.
        raise ImageError("not a regular file, or a link to nothing")
    size = path.stat().st_size
    if size > _MAX_FILE_BYTES:
        raise ImageError(f"{size:,} bytes is over the limit of {_MAX_FILE_BYTES:,} for a picture")
    return path.read_bytes()


def resolve_duplicates(same: Iterable[Checked]) -> list[Checked | Rejected]:
    """What is kept of items with equal content, and the rejections of the others.

    One is kept where all agree on the class: from test rather than validation, from those rather
    than train (so that no test picture is trained on), then the first by name. Where they
    disagree, none is kept.
    """
    rank = {"test": 0, "validation": 1}
    ordered = sorted(same, key=lambda one: (rank.get(one.item.split, 2), one.item.name))
    first = ordered[0]
    labels = sorted({one.item.class_name for one in ordered})
    if len(labels) > 1:
        names = ", ".join(sorted(one.item.name for one in ordered)[:_NAMED])
        more = f" and {len(ordered) - _NAMED} more" if len(ordered) > _NAMED else ""
        reason = f"one picture with classes {' and '.join(labels)}: {names}{more}"
        return [Rejected(one.item.name, reason) for one in ordered]
    reason = f"duplicate of {first.item.name}"
    return [first, *(Rejected(one.item.name, reason) for one in ordered[1:])]


def _place(
    one: Checked, *, present: set[str], fractions: tuple[float, float, float], shards: int
) -> tuple[tuple[str, int], Checked]:
    split = splits.choose_split(one.digest, one.item.split, present=present, fractions=fractions)
    return (split, splits.choose_shard(one.digest, shards)), one


def _write_shard(
    group: tuple[tuple[str, int], Iterable[Checked]],
    folder: str,
    shards: int,
    classes: tuple[str, ...],
) -> None:
    """One TFRecord file in order of the digests, and its class counts in the work folder."""
    import tensorflow as tf

    (split, shard), members = group
    counts: Counter[str] = Counter()
    path = _shard_path(Path(folder), split, shard, shards)
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for one in sorted(members, key=lambda one: one.digest):
            picture = load_picture(read_item(one.item))
            if picture.digest != one.digest:
                raise IngestError(f"{one.item.name} changed while it was ingested; run again")
            label = classes.index(one.item.class_name) + LABEL_OFFSET
            example = make_example(
                picture, filename=one.item.name, label=label, class_name=one.item.class_name
            )
            writer.write(serialize(example))
            counts[one.item.class_name] += 1
    (Path(folder) / _WORK / f"{split}-{shard}.json").write_text(json.dumps(counts))


def _write_rejected(group: tuple[int, Iterable[Rejected]], folder: str) -> None:
    lines = sorted(json.dumps({"file": one.file, "reason": one.reason}) for one in group[1])
    text = "".join(line + "\n" for line in lines)
    (Path(folder) / features.REJECTED_FILE).write_text(text, encoding="utf-8")


def _describe(source: Source, folder: Path, *, name: str | None, shards: int) -> DatasetInfo:
    """Counts what was written, fills in empty shards, and removes the work folder."""
    counts: dict[str, Counter[str]] = {split: Counter() for split in features.SPLITS}
    for file in (folder / _WORK).iterdir():
        counts[file.stem.split("-")[0]].update(json.loads(file.read_text()))
        file.unlink()
    (folder / _WORK).rmdir()
    rejected = folder / features.REJECTED_FILE
    rejected.touch()
    refused = rejected.read_text(encoding="utf-8").splitlines()
    _check_counts(source, counts, refused)
    fingerprint = hashlib.sha256()
    for split in features.SPLITS:
        for shard in range(shards):
            path = _shard_path(folder, split, shard, shards)
            path.parent.mkdir(exist_ok=True)
            path.touch()
            fingerprint.update(path.read_bytes())
    return DatasetInfo(
        name=name or source.name,
        task="classification",
        classes=source.classes,
        label_offset=LABEL_OFFSET,
        splits={
            split: SplitInfo(
                examples=sum(counts[split].values()),
                shards=shards,
                per_class={one: counts[split][one] for one in source.classes},
            )
            for split in features.SPLITS
        },
        fingerprint=fingerprint.hexdigest(),
        rejected=len(refused),
        source=source.description,
    )


def _check_counts(source: Source, counts: dict[str, Counter[str]], refused: list[str]) -> None:
    first = f"; {len(refused)} files were rejected, e.g. {refused[0]}" if refused else ""
    absent = [one for one in source.classes if not counts["train"][one]]
    if absent:
        raise IngestError(
            f"no training picture of class {', '.join(absent)} among {len(source.items)} files"
            f"{first}; add pictures of it, or remove its folder"
        )
    for split in features.SPLITS:
        if not counts[split]:
            raise IngestError(
                f"no picture fell into {split!r} of {len(source.items)} files{first}; add "
                f"pictures, give it a larger fraction, or add a folder {split!r}"
            )


def _shard_path(folder: Path, split: str, shard: int, shards: int) -> Path:
    return folder / f"Split-{split}" / f"data_tfrecord-{shard:05d}-of-{shards:05d}"
