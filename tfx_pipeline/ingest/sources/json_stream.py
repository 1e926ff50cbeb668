"""Reads JSON files that are too large for memory, one list entry at a time."""

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ijson

from tfx_pipeline.ingest.source import IngestError
from tfx_pipeline.ingest.text_files import Utf8Stream

_BLOCK = 2**16


@dataclass(frozen=True)
class Document:
    """A JSON file, or a member of a zip.

    Attributes:
      path: the file.
      member: the name of the member of the zip at `path`; empty for a plain file.
    """

    path: Path
    member: str = ""

    def __str__(self) -> str:
        return f"{self.path}/{self.member}" if self.member else str(self.path)

    @property
    def name(self) -> str:
        """The name of the JSON file without folders."""
        return Path(self.member or self.path).name

    @contextlib.contextmanager
    def open(self) -> Iterator[Utf8Stream]:
        """A stream of the JSON as UTF-8."""
        if not self.member:
            with self.path.open("rb") as file:
                yield Utf8Stream(file)
            return
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
            yield Utf8Stream(file)


def read_list(document: Document, key: str) -> Iterator[dict[str, Any]]:
    """The entries of the list at `key`, one at a time.

    Raises:
      IngestError: the file is not JSON (names the byte offset), an entry is not an object, or the
        file cannot be read.
    """
    try:
        with document.open() as file:
            for entry in ijson.items(file, f"{key}.item", use_float=True):
                if not isinstance(entry, dict):
                    raise IngestError(
                        f"{document}: an entry of {key!r} is {entry!r}, not an object"
                    )
                yield entry
    except ijson.JSONError as error:
        raise IngestError(
            f"{document} is not complete JSON: at byte {_error_offset(document):,}: "
            f"{_first_line(error)}; download or export it again"
        ) from error
    except UnicodeDecodeError as error:
        raise IngestError(f"{document} is not {error.encoding}: {error.reason}") from error
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise IngestError(f"{document} cannot be read: {error}; copy it again") from error


class _Discard:
    """A target that discards the events of a parser."""

    def send(self, event: Any) -> None:
        """Does nothing."""


def _error_offset(document: Document) -> int:
    """The offset of the first invalid byte; the length of the file if it ends early."""
    done = 0
    with document.open() as file:
        whole: Any = ijson.basic_parse_coro(_Discard())
        while block := file.read(_BLOCK):
            try:
                whole.send(block)
            except ijson.JSONError:
                break
            done += len(block)
        else:
            return done
    with document.open() as file:
        single: Any = ijson.basic_parse_coro(_Discard())
        for start in range(0, done, _BLOCK):
            single.send(file.read(min(_BLOCK, done - start)))
        for index, byte in enumerate(block):
            try:
                single.send(bytes((byte,)))
            except ijson.JSONError:
                return done + index
    return done + len(block)


def _first_line(error: Exception) -> str:
    # Some versions of yajl return bytes, followed by a line with an arrow.
    text = error.args[0] if error.args else ""
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    return text.strip().partition("\n")[0].strip() or type(error).__name__
