"""Resolves `--data`: a folder of records, or an ingest job whose records are cached.

    folder = resolve("tfrecord:/data/imagenet", Path("data"), console)
    folder = resolve("csv:faces.csv label=gender slices=race,age", Path("data"), console)

`JOB:SOURCE` and options after spaces are the arguments of `sightline ingest JOB SOURCE OPTIONS`.
The source is ingested again when one of its files, the options or the code of ingest change.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from core.files import write_json
from core.locks import file_lock
from trainers.data.digest import file_digests
from trainers.data.features import DATASET_FILE
from trainers.identity.code_digest import code_digest
from trainers.identity.file_index import INDEX_FILE, FileIndex

#: The folder for cached records, in `--root` or the current folder.
CACHE = "data"
_TFDS = "tfds"
_SPELLING = re.compile(r"([A-Za-z][\w-]+):(.*)", re.DOTALL)
_OPTION = re.compile(r"\s+(?=[A-Za-z_]\w*=)")
_CODE = ("tfx_pipeline.ingest.job", "tfx_pipeline.ingest.tfrecord")


class DataSourceError(ValueError):
    """`--data` cannot be resolved; the message contains the remedy."""


@dataclass(frozen=True)
class DataSource:
    """An ingest job with its arguments.

    Attributes:
      job: a registered ingest job.
      where: the SOURCE argument: a folder, a file or a name.
      options: options of the job, each `key=value`.
    """

    job: str
    where: str
    options: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """The name of its folder in a cache; depends on the source and the options."""
        own = [self.job, os.path.abspath(Path(self.where).expanduser()), *self.options]
        if self.job == _TFDS:
            own[1] = self.where
        digest = hashlib.sha256(json.dumps(own).encode("utf-8", "surrogateescape")).hexdigest()
        stem = re.sub(r"[^\w.-]+", "_", Path(self.where).name or self.job).strip("._") or self.job
        return f"{stem}-{digest[:12]}"


def resolve(data: str | Path, cache: Path, console: Console) -> Path:
    """The folder of records for `--data`; runs the ingest job if necessary.

    Args:
      data: a path, or `JOB:SOURCE` followed by options.
      cache: the folder for the records of jobs.
      console: for the summary of a job.

    Raises:
      DataSourceError: no such job, a job without a source, or a missing source.
      IngestError: the job cannot use the source.
    """
    source = parse(str(data))
    if source is None:
        return Path(data)
    out = cache / source.folder
    if not (out / DATASET_FILE).is_file():
        _check_job(source.job, str(data))  # Loads modules that a cached source does not need.
    own = _inputs(source, out)
    cache.mkdir(parents=True, exist_ok=True)
    lock = out.with_name(f".{out.name}.lock")
    with file_lock(lock), FileIndex(cache / INDEX_FILE).open() as index:
        note = _read_note(out)
        if note is not None and note["state"] == _state(source, note["inputs"], index):
            return out
        if note is not None:
            what = f"{escape(source.where)}, or the code of ingest, changed: ingesting it again"
            console.print(what, highlight=False, soft_wrap=True)
        # Computed before the job, so that the next run notices changes during it.
        state = _state(source, own, index)
        found = _ingest(source, out, own, console)
        if found:
            state = _state(source, [*own, *found], index)
        write_json(_note(out), {"source": str(data), "inputs": [*own, *found], "state": state})
    return out


def parse(data: str) -> DataSource | None:
    """`data` as an ingest job with its source; None if it is a path.

    Raises:
      DataSourceError: a job without a source.
    """
    found = _SPELLING.fullmatch(data.strip())
    if found is None or Path(data).exists():
        return None
    job, rest = found.groups()
    where, *options = _OPTION.split(rest.strip())
    if not where or _OPTION.match(f" {where}"):
        raise DataSourceError(
            f"--data {data!r} names the ingest job {job!r} without a source; use {job}:SOURCE, "
            "followed by options, e.g. 'csv:faces.csv label=gender'"
        )
    return DataSource(job, where, tuple(sorted(options)))


def _check_job(job: str, data: str) -> None:
    """Raises DataSourceError if there is no such job."""
    from tfx_pipeline.ingest import TFRECORD, jobs
    from trainers.registry import nearest

    known = [*jobs.names(), TFRECORD]
    if job not in known:
        raise DataSourceError(
            f"--data {data!r}: there is no ingest job {job!r}, and no such path; "
            f"{nearest(job, known)}. Use a folder of records, or JOB:SOURCE, e.g. "
            "tfrecord:/data/imagenet"
        )


def _ingest(source: DataSource, out: Path, own: Sequence[str], console: Console) -> list[str]:
    """Runs the job; returns the input files and folders that are not in `own`."""
    from tfx_pipeline.ingest.console import ingest_and_print

    found: list[str] = []
    ingest_and_print(
        source.job, source.where, out, console, options=source.options, on_inputs=found.extend
    )
    return sorted({one for one in map(os.path.abspath, found) if not _below(one, own)})


def _inputs(source: DataSource, out: Path) -> list[str]:
    """The path of the source, and paths in its options.

    Raises:
      DataSourceError: the source does not exist, or contains the cache.
    """
    if source.job == _TFDS:
        return []  # The job reports its inputs; `data_dir` also has other data sets.
    values = [one.partition("=")[2] for one in source.options]
    paths = [os.path.abspath(Path(one).expanduser()) for one in values if one]
    options = [path for path in paths if os.path.exists(path)]
    where = Path(source.where).expanduser()
    if not where.exists():
        made = f"; the records of an earlier run are in {out}" if out.is_dir() else ""
        raise DataSourceError(
            f"--data {source.job}:{source.where}: {where.absolute()} does not exist{made}"
        )
    if out.resolve().is_relative_to(where.resolve()):
        raise DataSourceError(
            f"--data {source.job}:{source.where}: the records would be stored in {out}, inside the "
            "source; run from another folder or use another --root"
        )
    return [os.path.abspath(where), *options]


def _below(path: str, folders: Iterable[str]) -> bool:
    return any(Path(path).is_relative_to(one) for one in folders)


def _state(source: DataSource, inputs: Sequence[str], index: FileIndex) -> str:
    """Hex digits that depend on the files of the source, its options and the code of ingest."""
    files = sorted({file for one in inputs for file in _files(one)})
    digests = file_digests([Path(one) for one in files], index)
    code = [code_digest(module, index=index) for module in _CODE]
    text = json.dumps([source.job, source.options, files, digests, code])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _files(path: str) -> Iterator[str]:
    if os.path.isfile(path):
        yield path
    seen: set[str] = set()
    for folder, inner, names in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # A link to a parent folder would be followed forever.
            inner.clear()
            continue
        seen.add(real)
        for name in names:
            file = os.path.join(folder, name)
            if os.path.isfile(file):
                yield file


def _note(out: Path) -> Path:
    return out.with_name(f"{out.name}.json")


def _read_note(out: Path) -> dict[str, Any] | None:
    if not (out / DATASET_FILE).is_file():
        return None
    try:
        found = json.loads(_note(out).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(found, dict) and {"inputs", "state"} <= set(found)
    return found if whole else None
