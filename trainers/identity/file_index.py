"""A cache of facts about files, such as their digests, that processes share.

A fact is valid while the file's size, times of change, and inode stay the same.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.files import read_json, write_json
from core.locks import file_lock

#: The file name of an index.
INDEX_FILE = "files.json"

# Two changes within one tick of the file system's clock (up to two seconds) have the same times, so
# facts about a file that just changed are not stored.
_SETTLED_NS = 2_000_000_000


class FileIndex:
    """Facts about files.

    Args:
      path: the JSON file of the index, created with its folder where missing; None stores facts in
        memory only. A damaged file is treated as empty.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._entries: dict[str, dict[str, Any]] = _read(path) if path else {}
        self._changed = False

    def fact(self, file: Path, kind: str, compute: Callable[[Path], Any]) -> Any:
        """`compute(file)`, or what it returned when `file` last had this size, time and inode.

        Args:
          file: an existing file; links are followed.
          kind: name of the fact; change it when `compute` changes.
          compute: returns a JSON value.

        Raises:
          OSError: the file cannot be read.
        """
        name = os.path.abspath(file)
        seen = _state(file)
        entry = self._entries.get(name)
        if entry is not None and entry.get("state") == seen and kind in entry.get("facts", {}):
            return entry["facts"][kind]
        began = time.time_ns()
        value = compute(file)
        if _state(file) != seen or began - max(seen[1:3]) < _SETTLED_NS:
            return value
        if entry is None or entry.get("state") != seen:
            entry = self._entries[name] = {"state": seen, "facts": {}}
        entry["facts"][kind] = value
        self._changed = True
        return value

    @contextmanager
    def open(self) -> Iterator["FileIndex"]:
        """Locks the index and writes new facts at the end of the block."""
        if self._path is None:
            yield self
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(self._path.with_name(f".{self._path.name}.lock")):
            self._entries = _read(self._path)
            yield self
            if self._changed:
                self._entries = {k: v for k, v in self._entries.items() if os.path.exists(k)}
                write_json(self._path, self._entries, indent=None)
                self._changed = False


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    whole = isinstance(found, dict) and all(isinstance(one, dict) for one in found.values())
    return found if whole else {}


def _state(file: Path) -> list[int]:
    """Size, time of the last write, time of the last change of any kind, inode."""
    found = os.stat(file)
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
