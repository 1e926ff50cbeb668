"""Concurrent changes of a model's folder, `<bundles>/<model name>/`.

A lock on `.lock` serializes pushes and rollbacks, also from several machines that mount the folder.
A version is written as `.pushing-<id>` and gets its number by one rename. Meanwhile its writer
holds the lock `.pushing-<id>.lock`, which distinguishes a push in progress from the remains of a
killed one. The kernel releases both locks at the end of the process. `.lineage/<version>/` has the
data that later models are compared with, see `core.lineage`. Servers ignore these names.
"""

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from core.files import sync_folder
from core.locks import LockHeldError, NoLocksError, file_lock

#: Prefix of the number of a version that a rollback withdrew.
WITHDRAWN_PREFIX = ".withdrawn-"
#: Prefix of a version that is being written.
STAGING_PREFIX = ".pushing-"
LOCK_FILE = ".lock"
#: The limit of TF Serving's protos.
MAX_VERSION = 2**63 - 1
#: The folder of `<version>/` with training statistics and test predictions.
LINEAGE_DIR = ".lineage"
#: Seconds that a push or a rollback waits for another one.
LOCK_WAIT_S = 60.0

_LOCK_SUFFIX = ".lock"


class BundleError(ValueError):
    """A bundle that is missing, incomplete, or of another format; names the path and the remedy."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a model's folder, for one push or rollback at a time.

    Raises:
      BundleError: another process holds it after `LOCK_WAIT_S`, or the file system has no locks.
      OSError: the folder cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_held(folder / LOCK_FILE, LOCK_WAIT_S))
        except LockHeldError as error:
            raise BundleError(
                f"another push or rollback of {folder.name} is under way: {error} and was not "
                f"released within {LOCK_WAIT_S:.0f} s; run the command again when it has finished"
            ) from None
        yield


@contextlib.contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A path in `folder` for a new version; removed at the end unless it was renamed.

    First removes the remains of killed pushes, also of those from other machines.

    Raises:
      BundleError: as `locked`.
      OSError: the folder cannot be written to.
    """
    path = folder / f"{STAGING_PREFIX}{uuid.uuid4().hex}"
    lock = _lock_of(path)
    with contextlib.ExitStack() as held:
        # Under the folder's lock: another push must not remove the file before it is locked.
        with locked(folder):
            _sweep(folder)
            held.enter_context(_held(lock, 0))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):
                lock.unlink()


def numbered_dirs(model_dir: Path, prefix: str, file: str) -> dict[int, Path]:
    """Number -> folder of the entries `<prefix><number>` with `file`, ascending.

    Includes unreadable entries; leaves out numbers above `MAX_VERSION`.
    """
    if not model_dir.is_dir():
        return {}
    found: dict[int, Path] = {}
    for entry in sorted(model_dir.iterdir()):
        if not entry.name.startswith(prefix):
            continue
        name = entry.name.removeprefix(prefix)
        try:
            complete = (entry / file).is_file()
        except OSError:
            complete = True
        if complete and name.isascii() and name.isdigit() and int(name) <= MAX_VERSION:
            found.setdefault(int(name), entry)
    return dict(sorted(found.items()))


def give_number(staged: Path, folder: Path) -> tuple[int, Path]:
    """Renames `staged` to the next version; returns its number and its path.

    The number is above those of withdrawn and incomplete versions, which TF Serving could load.
    `staged/.lineage`, if it exists, becomes `.lineage/<version>` first, so a visible version has
    its lineage; it replaces the lineage of a push that was killed between the two renames.

    Raises:
      OSError: the disk reports an error.
    """
    lineage = staged / LINEAGE_DIR
    while True:
        version = max(_taken_numbers(folder), default=0) + 1
        target = folder / str(version)
        lineage = place_lineage(lineage, folder, version)
        try:
            os.rename(staged, target)
        except OSError as error:
            # A writer without the lock, such as a copy by hand, may have used the number meanwhile.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return version, target


def place_lineage(source: Path, folder: Path, version: int) -> Path:
    """Moves `source` to `.lineage/<version>`, replacing a folder there; returns the new path.

    If `source` does not exist, it only removes that folder.

    Raises:
      OSError: the disk reports an error.
    """
    target = folder / LINEAGE_DIR / str(version)
    if source == target:
        return target
    if target.exists():
        shutil.rmtree(target)
    if source.is_dir():
        target.parent.mkdir(exist_ok=True)
        os.rename(source, target)
        sync_folder(target.parent)
    return target


def _taken_numbers(folder: Path) -> list[int]:
    pattern = re.compile(f"(?:{re.escape(WITHDRAWN_PREFIX)})?([0-9]+)")
    named = (pattern.fullmatch(entry.name) for entry in folder.iterdir())
    return [int(found[1]) for found in named if found]


def _sweep(folder: Path) -> None:
    for entry in [*folder.glob(f"{STAGING_PREFIX}*")]:
        lock = entry if entry.name.endswith(_LOCK_SUFFIX) else _lock_of(entry)
        # A file of another user, which cannot be removed, does not prevent a push.
        with contextlib.suppress(OSError, LockHeldError), _held(lock, 0):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)


def _lock_of(staged: Path) -> Path:
    return staged.with_name(staged.name + _LOCK_SUFFIX)


@contextlib.contextmanager
def _held(path: Path, wait_s: float) -> Iterator[None]:
    """Holds a lock file.

    Raises:
      BundleError: the file system has no locks.
      LockHeldError: another process still holds it after `wait_s` seconds.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(file_lock(path, wait_s=wait_s))
        except NoLocksError as error:
            raise BundleError(
                f"{path} cannot be locked ({os.strerror(error.errno or 0)}), so two pushes or "
                "rollbacks could overwrite each other; mount the folder with locks, or push to a "
                "local folder"
            ) from error
        yield
