"""A TFRecord file of whole records, whatever happens to the disk or to the process.

While it is written its name ends in `.open` and it is locked; then it ends in `.tfrecord`. A lock
goes with its process, so what is open and not locked was left by one that was killed.
"""

import contextlib
import glob
import os
import random
import struct
import time
from pathlib import Path
from urllib.parse import quote

from core.files import LockHeldError, lock_descriptor

#: TFRecord's own bytes around each record: length and its checksum, the record's checksum.
FRAME_BYTES = 16
_HEAD_BYTES = 12
OPEN_SUFFIX, SUFFIX = ".open", ".tfrecord"


class LogFile:
    """A file that is being written, under a name that no reader looks for; one thread's alone.

    Attributes:
      path: its name once it is ended.
      began: as given.
      size: bytes of the whole records.
    """

    def __init__(self, prefix: str, model: str, now: float) -> None:
        """Creates it.

        Args:
          prefix: of its name, with the folder.
          model: whose requests it holds.
          now: when it begins.

        Raises:
          OSError: it cannot be created.
        """
        import tensorflow as tf

        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        # Process and a random part: several processes and fast rotation share the prefix.
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
        """Writes a record, and hands it to the system.

        Raises:
          Exception: TensorFlow's, where the disk refuses; `end` leaves the records before it.
        """
        self._writer.write(record)
        self._writer.flush()
        self.size += len(record) + FRAME_BYTES

    def end(self) -> None:
        """Closes it and gives it its name, once its bytes are on the disk; without any it goes.

        Raises:
          OSError: the disk refuses even that.
        """
        try:
            with contextlib.suppress(Exception):  # A part of a record that did not fit.
                self._writer.close()
            _finish(self._temporary, self.path, self._file, self.size)
        finally:
            os.close(self._file)


def recover(prefix: str) -> list[Path]:
    """Ends the files that killed processes left, and returns those that had whole records."""
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
        size = _whole_bytes(file)
        path = temporary.with_suffix(SUFFIX)
        _finish(temporary, path, file, size)
        return path if size else None
    finally:
        os.close(file)


def _whole_bytes(file: int) -> int:
    """Bytes of the records that are there to their ends."""
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
