"""The items of a source and the facts about them, in one SQLite file.

A data set is never held in memory. Workers open the index read-only, beside the shards. They return
verdicts as one file per chunk, written atomically, so that a stopped job resumes after its last
complete chunk.
"""

import base64
import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tfx_pipeline.ingest.findings import IngestFinding
from tfx_pipeline.ingest.objects import objects_from_json, objects_to_json
from tfx_pipeline.ingest.source import DiskFullError, IngestError, Item

#: Items per chunk: the unit of work, and the most that a stopped job repeats per worker.
CHUNK = 256

_SCHEMA = """
CREATE TABLE items (
  row INTEGER PRIMARY KEY, name BLOB UNIQUE, class TEXT, split TEXT, path BLOB, offset INTEGER,
  length INTEGER, deflated INTEGER, state TEXT, data BLOB, labels TEXT,
  grp BLOB);
CREATE TABLE findings (row INTEGER, kind TEXT, file BLOB, detail TEXT);
CREATE TABLE facts (
  row INTEGER PRIMARY KEY, digest TEXT, facts TEXT, split TEXT, shard INTEGER, objects INTEGER);
CREATE INDEX by_digest ON facts (digest);
"""
_COLUMNS = "row, name, class, split, path, offset, length, deflated, data, labels, grp"


@dataclass(frozen=True)
class Listing:
    """The number of items of a source, and a digest of everything that decides them."""

    items: int
    digest: str


def create(
    path: Path, items: Iterable[Item | IngestFinding], tick: Callable[[], None] = lambda: None
) -> Listing:
    """Writes every item of a source to a new index.

    Args:
      path: the file to write; it must not exist.
      items: of a `Source`.
      tick: called for each item.

    Raises:
      IngestError: two items have the same name and are not equal.
    """
    digest, rows = hashlib.sha256(), 0
    with connect(path, write=True) as index:
        index.executescript(_SCHEMA)
        for one in items:
            if isinstance(one, IngestFinding):
                record_findings(index, None, [one])
                digest.update(repr(one).encode("utf-8", "surrogateescape"))
                continue
            values = _row(one)
            try:
                slots = ",".join("?" * (1 + len(values)))
                index.execute(f"INSERT INTO items VALUES ({slots})", (rows, *values))
            except sqlite3.IntegrityError:
                record_findings(index, None, [_repeated(index, one, values)])
                continue
            record_findings(index, rows, one.findings)
            digest.update(repr(values).encode())
            rows += 1
            tick()
    return Listing(rows, digest.hexdigest())


@contextlib.contextmanager
def connect(path: Path | str, *, write: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection to the index; with `write`, changes are committed at the end of the block.

    Raises:
      IngestError: the disk is full.
    """
    # `%` and `?` in the name have a meaning in the URI.
    quoted = Path(path).absolute().as_uri()
    mode = "rwc" if write else "ro"
    connection = sqlite3.connect(f"{quoted}?mode={mode}", uri=True)
    try:
        if write:
            # The whole file is rebuilt after a crash, so no sync is needed.
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute("PRAGMA journal_mode=OFF")
        yield connection
        connection.commit()
    except sqlite3.OperationalError as error:
        if "disk is full" in str(error) or "disk I/O" in str(error):
            raise DiskFullError(
                f"{path}: {error}; free some space and run the same command again"
            ) from error
        raise
    finally:
        connection.close()


def read_item_row(index: sqlite3.Connection, row: int) -> Item:
    """The item of one row."""
    query = f"SELECT {_COLUMNS} FROM items WHERE row = ?"
    return _item(index.execute(query, (row,)).fetchone())[1]


def read_chunk(path: str, chunk: int) -> list[tuple[int, Item]]:
    """The items of one chunk, by row."""
    with connect(path) as index:
        found = index.execute(
            f"SELECT {_COLUMNS} FROM items WHERE row >= ? AND row < ? ORDER BY row",
            (chunk * CHUNK, (chunk + 1) * CHUNK),
        )
        return [_item(values) for values in found]


def record_findings(
    index: sqlite3.Connection, row: int | None, findings: Iterable[IngestFinding]
) -> None:
    """Adds findings about one row, or about no row."""
    index.executemany(
        "INSERT INTO findings VALUES (?,?,?,?)",
        [(row, one.kind, name_to_bytes(one.file), _readable(one.detail)) for one in findings],
    )


def all_findings(index: sqlite3.Connection) -> Iterator[IngestFinding]:
    """Every finding, by kind and then by file."""
    query = "SELECT kind, file, detail FROM findings ORDER BY kind, file, detail"
    for kind, file, detail in index.execute(query):
        yield IngestFinding(kind, name_from_bytes(file), detail)


def _row(item: Item) -> tuple[Any, ...]:
    if _readable(item.class_name) != item.class_name:
        raise IngestError(
            f"{_readable(item.name)}: the class name {_readable(item.class_name)!r} is not UTF-8; "
            "rename its folder"
        )
    labels = {
        "objects": None if item.objects is None else objects_to_json(item.objects),
        "attributes": {key: _pack(values) for key, values in item.attributes.items()},
        "slices": dict(item.slices),
        "findings": [asdict(one) for one in item.findings],
    }
    return (
        name_to_bytes(item.name),
        item.class_name,
        item.split,
        name_to_bytes(item.path),
        item.offset,
        item.length,
        int(item.deflated),
        _state(item.path),
        item.data or None,
        json.dumps(labels),
        name_to_bytes(item.group),
    )


def _repeated(index: sqlite3.Connection, item: Item, values: tuple[Any, ...]) -> IngestFinding:
    """The finding about an item that repeats an earlier one.

    Raises:
      IngestError: the two differ.
    """
    earlier = index.execute("SELECT * FROM items WHERE name = ?", (values[0],)).fetchone()
    if earlier[1:] == values:
        return IngestFinding("listed_twice", item.name)
    names = zip(("class", "split"), earlier[2:4], (item.class_name, item.split), strict=True)
    differ = [f"{what} {one!r} and {other!r}" for what, one, other in names if one != other]
    raise IngestError(
        f"the source lists {_readable(item.name)!r} twice, with "
        f"{' and '.join(differ) or 'different labels'}; list each image once"
    )


def _state(path: str) -> str:
    """Size and modification time, so that a resumed job notices a replaced file."""
    if not path:
        return ""
    try:
        found = os.stat(path)
    except OSError:
        return "missing"
    return f"{found.st_size} {found.st_mtime_ns}"


def _item(values: tuple[Any, ...]) -> tuple[int, Item]:
    row, name, class_name, split, path, offset, length, deflated, data, labels, group = values
    raw = json.loads(labels)
    return row, Item(
        name=name_from_bytes(name),
        class_name=class_name,
        split=split,
        path=name_from_bytes(path),
        offset=offset,
        length=length,
        deflated=bool(deflated),
        data=data or b"",
        objects=None if raw["objects"] is None else objects_from_json(raw["objects"]),
        attributes={key: _unpack(values) for key, values in raw["attributes"].items()},
        slices=raw["slices"],
        group=name_from_bytes(group),
        findings=tuple(IngestFinding(**one) for one in raw["findings"]),
    )


def _readable(text: str) -> str:
    """`text` with bytes that are not UTF-8 escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


# Linux file names are bytes and need not be UTF-8; text in SQLite must be.
def name_to_bytes(name: str) -> bytes:
    """The bytes of a file name, for SQLite."""
    return name.encode("utf-8", "surrogateescape")


def name_from_bytes(name: bytes) -> str:
    """The inverse of `name_to_bytes`."""
    return name.decode("utf-8", "surrogateescape")


def _pack(values: Any) -> Any:
    return [
        {"b64": base64.b64encode(one).decode()} if isinstance(one, bytes) else one for one in values
    ]


def _unpack(values: Any) -> Any:
    return [base64.b64decode(one["b64"]) if isinstance(one, dict) else one for one in values]
