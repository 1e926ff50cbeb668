"""The files of a folder, a tar (including nested tars) or a zip, read without unpacking.

A `Member` holds the byte range of a file, so that any worker can read any member in any order:
ImageNet's training tar holds 1,000 tars with 1.28 million images.
"""

import io
import os
import tarfile
import zipfile
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tfx_pipeline.ingest.source import IngestError

ARCHIVES = (".tar", ".zip")
#: Limit of the size of one file, 256 MiB.
MAX_FILE_BYTES = 256 * 2**20

# The first bytes of a zip and of an empty zip. `zipfile.is_zipfile` checks the end of the file and
# therefore accepts a tar whose last member is a zip.
_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")

# Files that Windows and macOS create in any folder.
_SYSTEM_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")
_COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# Size of a zip's local header; its last four bytes are the lengths of the name and the extra field.
_ZIP_LOCAL_BYTES = 30


@dataclass(frozen=True)
class Member:
    """One file: its name, and its byte range on disk.

    Attributes:
      name: path with `/`, relative to the folder or archive; `outer.tar/inner.jpg` within tars.
      path: the file that holds the bytes.
      offset: of the first byte in `path`.
      length: number of bytes as stored; -1 for the whole file.
      deflated: whether the bytes are a raw deflate stream.
    """

    name: str
    path: str
    offset: int
    length: int
    deflated: bool = False


def members(path: Path) -> Iterator[Member]:
    """Every regular file below a folder (in sorted order) or in an archive (in stored order).

    Hidden files and folders and files of file managers (`Thumbs.db`) are skipped. Symbolic links in
    folders are followed, but no folder is visited twice.

    Raises:
      IngestError: no such path, not an archive, a compressed tar, or an archive that ends early.
    """
    if path.is_dir():
        yield from _in_folder(path)
    elif not path.is_file():
        raise IngestError(f"{path} does not exist")
    elif path.name.endswith(_COMPRESSED_TARS):
        raise IngestError(f"{path} is a compressed tar; unpack it or make a plain .tar of it")
    elif _starts(path, 4) in _ZIP_STARTS:
        yield from _in_zip(path)
    else:
        yield from _in_tar(path)


def members_within(path: Path) -> Iterator[Member]:
    """Like `members`, including the contents of the tars and zips in a folder.

    The members of such an archive are named `archive.tar/member`.

    Raises:
      IngestError: see `members`.
    """
    for one in members(path):
        if path.is_dir() and one.name.endswith(ARCHIVES):
            for inner in members(Path(one.path)):
                yield replace(inner, name=f"{one.name}/{inner.name}")
        else:
            yield one


def read_member(path: str, *, offset: int, length: int, deflated: bool = False) -> bytes:
    """The bytes of a file, or of a part of it.

    Args:
      path: the file.
      offset: of the first byte to read.
      length: number of bytes to read; -1 reads to the end.
      deflated: whether the bytes are a raw deflate stream.

    Raises:
      OSError: the file cannot be read or ends too early, or the deflate stream is damaged.
    """
    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read(length)
    if 0 <= length != len(data):
        raise OSError(f"{path} ends at byte {offset + len(data)}, {length - len(data)} are missing")
    return _inflate(data, f"{path} at byte {offset}") if deflated else data


def _inflate(data: bytes, where: str) -> bytes:
    """The decompressed bytes; fails above `MAX_FILE_BYTES` as a guard against zip bombs."""
    stream = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    try:
        inflated = stream.decompress(data, MAX_FILE_BYTES + 1)
    except zlib.error as error:
        raise OSError(f"{where}: damaged zip member: {error}") from error
    if len(inflated) > MAX_FILE_BYTES:
        raise OSError(f"{where}: a zip member unpacks to over {MAX_FILE_BYTES:,} bytes")
    if not stream.eof:
        raise OSError(f"{where}: damaged zip member: the data ends early")
    return inflated


def _starts(path: Path, length: int) -> bytes:
    with path.open("rb") as file:
        return file.read(length)


def _in_folder(folder: Path) -> Iterator[Member]:
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(one for one in folders if not is_hidden(one))
        for one in sorted(files):
            if not is_hidden(one):
                path = Path(root, one)
                yield Member(path.relative_to(folder).as_posix(), str(path), 0, -1)


def _in_tar(path: Path) -> Iterator[Member]:
    with open(path, "rb") as file:
        end = yield from _tar_members(file, str(path), "", 0)
        _check_tar_end(file, str(path), end, os.stat(path).st_size)


def _tar_members(file: Any, path: str, prefix: str, base: int) -> Generator[Member, None, int]:
    """Members of the tar at offset `base` of `file`; returns the end of the last member."""
    end = 0
    tar: Any
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (one := tar.next()) is not None:
                tar.members.clear()  # Keeping every header takes 1.3 GB for ImageNet.
                start, end = base + one.offset_data, max(end, one.offset_data + one.size)
                if one.isdir() or is_hidden(one.name):
                    continue
                if one.islnk() or one.issym():
                    raise IngestError(
                        f"{path}: {prefix}{one.name} is a link, and links within a tar are not "
                        "followed; unpack the tar and use the folder"
                    )
                if one.isfile() and one.name.endswith(".tar"):
                    inner = _Window(path, start, one.size)
                    last = yield from _tar_members(inner, path, f"{prefix}{one.name}/", start)
                    _check_tar_end(inner, f"{path} within {prefix}{one.name}", last, one.size)
                elif one.isfile():
                    yield Member(prefix + one.name.removeprefix("./"), path, start, one.size)
    except tarfile.TarError as error:
        where = f" within {prefix}" if prefix else ""
        raise IngestError(
            f"{path} is not a complete tar or zip{where}: {error}; download or copy it again"
        ) from error
    return end


def _check_tar_end(file: Any, path: str, end: int, size: int) -> None:
    """Rejects a truncated or damaged tar; `tarfile` silently stops at the damage."""
    if size < end:
        raise IngestError(
            f"{path} is truncated: it ends at byte {size:,}, but its last member at {end:,}; "
            "download or copy it again"
        )
    file.seek(end)
    if file.read(512 + (-end % 512)).strip(b"\0") != b"":
        raise IngestError(f"{path} has no end marker after byte {end:,}; copy it again")


def _in_zip(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        for one in archive.infolist():
            if one.is_dir() or is_hidden(one.filename):
                continue
            if one.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise IngestError(
                    f"{path}: {one.filename} uses compression method {one.compress_type}; only "
                    "stored and deflated members are supported: create the zip again"
                )
            file.seek(one.header_offset)
            header = file.read(_ZIP_LOCAL_BYTES)
            names = int.from_bytes(header[26:28], "little") + int.from_bytes(
                header[28:30], "little"
            )
            start = one.header_offset + _ZIP_LOCAL_BYTES + names
            deflated = one.compress_type == zipfile.ZIP_DEFLATED
            yield Member(one.filename, str(path), start, one.compress_size, deflated)


def is_hidden(name: str) -> bool:
    """Whether a path is hidden or was created by a file manager."""
    # Archives made on macOS contain `__MACOSX/._name` for each file.
    parts = name.removeprefix("./").split("/")
    return parts[-1].lower() in _SYSTEM_FILES or any(
        part.startswith((".", "__MACOSX")) for part in parts
    )


class _Window(io.RawIOBase):
    """A byte range of a file, as a seekable file object."""

    def __init__(self, path: str, start: int, size: int) -> None:
        super().__init__()
        self._file = open(path, "rb")  # noqa: SIM115 - closed by close()
        self._start, self._size, self._at = start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        self._file.seek(self._start + self._at)
        data = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
