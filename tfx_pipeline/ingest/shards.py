"""Writes TFRecord shards from the index, each atomically."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.files import file_digest, replacing
from core.image_header import ImageError
from tfx_pipeline.ingest import progress
from tfx_pipeline.ingest.check import read_item
from tfx_pipeline.ingest.images import ImageFacts, load_stored
from tfx_pipeline.ingest.index import connect, read_item_row
from tfx_pipeline.ingest.output import full_disk_named, writing
from tfx_pipeline.ingest.records import make_example, serialize
from tfx_pipeline.ingest.source import IngestError, Item


@dataclass(frozen=True)
class ShardWriter:
    """Writes shards of an index. Beam pickles it and sends it to workers.

    Attributes:
      index: the SQLite file.
      folder: the data set's folder.
      counts: the folder for the counts of shards.
      shards: shards per split.
      classes: of the source.
      exif: as the images were checked.
    """

    index: str
    folder: str
    counts: str
    shards: int
    classes: tuple[str, ...]
    exif: str

    def __call__(self, target: tuple[str, int]) -> None:
        """Writes one shard, ordered by digest, and its counts, unless the counts exist.

        Raises:
          IngestError: a file changed since it was checked, or the disk is full.
        """
        import tensorflow as tf

        split, shard = target
        path = shard_path(Path(self.folder), split, shard, self.shards)
        counts = counts_file(Path(self.counts), split, shard)
        if counts.is_file() and path.is_file():
            progress.tick(json.loads(counts.read_text())["examples"])
            return
        tally: dict[str, Any] = {"examples": 0, "objects": 0, "per_class": Counter()}
        try:
            with full_disk_named(path), replacing(path) as temporary:
                with tf.io.TFRecordWriter(str(temporary)) as writer:
                    self._write(writer, target, tally)
                tally["sha256"] = file_digest(temporary)
        except tf.errors.OpError as error:
            raise IngestError(
                f"{path} could not be written: {error.message}; free some space and run the same "
                "command again; it resumes here"
            ) from error
        # Written last: its existence means that the shard is complete.
        with writing(counts) as file:
            file.write(json.dumps(tally).encode())

    def _write(self, writer: Any, target: tuple[str, int], tally: dict[str, Any]) -> None:
        with connect(self.index) as index:
            rows = index.execute(
                "SELECT row, facts, objects FROM facts WHERE split = ? AND shard = ? "
                "ORDER BY digest, row",
                target,
            )
            for row, text, objects in rows:
                item, facts = read_item_row(index, row), ImageFacts(**json.loads(text))
                example = make_example(item, facts, self._bytes(item, facts), classes=self.classes)
                writer.write(serialize(example))
                tally["examples"] += 1
                tally["objects"] += objects
                tally["per_class"].update(_class_names(example, item))
                progress.tick()

    def _bytes(self, item: Item, facts: ImageFacts) -> bytes:
        """The bytes to store for an item; they must equal the checked ones."""
        try:
            data = read_item(item)
            if facts.transcoded:
                data = load_stored(data, exif=self.exif).encoded
        except (ImageError, OSError) as error:
            raise IngestError(
                f"{item.name} changed during ingest: {error}; run the same command again"
            ) from error
        if hashlib.sha256(data).hexdigest() != facts.digest:
            raise IngestError(f"{item.name} changed during ingest; run the same command again")
        return data


def shard_path(folder: Path, split: str, shard: int, shards: int) -> Path:
    """The path of a shard in TFX's layout."""
    return folder / f"Split-{split}" / f"data_tfrecord-{shard:05d}-of-{shards:05d}"


def counts_file(folder: Path, split: str, shard: int) -> Path:
    """The file of a shard's counts and digest, which is deleted with the work folder."""
    return folder / f"{split}-{shard:05d}.json"


def _class_names(example: Any, item: Item) -> list[str]:
    if item.objects is None:
        return [item.class_name] if item.class_name else []
    from trainers.data import features

    values = example.features.feature[features.OBJECT_TEXT].bytes_list.value
    return [text.decode() for text in values]
