"""Advisory locks between processes and hosts, which name their holder.

A lock ends with its process. Standard library only.
"""

import contextlib
import datetime
import errno
import math
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

_POLL_S = 0.05


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
        descriptor = open_lock(path)
        try:
            lock_descriptor(descriptor, path, wait_s=deadline - time.monotonic())
            # A file that was deleted meanwhile is not the one that others lock.
            if is_at(descriptor, path):
                _write_holder(descriptor)
                yield descriptor
                return
        finally:
            if not inherited:
                with contextlib.suppress(OSError):
                    flock(descriptor, "LOCK_UN")
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
                flock(descriptor, "LOCK_EX", wait=wait_s == math.inf)
                return
            if time.monotonic() >= deadline:
                raise LockHeldError(path, _holder(descriptor))
            time.sleep(_POLL_S)
    except OSError as error:
        text = f"cannot be locked ({error.strerror}); use a file system with locks"
        raise NoLocksError(error.errno, text, str(path)) from error


def flock(descriptor: int, operation: str, *, wait: bool = True) -> None:
    """Calls `fcntl.flock` with `LOCK_EX` or `LOCK_UN`."""
    try:
        # Not at the top: clients import the bundle contract where there is no such module.
        import fcntl
    except ImportError:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP)) from None
    fcntl.flock(descriptor, getattr(fcntl, operation) | (0 if wait else fcntl.LOCK_NB))


def open_lock(path: Path) -> int:
    """A descriptor of a file or folder that can be locked."""
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


def is_at(descriptor: int, path: Path) -> bool:
    """Whether `path` still names the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
