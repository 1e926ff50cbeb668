"""Files of a folder, a tar (also tars within it) or a zip, read in place and never unpacked.

A `Member` says where a file's bytes lie, so that any worker can read any of them in any order:
the 1,000 tars within ImageNet's training tar are 1.28 million such places in one file.
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
#: No file of a data set is larger: 256 MiB.
MAX_FILE_BYTES = 256 * 2**20

# A zip starts so, also an empty one. `zipfile.is_zipfile` looks for its end, and takes a tar whose
# last member is a zip for that zip.
_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")

# Of Windows and of a Mac, which put them into any folder.
_SYSTEM_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")
_COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# A zip's local header: 30 bytes, of which the last four are the lengths of what follows.
_ZIP_LOCAL_BYTES = 30


@dataclass(frozen=True)
class Member:
    """One file: its name below the folder or archive, and where its bytes lie.

    Attributes:
      name: path with `/`, relative to the folder or archive; `outer.tar/inner.jpg` within tars.
      path: the file that holds the bytes.
      offset: where they start in it.
      length: how many there are, as stored.
      deflated: they are a raw deflate stream.
    """

    name: str
    path: str
    offset: int
    length: int
    deflated: bool = False


def members(path: Path) -> Iterator[Member]:
    """Every regular file below a folder (in sorted order) or in an archive (in stored order).

    Hidden files and folders, and those of file managers (`Thumbs.db`), are passed over. Links in
    folders are followed, but no folder is entered twice.

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
    """As `members`, and for a folder also what is in the tars and zips below it.

    An archive's members are called `archive.tar/member`.

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
      offset: where to start.
      length: how many to read; -1 is to the end.
      deflated: what is stored there is a raw deflate stream.

    Raises:
      OSError: the file cannot be read, or ends before the part does.
    """
    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read(length)
    if 0 <= length != len(data):
        raise OSError(f"{path} ends at byte {offset + len(data)}, {length - len(data)} are missing")
    return _inflate(data, f"{path} at byte {offset}") if deflated else data


def _inflate(data: bytes, where: str) -> bytes:
    """The bytes of a raw deflate stream, at most `MAX_FILE_BYTES`: a bomb is not unpacked."""
    stream = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    try:
        inflated = stream.decompress(data, MAX_FILE_BYTES + 1)
    except zlib.error as error:
        raise OSError(f"{where}: damaged zip member: {error}") from error
    if len(inflated) > MAX_FILE_BYTES:
        raise OSError(f"{where}: a zip member unpacks to over {MAX_FILE_BYTES:,} bytes")
    if not stream.eof:
        raise OSError(f"{where}: damaged zip member: its data end early")
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
    """Members of the tar that starts at the file's position `base`; returns where the last ends."""
    end = 0
    tar: Any
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (one := tar.next()) is not None:
                tar.members.clear()  # It would keep every header: 1.3 GB for ImageNet.
                start, end = base + one.offset_data, max(end, one.offset_data + one.size)
                if one.isdir() or is_hidden(one.name):
                    continue
                if one.islnk() or one.issym():
                    raise IngestError(
                        f"{path}: {prefix}{one.name} is a link, which is not followed within a "
                        "tar; unpack it and give the folder"
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
            f"{path} is not a whole tar or zip{where}: {error}; download or copy it again"
        ) from error
    return end


def _check_tar_end(file: Any, path: str, end: int, size: int) -> None:
    """Refuses a tar that was cut or damaged in the middle, which `tarfile` takes for its end."""
    if size < end:
        raise IngestError(
            f"{path} ends at byte {size:,}, its last member at {end:,}; it was cut off: "
            "download or copy it again"
        )
    file.seek(end)
    if file.read(512 + (-end % 512)).strip(b"\0") != b"":
        raise IngestError(f"{path} has no end mark after byte {end:,}; copy it again")


def _in_zip(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        for one in archive.infolist():
            if one.is_dir() or is_hidden(one.filename):
                continue
            if one.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise IngestError(
                    f"{path}: {one.filename} is compressed by method {one.compress_type}; allowed "
                    "are stored and deflated"
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
    """Whether a path is hidden, or made by a file manager and not by the user."""
    # Mac archives carry `__MACOSX/._name` beside each file.
    parts = name.removeprefix("./").split("/")
    return parts[-1].lower() in _SYSTEM_FILES or any(
        part.startswith((".", "__MACOSX")) for part in parts
    )


class _Window(io.RawIOBase):
    """A part of a file as a file of its own."""

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
