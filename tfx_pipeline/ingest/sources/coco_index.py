"""An SQLite index of COCO's JSON files, which are read as streams.

The annotations of COCO's training set are 450 MB of text and several GB as Python objects; here,
only one object is in memory at a time.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeGuard

from tfx_pipeline.ingest.archives import Member
from tfx_pipeline.ingest.file_names import folded, is_of_elsewhere, spellings, with_slashes
from tfx_pipeline.ingest.index import connect, name_from_bytes, name_to_bytes
from tfx_pipeline.ingest.source import IngestError
from tfx_pipeline.ingest.sources.json_stream import Document, read_list

#: Kinds of files of a part: images, panoptic PNGs and semantic PNGs.
IMAGE, PANOPTIC, SEMANTIC = range(3)

_MAX_INTEGER = 2**63
_TABLES = """
CREATE TABLE images (
  part INTEGER, id INTEGER, name BLOB, height INTEGER, width INTEGER, base BLOB);
CREATE TABLE annotations (part INTEGER, image INTEGER, id INTEGER, body TEXT, fault TEXT);
CREATE TABLE captions (part INTEGER, image INTEGER, id INTEGER, body TEXT);
CREATE TABLE panoptic (part INTEGER, image INTEGER, name BLOB, body TEXT);
CREATE TABLE files (
  part INTEGER, kind INTEGER, name BLOB, base BLOB, path BLOB, offset INTEGER, length INTEGER,
  deflated INTEGER, near BLOB, used INTEGER DEFAULT 0);
"""
_KEYS = """
CREATE INDEX annotations_of ON annotations (part, image, id);
CREATE INDEX images_based ON images (part, base);
CREATE INDEX captions_of ON captions (part, image, id);
CREATE INDEX panoptic_of ON panoptic (part, image);
CREATE INDEX files_named ON files (part, kind, name);
CREATE INDEX files_based ON files (part, kind, base);
CREATE INDEX files_near ON files (part, kind, near);
"""
_UNIQUE = (("images", "image"), ("annotations", "annotation"))
_FILE = "rowid, name, path, offset, length, deflated"


@dataclass(frozen=True)
class Annotation:
    """One object as in the JSON; `category` is the category id."""

    id: int
    box: tuple[float, float, float, float]
    category: int
    area: float
    is_crowd: int
    segmentation: Any


@dataclass(frozen=True)
class ImageEntry:
    """One image of the JSON with its annotations.

    Attributes:
      id: the image id of the source.
      name: `file_name`.
      size: the declared (height, width); None if missing.
      annotations: the valid annotations, sorted by id.
      faults: texts about invalid annotations.
    """

    id: int
    name: str
    size: tuple[int, int] | None
    annotations: tuple[Annotation, ...]
    faults: tuple[str, ...]


class CocoIndex:
    """The lists of annotation files ("parts", numbered from 0), on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def writing(self) -> Iterator["CocoWriter"]:
        """A writer for a new index, which is checked and sorted at the end of the block.

        Raises:
          IngestError: an id appears twice, or the disk is full.
        """
        with connect(self.path, write=True) as database:
            database.executescript(_TABLES)
            writer = CocoWriter(database)
            yield writer
            for table, what in _UNIQUE:
                self._forbid_duplicates(database, writer, table, what)
            database.executescript(_KEYS)

    def count(self, table: str) -> int:
        """Number of rows of a table."""
        with connect(self.path) as database:
            return database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]

    @contextlib.contextmanager
    def reading(self) -> Iterator["CocoReader"]:
        """A reader of the index."""
        # Writable, because the reader marks files as used.
        with connect(self.path, write=True) as database:
            yield CocoReader(database)

    def _forbid_duplicates(
        self, database: sqlite3.Connection, writer: "CocoWriter", table: str, what: str
    ) -> None:
        try:
            database.execute(f"CREATE UNIQUE INDEX {table}_by_id ON {table} (part, id)")
        except sqlite3.IntegrityError:
            part, ident, count = database.execute(
                f"SELECT part, id, COUNT(*) FROM {table} WHERE id IS NOT NULL "
                "GROUP BY part, id HAVING COUNT(*) > 1 ORDER BY part, id LIMIT 1"
            ).fetchone()
            raise IngestError(
                f"{writer.documents[part]} has {count} {what}s with id {ident}; ids must be "
                f"unique: remove all but one, or renumber the {what}s"
            ) from None


class CocoWriter:
    """Fills a new index."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self.documents: list[Document] = []
        #: Number of objects without a segmentation so far.
        self.maskless = 0

    def add_instances(self, document: Document) -> int:
        """Reads the images and annotations of a file; returns the number of the new part.

        Raises:
          IngestError: the file is not JSON, or has no images or no annotations.
        """
        part = len(self.documents)
        self.documents.append(document)
        images = self._insert(
            "INSERT INTO images VALUES (?,?,?,?,?,?)",
            (_image_row(part, one, document) for one in read_list(document, "images")),
        )
        if not images:
            raise IngestError(f"{document} has no `images`; use a COCO instances file")
        annotations = self._insert(
            "INSERT INTO annotations VALUES (?,?,?,?,?)",
            (self._annotation_row(part, one) for one in read_list(document, "annotations")),
        )
        if not annotations:
            raise IngestError(
                f"{document} has no `annotations`: COCO's image_info files are for test images, "
                "whose labels are not published; use an instances file"
            )
        return part

    def add_captions(self, part: int, document: Document) -> None:
        """Reads the captions file of a part; entries without text are skipped."""
        self._insert(
            "INSERT INTO captions VALUES (?,?,?,?)",
            (
                (part, one.get("image_id"), one.get("id"), one["caption"].strip())
                for one in read_list(document, "annotations")
                if isinstance(one.get("caption"), str) and _is_id(one.get("image_id"))
            ),
        )

    def add_panoptic(self, part: int, document: Document) -> None:
        """Reads the panoptic file of a part.

        Raises:
          IngestError: an entry lacks the image id, the name of its PNG or its segments.
        """
        self._insert(
            "INSERT INTO panoptic VALUES (?,?,?,?)",
            (_panoptic_row(part, one, document) for one in read_list(document, "annotations")),
        )

    def add_files(self, part: int, kind: int, found: Iterator[Member]) -> int:
        """Adds the files of a part; returns their number."""
        return self._insert(
            "INSERT INTO files VALUES (?,?,?,?,?,?,?,?,?,0)",
            (
                (
                    part,
                    kind,
                    *_names(one),
                    one.offset,
                    one.length,
                    int(one.deflated),
                    _near(one.name),
                )
                for one in found
            ),
        )

    def _insert(self, query: str, rows: Iterator[tuple[Any, ...]]) -> int:
        return self._database.executemany(query, rows).rowcount

    def _annotation_row(self, part: int, entry: dict[str, Any]) -> tuple[Any, ...]:
        ident, image = entry.get("id"), entry.get("image_id")
        known = (ident if _is_id(ident) else None, image if _is_id(image) else None)
        fault = _annotation_fault(entry)
        if fault:
            return part, known[1], known[0], None, f"annotation {ident}: {fault}"
        segmentation = entry.get("segmentation") or None
        self.maskless += segmentation is None
        area = entry.get("area")
        body = (
            entry["bbox"],
            entry["category_id"],
            float(area) if _is_number(area) else -1.0,
            int(entry.get("iscrowd") == 1),
            segmentation,
        )
        return part, image, ident, json.dumps(body, separators=(",", ":")), None


class CocoReader:
    """Reads an index in order of the image ids."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def images(self, part: int) -> Iterator[ImageEntry]:
        """The images of a part."""
        query = "SELECT id, name, height, width FROM images WHERE part = ? ORDER BY id"
        for ident, name, height, width in self._database.execute(query, (part,)):
            annotations, faults = [], []
            found = self._database.execute(
                "SELECT id, body, fault FROM annotations WHERE part = ? AND image = ? ORDER BY id",
                (part, ident),
            )
            for number, body, fault in found:
                if fault:
                    faults.append(fault)
                else:
                    annotations.append(_annotation(number, body))
            size = (height, width) if height is not None and width is not None else None
            yield ImageEntry(ident, name_from_bytes(name), size, tuple(annotations), tuple(faults))

    def orphans(self, part: int) -> Iterator[tuple[int | None, int | None, str | None]]:
        """(id, image id, fault) of annotations without an image, sorted by id."""
        yield from self._database.execute(
            "SELECT one.id, one.image, one.fault FROM annotations one LEFT JOIN images ON "
            "images.part = one.part AND images.id = one.image "
            "WHERE one.part = ? AND images.id IS NULL ORDER BY one.id, one.rowid",
            (part,),
        )

    def captions(self, part: int, image: int) -> list[str]:
        """The captions of an image, sorted by id."""
        query = "SELECT body FROM captions WHERE part = ? AND image = ? ORDER BY id, rowid"
        return [text for (text,) in self._database.execute(query, (part, image))]

    def panoptic(self, part: int, image: int) -> tuple[str, list[dict[str, Any]]] | None:
        """The name of the PNG and the segments of an image; None if it is not listed."""
        query = "SELECT name, body FROM panoptic WHERE part = ? AND image = ?"
        found = self._database.execute(query, (part, image)).fetchone()
        return None if found is None else (name_from_bytes(found[0]), json.loads(found[1]))

    def file(self, part: int, kind: int, name: str) -> Member | None:
        """The file that a JSON calls `name`.

        Its path is `name`, or one is the other with leading folders. A file with the same base name
        in a different folder is a different image.
        """
        for written in dict.fromkeys((name, with_slashes(name))):
            wanted = name_to_bytes(written)
            for column, value in (("name", wanted), ("base", _base(written))):
                rows = self._files(part, kind, column, value)
                found = list(islice((row for row in rows if _same_end(row[1], wanted)), 2))
                if len(found) == 1:
                    return self._used(found[0])
        return None

    def file_spelt_otherwise(self, part: int, name: str) -> Member | None:
        """Like `file`, ignoring case, Unicode form and `%20`."""
        for written in dict.fromkeys(spellings(name)):
            wanted = name_to_bytes(folded(written))
            rows = self._files(part, IMAGE, "near", _near(written))
            same = (
                row
                for row in rows
                if _same_end(name_to_bytes(folded(name_from_bytes(row[1]))), wanted)
            )
            found = list(islice(same, 2))
            if len(found) == 1:
                return self._used(found[0])
        return None

    def file_of_elsewhere(self, part: int, name: str) -> Member | None:
        """The image whose name is the last component of a path of another machine.

        None if several files, or several images of the JSON, have that name.
        """
        if not is_of_elsewhere(name):
            return None
        base = _base(_last(name))
        found = list(islice(self._files(part, IMAGE, "base", base), 2))
        query = "SELECT COUNT(*) FROM images WHERE part = ? AND base = ?"
        named = self._database.execute(query, (part, base)).fetchone()[0]
        return self._used(found[0]) if len(found) == 1 and named == 1 else None

    def _files(self, part: int, kind: int, column: str, value: bytes) -> sqlite3.Cursor:
        where = f"SELECT {_FILE} FROM files WHERE part = ? AND kind = ? AND {column} = ?"
        return self._database.execute(where, (part, kind, value))

    def _used(self, found: tuple[Any, ...]) -> Member:
        row, own, path, offset, length, deflated = found
        self._database.execute("UPDATE files SET used = 1 WHERE rowid = ?", (row,))
        return Member(name_from_bytes(own), name_from_bytes(path), offset, length, bool(deflated))

    def unused(self, part: int) -> Iterator[str]:
        """Names of image files that have not been returned so far."""
        query = "SELECT name FROM files WHERE part = ? AND kind = ? AND used = 0 ORDER BY name"
        for (name,) in self._database.execute(query, (part, IMAGE)):
            yield name_from_bytes(name)


def _image_row(part: int, entry: dict[str, Any], document: Document) -> tuple[Any, ...]:
    ident, name = entry.get("id"), entry.get("file_name")
    if not _is_id(ident) or not isinstance(name, str) or not name:
        raise IngestError(
            f"{document}: an image has id {ident!r} and file_name {name!r}; it needs an integer id "
            "and a name"
        )
    # Some tools write 0 for an unknown size.
    sizes = [(one or None) if _is_id(one) else None for one in map(entry.get, ("height", "width"))]
    return part, ident, name_to_bytes(name), *sizes, _base(_last(name))


def _panoptic_row(part: int, entry: dict[str, Any], document: Document) -> tuple[Any, ...]:
    image, name, segments = (entry.get(key) for key in ("image_id", "file_name", "segments_info"))
    if not _is_id(image) or not isinstance(name, str) or not isinstance(segments, list):
        raise IngestError(
            f"{document}: the entry of image {image!r} lacks `file_name` or `segments_info`; use "
            "a COCO panoptic file"
        )
    return part, image, name_to_bytes(name), json.dumps(segments)


def _annotation_fault(entry: dict[str, Any]) -> str:
    for key in ("id", "image_id", "category_id"):
        if not _is_id(entry.get(key)):
            return f"`{key}` must be an integer, got {entry.get(key)!r}"
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return f"`bbox` must be four numbers x, y, width, height, got {box!r}"
    return ""


def _annotation(number: int, body: str) -> Annotation:
    (x, y, width, height), category, area, crowd, segmentation = json.loads(body)
    return Annotation(number, (x, y, x + width, y + height), category, area, crowd, segmentation)


def _is_id(value: Any) -> bool:
    return type(value) is int and abs(value) < _MAX_INTEGER


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float)


def _same_end(one: bytes, other: bytes) -> bool:
    """Whether the paths are equal, or one is the other with leading folders."""
    short, long = sorted((one, other), key=len)
    return one == other or long.endswith(b"/" + short)


def _names(member: Member) -> tuple[bytes, bytes, bytes]:
    return name_to_bytes(member.name), _base(member.name), name_to_bytes(member.path)


def _near(name: str) -> bytes:
    return name_to_bytes(folded(name.rpartition("/")[2]))


def _last(name: str) -> str:
    """The last of the `spellings` of a path, in which URLs and Windows paths are normalized."""
    return list(spellings(name))[-1]


def _base(name: str) -> bytes:
    return name_to_bytes(name.rpartition("/")[2])
