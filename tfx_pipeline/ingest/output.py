"""A data set's folder appears whole or not at all, also when the job is killed."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from tfx_pipeline.ingest.source import IngestError
from trainers.data.features import DATASET_FILE


@contextlib.contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its name when the block ends well.

    An older data set at `out` is moved aside first and deleted last; if the process dies between,
    the next call puts it back. Leftovers of dead processes are swept.

    Raises:
      IngestError: `out` is a file, or a folder with contents but without a `dataset.json`.
    """
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    _sweep(out)
    _check(out)
    temporary = _sibling(out, "new")
    temporary.mkdir()
    try:
        yield temporary
        _replace(out, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise IngestError(f"{out} is a file; give a folder that is absent, empty or a data set")
    if any(out.iterdir()) and not (out / DATASET_FILE).is_file():
        raise IngestError(
            f"{out} holds files but no {DATASET_FILE}, so it is not a data set and is not "
            "overwritten; give another folder or remove it"
        )


def _replace(out: Path, temporary: Path) -> None:
    if out.exists():
        old = _sibling(out, "old")
        out.rename(old)
        temporary.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    else:
        temporary.rename(out)


def _sibling(out: Path, role: str) -> Path:
    return out.parent / f".{out.name}.ingest-{role}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _sweep(out: Path) -> None:
    prefix = f".{out.name}.ingest-"
    for leftover in sorted(
        entry for entry in out.parent.iterdir() if entry.name.startswith(prefix)
    ):
        role, pid, _ = leftover.name[len(prefix) :].split("-")
        if _alive(int(pid)):
            continue
        if role == "old" and not out.exists():
            leftover.rename(out)
        else:
            shutil.rmtree(leftover, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
