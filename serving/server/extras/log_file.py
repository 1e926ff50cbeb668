"""TFRecord files that hold whole records, even after a full disk or a killed process.

A file that is being written is locked, and its name ends in `.open`; a complete one ends in
`.tfrecord`. The system releases a lock when its process ends, so an open file without a lock
belongs to a process that was killed.
"""

import contextlib
import glob
import os
import random
import struct
import time
from pathlib import Path
from urllib.parse import quote

from core.locks import LockHeldError, lock_descriptor

#: TFRecord's own bytes around each record: length and its checksum, the record's checksum.
FRAME_BYTES = 16
_HEAD_BYTES = 12
OPEN_SUFFIX, SUFFIX = ".open", ".tfrecord"


class LogFile:
    """A file that is being written, under a temporary name; for one thread.

    Attributes:
      path: its final name.
      began: when it began.
      size: bytes of the whole records.
    """

    def __init__(self, prefix: str, model: str, now: float) -> None:
        """Creates the file.

        Args:
          prefix: of its name, with the folder.
          model: whose requests it holds.
          now: when it begins.

        Raises:
          OSError: the file cannot be created.
        """
        import tensorflow as tf

        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        # Process and random part, for several processes and fast rotation.
        unique = f"{os.getpid()}-{random.getrandbits(32):08x}"
        name = f"{prefix}-{quote(model, safe='')}-{stamp}-{unique}"
        self.path = Path(f"{name}{SUFFIX}")
        self.began = now
        self.size = 0
        self._temporary = Path(f"{name}{OPEN_SUFFIX}")
        self._file = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        with contextlib.suppress(OSError, LockHeldError):  # A file system without locks.
            lock_descriptor(self._file, self._temporary)
        try:
            self._writer = tf.io.TFRecordWriter(str(self._temporary))
        except BaseException:
            self._temporary.unlink()
            os.close(self._file)
            raise

    def write(self, record: bytes) -> None:
        """Writes a record and flushes it to the system.

        Raises:
          Exception: TensorFlow's error of a full disk; `end` keeps the records before it.
        """
        self._writer.write(record)
        self._writer.flush()
        self.size += len(record) + FRAME_BYTES

    def end(self) -> None:
        """Closes the file and renames it once it is on the disk; removes an empty one.

        Raises:
          OSError: the disk refuses that.
        """
        try:
            with contextlib.suppress(Exception):  # An incomplete record on a full disk.
                self._writer.close()
            _finish(self._temporary, self.path, self._file, self.size)
        finally:
            os.close(self._file)


def recover(prefix: str) -> list[Path]:
    """Ends the files of killed processes; returns those that have whole records."""
    found = []
    for name in sorted(glob.glob(f"{glob.escape(prefix)}-*{OPEN_SUFFIX}")):
        with contextlib.suppress(OSError, LockHeldError):
            path = _recover(Path(name))
            if path is not None:
                found.append(path)
    return found


def _recover(temporary: Path) -> Path | None:
    file = os.open(temporary, os.O_RDWR)
    try:
        # A file that another process writes is locked.
        lock_descriptor(file, temporary)
        size = _complete_bytes(file)
        path = temporary.with_suffix(SUFFIX)
        _finish(temporary, path, file, size)
        return path if size else None
    finally:
        os.close(file)


def _complete_bytes(file: int) -> int:
    """The bytes of the complete records."""
    size, position = os.fstat(file).st_size, 0
    while position + _HEAD_BYTES <= size:
        (length,) = struct.unpack("<Q", os.pread(file, 8, position))
        if position + length + FRAME_BYTES > size:
            break
        position += length + FRAME_BYTES
    return position


def _finish(temporary: Path, path: Path, file: int, size: int) -> None:
    if size == 0:
        temporary.unlink()
        return
    os.ftruncate(file, size)
    with contextlib.suppress(OSError):
        os.fsync(file)
    temporary.rename(path)
