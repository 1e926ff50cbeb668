"""Atomic writes, and removal of the leftovers of killed writers.

A file or folder is written under a temporary name beside its target, flushed to disk and renamed,
so that a crash at any moment leaves the old content or the new one. Temporary names are
`.<name>.<32 hex digits>.tmp` everywhere. A writer locks its temporary file; a lock ends with its
process, so an unlocked temporary file belongs to a writer that was killed, and the next writer of
the same target removes it.
"""

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from core.locks import LockHeldError, flock, is_at, lock_descriptor, open_lock

#: Error numbers of a disk that is full, of a quota and of a limit on the size of files.
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

# Ends the name of a folder that is being replaced.
_ASIDE = ".old"
# Of renameat2(2) in Linux.
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
# Leaves space for the rest of a temporary name in the 255 bytes that file systems allow.
_MAX_NAME_BYTES = 200
# Network file systems that write names through, and folders that this user may not read.
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EACCES})


def read_json(path: Path | str) -> Any:
    """The value in a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_json(
    path: Path | str,
    value: Any,
    *,
    indent: int | None = 2,
    default: Callable[[Any], Any] | None = None,
) -> None:
    """Replaces `path` with `value` as JSON; raises as `replacing`."""
    write_text(path, json.dumps(value, indent=indent, default=default) + "\n")


def write_text(path: Path | str, text: str, *, errors: str = "strict") -> None:
    """Replaces `path` with `text` in UTF-8, line ends as they are; raises as `replacing`."""
    write_bytes(path, text.encode("utf-8", errors))


def write_bytes(path: Path | str, content: bytes) -> None:
    """Replaces `path` with `content`; raises as `replacing`."""
    with writing(path) as file:
        file.write(content)


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[BinaryIO]:
    """A binary file that replaces `path` when the block ends without an error; see `replacing`."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        yield file


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """An empty temporary file that replaces `path` when the block ends without an error.

    After an error, `path` is unchanged and the temporary file is removed. Missing parent folders
    are created. Of two writers at once, the last to finish determines the content.

    Raises:
      OSError: the folder cannot be written to, or the disk is full; names the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    temporary, descriptor = _create(path, _new_file)
    try:
        with _disk_full_names(path):
            yield temporary
            _sync_file(temporary)
            os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
        os.close(descriptor)


@contextlib.contextmanager
def replacing_folder(path: Path | str) -> Iterator[Path]:
    """An empty temporary folder that replaces `path` when the block ends without an error.

    As `replacing`. On Linux an existing folder is exchanged in one step. Elsewhere it is renamed
    aside first; if the process is killed between the two renames, the next writer restores it.

    Raises:
      OSError: the parent folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    temporary, descriptor = _create(path, _new_folder)
    try:
        with _disk_full_names(path):
            yield temporary
            sync_tree(temporary)
            _swap_in(temporary, path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(descriptor)


def replace_link(path: Path, target: str) -> None:
    """Makes `path` a symbolic link to `target`, replacing a link or file atomically.

    Raises:
      OSError: the folder cannot be written to.
    """
    remove_leftovers(path)
    while True:
        temporary = _temporary_name(path)
        temporary.symlink_to(target)
        # A link cannot be locked, so another writer may take it for a leftover.
        with contextlib.suppress(FileNotFoundError):
            os.replace(temporary, path)
            return


def remove_leftovers(path: Path) -> None:
    """Removes temporary files and folders of `path` whose writers were killed.

    A folder that was renamed aside is restored if the kill left no `path`.
    """
    start = re.escape(f".{_short_name(path)}.") + "[0-9a-f]{32}"
    pattern = re.compile(f"{start}(\\.tmp|{re.escape(_ASIDE)})")
    with os.scandir(path.parent) as entries:
        found = [Path(entry) for entry in entries if pattern.fullmatch(entry.name)]
    for leftover in found:
        if leftover.name.endswith(_ASIDE) and not path.exists():
            with contextlib.suppress(OSError):
                leftover.rename(path)
            continue
        # A file of a live writer is locked; a file of another user stays.
        with contextlib.suppress(OSError, LockHeldError):
            _remove_unlocked(leftover)


def file_digest(path: Path) -> str:
    """The sha256 hex digest of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sync_tree(root: Path) -> None:
    """Flushes every file and folder under `root` to disk.

    Raises:
      OSError: the disk reports an error.
    """
    for entry in [*root.rglob("*"), root]:
        if entry.is_dir():
            sync_folder(entry)
        elif entry.is_file():
            _sync_file(entry)


def sync_folder(path: Path) -> None:
    """Flushes the names in a folder to disk, where the file system supports it.

    Raises:
      OSError: the disk reports an error.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def _short_name(path: Path) -> str:
    name = os.fsencode(path.name)
    return path.name if len(name) <= _MAX_NAME_BYTES else hashlib.sha256(name).hexdigest()


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{_short_name(path)}.{uuid.uuid4().hex}.tmp")


def _new_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)


def _new_folder(path: Path) -> int:
    path.mkdir()
    return os.open(path, os.O_RDONLY)


def _create(path: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    """A new temporary file or folder of `path` and its descriptor, which holds its lock."""
    while True:
        temporary = _temporary_name(path)
        try:
            descriptor = make(temporary)
        except FileNotFoundError:
            if not path.parent.is_dir():
                raise
            continue
        with contextlib.suppress(OSError):  # Without locks, leftovers stay.
            flock(descriptor, "LOCK_EX")
        # Another writer may have removed it before it was locked.
        if is_at(descriptor, temporary):
            return temporary, descriptor
        os.close(descriptor)


def _remove_unlocked(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
        return
    descriptor = open_lock(path)
    try:
        lock_descriptor(descriptor, path)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    finally:
        os.close(descriptor)


def _swap_in(temporary: Path, path: Path) -> None:
    """Renames a folder; afterwards `temporary` may hold the old content, which is not needed."""
    while not _exchanged(temporary, path):
        aside = path.with_name(f".{_short_name(path)}.{uuid.uuid4().hex}{_ASIDE}")
        with contextlib.suppress(FileNotFoundError):
            path.rename(aside)
        try:
            temporary.rename(path)
        except OSError as error:
            # Another writer's folder appeared between the two renames.
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                continue
            with contextlib.suppress(OSError):
                aside.rename(path)
            raise
        finally:
            if path.exists():
                shutil.rmtree(aside, ignore_errors=True)
        return


def _exchanged(first: Path, second: Path) -> bool:
    """Swaps two existing folders in one step; False where the system or file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    paths = (_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second))
    return renameat2(*paths, _RENAME_EXCHANGE) == 0


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def _disk_full_names(path: Path) -> Iterator[None]:
    """Adds the file's name to the error of a write, which has none."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
