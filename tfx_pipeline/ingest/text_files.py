"""Reads text files as Windows, spreadsheets and labeling tools write them.

Supports UTF-8 and UTF-16 (`Unicode` in Notepad, PowerShell's `>`), each with or without a byte
order mark. Other encodings are not guessed but rejected with a remedy.
"""

import codecs
import re
from pathlib import Path
from typing import IO

from tfx_pipeline.ingest.source import IngestError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # Before UTF-16, whose mark is a prefix of it.
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_PROBED_BYTES = 4096
_HEAD_BYTES = 16
_LINE_FEED = b"\n"
# Minimum share of NULs in UTF-16, where each ASCII character has one.
_MIN_NULS = 0.15
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")


def encoding_of(start: bytes) -> str:
    """The encoding of a text by its first bytes; `utf-8` by default.

    Text does not contain NUL, so NULs in every other byte mean UTF-16 without a byte order mark.
    """
    for mark, name in _MARKS:
        if start.startswith(mark):
            return name
    # Other than ASCII characters have few NULs, but most files begin with ASCII.
    for part in (start, start[:_HEAD_BYTES]):
        counts = {"utf-16-le": part[1::2].count(0), "utf-16-be": part[0::2].count(0)}
        most = max(counts, key=lambda name: counts[name])
        # A damaged file may have zeros anywhere.
        if counts[most] >= max(_MIN_NULS * len(part), 1) and counts[most] > 4 * min(
            counts.values()
        ):
            return most
    return "utf-8"


def encoding_of_file(path: Path) -> str:
    """`encoding_of` a file."""
    with path.open("rb") as file:
        return encoding_of(file.read(_PROBED_BYTES))


def decode(data: bytes, where: str) -> str:
    """The decoded bytes of a file.

    Args:
      data: the bytes.
      where: their origin, for the message.

    Raises:
      IngestError: the text is not UTF-8 or UTF-16.
    """
    encoding = encoding_of(data[:_PROBED_BYTES])
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise IngestError(_undecodable(data, encoding, error.start, where)) from error


def _undecodable(data: bytes, encoding: str, at: int, where: str) -> str:
    """The message about an invalid byte: its line, and the character in Windows-1252."""
    before = data[:at].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    hint = ""
    if encoding.startswith("utf-8"):
        found = data[at : at + 1].decode("cp1252", "replace")
        hint = f" ({found!r} in Windows-1252)" if found.isprintable() and found != "\ufffd" else ""
    return (
        f"{where} line {before.count(_LINE_FEED) + 1} is not {encoding.upper()} text: "
        f"byte {at:,} is 0x{data[at]:02x}{hint}; save the file as UTF-8"
    )


def check_text(path: Path) -> None:
    """Checks that a file is text.

    Raises:
      IngestError: the file is not UTF-8 or UTF-16, or contains NUL; names the line.
    """
    data = path.read_bytes()
    text = decode(data, str(path))
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise IngestError(
            f"{path} line {line} contains a NUL byte and is not text; save the file again"
        )


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
      IngestError: the text is not UTF-8 or UTF-16.
      OSError: it cannot be read.
    """
    return decode(path.read_bytes(), str(path))


def read_lines(path: Path) -> list[str]:
    """The lines of a list, stripped; empty lines are skipped.

    Raises:
      IngestError: the text is not UTF-8 or UTF-16.
      OSError: it cannot be read.
    """
    # Not `splitlines`: a name may contain Unicode's line separator.
    lines = re.split(r"\r\n|\r|\n", read_text(path))
    return [line.strip() for line in lines if line.strip()]


def read_names(path: Path) -> list[str]:
    """The lines of a list in which the line number is significant, such as class names.

    Raises:
      IngestError: the text is not UTF-8 or UTF-16, or has an empty line before the last name.
      OSError: it cannot be read.
    """
    lines = [one.strip() for one in re.split(r"\r\n|\r|\n", read_text(path).rstrip())]
    if lines != [""] and "" in lines:
        raise IngestError(
            f"{path} line {lines.index('') + 1} is empty, but the line number is the class number; "
            "remove the line or add a name"
        )
    return [one for one in lines if one]


def xml_as_utf8(data: bytes, where: str) -> tuple[bytes, str | None]:
    """XML that expat can parse, and the encoding that overrides the declared one, or None.

    Some Windows tools declare UTF-8 and write UTF-16, and expat supports no other multi-byte
    encodings than Unicode's.

    Raises:
      IngestError: the bytes are not valid in the declared encoding.
    """
    encoding = encoding_of(data[:_PROBED_BYTES])
    declared = _DECLARED.search(data[:_PROBED_BYTES])
    if encoding == "utf-8" and declared:
        encoding = declared.group(1).decode().lower()
    if encoding in ("utf-8", "utf-8-sig", "us-ascii"):
        return data, None
    try:
        return data.decode(encoding).lstrip("\ufeff").encode(), "utf-8"
    except UnicodeDecodeError as error:
        raise IngestError(f"{where} is not {encoding}: {error.reason}; save it as UTF-8") from error
    except LookupError as error:
        raise IngestError(f"{where}: {error}; save it as UTF-8") from error


class Utf8Stream:
    """A stream of UTF-8 without a byte order mark, converted from any Unicode encoding.

    Raises:
      UnicodeDecodeError: `read` meets invalid text.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, start = file, file.read(_PROBED_BYTES)
        encoding = encoding_of(start)
        # UTF-8 is passed on unchanged; the parser reports errors in it.
        self._decoder = None
        if encoding == "utf-8-sig":
            start = start.removeprefix(codecs.BOM_UTF8)
        elif encoding != "utf-8":
            self._decoder = codecs.getincrementaldecoder(encoding)()
        self._start = self._as_utf8(start)

    def read(self, size: int = -1) -> bytes:
        """`size` bytes, fewer only at the end; all bytes for -1."""
        parts, missing = [self._start], size - len(self._start)
        while size < 0 or missing > 0:
            block = self._file.read(-1 if size < 0 else max(missing, 2))
            parts.append(self._as_utf8(block))
            missing -= len(parts[-1])
            if not block:
                break
        data = b"".join(parts)
        size = len(data) if size < 0 else size
        self._start = data[size:]
        return data[:size]

    def _as_utf8(self, data: bytes) -> bytes:
        if self._decoder is None:
            return data
        return self._decoder.decode(data, final=not data).encode()
