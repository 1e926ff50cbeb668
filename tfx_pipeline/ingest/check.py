"""Checks items in chunks; the verdicts of each chunk are saved so that a job can resume."""

import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.image_header import ImageError, ImageTooLargeError
from tfx_pipeline.ingest import progress
from tfx_pipeline.ingest.archives import MAX_FILE_BYTES, read_member
from tfx_pipeline.ingest.findings import OBJECT_LOSSES, IngestFinding
from tfx_pipeline.ingest.frames import (
    SHOWN,
    STORED,
    FrameError,
    declared_size,
    frame_size,
    record_labels,
)
from tfx_pipeline.ingest.images import ImageFacts, StoredImage, load_stored, name_differs
from tfx_pipeline.ingest.index import read_chunk
from tfx_pipeline.ingest.output import writing
from tfx_pipeline.ingest.source import Item


@dataclass(frozen=True)
class Verdict:
    """The result of the checks on one item.

    Attributes:
      row: its row in the index.
      facts: of its image; None if the item is rejected.
      findings: of the item, except the findings that the source reported.
      objects: number of objects that are kept.
    """

    row: int
    facts: ImageFacts | None
    findings: tuple[IngestFinding, ...]
    objects: int = 0


@dataclass(frozen=True)
class Checker:
    """Checks chunks of an index. Beam pickles it and sends it to workers.

    Attributes:
      index: the SQLite file.
      verdicts: the folder for the files of verdicts.
      exif: see `load_stored`.
      num_classes: number of classes of the source.
    """

    index: str
    verdicts: str
    exif: str
    num_classes: int

    def __call__(self, chunk: int) -> None:
        """Writes the verdicts of a chunk, unless the file exists."""
        path = verdict_file(Path(self.verdicts), chunk)
        items = read_chunk(self.index, chunk)
        if path.is_file():
            progress.tick(len(items))
            return
        # Reading, decoding and hashing release the GIL.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            verdicts = list(pool.map(lambda one: self.check(*one), items))
        with writing(path) as file:
            for one in verdicts:
                file.write((json.dumps(asdict(one)) + "\n").encode())

    def check(self, row: int, item: Item) -> Verdict:
        """The verdict on one item; an unreadable file becomes a rejection, not an exception."""
        try:
            image = load_stored(read_item(item), exif=self.exif)
        except ImageTooLargeError as error:
            return self._rejected(row, IngestFinding("too_large", item.name, str(error)))
        except ImageError as error:
            return self._rejected(row, IngestFinding("undecodable", item.name, str(error)))
        except OSError as error:
            return self._rejected(row, IngestFinding("unreadable", item.name, str(error)))
        finally:
            progress.tick()
        return self._judged(row, item, image)

    def _judged(self, row: int, item: Item, image: StoredImage) -> Verdict:
        facts, found = image.facts, list(image.found)
        differs = name_differs(item.name, image.source_format)
        if differs:
            found.append(("name_differs", differs))
        declared = declared_size(item)
        sizes = {frame_size(facts, frame) for frame in _frames(item)}
        if declared and declared not in sizes:
            size = f"{facts.height} x {facts.width}"
            detail = f"labels say {declared[0]} x {declared[1]}, the image is {size}"
            return self._rejected(row, IngestFinding("size_differs", item.name, detail))
        findings = [IngestFinding(kind, item.name, detail) for kind, detail in found]
        try:
            labels = record_labels(item, facts, num_classes=self.num_classes)
        except FrameError as error:
            return self._rejected(row, IngestFinding("orientation_unclear", item.name, str(error)))
        findings += labels.findings
        if labels.objects is None:
            return Verdict(row, facts, tuple(findings))
        count = len(labels.objects.boxes)
        lost = sum(one.kind in OBJECT_LOSSES for one in (*item.findings, *labels.findings))
        if lost and not count:
            detail = f"{lost} of {lost} objects: {_first_loss(item, labels.findings)}"
            findings.append(IngestFinding("objects_lost", item.name, detail))
            return Verdict(row, None, tuple(findings))
        return Verdict(row, facts, tuple(findings), count)

    def _rejected(self, row: int, finding: IngestFinding) -> Verdict:
        return Verdict(row, None, (finding,))


def _frames(item: Item) -> tuple[str, ...]:
    """The frames that the labels of an item may refer to."""
    frame = item.objects.frame if item.objects is not None else STORED
    return (frame,) if frame else (STORED, SHOWN)


def _first_loss(item: Item, dropped: Iterable[IngestFinding]) -> str:
    return next(one.detail for one in (*item.findings, *dropped) if one.kind in OBJECT_LOSSES)


def read_item(item: Item) -> bytes:
    """The bytes of an item.

    Raises:
      ImageError: not a regular file, or too large to be one image.
      OSError: it cannot be read.
    """
    if not item.path:
        return item.data
    path = Path(item.path)
    if not path.is_file():  # Reading from a pipe would block.
        raise ImageError("not a regular file, or a broken link")
    size = path.stat().st_size if item.length < 0 else item.length
    if size > MAX_FILE_BYTES:
        raise ImageError(f"{size:,} bytes is over the limit of {MAX_FILE_BYTES:,} for an image")
    return read_member(item.path, offset=item.offset, length=item.length, deflated=item.deflated)


def verdict_file(folder: Path, chunk: int) -> Path:
    """The path of the verdicts of a chunk."""
    return folder / f"chunk-{chunk:06d}.jsonl"


def read_verdicts(path: Path) -> Iterator[Verdict]:
    """The verdicts of one file."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            raw: dict[str, Any] = json.loads(line)
            raw["facts"] = None if raw["facts"] is None else ImageFacts(**raw["facts"])
            raw["findings"] = tuple(IngestFinding(**one) for one in raw["findings"])
            yield Verdict(**raw)
