"""Facts about files, such as their digests, kept between processes while the files stay the same.

A fact is looked up by the file's size, times of change and inode, and computed anew where one of
them differs. Standard library only.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.files import file_lock, read_json, write_json

#: The name of an index in the folder it is kept in.
INDEX_FILE = "files.json"

# Two changes of a file within one tick of the clock leave the same times, so a fact about a file
# that changed just now is not kept. File systems' ticks last up to two seconds.
_SETTLED_NS = 2_000_000_000


class FileIndex:
    """Facts about files.

    Args:
      path: the JSON file they are kept in, made with its folder where it is missing; None keeps
        them in memory. A file that is damaged counts as empty.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._entries: dict[str, dict[str, Any]] = _read(path) if path else {}
        self._changed = False

    def fact(self, file: Path, kind: str, compute: Callable[[Path], Any]) -> Any:
        """`compute(file)`, or what it returned when `file` last had this size, time and inode.

        Args:
          file: an existing file; a link counts as what it points to.
          kind: names the fact. Raise it when `compute` changes.
          compute: returns something that JSON holds.

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
        """Writes what is new at the end of the block; a second process waits until then."""
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
