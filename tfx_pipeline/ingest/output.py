"""The output of a job: published atomically, and resumable after an interruption."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from core import files
from core.locks import LockHeldError, file_lock
from tfx_pipeline.ingest.source import DiskFullError, IngestError
from trainers.data.features import DATASET_FILE

_LOCK = "lock"
_OLD = "old"


@contextlib.contextmanager
def work_folder(out: Path, key: str) -> Iterator[Path]:
    """A hidden folder beside `out` for the files of a job; it remains if the job is stopped.

    The same `key` returns the same folder; folders with other keys are removed.

    Args:
      out: the data set's folder, which may exist.
      key: digest of everything that decides the result, as letters and digits.

    Raises:
      IngestError: `out` is a file or a folder with other content, or another job is writing to it.
    """
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    _recover(out)
    _check(out)
    folder = _sibling(out, key)
    folder.mkdir(exist_ok=True)
    with _locked(folder, out):
        for other in _siblings(out):
            if other != folder:
                _remove_if_free(other, out)
        yield folder


def publish(finished: Path, out: Path) -> None:
    """Moves the folder `finished` to `out`, replacing an older data set.

    If the process dies between the two renames, the next job restores the old data set.
    """
    out = out.absolute()
    if out.exists():
        old = _sibling(out, _OLD)
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
        finished.rename(out)
        files.sync_folder(out.parent)
        shutil.rmtree(old, ignore_errors=True)
    else:
        finished.rename(out)
        files.sync_folder(out.parent)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file that appears at `path` when the block succeeds; on an error, nothing remains.

    Raises:
      IngestError: the disk is full.
    """
    with full_disk_named(path), files.writing(path) as file:
        yield file


@contextlib.contextmanager
def removed_when_refused(folder: Path, *, unless: Path | None = None) -> Iterator[None]:
    """Removes the folder of a job if the block raises IngestError, except for a full disk.

    Args:
      folder: from `work_folder`.
      unless: a file whose existence means that the folder holds work to keep.
    """
    keep = unless is not None and unless.exists()
    try:
        yield
    except DiskFullError:
        raise
    except IngestError:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
        raise


@contextlib.contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Converts the system's error about a full disk to one with a remedy.

    Raises:
      IngestError: the disk is full, or a quota or file-size limit is reached.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in files.DISK_FULL:
            raise
        raise DiskFullError(
            f"{path} could not be written: {error.strerror}; free some space and run the same "
            "command again; it resumes here"
        ) from error


def _check(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise IngestError(f"{out} is a file; choose a new or empty folder, or a data set")
    if any(out.iterdir()) and not (out / DATASET_FILE).is_file():
        raise IngestError(
            f"{out} holds files but no {DATASET_FILE}, so it is not a data set and is not "
            "overwritten; choose another folder or remove it"
        )


def _recover(out: Path) -> None:
    old = _sibling(out, _OLD)
    if old.is_dir() and not out.exists():
        old.rename(out)


def _sibling(out: Path, role: str) -> Path:
    return out.parent / f".{out.name}.ingest-{role}"


def _siblings(out: Path) -> list[Path]:
    prefix = f".{out.name}.ingest-"
    return sorted(one for one in out.parent.iterdir() if one.name.startswith(prefix))


@contextlib.contextmanager
def _locked(folder: Path, out: Path) -> Iterator[None]:
    """Holds the lock of a job's folder.

    Raises:
      IngestError: another job holds it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(file_lock(folder / _LOCK, wait_s=0))
        except LockHeldError as error:
            raise IngestError(
                f"another job is writing {out} ({error.holder}); wait for it, or give another --out"
            ) from None
        yield


def _remove_if_free(folder: Path, out: Path) -> None:
    """Removes the files of a job with other options, unless that job is still running.

    Raises:
      IngestError: the job is still running.
    """
    if (folder / _LOCK).is_file():
        with _locked(folder, out):
            shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
