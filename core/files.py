"""Atomic writes, leftovers of killed writers, and advisory locks between processes and hosts.

A file or folder is written under a temporary name beside its target, flushed to disk and renamed,
so that a crash at any moment leaves the old content or the new one. Temporary names are
`.<name>.<32 hex digits>.tmp` everywhere. A writer locks its temporary file; a lock ends with its
process, so an unlocked temporary file belongs to a writer that was killed, and the next writer of
the same target removes it.
"""

import contextlib
import datetime
import errno
import hashlib
import json
import math
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

#: Error numbers of a disk that is full, of a quota and of a limit on the size of files.
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_POLL_S = 0.05
# Leaves space for the rest of a temporary name in the 255 bytes that file systems allow.
_MAX_NAME_BYTES = 200
# Network file systems that write names through, and folders that this user may not read.
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EACCES})


class NoLocksError(OSError):
    """A file system without locks; names the file."""


class LockHeldError(RuntimeError):
    """Another process holds a lock.

    Attributes:
      holder: the process, host and time of the lock, or "another process".
    """

    def __init__(self, path: Path, holder: str) -> None:
        """Names the lock file and its holder."""
        super().__init__(f"{path} is locked by {holder}")
        self.holder = holder


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

    As `replacing`, except that between two renames there is no folder `path` where there was one
    before.

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
    """Removes temporary files and folders of `path` whose writers were killed."""
    pattern = re.compile(re.escape(f".{_short_name(path)}.") + r"[0-9a-f]{32}\.tmp")
    with os.scandir(path.parent) as entries:
        found = [Path(entry) for entry in entries if pattern.fullmatch(entry.name)]
    for leftover in found:
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


@contextlib.contextmanager
def file_lock(path: Path, *, wait_s: float = math.inf, inherited: bool = False) -> Iterator[int]:
    """Holds the lock of the file or folder `path` and yields its descriptor.

    The kernel releases the lock when the process ends. The file is created where it is missing and
    holds the name of its holder.

    Args:
      path: the lock file, or an existing folder.
      wait_s: how long to wait for another holder, in seconds; 0 does not wait.
      inherited: a child process that gets the descriptor keeps the lock until it ends; otherwise
        the lock ends with the block, also for children that were forked meanwhile.

    Raises:
      LockHeldError: another process holds the lock; names it.
      NoLocksError: the file system has no locks.
      OSError: the file cannot be created.
    """
    deadline = time.monotonic() + wait_s
    while True:
        descriptor = _open_lock(path)
        try:
            lock_descriptor(descriptor, path, wait_s=deadline - time.monotonic())
            # A file that was deleted meanwhile is not the one that others lock.
            if _is_at(descriptor, path):
                _write_holder(descriptor)
                yield descriptor
                return
        finally:
            if not inherited:
                with contextlib.suppress(OSError):
                    _flock(descriptor, "LOCK_UN")
            os.close(descriptor)


def lock_descriptor(descriptor: int, path: Path, *, wait_s: float = 0.0) -> None:
    """Locks an open file for as long as its descriptor is open.

    Args:
      descriptor: of the file.
      path: of the file, for messages.
      wait_s: how long to wait for another holder, in seconds; 0 does not wait.

    Raises:
      LockHeldError: another process holds the lock.
      NoLocksError: the file system has no locks.
    """
    deadline = time.monotonic() + wait_s
    try:
        while True:
            with contextlib.suppress(BlockingIOError):
                _flock(descriptor, "LOCK_EX", wait=wait_s == math.inf)
                return
            if time.monotonic() >= deadline:
                raise LockHeldError(path, _holder(descriptor))
            time.sleep(_POLL_S)
    except OSError as error:
        text = f"cannot be locked ({error.strerror}); use a file system with locks"
        raise NoLocksError(error.errno, text, str(path)) from error


def _flock(descriptor: int, operation: str, *, wait: bool = True) -> None:
    try:
        # Not at the top: clients import the bundle contract where there is no such module.
        import fcntl
    except ImportError:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP)) from None
    fcntl.flock(descriptor, getattr(fcntl, operation) | (0 if wait else fcntl.LOCK_NB))


def _open_lock(path: Path) -> int:
    try:
        # For writing, as NFS locks no file that was opened for reading.
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except (PermissionError, IsADirectoryError):
        if not path.exists():
            raise
        return os.open(path, os.O_RDONLY)  # Local file systems lock it as well.


def _write_holder(descriptor: int) -> None:
    now = datetime.datetime.now().isoformat(sep=" ", timespec="seconds")
    text = f"process {os.getpid()} on {socket.gethostname()} since {now}\n"
    # A folder, another user's file or a full disk: the lock is held all the same.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def _holder(descriptor: int) -> str:
    with contextlib.suppress(OSError):
        return os.pread(descriptor, 500, 0).decode("utf-8", "replace").strip() or "another process"
    return "another process"


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
            _flock(descriptor, "LOCK_EX")
        # Another writer may have removed it before it was locked.
        if _is_at(descriptor, temporary):
            return temporary, descriptor
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _remove_unlocked(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
        return
    descriptor = _open_lock(path)
    try:
        lock_descriptor(descriptor, path)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    finally:
        os.close(descriptor)


def _swap_in(temporary: Path, path: Path) -> None:
    while True:
        if path.is_dir():
            aside = _temporary_name(path)
            with contextlib.suppress(FileNotFoundError):
                path.rename(aside)
                shutil.rmtree(aside, ignore_errors=True)
        try:
            temporary.rename(path)
            return
        except OSError as error:
            # Another writer's folder appeared between the two renames.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


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
