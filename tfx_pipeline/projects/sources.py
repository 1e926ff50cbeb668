"""Inspects SOURCE for `sightline new NAME SOURCE` before anything is written."""

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tfx_pipeline.ingest import TFRECORD
from tfx_pipeline.ingest.options import bind
from tfx_pipeline.ingest.source import IngestError, Item, Request, jobs
from tfx_pipeline.projects.find import ProjectError
from trainers.data.features import DATASET_FILE

#: The job name for a data set of `sightline ingest`, which is used in place.
RECORDS = "records"

_TABLES = (".csv", ".tsv")
_SHARDS = ("*tfrecord*", "*-?????-of-?????")
_MIN_IMAGES = 10
_MIN_PER_CLASS = 2
_NAMED = 3


@dataclass(frozen=True)
class SourceListing:
    """The kind of a source and its images.

    Attributes:
      job: the ingest job that reads it: `folder`, `csv`, `tfrecord`, or `records` for none.
      where: absolute path of the source.
      options: options of the job, `key=value`.
      items: its images; empty for records.
    """

    job: str
    where: Path
    options: tuple[str, ...] = ()
    items: list[Item] = field(default_factory=list)


def inspect_source(source: Path, options: Sequence[str]) -> SourceListing:
    """The kind of `source` and its images.

    Args:
      source: a folder of class folders or of split folders, a CSV file, TFRecords, or a data set.
      options: options of the ingest job, `key=value`.

    Raises:
      ProjectError: it is none of these, or has too few images or classes.
      IngestError: the job cannot read the source.
    """
    where = source.expanduser().resolve()
    if not where.exists():
        raise ProjectError(f"{source} does not exist; use a folder of class folders or a CSV file")
    job = _job(where)
    if job == RECORDS and options:
        raise ProjectError(
            f"{where} is already a data set, so {options[0]} has no effect; remove the options, "
            "or use the original images"
        )
    if job in (RECORDS, TFRECORD):
        return SourceListing(job, where, tuple(options))
    with tempfile.TemporaryDirectory(prefix="sightline-new-") as scratch:
        function = jobs.get(job)
        given = bind(job, function, options)
        try:
            listed = function(Request(str(where), Path(scratch)), **given)
            items = [one for one in listed.items if isinstance(one, Item)]
        except IngestError as error:
            raise ProjectError(f"{error}{_hint(where)}") from error
    _check(where, items, listed.classes)
    return SourceListing(job, where, tuple(options), items)


def _job(where: Path) -> str:
    if where.is_file():
        if where.suffix.lower() in _TABLES:
            return "csv"
        raise ProjectError(
            f"{where} is a file; use a CSV file that lists images and labels, or a folder. Unpack "
            "an archive first; `sightline ingest --jobs` lists other formats: ingest one of these "
            "and use the folder of the data set"
        )
    if (where / DATASET_FILE).is_file():
        return RECORDS
    shards = (one for pattern in _SHARDS for one in where.rglob(pattern))
    if any(one.is_file() and one.suffix not in (".json", ".txt") for one in shards):
        return TFRECORD
    return "folder"


def _hint(where: Path) -> str:
    """A hint at a table in the folder; empty if there is none."""
    tables = sorted(one for one in where.glob("*") if one.suffix.lower() in _TABLES)
    return f"; or did you mean the table {tables[0]}?" if tables else ""


def _check(where: Path, items: list[Item], classes: Sequence[str]) -> None:
    """Rejects sources with too few images for training and tests."""
    counts = Counter(one.class_name for one in items)
    total = sum(counts.values())
    remedy = "add images, or remove the class"
    few = [name for name in classes if counts[name] < _MIN_PER_CLASS]
    if not total:
        raise ProjectError(
            f"{where} has no images; put them into {where}/<class>/*.jpg{_hint(where)}"
        )
    if few and total >= _MIN_IMAGES:
        shown = ", ".join(f"{name!r} ({counts[name]})" for name in few[:_NAMED])
        more = f" and {len(few) - _NAMED} more" if len(few) > _NAMED else ""
        raise ProjectError(
            f"{where} has classes with fewer than {_MIN_PER_CLASS} images: {shown}{more}; training "
            f"and tests need one each: {remedy}"
        )
    if total < _MIN_IMAGES:
        shown = ", ".join(f"{count} of {name!r}" for name, count in counts.most_common(_NAMED))
        raise ProjectError(
            f"{where} has {total} images ({shown}); a model needs at least {_MIN_IMAGES}, and "
            f"about 20 of each class to be useful: add images{_hint(where)}"
        )


def by_class(items: Sequence[Item]) -> Iterator[tuple[str, list[Item]]]:
    """(class, items) pairs, sorted by class."""
    found: dict[str, list[Item]] = defaultdict(list)
    for one in items:
        found[one.class_name].append(one)
    yield from sorted(found.items())
