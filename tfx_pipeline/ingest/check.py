"""The verdict on one chunk of items, kept as a file so that it is made once."""

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
from tfx_pipeline.ingest.findings import OBJECT_LOSSES, Finding
from tfx_pipeline.ingest.frames import (
    SHOWN,
    STORED,
    FrameError,
    declared_size,
    frame_size,
    record_labels,
)
from tfx_pipeline.ingest.images import Facts, StoredImage, load_stored, name_differs
from tfx_pipeline.ingest.index import read_chunk
from tfx_pipeline.ingest.output import writing
from tfx_pipeline.ingest.source import Item


@dataclass(frozen=True)
class Verdict:
    """What is known of one item: facts where it becomes a record, and everything found.

    Attributes:
      row: in the index.
      facts: of the image; None where it is rejected.
      findings: all of this item, but those the job found itself.
      objects: how many remain.
    """

    row: int
    facts: Facts | None
    findings: tuple[Finding, ...]
    objects: int = 0


@dataclass(frozen=True)
class Checker:
    """Checks chunks of one index; small and plain, so that Beam can send it to workers.

    Attributes:
      index: the SQLite file.
      verdicts: the folder of the verdicts' files.
      exif: see `load_image`.
      num_classes: of the source.
    """

    index: str
    verdicts: str
    exif: str
    num_classes: int

    def __call__(self, chunk: int) -> None:
        """Writes the verdicts of a chunk, unless they are there."""
        path = verdict_file(Path(self.verdicts), chunk)
        items = read_chunk(self.index, chunk)
        if path.is_file():
            progress.tick(len(items))
            return
        # Reading, decoding and hashing leave Python's lock, whatever the runner.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            verdicts = list(pool.map(lambda one: self.check(*one), items))
        with writing(path) as file:
            for one in verdicts:
                file.write((json.dumps(asdict(one)) + "\n").encode())

    def check(self, row: int, item: Item) -> Verdict:
        """The verdict on one item; a bad file is named, never an exception."""
        try:
            image = load_stored(read_item(item), exif=self.exif)
        except ImageTooLargeError as error:
            return self._rejected(row, Finding("too_large", item.name, str(error)))
        except ImageError as error:
            return self._rejected(row, Finding("undecodable", item.name, str(error)))
        except OSError as error:
            return self._rejected(row, Finding("unreadable", item.name, str(error)))
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
            detail = (
                f"labels say {declared[0]} x {declared[1]}, it is {facts.height} x {facts.width}"
            )
            return self._rejected(row, Finding("size_differs", item.name, detail))
        findings = [Finding(kind, item.name, detail) for kind, detail in found]
        try:
            labels = record_labels(item, facts, num_classes=self.num_classes)
        except FrameError as error:
            return self._rejected(row, Finding("orientation_unclear", item.name, str(error)))
        findings += labels.findings
        if labels.objects is None:
            return Verdict(row, facts, tuple(findings))
        count = len(labels.objects.boxes)
        lost = sum(one.kind in OBJECT_LOSSES for one in (*item.findings, *labels.findings))
        if lost and not count:
            detail = f"{lost} of {lost} objects: {_first_loss(item, labels.findings)}"
            findings.append(Finding("objects_lost", item.name, detail))
            return Verdict(row, None, tuple(findings))
        return Verdict(row, facts, tuple(findings), count)

    def _rejected(self, row: int, finding: Finding) -> Verdict:
        return Verdict(row, None, (finding,))


def _frames(item: Item) -> tuple[str, ...]:
    """What an item's labels may have been drawn on."""
    frame = item.objects.frame if item.objects is not None else STORED
    return (frame,) if frame else (STORED, SHOWN)


def _first_loss(item: Item, dropped: Iterable[Finding]) -> str:
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
    if not path.is_file():  # Also keeps the job from waiting on a pipe.
        raise ImageError("not a regular file, or a link to nothing")
    size = path.stat().st_size if item.length < 0 else item.length
    if size > MAX_FILE_BYTES:
        raise ImageError(f"{size:,} bytes is over the limit of {MAX_FILE_BYTES:,} for an image")
    return read_member(item.path, offset=item.offset, length=item.length, deflated=item.deflated)


def verdict_file(folder: Path, chunk: int) -> Path:
    """Where the verdicts of a chunk are kept."""
    return folder / f"chunk-{chunk:06d}.jsonl"


def read_verdicts(path: Path) -> Iterator[Verdict]:
    """The verdicts of one file."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            raw: dict[str, Any] = json.loads(line)
            raw["facts"] = None if raw["facts"] is None else Facts(**raw["facts"])
            raw["findings"] = tuple(Finding(**one) for one in raw["findings"])
            yield Verdict(**raw)
